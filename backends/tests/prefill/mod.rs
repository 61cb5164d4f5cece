//! Attention of many queries on tensor cores, of all depths. Its sizes are known when it runs, so that every distance is in a
//! register: nothing is spilled.

use crate::{
    emulator,
    harness::{Domain, build_for, limit},
    ptx, text_for,
};
use kiln_backends::plan::PlanOptions;
use kiln_ir::ElemType;
use kiln_kernels::{Level, cuda::Sm};

/// An entry whose queries are `rows` long and heads of keys `shared` by as many of queries.
struct Case {
    name: &'static str,
    elem: &'static str,
    causal: bool,
    mask: Option<&'static str>,
    layout: &'static str,
    kv_heads: i64,
}

const CASES: [Case; 4] = [
    Case { name: "plain", elem: "f16", causal: false, mask: None, layout: "bhsd", kv_heads: 16 },
    Case { name: "causal", elem: "bf16", causal: true, mask: None, layout: "bhsd", kv_heads: 16 },
    Case { name: "masked", elem: "bf16", causal: false, mask: Some("i1[B,1,1,T]"), layout: "bshd", kv_heads: 16 },
    Case { name: "shared", elem: "f16", causal: true, mask: Some("f16[B,1,S,T]"), layout: "bhsd", kv_heads: 4 },
];

impl Case {
    fn entry(&self, depth: i64) -> String {
        let Case { name, elem, causal, mask, layout, kv_heads } = self;
        let shape = |heads: i64, rows: &str| match *layout {
            "bshd" => format!("{elem}[B,{rows},{heads},{depth}]"),
            _ => format!("{elem}[B,{heads},{rows},{depth}]"),
        };
        let (q, kv) = (shape(16, "S"), shape(*kv_heads, "T"));
        let (mask, masked) = mask.map_or_else(Default::default, |m| (format!(", %m: {m}"), "mask=%m "));
        format!(
            " entry @{name}_{depth}(%q: {q}, %k: {kv}, %v: {kv}{mask}) -> (y: {q}) {{
               %0 = attention %q, %k, %v {masked}scale=0.125 causal={causal} layout={layout} : {q} return %0 }}\n"
        )
    }
}

fn check(sm: Sm) {
    let Some(ptxas) = ptx::ptxas() else { return };
    let mut spilled = vec![];
    for (case, depth) in CASES.iter().flat_map(|case| [64, 80, 96, 112, 128].map(|depth| (case, depth))) {
        let dims = "dim B = 0..64\n dim S = 0..65536\n dim T = 0..65536";
        let text = text_for(&format!("module @m stage=legal {{ {dims}\n{} }}", case.entry(depth)), sm);
        let usages = ptx::assemble(ptxas, sm, text.as_bytes());
        assert_eq!(usages.len(), 1);
        for u in usages {
            println!("{} {depth}: {} registers, {} spilled", case.name, u.registers, u.spilled);
            if u.spilled > 0 || u.stack > 0 {
                spilled.push((case.name, depth, u));
            }
        }
    }
    assert!(spilled.is_empty(), "{spilled:#?}");
}

#[test]
fn attention_over_sizes_that_are_not_known_spills_nothing_on_sm_80() {
    check(Sm::Sm80);
}

#[test]
fn attention_over_sizes_that_are_not_known_spills_nothing_on_sm_90a() {
    check(Sm::Sm90a);
}

/// Rows in shared memory of other than a power of two chunks, of two to twenty, and results that are stored sixteen bytes at a
/// time, four bytes at a time and one by one.
#[test]
fn attention_of_odd_depths() {
    let entries = "
      entry @narrow(%q: bf16[B,2,S,80], %k: bf16[B,1,K,80], %v: bf16[B,1,K,48]) -> (z: bf16[B,2,S,48]) {
        %0 = attention %q, %k, %v scale=0.125 causal=true layout=bhsd : bf16[B,2,S,48]
        return %0 }
      entry @wide(%q: bf16[B,2,S,48], %k: bf16[B,2,K,48], %v: bf16[B,2,K,160]) -> (z: bf16[B,2,S,160]) {
        %0 = attention %q, %k, %v scale=0.125 causal=false layout=bhsd : bf16[B,2,S,160]
        return %0 }
      entry @rows(%q: bf16[B,S,1,16], %k: bf16[B,K,1,16], %v: bf16[B,K,1,112]) -> (z: bf16[B,S,1,112]) {
        %0 = attention %q, %k, %v scale=0.125 causal=false layout=bshd : bf16[B,S,1,112]
        return %0 }";
    let module = format!("module @m stage=legal {{ dim B = 0..64\n dim S = 0..4096\n dim K = 0..4096\n {entries} }}");
    let built = build_for(&module, &PlanOptions::default(), vec![Level::Cuda(Sm::Sm80)], Some(emulator::driver()));
    let tolerance = |_: &str| limit(ElemType::BF16, 1e-5);
    let mut problems = vec![];
    for name in ["narrow", "wide", "rows"] {
        for [b, s, k] in [[1, 67, 130], [2, 3, 64]] {
            problems.extend(built.check(name, &[("B", b), ("S", s), ("K", k)], &|_| Domain::Any, &tolerance));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
