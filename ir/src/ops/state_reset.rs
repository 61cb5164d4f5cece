//! `state.reset state=@kv`: empties the state for the calls to come: one that grows holds nothing, another one zeros.
//!
//! (C1) The state is declared. (C2) It changes the state alone. (C3) It stands in the entry's own body.

use super::{Meaning, OpDef, Primitive, Tolerance, no_flops, state_read::declared};
use crate::attr::{AttrKind, attr};

pub(super) static DEF: OpDef = OpDef {
    name: "state.reset",
    summary: "empties a state",
    constraints: &[
        "C1: the state is declared",
        "C2: nothing else in the call changes the state",
        "C3: it stands in the entry's own body",
    ],
    operands: &[],
    attrs: &[attr("state", AttrKind::Name)],
    regions: &[],
    infer: |cx| declared(cx).map(|_| vec![]),
    meaning: Meaning::Primitive(Primitive::StateReset),
    flops: no_flops,
    tolerance: Tolerance::Exact,
    effect: true,
};
