//! The range of values: whether plain numbers will do, under which powers of two, and below which value of the root a row
//! is not exact enough.
//!
//! Every variable is given a share of the exponents, and a node the sum over its scope, less the logarithm of the
//! largest value it can have. What then falls below the smallest number was, in the measure of the root, below
//! `2^(smallest + share of the root - share of the node)` times the largest the root can be. The sum of these over all
//! nodes where it may happen, over the error allowed, is the least good value of the root.
//!
//! Where every row's tree passes through each batch of products exactly once and is joined by dense blocks, batches are
//! divided by their largest value instead, row by row: nothing that counts can then be lost.

use super::{
    graph::{Graph, Node, peak},
    order::Order,
};
use kiln_ir::ElemType;
use std::f64::consts::{E, LN_2, LOG2_E, PI};

/// Of all logarithms, in base 2.
pub(super) struct Range {
    pub value: ElemType,
    /// What a node's value is multiplied by.
    pub exponent: Vec<i32>,
    /// The least good value of the root, if it can be below.
    pub least: Option<f64>,
    /// Whether batches of products are divided by their largest value.
    pub rescales: bool,
}

/// A number format: the exponents of the smallest normal number and of the smallest of all, the exponents that variables
/// share, and the error allowed.
struct Format {
    value: ElemType,
    normal: f64,
    smallest: f64,
    share: f64,
    error: f64,
}

const F32: Format = Format { value: ElemType::F32, normal: -126.0, smallest: -149.0, share: 100.0, error: -22.0 };
const F64: Format = Format { value: ElemType::F64, normal: -1022.0, smallest: -1074.0, share: 960.0, error: -46.0 };

/// The smallest weight, or probability, of a circuit that is divided row by row.
const SMALLEST: f64 = -40.0;

/// Logarithms, base 2, of what values can be.
struct Bounds {
    most: Vec<f64>,
    /// Above zero.
    least: Vec<f64>,
    /// Bits that a row drawn from the circuit takes, no more than this.
    bits: Vec<f64>,
}

fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp2().ln_1p() * LOG2_E }
}

fn bounds(g: &Graph) -> Bounds {
    let len = g.nodes.len();
    let mut b = Bounds { most: vec![0.0; len], least: vec![0.0; len], bits: vec![0.0; len] };
    for n in 0..len {
        let children = || g.children(n as u32).iter().map(|c| *c as usize);
        (b.most[n], b.least[n], b.bits[n]) = match &g.nodes[n] {
            Node::Indicator { .. } => (0.0, 0.0, 0.0),
            Node::Interval { missing, .. } => (missing.max(0.0) * LOG2_E, missing.min(0.0) * LOG2_E, 0.0),
            Node::Lookup { table, .. } => {
                let positive =
                    || g.tables[*table as usize].iter().filter(|l| **l > f64::NEG_INFINITY).map(|l| l * LOG2_E);
                // A missing cell is 1.
                (
                    positive().fold(0.0, f64::max),
                    positive().fold(0.0, f64::min),
                    positive().map(|l| -l * l.exp2()).sum(),
                )
            }
            Node::Gaussian { std, .. } => {
                ((peak(*std) * LOG2_E).max(0.0), f64::NEG_INFINITY, (std * (2.0 * PI * E).sqrt()).log2())
            }
            Node::Product { .. } => children()
                .map(|c| (b.most[c], b.least[c], b.bits[c]))
                .fold((0.0, 0.0, 0.0), |s, v| (s.0 + v.0, s.1 + v.1, s.2 + v.2)),
            Node::Sum { .. } => {
                let weights = || g.weights(n as u32).iter().map(|w| w * LOG2_E);
                let mass = weights().fold(f64::NEG_INFINITY, log_add);
                let mut all = (f64::NEG_INFINITY, f64::INFINITY, 0.0);
                for (c, w) in children().zip(weights()).filter(|(_, w)| *w > f64::NEG_INFINITY) {
                    let share = (w - mass).exp2();
                    let bits = all.2 + share * (b.bits[c] - (w - mass));
                    all = (log_add(all.0, w + b.most[c]), all.1.min(w + b.least[c]), bits);
                }
                all
            }
        };
    }
    b
}

impl Range {
    /// The best for results of this type; `None` where only logarithms will do.
    pub(super) fn of(g: &Graph, order: &Order, result: ElemType) -> Option<Range> {
        let b = bounds(g);
        let formats = if result == ElemType::F32 { &[F32, F64][..] } else { &[F64][..] };
        formats.iter().find_map(|f| {
            // The cheapest first, and of those the one whose root needs the smallest shift.
            let safe = |share: f64| shared(g, &b, &Format { share, ..*f }).filter(|r| r.least.is_none());
            safe(0.0).or_else(|| safe(f.share)).or_else(|| uniform(g, order, &b, f)).or_else(|| shared(g, &b, f))
        })
    }
}

fn shared(g: &Graph, b: &Bounds, f: &Format) -> Option<Range> {
    let len = g.nodes.len();
    let variables = g.values.len() as f64;
    let share = |v: u32| {
        let upto = |v: f64| (v * f.share / variables).floor();
        upto(f64::from(v) + 1.0) - upto(f64::from(v))
    };
    let (mut shares, mut exponents) = (vec![0.0f64; len], vec![0.0f64; len]);
    let mut lost = f64::NEG_INFINITY;
    let root = g.root as usize;
    if !b.most[root].is_finite() {
        return None;
    }
    for n in 0..len {
        let children = || g.children(n as u32).iter().map(|c| *c as usize);
        match &g.nodes[n] {
            Node::Product { .. } => {
                shares[n] = children().map(|c| shares[c]).sum();
                exponents[n] = children().map(|c| exponents[c]).sum();
            }
            Node::Sum { .. } => {
                shares[n] = children().map(|c| shares[c]).fold(0.0, f64::max);
                if b.most[n].is_finite() {
                    exponents[n] = shares[n] - b.most[n].ceil();
                }
            }
            // Its own numbers have no scale.
            Node::Gaussian { mean, std, .. } if f.value == ElemType::F32 && !is_moderate(*mean, *std) => return None,
            _ => {
                shares[n] = g.variable(n as u32).map_or(0.0, share);
                exponents[n] = shares[n] - b.most[n].ceil();
            }
        }
        let smallest = b.least[n] + exponents[n];
        let terms = children().zip(g.weights(n as u32)).filter(|(_, w)| **w > f64::NEG_INFINITY);
        let small = terms.filter(|(c, w)| *w * LOG2_E + b.least[*c] + exponents[n] < f.normal).count();
        let count = small + usize::from(smallest < f.normal);
        if count > 0 {
            lost = log_add(lost, (count as f64).log2() + f.smallest - shares[n]);
        }
        // Weights are numbers too.
        let scaled = |(c, w): (usize, &f64)| w * LOG2_E + exponents[n] - exponents[c];
        let weights = || children().zip(g.weights(n as u32)).filter(|(_, w)| **w > f64::NEG_INFINITY).map(scaled);
        if weights().any(|w| w < f.normal || w > -f.normal) {
            return None;
        }
    }
    let exponent = exponents.iter().map(|e| *e as i32).collect();
    if lost == f64::NEG_INFINITY {
        return Some(Range { value: f.value, exponent, least: None, rescales: false });
    }
    let least = lost + shares[root] - f.error;
    let usual = shares[root] - 1.5 * (b.bits[root] + b.most[root]) - 20.0;
    let reaches = usual >= least && least < -f.normal;
    reaches.then(|| Range { value: f.value, exponent, least: Some(least.max(f.normal).exp2()), rescales: false })
}

/// Whether f32 holds a Gaussian's numbers, and distances of a few deviations.
fn is_moderate(mean: f64, std: f64) -> bool {
    mean.abs() < 1e15 && (1e-15..1e15).contains(&std)
}

fn uniform(g: &Graph, order: &Order, b: &Bounds, f: &Format) -> Option<Range> {
    let len = g.nodes.len();
    let word = |batch: u32| u64::from(batch + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
    let mut size = vec![0usize; order.batches as usize];
    order.batch.iter().for_each(|b| size[*b as usize] += 1);
    let mut passed: Vec<u64> = Vec::with_capacity(len);
    // The smallest part that a product can have of the largest of its batch.
    let mut part = vec![0.0f64; len];
    let mut any = false;
    for n in 0..len {
        let children = || g.children(n as u32).iter().map(|c| *c as usize);
        let own = word(order.batch[n]);
        let inside = match &g.nodes[n] {
            Node::Product { .. } => {
                part[n] = children().map(|c| part[c]).sum();
                if order.fused[n] || part[n] < f.normal + 20.0 {
                    return None;
                }
                children().map(|c| passed[c]).fold(0, u64::wrapping_add)
            }
            Node::Sum { .. } => {
                let first = g.children(n as u32)[0] as usize;
                let batch = order.batch[first];
                let products =
                    children().all(|c| matches!(g.nodes[c], Node::Product { .. }) && order.batch[c] == batch);
                let whole = products && size[batch as usize] == g.children(n as u32).len();
                let least = g.weights(n as u32).iter().fold(0.0, |a: f64, w| a.min(w * LOG2_E));
                let alike = children().all(|c| passed[c] == passed[first]);
                let joined = order.block[n].is_some() || n as u32 == g.root;
                if !whole || !alike || !joined || least < SMALLEST {
                    return None;
                }
                any = true;
                part[n] = least;
                passed[first]
            }
            Node::Lookup { .. } => {
                part[n] = b.least[n];
                0
            }
            Node::Indicator { .. } | Node::Gaussian { .. } | Node::Interval { .. } => return None,
        };
        if matches!(g.nodes[n], Node::Lookup { .. }) && b.least[n] < SMALLEST || b.most[n].abs() > 1e-3 {
            return None;
        }
        passed.push(inside.wrapping_add(own));
    }
    any.then(|| Range { value: f.value, exponent: vec![0; len], least: None, rescales: true })
}

impl Range {
    /// What is added to the natural logarithm of the root's number.
    pub(super) fn shift(&self, root: u32) -> f64 {
        -f64::from(self.exponent[root as usize]) * LN_2
    }
}
