//! The interpreter on whole modules: limits, states, symbols and errors.

use kiln_ir::{
    ElemType, Module,
    eval::{self, EvalError, Limits, Tensor},
    parse,
};
use std::collections::HashMap;

fn module(items: &str) -> Module {
    parse(&format!("module @m stage=imported {{\n{items}\n}}")).unwrap()
}

fn run(m: &Module, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, EvalError> {
    let inputs: HashMap<String, Tensor> = inputs.iter().map(|(n, t)| (n.to_string(), t.clone())).collect();
    eval::run(m, "f", &inputs, &eval::no_weights)
}

fn f32s<const N: usize>(shape: [usize; N], data: &[f64]) -> Tensor {
    Tensor::floats(ElemType::F32, shape, data.to_vec())
}

#[test]
fn symbols_are_bound_by_inputs_and_checked() {
    let m = module(
        "dim B = 1..4
         dim S = 2..8 multiple=2
         entry @f(%x: f32[B,S], %y: f32[S + 1]) -> (z: f32[B*S]) {
           %0 = reshape %x to=[B*S] : f32[B*S]
           return %0
         }",
    );
    let y = |n: usize| ("y", f32s([n], &vec![0.0; n]));
    let x = |b: usize, s: usize| ("x", f32s([b, s], &vec![1.0; b * s]));
    assert_eq!(run(&m, &[x(2, 4), y(5)]).unwrap()[0].1.shape, [8]);
    let error = |inputs: &[(&str, Tensor)]| run(&m, inputs).unwrap_err().to_string();
    assert_eq!(error(&[x(2, 4), y(4)]), "input y: expected [5] for f32[S + 1], found [4]");
    assert_eq!(error(&[x(5, 4), y(5)]), "dim B: expected 1..4, found 5");
    assert_eq!(error(&[x(2, 3), y(4)]), "dim S: expected a multiple of 2, found 3");
    assert_eq!(error(&[x(2, 4)]), "input y: missing");
    assert_eq!(error(&[x(2, 4), y(5), ("z", f32s([1], &[0.0]))]), "input z: unknown; @f takes x, y");
    assert_eq!(error(&[("x", f32s([4], &[0.0; 4])), y(5)]), "input x: expected f32[B,S], found f32[4]");
    assert_eq!(error(&[("x", f32s([2, 4], &[0.0; 7])), y(5)]), "input x: 7 elements for shape [2, 4]");
}

#[test]
fn elements_that_an_entry_does_not_accept_are_refused() {
    let text = "module @m stage=imported {
  dim N = 1..8
  entry @f(%x: f32[N] finite, %i: i64[2,N] in 0..N - 1 filled, %u: u64[N] in 1..4, %s: i8[N] size) -> (y: f32[N]) {
    return %x
  }
}
";
    let m = parse(text).unwrap();
    assert_eq!(m.to_string(), text);
    kiln_ir::verify(&m).unwrap();
    let given = |x: [f64; 2], i: [i64; 4], u: [i64; 2]| {
        let i = Tensor::ints(ElemType::I64, [2, 2], i.to_vec());
        let ints = |elem, v: [i64; 2]| Tensor::ints(elem, [2], v.to_vec());
        let (u, s) = (ints(ElemType::U64, u), ints(ElemType::I8, [-128, 127]));
        run(&m, &[("x", f32s([2], &x)), ("i", i), ("u", u), ("s", s)]).map_err(|e| e.to_string())
    };
    assert!(given([1.0, -1.0], [0, -1, -1, -1], [4, 1]).is_ok());
    let refused = given([f64::INFINITY, f64::NAN], [-1, 0, -2, 2], [0, -1]).unwrap_err();
    let expected = [
        "input x[0] is inf, expected a finite number",
        "input x[1] is NaN, expected a finite number",
        "input i[0, 0] is -1, expected -1 only behind all others, found 0 behind it",
        "input i[1, 0] is -2, expected 0 to 1",
        "input i[1, 1] is 2, expected 0 to 1",
        "input u[0] is 0, expected 1 to 4",
        "input u[1] is 18446744073709551615, expected 1 to 4",
    ];
    assert_eq!(refused.lines().collect::<Vec<_>>(), expected);
    // What is made up is accepted.
    assert!(kiln_ir::sample::exercise(&m, Limits::default()).iter().all(Result::is_ok));
}

#[test]
fn memory_and_time_are_bounded() {
    let m = module(
        "entry @f() -> (y: f32[1000000,1000000]) {
           %0 = iota to=[1000000,1000000] axis=0 elem=f32 : f32[1000000,1000000]
           return %0
         }",
    );
    assert!(run(&m, &[]).unwrap_err().to_string().contains("exceeds the limit of 268435456 elements"));
    let m = module(
        "entry @f() -> (y: i64[]) {
           %0 = for 9000000000000000000, 1 body(%1: i64[], %2: i64[]) {
             %3 = add %2, %1 : i64[]
             yield %3
           } : i64[]
           return %0
         }",
    );
    let limits = Limits { steps: 1000, ..Limits::default() };
    let result = eval::run_with(&m, "f", &HashMap::new(), &eval::no_weights, &mut HashMap::new(), limits);
    assert_eq!(result.unwrap_err().to_string(), "%3 = add: more than 1000 nodes are executed");
}

#[test]
fn dead_values_make_room() {
    let mut text = String::from("entry @f(%x: f32[1000]) -> (y: f32[1000]) {\n%0 = neg %x : f32[1000]\n");
    for i in 1..100 {
        text += &format!("%{i} = neg %{} : f32[1000]\n", i - 1);
    }
    let m = module(&(text + "return %99\n}"));
    let inputs = HashMap::from([("x".to_string(), f32s([1000], &[1.5; 1000]))]);
    let with = |elements: usize| {
        let limits = Limits { elements, ..Limits::default() };
        eval::run_with(&m, "f", &inputs, &eval::no_weights, &mut HashMap::new(), limits)
    };
    assert_eq!(with(3000).unwrap()[0].1, f32s([1000], &[1.5; 1000]));
    assert!(with(1500).is_err());
}

#[test]
fn a_value_of_weights_alone() {
    let m = module(
        "weights %%0 = \"w\"
         param %w : f32[2,3] = %%0 \"w\"
         const %c : f32[3] = [1.0, 2.0, 3.0]
         entry @f(%x: f32[2,3]) -> (y: f32[2,3]) {
           %0 = mul %w, %c : f32[2,3]
           %1 = add %0, %0 : f32[2,3]
           %2 = add %x, %1 : f32[2,3]
           return %2
         }",
    );
    let weights = |_| Ok(f32s([2, 3], &[1.0, 1.0, 1.0, 2.0, 2.0, 2.0]));
    let nodes = m.live_nodes();
    let result = |n: usize| m.nodes[nodes[n]].result();
    assert_eq!(eval::value(&m, result(1), &weights).unwrap(), f32s([2, 3], &[2.0, 4.0, 6.0, 4.0, 8.0, 12.0]));
    assert_eq!(eval::value(&m, result(2), &weights).unwrap_err().to_string(), "%x: has no value here");
    let wrong = |_| Ok(f32s([3, 2], &[0.0; 6]));
    assert_eq!(
        eval::value(&m, result(1), &wrong).unwrap_err().to_string(),
        "param w: expected f32[2,3], found f32[3,2]"
    );
    assert_eq!(
        eval::value(&m, result(1), &eval::no_weights).unwrap_err().to_string(),
        "param w: no weights were given"
    );
}

#[test]
fn bytes_of_every_type_come_back() {
    for elem in ElemType::ALL {
        let t = if elem.is_float() {
            Tensor::floats(*elem, [3], vec![0.0, -1.5, 448.0])
        } else {
            Tensor::ints(*elem, [2], vec![0, 1])
        };
        let bytes = t.to_bytes();
        assert_eq!(bytes.len(), t.data.len() * elem.bytes());
        assert_eq!(Tensor::from_bytes(*elem, t.shape.clone(), &bytes), Some(t.clone()), "{elem}");
        assert_eq!(Tensor::from_bytes(*elem, t.shape.clone(), &bytes[1..]), None);
    }
    assert_eq!(Tensor::ints(ElemType::U64, [1], vec![-1]).to_bytes(), u64::MAX.to_le_bytes());
}

#[test]
fn relative_errors_do_not_pass_nan() {
    let one = f32s([2], &[3.0, 4.0]);
    assert_eq!(one.relative_error(&one), 0.0);
    assert_eq!(f32s([2], &[3.0, 9.0]).relative_error(&one), 1.0);
    assert_eq!(f32s([2], &[3.0, f64::NAN]).relative_error(&one), f64::INFINITY);
    assert_eq!(one.relative_error(&f32s([2], &[3.0, f64::NAN])), f64::INFINITY);
    assert_eq!(f32s([2], &[3.0, f64::INFINITY]).relative_error(&one), f64::INFINITY);
    let infinite = f32s([2], &[3.0, f64::INFINITY]);
    assert_eq!(infinite.relative_error(&infinite), 0.0);
    assert_eq!(f32s([1, 2], &[3.0, 4.0]).relative_error(&one), f64::INFINITY);
    assert_eq!(f32s([1], &[1.0]).relative_error(&f32s([1], &[0.0])), f64::INFINITY);
}
