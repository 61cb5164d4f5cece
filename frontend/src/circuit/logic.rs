//! Formulas in decomposable negation normal form, made into circuits whose likelihood is the weighted model count.
//!
//! A row of a formula's circuit has the weight of its literals where it is a model and 0 elsewhere, so that a missing cell
//! sums over both values. For that the circuit must be smooth: terms of a disjunction that leave a variable open get it
//! as the sum of its two literals, and so do variables that occur nowhere.

use super::{
    nodes,
    text::{Fields, Result, Text},
};
use crate::error::ImportError;
use kiln_ir::circuit::{Builder, Circuit, Distribution, Domain, NodeId, Origin};
use std::{collections::HashMap, path::Path};

/// Words of all different sets of variables together.
const MAX_SET_WORDS: usize = 1 << 24;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    True,
    False,
    Literal { var: u32, positive: bool },
    And,
    Or,
}

/// Nodes with children before parents; the root is the last.
#[derive(Default)]
pub(super) struct Formula {
    nodes: Vec<(Kind, Origin, usize)>,
    children: Vec<u32>,
    /// At least as many as occur.
    pub(super) variables: u32,
    /// Whether the file says how many there are, so that weights of others are errors.
    pub(super) declares: bool,
    /// Nodes of the file that the root does not reach and that are not here.
    pub(super) unreached: usize,
}

impl Formula {
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn edges(&self) -> usize {
        self.children.len()
    }

    pub(super) fn push(&mut self, kind: Kind, children: &[u32], origin: Origin) -> u32 {
        if let Kind::Literal { var, .. } = kind {
            self.variables = self.variables.max(var.saturating_add(1));
        }
        self.nodes.push((kind, origin, self.children.len()));
        self.children.extend(children);
        self.nodes.len() as u32 - 1
    }

    fn children(&self, n: usize) -> &[u32] {
        let end = self.nodes.get(n + 1).map_or(self.children.len(), |next| next.2);
        &self.children[self.nodes[n].2..end]
    }
}

/// Logarithms of the weights of literals; 0 for those that are not there.
#[derive(Default)]
pub(super) struct Weights {
    of: HashMap<(u32, bool), f64>,
    /// The largest variable, and an error at its line that lacks what was expected.
    largest: Option<(u32, ImportError)>,
}

impl Weights {
    /// Takes `c p weight LITERAL WEIGHT 0`; other comments are left alone.
    pub(super) fn comment(&mut self, mut f: Fields<'_>) -> Result<()> {
        let words: [&[u8]; 3] = [b"c", b"p", b"weight"];
        if words.iter().all(|w| f.word() == Some(w)) { self.entry(f) } else { Ok(()) }
    }

    fn entry(&mut self, mut f: Fields<'_>) -> Result<()> {
        let literal = f.literal("a literal, which is a variable or its negative")?;
        let weight = f.float("the weight of the literal")?;
        if weight < 0.0 {
            return Err(f.error("a weight of at least 0", weight.to_string()));
        }
        if f.remaining() > 0 {
            f.natural("0 at the end of the line")?;
        }
        f.end()?;
        match self.of.insert(literal, weight.ln()) {
            None => {
                if self.largest.as_ref().is_none_or(|(var, _)| *var < literal.0) {
                    self.largest = Some((literal.0, f.error("", (u64::from(literal.0) + 1).to_string())));
                }
                Ok(())
            }
            Some(_) => Err(f.error("one weight a literal", "a second one")),
        }
    }

    /// Adds those of a file of lines `LITERAL WEIGHT` or `c p weight LITERAL WEIGHT 0`.
    pub(super) fn read(&mut self, text: &mut Text<'_>) -> Result<()> {
        while text.advance()? {
            match text.fields().peek() {
                None => {}
                Some(b"c") => self.comment(text.fields())?,
                Some(_) => self.entry(text.fields())?,
            }
        }
        Ok(())
    }

    fn get(&self, var: u32, positive: bool) -> f64 {
        self.of.get(&(var, positive)).copied().unwrap_or(0.0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// How many variables a formula has with these weights.
    fn widened(&self, formula: &Formula) -> Result<u32> {
        match &self.largest {
            Some((var, e)) if *var >= formula.variables => {
                if formula.declares {
                    return Err(ImportError {
                        expected: format!("one of {} variables", formula.variables),
                        ..e.clone()
                    });
                }
                Ok(var.saturating_add(1))
            }
            _ => Ok(formula.variables),
        }
    }
}

/// Words of sets read for all nodes and edges together.
const MAX_WORK: usize = 1 << 30;

/// What a node of the formula became.
#[derive(Clone, Copy)]
enum Made {
    False,
    True,
    Node(NodeId, u32),
}

type Set = Box<[u64]>;

struct Compiler<'a> {
    path: &'a Path,
    b: Builder,
    weights: &'a Weights,
    sets: Vec<Set>,
    known: HashMap<Set, u32>,
    literals: HashMap<(u32, bool), NodeId>,
    gaps: HashMap<u32, NodeId>,
    words: usize,
}

impl Compiler<'_> {
    fn error(&self, origin: Origin, expected: &str, found: impl Into<String>) -> ImportError {
        let e = ImportError::new(self.path, expected, found);
        match origin.at {
            kiln_ir::circuit::At::Line(line) => e.at(format!("line {line}")),
            _ => e,
        }
    }

    fn built(&self, node: std::result::Result<NodeId, kiln_ir::circuit::BuildError>, o: Origin) -> Result<NodeId> {
        node.map_err(|e| self.error(o, &e.expected, e.found))
    }

    fn intern(&mut self, set: Set) -> Result<u32> {
        if let Some(id) = self.known.get(&set) {
            return Ok(*id);
        }
        self.words += set.len();
        if self.words > MAX_SET_WORDS {
            return Err(ImportError::new(self.path, "fewer different sets of variables", "too many to make it smooth"));
        }
        let id = self.sets.len() as u32;
        self.sets.push(set.clone());
        self.known.insert(set, id);
        Ok(id)
    }

    fn empty(&self) -> Set {
        vec![0; self.b.variables().len().div_ceil(64)].into()
    }

    fn union(&mut self, sets: impl Iterator<Item = u32>) -> Result<u32> {
        let mut all = self.empty();
        for id in sets {
            all.iter_mut().zip(&self.sets[id as usize]).for_each(|(a, b)| *a |= b);
        }
        self.intern(all)
    }

    fn literal(&mut self, var: u32, positive: bool, o: Origin) -> Result<NodeId> {
        if let Some(node) = self.literals.get(&(var, positive)) {
            return Ok(*node);
        }
        let d = Distribution::Indicator { value: u32::from(positive) };
        let node = self.b.input(var, d, o);
        let mut node = self.built(node, o)?;
        let weight = self.weights.get(var, positive);
        if weight != 0.0 {
            let weighted = self.b.sum(&[node], &[weight], o);
            node = self.built(weighted, o)?;
        }
        self.literals.insert((var, positive), node);
        Ok(node)
    }

    /// The product over the variables of a set that leaves each of them open; the set is not empty.
    fn gap(&mut self, set: u32, o: Origin) -> Result<NodeId> {
        if let Some(node) = self.gaps.get(&set) {
            return Ok(*node);
        }
        let mut factors = vec![];
        for (word, bits) in self.sets[set as usize].clone().iter().enumerate() {
            for bit in (0..64).filter(|bit| bits >> bit & 1 == 1) {
                let var = (word * 64 + bit) as u32;
                let both = [self.literal(var, false, o)?, self.literal(var, true, o)?];
                let sum = self.b.sum(&both, &[0.0, 0.0], o);
                factors.push(self.built(sum, o)?);
            }
        }
        let node = match factors[..] {
            [only] => only,
            _ => {
                let product = self.b.product(&factors, o);
                self.built(product, o)?
            }
        };
        self.gaps.insert(set, node);
        Ok(node)
    }

    /// The node with the variables of `all` that it lacks left open.
    fn filled(&mut self, made: Made, all: u32, o: Origin) -> Result<Option<NodeId>> {
        let (node, own) = match made {
            Made::False => return Ok(None),
            Made::True => (None, None),
            Made::Node(node, set) => (Some(node), Some(set)),
        };
        let mut missing = self.sets[all as usize].clone();
        if let Some(own) = own {
            missing.iter_mut().zip(&self.sets[own as usize]).for_each(|(a, b)| *a &= !b);
        }
        if missing.iter().all(|w| *w == 0) {
            return Ok(node);
        }
        let missing = self.intern(missing)?;
        let gap = self.gap(missing, o)?;
        match node {
            None => Ok(Some(gap)),
            Some(node) => {
                let product = self.b.product(&[node, gap], o);
                Ok(Some(self.built(product, o)?))
            }
        }
    }
}

/// The circuit of a formula; `path` is the file that errors name.
pub(super) fn compile(
    path: &Path,
    name: &str,
    mut formula: Formula,
    weights: &Weights,
    notes: &mut Vec<String>,
) -> Result<Circuit> {
    formula.variables = weights.widened(&formula)?;
    let words = formula.variables.div_ceil(64) as usize;
    if (formula.len() + formula.edges()).saturating_mul(words) > MAX_WORK {
        let found = format!("{} over {} variables", formula.len() + formula.edges(), formula.variables);
        return Err(ImportError::new(path, "fewer nodes and edges, to make them smooth", found));
    }
    let mut b = Builder::new(name, vec![]);
    if let Some(last) = formula.variables.checked_sub(1) {
        b.declare(last, Domain::Discrete(2)).map_err(|e| ImportError::new(path, e.expected, e.found))?;
        for var in 0..last {
            b.declare(var, Domain::Discrete(2)).map_err(|e| ImportError::new(path, e.expected, e.found))?;
        }
    }
    let mut c = Compiler {
        path,
        b,
        weights,
        sets: vec![],
        known: HashMap::new(),
        literals: HashMap::new(),
        gaps: HashMap::new(),
        words: 0,
    };
    let mut made: Vec<Made> = Vec::with_capacity(formula.len());
    for n in 0..formula.len() {
        let (kind, origin, _) = formula.nodes[n];
        let children: Vec<Made> = formula.children(n).iter().map(|c| made[*c as usize]).collect();
        let set_of = |m: &Made| if let Made::Node(_, set) = m { Some(*set) } else { None };
        made.push(match kind {
            Kind::True => Made::True,
            Kind::False => Made::False,
            Kind::Literal { var, positive } => {
                let node = c.literal(var, positive, origin)?;
                let mut set = c.empty();
                set[var as usize / 64] |= 1 << (var % 64);
                Made::Node(node, c.intern(set)?)
            }
            Kind::And if children.iter().any(|m| matches!(m, Made::False)) => Made::False,
            Kind::And => {
                let factors: Vec<NodeId> =
                    children.iter().filter_map(|m| if let Made::Node(n, _) = m { Some(*n) } else { None }).collect();
                let set = c.union(children.iter().filter_map(set_of))?;
                match factors[..] {
                    [] => Made::True,
                    [only] => Made::Node(only, set),
                    _ => {
                        let product = c.b.product(&factors, origin);
                        Made::Node(c.built(product, origin)?, set)
                    }
                }
            }
            Kind::Or => {
                let set = c.union(children.iter().filter_map(set_of))?;
                let trues = children.iter().filter(|m| matches!(m, Made::True)).count();
                let mut terms = vec![];
                for child in &children {
                    terms.extend(c.filled(*child, set, origin)?);
                }
                match terms[..] {
                    [] if trues == 1 => Made::True,
                    [] if trues > 1 => {
                        return Err(c.error(origin, "terms of a disjunction that exclude each other", "true twice"));
                    }
                    [] => Made::False,
                    [only] => Made::Node(only, set),
                    _ => {
                        let sum = c.b.sum(&terms, &vec![0.0; terms.len()], origin);
                        Made::Node(c.built(sum, origin)?, set)
                    }
                }
            }
        });
        if c.b.size() > nodes::MAX_SIZE {
            return Err(c.error(origin, "a circuit that is not much larger when made smooth", "a larger one"));
        }
    }
    let origin = formula.nodes.last().map(|n| n.1).unwrap_or_default();
    let mut all = c.empty();
    (0..formula.variables as usize).for_each(|v| all[v / 64] |= 1 << (v % 64));
    let all = c.intern(all)?;
    let root = match made.last() {
        None | Some(Made::False) => None,
        Some(last) => c.filled(*last, all, origin)?,
    };
    let Some(root) = root else {
        let found =
            if formula.variables == 0 { "one without variables" } else { "one without models, whose count is 0" };
        return Err(c.error(origin, "a formula with models", found));
    };
    if weights.is_empty() {
        notes.push("no weights of literals: models are counted, each with weight 1".into());
    }
    let (circuit, dropped) = c.b.finish(root);
    nodes::left_out(dropped + formula.unreached, notes);
    Ok(circuit)
}
