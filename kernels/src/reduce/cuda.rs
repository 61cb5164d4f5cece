//! Reductions on GPUs. Along a row: a team of threads has a result. Across rows: a lane has a result, and each warp of a
//! block every eighth of the rows.

use super::{Spec, emit::Task};
use crate::{
    Family,
    abi::ModuleBuilder,
    access,
    build::{Ix, Ptr},
    cpu::ONE_LANE,
    cuda::{
        Grid, Sm,
        block::{self, Block, WARP},
        team::{self, Size, Team},
    },
    view::{Part, coordinates},
};

const WARPS: i64 = 8;
/// The rows of a warp from which a known number of them is kept from LLVM, which would write out the loops over them: each
/// instruction would be fetched to run once.
const UNROLLED: i64 = 64;
/// Values of a state, at most, and bytes of each.
const STATES: i64 = 2;
const STATE_BYTES: i64 = 8;

enum Way {
    /// A task a thread, as on a processor with one lane.
    Plain,
    Along(Size),
    /// With results side by side along this outer axis.
    Across(usize),
}

impl Way {
    fn of(spec: &Spec) -> Way {
        match spec.vector_axis() {
            _ if spec.reduced.is_empty() => Way::Plain,
            Some(axis) if axis < spec.outer.len() => Way::Across(axis),
            _ => Way::Along(Size::of(&access::product(&spec.reduced))),
        }
    }
}

pub(super) fn grid(spec: &Spec, _: Sm) -> Grid {
    match Way::of(spec) {
        Way::Plain => Grid::plain(spec),
        Way::Along(size) => size.grid(access::product(&spec.outer)),
        Way::Across(axis) => {
            let others = spec.outer.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, d)| d);
            let tasks = access::product(others) * spec.outer[axis].ceil_div(&WARP.into());
            Grid::new(tasks, (WARPS * WARP) as u32, 1)
        }
    }
}

pub(super) fn block_grid(spec: &Spec, sm: Sm) -> Grid {
    match Way::of(spec) {
        Way::Along(size) => size.block_grid(access::product(&spec.outer)),
        Way::Plain | Way::Across(_) => grid(spec, sm),
    }
}

pub(super) fn emit(spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str) {
    let (buffers, sizes) = (spec.buffers().len(), spec.size_args());
    match Way::of(spec) {
        Way::Plain => spec.emit(module, symbol, &ONE_LANE),
        Way::Along(size) => {
            size.shared(module, symbol);
            module.cuda(symbol, buffers, &sizes, |entry| {
                let team = Team::new(entry.kernel.k, size, symbol);
                let task = Task::new(spec, &entry.kernel, &ONE_LANE, Some(team));
                team.rows(entry.kernel.hi, |row| task.result(row));
            });
        }
        Way::Across(axis) => {
            let bytes = STATES * STATE_BYTES * WARPS * WARP;
            block::kernel(spec, module, symbol, bytes, |kernel, block, states, at| {
                across(&Task::new(spec, kernel, &ONE_LANE, None), block, states, axis, at);
            });
        }
    }
}

/// The results of a warp's lanes.
fn across<'k>(task: &Task<'_, 'k>, block: Block<'k>, states: Ptr<'k>, axis: usize, at: Ix<'k>) {
    let (k, combine) = (block.k, task.combine);
    let length = task.sizes[axis];
    let columns = length.ceil_div(WARP);
    let others: Vec<usize> = (0..task.spec.outer.len()).filter(|a| *a != axis).collect();
    let extents: Vec<Ix> = others.iter().map(|a| task.sizes[*a]).collect();
    let mut index = vec![Ix::Const(0); task.sizes.len()];
    for (axis, i) in others.iter().zip(coordinates(at.div(columns), &extents)) {
        index[*axis] = i;
    }
    index[axis] = at.rem(columns) * WARP + block.lane;
    let there = index[axis].lt(length);
    let first = task.spec.outer.len();
    let rest: Vec<usize> = (first + 1..task.sizes.len()).collect();
    let mut share = (task.sizes[first] + (WARPS - 1) - block.warp).div(WARPS);
    if task.sizes[first].as_const().is_some_and(|rows| rows > UNROLLED * WARPS) {
        share = block.unknown(share);
    }
    let sum = || {
        combine.each(k, share, 1, |i| {
            let mut index = index.clone();
            index[first] = i * WARPS + block.warp;
            task.nest(&mut index, rest.clone(), Part::All(1), Some(axis))
        })
    };
    let state = k.if_else(there, sum, || combine.neutral(k, 1));
    let place = |warp: Ix<'k>, i: usize| states.bytes(((warp * WARP + block.lane) * STATES + i as i64) * STATE_BYTES);
    state.iter().enumerate().for_each(|(i, value)| place(block.warp, i).store(team::to_memory(*value)));
    block.barrier();
    k.if_(block.warp.eq(0).and(there), || {
        let of = |warp: i64| -> Vec<_> {
            state.iter().enumerate().map(|(i, v)| team::from_memory(place(warp.into(), i), v.ty)).collect()
        };
        let total = (1..WARPS).fold(of(0), |total, warp| combine.merge(&total, &of(warp)));
        task.finish(&total, &index, Part::All(1), None);
    });
    block.barrier();
}
