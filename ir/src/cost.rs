//! What nodes, regions and whole entries cost, as size expressions.
//!
//! Regions are included: the body of a `fusion` with its arithmetic only, as what is inside does not reach memory; of
//! an `if` the dearer branch; of a loop the body once for each step, if the number of steps is a size or a constant.
//! A `while` counts with its bound, a `for` with a computed count as one step.

pub use crate::ops::Cost;

use crate::{Def, Dim, Entry, Module, Node, Op, Region, Type, ops::Scan};

impl Cost {
    pub fn zero() -> Cost {
        Cost { flops: 0.into(), bytes: 0.into() }
    }

    fn plus(self, other: Cost) -> Cost {
        Cost { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }

    fn times(self, n: &Dim) -> Cost {
        Cost { flops: self.flops * n.clone(), bytes: self.bytes * n.clone() }
    }

    fn larger(self, other: Cost) -> Cost {
        Cost { flops: self.flops.max_with(&other.flops), bytes: self.bytes.max_with(&other.bytes) }
    }
}

/// The cost of one node of a verified module with its regions.
pub fn node(m: &Module, node: Node) -> Cost {
    node_of(m, node, &|_| true)
}

fn node_of(m: &Module, node: Node, counts: &dyn Fn(Node) -> bool) -> Cost {
    let data = &m.nodes[node];
    let results: Vec<Type> = data.results.iter().map(|v| m.ty(*v).clone()).collect();
    let own = if counts(node) { crate::ops::cost(data.op, &m.cx(node), &results) } else { Cost::zero() };
    let inner = |n: usize| data.regions.get(n).map_or_else(Cost::zero, |r| region_of(m, *r, counts));
    match data.op {
        Op::Fusion => Cost { flops: own.flops + inner(0).flops, ..own },
        Op::If => own.plus(inner(0).larger(inner(1))),
        Op::For => {
            let count = data.operands.first().copied().flatten().and_then(|v| match m.values[v].def {
                Def::Const(c) => m.consts[c].data.first().map(|l| l.value().as_i64().max(0)),
                Def::Param(_) | Def::Arg(..) | Def::Result(..) => None,
            });
            own.plus(inner(0).times(&count.unwrap_or(1).into()))
        }
        Op::While => {
            let steps = data.attrs.dim("max").cloned().unwrap_or(Dim::from(1));
            own.plus(inner(0).plus(inner(1)).times(&steps))
        }
        Op::Scan => {
            let scan = Scan::of(data);
            let steps = scan.inputs.first().and_then(|v| m.ty(*v).dims.get(scan.axis).cloned()).unwrap_or(Dim::from(1));
            own.plus(inner(0).times(&steps))
        }
        _ => own,
    }
}

/// The cost of the nodes of a region of a verified module.
pub fn region(m: &Module, region: Region) -> Cost {
    region_of(m, region, &|_| true)
}

/// [`region`], where nodes that `counts` turns down have no cost beyond that of their regions.
pub fn region_of(m: &Module, region: Region, counts: &dyn Fn(Node) -> bool) -> Cost {
    m.regions[region].nodes.iter().fold(Cost::zero(), |sum, n| sum.plus(node_of(m, *n, counts)))
}

/// The cost of one call of each entry of a verified module.
pub fn entries(m: &Module) -> Vec<(&Entry, Cost)> {
    m.entries.iter().map(|e| (e, region(m, e.body))).collect()
}
