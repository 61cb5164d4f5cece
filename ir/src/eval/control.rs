//! The walk over nodes and regions, and the ops that own regions or touch states.

use super::{
    EvalError, Limits, Weights, compute, movement, region_on,
    sizes::describe,
    tensor::{Data, Tensor, count},
};
use crate::{
    Def, ElemType, Module, Node, Op, Region, Symbol, Type, Value,
    accepts::coordinates,
    ops::{Meaning, Primitive, Scan, Seq, Violation, norm_axis},
    scalar::Builder,
};
use cranelift_entity::SecondaryMap;
use std::{collections::HashMap, rc::Rc};

/// Regions within regions; as many as the parser allows.
const MAX_DEPTH: usize = 64;

type Tensors = Vec<Rc<Tensor>>;

/// One evaluation in progress.
pub(super) struct Run<'a> {
    pub(super) module: &'a Module,
    weights: &'a Weights<'a>,
    pub(super) states: &'a mut HashMap<String, Tensor>,
    pub(super) limits: Limits,
    pub(super) symbols: HashMap<Symbol, i64>,
    values: SecondaryMap<Value, Option<Rc<Tensor>>>,
    /// Elements of all tensors in `values`.
    pub(super) live: usize,
    steps: u64,
    depth: usize,
    /// For each position in a region, the values of the region that nothing behind it uses.
    last_uses: HashMap<Region, Rc<Vec<Vec<Value>>>>,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        module: &'a Module,
        weights: &'a Weights<'a>,
        states: &'a mut HashMap<String, Tensor>,
        limits: Limits,
    ) -> Run<'a> {
        Run {
            module,
            weights,
            states,
            limits,
            symbols: HashMap::new(),
            values: SecondaryMap::new(),
            live: 0,
            steps: 0,
            depth: 0,
            last_uses: HashMap::new(),
        }
    }

    /// An error at a node.
    pub(super) fn at(&self, node: Node, message: String) -> EvalError {
        let data = &self.module.nodes[node];
        EvalError::Node { place: self.module.place(node), origin: data.source.clone(), message }
    }

    /// Sizes of the inputs that do not suit a node.
    fn sizes(&self, node: Node, message: String) -> EvalError {
        let data = &self.module.nodes[node];
        EvalError::Sizes { place: self.module.place(node), origin: data.source.clone(), message }
    }

    /// An index out of range that came of the inputs.
    fn range(&self, node: Node, message: String) -> EvalError {
        let data = &self.module.nodes[node];
        EvalError::Range { place: self.module.place(node), origin: data.source.clone(), message }
    }

    /// Where an element of a value comes from, if it is one of an input.
    fn input_place(&self, mut value: Value, at: usize) -> String {
        let m = self.module;
        // Both keep the elements in their order.
        while let Some(node) = m.producer(value).filter(|n| matches!(m.nodes[*n].op, Op::Convert | Op::Reshape)) {
            let Some(operand) = m.nodes[node].inputs().next() else { break };
            value = operand;
        }
        match (m.values[value].def, self.shape(m.ty(value))) {
            (Def::Arg(region, _), Ok(shape)) if m.entries.iter().any(|e| e.body == region) => {
                format!(", in input {}{:?}", m.name_of(value), coordinates(&shape, at))
            }
            _ => String::new(),
        }
    }

    fn too_many_steps(&self, node: Node) -> EvalError {
        let message = format!("more than {} nodes are executed", self.limits.steps);
        EvalError::Limit { place: self.module.place(node), message }
    }

    pub(super) fn holds(&self, value: Value) -> bool {
        self.values[value].is_some()
    }

    fn set(&mut self, value: Value, tensor: Rc<Tensor>) {
        self.live = self.live.saturating_add(tensor.data.len());
        if let Some(old) = self.values[value].replace(tensor) {
            self.live = self.live.saturating_sub(old.data.len());
        }
    }

    fn free(&mut self, value: Value) {
        if let Some(old) = self.values[value].take() {
            self.live = self.live.saturating_sub(old.data.len());
        }
    }

    /// The tensor of a value; weights and constants come into being where they are first used.
    pub(super) fn value(&mut self, value: Value) -> Result<Rc<Tensor>, EvalError> {
        if let Some(known) = &self.values[value] {
            return Ok(known.clone());
        }
        let m = self.module;
        let weight = |message: String| EvalError::Weight { name: m.name_of(value), message };
        let tensor = match m.values[value].def {
            Def::Param(param) => {
                let shape = self.shape(m.ty(value)).map_err(weight)?;
                self.reserve(&shape, || m.show(value))?;
                let tensor = (self.weights)(param).map_err(weight)?;
                tensor.check().map_err(weight)?;
                if tensor.elem != m.ty(value).elem || tensor.shape != shape {
                    return Err(weight(format!("expected {}, found {}", m.ty(value), describe(&tensor))));
                }
                tensor
            }
            Def::Const(c) => {
                let shape = self.shape(m.ty(value)).map_err(weight)?;
                let tensor = Tensor::from_literals(m.ty(value).elem, shape, &m.consts[c].data);
                tensor.check().map_err(weight)?;
                tensor
            }
            Def::Arg(..) | Def::Result(..) => {
                let place = m.show(value);
                return Err(EvalError::Node { place, origin: None, message: "has no value here".into() });
            }
        };
        let tensor = Rc::new(tensor);
        self.set(value, tensor.clone());
        Ok(tensor)
    }

    /// For each node of the region, the values to drop behind it: defined by the region, and not used further on.
    fn last_uses(&mut self, region: Region) -> Rc<Vec<Vec<Value>>> {
        if let Some(known) = self.last_uses.get(&region) {
            return known.clone();
        }
        let m = self.module;
        let data = &m.regions[region];
        let mut last: HashMap<Value, usize> = HashMap::new();
        for (position, node) in data.nodes.iter().enumerate() {
            last.extend(m.nodes[*node].results.iter().map(|v| (*v, position)));
        }
        last.extend(data.args.iter().map(|v| (*v, 0)));
        for (position, node) in data.nodes.iter().enumerate() {
            let inner = m.nodes[*node].regions.iter().flat_map(|r| m.regions_in(*r)).map(|r| &m.regions[r]);
            let used = inner.flat_map(|r| {
                let operands = r.nodes.iter().flat_map(|n| m.nodes[*n].inputs());
                operands.chain(r.results.iter().copied())
            });
            for v in used.chain(m.nodes[*node].inputs()) {
                last.entry(v).and_modify(|at| *at = position);
            }
        }
        let mut drops = vec![vec![]; data.nodes.len()];
        for (v, position) in last {
            if let Some(list) = drops.get_mut(position).filter(|_| !data.results.contains(&v)) {
                list.push(v);
            }
        }
        let drops = Rc::new(drops);
        self.last_uses.insert(region, drops.clone());
        drops
    }

    /// Runs a region on arguments; gives its results.
    pub(super) fn region(&mut self, region: Region, args: Tensors) -> Result<Tensors, EvalError> {
        let m = self.module;
        let data = &m.regions[region];
        if self.depth >= MAX_DEPTH {
            return Err(EvalError::Limit {
                place: region.to_string(),
                message: "regions are nested too deeply".into(),
            });
        }
        self.depth += 1;
        for (arg, tensor) in data.args.iter().zip(args) {
            self.set(*arg, tensor);
        }
        let drops = self.last_uses(region);
        for (node, dead) in data.nodes.iter().zip(drops.iter()) {
            self.step(*node)?;
            dead.iter().for_each(|v| self.free(*v));
        }
        let results = data.results.iter().map(|v| self.value(*v)).collect::<Result<Tensors, _>>()?;
        let inner = data.args.iter().chain(data.nodes.iter().flat_map(|n| &m.nodes[*n].results));
        inner.for_each(|v| self.free(*v));
        self.depth -= 1;
        Ok(results)
    }

    /// Executes one node and keeps its results.
    pub(super) fn step(&mut self, node: Node) -> Result<(), EvalError> {
        let m = self.module;
        let data = &m.nodes[node];
        self.steps += 1;
        if self.steps > self.limits.steps {
            return Err(self.too_many_steps(node));
        }
        let types = crate::verify::infer(m, data.op, &data.operands, &data.attrs, &data.regions)
            .map_err(|violation| self.at(node, format!("{} {violation}", data.op)))?;
        if !types.iter().eq(data.results.iter().map(|v| m.ty(*v))) {
            return Err(self.at(node, "its types are not those that the op gives".into()));
        }
        let mut operands = vec![];
        for v in &data.operands {
            operands.push(v.map(|v| self.value(v)).transpose()?);
        }
        let mut shapes = vec![];
        for ty in &types {
            let shape = self.shape(ty).map_err(|e| self.at(node, e))?;
            self.reserve(&shape, || m.place(node))?;
            shapes.push(shape);
        }
        let results = match data.op.def().meaning {
            Meaning::Scalar(expression) => {
                let mut e = Builder::new();
                let present: Vec<&Tensor> = operands.iter().flatten().map(Rc::as_ref).collect();
                let ids: Vec<_> = present.iter().enumerate().map(|(n, t)| e.input(n as u32, t.elem)).collect();
                let result = expression(&mut e, &ids, &data.attrs);
                vec![Rc::new(compute::map(&e.finish(result), &present, &shapes[0]))]
            }
            Meaning::Decompose(decompose) => self.decomposed(node, |s, x| decompose(s, x, &data.attrs), &operands)?,
            Meaning::Primitive(primitive) => self.primitive(primitive, node, operands, &shapes)?,
        };
        for ((value, tensor), (ty, shape)) in data.results.iter().zip(results).zip(types.iter().zip(&shapes)) {
            if tensor.elem != ty.elem || tensor.shape != *shape || count(shape) != Some(tensor.data.len()) {
                return Err(self.at(node, format!("expected {ty} as {shape:?}, found {}", describe(&tensor))));
            }
            self.set(*value, tensor);
        }
        Ok(())
    }

    /// A composite op: its decomposition for the sizes at hand, evaluated as a module of its own.
    fn decomposed(
        &self,
        node: Node,
        decompose: impl Fn(&mut Seq<'_>, &[Option<Value>]) -> Result<Vec<Value>, Violation>,
        operands: &[Option<Rc<Tensor>>],
    ) -> Result<Tensors, EvalError> {
        let mut m = Module::new("decomposition");
        let types = operands.iter().flatten().map(|t| Type::new(t.elem, t.shape.iter().map(|d| *d as i64)));
        let body = m.add_region(types.map(|ty| (None, ty)));
        let mut args = m.regions[body].args.clone().into_iter();
        let x: Vec<Option<Value>> = operands.iter().map(|o| o.as_ref().and_then(|_| args.next())).collect();
        let mut seq = Seq::new(&mut m, None);
        let results = decompose(&mut seq, &x).map_err(|violation| self.at(node, violation.to_string()))?;
        let nodes = seq.nodes;
        m.regions[body].nodes = nodes;
        m.regions[body].results = results;
        let limits = Limits {
            elements: self.limits.elements.saturating_sub(self.live),
            steps: self.limits.steps.saturating_sub(self.steps),
        };
        region_on(&m, body, operands.iter().flatten().cloned().collect(), limits).map_err(|inner| match inner {
            EvalError::Limit { message, .. } => EvalError::Limit { place: self.module.place(node), message },
            EvalError::Range { message, .. } => self.range(node, message),
            EvalError::Sizes { message, .. } => self.sizes(node, message),
            inner => self.at(node, inner.to_string()),
        })
    }

    fn primitive(
        &mut self,
        primitive: Primitive,
        node: Node,
        operands: Vec<Option<Rc<Tensor>>>,
        shapes: &[Vec<usize>],
    ) -> Result<Tensors, EvalError> {
        let m = self.module;
        let data = &m.nodes[node];
        let attrs = &data.attrs;
        let given: Tensors = operands.iter().flatten().cloned().collect();
        let optional = |n: usize| operands.get(n).and_then(Option::as_deref);
        let axis = |rank: usize| norm_axis(attrs.int("axis").unwrap_or(0), rank).unwrap_or(0);
        let one = |t: Tensor| Ok(vec![Rc::new(t)]);
        match primitive {
            Primitive::Reshape => one(movement::reshape(&given[0], &shapes[0])),
            Primitive::Transpose => one(movement::transpose(&given[0], attrs.ints("perm"))),
            Primitive::Broadcast => one(movement::broadcast(&given[0], &shapes[0])),
            Primitive::Slice => {
                let axis = axis(given[0].shape.len());
                let size = |name| attrs.dim(name).map(|d| self.size(d)).transpose().map_err(|e| self.at(node, e));
                let start = size("start")?.unwrap_or(0);
                let end = size("end")?.unwrap_or(given[0].shape[axis] as i64);
                let sliced = movement::slice(&given[0], axis, start, end, attrs.int("step").unwrap_or(1));
                one(sliced.map_err(|e| self.sizes(node, e))?)
            }
            Primitive::Pad => {
                let value = attrs.float("value").unwrap_or(0.0);
                one(movement::pad(&given[0], &shapes[0], attrs.ints("low"), value))
            }
            Primitive::Concat => {
                let parts: Vec<&Tensor> = given.iter().map(Rc::as_ref).collect();
                one(movement::concat(&parts, axis(shapes[0].len()), &shapes[0]))
            }
            Primitive::Gather => {
                let batch = usize::try_from(attrs.int("batch").unwrap_or(0)).unwrap_or(0);
                let gathered = movement::gather(&given[0], &given[1], (batch, axis(given[0].shape.len())), &shapes[0]);
                let indices = data.inputs().nth(1);
                one(gathered.map_err(|(at, e)| {
                    let place = indices.map(|v| self.input_place(v, at)).unwrap_or_default();
                    self.range(node, e + &place)
                })?)
            }
            Primitive::Iota => {
                let elem = attrs.elem("elem").unwrap_or(ElemType::I64);
                one(movement::iota(elem, &shapes[0], axis(shapes[0].len())))
            }
            Primitive::Reduce => {
                let rank = given[0].shape.len();
                let axes: Vec<usize> = attrs.ints("axes").iter().filter_map(|a| norm_axis(*a, rank).ok()).collect();
                one(compute::reduce(&given[0], attrs.word("kind").unwrap_or("sum"), &axes, &shapes[0]))
            }
            Primitive::Argmax => {
                let result = compute::argmax(&given[0], axis(given[0].shape.len()), &shapes[0]);
                one(result.map_err(|e| self.sizes(node, e))?)
            }
            Primitive::Topk => {
                let axis = axis(given[0].shape.len());
                let k = shapes[0][axis];
                let result = compute::topk(&given[0], axis, k, &shapes[0]).map_err(|e| self.sizes(node, e))?;
                Ok(result.into_iter().map(Rc::new).collect())
            }
            Primitive::Matmul => one(compute::matmul(&given[0], &given[1], &shapes[0])),
            Primitive::Conv => {
                let conv = compute::ConvAttrs {
                    strides: attrs.ints("strides"),
                    low: attrs.ints("low"),
                    dilations: attrs.ints("dilations"),
                    groups: usize::try_from(attrs.int("groups").unwrap_or(1)).unwrap_or(1).max(1),
                };
                one(compute::conv(&given[0], &given[1], optional(2), &conv, &shapes[0]))
            }
            Primitive::DecodeAttention => {
                let scale = attrs.float("scale").unwrap_or(1.0);
                let done = super::decode::attention([0, 1, 2, 3].map(|n| &*given[n]), scale, &shapes[0]);
                let lengths = data.inputs().nth(3);
                one(done.map_err(|(at, e)| {
                    let place = lengths.map(|v| self.input_place(v, at)).unwrap_or_default();
                    self.range(node, e + &place)
                })?)
            }
            Primitive::Fusion => self.region(data.regions[0], given),
            Primitive::If => {
                let region = data.regions[usize::from(!truths(&given[0]).contains(&true))];
                self.region(region, vec![])
            }
            Primitive::For => {
                let count = integers(&given[0]).first().copied().unwrap_or(0);
                let mut carried = given[1..].to_vec();
                for step in 0..count.max(0) {
                    let step = Rc::new(Tensor::ints(ElemType::I64, [], vec![step]));
                    self.tick(node)?;
                    let args = std::iter::once(step).chain(carried).collect();
                    carried = self.region(data.regions[0], args)?;
                }
                Ok(carried)
            }
            Primitive::While => {
                let mut carried = given;
                let max = attrs.dim("max").map_or(Ok(0), |d| self.size(d)).map_err(|e| self.at(node, e))?;
                let mut done = 0;
                loop {
                    let condition = self.region(data.regions[0], carried.clone())?;
                    let holds = truths(&condition[0]);
                    if !holds.contains(&true) {
                        return Ok(carried);
                    }
                    if done >= max {
                        return Err(EvalError::Loop { place: m.place(node), origin: data.source.clone(), max });
                    }
                    done += 1;
                    self.tick(node)?;
                    let old = carried.clone();
                    carried = self.region(data.regions[1], carried)?;
                    if !condition[0].shape.is_empty() {
                        keep_rows(&mut carried, &old, &holds);
                    }
                }
            }
            Primitive::Scan => self.scan(node, given, shapes),
            Primitive::CircuitQuery => self.circuit(node, &operands, shapes),
            Primitive::StateRead | Primitive::StateAppend | Primitive::StateReset => {
                self.state(primitive, node, given.first(), shapes)
            }
        }
    }

    fn circuit(
        &mut self,
        node: Node,
        operands: &[Option<Rc<Tensor>>],
        shapes: &[Vec<usize>],
    ) -> Result<Tensors, EvalError> {
        let data = &self.module.nodes[node];
        let name = data.attrs.name("circuit").unwrap_or("");
        let (Some(c), Some(x)) = (self.module.circuit(name), &operands[0]) else {
            return Err(self.at(node, format!("no circuit @{name}")));
        };
        let kind = data.attrs.word("kind").unwrap_or("evidence");
        // Each row visits every edge, and for marginals every value; a visit is a small part of what a node takes.
        let values = if kind == "marginals" { u64::from(c.max_values().max(1)) } else { 1 };
        let each = ((c.len() + c.edges()) as u64).saturating_mul(values);
        self.steps = self.steps.saturating_add(each.saturating_mul(x.shape[0] as u64) / 64);
        if self.steps > self.limits.steps {
            return Err(self.too_many_steps(node));
        }
        let results: Vec<_> =
            data.results.iter().zip(shapes).map(|(v, shape)| (self.module.ty(*v).elem, shape.clone())).collect();
        let [mask, seed] = [1, 2].map(|n| operands.get(n).and_then(Option::as_deref));
        Ok(super::circuit::query(c, kind, x, mask, seed, &results).into_iter().map(Rc::new).collect())
    }

    /// Counts an iteration, so that an empty body cannot run for ever.
    fn tick(&mut self, node: Node) -> Result<(), EvalError> {
        self.steps += 1;
        if self.steps > self.limits.steps {
            return Err(self.too_many_steps(node));
        }
        Ok(())
    }

    fn scan(&mut self, node: Node, given: Tensors, shapes: &[Vec<usize>]) -> Result<Tensors, EvalError> {
        let data = &self.module.nodes[node];
        let scan = Scan::of(data);
        let axis = scan.axis;
        let (lengths, xs) = given.split_at(usize::from(scan.lengths.is_some()));
        let (xs, inits) = xs.split_at(scan.inputs.len());
        let mut carried = inits.to_vec();
        let carries = carried.len();
        let mut stacked: Vec<Tensors> = vec![vec![]; shapes.len() - carries];
        let size = xs[0].shape[axis] as i64;
        for step in 0..size {
            let step = if scan.reverse { size - 1 - step } else { step };
            let mut args = vec![];
            for x in xs {
                let mut slice = movement::slice(x, axis, step, step + 1, 1).map_err(|e| self.at(node, e))?;
                slice.shape.remove(axis);
                args.push(Rc::new(slice));
            }
            let mut old = carried.clone();
            args.extend(carried);
            self.tick(node)?;
            let mut results = self.region(data.regions[0], args)?;
            if let [lengths] = lengths {
                let zeros = results[carries..].iter().map(|t| Rc::new(movement::filled(t.elem, &t.shape, 0.0)));
                old.extend(zeros);
                let begun: Vec<bool> = integers(lengths).iter().map(|length| step < *length).collect();
                keep_rows(&mut results, &old, &begun);
            }
            for (list, mut slice) in stacked.iter_mut().zip(results.split_off(carries)) {
                Rc::make_mut(&mut slice).shape.insert(axis, 1);
                list.push(slice);
            }
            carried = results;
        }
        if scan.reverse {
            stacked.iter_mut().for_each(|list| list.reverse());
        }
        let types = data.results[carries..].iter().map(|v| self.module.ty(*v).elem);
        for ((list, shape), elem) in stacked.iter().zip(&shapes[carries..]).zip(types) {
            let parts: Vec<&Tensor> = list.iter().map(Rc::as_ref).collect();
            let whole = if parts.is_empty() {
                movement::filled(elem, shape, 0.0)
            } else {
                movement::concat(&parts, axis, shape)
            };
            carried.push(Rc::new(whole));
        }
        Ok(carried)
    }

    fn state(
        &mut self,
        primitive: Primitive,
        node: Node,
        x: Option<&Rc<Tensor>>,
        shapes: &[Vec<usize>],
    ) -> Result<Tensors, EvalError> {
        let m = self.module;
        let name = m.nodes[node].attrs.name("state").unwrap_or("");
        let declared = m.states.values().find(|s| s.name == name);
        let (Some(declared), Some(held)) = (declared, self.states.get(name).cloned()) else {
            return Err(self.at(node, format!("state @{name} was not prepared")));
        };
        let axis = declared.grows.and_then(|a| usize::try_from(a).ok()).filter(|a| *a < held.shape.len());
        match (primitive, x, axis) {
            (Primitive::StateReset, ..) => {
                let mut shape = held.shape.clone();
                if let Some(axis) = axis {
                    shape[axis] = 0;
                }
                self.states.insert(name.into(), movement::filled(held.elem, &shape, 0.0));
                Ok(vec![])
            }
            (Primitive::StateAppend, Some(x), Some(axis)) => {
                let size = held.shape[axis] as i64 + x.shape[axis] as i64;
                if size > declared.capacity {
                    return Err(
                        self.at(node, format!("{size} are more than the capacity {} of @{name}", declared.capacity))
                    );
                }
                let mut shape = held.shape.clone();
                shape[axis] = size as usize;
                if shape != shapes[0] {
                    return Err(self.at(node, format!("@{name} would hold {shape:?}, not {:?}", shapes[0])));
                }
                let grown = movement::concat(&[&held, x], axis, &shape);
                self.states.insert(name.into(), grown.clone());
                Ok(vec![Rc::new(grown)])
            }
            _ => Ok(vec![Rc::new(held)]),
        }
    }
}

/// The elements of a tensor of `i1`.
fn truths(t: &Tensor) -> Vec<bool> {
    integers(t).iter().map(|i| *i != 0).collect()
}

/// The elements of a tensor of integers.
fn integers(t: &Tensor) -> &[i64] {
    match &t.data {
        Data::I(v) => v,
        Data::F(_) => &[],
    }
}

/// Puts the rows of `old` back into `new`, along the first axis, that `changes` does not name.
fn keep_rows(new: &mut Tensors, old: &[Rc<Tensor>], changes: &[bool]) {
    for (new, old) in new.iter_mut().zip(old) {
        let row = new.data.len() / changes.len().max(1);
        let kept = changes.iter().enumerate().filter(|(_, change)| !**change).map(|(at, _)| at * row..(at + 1) * row);
        match (&mut Rc::make_mut(new).data, &old.data) {
            (Data::F(new), Data::F(old)) => kept.for_each(|rows| new[rows.clone()].copy_from_slice(&old[rows])),
            (Data::I(new), Data::I(old)) => kept.for_each(|rows| new[rows.clone()].copy_from_slice(&old[rows])),
            (Data::F(_), Data::I(_)) | (Data::I(_), Data::F(_)) => {}
        }
    }
}
