//! The threads that go through a row together: those of a warp where rows are short, and of a block where they are long.
//!
//! Each has the same elements of a row in every pass over it, so what it has read it may write over.

use super::{
    Grid,
    block::{Block, WARP},
};
use crate::{
    abi::ModuleBuilder,
    build::{Elem, Ix, K, Ptr, Ty, V},
    reduce::accumulate::Combine,
    view::Part,
};
use kiln_ir::Dim;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Size {
    Warp,
    Block,
}

/// Rows that are longer have a block each.
const LONGEST_OF_WARP: i64 = 2048;
/// Threads of a block that is one team, and warps of one that is several.
const BLOCK_THREADS: i64 = super::BLOCK_THREADS as i64;
const WARPS: i64 = 4;
/// The most values of a state that are combined, and the bytes that each may have.
const STATES: i64 = 4;
const STATE_BYTES: i64 = 8;

impl Size {
    pub(crate) fn of(length: &Dim) -> Size {
        if length.as_const().is_some_and(|n| n > LONGEST_OF_WARP) { Size::Block } else { Size::Warp }
    }

    fn threads(self) -> i64 {
        match self {
            Size::Warp => WARP,
            Size::Block => BLOCK_THREADS,
        }
    }

    /// The launch for so many rows.
    pub(crate) fn grid(self, rows: Dim) -> Grid {
        let (threads, block_tasks) = match self {
            Size::Warp => (WARPS * WARP, WARPS),
            Size::Block => (BLOCK_THREADS, 1),
        };
        Grid::new(rows, threads as u32, block_tasks as u32)
    }

    /// The same for a block that does them alone.
    pub(crate) fn block_grid(self, rows: Dim) -> Grid {
        Grid { threads: super::BLOCK_THREADS, ..self.grid(rows) }
    }

    /// Gives the kernel the shared memory that its teams need.
    pub(crate) fn shared(self, module: &mut ModuleBuilder<'_>, symbol: &str) {
        if self == Size::Block {
            module.block_memory(&name(symbol), BLOCK_THREADS / WARP * STATES * STATE_BYTES);
        }
    }
}

fn name(symbol: &str) -> String {
    format!("{symbol}_states")
}

#[derive(Clone, Copy)]
pub(crate) struct Team<'k> {
    block: Block<'k>,
    size: Size,
    /// The number of this thread in its team.
    pub(crate) rank: Ix<'k>,
    states: Option<Ptr<'k>>,
}

/// How a team goes through a row: `width` elements a thread up to `whole`, a multiple of it, then one.
#[derive(Clone, Copy)]
pub(crate) struct Row<'k> {
    pub(crate) length: Ix<'k>,
    pub(crate) whole: Ix<'k>,
    pub(crate) width: i64,
}

impl<'k> Team<'k> {
    pub(crate) fn new(k: K<'k>, size: Size, symbol: &str) -> Team<'k> {
        let block = Block::new(k);
        match size {
            Size::Warp => Team { block, size, rank: block.lane, states: None },
            Size::Block => Team { block, size, rank: block.thread, states: Some(block.shared(&name(symbol))) },
        }
    }

    /// Runs `body` for the rows of this team.
    pub(crate) fn rows(&self, rows: Ix<'k>, body: impl FnOnce(Ix<'k>)) {
        match self.size {
            Size::Block => self.block.tasks(rows, body),
            Size::Warp => {
                let k = self.block.k;
                let warps = k.within().map_or(WARPS, |within| i64::from(within.threads) / WARP);
                k.for_(super::block(k) * warps + self.block.warp, rows, super::blocks(k) * warps, body);
            }
        }
    }

    pub(crate) fn threads(&self) -> i64 {
        self.size.threads()
    }

    /// How many of `n` things are this thread's, if each takes every so manieth.
    fn share(&self, n: Ix<'k>) -> Ix<'k> {
        let threads = self.size.threads();
        if n.is(0) { n } else { (n + (threads - 1) - self.rank).div(threads) }
    }

    /// Runs `body` for this thread's elements of a row.
    pub(crate) fn each(&self, row: Row<'k>, body: impl Fn(Ix<'k>, Part<'k>)) {
        let (k, threads, width) = (self.block.k, self.size.threads(), row.width);
        k.for_(self.rank * width, row.whole, threads * width, |i| body(i, Part::All(width as u32)));
        k.for_(row.whole + self.rank, row.length, threads, |i| body(i, Part::All(1)));
    }

    /// Combines this thread's elements of a row.
    pub(crate) fn partial(
        &self,
        combine: Combine,
        row: Row<'k>,
        element: impl Fn(Ix<'k>, Part<'k>) -> Vec<V<'k>>,
    ) -> Vec<V<'k>> {
        let (k, threads, width) = (self.block.k, self.size.threads(), row.width);
        let lanes = width as u32;
        let vectors = combine.each(k, self.share(row.whole.div(width)), lanes, |i| {
            element((i * threads + self.rank) * width, Part::All(lanes))
        });
        let rest = combine.each(k, self.share(row.length - row.whole), 1, |i| {
            element(row.whole + i * threads + self.rank, Part::All(1))
        });
        combine.merge(&combine.narrow(vectors, 1), &rest)
    }

    /// Combines the states of all threads, for each of them.
    pub(crate) fn total(&self, combine: Combine, state: &[V<'k>]) -> Vec<V<'k>> {
        self.total_by(state, |a, b| combine.merge(a, b))
    }

    /// The same by `merge`.
    pub(crate) fn total_by(&self, state: &[V<'k>], merge: impl Fn(&[V<'k>], &[V<'k>]) -> Vec<V<'k>>) -> Vec<V<'k>> {
        let (k, block) = (self.block.k, self.block);
        let warp = block.combine(state, WARP, &merge);
        let Some(states) = self.states else { return warp };
        assert!(state.len() as i64 <= STATES, "a state has room");
        let warps = BLOCK_THREADS / WARP;
        let place = |warp: Ix<'k>, i: usize| states.bytes((warp * STATES + i as i64) * STATE_BYTES);
        k.if_(block.lane.eq(0), || {
            warp.iter().enumerate().for_each(|(i, value)| place(block.warp, i).store(to_memory(*value)));
        });
        block.barrier();
        let load = |(i, value): (usize, &V<'k>)| from_memory(place(block.lane.rem(warps), i), value.ty);
        let all: Vec<V<'k>> = warp.iter().enumerate().map(load).collect();
        block.barrier();
        block.combine(&all, warps, merge)
    }
}

/// A value as it is in shared memory, where a bit is a byte.
pub(crate) fn to_memory(value: V<'_>) -> V<'_> {
    if value.ty.elem == Elem::I1 { value.int_to(Elem::I8, false) } else { value }
}

pub(crate) fn from_memory<'k>(from: Ptr<'k>, ty: Ty) -> V<'k> {
    if ty.elem == Elem::I1 { from.load(ty.of(Elem::I8)).int_to(Elem::I1, false) } else { from.load(ty) }
}
