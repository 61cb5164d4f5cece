//! Decoding on tensor cores, for f16 and bf16: the queries that share a key head are the rows of one product.

use super::{
    DEEPEST, Place, ROWS, base, is_regular, power,
    ring::{Layout, Ring},
};
use crate::{
    build::{Elem, Ix, K, Ty, V},
    cuda::block::{CHUNK, CHUNK_BYTES, SHARED_BYTES},
    decode::Spec,
};
use kiln_ir::ElemType;

/// Depth of a product of tensor cores, and columns of its sums.
const STEP: i64 = 16;
const COLUMNS: i64 = 8;
/// Lanes that have a row of sums.
const QUAD: i64 = 4;
/// Bytes of the keys that a warp takes at a time, and the most of them: what a key's score costs is held in registers.
const TURN_BYTES: i64 = 4 << 10;
const MOST_KEYS: i64 = 64;

const _: () = assert!(12 * DEEPEST * 2 * STEP <= SHARED_BYTES);

pub(super) fn serves(spec: &Spec) -> bool {
    let depths = [spec.depth, spec.value_depth].iter().all(|d| d % STEP == 0);
    matches!(spec.q.elem, ElemType::F16 | ElemType::BF16) && depths && is_regular(spec)
}

fn layouts(spec: &Spec) -> [Layout; 2] {
    [spec.depth, spec.value_depth].map(|depth| Layout::new(depth, spec.q.elem))
}

/// Keys that a warp takes at a time.
pub(super) fn keys(spec: &Spec) -> i64 {
    let row = layouts(spec).map(Layout::pitch).into_iter().max().unwrap_or(1) * CHUNK_BYTES;
    (TURN_BYTES / row).clamp(STEP, MOST_KEYS)
}

fn ring(spec: &Spec) -> Ring {
    Ring { keys: keys(spec), layouts: layouts(spec) }
}

pub(super) fn shared(spec: &Spec) -> i64 {
    ring(spec).bytes()
}

pub(super) fn attend(place: &Place<'_, '_>) {
    Task { place, k: place.k, bf16: place.spec.q.elem == ElemType::BF16, ring: ring(place.spec) }.run();
}

struct Task<'s, 'k> {
    place: &'s Place<'s, 'k>,
    k: K<'k>,
    bf16: bool,
    ring: Ring,
}

impl<'k> Task<'_, 'k> {
    /// The row and the column of register `i` of sums.
    fn at(&self, i: i64) -> (Ix<'k>, Ix<'k>) {
        let lane = self.place.block.lane;
        (lane.div(QUAD) + i % 4 / 2 * 8, lane.rem(QUAD) * 2 + (i / 4 * COLUMNS + i % 2))
    }

    fn run(&self) {
        let (p, k) = (self.place, self.k);
        let queries = self.queries();
        let count = (p.spec.value_depth / COLUMNS * 4) as usize;
        // The results, then the maxima and the sums of the lane's two rows.
        let mut init = vec![k.zero(Ty::F32); count];
        init.extend([f64::NEG_INFINITY, f64::NEG_INFINITY, 0.0, 0.0].map(|v| k.float(Ty::F32, v)));
        let scores = |first: Ix<'k>, keys: Ix<'k>, carried: &[V<'k>]| {
            let (results, state) = carried.split_at(count);
            let scores = self.seen(first, self.scores(&queries, keys));
            self.shares(scores, results, state)
        };
        let add = |values: Ix<'k>, scored: &[V<'k>]| {
            let (shares, next) = scored.split_at((self.ring.keys / 2) as usize);
            let (results, state) = next.split_at(count);
            [self.add_values(shares, results, values), state.to_vec()].concat()
        };
        let carried = self.ring.run(p, &init, scores, add);
        self.leave(&carried[..count], &carried[count..]);
    }

    /// The registers of the queries, 16 of their depth at a time.
    fn queries(&self) -> Vec<Vec<V<'k>>> {
        let (p, k) = (self.place, self.k);
        let half = Ty::new(Elem::I16, 1);
        let stride = p.kernel.size(&p.spec.q.strides[3]);
        let count = p.spec.depth / STEP;
        let row = |r: i64| {
            let (there, from) = p.query(0, &p.spec.q, self.at(2 * r).0);
            let column = |i: i64| {
                // Of each 16, two neighbours and those eight further on.
                let from = from.offset(Elem::I16, (self.at(0).1 + i * COLUMNS) * stride);
                let [low, high] =
                    [0, 1].map(|j| from.offset(Elem::I16, stride * j).load(half).int_to(Elem::I32, false));
                low | high.shl(16)
            };
            let words = || (0..2 * count).map(column).collect();
            k.if_else(there, words, || vec![k.int(Ty::I32, 0); 2 * count as usize])
        };
        let rows = [row(0), row(1)];
        let step = |s: usize| vec![rows[0][2 * s], rows[1][2 * s], rows[0][2 * s + 1], rows[1][2 * s + 1]];
        (0..count as usize).map(step).collect()
    }

    /// The registers of four matrices at a place in shared memory, of which the first begins at `row` and `chunk`, the
    /// second eight rows further down or a chunk further on, as `down` says, the third the other way, and the fourth both.
    fn fragment(&self, from: Ix<'k>, layout: Layout, (row, chunk): (i64, i64), down: bool) -> Vec<V<'k>> {
        let block = self.place.block;
        let (matrix, r) = (block.lane.div(8), block.lane.rem(8));
        let (low, high) = (matrix.rem(2), matrix.div(2));
        let (below, beside) = if down { (low, high) } else { (high, low) };
        let at = layout.beside(from + layout.place(below * 8 + r, beside), row, chunk);
        block.load_matrices(self.place.memory.bytes(at), down)
    }

    fn multiply(&self, a: &[V<'k>], b: &[V<'k>], sums: &mut [V<'k>]) {
        let next = self.place.block.multiply(self.bf16, a, b, sums);
        sums.copy_from_slice(&next);
    }

    /// Products of the queries with keys: four a column of eight keys.
    fn scores(&self, queries: &[Vec<V<'k>>], keys: Ix<'k>) -> Vec<V<'k>> {
        let mut scores = vec![self.k.zero(Ty::F32); (self.ring.keys / 2) as usize];
        for (step, a) in queries.iter().enumerate() {
            for pair in 0..self.ring.keys / STEP {
                let from = (pair * STEP, step as i64 * STEP / CHUNK);
                let b = self.fragment(keys, self.ring.layouts[0], from, false);
                for half in 0..2 {
                    self.multiply(a, &b[2 * half..][..2], &mut scores[8 * pair as usize + 4 * half..][..4]);
                }
            }
        }
        scores
    }

    /// Scores as exponents of two, minus infinity where a query does not see the key.
    fn seen(&self, first: Ix<'k>, scores: Vec<V<'k>>) -> Vec<V<'k>> {
        let (p, k) = (self.place, self.k);
        let scale = p.scale();
        let scaled: Vec<V> = scores.iter().map(|s| *s * scale).collect();
        let some = || {
            let ends = [0, 2].map(|i| p.seen(self.at(i).0));
            let one = |(i, score): (usize, &V<'k>)| {
                let sees = (first + self.at(i as i64).1).lt(ends[i % 4 / 2]);
                sees.v(k).select(*score, score.like(f64::NEG_INFINITY))
            };
            scaled.iter().enumerate().map(one).collect()
        };
        k.if_else((first + self.ring.keys).le(p.seen_by_all()), || scaled.clone(), some)
    }

    /// The shares of keys, earlier results made smaller to fit them, and the new state.
    fn shares(&self, mut scores: Vec<V<'k>>, results: &[V<'k>], state: &[V<'k>]) -> Vec<V<'k>> {
        let mut state = state.to_vec();
        let scales: [V; 2] = std::array::from_fn(|r| {
            let mine: Vec<usize> = (0..scores.len()).filter(|i| i % 4 / 2 == r).collect();
            let own = mine.iter().map(|i| scores[*i]).reduce(|a, b| a.max_or(b)).expect("a row has scores");
            let all = self.place.block.combine(&[own], QUAD, |a, b| vec![a[0].max_or(b[0])])[0].max_or(state[r]);
            let from = base(all);
            mine.iter().for_each(|i| scores[*i] = power(scores[*i] - from));
            let scale = power(state[r] - from);
            state[2 + r] = mine.iter().fold(state[2 + r] * scale, |sum, i| sum + scores[*i]);
            state[r] = all;
            scale
        });
        let scaled = results.iter().enumerate().map(|(i, result)| *result * scales[i % 4 / 2]);
        scores.into_iter().chain(scaled).chain(state).collect()
    }

    /// Adds values by their shares.
    fn add_values(&self, shares: &[V<'k>], results: &[V<'k>], values: Ix<'k>) -> Vec<V<'k>> {
        let mut results = results.to_vec();
        for (step, s) in shares.chunks(8).enumerate() {
            let a: Vec<V> = s.chunks(2).map(|pair| self.place.block.pair(self.bf16, pair[0], pair[1])).collect();
            for pair in 0..self.place.spec.value_depth / STEP {
                let from = (step as i64 * STEP, pair * STEP / CHUNK);
                let b = self.fragment(values, self.ring.layouts[1], from, true);
                for half in 0..2 {
                    self.multiply(&a, &b[2 * half..][..2], &mut results[8 * pair as usize + 4 * half..][..4]);
                }
            }
        }
        results
    }

    /// Puts what this warp has made into shared memory.
    fn leave(&self, results: &[V<'k>], state: &[V<'k>]) {
        let (block, to) = (self.place.block, self.place.results());
        let sums = block.combine(&state[2..], QUAD, |a, b| a.iter().zip(b).map(|(a, b)| *a + *b).collect());
        for (i, result) in results.iter().enumerate() {
            let (row, column) = self.at(i as i64);
            to.result(block.warp, row, column).store(*result);
        }
        self.k.if_(block.lane.rem(QUAD).eq(0), || {
            for r in 0..2 {
                let row = self.at(2 * r as i64).0;
                to.state(0, block.warp, row).store(state[r]);
                to.state(1, block.warp, row).store(sums[r]);
            }
        });
    }
}

const _: () = assert!(ROWS == STEP);
