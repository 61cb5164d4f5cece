//! Probabilistic circuits: sums and products over input distributions, as data beside the graph.
//!
//! An op `circuit.query` asks a circuit of the module something; how that is computed is the business of passes and
//! backends. A [`Circuit`] is made by a [`Builder`] and holds: children stand before their parents, every node is
//! reachable from the root, the root is the last node, ids have no gaps. It is smooth and decomposable once the verifier
//! has passed its module; whether it is more, [`Circuit::check`] and [`Circuit::prove_determinism`] say.
//!
//! Everything is in natural logarithms. Input distributions have a total mass of 1, so that a missing cell gives an input
//! node the value 1; weights of sums may be any non-negative numbers.

mod build;
mod check;
mod determinism;
mod distribution;
mod eval;
mod sample;
mod scope;
mod shape;
mod structure;
mod text;
mod vtree;

pub use build::{BuildError, Builder, MAX_VALUES, MAX_VARIABLES};
pub use check::{Property, Report, TOLERANCE, Violation};
pub use determinism::Determinism;
pub use distribution::Distribution;
pub use sample::{Coefficients, normal_coefficients, normal_quantile, uniform};
pub use scope::Scopes;
pub use shape::Block;
pub use vtree::{Vtree, VtreeNode};

pub(crate) use eval::logsumexp;

use cranelift_entity::{EntityRef, entity_impl};
use std::fmt;

/// A node of a circuit; its number is its place in the topological order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);
entity_impl!(NodeId, "n");

/// A distribution of a circuit; equal ones are shared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DistId(u32);
entity_impl!(DistId, "dist");

/// The values of a variable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Domain {
    /// The integers from 0, this many.
    Discrete(u32),
    Real,
}

impl Domain {
    /// How many values there are; `None` for real ones.
    pub fn values(self) -> Option<u32> {
        if let Domain::Discrete(k) = self { Some(k) } else { None }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Domain::Discrete(k) => k.fmt(f),
            Domain::Real => f.write_str("real"),
        }
    }
}

/// Where in a model file a node comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// The node's number in the file.
    pub id: u32,
    pub at: At,
}

/// A place in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum At {
    #[default]
    Nowhere,
    /// Counted from 1.
    Line(u32),
    /// In bytes.
    Offset(u32),
}

/// What a node is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind<'a> {
    /// A distribution of one variable.
    Input {
        var: u32,
        dist: DistId,
    },
    Product(&'a [NodeId]),
    /// The children and as many log-weights, each a number or minus infinity.
    Sum(&'a [NodeId], &'a [f64]),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tag {
    Input,
    Product,
    Sum,
}

/// Of an input: variable, distribution. Of others: first child, number of children, first weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct NodeData {
    tag: Tag,
    a: u32,
    b: u32,
    weight: u32,
}

/// A circuit. See the text of this module.
#[derive(Clone, Debug)]
pub struct Circuit {
    pub name: String,
    /// The domain of each variable; variable `v` is column `v` of the rows that a query takes.
    pub variables: Vec<Domain>,
    pub vtree: Option<Vtree>,
    /// Whether at most one child of each sum is positive for any complete row: proved, or else not known.
    pub deterministic: bool,
    nodes: Vec<NodeData>,
    children: Vec<NodeId>,
    log_weights: Vec<f64>,
    distributions: Vec<Distribution>,
    origins: Vec<Origin>,
}

/// Origins do not count.
impl PartialEq for Circuit {
    fn eq(&self, other: &Circuit) -> bool {
        let head = |c: &Circuit| (c.name.clone(), c.variables.clone(), c.deterministic);
        head(self) == head(other)
            && self.vtree == other.vtree
            && self.nodes == other.nodes
            && self.children == other.children
            && self.log_weights == other.log_weights
            && self.distributions == other.distributions
    }
}

impl Circuit {
    /// How many nodes there are, at least one.
    #[allow(clippy::len_without_is_empty, reason = "no circuit is empty")]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn edges(&self) -> usize {
        self.children.len()
    }

    pub fn root(&self) -> NodeId {
        NodeId::new(self.nodes.len() - 1)
    }

    /// All nodes, children before parents.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator + use<> {
        (0..self.nodes.len()).map(NodeId::new)
    }

    pub fn kind(&self, n: NodeId) -> Kind<'_> {
        let data = self.nodes[n.index()];
        match data.tag {
            Tag::Input => Kind::Input { var: data.a, dist: DistId(data.b) },
            Tag::Product => Kind::Product(self.children(n)),
            Tag::Sum => Kind::Sum(self.children(n), self.log_weights(n)),
        }
    }

    /// Empty for inputs.
    pub fn children(&self, n: NodeId) -> &[NodeId] {
        let data = self.nodes[n.index()];
        if data.tag == Tag::Input { &[] } else { &self.children[data.a as usize..][..data.b as usize] }
    }

    /// As many as children for sums, none for others.
    pub fn log_weights(&self, n: NodeId) -> &[f64] {
        let data = self.nodes[n.index()];
        if data.tag == Tag::Sum { &self.log_weights[data.weight as usize..][..data.b as usize] } else { &[] }
    }

    /// In the order of their ids.
    pub fn distributions(&self) -> &[Distribution] {
        &self.distributions
    }

    pub fn distribution(&self, dist: DistId) -> &Distribution {
        &self.distributions[dist.index()]
    }

    pub fn origin(&self, n: NodeId) -> Origin {
        self.origins[n.index()]
    }

    /// How messages name a node: by its number in the model file and where that stands.
    pub fn place(&self, n: NodeId) -> String {
        let Origin { id, at } = self.origin(n);
        match at {
            At::Nowhere => n.to_string(),
            At::Line(line) => format!("node {id}, line {line}"),
            At::Offset(offset) => format!("node {id}, byte {offset}"),
        }
    }

    /// The size of the largest discrete domain; 0 if there is none.
    pub fn max_values(&self) -> u32 {
        self.variables.iter().filter_map(|d| d.values()).max().unwrap_or(0)
    }

    /// Whether every variable is discrete.
    pub fn is_discrete(&self) -> bool {
        self.variables.iter().all(|d| d.values().is_some())
    }
}
