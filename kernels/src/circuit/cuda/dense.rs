//! Dense runs: weights times children, a part of the children at a time in shared memory, from which a warp makes a few sums of
//! all rows. The children of a sum are added in their order.

use super::{
    super::{runs::Fields, walk::Walk},
    WARP,
};
use crate::build::{Ix, Ptr, Ty, V};

/// Sums of a warp, and of a part.
const SUMS: i64 = 4;
const BLOCK_SUMS: i64 = 64;
/// Children of a part, and those that the code of the loop is written out for.
const CHILDREN: i64 = 32;
const UNROLLED: i64 = 4;

const WEIGHTS: i64 = CHILDREN * BLOCK_SUMS;

/// Bytes of a part: weights and values.
pub(super) const BYTES: i64 = (WEIGHTS + CHILDREN * WARP) * 8;

impl<'k> Walk<'_, 'k> {
    pub(super) fn dense_together(&self, run: &Fields<'k>) {
        let Some(team) = self.team else { return };
        let Some(memory) = team.memory else { return };
        let (k, elem, block, warps) = (self.k, self.elem, team.block, team.warps);
        // Of a part, where fewer warps than usual have it.
        let block_sums = BLOCK_SUMS.min(SUMS * warps);
        let threads = warps * WARP;
        let weight_at = |child: Ix<'k>, sum: Ix<'k>| memory.offset(elem, child * block_sums + sum);
        let value_at = |child: Ix<'k>| memory.offset(elem, child * WARP + WEIGHTS + block.lane);
        let zero = self.zero();
        k.for_(0, run.count, block_sums, |first| {
            let width = (run.count - first).min(block_sums);
            let mine = block.warp * SUMS;
            let start = vec![zero; SUMS as usize];
            let sums = k.for_carry(0, run.fan, CHILDREN, &start, |before, sums| {
                let here = (run.fan - before).min(CHILDREN);
                // The part before has been used by all.
                self.wait();
                for turn in 0..CHILDREN * block_sums / threads {
                    let at = block.thread + turn * threads;
                    let (child, sum) = (at.div(block_sums), at.rem(block_sums));
                    let from = (before + child.min(here - 1)) * run.count + first + sum.min(width - 1);
                    let weight = self.values(self.number_at(run.number + from), 1);
                    let there = child.lt(here).and(sum.lt(width)).v(k);
                    memory.offset(elem, at).store(there.select(weight, zero));
                }
                for turn in 0..CHILDREN / warps {
                    let child = block.warp + turn * warps;
                    let value = self.slot(self.index(run.index + before + child.min(here - 1)));
                    value_at(child).store(child.lt(here).v(k).select(value, zero));
                }
                self.wait();
                let used = here.ceil_div(UNROLLED) * UNROLLED;
                let multiply = || {
                    k.for_carry(0, used, UNROLLED, sums, |child, sums| {
                        (0..UNROLLED).fold(sums.to_vec(), |sums, i| {
                            let value = value_at(child + i).load(Ty::new(elem, 1));
                            let weights = four(weight_at(child + i, mine), Ty::new(elem, 1));
                            sums.iter().zip(weights).map(|(sum, weight)| value.fma(weight, *sum)).collect()
                        })
                    })
                };
                k.if_else(mine.lt(width), multiply, || sums.to_vec())
            });
            for (i, sum) in sums.into_iter().enumerate() {
                let at = mine + i as i64;
                k.if_(at.lt(width), || self.set_slot(run.to + first + at, sum));
            }
        });
    }
}

/// Four neighbours, 16 bytes at a time.
fn four<'k>(from: Ptr<'k>, ty: Ty) -> Vec<V<'k>> {
    let lanes = 128 / ty.elem.bits();
    let part = |at: u32| {
        let loaded = from.offset(ty.elem, i64::from(at)).load_aligned(Ty::new(ty.elem, lanes), 16);
        (0..lanes).map(move |i| loaded.lane(i))
    };
    (0..SUMS as u32).step_by(lanes as usize).flat_map(part).collect()
}
