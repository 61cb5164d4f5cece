//! The distribution of each variable given those before it, for circuits without common structure.
//!
//! For each variable the whole circuit is evaluated once upwards, with the variables before it known, and once
//! downwards. Variables go in their own order, rows one by one.

use super::frequencies::Alphabet;
use super::sparse::{LANES, Lanes, power};
use super::tables::{Graph, Node};
use std::ops::Range;

/// A number `mantissa * 2^exponent` that neither overflows nor underflows. The mantissa is 0 or from 0.5 to 1.
#[derive(Clone, Copy)]
struct Scaled {
    mantissa: f64,
    exponent: i64,
}

const NOTHING: Scaled = Scaled { mantissa: 0.0, exponent: 0 };
const ONE: Scaled = Scaled { mantissa: 0.5, exponent: 1 };

impl Scaled {
    fn new(x: f64) -> Scaled {
        // Twice, as a subnormal number is brought near only at first.
        let (first, second) = (power(x), power(x * power(x)));
        if x == 0.0 {
            return NOTHING;
        }
        Scaled { mantissa: x * first * second, exponent: -exponent(first) - exponent(second) }
    }

    fn times(self, other: Scaled) -> Scaled {
        let product = Scaled::new(self.mantissa * other.mantissa);
        let exponent = self.exponent.saturating_add(other.exponent).saturating_add(product.exponent);
        if product.mantissa == 0.0 { NOTHING } else { Scaled { exponent, ..product } }
    }

    fn plus(self, other: Scaled) -> Scaled {
        if self.mantissa == 0.0 || other.mantissa == 0.0 {
            return if self.mantissa == 0.0 { other } else { self };
        }
        let (large, small) = if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        let sum = Scaled::new(large.mantissa + small.over(large.exponent));
        Scaled { exponent: large.exponent.saturating_add(sum.exponent), ..sum }
    }

    /// The number divided by `2^exponent`, which is not less than its own; 0 if it is far less.
    fn over(self, exponent: i64) -> f64 {
        match exponent.saturating_sub(self.exponent) {
            less @ 0..=1000 => self.mantissa * f64::from_bits((1023 - less as u64) << 52),
            // Far less, or nothing, whose exponent says nothing.
            _ => 0.0,
        }
    }
}

/// The exponent of a power of two.
fn exponent(power: f64) -> i64 {
    (power.to_bits() >> 52) as i64 - 1023
}

/// Where a group of rows has got to.
pub(super) struct State {
    /// The nodes, each with the positions of its children.
    nodes: Vec<(Node, Range<usize>)>,
    /// Of the variables so far.
    known: Vec<[u32; LANES]>,
    values: Vec<Scaled>,
    outer: Vec<Scaled>,
    /// Products of a product's children before each of them.
    before: Vec<Scaled>,
    entered: Vec<Lanes>,
}

impl State {
    pub(super) fn new(graph: &Graph) -> State {
        let size = graph.nodes.len();
        let (values, outer) = (vec![NOTHING; size], vec![NOTHING; size]);
        State { nodes: graph.ranges(), known: vec![], values, outer, before: vec![], entered: vec![] }
    }

    /// As for structured circuits.
    pub(super) fn begin(&mut self) {
        self.known.clear();
    }

    /// As for structured circuits; `alphabets` by variable.
    pub(super) fn enter(&mut self, graph: &Graph, alphabets: &[Alphabet]) -> &[Lanes] {
        let variable = self.known.len();
        self.entered.clear();
        self.entered.resize(alphabets[variable].count(), [0.0; LANES]);
        for lane in 0..LANES {
            self.up(graph, alphabets, lane);
            self.down(graph);
            let entered = graph.nodes.iter().zip(&self.outer).filter_map(|(node, outer)| match node {
                Node::Input { variable: v, row } if *v as usize == variable => Some((*row as usize, *outer)),
                _ => None,
            });
            let largest = entered.clone().filter(|(_, o)| o.mantissa > 0.0).map(|(_, o)| o.exponent).max();
            let Some(largest) = largest else { continue };
            entered.for_each(|(row, outer)| self.entered[row][lane] += outer.over(largest));
        }
        &self.entered
    }

    /// As for structured circuits.
    pub(super) fn observe(&mut self, values: &[u32; LANES]) {
        self.known.push(*values);
    }

    fn up(&mut self, graph: &Graph, alphabets: &[Alphabet], lane: usize) {
        for (n, (node, range)) in self.nodes.iter().enumerate() {
            let children = graph.children[range.clone()].iter().map(|c| self.values[*c as usize]);
            self.values[n] = match node {
                Node::Input { variable, row } => match self.known.get(*variable as usize) {
                    Some(known) => Scaled::new(alphabets[*variable as usize].probability(*row, known[lane])),
                    None => ONE,
                },
                Node::Product { .. } => children.fold(ONE, Scaled::times),
                Node::Sum { .. } => {
                    let terms = children.zip(&graph.weights[range.clone()]).map(|(v, w)| v.times(Scaled::new(*w)));
                    terms.fold(NOTHING, Scaled::plus)
                }
            };
        }
    }

    fn down(&mut self, graph: &Graph) {
        self.outer.fill(NOTHING);
        if let Some(root) = self.outer.last_mut() {
            *root = ONE;
        }
        for (n, (node, range)) in self.nodes.iter().enumerate().rev() {
            let own = self.outer[n];
            if own.mantissa == 0.0 {
                continue;
            }
            match node {
                Node::Input { .. } => {}
                Node::Sum { .. } => {
                    for (child, weight) in graph.children[range.clone()].iter().zip(&graph.weights[range.clone()]) {
                        let outer = &mut self.outer[*child as usize];
                        *outer = outer.plus(own.times(Scaled::new(*weight)));
                    }
                }
                Node::Product { .. } => {
                    let children = &graph.children[range.clone()];
                    self.before.clear();
                    let mut product = own;
                    for child in children {
                        self.before.push(product);
                        product = product.times(self.values[*child as usize]);
                    }
                    let mut behind = ONE;
                    for (child, before) in children.iter().zip(&self.before).rev() {
                        let outer = &mut self.outer[*child as usize];
                        *outer = outer.plus(before.times(behind));
                        behind = behind.times(self.values[*child as usize]);
                    }
                }
            }
        }
    }
}

/// Nodes and children that are looked at for one row.
pub(super) fn visits(graph: &Graph, variables: usize) -> u64 {
    2 * graph.children.len() as u64 * variables as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_numbers_are_numbers() {
        for (a, b) in [(0.75, 3.0), (1e-310, 1e-5), (0.0, 2.0), (1e300, 1e-300), (5e-324, 5e-324)] {
            let (x, y) = (Scaled::new(a), Scaled::new(b));
            assert!(x.mantissa == 0.0 || (0.5..1.0).contains(&x.mantissa));
            let back = |s: Scaled| {
                let (e, half) = (s.exponent as i32, s.exponent.div_euclid(2) as i32);
                s.mantissa * 2f64.powi(half) * 2f64.powi(e - half)
            };
            assert_eq!(back(x), a);
            assert_eq!(back(x.plus(y)), a + b);
        }
        let tiny = Scaled::new(1e-300);
        let product = (0..100).fold(ONE, |p, _| p.times(tiny));
        assert_eq!(product.exponent, -99657);
        assert_eq!(tiny.plus(product).mantissa, tiny.mantissa);
    }
}
