//! Stages in shared memory that one thread fills and warps empty, going round: each has a barrier that says it is full and
//! one that says it is empty.

use super::{
    block::Block,
    hopper::{BARRIER_BYTES, GROUP},
};
use crate::build::{Ix, Ptr, Ty, V};

/// The ring of a block.
#[derive(Clone, Copy)]
pub struct Ring<'k> {
    block: Block<'k>,
    /// Where the stages begin, and where the barriers do.
    stages: Ptr<'k>,
    barriers: Ptr<'k>,
    count: i64,
    stage_bytes: i64,
}

/// A stage, and the parity of the phase in which it is filled: i64 and i32, both 0 at first.
#[derive(Clone, Copy)]
pub struct Turn<'k> {
    pub stage: Ix<'k>,
    pub parity: V<'k>,
}

impl<'k> Turn<'k> {
    /// From the values that a loop carries.
    pub fn from(values: &[V<'k>]) -> Turn<'k> {
        Turn { stage: Ix::Value(values[0]), parity: values[1] }
    }

    pub fn values(self) -> [V<'k>; 2] {
        [self.stage.v(self.parity.builder()), self.parity]
    }
}

impl<'k> Ring<'k> {
    /// Bytes of its barriers.
    pub const fn barrier_bytes(count: i64) -> i64 {
        2 * count * BARRIER_BYTES
    }

    pub fn new(block: Block<'k>, (stages, barriers): (Ptr<'k>, Ptr<'k>), count: i64, stage_bytes: i64) -> Ring<'k> {
        Ring { block, stages, barriers, count, stage_bytes }
    }

    /// Makes the barriers, for so many that arrive at a full stage and warps that empty one. One thread does it; then come
    /// [`Block::show_barriers`] and a meeting of the block.
    pub fn make(&self, fillers: i64, warps: i64) {
        for stage in 0..self.count {
            self.block.make_barrier(self.full(stage.into()), fillers);
            self.block.make_barrier(self.empty(stage.into()), warps);
        }
    }

    pub fn first(&self) -> Turn<'k> {
        Turn { stage: Ix::Value(self.block.k.int(Ty::I64, 0)), parity: self.block.k.int(Ty::I32, 0) }
    }

    pub fn next(&self, turn: Turn<'k>) -> Turn<'k> {
        let next = turn.stage + 1;
        let round = next.eq(self.count);
        let turned = turn.parity ^ self.block.k.int(Ty::I32, 1);
        Turn { stage: round.choose(0, next), parity: round.v(self.block.k).select(turned, turn.parity) }
    }

    pub fn stage(&self, stage: Ix<'k>) -> Ptr<'k> {
        self.stages.bytes(stage * self.stage_bytes)
    }

    /// The barrier of a stage that waits for those who fill it.
    pub fn full(&self, stage: Ix<'k>) -> Ptr<'k> {
        self.barriers.bytes(stage * BARRIER_BYTES)
    }

    fn empty(&self, stage: Ix<'k>) -> Ptr<'k> {
        self.barriers.bytes((stage + self.count) * BARRIER_BYTES)
    }

    /// Waits until the stage is empty and fills it: `copies` starts copies to it of all its bytes, which arrive at a barrier.
    pub fn fill(&self, turn: Turn<'k>, copies: impl FnOnce(Ptr<'k>, Ptr<'k>)) {
        self.wait_empty(turn);
        self.block.arrive_for(self.full(turn.stage), self.stage_bytes);
        copies(self.stage(turn.stage), self.full(turn.stage));
    }

    /// Waits until the stage is empty.
    pub fn wait_empty(&self, turn: Turn<'k>) {
        let other = turn.parity ^ self.block.k.int(Ty::I32, 1);
        self.block.wait(self.empty(turn.stage), other);
    }

    /// The same by all threads of a group, by stores, the first for all `fillers`. They meet at the block's barrier `number`.
    pub fn fill_by_group(&self, turn: Turn<'k>, (fillers, number): (i64, i64), stores: impl FnOnce(Ptr<'k>)) {
        let (k, block) = (self.block.k, self.block);
        self.wait_empty(turn);
        stores(self.stage(turn.stage));
        block.show_stores();
        block.meet(number.into(), GROUP);
        k.if_(block.thread.eq(0), || (0..fillers).for_each(|_| block.arrive(self.full(turn.stage))));
    }

    /// Waits until the stage is full.
    pub fn wait(&self, turn: Turn<'k>) -> Ptr<'k> {
        self.block.wait(self.full(turn.stage), turn.parity);
        self.stage(turn.stage)
    }

    /// Says for this warp that it is done with a stage.
    pub fn release(&self, stage: Ix<'k>) {
        self.block.k.if_(self.block.lane.eq(0), || self.block.arrive(self.empty(stage)));
    }

    /// The stage before this one.
    pub fn before(&self, turn: Turn<'k>) -> Ix<'k> {
        turn.stage.eq(0).choose(self.count - 1, turn.stage - 1)
    }
}
