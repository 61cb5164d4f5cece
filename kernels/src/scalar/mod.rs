//! The fold of scalar expressions to code: the only place where scalar arithmetic becomes instructions.
//!
//! [`fold`] works for one lane, as on a GPU thread, and for a vector of any width. In registers f16 and bf16 are f32
//! and `i1` is one bit; [`load`] and [`store`] convert from and to the form in memory.

pub mod functions;
mod half;

use crate::{
    build::{Cmp, Elem, K, Ptr, Ty, V},
    cpu::Converts,
};
use kiln_ir::{
    ElemType,
    scalar::{Binary, Compare, Expr, Id, Inst, Literal, Unary},
    types::Kind,
};

/// The type of an element in a register.
pub const fn register(elem: ElemType) -> Elem {
    match elem {
        ElemType::F64 => Elem::F64,
        ElemType::F32 | ElemType::F16 | ElemType::BF16 => Elem::F32,
        ElemType::I1 => Elem::I1,
        ElemType::I8 | ElemType::U8 => Elem::I8,
        ElemType::I16 | ElemType::U16 => Elem::I16,
        ElemType::I32 | ElemType::U32 => Elem::I32,
        ElemType::I64 | ElemType::U64 => Elem::I64,
    }
}

/// The type of an element in memory; bf16 are the upper halves of f32 and `i1` whole bytes.
pub const fn memory(elem: ElemType) -> Elem {
    match elem {
        ElemType::F16 | ElemType::BF16 => Elem::I16,
        ElemType::I1 => Elem::I8,
        other => register(other),
    }
}

/// How elements are moved between memory and registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    pub elem: ElemType,
    pub lanes: u32,
    /// What the target converts in one instruction.
    pub converts: Converts,
}

impl Access {
    /// The type the elements have in memory, without a sign.
    pub const fn memory(self) -> Ty {
        Ty::new(memory(self.elem), self.lanes)
    }

    /// The form in registers of elements as they are in memory.
    pub fn from_memory<'k>(self, raw: V<'k>) -> V<'k> {
        match self.elem {
            ElemType::F16 if self.converts != Converts::Nothing => raw.bitcast(Elem::F16).float_to(Elem::F32),
            ElemType::F16 => half::f16_to_f32(raw),
            ElemType::BF16 => raw.int_to(Elem::I32, false).shl(16).bitcast(Elem::F32),
            ElemType::I1 => raw.cmp(Cmp::Ne, raw.like(0.0)),
            _ => raw,
        }
    }

    /// The form in memory of elements in registers; floats are rounded to the nearest, ties to even.
    pub fn to_memory<'k>(self, value: V<'k>) -> V<'k> {
        match self.elem {
            ElemType::F16 if self.converts != Converts::Nothing => value.float_to(Elem::F16).bitcast(Elem::I16),
            ElemType::F16 => half::f32_to_f16(value),
            ElemType::BF16 if self.converts == Converts::F16AndBf16 => value.float_to(Elem::BF16).bitcast(Elem::I16),
            ElemType::BF16 => half::f32_to_bf16(value),
            ElemType::I1 => value.int_to(Elem::I8, false),
            _ => value,
        }
    }

    /// Loads neighbouring elements.
    pub fn load<'k>(self, from: Ptr<'k>) -> V<'k> {
        self.from_memory(from.load(self.memory()))
    }

    /// Loads the elements that `mask` selects.
    pub fn load_masked<'k>(self, from: Ptr<'k>, mask: V<'k>) -> V<'k> {
        self.from_memory(from.load_masked(self.memory(), mask))
    }

    /// Loads one element for all lanes.
    pub fn load_broadcast<'k>(self, from: Ptr<'k>) -> V<'k> {
        Access { lanes: 1, ..self }.load(from).broadcast(self.lanes)
    }

    pub fn store<'k>(self, to: Ptr<'k>, value: V<'k>) {
        to.store(self.to_memory(value));
    }

    /// Stores the elements that `mask` selects.
    pub fn store_masked<'k>(self, to: Ptr<'k>, value: V<'k>, mask: V<'k>) {
        to.store_masked(self.to_memory(value), mask);
    }
}

/// The value of `expr` in `lanes` lanes. `input(n)` gives `Input(n)` in its register type; `index(axis)` the
/// coordinates along an axis as i64.
pub fn fold<'k>(
    k: K<'k>,
    expr: &Expr,
    lanes: u32,
    input: &mut dyn FnMut(u32) -> V<'k>,
    index: &mut dyn FnMut(u32) -> V<'k>,
) -> V<'k> {
    fold_parts(k, expr, (lanes, 1), input, index)
}

/// [`fold`] for values of several parts: `(lanes, parts)`.
pub fn fold_parts<'k>(
    k: K<'k>,
    expr: &Expr,
    (lanes, parts): (u32, u32),
    input: &mut dyn FnMut(u32) -> V<'k>,
    index: &mut dyn FnMut(u32) -> V<'k>,
) -> V<'k> {
    let insts = expr.insts();
    let mut values: Vec<V<'k>> = Vec::with_capacity(insts.len());
    for (inst, elem) in insts {
        let at = |id: &Id| values[id.0 as usize];
        let elem_of = |id: &Id| insts[id.0 as usize].1;
        let ty = Ty::new(register(*elem), lanes).times(parts);
        let value = match inst {
            Inst::Input(n) => input(*n),
            Inst::Index(axis) => index(*axis),
            Inst::Const(Literal::Float(bits)) => k.float(ty, f64::from_bits(*bits)),
            Inst::Const(Literal::Int(value)) => k.int(ty, *value),
            Inst::Unary(f, a) => unary(*f, at(a), *elem),
            Inst::Binary(Binary::Add, a, b) if let Some(x) = one_plus_erf(insts, *a, *b) => {
                functions::one_plus_erf(at(&x))
            }
            Inst::Binary(f, a, b) => binary(*f, at(a), at(b), *elem),
            Inst::Compare(f, a, b) => compare(*f, at(a), at(b), elem_of(a)),
            Inst::Select(c, a, b) => at(c).select(at(a), at(b)),
            Inst::Convert(a) => convert(at(a), elem_of(a), *elem),
        };
        assert_eq!(value.ty, ty, "{inst:?} of {elem}");
        values.push(value);
    }
    values[values.len() - 1]
}

/// The `x` of `1 + erf(x)` in f32 registers.
fn one_plus_erf(insts: &[(Inst, ElemType)], a: Id, b: Id) -> Option<Id> {
    let inst = |id: Id| &insts[id.0 as usize];
    let one = |id: Id| matches!(inst(id).0, Inst::Const(literal) if literal.as_f64() == 1.0);
    let erf_of = |id: Id| match inst(id) {
        (Inst::Unary(Unary::Erf, x), elem) if register(*elem) == Elem::F32 => Some(*x),
        _ => None,
    };
    if one(a) { erf_of(b) } else { erf_of(a).filter(|_| one(b)) }
}

pub fn unary<'k>(f: Unary, a: V<'k>, elem: ElemType) -> V<'k> {
    let float = elem.is_float();
    match f {
        Unary::Neg => -a,
        Unary::Abs if elem.kind() == Kind::Bool || elem.kind() == Kind::Unsigned => a,
        Unary::Abs => a.abs(),
        Unary::Not => a ^ a.like(-1.0),
        Unary::Floor | Unary::Ceil | Unary::Round if !float => a,
        Unary::Floor => a.intrinsic("floor"),
        Unary::Ceil => a.intrinsic("ceil"),
        Unary::Round => a.intrinsic("roundeven"),
        Unary::Sqrt => a.intrinsic("sqrt"),
        Unary::Exp => functions::exp(a),
        Unary::Log => functions::log(a),
        Unary::Tanh => functions::tanh(a),
        Unary::Erf => functions::erf(a),
        Unary::Sin => functions::sin(a),
        Unary::Cos => functions::cos(a),
    }
}

pub fn binary<'k>(f: Binary, a: V<'k>, b: V<'k>, elem: ElemType) -> V<'k> {
    let (float, signed) = (elem.is_float(), elem.kind() == Kind::Signed);
    let same = |name| a.builder().op1(name, &[a, b], a.ty, &[]);
    match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div if float => a / b,
        Binary::Rem if float => functions::rem(a, b),
        Binary::Pow if float => functions::pow(a, b),
        Binary::Max if float => a.is_nan().select(a, a.max_or(b)),
        Binary::Min if float => a.is_nan().select(a, a.min_or(b)),
        Binary::Max => same(if signed { "arith.maxsi" } else { "arith.maxui" }),
        Binary::Min => same(if signed { "arith.minsi" } else { "arith.minui" }),
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        Binary::Div => divide(a, b, signed, false),
        Binary::Rem => divide(a, b, signed, true),
        Binary::Pow => int_pow(a, b, signed),
    }
}

/// Integer quotient or remainder: 0 for a divisor of 0, and the wrapped result for the one signed overflow, both of
/// which a processor may trap on.
fn divide<'k>(a: V<'k>, b: V<'k>, signed: bool, remainder: bool) -> V<'k> {
    let zero = b.cmp(Cmp::Eq, b.like(0.0));
    if !signed {
        let divisor = zero.select(b.like(1.0), b);
        let value = if remainder { a.rem_unsigned(divisor) } else { a.div_unsigned(divisor) };
        return zero.select(b.like(0.0), value);
    }
    let minus_one = b.cmp(Cmp::Eq, b.like(-1.0));
    let divisor = (zero | minus_one).select(b.like(1.0), b);
    if remainder {
        (zero | minus_one).select(b.like(0.0), a.rem_signed(divisor))
    } else {
        zero.select(b.like(0.0), minus_one.select(-a, a.div_signed(divisor)))
    }
}

/// `a^b` by squaring, wrapping; a negative exponent gives the integer part of the power.
fn int_pow<'k>(a: V<'k>, b: V<'k>, signed: bool) -> V<'k> {
    let (k, one, zero) = (a.builder(), a.like(1.0), a.like(0.0));
    let bits = a.ty.elem.bits() as i64;
    let odd = |v: V<'k>| (v & one).cmp(Cmp::Ne, zero);
    // From the lowest bit up: `[result, a^(2^i), b >> i]`.
    let power = k.for_carry(0, bits, 1, &[one, a, b], |_, v| {
        let result = odd(v[2]).select(v[0] * v[1], v[0]);
        let rest = if bits == 1 { zero } else { v[2].shr_unsigned(1) };
        vec![result, v[1] * v[1], rest]
    })[0];
    if !signed {
        return power;
    }
    let minus_one = a.cmp(Cmp::Eq, a.like(-1.0));
    let unit = minus_one.select(odd(b).select(a, one), a.cmp(Cmp::Eq, one).select(one, zero));
    b.cmp(Cmp::Lt, zero).select(unit, power)
}

pub fn compare<'k>(f: Compare, a: V<'k>, b: V<'k>, elem: ElemType) -> V<'k> {
    let unsigned = matches!(elem.kind(), Kind::Unsigned | Kind::Bool);
    a.cmp(
        match (f, unsigned) {
            (Compare::Eq, _) => Cmp::Eq,
            (Compare::Ne, _) => Cmp::Ne,
            (Compare::Lt, false) => Cmp::Lt,
            (Compare::Le, false) => Cmp::Le,
            (Compare::Gt, false) => Cmp::Gt,
            (Compare::Ge, false) => Cmp::Ge,
            (Compare::Lt, true) => Cmp::Ult,
            (Compare::Le, true) => Cmp::Ule,
            (Compare::Gt, true) => Cmp::Ugt,
            (Compare::Ge, true) => Cmp::Uge,
        },
        b,
    )
}

pub fn convert<'k>(a: V<'k>, from: ElemType, to: ElemType) -> V<'k> {
    let signed = from.kind() == Kind::Signed;
    match (from.is_float(), to.kind()) {
        (_, Kind::Bool) if from == ElemType::I1 => a,
        (_, Kind::Bool) => a.cmp(Cmp::Ne, a.like(0.0)),
        (true, Kind::Float) => a.float_to(register(to)),
        (false, Kind::Float) => a.int_to_float(register(to), signed),
        (true, kind) => a.float_to_int_saturating(register(to), kind == Kind::Signed),
        (false, _) => a.int_to(register(to), signed),
    }
}
