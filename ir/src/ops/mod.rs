//! The op table: every op is one file that declares one constant.
//!
//! From an [`OpDef`] follow the parser and printer (name, operands, attributes), the verifier ([`OpDef::infer`] against
//! the written types), the interpreter (meaning), cost, the e-graph node, the documentation table and the obligation
//! of test files. To add an op: one file here and one line in [`ops!`](self); `tests/ops/<op>.kir` with values from
//! outside and `tests/verify/<op>.kir` with each constraint broken, which tests ask for; `docs/ops.md` rewritten by
//! `UPDATE=1 cargo test -p kiln-ir --test docs`. A new [`Primitive`] also needs an arm in the interpreter and one in every
//! backend; a scalar or composite op needs nothing else.

mod cx;

pub use cx::{Cx, RegionTypes, Seq, Violation};
pub(crate) use cx::{broadcast, norm_axis};
pub use scan::Scan;

use crate::{
    Dim, ElemType, Type,
    attr::{AttrDef, Attrs},
    scalar,
};
use std::fmt;

macro_rules! ops {
    ($($variant:ident $module:ident),* $(,)?) => {
        $(mod $module;)*

        /// The name of an operation; everything else about it stands in its [`OpDef`].
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum Op { $($variant),* }

        impl Op {
            /// Every op, in the order of the table.
            pub const ALL: &'static [Op] = &[$(Op::$variant),*];

            pub fn def(self) -> &'static OpDef {
                match self { $(Op::$variant => &$module::DEF),* }
            }
        }
    };
}

ops! {
    // one element
    Add add, Sub sub, Mul mul, Div div, Rem rem, Pow pow, Max max, Min min, And and, Or or, Xor xor,
    Neg neg, Abs abs, Exp exp, Log log, Sqrt sqrt, Rsqrt rsqrt, Recip recip, Tanh tanh, Erf erf, Sin sin, Cos cos,
    Floor floor, Ceil ceil, Round round, Not not, Relu relu, Sigmoid sigmoid, Silu silu, Gelu gelu,
    GeluTanh gelu_tanh, GeluQuick gelu_quick, Square square, Compare compare, Select select, Convert convert,
    // data movement
    Reshape reshape, Transpose transpose, Broadcast broadcast, Slice slice, Pad pad, Concat concat, Gather gather,
    Iota iota,
    // reductions and what is made of them
    Reduce reduce, Argmax argmax, Topk topk, Categorical categorical, Softmax softmax, LogSoftmax log_softmax,
    LayerNorm layer_norm, RmsNorm rms_norm, L2Normalize l2_normalize,
    // products
    Matmul matmul, Conv conv, Linear linear, Attention attention, DecodeAttention decode_attention,
    LstmCell lstm_cell, GruCell gru_cell,
    // regions
    Fusion fusion, If if_, For for_, While while_, Scan scan,
    // state
    StateRead state_read, StateAppend state_append, StateReset state_reset,
    // probabilistic circuits
    CircuitQuery circuit_query,
}

impl Op {
    pub fn name(self) -> &'static str {
        self.def().name
    }

    pub fn from_name(name: &str) -> Option<Op> {
        Op::ALL.iter().copied().find(|op| op.name() == name)
    }

    /// Whether the op's meaning is this primitive.
    pub fn is_primitive(self, primitive: Primitive) -> bool {
        matches!(self.def().meaning, Meaning::Primitive(p) if p == primitive)
    }

    /// Whether the op works element by element.
    pub fn is_scalar(self) -> bool {
        matches!(self.def().meaning, Meaning::Scalar(_))
    }

    /// Whether the op touches state, so that it may be neither removed, shared nor moved across another such op.
    pub fn has_effect(self) -> bool {
        self.def().effect
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often an operand stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arity {
    One,
    /// Written `name=%value`, or absent.
    Optional,
    /// Any number; only as the last operand. Optional ones in front of it have their slots, present or not.
    Many,
}

/// One operand in an op's declaration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OperandDef {
    pub name: &'static str,
    pub arity: Arity,
}

pub const fn one(name: &'static str) -> OperandDef {
    OperandDef { name, arity: Arity::One }
}

pub const fn optional(name: &'static str) -> OperandDef {
    OperandDef { name, arity: Arity::Optional }
}

pub const fn many(name: &'static str) -> OperandDef {
    OperandDef { name, arity: Arity::Many }
}

/// Appends the nodes that compute the same from these operands; gives the results.
pub type Decomposition = fn(&mut Seq<'_>, &[Option<crate::Value>], &Attrs) -> Result<Vec<crate::Value>, Violation>;

/// What an op computes.
#[derive(Clone, Copy)]
pub enum Meaning {
    /// One element of the result from one element of each operand, after broadcasting as NumPy does.
    Scalar(fn(&mut scalar::Builder, &[scalar::Id], &Attrs) -> scalar::Id),
    /// The same computation in other ops.
    Decompose(Decomposition),
    /// Stands in the interpreter and in every backend.
    Primitive(Primitive),
}

/// The computations that backends must know; everything else is made of these and of scalar expressions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Primitive {
    Reshape,
    Transpose,
    Broadcast,
    Slice,
    Pad,
    Concat,
    Gather,
    Iota,
    Reduce,
    Argmax,
    Topk,
    Matmul,
    Conv,
    DecodeAttention,
    Fusion,
    If,
    For,
    While,
    Scan,
    StateRead,
    StateAppend,
    StateReset,
    CircuitQuery,
}

/// How results of an op are compared with the reference: the largest relative L2 difference in f32.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Tolerance {
    Exact,
    Relative(f64),
}

/// Arithmetic operations and bytes moved, as size expressions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cost {
    pub flops: Dim,
    pub bytes: Dim,
}

/// The declaration of an op.
pub struct OpDef {
    pub name: &'static str,
    /// One line for the documentation table.
    pub summary: &'static str,
    /// The numbered constraints, as they stand in the message of a violation: `C1`, `C2`, ...
    pub constraints: &'static [&'static str],
    pub operands: &'static [OperandDef],
    pub attrs: &'static [AttrDef],
    pub regions: &'static [&'static str],
    /// Types of the results, or the constraint that is violated.
    pub infer: fn(&Cx<'_>) -> Result<Vec<Type>, Violation>,
    pub meaning: Meaning,
    /// Arithmetic operations, given the types of the results; bytes follow from the types.
    pub flops: fn(&Cx<'_>, &[Type]) -> Dim,
    pub tolerance: Tolerance,
    pub effect: bool,
}

const X: &[OperandDef] = &[one("x")];
const A_B: &[OperandDef] = &[one("a"), one("b")];

const SUITS: &[&str] = &["C1: the element type suits the function"];
const ELEMENTWISE: &[&str] = &[
    "C1: the operands have one element type",
    "C2: the sizes of the operands broadcast",
    "C3: the element type suits the function",
];

impl OpDef {
    pub fn is_variadic(&self) -> bool {
        self.operands.last().is_some_and(|o| o.arity == Arity::Many)
    }

    /// Operands that must stand.
    pub fn required_operands(&self) -> usize {
        self.operands.iter().filter(|o| o.arity == Arity::One).count()
    }

    const fn scalar(
        name: &'static str,
        summary: &'static str,
        operands: &'static [OperandDef],
        infer: fn(&Cx<'_>) -> Result<Vec<Type>, Violation>,
        meaning: fn(&mut scalar::Builder, &[scalar::Id], &Attrs) -> scalar::Id,
    ) -> OpDef {
        OpDef {
            name,
            summary,
            constraints: if operands.len() == 1 { SUITS } else { ELEMENTWISE },
            operands,
            attrs: &[],
            regions: &[],
            infer,
            meaning: Meaning::Scalar(meaning),
            flops: one_flop,
            tolerance: Tolerance::Relative(1e-6),
            effect: false,
        }
    }

    /// A scalar op of one operand that must be a float.
    const fn float1(
        name: &'static str,
        summary: &'static str,
        meaning: fn(&mut scalar::Builder, &[scalar::Id], &Attrs) -> scalar::Id,
    ) -> OpDef {
        OpDef::scalar(name, summary, X, |cx| cx.elementwise(|e| e.is_float()), meaning)
    }

    /// A scalar op of one operand that must be a number.
    const fn number1(
        name: &'static str,
        summary: &'static str,
        meaning: fn(&mut scalar::Builder, &[scalar::Id], &Attrs) -> scalar::Id,
    ) -> OpDef {
        OpDef::scalar(name, summary, X, |cx| cx.elementwise(|e| e != ElemType::I1), meaning)
    }

    /// A scalar op of two operands that must be numbers.
    const fn number2(
        name: &'static str,
        summary: &'static str,
        meaning: fn(&mut scalar::Builder, &[scalar::Id], &Attrs) -> scalar::Id,
    ) -> OpDef {
        OpDef::scalar(name, summary, A_B, |cx| cx.elementwise(|e| e != ElemType::I1), meaning)
    }

    /// A scalar op of two operands that must be integers or `i1`.
    const fn bits2(
        name: &'static str,
        summary: &'static str,
        meaning: fn(&mut scalar::Builder, &[scalar::Id], &Attrs) -> scalar::Id,
    ) -> OpDef {
        OpDef {
            tolerance: Tolerance::Exact,
            ..OpDef::scalar(name, summary, A_B, |cx| cx.elementwise(|e| !e.is_float()), meaning)
        }
    }

    /// An op that only moves data.
    const fn movement(
        name: &'static str,
        summary: &'static str,
        constraints: &'static [&'static str],
        operands: &'static [OperandDef],
        attrs: &'static [AttrDef],
        infer: fn(&Cx<'_>) -> Result<Vec<Type>, Violation>,
        primitive: Primitive,
    ) -> OpDef {
        OpDef {
            name,
            summary,
            constraints,
            operands,
            attrs,
            regions: &[],
            infer,
            meaning: Meaning::Primitive(primitive),
            flops: no_flops,
            tolerance: Tolerance::Exact,
            effect: false,
        }
    }
}

/// No arithmetic.
fn no_flops(_: &Cx<'_>, _: &[Type]) -> Dim {
    0.into()
}

/// One operation for each element of the result.
fn one_flop(_: &Cx<'_>, results: &[Type]) -> Dim {
    results[0].elements()
}

/// Arithmetic and traffic of a node without those of its regions: every result is written once, every operand read
/// once, but of the operand of `slice` and the table of `gather` only what arrives in the result. A `reshape` moves
/// nothing.
pub fn cost(op: Op, cx: &Cx<'_>, results: &[Type]) -> Cost {
    let bytes = |t: &Type| t.elements() * Dim::from(t.elem.bytes() as i64);
    let written = results.iter().map(bytes).fold(Dim::from(0), |sum, b| sum + b);
    let read = cx.operands.iter().enumerate().fold(Dim::from(0), |sum, (n, t)| match t {
        Some(_) if n == 0 && matches!(op, Op::Slice | Op::Gather) => sum + written.clone(),
        Some(t) => sum + bytes(t),
        None => sum,
    });
    let bytes = if op == Op::Reshape { Dim::from(0) } else { read + written };
    Cost { flops: (op.def().flops)(cx, results), bytes }
}
