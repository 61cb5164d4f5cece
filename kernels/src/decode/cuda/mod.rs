//! Decoding on GPUs by stream-K: each block that runs takes an equal run of the tiles of keys of all heads and sequences, so
//! the whole device reads keys until the end, however ragged the lengths are.
//!
//! A block that has all keys of an output tile writes the result. Otherwise those that have parts of it put maxima, sums
//! and results of their own into scratch memory and count themselves; the last one to come combines all parts in the order
//! of the keys and resets the counter. Nobody waits for anybody, so any number of blocks will do, and which block comes
//! last changes nothing: results are bitwise the same for a number of blocks.

mod fma;
mod ring;
mod tensor;

use super::{
    Spec,
    schedule::{self, Runs, Segment, Sharers},
};
use crate::{
    Access, Family,
    abi::{COUNTERS, Entry, Kernel, ModuleBuilder},
    build::{Bool, Cmp, Elem, Ix, K, Ptr, Ty, V},
    cpu::{Converts, ONE_LANE},
    cuda::{
        self, Grid,
        block::{Block, WARP},
    },
    scalar,
    view::View,
};

const WARPS: i64 = 4;
const THREADS: i64 = WARPS * WARP;
/// Queries of an output tile at most: the rows of a product on tensor cores.
const ROWS: i64 = 16;
/// Columns of results that a thread moves at once.
const WIDTH: i64 = 4;
/// The deepest queries and values.
const DEEPEST: i64 = 128;
/// Keys of a tile: what its keys and values take is large against what its bounds cost.
const TILE_BYTES: i64 = 32 << 10;

enum Way {
    /// A task a thread, as on a processor with one lane.
    Plain,
    Fma,
    Tensor,
}

impl Way {
    fn of(spec: &Spec) -> Way {
        match () {
            () if tensor::serves(spec) => Way::Tensor,
            () if fma::serves(spec) => Way::Fma,
            () => Way::Plain,
        }
    }
}

/// Whether what blocks need to know is constant, and rows of keys and values are runs of 16 bytes wherever they begin.
fn is_regular(spec: &Spec) -> bool {
    let chunk = 16 / spec.q.elem.bytes() as i64;
    let run = |access: &Access| {
        let starts = [&access.offset].into_iter().chain(&access.strides[..3]);
        access.strides[3].is(1) && starts.into_iter().all(|s| s.exact_div(&chunk.into()).is_some())
    };
    let depths = [spec.depth, spec.value_depth].iter().all(|d| (1..=DEEPEST).contains(d) && d % WIDTH == 0);
    let constant = spec.rows().as_const().is_some_and(|n| n > 0) && spec.queries.as_const().is_some();
    depths && constant && run(&spec.k) && run(&spec.v)
}

/// Queries that share a key head.
fn rows(spec: &Spec) -> i64 {
    spec.rows().as_const().expect("a constant number of rows")
}

/// Queries of an output tile.
fn tile_rows(spec: &Spec) -> i64 {
    if tensor::serves(spec) { ROWS } else { fma::ROWS }
}

/// Those that are queries where all are in one tile.
fn used_rows(spec: &Spec) -> i64 {
    rows(spec).min(tile_rows(spec))
}

/// Output tiles of a key head.
fn row_tiles(spec: &Spec) -> i64 {
    (rows(spec) + tile_rows(spec) - 1) / tile_rows(spec)
}

/// Keys of a tile, a multiple of what the warps of a block take at a time.
fn tile_keys(spec: &Spec, step: i64) -> i64 {
    let row = (spec.depth + spec.value_depth) * spec.q.elem.bytes() as i64;
    let turn = WARPS * step;
    (TILE_BYTES / row / turn).max(1) * turn
}

/// A part of an output tile in scratch memory: results, maxima and sums of its rows, in f32.
fn part_bytes(spec: &Spec) -> i64 {
    (used_rows(spec) * (spec.value_depth + 2) * 4 + 127) / 128 * 128
}

pub(super) fn grid(spec: &Spec) -> Grid {
    let step = match Way::of(spec) {
        Way::Plain => return Grid::plain(spec),
        Way::Fma => fma::keys(spec),
        Way::Tensor => tensor::keys(spec),
    };
    let outputs = spec.batch.clone() * spec.kv_heads.clone() * row_tiles(spec).into();
    let (tasks, resident) = match spec.splits {
        // No more blocks than counters take part, so more parts would never be.
        Some(n) => (outputs * n.min(COUNTERS).into(), false),
        None => (outputs * spec.keys.ceil_div(&tile_keys(spec, step).into()).max_with(&1.into()), true),
    };
    // A block may have a part of the first output tile of its run, and one of the last.
    Grid { scratch_bytes: (2 * part_bytes(spec)).into(), resident, ..Grid::new(tasks, THREADS as u32, 1) }
}

pub(super) fn emit(spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str) {
    match Way::of(spec) {
        Way::Plain => spec.emit(module, symbol, &ONE_LANE),
        Way::Fma => run(spec, module, symbol, (fma::keys(spec), fma::shared(spec)), fma::attend),
        Way::Tensor => run(spec, module, symbol, (tensor::keys(spec), tensor::shared(spec)), tensor::attend),
    }
}

/// Emits the kernel around `attend`, by which the warps of a block take `step` keys each at a time and leave their
/// [`Results`]. It needs `shared` bytes of shared memory.
fn run(
    spec: &Spec,
    module: &mut ModuleBuilder<'_>,
    symbol: &str,
    (step, shared): (i64, i64),
    attend: impl for<'s, 'k> Fn(&Place<'s, 'k>),
) {
    let name = format!("{symbol}_shared");
    module.block_memory(&name, shared.max(Results::bytes(spec)));
    module.cuda(symbol, spec.buffers().len(), &spec.size_args(), |entry| {
        let kernel = &entry.kernel;
        let block = Block::new(kernel.k);
        let worker = Worker {
            spec,
            kernel,
            k: kernel.k,
            block,
            memory: block.shared(&name),
            lengths: View::new(kernel, 3, &spec.lengths, &ONE_LANE),
            tile: tile_keys(spec, step),
            entry: &entry,
        };
        worker.run(&attend);
    });
}

/// What the warps of a block have made of their keys, in shared memory, in f32: a row of results for each row of each
/// warp, their maxima as exponents of two, and their sums.
#[derive(Clone, Copy)]
struct Results<'k> {
    memory: Ptr<'k>,
    depth: i64,
    rows: i64,
}

impl<'k> Results<'k> {
    fn pitch(depth: i64) -> i64 {
        depth + WIDTH
    }

    fn bytes(spec: &Spec) -> i64 {
        WARPS * tile_rows(spec) * (Results::pitch(spec.value_depth) + 2) * 4 + 16
    }

    fn at(&self, element: Ix<'k>) -> Ptr<'k> {
        self.memory.offset(Elem::F32, element)
    }

    fn result(&self, warp: Ix<'k>, row: Ix<'k>, column: Ix<'k>) -> Ptr<'k> {
        self.at((warp * self.rows + row) * Results::pitch(self.depth) + column)
    }

    /// The maximum of a row, or the sum.
    fn state(&self, which: i64, warp: Ix<'k>, row: Ix<'k>) -> Ptr<'k> {
        let first = WARPS * self.rows * (Results::pitch(self.depth) + which);
        self.at(warp * self.rows + row + first)
    }

    /// A word for all threads of the block.
    fn word(&self) -> Ptr<'k> {
        self.at((WARPS * self.rows * (Results::pitch(self.depth) + 2)).into())
    }
}

/// Queries of a key head of a sequence, and the keys that a block has of theirs.
struct Place<'s, 'k> {
    spec: &'s Spec,
    k: K<'k>,
    block: Block<'k>,
    memory: Ptr<'k>,
    kernel: &'s Kernel<'k>,
    batch: Ix<'k>,
    head: Ix<'k>,
    /// The first of the rows of the output tile.
    row: Ix<'k>,
    /// Valid keys of the sequence.
    length: Ix<'k>,
    /// The keys of the block.
    first: Ix<'k>,
    end: Ix<'k>,
}

impl<'k> Place<'_, 'k> {
    fn results(&self) -> Results<'k> {
        Results { memory: self.memory, depth: self.spec.value_depth, rows: tile_rows(self.spec) }
    }

    fn queries(&self) -> i64 {
        self.spec.queries.as_const().expect("a constant number of queries")
    }

    /// Whether a row of the tile is a query, and its place in a buffer of queries or results.
    fn query(&self, buffer: usize, access: &Access, row: Ix<'k>) -> (Bool<'k>, Ptr<'k>) {
        let (all, queries) = (rows(self.spec), self.queries());
        let row = self.row + row;
        let there = if all % tile_rows(self.spec) == 0 { Bool::Const(true) } else { row.lt(all) };
        let row = there.choose(row, 0);
        let head = self.head * (all / queries) + row.div(queries);
        let view = View::new(self.kernel, buffer, access, &ONE_LANE);
        (there, view.at(&[self.batch, head, row.rem(queries)]))
    }

    /// The first key that a row of the tile does not see.
    fn seen(&self, row: Ix<'k>) -> Ix<'k> {
        self.length + 1 + (self.row + row).rem(self.queries()) - self.queries()
    }

    /// The first key that some row does not see.
    fn seen_by_all(&self) -> Ix<'k> {
        self.length + 1 - self.queries()
    }

    /// What a score is multiplied by to be an exponent of two.
    fn scale(&self) -> V<'k> {
        self.k.float(Ty::F32, self.spec.scale.as_f64() * std::f64::consts::LOG2_E)
    }
}

/// `2^x`, to about two units in the last place, and 0 below the normal numbers.
fn power(x: V<'_>) -> V<'_> {
    x.builder().call_intrinsic("llvm.nvvm.ex2.approx.ftz", &[x], Ty::F32)
}

/// What is subtracted from exponents: the maximum, or 0 where nothing has been seen, as infinities would leave NaN.
fn base<'k>(max: V<'k>) -> V<'k> {
    max.cmp(Cmp::Eq, max.like(f64::NEG_INFINITY)).select(max.like(0.0), max)
}

/// A part of an output tile: where the results, the maximum and the sum of a row are.
type Part<'a, 'k> = &'a dyn Fn(Ix<'k>) -> (Ptr<'k>, [Ptr<'k>; 2]);

struct Worker<'s, 'k> {
    spec: &'s Spec,
    kernel: &'s Kernel<'k>,
    k: K<'k>,
    block: Block<'k>,
    memory: Ptr<'k>,
    lengths: View<'k>,
    /// Keys of a tile.
    tile: i64,
    entry: &'s Entry<'k>,
}

impl<'s, 'k> Worker<'s, 'k> {
    fn length(&self, batch: Ix<'k>) -> Ix<'k> {
        self.lengths.at(&[batch]).load(Ty::I64).into()
    }

    /// Output tiles of a sequence.
    fn outputs(&self) -> Ix<'k> {
        self.kernel.size(&self.spec.kv_heads) * row_tiles(self.spec)
    }

    fn tiles(&self, batch: Ix<'k>) -> Ix<'k> {
        schedule::tiles(self.length(batch), self.tile)
    }

    fn run(&self, attend: &dyn Fn(&Place<'s, 'k>)) {
        let k = self.k;
        let [batches, keys] = [&self.spec.batch, &self.spec.keys].map(|d| self.kernel.size(d));
        // A lane counts the tiles of every 32nd sequence, and lengths that are none.
        let zero = k.int(Ty::I64, 0);
        let counted = k.for_carry(self.block.lane, batches, WARP, &[zero, zero], |batch, counted| {
            let length = self.length(batch);
            let wrong = length.v(k).cmp(Cmp::Ugt, keys.v(k));
            let tiles = schedule::tiles(length, self.tile).v(k);
            vec![counted[0] + tiles, counted[1] + wrong.int_to(Elem::I64, false)]
        });
        let counted = self.block.combine(&counted, WARP, |a, b| vec![a[0] + b[0], a[1] + b[1]]);
        let tiles = Ix::from(counted[0]) * self.outputs();
        let wrong = Ix::from(counted[1]).ne(0);
        let work = || {
            match self.spec.splits {
                Some(splits) => self.parts(splits, attend),
                None => self.stream(tiles, attend),
            }
            vec![]
        };
        let refuse = || {
            self.entry.report(k.int(Ty::I32, 1));
            vec![]
        };
        k.if_else(wrong, refuse, work);
    }

    /// The run of this block of the list of all tiles.
    fn stream(&self, tiles: Ix<'k>, attend: &dyn Fn(&Place<'s, 'k>)) {
        let k = self.k;
        let runs = Runs { tiles, workers: cuda::blocks(k).min(COUNTERS) };
        // Blocks beyond the workers have runs behind the end of the list.
        let (first, end) = runs.of(cuda::block(k));
        let end = end.min(tiles);
        let ix = |v: &V<'k>| Ix::from(*v);
        // A place in the list; a sequence, and where its tiles begin.
        let init = [first.v(k), k.int(Ty::I64, 0), k.int(Ty::I64, 0)];
        let more = |state: &[V<'k>]| ix(&state[0]).lt(end).v(k);
        k.while_(&init, more, |state| {
            let at = ix(&state[0]);
            let behind = |state: &[V<'k>]| ix(&state[1]) + self.tiles(ix(&state[0])) * self.outputs();
            let found = k.while_(
                &state[1..],
                |state| behind(state).le(at).v(k),
                |state| vec![(ix(&state[0]) + 1).v(k), behind(state).v(k)],
            );
            let (batch, begin) = (ix(&found[0]), ix(&found[1]));
            let of = self.tiles(batch);
            let output = (at - begin).div(of);
            let start = begin + output * of;
            let segment = Segment::of_run((at, end), start, of);
            let sharers = |nothing| Runs { tiles: tiles + nothing, ..runs }.sharers(start, of);
            self.segment((batch, output), segment, sharers, attend);
            vec![(start + segment.end).v(k), found[0], found[1]]
        });
    }

    /// The parts of this block where each output tile is cut into `splits`.
    fn parts(&self, splits: i64, attend: &dyn Fn(&Place<'s, 'k>)) {
        let (k, per) = (self.k, self.outputs());
        let outputs = self.kernel.size(&self.spec.batch) * per;
        let (block, blocks) = (cuda::block(k), cuda::blocks(k));
        let parts = schedule::parts(splits, blocks.min(COUNTERS), outputs);
        k.for_(block, outputs * parts, blocks, |unit| {
            let (output, part) = (unit.div(parts), unit.rem(parts));
            let batch = output.div(per);
            let of = self.tiles(batch);
            let segment = Segment::of_part((part, parts), of);
            let sharers = |_| Sharers { leader: output * parts, count: parts.min(of) };
            let some = segment.first.lt(segment.end);
            k.if_(some, || self.segment((batch, output.rem(per)), segment, sharers, attend));
        });
    }

    /// Does a segment of an output tile of a sequence. `sharers` is given 0.
    fn segment(
        &self,
        (batch, output): (Ix<'k>, Ix<'k>),
        segment: Segment<'k>,
        sharers: impl FnOnce(Ix<'k>) -> Sharers<'k>,
        attend: &dyn Fn(&Place<'s, 'k>),
    ) {
        let (k, tiles) = (self.k, row_tiles(self.spec));
        let length = self.length(batch);
        // It is 0, which only the lengths tell. Otherwise all that depends on the thread alone is computed before the first
        // segment, and what is needed when one ends has registers while keys go by.
        let nothing = length.min(0);
        let thread = self.block.thread + nothing;
        let block = Block { k, thread, warp: thread.div(WARP), lane: thread.rem(WARP) };
        let place = Place {
            spec: self.spec,
            k,
            block,
            memory: self.memory,
            kernel: self.kernel,
            batch,
            head: output.div(tiles),
            row: output.rem(tiles) * tile_rows(self.spec),
            length,
            first: segment.first * self.tile,
            end: (segment.end * self.tile).min(length),
        };
        attend(&place);
        block.barrier();
        let sharers = sharers(nothing);
        let results = place.results();
        let warp = |warp: Ix<'k>, row: Ix<'k>, column: Ix<'k>| {
            (results.result(warp, row, column), [results.state(0, warp, row), results.state(1, warp, row)])
        };
        let whole = || {
            self.each(&place, |row, column| {
                let (sums, [_, sum]) = self.combine(WARPS.into(), &|n| warp(n, row, column));
                self.finish(&place, (row, column), sums, sum);
            });
            vec![]
        };
        let partly = || {
            let worker = cuda::block(k);
            let own = schedule::place(segment.first.eq(0));
            self.each(&place, |row, column| {
                let (sums, [max, sum]) = self.combine(WARPS.into(), &|n| warp(n, row, column));
                let (to, state) = self.part((worker, own), row, column);
                to.store_aligned(sums, 16);
                k.if_(column.eq(0), || [max, sum].iter().zip(state).for_each(|(v, to)| to.store(*v)));
            });
            self.last(&place, sharers, || {
                self.each(&place, |row, column| {
                    let part = |n: Ix<'k>| self.part((sharers.leader + n, schedule::place(n.eq(0))), row, column);
                    let (sums, [_, sum]) = self.combine(sharers.count, &part);
                    self.finish(&place, (row, column), sums, sum);
                });
            });
            vec![]
        };
        k.if_else(sharers.count.eq(1), whole, partly);
        block.barrier();
    }

    /// Runs `body` for the columns of the tile's queries that are this thread's, four at a time.
    fn each(&self, place: &Place<'_, 'k>, body: impl FnOnce(Ix<'k>, Ix<'k>)) {
        let across = self.spec.value_depth / WIDTH;
        let used = match row_tiles(self.spec) {
            1 => rows(self.spec).into(),
            _ => (Ix::from(rows(self.spec)) - place.row).min(tile_rows(self.spec)),
        };
        self.k.for_(place.block.thread, used * across, THREADS, |i| body(i.div(across), i.rem(across) * WIDTH));
    }

    /// A worker's part of an output tile, of which it may have two.
    fn part(&self, (worker, which): (Ix<'k>, Ix<'k>), row: Ix<'k>, column: Ix<'k>) -> (Ptr<'k>, [Ptr<'k>; 2]) {
        let (depth, used) = (self.spec.value_depth, used_rows(self.spec));
        let at = worker * self.entry.scratch_bytes + which * part_bytes(self.spec);
        let memory = self.kernel.scratch.bytes(at);
        let state = |n: i64| memory.offset(Elem::F32, row + used * (depth + n));
        (memory.offset(Elem::F32, row * depth + column), [state(0), state(1)])
    }

    /// Four columns of the results of some parts, in their order, and the maximum and the sum of the row.
    fn combine(&self, count: Ix<'k>, part: Part<'_, 'k>) -> (V<'k>, [V<'k>; 2]) {
        let k = self.k;
        let lowest = k.float(Ty::F32, f64::NEG_INFINITY);
        let max = k.for_carry(0, count, 1, &[lowest], |n, max| vec![part(n).1[0].load(Ty::F32).max_or(max[0])])[0];
        let base = base(max);
        let ty = Ty::new(Elem::F32, WIDTH as u32);
        let sums = k.for_carry(0, count, 1, &[k.zero(ty), k.zero(Ty::F32)], |n, sums| {
            let (from, [max, sum]) = part(n);
            let scale = power(max.load(Ty::F32) - base);
            let results = from.load_aligned(ty, 16).fma(scale.broadcast(WIDTH as u32), sums[0]);
            vec![results, sum.load(Ty::F32).fma(scale, sums[1])]
        });
        (sums[0], [max, sums[1]])
    }

    /// Runs `body` in the last of the workers on an output tile to come here.
    fn last(&self, place: &Place<'_, 'k>, sharers: Sharers<'k>, body: impl FnOnce()) {
        let (k, block, results) = (self.k, place.block, place.results());
        let counter = self.entry.counter(sharers.leader);
        block.fence();
        block.barrier();
        k.if_(block.thread.eq(0), || {
            block.fence();
            results.word().store(block.count(counter));
            block.fence();
        });
        block.barrier();
        let before = results.word().load(Ty::I32).int_to(Elem::I64, false);
        k.if_(Ix::from(before).eq(sharers.count - 1), || {
            block.fence();
            k.if_(block.thread.eq(0), || counter.store(k.int(Ty::I32, 0)));
            body();
        });
    }

    /// Divides by the sum and writes four columns of a query.
    fn finish(&self, place: &Place<'_, 'k>, (row, column): (Ix<'k>, Ix<'k>), results: V<'k>, sum: V<'k>) {
        let none = sum.cmp(Cmp::Eq, sum.like(0.0));
        let factor = none.select(sum.like(0.0), sum.like(1.0) / sum);
        let access = &self.spec.output;
        let (_, to) = place.query(4, access, row);
        let moves = scalar::Access { elem: access.elem, lanes: 1, converts: Converts::F16AndBf16 };
        let stride = self.kernel.size(&access.strides[3]);
        for i in 0..WIDTH {
            let to = to.offset(scalar::memory(access.elem), (column + i) * stride);
            moves.store(to, results.lane(i as u32) * factor);
        }
    }
}
