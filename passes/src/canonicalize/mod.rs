//! Brings a module into the form that the other passes are written against, and its stage to `canonical`.
//!
//! ```text
//!     %0 = reshape %x to=[2,15] : f32[2,15]          %1 = reshape %x to=[5,6] : f32[5,6]
//!     %1 = reshape %0 to=[5,6] : f32[5,6]            %2 = mul %1, 0.25 : f32[5,6]
//!     %2 = div %1, 4.0 : f32[5,6]                    return %2
//!     %3 = transpose %2 perm=[0,1] : f32[5,6]
//!     return %3
//! ```
//!
//! Afterwards axes are non-negative; no view or conversion leaves its operand as it is or follows one of its kind;
//! constants stand on the right; subtraction of a constant is addition, division by one multiplication; squares are
//! `square`; elementwise operands broadcast by themselves; a reduction whose axes are put back keeps them, one whose
//! axes are dropped drops them; looking up known rows is a slice; a product with one column is a weighted sum.
//!
//! It must not fire where a value would change: a division stays with `e0` unless the reciprocal is exact, `x + 0.0`
//! stays with `e0` as it turns -0 into 0, a conversion that loses digits stays in place, an operand that determines the
//! sizes of a result keeps its broadcast.

mod arithmetic;
mod movement;

use crate::{
    edit,
    pass::{Context, Exactness, Outcome, Pass, PassError},
};
use kiln_ir::{Attr, Module, Node, Op, Stage};

pub(crate) static PASS: Pass = Pass {
    name: "canonicalize",
    summary: "one form for what can be said in several",
    class: Exactness::E1,
    required: true,
    run,
};

fn run(m: &mut Module, cx: &mut Context<'_>) -> Result<Outcome, PassError> {
    let mut changed = false;
    for node in m.live_nodes() {
        changed |= count_axes_from_the_front(m, node);
    }
    if m.stage == Stage::Imported {
        m.stage = Stage::Canonical;
        changed = true;
    }
    changed |= edit::rewrite(m, cx, &[movement::RULES, arithmetic::RULES].concat())?;
    Ok(Outcome { changed })
}

pub(crate) fn count_axes_from_the_front(m: &mut Module, node: Node) -> bool {
    // `iota` has no operand: its axis is one of its result.
    let of = m.nodes[node].optional(0).or_else(|| m.nodes[node].results.first().copied());
    let rank = of.map_or(0, |v| m.ty(v).rank()) as i64;
    let data = &mut m.nodes[node];
    let before = data.attrs.clone();
    let front = |a: i64| if a < 0 { a + rank } else { a };
    // `scan` counts from the front by its own constraints.
    if let Some(Attr::Int(axis)) = data.attrs.get("axis").filter(|_| data.op != Op::Scan) {
        data.attrs.set("axis", front(*axis));
    }
    if let Some(Attr::Ints(axes)) = data.attrs.get("axes") {
        let mut axes: Vec<i64> = axes.iter().map(|a| front(*a)).collect();
        axes.sort_unstable();
        data.attrs.set("axes", axes);
    }
    data.attrs != before
}
