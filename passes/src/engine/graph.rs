//! A region as an e-graph, and the chosen terms back as a region.
//!
//! A node whose class chose another term keeps its value, its label and its source and becomes that term in place, so
//! that the text changes only where the program does.

use super::{
    extract,
    language::{Facts, Graph, Head, Known, Term},
};
use crate::analysis;
use egg::Id;
use kiln_ir::{Def, Module, Node, Op, Region, Value, attr::Attrs};
use std::collections::{HashMap, HashSet};

/// A region's nodes as terms.
pub(super) struct Import {
    pub(super) graph: Graph,
    class_of: HashMap<Value, Id>,
    /// The nodes that became terms, in order, with their classes.
    pub(super) owners: Vec<(Node, Id)>,
    /// Values that must stay computable: results and operands of what did not become a term.
    pub(super) roots: Vec<Id>,
    /// Classes that a rule made, with the nodes in whose place it did.
    pub(super) made_for: Vec<(Id, Vec<Node>)>,
}

/// What a circuit says of a query's type stands in the module, which terms do not see.
fn is_term(m: &Module, node: Node) -> bool {
    let data = &m.nodes[node];
    analysis::is_pure(m, node) && data.results.len() == 1 && data.op != Op::CircuitQuery
}

impl Import {
    pub(super) fn new(m: &Module, region: Region, weight_time: &HashSet<Value>) -> Import {
        let facts = Facts { symbols: m.symbols.clone(), leaves: HashMap::new() };
        let graph = Graph::new(facts);
        let mut it = Import { graph, class_of: HashMap::new(), owners: vec![], roots: vec![], made_for: vec![] };
        for node in &m.regions[region].nodes {
            let data = &m.nodes[*node];
            if is_term(m, *node) {
                let term = it.term(m, *node, weight_time);
                let class = it.graph.add(term);
                it.class_of.insert(data.result(), class);
                it.owners.push((*node, class));
            } else {
                for v in analysis::uses_of(m, *node) {
                    let class = it.class(m, v, weight_time);
                    it.roots.push(class);
                }
            }
        }
        for v in &m.regions[region].results {
            let class = it.class(m, *v, weight_time);
            it.roots.push(class);
        }
        it.graph.rebuild();
        it
    }

    fn class(&mut self, m: &Module, value: Value, weight_time: &HashSet<Value>) -> Id {
        if let Some(known) = self.class_of.get(&value) {
            return *known;
        }
        let head = match m.values[value].def {
            Def::Const(c) if m.ty(value).rank() == 0 => Head::Number(m.ty(value).elem, m.consts[c].data[0]),
            _ => {
                let weight_time = weight_time.contains(&value);
                let known = Known { ty: Some(m.ty(value).clone()), number: None, weight_time };
                self.graph.analysis.leaves.insert(value, known);
                Head::Leaf(value)
            }
        };
        let class = self.graph.add(Term::leaf(head));
        self.class_of.insert(value, class);
        class
    }

    fn term(&mut self, m: &Module, node: Node, weight_time: &HashSet<Value>) -> Term {
        let data = &m.nodes[node];
        let children = data
            .operands
            .iter()
            .map(|v| match v {
                Some(v) => self.class(m, *v, weight_time),
                None => self.graph.add(Term::leaf(Head::Absent)),
            })
            .collect();
        Term { head: Head::Op(data.op, data.attrs.clone()), children }
    }

    /// The term that the node was, under the classes as they are now.
    pub(super) fn original(&mut self, m: &Module, node: Node) -> Term {
        let term = self.term(m, node, &HashSet::new());
        self.canonical(term)
    }

    pub(super) fn canonical(&self, mut term: Term) -> Term {
        term.children.iter_mut().for_each(|c| *c = self.graph.find(*c));
        term
    }

    /// For each class, the nodes of the program as it stood that use it, as the classes of their results; what is
    /// outside of the graph counts as a node of its own.
    pub(super) fn consumers(&self, m: &Module) -> HashMap<Id, HashSet<usize>> {
        let mut found: HashMap<Id, HashSet<usize>> = HashMap::new();
        for (node, class) in &self.owners {
            for v in m.nodes[*node].inputs() {
                let user = self.graph.find(*class).into();
                found.entry(self.graph.find(self.class_of[&v])).or_default().insert(user);
            }
        }
        for (n, root) in self.roots.iter().enumerate() {
            found.entry(self.graph.find(*root)).or_default().insert(usize::MAX - n);
        }
        found
    }

    /// The nodes of the program as it stood that compute the class.
    pub(super) fn owners_of(&self, class: Id) -> Vec<Node> {
        let class = self.graph.find(class);
        self.owners.iter().filter(|(_, c)| self.graph.find(*c) == class).map(|(n, _)| *n).collect()
    }
}

impl Import {
    /// The nodes of the program in whose place the class stands: its own, or those of the rule that made it.
    pub(super) fn origin_of(&self, class: Id) -> Vec<Node> {
        let own = self.owners_of(class);
        if !own.is_empty() {
            return own;
        }
        let class = self.graph.find(class);
        self.made_for.iter().find(|(c, _)| self.graph.find(*c) == class).map(|(_, n)| n.clone()).unwrap_or_default()
    }
}

/// The chosen terms of a region, ready to be written into the module.
pub(super) struct Export {
    pub(super) chosen: HashMap<Id, Term>,
    /// Classes that are needed, operands first.
    pub(super) order: Vec<Id>,
    /// The node that becomes the term of a class.
    owner: HashMap<Id, Node>,
    /// Nodes that go away or become something else.
    pub(super) replaced: HashSet<Node>,
}

impl Export {
    /// `None` when the choices cannot be put into an order.
    pub(super) fn new(it: &mut Import, m: &Module, target: &kiln_ir::Target) -> Option<Export> {
        let originals: Vec<Term> = it.owners.clone().iter().map(|(node, _)| it.original(m, *node)).collect();
        let chosen = extract::choose(&it.graph, target, &originals.iter().cloned().collect(), &it.roots);
        let order = extract::order(&it.graph, &chosen, &it.roots)?;
        let needed: HashSet<Id> = order.iter().copied().collect();
        let mut owner = HashMap::new();
        let mut replaced = HashSet::new();
        for ((node, class), original) in it.owners.iter().zip(&originals) {
            let class = it.graph.find(*class);
            let first = *owner.entry(class).or_insert(*node) == *node;
            if !first || !needed.contains(&class) || chosen[&class] != *original {
                replaced.insert(*node);
            }
        }
        Some(Export { chosen, order, owner, replaced })
    }

    /// Writes the chosen terms into the module. Returns the nodes that are new or have changed, with their classes.
    pub(super) fn write(
        &self,
        it: &Import,
        m: &mut Module,
        region: Region,
        source_of: &dyn Fn(Id) -> Option<String>,
    ) -> Result<Vec<(Node, Id)>, kiln_ir::Violation> {
        let needed: HashSet<Id> = self.order.iter().copied().collect();
        let mut w = Writer { export: self, it, list: vec![], done: HashMap::new(), fresh: vec![], source_of };
        for node in std::mem::take(&mut m.regions[region].nodes) {
            if is_term(m, node) {
                let class = it.graph.find(it.class_of[&m.nodes[node].result()]);
                if needed.contains(&class) && self.owner[&class] == node {
                    w.emit(m, class)?;
                }
            } else {
                for v in analysis::uses_of(m, node) {
                    if let Some(class) = it.class_of.get(&v) {
                        w.emit(m, it.graph.find(*class))?;
                    }
                }
                w.list.push(node);
            }
        }
        for root in &it.roots {
            w.emit(m, it.graph.find(*root))?;
        }
        let renamed: HashMap<Value, Value> = it
            .class_of
            .iter()
            .filter_map(|(v, class)| Some((*v, *w.done.get(&it.graph.find(*class))?)).filter(|(v, to)| v != to))
            .collect();
        let fresh = w.fresh;
        m.regions[region].nodes = w.list;
        m.replace_uses(&renamed);
        Ok(fresh)
    }
}

struct Writer<'a> {
    export: &'a Export,
    it: &'a Import,
    list: Vec<Node>,
    done: HashMap<Id, Value>,
    fresh: Vec<(Node, Id)>,
    source_of: &'a dyn Fn(Id) -> Option<String>,
}

impl Writer<'_> {
    /// The value of a class, computed before what is added to the list next.
    fn emit(&mut self, m: &mut Module, class: Id) -> Result<Value, kiln_ir::Violation> {
        if let Some(value) = self.done.get(&class) {
            return Ok(*value);
        }
        let term = self.export.chosen[&class].clone();
        let value = match &term.head {
            Head::Leaf(value) => *value,
            Head::Number(elem, literal) => m.scalar(*elem, *literal),
            Head::Absent => return Err(kiln_ir::Violation::new("signature", "an absent operand has no value")),
            Head::Op(op, attrs) => {
                let mut operands = vec![];
                for child in &term.children {
                    let child = self.it.graph.find(*child);
                    let absent = self.it.graph[child].data.ty.is_none();
                    operands.push(if absent { None } else { Some(self.emit(m, child)?) });
                }
                self.node(m, class, *op, operands, attrs.clone())?
            }
        };
        self.done.insert(class, value);
        Ok(value)
    }

    fn node(
        &mut self,
        m: &mut Module,
        class: Id,
        op: Op,
        operands: Vec<Option<Value>>,
        attrs: Attrs,
    ) -> Result<Value, kiln_ir::Violation> {
        let node = match self.export.owner.get(&class) {
            Some(node) => {
                let data = &mut m.nodes[*node];
                (data.op, data.operands, data.attrs) = (op, operands, attrs);
                *node
            }
            None => m.create_node(op, operands, attrs, vec![], (self.source_of)(class))?,
        };
        if !self.export.owner.contains_key(&class) || self.export.replaced.contains(&node) {
            self.fresh.push((node, class));
        }
        self.list.push(node);
        Ok(m.nodes[node].result())
    }
}
