//! Multiplies the inputs of all steps of a `scan` by a weight at once, in front of it.
//!
//! ```text
//!     %h = scan %x, %z .. body(%a: f32[2,3], %c: f32[2,5]) {       %p = linear %x, %w bias=%b : f32[2,7,5]
//!       %p = linear %a, %w bias=%b : f32[2,5]                      %h = scan %p, %z .. body(%a: f32[2,5], %c: f32[2,5]) {
//!       %n = add %p, %c : f32[2,5]                                   %n = add %a, %c : f32[2,5]
//! ```
//!
//! One product of many rows reads the weight once and fills the vector units; so the recurrence is left with what
//! depends on it.
//!
//! It must not fire where the weight or bias is computed in the loop, where the slices are along the axis that the product
//! sums over, where the product adds something of the loop, or where inputs are so narrow (two coordinates) that a product
//! is computed in less time than it is written for all steps and read again.

use crate::{
    Exactness, analysis, cost,
    loops::{Loop, drop_dead},
    pass::{Context, Outcome, Pass, PassError},
    record::Rewrite,
};
use kiln_ir::{Module, Node, Op, Value, ops::Seq};
use std::collections::{HashMap, HashSet};

pub(crate) static PASS: Pass = Pass {
    name: "hoist-input-projections",
    summary: "multiplies the inputs of all steps of a scan by a weight at once",
    class: Exactness::E1,
    required: false,
    run,
};

fn run(m: &mut Module, cx: &mut Context<'_>) -> Result<Outcome, PassError> {
    if !cx.allows(Exactness::E1) {
        return Ok(Outcome { changed: false });
    }
    let mut changed = false;
    for mut l in Loop::all(m).into_iter().filter(|l| l.inputs > 0) {
        for node in m.regions[l.body].nodes.clone() {
            if let Some(n) = suits(m, &l, node)
                && !cost::is_cheaper_than_kept(cx.target, m, node)
                && let Some(index) = cx.admit()
            {
                hoist(m, cx, &mut l, node, n, index)?;
                changed = true;
            }
        }
    }
    Ok(Outcome { changed })
}

/// The input whose slice the node multiplies by what does not change.
fn suits(m: &Module, l: &Loop, node: Node) -> Option<usize> {
    let data = &m.nodes[node];
    if data.op != Op::Linear || data.optional(3).is_some() {
        return None;
    }
    let n = (0..l.inputs).find(|n| l.slice(m, *n) == data.operand(0))?;
    let inside = l.inside(m);
    let invariant = data.inputs().skip(1).all(|v| !inside.contains(&v));
    // Without the axis of the steps, the last axis is another one.
    let whole = m.ty(m.nodes[l.node].operand(l.input(n)));
    let axis = m.nodes[l.node].attrs.int("axis").unwrap_or(0);
    (invariant && axis < whole.rank() as i64 - 1).then_some(n)
}

fn hoist(
    m: &mut Module,
    cx: &mut Context<'_>,
    l: &mut Loop,
    node: Node,
    n: usize,
    index: usize,
) -> Result<(), PassError> {
    let known = analysis::weight_time(m);
    let (place, before) = (analysis::place(m, node), analysis::text(m, node));
    let cost_before = cost::node_cycles(cx.target, m, &[node], &known).saturating_mul(l.trips(m));
    let data = m.nodes[node].clone();
    let whole = m.nodes[l.node].operand(l.input(n));
    let mut s = Seq::new(m, data.source.clone());
    let operands = [Some(whole), data.optional(1), data.optional(2)];
    let product = s.op(Op::Linear, operands, data.attrs.clone()).map_err(|v| cx.broken("hoist", place.clone(), v))?;
    let nodes = s.nodes;
    let slice = m.ty(data.result()).clone();
    let arg = if m.use_counts().get(&data.operand(0)) == Some(&1) {
        let arg = data.operand(0);
        m.nodes[l.node].operands[l.input(n)] = Some(product);
        m.values[arg].ty = slice;
        arg
    } else {
        l.add_input(m, product, slice)
    };
    l.put_in_front(m, &nodes);
    m.replace_uses(&HashMap::from([(data.result(), arg)]));
    m.regions[l.body].nodes.retain(|other| *other != node);
    drop_dead(m, l.body);
    let known: HashSet<Value> = analysis::weight_time(m);
    cx.fired(Rewrite {
        index,
        pass: cx.pass().into(),
        rule: "hoist".into(),
        place,
        before: vec![before],
        after: nodes.iter().map(|n| analysis::text(m, *n)).collect(),
        cost_before,
        cost_after: cost::node_cycles(cx.target, m, &nodes, &known),
        class: Exactness::E1,
    });
    Ok(())
}
