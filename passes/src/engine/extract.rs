//! Choosing one term for each class so that the whole costs least, values that are shared being paid once.
//!
//! Greedy on sets: the cost of a term is that of the set of classes below it. A choice that looks good at its class may
//! still compute what others need in another form anyway, so each is then tried against its alternatives by the cost of
//! the whole. Terms of the program as it stood win ties, so that nothing changes without a gain. The exact problem is
//! NP-hard (Willsey et al., "egg", 2021).

use super::language::{Graph, Head, Term};
use crate::cost;
use egg::Id;
use kiln_ir::Target;
use petgraph::{algo::is_cyclic_directed, graphmap::DiGraphMap, visit::DfsPostOrder};
use std::collections::{HashMap, HashSet};

/// Sweeps over all classes; each makes costs fall, and few are needed as children come before parents.
const SWEEPS: usize = 32;

/// One way to compute a class.
struct Candidate {
    term: Term,
    children: Vec<usize>,
    cost: u64,
    /// Whether the program as it stood computed it so.
    original: bool,
}

/// The classes by position, with their candidates, those of the program first.
struct Space {
    classes: Vec<Id>,
    candidates: Vec<Vec<Candidate>>,
}

impl Space {
    fn new(graph: &Graph, target: &Target, original: &HashSet<Term>) -> Space {
        let mut classes: Vec<Id> = graph.classes().map(|c| c.id).collect();
        classes.sort();
        let index: HashMap<Id, usize> = classes.iter().enumerate().map(|(i, c)| (*c, i)).collect();
        let of_class = |class: &Id| {
            let mut terms: Vec<&Term> = graph[*class].nodes.iter().collect();
            terms.sort_by_key(|t| (!original.contains(*t), *t));
            let candidate = |term: &Term| Candidate {
                term: term.clone(),
                children: term.children.iter().map(|c| index[&graph.find(*c)]).collect(),
                cost: own_cost(graph, target, *class, term),
                original: original.contains(term),
            };
            terms.into_iter().map(candidate).collect()
        };
        Space { candidates: classes.iter().map(of_class).collect(), classes }
    }

    /// For each class its candidate of least cost, by the sets of classes below; `None` where only cycles lead.
    fn greedy(&self) -> Vec<Option<usize>> {
        let words = self.classes.len().div_ceil(64);
        let mut own = vec![0u64; self.classes.len()];
        let mut best: Vec<Option<(Vec<u64>, u64, usize)>> = self.classes.iter().map(|_| None).collect();
        for _ in 0..SWEEPS {
            let mut changed = false;
            for (at, candidates) in self.candidates.iter().enumerate() {
                'candidates: for (which, candidate) in candidates.iter().enumerate() {
                    let mut below = vec![0u64; words];
                    for child in &candidate.children {
                        let Some((set, ..)) = &best[*child] else { continue 'candidates };
                        below.iter_mut().zip(set).for_each(|(a, b)| *a |= b);
                    }
                    if below[at / 64] >> (at % 64) & 1 == 1 {
                        continue;
                    }
                    let total = ones(&below).fold(candidate.cost, |sum, c| sum.saturating_add(own[c]));
                    if best[at].as_ref().is_none_or(|(_, known, _)| total < *known) {
                        below[at / 64] |= 1 << (at % 64);
                        own[at] = candidate.cost;
                        best[at] = Some((below, total, which));
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        best.into_iter().map(|b| b.map(|(.., which)| which)).collect()
    }
}

/// A choice for every class, with the number of chosen users of each; what has none costs nothing.
struct Choice<'a> {
    space: &'a Space,
    chosen: Vec<Option<usize>>,
    users: Vec<usize>,
}

impl Choice<'_> {
    fn candidate(&self, at: usize) -> Option<&Candidate> {
        self.chosen[at].map(|which| &self.space.candidates[at][which])
    }

    /// Adds a user; returns what that adds to the cost of the whole.
    fn acquire(&mut self, at: usize) -> u64 {
        let (mut cost, mut left) = (0u64, vec![at]);
        while let Some(at) = left.pop() {
            self.users[at] += 1;
            if self.users[at] == 1
                && let Some(c) = self.candidate(at)
            {
                cost = cost.saturating_add(c.cost);
                left.extend(&c.children);
            }
        }
        cost
    }

    /// Takes a user away; returns by how much the whole becomes cheaper.
    fn release(&mut self, at: usize) -> u64 {
        let (mut cost, mut left) = (0u64, vec![at]);
        while let Some(at) = left.pop() {
            self.users[at] -= 1;
            if self.users[at] == 0
                && let Some(c) = self.candidate(at)
            {
                cost = cost.saturating_add(c.cost);
                left.extend(&c.children);
            }
        }
        cost
    }

    /// Whether the chosen terms of `from` lead to `to`.
    fn reaches(&self, from: &[usize], to: usize) -> bool {
        let (mut seen, mut left) = (HashSet::new(), from.to_vec());
        while let Some(at) = left.pop() {
            if at == to {
                return true;
            }
            if seen.insert(at)
                && let Some(c) = self.candidate(at)
            {
                left.extend(&c.children);
            }
        }
        false
    }

    /// Takes another candidate for a class in use if that makes the whole cheaper, or keeps its cost and is original.
    fn try_switch(&mut self, at: usize, which: usize) -> bool {
        let space = self.space;
        let Some(current) = self.chosen[at].filter(|c| *c != which && self.users[at] > 0) else { return false };
        let (now, then) = (&space.candidates[at][current], &space.candidates[at][which]);
        // A cycle must be seen before users are counted along it.
        if then.children.iter().any(|c| self.chosen[*c].is_none()) || self.reaches(&then.children, at) {
            return false;
        }
        let added = then.children.iter().fold(then.cost, |sum, c| sum.saturating_add(self.acquire(*c)));
        let saved = now.children.iter().fold(now.cost, |sum, c| sum.saturating_add(self.release(*c)));
        let better = added < saved || (added == saved && then.original && !now.original);
        if better {
            self.chosen[at] = Some(which);
        } else {
            for c in &now.children {
                self.acquire(*c);
            }
            for c in &then.children {
                self.release(*c);
            }
        }
        better
    }

    /// Tries alternatives of what is not original, in this order, until none helps.
    fn improve(&mut self, order: &[usize]) {
        let space = self.space;
        for _ in 0..SWEEPS {
            let mut changed = false;
            for at in order.iter().copied() {
                if space.candidates[at].len() > 1 && self.candidate(at).is_some_and(|c| !c.original) {
                    for which in 0..space.candidates[at].len() {
                        changed |= self.try_switch(at, which);
                    }
                }
            }
            if !changed {
                break;
            }
        }
    }
}

/// The chosen term of every class. Choices of single classes may form a cycle in rare cases; [`order`] finds it.
pub(super) fn choose(graph: &Graph, target: &Target, original: &HashSet<Term>, roots: &[Id]) -> HashMap<Id, Term> {
    let space = Space::new(graph, target, original);
    let mut choice = Choice { chosen: space.greedy(), users: vec![0; space.classes.len()], space: &space };
    let chosen = |choice: &Choice<'_>| -> HashMap<Id, Term> {
        let terms = space.classes.iter().enumerate();
        terms.filter_map(|(at, class)| Some((*class, choice.candidate(at)?.term.clone()))).collect()
    };
    // Users can only be counted where there is no cycle.
    if let Some(order) = order(graph, &chosen(&choice), roots) {
        let positions = |ids: &[Id]| -> Vec<usize> {
            ids.iter().filter_map(|c| space.classes.binary_search(&graph.find(*c)).ok()).collect()
        };
        for root in positions(roots) {
            choice.acquire(root);
        }
        // Operands first: whether a user gains depends on what its operands have become.
        choice.improve(&positions(&order));
    }
    chosen(&choice)
}

fn ones(bits: &[u64]) -> impl Iterator<Item = usize> + '_ {
    bits.iter().enumerate().flat_map(|(w, bits)| {
        let mut left = *bits;
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(w * 64 + bit)
        })
    })
}

fn own_cost(graph: &Graph, target: &Target, class: Id, term: &Term) -> u64 {
    let Head::Op(op, attrs) = &term.head else { return 0 };
    let operands = term.children.iter().map(|c| graph[*c].data.ty.clone()).collect();
    match &graph[class].data.ty {
        Some(ty) => {
            cost::op_cycles(target, &graph.analysis.symbols, *op, operands, attrs, ty, graph[class].data.weight_time)
        }
        None => 0,
    }
}

/// The classes that the roots need, operands first; `None` when the choices form a cycle.
pub(super) fn order(graph: &Graph, chosen: &HashMap<Id, Term>, roots: &[Id]) -> Option<Vec<Id>> {
    let mut needs = DiGraphMap::<Id, ()>::new();
    let mut left: Vec<Id> = roots.iter().map(|r| graph.find(*r)).collect();
    while let Some(class) = left.pop() {
        if needs.contains_node(class) && needs.neighbors(class).next().is_some() {
            continue;
        }
        needs.add_node(class);
        // The walk takes the edge that was added last first.
        for child in chosen.get(&class)?.children.iter().rev().map(|c| graph.find(*c)) {
            needs.add_edge(class, child, ());
            left.push(child);
        }
    }
    if is_cyclic_directed(&needs) {
        return None;
    }
    let (mut walk, mut order) = (DfsPostOrder::empty(&needs), vec![]);
    for root in roots {
        walk.move_to(graph.find(*root));
        order.extend(std::iter::from_fn(|| walk.next(&needs)));
    }
    Some(order)
}
