//! Rows that are impossible: cells that are none of a variable's values, and what queries make of them.

use super::{
    harness::{build, levels},
    make::{DENSE, MIXED, SPARSE, UNEVEN, asking, deterministic, module},
};
use kiln_backends::plan::PlanOptions;
use kiln_ir::{ElemType, eval};
use std::collections::HashMap;

/// Bins between whole numbers, over the reals and over values, beside other discrete inputs.
const WHOLE_BINS: &str = "circuit @c vars=[real,3,3] {
  n0 = histogram var=0 breaks=[0.0, 1.0, 3.0] log=[-0.6931471805599453, -1.3862943611198906]
  n1 = histogram var=0 breaks=[0.0, 2.0, 3.0] log=[-1.3862943611198906, -0.6931471805599453]
  n2 = categorical var=1 log=[-1.0986122886681098, -1.0986122886681098, -1.0986122886681098]
  n3 = binomial var=1 trials=2 log=-0.7
  n4 = histogram var=2 breaks=[0.0, 1.0, 3.0] log=[-0.6931471805599453, -1.3862943611198906]
  n5 = product n0, n2, n4
  n6 = product n1, n3, n4
  n7 = sum n5 log=-0.6931471805599453, n6 log=-0.6931471805599453
}";

/// Asks rows with a cell between two values, in each column in turn, natively as by the interpreter. Returns the first
/// result by row.
fn between_values(text: &str, variables: usize, elem: ElemType) -> Vec<Vec<f64>> {
    let built = build(text, &PlanOptions::default());
    let count = 4 * (variables + 5);
    let fractions = [0.5, 0.999, 1.5, -0.5];
    let cell = |row: usize, var: usize| match (row / 4, row % 4) {
        (column, fraction) if column == var => fractions[fraction],
        (_, 3) if var + 1 < variables => f64::NAN,
        _ => (row % 2) as f64,
    };
    let cells = (0..count * variables).map(|i| cell(i / variables, i % variables)).collect();
    let seeds = (0..count as i64).collect();
    let inputs = HashMap::from([
        ("x".to_string(), eval::Tensor::floats(elem, [count, variables], cells)),
        ("s".to_string(), eval::Tensor::ints(ElemType::I64, [count], seeds)),
    ]);
    let inputs = inputs.into_iter().filter(|(name, _)| name == "x" || text.contains("%s:")).collect();
    let expected = eval::run(&built.module, "f", &inputs, &eval::no_weights).unwrap();
    let values = |t: &eval::Tensor| match &t.data {
        eval::Data::F(values) => values.clone(),
        eval::Data::I(values) => values.iter().map(|v| *v as f64).collect(),
    };
    let tolerance = if elem == ElemType::F32 { 2e-6 } else { 1e-11 };
    for level in levels() {
        let found = built.run("f", level, 2, &inputs).unwrap();
        for ((name, expected), bytes) in expected.iter().zip(&found) {
            let found = eval::Tensor::from_bytes(expected.elem, expected.shape.clone(), bytes).unwrap();
            for (at, (f, e)) in values(&found).iter().zip(values(expected)).enumerate() {
                let close = *f == e || f.is_nan() && e.is_nan() || (f - e).abs() <= tolerance * e.abs().max(1.0);
                assert!(close, "{} {name} {at}: {f} instead of {e}\n{text}", level.name());
            }
        }
    }
    values(&expected[0].1).chunks(expected[0].1.shape[1..].iter().product()).map(<[f64]>::to_vec).collect()
}

#[test]
fn cells_between_values() {
    let (sparse, dense, decided) = (SPARSE.circuit(5), DENSE.circuit(5), deterministic(12));
    let mixed = MIXED.circuit(5);
    for (circuit, variables, elem, real) in [
        (sparse.as_str(), 7, ElemType::F64, false),
        (&dense, 9, ElemType::F32, false),
        (&decided, 12, ElemType::F64, false),
        (&mixed, 7, ElemType::F64, true),
        (WHOLE_BINS, 3, ElemType::F32, true),
        (WHOLE_BINS, 3, ElemType::F64, true),
    ] {
        let name = elem.name();
        let text = module(circuit, variables, name, name, "evidence", &format!("{name}[B]"));
        let found = between_values(&text, variables, elem);
        for (row, log) in found.iter().enumerate().filter(|(row, _)| row / 4 < variables) {
            let is_real = real && (row / 4).is_multiple_of(2) && !(circuit == WHOLE_BINS && row / 4 > 0);
            assert!(is_real || log[0] == f64::NEG_INFINITY, "{row}: {log:?}");
        }
    }
    // Bins over the reals have all numbers.
    let text = module(WHOLE_BINS, 3, "f64", "f64", "evidence", "f64[B]");
    assert!(between_values(&text, 3, ElemType::F64)[..3].iter().all(|log| log[0].is_finite()));
}

#[test]
fn queries_of_impossible_rows() {
    let uneven = UNEVEN.replace("vars=[real,", "vars=[5,").replace("[-1.0, 0.5, 2.0, 3.5]", "[0.0, 1.0, 2.0, 4.0]");
    let sparse = SPARSE.circuit(8);
    for (circuit, variables) in [(uneven.as_str(), 3), (&sparse, 7), (WHOLE_BINS, 3)] {
        let row = format!("f64[B,{variables}]");
        for (kind, results) in [("mpe", format!("{row};f64[B]")), ("sample", row.clone()), ("expectation", row.clone())]
        {
            let found =
                between_values(&module(circuit, variables, "f64", "f64", kind, &results), variables, ElemType::F64);
            // Column 1 is of a discrete variable; the others are missing, the last one aside.
            let (given, missing) = (found[7][1], found[7][0]);
            assert!(given == -0.5 && (missing.is_nan() || kind == "mpe"), "{kind}: {:?}", found[7]);
        }
        if !circuit.contains("real") {
            let results = format!("f64[B,{variables},{}]", if variables == 3 { 5 } else { 3 });
            between_values(&module(circuit, variables, "f64", "f64", "marginals", &results), variables, ElemType::F64);
        }
    }
    // Integers have no NaN.
    let text = asking(&sparse, 7, "i32", true, "f64", "sample", "i32[B,7]");
    let built = build(&text, &PlanOptions::default());
    let inputs = HashMap::from([
        ("x".to_string(), eval::Tensor::ints(ElemType::I32, [1, 7], vec![9, 1, 1, 1, 1, 1, 1])),
        ("m".to_string(), eval::Tensor::ints(ElemType::I1, [1, 7], vec![1, 0, 0, 1, 0, 0, 0])),
        ("s".to_string(), eval::Tensor::ints(ElemType::I64, [1], vec![3])),
    ]);
    let expected = eval::run(&built.module, "f", &inputs, &eval::no_weights).unwrap();
    assert_eq!(expected[0].1.data, eval::Data::I(vec![9, 0, 0, 1, 0, 0, 0]));
    for level in levels() {
        assert_eq!(built.run("f", level, 1, &inputs).unwrap()[0], expected[0].1.to_bytes());
    }
}
