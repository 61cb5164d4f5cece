//! Cells and loops on GPUs, run by the emulated driver: what they compute, that rows leave a tile, and what they say when they
//! fail.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part of the shared modules")]

mod emulator;
#[path = "conformance/harness.rs"]
mod harness;
mod ptx;

use harness::{Built, Domain, Random, build_for, limit, tensor};
use kiln_backends::plan::PlanOptions;
use kiln_ir::{ElemType, eval};
use kiln_kernels::{Level, cuda::Sm};
use kiln_runtime::format::SectionKind;
use std::collections::HashMap;

fn built(text: &str) -> Built {
    let text = format!("module @m stage=legal {{\ndim B = 0..512\ndim S = 1..64\nweights %%0 = \"w\"\n{text}\n}}");
    let built = build_for(&text, &PlanOptions::default(), vec![Level::Cuda(Sm::Sm80)], Some(emulator::driver()));
    if let Some(ptxas) = ptx::ptxas() {
        let section = built.artifact.sections().iter().find(|s| s.kind == SectionKind::Code).unwrap();
        for usage in ptx::assemble(ptxas, Sm::Sm80, &built.bytes[section.offset as usize..][..section.len as usize]) {
            assert_eq!((usage.spilled, usage.stack), (0, 0), "{usage:?}");
        }
    }
    built
}

/// Checks entry `f` for these numbers of rows and steps; `n` are lengths of rows.
fn check(text: &str, elem: ElemType, sizes: &[[i64; 2]]) {
    let built = built(text);
    let domain = |name: &str| match name {
        "n" => Domain::Below(7),
        "m" => Domain::Below(90),
        _ => Domain::Any,
    };
    for [b, s] in sizes {
        let problems = built.check("f", &[("B", *b), ("S", *s)], &domain, &|_| limit(elem, 2e-5));
        assert!(problems.is_empty(), "{}\n{text}", problems.join("\n"));
    }
}

/// A single step, with many and few rows and units that do and do not fill a panel.
#[test]
fn cells_step_once() {
    let cases = [
        (ElemType::F32, 16, "B"),
        (ElemType::F32, 37, "B"),
        (ElemType::F64, 20, "B"),
        (ElemType::F16, 20, "3"),
        (ElemType::BF16, 33, "2"),
        (ElemType::F32, 128, "1"),
    ];
    for (elem, hidden, rows) in cases {
        let e = elem.name();
        let (four, three) = (4 * hidden, 3 * hidden);
        let text = format!(
            "param %w : {e}[{hidden},{four}] = %%0 \"w\"
             param %u : {e}[{hidden},{three}] = %%0 \"u\"
             param %b : {e}[{three}] = %%0 \"b\"
             entry @f(%g: {e}[{rows},{four}], %q: {e}[{rows},{three}], %h: {e}[{rows},{hidden}], %c: {e}[{rows},{hidden}])
                 -> (h: {e}[{rows},{hidden}], c: {e}[{rows},{hidden}], d: {e}[{rows},{hidden}], k: {e}[{rows},{hidden}]) {{
               %0, %1 = lstm_cell %g, %h, %c, %w : {e}[{rows},{hidden}], {e}[{rows},{hidden}]
               %2 = gru_cell %q, %h, %u bias=%b : {e}[{rows},{hidden}]
               %3 = gru_cell %q, %h, %u : {e}[{rows},{hidden}]
               return %0, %1, %2, %3
             }}"
        );
        let few = [[1, 1]];
        check(&text, elem, if rows == "B" { &[[1, 1], [6, 1], [0, 1]] } else { &few });
    }
}

/// A scan over `x` of an LSTM whose state starts with zeros, and of a product.
fn recurrence(lengths: &str, reverse: &str) -> String {
    format!(
        "param %w : f32[20,80] = %%0 \"w\"
         param %u : f32[20,18] = %%0 \"u\"
         entry @f(%x: f32[B,S,80], %n: i64[B]) -> (y: f32[B,20], c: f32[B,20], all: f32[B,S,18]) {{
           %1 = broadcast 0.0 to=[B,20] : f32[B,20]
           %2, %3, %4 = scan %x, %1, %1 {lengths} inputs=1 axis=1 {reverse} body(%g: f32[B,80], %a: f32[B,20], %b: f32[B,20]) {{
             %5, %6 = lstm_cell %g, %a, %b, %w : f32[B,20], f32[B,20]
             %7 = linear %5, %u : f32[B,18]
             %8 = softmax %7 axis=1 : f32[B,18]
             yield %5, %6, %8
           }} : f32[B,20], f32[B,20], f32[B,S,18]
           return %2, %3, %4
         }}"
    )
}

#[test]
fn a_recurrence_runs_in_a_block() {
    for (lengths, reverse) in [("", ""), ("lengths=%n", ""), ("lengths=%n", "reverse=true")] {
        check(&recurrence(lengths, reverse), ElemType::F32, &[[1, 3], [3, 4]]);
    }
}

/// Tiles of three rows, of which the last has less: rows that are done leave, and the last takes their place.
#[test]
fn rows_that_are_done_leave_the_tile() {
    let rows = 131;
    let text = "entry @f(%x: f32[B,S], %n: i64[B]) -> (m: i64[B], y: f32[B,S], z: f32[B]) {
       %0, %1 = while %n, %x max=S + 20 condition(%k: i64[B], %c: f32[B,S]) {
         %2 = compare %k, 0 dir=gt : i1[B]
         yield %2
       } body(%m: i64[B], %d: f32[B,S]) {
         %3 = sub %m, 1 : i64[B]
         %4 = add %d, %x : f32[B,S]
         yield %3, %4
       } : i64[B], f32[B,S]
       %6 = reduce %1 kind=sum axes=[1] keep=false : f32[B]
       return %0, %1, %6
     }";
    check(text, ElemType::F32, &[[rows, 3]]);
    let scan = "entry @f(%x: f32[B,S,3], %h: f32[B,3], %n: i64[B]) -> (h: f32[B,3], y: f32[B,S,3]) {
       %0, %1 = scan %x, %h lengths=%n inputs=1 axis=1 reverse=true body(%a: f32[B,3], %c: f32[B,3]) {
         %2 = mul %a, %h : f32[B,3]
         %3 = add %2, %c : f32[B,3]
         %4 = tanh %3 : f32[B,3]
         yield %4, %3
       } : f32[B,3], f32[B,S,3]
       return %0, %1
     }";
    check(scan, ElemType::F32, &[[rows, 5]]);
}

/// Products of few rows inside of a loop: of packed weights, whose panels are few or many, of vectors, and of columns.
#[test]
fn few_rows_are_multiplied_by_all_threads() {
    for (elem, wide) in [(ElemType::F32, 150), (ElemType::F16, 40), (ElemType::F64, 24)] {
        let e = elem.name();
        let text = format!(
            "param %w : {e}[70,{wide}] = %%0 \"w\"
             param %v : {e}[70,2] = %%0 \"v\"
             entry @f(%x: {e}[B,70], %k: {e}[B,S,70], %p: {e}[B,1,S], %i: i64[2])
                 -> (x: {e}[B,70], y: {e}[2,B,{wide}], z: {e}[2,B,2], q: {e}[2,B,S], r: {e}[2,B,70]) {{
               %0, %1, %2, %3, %4 = scan %i, %x inputs=1 axis=0 body(%t: i64[], %c: {e}[B,70]) {{
                 %5 = linear %c, %w : {e}[B,{wide}]
                 %6 = linear %c, %v : {e}[B,2]
                 %7 = reshape %c to=[B,1,70] : {e}[B,1,70]
                 %8 = transpose %k perm=[0,2,1] : {e}[B,70,S]
                 %9 = matmul %7, %8 : {e}[B,1,S]
                 %10 = reshape %9 to=[B,S] : {e}[B,S]
                 %11 = matmul %p, %k : {e}[B,1,70]
                 %12 = reshape %11 to=[B,70] : {e}[B,70]
                 yield %c, %5, %6, %10, %12
               }} : {e}[B,70], {e}[2,B,{wide}], {e}[2,B,2], {e}[2,B,S], {e}[2,B,70]
               return %0, %1, %2, %3, %4
             }}"
        );
        check(&text, elem, &[[1, 3], [2, 5]]);
    }
    // The same launched by itself.
    let text = "param %w : f32[300,150] = %%0 \"w\"
      param %v : f32[300,1] = %%0 \"v\"
      entry @f(%x: f32[3,300], %k: f32[2,1,300], %q: f32[2,6,300], %l: f32[2,5,300])
          -> (a: f32[3,150], b: f32[2,1,6], c: f32[2,5,1]) {
        %0 = linear %x, %w : f32[3,150]
        %1 = transpose %q perm=[0,2,1] : f32[2,300,6]
        %2 = matmul %k, %1 : f32[2,1,6]
        %3 = linear %l, %v : f32[2,5,1]
        return %0, %2, %3
      }";
    check(text, ElemType::F32, &[[1, 1]]);
}

/// Attention on tensor cores has half of the block's threads, which meet without the others.
#[test]
fn a_part_of_the_block_does_what_it_was_made_for() {
    let text = "entry @f(%q: f16[B,1,2,16], %k: f16[B,1,S,16], %i: i64[2]) -> (y: f16[B,1,2,16]) {
       %0, %1 = scan %i, %q inputs=1 axis=0 body(%t: i64[], %c: f16[B,1,2,16]) {
         %2 = attention %c, %k, %k scale=0.25 causal=false layout=bhsd : f16[B,1,2,16]
         yield %2, %t
       } : f16[B,1,2,16], i64[2]
       return %0
     }";
    check(text, ElemType::F16, &[[1, 5]]);
    // A kernel whose blocks otherwise share tasks is left with all of them.
    for (elem, splits) in [(ElemType::F32, ""), (ElemType::F16, "splits=3")] {
        let text = "entry @f(%q: T[B,2,1,64], %k: T[B,1,90,64], %m: i64[B], %i: i64[2]) -> (y: T[B,2,1,64]) {
           %0, %1 = scan %i, %q inputs=1 axis=0 body(%t: i64[], %c: T[B,2,1,64]) {
             %2 = decode_attention %c, %k, %k, %m scale=0.125 SPLITS : T[B,2,1,64]
             yield %2, %t
           } : T[B,2,1,64], i64[2]
           return %0
         }";
        let text = text.replace("T[", &format!("{}[", elem.name())).replace("SPLITS", splits);
        check(&text, elem, &[[2, 1]]);
    }
}

/// What an entry says of integers `int` and floats of any kind.
fn failure(text: &str, sizes: &[(&str, i64)], int: i64) -> String {
    let built = built(text);
    let m = &built.module;
    let value = |s: kiln_ir::Symbol| sizes.iter().find(|(n, _)| *n == s.name()).map(|(_, v)| *v);
    let mut inputs = HashMap::new();
    for arg in &m.regions[m.entries[0].body].args {
        let ty = m.ty(*arg);
        let shape: Vec<usize> = ty.dims.iter().map(|d| d.eval(&value).unwrap() as usize).collect();
        let n = shape.iter().product();
        let data = match ty.elem {
            ElemType::I64 => eval::Tensor::ints(ty.elem, shape, vec![int; n]),
            elem => tensor(&mut Random(3), elem, &shape, Domain::Any),
        };
        inputs.insert(m.name_of(*arg), data);
    }
    built.run("f", built.levels[0], 1, &inputs).unwrap_err()
}

#[test]
fn a_loop_beyond_its_bound_says_which_one_and_its_bound() {
    let text = "entry @f(%x: f32[B], %i: i64[B]) -> (y: f32[B]) {
       %0, %1 = while %i, %x max=4 condition(%n: i64[B], %c: f32[B]) {
         %2 = compare %n, 0 dir=gt : i1[B]
         yield %2
       } body(%m: i64[B], %d: f32[B]) {
         %3 = sub %m, 1 : i64[B]
         yield %3, %d
       } : i64[B], f32[B] // decoder
       return %1
     }";
    let text = failure(text, &[("B", 70)], 5);
    assert!(text.contains("while decoder") && text.contains("more than the 4 times"), "{text}");
}

#[test]
fn an_index_out_of_range_in_a_loop_is_an_error() {
    let text = "entry @f(%x: f32[B,8], %i: i64[], %u: f32[B,S,8], %k: i64[B]) -> (y: f32[B,8]) {
       %0 = for %i, %x body(%t: i64[], %c: f32[B,8]) {
         %1 = gather %u, %k axis=1 batch=1 : f32[B,8]
         %n = add %1, %c : f32[B,8]
         yield %n
       } : f32[B,8]
       return %0
     }";
    let text = failure(text, &[("B", 3), ("S", 6)], 6);
    assert!(text.starts_with("for") && text.contains("index"), "{text}");
}
