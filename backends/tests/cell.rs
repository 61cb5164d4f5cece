//! Recurrent cells against their definition in f64: every tail of units and rows, stored weights of every type, rows of
//! any distance, saturated gates, and all levels.

mod harness;
mod support;

use harness::{Compiled, Place, Sizes, decode, encode, levels, random, symbol, value};
use kiln_backends::llvm::{Compiler, Stage};
use kiln_ir::{Dim, ElemType};
use kiln_kernels::{
    Access, Family,
    cell::{Cell, Spec},
    cpu::CpuLevel,
};
use support::Random;

const F32: ElemType = ElemType::F32;

/// Everything dense; a GRU has a bias.
fn plain(elem: ElemType, lstm: bool, rows: impl Into<Dim>, hidden: i64) -> Spec {
    let state = || Access::new(elem, 0, [hidden, 1]);
    let cell = match lstm {
        true => Cell::Lstm { c: state(), next: state() },
        false => Cell::Gru { bias: Some(Access::new(elem, 0, [1])) },
    };
    let gx = Access::new(elem, 0, [cell.gates() * hidden, 1]);
    Spec { cell, rows: rows.into(), hidden, weight: elem, starts: false, gx, h: state(), output: state() }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `weight[k][gate * hidden + unit]` in the layout of the kernel.
fn pack(weight: &[f64], gates: usize, n: usize) -> Vec<f64> {
    let blocks = n.div_ceil(16);
    let mut packed = vec![0.0; blocks * n * gates * 16];
    for k in 0..n {
        for gate in 0..gates {
            for unit in 0..n {
                packed[((unit / 16 * n + k) * gates + gate) * 16 + unit % 16] = weight[k * gates * n + gate * n + unit];
            }
        }
    }
    packed
}

/// Runs the kernel on random data; gates are `spread` times those of usual models.
fn check(kernel: &Compiled<Spec>, sizes: Sizes<'_>, spread: f64) {
    let spec = &kernel.spec;
    let (gates, n, rows) = (spec.cell.gates() as usize, spec.hidden as usize, value(&spec.rows, sizes));
    let mut r = Random((rows as u64) << 8 | n as u64);
    let buffers = spec.buffers();
    let elements: Vec<usize> = buffers.iter().map(|b| value(&b.elements, sizes).max(0) as usize).collect();
    let mut tensor = |elem: ElemType, n: usize, scale: f64| {
        let bytes = encode(elem, &random(elem, n, &mut r).iter().map(|x| x * scale).collect::<Vec<_>>());
        let values = decode(elem, &bytes);
        (bytes, values)
    };
    let (gx, gxv) = tensor(spec.gx.elem, elements[0], 2.0 * spread);
    let (h, hv) = tensor(spec.h.elem, elements[1], if spec.starts { 0.0 } else { 1.0 });
    let (_, wv) = tensor(spec.weight, n * n * gates, 2.0 / (n.max(1) as f64).sqrt());
    let w = encode(spec.weight, &pack(&wv, gates, n));
    let outputs: Vec<usize> = (0..buffers.len()).filter(|i| buffers[*i].written).collect();
    let mut inputs = vec![gx, h, w];
    let mut extra = vec![];
    if outputs[0] > 3 {
        let (bytes, values) = tensor(buffers[3].elem, elements[3], 1.5);
        inputs.push(bytes);
        extra = values;
    }
    let before: Vec<Vec<u8>> = outputs.iter().map(|o| encode(buffers[*o].elem, &vec![5.0; elements[*o]])).collect();
    let (status, found) = kernel.run(sizes, &inputs, &before);
    assert_eq!(status, 0);
    let mut expected: Vec<Vec<f64>> = before.iter().zip(&outputs).map(|(b, o)| decode(buffers[*o].elem, b)).collect();
    let place = |access: &Access| Place::new(access, sizes);
    let (gx_at, h_at, out_at) = (place(&spec.gx), place(&spec.h), place(&spec.output));
    for row in 0..rows {
        let product = |gate: usize, unit: usize| -> f64 {
            (0..n).map(|k| hv[h_at.at(&[row, k as i64])] * wv[k * gates * n + gate * n + unit]).sum()
        };
        let x = |gate: usize, unit: usize| gxv[gx_at.at(&[row, (gate * n + unit) as i64])];
        for unit in 0..n {
            let at = [row, unit as i64];
            match &spec.cell {
                Cell::Lstm { c, next } => {
                    let [i, f, g, o] = [0, 1, 2, 3].map(|gate| x(gate, unit) + product(gate, unit));
                    let c = sigmoid(f) * extra[place(c).at(&at)] + sigmoid(i) * g.tanh();
                    expected[0][out_at.at(&at)] = sigmoid(o) * c.tanh();
                    expected[1][place(next).at(&at)] = c;
                }
                Cell::Gru { bias } => {
                    let bias = |gate: usize| match bias {
                        Some(bias) => extra[place(bias).at(&[(gate * n + unit) as i64])],
                        None => 0.0,
                    };
                    let [hr, hz, hn] = [0, 1, 2].map(|gate| product(gate, unit) + bias(gate));
                    let (r, z) = (sigmoid(x(0, unit) + hr), sigmoid(x(1, unit) + hz));
                    let new = (x(2, unit) + r * hn).tanh();
                    expected[0][out_at.at(&at)] = (1.0 - z) * new + z * hv[h_at.at(&at)];
                }
            }
        }
    }
    // Sums of `n` products below 1 in all, and gates below `3 spread` in size, whose error is as large as theirs.
    let ulp = |elem: ElemType| match elem {
        ElemType::F64 => f64::EPSILON,
        ElemType::F32 => f32::EPSILON as f64,
        ElemType::F16 => 2f64.powi(-10),
        _ => 2f64.powi(-7),
    };
    for ((found, expected), o) in found.iter().zip(&expected).zip(&outputs) {
        let elem = buffers[*o].elem;
        let tolerance = 4.0 * ulp(elem) + 2.0 * ulp(spec.sum_elem()) * (n as f64 + 3.0 * spread);
        for (at, (f, e)) in decode(elem, found).iter().zip(expected).enumerate() {
            assert!(
                (f - e).abs() <= tolerance * e.abs().max(1.0),
                "{} {sizes:?} {spec:?}: output {o} element {at} is {f}, expected {e}",
                kernel.level.name()
            );
        }
    }
}

#[test]
fn every_tail_of_units_and_rows() {
    for level in levels() {
        for lstm in [true, false] {
            for hidden in [1, 16, 37] {
                let kernel = Compiled::new(plain(F32, lstm, symbol("B"), hidden), level);
                // Each start of an emulator takes long.
                let rows: Vec<i64> =
                    if level.is_native() { (0..=7).chain([11, 48, 97]).collect() } else { vec![1, 11] };
                rows.iter().for_each(|rows| check(&kernel, &[("B", *rows)], 1.0));
            }
        }
    }
}

#[test]
fn known_numbers_of_rows() {
    for level in levels() {
        for (lstm, rows, hidden) in [(true, 1, 128), (false, 1, 128), (true, 2, 32), (true, 5, 16), (true, 128, 48)] {
            check(&Compiled::new(plain(F32, lstm, rows, hidden), level), &[], 1.0);
        }
    }
}

#[test]
fn element_types_and_stored_weights() {
    let types = [ElemType::F64, F32, ElemType::F16, ElemType::BF16];
    let stored = types.map(|elem| (elem, elem)).into_iter();
    let narrow = [(F32, ElemType::F16), (F32, ElemType::BF16), (ElemType::F64, F32)];
    for (n, (elem, weight)) in stored.chain(narrow).enumerate() {
        for level in levels() {
            let spec = Spec { weight, ..plain(elem, n % 2 == 0, symbol("B"), 21) };
            let kernel = Compiled::new(spec, level);
            check(&kernel, &[("B", 1)], 1.0);
            check(&kernel, &[("B", 9)], 1.0);
        }
    }
}

#[test]
fn views() {
    let (b, s) = (symbol("B"), symbol("S"));
    for level in levels() {
        // A step of a sequence; states inside wider rows; all rows with one state; no bias.
        let base = plain(F32, true, b.clone(), 40);
        let wide = |offset: i64| Access::new(F32, offset, [Dim::from(96), 1.into()]);
        let spec = Spec {
            gx: Access::new(F32, 3, [s.clone() * 160.into(), 1.into()]),
            h: Access::new(F32, 0, [0, 1]),
            cell: Cell::Lstm { c: wide(5), next: wide(48) },
            output: Access::new(F32, 1, [s.clone() * 40.into(), 1.into()]),
            ..base
        };
        let kernel = Compiled::new(spec, level);
        check(&kernel, &[("B", 7), ("S", 3)], 1.0);
        check(&kernel, &[("B", 1), ("S", 1)], 1.0);
        let spec = Spec { cell: Cell::Gru { bias: None }, ..plain(F32, false, b.clone(), 40) };
        check(&Compiled::new(spec, level), &[("B", 5)], 1.0);
    }
}

#[test]
fn states_of_zeros() {
    for level in levels() {
        for (lstm, hidden) in [(true, 37), (false, 37), (true, 128)] {
            let kernel = Compiled::new(Spec { starts: true, ..plain(F32, lstm, symbol("B"), hidden) }, level);
            [0, 1, 7, 50].iter().for_each(|rows| check(&kernel, &[("B", *rows)], 1.0));
        }
    }
}

/// Gates of some hundreds open and close entirely and never give a NaN.
#[test]
fn saturated_gates() {
    for level in levels() {
        for elem in [F32, ElemType::F64] {
            for lstm in [true, false] {
                check(&Compiled::new(plain(elem, lstm, 6, 24), level), &[], 500.0);
            }
        }
    }
}

/// A row's result depends on that row alone, bit for bit, however many there are beside it.
#[test]
fn rows_are_independent() {
    for level in levels() {
        for lstm in [true, false] {
            let n = 37;
            let kernel = Compiled::new(plain(F32, lstm, symbol("B"), n), level);
            let gates = kernel.spec.cell.gates();
            let mut r = Random(5);
            let mut bytes = |n: i64| encode(F32, &random(F32, n as usize, &mut r));
            let (gx, h, w) = (bytes(13 * gates * n), bytes(13 * n), bytes(48 * n * gates));
            let extra = if lstm { bytes(13 * n) } else { bytes(gates * n) };
            let run = |from: i64, to: i64| {
                let rows = |all: &[u8], row: i64| all[(from * row * 4) as usize..(to * row * 4) as usize].to_vec();
                let extra = if lstm { rows(&extra, n) } else { extra.clone() };
                let output = vec![0; ((to - from) * n * 4) as usize];
                let outputs = vec![output; if lstm { 2 } else { 1 }];
                kernel.run(&[("B", to - from)], &[rows(&gx, gates * n), rows(&h, n), w.clone(), extra], &outputs).1
            };
            let all = run(0, 13);
            for (from, to) in [(0, 1), (12, 13), (3, 5), (1, 5)] {
                for (all, part) in all.iter().zip(run(from, to)) {
                    assert!(all[(from * n * 4) as usize..(to * n * 4) as usize] == part, "{} {from}", level.name());
                }
            }
        }
    }
}

/// Levels that this machine may lack, for code generation.
#[test]
fn every_level() {
    for level in CpuLevel::ALL {
        for lstm in [true, false] {
            let spec = plain(F32, lstm, symbol("B"), 40);
            let compiler = Compiler::new();
            let compile = |stage| compiler.compile("cell", level, stage, |m| spec.emit(m, "kernel", level.describe()));
            assert!(compile(Stage::Obj).unwrap().len() > 500);
            let text = String::from_utf8(compile(Stage::Asm).unwrap()).unwrap();
            assert!(!text.contains("call\t") && !text.contains("\tbl\t"), "{} calls a library", level.name());
        }
    }
}
