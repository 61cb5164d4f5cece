//! What the codec knows of a circuit, as it stands in an artifact; every rule of it is checked before it is used.
//!
//! All weights and probabilities are plain numbers, and normalised: each node's value is 1 where nothing is known of its
//! variables. The codec's numbers follow from these bytes alone, by additions, multiplications and divisions of f64 in
//! a fixed order; their BLAKE3 hash names the circuit in streams.

use serde::{Deserialize, Serialize};

/// More values than this no variable may have.
pub const MAX_VALUES: u32 = 1 << 20;

/// Sums of weights may differ from 1 by this.
const TOLERANCE: f64 = 1e-6;

/// A circuit over discrete variables.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Tables {
    /// Variable `v` is column `v` of the rows.
    pub variables: Vec<Variable>,
    pub structure: Structure,
}

/// A variable and the distributions that the circuit's inputs give it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Variable {
    /// It has one of `0..values`.
    pub values: u32,
    /// Probabilities, `[distribution, value]`.
    pub rows: Vec<f64>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Structure {
    /// Of a structured circuit: children before parents, the whole last. The last node of the last region is the root.
    Regions(Vec<Region>),
    /// Of any other.
    Graph(Graph),
}

/// The nodes over one set of variables. Any two regions are disjoint, or one lies in the other.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Region {
    /// The distributions of one variable.
    Leaf(u32),
    Inner(Box<Inner>),
}

/// Nodes over the variables of two regions together: first mixtures of products, then sums of nodes before them.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Inner {
    /// In the order in which they are coded.
    pub children: [u32; 2],
    /// Mixture `n` has the products from `mix_ends[n - 1]` to `mix_ends[n]`.
    pub mix_ends: Vec<u32>,
    /// One a product.
    pub mix_weights: Vec<f64>,
    /// By product: a node of each child.
    pub factors: Vec<[u32; 2]>,
    /// Sum `n`, which is node `mix_ends.len() + n`, has the terms from `sum_ends[n - 1]` to `sum_ends[n]`.
    pub sum_ends: Vec<u32>,
    pub sum_weights: Vec<f64>,
    /// Nodes of this region, before the sum.
    pub terms: Vec<u32>,
}

/// A circuit without common structure: children before parents, the root last.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Graph {
    pub nodes: Vec<Node>,
    pub children: Vec<u32>,
    /// One for each of `children`; 1 for those of products.
    pub weights: Vec<f64>,
}

/// A node; its children are those from where the node before it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Node {
    Input { variable: u32, row: u32 },
    Product { end: u32 },
    Sum { end: u32 },
}

impl Variable {
    /// Distributions.
    pub(super) fn count(&self) -> usize {
        self.rows.len() / (self.values as usize).max(1)
    }
}

impl Inner {
    /// Nodes.
    pub(super) fn count(&self) -> usize {
        self.mix_ends.len() + self.sum_ends.len()
    }
}

impl Graph {
    /// The nodes, each with the positions of its children in `children`.
    pub(super) fn ranges(&self) -> Vec<(Node, std::ops::Range<usize>)> {
        let mut start = 0;
        let range = |node: &Node| match node {
            Node::Input { .. } => (*node, start..start),
            Node::Product { end } | Node::Sum { end } => {
                (*node, std::mem::replace(&mut start, *end as usize)..*end as usize)
            }
        };
        self.nodes.iter().map(range).collect()
    }
}

/// The content of the artifact's section: the tables, or why the circuit has none.
pub type Section = Result<Tables, String>;

/// The section's bytes.
#[cfg(feature = "write")]
pub fn encode(section: &Section) -> Result<Vec<u8>, String> {
    if let Ok(tables) = section {
        tables.check()?;
    }
    postcard::to_stdvec(section).map_err(|e| e.to_string())
}

impl Tables {
    /// Checks all that the codec relies on.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.variables.is_empty() || self.variables.len() > u32::MAX as usize {
            return Err(format!("{} variables", self.variables.len()));
        }
        for (v, variable) in self.variables.iter().enumerate() {
            check_variable(variable).map_err(|e| format!("variable {v}: {e}"))?;
        }
        match &self.structure {
            Structure::Regions(regions) => self.check_regions(regions),
            Structure::Graph(graph) => self.check_graph(graph),
        }
    }

    fn check_regions(&self, regions: &[Region]) -> Result<(), String> {
        let mut coded = vec![false; self.variables.len()];
        let (mut used, mut counts) = (vec![false; regions.len()], Vec::with_capacity(regions.len()));
        for (r, region) in regions.iter().enumerate() {
            let at = |e: String| format!("region {r}: {e}");
            counts.push(match region {
                Region::Leaf(v) => {
                    let coded = coded.get_mut(*v as usize).ok_or_else(|| at(format!("no variable {v}")))?;
                    if std::mem::replace(coded, true) {
                        return Err(at(format!("variable {v} stands in two leaves")));
                    }
                    self.variables[*v as usize].count()
                }
                Region::Inner(inner) => {
                    for child in &inner.children {
                        let used = used[..r].get_mut(*child as usize);
                        let used = used.ok_or_else(|| at(format!("child {child} is no region before it")))?;
                        if std::mem::replace(used, true) {
                            return Err(at(format!("child {child} has two parents")));
                        }
                    }
                    check_inner(inner, &counts).map_err(at)?;
                    inner.count()
                }
            });
        }
        // One tree: all but the last region stand in another.
        match used.split_last() {
            Some((false, rest)) if rest.iter().all(|u| *u) && coded.iter().all(|c| *c) => Ok(()),
            _ => Err("the regions are not one tree over all variables".to_owned()),
        }
    }

    fn check_graph(&self, graph: &Graph) -> Result<(), String> {
        if graph.children.len() != graph.weights.len() {
            return Err(format!("{} children, {} weights", graph.children.len(), graph.weights.len()));
        }
        if graph.nodes.is_empty() || graph.nodes.len() > u32::MAX as usize {
            return Err(format!("{} nodes", graph.nodes.len()));
        }
        let mut start = 0;
        for (n, node) in graph.nodes.iter().enumerate() {
            let at = |e: String| format!("node {n}: {e}");
            let end = match node {
                Node::Input { variable, row } => {
                    let known = self.variables.get(*variable as usize).is_some_and(|v| (*row as usize) < v.count());
                    if !known {
                        return Err(at(format!("no distribution {row} of variable {variable}")));
                    }
                    continue;
                }
                Node::Product { end } | Node::Sum { end } => *end as usize,
            };
            let (Some(children), Some(weights)) = (graph.children.get(start..end), graph.weights.get(start..end))
            else {
                return Err(at(format!("children from {start} to {end} of {}", graph.children.len())));
            };
            if children.is_empty() || children.iter().any(|c| *c as usize >= n) {
                return Err(at("its children are not nodes before it".to_owned()));
            }
            if matches!(node, Node::Sum { .. }) {
                check_weights(weights).map_err(at)?;
            } else if weights.iter().any(|w| *w != 1.0) {
                return Err(at("a product has weights".to_owned()));
            }
            start = end;
        }
        if start == graph.children.len() { Ok(()) } else { Err("children that are no node's".to_owned()) }
    }
}

fn check_variable(variable: &Variable) -> Result<(), String> {
    if variable.values == 0 || variable.values > MAX_VALUES {
        return Err(format!("{} values, expected 1 to {MAX_VALUES}", variable.values));
    }
    let values = variable.values as usize;
    if variable.rows.is_empty() || !variable.rows.len().is_multiple_of(values) {
        return Err(format!("{} probabilities of {values} values", variable.rows.len()));
    }
    variable.rows.chunks_exact(values).try_for_each(check_weights)
}

fn check_inner(inner: &Inner, counts: &[usize]) -> Result<(), String> {
    if inner.factors.len() != inner.mix_weights.len() {
        return Err(format!("{} products, {} weights", inner.factors.len(), inner.mix_weights.len()));
    }
    let [left, right] = inner.children.map(|c| counts[c as usize]);
    if inner.factors.iter().any(|[a, b]| *a as usize >= left || *b as usize >= right) {
        return Err("a factor is no node of its region".to_owned());
    }
    if inner.mix_ends.is_empty() || inner.count() > u32::MAX as usize {
        return Err(format!("{} nodes", inner.count()));
    }
    check_lists(&inner.mix_ends, &inner.mix_weights)?;
    if inner.terms.len() != inner.sum_weights.len() {
        return Err(format!("{} terms, {} weights", inner.terms.len(), inner.sum_weights.len()));
    }
    check_lists(&inner.sum_ends, &inner.sum_weights)?;
    let mut start = 0;
    for (n, end) in inner.sum_ends.iter().enumerate() {
        let terms = &inner.terms[start..*end as usize];
        if terms.iter().any(|t| *t as usize >= inner.mix_ends.len() + n) {
            return Err(format!("sum {n} has terms that are no nodes before it"));
        }
        start = *end as usize;
    }
    Ok(())
}

/// Each list has something in it, and its weights are those of a mixture.
fn check_lists(ends: &[u32], weights: &[f64]) -> Result<(), String> {
    let mut start = 0;
    for end in ends {
        let list = weights.get(start..*end as usize).filter(|list| !list.is_empty());
        check_weights(list.ok_or_else(|| format!("a list from {start} to {end} of {}", weights.len()))?)?;
        start = *end as usize;
    }
    if start == weights.len() { Ok(()) } else { Err("weights that are no node's".to_owned()) }
}

fn check_weights(weights: &[f64]) -> Result<(), String> {
    let total: f64 = weights.iter().sum();
    // NaN is in no range.
    if !weights.iter().all(|w| (0.0..=1.0 + TOLERANCE).contains(w))
        || !(-TOLERANCE..=TOLERANCE).contains(&(total - 1.0))
    {
        return Err(format!("weights that add up to {total}"));
    }
    Ok(())
}
