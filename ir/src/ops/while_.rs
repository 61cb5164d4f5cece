//! `%r = while %init, ... max=N+1 condition(%c: ..) { ... yield %go } body(%c: ..) { ... yield %next, ... }`.
//!
//! Runs the body while the condition holds, at most `max` times; reaching `max` with the condition still true is an
//! error at run time. A condition of type `i1[B]` makes the loop *row-wise*: row `b` of every carried value runs a loop
//! of its own. The body is applied to the rows whose condition holds, the others keep what they carry, and the loop
//! ends when no row's condition holds. Row `b` of what both regions yield depends on no other row of what they take;
//! the body is defined for every row, and whether it fails on one that has ended is not.
//!
//! (C1) `max` is at least 0. (C2) Both regions take the carried values; the condition yields `i1[]` or `i1[B]`, the body
//! the carried values. (C3) Where the condition yields `i1[B]`, the first axis of every carried value has size `B`.

use super::{Meaning, OpDef, Primitive, Tolerance, Violation, many, no_flops};
use crate::{
    ElemType, Type,
    attr::{AttrKind, attr},
};

pub(super) static DEF: OpDef = OpDef {
    name: "while",
    summary: "runs the body while the condition holds, at most max times; row by row if the condition is a vector",
    constraints: &[
        "C1: max is at least 0",
        "C2: both regions take the carried values; the condition yields i1[] or i1[B], the body the carried values",
        "C3: where the condition yields i1[B], the first axis of every carried value has size B",
    ],
    operands: &[many("inits")],
    attrs: &[attr("max", AttrKind::Dim)],
    regions: &["condition", "body"],
    infer: |cx| {
        if cx.attrs.dim("max").is_some_and(|max| max.range(cx.symbols).1 < 0) {
            return Err(Violation::new("C1", "max is negative"));
        }
        let carried: Vec<Type> = cx.operands.iter().flatten().cloned().collect();
        let rows = match cx.regions[0].results.as_slice() {
            [t] if t.elem == ElemType::I1 && t.rank() == 1 => Some(&t.dims[0]),
            _ => None,
        };
        let flag = Type::new(ElemType::I1, rows.cloned());
        cx.regions[0].expect("the condition", &carried, &[flag], "C2")?;
        cx.regions[1].expect("the body", &carried, &carried, "C2")?;
        if let Some(rows) = rows
            && let Some(t) = carried.iter().find(|t| t.dims.first() != Some(rows))
        {
            return Err(Violation::new("C3", format!("the condition has {rows} rows, carried is {t}")));
        }
        Ok(carried)
    },
    meaning: Meaning::Primitive(Primitive::While),
    flops: no_flops,
    tolerance: Tolerance::Exact,
    effect: false,
};
