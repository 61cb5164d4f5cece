//! Chooses how the values of a query are held: as logarithms, as plain numbers, or as plain numbers with a scale.
//!
//! ```text
//!     %0 = circuit.query %x circuit=@c kind=evidence elem=f64 : f64[B]
//!     %0 = circuit.query %x circuit=@c kind=evidence elem=f64 space=linear : f64[B]
//! ```
//!
//! Bounds of every node's positive values, from the inputs upwards, tell whether plain numbers stay within the range of
//! the type; then no node needs an exponential or a logarithm. Where they do not, but every input has a table of values,
//! each value gets a scale of its own.
//!
//! It must not fire on a query that has its space, on `mpe`, whose sums are maxima, which logarithms compute as they
//! are, and where an input is a density over the reals without bounds. Other queries than `evidence` also look at
//! derivatives, for which there are no bounds, and get a scale.

use crate::{
    Exactness, analysis,
    pass::{Context, Outcome, Pass, PassError},
    record::Rewrite,
};
use kiln_ir::{
    Circuit, ElemType, Module, Op,
    circuit::{Distribution, Kind},
};

pub(crate) static PASS: Pass = Pass {
    name: "choose-space",
    summary: "chooses logarithms or plain numbers for the values of a query",
    class: Exactness::E1,
    required: false,
    run,
};

fn run(m: &mut Module, cx: &mut Context<'_>) -> Result<Outcome, PassError> {
    let mut changed = false;
    if !cx.allows(Exactness::E1) {
        return Ok(Outcome { changed });
    }
    for node in m.live_nodes() {
        let data = &m.nodes[node];
        let kind = data.attrs.word("kind").unwrap_or("");
        if data.op != Op::CircuitQuery || data.attrs.word("space").is_some() || kind == "mpe" {
            continue;
        }
        let elem = data.attrs.elem("elem").unwrap_or(ElemType::F64);
        let Some(c) = data.attrs.name("circuit").and_then(|name| m.circuit(name)) else { continue };
        let place = analysis::place(m, node);
        let space = match range(c) {
            Some((low, high)) if kind == "evidence" && -low < margin(elem) && high < margin(elem) => "linear",
            Some(_) => "scaled",
            None => {
                cx.refused("choose-space", place, "an input is a density without bounds");
                continue;
            }
        };
        let Some(index) = cx.admit() else { continue };
        let before = vec![analysis::text(m, node)];
        let cost = c.edges() as u64;
        m.nodes[node].attrs.set("space", space);
        m.nodes[node].attrs.sort_by(Op::CircuitQuery.def().attrs);
        cx.fired(Rewrite {
            index,
            pass: cx.pass().into(),
            rule: space.into(),
            place,
            before,
            after: vec![analysis::text(m, node)],
            cost_before: cost,
            cost_after: cost,
            class: Exactness::E1,
        });
        changed = true;
    }
    Ok(Outcome { changed })
}

/// The largest size of a logarithm of a normal number of the type, less some for rounding.
fn margin(elem: ElemType) -> f64 {
    if elem == ElemType::F32 { 85.0 } else { 700.0 }
}

/// The smallest and the largest logarithm of a positive value of any node, for any row; `None` without bounds.
fn range(c: &Circuit) -> Option<(f64, f64)> {
    let zero = f64::NEG_INFINITY;
    let of_inputs: Vec<Option<(f64, f64)>> = c.distributions().iter().map(input).collect();
    let mut bounds: Vec<(f64, f64)> = Vec::with_capacity(c.len());
    let (mut lowest, mut highest) = (0.0f64, 0.0f64);
    for n in c.nodes() {
        let of = |child: &kiln_ir::circuit::NodeId| bounds[child.as_u32() as usize];
        let (low, high) = match c.kind(n) {
            Kind::Input { dist, .. } => of_inputs[dist.as_u32() as usize]?,
            Kind::Product(children) => {
                children.iter().map(of).fold((0.0, 0.0), |(a, b), (low, high)| (a + low, b + high))
            }
            Kind::Sum(children, weights) => {
                let terms = children.iter().zip(weights).filter(|(_, w)| **w > zero);
                let each = terms.map(|(child, w)| (of(child).0 + w, of(child).1 + w));
                // No more than the largest term times their number.
                let count = (children.len() as f64).ln();
                each.fold((0.0f64, zero), |(a, b), (low, high)| (a.min(low), b.max(high + count)))
            }
        };
        let high = high.max(0.0);
        (lowest, highest) = (lowest.min(low), highest.max(high));
        bounds.push((low, high));
    }
    Some((lowest, highest))
}

/// Bounds of an input, which is 1 where its cell is missing.
fn input(d: &Distribution) -> Option<(f64, f64)> {
    // Of unimodal ones the ends are least, behind the values that hold the tails.
    let ends = |k: u32| [0, 1, k.saturating_sub(2), k - 1].map(|v| d.log_prob(f64::from(v))).to_vec();
    let table = match d {
        Distribution::Gaussian { .. } => return None,
        Distribution::Indicator { .. } => vec![],
        Distribution::Categorical { log_p } => log_p.clone(),
        Distribution::Histogram { log_density, .. } => log_density.clone(),
        Distribution::Binomial { trials, .. } => ends(trials + 1),
        Distribution::Logistic { values, .. } => ends(*values),
    };
    let positive = table.iter().filter(|x| **x > f64::NEG_INFINITY);
    Some(positive.fold((0.0, 0.0), |(low, high), x| (x.min(low), x.max(high))))
}
