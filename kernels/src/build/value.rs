//! Scalars and vectors: types, constants and arithmetic.

use super::{Builder, K};
use melior::{
    Context,
    ir::{
        Attribute, Type, Value,
        attribute::{DenseElementsAttribute, DenseI32ArrayAttribute, FloatAttribute, IntegerAttribute},
        r#type::IntegerType,
    },
};
use std::ops;

/// A machine type of one element: integers have no sign of their own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Elem {
    F64,
    F32,
    F16,
    BF16,
    I1,
    I8,
    I16,
    I32,
    I64,
    Ptr,
}

impl Elem {
    pub const fn is_float(self) -> bool {
        matches!(self, Elem::F64 | Elem::F32 | Elem::F16 | Elem::BF16)
    }

    /// Bits in a register.
    pub const fn bits(self) -> u32 {
        match self {
            Elem::I1 => 1,
            Elem::I8 => 8,
            Elem::I16 | Elem::F16 | Elem::BF16 => 16,
            Elem::I32 | Elem::F32 => 32,
            Elem::I64 | Elem::F64 | Elem::Ptr => 64,
        }
    }

    /// The integer of the same width.
    pub const fn int(self) -> Elem {
        match self {
            Elem::F64 | Elem::I64 | Elem::Ptr => Elem::I64,
            Elem::F32 | Elem::I32 => Elem::I32,
            Elem::F16 | Elem::BF16 | Elem::I16 => Elem::I16,
            Elem::I8 => Elem::I8,
            Elem::I1 => Elem::I1,
        }
    }

    fn mlir(self, context: &Context) -> Type<'_> {
        match self {
            Elem::F64 => Type::float64(context),
            Elem::F32 => Type::float32(context),
            Elem::F16 => Type::float16(context),
            Elem::BF16 => Type::bfloat16(context),
            Elem::Ptr => melior::dialect::llvm::r#type::pointer(context, 0),
            Elem::I1 | Elem::I8 | Elem::I16 | Elem::I32 | Elem::I64 => IntegerType::new(context, self.bits()).into(),
        }
    }
}

/// The type of a value: `lanes` elements, 1 for a scalar.
///
/// A value may have several `parts` of that type, up to [`MAX_PARTS`]: each operation is then applied to one part after
/// the other. Long chains of dependent operations so stand interleaved in the code, which a processor's window needs
/// to run them at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ty {
    pub elem: Elem,
    pub lanes: u32,
    pub parts: u32,
}

/// The most parts of a value.
pub const MAX_PARTS: usize = 16;

impl Ty {
    pub const I1: Ty = Ty::new(Elem::I1, 1);
    pub const I32: Ty = Ty::new(Elem::I32, 1);
    pub const I64: Ty = Ty::new(Elem::I64, 1);
    pub const F32: Ty = Ty::new(Elem::F32, 1);
    pub const PTR: Ty = Ty::new(Elem::Ptr, 1);

    pub const fn new(elem: Elem, lanes: u32) -> Ty {
        Ty { elem, lanes, parts: 1 }
    }

    /// The same lanes and parts of another element type.
    pub const fn of(self, elem: Elem) -> Ty {
        Ty { elem, ..self }
    }

    /// This many parts of this type.
    pub const fn times(self, parts: u32) -> Ty {
        Ty { parts, ..self }
    }

    /// The type of one part in MLIR.
    pub(super) fn mlir(self, context: &Context) -> Type<'_> {
        let elem = self.elem.mlir(context);
        if self.lanes == 1 { elem } else { Type::vector(&[self.lanes as u64], elem) }
    }
}

/// A value in a register, or in several.
#[derive(Clone, Copy)]
pub struct V<'k> {
    pub(super) k: K<'k>,
    /// The first `ty.parts` count; the rest repeat the first.
    raw: [Value<'k, 'k>; MAX_PARTS],
    pub ty: Ty,
}

impl<'k> V<'k> {
    /// The value of these parts.
    pub(super) fn from_parts(k: K<'k>, ty: Ty, parts: &[Value<'k, 'k>]) -> V<'k> {
        assert_eq!(parts.len(), ty.parts as usize, "one value a part");
        let mut raw = [parts[0]; MAX_PARTS];
        raw[..parts.len()].copy_from_slice(parts);
        V { k, raw, ty }
    }

    /// One value for all parts.
    fn repeat(k: K<'k>, ty: Ty, part: Value<'k, 'k>) -> V<'k> {
        V { k, raw: [part; MAX_PARTS], ty }
    }

    pub(super) fn parts(&self) -> &[Value<'k, 'k>] {
        &self.raw[..self.ty.parts as usize]
    }

    /// Part `i`; the only one stands for each.
    pub(super) fn part(&self, i: usize) -> Value<'k, 'k> {
        self.raw[i]
    }

    /// The value in melior's terms, for operations this builder has no word for.
    pub fn raw(&self) -> Value<'k, 'k> {
        assert_eq!(self.ty.parts, 1, "one part is asked for");
        self.raw[0]
    }

    /// Values of one type as the parts of one.
    pub fn join(values: &[V<'k>]) -> V<'k> {
        let first = values[0];
        let parts: Vec<_> = values.iter().flat_map(|v| v.parts().iter().copied()).collect();
        V::from_parts(first.k, first.ty.times(parts.len() as u32), &parts)
    }

    /// The parts as values.
    pub fn split(self) -> Vec<V<'k>> {
        self.parts().iter().map(|part| V::repeat(self.k, self.ty.times(1), *part)).collect()
    }
}

impl<'k> Builder<'k> {
    fn splat(&'k self, ty: Ty, element: Attribute<'k>) -> V<'k> {
        let value = if ty.lanes == 1 {
            element
        } else {
            DenseElementsAttribute::new(ty.mlir(self.context()), &[element]).expect("a splat").into()
        };
        let one = self.op1("arith.constant", &[], ty.times(1), &[("value", value)]);
        V::repeat(self, ty, one.raw())
    }

    /// `value` in every lane, rounded to the type.
    pub fn float(&'k self, ty: Ty, value: f64) -> V<'k> {
        self.splat(ty, FloatAttribute::new(self.context(), ty.elem.mlir(self.context()), value).into())
    }

    /// `value` in every lane, cut to the type's bits.
    pub fn int(&'k self, ty: Ty, value: i64) -> V<'k> {
        let shift = 64 - ty.elem.bits();
        let value = (value << shift) >> shift;
        self.splat(ty, IntegerAttribute::new(ty.elem.mlir(self.context()), value).into())
    }

    /// Float or integer zero, a null pointer excepted.
    pub fn zero(&'k self, ty: Ty) -> V<'k> {
        if ty.elem.is_float() { self.float(ty, 0.0) } else { self.int(ty, 0) }
    }

    /// Scalars as the lanes of a vector.
    pub fn vector(&'k self, lanes: &[V<'k>]) -> V<'k> {
        let ty = Ty { lanes: lanes.len() as u32, ..lanes[0].ty };
        if let [lane] = lanes {
            return *lane;
        }
        let poison = self.op1("llvm.mlir.poison", &[], ty, &[]);
        lanes.iter().enumerate().fold(poison, |vector, (i, lane)| {
            self.op1("llvm.insertelement", &[vector, *lane, self.int(Ty::I32, i as i64)], ty, &[])
        })
    }

    /// `0, 1, 2, ...` over the lanes of an integer type.
    pub fn iota(&'k self, ty: Ty) -> V<'k> {
        if ty.lanes == 1 {
            return self.int(ty, 0);
        }
        let elem = ty.elem.mlir(self.context());
        let lanes: Vec<Attribute> = (0..ty.lanes).map(|i| IntegerAttribute::new(elem, i as i64).into()).collect();
        let value = DenseElementsAttribute::new(ty.mlir(self.context()), &lanes).expect("one value a lane");
        let one = self.op1("arith.constant", &[], ty.times(1), &[("value", value.into())]);
        V::repeat(self, ty, one.raw())
    }
}

/// Comparison predicates; `U..` are unsigned. Ordered comparisons of floats are false for NaN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Ult,
    Ule,
    Ugt,
    Uge,
}

impl<'k> V<'k> {
    pub fn builder(&self) -> K<'k> {
        self.k
    }

    fn same(self, name: &str, operands: &[V<'k>]) -> V<'k> {
        self.k.op1(name, operands, self.ty, &[])
    }

    /// A constant of this value's type.
    pub fn like(self, value: f64) -> V<'k> {
        if self.ty.elem.is_float() { self.k.float(self.ty, value) } else { self.k.int(self.ty, value as i64) }
    }

    /// Fused multiply-add where the target has one, otherwise a multiplication and an addition.
    pub fn fma(self, by: V<'k>, plus: V<'k>) -> V<'k> {
        self.same("llvm.intr.fmuladd", &[self, by, plus])
    }

    /// A unary LLVM intrinsic on floats, such as `floor` or `sqrt`, that every target selects without a call.
    pub fn intrinsic(self, name: &str) -> V<'k> {
        self.same(&format!("llvm.intr.{name}"), &[self])
    }

    pub fn abs(self) -> V<'k> {
        if self.ty.elem.is_float() {
            return self.intrinsic("fabs");
        }
        let negative = self.cmp(Cmp::Lt, self.like(0.0));
        negative.select(-self, self)
    }

    pub fn div_signed(self, by: V<'k>) -> V<'k> {
        self.same("arith.divsi", &[self, by])
    }

    pub fn div_unsigned(self, by: V<'k>) -> V<'k> {
        self.same("arith.divui", &[self, by])
    }

    pub fn rem_signed(self, by: V<'k>) -> V<'k> {
        self.same("arith.remsi", &[self, by])
    }

    pub fn rem_unsigned(self, by: V<'k>) -> V<'k> {
        self.same("arith.remui", &[self, by])
    }

    #[expect(clippy::should_implement_trait, reason = "the number of bits is a constant")]
    pub fn shl(self, bits: i64) -> V<'k> {
        self.same("arith.shli", &[self, self.k.int(self.ty, bits)])
    }

    /// Shifts in zeros.
    pub fn shr_unsigned(self, bits: i64) -> V<'k> {
        self.same("arith.shrui", &[self, self.k.int(self.ty, bits)])
    }

    /// Shifts in the sign.
    pub fn shr_signed(self, bits: i64) -> V<'k> {
        self.same("arith.shrsi", &[self, self.k.int(self.ty, bits)])
    }

    /// The larger of two floats by one comparison: `other` if either is NaN.
    pub fn max_or(self, other: V<'k>) -> V<'k> {
        self.cmp(Cmp::Gt, other).select(self, other)
    }

    /// The smaller of two floats by one comparison: `other` if either is NaN.
    pub fn min_or(self, other: V<'k>) -> V<'k> {
        self.cmp(Cmp::Lt, other).select(self, other)
    }

    /// A comparison lane by lane.
    pub fn cmp(self, how: Cmp, other: V<'k>) -> V<'k> {
        let float = self.ty.elem.is_float();
        // The numbers of arith's predicate enums; `ne` on floats is the unordered one.
        let predicate = match (how, float) {
            (Cmp::Eq, true) => 1,
            (Cmp::Gt | Cmp::Ugt, true) => 2,
            (Cmp::Ge | Cmp::Uge, true) => 3,
            (Cmp::Lt | Cmp::Ult, true) => 4,
            (Cmp::Le | Cmp::Ule, true) => 5,
            (Cmp::Ne, true) => 13,
            (Cmp::Eq, false) => 0,
            (Cmp::Ne, false) => 1,
            (Cmp::Lt, false) => 2,
            (Cmp::Le, false) => 3,
            (Cmp::Gt, false) => 4,
            (Cmp::Ge, false) => 5,
            (Cmp::Ult, false) => 6,
            (Cmp::Ule, false) => 7,
            (Cmp::Ugt, false) => 8,
            (Cmp::Uge, false) => 9,
        };
        let name = if float { "arith.cmpf" } else { "arith.cmpi" };
        self.k.op1(name, &[self, other], self.ty.of(Elem::I1), &[("predicate", self.k.int_attr(64, predicate))])
    }

    /// Where the float is NaN.
    pub fn is_nan(self) -> V<'k> {
        self.cmp(Cmp::Ne, self)
    }

    /// `self ? yes : no`; a scalar condition chooses whole vectors.
    pub fn select(self, yes: V<'k>, no: V<'k>) -> V<'k> {
        self.k.op1("arith.select", &[self, yes, no], yes.ty, &[])
    }

    /// The bits as another type of the same size.
    pub fn bitcast(self, elem: Elem) -> V<'k> {
        self.k.op1("arith.bitcast", &[self], self.ty.of(elem), &[])
    }

    fn cast(self, name: &str, elem: Elem) -> V<'k> {
        self.k.op1(name, &[self], self.ty.of(elem), &[])
    }

    /// To a wider or narrower float.
    pub fn float_to(self, elem: Elem) -> V<'k> {
        match elem.bits().cmp(&self.ty.elem.bits()) {
            std::cmp::Ordering::Equal => self,
            std::cmp::Ordering::Greater => self.cast("arith.extf", elem),
            std::cmp::Ordering::Less => self.cast("arith.truncf", elem),
        }
    }

    /// To a wider integer, by sign or by zero, or to a narrower one.
    pub fn int_to(self, elem: Elem, signed: bool) -> V<'k> {
        match elem.bits().cmp(&self.ty.elem.bits()) {
            std::cmp::Ordering::Equal => self,
            std::cmp::Ordering::Greater => self.cast(if signed { "arith.extsi" } else { "arith.extui" }, elem),
            std::cmp::Ordering::Less => self.cast("arith.trunci", elem),
        }
    }

    pub fn int_to_float(self, elem: Elem, signed: bool) -> V<'k> {
        self.cast(if signed { "arith.sitofp" } else { "arith.uitofp" }, elem)
    }

    /// Truncates; the value must be representable.
    pub fn float_to_int(self, elem: Elem) -> V<'k> {
        self.cast("arith.fptosi", elem)
    }

    /// Truncates and saturates; NaN gives 0.
    pub fn float_to_int_saturating(self, elem: Elem, signed: bool) -> V<'k> {
        let name = if signed { "llvm.fptosi.sat" } else { "llvm.fptoui.sat" };
        self.k.call_intrinsic(name, &[self], self.ty.of(elem))
    }

    /// A scalar in every lane.
    pub fn broadcast(self, lanes: u32) -> V<'k> {
        if lanes == self.ty.lanes {
            return self;
        }
        assert_eq!(self.ty.lanes, 1, "only scalars are broadcast");
        let (k, ty) = (self.k, Ty { lanes, ..self.ty });
        let poison = k.op1("llvm.mlir.poison", &[], ty, &[]);
        let first = k.op1("llvm.insertelement", &[poison, self, k.int(Ty::I32, 0)], ty, &[]);
        first.shuffle(poison, &vec![0; lanes as usize])
    }

    /// Lanes of `self` followed by `other`, picked by position.
    pub fn shuffle(self, other: V<'k>, picks: &[i32]) -> V<'k> {
        let mask = DenseI32ArrayAttribute::new(self.k.context(), picks).into();
        let ty = Ty { lanes: picks.len() as u32, ..self.ty };
        self.k.op1("llvm.shufflevector", &[self, other], ty, &[("mask", mask)])
    }

    /// One lane.
    pub fn lane(self, at: u32) -> V<'k> {
        if self.ty.lanes == 1 {
            return self;
        }
        let at = self.k.int(Ty::I32, at as i64);
        self.k.op1("llvm.extractelement", &[self, at], Ty { lanes: 1, ..self.ty }, &[])
    }

    /// Combines all lanes by halving: lane `i` with lane `i + lanes / 2` and so on, one order for every target.
    pub fn reduce(self, combine: impl Fn(V<'k>, V<'k>) -> V<'k>) -> V<'k> {
        let mut v = self;
        while v.ty.lanes > 1 {
            let half = (v.ty.lanes / 2) as i32;
            let low: Vec<i32> = (0..half).collect();
            let high: Vec<i32> = (half..2 * half).collect();
            v = if half == 1 {
                combine(v.lane(0), v.lane(1))
            } else {
                combine(v.shuffle(v, &low), v.shuffle(v, &high))
            };
        }
        v
    }

    pub fn add_reduce(self) -> V<'k> {
        self.reduce(|a, b| a + b)
    }

    /// Whether any lane of any part of an `i1` value is set.
    pub fn any(self) -> V<'k> {
        let parts = self.split();
        let all = parts.iter().skip(1).fold(parts[0], |any, part| any | *part);
        if all.ty.lanes == 1 { all } else { self.k.op1("llvm.intr.vector.reduce.or", &[all], Ty::I1, &[]) }
    }
}

/// Float or integer arithmetic by the operands' type; a number on the right is a constant of that type.
macro_rules! operator {
    ($($trait:ident $method:ident $float:literal $int:literal),*) => {$(
        impl<'k> ops::$trait for V<'k> {
            type Output = V<'k>;
            fn $method(self, other: V<'k>) -> V<'k> {
                debug_assert_eq!(self.ty, other.ty, stringify!($method));
                self.same(if self.ty.elem.is_float() { $float } else { $int }, &[self, other])
            }
        }
        impl<'k> ops::$trait<f64> for V<'k> {
            type Output = V<'k>;
            fn $method(self, other: f64) -> V<'k> {
                ops::$trait::$method(self, self.like(other))
            }
        }
    )*};
}

operator! {
    Add add "arith.addf" "arith.addi", Sub sub "arith.subf" "arith.subi", Mul mul "arith.mulf" "arith.muli",
    BitAnd bitand "" "arith.andi", BitOr bitor "" "arith.ori", BitXor bitxor "" "arith.xori"
}

impl<'k> ops::Div for V<'k> {
    type Output = V<'k>;
    /// Floats only: integers choose [`V::div_signed`] or [`V::div_unsigned`].
    fn div(self, other: V<'k>) -> V<'k> {
        self.same("arith.divf", &[self, other])
    }
}

impl<'k> ops::Neg for V<'k> {
    type Output = V<'k>;
    fn neg(self) -> V<'k> {
        if self.ty.elem.is_float() { self.same("arith.negf", &[self]) } else { self.like(0.0) - self }
    }
}
