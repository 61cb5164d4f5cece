//! The walk over a region's nodes: values to views, nodes to launches.

use super::{
    Buffer, EntryPlan, Launch, ModulePlan, Place, PlanError, PlanOptions, Step, Unsupported, arena, entries,
    group::Group,
    layout::{Layout, axis, coalesce, is_view},
    loops::Code,
    lower,
    rows::{self, Tile},
    state, unsupported,
};
use crate::weights::{Item, SourceId, Weights};
use kiln_ir::{
    Dim, ElemType, Module, Node, Op, Region, Value,
    scalar::{Builder, Expr, Literal},
};
use kiln_kernels::{Access, KernelSpec, map};
use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    rc::Rc,
};

/// A value in memory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct View {
    pub(super) buffer: Buffer,
    pub(super) elem: ElemType,
    pub(super) layout: Layout,
}

impl View {
    pub(super) fn place(&self) -> Place {
        Place { buffer: self.buffer, offset: self.layout.offset.clone() * Dim::from(self.elem.bytes() as i64) }
    }

    /// A buffer as such.
    pub(super) fn bytes(buffer: Buffer) -> View {
        View { buffer, elem: ElemType::U8, layout: Layout::contiguous(&[]) }
    }

    pub(super) fn with(&self, layout: Layout) -> View {
        View { layout, ..self.clone() }
    }
}

/// A node without a plan, and why.
pub(super) type Refusal = (Node, String);

/// The state of planning one module; the fields of an entry are replaced for each.
pub(super) struct Planner<'m> {
    pub(super) m: &'m Module,
    pub(super) options: &'m PlanOptions,
    pub(super) weights: Weights,
    kernels: Vec<KernelSpec>,
    known_kernels: HashMap<KernelSpec, usize>,
    pub(super) weight_time: HashMap<Value, (SourceId, Layout)>,
    unsupported: Vec<Unsupported>,
    /// The loops that run on tiles of rows.
    pub(super) tiles: Rc<HashMap<Node, Tile>>,
    /// The kernel that is planned, if one is.
    pub(super) code: Option<Code>,

    pub(super) views: HashMap<Value, View>,
    /// Where results are wanted.
    pub(super) places: HashMap<Value, View>,
    /// Dense copies made so far.
    pub(super) copies: HashMap<View, View>,
    /// Bytes of each temporary.
    pub(super) temporaries: Vec<Dim>,
    pub(super) blocks: Vec<Vec<Step>>,
    pub(super) block: usize,
    /// Launches and steps so far, which is the clock of lifetimes.
    pub(super) now: usize,
    /// What each launch touches, by time.
    pub(super) uses: Vec<arena::Use>,
    pub(super) loops: Vec<Range<usize>>,
    pub(super) label: String,
}

pub(super) fn plan(m: &Module, options: &PlanOptions) -> Result<ModulePlan, PlanError> {
    let mut unsupported = entries::refusals(m);
    unsupported.extend(state::refusals(m));
    let (m, tiles) = &rows::prepare(m);
    let mut p = Planner {
        m,
        tiles: tiles.clone(),
        code: None,
        options,
        weights: Weights::default(),
        kernels: vec![],
        known_kernels: HashMap::new(),
        weight_time: HashMap::new(),
        unsupported,
        views: HashMap::new(),
        places: HashMap::new(),
        copies: HashMap::new(),
        temporaries: vec![],
        blocks: vec![],
        block: 0,
        now: 0,
        uses: vec![],
        loops: vec![],
        label: String::new(),
    };
    p.parameters();
    let entries: Vec<EntryPlan> = (0..m.entries.len()).map(|entry| p.entry(entry)).collect();
    if !p.unsupported.is_empty() {
        return Err(PlanError(p.unsupported));
    }
    Ok(ModulePlan { kernels: p.kernels, entries, weights: p.weights })
}

impl Planner<'_> {
    fn entry(&mut self, entry: usize) -> EntryPlan {
        let m = self.m;
        let body = m.entries[entry].body;
        (self.views, self.places, self.copies) = Default::default();
        (self.temporaries, self.uses, self.loops) = Default::default();
        (self.blocks, self.block, self.now) = (vec![vec![]], 0, 0);
        for (n, arg) in m.regions[body].args.iter().enumerate() {
            let view = self.dense(Buffer::Input(n as u32), *arg);
            self.views.insert(*arg, view);
        }
        let outputs: Vec<View> =
            m.regions[body].results.iter().enumerate().map(|(n, v)| self.dense(Buffer::Output(n as u32), *v)).collect();
        self.region(body, &outputs);
        let arena = arena::assign(&self.temporaries, &self.uses, &self.loops, &m.symbols).formulas(&m.symbols);
        EntryPlan {
            entry,
            blocks: std::mem::take(&mut self.blocks),
            bytes: std::mem::take(&mut self.temporaries),
            offsets: arena.offsets,
            arena_bytes: arena.bytes,
        }
    }

    fn dense(&self, buffer: Buffer, value: Value) -> View {
        let ty = self.m.ty(value);
        View { buffer, elem: ty.elem, layout: Layout::contiguous(&ty.dims) }
    }

    /// Plans the nodes of a region so that its results end in `wanted`.
    pub(super) fn region(&mut self, region: Region, wanted: &[View]) {
        let m = self.m;
        let data = &m.regions[region];
        let local: HashSet<Node> = data.nodes.iter().copied().collect();
        data.nodes.iter().for_each(|node| self.weight_node(*node));
        for (value, view) in data.results.iter().zip(wanted) {
            self.want(&local, *value, view.clone());
        }
        for node in data.nodes.iter().rev() {
            self.want_operands(&local, *node);
        }
        for node in &data.nodes {
            self.label = label(m, *node);
            if let Err((node, reason)) = self.node(*node) {
                self.refuse(node, reason);
            }
        }
        for (value, view) in data.results.iter().zip(wanted) {
            self.label = "output".into();
            self.settle(*value, view);
        }
    }

    fn refuse(&mut self, node: Node, reason: String) {
        let error = unsupported(self.m, node, reason);
        self.unsupported.push(error);
        // What follows is planned all the same, so that all that is unsupported is found.
        for result in &self.m.nodes[node].results {
            self.output(*result);
        }
    }

    /// Notes where a value should be written, if a node of the region computes it and no other place came first.
    fn want(&mut self, local: &HashSet<Node>, value: Value, view: View) {
        let computed = self.m.producer(value).is_some_and(|n| local.contains(&n));
        if computed && !self.weight_time.contains_key(&value) {
            self.places.entry(value).or_insert(view);
        }
    }

    /// Passes the place of a node's result on to operands that can be written there directly.
    fn want_operands(&mut self, local: &HashSet<Node>, node: Node) {
        let m = self.m;
        let data = &m.nodes[node];
        if is_view(data.op) {
            let operand = data.operand(0);
            if let Some(place) = self.places.get(&data.result()).cloned()
                && let Some(layout) = place.layout.back_through(data, &m.ty(operand).dims)
            {
                self.want(local, operand, place.with(layout));
            }
        }
        if data.op == Op::StateAppend
            && let Some(place) = self.appended(node)
        {
            self.want(local, data.operand(0), place);
        }
        if matches!(data.op, Op::Concat | Op::Pad) && !self.is_weight_time(node) {
            let place = self.output(data.result());
            for (operand, layout) in pieces(m, node, &place.layout) {
                self.want(local, operand, place.with(layout));
            }
        }
    }

    /// Makes sure that the value stands in `wanted`.
    pub(super) fn settle(&mut self, value: Value, wanted: &View) {
        let view = self.view(value);
        if view.buffer != wanted.buffer || view.layout != wanted.layout {
            self.copy(&view, wanted);
        }
    }

    fn node(&mut self, node: Node) -> Result<(), Refusal> {
        let m = self.m;
        let data = &m.nodes[node];
        if self.is_weight_time(node) {
            return Ok(());
        }
        match data.op {
            op if is_view(op) => {
                let result = data.result();
                let operand = self.view(data.operand(0));
                let to = &m.ty(result).dims;
                let layout = operand.layout.through(data, to);
                let view = match layout {
                    Some(layout) => operand.with(layout),
                    None => {
                        let copy = self.packed(&operand);
                        let layout = copy.layout.through(data, to).ok_or((node, "has no layout".to_string()))?;
                        copy.with(layout)
                    }
                };
                self.found(result, view);
                Ok(())
            }
            Op::Concat | Op::Pad => {
                let place = self.output(data.result());
                for (operand, layout) in pieces(m, node, &place.layout) {
                    self.settle(operand, &place.with(layout));
                }
                if data.op == Op::Pad {
                    self.borders(node, &place);
                }
                Ok(())
            }
            Op::If | Op::While | Op::For | Op::Scan => {
                self.control(node);
                Ok(())
            }
            Op::StateRead | Op::StateAppend | Op::StateReset => {
                self.state(node);
                Ok(())
            }
            _ => lower::group(self, &Group::of(m, node)),
        }
    }

    /// Notes where a value is that nothing has to compute, and copies it to where it is wanted.
    pub(super) fn found(&mut self, value: Value, view: View) {
        let view = match self.places.get(&value).cloned().filter(|p| *p != view) {
            Some(place) => {
                self.copy(&view, &place);
                place
            }
            None => view,
        };
        self.views.insert(value, view);
    }

    /// The parts of a padded tensor that are not its operand.
    fn borders(&mut self, node: Node, place: &View) {
        let data = &self.m.nodes[node];
        let value = Literal::of(place.elem, data.attrs.float("value").unwrap_or(0.0));
        let operand = self.m.ty(data.operand(0)).dims.clone();
        let mut inside = place.layout.clone();
        for (axis, size) in operand.iter().enumerate() {
            let (low, high) = (Dim::from(data.attrs.ints("low")[axis]), Dim::from(data.attrs.ints("high")[axis]));
            let end = low.clone() + size.clone();
            if !low.is(0) {
                self.fill(value, &place.with(inside.slice(axis, &0.into(), &low, 1)));
            }
            if !high.is(0) {
                self.fill(value, &place.with(inside.slice(axis, &end, &(end.clone() + high), 1)));
            }
            inside = inside.slice(axis, &low, &end, 1);
        }
    }

    fn fill(&mut self, value: Literal, to: &View) {
        let mut builder = Builder::new();
        let id = builder.literal(value, to.elem);
        self.map(vec![], builder.finish(id), to.clone());
    }

    /// The view of a value that is already there.
    pub(super) fn view(&mut self, value: Value) -> View {
        if let Some(view) = self.views.get(&value) {
            return view.clone();
        }
        if let Some(view) = self.outside_view(value) {
            return view;
        }
        let view = match self.weight_time.get(&value).cloned() {
            Some((source, layout)) => {
                let buffer = Buffer::Weight(self.weights.item(Item::Plain(source)));
                let view = View { buffer, elem: self.m.ty(value).elem, layout };
                if view.layout.offset.as_const().is_some() { view } else { self.moving(&view) }
            }
            // Only after a node that was refused.
            None => self.temporary(value),
        };
        self.views.insert(value, view.clone());
        view
    }

    /// A copy of a part of a weight that starts at a symbolic place: plans name places in weights by number.
    fn moving(&mut self, view: &View) -> View {
        let copy = self.scratch(view.elem, &view.layout.dims.clone());
        let spec = map::Spec {
            dims: view.layout.dims.clone(),
            inputs: vec![Access { offset: view.layout.offset.clone(), ..view.layout.access(view.elem) }],
            expr: Expr::input(0, view.elem),
            output: copy.layout.access(view.elem),
        };
        let start = view.with(Layout { offset: 0.into(), ..view.layout.clone() });
        self.launch(spec.into(), vec![start], vec![copy.clone()], vec![]);
        copy
    }

    /// A dense view of the same elements, by a copy if need be.
    pub(super) fn packed(&mut self, view: &View) -> View {
        if view.layout.is_dense() {
            return view.clone();
        }
        if let Some(copy) = self.copies.get(view) {
            return copy.clone();
        }
        let copy = self.scratch(view.elem, &view.layout.dims.clone());
        self.copy(view, &copy);
        self.copies.insert(view.clone(), copy.clone());
        copy
    }

    /// To be called where memory gets other values, as what a loop carries does.
    pub(super) fn forget_copies(&mut self) {
        self.copies.clear();
    }

    /// A new dense temporary.
    pub(super) fn scratch(&mut self, elem: ElemType, dims: &[Dim]) -> View {
        let layout = Layout::contiguous(dims);
        self.temporaries.push(layout.elements() * Dim::from(elem.bytes() as i64));
        self.note_local();
        View { buffer: Buffer::Temporary(self.temporaries.len() as u32 - 1), elem, layout }
    }

    fn temporary(&mut self, value: Value) -> View {
        let ty = self.m.ty(value);
        self.scratch(ty.elem, &ty.dims.clone())
    }

    /// Where the value is to be written: where it is wanted, or else a new temporary.
    pub(super) fn output(&mut self, value: Value) -> View {
        let view = match self.places.get(&value) {
            Some(place) => place.clone(),
            None => {
                let view = self.temporary(value);
                self.places.insert(value, view.clone());
                view
            }
        };
        self.views.insert(value, view.clone());
        view
    }

    /// Binds a value to a place, as the argument of a region.
    pub(super) fn bind(&mut self, value: Value, view: View) {
        self.views.insert(value, view);
    }

    /// The problems so far; to be taken back by [`Planner::forget_refusals`].
    pub(super) fn refusals(&self) -> usize {
        self.unsupported.len()
    }

    pub(super) fn forget_refusals(&mut self, from: usize) {
        self.unsupported.truncate(from);
    }

    /// Runs `plan` as a new block; copies made inside do not count outside.
    pub(super) fn in_block(&mut self, plan: impl FnOnce(&mut Self)) -> u32 {
        self.blocks.push(vec![]);
        let inner = self.blocks.len() - 1;
        let (outer, copies, label) = (self.block, self.copies.clone(), self.label.clone());
        self.block = inner;
        plan(self);
        (self.block, self.copies, self.label) = (outer, copies, label);
        inner as u32
    }

    pub(super) fn copy(&mut self, from: &View, to: &View) {
        self.map(vec![from.clone()], Expr::input(0, from.elem), to.clone());
    }

    /// An elementwise kernel over the sizes of the output; the inputs have its sizes.
    pub(super) fn map(&mut self, inputs: Vec<View>, expr: Expr, output: View) {
        let mut layouts: Vec<Layout> =
            std::iter::once(&output).chain(&inputs).map(|view| view.layout.clone()).collect();
        coalesce(&mut layouts, &super::group::index_axes(&expr));
        let spec = map::Spec {
            dims: layouts[0].dims.clone(),
            inputs: layouts[1..].iter().zip(&inputs).map(|(l, v)| l.access(v.elem)).collect(),
            expr,
            output: layouts[0].access(output.elem),
        };
        let aliases = (0..inputs.len()).collect();
        self.launch(spec.into(), inputs, vec![output], aliases);
    }

    /// Appends a launch. The single output may take the memory of those inputs that are in `aliases`, where the views
    /// are the same.
    pub(super) fn launch(&mut self, spec: KernelSpec, inputs: Vec<View>, outputs: Vec<View>, aliases: Vec<usize>) {
        let alike = |i: &usize| {
            let (input, output) = (&inputs[*i], &outputs[0]);
            let same = input.layout == output.layout && input.elem.bytes() == output.elem.bytes();
            let whole = |v: &View| self.root(v.buffer) == v.buffer;
            let apart = |other: &View| self.root(other.buffer) != input.buffer || other == input;
            same && whole(input) && whole(output) && inputs.iter().all(apart)
        };
        let lenders = aliases.into_iter().filter(alike).filter_map(|i| self.lives(inputs[i].buffer)).collect();
        self.note_use(&inputs.iter().collect::<Vec<_>>(), &outputs.iter().collect::<Vec<_>>(), lenders);
        if self.code.is_some() {
            self.call(spec, &inputs, &outputs);
        } else {
            self.push_launch(spec, &inputs, &outputs, vec![]);
        }
    }

    /// Appends a launch of a kernel with loops that have these bounds.
    pub(super) fn launch_bounded(&mut self, spec: KernelSpec, inputs: Vec<View>, outputs: Vec<View>, limits: Vec<Dim>) {
        self.note_use(&inputs.iter().collect::<Vec<_>>(), &outputs.iter().collect::<Vec<_>>(), vec![]);
        self.push_launch(spec, &inputs, &outputs, limits);
    }

    fn push_launch(&mut self, spec: KernelSpec, inputs: &[View], outputs: &[View], limits: Vec<Dim>) {
        let next = self.kernels.len();
        let kernel = *self.known_kernels.entry(spec).or_insert_with_key(|spec| {
            self.kernels.push(spec.clone());
            next
        });
        let args = inputs.iter().chain(outputs).map(View::place).collect();
        let label = self.label.clone();
        self.blocks[self.block].push(Step::Launch(Launch { kernel, args, label, limits }));
    }

    /// Appends a step other than a launch that reads and writes these places.
    pub(super) fn touch(&mut self, reads: &[&View], writes: &[&View]) {
        self.note_use(reads, writes, vec![]);
    }

    fn note_use(&mut self, reads: &[&View], writes: &[&View], lenders: Vec<u32>) {
        let of = |views: &[&View]| views.iter().filter_map(|v| self.lives(v.buffer)).collect();
        self.uses.push(arena::Use { at: self.now, reads: of(reads), writes: of(writes), lenders });
        self.now += 1;
    }
}

pub(super) fn temporary(buffer: Buffer) -> Option<u32> {
    if let Buffer::Temporary(t) = buffer { Some(t) } else { None }
}

/// The operands of a concatenation or padding, each with its place inside the result.
fn pieces(m: &Module, node: Node, result: &Layout) -> Vec<(Value, Layout)> {
    let data = &m.nodes[node];
    if data.op == Op::Pad {
        let operand = data.operand(0);
        let inside = m.ty(operand).dims.iter().enumerate().fold(result.clone(), |l, (axis, size)| {
            let low = Dim::from(data.attrs.ints("low")[axis]);
            l.slice(axis, &low, &(low.clone() + size.clone()), 1)
        });
        return vec![(operand, inside)];
    }
    let axis = axis(data, result.rank());
    let mut start = Dim::from(0);
    let piece = |operand: Value| {
        let end = start.clone() + m.ty(operand).dims[axis].clone();
        let layout = result.slice(axis, &start, &end, 1);
        start = end;
        (operand, layout)
    };
    data.inputs().map(piece).collect()
}

/// What a launch is called in traces: its main op and where that came from.
fn label(m: &Module, node: Node) -> String {
    let data = &m.nodes[node];
    let fused = data.regions.iter().filter(|_| data.op == Op::Fusion);
    let inner: Vec<Node> = fused.flat_map(|r| m.regions[*r].nodes.clone()).collect();
    let main = inner.iter().find(|n| !m.nodes[**n].op.is_scalar()).or(inner.last()).unwrap_or(&node);
    let source = data.source.as_ref().or(m.nodes[*main].source.as_ref());
    match source {
        Some(source) => format!("{} {source}", m.nodes[*main].op),
        None => m.nodes[*main].op.to_string(),
    }
}
