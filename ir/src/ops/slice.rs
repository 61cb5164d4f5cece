//! `%r = slice %x axis=1 start=0 end=384 step=1`: elements `start, start + step, ...` below `end` along an axis.
//!
//! (C1) The axis exists. (C2) `0 <= start <= end <= size` and `step >= 1`; where that depends on
//! symbols, it is asked of each call. Without `step`, it is 1.

use super::{OpDef, Primitive, Violation, one};
use crate::attr::{AttrKind, attr, optional_attr};

pub(super) static DEF: OpDef = OpDef::movement(
    "slice",
    "elements start, start + step, ... below end along an axis",
    &["C1: the axis exists", "C2: 0 <= start <= end <= size and step >= 1"],
    &[one("x")],
    &[
        attr("axis", AttrKind::Int),
        attr("start", AttrKind::Dim),
        attr("end", AttrKind::Dim),
        optional_attr("step", AttrKind::Int),
    ],
    |cx| {
        let x = cx.ty(0);
        let axis = cx.axis("axis", x.rank())?;
        let (start, end) = (cx.attrs.dim("start").cloned().unwrap_or(0.into()), cx.attrs.dim("end").cloned());
        let end = end.unwrap_or_else(|| x.dims[axis].clone());
        let step = cx.attrs.int("step").unwrap_or(1);
        let (length, rest) = (end.clone() - start.clone(), x.dims[axis].clone() - end.clone());
        let found = || format!("{start}..{end} step {step} of size {}", x.dims[axis]);
        if step < 1 {
            return Err(Violation::new("C2", found()));
        }
        cx.not_negative("C2", &[start.clone(), length.clone(), rest], found)?;
        let mut dims = x.dims.clone();
        dims[axis] = length.ceil_div(&step.into());
        Ok(vec![x.with_dims(dims)])
    },
    Primitive::Slice,
);
