//! Softmax and normalisations against their decompositions in f64, on views of all kinds, rows of any length, and all
//! levels.

mod harness;
mod support;

use harness::{Compiled, Place, Sizes, decode, encode, random, relative_error, symbol, value, values};
use kiln_ir::{
    Dim, ElemType,
    scalar::{Builder, Expr, Literal, Scalar, Unary},
};
use kiln_kernels::{
    Access, Family,
    cpu::CpuLevel,
    row::{Spec, Stat},
};
use support::{Random, native_levels};

const F32: ElemType = ElemType::F32;

fn stats() -> [Stat; 5] {
    let eps = |x| Literal::of(ElemType::F64, x);
    [
        Stat::Softmax,
        Stat::LogSoftmax,
        Stat::LayerNorm { eps: eps(1e-5) },
        Stat::RmsNorm { eps: eps(1e-6) },
        Stat::L2Normalize { eps: eps(1e-12) },
    ]
}

fn plain(elem: ElemType, stat: Stat, outer: &[Dim], inner: Dim) -> Spec {
    let space = [outer, std::slice::from_ref(&inner)].concat();
    Spec {
        outer: outer.to_vec(),
        inputs: vec![Access::contiguous(elem, &space)],
        prologue: Expr::input(0, elem),
        stat,
        epilogue: Expr::input(0, elem),
        output: Access::contiguous(elem, &space),
        inner,
    }
}

/// Rows of `inner` with a scale and a bias, as transformers have them.
fn affine(elem: ElemType, outer: Dim, inner: Dim) -> Spec {
    let base = plain(elem, stats()[2], &[outer], inner);
    let mut e = Builder::new();
    let (x, scale, bias) = (e.input(0, elem), e.input(2, elem), e.input(3, elem));
    let x = e.mul(x, scale);
    let x = e.add(x, bias);
    let along = Access::new(elem, 0, [0, 1]);
    let inputs = vec![base.inputs[0].clone(), along.clone(), along];
    Spec { inputs, epilogue: e.finish(x), ..base }
}

fn normalise(stat: Stat, x: &mut [f64]) {
    let n = x.len() as f64;
    let max =
        x.iter().copied().fold(f64::NEG_INFINITY, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) });
    let squares: f64 = x.iter().map(|x| x * x).sum();
    match stat {
        Stat::Softmax | Stat::LogSoftmax => {
            let sum: f64 = x.iter().map(|x| (x - max).exp()).sum();
            let log = matches!(stat, Stat::LogSoftmax);
            x.iter_mut().for_each(|x| *x = if log { *x - max - sum.ln() } else { (*x - max).exp() / sum });
        }
        Stat::LayerNorm { eps } => {
            let mean = x.iter().sum::<f64>() / n;
            let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
            x.iter_mut().for_each(|x| *x = (*x - mean) / (variance + eps.as_f64()).sqrt());
        }
        Stat::RmsNorm { eps } => x.iter_mut().for_each(|x| *x /= (squares / n + eps.as_f64()).sqrt()),
        Stat::L2Normalize { eps } => {
            let norm = squares.sqrt();
            let norm = if norm < eps.as_f64() { eps.as_f64() } else { norm };
            x.iter_mut().for_each(|x| *x /= norm);
        }
    }
}

fn scalar(elem: ElemType, x: f64) -> Scalar {
    if elem.is_float() { Scalar::F(x) } else { Scalar::I(x as i64) }
}

fn expected(spec: &Spec, sizes: Sizes<'_>, inputs: &[Vec<f64>], mut output: Vec<f64>) -> Vec<f64> {
    let places: Vec<Place> = spec.inputs.iter().map(|a| Place::new(a, sizes)).collect();
    let to = Place::new(&spec.output, sizes);
    let length = value(&spec.inner, sizes);
    harness::each(&values(&spec.outer, sizes), |o| {
        let at = |i: i64| [o, &[i]].concat();
        let read = |i: i64| -> Vec<Scalar> {
            let element = |n: usize| scalar(spec.inputs[n].elem, inputs[n][places[n].at(&at(i))]);
            (0..places.len()).map(element).collect()
        };
        let mut x: Vec<f64> = (0..length).map(|i| spec.prologue.eval(&read(i), &at(i)).as_f64()).collect();
        normalise(spec.stat, &mut x);
        for (i, x) in x.iter().enumerate() {
            let inputs = [vec![Scalar::F(*x)], read(i as i64)].concat();
            output[to.at(&at(i as i64))] = spec.epilogue.eval(&inputs, &at(i as i64)).as_f64();
        }
    });
    output
}

fn tolerance(elem: ElemType) -> f64 {
    match elem {
        ElemType::F64 => 1e-14,
        ElemType::F32 => 6e-7,
        ElemType::F16 => 6e-4,
        _ => 5e-3,
    }
}

fn inputs(spec: &Spec, sizes: Sizes<'_>, seed: u64) -> Vec<Vec<f64>> {
    let mut r = Random(seed);
    let buffers = spec.buffers();
    let read = buffers[..buffers.len() - 1].iter();
    read.map(|b| random(b.elem, value(&b.elements, sizes).max(0) as usize, &mut r)).collect()
}

fn run(kernel: &Compiled<Spec>, sizes: Sizes<'_>, inputs: &[Vec<f64>]) {
    let spec = &kernel.spec;
    let buffers = spec.buffers();
    let elem = spec.output.elem;
    let before = vec![7.0; value(&buffers[buffers.len() - 1].elements, sizes).max(0) as usize];
    let bytes: Vec<Vec<u8>> = inputs.iter().zip(&buffers).map(|(v, b)| encode(b.elem, v)).collect();
    let held: Vec<Vec<f64>> = bytes.iter().zip(&buffers).map(|(v, b)| decode(b.elem, v)).collect();
    let (status, outputs) = kernel.run(sizes, &bytes, &[encode(elem, &before)]);
    assert_eq!(status, 0);
    let found = decode(elem, &outputs[0]);
    let error = relative_error(&found, &expected(spec, sizes, &held, before));
    assert!(error <= tolerance(elem), "{} {sizes:?} {spec:?}: error {error:e}", kernel.level.name());
}

fn check(spec: &Spec, shapes: &[Sizes<'_>]) {
    for level in harness::levels() {
        let kernel = Compiled::new(spec.clone(), level);
        for (i, sizes) in shapes.iter().enumerate() {
            run(&kernel, sizes, &inputs(spec, sizes, i as u64));
        }
    }
}

#[test]
fn lengths() {
    let lengths = [0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 63, 64, 65, 129, 384, 2047, 2048, 2049, 5000];
    for stat in stats() {
        let shapes: Vec<_> = lengths.iter().map(|n| [("A", 3), ("N", *n)]).collect();
        let mut shapes: Vec<Sizes<'_>> = shapes.iter().map(|s| s.as_slice()).collect();
        shapes.extend::<[Sizes<'_>; 2]>([&[("A", 0), ("N", 9)], &[("A", 50), ("N", 70)]]);
        check(&plain(F32, stat, &[symbol("A")], symbol("N")), &shapes);
    }
}

#[test]
fn known_lengths() {
    for stat in stats() {
        for inner in [1i64, 5, 16, 24, 384] {
            check(&plain(F32, stat, &[symbol("A")], inner.into()), &[&[("A", 19)]]);
        }
        check(&plain(F32, stat, &[], 40.into()), &[&[]]);
    }
}

/// An axis of one element is laid out with a stride of 0 where nothing else is needed.
#[test]
fn rows_of_one_element_may_have_a_stride_of_zero() {
    for stat in stats() {
        let mut spec = plain(F32, stat, &[symbol("A")], 1.into());
        let narrow = Access::new(F32, 0, [1, 0]);
        spec.inputs = vec![narrow.clone()];
        spec.output = narrow;
        check(&spec, &[&[("A", 19)]]);
    }
}

#[test]
fn element_types() {
    let shapes: [Sizes<'_>; 3] = [&[("A", 2), ("N", 33)], &[("A", 5), ("N", 3)], &[("A", 1), ("N", 200)]];
    for elem in [ElemType::F64, ElemType::F16, ElemType::BF16] {
        for stat in stats() {
            check(&plain(elem, stat, &[symbol("A")], symbol("N")), &shapes);
        }
        check(&affine(elem, symbol("A"), symbol("N")), &shapes);
    }
}

#[test]
fn scale_and_bias() {
    check(&affine(F32, symbol("A"), 384.into()), &[&[("A", 1)], &[("A", 35)]]);
    check(&affine(F32, 7.into(), 30.into()), &[&[]]);
}

/// Rows along any axis, apart, and with offsets.
#[test]
fn views() {
    let [a, b, n] = ["A", "B", "N"].map(symbol);
    let shapes: [Sizes<'_>; 2] = [&[("A", 2), ("B", 5), ("N", 37)], &[("A", 3), ("B", 40), ("N", 2)]];
    for stat in stats() {
        let base = plain(F32, stat, &[a.clone(), b.clone()], n.clone());
        let middle = Access::new(F32, 5, [b.clone() * n.clone(), 1.into(), b.clone()]);
        let every_other = Access::new(F32, 1, [n.clone() * 2.into(), a.clone() * n.clone() * 2.into(), 2.into()]);
        check(&Spec { inputs: vec![middle.clone()], output: middle.clone(), ..base.clone() }, &shapes);
        check(&Spec { inputs: vec![middle], ..base.clone() }, &shapes);
        check(&Spec { output: every_other, ..base }, &shapes);
    }
}

/// A sum before, as after an attention layer or of scores with a mask, and a function after.
#[test]
fn expressions() {
    let [a, b, n] = ["A", "B", "N"].map(symbol);
    let shapes: [Sizes<'_>; 3] =
        [&[("A", 2), ("B", 5), ("N", 37)], &[("A", 3), ("B", 1), ("N", 2)], &[("A", 1), ("B", 2), ("N", 384)]];
    for stat in stats() {
        let base = plain(F32, stat, &[a.clone(), b.clone()], n.clone());
        let mut p = Builder::new();
        let (x, y, keep, i, j) = (p.input(0, F32), p.input(1, F32), p.input(2, ElemType::I1), p.index(0), p.index(2));
        let sum = p.add(x, y);
        let (i, j) = (p.convert(i, F32), p.convert(j, F32));
        let place = p.add(i, j);
        let factor = p.constant(0.01, place);
        let place = p.mul(place, factor);
        let sum = p.add(sum, place);
        let low = p.constant(-3.0, sum);
        let sum = p.select(keep, sum, low);
        let mut e = Builder::new();
        let (x, y) = (e.input(0, F32), e.input(2, F32));
        let x = e.unary(Unary::Tanh, x);
        let x = e.add(x, y);
        let x = e.convert(x, ElemType::F64);
        let inputs = vec![
            base.inputs[0].clone(),
            Access::new(F32, 0, [n.clone(), 0.into(), 1.into()]),
            Access::new(ElemType::I1, 3, [n.clone(), 0.into(), 1.into()]),
        ];
        let output = Access { elem: ElemType::F64, ..base.output.clone() };
        let spec = Spec { inputs, prologue: p.finish(sum), epilogue: e.finish(x), output, ..base };
        for level in harness::levels() {
            let kernel = Compiled::new(spec.clone(), level);
            for sizes in shapes {
                // The result is f64, its accuracy that of f32.
                let data = self::inputs(&spec, sizes, 3);
                let bytes: Vec<Vec<u8>> = data.iter().zip(spec.buffers()).map(|(v, b)| encode(b.elem, v)).collect();
                let n = value(&spec.buffers()[3].elements, sizes) as usize;
                let (_, outputs) = kernel.run(sizes, &bytes, &[encode(ElemType::F64, &vec![0.0; n])]);
                let wanted = expected(&spec, sizes, &data, vec![0.0; n]);
                let error = relative_error(&decode(ElemType::F64, &outputs[0]), &wanted);
                assert!(error <= tolerance(F32), "{} {sizes:?} {spec:?}: error {error:e}", level.name());
            }
        }
    }
}

#[test]
fn in_place() {
    for stat in stats() {
        let spec = plain(F32, stat, &[symbol("A")], symbol("N"));
        for level in native_levels() {
            let library = support::Library::build(level, |m| spec.emit(m, "kernel", level.describe()));
            let sizes: Sizes<'_> = &[("A", 9), ("N", 77)];
            let data = inputs(&spec, sizes, 1);
            let mut memory = support::Aligned::bytes(9 * 77 * 4);
            let mut scratch = support::Aligned::bytes(77 * 4);
            let bytes = encode(F32, &data[0]);
            let args = values(&spec.size_args(), sizes);
            let tasks = value(&spec.tasks(), sizes);
            let found = unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.ptr(), bytes.len());
                let buffers = [memory.ptr(), memory.ptr()];
                assert_eq!(library.kernel("kernel").call(&buffers, &args, 0, tasks, scratch.ptr()), 0);
                decode(F32, std::slice::from_raw_parts(memory.ptr(), bytes.len()))
            };
            let error = relative_error(&found, &expected(&spec, sizes, &data, vec![0.0; 9 * 77]));
            assert!(error <= tolerance(F32), "{stat:?}: error {error:e}");
        }
    }
}

/// Rows of infinities, of NaN, of huge and of equal numbers do what the decompositions do.
#[test]
fn special_rows() {
    let (rows, n) = (8, 70);
    for stat in stats() {
        let spec = plain(F32, stat, &[rows.into()], n.into());
        let mut data = inputs(&spec, &[], 4);
        let n = n as usize;
        let row = |r: usize| r * n..(r + 1) * n;
        data[0][row(0)].fill(f64::NEG_INFINITY);
        data[0][row(1)][..n - 1].fill(f64::NEG_INFINITY);
        data[0][3 * n - 1] = f64::NAN;
        data[0][3 * n] = f64::INFINITY;
        data[0][row(4)].iter_mut().for_each(|x| *x *= 1e4);
        data[0][row(5)].fill(3.0);
        data[0][row(6)].fill(0.0);
        // The mean of such a row is not exact in f32.
        data[0][row(7)].iter_mut().for_each(|x| *x = 1000.0 + (*x * 64.0).round() / 64.0);
        for level in harness::levels() {
            run(&Compiled::new(spec.clone(), level), &[], &data);
        }
    }
}

/// Levels that this machine may lack, for code generation.
#[test]
fn every_level() {
    for level in CpuLevel::ALL {
        for elem in [F32, ElemType::F16, ElemType::F64] {
            for stat in stats() {
                let spec = plain(elem, stat, &[symbol("A")], symbol("N"));
                let object = kiln_backends::llvm::Compiler::new()
                    .compile("test", level, kiln_backends::llvm::Stage::Obj, |m| {
                        spec.emit(m, "kernel", level.describe());
                    })
                    .unwrap();
                assert!(object.len() > 500);
            }
        }
    }
}
