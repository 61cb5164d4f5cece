//! What the passes over circuits share: a rewrite is of a whole circuit, which it replaces.

use crate::{
    Exactness,
    pass::{Context, Outcome},
    record::Rewrite,
};
use kiln_ir::{Circuit, CircuitId, Module};

/// Replaces every circuit for which `f` gives another one; the name of the pass is that of its rule.
pub(crate) fn rewrite(
    m: &mut Module,
    cx: &mut Context<'_>,
    class: Exactness,
    f: impl Fn(&Circuit) -> Option<Circuit>,
) -> Outcome {
    let mut changed = false;
    for id in m.circuits.keys().collect::<Vec<CircuitId>>() {
        let old = &m.circuits[id];
        let Some(new) = f(old) else { continue };
        let Some(index) = cx.admit() else { continue };
        cx.fired(Rewrite {
            index,
            pass: cx.pass().into(),
            rule: cx.pass().into(),
            place: format!("circuit @{}", old.name),
            before: vec![size(old)],
            after: vec![size(&new)],
            cost_before: cost(old),
            cost_after: cost(&new),
            class,
        });
        m.circuits[id] = new;
        changed = true;
    }
    Outcome { changed }
}

fn size(c: &Circuit) -> String {
    format!("{} nodes, {} edges", c.len(), c.edges())
}

/// An addition an edge and something a node.
fn cost(c: &Circuit) -> u64 {
    (c.len() + c.edges()) as u64
}
