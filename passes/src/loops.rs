//! Loops as passes see them: which operand, argument, yielded value and result belong together.

use crate::cost;
use kiln_ir::{Def, Module, Node, Op, Region, Type, Value};
use std::collections::HashSet;

/// A `for`, `while` or `scan`.
pub(crate) struct Loop {
    pub(crate) node: Node,
    /// The region that holds it.
    pub(crate) around: Region,
    pub(crate) body: Region,
    pub(crate) condition: Option<Region>,
    /// The operand that is the first input, or without inputs the first carried value.
    first: usize,
    /// How many operands the body takes slices of.
    pub(crate) inputs: usize,
    /// Arguments of the body in front of those.
    extra: usize,
}

impl Loop {
    fn of(m: &Module, around: Region, node: Node) -> Option<Loop> {
        let data = &m.nodes[node];
        let (first, inputs, extra) = match data.op {
            Op::Scan => (1, usize::try_from(data.attrs.int("inputs").unwrap_or(0)).unwrap_or(0), 0),
            Op::While => (0, 0, 0),
            Op::For => (1, 0, 1),
            _ => return None,
        };
        let condition = (data.op == Op::While).then(|| data.regions[0]);
        Some(Loop { node, around, body: *data.regions.last()?, condition, first, inputs, extra })
    }

    /// Every loop, inner before outer.
    pub(crate) fn all(m: &Module) -> Vec<Loop> {
        let regions = m.live_regions();
        let of = |r: &Region| m.regions[*r].nodes.iter().filter_map(|n| Loop::of(m, *r, *n)).collect::<Vec<_>>();
        regions.iter().rev().flat_map(of).collect()
    }

    /// The regions that run again and again.
    pub(crate) fn regions(&self) -> impl Iterator<Item = Region> {
        self.condition.into_iter().chain([self.body])
    }

    /// How many values are carried.
    pub(crate) fn carried(&self, m: &Module) -> usize {
        m.nodes[self.node].operands.len() - self.first - self.inputs
    }

    /// The operand slot of input `n`.
    pub(crate) fn input(&self, n: usize) -> usize {
        self.first + n
    }

    /// The argument that is the slice of input `n`.
    pub(crate) fn slice(&self, m: &Module, n: usize) -> Value {
        m.regions[self.body].args[self.extra + n]
    }

    /// The operand slot of what is carried as number `n`.
    pub(crate) fn init(&self, n: usize) -> usize {
        self.first + self.inputs + n
    }

    /// The argument of the body that is carried as number `n`.
    pub(crate) fn arg(&self, m: &Module, n: usize) -> Value {
        m.regions[self.body].args[self.extra + self.inputs + n]
    }

    /// Everything that is defined inside.
    pub(crate) fn inside(&self, m: &Module) -> HashSet<Value> {
        let regions = self.regions().flat_map(|r| m.regions_in(r));
        regions
            .flat_map(|r| {
                let results = m.regions[r].nodes.iter().flat_map(|n| m.nodes[*n].results.iter().copied());
                m.regions[r].args.iter().copied().chain(results).collect::<Vec<_>>()
            })
            .collect()
    }

    /// How often the body runs at typical sizes.
    pub(crate) fn trips(&self, m: &Module) -> u64 {
        let data = &m.nodes[self.node];
        let size = match data.op {
            Op::Scan => {
                let axis = usize::try_from(data.attrs.int("axis").unwrap_or(0)).unwrap_or(0);
                m.ty(data.operand(self.first)).dims[axis].clone()
            }
            Op::While => data.attrs.dim("max").cloned().unwrap_or(0.into()),
            _ => match m.as_number(data.operand(0)) {
                Some(n) => (n as i64).into(),
                None => cost::TYPICAL.into(),
            },
        };
        cost::typical(&size, &m.symbols).max(1)
    }

    /// Puts nodes in front of the loop.
    pub(crate) fn put_in_front(&self, m: &mut Module, nodes: &[Node]) {
        let list = &mut m.regions[self.around].nodes;
        let at = list.iter().position(|n| *n == self.node).unwrap_or(0);
        list.splice(at..at, nodes.iter().copied());
    }

    /// Adds an input to a scan behind those that there are; gives the argument of the body that is its slice.
    pub(crate) fn add_input(&mut self, m: &mut Module, value: Value, slice: Type) -> Value {
        // Arguments come into being with a region.
        let made = m.add_region([(None, slice)]);
        let arg = m.regions[made].args.remove(0);
        m.regions[self.body].args.insert(self.extra + self.inputs, arg);
        for (n, arg) in m.regions[self.body].args.clone().into_iter().enumerate() {
            m.values[arg].def = Def::Arg(self.body, n as u32);
        }
        let node = &mut m.nodes[self.node];
        node.operands.insert(self.first + self.inputs, Some(value));
        self.inputs += 1;
        node.attrs.set("inputs", self.inputs as i64);
        arg
    }
}

/// Takes nodes without effect out of a region whose results nothing uses; gives those that went.
pub(crate) fn drop_dead(m: &mut Module, region: Region) -> Vec<Node> {
    let mut uses = m.use_counts();
    let mut dropped = vec![];
    for node in m.regions[region].nodes.clone().into_iter().rev() {
        let data = &m.nodes[node];
        let dead = data.regions.is_empty() && !data.op.has_effect();
        if dead && data.results.iter().all(|v| uses.get(v).is_none_or(|n| *n == 0)) {
            for v in data.inputs() {
                uses.entry(v).and_modify(|n| *n -= 1);
            }
            dropped.push(node);
        }
    }
    m.regions[region].nodes.retain(|n| !dropped.contains(n));
    dropped.reverse();
    dropped
}
