//! Making circuits: the only way to one, which keeps what [`Circuit`] promises.

use super::{At, Circuit, DistId, Distribution, Domain, NodeData, NodeId, Origin, Tag, Vtree};
use cranelift_entity::EntityRef;
use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;

/// The largest discrete domain.
pub const MAX_VALUES: u32 = 1 << 16;
/// The most variables of a circuit.
pub const MAX_VARIABLES: u32 = 1 << 20;

/// Why a node cannot be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BuildError {
    pub expected: String,
    pub found: String,
}

impl BuildError {
    pub(super) fn new(expected: impl Into<String>, found: impl Into<String>) -> BuildError {
        BuildError { expected: expected.into(), found: found.into() }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, found {}", self.expected, self.found)
    }
}

impl std::error::Error for BuildError {}

/// A circuit under construction.
#[derive(Clone, Debug)]
pub struct Builder {
    circuit: Circuit,
    /// Distributions by the hash of their numbers.
    known: HashMap<u64, Vec<DistId>>,
    /// Probabilities that distributions have without listing them.
    implied: usize,
}

impl Builder {
    pub fn new(name: impl Into<String>, variables: Vec<Domain>) -> Builder {
        let circuit = Circuit {
            name: name.into(),
            variables,
            vtree: None,
            deterministic: false,
            nodes: vec![],
            children: vec![],
            log_weights: vec![],
            distributions: vec![],
            origins: vec![],
        };
        Builder { circuit, known: HashMap::new(), implied: 0 }
    }

    /// Makes the variable known with at least this domain. Variables in between get a domain of one value.
    ///
    /// # Errors
    /// Too many variables or values, or a variable that is both real and discrete.
    pub fn declare(&mut self, var: u32, domain: Domain) -> Result<(), BuildError> {
        if var >= MAX_VARIABLES {
            return Err(BuildError::new(format!("at most {MAX_VARIABLES} variables"), format!("variable {var}")));
        }
        if let Some(k) = domain.values().filter(|k| !(1..=MAX_VALUES).contains(k)) {
            return Err(BuildError::new(format!("a variable of 1 to {MAX_VALUES} values"), format!("{k} values")));
        }
        let variables = &mut self.circuit.variables;
        let is_new = var as usize >= variables.len();
        if is_new {
            variables.resize(var as usize + 1, Domain::Discrete(1));
        }
        let known = &mut variables[var as usize];
        *known = match (*known, domain) {
            (Domain::Discrete(a), Domain::Discrete(b)) => Domain::Discrete(a.max(b)),
            (Domain::Real, Domain::Real) => Domain::Real,
            // One value is also what a variable has of which nothing is known yet.
            (Domain::Discrete(1), Domain::Real) => Domain::Real,
            (known, domain) => {
                let found = format!("variable {var} with domain {known} and with domain {domain}");
                return Err(BuildError::new("variables either discrete or real", found));
            }
        };
        Ok(())
    }

    pub fn variables(&self) -> &[Domain] {
        &self.circuit.variables
    }

    /// How many nodes there are so far.
    pub fn len(&self) -> usize {
        self.circuit.nodes.len()
    }

    /// Nodes, edges, and the probabilities that distributions have without listing them: what memory depends on.
    pub fn size(&self) -> usize {
        self.circuit.nodes.len() + self.circuit.children.len() + self.implied
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn set_vtree(&mut self, vtree: Vtree) {
        self.circuit.vtree = Some(vtree);
    }

    pub fn set_deterministic(&mut self, proved: bool) {
        self.circuit.deterministic = proved;
    }

    /// An input node.
    ///
    /// # Errors
    /// A variable that is not declared, or a distribution that its domain does not take.
    pub fn input(&mut self, var: u32, distribution: Distribution, origin: Origin) -> Result<NodeId, BuildError> {
        self.check_input(var, &distribution)?;
        let bits = distribution.bits();
        let hash = self.known.hasher().hash_one(&bits);
        let same = self.known.entry(hash).or_default();
        let distributions = &mut self.circuit.distributions;
        let dist = match same.iter().find(|d| distributions[d.index()].bits() == bits) {
            Some(dist) => *dist,
            None => {
                let dist = DistId::new(distributions.len());
                self.implied += match distribution {
                    Distribution::Binomial { trials, .. } => trials as usize,
                    Distribution::Logistic { values, .. } => values as usize,
                    _ => 0,
                };
                distributions.push(distribution);
                same.push(dist);
                dist
            }
        };
        self.push(NodeData { tag: Tag::Input, a: var, b: dist.as_u32(), weight: 0 }, origin)
    }

    /// An input node with a distribution that the circuit has.
    ///
    /// # Errors
    /// As [`Builder::input`].
    pub fn input_of(&mut self, var: u32, dist: DistId, origin: Origin) -> Result<NodeId, BuildError> {
        let Some(distribution) = self.circuit.distributions.get(dist.index()) else {
            return Err(BuildError::new("a distribution of the circuit", dist.to_string()));
        };
        self.check_input(var, distribution)?;
        self.push(NodeData { tag: Tag::Input, a: var, b: dist.as_u32(), weight: 0 }, origin)
    }

    fn check_input(&self, var: u32, distribution: &Distribution) -> Result<(), BuildError> {
        match self.circuit.variables.get(var as usize) {
            Some(domain) => distribution.check(*domain),
            None => {
                let expected = format!("one of {} variables", self.circuit.variables.len());
                Err(BuildError::new(expected, format!("variable {var}")))
            }
        }
    }

    /// # Errors
    /// No children, or children that do not stand before.
    pub fn product(&mut self, children: &[NodeId], origin: Origin) -> Result<NodeId, BuildError> {
        let (a, b) = self.add_children("product", children)?;
        self.push(NodeData { tag: Tag::Product, a, b, weight: 0 }, origin)
    }

    /// # Errors
    /// As [`Builder::product`]; weights that are too few or many, or no numbers, or infinite.
    pub fn sum(&mut self, children: &[NodeId], log_weights: &[f64], origin: Origin) -> Result<NodeId, BuildError> {
        if children.len() != log_weights.len() {
            let expected = format!("{} weights, one a child", children.len());
            return Err(BuildError::new(expected, log_weights.len().to_string()));
        }
        if let Some(w) = log_weights.iter().find(|w| w.is_nan() || **w == f64::INFINITY) {
            return Err(BuildError::new("the logarithm of a weight", w.to_string()));
        }
        let (a, b) = self.add_children("sum", children)?;
        let weight = self.circuit.log_weights.len() as u32;
        self.circuit.log_weights.extend(log_weights);
        self.push(NodeData { tag: Tag::Sum, a, b, weight }, origin)
    }

    fn add_children(&mut self, what: &str, children: &[NodeId]) -> Result<(u32, u32), BuildError> {
        if children.is_empty() {
            return Err(BuildError::new(format!("a {what} with children"), "none"));
        }
        if let Some(c) = children.iter().find(|c| c.index() >= self.circuit.nodes.len()) {
            return Err(BuildError::new("children before their parents", c.to_string()));
        }
        let (first, count) = (self.circuit.children.len(), children.len());
        // Weights are no more than children, so that their numbers fit as well.
        if first + count >= u32::MAX as usize {
            return Err(BuildError::new(format!("fewer than {} edges", u32::MAX), "more"));
        }
        self.circuit.children.extend(children);
        Ok((first as u32, count as u32))
    }

    fn push(&mut self, data: NodeData, origin: Origin) -> Result<NodeId, BuildError> {
        let id = self.circuit.nodes.len();
        if id >= u32::MAX as usize - 1 {
            return Err(BuildError::new(format!("fewer than {} nodes", u32::MAX), "more"));
        }
        self.circuit.nodes.push(data);
        self.circuit.origins.push(origin);
        Ok(NodeId::new(id))
    }

    /// The circuit with this root, and how many nodes were dropped that it does not reach. The others keep their order.
    ///
    /// # Panics
    /// When `root` is no node of this builder.
    pub fn finish(self, root: NodeId) -> (Circuit, usize) {
        let mut c = self.circuit;
        assert!(root.index() < c.nodes.len(), "{root} is no node of this builder");
        let mut reached = vec![false; c.nodes.len()];
        reached[root.index()] = true;
        for n in (0..=root.index()).rev().map(NodeId::new).collect::<Vec<_>>() {
            if reached[n.index()] {
                c.children(n).iter().for_each(|child| reached[child.index()] = true);
            }
        }
        let dropped = reached.iter().filter(|r| !**r).count();
        if dropped > 0 {
            c = compacted(&c, &reached);
        }
        drop_distributions(&mut c);
        (c, dropped)
    }
}

fn compacted(c: &Circuit, reached: &[bool]) -> Circuit {
    let mut out = c.builder_like().circuit;
    out.distributions.clone_from(&c.distributions);
    let mut moved = vec![NodeId(0); c.len()];
    for n in c.nodes().filter(|n| reached[n.index()]) {
        moved[n.index()] = NodeId::new(out.nodes.len());
        let mut data = c.nodes[n.index()];
        if data.tag != Tag::Input {
            data.a = out.children.len() as u32;
            data.weight = out.log_weights.len() as u32;
            out.children.extend(c.children(n).iter().map(|child| moved[child.index()]));
            out.log_weights.extend(c.log_weights(n));
        }
        out.nodes.push(data);
        out.origins.push(c.origins[n.index()]);
    }
    out
}

/// Takes out distributions that no input has.
fn drop_distributions(c: &mut Circuit) {
    let mut used = vec![false; c.distributions.len()];
    c.nodes.iter().filter(|n| n.tag == Tag::Input).for_each(|n| used[n.b as usize] = true);
    if used.iter().all(|u| *u) {
        return;
    }
    let mut moved = vec![0; used.len()];
    let mut kept = vec![];
    for (n, d) in std::mem::take(&mut c.distributions).into_iter().enumerate().filter(|(n, _)| used[*n]) {
        moved[n] = kept.len() as u32;
        kept.push(d);
    }
    c.distributions = kept;
    c.nodes.iter_mut().filter(|n| n.tag == Tag::Input).for_each(|n| n.b = moved[n.b as usize]);
}

impl Circuit {
    /// A builder with the name, variables, vtree and distributions of this circuit, and no nodes.
    pub fn builder_like(&self) -> Builder {
        let mut b = Builder::new(self.name.clone(), self.variables.clone());
        b.circuit.vtree.clone_from(&self.vtree);
        b.circuit.deterministic = self.deterministic;
        b.circuit.distributions.clone_from(&self.distributions);
        for (n, d) in b.circuit.distributions.iter().enumerate() {
            let hash = b.known.hasher().hash_one(d.bits());
            b.known.entry(hash).or_default().push(DistId::new(n));
        }
        b
    }
}

impl Origin {
    pub fn line(id: u32, line: u32) -> Origin {
        Origin { id, at: At::Line(line) }
    }

    pub fn offset(id: u32, offset: u32) -> Origin {
        Origin { id, at: At::Offset(offset) }
    }
}
