//! Runs of inputs.

use super::{runs::Fields, table::pad, walk::Walk};
use crate::{
    build::{Cmp, Elem, Ix, Ptr, Ty, V},
    scalar::functions,
    view::{transpose, vectors},
};

impl<'k> Walk<'_, 'k> {
    pub(super) fn indicators(&self, run: &Fields<'k>) {
        self.k.for_(0, run.count, 1, |i| {
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
        self.k.for_(0, run.count, 1, |i| {
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
        self.k.for_(0, run.count, 1, |i| {
            let var = self.index(run.index + i);
            let number = |n: i64| self.number_at(run.number + i * 4 + n);
            let [low, high] = [0, 1].map(|n| self.wide(self.numbers(number(n), 1)));
            let x = self.load_rows(self.cell_at(var), self.elem);
            let inside = x.cmp(Cmp::Ge, low) & x.cmp(Cmp::Lt, high);
            let missing = self.wide(self.values(number(3), 1));
            self.set_slot(run.to + i, x.is_nan().select(missing, inside.select(self.one(), self.zero())));
        });
    }

    /// Rows of a table, turned so that each entry goes to its slot.
    pub(super) fn lookup(&self, run: &Fields<'k>) {
        let k = self.k;
        let stride = (run.count + (pad(1) as i64 - 1)).div(pad(1) as i64) * pad(1) as i64;
        let codes = self.code_at(run.fan);
        let row = |i: Ix<'k>| -> Ptr<'k> {
            let code = codes.offset(Elem::I32, i).load(Ty::I32).to_index(false);
            self.number_at(run.number + code * stride)
        };
        if self.rows == 1 {
            let from = row(0.into());
            return vectors(k, (0.into(), run.count), self.row_lanes(), false, |at, part| {
                let entries = from.offset(self.stored(), at);
                self.slot_at(run.to + at).store(self.values(entries, part.lanes()));
            });
        }
        let lanes = self.lanes as i64;
        let whole = run.count.div(lanes) * lanes;
        k.for_(0, self.rows, lanes, |first| {
            let from: Vec<Ptr<'k>> = (0..lanes).map(|i| row(first + i)).collect();
            let load = |at: Ix<'k>, lanes: u32| -> Vec<V<'k>> {
                from.iter().map(|row| self.values(row.offset(self.stored(), at), lanes)).collect()
            };
            k.for_(0, whole, lanes, |at| {
                for (i, entry) in transpose(load(at, self.lanes)).into_iter().enumerate() {
                    self.slot_at(run.to + at + i as i64).offset(self.elem, first).store(entry);
                }
            });
            k.for_(whole, run.count, 1, |at| {
                for (i, entry) in load(at, 1).into_iter().enumerate() {
                    self.slot_at(run.to + at).offset(self.elem, first + i as i64).store(entry);
                }
            });
        });
    }
}
