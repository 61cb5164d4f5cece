//! Collapses chains: constants move up into the weights of sums, and a product that only a product has becomes part of it.
//!
//! ```text
//!     n2 = sum n0 log=-1.0                         n2 = product n0, n1, n3
//!     n4 = product n2, n1                          n5 = sum n2 log=-1.5, n4 log=-2.0
//!     n5 = product n4, n3
//!     n7 = sum n5 log=-0.5, n6 log=-2.0
//! ```
//!
//! A sum with one child is a constant factor of it. It passes through products to the next sum with a choice, or to the
//! root. It must not fire on a product that several nodes share, which would be computed several times, nor on one below a
//! sum.

use crate::{
    Exactness, circuits,
    pass::{Context, Outcome, Pass, PassError},
};
use kiln_ir::{
    Circuit, Module,
    circuit::{BuildError, Kind, NodeId},
};

pub(crate) static PASS: Pass = Pass {
    name: "collapse-chains",
    summary: "moves constants of circuits into weights, and products into products",
    class: Exactness::E1,
    required: false,
    run,
};

fn run(m: &mut Module, cx: &mut Context<'_>) -> Result<Outcome, PassError> {
    if !cx.allows(Exactness::E1) {
        return Ok(Outcome { changed: false });
    }
    Ok(circuits::rewrite(m, cx, Exactness::E1, |c| {
        let lifted = lifted(c).ok()?;
        let flat = flat(&lifted).ok()?;
        (flat.len() != c.len() || flat.edges() != c.edges()).then_some(flat)
    }))
}

/// The circuit in which only the root may be a sum of one child.
fn lifted(c: &Circuit) -> Result<Circuit, BuildError> {
    let mut b = c.builder_like();
    // Each node as another one times a constant, in logarithms.
    let mut moved: Vec<(NodeId, f64)> = Vec::with_capacity(c.len());
    for n in c.nodes() {
        let origin = c.origin(n);
        let of = |child: &NodeId| moved[child.as_u32() as usize];
        let new = match c.kind(n) {
            Kind::Input { var, dist } => (b.input_of(var, dist, origin)?, 0.0),
            Kind::Product([only]) => of(only),
            // A factor of zero would take the constants of others with it.
            Kind::Sum([only], [weight]) if *weight > f64::NEG_INFINITY => {
                let (node, scale) = of(only);
                (node, scale + weight)
            }
            Kind::Product(children) => {
                let (factors, scales): (Vec<NodeId>, Vec<f64>) = children.iter().map(of).unzip();
                (b.product(&factors, origin)?, scales.iter().sum())
            }
            Kind::Sum(children, weights) => {
                let scaled = children.iter().zip(weights).map(|(child, w)| (of(child).0, of(child).1 + w));
                let (terms, weights): (Vec<NodeId>, Vec<f64>) = scaled.unzip();
                (b.sum(&terms, &weights, origin)?, 0.0)
            }
        };
        moved.push(new);
    }
    let (mut root, scale) = moved[c.root().as_u32() as usize];
    if scale != 0.0 {
        root = b.sum(&[root], &[scale], c.origin(c.root()))?;
    }
    Ok(b.finish(root).0)
}

fn flat(c: &Circuit) -> Result<Circuit, BuildError> {
    let mut parents = vec![(0u32, false); c.len()];
    for n in c.nodes() {
        let is_product = matches!(c.kind(n), Kind::Product(_));
        for child in c.children(n) {
            let (count, below_product) = &mut parents[child.as_u32() as usize];
            *count += 1;
            *below_product = is_product;
        }
    }
    let mut b = c.builder_like();
    let mut moved: Vec<Option<NodeId>> = Vec::with_capacity(c.len());
    let mut parts: Vec<Vec<NodeId>> = vec![vec![]; c.len()];
    for n in c.nodes() {
        let (at, origin) = (n.as_u32() as usize, c.origin(n));
        let mut children = vec![];
        for child in c.children(n) {
            match moved[child.as_u32() as usize] {
                Some(node) => children.push(node),
                None => children.append(&mut parts[child.as_u32() as usize]),
            }
        }
        let new = match c.kind(n) {
            Kind::Input { var, dist } => Some(b.input_of(var, dist, origin)?),
            Kind::Product(_) if parents[at] == (1, true) => {
                parts[at] = children;
                None
            }
            Kind::Product(_) => Some(b.product(&children, origin)?),
            Kind::Sum(_, weights) => Some(b.sum(&children, weights, origin)?),
        };
        moved.push(new);
    }
    let expected = |what: &str| BuildError { expected: what.into(), found: "none".into() };
    let root = moved.last().copied().flatten().ok_or_else(|| expected("a root"))?;
    Ok(b.finish(root).0)
}
