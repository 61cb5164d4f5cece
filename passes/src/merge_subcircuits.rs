//! Shares nodes that are equal: inputs with one distribution, products and sums with the same children and weights.
//!
//! ```text
//!     n0 = indicator var=0 value=1                 n0 = indicator var=0 value=1
//!     n1 = indicator var=0 value=1                 n1 = sum n0 log=-1.0, n0 log=-2.0
//!     n2 = sum n0 log=-1.0, n1 log=-2.0
//! ```
//!
//! It must not fire where children stand in another order, as sums would then be rounded in another way, nor where
//! weights differ.

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
    name: "merge-subcircuits",
    summary: "shares equal nodes of circuits",
    class: Exactness::E0,
    required: false,
    run,
};

fn run(m: &mut Module, cx: &mut Context<'_>) -> Result<Outcome, PassError> {
    Ok(circuits::rewrite(m, cx, Exactness::E0, |c| rebuilt(c).ok().flatten()))
}

/// What tells a node from others, given children that are shared already.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Input(u32, u32),
    Product(Vec<NodeId>),
    Sum(Vec<NodeId>, Vec<u64>),
}

fn rebuilt(c: &Circuit) -> Result<Option<Circuit>, BuildError> {
    let mut b = c.builder_like();
    let mut moved: Vec<NodeId> = Vec::with_capacity(c.len());
    let mut known: HashMap<Key, NodeId> = HashMap::new();
    for n in c.nodes() {
        let origin = c.origin(n);
        let children: Vec<NodeId> = c.children(n).iter().map(|child| moved[child.as_u32() as usize]).collect();
        let key = match c.kind(n) {
            Kind::Input { var, dist } => Key::Input(var, dist.as_u32()),
            Kind::Product(_) => Key::Product(children.clone()),
            Kind::Sum(_, weights) => Key::Sum(children.clone(), weights.iter().map(|w| w.to_bits()).collect()),
        };
        let new = match known.get(&key) {
            Some(same) => *same,
            None => {
                let new = match c.kind(n) {
                    Kind::Input { var, dist } => b.input_of(var, dist, origin)?,
                    Kind::Product(_) => b.product(&children, origin)?,
                    Kind::Sum(_, weights) => b.sum(&children, weights, origin)?,
                };
                known.insert(key, new);
                new
            }
        };
        moved.push(new);
    }
    let Some(root) = moved.last() else { return Ok(None) };
    let (new, _) = b.finish(*root);
    Ok((new.len() != c.len()).then_some(new))
}
