//! The order in which nodes are computed: a batch of nodes that do not depend on each other at a time, batches of one
//! scope together, so that what one part of the variables needs is forgotten before the next begins.

use super::graph::{Graph, Node};
use std::collections::HashMap;

pub(super) struct Order {
    /// Of each node; children that are not fused have smaller ones.
    pub batch: Vec<u32>,
    pub batches: u32,
    /// Products that are computed within the one sum that uses them, and tables within the one product.
    pub fused: Vec<bool>,
    /// Of each product of such tables: a number of its variables.
    pub joint: Vec<Option<u32>>,
    /// Of each sum that shares its children with others: the first of them.
    pub block: Vec<Option<u32>>,
}

/// Sums that share at least this many children, and at least as many of them, are a dense block.
const DENSE: usize = 4;

impl Order {
    /// With `dense`, sums that share their children are put together.
    pub(super) fn of(g: &Graph, dense: bool) -> Order {
        Order::with(g, dense, &groups(g))
    }

    /// Few batches, as large as can be, for those who compute all nodes of one at the same time.
    pub(super) fn by_level(g: &Graph, dense: bool) -> Order {
        Order::with(g, dense, &vec![0; g.nodes.len()])
    }

    fn with(g: &Graph, dense: bool, groups: &[u32]) -> Order {
        let block = if dense { blocks(g) } else { vec![None; g.nodes.len()] };
        let mut fused = fused(g, &block);
        let joint = if dense { joint(g, &mut fused) } else { vec![None; g.nodes.len()] };
        let mut keys = keys(g, &fused, groups);
        let rises = |keys: &[(u32, u32)]| {
            (0..g.nodes.len() as u32).all(|n| {
                let own = keys[n as usize];
                g.children(n).iter().all(|c| keys[*c as usize] < own || fused[*c as usize] && keys[*c as usize] == own)
            })
        };
        if !rises(&keys) {
            keys = self::keys(g, &fused, &vec![0; g.nodes.len()]);
        }
        let mut all = keys.clone();
        all.sort_unstable();
        all.dedup();
        let number: HashMap<(u32, u32), u32> = all.iter().enumerate().map(|(i, k)| (*k, i as u32)).collect();
        let batch = keys.iter().map(|k| number[k]).collect();
        Order { batch, batches: all.len() as u32, fused, joint, block }
    }
}

/// `(group, level in the group)` of each node.
fn keys(g: &Graph, fused: &[bool], groups: &[u32]) -> Vec<(u32, u32)> {
    let mut keys: Vec<(u32, u32)> = Vec::with_capacity(g.nodes.len());
    for n in 0..g.nodes.len() as u32 {
        let group = groups[n as usize];
        let near = g.children(n).iter().filter(|c| groups[**c as usize] == group);
        let level = near.map(|c| keys[*c as usize].1 + u32::from(!fused[*c as usize])).max().unwrap_or(0);
        keys.push((group, level));
    }
    keys
}

fn blocks(g: &Graph) -> Vec<Option<u32>> {
    let mut members: HashMap<&[u32], Vec<u32>> = HashMap::new();
    for n in 0..g.nodes.len() as u32 {
        if matches!(g.nodes[n as usize], Node::Sum { .. }) && g.children(n).len() >= DENSE {
            members.entry(g.children(n)).or_default().push(n);
        }
    }
    let mut block = vec![None; g.nodes.len()];
    for sums in members.into_values().filter(|s| s.len() >= DENSE) {
        sums.iter().for_each(|n| block[*n as usize] = Some(sums[0]));
    }
    block
}

fn fused(g: &Graph, block: &[Option<u32>]) -> Vec<bool> {
    // Users, and whether all are sums that may hold products.
    let mut users = vec![0u32; g.nodes.len()];
    users[g.root as usize] = 2;
    for n in 0..g.nodes.len() as u32 {
        let holds = matches!(g.nodes[n as usize], Node::Sum { .. }) && block[n as usize].is_none();
        g.children(n).iter().for_each(|c| users[*c as usize] += if holds { 1 } else { 2 });
    }
    let pair = |n: usize| matches!(g.nodes[n], Node::Product { count: 2, .. });
    (0..g.nodes.len()).map(|n| pair(n) && users[n] == 1).collect()
}

/// Products of tables that nothing else uses, which become fused.
fn joint(g: &Graph, fused: &mut [bool]) -> Vec<Option<u32>> {
    let mut users = vec![0u32; g.nodes.len()];
    users[g.root as usize] = 1;
    (0..g.nodes.len() as u32).flat_map(|n| g.children(n)).for_each(|c| users[*c as usize] += 1);
    let table = |c: &u32| matches!(g.nodes[*c as usize], Node::Lookup { .. }) && users[*c as usize] == 1;
    let mut joint = vec![None; g.nodes.len()];
    let mut numbers: HashMap<Vec<Option<u32>>, u32> = HashMap::new();
    for n in 0..g.nodes.len() as u32 {
        let children = g.children(n);
        let product = matches!(g.nodes[n as usize], Node::Product { .. }) && !fused[n as usize];
        if !product || children.is_empty() || !children.iter().all(table) {
            continue;
        }
        let mut variables: Vec<Option<u32>> = children.iter().map(|c| g.variable(*c)).collect();
        variables.sort_unstable();
        let next = numbers.len() as u32;
        joint[n as usize] = Some(*numbers.entry(variables).or_insert(next));
        children.iter().for_each(|c| fused[*c as usize] = true);
    }
    joint
}

/// Numbers of the nodes' scopes, in an order in which a walk from the root leaves them for the last time.
fn groups(g: &Graph) -> Vec<u32> {
    // A sum of words drawn for each variable stands for a scope; a mistake costs the order its use only.
    let word = |seed: u64| {
        let z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut scopes: Vec<u64> = Vec::with_capacity(g.nodes.len());
    let mut number: HashMap<u64, u32> = HashMap::new();
    let mut group = Vec::with_capacity(g.nodes.len());
    for n in 0..g.nodes.len() as u32 {
        let of = |c: &u32| scopes[*c as usize];
        let children = g.children(n);
        let scope = match g.nodes[n as usize] {
            Node::Product { .. } => children.iter().map(of).fold(0, u64::wrapping_add),
            Node::Sum { .. } => of(&children[0]),
            _ => g.variable(n).map_or(0, |v| word(u64::from(v))),
        };
        scopes.push(scope);
        let next = number.len() as u32;
        group.push(*number.entry(scope).or_insert(next));
    }
    let mut inner: Vec<Vec<u32>> = vec![vec![]; number.len()];
    let mut size = vec![0u32; number.len()];
    for n in 0..g.nodes.len() as u32 {
        let own = group[n as usize];
        size[own as usize] += 1;
        let others = g.children(n).iter().map(|c| group[*c as usize]).filter(|c| *c != own);
        let last = inner[own as usize].last().copied();
        inner[own as usize].extend(others.filter(|c| Some(*c) != last));
    }
    for list in &mut inner {
        list.sort_unstable();
        list.dedup();
        // Where much remains is gone to first.
        list.sort_by_key(|c| std::cmp::Reverse(size[*c as usize]));
    }
    let (mut rank, mut next) = (vec![u32::MAX; number.len()], 0);
    let start = group[g.root as usize];
    let mut seen = vec![false; number.len()];
    seen[start as usize] = true;
    let mut stack = vec![(start, 0usize)];
    while let Some((at, child)) = stack.pop() {
        if let Some(inside) = inner[at as usize].get(child).copied() {
            stack.push((at, child + 1));
            if !std::mem::replace(&mut seen[inside as usize], true) {
                stack.push((inside, 0));
            }
        } else {
            rank[at as usize] = next;
            next += 1;
        }
    }
    group.iter().map(|n| rank[*n as usize]).collect()
}
