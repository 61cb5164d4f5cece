//! Loops as kernels: which ones run on tiles of rows, which ones stay steps of the plan, and what they say when they fail.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part of the shared modules")]

#[path = "conformance/harness.rs"]
mod harness;

use harness::{Built, Domain, build, tensor};
use kiln_backends::plan::{ModulePlan, PlanOptions, Step, plan};
use kiln_ir::{ElemType, eval};
use kiln_kernels::{KernelSpec, region};
use std::collections::HashMap;

fn module(text: &str) -> String {
    format!("module @m stage=legal {{\ndim B = 1..512\ndim S = 1..64\n{text}\n}}")
}

fn planned(text: &str) -> ModulePlan {
    planned_for(text, false)
}

fn planned_for(text: &str, gpu: bool) -> ModulePlan {
    let m = kiln_ir::parse(&module(text)).unwrap_or_else(|e| panic!("{e}"));
    let options = PlanOptions { gpu, ..PlanOptions::default() };
    plan(kiln_ir::verify(&m).unwrap_or_else(|e| panic!("{e}")), &options).unwrap_or_else(|e| panic!("{e}"))
}

/// The loops that are kernels.
fn regions(plan: &ModulePlan) -> Vec<&region::Spec> {
    plan.kernels.iter().filter_map(|k| if let KernelSpec::Region(spec) = k { Some(spec) } else { None }).collect()
}

/// A `for` over `f32[B,8]` whose body computes `%n` from `%c`.
fn looped(inputs: &str, body: &str) -> String {
    format!(
        "entry @f(%x: f32[B,8], %i: i64[]{inputs}) -> (y: f32[B,8]) {{
           %0 = for %i, %x body(%t: i64[], %c: f32[B,8]) {{
             {body}
             yield %n
           }} : f32[B,8]
           return %0
         }}"
    )
}

#[test]
fn rows_that_stay_apart_run_in_tiles() {
    let bodies = [
        ("", "%n = tanh %c : f32[B,8]"),
        (", %u: f32[B,8]", "%n = mul %c, %u : f32[B,8]"),
        (", %u: f32[8]", "%n = mul %c, %u : f32[B,8]"),
        (", %w: f32[8,8]", "%n = linear %c, %w : f32[B,8]"),
        (", %u: f32[B,S,8]", "%1 = reduce %u kind=max axes=[1] keep=false : f32[B,8]\n%n = add %1, %c : f32[B,8]"),
        ("", "%1 = iota to=[B,8] axis=1 elem=f32 : f32[B,8]\n%n = add %1, %c : f32[B,8]"),
        (", %u: f32[9,8], %k: i64[B]", "%1 = gather %u, %k axis=0 : f32[B,8]\n%n = add %1, %c : f32[B,8]"),
        (", %u: f32[B,S,8], %k: i64[B]", "%1 = gather %u, %k axis=1 batch=1 : f32[B,8]\n%n = add %1, %c : f32[B,8]"),
        (
            "",
            "%1 = reshape %c to=[B,2,4] : f32[B,2,4]\n%2 = transpose %1 perm=[0,2,1] : f32[B,4,2]\n%n = reshape %2 to=[B,8] : f32[B,8]",
        ),
    ];
    for (inputs, body) in bodies {
        let plan = planned(&looped(inputs, body));
        let [spec] = regions(&plan)[..] else { panic!("{body}") };
        assert!(spec.tiles.is_some(), "{body}");
        assert_eq!(plan.entries[0].blocks.iter().map(Vec::len).sum::<usize>(), 1, "{body}");
    }
}

#[test]
fn a_weight_with_as_many_rows_as_the_batch_has_none() {
    let plan = planned(
        "weights %%0 = \"w\"
         param %w : f32[64,64] = %%0 \"w\"
         entry @f(%x: f32[64,64], %i: i64[]) -> (y: f32[64,64]) {
           %1 = transpose %w perm=[1,0] : f32[64,64]
           %0 = for %i, %x body(%t: i64[], %c: f32[64,64]) {
             %2 = linear %c, %1 : f32[64,64]
             yield %2
           } : f32[64,64]
           return %0
         }",
    );
    let [spec] = regions(&plan)[..] else { panic!("one loop") };
    assert_eq!(spec.tiles.as_ref().map(|t| t.rows.clone()), Some(64.into()));
}

#[test]
fn rows_that_meet_are_one_task() {
    let bodies = [
        ("", "%1 = reduce %c kind=max axes=[0] keep=true : f32[1,8]\n%n = sub %c, %1 : f32[B,8]"),
        ("", "%n = softmax %c axis=0 : f32[B,8]"),
        ("", "%1 = iota to=[B,8] axis=0 elem=f32 : f32[B,8]\n%n = add %1, %c : f32[B,8]"),
        (", %k: i64[B]", "%n = gather %c, %k axis=0 : f32[B,8]"),
        ("", "%1 = transpose %c perm=[1,0] : f32[8,B]\n%2 = matmul %c, %1 : f32[B,B]\n%n = matmul %2, %c : f32[B,8]"),
        ("", "%1 = slice %c axis=0 start=0 end=1 : f32[1,8]\n%n = add %1, %c : f32[B,8]"),
    ];
    for (inputs, body) in bodies {
        let plan = planned(&looped(inputs, body));
        let [spec] = regions(&plan)[..] else { panic!("{body}") };
        assert!(spec.tiles.is_none(), "{body}");
    }
}

#[test]
fn heavy_steps_whose_rows_meet_are_launches() {
    let body = "%1 = linear %c, %w : f32[S,4096]
                %2 = linear %1, %v : f32[S,1024]
                %3 = reduce %2 kind=mean axes=[0] keep=true : f32[1,1024]
                %n = sub %2, %3 : f32[S,1024]";
    let text = format!(
        "entry @f(%x: f32[S,1024], %i: i64[], %w: f32[1024,4096], %v: f32[4096,1024]) -> (y: f32[S,1024]) {{
           %0 = for %i, %x body(%t: i64[], %c: f32[S,1024]) {{ {body} yield %n }} : f32[S,1024]
           return %0
         }}"
    );
    let plan = planned(&text);
    assert!(regions(&plan).is_empty());
    assert!(plan.entries[0].blocks.iter().flatten().any(|s| matches!(s, Step::For { .. })));
}

#[test]
fn steps_that_would_keep_one_multiprocessor_busy_are_launches_for_a_gpu() {
    let text = "dim N = 1..4096
        entry @f(%x: f32[N,N], %i: i64[]) -> (y: f32[N,N]) {
           %0 = for %i, %x body(%t: i64[], %c: f32[N,N]) { %1 = matmul %c, %c : f32[N,N] yield %1 } : f32[N,N]
           return %0
         }";
    assert_eq!(regions(&planned(text)).len(), 1);
    let plan = planned_for(text, true);
    assert!(regions(&plan).is_empty());
    assert!(plan.entries[0].blocks.iter().flatten().any(|s| matches!(s, Step::For { .. })));
}

/// A scan over `x` of an LSTM whose state starts with a literal or with inputs.
fn recurrence(lengths: &str, start: &str, reverse: &str) -> String {
    format!(
        "weights %%0 = \"w\"
         param %w : f32[20,80] = %%0 \"w\"
         entry @f(%x: f32[B,S,80], %n: i64[B], %h: f32[B,20]) -> (y: f32[B,20], c: f32[B,20], all: f32[B,S,20]) {{
           {start}
           %2, %3, %4 = scan %x, %1, %h {lengths} inputs=1 axis=1 {reverse} body(%g: f32[B,80], %a: f32[B,20], %b: f32[B,20]) {{
             %5, %6 = lstm_cell %g, %a, %b, %w : f32[B,20], f32[B,20]
             yield %5, %6, %5
           }} : f32[B,20], f32[B,20], f32[B,S,20]
           return %2, %3, %4
         }}"
    )
}

/// The calls of a region that another kernel takes the place of in the first step.
fn at_first(steps: &[region::Step]) -> usize {
    let of = |step: &region::Step| match step {
        region::Step::Call { first, .. } => usize::from(first.is_some()),
        region::Step::If { then, otherwise, .. } => at_first(then) + at_first(otherwise),
        region::Step::Loop(l) => at_first(&l.body),
    };
    steps.iter().map(of).sum()
}

#[test]
fn a_state_that_starts_with_zeros_is_not_multiplied_at_first() {
    let zeros = "%1 = broadcast 0.0 to=[B,20] : f32[B,20]";
    let starts = [(zeros, 1), ("%1 = broadcast 1.0 to=[B,20] : f32[B,20]", 0), ("%1 = tanh %h : f32[B,20]", 0)];
    for (start, expected) in starts {
        let plan = planned(&recurrence("", start, ""));
        let [spec] = regions(&plan)[..] else { panic!("{start}") };
        assert_eq!(at_first(&spec.steps), expected, "{start}");
    }
    for (lengths, reverse) in [("", ""), ("", "reverse=true"), ("lengths=%n", ""), ("lengths=%n", "reverse=true")] {
        let built = build(&module(&recurrence(lengths, zeros, reverse)), &PlanOptions::default());
        for sizes in [[("B", 1), ("S", 1)], [("B", 1), ("S", 3)], [("B", 31), ("S", 4)]] {
            let domain = |name: &str| if name == "n" { Domain::Below(5) } else { Domain::Any };
            let problems = built.check("f", &sizes, &domain, &|_| 1e-5);
            assert!(problems.is_empty(), "{lengths} {reverse}: {}", problems.join("\n"));
        }
    }
}

/// The error of an entry on inputs of these integers and floats of ones.
fn failure(built: &Built, sizes: &[(&str, i64)], ints: i64) -> String {
    let m = &built.module;
    let value = |s: kiln_ir::Symbol| sizes.iter().find(|(n, _)| *n == s.name()).map(|(_, v)| *v);
    let mut inputs = HashMap::new();
    for arg in &m.regions[m.entries[0].body].args {
        let ty = m.ty(*arg);
        let shape: Vec<usize> = ty.dims.iter().map(|d| d.eval(&value).unwrap() as usize).collect();
        let n = shape.iter().product();
        let data = match ty.elem {
            ElemType::I64 => eval::Tensor::ints(ty.elem, shape, vec![ints; n]),
            elem => tensor(&mut harness::Random(3), elem, &shape, Domain::Any),
        };
        inputs.insert(m.name_of(*arg), data);
    }
    let results: Vec<_> = [1, 3].iter().map(|t| built.run("f", harness::levels()[0], *t, &inputs)).collect();
    assert_eq!(results[0], results[1]);
    results[0].clone().unwrap_err()
}

#[test]
fn a_loop_beyond_its_bound_says_which_one_and_its_bound() {
    let whole = "entry @f(%x: f32[S], %i: i64[]) -> (y: f32[S]) {
       %0, %1 = while %i, %x max=S + 2 condition(%n: i64[], %c: f32[S]) {
         %2 = compare %n, 0 dir=gt : i1[]
         yield %2
       } body(%m: i64[], %d: f32[S]) {
         %3 = sub %m, 1 : i64[]
         yield %3, %d
       } : i64[], f32[S] // decoder
       return %1
     }";
    let built = build(&module(whole), &PlanOptions::default());
    let text = failure(&built, &[("S", 5)], 8);
    assert!(text.contains("while decoder") && text.contains("more than the 7 times"), "{text}");
    let rows = "entry @f(%x: f32[B], %i: i64[B]) -> (y: f32[B]) {
       %0, %1 = while %i, %x max=4 condition(%n: i64[B], %c: f32[B]) {
         %2 = compare %n, 0 dir=gt : i1[B]
         yield %2
       } body(%m: i64[B], %d: f32[B]) {
         %3 = sub %m, 1 : i64[B]
         yield %3, %d
       } : i64[B], f32[B]
       return %1
     }";
    let built = build(&module(rows), &PlanOptions::default());
    let text = failure(&built, &[("B", 40)], 5);
    assert!(text.contains("while") && text.contains("more than the 4 times"), "{text}");
}

#[test]
fn an_index_out_of_range_in_a_loop_is_an_error() {
    let text = looped(
        ", %u: f32[B,S,8], %k: i64[B]",
        "%1 = gather %u, %k axis=1 batch=1 : f32[B,8]\n%n = add %1, %c : f32[B,8]",
    );
    let text = failure(&build(&module(&text), &PlanOptions::default()), &[("B", 40), ("S", 6)], 6);
    assert!(text.starts_with("for") && text.contains("input k[") && text.contains("] is 6"), "{text}");
    assert!(text.contains("from 0 to 5"), "{text}");
}
