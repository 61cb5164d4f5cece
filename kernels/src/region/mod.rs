//! Loops as one kernel: structured control flow over calls of other kernels, without a dispatch between steps.
//!
//! The kernels of the body are functions, those with large tiles once for all loops of a shared object. Buffers are named
//! by [`Place`]s, whose addresses are computed where a step begins; memory of the loop's own lies in scratch. A carried
//! value has a pair of memories: the body reads the one and writes the other, and they change places after each step, so
//! nothing is copied.
//!
//! With [`Tiles`] the tasks are tiles of rows: the first axis of everything that has rows counts the rows of the tile,
//! a symbol of the kernel's own, and no result of a row depends on another row. A [`Compact`] loop ends for each row by
//! itself: rows that are done are written home, and the last row moves to the place that became free, so that the
//! kernels run on the rows that are left. Without tiles there is one task.
//!
//! A loop that runs more often than it may ends the kernel with [`crate::abi::LOOP_LIMIT`] plus its number.
//!
//! On a GPU the threads of a block do a task together ([`cuda`]).

mod compact;
mod cuda;
mod emit;
mod memory;

use crate::{
    Buffer, Cost, Family, KernelSpec,
    abi::ModuleBuilder,
    cpu::Cpu,
    cuda::{Grid, Sm},
};
use kiln_ir::{Dim, Symbol};
use memory::Layout;
use std::collections::BTreeSet;

/// What the kernel runs. Sizes may use the symbol of the tiles, which stands for the rows that are left.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spec {
    pub tiles: Option<Tiles>,
    /// Those that the steps call.
    pub kernels: Vec<KernelSpec>,
    pub buffers: Vec<Buffer>,
    /// Where each temporary starts in the memory that a task has for them, in bytes for a whole tile.
    pub locals: Vec<Dim>,
    /// The bytes of that memory.
    pub local_bytes: Dim,
    /// Bytes of each of the two memories of a carried value.
    pub pairs: Vec<Dim>,
    pub steps: Vec<Step>,
}

/// Tasks that are runs of rows.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Tiles {
    /// Stands for the rows of a task that are left.
    pub symbol: Symbol,
    /// All rows.
    pub rows: Dim,
    /// The rows of a task, but for the last.
    pub tile: i64,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// All tasks of a kernel.
    Call {
        kernel: usize,
        args: Vec<Place>,
        first: Option<First>,
    },
    If {
        /// An `i1` element.
        condition: Place,
        then: Vec<Step>,
        otherwise: Vec<Step>,
    },
    Loop(Box<Loop>),
}

/// A kernel with the arguments of another, in whose place it is called while a loop around is at its first step.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct First {
    pub kernel: usize,
    /// The loop stands in this many others.
    pub depth: usize,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Loop {
    pub times: Times,
    /// Whether the counter falls from the last step to 0 instead of rising from 0.
    pub down: bool,
    /// An `i64` element that holds the counter while the body runs.
    pub index: Option<Place>,
    /// The pairs that change places after each step.
    pub pairs: Vec<usize>,
    pub body: Vec<Step>,
    pub compact: Option<Compact>,
}

/// How often a loop runs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Times {
    Size(Dim),
    /// An `i64` element, read when the loop starts.
    Read(Place),
    /// While the `i1` at `flag` holds after `test`; of a compact loop there is a flag for each row. A step beyond `max`
    /// is an error.
    While {
        test: Vec<Step>,
        flag: Place,
        max: Dim,
        number: i64,
    },
}

/// What a loop does that ends for each row by itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Compact {
    /// How many steps each row takes, an `i64` each; otherwise the loop's flags say it.
    pub lengths: Option<Rows>,
    /// Where the rows of the loop's pairs end.
    pub home: Vec<Rows>,
    /// What the body reads of rows outside, and the local that holds its rows as they move.
    pub kept: Vec<(Rows, Place)>,
    /// What the body reads at each step, and the local that gets it before.
    pub slices: Vec<(Rows, Place)>,
    /// What the body writes at each step, and the local that has it after.
    pub stacked: Vec<(Place, Rows)>,
    /// Whether step `t` of a row of length `n` is at position `n - 1 - t` of slices and stacked results.
    pub reverse: bool,
}

/// Rows of equal size outside the kernel; all in bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Rows {
    /// The first row of the tile.
    pub first: Place,
    /// From one row to the next.
    pub row: Dim,
    /// From one position to the next.
    pub position: Dim,
    /// A row, or a row at a position, is this many runs of `bytes` that start `apart`. Inside they lie side by side.
    pub runs: Dim,
    pub apart: Dim,
    pub bytes: Dim,
}

impl Rows {
    /// Bytes of a row inside.
    pub fn row_bytes(&self) -> Dim {
        self.runs.clone() * self.bytes.clone()
    }
}

/// An address.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    pub memory: Memory,
    /// In bytes.
    pub offset: Dim,
    /// Bytes for each unit of a counter.
    pub strides: Vec<(Counter, Dim)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Memory {
    Buffer(usize),
    Local(usize),
    /// The memory of a pair that the body reads, which holds the value.
    Now(usize),
    /// The one that it writes.
    Next(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Counter {
    /// The first row of the tile.
    Row,
    /// The counter of the loop that stands in this many others.
    Loop(usize),
}

impl Spec {
    /// The memory of a task.
    fn layout(&self) -> Layout<'_> {
        Layout::new(self, self.tiles.as_ref().map_or(0, |t| t.tile).into())
    }

    /// Calls `see` on every size.
    fn sizes(&self, see: &mut dyn FnMut(&Dim)) {
        if let Some(t) = &self.tiles {
            see(&t.rows);
        }
        for kernel in &self.kernels {
            kernel.size_args().iter().for_each(&mut *see);
            see(&kernel.tasks());
        }
        self.locals.iter().chain(&self.pairs).chain([&self.local_bytes]).for_each(&mut *see);
        self.steps.iter().for_each(|s| s.sizes(see));
    }

    /// Gives the buffers other numbers.
    pub fn rename_buffers(&mut self, to: &dyn Fn(usize) -> usize) {
        let mut rename = |place: &mut Place| {
            if let Memory::Buffer(i) = &mut place.memory {
                *i = to(*i);
            }
        };
        self.steps.iter_mut().for_each(|s| s.places(&mut rename));
    }

    /// Floating-point operations of one pass over the steps, each loop inside run once.
    pub fn step_flops(&self) -> Dim {
        fn of(spec: &Spec, steps: &[Step]) -> Dim {
            let flops = steps.iter().map(|step| match step {
                Step::Call { kernel, .. } => spec.kernels[*kernel].cost().flops,
                Step::If { then, otherwise, .. } => of(spec, then).max_with(&of(spec, otherwise)),
                Step::Loop(l) => match &l.times {
                    Times::While { test, .. } => of(spec, test) + of(spec, &l.body),
                    _ => of(spec, &l.body),
                },
            });
            flops.fold(Dim::from(0), |sum, d| sum + d)
        }
        of(self, &self.steps)
    }
}

impl Step {
    fn sizes(&self, see: &mut dyn FnMut(&Dim)) {
        let all = |steps: &[Step], see: &mut dyn FnMut(&Dim)| steps.iter().for_each(|s| s.sizes(see));
        match self {
            Step::Call { args, .. } => args.iter().for_each(|p| p.sizes(see)),
            Step::If { condition, then, otherwise } => {
                condition.sizes(see);
                all(then, see);
                all(otherwise, see);
            }
            Step::Loop(l) => {
                match &l.times {
                    Times::Size(d) => see(d),
                    Times::Read(place) => place.sizes(see),
                    Times::While { test, flag, max, .. } => {
                        see(max);
                        flag.sizes(see);
                        all(test, see);
                    }
                }
                l.index.iter().for_each(|p| p.sizes(see));
                all(&l.body, see);
                if let Some(c) = &l.compact {
                    let moved = c.kept.iter().chain(&c.slices).map(|(rows, local)| (rows, local));
                    for (rows, local) in moved.chain(c.stacked.iter().map(|(local, rows)| (rows, local))) {
                        local.sizes(see);
                        rows.sizes(see);
                    }
                    c.lengths.iter().chain(&c.home).for_each(|rows| rows.sizes(see));
                }
            }
        }
    }
}

impl Step {
    /// Calls `change` on every place.
    fn places(&mut self, change: &mut dyn FnMut(&mut Place)) {
        match self {
            Step::Call { args, .. } => args.iter_mut().for_each(change),
            Step::If { condition, then, otherwise } => {
                change(condition);
                then.iter_mut().chain(otherwise).for_each(|s| s.places(change));
            }
            Step::Loop(l) => {
                match &mut l.times {
                    Times::Size(_) => {}
                    Times::Read(place) => change(place),
                    Times::While { test, flag, .. } => {
                        test.iter_mut().for_each(|s| s.places(change));
                        change(flag);
                    }
                }
                l.index.iter_mut().for_each(&mut *change);
                l.body.iter_mut().for_each(|s| s.places(change));
                if let Some(c) = &mut l.compact {
                    let rows = c.lengths.iter_mut().chain(&mut c.home);
                    rows.for_each(|r| change(&mut r.first));
                    for (rows, local) in c.kept.iter_mut().chain(&mut c.slices) {
                        change(&mut rows.first);
                        change(local);
                    }
                    for (local, rows) in &mut c.stacked {
                        change(&mut rows.first);
                        change(local);
                    }
                }
            }
        }
    }
}

impl Rows {
    fn sizes(&self, see: &mut dyn FnMut(&Dim)) {
        self.first.sizes(see);
        [&self.row, &self.position, &self.runs, &self.apart, &self.bytes].into_iter().for_each(see);
    }
}

impl Place {
    fn sizes(&self, see: &mut dyn FnMut(&Dim)) {
        see(&self.offset);
        self.strides.iter().for_each(|(_, d)| see(d));
    }
}

impl Family for Spec {
    const NAME: &'static str = "region";

    fn buffers(&self) -> Vec<Buffer> {
        self.buffers.clone()
    }

    /// The symbols of all sizes.
    fn size_args(&self) -> Vec<Dim> {
        let mut symbols: Vec<Symbol> = vec![];
        self.sizes(&mut |d| symbols.extend(d.symbols()));
        symbols.sort();
        symbols.dedup();
        symbols.retain(|s| self.tiles.as_ref().is_none_or(|t| t.symbol != *s));
        symbols.into_iter().map(Dim::symbol).collect()
    }

    fn tasks(&self) -> Dim {
        self.tiles.as_ref().map_or(1.into(), |t| t.rows.ceil_div(&t.tile.into()))
    }

    fn scratch_bytes(&self) -> Dim {
        // Most are equal, and a maximum of many is a long formula.
        let layout = self.layout();
        let inner: BTreeSet<Dim> = self.kernels.iter().map(|k| layout.aligned(&k.scratch_bytes())).collect();
        layout.scratch() + inner.into_iter().reduce(|a, b| a.max_with(&b)).unwrap_or(0.into())
    }

    /// Of one step of each loop.
    fn cost(&self) -> Cost {
        let rows = |d: &Dim| match &self.tiles {
            Some(t) => d.substitute(&|s| (s == t.symbol).then(|| t.rows.clone())),
            None => d.clone(),
        };
        let bytes = self.kernels.iter().fold(Dim::from(0), |sum, k| sum + k.cost().bytes);
        Cost { flops: rows(&self.step_flops()), bytes: rows(&bytes) }
    }

    fn emit(&self, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu) {
        emit::emit(self, module, symbol, cpu);
    }

    fn grid(&self, _: Sm) -> Grid {
        cuda::grid(self)
    }

    fn emit_cuda(&self, module: &mut ModuleBuilder<'_>, symbol: &str, _: Sm) {
        cuda::emit(self, module, symbol);
    }
}
