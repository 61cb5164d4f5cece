//! What a circuit is: counts and properties, each violation with the node it is at.

use super::{Circuit, Kind, NodeId, logsumexp, scope::Scopes};
use cranelift_entity::EntityRef;

/// How far the logarithm of a sum of weights may be from 0 for it to count as normalised; files that write six digits
/// are within it.
pub const TOLERANCE: f64 = 1e-4;

/// Violations are listed up to here.
const MAX_LISTED: usize = 20;
/// Variables are named up to here.
const MAX_NAMED: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Property {
    /// Children of a sum have the same variables.
    Smooth,
    /// Children of a product share no variable.
    Decomposable,
    /// Weights of a sum, and probabilities of an input, add up to 1.
    Normalised,
    /// Products split their variables as the vtree does.
    Structured,
}

impl Property {
    pub const ALL: &'static [Property] =
        &[Property::Smooth, Property::Decomposable, Property::Normalised, Property::Structured];

    pub const fn name(self) -> &'static str {
        match self {
            Property::Smooth => "smooth",
            Property::Decomposable => "decomposable",
            Property::Normalised => "normalised",
            Property::Structured => "structured",
        }
    }
}

/// A node that keeps a circuit from having a property.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub property: Property,
    pub node: NodeId,
    /// Names the node as the model file does.
    pub message: String,
}

/// What [`Circuit::check`] finds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Report {
    pub inputs: usize,
    pub products: usize,
    pub sums: usize,
    pub edges: usize,
    /// Different ones.
    pub distributions: usize,
    /// Edges on the longest way from the root to an input.
    pub depth: u32,
    pub max_fan_in: usize,
    /// Nodes with several parents.
    pub shared: usize,
    /// Weights of sums with several children.
    pub free_weights: usize,
    /// Variables below the root.
    pub used_variables: usize,
    /// The largest distance of the logarithm of a sum of weights from 0.
    pub max_log_weight_sum: f64,
    /// The first ones, in the order of the nodes.
    pub violations: Vec<Violation>,
    /// Violations beyond those listed.
    pub omitted: usize,
    /// False where scopes are so irregular that neither smoothness nor decomposability could be decided.
    pub decided: bool,
    lacks: Vec<Property>,
    has_vtree: bool,
}

impl Report {
    /// Whether the circuit has the property; `None` where that was not decided, or there is no vtree to compare with.
    pub fn is(&self, property: Property) -> Option<bool> {
        let known = match property {
            Property::Smooth | Property::Decomposable => self.decided,
            Property::Normalised => true,
            Property::Structured => self.has_vtree,
        };
        known.then(|| !self.lacks.contains(&property))
    }

    fn add(&mut self, property: Property, node: NodeId, message: String) {
        if !self.lacks.contains(&property) {
            self.lacks.push(property);
        }
        if self.violations.len() < MAX_LISTED {
            self.violations.push(Violation { property, node, message });
        } else {
            self.omitted += 1;
        }
    }
}

/// `column 3` or `columns 3, 4, ... (17)`.
fn columns(mut vars: Vec<u32>) -> String {
    vars.sort_unstable();
    vars.dedup();
    let named: Vec<String> = vars.iter().take(MAX_NAMED).map(u32::to_string).collect();
    match vars.len() {
        1 => format!("column {}", named[0]),
        n if n <= MAX_NAMED => format!("columns {}", named.join(", ")),
        n => format!("columns {}, ... ({n})", named.join(", ")),
    }
}

impl Circuit {
    /// Counts, and all properties but determinism.
    pub fn check(&self) -> Report {
        let mut r = Report {
            edges: self.edges(),
            distributions: self.distributions().len(),
            depth: self.levels()[self.root().index()],
            has_vtree: self.vtree.is_some(),
            ..Report::default()
        };
        let mut parents = vec![0u8; self.len()];
        for n in self.nodes() {
            let children = self.children(n);
            r.max_fan_in = r.max_fan_in.max(children.len());
            children.iter().for_each(|c| parents[c.index()] = parents[c.index()].saturating_add(1));
            match self.kind(n) {
                Kind::Input { .. } => r.inputs += 1,
                Kind::Product(_) => r.products += 1,
                Kind::Sum(..) => {
                    r.sums += 1;
                    r.free_weights += if children.len() > 1 { children.len() } else { 0 };
                }
            }
        }
        r.shared = parents.iter().filter(|p| **p > 1).count();
        let found = self.scope_violations();
        r.decided = found.is_some();
        let (scopes, used) = found.unwrap_or_default();
        r.used_variables = used;
        scopes.into_iter().for_each(|v| r.add(v.property, v.node, v.message));
        self.check_weights(&mut r);
        if self.vtree.is_some()
            && let Err(v) = self.vtree_nodes()
        {
            r.add(v.property, v.node, v.message);
        }
        r
    }

    /// Where the circuit is not smooth or not decomposable, and how many variables the root has; `None` where its scopes
    /// are too irregular to say.
    pub(crate) fn scope_violations(&self) -> Option<(Vec<Violation>, usize)> {
        let scopes = Scopes::of(self)?;
        let mut found = vec![];
        for n in self.nodes() {
            if let Kind::Sum(children, _) = self.kind(n)
                && let Some(other) = children.iter().find(|c| scopes.id(**c) != scopes.id(children[0]))
            {
                found.push(Violation { property: Property::Smooth, node: n, message: self.uneven(&scopes, n, *other) });
                // Each message reads whole sets of variables.
                if found.len() > MAX_LISTED {
                    break;
                }
            }
        }
        for n in &scopes.overlapping {
            let message = format!("{}: children of a product share {}", self.place(*n), self.overlap(&scopes, *n));
            found.push(Violation { property: Property::Decomposable, node: *n, message });
            if found.len() > 2 * MAX_LISTED {
                break;
            }
        }
        found.sort_by_key(|v| v.node);
        Some((found, scopes.variables(self.root()).count()))
    }

    fn uneven(&self, scopes: &Scopes, sum: NodeId, other: NodeId) -> String {
        let first = self.children(sum)[0];
        let all = |n: NodeId| {
            let mut vars: Vec<u32> = scopes.variables(n).collect();
            vars.sort_unstable();
            vars
        };
        let (a, b) = (all(first), all(other));
        let lacking =
            |x: &[u32], y: &[u32]| -> Vec<u32> { x.iter().copied().filter(|v| y.binary_search(v).is_err()).collect() };
        let (node, lacks) = match lacking(&a, &b) {
            vars if vars.is_empty() => (first, lacking(&b, &a)),
            vars => (other, vars),
        };
        let (sum, node) = (self.place(sum), self.place(node));
        format!("{sum}: children of a sum have different variables, ({node}) lacks {}", columns(lacks))
    }

    fn overlap(&self, scopes: &Scopes, product: NodeId) -> String {
        let mut seen = vec![false; self.variables.len()];
        let mut twice = vec![];
        for child in self.children(product) {
            for v in scopes.variables(*child) {
                if std::mem::replace(&mut seen[v as usize], true) {
                    twice.push(v);
                }
            }
        }
        columns(twice)
    }

    fn check_weights(&self, r: &mut Report) {
        let is_off = |error: f64| error.is_nan() || error > TOLERANCE;
        let mut seen = vec![false; self.distributions().len()];
        for n in self.nodes() {
            match self.kind(n) {
                Kind::Sum(_, weights) => {
                    let total = logsumexp(weights.iter().copied());
                    r.max_log_weight_sum = r.max_log_weight_sum.max(total.abs());
                    if is_off(total.abs()) {
                        let message =
                            format!("{}: the weights of a sum add up to {}, not 1", self.place(n), libm::exp(total));
                        r.add(Property::Normalised, n, message);
                    }
                }
                Kind::Input { var, dist } => {
                    if std::mem::replace(&mut seen[dist.index()], true) {
                        continue;
                    }
                    let d = self.distribution(dist);
                    if is_off(d.log_mass_error(self.variables[var as usize])) {
                        let message =
                            format!("{}: the probabilities of a {} do not add up to 1", self.place(n), d.name());
                        r.add(Property::Normalised, n, message);
                    }
                }
                Kind::Product(_) => {}
            }
        }
    }
}
