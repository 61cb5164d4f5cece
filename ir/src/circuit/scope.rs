//! Scopes: the variables below each node, shared between nodes that have the same.
//!
//! A set is a list of intervals over the variables in the order in which a walk from the root first meets them. Where
//! products split scopes as a tree does, that is one interval a set, so that scopes take memory in proportion to the
//! number of nodes. What would take much more, which no circuit of use does, is given up.

use super::{Circuit, Kind, NodeId};
use cranelift_entity::EntityRef;
use std::collections::HashMap;

/// Intervals of all sets together, and those read while joining them.
const MAX_INTERVALS: usize = 1 << 23;
const MAX_WORK: usize = 1 << 30;

type Set = Box<[(u32, u32)]>;

/// The scope of every node.
pub struct Scopes {
    /// By rank: the variable.
    order: Vec<u32>,
    sets: Vec<Set>,
    /// By node: its set.
    of: Vec<u32>,
    /// The products with children of which a variable is below two, and the nodes after which the walk gave up.
    pub overlapping: Vec<NodeId>,
}

/// Joins two sets; whether they share a variable.
fn join(a: &[(u32, u32)], b: &[(u32, u32)]) -> (Set, bool) {
    let mut out: Vec<(u32, u32)> = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j, mut shared) = (0, 0, false);
    while i < a.len() || j < b.len() {
        let next = if j == b.len() || (i < a.len() && a[i].0 <= b[j].0) {
            i += 1;
            a[i - 1]
        } else {
            j += 1;
            b[j - 1]
        };
        match out.last_mut() {
            Some(last) if next.0 <= last.1 => {
                shared |= next.0 < last.1;
                last.1 = last.1.max(next.1);
            }
            _ => out.push(next),
        }
    }
    (out.into(), shared)
}

impl Scopes {
    /// `None` when the scopes are too many and too irregular.
    pub fn of(c: &Circuit) -> Option<Scopes> {
        let order = order(c);
        let mut ranks = vec![0u32; c.variables.len()];
        order.iter().enumerate().for_each(|(rank, var)| ranks[*var as usize] = rank as u32);
        let mut s = Scopes { order, sets: vec![], of: Vec::with_capacity(c.len()), overlapping: vec![] };
        let mut known: HashMap<Set, u32> = HashMap::new();
        let mut joined: HashMap<(u32, u32), (u32, bool)> = HashMap::new();
        let (mut held, mut work) = (0, 0);
        for n in c.nodes() {
            if let Kind::Input { var, .. } = c.kind(n) {
                let rank = ranks[var as usize];
                let set = s.intern([(rank, rank + 1)].into(), &mut known, &mut held);
                s.of.push(set);
                continue;
            }
            let is_product = matches!(c.kind(n), Kind::Product(_));
            let mut children = c.children(n).iter().map(|child| s.of[child.index()]).collect::<Vec<_>>().into_iter();
            let mut all = children.next()?;
            let mut overlaps = false;
            for set in children {
                if set == all && !is_product {
                    continue;
                }
                let key = (all.min(set), all.max(set));
                let (union, shared) = match joined.get(&key) {
                    Some(known) => *known,
                    None => {
                        work += s.sets[all as usize].len() + s.sets[set as usize].len();
                        let (union, shared) = join(&s.sets[all as usize], &s.sets[set as usize]);
                        let id = s.intern(union, &mut known, &mut held);
                        joined.insert(key, (id, shared));
                        (id, shared)
                    }
                };
                overlaps |= shared;
                all = union;
                if held > MAX_INTERVALS || work > MAX_WORK {
                    return None;
                }
            }
            if overlaps && is_product {
                s.overlapping.push(n);
            }
            s.of.push(all);
        }
        Some(s)
    }

    fn intern(&mut self, set: Set, known: &mut HashMap<Set, u32>, held: &mut usize) -> u32 {
        if let Some(id) = known.get(&set) {
            return *id;
        }
        *held += set.len();
        let id = self.sets.len() as u32;
        self.sets.push(set.clone());
        known.insert(set, id);
        id
    }

    /// The number of the node's scope: equal ones have equal numbers.
    pub fn id(&self, n: NodeId) -> u32 {
        self.of[n.index()]
    }

    /// The variables of a node as intervals of ranks, rising; the variable of a rank is [`Scopes::variable`].
    pub fn intervals(&self, n: NodeId) -> &[(u32, u32)] {
        &self.sets[self.of[n.index()] as usize]
    }

    pub fn variable(&self, rank: u32) -> u32 {
        self.order[rank as usize]
    }

    /// The variables of a node, in no order.
    pub fn variables(&self, n: NodeId) -> impl Iterator<Item = u32> + '_ {
        self.intervals(n).iter().flat_map(|(from, to)| *from..*to).map(|rank| self.order[rank as usize])
    }
}

/// Variables in the order in which a walk from the root, left to right, meets them; then those that it does not meet.
pub(super) fn order(c: &Circuit) -> Vec<u32> {
    let (mut seen, mut met) = (vec![false; c.len()], vec![false; c.variables.len()]);
    let mut order = vec![];
    let mut stack = vec![c.root()];
    while let Some(n) = stack.pop() {
        if std::mem::replace(&mut seen[n.index()], true) {
            continue;
        }
        if let Kind::Input { var, .. } = c.kind(n)
            && !std::mem::replace(&mut met[var as usize], true)
        {
            order.push(var);
        }
        stack.extend(c.children(n).iter().rev().filter(|child| !seen[child.index()]));
    }
    order.extend((0..met.len() as u32).filter(|v| !met[*v as usize]));
    order
}
