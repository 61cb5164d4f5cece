//! `%r = conv %x, %w bias=%b strides=[4,4] low=[0,0] high=[0,0] dilations=[1,1] groups=1`: cross-correlation.
//!
//! `x` is `[N,C,spatial...]`, `w` is `[M,C/groups,kernel...]`, `bias` is `[M]`; the result is `[N,M,spatial...]`.
//! (C1) Ranks agree and are 3 or more; one stride, dilation and padding for each spatial axis. (C2) Channels agree and
//! divide by `groups`. (C3) Floats of one type; `bias` is `[M]`. (C4) The kernel fits into the padded operand.

use super::{Meaning, OpDef, Primitive, Tolerance, Violation, one, optional};
use crate::{
    Dim,
    attr::{AttrKind, attr},
};

pub(super) static DEF: OpDef = OpDef {
    name: "conv",
    summary: "cross-correlation of [N,C,spatial...] with [M,C/groups,kernel...]",
    constraints: &[
        "C1: ranks agree and are 3 or more; one stride, dilation and padding for each spatial axis",
        "C2: channels agree and divide by groups",
        "C3: floats of one type; bias is [M]",
        "C4: the kernel fits into the padded operand",
    ],
    operands: &[one("x"), one("w"), optional("bias")],
    attrs: &[
        attr("strides", AttrKind::Ints),
        attr("low", AttrKind::Ints),
        attr("high", AttrKind::Ints),
        attr("dilations", AttrKind::Ints),
        attr("groups", AttrKind::Int),
    ],
    regions: &[],
    infer: |cx| {
        let (x, w) = (cx.ty(0), cx.ty(1));
        let list = |name| cx.attrs.ints(name);
        let spatial = x.rank().saturating_sub(2);
        let lists = ["strides", "low", "high", "dilations"];
        if spatial < 1 || w.rank() != x.rank() || lists.iter().any(|l| list(l).len() != spatial) {
            return Err(Violation::new("C1", format!("{x} with {w} and {} strides", list("strides").len())));
        }
        let positive = list("strides").iter().chain(list("dilations")).all(|v| *v >= 1);
        if !positive || list("low").iter().chain(list("high")).any(|v| *v < 0) {
            return Err(Violation::new("C1", "strides and dilations are at least 1, paddings at least 0"));
        }
        let groups = cx.attrs.int("groups").unwrap_or(1);
        let divides = groups >= 1 && w.dims[0].exact_div(&groups.into()).is_some();
        if !divides || x.dims[1] != w.dims[1].clone() * groups.into() {
            let message = format!("{} channels, {} in the kernel, {groups} groups", x.dims[1], w.dims[1]);
            return Err(Violation::new("C2", message));
        }
        if !x.elem.is_float() || x.elem != w.elem {
            return Err(Violation::new("C3", format!("element types are {} and {}", x.elem, w.elem)));
        }
        if let Some(bias) = cx.opt(2).filter(|b| b.elem != x.elem || b.dims != w.dims[..1]) {
            return Err(Violation::new("C3", format!("bias {bias} for {w}")));
        }
        let mut dims = vec![x.dims[0].clone(), w.dims[0].clone()];
        for i in 0..spatial {
            let reach = (w.dims[i + 2].clone() - 1.into()) * list("dilations")[i].into();
            let padding = Dim::from(list("low")[i]) + list("high")[i].into();
            let room = x.dims[i + 2].clone() + padding - reach - 1.into();
            cx.not_negative("C4", std::slice::from_ref(&room), || format!("kernel {w} on {x}"))?;
            dims.push(room.floor_div(&list("strides")[i].into()) + 1.into());
        }
        Ok(vec![x.with_dims(dims)])
    },
    meaning: Meaning::Primitive(Primitive::Conv),
    flops: |cx, results| {
        let taps = cx.ty(1).dims[1..].iter().fold(Dim::from(2), |n, d| n * d.clone());
        results[0].elements() * taps
    },
    tolerance: Tolerance::Relative(1e-5),
    effect: false,
};
