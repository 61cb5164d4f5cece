//! What readers of node lists share: numbers of the file against nodes of the circuit, and the checks at the end.

use super::text::{Fields, Result};
use crate::error::ImportError;
use kiln_ir::circuit::{BuildError, Builder, Circuit, Distribution, Kind, NodeId, Property, Violation};
use std::{collections::HashMap, path::Path};

/// Numbers below this stand in a table.
const DENSE: usize = 1 << 24;
/// Nodes, edges and implied probabilities of a circuit, which bounds the memory that a file can ask for.
pub(super) const MAX_SIZE: usize = 1 << 26;

/// Values of the variables of all inputs, which bounds tables that have a row an input: one line may give a variable so
/// many values that each other line stands for a long table.
const MAX_VALUES_OF_INPUTS: u64 = 1 << 30;

/// Nodes by their number in the file.
#[derive(Default)]
pub(super) struct Numbers {
    dense: Vec<Option<NodeId>>,
    sparse: HashMap<u32, NodeId>,
}

impl Numbers {
    pub(super) fn get(&self, id: u32) -> Option<NodeId> {
        if (id as usize) < DENSE {
            self.dense.get(id as usize).copied().flatten()
        } else {
            self.sparse.get(&id).copied()
        }
    }

    /// False when the number is taken.
    pub(super) fn set(&mut self, id: u32, node: NodeId) -> bool {
        let at = id as usize;
        if at >= DENSE {
            return self.sparse.insert(id, node).is_none();
        }
        if at >= self.dense.len() {
            self.dense.resize(at + 1, None);
        }
        self.dense[at].replace(node).is_none()
    }
}

impl Fields<'_> {
    /// The number of a node that stands above.
    pub(super) fn child(&mut self, numbers: &Numbers) -> Result<NodeId> {
        let id = self.natural("the number of a node")?;
        numbers.get(id).ok_or_else(|| self.error("the number of a node on a line above", id.to_string()))
    }

    /// A node's own number, which no line above may have.
    pub(super) fn fresh(&mut self, numbers: &Numbers) -> Result<u32> {
        let id = self.natural("the number of the node")?;
        match numbers.get(id) {
            None => Ok(id),
            Some(_) => Err(self.error("a number that no other node has", id.to_string())),
        }
    }

    /// How many children follow; `each` words a child.
    pub(super) fn count(&mut self, each: usize) -> Result<usize> {
        let count = self.natural("the number of children")? as usize;
        let words = self.remaining();
        if count.checked_mul(each) == Some(words) {
            return Ok(count);
        }
        Err(self.error(format!("{count} children of {each} words each"), format!("{words} words")))
    }

    /// Gives a refused node this line.
    pub(super) fn built<T>(&self, result: std::result::Result<T, BuildError>) -> Result<T> {
        result.map_err(|e| self.error(e.expected, e.found))
    }

    /// Refuses circuits that would take too much memory.
    pub(super) fn bounded(&self, b: &Builder) -> Result<()> {
        if b.size() > MAX_SIZE {
            Err(self.error(format!("at most {MAX_SIZE} nodes and edges"), "more"))
        } else {
            Ok(())
        }
    }
}

/// The circuit with this root; what it does not reach is dropped and noted.
pub(super) fn finish(b: Builder, root: NodeId, notes: &mut Vec<String>) -> Circuit {
    let (c, dropped) = b.finish(root);
    left_out(dropped, notes);
    c
}

/// Notes how many nodes the root does not reach, if there are any.
pub(super) fn left_out(count: usize, notes: &mut Vec<String>) {
    if count > 0 {
        let nodes = if count == 1 { "1 node".into() } else { format!("{count} nodes") };
        notes.push(format!("left out: {nodes} that the root does not reach"));
    }
}

/// Violations of what the format promises, one error each.
pub(super) fn violations(path: &Path, c: &Circuit, promised: &[Property]) -> Vec<ImportError> {
    let values = |n: NodeId| match c.kind(n) {
        Kind::Input { var, .. } => u64::from(c.variables[var as usize].values().unwrap_or(1)),
        Kind::Product(_) | Kind::Sum(..) => 0,
    };
    let values: u64 = c.nodes().map(values).sum();
    if values > MAX_VALUES_OF_INPUTS {
        let expected = format!("at most {MAX_VALUES_OF_INPUTS} values of all inputs together");
        return vec![ImportError::new(path, expected, values.to_string())];
    }
    let report = c.check();
    if !report.decided {
        return vec![ImportError::new(path, "nodes over sets of variables that nest", "too many different sets")];
    }
    // Histograms hold counts of bins as SPFlow wrote them, which need not be densities.
    let is_histogram = |v: &Violation| match c.kind(v.node) {
        Kind::Input { dist, .. } => matches!(c.distribution(dist), Distribution::Histogram { .. }),
        Kind::Product(_) | Kind::Sum(..) => false,
    };
    let broken = report.violations.iter().filter(|v| promised.contains(&v.property) && !is_histogram(v));
    let error = |v: &Violation| {
        let (place, found) = v.message.split_once(": ").unwrap_or(("", &v.message));
        let expected = match v.property {
            Property::Smooth => "a smooth circuit, in which children of a sum have the same variables",
            Property::Decomposable => "a decomposable circuit, in which children of a product share no variable",
            Property::Normalised => "weights that are normalised",
            Property::Structured => "products that split their variables as the vtree does",
        };
        ImportError::new(path, expected, found).at(place)
    };
    broken.map(error).collect()
}
