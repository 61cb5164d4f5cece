//! `%values, %indices = topk %x axis=-1 k=5`: the `k` largest elements along an axis in falling order, and where they
//! were (`i64`); of equal ones the first comes first; a NaN counts as largest. `k` is a size: `k=min(W, N)`.
//!
//! (C1) The axis exists. (C2) `1 <= k <= size`; where that depends on symbols, it is asked of each call.

use super::{Meaning, OpDef, Primitive, Tolerance, one};
use crate::{
    Dim, ElemType,
    attr::{AttrKind, attr},
};

pub(super) static DEF: OpDef = OpDef {
    name: "topk",
    summary: "the k largest elements along an axis in falling order, and where they were",
    constraints: &["C1: the axis exists", "C2: 1 <= k <= size"],
    operands: &[one("x")],
    attrs: &[attr("axis", AttrKind::Int), attr("k", AttrKind::Dim)],
    regions: &[],
    infer: |cx| {
        let x = cx.ty(0);
        let axis = cx.axis("axis", x.rank())?;
        let k = cx.attrs.dim("k").cloned().unwrap_or(Dim::from(0));
        let rest = x.dims[axis].clone() - k.clone();
        let found = || format!("k is {k}, the axis has size {}", x.dims[axis]);
        cx.not_negative("C2", &[k.clone() - 1.into(), rest], found)?;
        let mut values = x.clone();
        values.dims[axis] = k;
        let indices = values.with_elem(ElemType::I64);
        Ok(vec![values, indices])
    },
    meaning: Meaning::Primitive(Primitive::Topk),
    flops: |cx, _| cx.ty(0).elements(),
    tolerance: Tolerance::Exact,
    effect: false,
};
