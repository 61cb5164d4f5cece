//! One-thread speed of matrix products against the FMA peak of the same run.
//!
//! `cargo bench -p kiln-backends --bench matmul [-- <filter> [<rounds>]]`
//!
//! Rounds are interleaved: each measures the peak of every level (a loop of FMAs on registers) and then every product
//! at every level. A measurement is the fastest of several runs of a millisecond or one call, so that what else the
//! machine does is left out of both. Printed are medians over the rounds: GFLOP/s by the thread's CPU time and by wall
//! time, and the percentage of the peak, the larger of the levels', by CPU time in the same round.

mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use kiln_ir::{
    ElemType,
    scalar::{Builder, Expr, Unary},
};
use kiln_kernels::{
    Family,
    cpu::CpuLevel,
    matmul::{Matrix, Rhs, Spec},
};
use measure::{Peak, cpu_seconds, median};
use std::time::Instant;
use support::{Aligned, Library, Random, native_levels};

const F32: ElemType = ElemType::F32;

/// What follows the sums.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    Nothing,
    Bias,
    Residual,
    Gelu,
}

fn epilogue(then: Then) -> Expr {
    let mut b = Builder::new();
    let sum = b.input(0, F32);
    if then == Then::Nothing {
        return b.finish(sum);
    }
    let bias = b.input(1, F32);
    let x = b.add(sum, bias);
    let result = match then {
        Then::Residual => {
            let residual = b.input(2, F32);
            b.add(x, residual)
        }
        Then::Gelu => {
            let (c, one, half) =
                (b.constant(std::f64::consts::FRAC_1_SQRT_2, x), b.constant(1.0, x), b.constant(0.5, x));
            let scaled = b.mul(x, c);
            let erf = b.unary(Unary::Erf, scaled);
            let factor = b.add(erf, one);
            let halved = b.mul(x, half);
            b.mul(halved, factor)
        }
        Then::Nothing | Then::Bias => x,
    };
    b.finish(result)
}

fn spec(m: i64, n: i64, k: i64, then: Then) -> Spec {
    let matrix = |row: i64| Matrix { elem: F32, batch: vec![], row: row.into(), col: 1.into() };
    let operands = match then {
        Then::Nothing => vec![],
        Then::Bias | Then::Gelu => vec![matrix(0)],
        Then::Residual => vec![matrix(0), matrix(n)],
    };
    Spec {
        batch: vec![],
        m: m.into(),
        n: n.into(),
        k: k.into(),
        a: matrix(k),
        b: Rhs::Packed(F32),
        epilogue: epilogue(then),
        operands,
        c: matrix(n),
    }
}

/// Runs of a measurement.
const RUNS: usize = 8;

/// CPU and wall seconds of the fastest of several calls.
fn time(mut run: impl FnMut()) -> [f64; 2] {
    let mut best = [f64::MAX; 2];
    for _ in 0..RUNS {
        let start = Instant::now();
        let cpu = cpu_seconds(&mut run);
        best = [best[0].min(cpu), best[1].min(start.elapsed().as_secs_f64())];
    }
    best
}

struct Case {
    name: String,
    level: CpuLevel,
    library: Library,
    buffers: Vec<Aligned>,
    scratch: Aligned,
    tasks: i64,
    flops: f64,
    repeat: usize,
    samples: Vec<[f64; 3]>,
}

impl Case {
    fn new(level: CpuLevel, name: &str, spec: &Spec) -> Case {
        let library = Library::build(level, |m| spec.emit(m, "matmul", level.describe()));
        let mut random = Random(7);
        let buffers = spec.buffers().into_iter().map(|b| {
            let n = b.elements.as_const().expect("constant shapes") as usize;
            let mut memory = Aligned::bytes(n * 4);
            for i in 0..n {
                unsafe { memory.ptr().cast::<f32>().add(i).write(random.float()) };
            }
            memory
        });
        let flops = spec.cost().flops.as_const().expect("constant shapes") as f64;
        Case {
            name: name.to_string(),
            level,
            library,
            buffers: buffers.collect(),
            scratch: Aligned::bytes(spec.scratch_bytes().as_const().expect("constant shapes") as usize),
            tasks: spec.tasks().as_const().expect("constant shapes"),
            flops,
            repeat: ((1e8 / flops) as usize).max(1),
            samples: vec![],
        }
    }

    /// GFLOP/s by CPU time and by wall time.
    fn measure(&mut self) -> [f64; 2] {
        let pointers: Vec<*mut u8> = self.buffers.iter_mut().map(Aligned::ptr).collect();
        let kernel = self.library.kernel("matmul");
        let seconds = time(|| {
            for _ in 0..self.repeat {
                unsafe { kernel.call(&pointers, &[], 0, self.tasks, self.scratch.ptr()) };
            }
        });
        seconds.map(|s| self.flops * self.repeat as f64 / s / 1e9)
    }
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let filter = args.next().unwrap_or_default();
    let rounds: usize = args.next().and_then(|r| r.parse().ok()).unwrap_or(15);
    let mut shapes: Vec<(String, Spec)> =
        [256, 512, 1024].iter().map(|n| (format!("cube {n}"), spec(*n, *n, *n, Then::Nothing))).collect();
    for m in [1, 16, 128, 1024, 4096] {
        for (n, k, then) in
            [(1152, 384, Then::Bias), (384, 384, Then::Residual), (1536, 384, Then::Gelu), (384, 1536, Then::Residual)]
        {
            shapes.push((format!("{m}x{n}x{k} {then:?}"), spec(m, n, k, then)));
        }
    }
    let levels = native_levels();
    let mut cases: Vec<Case> = vec![];
    for (name, spec) in shapes.iter().filter(|(name, _)| name.contains(&filter)) {
        cases.extend(levels.iter().map(|level| Case::new(*level, name, spec)));
    }
    let mut peaks: Vec<Peak> = levels.iter().map(|level| Peak::new(*level)).collect();
    let mut peak_samples: Vec<Vec<f64>> = vec![vec![]; levels.len()];
    for _ in 0..rounds {
        let mut best = 0f64;
        for (peak, samples) in peaks.iter_mut().zip(&mut peak_samples) {
            let gflops = (0..RUNS).map(|_| peak.measure()).fold(0.0, f64::max);
            samples.push(gflops);
            best = best.max(gflops);
        }
        for case in &mut cases {
            let [cpu, wall] = case.measure();
            case.samples.push([cpu, wall, 100.0 * cpu / best]);
        }
    }
    println!("{:<28} {:<10} {:>8} {:>8} {:>7}", "product", "level", "GFLOP/s", "by wall", "% peak");
    for (level, samples) in levels.iter().zip(&peak_samples) {
        println!("{:<28} {:<10} {:>8.1}", "peak", level.name(), median(samples));
    }
    for case in &cases {
        let of = |i: usize| median(&case.samples.iter().map(|s| s[i]).collect::<Vec<_>>());
        println!("{:<28} {:<10} {:>8.1} {:>8.1} {:>7.1}", case.name, case.level.name(), of(0), of(1), of(2));
    }
}
