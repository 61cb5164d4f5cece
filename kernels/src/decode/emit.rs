//! The task of a processor: the queries of a key head go through its keys in blocks.

use super::Spec;
use crate::{
    abi::Kernel,
    build::{Cmp, Elem, Ix, K, Ptr, Ty, V},
    cpu::Cpu,
    scalar::functions::exp_nonpositive,
    view::{Part, View, at, vectors},
};
use kiln_ir::Dim;

/// Keys of a block: its keys and values stay in the first cache. No vector has more lanes.
const KEYS: i64 = 32;
/// Rows that share a load of a key, and vectors of a row of results that are summed at once.
const ROWS: i64 = 4;
const VECTORS: i64 = 4;

/// A row of scratch memory: a query, its results, the scores of a block, the maximum and the sum.
pub(super) struct Scratch {
    bytes: i64,
    query: i64,
    results: i64,
}

impl Scratch {
    pub(super) fn new(spec: &Spec) -> Scratch {
        let whole = |depth: i64| (depth + 15) / 16 * 16;
        let bytes = if spec.is_wide() { 8 } else { 4 };
        Scratch { bytes, query: whole(spec.depth), results: whole(spec.value_depth) }
    }

    fn row(&self) -> i64 {
        self.query + self.results + KEYS + 16
    }

    pub(super) fn row_bytes(&self) -> Dim {
        (self.row() * self.bytes).into()
    }
}

pub(super) struct Task<'s, 'k> {
    spec: &'s Spec,
    kernel: &'s Kernel<'k>,
    k: K<'k>,
    scalar: Ty,
    lanes: u32,
    scratch: Scratch,
    q: View<'k>,
    keys: View<'k>,
    values: View<'k>,
    lengths: View<'k>,
    output: View<'k>,
    queries: Ix<'k>,
    rows: Ix<'k>,
}

/// A key head of a sequence.
struct Place<'k> {
    batch: Ix<'k>,
    head: Ix<'k>,
    length: Ix<'k>,
}

impl<'s, 'k> Task<'s, 'k> {
    pub(super) fn new(spec: &'s Spec, kernel: &'s Kernel<'k>, cpu: &'static Cpu) -> Self {
        let view = |i: usize, access| View::new(kernel, i, access, cpu);
        let scalar = if spec.is_wide() { Ty::new(Elem::F64, 1) } else { Ty::F32 };
        Task {
            scalar,
            lanes: cpu.lanes(scalar.elem.bits() / 8),
            scratch: Scratch::new(spec),
            q: view(0, &spec.q),
            keys: view(1, &spec.k),
            values: view(2, &spec.v),
            lengths: view(3, &spec.lengths),
            output: view(4, &spec.output),
            queries: kernel.size(&spec.queries),
            rows: kernel.size(&spec.rows()),
            spec,
            kernel,
            k: kernel.k,
        }
    }

    /// Returns the status.
    pub(super) fn run(&self) -> V<'k> {
        let (k, kernel) = (self.k, self.kernel);
        let [heads, size] = [&self.spec.kv_heads, &self.spec.keys].map(|d| kernel.size(d));
        let status = k.for_carry(kernel.lo, kernel.hi, 1, &[k.int(Ty::I32, 0)], |task, status| {
            let (batch, head) = (task.div(heads), task.rem(heads));
            let address = self.lengths.at(&[batch]);
            let length = address.load(Ty::I64);
            let fits = length.cmp(Cmp::Ule, size.v(k));
            let attend = || {
                self.attend(&Place { batch, head, length: length.into() });
                vec![status[0]]
            };
            let refuse = || {
                let first = status[0].cmp(Cmp::Eq, status[0].like(0.0));
                k.if_(first, || kernel.note_bad_index(address, length, size + 1));
                vec![k.int(Ty::I32, 1)]
            };
            k.if_else(fits, attend, refuse)
        });
        status[0]
    }

    fn vector(&self, lanes: u32) -> Ty {
        Ty::new(self.scalar.elem, lanes)
    }

    /// A place in the scratch memory of a row.
    fn at(&self, row: Ix<'k>, element: impl Into<Ix<'k>>) -> Ptr<'k> {
        at(self.kernel.scratch, self.scalar, row * self.scratch.row() + element.into())
    }

    fn result(&self, row: Ix<'k>, column: Ix<'k>) -> Ptr<'k> {
        self.at(row, column + self.scratch.query)
    }

    fn score(&self, row: Ix<'k>, key: impl Into<Ix<'k>>) -> Ptr<'k> {
        self.at(row, key.into() + (self.scratch.query + self.scratch.results))
    }

    /// The maximum, or the sum.
    fn state(&self, row: Ix<'k>, which: i64) -> Ptr<'k> {
        self.score(row, KEYS + which)
    }

    /// The query or the result of a row.
    fn of_row(&self, view: &View<'k>, place: &Place<'k>, row: Ix<'k>) -> Ptr<'k> {
        let group = self.rows.div(self.queries);
        view.at(&[place.batch, place.head * group + row.div(self.queries), row.rem(self.queries)])
    }

    fn attend(&self, place: &Place<'k>) {
        let (k, spec) = (self.k, self.spec);
        k.for_(0, self.rows, 1, |row| {
            let (from, stride) = (self.of_row(&self.q, place, row), self.q.strides[3]);
            vectors(k, (0.into(), spec.depth.into()), self.lanes, false, |column, part| {
                let query = self.q.load(self.q.step(from, column * stride), stride, part);
                self.at(row, column).store(query * spec.scale.as_f64());
            });
            vectors(k, (0.into(), spec.value_depth.into()), self.lanes, false, |column, part| {
                self.result(row, column).store(k.zero(self.vector(part.lanes())));
            });
            self.state(row, 0).store(k.float(self.scalar, f64::NEG_INFINITY));
            self.state(row, 1).store(k.zero(self.scalar));
        });
        k.for_(0, place.length, KEYS, |first| {
            let count = (place.length - first).min(KEYS);
            k.for_(0, count, 1, |key| {
                let from = self.keys.at(&[place.batch, place.head, first + key]);
                let whole = self.rows.div(ROWS) * ROWS;
                k.for_(0, whole, ROWS, |row| self.dots(from, row, ROWS, key));
                k.for_(whole, self.rows, 1, |row| self.dots(from, row, 1, key));
            });
            let values = self.values.at(&[place.batch, place.head, first]);
            k.for_(0, self.rows, 1, |row| {
                // Of the block, what the query sees.
                let end = place.length + 1 + row.rem(self.queries) - self.queries;
                let seen = (end - first).min(count).max(0);
                let scale = self.weigh(row, seen);
                self.add_values(values, row, seen, scale);
            });
        });
        k.for_(0, self.rows, 1, |row| {
            let sum = self.state(row, 1).load(self.scalar);
            let unseen = sum.cmp(Cmp::Eq, sum.like(0.0));
            let factor = unseen.select(sum.like(0.0), sum.like(1.0) / sum);
            let (to, stride) = (self.of_row(&self.output, place, row), self.output.strides[3]);
            vectors(k, (0.into(), spec.value_depth.into()), self.lanes, false, |column, part| {
                let result = self.result(row, column).load(self.vector(part.lanes()));
                let result = result * factor.broadcast(part.lanes());
                self.output.store(self.output.step(to, column * stride), stride, part, result);
            });
        });
    }

    /// The scores of a key, of the rows from `row` on.
    fn dots(&self, from: Ptr<'k>, row: Ix<'k>, rows: i64, key: Ix<'k>) {
        let (k, stride) = (self.k, self.keys.strides[3]);
        let whole = self.spec.depth / self.lanes as i64 * self.lanes as i64;
        let sums = |range: [i64; 2], lanes: u32| {
            let ty = self.vector(lanes);
            k.for_carry(range[0], range[1], lanes as i64, &vec![k.zero(ty); rows as usize], |column, sums| {
                let x = self.keys.load(self.keys.step(from, column * stride), stride, Part::All(lanes));
                let add = |(i, sum): (usize, &V<'k>)| self.at(row + i as i64, column).load(ty).fma(x, *sum);
                sums.iter().enumerate().map(add).collect()
            })
        };
        let (vectors, rest) = (sums([0, whole], self.lanes), sums([whole, self.spec.depth], 1));
        for (i, (vector, rest)) in vectors.into_iter().zip(rest).enumerate() {
            self.score(row + i as i64, key).store(vector.add_reduce() + rest);
        }
    }

    /// Makes the first `seen` scores of a row weights; returns what earlier results are multiplied by.
    fn weigh(&self, row: Ix<'k>, seen: Ix<'k>) -> V<'k> {
        let (k, ty) = (self.k, self.vector(self.lanes));
        k.for_(seen, KEYS, 1, |key| self.score(row, key).store(k.float(self.scalar, f64::NEG_INFINITY)));
        let before = self.state(row, 0).load(self.scalar);
        let places = || (0..KEYS / self.lanes as i64).map(|i| self.score(row, i * self.lanes as i64));
        // A NaN may get lost here: the weights become NaN all the same.
        let scores: Vec<V> = places().map(|from| from.load(ty)).collect();
        let largest = scores.iter().copied().reduce(|a, b| a.max_or(b)).expect("a block has keys");
        let max = largest.reduce(|a, b| a.max_or(b)).max_or(before);
        // Where nothing is seen yet 0 stands for the maximum: infinities would leave NaN.
        let nothing = max.cmp(Cmp::Eq, max.like(f64::NEG_INFINITY));
        let from = nothing.select(max.like(0.0), max);
        let weights: Vec<V> = scores.iter().map(|s| exp_nonpositive(*s - from.broadcast(self.lanes))).collect();
        let sum = weights.iter().copied().reduce(|a, b| a + b).expect("a block has keys").add_reduce();
        places().zip(&weights).for_each(|(to, weight)| to.store(*weight));
        let scale = exp_nonpositive(before - from);
        self.state(row, 0).store(max);
        self.state(row, 1).store(self.state(row, 1).load(self.scalar).fma(scale, sum));
        scale
    }

    /// Adds the values of a block to the results of a row by their weights.
    fn add_values(&self, values: Ptr<'k>, row: Ix<'k>, seen: Ix<'k>, scale: V<'k>) {
        let (k, lanes) = (self.k, self.lanes as i64);
        let (down, across) = (self.values.strides[2], self.values.strides[3]);
        let columns = |range: [i64; 2], count: i64, lanes: u32| {
            let ty = self.vector(lanes);
            let step = count * lanes as i64;
            k.for_(range[0], range[1], step, |first| {
                let place = |i: i64| first + i * lanes as i64;
                let scaled = |i: i64| self.result(row, place(i)).load(ty) * scale.broadcast(lanes);
                let sums: Vec<V> = (0..count).map(scaled).collect();
                let sums = k.for_carry(0, seen, 1, &sums, |key, sums| {
                    let weight = self.score(row, key).load_broadcast(ty);
                    let value = |i: usize| {
                        let from = self.values.step(values, key * down + place(i as i64) * across);
                        self.values.load(from, across, Part::All(lanes))
                    };
                    sums.iter().enumerate().map(|(i, sum)| weight.fma(value(i), *sum)).collect()
                });
                sums.iter().enumerate().for_each(|(i, sum)| self.result(row, place(i as i64)).store(*sum));
            });
        };
        let depth = self.spec.value_depth;
        let (wide, whole) = (depth / (VECTORS * lanes) * VECTORS * lanes, depth / lanes * lanes);
        columns([0, wide], VECTORS, self.lanes);
        columns([wide, whole], 1, self.lanes);
        columns([whole, depth], 1, 1);
    }
}
