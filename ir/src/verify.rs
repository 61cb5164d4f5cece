//! The verifier: after it, a malformed module is a bug of ours.
//!
//! It checks that
//! - names of symbols, entries, states, inputs and outputs are unique, as are the labels of values that are visible
//!   together, and every symbol in a type is declared;
//! - sizes are not so long that multiplying them out would take more than a moment;
//! - what an input accepts fits its type;
//! - operands are defined before their use, in the same region or one around it; the body of a `fusion` uses nothing
//!   from outside but constants of rank 0;
//! - every node fits the signature of its op, and the types of its results are those that the op infers;
//! - circuits are smooth and decomposable;
//! - constants have as many elements as their type, each a value of it; weights have constant sizes;
//! - at stage `canonical` and later, axes are non-negative; at stage `legal`, no composite op stands outside of what the
//!   target takes (checked by the pass `legalize`, which knows the target).
//!
//! All errors are collected.

use crate::{
    Attr, Def, Dim, Label, Module, Node, NodeData, Op, Region, Type, Value,
    attr::Attrs,
    ops::{Arity, Cx, Primitive, RegionTypes, Violation},
    text::at_text,
};
use std::{cell::RefCell, collections::HashSet, fmt, ops::Deref};

/// A module that the verifier has passed: the only thing that backends take.
#[derive(Clone, Copy)]
pub struct Verified<'a>(&'a Module);

impl Deref for Verified<'_> {
    type Target = Module;
    fn deref(&self) -> &Module {
        self.0
    }
}

/// One thing that is wrong with a module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyError {
    /// The node as text, or the part of the module.
    pub place: String,
    /// Where in the model file it came from.
    pub source: Option<String>,
    pub message: String,
}

/// Everything that is wrong with a module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyErrors(pub Vec<VerifyError>);

impl fmt::Display for VerifyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, e) in self.0.iter().enumerate() {
            write!(f, "{}{}: {}", if i > 0 { "\n" } else { "" }, e.place, e.message)?;
            if let Some(source) = &e.source {
                write!(f, " (from {source})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for VerifyErrors {}

/// Checks a module; see the text of this file for the list.
pub fn verify(m: &Module) -> Result<Verified<'_>, VerifyErrors> {
    let mut v = Verifier {
        m,
        errors: vec![],
        seen_regions: HashSet::new(),
        visible: HashSet::new(),
        labels: HashSet::new(),
        changed: HashSet::new(),
        nesting: 0,
    };
    v.declarations();
    for entry in &m.entries {
        if entry.outputs.len() != m.regions[entry.body].results.len() {
            v.report(format!("entry {}", at_text(&entry.name)), "outputs and results differ in number");
        }
        v.changed.clear();
        v.region(entry.body, "return", false, false);
    }
    if v.errors.is_empty() { Ok(Verified(m)) } else { Err(VerifyErrors(v.errors)) }
}

/// Infers the types of a node that is not in the module yet, after checking its signature.
pub(crate) fn infer(
    m: &Module,
    op: Op,
    operands: &[Option<Value>],
    attrs: &Attrs,
    regions: &[Region],
) -> Result<Vec<Type>, Violation> {
    signature(op, operands, attrs, regions.len())?;
    let sizes = operands.iter().flatten().map(|v| m.ty(*v).dims.as_slice());
    let lists = attrs.iter().filter_map(|(_, a)| if let Attr::Dims(d) = a { Some(d.as_slice()) } else { None });
    if let Some(long) = sizes.chain(lists).find(|d| too_long(d)) {
        return Err(Violation::new("signature", format!("sizes of {} axes are too long", long.len())));
    }
    let cx = context(m, op, operands, attrs, regions);
    (op.def().infer)(&cx)
}

/// What the declaration of `op` sees of a node.
pub(crate) fn context<'a>(
    m: &'a Module,
    op: Op,
    operands: &[Option<Value>],
    attrs: &'a Attrs,
    regions: &[Region],
) -> Cx<'a> {
    let types = |values: &[Value]| values.iter().map(|v| m.ty(*v).clone()).collect();
    Cx {
        op,
        operands: operands.iter().map(|v| v.map(|v| m.ty(v).clone())).collect(),
        attrs,
        regions: regions
            .iter()
            .map(|r| RegionTypes { args: types(&m.regions[*r].args), results: types(&m.regions[*r].results) })
            .collect(),
        symbols: &m.symbols,
        module: Some(m),
        asked: RefCell::default(),
    }
}

impl Module {
    /// What the declaration of a node's op sees of it.
    pub fn cx(&self, node: Node) -> Cx<'_> {
        let data = &self.nodes[node];
        context(self, data.op, &data.operands, &data.attrs, &data.regions)
    }

    /// How errors name a node: `%3 = matmul`, or its op where it has no result.
    pub fn place(&self, node: Node) -> String {
        let data = &self.nodes[node];
        match data.results.first() {
            Some(v) => format!("{} = {}", self.show(*v), data.op),
            None => data.op.to_string(),
        }
    }
}

/// Whether the number of elements would have too many terms.
fn too_long(dims: &[Dim]) -> bool {
    let terms = dims.iter().try_fold(1usize, |n, d| n.checked_mul(d.terms().len().max(1)).filter(|n| *n <= MAX_TERMS));
    terms.is_none() || dims.iter().any(|d| d.weight() > MAX_WEIGHT)
}

const MAX_TERMS: usize = 256;
const MAX_WEIGHT: usize = 4096;

fn signature(op: Op, operands: &[Option<Value>], attrs: &Attrs, regions: usize) -> Result<(), Violation> {
    let def = op.def();
    let fail = |message: String| Err(Violation::new("signature", message));
    let required = def.required_operands();
    let too_many = !def.is_variadic() && operands.len() > def.operands.len();
    let absent = operands
        .iter()
        .enumerate()
        .find(|(i, v)| v.is_none() && def.operands.get(*i).is_none_or(|o| o.arity != Arity::Optional));
    if operands.len() < required || too_many || absent.is_some() {
        let present = operands.iter().flatten().count();
        return fail(format!("{op} takes {required} operands, found {present}"));
    }
    for a in def.attrs.iter().filter(|a| a.required) {
        if attrs.get(a.name).is_none() {
            return fail(format!("{op} lacks the attribute `{}`", a.name));
        }
    }
    for (name, value) in attrs.iter() {
        match def.attrs.iter().find(|a| a.name == name) {
            None => return fail(format!("{op} has no attribute `{name}`")),
            Some(a) if !a.kind.accepts(value) => {
                return fail(format!("`{name}` of {op} is {}, found {value}", a.kind.describe()));
            }
            Some(_) => {}
        }
    }
    if regions != def.regions.len() {
        return fail(format!("{op} has {} regions, found {regions}", def.regions.len()));
    }
    Ok(())
}

struct Verifier<'a> {
    m: &'a Module,
    errors: Vec<VerifyError>,
    seen_regions: HashSet<Region>,
    /// The values defined where the walk is; the labels also hold those that an isolated region does not see.
    visible: HashSet<Value>,
    labels: HashSet<&'a Label>,
    /// The states that the entry has changed so far.
    changed: HashSet<&'a str>,
    /// Regions of nodes around the walk.
    nesting: usize,
}

impl<'a> Verifier<'a> {
    fn report(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.errors.push(VerifyError { place: place.into(), source: None, message: message.into() });
    }

    fn node_error(&mut self, node: Node, message: String) {
        let source = self.m.nodes[node].source.clone();
        self.errors.push(VerifyError { place: self.m.place(node), source, message });
    }

    fn declarations(&mut self) {
        let m = self.m;
        let mut unique = HashSet::new();
        let symbols = m.symbols.iter().map(|s| format!("dim {}", s.symbol));
        let entries = m.entries.iter().map(|e| format!("entry {}", at_text(&e.name)));
        let states = m.states.values().map(|s| format!("state {}", at_text(&s.name)));
        let circuits = m.circuits.values().map(|c| format!("circuit {}", at_text(&c.name)));
        let names: Vec<String> = symbols.chain(entries).chain(states).chain(circuits).collect();
        for name in names {
            if !unique.insert(name.clone()) {
                self.report(name, "stands twice");
            }
        }
        for s in &m.symbols {
            if s.min < 0 || s.max < s.min || s.multiple_of < 1 {
                self.report(format!("dim {}", s.symbol), "needs 0 <= min <= max and multiple >= 1");
            }
        }
        for p in m.params.values() {
            if m.ty(p.value).const_dims().is_none() {
                self.report(m.show(p.value), format!("{} is not of constant size", m.ty(p.value)));
            }
        }
        for c in m.consts.values() {
            let count = m.ty(c.value).const_dims().and_then(|d| d.iter().try_fold(1i64, |n, d| n.checked_mul(*d)));
            let ty = m.ty(c.value);
            if count != Some(c.data.len() as i64) {
                self.report(format!("const %{}", m.name_of(c.value)), format!("{} elements for {ty}", c.data.len()));
            } else if c.data.iter().any(|l| !l.fits(ty.elem)) {
                self.report(format!("const {}", m.show(c.value)), format!("an element is not of type {}", ty.elem));
            }
        }
        let consts = m.consts.values().map(|c| c.value).filter(|v| m.ty(*v).rank() > 0);
        for v in m.params.values().map(|p| p.value).chain(consts) {
            self.define(v);
        }
        for s in m.states.values() {
            if s.grows.is_some_and(|a| a < 0 || a as usize >= s.ty.rank()) {
                self.report(format!("state {}", at_text(&s.name)), "grows along an axis that it lacks");
            }
            if s.capacity < 0 {
                self.report(format!("state {}", at_text(&s.name)), "its capacity is negative");
            }
            self.symbols_declared(&s.ty, &format!("state {}", at_text(&s.name)));
        }
        self.circuits();
        for e in &m.entries {
            let (mut inputs, mut outputs) = (HashSet::new(), HashSet::new());
            for arg in &m.regions[e.body].args {
                let name = m.name_of(*arg);
                if !inputs.insert(name.clone()) {
                    self.report(format!("entry {}", at_text(&e.name)), format!("input {name} stands twice"));
                }
            }
            for (n, accepts) in &e.accepts {
                let place = format!("entry {}", at_text(&e.name));
                let Some(arg) = m.regions[e.body].args.get(*n) else {
                    self.report(place, format!("input {n} is declared, but there is none"));
                    continue;
                };
                if let Some(problem) = accepts.misfit(m.ty(*arg)) {
                    self.report(place.clone(), format!("input {}: {problem}", m.name_of(*arg)));
                }
                for s in accepts.symbols() {
                    if !m.symbols.iter().any(|f| f.symbol == s) {
                        self.report(place.clone(), format!("`{accepts}` uses {s}, which no `dim` declares"));
                    }
                }
            }
            for o in &e.outputs {
                if !outputs.insert(o) {
                    self.report(format!("entry {}", at_text(&e.name)), format!("output {o} stands twice"));
                }
            }
        }
    }

    fn circuits(&mut self) {
        for c in self.m.circuits.values() {
            let place = format!("circuit {}", at_text(&c.name));
            match c.scope_violations() {
                Some((found, _)) => found.into_iter().for_each(|v| self.report(place.clone(), v.message)),
                None => self.report(place, "its nodes have too many different sets of variables"),
            }
        }
    }

    fn symbols_declared(&mut self, ty: &Type, place: &str) {
        for s in ty.dims.iter().flat_map(|d| d.symbols()) {
            if !self.m.symbols.iter().any(|f| f.symbol == s) {
                self.report(place, format!("{ty} uses {s}, which no `dim` declares"));
            }
        }
    }

    /// Takes a value into scope.
    fn define(&mut self, value: Value) {
        let m = self.m;
        if !self.labels.insert(&m.values[value].label) {
            self.report(m.show(value), "is defined twice");
        }
        self.visible.insert(value);
        let ty = m.ty(value);
        self.symbols_declared(ty, &m.show(value));
        if ty.dims.iter().any(|d| d.range(&m.symbols).1 < 0) {
            self.report(m.show(value), format!("{ty} has a negative size"));
        }
    }

    /// What is wrong with where an op on a state stands.
    fn misuse_of_state(&mut self, data: &'a NodeData) -> Option<String> {
        let name = data.attrs.name("state").filter(|_| data.op.has_effect())?;
        let (alone, outermost) = match data.op {
            Op::StateAppend => ("C3", "C4"),
            Op::StateReset => ("C2", "C3"),
            _ => return self.changed.contains(name).then(|| format!("C2: @{name} has been changed before")),
        };
        if !self.changed.insert(name) {
            return Some(format!("{alone}: @{name} has been changed before"));
        }
        (self.nesting > 0).then(|| format!("{outermost}: @{name} is changed inside of a region"))
    }

    fn sees(&self, value: Value, isolated: bool) -> bool {
        match self.m.values[value].def {
            Def::Const(_) => !isolated || self.m.ty(value).rank() == 0,
            Def::Param(_) => !isolated,
            Def::Arg(..) | Def::Result(..) => self.visible.contains(&value),
        }
    }

    /// A region sees what the regions around it have defined so far. `isolated` is true within a `fusion`, whose body
    /// sees nothing from outside.
    fn region(&mut self, region: Region, end: &str, isolated: bool, is_body_of_fusion: bool) {
        let m = self.m;
        if !self.seen_regions.insert(region) {
            self.report(end, "the region belongs to two nodes");
            return;
        }
        let outside = is_body_of_fusion.then(|| std::mem::take(&mut self.visible));
        let data = &m.regions[region];
        data.args.iter().for_each(|v| self.define(*v));
        for node in &data.nodes {
            self.node(*node, isolated);
        }
        for v in &data.results {
            if !self.sees(*v, isolated) {
                self.report(format!("{end} {}", m.show(*v)), "is not defined before its use");
            }
        }
        for v in data.args.iter().chain(data.nodes.iter().flat_map(|n| &m.nodes[*n].results)) {
            self.visible.remove(v);
            self.labels.remove(&m.values[*v].label);
        }
        if let Some(outside) = outside {
            self.visible = outside;
        }
    }

    fn node(&mut self, node: Node, isolated: bool) {
        let m = self.m;
        let data = &m.nodes[node];
        for v in data.inputs() {
            if !self.sees(v, isolated) {
                self.node_error(node, format!("{} is not defined before its use", m.show(v)));
            }
        }
        self.nesting += 1;
        for inner in &data.regions {
            let fusion = data.op.is_primitive(Primitive::Fusion);
            self.region(*inner, "yield", isolated || fusion, fusion);
        }
        self.nesting -= 1;
        if let Some(problem) = self.misuse_of_state(data) {
            self.node_error(node, format!("{} {problem}", data.op));
        }
        match infer(m, data.op, &data.operands, &data.attrs, &data.regions) {
            Ok(types) => {
                let written: Vec<&Type> = data.results.iter().map(|v| m.ty(*v)).collect();
                if written != types.iter().collect::<Vec<_>>() {
                    let list = |t: Vec<String>| t.join(", ");
                    let expected = list(types.iter().map(Type::to_string).collect());
                    let found = list(written.iter().map(|t| t.to_string()).collect());
                    self.node_error(node, format!("expected {expected}, found {found}"));
                }
            }
            Err(violation) => self.node_error(node, format!("{} {violation}", data.op)),
        }
        for (name, dim) in data.attrs.iter().filter_map(|(n, a)| if let Attr::Dim(d) = a { Some((n, d)) } else { None })
        {
            for s in dim.symbols().into_iter().filter(|s| !m.symbols.iter().any(|f| f.symbol == *s)) {
                self.node_error(node, format!("{name}={dim} uses {s}, which no `dim` declares"));
            }
        }
        let negative_axis = data.attrs.int("axis").is_some_and(|v| v < 0)
            || matches!(data.attrs.get("axes"), Some(Attr::Ints(v)) if v.iter().any(|a| *a < 0));
        if m.stage > crate::Stage::Imported && negative_axis {
            self.node_error(node, format!("axes are non-negative at stage {}", m.stage.name()));
        }
        data.results.iter().for_each(|v| self.define(*v));
    }
}
