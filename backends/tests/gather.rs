//! Gathers against their definition, on views of all kinds, with indices in and out of range, and all levels.

mod harness;
mod support;

use harness::{Compiled, Place, Sizes, decode, each, encode, levels, random, symbol, value, values};
use kiln_ir::{Dim, ElemType};
use kiln_kernels::{Access, Family, cpu::CpuLevel, gather::Spec};
use std::slice::from_ref;
use support::Random;

const INDICES: [ElemType; 8] = [
    ElemType::I8,
    ElemType::I16,
    ElemType::I32,
    ElemType::I64,
    ElemType::U8,
    ElemType::U16,
    ElemType::U32,
    ElemType::U64,
];

/// Everything contiguous.
fn dense(elem: ElemType, index: ElemType, before: &[Dim], axis: Dim, indices: &[Dim], after: &[Dim]) -> Spec {
    shared(elem, index, (&[], before), axis, indices, after)
}

/// Everything contiguous, with axes that the table and the index have in common.
fn shared(
    elem: ElemType,
    index: ElemType,
    (shared, before): (&[Dim], &[Dim]),
    axis: Dim,
    indices: &[Dim],
    after: &[Dim],
) -> Spec {
    Spec {
        shared: shared.to_vec(),
        before: before.to_vec(),
        table: Access::contiguous(elem, &[shared, before, from_ref(&axis), after].concat()),
        axis,
        indices: indices.to_vec(),
        after: after.to_vec(),
        index: Access::contiguous(index, &[shared, indices].concat()),
        output: Access::contiguous(elem, &[shared, before, indices, after].concat()),
    }
}

/// Runs the kernel with these indices, or with random ones in range; what is out of range is 9 in the output.
fn check_indices(kernel: &Compiled<Spec>, sizes: Sizes<'_>, chosen: Option<&[f64]>) {
    let (spec, mut r) = (&kernel.spec, Random(3));
    let buffers = spec.buffers();
    let elements: Vec<usize> = buffers.iter().map(|b| value(&b.elements, sizes).max(0) as usize).collect();
    let axis = value(&spec.axis, sizes);
    let table = random(spec.table.elem, elements[0], &mut r);
    let indices: Vec<f64> = match chosen {
        Some(list) => list.to_vec(),
        None => (0..elements[1]).map(|_| (r.bits() % axis.max(1) as u64) as f64).collect(),
    };
    let elem = spec.output.elem;
    let mut expected = decode(elem, &encode(elem, &vec![9.0; elements[2]]));
    let (inputs, output) = ([encode(elem, &table), encode(spec.index.elem, &indices)], encode(elem, &expected));
    let (status, outputs) = kernel.run(sizes, &inputs, &[output]);
    let [from, index, to] = [&spec.table, &spec.index, &spec.output].map(|a| Place::new(a, sizes));
    let [shared, before, at, after] =
        [&spec.shared, &spec.before, &spec.indices, &spec.after].map(|dims| values(dims, sizes));
    let mut bad = false;
    each(&[shared.clone(), before.clone(), at.clone(), after].concat(), |i| {
        let (b, rest) = i.split_at(shared.len() + before.len());
        let (i, a) = rest.split_at(at.len());
        let row = indices[index.at(&[&b[..shared.len()], i].concat())];
        if (0.0..axis as f64).contains(&row) {
            expected[to.at(&[b, i, a].concat())] = table[from.at(&[b, &[row as i64], a].concat())];
        } else {
            bad = true;
        }
    });
    let what = format!("{} {sizes:?} {spec:?}", kernel.level.name());
    assert_eq!(status, i32::from(bad), "{what}");
    assert_eq!(decode(elem, &outputs[0]), expected, "{what}");
}

fn check(spec: &Spec, shapes: &[Sizes<'_>]) {
    for level in levels() {
        let kernel = Compiled::new(spec.clone(), level);
        shapes.iter().for_each(|sizes| check_indices(&kernel, sizes, None));
    }
}

#[test]
fn rows_of_every_length() {
    let [v, s, d] = ["V", "S", "D"].map(symbol);
    let lengths = [0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 384];
    let sizes: Vec<[(&str, i64); 3]> = lengths.iter().map(|n| [("V", 11), ("S", 9), ("D", *n)]).collect();
    let spec = dense(ElemType::F32, ElemType::I64, &[], v.clone(), from_ref(&s), &[d]);
    check(&spec, &sizes.iter().map(|s| s.as_slice()).collect::<Vec<_>>());
    for n in [1, 5, 16, 19, 384] {
        let spec = dense(ElemType::F32, ElemType::I64, &[], v.clone(), from_ref(&s), &[n.into()]);
        check(&spec, &[&[("V", 7), ("S", 130)], &[("V", 1), ("S", 1)], &[("V", 3), ("S", 0)]]);
    }
}

#[test]
fn element_types() {
    let [v, s] = ["V", "S"].map(symbol);
    for elem in ElemType::ALL.iter().copied() {
        let spec = dense(elem, ElemType::I32, &[], v.clone(), from_ref(&s), &[67.into()]);
        check(&spec, &[&[("V", 13), ("S", 21)]]);
    }
    for index in INDICES {
        let spec = dense(ElemType::F32, index, &[], v.clone(), from_ref(&s), &[5.into()]);
        check(&spec, &[&[("V", 100), ("S", 300)]]);
    }
}

#[test]
fn axes() {
    let [a, b, v, s, t, d] = ["A", "B", "V", "S", "T", "D"].map(symbol);
    let sizes: [Sizes<'_>; 3] = [
        &[("A", 2), ("B", 3), ("V", 5), ("S", 4), ("T", 7), ("D", 19)],
        &[("A", 1), ("B", 1), ("V", 1), ("S", 1), ("T", 1), ("D", 1)],
        &[("A", 3), ("B", 2), ("V", 90), ("S", 30), ("T", 2), ("D", 3)],
    ];
    let (elem, index) = (ElemType::F32, ElemType::I64);
    check(
        &dense(elem, index, &[a.clone(), b.clone()], v.clone(), &[s.clone(), t.clone()], &[d.clone(), 3.into()]),
        &sizes,
    );
    // One index, whole rows; single elements; an index without axes.
    check(&dense(elem, index, from_ref(&a), v.clone(), from_ref(&s), &[]), &sizes);
    check(&dense(elem, index, &[], v.clone(), &[], from_ref(&d)), &sizes);
    check(&dense(elem, index, from_ref(&b), v.clone(), &[], &[]), &sizes);
}

#[test]
fn shared_axes() {
    let [b, c, v, s, d] = ["B", "C", "V", "S", "D"].map(symbol);
    let sizes: [Sizes<'_>; 4] = [
        &[("B", 2), ("C", 3), ("V", 5), ("S", 4), ("D", 19)],
        &[("B", 1), ("C", 1), ("V", 1), ("S", 1), ("D", 1)],
        &[("B", 40), ("C", 2), ("V", 9), ("S", 3), ("D", 128)],
        &[("B", 0), ("C", 2), ("V", 9), ("S", 3), ("D", 2)],
    ];
    let (elem, index) = (ElemType::F32, ElemType::I64);
    // One row for each; several; axes of the table's own in between; single elements; two axes in common.
    let front = from_ref(&b);
    check(&shared(elem, index, (front, &[]), v.clone(), &[], &[128.into()]), &sizes);
    check(&shared(elem, index, (front, &[]), v.clone(), from_ref(&s), from_ref(&d)), &sizes);
    check(&shared(elem, index, (front, from_ref(&c)), v.clone(), from_ref(&s), from_ref(&d)), &sizes);
    check(&shared(elem, index, (front, &[]), v.clone(), &[], &[]), &sizes);
    let plain = shared(ElemType::I64, ElemType::I8, (&[b.clone(), c.clone()], &[]), v.clone(), from_ref(&s), &[]);
    check(&plain, &sizes);
    // Axes that do not merge: indices that lie with the first axis innermost.
    let index = Access::new(ElemType::I8, 0, [s, b.clone() * symbol("S"), 1.into()]);
    check(&Spec { index, ..plain }, &sizes);
}

#[test]
fn views() {
    let [v, s, d] = ["V", "S", "D"].map(symbol);
    for elem in [ElemType::F32, ElemType::F16] {
        let plain = dense(elem, ElemType::I64, &[3.into()], v.clone(), &[2.into(), s.clone()], &[4.into(), d.clone()]);
        let (row, slices) = (d.clone() * 4.into(), s.clone() * 2.into());
        let sizes: [Sizes<'_>; 2] = [&[("V", 9), ("S", 5), ("D", 21)], &[("V", 2), ("S", 1), ("D", 1)]];
        // A transposed table, with room between the rows; transposed indices; slices of a wider output.
        let width = v.clone() + 2.into();
        let table = Access::new(elem, 4, [width.clone() * row.clone(), 1.into(), width.clone() * d.clone(), width]);
        check(&Spec { table, ..plain.clone() }, &sizes);
        let index = Access::new(ElemType::I64, 1, [Dim::from(1), 2.into()]);
        check(&Spec { index, ..plain.clone() }, &sizes);
        let wide = row.clone() + 5.into();
        let output =
            Access::new(elem, 3, [wide.clone() * slices.clone(), wide.clone() * s.clone(), wide, d.clone(), 1.into()]);
        check(&Spec { output, ..plain.clone() }, &sizes);
        // The output with its axes the other way round, and one table and one index for all.
        let plane = slices.clone() * 3.into();
        let output = Access::new(elem, 0, [Dim::from(1), 3.into(), 6.into(), plane.clone(), plane * 4.into()]);
        let table = Access::new(elem, 0, [Dim::from(0), row, d.clone(), 1.into()]);
        let index = Access::new(ElemType::I64, 0, [0, 0]);
        check(&Spec { output, table, index, ..plain }, &sizes);
    }
}

#[test]
fn indices_out_of_range() {
    let [v, s] = ["V", "S"].map(symbol);
    for (before, after) in
        [(vec![], vec![Dim::from(6)]), (vec![Dim::from(2)], vec![]), (vec![3.into()], vec![600.into()])]
    {
        for index in INDICES {
            for axis in [v.clone(), 7.into()] {
                let spec = dense(ElemType::F32, index, &before, axis, from_ref(&s), &after);
                for level in levels() {
                    let kernel = Compiled::new(spec.clone(), level);
                    let sizes: Sizes<'_> = &[("V", 7), ("S", 5)];
                    let top = 2f64.powi(index.bytes() as i32 * 8 - 2);
                    check_indices(&kernel, sizes, Some(&[0.0, 1.0, 6.0, 0.0, 3.0]));
                    check_indices(&kernel, sizes, Some(&[0.0, 1.0, 7.0, 0.0, 3.0]));
                    check_indices(&kernel, sizes, Some(&[top, 1.0, 6.0, 0.0, 2.0 * top - 1.0]));
                    if index.kind() == kiln_ir::types::Kind::Signed {
                        check_indices(&kernel, sizes, Some(&[0.0, 1.0, 6.0, 0.0, -1.0]));
                        check_indices(&kernel, sizes, Some(&[-2.0 * top, -7.0, 6.0, 0.0, -top]));
                    } else {
                        check_indices(&kernel, sizes, Some(&[0.0, 3.0 * top, 6.0, 2.0 * top, 5.0]));
                    }
                }
            }
        }
    }
    // Nothing is in range of an empty axis.
    let spec = dense(ElemType::F32, ElemType::I64, &[], v, &[s], &[4.into()]);
    for level in levels() {
        let kernel = Compiled::new(spec.clone(), level);
        check_indices(&kernel, &[("V", 0), ("S", 2)], Some(&[0.0, 1.0]));
    }
}

/// Levels that this machine may lack, for code generation.
#[test]
fn every_level() {
    for level in CpuLevel::ALL {
        for elem in [ElemType::F32, ElemType::F16, ElemType::I8, ElemType::F64] {
            let spec = dense(elem, ElemType::I64, &[], symbol("V"), &[symbol("S")], &[384.into()]);
            let compiler = kiln_backends::llvm::Compiler::new();
            let compile =
                |stage| compiler.compile("gather", level, stage, |m| spec.emit(m, "kernel", level.describe()));
            assert!(compile(kiln_backends::llvm::Stage::Obj).unwrap().len() > 500);
            let text = String::from_utf8(compile(kiln_backends::llvm::Stage::Asm).unwrap()).unwrap();
            assert!(!text.contains("call\t") && !text.contains("\tbl\t"), "{}: {elem} calls a library", level.name());
        }
    }
}
