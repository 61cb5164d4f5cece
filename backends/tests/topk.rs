//! The largest elements of rows against a stable sort: ties, NaN, every element type, views, and all levels.

mod harness;
mod support;

use harness::{Compiled, Place, Sizes, decode, encode, random, symbol, value, values};
use kiln_ir::{Dim, ElemType};
use kiln_kernels::{Access, Family, cpu::CpuLevel, topk::Spec};
use support::Random;

const F32: ElemType = ElemType::F32;

fn plain(elem: ElemType, outer: &[Dim], inner: Dim, k: impl Into<Dim>) -> Spec {
    let k = k.into();
    let space = |row: Dim| [outer, &[row]].concat();
    Spec {
        outer: outer.to_vec(),
        input: Access::contiguous(elem, &space(inner.clone())),
        inner,
        values: Access::contiguous(elem, &space(k.clone())),
        indices: Access::contiguous(ElemType::I64, &space(k.clone())),
        k,
    }
}

fn run(kernel: &Compiled<Spec>, sizes: Sizes<'_>, input: &[f64]) {
    let spec = &kernel.spec;
    let elem = spec.input.elem;
    let elements: Vec<usize> = spec.buffers().iter().map(|b| value(&b.elements, sizes).max(0) as usize).collect();
    let bytes = encode(elem, input);
    let input = decode(elem, &bytes);
    let (mut values_wanted, mut indices_wanted) = (vec![7.0; elements[1]], vec![7.0; elements[2]]);
    let before = [encode(elem, &values_wanted), encode(ElemType::I64, &indices_wanted)];
    let (status, outputs) = kernel.run(sizes, &[bytes], &before);
    let (length, wanted) = (value(&spec.inner, sizes), value(&spec.k, sizes));
    let [from, to_value, to_index] = [&spec.input, &spec.values, &spec.indices].map(|a| Place::new(a, sizes));
    let enough = (1..=length).contains(&wanted);
    harness::each(&values(&spec.outer, sizes), |o| {
        let mut row: Vec<(i64, f64)> = (0..length).map(|i| (i, input[from.at(&[o, &[i]].concat())])).collect();
        row.sort_by(|(_, a), (_, b)| {
            let order = b.partial_cmp(a);
            order.unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
        });
        for (j, (i, x)) in row.iter().take(wanted as usize).enumerate().filter(|_| enough) {
            let at = [o, &[j as i64]].concat();
            values_wanted[to_value.at(&at)] = *x;
            indices_wanted[to_index.at(&at)] = *i as f64;
        }
    });
    assert_eq!(status, i32::from(!enough && value(&spec.tasks(), sizes) > 0), "{spec:?} {sizes:?}");
    let same = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()));
    let what = format!("{} {sizes:?} {spec:?}", kernel.level.name());
    let found = decode(elem, &outputs[0]);
    let wanted = decode(elem, &encode(elem, &values_wanted));
    assert!(same(&found, &wanted), "{what}: {found:?}, expected {wanted:?}");
    let found = decode(ElemType::I64, &outputs[1]);
    assert!(found == indices_wanted, "{what}: {found:?}, expected {indices_wanted:?}");
}

fn check(spec: &Spec, shapes: &[Sizes<'_>]) {
    for level in harness::levels() {
        let kernel = Compiled::new(spec.clone(), level);
        for (seed, sizes) in shapes.iter().enumerate() {
            let n = value(&spec.buffers()[0].elements, sizes).max(0) as usize;
            let mut data = random(spec.input.elem, n, &mut Random(seed as u64));
            run(&kernel, sizes, &data);
            // Many equal ones; rising, so that every element goes to the front; falling.
            let coarse: Vec<f64> = data.iter().map(|x| (x * 3.0).round() / 4.0).collect();
            run(&kernel, sizes, &coarse);
            data.sort_by(f64::total_cmp);
            run(&kernel, sizes, &data);
            data.reverse();
            run(&kernel, sizes, &data);
        }
    }
}

#[test]
fn lengths() {
    let lengths = [0, 1, 4, 5, 6, 16, 17, 64, 65, 100, 1000];
    let shapes: Vec<_> = lengths.iter().map(|n| [("A", 3), ("N", *n)]).collect();
    let mut shapes: Vec<Sizes<'_>> = shapes.iter().map(|s| s.as_slice()).collect();
    shapes.extend::<[Sizes<'_>; 3]>([&[("A", 0), ("N", 2)], &[("A", 0), ("N", 9)], &[("A", 40), ("N", 300)]]);
    for k in [1, 5, 64] {
        check(&plain(F32, &[symbol("A")], symbol("N"), k), &shapes);
    }
}

#[test]
fn known_sizes() {
    for (outer, inner, k) in [(vec![], 10, 3), (vec![4i64, 3], 7, 7), (vec![2], 1, 1), (vec![2], 90, 80)] {
        let outer: Vec<Dim> = outer.into_iter().map(Dim::from).collect();
        check(&plain(F32, &outer, inner.into(), k), &[&[]]);
    }
}

/// How many is known at run time only, up to all and beyond.
#[test]
fn symbolic_numbers() {
    let spec = plain(F32, &[symbol("A")], symbol("N"), symbol("W"));
    let pairs = [(1, 1), (10, 1), (10, 3), (33, 33), (100, 17), (9, 10), (4, 0), (0, 0)];
    let shapes: Vec<_> = pairs.iter().map(|(n, w)| [("A", 3), ("N", *n), ("W", *w)]).collect();
    check(&spec, &shapes.iter().map(|s| s.as_slice()).collect::<Vec<_>>());
}

#[test]
fn element_types() {
    for elem in ElemType::ALL {
        check(&plain(*elem, &[symbol("A")], symbol("N"), 4), &[&[("A", 2), ("N", 131)], &[("A", 3), ("N", 4)]]);
    }
}

#[test]
fn views() {
    let [a, b, n] = ["A", "B", "N"].map(symbol);
    let base = plain(F32, &[a.clone(), b.clone()], n.clone(), 3);
    let spec = Spec {
        input: Access::new(F32, 5, [b.clone() * n, 1.into(), b.clone()]),
        values: Access::new(F32, 2, [b.clone() * 3.into(), 1.into(), b.clone()]),
        indices: Access::new(ElemType::I64, 1, [Dim::from(3), a * 3.into(), 1.into()]),
        ..base
    };
    check(&spec, &[&[("A", 2), ("B", 5), ("N", 37)], &[("A", 1), ("B", 1), ("N", 3)]]);
}

#[test]
fn not_a_number() {
    for elem in [F32, ElemType::F16] {
        for level in harness::levels() {
            let kernel = Compiled::new(plain(elem, &[2.into()], 100.into(), 6), level);
            let mut data = random(elem, 200, &mut Random(1));
            for i in [3, 50, 51, 99, 100, 120] {
                data[i] = f64::NAN;
            }
            (data[10], data[160], data[161]) = (f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY);
            run(&kernel, &[], &data);
            data.fill(f64::NAN);
            data[100..].fill(f64::NEG_INFINITY);
            run(&kernel, &[], &data);
        }
    }
}

/// Levels that this machine may lack, for code generation.
#[test]
fn every_level() {
    for level in CpuLevel::ALL {
        for elem in [F32, ElemType::F16, ElemType::U8, ElemType::I1] {
            let spec = plain(elem, &[symbol("A")], symbol("N"), 5);
            let object = kiln_backends::llvm::Compiler::new()
                .compile("test", level, kiln_backends::llvm::Stage::Obj, |m| spec.emit(m, "kernel", level.describe()))
                .unwrap();
            assert!(object.len() > 500);
        }
    }
}
