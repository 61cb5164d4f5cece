//! Decoding by multiply-adds, for f32. Of a warp, [`PARTS`] lanes have a key, each some of its depth, for all queries that
//! share it; then each lane has four columns of the results.

use super::{
    Place, WARPS, WIDTH, base, is_regular, power,
    ring::{Layout, Ring},
    used_rows,
};
use crate::{
    build::{Elem, Ix, K, Ptr, Ty, V},
    cpu::Converts,
    cuda::block::{CHUNK_BYTES, WARP},
    decode::Spec,
    scalar,
};
use kiln_ir::ElemType;

/// Queries of an output tile: more would take all registers.
pub(super) const ROWS: i64 = 8;
/// Bytes of the keys that a warp takes at a time, and the fewest and the most of them.
const TURN_BYTES: i64 = 2 << 10;
const KEYS: [i64; 2] = [4, 16];
/// Keys whose values are added in a row.
const UNROLL: i64 = 4;

pub(super) fn serves(spec: &Spec) -> bool {
    spec.q.elem == ElemType::F32 && is_regular(spec)
}

fn layouts(spec: &Spec) -> [Layout; 2] {
    [spec.depth, spec.value_depth].map(|depth| Layout::new(depth, spec.q.elem))
}

/// Keys that a warp takes at a time.
pub(super) fn keys(spec: &Spec) -> i64 {
    let row = layouts(spec).map(Layout::pitch).into_iter().max().unwrap_or(1) * CHUNK_BYTES;
    (TURN_BYTES / row).clamp(KEYS[0], KEYS[1])
}

fn ring(spec: &Spec) -> Ring {
    Ring { keys: keys(spec), layouts: layouts(spec) }
}

/// Rows that shares have room for.
fn share_rows(spec: &Spec) -> i64 {
    (used_rows(spec) + WIDTH - 1) / WIDTH * WIDTH
}

/// Bytes of the ring, of the shares and of the queries.
fn parts(spec: &Spec) -> [i64; 3] {
    [ring(spec).bytes(), WARPS * keys(spec) * share_rows(spec) * 4, used_rows(spec) * spec.depth * 4]
}

pub(super) fn shared(spec: &Spec) -> i64 {
    parts(spec).iter().sum()
}

pub(super) fn attend(place: &Place<'_, '_>) {
    let [ring_bytes, shares, _] = parts(place.spec);
    let each = shares / WARPS;
    Task {
        place,
        k: place.k,
        ring: ring(place.spec),
        shares: place.memory.bytes(place.block.warp * each + ring_bytes),
        queries: place.memory.bytes(ring_bytes + shares),
    }
    .run();
}

struct Task<'s, 'k> {
    place: &'s Place<'s, 'k>,
    k: K<'k>,
    ring: Ring,
    /// This warp's shares: of each key those of all rows.
    shares: Ptr<'k>,
    queries: Ptr<'k>,
}

impl<'k> Task<'_, 'k> {
    /// Lanes that have a key.
    fn lanes(&self) -> i64 {
        WARP / self.ring.keys
    }

    fn rows(&self) -> usize {
        used_rows(self.place.spec) as usize
    }

    /// The first of the lane's columns, and whether it has any.
    fn column(&self) -> (Ix<'k>, crate::build::Bool<'k>) {
        let column = self.place.block.lane * WIDTH;
        (column, column.lt(self.place.spec.value_depth))
    }

    fn run(&self) {
        let (k, rows) = (self.k, self.rows());
        self.bring_queries();
        // The results, then the maxima and the sums of all rows.
        let four = Ty::new(Elem::F32, WIDTH as u32);
        let mut init = vec![k.zero(four); rows];
        init.extend(vec![k.float(Ty::F32, f64::NEG_INFINITY); rows]);
        init.extend(vec![k.zero(Ty::F32); rows]);
        let scores = |first: Ix<'k>, keys: Ix<'k>, carried: &[V<'k>]| {
            let (results, state) = carried.split_at(rows);
            let scores = self.seen(first, self.scores(keys));
            self.shares(scores, results, state)
        };
        let add = |values: Ix<'k>, next: &[V<'k>]| {
            let (results, state) = next.split_at(rows);
            [self.add_values(results, values), state.to_vec()].concat()
        };
        let carried = self.ring.run(self.place, &init, scores, add);
        self.leave(&carried);
    }

    fn bring_queries(&self) {
        let (p, k, depth) = (self.place, self.k, self.place.spec.depth);
        let access = scalar::Access { elem: p.spec.q.elem, lanes: 1, converts: Converts::F16AndBf16 };
        let stride = p.kernel.size(&p.spec.q.strides[3]);
        k.for_(p.block.thread, used_rows(p.spec) * depth, super::THREADS, |at| {
            let (there, from) = p.query(0, &p.spec.q, at.div(depth));
            let load = || vec![access.load(from.offset(Elem::F32, at.rem(depth) * stride))];
            let query = k.if_else(there, load, || vec![k.zero(Ty::F32)])[0];
            self.queries.offset(Elem::F32, at).store(query);
        });
        p.block.barrier();
    }

    fn vector(&self, from: Ptr<'k>) -> V<'k> {
        from.load_aligned(Ty::new(Elem::F32, WIDTH as u32), CHUNK_BYTES as u32)
    }

    /// The scores of the lane's key by all rows.
    fn scores(&self, keys: Ix<'k>) -> Vec<V<'k>> {
        let (k, lanes) = (self.k, self.lanes());
        let lane = self.place.block.lane;
        let (key, part) = (lane.div(lanes), lane.rem(lanes));
        let chunks = self.place.spec.depth / WIDTH;
        let zero = vec![k.zero(Ty::F32); self.rows()];
        let add = |chunk: Ix<'k>, sums: &[V<'k>]| {
            let x = self.vector(self.place.memory.bytes(keys + self.ring.layouts[0].place(key, chunk)));
            let add = |(row, sum): (usize, &V<'k>)| {
                let at = chunk * WIDTH + row as i64 * self.place.spec.depth;
                let q = self.vector(self.queries.offset(Elem::F32, at));
                (0..WIDTH as u32).fold(*sum, |sum, i| q.lane(i).fma(x.lane(i), sum))
            };
            sums.iter().enumerate().map(add).collect::<Vec<_>>()
        };
        // Neighbouring lanes have neighbouring chunks.
        let sums = match chunks % lanes {
            0 => (0..chunks / lanes).fold(zero, |sums, i| add(part + i * lanes, &sums)),
            _ => k.for_carry(part, chunks, lanes, &zero, add),
        };
        self.place.block.combine(&sums, lanes, |a, b| a.iter().zip(b).map(|(a, b)| *a + *b).collect())
    }

    /// Scores as exponents of two, minus infinity where a query does not see the key.
    fn seen(&self, first: Ix<'k>, scores: Vec<V<'k>>) -> Vec<V<'k>> {
        let (p, k) = (self.place, self.k);
        let scale = p.scale();
        let scaled: Vec<V> = scores.iter().map(|s| *s * scale).collect();
        let key = first + p.block.lane.div(self.lanes());
        let some = || {
            let one = |(row, score): (usize, &V<'k>)| {
                let sees = key.lt(p.seen((row as i64).into()));
                sees.v(k).select(*score, score.like(f64::NEG_INFINITY))
            };
            scaled.iter().enumerate().map(one).collect()
        };
        k.if_else((first + self.ring.keys).le(p.seen_by_all()), || scaled.clone(), some)
    }

    /// Values of the lanes with all keys combined.
    fn over_keys(&self, value: V<'k>, combine: impl Fn(V<'k>, V<'k>) -> V<'k>) -> V<'k> {
        let mut mask = self.lanes();
        let mut all = value;
        while mask < WARP {
            // Of two lanes each combines the same two values, for which the order says nothing.
            all = combine(all, self.place.block.shuffle(all, mask));
            mask *= 2;
        }
        all
    }

    /// Leaves the shares of the keys in shared memory; earlier results made smaller to fit them, and the new state.
    fn shares(&self, scores: Vec<V<'k>>, results: &[V<'k>], state: &[V<'k>]) -> Vec<V<'k>> {
        let (k, rows) = (self.k, self.rows());
        let (mut next, mut maxima, mut sums, mut shares) = (vec![], vec![], vec![], vec![]);
        for (row, score) in scores.iter().enumerate() {
            let max = self.over_keys(*score, |a, b| a.max_or(b)).max_or(state[row]);
            let from = base(max);
            let share = power(*score - from);
            let scale = power(state[row] - from);
            next.push(results[row] * scale.broadcast(WIDTH as u32));
            maxima.push(max);
            sums.push(state[rows + row] * scale + share);
            shares.push(share);
        }
        shares.resize(share_rows(self.place.spec) as usize, k.zero(Ty::F32));
        let (lane, lanes) = (self.place.block.lane, self.lanes());
        k.if_(lane.rem(lanes).eq(0), || {
            for (i, four) in shares.chunks(WIDTH as usize).enumerate() {
                self.share(lane.div(lanes), i as i64 * WIDTH).store_aligned(k.vector(four), CHUNK_BYTES as u32);
            }
        });
        next.into_iter().chain(maxima).chain(sums).collect()
    }

    fn share(&self, key: Ix<'k>, row: i64) -> Ptr<'k> {
        self.shares.offset(Elem::F32, key * share_rows(self.place.spec) + row)
    }

    /// Adds values by their shares.
    fn add_values(&self, results: &[V<'k>], values: Ix<'k>) -> Vec<V<'k>> {
        let (k, (column, there)) = (self.k, self.column());
        let add = || {
            k.for_carry(0, self.ring.keys, UNROLL, results, |first, results| {
                let mut results = results.to_vec();
                for key in (0..UNROLL).map(|i| first + i) {
                    let at = self.ring.layouts[1].place(key, column.div(WIDTH));
                    let value = self.vector(self.place.memory.bytes(values + at));
                    for (i, four) in results.chunks_mut(WIDTH as usize).enumerate() {
                        let shares = self.vector(self.share(key, i as i64 * WIDTH));
                        for (j, result) in four.iter_mut().enumerate() {
                            *result = shares.lane(j as u32).broadcast(WIDTH as u32).fma(value, *result);
                        }
                    }
                }
                results
            })
        };
        k.if_else(there, add, || results.to_vec())
    }

    /// Puts what this warp has made into shared memory.
    fn leave(&self, carried: &[V<'k>]) {
        let (k, rows, to) = (self.k, self.rows(), self.place.results());
        let (warp, lane) = (self.place.block.warp, self.place.block.lane);
        let (column, there) = self.column();
        for row in 0..rows {
            let at = Ix::from(row as i64);
            let sum = self.over_keys(carried[2 * rows + row], |a, b| a + b);
            k.if_(there, || to.result(warp, at, column).store_aligned(carried[row], CHUNK_BYTES as u32));
            k.if_(lane.eq(0), || {
                to.state(0, warp, at).store(carried[rows + row]);
                to.state(1, warp, at).store(sum);
            });
        }
    }
}
