//! `%r = categorical %logits, %seed axis=-1`: for each row a draw of a position along an axis, with the probabilities that
//! softmax of the logits gives, as `i64`.
//!
//! The draw is the position of the largest `logit - ln(-ln(u))`, the first of equal ones, in f64, where `u` is random: with
//! `mix` a step of SplitMix64, `m = mix(mix(seed) ^ position)` and `u = (2 (m >> 12) + 1) / 2^53`. So a seed gives the same
//! draw everywhere, but where two of these numbers differ by no more than what targets make of logarithms, some 1e-15 of
//! them. A logit of -inf is never drawn while there is another one; a temperature is a product in front of it, the choice
//! of a few largest a mask of -inf. A NaN counts as largest.
//!
//! (C1) The axis exists. (C2) It has elements; where that depends on symbols, it is asked of each call. (C3) The logits are
//! floats. (C4) The seeds are `i64`, one a row. Gumbel (1954) for the maximum; Steele et al., "Fast splittable
//! pseudorandom number generators" (2014).

use super::{Meaning, Op, OpDef, Seq, Tolerance, Violation, norm_axis, one};
use crate::{
    Dim, ElemType, Type, Value,
    attr::{AttrKind, attr},
    scalar::Literal,
};

pub(super) static DEF: OpDef = OpDef {
    name: "categorical",
    summary: "a draw of a position along an axis with the probabilities of the logits' softmax, by a seed for each row",
    constraints: &[
        "C1: the axis exists",
        "C2: it has elements",
        "C3: the logits are floats",
        "C4: the seeds are i64, one a row",
    ],
    operands: &[one("logits"), one("seed")],
    attrs: &[attr("axis", AttrKind::Int)],
    regions: &[],
    infer: |cx| {
        let (logits, seed) = (cx.ty(0), cx.ty(1));
        let axis = cx.axis("axis", logits.rank())?;
        cx.not_negative("C2", &[logits.dims[axis].clone() - 1.into()], || format!("axis {axis} of {logits}"))?;
        if !logits.elem.is_float() {
            return Err(Violation::new("C3", format!("the logits are {}", logits.elem)));
        }
        let mut rows = logits.dims.clone();
        rows.remove(axis);
        let rows = Type { elem: ElemType::I64, dims: rows };
        if *seed != rows {
            return Err(Violation::new("C4", format!("the seeds are {seed}, the logits {logits}")));
        }
        Ok(vec![rows])
    },
    meaning: Meaning::Decompose(|s, x, attrs| {
        let (Some(logits), Some(seed)) = (x[0], x[1]) else { return Err(Violation::new("C3", "an operand is missing")) };
        let ty = s.ty(logits);
        let axis = norm_axis(attrs.int("axis").unwrap_or(0), ty.rank())?;
        let mut rows = ty.dims.clone();
        rows[axis] = Dim::from(1);
        let convert = |s: &mut Seq<'_>, x: Value, elem: ElemType| s.op(Op::Convert, [x], [("to", elem.into())]);
        let seed = s.op(Op::Reshape, [seed], [("to", rows.into())])?;
        let seed = convert(s, seed, ElemType::U64)?;
        let seed = mix(s, seed)?;
        // Once for all rows.
        let mut places = vec![Dim::from(1); ty.rank()];
        places[axis] = ty.dims[axis].clone();
        let along = [("to", places.into()), ("axis", (axis as i64).into()), ("elem", ElemType::U64.into())];
        let position = s.op(Op::Iota, [None::<Value>; 0], along)?;
        let counter = s.op(Op::Xor, [position, seed], [])?;
        let bits = mix(s, counter)?;
        let bits = shifted(s, bits, 12)?;
        let u = convert(s, bits, ElemType::F64)?;
        let step = s.number((0.5f64).powi(52), u);
        let u = s.op(Op::Mul, [u, step], [])?;
        let half = s.number((0.5f64).powi(53), u);
        let mut noise = s.op(Op::Add, [u, half], [])?;
        for _ in 0..2 {
            noise = s.op(Op::Log, [noise], [])?;
            noise = s.op(Op::Neg, [noise], [])?;
        }
        let logits = convert(s, logits, ElemType::F64)?;
        let scores = s.op(Op::Add, [logits, noise], [])?;
        let drawn = s.op(Op::Argmax, [scores], [("axis", (axis as i64).into()), ("keep", false.into())])?;
        Ok(vec![drawn])
    }),
    flops: |cx, _| cx.ty(0).elements() * 60.into(),
    tolerance: Tolerance::Exact,
    effect: false,
};

fn constant(s: &mut Seq<'_>, bits: u64) -> Value {
    s.module.scalar(ElemType::U64, Literal::Int(bits as i64))
}

/// Bits moved down, zeros behind them.
fn shifted(s: &mut Seq<'_>, x: Value, bits: u32) -> Result<Value, Violation> {
    let by = constant(s, 1 << bits);
    s.op(Op::Div, [x, by], [])
}

/// A step of SplitMix64.
fn mix(s: &mut Seq<'_>, x: Value) -> Result<Value, Violation> {
    let step = constant(s, 0x9e37_79b9_7f4a_7c15);
    let mut z = s.op(Op::Add, [x, step], [])?;
    for (bits, factor) in [(30, Some(0xbf58_476d_1ce4_e5b9)), (27, Some(0x94d0_49bb_1331_11eb)), (31, None)] {
        let low = shifted(s, z, bits)?;
        z = s.op(Op::Xor, [z, low], [])?;
        if let Some(factor) = factor {
            let factor = constant(s, factor);
            z = s.op(Op::Mul, [z, factor], [])?;
        }
    }
    Ok(z)
}
