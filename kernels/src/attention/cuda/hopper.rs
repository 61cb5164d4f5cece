//! Attention on Hopper for f16 and bf16: 128 queries of a head a block. A thread has the hardware copy queries, keys and
//! values to shared memory; two groups of four warps have 64 queries each. The scores of a step are multiplied together
//! with the values of the step before, while the exponentials of one group run beside the products of the other: the groups
//! take turns in starting products. Shah et al., "FlashAttention-3" (2024).
//!
//! In shared memory lie slabs of 64 elements of depth and 128 rows.

use super::{COLUMNS, Place, QUAD, Spec, Tile};
use crate::{
    Access, Family,
    abi::{Entry, ModuleBuilder},
    build::{Ix, Ptr, Ty, V},
    cuda::{
        Grid, Swizzle, TensorMap,
        block::{Block, WARP},
        hopper::{self, DEPTH, GROUP, LAUNCH_BYTES, Layout, Left, Sums},
        ring::{Ring, Turn},
        tile,
    },
};
use kiln_ir::{Dim, ElemType};

/// Groups that have queries.
const CONSUMERS: i64 = 2;
const WARPS: i64 = CONSUMERS * GROUP / WARP;
/// One more group has a thread that copies.
const THREADS: i64 = (CONSUMERS + 1) * GROUP;
/// Registers of a thread of the group that copies, and of the others.
const FEW: i64 = 40;
const MANY: i64 = 232;
const _: () = assert!(GROUP * FEW + CONSUMERS * GROUP * MANY <= hopper::REGISTERS);
/// Queries of a block, and keys of a step.
const ROWS: i64 = CONSUMERS * hopper::ROWS;
pub(super) const TILE: Tile = Tile { queries: ROWS, keys: ROWS };
/// Depth of a slab, and its bytes.
const WIDTH: i64 = 64;
const SLAB: i64 = ROWS * WIDTH * 2;
/// Steps whose keys and values are in shared memory at a time.
const STAGES: i64 = 2;
/// The block's barrier where threads that store meet; the two groups have 1 and 2.
const STORES: i64 = 3;

/// Queries and keys, neighbours of which lie along the depth of their products, and values, across it.
const ALONG: Layout = Layout { swizzle: Swizzle::Bytes128, outer: false, across: 0 };
const ACROSS: Layout = Layout { swizzle: Swizzle::Bytes128, outer: true, across: SLAB };

/// Bytes of the queries, of the keys of a step and of its values.
fn parts(spec: &Spec) -> [i64; 3] {
    [spec.depth, spec.depth, spec.value_depth].map(|depth| depth / WIDTH * SLAB)
}

fn shared_bytes(spec: &Spec) -> i64 {
    let [q, k, v] = parts(spec);
    q + STAGES * (k + v) + Ring::barrier_bytes(1) + 2 * Ring::barrier_bytes(STAGES)
}

/// The tensor in buffer `buffer`, if it is one that the hardware copies tiles of, and the axes of its batches and heads along
/// which it goes on.
fn map(spec: &Spec, buffer: usize) -> Option<(TensorMap, Vec<usize>)> {
    let (access, heads, rows, depth): (&Access, _, _, _) = match buffer {
        0 => (&spec.q, &spec.heads, &spec.queries, spec.depth),
        1 => (&spec.k, &spec.kv_heads, &spec.keys, spec.depth),
        _ => (&spec.v, &spec.kv_heads, &spec.keys, spec.value_depth),
    };
    let (mut dims, mut strides) = (vec![depth.into(), rows.clone()], vec![access.strides[2].clone()]);
    let axes: Vec<usize> = [1, 0].into_iter().filter(|axis| !access.strides[*axis].is(0)).collect();
    for axis in &axes {
        dims.push(if *axis == 1 { heads.clone() } else { spec.batch.clone() });
        strides.push(access.strides[*axis].clone());
    }
    let mut tile = vec![WIDTH as u32, ROWS as u32];
    tile.resize(dims.len(), 1);
    let well = access.strides[3].is(1) && strides.iter().all(TensorMap::takes);
    let map = TensorMap {
        buffer,
        elem: access.elem,
        offset: access.offset.clone(),
        dims,
        strides,
        tile,
        swizzle: Swizzle::Bytes128,
    };
    well.then_some((map, axes))
}

pub(super) fn serves(spec: &Spec) -> bool {
    let elem = spec.q.elem;
    let same = [&spec.k, &spec.v].iter().all(|access| access.elem == elem);
    same && matches!(elem, ElemType::F16 | ElemType::BF16)
        && spec.output.elem != ElemType::F64
        && spec.mask.as_ref().is_none_or(|m| m.elem != ElemType::F64)
        && [spec.depth, spec.value_depth].iter().all(|depth| [WIDTH, 2 * WIDTH].contains(depth))
        && spec.queries.as_const().is_none_or(|n| n >= hopper::ROWS)
        && shared_bytes(spec) <= LAUNCH_BYTES
        && (0..3).all(|buffer| map(spec, buffer).is_some())
}

pub(super) fn grid(spec: &Spec, tasks: Dim) -> Grid {
    let maps = (0..3).filter_map(|buffer| Some(map(spec, buffer)?.0)).collect();
    Grid { shared_bytes: shared_bytes(spec) as u32, maps, ..Grid::new(tasks, THREADS as u32, 1) }
}

pub(super) fn emit(spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str) {
    let name = format!("{symbol}_shared");
    let maps: Vec<_> = (0..3).filter_map(|buffer| map(spec, buffer)).collect();
    module.launch_memory(&name);
    module.cuda(symbol, spec.buffers().len(), &spec.size_args(), |entry| {
        let block = Block::new(entry.kernel.k);
        let [q, k, v] = parts(spec);
        let queries = block.shared(&name);
        let keys = queries.bytes(q);
        let values = keys.bytes(STAGES * k);
        let barriers = values.bytes(STAGES * v);
        let ring = |stages, at: i64, count, bytes| Ring::new(block, (stages, barriers.bytes(at)), count, bytes);
        let (one, two) = (Ring::barrier_bytes(1), Ring::barrier_bytes(STAGES));
        let queries = ring(queries, 0, 1, q);
        let (keys, values) = (ring(keys, one, STAGES, k), ring(values, one + two, STAGES, v));
        Job { spec, entry: &entry, block, maps: &maps, queries, keys, values }.run();
    });
}

/// Copies a tile to shared memory, from an element on.
type Copy<'a, 'k> = &'a dyn Fn(Ptr<'k>, &[Ix<'k>]);
/// Fills a stage of a ring with the tiles of a buffer.
type Fill<'a, 'k> = &'a dyn Fn(Ring<'k>, Turn<'k>, usize, &dyn Fn(Ptr<'k>, Copy<'_, 'k>));

struct Job<'s, 'k> {
    spec: &'s Spec,
    entry: &'s Entry<'k>,
    block: Block<'k>,
    /// Those of queries, keys and values, and the axes along which they go on.
    maps: &'s [(TensorMap, Vec<usize>)],
    queries: Ring<'k>,
    keys: Ring<'k>,
    values: Ring<'k>,
}

/// What a loop over the steps carries: the results, the shares of the last step's keys as pairs, the maxima and sums of the
/// lane's two rows, and the turns of keys and values.
struct State<'k> {
    results: Vec<V<'k>>,
    pairs: Vec<V<'k>>,
    maxima: Vec<V<'k>>,
    sums: Vec<V<'k>>,
    keys: Turn<'k>,
    values: Turn<'k>,
}

impl<'k> State<'k> {
    fn carried(&self) -> Vec<V<'k>> {
        let turns = [self.keys.values(), self.values.values()].concat();
        [&self.results[..], &self.pairs, &self.maxima, &self.sums, &turns].concat()
    }

    fn from(values: &[V<'k>], results: usize) -> State<'k> {
        let (results, rest) = values.split_at(results);
        let (pairs, rest) = rest.split_at((ROWS / COLUMNS * 2) as usize);
        State {
            results: results.to_vec(),
            pairs: pairs.to_vec(),
            maxima: rest[..2].to_vec(),
            sums: rest[2..4].to_vec(),
            keys: Turn::from(&rest[4..6]),
            values: Turn::from(&rest[6..8]),
        }
    }
}

impl<'s, 'k> Job<'s, 'k> {
    fn run(&self) {
        let (k, block) = (self.block.k, self.block);
        let rings = [self.queries, self.keys, self.values];
        k.if_(block.thread.eq(0), || {
            rings.iter().for_each(|ring| ring.make(1, WARPS));
            block.show_barriers();
        });
        block.barrier();
        let statement = |body: &dyn Fn()| {
            body();
            vec![]
        };
        let copies = || {
            block.give_registers(FEW);
            let maps: Vec<TensorMap> = self.maps.iter().map(|(map, _)| map.clone()).collect();
            let by_hardware = tile::can_copy(&self.entry.kernel, &maps);
            k.if_else(by_hardware, || statement(&|| self.copy()), || statement(&|| self.store()));
        };
        k.if_else(block.thread.lt(GROUP), || statement(&copies), || statement(&|| self.attend()));
    }

    fn place(&self, task: Ix<'k>) -> Place<'s, 'k> {
        let mut place = Place::new(self.spec, &self.entry.kernel, self.block, task, TILE);
        place.scale_late();
        place
    }

    /// The turns of the three rings at first.
    fn turns(&self) -> Vec<V<'k>> {
        [self.queries, self.keys, self.values].iter().flat_map(|ring| ring.first().values()).collect()
    }

    /// What the first group does: its first thread has the hardware fill the rings.
    fn copy(&self) {
        let maps = &self.entry.maps;
        self.block.k.if_(self.block.thread.eq(0), || {
            self.fill(&|ring, turn, buffer, tiles| {
                ring.fill(turn, |to, barrier| {
                    tiles(to, &|to, at| self.block.copy_tile(to, maps[buffer], at, barrier));
                });
            });
        });
    }

    /// The same where the hardware cannot: all threads of the group do it.
    fn store(&self) {
        let thread = self.block.thread;
        self.fill(&|ring, turn, buffer, tiles| {
            ring.fill_by_group(turn, (1, STORES), |to| {
                let (map, _) = &self.maps[buffer];
                tiles(to, &|to, at| tile::copy(self.block, &self.entry.kernel, map, to, at, thread));
            });
        });
    }

    /// Goes round the rings: `fill` fills a stage of one with the tiles of a buffer that it is given.
    fn fill(&self, fill: Fill<'_, 'k>) {
        let k = self.block.k;
        self.block.tasks_carry(self.entry.kernel.hi, &self.turns(), |task, turns| {
            let place = self.place(task);
            let bring = |ring: Ring<'k>, turn: Turn<'k>, buffer: usize, first: Ix<'k>| {
                fill(ring, turn, buffer, &|to, copy| self.tiles(buffer, &place, first, to, copy));
                ring.next(turn).values()
            };
            let mut next = bring(self.queries, Turn::from(turns), 0, place.first).to_vec();
            next.extend(k.for_carry(0, place.steps(), 1, &turns[2..], |step, turns| {
                let keys = bring(self.keys, Turn::from(turns), 1, step * ROWS);
                let values = bring(self.values, Turn::from(&turns[2..]), 2, step * ROWS);
                [keys, values].concat()
            }));
            next
        });
    }

    /// Has the tiles of rows of queries, keys or values from `first` on copied.
    fn tiles(&self, buffer: usize, place: &Place<'s, 'k>, first: Ix<'k>, to: Ptr<'k>, copy: Copy<'_, 'k>) {
        let head = if buffer == 0 { place.head } else { place.kv_head };
        for slab in 0..parts(self.spec)[buffer] / SLAB {
            let mut at = vec![(slab * WIDTH).into(), first];
            at.extend(self.maps[buffer].1.iter().map(|axis| if *axis == 1 { head } else { place.batch }));
            copy(to.bytes(slab * SLAB), &at);
        }
    }

    /// What the other groups do.
    fn attend(&self) {
        let (k, block) = (self.block.k, self.block);
        block.take_registers(MANY);
        let warp = block.warp - GROUP / WARP;
        let group = warp.div(GROUP / WARP);
        // The first group starts products first.
        k.if_(group.eq(1), || block.pass(1.into(), CONSUMERS * GROUP));
        block.tasks_carry(self.entry.kernel.hi, &self.turns(), |task, turns| {
            let place = self.place(task);
            let row = place.first + warp * 16 + block.lane.div(QUAD);
            let part = Part { job: self, place: &place, group, row };
            let (queries, rest) = (Turn::from(turns), &turns[2..]);
            let from = self.queries.wait(queries).bytes(group * (hopper::ROWS * WIDTH * 2));
            let count = (self.spec.value_depth / 2) as usize;
            let some = || {
                let state = part.through(from, Turn::from(rest), Turn::from(&rest[2..]));
                [state.results, state.sums, [state.keys.values(), state.values.values()].concat()].concat()
            };
            let none = || [vec![k.zero(Ty::F32); count + 2], rest.to_vec()].concat();
            let done = k.if_else(Ix::Const(0).lt(place.steps()), some, none);
            self.queries.release(queries.stage);
            place.store(row, &done[..count], &done[count..count + 2]);
            [&self.queries.next(queries).values()[..], &done[count + 2..]].concat()
        });
    }
}

/// The queries of a group.
struct Part<'a, 's, 'k> {
    job: &'a Job<'s, 'k>,
    place: &'a Place<'s, 'k>,
    group: Ix<'k>,
    /// This lane's first query.
    row: Ix<'k>,
}

impl<'k> Part<'_, '_, 'k> {
    /// Goes through all steps, of which there is one at least.
    fn through(&self, queries: Ptr<'k>, keys: Turn<'k>, values: Turn<'k>) -> State<'k> {
        let (job, block, k) = (self.job, self.job.block, self.job.block.k);
        let count = (job.spec.value_depth / 2) as usize;
        let scores = self.scores(queries, job.keys.wait(keys));
        block.commit_products();
        let scores = block.wait_for_products(0, &scores);
        job.keys.release(keys.stage);
        let infinite = k.float(Ty::F32, f64::NEG_INFINITY);
        let mut first = State {
            results: vec![k.zero(Ty::F32); count],
            pairs: vec![],
            maxima: vec![infinite; 2],
            sums: vec![k.zero(Ty::F32); 2],
            keys: job.keys.next(keys),
            values,
        };
        let (shares, _) = self.shares(0.into(), &scores, &mut first);
        first.pairs = self.pairs(&shares);
        let carried = k.for_carry(1, self.place.steps(), 1, &first.carried(), |step, carried| {
            let mut state = State::from(carried, count);
            let (keys, values) = (job.keys.wait(state.keys), job.values.wait(state.values));
            // The groups take turns.
            block.meet(self.group + 1, CONSUMERS * GROUP);
            let scores = self.scores(queries, keys);
            block.commit_products();
            let results = self.add_values(&state, values);
            block.commit_products();
            block.pass(Ix::Const(2) - self.group, CONSUMERS * GROUP);
            let scores = block.wait_for_products(1, &scores);
            job.keys.release(state.keys.stage);
            let (shares, scales) = self.shares(step * ROWS, &scores, &mut state);
            // ptxas has products waited for as early as it can, which is behind the last branch. This wait for values that
            // are there, and are not released yet, is one: it keeps the exponentials before the other.
            let made = block.make_before(&[&shares[..], &scales, &state.sums].concat());
            let (shares, rest) = made.split_at(shares.len());
            let (scales, sums) = rest.split_at(scales.len());
            state.sums = sums.to_vec();
            job.values.wait(state.values);
            // The pairs are made of what is known when the products have ended, since those read the pairs before.
            let ended = block.wait_for_products(0, &[&results[..], shares].concat());
            job.values.release(state.values.stage);
            let (results, shares) = ended.split_at(count);
            state.results = results.iter().enumerate().map(|(i, r)| *r * scales[i % 4 / 2]).collect();
            state.pairs = self.pairs(shares);
            state.keys = job.keys.next(state.keys);
            state.values = job.values.next(state.values);
            state.carried()
        });
        let mut state = State::from(&carried, count);
        let results = self.add_values(&state, job.values.wait(state.values));
        block.commit_products();
        state.results = block.wait_for_products(0, &results);
        job.values.release(state.values.stage);
        state.values = job.values.next(state.values);
        state
    }

    fn bf16(&self) -> bool {
        self.job.spec.q.elem == ElemType::BF16
    }

    /// Starts the products of the queries with the keys of a step.
    fn scores(&self, queries: Ptr<'k>, keys: Ptr<'k>) -> Vec<V<'k>> {
        let (block, k) = (self.job.block, self.job.block.k);
        let (a, b) = (block.descriptor(queries, ALONG), block.descriptor(keys, ALONG));
        block.order_products(&[]);
        let mut scores: Option<Vec<V<'k>>> = None;
        for slab in 0..self.job.spec.depth / WIDTH {
            for step in 0..WIDTH / DEPTH {
                let further = k.int(Ty::I64, (slab * SLAB + step * ALONG.step()) / 16);
                let sums = scores.as_deref().map_or(Sums::Zero(ROWS as usize / 2), Sums::Of);
                let left = Left::Memory(a + further, false);
                scores = Some(block.start_product(self.bf16(), left, (b + further, false), sums));
            }
        }
        scores.expect("there is a slab")
    }

    /// Starts to add the values of a step by the shares of its keys.
    fn add_values(&self, state: &State<'k>, values: Ptr<'k>) -> Vec<V<'k>> {
        let (block, k) = (self.job.block, self.job.block.k);
        let b = block.descriptor(values, ACROSS);
        let ordered = block.order_products(&[&state.results[..], &state.pairs].concat());
        let (results, pairs) = ordered.split_at(state.results.len());
        let mut results = results.to_vec();
        for (step, pairs) in pairs.chunks(4).enumerate() {
            let b = b + k.int(Ty::I64, step as i64 * ACROSS.step() / 16);
            results = block.start_product(self.bf16(), Left::Registers(pairs), (b, true), Sums::Of(&results));
        }
        results
    }

    /// The query and the key of the score in register `i`, of keys from `first` on; the results lie alike.
    fn at(&self, first: Ix<'k>, i: i64) -> (Ix<'k>, Ix<'k>) {
        let column = self.job.block.lane.rem(QUAD) * 2 + (i / 4 * COLUMNS + i % 2);
        (self.row + i % 4 / 2 * 8, first + column)
    }

    /// The shares of the keys from `first` on, and what earlier results are multiplied by in each of the two rows.
    fn shares(&self, first: Ix<'k>, scores: &[V<'k>], state: &mut State<'k>) -> (Vec<V<'k>>, [V<'k>; 2]) {
        let mut shares = self.place.seen(first, scores, |i| self.at(first, i));
        let scales = std::array::from_fn(|r| {
            let places: Vec<usize> = (0..scores.len()).filter(|i| i % 4 / 2 == r).collect();
            let mut row: Vec<V> = places.iter().map(|i| shares[*i]).collect();
            let scale = self.place.share(&mut row, QUAD, [&mut state.maxima[r], &mut state.sums[r]]);
            places.iter().zip(row).for_each(|(i, share)| shares[*i] = share);
            scale
        });
        (shares, scales)
    }

    /// Shares as the left side of products: four words for every sixteen keys.
    fn pairs(&self, shares: &[V<'k>]) -> Vec<V<'k>> {
        shares.chunks(2).map(|pair| self.job.block.pair(self.bf16(), pair[0], pair[1])).collect()
    }
}
