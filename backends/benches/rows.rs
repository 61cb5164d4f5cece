//! One-thread speed of row, reduction and topk kernels against a copy of as many bytes in the same round.
//!
//! `cargo bench -p kiln-backends --bench rows [-- <rounds>]`
//!
//! The shapes are those of MiniLM and of a classifier's end. Printed are medians by the thread's CPU time: the
//! nanoseconds of a call, the bytes that have to be moved once each, and how many times as long as a plain copy it takes.

#[expect(dead_code, reason = "no peak is measured here")]
mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use kiln_ir::{
    Dim, ElemType,
    scalar::{Builder, Expr, Literal},
};
use kiln_kernels::{
    Access, KernelSpec,
    cpu::CpuLevel,
    reduce::{self, Kind},
    row::{self, Stat},
    topk,
};
use measure::{cpu_seconds, median};
use support::{Aligned, Library, Random, native_levels};

const F32: ElemType = ElemType::F32;

fn dims(sizes: &[i64]) -> Vec<Dim> {
    sizes.iter().map(|n| (*n).into()).collect()
}

/// The sum of two tensors, normalised, times a scale, plus a bias.
fn layer_norm(rows: i64, width: i64) -> row::Spec {
    let mut p = Builder::new();
    let (x, y) = (p.input(0, F32), p.input(1, F32));
    let sum = p.add(x, y);
    let mut e = Builder::new();
    let (x, scale, bias) = (e.input(0, F32), e.input(3, F32), e.input(4, F32));
    let x = e.mul(x, scale);
    let x = e.add(x, bias);
    let (all, along) = (Access::contiguous(F32, &dims(&[rows, width])), Access::new(F32, 0, [0, 1]));
    row::Spec {
        outer: dims(&[rows]),
        inner: width.into(),
        inputs: vec![all.clone(), all.clone(), along.clone(), along],
        prologue: p.finish(sum),
        stat: Stat::LayerNorm { eps: Literal::of(F32, 1e-12) },
        epilogue: e.finish(x),
        output: all,
    }
}

fn row(stat: Stat, rows: i64, width: i64) -> row::Spec {
    let all = Access::contiguous(F32, &dims(&[rows, width]));
    row::Spec {
        outer: dims(&[rows]),
        inner: width.into(),
        inputs: vec![all.clone()],
        prologue: Expr::input(0, F32),
        stat,
        epilogue: Expr::input(0, F32),
        output: all,
    }
}

/// A contiguous tensor of three axes reduced along one.
fn reduction(kind: Kind, sizes: [i64; 3], axis: usize) -> reduce::Spec {
    let all = Access::contiguous(F32, &dims(&sizes));
    let kept: Vec<usize> = (0..3).filter(|a| *a != axis).collect();
    let outer = dims(&kept.iter().map(|a| sizes[*a]).collect::<Vec<_>>());
    let result = if kind == Kind::Argmax { ElemType::I64 } else { F32 };
    reduce::Spec {
        inputs: vec![Access::new(F32, 0, kept.iter().chain([&axis]).map(|a| all.strides[*a].clone()))],
        output: Access::contiguous(result, &outer),
        outer,
        reduced: vec![sizes[axis].into()],
        prologue: Expr::input(0, F32),
        kind,
        epilogue: Expr::input(0, result),
        epilogue_inputs: vec![],
    }
}

fn largest(rows: i64, width: i64, k: i64) -> topk::Spec {
    topk::Spec {
        outer: dims(&[rows]),
        inner: width.into(),
        input: Access::contiguous(F32, &dims(&[rows, width])),
        k: k.into(),
        values: Access::contiguous(F32, &dims(&[rows, k])),
        indices: Access::contiguous(ElemType::I64, &dims(&[rows, k])),
    }
}

fn specs() -> Vec<(&'static str, KernelSpec)> {
    vec![
        ("add, layer_norm, scale, bias 128x384", layer_norm(128, 384).into()),
        ("softmax 1536x128", row(Stat::Softmax, 1536, 128).into()),
        ("softmax 12x1000", row(Stat::Softmax, 12, 1000).into()),
        ("log_softmax 128x384", row(Stat::LogSoftmax, 128, 384).into()),
        ("l2_normalize 32x384", row(Stat::L2Normalize { eps: Literal::of(F32, 1e-12) }, 32, 384).into()),
        ("mean over positions 8x128x384", reduction(Kind::Mean, [8, 128, 384], 1).into()),
        ("sum of rows 1x128x384", reduction(Kind::Sum, [1, 128, 384], 2).into()),
        ("max of rows 1x128x384", reduction(Kind::Max, [1, 128, 384], 2).into()),
        ("argmax of rows 1x32x1000", reduction(Kind::Argmax, [1, 32, 1000], 2).into()),
        ("5 largest 32x1000", largest(32, 1000, 5).into()),
    ]
}

struct Case {
    name: &'static str,
    level: CpuLevel,
    symbol: String,
    library: Library,
    buffers: Vec<Aligned>,
    scratch: Aligned,
    tasks: i64,
    bytes: usize,
    compile: f64,
    /// Seconds of a call, and of a copy.
    samples: Vec<[f64; 2]>,
}

impl Case {
    fn new(name: &'static str, spec: &KernelSpec, level: CpuLevel) -> Case {
        let known = |d: Dim| d.as_const().expect("all sizes are constant") as usize;
        let mut library = None;
        let symbol = spec.symbol();
        let compile = cpu_seconds(|| {
            library = Some(Library::build(level, |m| spec.emit(m, &symbol, level.describe())));
        });
        let mut random = Random(3);
        let buffer = |b: kiln_kernels::Buffer| {
            let n = known(b.elements);
            let mut memory = Aligned::bytes(n * b.elem.bytes());
            let floats = if b.written { vec![] } else { random.floats(n) };
            unsafe { std::ptr::copy_nonoverlapping(floats.as_ptr().cast(), memory.ptr(), floats.len() * 4) };
            memory
        };
        Case {
            name,
            level,
            library: library.expect("built above"),
            buffers: spec.buffers().into_iter().map(buffer).collect(),
            scratch: Aligned::bytes(known(spec.scratch_bytes())),
            tasks: known(spec.tasks()) as i64,
            bytes: known(spec.cost().bytes),
            symbol,
            compile,
            samples: vec![],
        }
    }

    fn measure(&mut self) {
        let pointers: Vec<*mut u8> = self.buffers.iter_mut().map(Aligned::ptr).collect();
        let kernel = self.library.kernel(&self.symbol);
        let repeat = (20_000_000 / self.bytes).max(1);
        let seconds = cpu_seconds(|| {
            for _ in 0..repeat {
                unsafe { kernel.call(&pointers, &[], 0, self.tasks, self.scratch.ptr()) };
            }
        });
        // Half of the bytes are read and half are written.
        let (from, mut to) = (vec![1u8; self.bytes / 2], vec![0u8; self.bytes / 2]);
        let copy = cpu_seconds(|| {
            for _ in 0..repeat {
                to.copy_from_slice(std::hint::black_box(&from));
                std::hint::black_box(&mut to);
            }
        });
        self.samples.push([seconds / repeat as f64, copy / repeat as f64]);
    }
}

fn main() {
    let rounds: usize = std::env::args().skip(1).find_map(|r| r.parse().ok()).unwrap_or(15);
    let specs = specs();
    let mut cases: Vec<Case> = vec![];
    for (name, spec) in &specs {
        cases.extend(native_levels().into_iter().map(|level| Case::new(name, spec, level)));
    }
    for _ in 0..rounds {
        cases.iter_mut().for_each(Case::measure);
    }
    println!("{:<38} {:<10} {:>9} {:>9} {:>7} {:>11}", "kernel", "level", "ns", "bytes", "copies", "compiled ms");
    for case in &cases {
        let of = |f: fn(&[f64; 2]) -> f64| median(&case.samples.iter().map(f).collect::<Vec<_>>());
        println!(
            "{:<38} {:<10} {:>9.0} {:>9} {:>7.1} {:>11.0}",
            case.name,
            case.level.name(),
            of(|s| s[0] * 1e9),
            case.bytes,
            of(|s| s[0] / s[1]),
            case.compile * 1e3,
        );
    }
}
