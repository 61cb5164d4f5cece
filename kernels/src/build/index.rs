//! Sizes, positions and conditions on them, folded while they are built.

use super::{
    Builder, Ptr, Ty, V,
    value::{Cmp, Elem},
};
use std::ops;

/// An `i64` that is known while building, or a value.
#[derive(Clone, Copy)]
pub enum Ix<'k> {
    Const(i64),
    Value(V<'k>),
}

/// A condition that is known while building, or an `i1`.
#[derive(Clone, Copy)]
pub enum Bool<'k> {
    Const(bool),
    Value(V<'k>),
}

impl From<i64> for Ix<'_> {
    fn from(value: i64) -> Self {
        Ix::Const(value)
    }
}

impl<'k> From<V<'k>> for Ix<'k> {
    fn from(value: V<'k>) -> Self {
        debug_assert_eq!(value.ty, Ty::I64);
        Ix::Value(value)
    }
}

impl From<bool> for Bool<'_> {
    fn from(value: bool) -> Self {
        Bool::Const(value)
    }
}

impl<'k> From<V<'k>> for Bool<'k> {
    fn from(value: V<'k>) -> Self {
        debug_assert_eq!(value.ty, Ty::I1);
        Bool::Value(value)
    }
}

#[expect(clippy::should_implement_trait, reason = "division has a condition, so it is not an operator")]
impl<'k> Ix<'k> {
    /// As a value.
    pub fn v(self, k: &'k Builder<'k>) -> V<'k> {
        match self {
            Ix::Const(c) => k.int(Ty::I64, c),
            Ix::Value(v) => v,
        }
    }

    pub fn as_const(self) -> Option<i64> {
        match self {
            Ix::Const(c) => Some(c),
            Ix::Value(_) => None,
        }
    }

    pub fn is(self, value: i64) -> bool {
        self.as_const() == Some(value)
    }

    /// `fold` on two constants, otherwise `emit` on two values.
    fn binary(
        self,
        other: Ix<'k>,
        fold: impl FnOnce(i64, i64) -> i64,
        emit: impl FnOnce(V<'k>, V<'k>) -> V<'k>,
    ) -> Ix<'k> {
        match (self, other) {
            (Ix::Const(a), Ix::Const(b)) => Ix::Const(fold(a, b)),
            (Ix::Value(a), b) => Ix::Value(emit(a, b.v(a.k))),
            (a, Ix::Value(b)) => Ix::Value(emit(a.v(b.k), b)),
        }
    }

    /// Quotient of two sizes: neither is negative and `by` is not zero.
    pub fn div(self, by: impl Into<Ix<'k>>) -> Ix<'k> {
        let by = by.into();
        if by.is(1) { self } else { self.binary(by, |a, b| a / b, |a, b| a.div_unsigned(b)) }
    }

    /// Remainder of two sizes: neither is negative and `by` is not zero.
    pub fn rem(self, by: impl Into<Ix<'k>>) -> Ix<'k> {
        let by = by.into();
        if by.is(1) { Ix::Const(0) } else { self.binary(by, |a, b| a % b, |a, b| a.rem_unsigned(b)) }
    }

    pub fn ceil_div(self, by: i64) -> Ix<'k> {
        (self + (by - 1)).div(by)
    }

    pub fn min(self, other: impl Into<Ix<'k>>) -> Ix<'k> {
        self.binary(other.into(), i64::min, |a, b| a.k.op1("arith.minsi", &[a, b], Ty::I64, &[]))
    }

    pub fn max(self, other: impl Into<Ix<'k>>) -> Ix<'k> {
        self.binary(other.into(), i64::max, |a, b| a.k.op1("arith.maxsi", &[a, b], Ty::I64, &[]))
    }

    pub fn xor(self, other: impl Into<Ix<'k>>) -> Ix<'k> {
        self.binary(other.into(), |a, b| a ^ b, |a, b| a ^ b)
    }

    fn compare(self, how: Cmp, other: Ix<'k>, fold: impl FnOnce(i64, i64) -> bool) -> Bool<'k> {
        match (self, other) {
            (Ix::Const(a), Ix::Const(b)) => Bool::Const(fold(a, b)),
            (Ix::Value(a), b) => Bool::Value(a.cmp(how, b.v(a.k))),
            (a, Ix::Value(b)) => Bool::Value(a.v(b.k).cmp(how, b)),
        }
    }

    pub fn lt(self, other: impl Into<Ix<'k>>) -> Bool<'k> {
        self.compare(Cmp::Lt, other.into(), |a, b| a < b)
    }

    pub fn le(self, other: impl Into<Ix<'k>>) -> Bool<'k> {
        self.compare(Cmp::Le, other.into(), |a, b| a <= b)
    }

    pub fn eq(self, other: impl Into<Ix<'k>>) -> Bool<'k> {
        self.compare(Cmp::Eq, other.into(), |a, b| a == b)
    }

    pub fn ne(self, other: impl Into<Ix<'k>>) -> Bool<'k> {
        self.compare(Cmp::Ne, other.into(), |a, b| a != b)
    }
}

impl<'k> Bool<'k> {
    pub fn v(self, k: &'k Builder<'k>) -> V<'k> {
        match self {
            Bool::Const(c) => k.int(Ty::I1, i64::from(c)),
            Bool::Value(v) => v,
        }
    }

    pub fn and(self, other: Bool<'k>) -> Bool<'k> {
        match (self, other) {
            (Bool::Const(true), x) | (x, Bool::Const(true)) => x,
            (Bool::Const(false), _) | (_, Bool::Const(false)) => Bool::Const(false),
            (Bool::Value(a), Bool::Value(b)) => Bool::Value(a & b),
        }
    }

    #[expect(clippy::should_implement_trait, reason = "as `and` and `or` are methods")]
    pub fn not(self) -> Bool<'k> {
        match self {
            Bool::Const(c) => Bool::Const(!c),
            Bool::Value(v) => Bool::Value(v ^ v.builder().int(Ty::I1, 1)),
        }
    }

    pub fn or(self, other: Bool<'k>) -> Bool<'k> {
        match (self, other) {
            (Bool::Const(false), x) | (x, Bool::Const(false)) => x,
            (Bool::Const(true), _) | (_, Bool::Const(true)) => Bool::Const(true),
            (Bool::Value(a), Bool::Value(b)) => Bool::Value(a | b),
        }
    }

    /// One of two sizes.
    pub fn choose(self, yes: impl Into<Ix<'k>>, no: impl Into<Ix<'k>>) -> Ix<'k> {
        match self {
            Bool::Const(true) => yes.into(),
            Bool::Const(false) => no.into(),
            Bool::Value(c) => Ix::Value(c.select(yes.into().v(c.k), no.into().v(c.k))),
        }
    }
}

impl<'k> Bool<'k> {
    /// One of two addresses.
    pub fn choose_address(self, yes: Ptr<'k>, no: Ptr<'k>) -> Ptr<'k> {
        match self {
            Bool::Const(c) => {
                if c {
                    yes
                } else {
                    no
                }
            }
            Bool::Value(c) => c.select(yes.0, no.0).ptr(),
        }
    }
}

impl<'k, T: Into<Ix<'k>>> ops::Add<T> for Ix<'k> {
    type Output = Ix<'k>;
    fn add(self, other: T) -> Ix<'k> {
        match (self, other.into()) {
            (Ix::Const(0), x) | (x, Ix::Const(0)) => x,
            (a, b) => a.binary(b, |a, b| a + b, |a, b| a + b),
        }
    }
}

impl<'k, T: Into<Ix<'k>>> ops::Sub<T> for Ix<'k> {
    type Output = Ix<'k>;
    fn sub(self, other: T) -> Ix<'k> {
        match (self, other.into()) {
            (x, Ix::Const(0)) => x,
            (a, b) => a.binary(b, |a, b| a - b, |a, b| a - b),
        }
    }
}

impl<'k, T: Into<Ix<'k>>> ops::Mul<T> for Ix<'k> {
    type Output = Ix<'k>;
    fn mul(self, other: T) -> Ix<'k> {
        match (self, other.into()) {
            (Ix::Const(1), x) | (x, Ix::Const(1)) => x,
            (Ix::Const(0), _) | (_, Ix::Const(0)) => Ix::Const(0),
            (a, b) => a.binary(b, |a, b| a * b, |a, b| a * b),
        }
    }
}

impl<'k> V<'k> {
    /// An index from a scalar integer of any width, by sign or by zero.
    pub fn to_index(self, signed: bool) -> Ix<'k> {
        Ix::Value(self.int_to(Elem::I64, signed))
    }
}
