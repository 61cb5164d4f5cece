//! What the PTX of a kernel of each kind with code of its own is made of: what it takes, its memory, and how many
//! instructions of which kind its hot loop has. A snapshot shows a reviewer what a change does to them.

use crate::{hopper::flow, loops, make, text_for};
use kiln_kernels::cuda::Sm;
use std::{borrow::Cow, collections::BTreeMap, fmt::Write};

/// Kinds of instructions and how their names begin; the first that fits counts.
const KINDS: &[(&str, &[&str])] = &[
    ("tensor cores", &["mma.", "ldmatrix.", "wgmma."]),
    ("copies to shared memory", &["cp.async"]),
    ("shared memory", &["ld.shared", "st.shared"]),
    ("global memory", &["ld.global", "st.global", "ld.param", "ld.v", "st.v", "ld.b", "st.b", "ld.u", "st.u", "ld.f"]),
    ("local memory", &["ld.local", "st.local"]),
    ("between threads", &["shfl.", "bar.", "barrier.", "mbarrier.", "vote.", "redux.", "atom.", "red."]),
    ("functions", &["ex2.", "lg2.", "rcp.", "rsqrt.", "sqrt.", "sin.", "cos.", "tanh.", "div.rn", "div.full"]),
];

/// Types of floats; arithmetic on anything else is of addresses and indices, conditions and bits.
const FLOATS: &[&str] = &["f16", "f16x2", "bf16", "bf16x2", "f32", "f64"];

/// The kind of an instruction, and its name without what says nothing here.
fn kind(op: &str) -> (&'static str, &str) {
    match KINDS.iter().find(|(_, starts)| starts.iter().any(|start| op.starts_with(start))) {
        Some((kind, _)) => (kind, op),
        None if op.starts_with("bra") || op.starts_with("ret") => ("branches", ""),
        None if op.starts_with("cvt.") => ("conversions", op),
        None if !["mov", "set", "selp"].iter().any(|start| op.starts_with(start))
            && op.rsplit('.').any(|p| FLOATS.contains(&p)) =>
        {
            ("floats", op)
        }
        None => ("integers, conditions and moves", ""),
    }
}

/// The names of the instructions of PTX text. One may have several lines.
fn instructions(text: &str) -> Vec<String> {
    let lines = text.lines().map(|l| l.split_once("//").map_or(l, |(code, _)| code).trim());
    let lines = lines.filter(|l| !l.starts_with('.') && !l.ends_with(':'));
    let code = lines.collect::<Vec<_>>().join(" ");
    let mut statements: Vec<&str> = code.split(';').collect();
    statements.pop();
    let name = |statement: &str| {
        let mut words = statement.split_whitespace().filter(|w| !["{", "}"].contains(w));
        let first = words.next().unwrap_or("");
        let name = if first.starts_with('@') { words.next().unwrap_or("") } else { first };
        name.trim_start_matches('{').to_owned()
    };
    statements.into_iter().map(name).filter(|name| !name.is_empty() && !name.starts_with('.')).collect()
}

/// The bytes of what is declared in a space, as in `.shared .align 16 .b8 tile[4096];`.
fn bytes(text: &str, space: &str) -> usize {
    let declared = text.lines().map(str::trim).filter(|l| l.starts_with(space));
    declared.filter_map(|l| l.split_once('[')?.1.split_once(']')?.0.parse::<usize>().ok()).sum()
}

/// The loop with products of warp groups, or else the innermost loop with the most instructions, of those that copy to
/// shared memory or else of those that read memory, or else all of the kernel.
fn hot(kernel: &str) -> (&'static str, Cow<'_, str>) {
    if let Some(body) = flow::round(kernel, "wgmma.mma_async") {
        return ("hot loop", body.into());
    }
    let all = loops(kernel);
    let within = |inner: &str, outer: &str| {
        let start = (inner.as_ptr() as usize).checked_sub(outer.as_ptr() as usize);
        inner.len() < outer.len() && start.is_some_and(|start| start < outer.len())
    };
    let innermost = all.iter().filter(|body| !all.iter().any(|other| within(other, body)));
    innermost
        .filter(|body| body.contains("ld.") || body.contains("ldmatrix."))
        .max_by_key(|body| (body.contains("cp.async.cg"), instructions(body).len()))
        .map_or(("no loop", kernel.into()), |body| ("hot loop", (*body).into()))
}

fn digest(text: &str) -> String {
    let mut out = String::new();
    for kernel in text.split(".visible .entry ").skip(1) {
        let (name, rest) = kernel.split_once('(').unwrap();
        let family = name.rsplit_once('_').map_or(name, |(family, _)| family);
        let params = rest.split_once(')').unwrap().0;
        let params: Vec<&str> =
            params.lines().filter_map(|l| l.trim().strip_prefix(".param .")?.split(' ').next()).collect();
        let body = rest.find("\n}").map_or(rest, |end| &rest[..end]);
        writeln!(out, "entry {family}({})", params.join(", ")).unwrap();
        for directive in
            body.lines().filter(|l| [".maxntid", ".minnctapersm", ".reqntid"].iter().any(|d| l.starts_with(d)))
        {
            writeln!(out, "  {directive}").unwrap();
        }
        // Of the whole module: it has one kernel, or the sums are those of all.
        writeln!(out, "  shared {} bytes, local {} bytes", bytes(text, ".shared"), bytes(body, ".local")).unwrap();
        let (what, body) = hot(body);
        let mut counts: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
        let all = instructions(&body);
        for op in &all {
            let (kind, name) = kind(op);
            *counts.entry(kind).or_default().entry(name).or_default() += 1;
        }
        writeln!(out, "  {what}: {} instructions", all.len()).unwrap();
        for (kind, ops) in counts {
            writeln!(out, "    {kind}: {}", ops.values().sum::<usize>()).unwrap();
            for (op, count) in ops.iter().filter(|(op, _)| !op.is_empty()) {
                writeln!(out, "      {count:>4} {op}").unwrap();
            }
        }
    }
    out
}

/// A test for a module of one entry: its inputs, its result, and what makes that.
macro_rules! digests {
    ($sm:ident; $($name:ident: $inputs:literal, $result:literal, $op:literal;)*) => {$(
        #[test]
        fn $name() {
            let (inputs, result, op) = ($inputs, $result, $op);
            let entry = format!("entry @f({inputs}) -> (z: {result}) {{ %0 = {op} : {result} return %0 }}");
            let text = text_for(&format!("module @m stage=legal {{ dim B = 0..1000000\n {entry} }}"), Sm::$sm);
            let mut settings = insta::Settings::clone_current();
            settings.set_omit_expression(true);
            settings.bind(|| insta::assert_snapshot!(digest(&text)));
        }
    )*};
}

/// A circuit of so many variables that is asked for the evidence of rows of f64: dense, sparse, or deterministic.
macro_rules! circuits {
    ($($name:ident: $variables:literal, $circuit:expr;)*) => {$(
        #[test]
        fn $name() {
            let text = text_for(&make::module(&$circuit, $variables, "f64", "f64", "evidence", "f64[B]"), Sm::Sm80);
            let mut settings = insta::Settings::clone_current();
            settings.set_omit_expression(true);
            settings.bind(|| insta::assert_snapshot!(digest(&text)));
        }
    )*};
}

circuits! {
    evidence_of_a_dense_circuit: 9, make::DENSE.circuit(5);
    evidence_of_a_sparse_circuit: 14, make::LONG.circuit(5);
    evidence_of_a_deterministic_circuit: 40, make::deterministic(40);
}

digests! {
    Sm80;
    product_on_tensor_cores: "%x: f16[1024,512], %y: f16[512,1024]", "f16[1024,1024]", "matmul %x, %y";
    product_by_multiply_adds: "%x: f32[2048,512], %y: f32[512,2048]", "f32[2048,2048]", "matmul %x, %y";
    softmax_of_rows: "%x: f32[B,512]", "f32[B,512]", "softmax %x axis=1";
    sum_along_rows: "%x: f32[B,512]", "f32[B]", "reduce %x kind=sum axes=[1] keep=false";
    sum_across_rows: "%x: f32[B,512]", "f32[512]", "reduce %x kind=sum axes=[0] keep=false";
    lookup_of_rows: "%x: f32[1000,64], %i: i64[B]", "f32[B,64]", "gather %x, %i axis=0";
    sum_of_two: "%x: f32[B,64], %y: f32[B,64]", "f32[B,64]", "add %x, %y";
    attention_on_tensor_cores: "%q: f16[B,2,256,64], %k: f16[B,2,256,64], %v: f16[B,2,256,64]", "f16[B,2,256,64]",
        "attention %q, %k, %v scale=0.125 causal=true layout=bhsd";
    attention_by_multiply_adds: "%q: f32[B,2,256,64], %k: f32[B,2,256,64], %v: f32[B,2,256,64]", "f32[B,2,256,64]",
        "attention %q, %k, %v scale=0.125 causal=true layout=bhsd";
    decode_attention_on_tensor_cores: "%q: bf16[B,32,1,128], %k: bf16[B,8,65536,128], %v: bf16[B,8,65536,128], %n: i64[B]",
        "bf16[B,32,1,128]", "decode_attention %q, %k, %v, %n scale=0.088";
    decode_attention_by_multiply_adds: "%q: f32[B,32,1,128], %k: f32[B,8,65536,128], %v: f32[B,8,65536,128], %n: i64[B]",
        "f32[B,32,1,128]", "decode_attention %q, %k, %v, %n scale=0.088";
}

digests! {
    Sm90a;
    attention_of_warp_groups: "%q: bf16[B,2,8192,128], %k: bf16[B,2,8192,128], %v: bf16[B,2,8192,128]",
        "bf16[B,2,8192,128]", "attention %q, %k, %v scale=0.088 causal=true layout=bhsd";
    product_of_warp_groups: "%x: bf16[4096,4096], %y: bf16[4096,4096]", "bf16[4096,4096]", "matmul %x, %y";
}

/// An LSTM of 128 units: one step, or a loop over a sequence.
fn recurrence(body: &str) -> String {
    crate::text_of(&format!(
        "module @m stage=legal {{ dim B = 0..1000000 weights %%0 = \"w\" param %w : f32[128,512] = %%0 \"w\" {body} }}"
    ))
}

const STEP: &str = "entry @f(%g: f32[B,512], %h: f32[B,128], %c: f32[B,128]) -> (h: f32[B,128], c: f32[B,128]) {
    %0, %1 = lstm_cell %g, %h, %c, %w : f32[B,128], f32[B,128]
    return %0, %1 }";

const LOOP: &str = "entry @f(%x: f32[B,10,512], %n: i64[B], %h: f32[B,128]) -> (h: f32[B,128], c: f32[B,128]) {
    %0, %1 = scan %x, %h, %h lengths=%n inputs=1 axis=1 body(%g: f32[B,512], %a: f32[B,128], %b: f32[B,128]) {
      %2, %3 = lstm_cell %g, %a, %b, %w : f32[B,128], f32[B,128]
      yield %2, %3
    } : f32[B,128], f32[B,128]
    return %0, %1 }";

#[test]
fn steps_and_loops_of_cells() {
    for (name, body, rows) in [("step_of_cells", STEP, 4), ("loop_of_cells", LOOP, 1)] {
        let text = recurrence(body);
        // Two rows of the weight, of each four gates of four units, for so many rows.
        let hot = loops(&text).into_iter().find(|body| body.contains("fma.rn.f32")).unwrap();
        let found = ["fma.rn.f32", "ld.global.v4.b32"].map(|op| hot.matches(op).count());
        assert_eq!(found, [32 * rows, 8], "{name}: {hot}");
        assert!(!text.contains(".local"), "{name}: {text}");
        let mut settings = insta::Settings::clone_current();
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, digest(&text)));
    }
}

#[test]
fn largest_of_rows() {
    let entry = "entry @f(%x: f32[B,32000]) -> (v: f32[B,5], i: i64[B,5]) {
        %0, %1 = topk %x axis=1 k=5 : f32[B,5], i64[B,5] return %0, %1 }";
    let text = text_for(&format!("module @m stage=legal {{ dim B = 0..1000000\n {entry} }}"), Sm::Sm80);
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(digest(&text)));
}
