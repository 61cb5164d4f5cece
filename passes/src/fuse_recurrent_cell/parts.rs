//! What a step of a recurrent cell is made of, found backwards from its result.

use kiln_ir::{Attrs, Module, Node, NodeData, Op, Region, Value};
use std::collections::{HashMap, HashSet};

/// A region in which cells are looked for.
pub(super) struct Parts<'a> {
    pub(super) m: &'a Module,
    pub(super) region: Region,
    /// Values of weight time.
    pub(super) known: &'a HashSet<Value>,
    pub(super) uses: &'a HashMap<Value, usize>,
}

/// A slice of the gates, and what was made of it.
pub(super) struct Gate {
    /// All gates together.
    pub(super) of: Value,
    pub(super) slice: Value,
    /// Behind its activation.
    pub(super) open: Value,
    /// Where it begins and ends in the last axis.
    from: i64,
    to: i64,
}

/// A term of a sum.
pub(super) enum Addend {
    /// `x . w`; `value` where a node computes just that.
    Product {
        x: Value,
        w: Value,
        value: Option<Value>,
    },
    Other(Value),
}

type Pair = [Value; 2];

impl Parts<'_> {
    fn node(&self, v: Value, op: Op) -> Option<&NodeData> {
        let node = self.m.producer(v)?;
        Some(&self.m.nodes[node]).filter(|d| d.op == op)
    }

    pub(super) fn uses(&self, v: Value) -> usize {
        self.uses.get(&v).copied().unwrap_or(0)
    }

    /// The result of a node that has one.
    pub(super) fn result(&self, node: Node) -> Option<Value> {
        let [result] = self.m.nodes[node].results[..] else { return None };
        Some(result)
    }

    pub(super) fn unary(&self, v: Value, op: Op) -> Option<Value> {
        self.node(v, op).map(|d| d.operand(0))
    }

    pub(super) fn binary(&self, v: Value, op: Op) -> Option<Pair> {
        self.node(v, op).map(|d| [d.operand(0), d.operand(1)])
    }

    /// The operands in both orders.
    pub(super) fn both(&self, v: Value, op: Op) -> Option<[Pair; 2]> {
        self.binary(v, op).map(|[a, b]| [[a, b], [b, a]])
    }

    /// The factors of two products, each in both orders.
    pub(super) fn pairs(&self, a: Value, b: Value) -> Option<Vec<(Pair, Pair)>> {
        let (a, b) = (self.both(a, Op::Mul)?, self.both(b, Op::Mul)?);
        Some(a.into_iter().flat_map(|a| b.iter().map(move |b| (a, *b))).collect())
    }

    /// `z` of `1 - z`.
    pub(super) fn one_minus(&self, v: Value) -> Option<Value> {
        let [one, z] = self.binary(v, Op::Sub)?;
        (self.m.as_number(one) == Some(1.0)).then_some(z)
    }

    /// A slice along the last axis.
    pub(super) fn slice(&self, v: Value) -> Option<Gate> {
        let data = self.node(v, Op::Slice)?;
        let of = data.operand(0);
        let size = |name: &str| data.attrs.dim(name).and_then(|d| d.as_const());
        let last = data.attrs.int("axis") == Some(self.m.ty(of).rank() as i64 - 1);
        let whole = data.attrs.int("step").unwrap_or(1) == 1;
        (last && whole).then_some(())?;
        Some(Gate { of, slice: v, open: v, from: size("start")?, to: size("end")? })
    }

    /// A slice along the last axis behind an activation.
    pub(super) fn gate(&self, v: Value, activation: Op) -> Option<Gate> {
        let gate = self.slice(self.unary(v, activation)?)?;
        Some(Gate { open: v, ..gate })
    }

    /// Where the gates stand, if together they are one value, each as wide as the others.
    pub(super) fn one_of<const N: usize>(&self, gates: [&Gate; N]) -> Option<Vec<i64>> {
        let of = gates[0].of;
        let wide = self.m.ty(of).dims.last()?.as_const()?;
        let width = wide / N as i64;
        let sound = |g: &&Gate| g.of == of && width > 0 && g.to - g.from == width && g.from % width == 0;
        if wide % N as i64 != 0 || !gates.iter().all(sound) {
            return None;
        }
        let order: Vec<i64> = gates.iter().map(|g| g.from / width).collect();
        let distinct: HashSet<&i64> = order.iter().collect();
        (distinct.len() == N).then_some(order)
    }

    /// The terms of a sum: additions that nothing else uses, and what `linear` adds, are taken apart.
    pub(super) fn addends(&self, sum: Value) -> Vec<Addend> {
        let mut found = vec![];
        self.collect(sum, &mut found);
        found
    }

    fn collect(&self, v: Value, found: &mut Vec<Addend>) {
        let part = |v: Value, found: &mut Vec<Addend>| match self.uses(v) {
            1 => self.collect(v, found),
            _ => found.push(Addend::Other(v)),
        };
        let here = self.m.producer(v).filter(|n| self.m.regions[self.region].nodes.contains(n));
        let data = here.map(|n| &self.m.nodes[n]).filter(|_| !self.known.contains(&v));
        match data.map(|d| (d.op, d)) {
            Some((Op::Add, d)) => {
                part(d.operand(0), found);
                part(d.operand(1), found);
            }
            Some((Op::Matmul, d)) if self.is_weight(d.operand(1)) => {
                found.push(Addend::Product { x: d.operand(0), w: d.operand(1), value: Some(v) });
            }
            Some((Op::Linear, d)) if d.attrs == Attrs::default() && self.is_weight(d.operand(1)) => {
                let plain = d.inputs().count() == 2;
                found.push(Addend::Product { x: d.operand(0), w: d.operand(1), value: plain.then_some(v) });
                if let Some(bias) = d.optional(2) {
                    found.push(Addend::Other(bias));
                }
                if let Some(add) = d.optional(3) {
                    part(add, found);
                }
            }
            _ => found.push(Addend::Other(v)),
        }
    }

    fn is_weight(&self, w: Value) -> bool {
        self.known.contains(&w) && self.m.ty(w).rank() == 2
    }

    /// Takes the product with the state out of the terms: one whose other factor has the type of `like`, of several the
    /// one with what a loop carries.
    pub(super) fn take_recurrent(
        &self,
        addends: &mut Vec<Addend>,
        like: Value,
        gates: i64,
    ) -> Result<(Value, Value), &'static str> {
        let ty = self.m.ty(like);
        let width = ty.dims.last().cloned().unwrap_or(0.into());
        let suits = |a: &Addend| match a {
            Addend::Product { x, w, .. } => {
                let w = &self.m.ty(*w).dims;
                self.m.ty(*x) == ty && w[0] == width && w[1] == width.clone() * gates.into()
            }
            Addend::Other(_) => false,
        };
        let args = &self.m.regions[self.region].args;
        let rank = |a: &Addend| match a {
            // Carried values stand behind slices.
            Addend::Product { x, .. } => (*x == like, args.iter().position(|v| v == x)),
            Addend::Other(_) => (false, None),
        };
        let best = (0..addends.len()).filter(|n| suits(&addends[*n])).max_by_key(|n| rank(&addends[*n]));
        match best.map(|n| addends.remove(n)) {
            Some(Addend::Product { x, w, .. }) => Ok((x, w)),
            _ => Err("the state is not multiplied by a weight that is known when weights are written"),
        }
    }

    /// Whether the terms can have their gates in another order without moving data at run time.
    pub(super) fn can_reorder(&self, rest: &[Addend], order: &[i64]) -> Result<(), &'static str> {
        let straight = order.iter().copied().eq(0..order.len() as i64);
        let fixed = |a: &Addend| matches!(a, Addend::Other(v) if !self.known.contains(v));
        if straight || !rest.iter().any(fixed) {
            return Ok(());
        }
        Err("gates in another order that are not a product with a known weight")
    }

    /// The value of a term that is a known vector.
    pub(super) fn known_vector(&self, a: &Addend) -> Option<Value> {
        let Addend::Other(v) = a else { return None };
        let dims = &self.m.ty(*v).dims;
        let vector = dims.iter().rev().skip(1).all(|d| d.is(1)) && !dims.is_empty();
        (self.known.contains(v) && vector).then_some(*v)
    }
}
