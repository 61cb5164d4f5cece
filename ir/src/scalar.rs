//! Scalar expressions: what an elementwise op does to one element.
//!
//! An expression is a list of instructions in SSA form over at most a few inputs. The op table states the meaning of
//! every elementwise op with it, fusion composes it, the interpreter evaluates it and each backend folds it to code:
//! there is no other description of scalar arithmetic. Integers wrap; an integer division by zero gives 0; `Rem` has
//! the sign of the dividend; `Round` is to nearest, ties to even; comparisons with NaN are false except `Ne`; `Max`
//! and `Min` give NaN if either side is NaN; `Convert` from float to integer truncates and saturates, to `i1` tests
//! against zero.

use crate::{ElemType, types::Kind};
use std::collections::HashMap;

/// Position of an instruction in its expression.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Id(pub u32);

macro_rules! functions {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum $name { $($variant),* }
        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text),* }
            }
        }
    };
}

functions! {
    /// Functions of one argument; the result has the argument's type.
    Unary {
        Neg "neg", Abs "abs", Exp "exp", Log "log", Sqrt "sqrt", Tanh "tanh", Erf "erf", Sin "sin", Cos "cos",
        Floor "floor", Ceil "ceil", Round "round", Not "not",
    }
}
functions! {
    /// Functions of two arguments of one type; the result has that type.
    Binary {
        Add "add", Sub "sub", Mul "mul", Div "div", Rem "rem", Pow "pow", Max "max", Min "min",
        And "and", Or "or", Xor "xor",
    }
}
functions! {
    /// Comparisons of two arguments of one type; the result is `i1`.
    Compare { Eq "eq", Ne "ne", Lt "lt", Le "le", Gt "gt", Ge "ge" }
}

/// A constant. Floats are held by their bits so that expressions can be hashed and compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Literal {
    Float(u64),
    Int(i64),
}

impl Literal {
    /// The literal of type `elem` that a conversion of `value` to it gives.
    pub fn of(elem: ElemType, value: f64) -> Literal {
        match eval::convert(Scalar::F(value), ElemType::F64, elem) {
            Scalar::F(x) => Literal::Float(x.to_bits()),
            Scalar::I(i) => Literal::Int(i),
        }
    }

    /// Whether the literal is a value of the type.
    pub fn fits(self, elem: ElemType) -> bool {
        match self {
            Literal::Float(_) => elem.is_float(),
            Literal::Int(i) => !elem.is_float() && Scalar::I(i).wrap(elem) == Scalar::I(i),
        }
    }

    pub fn as_f64(self) -> f64 {
        match self {
            Literal::Float(bits) => f64::from_bits(bits),
            Literal::Int(i) => i as f64,
        }
    }

    pub fn value(self) -> Scalar {
        match self {
            Literal::Float(bits) => Scalar::F(f64::from_bits(bits)),
            Literal::Int(i) => Scalar::I(i),
        }
    }
}

/// One step of an expression.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Inst {
    /// Element of operand `n`.
    Input(u32),
    /// Coordinate of the element along this axis of the result, as `i64`.
    Index(u32),
    Const(Literal),
    Unary(Unary, Id),
    Binary(Binary, Id, Id),
    Compare(Compare, Id, Id),
    /// `if a { b } else { c }`.
    Select(Id, Id, Id),
    /// To the instruction's own type.
    Convert(Id),
}

/// An expression; its value is that of the last instruction. Built only through [`Builder`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Expr {
    insts: Vec<(Inst, ElemType)>,
}

impl Expr {
    /// The expression that is its input `n`.
    pub fn input(n: u32, elem: ElemType) -> Expr {
        Expr { insts: vec![(Inst::Input(n), elem)] }
    }

    /// Instructions with the types of their values, operands before users.
    pub fn insts(&self) -> &[(Inst, ElemType)] {
        &self.insts
    }

    pub fn elem(&self) -> ElemType {
        self.insts[self.insts.len() - 1].1
    }

    /// The expression whose value is that of an instruction.
    pub fn part(&self, id: Id) -> Expr {
        Builder { insts: self.insts.clone(), known: HashMap::new() }.finish(id)
    }

    /// Whether the expression only passes its input 0 on.
    pub fn is_identity(&self) -> bool {
        matches!(self.insts.as_slice(), [(Inst::Input(0), _)])
    }

    /// The inputs read, sorted.
    pub fn inputs(&self) -> Vec<u32> {
        let mut found: Vec<u32> =
            self.insts.iter().filter_map(|(i, _)| if let Inst::Input(n) = i { Some(*n) } else { None }).collect();
        found.sort();
        found.dedup();
        found
    }

    /// The value for one element. `inputs[n]` belongs to `Input(n)`; `index` are the coordinates.
    pub fn eval(&self, inputs: &[Scalar], index: &[i64]) -> Scalar {
        self.eval_in(inputs, index, &mut Vec::with_capacity(self.insts.len()))
    }

    /// [`Expr::eval`] with the memory for the instructions' values lent by the caller.
    pub(crate) fn eval_in(&self, inputs: &[Scalar], index: &[i64], values: &mut Vec<Scalar>) -> Scalar {
        values.clear();
        for (inst, elem) in &self.insts {
            let at = |id: &Id| values[id.0 as usize];
            let value = match inst {
                Inst::Input(n) => inputs[*n as usize],
                Inst::Index(axis) => Scalar::I(index[*axis as usize]),
                Inst::Const(literal) => literal.value(),
                Inst::Unary(f, a) => eval::unary(*f, at(a), *elem),
                Inst::Binary(f, a, b) => eval::binary(*f, at(a), at(b), *elem),
                Inst::Compare(f, a, b) => {
                    eval::compare(*f, at(a), at(b), self.insts[a.0 as usize].1.kind() == Kind::Unsigned)
                }
                Inst::Select(c, a, b) => {
                    if at(c) != Scalar::I(0) {
                        at(a)
                    } else {
                        at(b)
                    }
                }
                Inst::Convert(a) => eval::convert(at(a), self.insts[a.0 as usize].1, *elem),
            };
            values.push(value.wrap(*elem));
        }
        values[values.len() - 1]
    }
}

/// Builds an expression; equal instructions are shared.
#[derive(Default)]
pub struct Builder {
    insts: Vec<(Inst, ElemType)>,
    known: HashMap<(Inst, ElemType), Id>,
}

impl Builder {
    pub fn new() -> Builder {
        Builder::default()
    }

    fn push(&mut self, inst: Inst, elem: ElemType) -> Id {
        let next = Id(self.insts.len() as u32);
        let id = *self.known.entry((inst, elem)).or_insert(next);
        if id == next {
            self.insts.push((inst, elem));
        }
        id
    }

    pub fn elem(&self, id: Id) -> ElemType {
        self.insts[id.0 as usize].1
    }

    pub fn input(&mut self, n: u32, elem: ElemType) -> Id {
        self.push(Inst::Input(n), elem)
    }

    pub fn index(&mut self, axis: u32) -> Id {
        self.push(Inst::Index(axis), ElemType::I64)
    }

    pub fn literal(&mut self, literal: Literal, elem: ElemType) -> Id {
        self.push(Inst::Const(literal), elem)
    }

    /// A constant of the type of `like`.
    pub fn constant(&mut self, value: f64, like: Id) -> Id {
        let elem = self.elem(like);
        self.push(Inst::Const(Literal::of(elem, value)), elem)
    }

    pub fn unary(&mut self, f: Unary, a: Id) -> Id {
        self.push(Inst::Unary(f, a), self.elem(a))
    }

    pub fn binary(&mut self, f: Binary, a: Id, b: Id) -> Id {
        self.push(Inst::Binary(f, a, b), self.elem(a))
    }

    pub fn compare(&mut self, f: Compare, a: Id, b: Id) -> Id {
        self.push(Inst::Compare(f, a, b), ElemType::I1)
    }

    pub fn select(&mut self, c: Id, a: Id, b: Id) -> Id {
        self.push(Inst::Select(c, a, b), self.elem(a))
    }

    pub fn convert(&mut self, a: Id, to: ElemType) -> Id {
        if self.elem(a) == to { a } else { self.push(Inst::Convert(a), to) }
    }

    pub fn add(&mut self, a: Id, b: Id) -> Id {
        self.binary(Binary::Add, a, b)
    }

    pub fn sub(&mut self, a: Id, b: Id) -> Id {
        self.binary(Binary::Sub, a, b)
    }

    pub fn mul(&mut self, a: Id, b: Id) -> Id {
        self.binary(Binary::Mul, a, b)
    }

    pub fn div(&mut self, a: Id, b: Id) -> Id {
        self.binary(Binary::Div, a, b)
    }

    /// Inserts `expr` with its inputs replaced by `inputs`; returns its value.
    pub fn inline(&mut self, expr: &Expr, inputs: &[Id]) -> Id {
        let mut map: Vec<Id> = Vec::with_capacity(expr.insts.len());
        for (inst, elem) in &expr.insts {
            let at = |id: &Id| map[id.0 as usize];
            let id = match inst {
                Inst::Input(n) => inputs[*n as usize],
                Inst::Index(_) | Inst::Const(_) => self.push(*inst, *elem),
                Inst::Unary(f, a) => self.push(Inst::Unary(*f, at(a)), *elem),
                Inst::Binary(f, a, b) => self.push(Inst::Binary(*f, at(a), at(b)), *elem),
                Inst::Compare(f, a, b) => self.push(Inst::Compare(*f, at(a), at(b)), *elem),
                Inst::Select(c, a, b) => self.push(Inst::Select(at(c), at(a), at(b)), *elem),
                Inst::Convert(a) => self.push(Inst::Convert(at(a)), *elem),
            };
            map.push(id);
        }
        map[map.len() - 1]
    }

    /// The expression whose value is `result`; instructions it does not need are dropped.
    pub fn finish(self, result: Id) -> Expr {
        let mut needed = vec![false; self.insts.len()];
        needed[result.0 as usize] = true;
        for at in (0..self.insts.len()).rev().filter(|i| *i <= result.0 as usize) {
            if needed[at] {
                let mut mark = |id: &Id| needed[id.0 as usize] = true;
                match &self.insts[at].0 {
                    Inst::Input(_) | Inst::Index(_) | Inst::Const(_) => {}
                    Inst::Unary(_, a) | Inst::Convert(a) => mark(a),
                    Inst::Binary(_, a, b) | Inst::Compare(_, a, b) => {
                        mark(a);
                        mark(b);
                    }
                    Inst::Select(a, b, c) => {
                        mark(a);
                        mark(b);
                        mark(c);
                    }
                }
            }
        }
        let mut map = vec![Id(0); self.insts.len()];
        let mut insts = vec![];
        for (at, (inst, elem)) in self.insts.iter().enumerate().filter(|(at, _)| needed[*at]) {
            let m = |id: &Id| map[id.0 as usize];
            let inst = match inst {
                Inst::Input(_) | Inst::Index(_) | Inst::Const(_) => *inst,
                Inst::Unary(f, a) => Inst::Unary(*f, m(a)),
                Inst::Binary(f, a, b) => Inst::Binary(*f, m(a), m(b)),
                Inst::Compare(f, a, b) => Inst::Compare(*f, m(a), m(b)),
                Inst::Select(c, a, b) => Inst::Select(m(c), m(a), m(b)),
                Inst::Convert(a) => Inst::Convert(m(a)),
            };
            map[at] = Id(insts.len() as u32);
            insts.push((inst, *elem));
        }
        Expr { insts }
    }
}

/// A value in the reference arithmetic: floats of every width are f64, integers and `i1` are i64 (`u64` by its bits).
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Scalar {
    F(f64),
    I(i64),
}

impl Scalar {
    pub fn as_f64(self) -> f64 {
        match self {
            Scalar::F(x) => x,
            Scalar::I(i) => i as f64,
        }
    }

    pub fn as_i64(self) -> i64 {
        match self {
            Scalar::F(x) => x as i64,
            Scalar::I(i) => i,
        }
    }

    /// Wraps an integer to the width of `elem`; floats stay as they are.
    pub fn wrap(self, elem: ElemType) -> Scalar {
        match (self, elem) {
            (Scalar::I(i), ElemType::I1) => Scalar::I(i & 1),
            (Scalar::I(i), ElemType::I8) => Scalar::I(i as i8 as i64),
            (Scalar::I(i), ElemType::I16) => Scalar::I(i as i16 as i64),
            (Scalar::I(i), ElemType::I32) => Scalar::I(i as i32 as i64),
            (Scalar::I(i), ElemType::U8) => Scalar::I(i as u8 as i64),
            (Scalar::I(i), ElemType::U16) => Scalar::I(i as u16 as i64),
            (Scalar::I(i), ElemType::U32) => Scalar::I(i as u32 as i64),
            (other, _) => other,
        }
    }
}

/// The reference arithmetic.
mod eval {
    use super::{Binary, Compare, ElemType, Kind, Scalar, Unary};
    use Scalar::{F, I};

    pub(super) fn unary(f: Unary, a: Scalar, elem: ElemType) -> Scalar {
        match (f, a) {
            (Unary::Neg, I(a)) => I(a.wrapping_neg()),
            (Unary::Abs, I(a)) if elem.kind() == Kind::Unsigned => I(a),
            (Unary::Abs, I(a)) => I(a.wrapping_abs()),
            (Unary::Not, a) => I(!a.as_i64()),
            (Unary::Floor | Unary::Ceil | Unary::Round, I(a)) => I(a),
            (Unary::Neg, F(a)) => F(-a),
            (Unary::Abs, F(a)) => F(a.abs()),
            (Unary::Floor, F(a)) => F(a.floor()),
            (Unary::Ceil, F(a)) => F(a.ceil()),
            (Unary::Round, F(a)) => F(a.round_ties_even()),
            (Unary::Exp, a) => F(a.as_f64().exp()),
            (Unary::Log, a) => F(a.as_f64().ln()),
            (Unary::Sqrt, a) => F(a.as_f64().sqrt()),
            (Unary::Tanh, a) => F(a.as_f64().tanh()),
            (Unary::Erf, a) => F(libm::erf(a.as_f64())),
            (Unary::Sin, a) => F(a.as_f64().sin()),
            (Unary::Cos, a) => F(a.as_f64().cos()),
        }
    }

    pub(super) fn binary(f: Binary, a: Scalar, b: Scalar, elem: ElemType) -> Scalar {
        if let (F(a), F(b)) = (a, b) {
            return F(match f {
                Binary::Add => a + b,
                Binary::Sub => a - b,
                Binary::Mul => a * b,
                Binary::Div => a / b,
                Binary::Rem => a % b,
                Binary::Pow => a.powf(b),
                Binary::Max if a.is_nan() || b.is_nan() => f64::NAN,
                Binary::Min if a.is_nan() || b.is_nan() => f64::NAN,
                Binary::Max => a.max(b),
                Binary::Min => a.min(b),
                Binary::And | Binary::Or | Binary::Xor => f64::NAN,
            });
        }
        let (a, b, unsigned) = (a.as_i64(), b.as_i64(), elem.kind() == Kind::Unsigned);
        I(match f {
            Binary::Add => a.wrapping_add(b),
            Binary::Sub => a.wrapping_sub(b),
            Binary::Mul => a.wrapping_mul(b),
            Binary::Div | Binary::Rem if b == 0 => 0,
            Binary::Div if unsigned => ((a as u64) / (b as u64)) as i64,
            Binary::Rem if unsigned => ((a as u64) % (b as u64)) as i64,
            Binary::Div => a.wrapping_div(b),
            Binary::Rem => a.wrapping_rem(b),
            Binary::Pow if b < 0 && !unsigned => {
                i64::from(a == 1) - i64::from(a == -1 && b % 2 != 0) + i64::from(a == -1 && b % 2 == 0)
            }
            Binary::Pow => (0..64).rev().fold(1i64, |r, bit| {
                let r = r.wrapping_mul(r);
                if (b >> bit) & 1 == 1 { r.wrapping_mul(a) } else { r }
            }),
            Binary::Max if unsigned => (a as u64).max(b as u64) as i64,
            Binary::Min if unsigned => (a as u64).min(b as u64) as i64,
            Binary::Max => a.max(b),
            Binary::Min => a.min(b),
            Binary::And => a & b,
            Binary::Or => a | b,
            Binary::Xor => a ^ b,
        })
    }

    pub(super) fn compare(f: Compare, a: Scalar, b: Scalar, unsigned: bool) -> Scalar {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = match (a, b) {
            (F(a), F(b)) => a.partial_cmp(&b),
            _ if unsigned => Some((a.as_i64() as u64).cmp(&(b.as_i64() as u64))),
            _ => Some(a.as_i64().cmp(&b.as_i64())),
        };
        I(i64::from(match f {
            Compare::Eq => order == Some(Equal),
            Compare::Ne => order != Some(Equal),
            Compare::Lt => order == Some(Less),
            Compare::Le => matches!(order, Some(Less | Equal)),
            Compare::Gt => order == Some(Greater),
            Compare::Ge => matches!(order, Some(Greater | Equal)),
        }))
    }

    pub(super) fn convert(a: Scalar, from: ElemType, to: ElemType) -> Scalar {
        match (a, to.kind()) {
            (a, Kind::Bool) => I(i64::from(a != I(0) && a != F(0.0))),
            (F(a), Kind::Float) => F(a),
            (I(a), Kind::Float) if from == ElemType::U64 => F(a as u64 as f64),
            (I(a), Kind::Float) => F(a as f64),
            (I(a), Kind::Signed | Kind::Unsigned) => I(a),
            (F(a), Kind::Unsigned) if to == ElemType::U64 => I(a as u64 as i64),
            (F(a), Kind::Unsigned) => I((a as i64).clamp(0, (1i64 << (to.bytes() * 8)) - 1)),
            (F(a), Kind::Signed) if to == ElemType::I64 => I(a as i64),
            (F(a), Kind::Signed) => {
                let max = (1i64 << (to.bytes() * 8 - 1)) - 1;
                I((a as i64).clamp(-max - 1, max))
            }
        }
    }
}
