//! Drops sums of one child with weight 1, products of one child, and terms of weight 0.
//!
//! ```text
//!     n2 = product n0, n1                          n2 = product n0, n1
//!     n3 = sum n2 log=0.0                          n3 = product n2, n4
//!     n5 = product n3, n4
//! ```
//!
//! PSDDs have such sums where a node has no choice. It must not fire on sums of one child with another weight, which
//! `collapse-chains` takes, nor on a sum all of whose weights are 0.

use crate::{
    Exactness, circuits,
    pass::{Context, Outcome, Pass, PassError},
};
use kiln_ir::{
    Circuit, Module,
    circuit::{BuildError, Kind, NodeId},
};

pub(crate) static PASS: Pass = Pass {
    name: "drop-unit-sums",
    summary: "drops sums and products that change nothing, and terms of weight 0",
    class: Exactness::E0,
    required: false,
    run,
};

fn run(m: &mut Module, cx: &mut Context<'_>) -> Result<Outcome, PassError> {
    Ok(circuits::rewrite(m, cx, Exactness::E0, |c| rebuilt(c).ok().flatten()))
}

const ZERO: f64 = f64::NEG_INFINITY;

fn rebuilt(c: &Circuit) -> Result<Option<Circuit>, BuildError> {
    let mut b = c.builder_like();
    let mut moved: Vec<NodeId> = Vec::with_capacity(c.len());
    for n in c.nodes() {
        let origin = c.origin(n);
        let of = |child: &NodeId| moved[child.as_u32() as usize];
        let new = match c.kind(n) {
            Kind::Input { var, dist } => b.input_of(var, dist, origin)?,
            Kind::Product([only]) => of(only),
            Kind::Product(children) => b.product(&children.iter().map(of).collect::<Vec<_>>(), origin)?,
            Kind::Sum([only], [weight]) if *weight == 0.0 => of(only),
            Kind::Sum(children, weights) => {
                // A sum keeps a term even where all are zero.
                let keeps = |w: f64| w > ZERO || weights.iter().all(|w| *w == ZERO);
                let kept = || children.iter().zip(weights).filter(|(_, w)| keeps(**w));
                match kept().collect::<Vec<_>>()[..] {
                    [(only, weight)] if *weight == 0.0 => of(only),
                    _ => {
                        let (children, weights): (Vec<NodeId>, Vec<f64>) = kept().map(|(c, w)| (of(c), *w)).unzip();
                        b.sum(&children, &weights, origin)?
                    }
                }
            }
        };
        moved.push(new);
    }
    let Some(root) = moved.last() else { return Ok(None) };
    let (new, _) = b.finish(*root);
    Ok((new.len() != c.len() || new.edges() != c.edges()).then_some(new))
}
