//! Runs whose nodes the warps of a block share. Where few terms make a node, a warp has several nodes in flight: it reads the
//! positions and weights of all of them first, 16 bytes at a time where the tables are aligned for that, then the slots.

use super::super::{
    runs::Fields,
    table::{RUN_FIELDS, RunKind, pad},
    walk::Walk,
};
use crate::build::{Elem, Ix, Ptr, Ty, V};

/// Bytes of a load.
const VECTOR: i64 = 16;
/// Nodes in flight of up to this many positions are eight, else four.
const FEW: i64 = 3;
/// Entries of a table that a thread reads in turn.
const ENTRIES: i64 = 4;

impl<'k> Walk<'_, 'k> {
    /// Whether warps share the nodes of a run.
    pub(in super::super) fn shares(&self) -> bool {
        self.team.is_some_and(|team| team.warps > 1)
    }

    /// Goes through all runs; what is known of the next one is read while the one before is computed.
    pub(in super::super) fn up_together(&self) {
        let k = self.k;
        let last = Ix::Const(self.spec.shape.runs - 1);
        k.for_carry(0, self.spec.shape.runs, 1, &self.words(0.into()), |run, words| {
            let next = self.words((run + 1).min(last));
            let fields = Fields { turn: run * 5, ..Fields::of(words) };
            k.if_(fields.waits, || self.wait());
            self.by_kind(fields.kind, &|kind| self.run(kind, &fields));
            next
        });
        self.wait();
    }

    /// The words of an encoded run.
    fn words(&self, run: Ix<'k>) -> Vec<V<'k>> {
        let four = |at: i64| {
            let words = self.runs.offset(Elem::I32, run * RUN_FIELDS + at).load_aligned(Ty::new(Elem::I32, 4), 16);
            (0..4).map(move |i| words.lane(i))
        };
        four(0).chain(four(4)).collect()
    }

    pub(in super::super) fn run_together(&self, kind: RunKind, run: &Fields<'k>) {
        match kind {
            RunKind::Lookup => self.unrolled(run.fan, 1, &|fan| self.lookup_together(run, fan)),
            RunKind::Dense => self.dense_together(run),
            RunKind::Product => self.unrolled(run.fan, 1, &|fan| {
                self.groups(run, kind, fan, &|index, _| self.product(index, fan));
            }),
            _ => self.unrolled(run.fan, 1, &|fan| {
                self.groups(run, kind, fan, &|index, number| self.weighted(width(kind), index, number, fan));
            }),
        }
    }

    /// Computes the slots of a run, some at a time, the others by `single`, which is given where positions and numbers of
    /// a node begin.
    fn groups(&self, run: &Fields<'k>, kind: RunKind, fan: Ix<'k>, single: &dyn Fn(Ix<'k>, Ix<'k>) -> V<'k>) {
        let (k, width) = (self.k, width(kind));
        let (first, step) = self.share_of(run);
        let one = |i: Ix<'k>| self.set_slot(run.to + i, single(run.index + i * fan * width, run.number + i * fan));
        // Logarithms of sums are long enough to hide what one waits for.
        let Some(terms) = fan.as_const().filter(|_| !self.log || kind == RunKind::Product) else {
            return k.for_(first, run.count, step, one);
        };
        let group = if terms * width <= FEW { 8 } else { 4 };
        let whole = run.count.div(group) * group;
        k.for_(first * group, whole, step * group, |i| {
            let positions = self.positions(run.index + i * terms * width, group * terms * width);
            let weights = match kind {
                RunKind::Product => vec![],
                _ => self.weights(run.number + i * terms, group * terms),
            };
            let values: Vec<V<'k>> = (0..group)
                .map(|node| {
                    let slots = &positions[(node * terms * width) as usize..][..(terms * width) as usize];
                    let mut factors = slots.chunks(if kind == RunKind::Product { slots.len() } else { width as usize });
                    let mut next = || {
                        let slots = factors.next().unwrap_or_default().iter().map(|slot| self.slot(*slot));
                        slots.reduce(|a, b| self.times(a, b)).unwrap_or_else(|| self.one())
                    };
                    if kind == RunKind::Product {
                        return next();
                    }
                    let weights = &weights[(node * terms) as usize..][..terms as usize];
                    let sum = next() * weights[0];
                    weights[1..].iter().fold(sum, |sum, weight| next().fma(*weight, sum))
                })
                .collect();
            values.into_iter().enumerate().for_each(|(node, value)| self.set_slot(run.to + i + node as i64, value));
        });
        k.for_(whole + first, run.count, step, one);
    }

    /// Elements of a table from a place on, which in aligned tables is one of 16 bytes.
    fn elements(&self, from: Ptr<'k>, elem: Elem, count: i64) -> Vec<V<'k>> {
        let bytes = i64::from(elem.bits() / 8);
        let lanes = if self.spec.shape.aligned { VECTOR / bytes } else { 1 };
        let part = |at: i64| {
            let ty = Ty::new(elem, lanes as u32);
            let loaded = from.offset(elem, at).load_aligned(ty, (lanes * bytes) as u32);
            (0..lanes as u32).map(move |i| loaded.lane(i))
        };
        (0..count).step_by(lanes as usize).flat_map(part).collect()
    }

    fn positions(&self, at: Ix<'k>, count: i64) -> Vec<Ix<'k>> {
        let (from, elem) = self.index_at(at);
        self.elements(from, elem, count).into_iter().map(|position| position.to_index(false)).collect()
    }

    fn weights(&self, at: Ix<'k>, count: i64) -> Vec<V<'k>> {
        let all = self.elements(self.number_at(at), self.stored(), count);
        all.into_iter().map(|number| self.as_value(number.float_to(self.elem))).collect()
    }

    /// Products of entries of the rows that this thread's cells select.
    fn lookup_together(&self, run: &Fields<'k>, fan: Ix<'k>) {
        let k = self.k;
        let stride = run.count.ceil_div(i64::from(pad(1))) * i64::from(pad(1));
        let select = |table: Ix<'k>| -> Ptr<'k> {
            let [var, start] = [0, 1].map(|n| self.index(run.index + table * 2 + n));
            self.number_at(run.number + (start + self.code_of(var, 0.into())) * stride)
        };
        let known: Option<Vec<Ptr<'k>>> = fan.as_const().map(|n| (0..n).map(|t| select(t.into())).collect());
        let bytes = i64::from(self.stored().bits() / 8);
        // Rows begin at pairs of numbers.
        let lanes = if self.spec.shape.aligned { i64::from(pad(1)) } else { 1 };
        let entries = |row: Ptr<'k>, at: Ix<'k>, count: i64| -> Vec<V<'k>> {
            let lanes = lanes.min(count);
            let part = |i: i64| {
                let ty = Ty::new(self.stored(), lanes as u32);
                let loaded = row.offset(self.stored(), at + i).load_aligned(ty, (lanes * bytes) as u32);
                (0..lanes as u32).map(move |lane| loaded.lane(lane))
            };
            let all = (0..count).step_by(lanes as usize).flat_map(part);
            all.map(|number| self.as_value(number.float_to(self.elem))).collect()
        };
        let times = |a: &[V<'k>], b: &[V<'k>]| a.iter().zip(b).map(|(a, b)| self.times(*a, *b)).collect::<Vec<_>>();
        let products = |at: Ix<'k>, count: i64| match &known {
            Some(rows) => {
                let all = rows.iter().map(|row| entries(*row, at, count));
                all.reduce(|product, next| times(&product, &next)).unwrap_or_default()
            }
            None => k.for_carry(1, fan, 1, &entries(select(0.into()), at, count), |table, product| {
                times(product, &entries(select(table), at, count))
            }),
        };
        let store = |at: Ix<'k>, count: i64| {
            let products = products(at, count);
            products.into_iter().enumerate().for_each(|(i, value)| self.set_slot(run.to + at + i as i64, value));
        };
        let (first, step) = self.share_of(run);
        let whole = run.count.div(ENTRIES) * ENTRIES;
        k.for_(first * ENTRIES, whole, step * ENTRIES, |at| store(at, ENTRIES));
        k.for_(whole + first, run.count, step, |at| store(at, 1));
    }
}

/// Positions of a term.
fn width(kind: RunKind) -> i64 {
    if kind == RunKind::Pairs { 2 } else { 1 }
}
