//! Computes before a loop what is the same in each of its steps.
//!
//! ```text
//!     %h = for 7, %x body(%t: .., %a: f32[2,3]) {          %k = linear %e, %w : f32[2,3]
//!       %k = linear %e, %w : f32[2,3]                      %h = for 7, %x body(%t: .., %a: f32[2,3]) {
//!       %b = add %a, %k : f32[2,3]                           %b = add %a, %k : f32[2,3]
//!       yield %b                                             yield %b
//!     }                                                    }
//! ```
//!
//! So an attention's keys, which stand in the decoder's step in most models, are computed once. Bodies and conditions,
//! from the innermost loop outwards.
//!
//! It must not fire on what touches state or holds a region, nor on what may fail at run time (a lookup, `topk` of a
//! symbolic size, a quotient of integers): the loop may run no step.

use crate::{
    Exactness, analysis, cost,
    loops::Loop,
    pass::{Context, Outcome, Pass, PassError},
    record::Rewrite,
};
use kiln_ir::{Module, Node, Op};

pub(crate) static PASS: Pass = Pass {
    name: "hoist-invariants",
    summary: "computes before a loop what is the same in each of its steps",
    class: Exactness::E0,
    required: false,
    run,
};

fn run(m: &mut Module, cx: &mut Context<'_>) -> Result<Outcome, PassError> {
    let known = analysis::weight_time(m);
    let mut changed = false;
    for l in Loop::all(m) {
        let mut inside = l.inside(m);
        let trips = l.trips(m);
        for region in l.regions() {
            let mut moved = vec![];
            for node in m.regions[region].nodes.clone() {
                let varies = m.nodes[node].inputs().any(|v| inside.contains(&v));
                if varies || !analysis::is_pure(m, node) || may_fail(m, node) {
                    continue;
                }
                let Some(index) = cx.admit() else { continue };
                for v in &m.nodes[node].results {
                    inside.remove(v);
                }
                let once = cost::node_cycles(cx.target, m, &[node], &known);
                let text = analysis::text(m, node);
                cx.fired(Rewrite {
                    index,
                    pass: cx.pass().into(),
                    rule: "hoist".into(),
                    place: analysis::place(m, node),
                    before: vec![text.clone()],
                    after: vec![text],
                    cost_before: once.saturating_mul(trips),
                    cost_after: once,
                    class: Exactness::E0,
                });
                moved.push(node);
            }
            m.regions[region].nodes.retain(|n| !moved.contains(n));
            l.put_in_front(m, &moved);
            changed |= !moved.is_empty();
        }
    }
    Ok(Outcome { changed })
}

/// Whether a run of the node may end in an error.
fn may_fail(m: &Module, node: Node) -> bool {
    let data = &m.nodes[node];
    match data.op {
        Op::Gather | Op::DecodeAttention => true,
        Op::Topk => data.attrs.dim("k").is_some_and(|k| k.as_const().is_none()),
        Op::Div | Op::Rem => {
            let divides_by = m.as_number(data.operand(1));
            m.ty(data.result()).elem.is_int() && divides_by.is_none_or(|n| n == 0.0)
        }
        _ => false,
    }
}
