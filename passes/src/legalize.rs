//! Takes apart what the target has no kernel for, and brings the module to stage `legal`.
//!
//! ```text
//!     %0 = l2_normalize %x axis=1 eps=1e-12 : f32[2,3]        %1 = square %x : f32[2,3]
//!                                                             %2 = reduce %1 kind=sum axes=[1] keep=true : f32[2,1]
//!                                                             %3 = sqrt %2 : f32[2,1]
//!                                                             %4 = max %3, 1e-12 : f32[2,1]
//!                                                             %0 = div %x, %4 : f32[2,3]
//! ```
//!
//! A decomposition may hold composite ops, which are taken apart in turn. It must not touch an op that the target lists
//! (but for recurrent cells whose weight is not known at weight time), nor one that is known at weight time and that the
//! interpreter therefore evaluates.

use crate::{
    analysis, cost, edit,
    pass::{Context, Exactness, Outcome, Pass, PassError},
    record::Rewrite,
};
use kiln_ir::{
    Module, Node, NodeData, Op, Region, Stage, Value,
    ops::{Meaning, Seq},
};
use std::collections::{HashMap, HashSet};

pub(crate) static PASS: Pass = Pass {
    name: "legalize",
    summary: "takes apart what the target has no kernel for",
    class: Exactness::E1,
    required: true,
    run,
};

/// Decompositions within decompositions.
const DEPTH: usize = 8;

fn run(m: &mut Module, cx: &mut Context<'_>) -> Result<Outcome, PassError> {
    let mut changed = false;
    for _ in 0..DEPTH {
        let mut again = false;
        for region in edit::open_regions(m) {
            again |= sweep(m, cx, region)?;
        }
        changed |= again;
        if !again {
            break;
        }
    }
    if m.stage != Stage::Legal {
        m.stage = Stage::Legal;
        changed = true;
    }
    Ok(Outcome { changed })
}

/// Whether the target's kernel can take the node's weight, which cells need in a layout of their own.
fn packs(data: &NodeData, known: &HashSet<Value>) -> bool {
    let weight = match data.op {
        Op::LstmCell => data.optional(3),
        Op::GruCell => data.optional(2),
        _ => None,
    };
    weight.is_none_or(|weight| known.contains(&weight))
}

fn sweep(m: &mut Module, cx: &mut Context<'_>, region: Region) -> Result<bool, PassError> {
    let known = analysis::weight_time(m);
    let (mut list, mut replaced) = (vec![], HashMap::new());
    for node in std::mem::take(&mut m.regions[region].nodes) {
        let data = m.nodes[node].clone();
        let takes_whole = cx.target.composites.contains(&data.op) && packs(&data, &known);
        let Meaning::Decompose(decompose) = data.op.def().meaning else {
            list.push(node);
            continue;
        };
        if takes_whole || data.results.iter().all(|r| known.contains(r)) {
            list.push(node);
            continue;
        }
        let index = cx.count();
        let (place, before) = (analysis::place(m, node), analysis::text(m, node));
        let mut s = Seq::new(m, data.source.clone());
        let results = decompose(&mut s, &data.operands, &data.attrs);
        let nodes = s.nodes;
        let results = results.map_err(|v| cx.broken("decompose", place.clone(), v))?;
        for (old, new) in data.results.iter().zip(results) {
            if m.producer(new).is_some_and(|p| nodes.contains(&p)) {
                edit::swap_labels(m, *old, new);
            }
            replaced.insert(*old, new);
        }
        front_axes(m, &nodes);
        cx.fired(Rewrite {
            index,
            pass: cx.pass().into(),
            rule: "decompose".into(),
            place,
            before: vec![before],
            after: nodes.iter().map(|n| analysis::text(m, *n)).collect(),
            cost_before: cost::node_cycles(cx.target, m, &[node], &known),
            cost_after: cost::node_cycles(cx.target, m, &nodes, &known),
            class: Exactness::E1,
        });
        list.extend(nodes);
    }
    m.regions[region].nodes = list;
    m.replace_uses(&replaced);
    Ok(!replaced.is_empty())
}

/// Decompositions may count axes from the back, which stage `canonical` does not.
fn front_axes(m: &mut Module, nodes: &[Node]) {
    for node in nodes {
        crate::canonicalize::count_axes_from_the_front(m, *node);
    }
}
