//! Runs of inputs.

use super::{runs::Fields, table::pad, walk::Walk};
use crate::{
    build::{Cmp, Elem, Ix, Ptr, V},
    scalar::functions,
    view::{transpose, vectors},
};

impl<'k> Walk<'_, 'k> {
    pub(super) fn indicators(&self, run: &Fields<'k>) {
        self.nodes(run, |i| {
            let var = self.index(run.index + i * 2);
            let value = self.index(run.index + i * 2 + 1).v(self.k).int_to(Elem::I32, false);
            let holds = self.holds(var, value);
            let one = self.weight(run.number + i);
            self.set_slot(run.to + i, holds.select(one, self.zero()));
        });
    }

    /// Where a variable has this code, or none.
    pub(super) fn holds(&self, var: Ix<'k>, code: V<'k>) -> V<'k> {
        let codes = self.load_rows(self.code_at(var), Elem::I32);
        codes.cmp(Cmp::Eq, self.wide(code)) | codes.cmp(Cmp::Eq, self.wide(self.missing_code(var)))
    }

    pub(super) fn gaussians(&self, run: &Fields<'k>) {
        self.nodes(run, |i| {
            let var = self.index(run.index + i);
            let number = |n: i64| self.number_at(run.number + i * 4 + n);
            let [mean, inverse, peak] = [0, 1, 2].map(|n| self.wide(self.numbers(number(n), 1)));
            let x = self.load_rows(self.cell_at(var), self.elem);
            // The inverse deviation is a number where its square would overflow.
            let distance = (x - mean) * inverse;
            let log = (-(distance * distance)).fma(distance.like(0.5), peak);
            let value = if self.log { log } else { functions::exp(log) };
            let missing = self.wide(self.values(number(3), 1));
            self.set_slot(run.to + i, x.is_nan().select(missing, value));
        });
    }

    pub(super) fn intervals(&self, run: &Fields<'k>) {
        self.nodes(run, |i| {
            let var = self.index(run.index + i);
            let number = |n: i64| self.number_at(run.number + i * 4 + n);
            let [low, high] = [0, 1].map(|n| self.wide(self.numbers(number(n), 1)));
            let x = self.load_rows(self.cell_at(var), self.elem);
            let codes = self.load_rows(self.code_at(var), Elem::I32);
            let possible = codes.cmp(Cmp::Ne, self.wide(self.impossible_code(var)));
            let inside = possible & x.cmp(Cmp::Ge, low) & x.cmp(Cmp::Lt, high);
            let missing = self.wide(self.values(number(3), 1));
            self.set_slot(run.to + i, x.is_nan().select(missing, inside.select(self.one(), self.zero())));
        });
    }

    /// Products of rows of tables, turned so that each entry goes to its slot.
    pub(super) fn lookup(&self, run: &Fields<'k>) {
        self.unrolled(run.fan, 1, &|fan| self.lookup_of(run, fan));
    }

    fn lookup_of(&self, run: &Fields<'k>, fan: Ix<'k>) {
        let k = self.k;
        let stride = run.count.ceil_div(pad(1) as i64) * pad(1) as i64;
        // The row of a table that a row of cells selects.
        let select = |table: Ix<'k>, row: Ix<'k>| -> Ptr<'k> {
            let [var, start] = [0, 1].map(|n| self.index(run.index + table * 2 + n));
            self.number_at(run.number + (start + self.code_of(var, row)) * stride)
        };
        let times = |a: &[V<'k>], b: &[V<'k>]| a.iter().zip(b).map(|(a, b)| self.times(*a, *b)).collect::<Vec<_>>();
        k.for_(0, self.rows, self.lanes as i64, |first| {
            let rows = |table: Ix<'k>| -> Vec<Ptr<'k>> {
                (0..self.lanes as i64).map(|row| select(table, first + row)).collect()
            };
            let known: Option<Vec<Vec<Ptr<'k>>>> = fan.as_const().map(|n| (0..n).map(|t| rows(t.into())).collect());
            let entries = |rows: &[Ptr<'k>], at: Ix<'k>, lanes: u32| -> Vec<V<'k>> {
                rows.iter().map(|row| self.values(row.offset(self.stored(), at), lanes)).collect()
            };
            // Of each row, the products of some entries.
            let products = |at: Ix<'k>, lanes: u32| match &known {
                Some(tables) => {
                    let mut all = tables.iter().map(|rows| entries(rows, at, lanes));
                    let first = all.next().unwrap_or_default();
                    all.fold(first, |product, next| times(&product, &next))
                }
                None => k.for_carry(1, fan, 1, &entries(&rows(0.into()), at, lanes), |table, product| {
                    times(product, &entries(&rows(table), at, lanes))
                }),
            };
            let to = |slot: Ix<'k>| self.slot_at(run.to + slot).offset(self.elem, first);
            if self.rows == 1 {
                return vectors(k, (0.into(), run.count), self.row_lanes(), false, |at, part| {
                    to(at).store(products(at, part.lanes())[0]);
                });
            }
            let lanes = self.lanes as i64;
            let whole = run.count.div(lanes) * lanes;
            k.for_(0, whole, lanes, |at| {
                for (i, entry) in transpose(products(at, self.lanes)).into_iter().enumerate() {
                    to(at + i as i64).store(entry);
                }
            });
            if lanes == 1 {
                return;
            }
            let pairs = run.count.div(2) * 2;
            k.for_(whole, pairs, 2, |at| {
                for (i, entry) in unzip(products(at, 2)).into_iter().enumerate() {
                    to(at + i as i64).store(entry);
                }
            });
            k.for_(pairs, run.count, 1, |at| {
                for (i, entry) in products(at, 1).into_iter().enumerate() {
                    to(at).offset(self.elem, i as i64).store(entry);
                }
            });
        });
    }
}

/// The first and the second lanes of vectors of two, whose number is a power of two above one.
fn unzip(mut pairs: Vec<V<'_>>) -> [V<'_>; 2] {
    let joined = |a: V<'_>| (0..2 * a.ty.lanes as i32).collect::<Vec<_>>();
    while pairs.len() > 2 {
        pairs = pairs.chunks(2).map(|two| two[0].shuffle(two[1], &joined(two[0]))).collect();
    }
    [0, 1].map(|side| {
        let lanes: Vec<i32> = (0..pairs[0].ty.lanes as i32).map(|i| 2 * i + side).collect();
        pairs[0].shuffle(pairs[1], &lanes)
    })
}
