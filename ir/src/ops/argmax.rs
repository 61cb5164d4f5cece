//! `%r = argmax %x axis=-1 keep=false`: position of the largest element along an axis as `i64`, the first of equal
//! ones; a NaN counts as largest.
//!
//! (C1) The axis exists. (C2) It has elements; where that depends on symbols, it is asked of each call.

use super::{Meaning, OpDef, Primitive, Tolerance, one};
use crate::{
    ElemType,
    attr::{AttrKind, attr},
};

pub(super) static DEF: OpDef = OpDef {
    name: "argmax",
    summary: "position of the largest element along an axis, the first of equal ones",
    constraints: &["C1: the axis exists", "C2: it has elements"],
    operands: &[one("x")],
    attrs: &[attr("axis", AttrKind::Int), attr("keep", AttrKind::Bool)],
    regions: &[],
    infer: |cx| {
        let x = cx.ty(0);
        let axis = cx.axis("axis", x.rank())?;
        cx.not_negative("C2", &[x.dims[axis].clone() - 1.into()], || format!("axis {axis} of {x}"))?;
        let mut result = x.with_elem(ElemType::I64);
        if cx.attrs.bool("keep") {
            result.dims[axis] = 1.into();
        } else {
            result.dims.remove(axis);
        }
        Ok(vec![result])
    },
    meaning: Meaning::Primitive(Primitive::Argmax),
    flops: |cx, _| cx.ty(0).elements(),
    tolerance: Tolerance::Exact,
    effect: false,
};
