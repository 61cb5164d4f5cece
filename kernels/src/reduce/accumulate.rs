//! Combining many elements into one, in an order that depends on nothing but their number and the CPU level.

use super::Kind;
use crate::{
    build::{Bool, Ix, K, Ty, V},
    scalar,
    view::Part,
};
use kiln_ir::{
    ElemType,
    scalar::{Binary, Compare},
    types::Kind as ElemKind,
};

/// What is combined: states of `count` values side by side, or for [`Kind::Argmax`] of a value and its position as i64.
#[derive(Clone, Copy)]
pub(crate) struct Combine {
    pub kind: Kind,
    pub elem: ElemType,
    pub count: usize,
}

/// Vectors of a run of elements: wide ones, which are several registers, then single ones, then the rest under a mask
/// or one by one.
#[derive(Clone, Copy)]
pub(crate) struct Lanes {
    pub wide: u32,
    pub vector: u32,
    pub masked: bool,
}

/// Sums of floats add up the sums of parts, and those the sums of smaller parts, so that rounding errors stay small
/// whatever the length: elements of the parts of a run, in whose vectors many sums run side by side, and of a loop.
const RUN_PARTS: [i64; 2] = [1 << 16, 1 << 11];
const LOOP_PARTS: [i64; 2] = [1 << 12, 1 << 6];

impl Combine {
    pub(crate) fn neutral<'k>(self, k: K<'k>, lanes: u32) -> Vec<V<'k>> {
        let ty = Ty::new(scalar::register(self.elem), lanes);
        let signed = self.elem.kind() == ElemKind::Signed;
        let shift = 64 - 8 * self.elem.bytes() as i64;
        let choose = |float: f64, int: i64| if ty.elem.is_float() { k.float(ty, float) } else { k.int(ty, int) };
        let value = match self.kind {
            Kind::Sum | Kind::Mean => k.zero(ty),
            Kind::Prod => choose(1.0, 1),
            Kind::Max | Kind::Argmax => choose(f64::NEG_INFINITY, if signed { i64::MIN >> shift } else { 0 }),
            Kind::Min => choose(f64::INFINITY, if signed { i64::MAX >> shift } else { -1 }),
        };
        match self.kind {
            // Position 0 is right where no element exceeds the neutral value: all of them equal it.
            Kind::Argmax => vec![value, k.int(Ty::new(Ty::I64.elem, lanes), 0)],
            _ => vec![value; self.count],
        }
    }

    pub(crate) fn merge<'k>(self, a: &[V<'k>], b: &[V<'k>]) -> Vec<V<'k>> {
        let value = |(x, y): (&V<'k>, &V<'k>)| match self.kind {
            Kind::Sum | Kind::Mean => *x + *y,
            Kind::Prod => *x * *y,
            Kind::Max if self.elem == ElemType::I1 => *x | *y,
            Kind::Min if self.elem == ElemType::I1 => *x & *y,
            Kind::Max | Kind::Argmax => scalar::binary(Binary::Max, *x, *y, self.elem),
            Kind::Min => scalar::binary(Binary::Min, *x, *y, self.elem),
        };
        match self.kind {
            Kind::Argmax => self.larger(a, b),
            _ => a.iter().zip(b).map(value).collect(),
        }
    }

    /// The state with the larger value, or with the smaller position where both are equal.
    fn larger<'k>(self, a: &[V<'k>], b: &[V<'k>]) -> Vec<V<'k>> {
        let (x, y) = (a[0], b[0]);
        let mut larger = scalar::compare(Compare::Gt, y, x, self.elem);
        let mut equal = scalar::compare(Compare::Eq, y, x, self.elem);
        if self.elem.is_float() {
            let (x_nan, y_nan) = (x.is_nan(), y.is_nan());
            larger = larger | (y_nan & (x_nan ^ x_nan.like(-1.0)));
            equal = equal | (x_nan & y_nan);
        }
        let take = larger | (equal & scalar::compare(Compare::Lt, b[1], a[1], ElemType::I64));
        a.iter().zip(b).map(|(a, b)| take.select(*b, *a)).collect()
    }

    /// Combines halves of the lanes until `lanes` of them are left.
    pub(crate) fn narrow<'k>(self, mut state: Vec<V<'k>>, lanes: u32) -> Vec<V<'k>> {
        while state[0].ty.lanes > lanes {
            let half = (state[0].ty.lanes / 2) as i32;
            let pick = |from: i32| -> Vec<V<'k>> {
                let picks: Vec<i32> = (from..from + half).collect();
                state.iter().map(|v| if half == 1 { v.lane(from as u32) } else { v.shuffle(*v, &picks) }).collect()
            };
            state = self.merge(&pick(0), &pick(half));
        }
        state
    }

    /// Combines what `body(lo, hi)` gives for parts of `lo..hi`, or for all of it where parts bring nothing. The states
    /// have `lanes` lanes.
    fn in_parts<'k>(
        self,
        k: K<'k>,
        (lo, hi): (Ix<'k>, Ix<'k>),
        parts: &[i64],
        lanes: u32,
        body: impl FnOnce(Ix<'k>, Ix<'k>) -> Vec<V<'k>>,
    ) -> Vec<V<'k>> {
        let rounds = matches!(self.kind, Kind::Sum | Kind::Mean) && self.elem.is_float();
        let part = parts.iter().position(|part| (hi - lo).as_const().is_none_or(|n| n > *part));
        let Some(part) = part.filter(|_| rounds) else { return body(lo, hi) };
        k.for_carry(lo, hi, parts[part], &self.neutral(k, lanes), |lo, total| {
            let hi = (lo + parts[part]).min(hi);
            self.merge(total, &self.in_parts(k, (lo, hi), &parts[part + 1..], lanes, body))
        })
    }

    /// Combines the states, of `lanes` lanes, that `body` gives for each of `0..n`.
    pub(crate) fn each<'k>(
        self,
        k: K<'k>,
        n: Ix<'k>,
        lanes: u32,
        body: impl FnOnce(Ix<'k>) -> Vec<V<'k>>,
    ) -> Vec<V<'k>> {
        self.in_parts(k, (0.into(), n), &LOOP_PARTS, lanes, |lo, hi| {
            k.for_carry(lo, hi, 1, &self.neutral(k, lanes), |i, state| self.merge(state, &body(i)))
        })
    }

    /// Combines the `n` elements of a run; `element` gives the states of those from a position on. The result has one
    /// lane.
    pub(crate) fn run<'k>(
        self,
        k: K<'k>,
        n: Ix<'k>,
        lanes: Lanes,
        element: impl Fn(Ix<'k>, Part<'k>) -> Vec<V<'k>>,
    ) -> Vec<V<'k>> {
        self.in_parts(k, (0.into(), n), &RUN_PARTS, 1, |lo, hi| self.span(k, (lo, hi), lanes, &element))
    }

    fn span<'k>(
        self,
        k: K<'k>,
        (lo, hi): (Ix<'k>, Ix<'k>),
        lanes: Lanes,
        element: &impl Fn(Ix<'k>, Part<'k>) -> Vec<V<'k>>,
    ) -> Vec<V<'k>> {
        let mut from = lo;
        let mut state = self.neutral(k, lanes.wide);
        let mut over = |state: Vec<V<'k>>, width: u32| {
            let to = from + (hi - from).div(width as i64) * width as i64;
            let start = std::mem::replace(&mut from, to);
            let state = self.narrow(state, width);
            k.for_carry(start, to, width as i64, &state, |i, s| self.merge(s, &element(i, Part::All(width))))
        };
        state = over(state, lanes.wide);
        if lanes.vector < lanes.wide {
            state = over(state, lanes.vector);
        }
        if !lanes.masked {
            return over(state, 1);
        }
        let rest: Bool<'k> = from.lt(hi);
        let state = k.if_else(
            rest,
            || {
                let mask = k.first_lanes(lanes.vector, hi - from);
                let new = self.merge(&state, &element(from, Part::Masked(lanes.vector, mask)));
                new.iter().zip(&state).map(|(new, old)| mask.select(*new, *old)).collect()
            },
            || state.clone(),
        );
        self.narrow(state, 1)
    }
}
