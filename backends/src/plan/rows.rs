//! Which loops compute row by row, and their bodies over the rows of a tile.
//!
//! A loop over values whose first axis has size `B` may run on tiles of rows if every node of its body keeps the rows
//! apart: the first axis of what it computes counts the same rows, and nothing mixes them. What has no rows is the same
//! for all tiles. The proof goes node by node over the ops known here; whatever is not proven leaves the loop whole.
//!
//! [`prepare`] copies the module and writes a symbol for `B` into the types of such bodies.

use super::layout::axis;
use kiln_ir::{Dim, Module, Node, NodeData, Op, Region, Symbol, SymbolFacts, Value, ops::Scan};
use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

/// A loop that runs on tiles of rows.
pub(super) struct Tile {
    /// Stands for the rows of a tile in the body.
    pub(super) symbol: Symbol,
    /// All rows.
    pub(super) rows: Dim,
    /// Rows of a tile.
    pub(super) tile: i64,
    /// What the body reads of rows from outside, and the value that stands for the rows of the tile.
    pub(super) reads: Vec<(Value, Value)>,
}

/// Rows of a tile: weights that come from the second cache are used often enough, and two threads have work from twice
/// as many rows on.
const TILE: i64 = 24;
/// Rows of a tile whose weights come from memory.
const TILE_LARGE: i64 = 64;
/// Bytes of weights that the second cache holds beside the rows.
const CACHED: i64 = 1 << 20;

/// The module with the bodies of its loops over tiles where that may be.
pub(super) fn prepare(m: &Module) -> (Module, Rc<HashMap<Node, Tile>>) {
    let mut to = m.clone();
    let mut tiles = HashMap::new();
    let Some(symbol) = unused_symbol(m) else { return (to, Rc::new(tiles)) };
    let known = known_values(m);
    for node in outer_loops(m) {
        let Some(rows) = rows_of(m, node) else { continue };
        let (inside, rowed) = (inside(m, node), HashSet::new());
        let mut proof = Proof { m, node, known: &known, inside, rows: rows.clone(), rowed };
        if proof.outer_loop().is_none() {
            continue;
        }
        let reads = proof.rewrite(&mut to, symbol);
        let tile = if weight_bytes(m, &proof.inside.1) > CACHED { TILE_LARGE } else { TILE };
        if let Some(facts) = to.symbols.iter_mut().find(|f| f.symbol == symbol) {
            facts.max = facts.max.max(tile);
        } else {
            to.symbols.push(SymbolFacts { symbol, min: 1, max: tile, multiple_of: 1 });
        }
        tiles.insert(node, Tile { symbol, rows, tile, reads });
    }
    (to, Rc::new(tiles))
}

fn unused_symbol(m: &Module) -> Option<Symbol> {
    let names = std::iter::once("rows".to_string()).chain((1..=m.symbols.len()).map(|i| format!("rows{i}")));
    names.filter_map(|n| Symbol::new(&n)).find(|s| m.symbols.iter().all(|f| f.symbol != *s))
}

/// Weights, constants, and what is computed from nothing else and has known sizes.
fn known_values(m: &Module) -> HashSet<Value> {
    let mut known: HashSet<Value> = m.params.values().map(|p| p.value).collect();
    known.extend(m.consts.values().map(|c| c.value));
    // Operands come before their users.
    let mut todo: Vec<Region> = m.entries.iter().map(|e| e.body).collect();
    while let Some(region) = todo.pop() {
        for node in &m.regions[region].nodes {
            let data = &m.nodes[*node];
            let from_known = data.inputs().next().is_some() && data.inputs().all(|v| known.contains(&v));
            if data.regions.is_empty() && from_known && data.results.iter().all(|r| m.ty(*r).const_dims().is_some()) {
                known.extend(&data.results);
            }
            todo.extend(&data.regions);
        }
    }
    known
}

/// The loops that stand in no other.
fn outer_loops(m: &Module) -> Vec<Node> {
    let mut found = vec![];
    let mut todo: Vec<Region> = m.entries.iter().map(|e| e.body).collect();
    while let Some(region) = todo.pop() {
        for node in &m.regions[region].nodes {
            match m.nodes[*node].op {
                Op::For | Op::While | Op::Scan => found.push(*node),
                Op::If => todo.extend(&m.nodes[*node].regions),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// The values and the nodes inside a loop.
fn inside(m: &Module, node: Node) -> (HashSet<Value>, Vec<Node>) {
    let (mut values, mut nodes) = (HashSet::new(), vec![]);
    let mut todo = m.nodes[node].regions.clone();
    while let Some(region) = todo.pop() {
        let data = &m.regions[region];
        values.extend(&data.args);
        for node in &data.nodes {
            values.extend(&m.nodes[*node].results);
            todo.extend(&m.nodes[*node].regions);
            nodes.push(*node);
        }
    }
    (values, nodes)
}

/// Bytes of the weights that the nodes read.
fn weight_bytes(m: &Module, nodes: &[Node]) -> i64 {
    let read: HashSet<Value> = nodes.iter().flat_map(|n| m.nodes[*n].inputs()).collect();
    let weights = read.into_iter().filter(|v| m.producer(*v).is_none());
    let bytes = |v: Value| {
        let dims = m.ty(v).const_dims()?;
        dims.iter().try_fold(m.ty(v).elem.bytes() as i64, |n, d| n.checked_mul(*d))
    };
    weights.map(|v| bytes(v).unwrap_or(0)).fold(0, i64::saturating_add)
}

/// The size of the axis of rows, if the loop can have one.
fn rows_of(m: &Module, node: Node) -> Option<Dim> {
    let data = &m.nodes[node];
    let first = |v: &Value| m.ty(*v).dims.first().cloned();
    let carried = |body: Region| m.regions[body].args.iter().find_map(first);
    let (rows, by_rows) = match data.op {
        Op::Scan => match Scan::of(data).lengths {
            Some(lengths) => (first(&lengths), true),
            None => (carried(data.regions[0]), false),
        },
        Op::While => (carried(data.regions[1]), m.regions[data.regions[0]].results.iter().any(|f| m.ty(*f).rank() > 0)),
        _ => (carried(data.regions[0]), false),
    };
    let rows = rows?;
    // Few rows are worth it where they end one by one.
    let least = if by_rows { 2 } else { TILE + 1 };
    rows.as_const().is_none_or(|n| n >= least).then_some(rows)
}

struct Proof<'m> {
    m: &'m Module,
    node: Node,
    known: &'m HashSet<Value>,
    inside: (HashSet<Value>, Vec<Node>),
    rows: Dim,
    /// The values inside that have rows.
    rowed: HashSet<Value>,
}

/// What a step of the proof gives: nothing where it fails.
type Proven = Option<()>;

impl Proof<'_> {
    /// Whether a value has rows. What comes from outside and is computed at run time has, if its first axis has their
    /// number.
    fn has(&self, value: Value) -> bool {
        if self.inside.0.contains(&value) {
            return self.rowed.contains(&value);
        }
        !self.known.contains(&value) && self.fits(value)
    }

    /// Whether the first axis of a value is as long as there are rows.
    fn fits(&self, value: Value) -> bool {
        self.m.ty(value).dims.first() == Some(&self.rows)
    }

    fn rank(&self, value: Value) -> usize {
        self.m.ty(value).rank()
    }

    fn mark(&mut self, value: Value, rowed: bool) -> Proven {
        if rowed {
            self.rowed.insert(value);
        }
        (!rowed || self.fits(value)).then_some(())
    }

    fn same(&self, a: Value, b: Value) -> Proven {
        (self.has(a) == self.has(b)).then_some(())
    }

    /// The loop itself: what it carries of any rank but 0 has rows, and what has none is not used behind it.
    fn outer_loop(&mut self) -> Proven {
        let m = self.m;
        let data = &m.nodes[self.node];
        let body = *data.regions.last()?;
        for region in &data.regions {
            for arg in &m.regions[*region].args {
                self.mark(*arg, self.fits(*arg))?;
            }
        }
        if let Op::While = data.op {
            let test = data.regions[0];
            self.region(test)?;
            let flag = *m.regions[test].results.first()?;
            (self.has(flag) == (self.rank(flag) == 1)).then_some(())?;
        }
        self.region(body)?;
        // The body's arguments that are carried, beside what it yields for them.
        let yielded = &m.regions[body].results;
        let first = match data.op {
            Op::For => 1,
            Op::While => 0,
            _ => Scan::of(data).inputs.len(),
        };
        let carried = &m.regions[body].args[first..];
        let used = |value: Value| {
            let in_nodes = m.nodes.values().any(|n| n.inputs().any(|v| v == value));
            in_nodes || m.regions.values().any(|r| r.results.contains(&value))
        };
        for (n, (value, result)) in yielded.iter().zip(&data.results).enumerate() {
            match carried.get(n) {
                Some(arg) => self.same(*arg, *value)?,
                None => self.has(*value).then_some(())?,
            }
            (self.has(*value) || !used(*result)).then_some(())?;
        }
        Some(())
    }

    fn region(&mut self, region: Region) -> Proven {
        let m = self.m;
        m.regions[region].nodes.iter().try_for_each(|node| self.node(*node))
    }

    fn node(&mut self, node: Node) -> Proven {
        let m = self.m;
        let data = &m.nodes[node];
        match data.op {
            Op::Fusion => {
                let body = &m.regions[data.regions[0]];
                for (arg, operand) in body.args.iter().zip(data.inputs()) {
                    self.mark(*arg, self.has(operand))?;
                }
                self.region(data.regions[0])?;
                return self.copy(&body.results, &data.results);
            }
            Op::If => {
                let [then, otherwise] = [data.regions[0], data.regions[1]];
                (!self.has(data.operand(0))).then_some(())?;
                self.region(then)?;
                self.region(otherwise)?;
                let (yes, no) = (&m.regions[then].results, &m.regions[otherwise].results);
                yes.iter().zip(no).try_for_each(|(a, b)| self.same(*a, *b))?;
                return self.copy(yes, &data.results);
            }
            Op::For | Op::While | Op::Scan => return self.inner_loop(data),
            _ => {}
        }
        let rowed = if data.inputs().any(|v| self.has(v)) {
            self.keeps(data)?;
            true
        } else {
            // The same for every row.
            let result = data.results.first()?;
            let repeats = match data.op {
                Op::Iota => axis(data, self.rank(*result)) != 0,
                Op::Broadcast => {
                    let from = data.operand(0);
                    self.rank(from) < self.rank(*result) || self.m.ty(from).dims[0].is(1)
                }
                _ => false,
            };
            let fits = self.fits(*result);
            (!fits || repeats).then_some(())?;
            fits
        };
        data.results.iter().try_for_each(|r| self.mark(*r, rowed))
    }

    fn copy(&mut self, from: &[Value], to: &[Value]) -> Proven {
        from.iter().zip(to).try_for_each(|(a, b)| self.mark(*b, self.has(*a)))
    }

    /// A loop inside: what it carries keeps having rows, or having none.
    fn inner_loop(&mut self, data: &NodeData) -> Proven {
        let m = self.m;
        let body = *data.regions.last()?;
        let args = &m.regions[body].args;
        let scan = (data.op == Op::Scan).then(|| Scan::of(data));
        let inits: Vec<Value> = match (&scan, data.op) {
            (Some(scan), _) => scan.inits.clone(),
            (None, Op::For) => data.inputs().skip(1).collect(),
            _ => data.inputs().collect(),
        };
        let first = args.len() - inits.len();
        match &scan {
            Some(scan) => {
                for (arg, input) in args.iter().zip(&scan.inputs) {
                    (scan.axis > 0 || !self.has(*input)).then_some(())?;
                    self.mark(*arg, self.has(*input))?;
                }
                scan.lengths.is_none_or(|l| self.has(l)).then_some(())?;
            }
            None if data.op == Op::For => (!self.has(data.operand(0))).then_some(())?,
            None => {}
        }
        for region in &data.regions {
            let args = &m.regions[*region].args;
            let skip = if *region == body { first } else { 0 };
            for (arg, init) in args[skip..].iter().zip(&inits) {
                self.mark(*arg, self.has(*init))?;
            }
            self.region(*region)?;
        }
        if data.op == Op::While {
            let flag = *m.regions[data.regions[0]].results.first()?;
            (self.has(flag) == (self.rank(flag) == 1)).then_some(())?;
        }
        let yielded = &m.regions[body].results;
        for (arg, value) in args[first..].iter().zip(yielded) {
            self.same(*arg, *value)?;
        }
        let stacks_rows = yielded[inits.len()..].iter().any(|v| self.has(*v));
        (!stacks_rows || scan.is_some_and(|s| s.axis > 0)).then_some(())?;
        self.copy(yielded, &data.results)
    }

    /// Whether a node with operands that have rows keeps them apart.
    fn keeps(&self, data: &NodeData) -> Proven {
        let m = self.m;
        let result = *data.results.first()?;
        let rank = self.rank(result);
        let has = |n: usize| data.optional(n).is_some_and(|v| self.has(v));
        let only = |rowed: &[usize]| {
            (0..data.operands.len()).all(|n| data.optional(n).is_none() || has(n) == rowed.contains(&n))
        };
        // Aligned with the result at the last axis, as operands of elementwise arithmetic are.
        let aligned = |v: Value| match self.has(v) {
            true => self.rank(v) == rank,
            false => self.rank(v) < rank || m.ty(v).dims[0].is(1),
        };
        let behind = || axis(data, self.rank(data.operand(0))) != 0;
        let holds = match data.op {
            op if op.is_scalar() => data.inputs().all(aligned),
            Op::Broadcast => aligned(data.operand(0)),
            Op::Reshape => true,
            Op::Transpose => data.attrs.ints("perm").first() == Some(&0),
            Op::Slice | Op::Argmax | Op::Softmax | Op::LogSoftmax | Op::L2Normalize | Op::Topk => behind(),
            Op::LayerNorm | Op::RmsNorm => behind() && only(&[0]),
            Op::Concat => axis(data, rank) != 0 && data.inputs().all(|v| self.has(v)),
            Op::Pad => data.attrs.ints("low").first() == Some(&0) && data.attrs.ints("high").first() == Some(&0),
            Op::Reduce => {
                let rank = self.rank(data.operand(0)) as i64;
                data.attrs.ints("axes").iter().all(|a| *a != 0 && *a + rank != 0)
            }
            Op::Linear => {
                let add = data.optional(3).is_none_or(aligned);
                has(0) && !has(1) && !has(2) && add
            }
            Op::Matmul => {
                let (a, b) = (data.operand(0), data.operand(1));
                let batch = |v: Value| self.has(v) && self.rank(v) == rank && rank > 2;
                match (self.has(a), self.has(b)) {
                    (true, false) => self.rank(a) == rank && self.rank(b) == 2,
                    (true, true) => batch(a) && batch(b),
                    _ => batch(b) && (self.rank(a) < rank || m.ty(a).dims[0].is(1)),
                }
            }
            Op::Gather => match (data.attrs.int("batch").unwrap_or(0) > 0, has(0), has(1)) {
                (true, true, true) => true,
                (false, false, true) => axis(data, self.rank(data.operand(0))) == 0,
                (false, true, false) => behind(),
                _ => false,
            },
            Op::Attention => {
                let mask = data.optional(3).is_none_or(|v| match self.has(v) {
                    true => self.rank(v) == 4,
                    false => self.rank(v) < 4 || m.ty(v).dims[0].is(1),
                });
                has(0) && has(1) && has(2) && mask
            }
            Op::DecodeAttention => only(&[0, 1, 2, 3]),
            Op::Conv => only(&[0]),
            Op::LstmCell => only(&[0, 1, 2]),
            Op::GruCell => only(&[0, 1]),
            _ => false,
        };
        holds.then_some(())
    }

    /// Writes `symbol` for the number of rows into the types of the body, and arguments of their own for what it reads
    /// of rows outside; gives these.
    fn rewrite(&self, to: &mut Module, symbol: Symbol) -> Vec<(Value, Value)> {
        let rows = Dim::symbol(symbol);
        for value in &self.rowed {
            to.values[*value].ty.dims[0] = rows.clone();
        }
        let mut reads: Vec<Value> = vec![];
        let m = self.m;
        let regions = self.inside.1.iter().flat_map(|n| &m.nodes[*n].regions).chain(&m.nodes[self.node].regions);
        let regions: Vec<Region> = regions.copied().collect();
        let used = self.inside.1.iter().flat_map(|n| m.nodes[*n].inputs());
        for value in used.chain(regions.iter().flat_map(|r| m.regions[*r].results.iter().copied())) {
            if !self.inside.0.contains(&value) && self.has(value) && !reads.contains(&value) {
                reads.push(value);
            }
        }
        let types = reads.iter().map(|v| {
            let mut ty = m.ty(*v).clone();
            ty.dims[0] = rows.clone();
            (None, ty)
        });
        let types: Vec<_> = types.collect();
        let frame = to.add_region(types);
        let reads: Vec<(Value, Value)> = reads.into_iter().zip(to.regions[frame].args.clone()).collect();
        let renamed: HashMap<Value, Value> = reads.iter().copied().collect();
        let rename = |v: &mut Value| {
            if let Some(to) = renamed.get(v) {
                *v = *to;
            }
        };
        for node in &self.inside.1 {
            let data = &mut to.nodes[*node];
            data.operands.iter_mut().flatten().for_each(rename);
            let rowed = data.results.first().is_some_and(|r| self.rowed.contains(r));
            if rowed && matches!(data.op, Op::Broadcast | Op::Reshape | Op::Iota) {
                let mut dims = data.attrs.dims("to").to_vec();
                dims[0] = rows.clone();
                data.attrs.set("to", dims);
            }
        }
        for region in regions {
            to.regions[region].results.iter_mut().for_each(rename);
        }
        reads
    }
}
