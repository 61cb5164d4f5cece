//! Facts about a module that several passes ask for.

use kiln_ir::{Def, Module, Node, Value};
use std::collections::HashSet;

/// Values that are known when the weights are written: parameters, constants and what is computed from them alone.
/// Their sizes are constant.
pub(crate) fn weight_time(m: &Module) -> HashSet<Value> {
    let stored = m.params.values().map(|p| p.value).chain(m.consts.values().map(|c| c.value));
    let mut known: HashSet<Value> = stored.collect();
    for region in m.live_regions() {
        for node in &m.regions[region].nodes {
            let data = &m.nodes[*node];
            let constant_size = data.results.iter().all(|r| m.ty(*r).const_dims().is_some());
            if is_pure(m, *node) && constant_size && data.inputs().all(|v| known.contains(&v)) {
                known.extend(&data.results);
            }
        }
    }
    known
}

/// Whether the node is a function of its operands alone and holds no region.
pub(crate) fn is_pure(m: &Module, node: Node) -> bool {
    let data = &m.nodes[node];
    !data.op.has_effect() && data.regions.is_empty()
}

/// Whether dropping the node loses nothing if its results are not used.
pub(crate) fn is_removable(m: &Module, node: Node) -> bool {
    let data = &m.nodes[node];
    !data.op.has_effect() && data.regions.iter().all(|r| m.regions[*r].nodes.iter().all(|n| is_removable(m, *n)))
}

/// Values that a region's nodes use, those of inner regions included.
pub(crate) fn uses_of(m: &Module, node: Node) -> Vec<Value> {
    let data = &m.nodes[node];
    let mut found: Vec<Value> = data.inputs().collect();
    for region in &data.regions {
        for inner in &m.regions[*region].nodes {
            found.extend(uses_of(m, *inner));
        }
        found.extend(&m.regions[*region].results);
    }
    found
}

/// The source name of a node, or its first result as text.
pub(crate) fn place(m: &Module, node: Node) -> String {
    let data = &m.nodes[node];
    match (&data.source, data.results.first()) {
        (Some(source), _) => source.clone(),
        (None, Some(v)) => m.show(*v),
        (None, None) => data.op.to_string(),
    }
}

/// The scalar that a value stands for: a constant of rank 0, or one whose elements are all equal.
pub(crate) fn splat(m: &Module, value: Value) -> Option<kiln_ir::scalar::Literal> {
    let Def::Const(c) = m.values[value].def else { return None };
    let data = &m.consts[c].data;
    let first = *data.first()?;
    data.iter().all(|l| *l == first).then_some(first)
}

/// The text of one node on one line, without what is inside of it.
pub(crate) fn text(m: &Module, node: Node) -> String {
    let data = &m.nodes[node];
    let def = data.op.def();
    let names: Vec<String> = data.results.iter().map(|v| m.show(*v)).collect();
    let mut line = if names.is_empty() { String::new() } else { format!("{} = ", names.join(", ")) };
    line.push_str(def.name);
    let (mut plain, mut named) = (vec![], String::new());
    for (i, value) in data.operands.iter().enumerate() {
        let Some(value) = value else { continue };
        match def.operands.get(i) {
            Some(o) if o.arity == kiln_ir::ops::Arity::Optional => {
                named.push_str(&format!(" {}={}", o.name, m.show(*value)))
            }
            _ => plain.push(m.show(*value)),
        }
    }
    if !plain.is_empty() {
        line.push_str(&format!(" {}", plain.join(", ")));
    }
    line.push_str(&named);
    for (key, value) in data.attrs.iter() {
        line.push_str(&format!(" {key}={value}"));
    }
    for label in def.regions {
        line.push_str(&format!(" {label}(..)"));
    }
    let types: Vec<String> = data.results.iter().map(|v| m.ty(*v).to_string()).collect();
    if types.is_empty() { line } else { format!("{line} : {}", types.join(", ")) }
}
