//! Drops what no output and no state needs: nodes, results of `if` aside, parameters, constants and circuits.
//!
//! ```text
//!     %0 = exp %x : f32[2]              %1 = tanh %x : f32[2]
//!     %1 = tanh %x : f32[2]             return %1
//!     return %1
//! ```
//!
//! Nodes that touch state stay, with all that they need. Inputs of entries stay: they are the model's interface.

use crate::{
    analysis,
    pass::{Context, Exactness, Outcome, Pass, PassError},
};
use kiln_ir::{Circuit, Const, Def, Module, Param, Region, Value};
use std::collections::{HashMap, HashSet};

pub(crate) static PASS: Pass = Pass {
    name: "dce",
    summary: "drops nodes, parameters, constants and circuits that nothing needs",
    class: Exactness::E0,
    required: false,
    run,
};

fn run(m: &mut Module, _: &mut Context<'_>) -> Result<Outcome, PassError> {
    let mut changed = false;
    for region in m.live_regions() {
        changed |= sweep(m, region);
    }
    changed |= drop_declarations(m);
    changed |= drop_circuits(m);
    Ok(Outcome { changed })
}

fn sweep(m: &mut Module, region: Region) -> bool {
    let mut needed: HashSet<Value> = m.regions[region].results.iter().copied().collect();
    let nodes = m.regions[region].nodes.clone();
    let mut kept = vec![];
    for node in nodes.iter().rev() {
        if !analysis::is_removable(m, *node) || m.nodes[*node].results.iter().any(|r| needed.contains(r)) {
            needed.extend(analysis::uses_of(m, *node));
            kept.push(*node);
        }
    }
    kept.reverse();
    let changed = kept.len() != nodes.len();
    m.regions[region].nodes = kept;
    changed
}

/// Parameters and constants that no live node uses. Scalars do not stand in the text, so they may stay.
fn drop_declarations(m: &mut Module) -> bool {
    let used = m.use_counts();
    let params: Vec<_> = m.params.values().filter(|p| used.contains_key(&p.value)).cloned().collect();
    let is_live = |c: &kiln_ir::ConstData| m.ty(c.value).rank() == 0 || used.contains_key(&c.value);
    let consts: Vec<_> = m.consts.values().filter(|c| is_live(c)).cloned().collect();
    if params.len() == m.params.len() && consts.len() == m.consts.len() {
        return false;
    }
    m.params = params.into_iter().collect();
    m.consts = consts.into_iter().collect();
    let params: HashMap<Value, Param> = m.params.iter().map(|(p, d)| (d.value, p)).collect();
    let consts: HashMap<Value, Const> = m.consts.iter().map(|(c, d)| (d.value, c)).collect();
    for (value, param) in params {
        m.values[value].def = Def::Param(param);
    }
    for (value, c) in consts {
        m.values[value].def = Def::Const(c);
    }
    true
}

/// Circuits that no live node asks.
fn drop_circuits(m: &mut Module) -> bool {
    let nodes = m.live_nodes();
    let asked: HashSet<&str> = nodes.iter().filter_map(|n| m.nodes[*n].attrs.name("circuit")).collect();
    let kept: Vec<Circuit> = m.circuits.values().filter(|c| asked.contains(c.name.as_str())).cloned().collect();
    let changed = kept.len() != m.circuits.len();
    if changed {
        m.circuits = kept.into_iter().collect();
    }
    changed
}
