//! Vtrees: binary trees whose leaves are variables, which say how products split their scopes.

/// A node of a vtree; children are numbers of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VtreeNode {
    Leaf { var: u32 },
    Inner { left: u32, right: u32 },
}

/// A vtree: children stand before their parents, the root is the last node, every other node has one parent and every
/// variable at most one leaf.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vtree {
    nodes: Vec<VtreeNode>,
    parents: Vec<u32>,
    /// An ancestor far up, for walks in logarithmic time.
    jumps: Vec<u32>,
    /// The leaves below a node, as positions in `order`.
    intervals: Vec<(u32, u32)>,
    order: Vec<u32>,
    /// By variable: its leaf, or `NONE`.
    leaves: Vec<u32>,
}

const NONE: u32 = u32::MAX;

impl Vtree {
    /// # Errors
    /// What is wrong with the nodes.
    pub fn new(nodes: Vec<VtreeNode>) -> Result<Vtree, String> {
        let count = nodes.len();
        if count == 0 || count >= NONE as usize {
            return Err(format!("a vtree of {count} nodes"));
        }
        let root = count as u32 - 1;
        let mut parents = vec![NONE; count];
        let mut leaves: Vec<u32> = vec![];
        for (n, node) in nodes.iter().enumerate() {
            match node {
                VtreeNode::Leaf { var } => {
                    if *var >= super::MAX_VARIABLES {
                        return Err(format!("variable {var} is beyond the largest, {}", super::MAX_VARIABLES - 1));
                    }
                    if *var as usize >= leaves.len() {
                        leaves.resize(*var as usize + 1, NONE);
                    }
                    if leaves[*var as usize] != NONE {
                        return Err(format!("variable {var} has two leaves"));
                    }
                    leaves[*var as usize] = n as u32;
                }
                VtreeNode::Inner { left, right } => {
                    for child in [left, right] {
                        let Some(parent) = parents[..n].get_mut(*child as usize) else {
                            return Err(format!("v{n} stands before its child v{child}"));
                        };
                        if *parent != NONE {
                            return Err(format!("v{child} has two parents"));
                        }
                        *parent = n as u32;
                    }
                }
            }
        }
        if let Some(n) = parents[..count - 1].iter().position(|p| *p == NONE) {
            return Err(format!("v{n} has no parent and is not the last node"));
        }
        parents[count - 1] = root;
        let mut v =
            Vtree { nodes, parents, jumps: vec![root; count], intervals: vec![(0, 0); count], order: vec![], leaves };
        v.measure();
        Ok(v)
    }

    fn measure(&mut self) {
        let mut depths = vec![0u32; self.nodes.len()];
        for n in (0..self.nodes.len() - 1).rev() {
            let p = self.parents[n] as usize;
            depths[n] = depths[p] + 1;
            // A jump spans two jumps of the parent where those are equally long.
            let (j, jj) = (self.jumps[p] as usize, self.jumps[self.jumps[p] as usize] as usize);
            let equal = depths[p] - depths[j] == depths[j] - depths[jj];
            self.jumps[n] = if equal { jj as u32 } else { p as u32 };
        }
        for n in 0..self.nodes.len() {
            self.intervals[n].1 = match self.nodes[n] {
                VtreeNode::Leaf { .. } => 1,
                VtreeNode::Inner { left, right } => self.intervals[left as usize].1 + self.intervals[right as usize].1,
            };
        }
        // Until here an interval is (0, number of leaves); from the root downwards it gets its beginning.
        for n in (0..self.nodes.len()).rev() {
            let (low, count) = self.intervals[n];
            if let VtreeNode::Inner { left, right } = self.nodes[n] {
                self.intervals[left as usize].0 = low;
                self.intervals[right as usize].0 = low + self.intervals[left as usize].1;
            }
            self.intervals[n] = (low, low + count);
        }
        self.order = vec![0; self.intervals[self.nodes.len() - 1].1 as usize];
        for (n, node) in self.nodes.iter().enumerate() {
            if let VtreeNode::Leaf { var } = node {
                self.order[self.intervals[n].0 as usize] = *var;
            }
        }
    }

    pub fn nodes(&self) -> &[VtreeNode] {
        &self.nodes
    }

    pub fn root(&self) -> u32 {
        self.nodes.len() as u32 - 1
    }

    /// The parent; of the root the root itself.
    pub fn parent(&self, n: u32) -> u32 {
        self.parents[n as usize]
    }

    /// The leaves below a node: from a position in [`Vtree::order`] up to, but without, another.
    pub fn interval(&self, n: u32) -> (u32, u32) {
        self.intervals[n as usize]
    }

    /// The variables from left to right.
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// The leaf of a variable.
    pub fn leaf(&self, var: u32) -> Option<u32> {
        self.leaves.get(var as usize).copied().filter(|n| *n != NONE)
    }

    /// The position of a variable in [`Vtree::order`].
    pub fn position(&self, var: u32) -> Option<u32> {
        self.leaf(var).map(|n| self.interval(n).0)
    }

    /// Whether `n` is `below` or an ancestor of it.
    pub fn covers(&self, n: u32, below: u32) -> bool {
        let ((a, b), (c, d)) = (self.interval(n), self.interval(below));
        a <= c && d <= b
    }

    /// The lowest node that covers both.
    pub fn common(&self, a: u32, b: u32) -> u32 {
        let mut at = a;
        while !self.covers(at, b) {
            let jump = self.jumps[at as usize];
            at = if self.covers(jump, b) { self.parent(at) } else { jump };
        }
        at
    }
}
