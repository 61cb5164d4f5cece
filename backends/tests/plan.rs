//! Plans, run by the contracts of their kernels and looked at: what is copied, what is written in place, what shares
//! memory, and what is refused.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part of the shared modules")]

#[path = "conformance/cases.rs"]
mod cases;
#[path = "conformance/simulate.rs"]
mod simulate;

use cases::{CASES, DIMS};
use kiln_backends::{
    plan::{Buffer, ModulePlan, PlanOptions, Step, plan},
    weights::Params,
};
use kiln_ir::{ElemType, Module, Symbol, eval};
use std::collections::HashMap;

fn parse(text: &str) -> Module {
    kiln_ir::parse(&format!("module @m stage=legal {{\n{text}\n}}")).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn planned(m: &Module) -> ModulePlan {
    plan(kiln_ir::verify(m).unwrap_or_else(|e| panic!("{e}")), &PlanOptions::default())
        .unwrap_or_else(|e| panic!("{e}"))
}

/// The launches of the first entry's body, as family and destination.
fn launches(plan: &ModulePlan) -> Vec<(&'static str, Buffer)> {
    let launch = |s: &Step| match s {
        Step::Launch(l) => Some((plan.kernels[l.kernel].family(), l.args.last().unwrap().buffer)),
        _ => None,
    };
    plan.entries[0].blocks[0].iter().filter_map(launch).collect()
}

#[test]
fn every_case_means_what_the_interpreter_says() {
    let mut problems = vec![];
    for case in CASES {
        for elem in [ElemType::F32, ElemType::I32, ElemType::I1].iter().filter(|e| case.elems.contains(e)) {
            let m = parse(&format!("{DIMS}\nentry @f{}", case.on(*elem)));
            let plan = planned(&m);
            let params = Params::new(&m, &|_, _| None, &|_| {}).unwrap();
            for sizes in case.sizes.iter().map(|s| s.map(|n| n.min(9))) {
                let symbols: Vec<(Symbol, i64)> =
                    ["B", "S", "K"].iter().zip(sizes).map(|(n, v)| (Symbol::new(n).unwrap(), v)).collect();
                let mut inputs = HashMap::new();
                let mut bytes = vec![];
                for (n, arg) in m.regions[m.entries[0].body].args.iter().enumerate() {
                    let ty = m.ty(*arg);
                    let value = |s| symbols.iter().find(|(n, _)| *n == s).map(|(_, v)| *v);
                    let shape: Vec<usize> = ty.dims.iter().map(|d| d.eval(&value).unwrap() as usize).collect();
                    let name = m.name_of(*arg);
                    let count = shape.iter().product::<usize>();
                    let number = |i: usize| (i * 7919 + n * 31) % 97;
                    let tensor = if ty.elem.is_float() {
                        let data = (0..count).map(|i| number(i) as f64 / 32.0 - 1.5).collect();
                        eval::Tensor::floats(ty.elem, shape, data)
                    } else {
                        let modulus = match ty.elem {
                            ElemType::I1 => 2,
                            _ if name.starts_with('i') && case.below > 0 => case.below as usize,
                            _ => 97,
                        };
                        eval::Tensor::ints(ty.elem, shape, (0..count).map(|i| (number(i) % modulus) as i64).collect())
                    };
                    bytes.push(tensor.to_bytes());
                    inputs.insert(name, tensor);
                }
                let expected =
                    eval::run(&m, "f", &inputs, &eval::no_weights).unwrap_or_else(|e| panic!("{}: {e}", case.name));
                let found = simulate::Simulator::run(&m, &plan, 0, symbols, bytes, &params);
                for ((name, expected), bytes) in expected.iter().zip(&found) {
                    let found = eval::Tensor::from_bytes(expected.elem, expected.shape.clone(), bytes).unwrap();
                    let error = found.relative_error(expected);
                    let limit = if expected.elem.is_float() { case.tolerance } else { 0.0 };
                    if error > limit {
                        problems.push(format!("{} on {elem} at {sizes:?}: {name} differs by {error:.1e}", case.name));
                    }
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn heads_of_a_merged_projection_are_read_where_they_are() {
    let case = CASES.iter().find(|c| c.name == "attention_merged").unwrap();
    let m = parse(&format!("{DIMS}\nentry @f{}", case.on(ElemType::F32)));
    assert_eq!(launches(&planned(&m)), [("attention", Buffer::Output(0))]);
}

#[test]
fn pieces_of_a_concatenation_are_written_in_place() {
    let m = parse(
        "dim B = 1..8
         entry @f(%x: f32[B,4], %y: f32[B,6]) -> (z: f32[B,10]) {
           %0 = exp %x : f32[B,4]
           %1 = neg %y : f32[B,6]
           %2 = concat %0, %1 axis=1 : f32[B,10]
           return %2
         }",
    );
    let plan = planned(&m);
    assert_eq!(launches(&plan), [("map", Buffer::Output(0)), ("map", Buffer::Output(0))]);
    assert_eq!(plan.entries[0].arena_bytes.as_constant(), Some(0));
}

#[test]
fn elementwise_chains_run_in_the_memory_of_their_operand() {
    let m = parse(
        "dim B = 1..8
         entry @f(%x: f32[B,16]) -> (z: f32[B]) {
           %0 = exp %x : f32[B,16]
           %1 = neg %0 : f32[B,16]
           %2 = layer_norm %1 axis=1 eps=1e-5 : f32[B,16]
           %3 = tanh %2 : f32[B,16]
           %4 = reduce %3 kind=sum axes=[1] keep=false : f32[B]
           return %4
         }",
    );
    let plan = planned(&m);
    assert_eq!(plan.entries[0].arena_bytes.eval(&[3]).unwrap(), 3 * 16 * 4);
}

#[test]
fn what_is_appended_to_a_state_is_computed_there_and_read_there() {
    let m = parse(
        "dim P = 0..16
         state @k : f32[1,2,P,8] grows=2 capacity=16 lifetime=session
         state @v : f32[1,2,P,8] grows=2 capacity=16 lifetime=session
         entry @f(%q: f32[1,2,1,8], %x: f32[1,2,1,8]) -> (z: f32[1,2,1,8]) {
           %0 = exp %x : f32[1,2,1,8]
           %1 = state.append %0 state=@k : f32[1,2,P + 1,8]
           %2 = neg %x : f32[1,2,1,8]
           %3 = state.append %2 state=@v : f32[1,2,P + 1,8]
           %4 = attention %q, %1, %3 scale=0.35 causal=false layout=bhsd : f32[1,2,1,8]
           return %4
         }",
    );
    let plan = planned(&m);
    let states = [("map", Buffer::State(0)), ("map", Buffer::State(1)), ("attention", Buffer::Output(0))];
    assert_eq!(launches(&plan), states);
    assert_eq!(plan.entries[0].arena_bytes.as_constant(), Some(0));
}

#[test]
fn a_value_that_is_needed_later_keeps_its_memory() {
    let m = parse(
        "entry @f(%x: f32[16]) -> (z: f32[16]) {
           %0 = exp %x : f32[16]
           %1 = neg %0 : f32[16]
           %2 = tanh %1 : f32[16]
           %3 = mul %2, %0 : f32[16]
           return %3
         }",
    );
    assert_eq!(planned(&m).entries[0].arena_bytes.as_constant(), Some(128));
}

#[test]
fn an_input_that_is_an_output_is_copied_and_a_shared_result_is_computed_once() {
    let m = parse(
        "entry @f(%x: f32[16]) -> (a: f32[16], b: f32[16], c: f32[4,4]) {
           %0 = exp %x : f32[16]
           %1 = reshape %0 to=[4,4] : f32[4,4]
           return %x, %0, %1
         }",
    );
    let found = launches(&planned(&m));
    assert_eq!(found, [("map", Buffer::Output(1)), ("map", Buffer::Output(2)), ("map", Buffer::Output(0))]);
}

#[test]
fn all_that_has_no_plan_is_reported_at_once() {
    let m = parse(
        "dim B = 1..8
         state @s : f32[B,4] capacity=4 lifetime=session
         state @t : f32[4] grows=0 capacity=4 lifetime=session
         entry @f(%x: f32[4,4], %n: i32[4,4], %b: f32[B,4]) -> (y: i32[4,4], z: i32[4,4]) {
           %0 = matmul %n, %n : i32[4,4] // decoder.index
           %1 = neg %0 : i32[4,4]
           %2 = matmul %1, %n : i32[4,4]
           return %1, %2
         }",
    );
    let error = plan(kiln_ir::verify(&m).unwrap(), &PlanOptions::default()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "state @s: its size B is not constant, so its memory is not known before a call\n\
         state @t: the axis along which it grows has the size 4, not just a symbol\n\
         matmul: the cpu back end has no product of i32 (from decoder.index)\n\
         matmul: the cpu back end has no product of i32"
    );
}
