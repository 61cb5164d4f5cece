//! Orders the nodes of circuits by levels, and within a level so that what is used together stands together.
//!
//! ```text
//!     n0 = indicator var=0 value=1                 n0 = indicator var=0 value=1
//!     n1 = indicator var=0 value=0                 n1 = indicator var=0 value=0
//!     n2 = sum n0 log=-1.0, n1 log=-0.5            n2 = indicator var=1 value=1
//!     n3 = indicator var=1 value=1                 n3 = sum n0 log=-1.0, n1 log=-0.5
//! ```
//!
//! A level holds what is equally far above the inputs. Sums with the same children follow each other, which makes them a
//! dense block, a matrix of weights; the children of a block follow each other in its order; inputs of a variable follow
//! each other. Nothing is computed differently. It must not fire on a circuit that is in this order.

use crate::{
    Exactness, circuits,
    pass::{Context, Outcome, Pass, PassError},
};
use kiln_ir::{
    Circuit, Module,
    circuit::{BuildError, Kind, NodeId},
};
use std::collections::HashMap;

pub(crate) static PASS: Pass = Pass {
    name: "layer-circuits",
    summary: "orders the nodes of circuits by levels and dense blocks",
    class: Exactness::E0,
    required: false,
    run,
};

fn run(m: &mut Module, cx: &mut Context<'_>) -> Result<Outcome, PassError> {
    Ok(circuits::rewrite(m, cx, Exactness::E0, |c| {
        let order = order(c);
        let is_new = order.iter().enumerate().any(|(n, node)| node.as_u32() as usize != n);
        if is_new { rebuilt(c, &order).ok() } else { None }
    }))
}

/// All nodes in the new order. It depends on the structure alone: levels from the root downwards, each by where its
/// nodes are first used.
fn order(c: &Circuit) -> Vec<NodeId> {
    let levels = c.levels();
    let top = levels[c.root().as_u32() as usize] as usize;
    let mut by_level: Vec<Vec<NodeId>> = vec![vec![]; top + 1];
    let mut met = vec![false; c.len()];
    by_level[top].push(c.root());
    for level in (0..=top).rev() {
        by_level[level] = grouped(c, &by_level[level]);
        for n in by_level[level].clone() {
            for child in c.children(n) {
                if !std::mem::replace(&mut met[child.as_u32() as usize], true) {
                    by_level[levels[child.as_u32() as usize] as usize].push(*child);
                }
            }
        }
    }
    by_level.concat()
}

/// Sums with equal children, and inputs of one variable, brought together where the first of them stands.
fn grouped(c: &Circuit, level: &[NodeId]) -> Vec<NodeId> {
    #[derive(PartialEq, Eq, Hash)]
    enum Key<'a> {
        Variable(u32),
        Children(&'a [NodeId]),
        One(NodeId),
    }
    let mut groups: Vec<Vec<NodeId>> = vec![];
    let mut known: HashMap<Key<'_>, usize> = HashMap::new();
    for n in level {
        let key = match c.kind(*n) {
            Kind::Input { var, .. } => Key::Variable(var),
            Kind::Sum(children, _) if children.len() > 1 => Key::Children(children),
            Kind::Sum(..) | Kind::Product(_) => Key::One(*n),
        };
        let group = *known.entry(key).or_insert(groups.len());
        if group == groups.len() {
            groups.push(vec![]);
        }
        groups[group].push(*n);
    }
    groups.concat()
}

fn rebuilt(c: &Circuit, order: &[NodeId]) -> Result<Circuit, BuildError> {
    let mut b = c.builder_like();
    let mut moved = vec![c.root(); c.len()];
    for n in order {
        let origin = c.origin(*n);
        let children: Vec<NodeId> = c.children(*n).iter().map(|child| moved[child.as_u32() as usize]).collect();
        moved[n.as_u32() as usize] = match c.kind(*n) {
            Kind::Input { var, dist } => b.input_of(var, dist, origin)?,
            Kind::Product(_) => b.product(&children, origin)?,
            Kind::Sum(_, weights) => b.sum(&children, weights, origin)?,
        };
    }
    Ok(b.finish(moved[c.root().as_u32() as usize]).0)
}
