//! Queries of circuits on an emulated GPU against the interpreter, and the form of their PTX.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part of the shared modules")]

mod emulator;
#[path = "conformance/harness.rs"]
mod harness;
#[path = "circuit/make.rs"]
mod make;
mod ptx;

use harness::{Built, build_for};
use kiln_backends::plan::PlanOptions;
use kiln_ir::{ElemType, eval};
use kiln_kernels::{Level, cuda::Sm};
use kiln_runtime::format::SectionKind;
use make::*;
use std::collections::HashMap;

/// Compiled for a GPU, which is the emulated one; nothing may be spilled where ptxas is there to say so.
fn build(text: &str) -> Built {
    let options = PlanOptions::default();
    let built = build_for(text, &options, vec![Level::Cuda(Sm::Sm80)], Some(emulator::driver()));
    if let Some(ptxas) = ptx::ptxas() {
        for usage in ptx::assemble(ptxas, Sm::Sm80, code_of(&built).as_bytes()) {
            assert_eq!((usage.spilled, usage.stack), (0, 0), "{usage:?}");
        }
    }
    built
}

fn code_of(built: &Built) -> &str {
    let section = built.artifact.sections().iter().find(|s| s.kind == SectionKind::Code).unwrap();
    std::str::from_utf8(&built.bytes[section.offset as usize..][..section.len as usize]).unwrap()
}

fn evidence_of(make: &Make, elem: &str) -> Built {
    build(&module(&make.circuit(5), make.variables, elem, elem, "evidence", &format!("{elem}[B]")))
}

#[test]
fn evidence_of_sparse_circuits() {
    for (make, elem, tolerance) in [(SPARSE, ElemType::F64, 1e-12), (BINARY, ElemType::F32, 2e-6)] {
        let built = evidence_of(&make, elem.name());
        for (count, missing) in [(1, 0), (5, 3), (33, 5), (70, 1)] {
            check(&built, &make, elem, count, missing, tolerance);
        }
    }
}

#[test]
fn evidence_of_circuits_that_are_not_written_out() {
    for (make, elem, tolerance) in [
        (LONG, ElemType::F32, 2e-6),
        (Make { values: 3, ..LONG }, ElemType::F64, 1e-12),
        (Make { real: true, ..LONG }, ElemType::F64, 1e-12),
    ] {
        let built = evidence_of(&make, elem.name());
        assert!(code_of(&built).contains("bar.sync") || code_of(&built).contains("barrier.sync"));
        [(1, 0), (35, 2)]
            .into_iter()
            .for_each(|(count, missing)| check(&built, &make, elem, count, missing, tolerance));
    }
    let built = build(&module(&deterministic(60), 60, "f64", "f64", "evidence", "f64[B]"));
    let make = Make { variables: 60, ..BINARY };
    [(34, 0), (40, 1)]
        .into_iter()
        .for_each(|(count, missing)| check(&built, &make, ElemType::F64, count, missing, 1e-13));
}

/// Tables are read 16 bytes at a time; a dense layer's sums are multiply-adds out of shared memory, sixteen in the loop.
#[test]
fn runs_are_of_the_form_that_is_fast() {
    let sparse = evidence_of(&LONG, "f64");
    let text = code_of(&sparse);
    let count = |op: &str| text.matches(op).count();
    assert!(count("ld.global.v4.b32") >= 8 && count("ld.global.v2.b64") >= 8 && count(".local") == 0, "{text}");
    for (elem, load, width) in [("f32", "ld.shared.v4.b32", 1), ("f64", "ld.shared.v2.b64", 2)] {
        let dense = evidence_of(&DENSE, elem);
        let text = code_of(&dense);
        assert_eq!(text.matches(load).count(), 4 * width, "{text}");
        assert!(text.matches(&format!("fma.rn.{elem}")).count() >= 16 && !text.contains(".local"), "{text}");
    }
}

#[test]
fn evidence_of_real_variables() {
    let built = evidence_of(&MIXED, "f64");
    [(1, 0), (40, 3)]
        .into_iter()
        .for_each(|(count, missing)| check(&built, &MIXED, ElemType::F64, count, missing, 1e-12));
}

#[test]
fn evidence_of_dense_circuits() {
    for (elem, tolerance) in [(ElemType::F32, 2e-6), (ElemType::F64, 1e-12)] {
        let built = evidence_of(&DENSE, elem.name());
        [(2, 0), (35, 5)]
            .into_iter()
            .for_each(|(count, missing)| check(&built, &DENSE, elem, count, missing, tolerance));
    }
}

#[test]
fn complete_rows_of_deterministic_circuits() {
    let make = Make { variables: 12, width: 0, dense: false, real: false, values: 2 };
    for (elem, tolerance) in [(ElemType::F64, 1e-13), (ElemType::F32, 2e-6)] {
        let name = elem.name();
        let built = build(&module(&deterministic(12), 12, name, name, "evidence", &format!("{name}[B]")));
        for (count, missing) in [(1, 0), (9, 0), (64, 0), (65, 1), (100, 9)] {
            check(&built, &make, elem, count, missing, tolerance);
        }
    }
}

#[test]
fn completions_and_draws() {
    for make in [BINARY, MIXED] {
        let row = format!("f64[B,{}]", make.variables);
        for (kind, results) in [("mpe", format!("{row};f64[B]")), ("sample", row.clone()), ("expectation", row.clone())]
        {
            let text = module(&make.circuit(8), make.variables, "f64", "f64", kind, &results);
            check(&build(&text), &make, ElemType::F64, 40, 5, 1e-11);
        }
    }
}

#[test]
fn marginals() {
    for make in [SPARSE, BINARY] {
        let results = format!("f64[B,{},{}]", make.variables, make.values);
        let text = module(&make.circuit(3), make.variables, "f64", "f64", "marginals", &results);
        check(&build(&text), &make, ElemType::F64, 34, 4, 1e-11);
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
        check(&build(&text), &ROWS_OF_UNEVEN, ElemType::F64, 34, 5, 1e-13);
    }
}

#[test]
fn masks_and_integers() {
    let circuit = BINARY.circuit(4);
    let row = |elem: &str| format!("{elem}[B,{}]", BINARY.variables);
    for (x, kind, results) in [
        ("u8", "evidence", "f64[B]".to_string()),
        ("i64", "mpe", format!("{};f64[B]", row("i64"))),
        ("f32", "sample", row("f32")),
        ("i8", "marginals", format!("f64[B,{},2]", BINARY.variables)),
    ] {
        let text = asking(&circuit, BINARY.variables, x, true, "f64", kind, &results);
        check(&build(&text), &BINARY, ElemType::from_name(x).unwrap(), 37, 0, 1e-11);
    }
    let text = asking(&deterministic(12), 12, "u8", true, "f64", "evidence", "f64[B]");
    check(&build(&text), &Make { variables: 12, ..BINARY }, ElemType::U8, 70, 0, 1e-12);
}

/// Rows with cells that are none of a variable's values have probability 0, and nothing else becomes of them than the
/// interpreter says; far from every mean densities vanish in plain numbers, and are found in logarithms.
#[test]
fn impossible_and_improbable_rows() {
    let far = "circuit @c vars=[real,real] {
  n0 = gaussian var=0 mean=0.0 std=1.0
  n1 = gaussian var=1 mean=0.0 std=1.0
  n2 = gaussian var=0 mean=3.0 std=1.0
  n3 = product n0, n1
  n4 = product n2, n1
  n5 = sum n3 log=-0.5, n4 log=-0.9327521295671886
}";
    let cases = [
        (SPARSE.circuit(6), 7, "evidence", "E[B]"),
        (SPARSE.circuit(6), 7, "mpe", "E[B,7];E[B]"),
        (SPARSE.circuit(6), 7, "sample", "E[B,7]"),
        (SPARSE.circuit(6), 7, "marginals", "E[B,7,3]"),
        (DENSE.circuit(6), 9, "evidence", "E[B]"),
        (deterministic(12), 12, "evidence", "E[B]"),
        (far.to_string(), 2, "evidence", "E[B]"),
    ];
    for (circuit, variables, kind, results) in cases {
        for elem in [ElemType::F32, ElemType::F64] {
            let name = elem.name();
            if elem == ElemType::F32 && kind != "evidence" {
                continue;
            }
            let built = build(&module(&circuit, variables, name, name, kind, &results.replace('E', name)));
            let odd = [0.5, 99.0, -1.0, f64::INFINITY, f64::NAN, 20.0, -20.0, 80.0];
            let cell = |i: usize| if i / variables % variables == i % variables { odd[i % 8] } else { (i % 2) as f64 };
            let cells = (0..3 * variables * variables).map(cell).collect();
            let x = eval::Tensor::floats(elem, [3 * variables, variables], cells);
            let mut inputs = HashMap::from([("x".to_string(), x)]);
            if kind == "sample" {
                let seeds = (0..3 * variables as i64).collect();
                inputs.insert("s".into(), eval::Tensor::ints(ElemType::I64, [3 * variables], seeds));
            }
            let expected = eval::run(&built.module, "f", &inputs, &eval::no_weights).unwrap();
            let found = built.run("f", built.levels[0], 1, &inputs).unwrap();
            for ((what, expected), found) in expected.iter().zip(&found) {
                let found = eval::Tensor::from_bytes(elem, expected.shape.clone(), found).unwrap();
                let (eval::Data::F(found), eval::Data::F(expected)) = (&found.data, &expected.data) else {
                    panic!("results are floats")
                };
                for (f, e) in found.iter().zip(expected) {
                    let tolerance = if elem == ElemType::F32 { 2e-6 } else { 1e-11 };
                    let close = f == e || f.is_nan() && e.is_nan() || (f - e).abs() <= tolerance * e.abs().max(1.0);
                    assert!(close, "{kind} {what} in {name}: {f} instead of {e}");
                }
            }
        }
    }
}
