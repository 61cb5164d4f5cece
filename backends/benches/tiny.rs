//! What one call of a kernel costs at the sizes of a decoder's step: symbolic sizes, buffers in the first cache.
//!
//! `cargo bench -p kiln-backends --bench tiny [-- <filter> [<rounds>]]`
//!
//! For each kernel, printed are the nanoseconds of a call with no tasks, which is the price of the call itself, and of
//! one with all, by the thread's CPU time: medians over the rounds of the fastest of several runs.

#[expect(dead_code, reason = "no peak is measured here")]
#[path = "measure/mod.rs"]
mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use kiln_ir::{
    Dim, ElemType, Symbol,
    scalar::{Binary, Builder, Compare, Expr, Literal, Unary},
};
use kiln_kernels::{
    Access, KernelSpec, cell, gather, map, matmul,
    reduce::{self, Kind},
    row::{self, Stat},
    topk,
};
use measure::{cpu_seconds, median};
use support::{Aligned, Library, Random, native_levels};

const F32: ElemType = ElemType::F32;
const HIDDEN: i64 = 128;

fn symbol(name: &str) -> Dim {
    Dim::symbol(Symbol::new(name).expect("a short name"))
}

/// `scores[b, n] = sum over h of v[h] * tanh(keys[b, n, h] + query[b, h])`.
fn scores(b: &Dim, n: &Dim) -> KernelSpec {
    let mut e = Builder::new();
    let (key, query, v) = (e.input(0, F32), e.input(1, F32), e.input(2, F32));
    let sum = e.add(key, query);
    let tanh = e.unary(Unary::Tanh, sum);
    let term = e.mul(tanh, v);
    reduce::Spec {
        outer: vec![b.clone(), n.clone()],
        reduced: vec![HIDDEN.into()],
        inputs: vec![
            Access::new(F32, 0, [n.clone() * HIDDEN.into(), HIDDEN.into(), 1.into()]),
            Access::new(F32, 0, [HIDDEN, 0, 1]),
            Access::new(F32, 0, [0, 0, 1]),
        ],
        prologue: e.finish(term),
        kind: Kind::Sum,
        epilogue: Expr::input(0, F32),
        epilogue_inputs: vec![],
        output: Access::new(F32, 0, [n.clone(), 1.into()]),
    }
    .into()
}

/// `select(seen, -inf, scores)`
fn masked() -> Expr {
    let mut e = Builder::new();
    let (x, seen) = (e.input(0, F32), e.input(1, ElemType::I1));
    let low = e.literal(Literal::of(F32, f64::NEG_INFINITY), F32);
    let value = e.select(seen, low, x);
    e.finish(value)
}

fn inputs(n: &Dim) -> Vec<Access> {
    [F32, ElemType::I1].map(|elem| Access::new(elem, 0, [n.clone(), 1.into()])).to_vec()
}

fn argmax(b: &Dim, n: &Dim) -> KernelSpec {
    reduce::Spec {
        outer: vec![b.clone()],
        reduced: vec![n.clone()],
        inputs: inputs(n),
        prologue: masked(),
        kind: Kind::Argmax,
        epilogue: Expr::input(0, ElemType::I64),
        epilogue_inputs: vec![],
        output: Access::new(ElemType::I64, 0, [1]),
    }
    .into()
}

fn log_softmax(b: &Dim, n: &Dim) -> KernelSpec {
    row::Spec {
        outer: vec![b.clone()],
        inner: n.clone(),
        inputs: inputs(n),
        prologue: masked(),
        stat: Stat::LogSoftmax,
        epilogue: Expr::input(0, F32),
        output: Access::new(F32, 0, [n.clone(), 1.into()]),
    }
    .into()
}

/// `seen | (index(1) == picked)`
fn mark(b: &Dim, n: &Dim) -> KernelSpec {
    let mut e = Builder::new();
    let (seen, picked) = (e.input(0, ElemType::I1), e.input(1, ElemType::I64));
    let here = e.index(1);
    let hit = e.compare(Compare::Eq, here, picked);
    let value = e.binary(Binary::Or, seen, hit);
    map::Spec {
        dims: vec![b.clone(), n.clone()],
        inputs: vec![Access::new(ElemType::I1, 0, [n.clone(), 1.into()]), Access::new(ElemType::I64, 0, [1, 0])],
        expr: e.finish(value),
        output: Access::new(ElemType::I1, 0, [n.clone(), 1.into()]),
    }
    .into()
}

/// A row of `[b, n, 4 * HIDDEN]` for each `b`.
fn pick(b: &Dim, n: &Dim) -> KernelSpec {
    let wide = 4 * HIDDEN;
    gather::Spec {
        shared: vec![b.clone()],
        before: vec![],
        axis: n.clone(),
        indices: vec![],
        after: vec![wide.into()],
        table: Access::new(F32, 0, [n.clone() * wide.into(), wide.into(), 1.into()]),
        index: Access::new(ElemType::I64, 0, [1]),
        output: Access::new(F32, 0, [wide, 1]),
    }
    .into()
}

/// The log-probability of what was picked: one element of each row.
fn pick_one(b: &Dim, n: &Dim) -> KernelSpec {
    gather::Spec {
        shared: vec![b.clone()],
        before: vec![],
        axis: n.clone(),
        indices: vec![],
        after: vec![],
        table: Access::new(F32, 0, [n.clone(), 1.into()]),
        index: Access::new(ElemType::I64, 0, [1]),
        output: Access::new(F32, 0, [1]),
    }
    .into()
}

fn largest(b: &Dim, n: &Dim) -> KernelSpec {
    let w = symbol("W");
    topk::Spec {
        outer: vec![b.clone()],
        inner: n.clone(),
        input: Access::new(F32, 0, [n.clone(), 1.into()]),
        k: w.clone(),
        values: Access::new(F32, 0, [w.clone(), 1.into()]),
        indices: Access::new(ElemType::I64, 0, [w, 1.into()]),
    }
    .into()
}

fn add(b: &Dim) -> KernelSpec {
    let mut e = Builder::new();
    let (x, y) = (e.input(0, F32), e.input(1, F32));
    let sum = e.add(x, y);
    map::Spec {
        dims: vec![b.clone() * HIDDEN.into()],
        inputs: vec![Access::new(F32, 0, [1]); 2],
        expr: e.finish(sum),
        output: Access::new(F32, 0, [1]),
    }
    .into()
}

fn query(b: &Dim) -> KernelSpec {
    let matrix = || matmul::Matrix { elem: F32, batch: vec![], row: HIDDEN.into(), col: 1.into() };
    matmul::Spec {
        batch: vec![],
        m: b.clone(),
        n: HIDDEN.into(),
        k: HIDDEN.into(),
        a: matrix(),
        b: matmul::Rhs::Packed(F32),
        epilogue: Expr::input(0, F32),
        operands: vec![],
        c: matrix(),
    }
    .into()
}

fn lstm(b: &Dim) -> KernelSpec {
    let state = || Access::new(F32, 0, [HIDDEN, 1]);
    cell::Spec {
        cell: cell::Cell::Lstm { c: state(), next: state() },
        rows: b.clone(),
        hidden: HIDDEN,
        weight: F32,
        starts: false,
        gx: Access::new(F32, 0, [4 * HIDDEN, 1]),
        h: state(),
        output: state(),
    }
    .into()
}

struct Case {
    name: String,
    library: Library,
    buffers: Vec<Aligned>,
    scratch: Aligned,
    sizes: Vec<i64>,
    tasks: i64,
    samples: Vec<[f64; 2]>,
}

impl Case {
    fn new(name: String, spec: &KernelSpec, sizes: [(&str, i64); 3]) -> Case {
        let level = *native_levels().last().expect("a level");
        let of = |s: Symbol| sizes.iter().find(|(n, _)| *n == s.name()).map(|(_, v)| *v);
        let value = |d: &Dim| d.eval(&of).expect("a size");
        let mut random = Random(7);
        let buffers = spec.buffers().into_iter().map(|b| {
            let n = value(&b.elements) as usize;
            let mut memory = Aligned::bytes(n * b.elem.bytes());
            for i in 0..if b.elem == F32 { n } else { 0 } {
                unsafe { memory.ptr().cast::<f32>().add(i).write(random.float()) };
            }
            memory
        });
        Case {
            name,
            library: Library::build(level, |m| spec.emit(m, "kernel", level.describe())),
            buffers: buffers.collect(),
            scratch: Aligned::bytes(value(&spec.scratch_bytes()) as usize),
            sizes: spec.size_args().iter().map(value).collect(),
            tasks: value(&spec.tasks()),
            samples: vec![],
        }
    }

    fn measure(&mut self) {
        let pointers: Vec<*mut u8> = self.buffers.iter_mut().map(Aligned::ptr).collect();
        let (kernel, scratch, sizes) = (self.library.kernel("kernel"), self.scratch.ptr(), &self.sizes);
        let time = |tasks: i64| {
            let call = || unsafe { kernel.call(&pointers, sizes, 0, tasks, scratch) };
            let run = || cpu_seconds(|| (0..20_000).for_each(|_| assert_eq!(call(), 0))) * 1e9 / 20_000.0;
            (0..5).map(|_| run()).fold(f64::MAX, f64::min)
        };
        self.samples.push([time(0), time(self.tasks)]);
    }
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let filter = args.next().unwrap_or_default();
    let rounds: usize = args.next().and_then(|r| r.parse().ok()).unwrap_or(5);
    let (b, n) = (symbol("B"), symbol("N"));
    let specs = [
        ("scores", scores(&b, &n)),
        ("argmax, masked", argmax(&b, &n)),
        ("log_softmax, masked", log_softmax(&b, &n)),
        ("mark", mark(&b, &n)),
        ("pick a row of 512", pick(&b, &n)),
        ("pick one", pick_one(&b, &n)),
        ("4 largest", largest(&b, &n)),
        ("add 128", add(&b)),
        ("product 128x128", query(&b)),
        ("lstm 128", lstm(&b)),
    ];
    let mut cases = vec![];
    for (name, spec) in specs.iter().filter(|(name, _)| name.contains(&filter)) {
        for (b, n) in [(1, 5), (1, 10), (1, 50), (1, 200), (8, 10), (32, 10)] {
            cases.push(Case::new(format!("{name}, {b} x {n}"), spec, [("B", b), ("N", n), ("W", 4)]));
        }
    }
    for _ in 0..rounds {
        cases.iter_mut().for_each(Case::measure);
    }
    println!("{:<32} {:>9} {:>9}", "kernel", "call ns", "ns");
    for case in &cases {
        let of = |i: usize| median(&case.samples.iter().map(|s| s[i]).collect::<Vec<_>>());
        println!("{:<32} {:>9.1} {:>9.1}", case.name, of(0), of(1));
    }
}
