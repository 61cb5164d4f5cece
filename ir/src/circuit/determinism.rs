//! Proof of determinism: that of the children of every sum at most one is positive for a complete row.
//!
//! Nodes are put into classes of the same support, weights left out. Two classes exclude each other
//! - as inputs, when no value is positive in both;
//! - as products, when some factor of one excludes some factor of the other;
//! - as sums, when all terms of one exclude all terms of the other.
//!
//! That decides every circuit whose products split along one vtree, such as a PSDD or an SDD. It is a proof for others
//! too, but may then not find one.

use super::{Circuit, Distribution, Domain, Kind, NodeId, scope::order};
use cranelift_entity::EntityRef;
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    rc::Rc,
};

/// Pairs of classes looked at.
const MAX_STEPS: usize = 1 << 26;
const MAX_DEPTH: usize = 400;

/// What [`Circuit::prove_determinism`] finds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Determinism {
    Proved,
    /// No proof, and the first sum for which there is none.
    Unknown {
        node: NodeId,
        why: String,
    },
}

/// Half-open intervals, rising; the values of real variables are numbered in the order of the floats.
type Values = Vec<(i64, i64)>;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Support {
    Input { var: u32, values: Values },
    Product(Rc<[u32]>),
    Sum(Rc<[u32]>),
}

/// Spreads the numbers of pairs; they are the circuit's own and need no defence.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(self.0 ^ u64::from(*b)));
    }

    fn write_u64(&mut self, pair: u64) {
        let mixed = pair.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

struct Prover<'a> {
    classes: Vec<Support>,
    /// By variable: its place in the order in which a walk from the root meets them, in which scopes are intervals.
    ranks: Vec<u32>,
    /// By class: an interval of ranks that holds its variables, to tell factors that have nothing in common.
    vars: Vec<(u32, u32)>,
    /// By class: the part of all rows over its variables that it supports, or 0 where that is not known.
    shares: Vec<f64>,
    domains: &'a [Domain],
    known: HashMap<Support, u32>,
    /// Of pairs with a sum, the smaller class in the upper half.
    excludes: HashMap<u64, bool, BuildHasherDefault<PairHasher>>,
    steps: usize,
}

/// The values of positive probability.
fn values(d: &Distribution, domain: Domain) -> Values {
    // Monotone from floats to integers.
    let ordered = |x: f64| {
        let bits = (x + 0.0).to_bits() as i64;
        if bits < 0 { i64::MIN.wrapping_sub(bits) } else { bits }
    };
    let mut found: Values = vec![];
    let mut add = |from: i64, to: i64| match found.last_mut() {
        Some(last) if last.1 == from => last.1 = to,
        _ => found.push((from, to)),
    };
    match d {
        Distribution::Gaussian { .. } => add(i64::MIN, i64::MAX),
        Distribution::Histogram { breaks, log_density } => {
            let bins = log_density.iter().zip(breaks.windows(2)).filter(|(l, _)| **l > f64::NEG_INFINITY);
            for (_, b) in bins {
                match domain {
                    Domain::Real => add(ordered(b[0]), ordered(b[1])),
                    Domain::Discrete(_) => add(b[0] as i64, b[1] as i64),
                }
            }
        }
        Distribution::Indicator { value } => add(i64::from(*value), i64::from(*value) + 1),
        Distribution::Categorical { log_p } => {
            let positive = log_p.iter().enumerate().filter(|(_, l)| **l > f64::NEG_INFINITY);
            positive.for_each(|(k, _)| add(k as i64, k as i64 + 1));
        }
        Distribution::Binomial { trials, log_p } => match *log_p {
            0.0 => add(i64::from(*trials), i64::from(*trials) + 1),
            f64::NEG_INFINITY => add(0, 1),
            _ => add(0, i64::from(*trials) + 1),
        },
        Distribution::Logistic { values, .. } => add(0, i64::from(*values)),
    }
    found
}

fn disjoint(a: &[(i64, i64)], b: &[(i64, i64)]) -> bool {
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        if a[i].0 < b[j].1 && b[j].0 < a[i].1 {
            return false;
        }
        if a[i].1 <= b[j].1 { i += 1 } else { j += 1 }
    }
    true
}

impl Prover<'_> {
    fn class(&mut self, support: Support) -> u32 {
        if let Some(known) = self.known.get(&support) {
            return *known;
        }
        let vars = match &support {
            Support::Input { var, .. } => (self.ranks[*var as usize], self.ranks[*var as usize]),
            Support::Product(list) | Support::Sum(list) => list.iter().fold((u32::MAX, 0), |(a, b), c| {
                let (x, y) = self.vars[*c as usize];
                (a.min(x), b.max(y))
            }),
        };
        // Terms of a sum exclude each other where this is asked, so that their parts add up.
        let share = |c: &u32| self.shares[*c as usize];
        let share = match &support {
            Support::Input { var, values } => {
                let count: i64 = values.iter().map(|(from, to)| to.saturating_sub(*from)).sum();
                self.domains[*var as usize].values().map_or(0.0, |k| count as f64 / f64::from(k))
            }
            Support::Product(list) => list.iter().map(share).product(),
            Support::Sum(list) => list.iter().map(share).sum(),
        };
        self.shares.push(share);
        let id = self.classes.len() as u32;
        self.known.insert(support.clone(), id);
        self.classes.push(support);
        self.vars.push(vars);
        id
    }

    /// The class of a sum of these: inputs of one variable become one input, equal terms one term.
    fn sum(&mut self, mut terms: Vec<u32>) -> u32 {
        terms.sort_unstable();
        terms.dedup();
        if terms.len() == 1 {
            return terms[0];
        }
        let inputs: Option<Vec<(u32, Values)>> = terms
            .iter()
            .map(|t| match &self.classes[*t as usize] {
                Support::Input { var, values } => Some((*var, values.clone())),
                Support::Product(_) | Support::Sum(_) => None,
            })
            .collect();
        match inputs {
            Some(list) if list.iter().all(|(v, _)| *v == list[0].0) => {
                let var = list[0].0;
                let mut all: Values = list.into_iter().flat_map(|(_, values)| values).collect();
                all.sort_unstable();
                let mut values: Values = vec![];
                for (from, to) in all {
                    match values.last_mut() {
                        Some(last) if from <= last.1 => last.1 = last.1.max(to),
                        _ => values.push((from, to)),
                    }
                }
                self.class(Support::Input { var, values })
            }
            _ => self.class(Support::Sum(terms.into())),
        }
    }

    /// Whether no row is positive in both; false where that was not found.
    fn exclude(&mut self, a: u32, b: u32, depth: usize) -> bool {
        if a == b || depth > MAX_DEPTH || self.steps > MAX_STEPS {
            return false;
        }
        self.steps += 1;
        let ((a0, a1), (b0, b1)) = (self.vars[a as usize], self.vars[b as usize]);
        if a1 < b0 || b1 < a0 {
            return false;
        }
        // Two large parts of the same rows meet.
        if (a0, a1) == (b0, b1) && self.shares[a as usize] + self.shares[b as usize] > 1.0 + 1e-9 {
            return false;
        }
        let key = (a.min(b), a.max(b));
        let pair = u64::from(key.0) << 32 | u64::from(key.1);
        let is_sum = |n: u32| matches!(self.classes[n as usize], Support::Sum(_));
        // Two products are few lookups away from what is known of their factors.
        let is_kept = is_sum(a) || is_sum(b);
        if is_kept && let Some(known) = self.excludes.get(&pair) {
            return *known;
        }
        let list = |of: &Support| match of {
            Support::Product(list) | Support::Sum(list) => list.clone(),
            Support::Input { .. } => Rc::default(),
        };
        let (x, y) = (&self.classes[key.0 as usize], &self.classes[key.1 as usize]);
        let found = match (x, y) {
            (Support::Input { var: v, values: x }, Support::Input { var: w, values: y }) => v == w && disjoint(x, y),
            (Support::Sum(_), _) => list(x).iter().copied().all(|t| self.exclude(t, key.1, depth + 1)),
            (_, Support::Sum(_)) => list(y).iter().copied().all(|t| self.exclude(key.0, t, depth + 1)),
            (Support::Product(_), Support::Product(_)) => {
                let (x, y) = (list(x), list(y));
                x.iter().any(|s| y.iter().any(|t| self.exclude(*s, *t, depth + 1)))
            }
            (Support::Product(_), _) => list(x).iter().copied().any(|s| self.exclude(s, key.1, depth + 1)),
            (_, Support::Product(_)) => list(y).iter().copied().any(|t| self.exclude(key.0, t, depth + 1)),
        };
        // What was cut off by a limit is no finding.
        if is_kept && (found || self.steps <= MAX_STEPS) {
            self.excludes.insert(pair, found);
        }
        found
    }
}

impl Circuit {
    /// Tries to prove that at most one child of each sum is positive for any complete row. Weights of zero count as no
    /// child.
    pub fn prove_determinism(&self) -> Determinism {
        let mut ranks = vec![0; self.variables.len()];
        order(self).into_iter().enumerate().for_each(|(rank, var)| ranks[var as usize] = rank as u32);
        let mut p = Prover {
            classes: vec![],
            ranks,
            vars: vec![],
            shares: vec![],
            domains: &self.variables,
            known: HashMap::new(),
            excludes: HashMap::default(),
            steps: 0,
        };
        let mut of: Vec<u32> = Vec::with_capacity(self.len());
        let mut proved: HashMap<Vec<u32>, ()> = HashMap::new();
        for n in self.nodes() {
            let class = match self.kind(n) {
                Kind::Input { var, dist } => {
                    let values = values(self.distribution(dist), self.variables[var as usize]);
                    p.class(Support::Input { var, values })
                }
                Kind::Product([only]) => of[only.index()],
                Kind::Product(children) => {
                    // In their order: of a decision the prime comes first, which is small and tells the terms apart.
                    let factors: Vec<u32> = children.iter().map(|c| of[c.index()]).collect();
                    p.class(Support::Product(factors.into()))
                }
                Kind::Sum(children, weights) => {
                    let positive: Vec<NodeId> = children
                        .iter()
                        .zip(weights)
                        .filter(|(_, w)| **w > f64::NEG_INFINITY)
                        .map(|(c, _)| *c)
                        .collect();
                    if positive.is_empty() {
                        let why = format!("{}: the weights of a sum are all zero", self.place(n));
                        return Determinism::Unknown { node: n, why };
                    }
                    let terms: Vec<u32> = positive.iter().map(|c| of[c.index()]).collect();
                    if terms.len() > 1 && !proved.contains_key(&terms) {
                        for (i, j) in (0..terms.len()).flat_map(|j| (0..j).map(move |i| (i, j))) {
                            if !p.exclude(terms[i], terms[j], 0) {
                                let (a, b) = (self.place(positive[i]), self.place(positive[j]));
                                let (sum, may) = (self.place(n), "may be positive at once");
                                return Determinism::Unknown { node: n, why: format!("{sum}: ({a}) and ({b}) {may}") };
                            }
                        }
                        proved.insert(terms.clone(), ());
                    }
                    p.sum(terms)
                }
            };
            of.push(class);
        }
        Determinism::Proved
    }
}
