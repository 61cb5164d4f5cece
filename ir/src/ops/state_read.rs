//! `%r = state.read state=@kv`: what the state holds as the call begins.
//!
//! (C1) The state is declared. (C2) It stands before what changes the state in the call: behind an append, what the
//! state holds is the append's result.

use super::{Cx, Meaning, OpDef, Primitive, Tolerance, Violation, no_flops};
use crate::{
    StateData,
    attr::{AttrKind, attr},
};

pub(super) static DEF: OpDef = OpDef {
    name: "state.read",
    summary: "what a state holds",
    constraints: &["C1: the state is declared", "C2: it stands before what changes the state"],
    operands: &[],
    attrs: &[attr("state", AttrKind::Name)],
    regions: &[],
    infer: |cx| Ok(vec![declared(cx)?.ty.clone()]),
    meaning: Meaning::Primitive(Primitive::StateRead),
    flops: no_flops,
    tolerance: Tolerance::Exact,
    effect: true,
};

/// The state that the node names.
pub(super) fn declared<'a>(cx: &Cx<'a>) -> Result<&'a StateData, Violation> {
    let name = cx.attrs.name("state").unwrap_or("");
    let found = cx.module.and_then(|m| m.states.values().find(|s| s.name == name));
    found.ok_or_else(|| Violation::new("C1", format!("no state @{name} is declared")))
}
