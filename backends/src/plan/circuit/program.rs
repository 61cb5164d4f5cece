//! From a graph to the tables that kernels walk.

use super::{
    graph::{Graph, Node, peak, smallest},
    order::Order,
    range::Range,
    slots::Slots,
};
use kiln_ir::ElemType;
use kiln_kernels::circuit::table::{Coding, HEAD, Listing, Run, RunKind, Shape, Space, pad};
use std::f64::consts::LN_2;

/// Tables and their sizes.
pub(super) struct Program {
    pub shape: Shape,
    pub runs: Vec<u32>,
    pub index: Vec<u32>,
    pub number: Vec<f64>,
    pub variables: Vec<u32>,
    pub breaks: Vec<f64>,
    pub listing: Option<Listing>,
}

/// For whom a program is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reader<'a> {
    Any,
    /// Runs begin at multiples of 16 bytes. Behind the positions of sums stand these numbers, if there are any.
    Gpu(&'a [u32]),
}

/// Whether a walk goes back down, for which every node keeps a slot of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Back {
    Never,
    Always,
    /// For the largest products: a missing cell has the largest density.
    Maximum,
}

/// Consecutive products of at least so many nodes are one run of columns.
const COLUMNS: usize = 4;
/// With more slots than this, blocks are half as long, so that they stay in the caches.
const MANY_SLOTS: i64 = 4096;
/// Bytes to which runs for GPUs are aligned.
const ALIGN: usize = 16;
/// Programs of so few positions have code of their own.
const LISTED: usize = 256;

struct Maker<'g> {
    g: &'g Graph,
    order: &'g Order,
    range: Option<&'g Range>,
    back: Back,
    /// Of each node, what stands behind the positions of a run of sums: if the walk goes back, the smallest variable below it.
    behind: Vec<u32>,
    /// Elements to which positions and numbers of runs are aligned.
    align: [usize; 2],
    /// Of each node.
    slots: Vec<u32>,
    runs: Vec<Run>,
    index: Vec<u32>,
    number: Vec<f64>,
}

impl Program {
    /// In plain numbers under the range's scales, or else in logarithms.
    pub(super) fn of(g: &Graph, order: &Order, range: Option<&Range>, back: Back, reader: Reader<'_>) -> Program {
        let keep = back != Back::Never;
        let head = match range {
            Some(range) => [range.least.unwrap_or(0.0), range.shift(g.root), 0.0, 0.0],
            None => [0.0; HEAD as usize],
        };
        let slots = vec![0; g.nodes.len()];
        let value = range.map_or(ElemType::F64, |r| r.value);
        let (behind, align) = match reader {
            Reader::Gpu(behind) if !behind.is_empty() => (behind.to_vec(), ALIGN / value.bytes()),
            Reader::Gpu(_) => (if keep { smallest(g) } else { vec![] }, ALIGN / value.bytes()),
            Reader::Any => (if keep { smallest(g) } else { vec![] }, 1),
        };
        // Positions have two bytes or four.
        let align = [if align > 1 { ALIGN / 2 } else { 1 }, align];
        let mut m =
            Maker { g, order, range, back, behind, align, slots, runs: vec![], index: vec![], number: head.to_vec() };
        let slots = m.batches(keep);
        let (mut variables, mut breaks) = (vec![], vec![]);
        for ((values, of), real) in g.values.iter().zip(&g.breaks).zip(&g.real) {
            let coding = match values {
                Some(count) => Coding::Values { count: *count, rounded: *real },
                None => Coding::Breaks { start: breaks.len() as u32, count: of.len() as u32 },
            };
            breaks.extend(of);
            variables.push(coding.encode());
        }
        // Field by field.
        let variables = (0..4).flat_map(|field| variables.iter().map(move |v: &[u32; 4]| v[field])).collect();
        // Dense runs have few positions, and on GPUs code that many threads share.
        let shared = reader != Reader::Any && m.runs.iter().any(|run| run.kind == RunKind::Dense);
        let listed = !keep && !shared && m.index.len() <= LISTED;
        let narrow = m.index.iter().all(|i| *i <= u32::from(u16::MAX));
        let mut kinds: Vec<RunKind> = m.runs.iter().map(|r| r.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        // The commonest is asked for first.
        kinds.sort_by_key(|k| std::cmp::Reverse(m.runs.iter().filter(|r| r.kind == *k).count()));
        let bytes = match () {
            () if keep || slots > MANY_SLOTS => 64,
            () if listed => 256,
            () => 128,
        };
        let block = bytes / value.bytes() as i64;
        let same = g.values.first().copied().flatten().filter(|k| g.values.iter().all(|v| v == &Some(*k)));
        let mut with_values = g.values.iter().zip(&g.real).filter(|(v, _)| v.is_some()).map(|(_, real)| real);
        let rounded = with_values.next().map_or(Some(false), |first| Some(*first));
        let shape = Shape {
            space: if range.is_some() { Space::Linear } else { Space::Log },
            value,
            variables: g.values.len() as i64,
            values: same.map(i64::from),
            rounded: rounded.filter(|first| with_values.all(|r| r == first)),
            slots,
            root: i64::from(m.slots[g.root as usize]),
            runs: m.runs.len() as i64,
            index: if narrow { ElemType::U16 } else { ElemType::U32 },
            indices: m.index.len() as i64,
            numbers: m.number.len() as i64,
            breaks: breaks.len() as i64,
            aligned: reader != Reader::Any,
            kinds,
            block,
            checked: range.is_some_and(|r| r.least.is_some()),
        };
        let runs = m.runs.iter().flat_map(Run::encode).collect();
        let listing = listed.then(|| Listing { runs: m.runs, index: m.index.clone() });
        Program { shape, runs, index: m.index, number: m.number, variables, breaks, listing }
    }
}

/// What nodes of a batch must have in common to be of one run.
fn class(g: &Graph, order: &Order, n: u32) -> (RunKind, u32, u32) {
    let fan = g.children(n).len() as u32;
    match g.nodes[n as usize] {
        Node::Indicator { .. } => (RunKind::Indicator, 0, 0),
        Node::Lookup { var, .. } => (RunKind::Lookup, 1, var),
        Node::Gaussian { .. } => (RunKind::Gaussian, 0, 0),
        Node::Interval { .. } => (RunKind::Interval, 0, 0),
        Node::Product { .. } => match order.joint[n as usize] {
            Some(variables) => (RunKind::Lookup, fan, variables),
            None => (RunKind::Product, fan, 0),
        },
        Node::Sum { .. } => match order.block.get(n as usize).copied().flatten() {
            Some(first) => (RunKind::Dense, fan, first),
            None if g.children(n).iter().any(|c| order.fused[*c as usize]) => (RunKind::Pairs, fan, 0),
            None => (RunKind::Sum, fan, 0),
        },
    }
}

impl Maker<'_> {
    /// Makes all runs; returns the number of slots.
    fn batches(&mut self, keep: bool) -> i64 {
        let (g, order) = (self.g, self.order);
        let mut batches: Vec<Vec<u32>> = vec![vec![]; order.batches as usize];
        // The batch that reads a node last.
        let mut last: Vec<u32> = order.batch.clone();
        for n in 0..g.nodes.len() as u32 {
            if !order.fused[n as usize] {
                batches[order.batch[n as usize] as usize].push(n);
            }
            // What a fused product reads is read when its sum is computed, which is in a later batch or its own.
            for c in g.children(n) {
                last[*c as usize] = last[*c as usize].max(order.batch[n as usize]);
            }
        }
        for n in (0..g.nodes.len() as u32).filter(|n| !order.fused[*n as usize]) {
            for c in g.children(n).iter().filter(|c| order.fused[**c as usize]) {
                for inner in g.children(*c) {
                    last[*inner as usize] = last[*inner as usize].max(order.batch[n as usize]);
                }
            }
        }
        last[g.root as usize] = u32::MAX;
        let mut ends: Vec<Vec<u32>> = vec![vec![]; order.batches as usize];
        for n in (0..g.nodes.len() as u32).filter(|n| !order.fused[*n as usize]) {
            if let Some(list) = ends.get_mut(last[n as usize] as usize) {
                list.push(n);
            }
        }
        let mut slots = Slots::new();
        for (mut batch, ends) in batches.into_iter().zip(ends).filter(|(batch, _)| !batch.is_empty()) {
            batch.sort_by_cached_key(|n| (class(g, order, *n), *n));
            let first = slots.take(batch.len() as u32);
            batch.iter().enumerate().for_each(|(i, n)| self.slots[*n as usize] = first + i as u32);
            let before = self.runs.len();
            for run in batch.chunk_by(|a, b| class(g, order, *a) == class(g, order, *b)) {
                self.run(run);
            }
            if let Some(run) = self.runs.get_mut(before) {
                run.waits = true;
            }
            let products = batch.iter().all(|n| matches!(g.nodes[*n as usize], Node::Product { .. }));
            if products && self.range.is_some_and(|r| r.rescales) {
                let to = self.slots[batch[0] as usize];
                self.push(RunKind::Rescale, batch.len(), 0, to, &[], &[]);
                self.runs.last_mut().into_iter().for_each(|run| run.waits = true);
            }
            if !keep {
                ends.iter().for_each(|n| slots.give(self.slots[*n as usize]));
            }
        }
        i64::from(slots.end())
    }

    fn push(&mut self, kind: RunKind, count: usize, fan: u32, to: u32, index: &[u32], number: &[f64]) {
        self.index.resize(self.index.len().next_multiple_of(self.align[0]), 0);
        self.number.resize(self.number.len().next_multiple_of(self.align[1]), 0.0);
        let run = Run {
            kind,
            count: count as u32,
            fan,
            to,
            index: self.index.len() as u32,
            number: self.number.len() as u32,
            waits: false,
        };
        self.index.extend_from_slice(index);
        self.number.extend_from_slice(number);
        self.runs.push(run);
    }

    /// The power of two of a node.
    fn exponent(&self, n: u32) -> i32 {
        self.range.map_or(0, |r| r.exponent[n as usize])
    }

    /// A logarithm as it stands in the tables, times a power of two.
    fn number(&self, log: f64, exponent: i32) -> f64 {
        match self.range {
            Some(_) if log == f64::NEG_INFINITY => 0.0,
            // The power of two is exact.
            Some(_) => log.exp() * f64::from(exponent).exp2(),
            None => log,
        }
    }

    fn weight(&self, sum: u32, child: u32, log: f64) -> f64 {
        self.number(log, self.exponent(sum) - self.exponent(child))
    }

    /// A run of nodes of one class, which have consecutive slots.
    fn run(&mut self, nodes: &[u32]) {
        let g = self.g;
        let (kind, fan, _) = class(g, self.order, nodes[0]);
        let to = self.slots[nodes[0] as usize];
        let slot = |m: &Self, n: u32| m.slots[n as usize];
        let (mut index, mut number) = (vec![], vec![]);
        match kind {
            RunKind::Indicator => {
                for n in nodes {
                    if let Node::Indicator { var, value } = g.nodes[*n as usize] {
                        index.extend([var, value]);
                        number.push(self.number(0.0, self.exponent(*n)));
                    }
                }
            }
            RunKind::Lookup => {
                let stride = pad(nodes.len() as u32) as usize;
                let factors: Vec<Vec<u32>> = nodes.iter().map(|n| self.lookups(*n)).collect();
                for turn in 0..fan as usize {
                    let start = number.len();
                    index.extend([g.variable(factors[0][turn]).unwrap_or(0), (start / stride) as u32]);
                    for (i, n) in factors.iter().map(|of| of[turn]).enumerate() {
                        // A missing cell comes last, with probability 1.
                        let table = self.table(n).iter().chain([&0.0]);
                        number.resize(start + table.clone().count() * stride, 0.0);
                        for (code, log) in table.enumerate() {
                            number[start + code * stride + i] = self.number(*log, self.exponent(n));
                        }
                    }
                }
            }
            RunKind::Gaussian => {
                for n in nodes {
                    if let Node::Gaussian { var, mean, std } = g.nodes[*n as usize] {
                        let exponent = self.exponent(*n);
                        index.push(var);
                        let top = peak(std) + f64::from(exponent) * LN_2;
                        let missing = if self.back == Back::Maximum { top } else { self.number(0.0, exponent) };
                        number.extend([mean, 1.0 / std, top, missing]);
                    }
                }
            }
            RunKind::Interval => {
                for n in nodes {
                    if let Node::Interval { var, low, high, missing } = g.nodes[*n as usize] {
                        let span = if g.values[var as usize].is_some() { 0.0 } else { high - low };
                        let missing = if self.back == Back::Maximum { 0.0 } else { missing };
                        index.push(var);
                        number.extend([low, high, span, self.number(missing, self.exponent(*n))]);
                    }
                }
            }
            RunKind::Product => return self.products(nodes, fan),
            RunKind::Sum => {
                for n in nodes {
                    for (c, w) in g.children(*n).iter().zip(g.weights(*n)) {
                        index.push(slot(self, *c));
                        number.push(self.weight(*n, *c, *w));
                    }
                }
            }
            RunKind::Pairs => {
                for n in nodes {
                    for (c, w) in g.children(*n).iter().zip(g.weights(*n)) {
                        match g.children(*c) {
                            [a, b] if self.order.fused[*c as usize] => index.extend([slot(self, *a), slot(self, *b)]),
                            _ => index.extend([slot(self, *c), 0]),
                        }
                        number.push(self.weight(*n, *c, *w));
                    }
                }
            }
            RunKind::Dense => {
                let children = g.children(nodes[0]);
                index.extend(children.iter().map(|c| slot(self, *c)));
                for (i, c) in children.iter().enumerate() {
                    number.extend(nodes.iter().map(|n| self.weight(*n, *c, g.weights(*n)[i])));
                }
            }
            RunKind::Columns | RunKind::Rescale => {}
        }
        if !self.behind.is_empty() && matches!(kind, RunKind::Sum | RunKind::Pairs) {
            index.extend(nodes.iter().map(|n| self.behind[*n as usize]));
        }
        self.push(kind, nodes.len(), fan, to, &index, &number);
    }

    fn table(&self, n: u32) -> &[f64] {
        match self.g.nodes[n as usize] {
            Node::Lookup { table, .. } => &self.g.tables[table as usize],
            _ => &[],
        }
    }

    /// The tables that a node is the product of, by variable.
    fn lookups(&self, n: u32) -> Vec<u32> {
        let mut all = match self.g.children(n) {
            [] => vec![n],
            children => children.to_vec(),
        };
        all.sort_unstable_by_key(|c| self.g.variable(*c));
        all
    }

    /// Products whose factors stand side by side as they do are columns.
    fn products(&mut self, nodes: &[u32], fan: u32) {
        let g = self.g;
        let factors = |m: &Self, n: u32| -> Vec<u32> { g.children(n).iter().map(|c| m.slots[*c as usize]).collect() };
        let follows = |m: &Self, a: u32, b: u32| factors(m, a).iter().zip(factors(m, b)).all(|(a, b)| a + 1 == b);
        let mut single: Vec<u32> = vec![];
        let runs: Vec<Vec<u32>> = nodes.chunk_by(|a, b| follows(self, *a, *b)).map(<[u32]>::to_vec).collect();
        for run in runs {
            if run.len() < COLUMNS || self.back != Back::Never {
                single.extend(run);
                continue;
            }
            self.plain(&single, fan);
            single.clear();
            let index = factors(self, run[0]);
            self.push(RunKind::Columns, run.len(), fan, self.slots[run[0] as usize], &index, &[]);
        }
        self.plain(&single, fan);
    }

    /// Products of their own, with consecutive slots.
    fn plain(&mut self, nodes: &[u32], fan: u32) {
        if let Some(first) = nodes.first() {
            let index: Vec<u32> =
                nodes.iter().flat_map(|n| self.g.children(*n)).map(|c| self.slots[*c as usize]).collect();
            self.push(RunKind::Product, nodes.len(), fan, self.slots[*first as usize], &index, &[]);
        }
    }
}
