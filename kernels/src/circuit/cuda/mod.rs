//! Circuits on GPUs. A block has a tile of rows, one a lane, and goes upwards through the runs of a program: its warps share
//! the nodes, and wait for each other where a run reads what those before it have computed. A slot holds its values of all
//! rows of the tile side by side, in memory of the block. Short programs that are written out have a thread a row.
//!
//! Complete rows of deterministic circuits go along their trees ([`trees`]), where a thread has a node for all rows of the
//! tile. Queries that come back down go there as they came up, but sums of derivatives are one warp's, as only so their
//! order is always the same.

mod dense;
mod nodes;
mod trees;

use super::{
    On, Query, Spec,
    emit::{self, Scratch},
    table::{RunKind, Space},
    trace,
    walk::Walk,
};
use crate::{
    Access, Family,
    abi::{Kernel, ModuleBuilder},
    build::{Cmp, Elem, Ix, Ptr, Ty, V},
    cpu::{Converts, ONE_LANE},
    cuda::{
        self, BLOCK_THREADS, Grid,
        block::{Block, WARP},
    },
    scalar::{self, register},
    view::View,
};

/// Warps of a block, and of one that needs many registers or does a kernel as part of another.
const WARPS: i64 = 16;
const INNER_WARPS: i64 = BLOCK_THREADS as i64 / WARP;
/// Threads of a block in which each has rows of its own.
const SINGLE: i64 = 128;

/// The threads that walk together, or one for itself.
#[derive(Clone, Copy)]
pub(super) struct Team<'k> {
    block: Block<'k>,
    /// Those that share the nodes.
    pub warps: i64,
    /// Rows of the tile, and this thread's.
    pub tile: i64,
    pub row: Ix<'k>,
    /// Shared memory for dense runs.
    memory: Option<Ptr<'k>>,
}

impl<'k> Team<'k> {
    /// The first of this thread's nodes.
    pub(super) fn first(&self) -> Ix<'k> {
        if self.warps > 1 { self.block.warp } else { 0.into() }
    }

    /// Waits for the others, and for what they have written.
    pub(super) fn wait(&self) {
        if self.warps > 1 {
            self.block.barrier();
        }
    }

    /// Adds to a number that others add to.
    pub(super) fn add(&self, to: Ptr<'k>, value: V<'k>) {
        self.block.add_float(to, value);
    }

    /// Whether a flag is set for any row of the tile, where all warps have the same flags.
    fn any(&self, flag: V<'k>) -> V<'k> {
        if self.warps == 1 {
            return flag;
        }
        let any = self.block.combine(&[flag.int_to(Elem::I32, false)], WARP, |a, b| vec![a[0] | b[0]])[0];
        any.cmp(Cmp::Ne, any.like(0.0))
    }
}

/// How a kernel goes about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A thread a row.
    Single,
    Shared,
    Trees,
    /// Another kernel does it.
    Nothing,
}

impl Way {
    fn of(spec: &Spec) -> Way {
        match spec.query {
            Query::Complete { places: 0, .. } => Way::Nothing,
            Query::Complete { .. } => Way::Trees,
            _ if spec.listing.is_some() => Way::Single,
            _ => Way::Shared,
        }
    }

    fn tile(self) -> i64 {
        if self == Way::Single { SINGLE } else { WARP }
    }
}

/// Places in the memory of a block, and its bytes.
fn memory(spec: &Spec, way: Way) -> (Scratch, i64) {
    let shape = &spec.shape;
    // Logarithms that stand in for plain numbers are f64.
    let value = if shape.checked { 8 } else { shape.value.bytes() as i64 };
    let (slots, values) = match spec.query {
        Query::Evidence { .. } => (shape.slots, 0),
        Query::Complete { .. } => (0, 0),
        Query::Marginals { values, .. } => (2 * shape.slots, 1 + values),
        _ => (2 * shape.slots, 4),
    };
    let places = emit::places(shape, way.tile(), slots, value);
    let bytes = match spec.query {
        Query::Complete { places: sums, .. } => trees::bytes(shape, &places, sums),
        _ => places.bytes + shape.variables * 8 * values * way.tile(),
    };
    (places, bytes)
}

fn warps(spec: &Spec, inner: bool) -> i64 {
    let upwards = matches!(spec.query, Query::Evidence { .. } | Query::Complete { .. });
    if upwards && !inner { WARPS } else { INNER_WARPS }
}

/// The launch, alone or as part of another kernel.
pub(super) fn grid(spec: &Spec, inner: bool) -> Grid {
    let way = Way::of(spec);
    let warps = warps(spec, inner);
    let threads = if way == Way::Single { SINGLE } else { warps * WARP };
    let tasks = spec.rows.ceil_div(&way.tile().into());
    Grid { scratch_bytes: memory(spec, way).1.into(), ..Grid::new(tasks, threads as u32, 1) }
}

pub(super) fn emit(spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str) {
    let way = Way::of(spec);
    let name = format!("{symbol}_part");
    let shared = warps(spec, module.is_within_block());
    let staged = way == Way::Shared && spec.shape.has(RunKind::Dense) && spec.shape.space == Space::Linear;
    if staged {
        module.block_memory(&name, dense::BYTES);
    }
    module.cuda(symbol, spec.buffers().len(), &spec.size_args(), |entry| {
        let block = Block::new(entry.kernel.k);
        let mut kernel = entry.kernel.clone();
        kernel.scratch = kernel.scratch.bytes(cuda::block(block.k) * entry.scratch_bytes);
        let (warps, row) = if way == Way::Single { (1, block.thread) } else { (shared, block.lane) };
        let memory = staged.then(|| block.shared(&name));
        let team = Team { block, warps, tile: way.tile(), row, memory };
        match &spec.query {
            Query::Complete { output, places } if way == Way::Trees => {
                trees::complete(spec, &kernel, team, output, *places);
            }
            Query::Complete { .. } => {}
            Query::Evidence { output, incomplete } => {
                // Where the circuit is not planned for GPUs, nothing else looks after complete rows.
                evidence(spec, &kernel, team, output, *incomplete && spec.on == On::Gpu);
            }
            _ => block.tasks(entry.kernel.hi, |tile| {
                let row = tile * team.tile + team.row;
                let last = kernel.size(&spec.rows) - 1;
                let mut walk = Walk::with_team(spec, &kernel, team, memory_of(spec, way), Space::Log);
                walk.inside = row.le(last);
                trace::row(spec, &kernel, walk, row.min(last));
                team.wait();
            }),
        }
    });
}

fn memory_of(spec: &Spec, way: Way) -> Scratch {
    memory(spec, way).0
}

fn evidence<'k>(spec: &Spec, kernel: &Kernel<'k>, team: Team<'k>, output: &Access, incomplete: bool) {
    let k = kernel.k;
    let way = Way::of(spec);
    let output = View::new(kernel, spec.first_table() + 5, output, &ONE_LANE);
    let rows = kernel.size(&spec.rows);
    team.block.tasks(kernel.hi, |tile| {
        let row = tile * team.tile + team.row;
        let inside = row.lt(rows).v(k);
        let own = row.min(rows - 1);
        let walk = |space| Walk::with_team(spec, kernel, team, memory_of(spec, way), space);
        let here = walk(spec.shape.space);
        let store = |wanted: V<'k>, value: V<'k>| {
            let to = scalar::Access { elem: output.elem, lanes: 1, converts: Converts::Nothing };
            let put = || k.if_(wanted, || to.store(output.at(&[row]), value.float_to(register(output.elem))));
            here.alone(put);
        };
        let missing = here.read(own, 1.into());
        let ask = |wanted: V<'k>| {
            here.up();
            let (value, good) = emit::result(&here);
            let Some(good) = good else { return store(wanted, value) };
            store(wanted & good, value);
            let bad = wanted & (good ^ good.like(1.0));
            k.if_(team.any(bad), || {
                // All have looked at the root.
                team.wait();
                let again = walk(Space::Log);
                again.read(own, 1.into());
                again.up();
                store(bad, again.slot(spec.shape.root.into()) + again.head(1));
            });
        };
        if incomplete {
            let wanted = inside & of_all_warps(&here, missing);
            k.if_(team.any(wanted), || ask(wanted));
        } else {
            ask(inside);
        }
        team.wait();
    });
}

/// Whether any warp has set the flag of this thread's row.
fn of_all_warps<'k>(walk: &Walk<'_, 'k>, flag: V<'k>) -> V<'k> {
    let k = walk.k;
    if walk.team.is_none_or(|team| team.warps == 1) {
        return flag;
    }
    let place = walk.at(walk.places.missing).offset(Elem::I32, walk.row);
    walk.alone(|| place.store(k.int(Ty::I32, 0)));
    walk.wait();
    k.if_(flag, || walk.team.into_iter().for_each(|team| team.block.set_bits(place, k.int(Ty::I32, 1))));
    walk.wait();
    let set = place.load(Ty::I32);
    set.cmp(Cmp::Ne, set.like(0.0))
}
