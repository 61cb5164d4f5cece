//! What queries mean: one row at a time, one node at a time, in f64.
//!
//! A row has one cell for each variable; NaN is a missing cell, which is summed out, maximised or drawn. A cell of a
//! discrete variable that is none of its values makes the row impossible, also one between two of them.

use super::{Circuit, Domain, Kind, distribution::choose, uniform};
use cranelift_entity::EntityRef;
use libm::{exp, floor, log};

const ZERO: f64 = f64::NEG_INFINITY;

/// `ln(sum(exp(x)))`: the largest item, then the sum in order; minus infinity where there is nothing else.
pub(crate) fn logsumexp(x: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = x.clone().fold(ZERO, f64::max);
    if top == ZERO || top == f64::INFINITY {
        return top;
    }
    top + log(x.map(|x| exp(x - top)).fold(0.0, |a, b| a + b))
}

fn log_add(a: f64, b: f64) -> f64 {
    logsumexp([a, b].into_iter())
}

impl Circuit {
    /// The log-value of every node, written to `values`.
    ///
    /// # Panics
    /// When `row` has fewer cells than there are variables, here and in what follows.
    pub fn up(&self, row: &[f64], values: &mut Vec<f64>) {
        self.pass(row, values, |_, _| 0.0, |terms| logsumexp(terms.iter().copied()));
    }

    /// Values upwards, given that of an input whose cell is missing and how a sum joins its weighted children.
    fn pass(
        &self,
        row: &[f64],
        values: &mut Vec<f64>,
        missing: impl Fn(&super::Distribution, Domain) -> f64,
        join: impl Fn(&[f64]) -> f64,
    ) {
        values.clear();
        let mut terms = vec![];
        for n in self.nodes() {
            let value = match self.kind(n) {
                Kind::Input { var, dist } => {
                    let (d, x, domain) = (self.distribution(dist), row[var as usize], self.variables[var as usize]);
                    match domain {
                        _ if x.is_nan() => missing(d, domain),
                        Domain::Discrete(_) if floor(x) != x => ZERO,
                        _ => d.log_prob(x),
                    }
                }
                // An infinite density and a probability of zero make no number.
                Kind::Product(children) => {
                    let sum = children.iter().map(|c| values[c.index()]).fold(0.0, |a, b| a + b);
                    if sum.is_nan() { ZERO } else { sum }
                }
                Kind::Sum([child], [weight]) => values[child.index()] + weight,
                Kind::Sum(children, weights) => {
                    terms.clear();
                    terms.extend(children.iter().zip(weights).map(|(c, w)| values[c.index()] + w));
                    join(&terms)
                }
            };
            values.push(value);
        }
    }

    /// `ln P` of the given cells.
    pub fn log_likelihood(&self, row: &[f64]) -> f64 {
        let mut values = vec![];
        self.up(row, &mut values);
        values[self.root().index()]
    }

    /// The row completed to the most probable one, and its log-probability: products of maxima, of equal ones the first.
    /// Exact where the circuit is deterministic; else a good row, and the value of one tree inside the circuit.
    pub fn mpe(&self, row: &[f64]) -> (Vec<f64>, f64) {
        let mut values = vec![];
        let largest = |terms: &[f64]| terms.iter().copied().fold(ZERO, f64::max);
        self.pass(row, &mut values, |d, domain| d.mode(domain).1, largest);
        let mut state = row.to_vec();
        let mut stack = vec![self.root()];
        while let Some(n) = stack.pop() {
            match self.kind(n) {
                Kind::Input { var, dist } if row[var as usize].is_nan() => {
                    state[var as usize] = self.distribution(dist).mode(self.variables[var as usize]).0;
                }
                Kind::Input { .. } => {}
                Kind::Product(children) => stack.extend(children),
                Kind::Sum(children, weights) => {
                    let terms: Vec<f64> = children.iter().zip(weights).map(|(c, w)| values[c.index()] + w).collect();
                    stack.push(children[super::distribution::first_max(&terms)]);
                }
            }
        }
        (state, values[self.root().index()])
    }

    /// The log of the derivative of the root's value by that of each node.
    fn down(&self, values: &[f64]) -> Vec<f64> {
        let mut d = vec![ZERO; self.len()];
        d[self.root().index()] = 0.0;
        let (mut before, mut after) = (vec![], vec![]);
        for n in self.nodes().rev() {
            let own = d[n.index()];
            if own == ZERO {
                continue;
            }
            match self.kind(n) {
                Kind::Input { .. } => {}
                Kind::Sum(children, weights) => {
                    for (c, w) in children.iter().zip(weights) {
                        d[c.index()] = log_add(d[c.index()], own + w);
                    }
                }
                Kind::Product(children) => {
                    // All factors but one, also where that one is zero.
                    let running = |list: &mut Vec<f64>, order: &mut dyn Iterator<Item = f64>| {
                        list.clear();
                        let mut sum = 0.0;
                        for v in order {
                            list.push(sum);
                            sum += v;
                        }
                    };
                    running(&mut before, &mut children.iter().map(|c| values[c.index()]));
                    running(&mut after, &mut children.iter().rev().map(|c| values[c.index()]));
                    for (i, c) in children.iter().enumerate() {
                        let others = before[i] + after[children.len() - 1 - i];
                        d[c.index()] = log_add(d[c.index()], own + others);
                    }
                }
            }
        }
        d
    }

    /// `P(X_v = k | all other given cells)` for every variable and value, `[variables * max_values]`: for a missing cell
    /// its distribution, for a given one as if it were missing. 0 beyond a domain; NaN where the other cells have
    /// probability zero. Real variables have zeros.
    pub fn marginals(&self, row: &[f64]) -> Vec<f64> {
        let k = self.max_values() as usize;
        let mut values = vec![];
        self.up(row, &mut values);
        let d = self.down(&values);
        let mut logs = vec![ZERO; self.variables.len() * k];
        for n in self.nodes() {
            let Kind::Input { var, dist } = self.kind(n) else { continue };
            let Some(domain) = self.variables[var as usize].values() else { continue };
            let table = self.distribution(dist).table(domain).unwrap_or_default();
            for (slot, p) in logs[var as usize * k..].iter_mut().zip(table) {
                *slot = log_add(*slot, d[n.index()] + p);
            }
        }
        for (cells, domain) in logs.chunks_mut(k.max(1)).zip(&self.variables) {
            let total = logsumexp(cells.iter().copied());
            let own = domain.values().unwrap_or(0) as usize;
            cells.iter_mut().enumerate().for_each(|(v, l)| *l = if v < own { exp(*l - total) } else { 0.0 });
        }
        logs
    }

    /// Given cells as they are, missing ones by their expected value given the others; NaN where those have probability
    /// zero.
    pub fn expectation(&self, row: &[f64]) -> Vec<f64> {
        let mut values = vec![];
        self.up(row, &mut values);
        let d = self.down(&values);
        let mut top = vec![ZERO; self.variables.len()];
        let inputs = || {
            self.nodes().filter_map(|n| match self.kind(n) {
                Kind::Input { var, dist } if row[var as usize].is_nan() => Some((n, var as usize, dist)),
                _ => None,
            })
        };
        inputs().for_each(|(n, v, _)| top[v] = top[v].max(d[n.index()]));
        let mut sums = vec![(0.0, 0.0); self.variables.len()];
        for (n, v, dist) in inputs().filter(|(n, ..)| d[n.index()] > ZERO) {
            let p = exp(d[n.index()] - top[v]);
            let mean = self.distribution(dist).mean(self.variables[v]);
            sums[v] = (sums[v].0 + p * mean, sums[v].1 + p);
        }
        row.iter().zip(&sums).map(|(x, (sum, mass))| if x.is_nan() { sum / mass } else { *x }).collect()
    }

    /// The row completed by a draw from the distribution of its missing cells given the others, by [`uniform`] numbers.
    ///
    /// From the root downwards, a sum with several children draws one of them, in proportion to weight and value, and an
    /// input of a missing cell draws its value, each by the inverse of the running sum in order. The number drawn is that
    /// of the smallest variable below the node; the sums that share it form a path, along which draws are counted. So
    /// the result does not depend on the numbers of nodes nor on the order of the walk. Where the given cells have
    /// probability zero, missing ones stay NaN.
    pub fn sample(&self, row: &[f64], seed: i64) -> Vec<f64> {
        let mut values = vec![];
        self.up(row, &mut values);
        if values[self.root().index()] == ZERO {
            return row.to_vec();
        }
        let smallest = self.min_vars();
        let mut draws = vec![0u32; self.variables.len()];
        let mut draw = |var: u32| {
            let n = &mut draws[var as usize];
            *n += 1;
            uniform(seed, var, *n - 1)
        };
        let mut state = row.to_vec();
        let mut stack = vec![self.root()];
        while let Some(n) = stack.pop() {
            match self.kind(n) {
                Kind::Input { var, dist } if row[var as usize].is_nan() => {
                    let d = self.distribution(dist);
                    let is_fixed = matches!(d, super::Distribution::Indicator { .. });
                    let u = if is_fixed { 0.0 } else { draw(var) };
                    state[var as usize] = d.quantile(u, self.variables[var as usize]);
                }
                Kind::Input { .. } => {}
                Kind::Product(children) => stack.extend(children),
                Kind::Sum([child], _) => stack.push(*child),
                Kind::Sum(children, weights) => {
                    let terms: Vec<f64> = children.iter().zip(weights).map(|(c, w)| values[c.index()] + w).collect();
                    stack.push(children[choose(&terms, draw(smallest[n.index()])).0]);
                }
            }
        }
        state
    }
}
