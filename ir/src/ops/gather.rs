//! `%r = gather %x, %indices axis=0`: slices of `x` at the indices along an axis, which they replace.
//!
//! `batch` leading axes are shared: element `b` of the indices picks from element `b` of `x`, as `batch_dims` of
//! TensorFlow. Without it, none are. The sizes are `x[..axis]`, those of the indices from axis `batch` on, and
//! `x[axis + 1..]`.
//!
//! (C1) The axis exists. (C2) The indices are integers. (C3) `1 <= batch <= axis`, and the first `batch` sizes of both
//! operands are equal. An index below zero or beyond the axis is an error at run time.

use super::{OpDef, Primitive, Violation, one};
use crate::attr::{AttrKind, attr, optional_attr};

pub(super) static DEF: OpDef = OpDef::movement(
    "gather",
    "slices of x at the indices along an axis, which they replace",
    &[
        "C1: the axis exists",
        "C2: the indices are integers",
        "C3: 1 <= batch <= axis; the first batch sizes of both operands are equal",
    ],
    &[one("x"), one("indices")],
    &[attr("axis", AttrKind::Int), optional_attr("batch", AttrKind::Int)],
    |cx| {
        let (x, indices) = (cx.ty(0), cx.ty(1));
        let axis = cx.axis("axis", x.rank())?;
        if !indices.elem.is_int() {
            return Err(Violation::new("C2", format!("indices are {}", indices.elem)));
        }
        let batch = match cx.attrs.int("batch") {
            None => 0,
            Some(batch) => match usize::try_from(batch).ok().filter(|n| (1..=axis.min(indices.rank())).contains(n)) {
                Some(n) if x.dims[..n] == indices.dims[..n] => n,
                _ => return Err(Violation::new("C3", format!("batch {batch} of {x} and {indices} at axis {axis}"))),
            },
        };
        let dims = x.dims[..axis].iter().chain(&indices.dims[batch..]).chain(&x.dims[axis + 1..]);
        Ok(vec![x.with_dims(dims.cloned().collect())])
    },
    Primitive::Gather,
);
