//! Attention by multiply-adds, for all floats but f64: 256 threads as a square of 16 by 16, each of which has 4 by 4 scores
//! and results. Queries, keys and values go through shared memory in slices of their depth.

use super::{Head, KEYS, Place, QUERIES, Spec, TILE};
use crate::{
    abi::ModuleBuilder,
    build::{Elem, Ix, Ptr, Ty, V},
    cuda::{aligned, block},
    scalar,
};
use kiln_ir::ElemType;

const SIDE: i64 = 16;
pub(super) const THREADS: i64 = SIDE * SIDE;
/// Scores and results of a thread along each side, and elements that it moves at once.
const WIDTH: i64 = 4;
/// The depth of a slice of queries and keys, and the columns of one of values.
const SLICE: i64 = 32;
const COLUMNS: i64 = 64;
/// Elements of a row in shared memory: a few more, so that rows do not begin in the same bank.
const PITCH: i64 = 64 + 4;
/// Products that are written out in a row.
const UNROLL: i64 = 8;
/// Results that registers hold.
const DEEPEST: i64 = 256;

const _: () = assert!(QUERIES == SIDE * WIDTH && KEYS == SIDE * WIDTH && COLUMNS == SIDE * WIDTH);

pub(super) fn serves(spec: &Spec) -> bool {
    !spec.is_wide() && spec.value_depth <= DEEPEST && spec.output.elem != ElemType::F64
}

/// Elements of slices of queries and keys, or of values, and of the shares.
const SLICES: i64 = 2 * SLICE * PITCH;
const SHARES: i64 = KEYS * PITCH;
const _: () = assert!(SLICES >= KEYS * PITCH);

pub(super) fn emit(spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str) {
    block::kernel(spec, module, symbol, 4 * (SLICES + SHARES), |kernel, block, memory, task| {
        let (down, across) = (block.thread.div(SIDE) * WIDTH, block.thread.rem(SIDE) * WIDTH);
        let place = Place::new(spec, kernel, block, task, TILE);
        Task { place, memory, down, across }.run();
    });
}

struct Task<'s, 'k> {
    place: Place<'s, 'k>,
    memory: Ptr<'k>,
    /// The first row and column of this thread's squares.
    down: Ix<'k>,
    across: Ix<'k>,
}

impl<'k> Task<'_, 'k> {
    fn at(&self, element: impl Into<Ix<'k>>) -> Ptr<'k> {
        self.memory.offset(Elem::F32, element)
    }

    fn vector(&self, element: Ix<'k>) -> Vec<V<'k>> {
        let v = self.at(element).load_aligned(Ty::new(Elem::F32, WIDTH as u32), 16);
        (0..WIDTH as u32).map(|i| v.lane(i)).collect()
    }

    fn put(&self, element: Ix<'k>, values: &[V<'k>]) {
        self.at(element).store_aligned(self.place.k.vector(values), 16);
    }

    fn run(&self) {
        let (p, k) = (&self.place, self.place.k);
        let slices = (p.spec.value_depth + COLUMNS - 1) / COLUMNS;
        let results = (slices * WIDTH * WIDTH) as usize;
        // The results slice by slice and row by row, then the maxima and the sums of the rows.
        let mut carried = vec![k.zero(Ty::F32); results];
        carried.extend(vec![k.float(Ty::F32, f64::NEG_INFINITY); WIDTH as usize]);
        carried.extend(vec![k.zero(Ty::F32); WIDTH as usize]);
        let carried = k.for_carry(0, p.steps(), 1, &carried, |step, carried| {
            let (results, state) = carried.split_at(results);
            let first = step * KEYS;
            let mut scores = p.seen(first, &self.scores(first), |i| {
                (p.first + self.down + i / WIDTH, first + self.across + i % WIDTH)
            });
            let (maxima, sums) = state.split_at(WIDTH as usize);
            let (mut maxima, mut sums) = (maxima.to_vec(), sums.to_vec());
            let rows = scores.chunks_mut(WIDTH as usize).zip(maxima.iter_mut().zip(&mut sums));
            let scales: Vec<V> = rows.map(|(row, (max, sum))| p.share(row, SIDE, [max, sum])).collect();
            for j in 0..WIDTH {
                let column: Vec<V> = (0..WIDTH).map(|i| scores[(i * WIDTH + j) as usize]).collect();
                self.put((self.across + j) * PITCH + SLICES + self.down, &column);
            }
            let scaled = |(i, r): (usize, &V<'k>)| *r * scales[i % (WIDTH * WIDTH) as usize / WIDTH as usize];
            let mut next: Vec<V> = results.iter().enumerate().map(scaled).collect();
            for (slice, results) in next.chunks_mut((WIDTH * WIDTH) as usize).enumerate() {
                self.add_values(first, slice as i64 * COLUMNS, results);
            }
            next.extend(maxima);
            next.extend(sums);
            next
        });
        let (results, state) = carried.split_at(results);
        let shares = p.finish(&state[WIDTH as usize..], SIDE);
        for (n, result) in results.iter().enumerate() {
            let n = n as i64;
            let (slice, i, j) = (n / (WIDTH * WIDTH), n % (WIDTH * WIDTH) / WIDTH, n % WIDTH);
            let (row, column) = (p.first + self.down + i, self.across + (slice * COLUMNS + j));
            k.if_(row.lt(p.queries).and(column.lt(p.spec.value_depth)), || {
                p.output.access.store(p.output.at(row, column), *result * shares[i as usize]);
            });
        }
    }

    /// Four neighbours of a row; 0 where there are none.
    fn get(&self, from: &Head<'k>, (row, rows): (Ix<'k>, Ix<'k>), (column, columns): (Ix<'k>, i64)) -> Vec<V<'k>> {
        let k = self.place.k;
        let bytes = from.access.elem.bytes() as i64;
        let there = row.lt(rows);
        let mut whole = there.and((column + WIDTH).le(columns));
        match from.column.is(1) {
            true => whole = whole.and(aligned(&[from.base], &[from.row * bytes], WIDTH * bytes)),
            false => whole = false.into(),
        }
        let vector = || {
            let access = scalar::Access { lanes: WIDTH as u32, ..from.access };
            vec![access.from_memory(from.at(row, column).load_aligned(access.memory(), (WIDTH * bytes) as u32))]
        };
        let single = || {
            let element = |i: i64| {
                let load = || vec![from.access.load(from.at(row, column + i))];
                k.if_else(there.and((column + i).lt(columns)), load, || vec![k.zero(Ty::F32)])[0]
            };
            vec![k.vector(&(0..WIDTH).map(element).collect::<Vec<_>>())]
        };
        // Joined as vectors, or both sides become the same loads one by one.
        let all = k.if_else(whole, vector, single)[0];
        (0..WIDTH as u32).map(|i| all.lane(i)).collect()
    }

    /// Products of the block's queries with the keys from `first` on.
    fn scores(&self, first: Ix<'k>) -> Vec<V<'k>> {
        let (p, k) = (&self.place, self.place.k);
        let depth = p.spec.depth;
        let across = SLICE / WIDTH;
        let (row, column) = (p.block.thread.div(across), p.block.thread.rem(across) * WIDTH);
        let zero = vec![k.zero(Ty::F32); (WIDTH * WIDTH) as usize];
        k.for_carry(0, depth, SLICE, &zero, |slice, sums| {
            // Everybody has done with what was there.
            p.block.barrier();
            for part in 0..QUERIES / (THREADS / across) {
                let row = row + part * (THREADS / across);
                let q = self.get(&p.q, (p.first + row, p.queries), (slice + column, depth));
                let key = self.get(&p.key, (first + row, p.keys), (slice + column, depth));
                for (i, (q, key)) in q.iter().zip(&key).enumerate() {
                    let to = (column + i as i64) * PITCH + row;
                    self.at(to).store(*q);
                    self.at(to + SLICE * PITCH).store(*key);
                }
            }
            p.block.barrier();
            self.multiply(SLICE, (0.into(), SLICE * PITCH), sums)
        })
    }

    /// Adds the values of the keys from `first` on, columns from `column` on, by their shares.
    fn add_values(&self, first: Ix<'k>, column: i64, results: &mut [V<'k>]) {
        let p = &self.place;
        p.block.barrier();
        for part in 0..KEYS / SIDE {
            let row = p.block.thread.div(SIDE) + part * SIDE;
            let of = (self.across + column, p.spec.value_depth);
            self.put(row * PITCH + self.across, &self.get(&p.value, (first + row, p.keys), of));
        }
        p.block.barrier();
        let sums = self.multiply(KEYS, (SLICES.into(), 0), results);
        results.copy_from_slice(&sums);
    }

    /// Adds products of the rows that begin at two places.
    fn multiply(&self, count: i64, (a, b): (Ix<'k>, i64), sums: &[V<'k>]) -> Vec<V<'k>> {
        self.place.k.for_carry(0, count, UNROLL, sums, |first, sums| {
            let mut sums = sums.to_vec();
            for i in 0..UNROLL {
                let row = (first + i) * PITCH;
                let (a, b) = (self.vector(row + a + self.down), self.vector(row + b + self.across));
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = a[n / WIDTH as usize].fma(b[n % WIDTH as usize], *sum);
                }
            }
            sums
        })
    }
}
