//! Queries of circuits, native against the interpreter: random circuits of every kind of input, rows with missing cells,
//! blocks cut short, every level of this machine, one thread and several.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part of the shared modules")]

#[path = "harness/mod.rs"]
mod emulated;
#[path = "conformance/harness.rs"]
mod harness;
#[path = "circuit/impossible.rs"]
mod impossible;
#[path = "circuit/make.rs"]
mod make;
mod support;

use harness::{Random, build, levels};
use kiln_backends::{
    plan::{Buffer, PlanOptions, Step, plan},
    weights::{Params, Reader},
};
use kiln_ir::{ElemType, eval};
use kiln_kernels::{KernelSpec, cpu::CpuLevel};
use make::*;
use std::collections::HashMap;

#[test]
fn evidence() {
    for (make, elem, tolerance) in [
        (SPARSE, ElemType::F64, 1e-12),
        (BINARY, ElemType::F32, 2e-6),
        (MIXED, ElemType::F64, 1e-12),
        (DENSE, ElemType::F32, 2e-6),
        (DENSE, ElemType::F64, 1e-12),
    ] {
        let name = elem.name();
        let circuit = make.circuit(5);
        let built = build(
            &module(&circuit, make.variables, name, name, "evidence", &format!("{name}[B]")),
            &PlanOptions::default(),
        );
        for (count, missing) in [(1, 0), (5, 3), (16, 0), (33, 5), (70, 1)] {
            check(&built, &make, elem, count, missing, tolerance);
        }
    }
}

#[test]
fn rows_out_of_range_of_plain_numbers() {
    // Far from every mean, the densities vanish in f32 and in f64.
    let mut text = String::from("circuit @c vars=[real,real] {\n");
    text.push_str("  n0 = gaussian var=0 mean=0.0 std=1.0\n  n1 = gaussian var=1 mean=0.0 std=1.0\n");
    text.push_str("  n2 = gaussian var=0 mean=3.0 std=1.0\n  n3 = product n0, n1\n  n4 = product n2, n1\n");
    text.push_str("  n5 = sum n3 log=-0.5, n4 log=-0.9327521295671886\n}");
    for name in ["f32", "f64"] {
        let elem = ElemType::from_name(name).unwrap();
        let text = module(&text, 2, name, name, "evidence", &format!("{name}[B]"));
        let built = build(&text, &PlanOptions::default());
        let cells = vec![0.0, 0.0, 20.0, -20.0, 1000.0, 3.0, f64::NAN, 80.0, 1.0, 2.0];
        let inputs = HashMap::from([("x".to_string(), eval::Tensor::floats(elem, [5, 2], cells))]);
        let expected = eval::run(&built.module, "f", &inputs, &eval::no_weights).unwrap();
        for level in levels() {
            let found = built.run("f", level, 1, &inputs).unwrap();
            let found = eval::Tensor::from_bytes(elem, [5], &found[0]).unwrap();
            let error = found.relative_error(&expected[0].1);
            assert!(error < if name == "f32" { 1e-6 } else { 1e-13 }, "{}: {error:e}", level.name());
        }
    }
}

#[test]
fn narrow_and_wide_gaussians() {
    let text = "circuit @c vars=[real,real] {
  n0 = gaussian var=0 mean=1.0 std=1e-200
  n1 = gaussian var=1 mean=1.0 std=1e200
  n2 = gaussian var=0 mean=1e308 std=1e-307
  n3 = gaussian var=0 mean=-3.0 std=1e-20
  n4 = product n0, n1
  n5 = product n2, n1
  n6 = product n3, n1
  n7 = sum n4 log=-1.0, n5 log=-1.2, n6 log=-1.1
}";
    let cells = [1.0, 1.0, 1.0, f64::NAN, 1e308, 2.0, f64::INFINITY, 1.0, -3.0, 4.0, 0.0, f64::NEG_INFINITY, -3.0, 0.0];
    for name in ["f32", "f64"] {
        let elem = ElemType::from_name(name).unwrap();
        let cells = if name == "f32" { cells.map(|x| f64::from(x as f32)) } else { cells };
        let inputs = HashMap::from([("x".to_string(), eval::Tensor::floats(elem, [7, 2], cells.to_vec()))]);
        for (kind, results) in [("evidence", format!("{name}[B]")), ("mpe", format!("{name}[B,2];{name}[B]"))] {
            let built = build(&module(text, 2, name, name, kind, &results), &PlanOptions::default());
            let expected = eval::run(&built.module, "f", &inputs, &eval::no_weights).unwrap();
            for level in levels() {
                let found = built.run("f", level, 1, &inputs).unwrap();
                for ((what, expected), found) in expected.iter().zip(&found) {
                    let found = eval::Tensor::from_bytes(elem, expected.shape.clone(), found).unwrap();
                    let error = found.relative_error(expected);
                    assert!(error < if name == "f32" { 1e-6 } else { 1e-13 }, "{} {what}: {error:e}", level.name());
                }
            }
        }
    }
}

#[test]
fn products_of_histograms() {
    // Short programs and long ones, more tables than are written out, odd numbers of products.
    let (wide, narrow) = ((ElemType::F64, 1e-12), (ElemType::F32, 2e-6));
    for (variables, products, halves, (elem, tolerance)) in
        [(2, 3, false, narrow), (6, 2, false, wide), (5, 301, false, narrow), (3, 300, true, wide)]
    {
        let name = elem.name();
        let circuit = histograms(variables, products, halves);
        let text = module(&circuit, variables, name, name, "evidence", &format!("{name}[B]"));
        let built = build(&text, &PlanOptions::default());
        for count in [1, 64, 131] {
            let mut random = Random(count as u64);
            let choice = [-1.0, -0.25, 0.0, 0.5, 0.75, 1.0, 2.999, 3.0, 6.5, 7.0, 1e9, f64::NAN];
            let inside = |random: &mut Random| choice[3 + random.below(6)];
            let cell = |i: usize, random: &mut Random| {
                if i % 5 == 3 { choice[random.below(choice.len())] } else { inside(random) }
            };
            let cells = (0..count * variables).map(|i| cell(i, &mut random)).collect();
            let x = eval::Tensor::floats(elem, [count, variables], cells);
            let inputs = HashMap::from([("x".to_string(), x)]);
            let expected = eval::run(&built.module, "f", &inputs, &eval::no_weights).unwrap();
            for level in levels() {
                let found = built.run("f", level, 2, &inputs).unwrap();
                let found = eval::Tensor::from_bytes(elem, [count], &found[0]).unwrap();
                let (eval::Data::F(found), eval::Data::F(expected)) = (&found.data, &expected[0].1.data) else {
                    panic!("likelihoods are floats")
                };
                for (f, e) in found.iter().zip(expected) {
                    let close = f == e || (f - e).abs() <= tolerance * e.abs().max(1.0);
                    assert!(close, "{} {variables} {products} {halves} {count}: {f} {e}", level.name());
                }
            }
        }
    }
}

#[test]
fn complete_rows_of_deterministic_circuits() {
    let make = Make { variables: 12, width: 0, dense: false, real: false, values: 2 };
    for (name, tolerance) in [("f64", 1e-13), ("f32", 2e-6)] {
        let elem = ElemType::from_name(name).unwrap();
        let text = module(&deterministic(12), 12, name, name, "evidence", &format!("{name}[B]"));
        let built = build(&text, &PlanOptions::default());
        for (count, missing) in [(1, 0), (9, 0), (64, 0), (65, 1), (300, 0), (600, 1)] {
            check(&built, &make, elem, count, missing, tolerance);
        }
    }
}

#[test]
fn inputs_whose_mass_is_not_one() {
    let row = "f64[B,3]";
    for (kind, results) in [
        ("evidence", "f64[B]".to_string()),
        ("mpe", format!("{row};f64[B]")),
        ("sample", row.into()),
        ("expectation", row.into()),
    ] {
        let text = module(UNEVEN, 3, "f64", "f64", kind, &results);
        check(&build(&text, &PlanOptions::default()), &ROWS_OF_UNEVEN, ElemType::F64, 60, 5, 1e-13);
    }
    let discrete = UNEVEN.replace("vars=[real,", "vars=[5,").replace("[-1.0, 0.5, 2.0, 3.5]", "[0.0, 1.0, 2.0, 4.0]");
    let text = module(&discrete, 3, "f64", "f64", "marginals", "f64[B,3,5]");
    let make = Make { real: false, ..ROWS_OF_UNEVEN };
    check(&build(&text, &PlanOptions::default()), &make, ElemType::F64, 60, 5, 1e-13);
}

#[test]
fn masks_and_integers() {
    let circuit = BINARY.circuit(4);
    let row = |elem: &str| format!("{elem}[B,{}]", BINARY.variables);
    let of = |x: &str, mask: bool, kind: &str, results: &str| {
        let text = asking(&circuit, BINARY.variables, x, mask, "f64", kind, results);
        let missing = if mask { 0 } else { 4 };
        check(&build(&text, &PlanOptions::default()), &BINARY, ElemType::from_name(x).unwrap(), 37, missing, 1e-11);
    };
    for x in ["f64", "u8", "i64", "i16"] {
        of(x, true, "evidence", "f64[B]");
    }
    of("u16", false, "evidence", "f64[B]");
    for x in ["f32", "i32", "u64"] {
        of(x, true, "mpe", &format!("{};f64[B]", row(x)));
        of(x, true, "sample", &row(x));
    }
    of("u32", true, "expectation", &row("f64"));
    of("i8", true, "marginals", &format!("f64[B,{},2]", BINARY.variables));
    // A decision on each variable, whose complete rows have a way of their own.
    let text = asking(&deterministic(12), 12, "u8", true, "f64", "evidence", "f64[B]");
    let make = Make { variables: 12, ..BINARY };
    let built = build(&text, &PlanOptions::default());
    [1, 64, 130].into_iter().for_each(|count| check(&built, &make, ElemType::U8, count, 0, 1e-12));
}

#[test]
fn completions_and_draws() {
    for make in [SPARSE, BINARY, MIXED] {
        let circuit = make.circuit(8);
        let row = format!("f64[B,{}]", make.variables);
        for (kind, results) in [("mpe", format!("{row};f64[B]")), ("sample", row.clone()), ("expectation", row.clone())]
        {
            let text = module(&circuit, make.variables, "f64", "f64", kind, &results);
            check(&build(&text, &PlanOptions::default()), &make, ElemType::F64, 40, 5, 1e-11);
        }
    }
}

#[test]
fn marginals() {
    for make in [SPARSE, BINARY] {
        let results = format!("f64[B,{},{}]", make.variables, make.values);
        let text = module(&make.circuit(3), make.variables, "f64", "f64", "marginals", &results);
        check(&build(&text, &PlanOptions::default()), &make, ElemType::F64, 30, 4, 1e-11);
    }
}

/// Every kernel of a query at every level, one launch after the other, with memory that ends at forbidden pages; for
/// aarch64 in an emulator, where there is one, and as code otherwise.
fn launch_by_launch(text: &str, make: &Make, count: usize, missing: usize, tolerance: f64) {
    let m = kiln_ir::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let plan = plan(kiln_ir::verify(&m).unwrap(), &PlanOptions::default()).unwrap();
    let params = Params::new(&m, &|_, _| None, &|_| {}).unwrap();
    let reader = Reader::new(&m, &plan.weights, &params).unwrap();
    let mut random = Random(count as u64);
    let elem = m.ty(m.regions[m.entries[0].body].args[0]).elem;
    let mut inputs = vec![rows(&mut random, make, elem, count, missing)];
    if m.regions[m.entries[0].body].args.len() > 1 {
        inputs.push(eval::Tensor::ints(ElemType::I64, [count], (0..count as i64).collect()));
    }
    let named = ["x", "s"].iter().map(ToString::to_string).zip(inputs.iter().cloned()).collect();
    let expected = eval::run(&m, "f", &named, &eval::no_weights).unwrap();
    let sizes = [("B", count as i64)];
    for level in [CpuLevel::Aarch64, CpuLevel::X86V2] {
        let runs = emulated::levels().contains(&level);
        let mut outputs: Vec<Vec<u8>> = expected.iter().map(|(_, t)| vec![0xee; t.to_bytes().len()]).collect();
        for step in &plan.entries[0].blocks[0] {
            let Step::Launch(launch) = step else { panic!("a step that is no launch") };
            let KernelSpec::Circuit(spec) = &plan.kernels[launch.kernel] else { panic!("a kernel of another family") };
            let kernel = emulated::Compiled::new(spec.clone(), level);
            if !runs {
                continue;
            }
            let (mut read, mut written) = (vec![], vec![]);
            for arg in &launch.args {
                match arg.buffer {
                    Buffer::Input(n) => read.push(inputs[n as usize].to_bytes()),
                    Buffer::Weight(item) => {
                        let mut bytes = vec![];
                        reader.write(&plan.weights.items()[item.0 as usize], &mut bytes).unwrap();
                        read.push(bytes);
                    }
                    Buffer::Output(n) => written.push(n as usize),
                    Buffer::State(_) | Buffer::Temporary(_) => panic!("a circuit needs no temporary"),
                }
            }
            let before: Vec<Vec<u8>> = written.iter().map(|n| outputs[*n].clone()).collect();
            let (status, after) = kernel.run(&sizes, &read, &before);
            assert_eq!(status, 0);
            written.iter().zip(after).for_each(|(n, bytes)| outputs[*n] = bytes);
        }
        if !runs {
            continue;
        }
        for ((name, expected), bytes) in expected.iter().zip(&outputs) {
            let found = eval::Tensor::from_bytes(expected.elem, expected.shape.clone(), bytes).unwrap();
            let (found, expected) = without_nan(found, expected.clone());
            let error = found.relative_error(&expected);
            assert!(error <= tolerance, "{} {name} of {count} rows: {error:e}", level.name());
        }
    }
}

#[test]
fn other_levels() {
    for (make, elem, tolerance) in [(DENSE, "f32", 2e-6), (MIXED, "f64", 1e-12)] {
        let row = format!("{elem}[B]");
        let text = module(&make.circuit(5), make.variables, elem, elem, "evidence", &row);
        launch_by_launch(&text, &make, 21, 3, tolerance);
    }
    let make = Make { variables: 12, ..BINARY };
    launch_by_launch(&module(&deterministic(12), 12, "f64", "f64", "evidence", "f64[B]"), &make, 70, 1, 1e-13);
    let row = format!("f64[B,{}]", MIXED.variables);
    for (kind, results) in [("mpe", format!("{row};f64[B]")), ("sample", row.clone()), ("expectation", row)] {
        let text = module(&MIXED.circuit(8), MIXED.variables, "f64", "f64", kind, &results);
        launch_by_launch(&text, &MIXED, 9, 5, 1e-11);
    }
    let text = module(&SPARSE.circuit(3), SPARSE.variables, "f64", "f64", "marginals", "f64[B,7,3]");
    launch_by_launch(&text, &SPARSE, 9, 4, 1e-11);
}
