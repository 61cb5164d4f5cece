//! Upwards through all runs.

use super::{
    table::{RUN_FIELDS, Run, RunKind},
    walk::Walk,
};
use crate::{
    build::{Bool, Cmp, Elem, Ix, Ty, V},
    scalar::functions,
    view::vectors,
};

/// Nodes with this many terms, or factors, at most have code of their own.
const UNROLLED: i64 = 4;

/// The fields of a run.
#[derive(Clone, Copy)]
pub(super) struct Fields<'k> {
    pub kind: V<'k>,
    pub count: Ix<'k>,
    pub fan: Ix<'k>,
    pub to: Ix<'k>,
    pub index: Ix<'k>,
    pub number: Ix<'k>,
    /// Whether all slots of the runs before must be there.
    pub waits: Bool<'k>,
    /// A number that tells runs apart.
    pub turn: Ix<'k>,
}

impl<'k> Fields<'k> {
    /// The fields of an encoded run.
    pub(super) fn of(words: &[V<'k>]) -> Fields<'k> {
        let [count, fan, to, index, number, waits] = [1, 2, 3, 4, 5, 6].map(|i| words[i].to_index(false));
        Fields { kind: words[0], count, fan, to, index, number, waits: waits.ne(0), turn: 0.into() }
    }
}

impl<'k> Walk<'_, 'k> {
    pub(super) fn fields(&self, run: Ix<'k>) -> Fields<'k> {
        let field = |i: i64| self.runs.offset(Elem::I32, run * RUN_FIELDS + i).load(Ty::I32);
        Fields::of(&(0..RUN_FIELDS).map(field).collect::<Vec<_>>())
    }

    /// Calls `body` with the kind that the run has, of those that occur.
    pub(super) fn by_kind(&self, kind: V<'k>, body: &dyn Fn(RunKind)) {
        self.choose(kind, &self.spec.shape.kinds, body);
    }

    fn choose(&self, kind: V<'k>, kinds: &[RunKind], body: &dyn Fn(RunKind)) {
        match kinds {
            [] => {}
            [last] => body(*last),
            [first, rest @ ..] => {
                let is = kind.cmp(Cmp::Eq, self.k.int(Ty::I32, *first as i64));
                let yes = || {
                    body(*first);
                    vec![]
                };
                let no = || {
                    self.choose(kind, rest, body);
                    vec![]
                };
                self.k.if_else(is, yes, no);
            }
        }
    }

    /// Computes all slots.
    pub(super) fn up(&self) {
        let k = self.k;
        self.alone(|| {
            self.set_slot(0.into(), self.one());
            if !self.log {
                self.store_rows(self.scale(), k.zero(self.ty(self.elem)));
            }
        });
        match &self.spec.listing {
            Some(listing) => listing.runs.iter().for_each(|run| self.run(run.kind, &self.known(run))),
            None if self.team.is_some() => self.up_together(),
            None => k.for_(0, self.spec.shape.runs, 1, |run| {
                let run = self.fields(run);
                self.by_kind(run.kind, &|kind| self.run(kind, &run));
            }),
        }
    }

    fn known(&self, run: &Run) -> Fields<'k> {
        let [count, fan, to, index, number] =
            [run.count, run.fan, run.to, run.index, run.number].map(|field| Ix::Const(i64::from(field)));
        let kind = self.k.int(Ty::I32, run.kind as i64);
        Fields { kind, count, fan, to, index, number, waits: run.waits.into(), turn: 0.into() }
    }

    pub(super) fn run(&self, kind: RunKind, run: &Fields<'k>) {
        match kind {
            RunKind::Lookup | RunKind::Product | RunKind::Sum | RunKind::Pairs | RunKind::Dense
                if self.shares() && !(self.log && kind == RunKind::Dense) =>
            {
                self.run_together(kind, run);
            }
            RunKind::Indicator => self.indicators(run),
            RunKind::Lookup => self.lookup(run),
            RunKind::Gaussian => self.gaussians(run),
            RunKind::Interval => self.intervals(run),
            RunKind::Product => self.each(run, 1, |index, _, fan| self.product(index, fan)),
            RunKind::Sum => self.each(run, 1, |index, number, fan| self.weighted(1, index, number, fan)),
            RunKind::Pairs => self.each(run, 2, |index, number, fan| self.weighted(2, index, number, fan)),
            RunKind::Dense if self.log => self.dense_log(run),
            RunKind::Dense if self.rows == 1 => self.dense_row(run),
            RunKind::Dense => self.dense(run),
            RunKind::Columns => self.columns(run),
            RunKind::Rescale => self.rescale(run),
        }
    }

    /// A loop over the nodes of a run, written out where the program is listed.
    pub(super) fn nodes(&self, run: &Fields<'k>, node: impl Fn(Ix<'k>)) {
        match run.count.as_const() {
            Some(count) => (0..count).for_each(|i| node(i.into())),
            None => {
                let (first, step) = self.share_of(run);
                self.k.for_(first, run.count, step, node);
            }
        }
    }

    /// Computes each slot of a run by `node`, which is given where its positions and numbers begin, and how many terms
    /// it has. A term has `width` positions.
    fn each(&self, run: &Fields<'k>, width: i64, node: impl Fn(Ix<'k>, Ix<'k>, Ix<'k>) -> V<'k>) {
        let all = |fan: Ix<'k>| {
            self.nodes(run, |i| {
                let value = node(run.index + i * fan * width, run.number + i * fan, fan);
                self.set_slot(run.to + i, value);
            });
        };
        self.unrolled(run.fan, 1, &all);
    }

    /// Calls `body` with the number, as a constant where it is small.
    pub(super) fn unrolled(&self, fan: Ix<'k>, least: i64, body: &dyn Fn(Ix<'k>)) {
        if least > UNROLLED {
            return body(fan);
        }
        let known = || {
            body(least.into());
            vec![]
        };
        let other = || {
            self.unrolled(fan, least + 1, body);
            vec![]
        };
        self.k.if_else(fan.eq(least), known, other);
    }

    /// The sum of slots, or of products of two, times weights.
    pub(super) fn weighted(&self, width: i64, index: Ix<'k>, number: Ix<'k>, fan: Ix<'k>) -> V<'k> {
        let term = |i: Ix<'k>| {
            let slots = (0..width).map(|side| self.slot(self.index(index + i * width + side)));
            let value = slots.reduce(|a, b| self.times(a, b)).unwrap_or_else(|| self.one());
            (value, self.weight(number + i))
        };
        self.sum(fan, &term)
    }

    pub(super) fn product(&self, index: Ix<'k>, fan: Ix<'k>) -> V<'k> {
        let factor = |i: Ix<'k>| self.slot(self.index(index + i));
        let next = |i: Ix<'k>, product: &[V<'k>]| vec![self.times(product[0], factor(i))];
        self.fold(1, fan, vec![factor(0.into())], next)[0]
    }

    /// A loop whose turns are written out where their number is known and small.
    pub(super) fn fold(
        &self,
        from: i64,
        to: Ix<'k>,
        init: Vec<V<'k>>,
        next: impl Fn(Ix<'k>, &[V<'k>]) -> Vec<V<'k>>,
    ) -> Vec<V<'k>> {
        match to.as_const() {
            Some(end) => (from..end).fold(init, |carried, i| next(i.into(), &carried)),
            None => self.k.for_carry(from, to, 1, &init, next),
        }
    }

    /// The sum of values times weights, in order.
    pub(super) fn sum(&self, fan: Ix<'k>, term: &dyn Fn(Ix<'k>) -> (V<'k>, V<'k>)) -> V<'k> {
        if !self.log {
            let (value, weight) = term(0.into());
            let next = |i: Ix<'k>, sum: &[V<'k>]| {
                let (value, weight) = term(i);
                vec![value.fma(weight, sum[0])]
            };
            return self.fold(1, fan, vec![value * weight], next)[0];
        }
        let term = |i: Ix<'k>| {
            let (value, weight) = term(i);
            value + weight
        };
        if fan.is(1) {
            return term(0.into());
        }
        let largest = |i: Ix<'k>, top: &[V<'k>]| vec![term(i).max_or(top[0])];
        let top = self.fold(1, fan, vec![term(0.into())], largest)[0];
        if self.maximum {
            return top;
        }
        let base = top.cmp(Cmp::Gt, top.like(f64::NEG_INFINITY)).select(top, top.like(0.0));
        let scaled = |i: Ix<'k>| functions::exp(term(i) - base);
        let sum = self.fold(1, fan, vec![scaled(0.into())], |i, sum| vec![sum[0] + scaled(i)])[0];
        base + functions::log(sum)
    }

    /// A matrix of weights times the slots of the children: some rows of it at a time, in registers.
    fn dense(&self, run: &Fields<'k>) {
        let k = self.k;
        let parts = self.parts as i64;
        let registers = self.cpu.vector_registers as i64;
        // Sums, a slot, and a weight.
        let height = [8, 6, 4, 3, 2].into_iter().find(|h| h * parts + parts < registers).unwrap_or(1);
        let tile = |first: Ix<'k>, height: i64| {
            let zero = self.zero();
            let sums = k.for_carry(0, run.fan, 1, &vec![zero; height as usize], |child, sums| {
                let value = self.slot(self.index(run.index + child));
                let weights = run.number + child * run.count + first;
                let next = sums.iter().enumerate().map(|(i, sum)| value.fma(self.weight(weights + i as i64), *sum));
                next.collect()
            });
            for (i, sum) in sums.into_iter().enumerate() {
                self.set_slot(run.to + first + i as i64, sum);
            }
        };
        let whole = run.count.div(height) * height;
        k.for_(0, whole, height, |first| tile(first, height));
        if height > 1 {
            k.for_(whole, run.count, 1, |first| tile(first, 1));
        }
    }

    /// [`Walk::dense`] of one row: lanes are sums.
    fn dense_row(&self, run: &Fields<'k>) {
        let lanes = self.row_lanes();
        vectors(self.k, (0.into(), run.count), lanes, false, |first, part| {
            let lanes = part.lanes();
            let zero = self.k.zero(Ty::new(self.elem, lanes));
            let sum = self.k.for_carry(0, run.fan, 1, &[zero], |child, sum| {
                let value = self.slot(self.index(run.index + child)).broadcast(lanes);
                let weights = self.number_at(run.number + child * run.count + first);
                vec![value.fma(self.numbers(weights, lanes), sum[0])]
            });
            self.slot_at(run.to + first).store(sum[0]);
        });
    }

    fn dense_log(&self, run: &Fields<'k>) {
        self.nodes(run, |i| {
            let term = |child: Ix<'k>| {
                (self.slot(self.index(run.index + child)), self.weight(run.number + child * run.count + i))
            };
            self.set_slot(run.to + i, self.sum(run.fan, &term));
        });
    }

    /// Lanes of a vector of slots, where a slot is one row's.
    pub(super) fn row_lanes(&self) -> u32 {
        self.cpu.lanes(self.elem.bits() / 8)
    }

    /// Products of slots that stand side by side.
    fn columns(&self, run: &Fields<'k>) {
        let k = self.k;
        let all = |fan: Ix<'k>| {
            if self.team.is_some() {
                return self.nodes(run, |i| {
                    let factor = |j: Ix<'k>| self.slot(self.index(run.index + j) + i);
                    let next = |j: Ix<'k>, product: &[V<'k>]| vec![self.times(product[0], factor(j))];
                    self.set_slot(run.to + i, self.fold(1, fan, vec![factor(0.into())], next)[0]);
                });
            }
            let end = run.count * self.rows;
            vectors(k, (0.into(), end), self.row_lanes(), false, |at, part| {
                let ty = Ty::new(self.elem, part.lanes());
                let factor = |i: Ix<'k>| self.slot_at(self.index(run.index + i)).offset(self.elem, at).load(ty);
                let next = |i: Ix<'k>, product: &[V<'k>]| vec![self.times(product[0], factor(i))];
                let product = self.fold(1, fan, vec![factor(0.into())], next)[0];
                self.slot_at(run.to).offset(self.elem, at).store(product);
            });
        };
        self.unrolled(run.fan, 2, &all);
    }

    /// Divides slots by the power of two in the largest of each row. Zeros stay.
    fn rescale(&self, run: &Fields<'k>) {
        if self.log {
            return;
        }
        let k = self.k;
        let first = self.slot(run.to);
        let top = k.for_carry(1, run.count, 1, &[first], |i, top| vec![self.slot(run.to + i).max_or(top[0])])[0];
        let (int, bits, bias) = match self.elem {
            Elem::F64 => (Elem::I64, 52, 1023.0),
            _ => (Elem::I32, 23, 127.0),
        };
        let exponent = top.bitcast(int).shr_unsigned(bits);
        let is_zero = top.cmp(Cmp::Eq, top.like(0.0));
        let exponent = is_zero.select(exponent.like(bias), exponent);
        // Below 2 * bias, as values are at most around 1.
        let factor = (exponent.like(2.0 * bias) - exponent).shl(bits).bitcast(self.elem);
        // Each of those that walk together has looked at all slots.
        self.wait();
        self.nodes(run, |i| self.set_slot(run.to + i, self.slot(run.to + i) * factor));
        let taken = (exponent - exponent.like(bias)).int_to_float(self.elem, true);
        self.alone(|| {
            let scale = self.load_rows(self.scale(), self.elem);
            self.store_rows(self.scale(), scale + taken);
        });
    }
}
