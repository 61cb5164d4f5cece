//! The shape of a circuit: levels, and the groups of sums that share their children.

use super::{Circuit, Kind, NodeId};
use cranelift_entity::EntityRef;
use std::ops::Range;

/// Consecutive sums with the same children: a matrix of weights.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// Numbers of nodes.
    pub sums: Range<u32>,
}

impl Circuit {
    /// The level of each node: 0 for inputs, else one above the highest child.
    pub fn levels(&self) -> Vec<u32> {
        let mut levels: Vec<u32> = Vec::with_capacity(self.len());
        for n in self.nodes() {
            levels.push(self.children(n).iter().map(|c| levels[c.index()] + 1).max().unwrap_or(0));
        }
        levels
    }

    /// The smallest variable below each node.
    pub fn min_vars(&self) -> Vec<u32> {
        let mut vars: Vec<u32> = Vec::with_capacity(self.len());
        for n in self.nodes() {
            vars.push(match self.kind(n) {
                Kind::Input { var, .. } => var,
                Kind::Product(_) | Kind::Sum(..) => {
                    self.children(n).iter().map(|c| vars[c.index()]).min().unwrap_or(u32::MAX)
                }
            });
        }
        vars
    }

    /// The longest runs, of at least two, of consecutive sums with equal lists of at least two children.
    pub fn dense_blocks(&self) -> Vec<Block> {
        let is_sum = |n: u32| {
            let n = NodeId::new(n as usize);
            matches!(self.kind(n), Kind::Sum(c, _) if c.len() > 1)
        };
        let children = |n: u32| self.children(NodeId::new(n as usize));
        let mut blocks = vec![];
        let mut n = 0;
        while n < self.len() as u32 {
            let mut end = n + 1;
            while is_sum(n) && end < self.len() as u32 && is_sum(end) && children(end) == children(n) {
                end += 1;
            }
            if end - n > 1 {
                blocks.push(Block { sums: n..end });
            }
            n = end;
        }
        blocks
    }
}
