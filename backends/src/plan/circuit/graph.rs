//! A circuit as the kernels see it: inputs of two kinds or three, and nothing that is computed twice or for nothing.

use kiln_ir::circuit::{Circuit, Distribution, Domain, Kind};
use std::{collections::HashMap, f64::consts::PI};

/// What a node is. Children are numbers of nodes before it.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Node {
    /// 1 for one value of a variable, else 0.
    Indicator {
        var: u32,
        value: u32,
    },
    /// Log-probabilities by the variable's code, without that of a missing cell.
    Lookup {
        var: u32,
        table: u32,
    },
    Gaussian {
        var: u32,
        mean: f64,
        std: f64,
    },
    /// 1 for cells within `low..high`, of an input that has tables elsewhere: a value of a discrete variable, or a bin.
    Interval {
        var: u32,
        low: f64,
        high: f64,
        /// The logarithm of its share of a missing cell, so that the input then is 1.
        missing: f64,
    },
    Product {
        first: u32,
        count: u32,
    },
    Sum {
        first: u32,
        count: u32,
        weight: u32,
    },
}

pub(super) struct Graph {
    pub nodes: Vec<Node>,
    children: Vec<u32>,
    weights: Vec<f64>,
    pub tables: Vec<Vec<f64>>,
    /// For each variable, the breaks of its histograms, where it is real.
    pub breaks: Vec<Vec<f64>>,
    /// The number of values where the variable is discrete, or as good as that.
    pub values: Vec<Option<u32>>,
    /// Whether the variable is real.
    pub real: Vec<bool>,
    pub root: u32,
}

/// How distributions of discrete variables are put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Inputs {
    /// Small ones as sums over indicators, others as tables.
    Tables,
    /// As sums over indicators or intervals.
    Indicators,
    /// As sums over indicators; terms that are nothing are left out everywhere.
    Positive,
}

/// The largest domain whose distributions are sums over indicators, where that is a choice.
const FEW: u32 = 2;
/// How far from 0 the logarithm of the sum of probabilities may be for it to count as none.
const MASS: f64 = 1e-14;

impl Graph {
    pub(super) fn of(c: &Circuit, put: Inputs) -> Graph {
        let mut breaks = breaks(c);
        let mut values: Vec<Option<u32>> = c.variables.iter().map(|d| d.values()).collect();
        if put == Inputs::Tables {
            for (values, breaks) in values.iter_mut().zip(&mut breaks) {
                if let Some(last) = values_of(breaks) {
                    (*values, *breaks) = (Some(last), vec![]);
                }
            }
        }
        let real = c.variables.iter().map(|d| *d == Domain::Real).collect();
        let mut g =
            Graph { nodes: vec![], children: vec![], weights: vec![], tables: vec![], breaks, values, real, root: 0 };
        let mut of: Vec<u32> = Vec::with_capacity(c.len());
        let mut inputs: HashMap<(u32, u32), u32> = HashMap::new();
        let mut known: HashMap<(u32, u32), u32> = HashMap::new();
        for n in c.nodes() {
            let at = |child: &kiln_ir::circuit::NodeId| of[child.as_u32() as usize];
            let id = match c.kind(n) {
                Kind::Input { var, dist } => match inputs.get(&(var, dist.as_u32())) {
                    Some(id) => *id,
                    None => {
                        let id = g.input(var, c.distribution(dist), put, &mut known);
                        inputs.insert((var, dist.as_u32()), id);
                        id
                    }
                },
                Kind::Product([child]) => at(child),
                Kind::Sum([child], [0.0]) => at(child),
                Kind::Product(children) => {
                    let children: Vec<u32> = children.iter().map(at).collect();
                    g.product(&children)
                }
                Kind::Sum(children, weights) => {
                    let children: Vec<u32> = children.iter().map(at).collect();
                    g.sum_of(&children, weights, put)
                }
            };
            of.push(id);
        }
        g.root = of[c.root().as_u32() as usize];
        g
    }

    fn push(&mut self, node: Node) -> u32 {
        self.nodes.push(node);
        self.nodes.len() as u32 - 1
    }

    fn product(&mut self, children: &[u32]) -> u32 {
        let first = self.children.len() as u32;
        self.children.extend_from_slice(children);
        self.push(Node::Product { first, count: children.len() as u32 })
    }

    fn sum(&mut self, children: &[u32], weights: &[f64]) -> u32 {
        let (first, weight) = (self.children.len() as u32, self.weights.len() as u32);
        self.children.extend_from_slice(children);
        self.weights.extend_from_slice(weights);
        self.push(Node::Sum { first, count: children.len() as u32, weight })
    }

    fn sum_of(&mut self, children: &[u32], weights: &[f64], put: Inputs) -> u32 {
        if put == Inputs::Tables
            && let Some((children, weights)) = merged(children, weights)
        {
            return self.sum(&children, &weights);
        }
        let positive = |i: &usize| weights[*i] > f64::NEG_INFINITY;
        let kept: Vec<usize> = (0..weights.len()).filter(positive).collect();
        if put != Inputs::Positive || kept.is_empty() {
            return self.sum(children, weights);
        }
        let children: Vec<u32> = kept.iter().map(|i| children[*i]).collect();
        let weights: Vec<f64> = kept.iter().map(|i| weights[*i]).collect();
        self.sum(&children, &weights)
    }

    fn input(&mut self, var: u32, d: &Distribution, put: Inputs, known: &mut HashMap<(u32, u32), u32>) -> u32 {
        let mut indicator = |g: &mut Graph, value: u32| match known.get(&(var, value)) {
            Some(id) => *id,
            None => {
                let id = g.push(Node::Indicator { var, value });
                known.insert((var, value), id);
                id
            }
        };
        match (d, self.values[var as usize]) {
            (Distribution::Indicator { value }, _) => indicator(self, *value),
            (Distribution::Gaussian { mean, std }, _) => self.push(Node::Gaussian { var, mean: *mean, std: *std }),
            (d, Some(k)) => {
                let table: Vec<f64> = (0..k).map(|v| d.log_prob(f64::from(v))).collect();
                let mass = log_sum(&table);
                if mass.abs() > MASS && put == Inputs::Indicators {
                    let bin = |value: u32| (f64::from(value), f64::from(value) + 1.0, -mass);
                    return self.intervals(var, (0..k).map(bin), &table);
                }
                if put != Inputs::Tables || k <= FEW && mass.abs() <= MASS {
                    let children: Vec<u32> = (0..k).map(|value| indicator(self, value)).collect();
                    return self.sum_of(&children, &table, put);
                }
                let table = [table, vec![f64::NEG_INFINITY]].concat();
                self.lookup(var, table)
            }
            (Distribution::Histogram { breaks, log_density }, None) if put == Inputs::Indicators => {
                let bins = || breaks.windows(2).map(|b| (b[0], b[1]));
                let masses: Vec<f64> = bins().zip(log_density).map(|((a, b), d)| d + (b - a).ln()).collect();
                let mass = log_sum(&masses);
                self.intervals(var, bins().map(|(a, b)| (a, b, (b - a).ln() - mass)), log_density)
            }
            (d, None) => {
                let breaks = &self.breaks[var as usize];
                // The value just at a break is that of the bin it begins.
                let inside = breaks.iter().map(|b| d.log_prob(*b));
                let table = [f64::NEG_INFINITY].into_iter().chain(inside).collect();
                self.lookup(var, table)
            }
        }
    }

    /// A sum over intervals: from where, to where, and its share of a missing cell.
    fn intervals(&mut self, var: u32, bins: impl Iterator<Item = (f64, f64, f64)>, weights: &[f64]) -> u32 {
        let mut children: Vec<u32> =
            bins.map(|(low, high, missing)| self.push(Node::Interval { var, low, high, missing })).collect();
        if let [only] = children[..] {
            // A sum of one term draws nothing, but a place within it is drawn.
            children.push(only);
            return self.sum(&children, &[weights[0], f64::NEG_INFINITY]);
        }
        self.sum(&children, weights)
    }

    fn lookup(&mut self, var: u32, table: Vec<f64>) -> u32 {
        self.tables.push(table);
        self.push(Node::Lookup { var, table: self.tables.len() as u32 - 1 })
    }

    pub(super) fn children(&self, n: u32) -> &[u32] {
        match self.nodes[n as usize] {
            Node::Product { first, count } | Node::Sum { first, count, .. } => {
                &self.children[first as usize..][..count as usize]
            }
            Node::Indicator { .. } | Node::Lookup { .. } | Node::Gaussian { .. } | Node::Interval { .. } => &[],
        }
    }

    /// Log-weights of a sum, none of others.
    pub(super) fn weights(&self, n: u32) -> &[f64] {
        match self.nodes[n as usize] {
            Node::Sum { count, weight, .. } => &self.weights[weight as usize..][..count as usize],
            _ => &[],
        }
    }

    /// The variable of an input.
    pub(super) fn variable(&self, n: u32) -> Option<u32> {
        match self.nodes[n as usize] {
            Node::Indicator { var, .. }
            | Node::Lookup { var, .. }
            | Node::Gaussian { var, .. }
            | Node::Interval { var, .. } => Some(var),
            Node::Product { .. } | Node::Sum { .. } => None,
        }
    }
}

/// Terms of a sum with one for each child, if there are several.
fn merged(children: &[u32], weights: &[f64]) -> Option<(Vec<u32>, Vec<f64>)> {
    let mut place: HashMap<u32, usize> = HashMap::with_capacity(children.len());
    let (mut kept, mut sums): (Vec<u32>, Vec<f64>) = (vec![], vec![]);
    for (child, weight) in children.iter().zip(weights) {
        let at = *place.entry(*child).or_insert(kept.len());
        if at == kept.len() {
            kept.push(*child);
            sums.push(*weight);
        } else {
            let (high, low) = if sums[at] > *weight { (sums[at], *weight) } else { (*weight, sums[at]) };
            sums[at] = if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() };
        }
    }
    (kept.len() < children.len()).then_some((kept, sums))
}

/// The smallest variable below each node.
pub(super) fn smallest(g: &Graph) -> Vec<u32> {
    let mut all: Vec<u32> = Vec::with_capacity(g.nodes.len());
    for n in 0..g.nodes.len() as u32 {
        let inner = g.children(n).iter().map(|c| all[*c as usize]).min();
        all.push(g.variable(n).or(inner).unwrap_or(0));
    }
    all
}

fn log_sum(logs: &[f64]) -> f64 {
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY { top } else { top + logs.iter().map(|l| (l - top).exp()).sum::<f64>().ln() }
}

/// The log-density of a Gaussian at its mean.
pub(super) fn peak(std: f64) -> f64 {
    -std.ln() - 0.5 * (2.0 * PI).ln()
}

/// The number of values that stand for all cells, where bins begin and end at whole numbers from 0 on and are not many.
fn values_of(breaks: &[f64]) -> Option<u32> {
    const MOST: f64 = 1024.0;
    let whole = breaks.iter().all(|b| (0.0..=MOST).contains(b) && b.fract() == 0.0);
    breaks.last().filter(|_| whole).map(|last| *last as u32)
}

fn breaks(c: &Circuit) -> Vec<Vec<f64>> {
    let mut all: Vec<Vec<f64>> = vec![vec![]; c.variables.len()];
    for n in c.nodes() {
        let Kind::Input { var, dist } = c.kind(n) else { continue };
        if let (Distribution::Histogram { breaks, .. }, Domain::Real) =
            (c.distribution(dist), c.variables[var as usize])
        {
            all[var as usize].extend(breaks);
        }
    }
    for breaks in &mut all {
        breaks.sort_by(f64::total_cmp);
        breaks.dedup();
    }
    all
}
