//! `%r = state.append %x state=@kv`: writes `x` behind what the state holds, along the axis it grows by; the result is
//! what it then holds.
//!
//! (C1) The state is declared and grows. (C2) `x` differs from the state's type only in the size of that axis. (C3) It
//! changes the state alone: a call appends to a state once, or resets it once, or leaves it as it is. (C4) It stands in
//! the entry's own body, so that it is done once. So the types of a call follow from what its states hold as it begins.
//! More than the capacity is an error before anything runs; a call that fails leaves growing states as they were.

use super::{Meaning, OpDef, Primitive, Tolerance, Violation, no_flops, one, state_read::declared};
use crate::attr::{AttrKind, attr};

pub(super) static DEF: OpDef = OpDef {
    name: "state.append",
    summary: "writes behind what a state holds; the result is what it then holds",
    constraints: &[
        "C1: the state is declared and grows",
        "C2: only the size of the growing axis differs",
        "C3: nothing else in the call changes the state",
        "C4: it stands in the entry's own body",
    ],
    operands: &[one("x")],
    attrs: &[attr("state", AttrKind::Name)],
    regions: &[],
    infer: |cx| {
        let state = declared(cx)?;
        let Some(axis) = state.grows.map(|a| a as usize).filter(|a| *a < state.ty.rank()) else {
            return Err(Violation::new("C1", format!("@{} does not grow", state.name)));
        };
        let mut grown = cx.ty(0).clone();
        if grown.rank() == state.ty.rank() {
            grown.dims[axis] = state.ty.dims[axis].clone();
        }
        if grown != state.ty {
            return Err(Violation::new("C2", format!("{} appended to {}", cx.ty(0), state.ty)));
        }
        grown.dims[axis] = grown.dims[axis].clone() + cx.ty(0).dims[axis].clone();
        Ok(vec![grown])
    },
    meaning: Meaning::Primitive(Primitive::StateAppend),
    flops: no_flops,
    tolerance: Tolerance::Exact,
    effect: true,
};
