//! One-thread speed of recurrent cells, and of products with few rows, against what the machine allows.
//!
//! `cargo bench -p kiln-backends --bench cells [-- <filter> [<rounds>]]`
//!
//! For each kernel and level, interleaved: its time; the time of reading its packed weight once with vector loads and
//! nothing else; its arithmetic at the peak of FMAs on registers. The limit is the larger of the two. A measurement is
//! the fastest of several runs of about a millisecond. Printed are medians over the rounds: nanoseconds of a call by the
//! thread's CPU time, both bounds, and the part of the limit that is reached.

#[path = "measure/mod.rs"]
mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use kiln_ir::{ElemType, scalar::Expr};
use kiln_kernels::{
    Access, KernelSpec,
    build::{Elem, Ty, V},
    cell::{Cell, Spec},
    cpu::CpuLevel,
    matmul::{self, Matrix, Rhs},
};
use measure::{Peak, cpu_seconds, median};
use support::{Aligned, Library, Random, native_levels};

const F32: ElemType = ElemType::F32;
/// Runs of a measurement.
const RUNS: usize = 8;

fn cell(lstm: bool, rows: i64, hidden: i64) -> KernelSpec {
    let state = || Access::new(F32, 0, [hidden, 1]);
    let cell = match lstm {
        true => Cell::Lstm { c: state(), next: state() },
        false => Cell::Gru { bias: Some(Access::new(F32, 0, [1])) },
    };
    let gx = Access::new(F32, 0, [cell.gates() * hidden, 1]);
    Spec { cell, rows: rows.into(), hidden, weight: F32, starts: false, gx, h: state(), output: state() }.into()
}

fn product(m: i64, n: i64, k: i64) -> KernelSpec {
    let matrix = |row: i64| Matrix { elem: F32, batch: vec![], row: row.into(), col: 1.into() };
    matmul::Spec {
        batch: vec![],
        m: m.into(),
        n: n.into(),
        k: k.into(),
        a: matrix(k),
        b: Rhs::Packed(F32),
        epilogue: Expr::input(0, F32),
        operands: vec![],
        c: matrix(n),
    }
    .into()
}

/// Adds up a buffer of vectors, eight sums at a time.
fn reader(level: CpuLevel, bytes: i64) -> Library {
    Library::build(level, |m| {
        m.kernel("read", &[], |kernel| {
            let (k, data) = (kernel.k, kernel.buffer(0));
            let ty = Ty::new(Elem::F32, level.lanes(4));
            let (lanes, count) = (ty.lanes as i64, bytes / 4);
            let load = |at, align| -> V { data.offset(Elem::F32, at).load_aligned(ty, align) };
            let step = 8 * lanes;
            let sums = vec![k.zero(ty); 8];
            let sums = k.for_carry(0, count / step * step, step, &sums, |at, sums| {
                let next = sums.iter().enumerate();
                next.map(|(i, sum)| *sum + load(at + i as i64 * lanes, ty.lanes * 4)).collect()
            });
            kernel.buffer(1).store(sums.into_iter().reduce(|a, b| a + b).expect("eight sums"));
            None
        });
    })
}

struct Case {
    name: String,
    level: CpuLevel,
    kernel: Library,
    reader: Library,
    buffers: Vec<Aligned>,
    scratch: Aligned,
    weight: usize,
    tasks: i64,
    flops: f64,
    repeat: usize,
    /// Nanoseconds of the call, of reading the weight, of the arithmetic.
    samples: Vec<[f64; 3]>,
}

impl Case {
    fn new(level: CpuLevel, name: &str, spec: &KernelSpec) -> Case {
        let mut random = Random(7);
        let list = spec.buffers();
        let buffers = list.iter().map(|b| {
            let n = b.elements.as_const().expect("constant shapes") as usize;
            let mut memory = Aligned::bytes(n * 4);
            for i in 0..n {
                unsafe { memory.ptr().cast::<f32>().add(i).write(random.float() / 8.0) };
            }
            memory
        });
        let weight = if spec.family() == "cell" { 2 } else { 1 };
        let flops = spec.cost().flops.as_const().expect("constant shapes") as f64;
        Case {
            name: name.to_string(),
            level,
            kernel: Library::build(level, |m| spec.emit(m, "kernel", level.describe())),
            reader: reader(level, list[weight].elements.as_const().expect("constant shapes") * 4),
            buffers: buffers.collect(),
            scratch: Aligned::bytes(spec.scratch_bytes().as_const().expect("constant shapes") as usize),
            weight,
            tasks: spec.tasks().as_const().expect("constant shapes"),
            flops,
            repeat: ((3e7 / flops) as usize).max(1),
            samples: vec![],
        }
    }

    fn measure(&mut self, peak: f64) {
        let pointers: Vec<*mut u8> = self.buffers.iter_mut().map(Aligned::ptr).collect();
        let (kernel, reader) = (self.kernel.kernel("kernel"), self.reader.kernel("read"));
        let (scratch, mut sum) = (self.scratch.ptr(), Aligned::bytes(64));
        let read = [pointers[self.weight], sum.ptr()];
        let (tasks, repeat) = (self.tasks, self.repeat);
        let fastest = |call: &dyn Fn() -> i32| {
            let run = || cpu_seconds(|| (0..repeat).for_each(|_| assert_eq!(call(), 0)));
            (0..RUNS).map(|_| run()).fold(f64::MAX, f64::min) * 1e9 / repeat as f64
        };
        let time = fastest(&|| unsafe { kernel.call(&pointers, &[], 0, tasks, scratch) });
        let bytes = fastest(&|| unsafe { reader.call(&read, &[], 0, 1, std::ptr::null_mut()) });
        self.samples.push([time, bytes, self.flops / peak]);
    }
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let filter = args.next().unwrap_or_default();
    let rounds: usize = args.next().and_then(|r| r.parse().ok()).unwrap_or(9);
    let mut specs = vec![];
    for rows in [1, 2, 4, 8, 32, 128] {
        specs.push((format!("lstm {rows}x128"), cell(true, rows, 128)));
        specs.push((format!("gru {rows}x128"), cell(false, rows, 128)));
        specs.push((format!("product {rows}x512x128"), product(rows, 512, 128)));
    }
    specs.push(("product 1x128x128".into(), product(1, 128, 128)));
    specs.push(("lstm 1x256".into(), cell(true, 1, 256)));
    let mut cases: Vec<Case> = vec![];
    for (name, spec) in specs.iter().filter(|(name, _)| name.contains(&filter)) {
        cases.extend(native_levels().into_iter().map(|level| Case::new(level, name, spec)));
    }
    let mut peaks: Vec<(CpuLevel, Peak)> = native_levels().into_iter().map(|l| (l, Peak::new(l))).collect();
    for _ in 0..rounds {
        let peaks: Vec<_> = peaks.iter_mut().map(|(level, peak)| (*level, peak.measure())).collect();
        for case in &mut cases {
            let peak = peaks.iter().find(|(level, _)| *level == case.level).expect("a peak for each level").1;
            case.measure(peak);
        }
    }
    println!("{:<24} {:<10} {:>9} {:>9} {:>9} {:>9}", "kernel", "level", "ns", "read ns", "FMA ns", "% limit");
    for case in &cases {
        let of = |f: &dyn Fn(&[f64; 3]) -> f64| median(&case.samples.iter().map(f).collect::<Vec<_>>());
        let part = of(&|[time, bytes, flops]| 100.0 * bytes.max(*flops) / time);
        let columns = [of(&|s| s[0]), of(&|s| s[1]), of(&|s| s[2]), part];
        print!("{:<24} {:<10}", case.name, case.level.name());
        columns.iter().for_each(|c| print!(" {c:>9.1}"));
        println!();
    }
}
