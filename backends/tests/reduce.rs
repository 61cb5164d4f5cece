//! Reductions against their definition over the reference arithmetic: every kind and element type, axes in any place,
//! views, sizes known and not, and all levels.

mod harness;
mod support;

use harness::{Compiled, Place, Sizes, decode, encode, random, relative_error, symbol, value, values};
use kiln_ir::{
    Dim, ElemType,
    scalar::{Binary, Builder, Expr, Scalar, Unary},
};
use kiln_kernels::{
    Access, Family,
    cpu::CpuLevel,
    reduce::{Kind, Spec},
};
use support::Random;

const KINDS: [Kind; 6] = [Kind::Sum, Kind::Mean, Kind::Prod, Kind::Max, Kind::Min, Kind::Argmax];
const F32: ElemType = ElemType::F32;

/// The named axes of a contiguous tensor reduced, written contiguously.
fn contiguous(elem: ElemType, kind: Kind, dims: &[Dim], reduced: &[usize]) -> Spec {
    let strides = Access::contiguous(elem, dims).strides;
    let kept: Vec<usize> = (0..dims.len()).filter(|a| !reduced.contains(a)).collect();
    let pick = |from: &[Dim], axes: &[usize]| axes.iter().map(|a| from[*a].clone()).collect::<Vec<Dim>>();
    let outer = pick(dims, &kept);
    let result = if kind == Kind::Argmax { ElemType::I64 } else { elem };
    Spec {
        inputs: vec![Access::new(elem, 0, pick(&strides, &[kept.clone(), reduced.to_vec()].concat()))],
        output: Access::contiguous(result, &outer),
        outer,
        reduced: pick(dims, reduced),
        prologue: Expr::input(0, elem),
        kind,
        epilogue: Expr::input(0, result),
        epilogue_inputs: vec![],
    }
}

fn scalar(elem: ElemType, x: f64) -> Scalar {
    if elem.is_float() { Scalar::F(x) } else { Scalar::I(x as i64) }
}

/// Whether `b` stands before `a` in falling order.
fn exceeds(elem: ElemType, b: Scalar, a: Scalar) -> bool {
    match (b, a) {
        (Scalar::F(b), Scalar::F(a)) => b > a || (b.is_nan() && !a.is_nan()),
        (Scalar::I(b), Scalar::I(a)) if elem == ElemType::U64 => b as u64 > a as u64,
        (b, a) => b.as_i64() > a.as_i64(),
    }
}

/// The definition: elements in row-major order, one after the other.
fn reduce(kind: Kind, elem: ElemType, elements: &[Scalar]) -> Scalar {
    let float = elem.is_float();
    let bits = 8 * elem.bytes() as u32;
    let (smallest, largest) = match elem {
        ElemType::I1 => (0, 1),
        _ if elem.kind() == kiln_ir::types::Kind::Unsigned => (0, (u64::MAX >> (64 - bits)) as i64),
        _ => (i64::MIN >> (64 - bits), i64::MAX >> (64 - bits)),
    };
    let neutral = |float_value: f64, int: i64| if float { Scalar::F(float_value) } else { Scalar::I(int) };
    let start = match kind {
        Kind::Sum | Kind::Mean => neutral(0.0, 0),
        Kind::Prod => neutral(1.0, 1),
        Kind::Max => neutral(f64::NEG_INFINITY, smallest),
        Kind::Min => neutral(f64::INFINITY, largest),
        Kind::Argmax => {
            let better = |best: usize, i: usize| if exceeds(elem, elements[i], elements[best]) { i } else { best };
            return Scalar::I((1..elements.len()).fold(0, better) as i64);
        }
    };
    let step = |a: Scalar, b: Scalar| match (kind, a, b) {
        (Kind::Sum | Kind::Mean, Scalar::F(a), Scalar::F(b)) => Scalar::F(a + b),
        (Kind::Prod, Scalar::F(a), Scalar::F(b)) => Scalar::F(a * b),
        (Kind::Sum | Kind::Mean, a, b) => Scalar::I(a.as_i64().wrapping_add(b.as_i64())).wrap(elem),
        (Kind::Prod, a, b) => Scalar::I(a.as_i64().wrapping_mul(b.as_i64())).wrap(elem),
        (Kind::Max, a, b) => {
            if exceeds(elem, b, a) {
                b
            } else {
                a
            }
        }
        (_, Scalar::F(a), Scalar::F(b)) => Scalar::F(if b.is_nan() || b < a { b } else { a }),
        (_, a, b) if exceeds(elem, a, b) => b,
        _ => a,
    };
    let total = elements.iter().fold(start, |a, b| step(a, *b));
    if kind == Kind::Mean { Scalar::F(total.as_f64() / elements.len() as f64) } else { total }
}

fn expected(spec: &Spec, sizes: Sizes<'_>, inputs: &[Vec<f64>], mut output: Vec<f64>) -> Vec<f64> {
    let places = |accesses: &[Access]| accesses.iter().map(|a| Place::new(a, sizes)).collect::<Vec<_>>();
    let (read, late) = (places(&spec.inputs), places(&spec.epilogue_inputs));
    let to = Place::new(&spec.output, sizes);
    let (outer, reduced) = (values(&spec.outer, sizes), values(&spec.reduced, sizes));
    harness::each(&outer, |o| {
        let mut elements = vec![];
        harness::each(&reduced, |r| {
            let index = [o, r].concat();
            let x: Vec<Scalar> =
                (0..read.len()).map(|n| scalar(spec.inputs[n].elem, inputs[n][read[n].at(&index)])).collect();
            elements.push(spec.prologue.eval(&x, &index));
        });
        let mut x = vec![reduce(spec.kind, spec.prologue.elem(), &elements)];
        for (n, place) in late.iter().enumerate() {
            x.push(scalar(spec.epilogue_inputs[n].elem, inputs[read.len() + n][place.at(o)]));
        }
        output[to.at(o)] = spec.epilogue.eval(&x, o).as_f64();
    });
    output
}

fn tolerance(elem: ElemType) -> f64 {
    match elem {
        ElemType::F64 => 1e-14,
        ElemType::F32 => 1e-6,
        ElemType::F16 => 6e-4,
        ElemType::BF16 => 5e-3,
        _ => 0.0,
    }
}

fn inputs(spec: &Spec, sizes: Sizes<'_>, seed: u64) -> Vec<Vec<f64>> {
    let mut r = Random(seed);
    let buffers = spec.buffers();
    let read = buffers[..buffers.len() - 1].iter();
    let mut inputs: Vec<Vec<f64>> =
        read.map(|b| random(b.elem, value(&b.elements, sizes).max(0) as usize, &mut r)).collect();
    // Products neither vanish nor leave what f64 holds.
    for x in inputs.iter_mut().flatten().filter(|_| spec.kind == Kind::Prod) {
        *x = if spec.prologue.elem().is_float() { 1.0 + 0.25 * *x } else { [-1.0, 1.0, 2.0][x.abs() as usize % 3] };
        if spec.inputs[0].elem.kind() == kiln_ir::types::Kind::Unsigned {
            *x = x.abs();
        }
    }
    inputs
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
    let wanted = expected(spec, sizes, &held, before);
    let wanted = if elem.is_float() { wanted } else { decode(elem, &encode(elem, &wanted)) };
    let error = relative_error(&found, &wanted);
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

fn named() -> [Dim; 3] {
    ["A", "B", "C"].map(symbol)
}

const LENGTHS: [i64; 14] = [0, 1, 2, 3, 7, 8, 15, 16, 17, 63, 64, 65, 200, 1000];

#[test]
fn rows() {
    for kind in KINDS {
        let shapes: Vec<_> =
            LENGTHS.iter().filter(|n| kind != Kind::Prod || **n <= 65).map(|n| [("A", 3), ("B", *n)]).collect();
        let shapes: Vec<Sizes<'_>> = shapes.iter().map(|s| s.as_slice()).collect();
        check(&contiguous(F32, kind, &named()[..2], &[1]), &shapes);
    }
}

#[test]
fn columns() {
    for kind in KINDS {
        let shapes: Vec<_> = LENGTHS.iter().map(|n| [("A", 2), ("B", 9), ("C", *n)]).collect();
        let mut shapes: Vec<Sizes<'_>> = shapes.iter().map(|s| s.as_slice()).collect();
        shapes.extend::<[Sizes<'_>; 3]>([
            &[("A", 0), ("B", 4), ("C", 5)],
            &[("A", 3), ("B", 0), ("C", 70)],
            &[("A", 3), ("B", 1), ("C", 97)],
        ]);
        check(&contiguous(F32, kind, &named(), &[1]), &shapes);
    }
}

#[test]
fn axes() {
    let [a, b, c] = named();
    let shapes: [Sizes<'_>; 4] = [
        &[("A", 3), ("B", 4), ("C", 5)],
        &[("A", 2), ("B", 7), ("C", 40)],
        &[("A", 21), ("B", 2), ("C", 1)],
        &[("A", 1), ("B", 0), ("C", 9)],
    ];
    for kind in [Kind::Mean, Kind::Argmax] {
        for reduced in [&[0][..], &[0, 1], &[0, 2], &[1, 2], &[0, 1, 2], &[2, 0], &[]] {
            check(&contiguous(F32, kind, &[a.clone(), b.clone(), c.clone()], reduced), &shapes);
        }
    }
}

#[test]
fn known_sizes() {
    let cases: [(&[i64], &[usize]); 12] = [
        (&[5, 384], &[1]),
        (&[1, 130, 384], &[1]),
        (&[3, 3], &[1]),
        (&[3, 3], &[0]),
        (&[2, 1], &[1]),
        (&[2, 0], &[1]),
        (&[7], &[0]),
        (&[], &[]),
        (&[2, 3, 7, 7], &[2, 3]),
        (&[4, 9, 70], &[0, 1]),
        (&[300, 6], &[0]),
        (&[2, 5000], &[1]),
    ];
    for (dims, reduced) in cases {
        let dims: Vec<Dim> = dims.iter().map(|d| (*d).into()).collect();
        for kind in [Kind::Sum, Kind::Argmax] {
            check(&contiguous(F32, kind, &dims, reduced), &[&[]]);
        }
    }
}

#[test]
fn element_types() {
    for elem in ElemType::ALL {
        for kind in KINDS {
            let applies = match kind {
                Kind::Mean => elem.is_float(),
                Kind::Sum | Kind::Prod => *elem != ElemType::I1,
                _ => true,
            };
            if !applies {
                continue;
            }
            let shapes: [Sizes<'_>; 3] =
                [&[("A", 2), ("B", 47), ("C", 1)], &[("A", 1), ("B", 3), ("C", 50)], &[("A", 2), ("B", 0), ("C", 3)]];
            check(&contiguous(*elem, kind, &named(), &[1]), &shapes);
            check(&contiguous(*elem, kind, &named()[..2], &[1]), &shapes);
        }
    }
}

/// Strides that are no neighbours, offsets, and a transposed output.
#[test]
fn views() {
    let [a, b, c] = named();
    let spec = contiguous(F32, Kind::Sum, &[a.clone(), b.clone(), c.clone()], &[1]);
    let shapes: [Sizes<'_>; 2] = [&[("A", 5), ("B", 6), ("C", 33)], &[("A", 40), ("B", 3), ("C", 2)]];
    let row = c.clone() * 2.into();
    let apart = Access::new(F32, 3, [row.clone() * b.clone(), 2.into(), row.clone()]);
    let turned = Access::new(F32, 1, [Dim::from(1), a.clone()]);
    check(&Spec { inputs: vec![apart.clone()], ..spec.clone() }, &shapes);
    check(&Spec { output: turned.clone(), ..spec.clone() }, &shapes);
    check(&Spec { inputs: vec![apart], output: turned, kind: Kind::Max, ..spec.clone() }, &shapes);
    // The first outer axis is the contiguous one.
    let first = Access::new(F32, 2, [1.into(), a.clone() * b, a]);
    check(&Spec { inputs: vec![first], ..spec.clone() }, &shapes);
    let repeated = Access::new(F32, 0, [1, 0, 0]);
    check(&Spec { inputs: vec![repeated], ..spec }, &shapes);
}

/// The sum of what a mask keeps over its number of ones, as sentences are pooled; coordinates; several types.
#[test]
fn expressions() {
    let [a, b, c] = named();
    let shapes: [Sizes<'_>; 3] =
        [&[("A", 2), ("B", 7), ("C", 384)], &[("A", 1), ("B", 2), ("C", 5)], &[("A", 3), ("B", 1), ("C", 79)]];
    let mut p = Builder::new();
    let (x, mask) = (p.input(0, F32), p.input(1, ElemType::I64));
    let mask = p.convert(mask, F32);
    let product = p.mul(x, mask);
    let mut e = Builder::new();
    let (sum, count) = (e.input(0, F32), e.input(1, F32));
    let one = e.constant(1.0, count);
    let count = e.binary(Binary::Max, count, one);
    let mean = e.div(sum, count);
    let pooled = Spec {
        inputs: vec![
            Access::new(F32, 0, [b.clone() * c.clone(), 1.into(), c.clone()]),
            Access::new(ElemType::I64, 0, [b.clone(), 0.into(), 1.into()]),
        ],
        prologue: p.finish(product),
        epilogue: e.finish(mean),
        epilogue_inputs: vec![Access::new(F32, 2, [Dim::from(1), 0.into()])],
        ..contiguous(F32, Kind::Sum, &[a.clone(), b.clone(), c.clone()], &[1])
    };
    check(&pooled, &shapes);

    for reduced in [1, 2] {
        let mut p = Builder::new();
        let (x, i, j) = (p.input(0, ElemType::F16), p.index(0), p.index(2));
        let x = p.convert(x, ElemType::F64);
        let (i, j) = (p.convert(i, ElemType::F64), p.convert(j, ElemType::F64));
        let sum = p.add(i, j);
        let y = p.mul(x, sum);
        let mut e = Builder::new();
        let (y0, j) = (e.input(0, ElemType::F64), e.index(1));
        let j = e.convert(j, ElemType::F64);
        let y0 = e.add(y0, j);
        let y0 = e.unary(Unary::Neg, y0);
        let y0 = e.convert(y0, F32);
        let base = contiguous(ElemType::F16, Kind::Sum, &[a.clone(), b.clone(), c.clone()], &[reduced]);
        let output = Access { elem: F32, ..base.output.clone() };
        check(&Spec { prologue: p.finish(y), epilogue: e.finish(y0), output, ..base }, &shapes);
    }
}

/// Scores behind a mask: whatever the masked rows hold, also where they are all there is.
#[test]
fn results_that_are_not_used() {
    let [a, b, c] = named();
    for (inverted, reduced, kind) in
        [(false, 2, Kind::Sum), (true, 2, Kind::Max), (false, 1, Kind::Sum), (true, 2, Kind::Mean)]
    {
        let mut p = Builder::new();
        let x = p.input(0, F32);
        let y = p.unary(Unary::Tanh, x);
        let mut e = Builder::new();
        let (sum, mask) = (e.input(0, F32), e.input(1, ElemType::I1));
        let hidden = e.constant(f64::NEG_INFINITY, sum);
        let shown = if inverted { e.select(mask, sum, hidden) } else { e.select(mask, hidden, sum) };
        let base = contiguous(F32, kind, &[a.clone(), b.clone(), c.clone()], &[reduced]);
        let mask = Access { elem: ElemType::I1, ..base.output.clone() };
        let spec = Spec { prologue: p.finish(y), epilogue: e.finish(shown), epilogue_inputs: vec![mask], ..base };
        for level in harness::levels() {
            let kernel = Compiled::new(spec.clone(), level);
            for [n, m, k] in [[1, 1, 1], [3, 7, 130], [2, 40, 16]] {
                let sizes = [("A", n), ("B", m), ("C", k)];
                let mut given = inputs(&spec, &sizes, 5);
                run(&kernel, &sizes, &given);
                for all in [0.0, 1.0] {
                    given[1].fill(all);
                    run(&kernel, &sizes, &given);
                }
            }
        }
    }
}

#[test]
fn not_a_number() {
    let spec = |kind, reduced: usize| contiguous(F32, kind, &named()[..2], &[reduced]);
    for kind in [Kind::Max, Kind::Min, Kind::Argmax, Kind::Sum] {
        for reduced in [0, 1] {
            for level in harness::levels() {
                let kernel = Compiled::new(spec(kind, reduced), level);
                let sizes = [("A", 70), ("B", 70)];
                let mut x = vec![0.25; 70 * 70];
                for i in 0..70 {
                    // Equal ones everywhere, one or several NaN, infinities.
                    x[71 * i] = [f64::NAN, 0.5, f64::INFINITY, f64::NEG_INFINITY, 0.25][i % 5];
                    x[(71 * i + 1400) % 4900] = [f64::NAN, 0.5][i % 2];
                }
                x[..70].fill(f64::NEG_INFINITY);
                run(&kernel, &sizes, &[x]);
            }
        }
    }
}

/// The error of a sum does not grow with its length.
#[test]
fn long_sums() {
    let n = 1_000_003;
    for (dims, reduced) in [([1, n], 1), ([n, 3], 0)] {
        let dims: Vec<Dim> = dims.iter().map(|d| (*d).into()).collect();
        for level in harness::levels() {
            let spec = contiguous(F32, Kind::Mean, &dims, &[reduced]);
            let kernel = Compiled::new(spec.clone(), level);
            let positive = |x: f64| (x + 1.1) as f32 as f64;
            let data: Vec<f64> = inputs(&spec, &[], 9)[0].iter().copied().map(positive).collect();
            run(&kernel, &[], &[data]);
        }
    }
}

/// Levels that this machine may lack, for code generation.
#[test]
fn every_level() {
    for level in CpuLevel::ALL {
        for elem in [F32, ElemType::F16, ElemType::U8, ElemType::I1] {
            for (kind, reduced) in [(Kind::Max, 1), (Kind::Argmax, 0)] {
                let spec = contiguous(elem, kind, &named()[..2], &[reduced]);
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
