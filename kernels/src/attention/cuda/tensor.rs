//! Attention on tensor cores, for f16 and bf16: a warp has 16 of the block's queries, whose sums stay in registers. While
//! scores are computed values are on their way, and while those are added up the next keys.
//!
//! Rows of queries, keys and values lie in shared memory as chunks of 16 bytes, a power of two of them a row, which change
//! places so that the eight of a matrix of `ldmatrix`, one above the other, are in different banks.

use super::{COLUMNS, Head, KEYS, Place, QUAD, QUERIES, Spec, TILE};
use crate::{
    abi::ModuleBuilder,
    build::{Bool, Elem, Ix, Ptr, Ty, V},
    cuda::{
        aligned,
        block::{self, Block, CHUNK, CHUNK_BYTES, SHARED_BYTES, WARP},
    },
};
use kiln_ir::ElemType;

const WARPS: i64 = 4;
pub(super) const THREADS: i64 = WARPS * WARP;
/// Queries of a warp.
const WARP_QUERIES: i64 = 16;
/// Depth of a product of tensor cores.
const STEP: i64 = 16;

/// Whether there are tensor cores and shared memory for it.
pub(super) fn serves(spec: &Spec) -> bool {
    let elem = spec.q.elem;
    let rows = [&spec.q, &spec.k, &spec.v].iter().all(|a| a.elem == elem && a.strides[3].is(1));
    let depths = [spec.depth, spec.value_depth];
    rows && matches!(elem, ElemType::F16 | ElemType::BF16)
        && spec.output.elem != ElemType::F64
        && spec.mask.as_ref().is_none_or(|m| m.elem != ElemType::F64)
        && depths.iter().all(|d| *d > 0 && d % STEP == 0)
        && shared(spec).iter().sum::<i64>() <= SHARED_BYTES
}

/// Chunks of a row in shared memory.
fn pitch(depth: i64) -> i64 {
    (depth / CHUNK).max(1).unsigned_abs().next_power_of_two() as i64
}

/// Bytes of queries, keys and values in shared memory.
fn shared(spec: &Spec) -> [i64; 3] {
    [(QUERIES, spec.depth), (KEYS, spec.depth), (KEYS, spec.value_depth)]
        .map(|(rows, depth)| rows * pitch(depth) * CHUNK_BYTES)
}

pub(super) fn emit(spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str) {
    block::kernel(spec, module, symbol, shared(spec).iter().sum(), |kernel, block, memory, task| {
        Task::new(Place::new(spec, kernel, block, task, TILE), memory).run();
    });
}

/// A matrix of rows in memory of the device, a part of which is in shared memory.
struct Rows<'k> {
    block: Block<'k>,
    from: Ptr<'k>,
    to: Ptr<'k>,
    rows: Ix<'k>,
    stride: Ix<'k>,
    depth: i64,
    aligned: Bool<'k>,
}

impl<'k> Rows<'k> {
    /// Where a chunk of a row is, in bytes.
    fn place(&self, row: Ix<'k>, chunk: Ix<'k>) -> Ix<'k> {
        let pitch = pitch(self.depth);
        let swizzle = match pitch {
            1 => Ix::Const(0),
            2 => row.div(4).rem(2),
            4 => row.div(2).rem(4),
            _ => row.rem(8),
        };
        (row * pitch + chunk.xor(swizzle)) * CHUNK_BYTES
    }

    /// Bytes of a row.
    fn row_bytes(&self) -> i64 {
        pitch(self.depth) * CHUNK_BYTES
    }

    /// Starts to bring `count` rows, of which those that there are not become zero. A thread has the same chunk of some rows.
    fn bring(&self, first: Ix<'k>, count: i64) {
        let (across, pitch) = (self.depth / CHUNK, pitch(self.depth));
        let (row, chunk) = (self.block.thread.div(pitch), self.block.thread.rem(pitch));
        let copies = || {
            self.block.copy_chunks(self.aligned, |copy| {
                for below in (0..count).step_by((THREADS / pitch) as usize) {
                    let at = first + row + below;
                    let there = at.lt(self.rows);
                    // Where nothing is read, the address has to be one all the same.
                    let source = there.choose(at, 0) * self.stride + chunk * CHUNK;
                    // Chunks lie alike every eight rows.
                    let to = self.place(row + below % 8, chunk) + below / 8 * 8 * self.row_bytes();
                    copy(self.to.bytes(to), self.from.offset(Elem::I16, source), there.choose(CHUNK, 0));
                }
            });
        };
        match across == pitch {
            true => copies(),
            false => self.block.k.if_(chunk.lt(across), copies),
        }
    }

    /// Where this lane's row of the four matrices at the beginning is, as [`Rows::fragment`] wants it.
    fn lane(&self) -> Ix<'k> {
        let (matrix, r) = (self.block.lane.div(8), self.block.lane.rem(8));
        self.place(matrix.rem(2) * 8 + r, matrix.div(2))
    }

    /// The registers of four matrices: that at a row, a multiple of 8, and an even chunk, the one below, and those a chunk
    /// further on. `lane` is what [`Rows::lane`] says; rows that are multiples of 8 may have been added.
    fn fragment(&self, lane: Ix<'k>, row: i64, chunk: i64, transposed: bool) -> Vec<V<'k>> {
        let at = self.to.bytes(lane.xor(chunk * CHUNK_BYTES)).bytes(row * self.row_bytes());
        self.block.load_matrices(at, transposed)
    }
}

struct Task<'s, 'k> {
    place: Place<'s, 'k>,
    queries: Rows<'k>,
    keys: Rows<'k>,
    values: Rows<'k>,
    /// This lane's first query.
    row: Ix<'k>,
}

impl<'s, 'k> Task<'s, 'k> {
    fn new(place: Place<'s, 'k>, memory: Ptr<'k>) -> Task<'s, 'k> {
        let (block, spec) = (place.block, place.spec);
        let [q, k, _] = shared(spec);
        let rows = |head: &Head<'k>, at: i64, rows: Ix<'k>, depth: i64| {
            let aligned = aligned(&[head.base], &[head.row * 2], CHUNK_BYTES);
            Rows { block, from: head.base, to: memory.bytes(at), rows, stride: head.row, depth, aligned }
        };
        let row = place.first + block.warp * WARP_QUERIES + block.lane.div(QUAD);
        Task {
            queries: rows(&place.q, 0, place.queries, spec.depth),
            keys: rows(&place.key, q, place.keys, spec.depth),
            values: rows(&place.value, q + k, place.keys, spec.value_depth),
            row,
            place,
        }
    }

    /// The query and the key of the score in register `i`, of keys from `first` on; the results lie alike.
    fn at(&self, first: Ix<'k>, i: i64) -> (Ix<'k>, Ix<'k>) {
        let column = self.place.block.lane.rem(QUAD) * 2 + (i / 4 * COLUMNS + i % 2);
        (self.row + i % 4 / 2 * 8, first + column)
    }

    fn run(&self) {
        let (p, k, block) = (&self.place, self.place.k, self.place.block);
        self.queries.bring(p.first, QUERIES);
        self.keys.bring(0.into(), KEYS);
        block.commit_copies();
        block.wait_for_copies(0);
        block.barrier();
        let lane = self.queries.lane() + block.warp * (WARP_QUERIES * self.queries.row_bytes());
        let queries: Vec<Vec<V>> =
            (0..p.spec.depth / STEP).map(|step| self.queries.fragment(lane, 0, step * STEP / CHUNK, false)).collect();
        let steps = p.steps();
        let results = (p.spec.value_depth / COLUMNS * 4) as usize;
        // The results, then the maxima and the sums of the lane's two rows.
        let mut carried = vec![k.zero(Ty::F32); results];
        carried.extend([f64::NEG_INFINITY, f64::NEG_INFINITY, 0.0, 0.0].map(|v| k.float(Ty::F32, v)));
        let carried = k.for_carry(0, steps, 1, &carried, |step, carried| {
            let (results, state) = carried.split_at(results);
            block.wait_for_copies(0);
            block.barrier();
            self.values.bring(step * KEYS, KEYS);
            block.commit_copies();
            let scores = p.seen(step * KEYS, &self.scores(&queries), |i| self.at(step * KEYS, i));
            block.barrier();
            k.if_((step + 1).lt(steps), || self.keys.bring((step + 1) * KEYS, KEYS));
            block.commit_copies();
            let (shares, scale, state) = self.shares(&scores, state);
            block.wait_for_copies(1);
            block.barrier();
            let scaled: Vec<V> = results.iter().enumerate().map(|(i, r)| *r * scale[i % 4 / 2]).collect();
            let mut next = self.add_values(&shares, scaled);
            next.extend(state);
            next
        });
        block.wait_for_copies(0);
        block.barrier();
        let (results, state) = carried.split_at(results);
        p.store(self.row, results, &state[2..]);
    }

    /// Products of the queries with the keys in shared memory: four a column of eight keys.
    fn scores(&self, queries: &[Vec<V<'k>>]) -> Vec<V<'k>> {
        let mut scores = vec![self.place.k.zero(Ty::F32); (KEYS / COLUMNS * 4) as usize];
        let lane = self.place.block.made_here(self.keys.lane());
        for (step, a) in queries.iter().enumerate() {
            for pair in 0..KEYS / STEP {
                let chunk = step as i64 * STEP / CHUNK;
                let b = self.keys.fragment(lane, pair * STEP, chunk, false);
                for half in 0..2 {
                    self.multiply(a, &[b[half], b[half + 2]], &mut scores[8 * pair as usize + 4 * half..][..4]);
                }
            }
        }
        scores
    }

    fn multiply(&self, a: &[V<'k>], b: &[V<'k>], sums: &mut [V<'k>]) {
        let next = self.place.block.multiply(self.place.spec.q.elem == ElemType::BF16, a, b, sums);
        sums.copy_from_slice(&next);
    }

    /// The shares of the keys, what earlier results are multiplied by in each of the two rows, and the new state.
    fn shares(&self, scores: &[V<'k>], state: &[V<'k>]) -> (Vec<V<'k>>, [V<'k>; 2], Vec<V<'k>>) {
        let (mut shares, mut state) = (scores.to_vec(), state.to_vec());
        let (maxima, sums) = state.split_at_mut(2);
        let scales = std::array::from_fn(|r| {
            let places: Vec<usize> = (0..scores.len()).filter(|i| i % 4 / 2 == r).collect();
            let mut row: Vec<V> = places.iter().map(|i| scores[*i]).collect();
            let scale = self.place.share(&mut row, QUAD, [&mut maxima[r], &mut sums[r]]);
            places.iter().zip(row).for_each(|(i, share)| shares[*i] = share);
            scale
        });
        (shares, scales, state)
    }

    /// Two floats as a pair of the type that is multiplied.
    fn pair(&self, low: V<'k>, high: V<'k>) -> V<'k> {
        self.place.block.pair(self.place.spec.q.elem == ElemType::BF16, low, high)
    }

    /// Adds the values in shared memory by their shares.
    fn add_values(&self, shares: &[V<'k>], mut results: Vec<V<'k>>) -> Vec<V<'k>> {
        let lane = self.place.block.made_here(self.values.lane());
        for step in 0..KEYS / STEP {
            let s = &shares[8 * step as usize..][..8];
            let a: Vec<V> = (0..4).map(|i| self.pair(s[2 * i], s[2 * i + 1])).collect();
            for pair in 0..self.place.spec.value_depth / STEP {
                let b = self.values.fragment(lane, step * STEP, pair * STEP / CHUNK, true);
                for half in 0..2 {
                    self.multiply(&a, &b[2 * half..][..2], &mut results[8 * pair as usize + 4 * half..][..4]);
                }
            }
        }
        results
    }
}
