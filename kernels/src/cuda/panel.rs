//! Products of few rows with packed weights: a warp goes down a panel of 16 columns, or of as many of each of several groups
//! side by side, and moves 16 bytes a lane.
//!
//! A lane has some neighbouring columns, and of as many rows of the weight as stand side by side in a warp always the same
//! one. What it loads of the weight serves up to [`ROWS`] rows of the product. In the end the lanes of a column exchange
//! their sums. Where panels are few, several warps share the depth of one; their sums meet in shared memory.

use super::block::{Block, WARP};
use crate::{
    abi::ModuleBuilder,
    build::{Cmp, Ix, K, Ptr, Ty, V},
    cpu::Converts,
    matmul::pack::PANEL,
    scalar::{self, register},
};
use kiln_ir::ElemType;

/// The most rows of a task.
pub(crate) const ROWS: i64 = 4;
/// Warps of a block.
pub(crate) const WARPS: i64 = 8;
/// Bytes of the weight that a lane moves at a time.
const VECTOR: i64 = 16;
/// Vectors of the weight that a lane has under way.
const UNDER_WAY: i64 = 8;
/// Warps that keep a device busy.
const WARPS_WANTED: i64 = 1024;

/// How the lanes of a warp share a panel, and the warps of a block its depth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cut {
    pub(crate) weight: ElemType,
    /// The type of the sums.
    pub(crate) sum: ElemType,
    /// Panels side by side that are gone down together.
    pub(crate) groups: i64,
    pub(crate) depth: i64,
    /// Warps that share a task.
    pub(crate) parts: i64,
    /// Rows of a task: their sums and the weight fit the registers, of which a loop has many for itself.
    pub(crate) rows: i64,
    /// Whether a block does the product alone, as part of a loop.
    alone: bool,
}

impl Cut {
    /// A warp has a task.
    pub(crate) fn new([weight, sum]: [ElemType; 2], groups: i64, depth: i64, alone: bool) -> Cut {
        let cut = Cut { weight, sum, groups, depth, parts: 1, rows: ROWS, alone };
        Cut { rows: if alone || groups * cut.width() > 16 { ROWS / 2 } else { ROWS }, ..cut }
    }

    /// The same for so many tasks, done by one block or by all of a device.
    pub(crate) fn shared(self, tasks: i64) -> Cut {
        let wanted = if self.alone { WARPS } else { WARPS_WANTED };
        let enough = |parts: i64| parts.saturating_mul(tasks) >= wanted || self.depth < 4 * parts * self.rows_abreast();
        let mut parts = 1;
        while parts < WARPS && !enough(parts) {
            parts *= 2;
        }
        Cut { parts, ..self }
    }

    /// Columns of a lane.
    fn width(&self) -> i64 {
        VECTOR / self.weight.bytes() as i64
    }

    /// Lanes beside each other in a row of a panel.
    fn across(&self) -> i64 {
        PANEL / self.width()
    }

    /// Rows of the weight that a warp has at a time.
    fn rows_abreast(&self) -> i64 {
        WARP / self.across()
    }

    /// Tasks that a block has at a time.
    pub(crate) fn teams(&self) -> i64 {
        WARPS / self.parts
    }

    fn sums(&self) -> i64 {
        self.rows * self.groups
    }

    /// Gives the kernel the shared memory that its teams need.
    pub(crate) fn memory(&self, module: &mut ModuleBuilder<'_>, symbol: &str) {
        if self.parts > 1 {
            module.block_memory(&name(symbol), WARPS * WARP * self.sums() * self.sum.bytes() as i64);
        }
    }
}

fn name(symbol: &str) -> String {
    format!("{symbol}_sums")
}

pub(crate) struct Panel<'k> {
    k: K<'k>,
    block: Block<'k>,
    pub(crate) cut: Cut,
    memory: Option<Ptr<'k>>,
    /// The part of the depth that this warp has: where it begins, and its length.
    part: (Ix<'k>, Ix<'k>),
    /// The first of the columns that the lane loads.
    pub(crate) first: Ix<'k>,
    /// The column whose sums the lane has in the end. Another lane has it too: which of the two it is.
    pub(crate) column: Ix<'k>,
    half: Ix<'k>,
    /// Of the rows abreast.
    row: Ix<'k>,
}

/// What a product reads: the address of 16 bytes of a group at a row of the weight, from the lane's first column on, and the
/// element of a row of the product there. Rows beyond the last may be asked for, and are anything.
pub(crate) struct Reads<'a, 'k> {
    pub(crate) weight: &'a dyn Fn(Ix<'k>, i64) -> Ptr<'k>,
    pub(crate) element: &'a dyn Fn(i64, Ix<'k>) -> V<'k>,
}

impl<'k> Panel<'k> {
    pub(crate) fn new(k: K<'k>, cut: Cut, symbol: &str) -> Panel<'k> {
        let block = Block::new(k);
        let (lane, row) = (block.lane.rem(cut.across()), block.lane.div(cut.across()));
        let first = lane * cut.width();
        let (mut column, mut rest, mut step) = (first, row, cut.width() / 2);
        while step > 0 {
            column = column + rest.rem(2) * step;
            (rest, step) = (rest.div(2), step / 2);
        }
        let abreast = cut.rows_abreast() * cut.parts;
        let length = (cut.depth + abreast - 1) / abreast * cut.rows_abreast();
        let part = if cut.parts == 1 {
            (Ix::Const(0), Ix::Const(cut.depth))
        } else {
            let start = block.warp.rem(cut.parts) * length;
            let even = cut.depth % abreast == 0;
            (start, if even { length.into() } else { (Ix::Const(cut.depth) - start).min(length).max(0) })
        };
        let memory = (cut.parts > 1).then(|| block.shared(&name(symbol)));
        Panel { k, block, cut, memory, part, first, column, half: rest, row }
    }

    fn ty(&self) -> Ty {
        Ty::new(register(self.cut.sum), 1)
    }

    /// Runs the tasks. `sums` makes the sums of the warp's part by row and group with [`Panel::sums`], `finish` has those of the
    /// whole depth, for the column of the lane.
    pub(crate) fn tasks(&self, tasks: Ix<'k>, sums: impl Fn(Ix<'k>) -> Vec<V<'k>>, finish: impl Fn(Ix<'k>, &[V<'k>])) {
        let (k, parts, teams) = (self.k, self.cut.parts, self.cut.teams());
        let (block, blocks) = (super::block(k), super::blocks(k));
        let Some(memory) = self.memory else {
            return k.for_(block * WARPS + self.block.warp, tasks, blocks * WARPS, |task| finish(task, &sums(task)));
        };
        k.for_(block * teams, tasks, blocks * teams, |first| {
            let task = first + self.block.warp.div(parts);
            let there = task.lt(tasks);
            let none = || vec![k.zero(self.ty()); self.cut.sums() as usize];
            let own = k.if_else(there, || sums(task), none);
            let place = |warp: Ix<'k>, i: usize| {
                let place = (warp * self.cut.sums() + i as i64) * WARP + self.block.lane;
                memory.offset(self.ty().elem, place)
            };
            let part = self.block.warp.rem(parts);
            k.if_(part.ne(0), || own.iter().enumerate().for_each(|(i, sum)| place(self.block.warp, i).store(*sum)));
            self.block.barrier();
            k.if_(part.eq(0).and(there), || {
                let add = |(i, own): (usize, &V<'k>)| {
                    (1..parts).fold(*own, |sum, other| sum + place(self.block.warp + other, i).load(self.ty()))
                };
                finish(task, &own.iter().enumerate().map(add).collect::<Vec<_>>());
            });
            self.block.barrier();
        });
    }

    /// Calls `each` with every second row of the task, and its sums by group: the other lane has the others.
    pub(crate) fn each_row(&self, sums: &[V<'k>], each: impl Fn(Ix<'k>, &[V<'k>])) {
        let upper = self.half.eq(1).v(self.k);
        for pair in sums.chunks_exact(2 * self.cut.groups as usize).enumerate() {
            let (even, odd) = pair.1.split_at(self.cut.groups as usize);
            let own: Vec<V> = even.iter().zip(odd).map(|(even, odd)| upper.select(*odd, *even)).collect();
            each(self.half + 2 * pair.0 as i64, &own);
        }
    }

    /// The sums of this warp's part for the first `left` of the task's rows. What is beyond is anything.
    pub(crate) fn sums(&self, left: Ix<'k>, reads: &Reads<'_, 'k>) -> Vec<V<'k>> {
        let (k, all) = (self.k, self.cut.rows);
        let zeros = |rows: i64| vec![k.zero(self.ty()); ((all - rows) * self.cut.groups) as usize];
        let of = |rows: i64| {
            let mut sums = self.rows(rows, reads);
            sums.extend(zeros(rows));
            sums
        };
        match all {
            2 => k.if_else(left.le(1), || of(1), || of(2)),
            _ => k.if_else(left.le(1), || of(1), || k.if_else(left.le(2), || of(2), || of(4))),
        }
    }

    fn rows(&self, rows: i64, reads: &Reads<'_, 'k>) -> Vec<V<'k>> {
        let (k, cut) = (self.k, self.cut);
        let (ty, width, groups) = (self.ty(), cut.width(), cut.groups);
        let weight = scalar::Access { elem: cut.weight, lanes: width as u32, converts: Converts::F16AndBf16 };
        let load = |depth: Ix<'k>| -> Vec<V<'k>> {
            let weights = (0..groups).map(|g| (reads.weight)(depth, g).load_aligned(weight.memory(), VECTOR as u32));
            weights.chain((0..rows).map(|r| (reads.element)(r, depth))).collect()
        };
        let multiply = |loaded: &[V<'k>], sums: &mut [V<'k>]| {
            let (weights, elements) = loaded.split_at(groups as usize);
            for (g, raw) in weights.iter().enumerate() {
                let values = weight.from_memory(*raw).float_to(ty.elem);
                for (r, element) in elements.iter().enumerate() {
                    let at = (r as i64 * groups + g as i64) * width;
                    for j in 0..width {
                        let sum = &mut sums[(at + j) as usize];
                        *sum = element.fma(values.lane(j as u32), *sum);
                    }
                }
            }
        };
        let (start, length) = self.part;
        let row = start + self.row;
        let abreast = cut.rows_abreast();
        let mut sums = vec![k.zero(ty); (rows * groups * width) as usize];
        let mut done = Ix::Const(0);
        for together in [(UNDER_WAY / groups).max(1), 1] {
            let step = together * abreast;
            let end = done + (length - done).div(step) * step;
            sums = k.for_carry(done, end, step, &sums, |at, sums| {
                let loaded: Vec<Vec<V>> = (0..together).map(|i| load(row + at + i * abreast)).collect();
                let mut next = sums.to_vec();
                loaded.iter().for_each(|loaded| multiply(loaded, &mut next));
                next
            });
            done = end;
        }
        let rest = || {
            let there = self.row.lt(length - done);
            let zeros = || {
                let weights = (0..groups).map(|_| k.zero(weight.memory()));
                weights.chain((0..rows).map(|_| k.zero(ty))).collect()
            };
            let loaded = k.if_else(there, || load(row + done), zeros);
            let mut next = sums.clone();
            multiply(&loaded, &mut next);
            next
        };
        let sums = k.if_else(done.lt(length), rest, || sums.clone());
        sums.chunks_exact(width as usize).map(|columns| exchange(self.block, columns.to_vec(), cut.across())).collect()
    }
}

/// Adds sums over the lanes whose numbers differ in `mask` and the bits above it. The first of these bits choose which of the
/// sums, a power of two, a lane gets, each one half of those that are left.
pub(crate) fn exchange<'k>(block: Block<'k>, mut sums: Vec<V<'k>>, mut mask: i64) -> V<'k> {
    let k = block.k;
    while mask < WARP {
        let bit = block.lane.v(k) & k.int(Ty::I64, mask);
        let upper = bit.cmp(Cmp::Ne, k.int(Ty::I64, 0));
        sums = match sums.len() / 2 {
            0 => vec![sums[0] + block.shuffle(sums[0], mask)],
            half => {
                let (low, high) = sums.split_at(half);
                let pairs = low.iter().zip(high);
                pairs.map(|(a, b)| upper.select(*b, *a) + block.shuffle(upper.select(*a, *b), mask)).collect()
            }
        };
        mask *= 2;
    }
    sums[0]
}
