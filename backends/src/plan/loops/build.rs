//! Loops and branches as steps of a kernel.

use super::Kind;
use crate::plan::{
    layout::Layout,
    planner::{Planner, View},
};
use kiln_ir::{
    Dim, ElemType, Module, Node, NodeData, Op, Region, Value,
    ops::Scan,
    scalar::{Builder, Compare, Expr, Literal},
};
use kiln_kernels::{
    reduce,
    region::{Counter, Loop, Place, Step, Times},
};

/// A loop's operands by their part in it.
pub(super) struct Parts {
    pub(super) scan: Option<Scan>,
    pub(super) inits: Vec<Value>,
    pub(super) body: Region,
    /// The body's first argument that is carried.
    pub(super) first: usize,
}

impl Planner<'_> {
    pub(super) fn parts(&self, node: Node) -> Parts {
        let data = &self.m.nodes[node];
        let scan = (data.op == Op::Scan).then(|| Scan::of(data));
        let body = data.regions[data.regions.len() - 1];
        let inits: Vec<Value> = match (&scan, data.op) {
            (Some(scan), _) => scan.inits.clone(),
            (None, Op::For) => data.inputs().skip(1).collect(),
            _ => data.inputs().collect(),
        };
        let first = self.m.regions[body].args.len() - inits.len();
        Parts { scan, inits, body, first }
    }

    pub(super) fn branch_in_kernel(&mut self, node: Node) {
        let data = &self.m.nodes[node];
        let condition = self.view(data.operand(0));
        let results: Vec<View> = data.results.iter().map(|r| self.output(*r)).collect();
        self.touch(&[&condition], &[]);
        let [then, otherwise] = [0, 1].map(|n| self.list(|p| p.region(data.regions[n], &results)));
        let condition = self.inner_place(&condition, false);
        self.step(Step::If { condition, then, otherwise });
    }

    pub(super) fn looped(&mut self, node: Node) {
        let m = self.m;
        let data = &m.nodes[node];
        let parts = self.parts(node);
        let args = &m.regions[parts.body].args;
        let depth = self.code().depth;
        let by_rows = self.is_by_rows(node);
        let compacts = by_rows && depth == 0 && self.has_tiles();
        let numbers = (0..parts.inits.len()).map(|n| self.code().pairs.len() + n).collect();
        let pairs = parts.inits.iter().zip(&args[parts.first..]).map(|(init, arg)| self.pair(*init, *arg));
        let (now, next): (Vec<View>, Vec<View>) = pairs.unzip();
        let mut compaction = compacts.then(|| self.compaction(node, &parts, &now));
        let count = (data.op == Op::For).then(|| self.view(data.operand(0)));
        let masked = by_rows && !compacts;
        let index = (data.op == Op::For || masked && parts.scan.is_some()).then(|| self.scratch(ElemType::I64, &[]));

        let start = self.now;
        self.touch(&count.iter().collect::<Vec<_>>(), &index.iter().collect::<Vec<_>>());
        self.code().depth += 1;
        let test = (data.op == Op::While).then(|| self.test_in_kernel(data.regions[0], &now, masked));
        let inner = self.list(|p| {
            p.forget_copies();
            if data.op == Op::For
                && let Some(index) = &index
            {
                p.bind(args[0], index.clone());
            }
            args[parts.first..].iter().zip(&now).for_each(|(arg, view)| p.bind(*arg, view.clone()));
            let mut wanted = next.clone();
            match (&mut compaction, &parts.scan) {
                (Some(compaction), _) => wanted.extend(p.compact_slices(node, &parts, compaction)),
                (None, Some(scan)) => {
                    for (arg, input) in args.iter().zip(&scan.inputs) {
                        let view = p.view(*input);
                        let slice = p.slice(&view, scan.axis, &m.ty(*arg).dims);
                        p.bind(*arg, slice);
                    }
                    for (result, value) in data.results.iter().zip(&m.regions[parts.body].results).skip(next.len()) {
                        let place = p.output(*result);
                        wanted.push(p.slice(&place, scan.axis, &m.ty(*value).dims));
                    }
                }
                (None, None) => {}
            }
            if masked {
                let mask = match (&test, &parts.scan, &index) {
                    (Some(test), ..) => test.flags.clone(),
                    (None, Some(scan), Some(index)) => p.below_lengths(scan, index),
                    _ => return,
                };
                p.masked_body(parts.body, &mask, &now, &wanted);
            } else {
                p.region(parts.body, &wanted);
            }
            if let Some(compaction) = &compaction {
                p.stack(compaction);
            }
        });
        self.code().depth = depth;
        self.forget_copies();
        self.loops.push(start..self.now);

        let times = match (data.op, test) {
            (Op::While, Some(test)) => Times::While {
                test: test.steps,
                flag: self.inner_place(&test.go, false),
                number: self.limit(max(data)),
                max: max(data),
            },
            _ => match (&parts.scan, &count) {
                (Some(scan), _) => Times::Size(m.ty(scan.inputs[0]).dims[scan.axis].clone()),
                (None, Some(count)) => Times::Read(self.inner_place(count, false)),
                (None, None) => Times::Size(0.into()),
            },
        };
        let reverse = parts.scan.as_ref().is_some_and(|s| s.reverse);
        let looped = Loop {
            times,
            down: reverse && !compacts,
            index: index.as_ref().map(|view| self.inner_place(view, true)),
            pairs: numbers,
            body: inner,
            compact: compaction.map(|c| c.finish(reverse)),
        };
        self.step(Step::Loop(Box::new(looped)));
        for (result, view) in data.results.iter().zip(&now) {
            match self.wanted(*result) {
                _ if compacts => {}
                None => self.bind(*result, view.clone()),
                Some(place) => {
                    let to = self.fit(&place, &view.layout.dims);
                    self.copy(view, &to);
                    self.bind(*result, place);
                }
            }
        }
    }

    /// The memories of a carried value, the first with the initial value.
    fn pair(&mut self, init: Value, arg: Value) -> (View, View) {
        let ty = self.m.ty(arg);
        let from = self.view(init);
        let from = self.fit(&from, &ty.dims);
        let layout = Layout::contiguous(&ty.dims);
        let (zero, pair) = (is_zero(self.m, init), self.code().pairs.len());
        let depth = self.code().depth;
        self.code().zeros.push(zero.then_some(depth));
        self.code().pairs.push(layout.elements() * Dim::from(ty.elem.bytes() as i64));
        let [now, next] = [false, true].map(|next| {
            let buffer = self.alias(Kind::Pair { pair, next });
            View { buffer, elem: ty.elem, layout: layout.clone() }
        });
        self.copy(&from, &now);
        (now, next)
    }

    /// A view with these sizes: of the tile's rows, if it is one of all rows.
    pub(super) fn fit(&mut self, view: &View, dims: &[Dim]) -> View {
        if view.layout.dims == dims { view.clone() } else { self.rows_of(view) }
    }

    /// The slice along an axis that moves with the loop that is planned.
    fn slice(&mut self, view: &View, axis: usize, dims: &[Dim]) -> View {
        let stride = view.layout.strides[axis].clone() * Dim::from(view.elem.bytes() as i64);
        let slice = view.with(view.layout.drop_axis(axis));
        let counter = Counter::Loop(self.code().depth - 1);
        let moving = self.moving_with(&slice, counter, stride);
        self.fit(&moving, dims)
    }

    /// The condition of a `while`.
    fn test_in_kernel(&mut self, condition: Region, now: &[View], masked: bool) -> Test {
        let m = self.m;
        let dims = m.ty(m.regions[condition].results[0]).dims.clone();
        let flags = self.scratch(ElemType::I1, &dims);
        let mut go = flags.clone();
        let steps = self.list(|p| {
            p.forget_copies();
            m.regions[condition].args.iter().zip(now).for_each(|(arg, view)| p.bind(*arg, view.clone()));
            p.region(condition, std::slice::from_ref(&flags));
            if masked {
                go = p.any(&flags);
            }
        });
        self.touch(&[&go], &[]);
        Test { steps, flags, go }
    }

    /// Whether any of the flags is set.
    fn any(&mut self, flags: &View) -> View {
        let any = self.scratch(ElemType::I1, &[]);
        let spec = reduce::Spec {
            outer: vec![],
            reduced: flags.layout.dims.clone(),
            inputs: vec![flags.layout.access(ElemType::I1)],
            prologue: Expr::input(0, ElemType::I1),
            kind: reduce::Kind::Max,
            epilogue: Expr::input(0, ElemType::I1),
            epilogue_inputs: vec![],
            output: any.layout.access(ElemType::I1),
        };
        self.launch(spec.into(), vec![flags.clone()], vec![any.clone()], vec![]);
        any
    }

    /// The rows whose length is above the position.
    fn below_lengths(&mut self, scan: &Scan, index: &View) -> View {
        let Some(lengths) = scan.lengths else { return index.clone() };
        let lengths = self.view(lengths);
        let mask = self.scratch(ElemType::I1, &lengths.layout.dims.clone());
        let index = index.with(index.layout.broadcast(&lengths.layout.dims));
        let mut builder = Builder::new();
        let (at, end) = (builder.input(0, ElemType::I64), builder.input(1, ElemType::I64));
        let below = builder.compare(Compare::Lt, at, end);
        self.map(vec![index, lengths], builder.finish(below), mask.clone());
        mask
    }

    /// The body on all rows, of which those in the mask count: the others keep what they carry, and stack zeros.
    fn masked_body(&mut self, body: Region, mask: &View, now: &[View], wanted: &[View]) {
        let all: Vec<View> = wanted.iter().map(|w| self.scratch(w.elem, &w.layout.dims.clone())).collect();
        self.region(body, &all);
        for (n, (from, to)) in all.iter().zip(wanted).enumerate() {
            let mut column = mask.layout.clone();
            column.dims.resize(to.layout.rank(), 1.into());
            column.strides.resize(to.layout.rank(), 0.into());
            let mask = mask.with(column.broadcast(&to.layout.dims));
            let mut builder = Builder::new();
            let (condition, value) = (builder.input(0, ElemType::I1), builder.input(1, from.elem));
            let (other, inputs) = match now.get(n) {
                Some(now) => (builder.input(2, from.elem), vec![mask, from.clone(), now.clone()]),
                None => (builder.literal(Literal::of(from.elem, 0.0), from.elem), vec![mask, from.clone()]),
            };
            let chosen = builder.select(condition, value, other);
            self.map(inputs, builder.finish(chosen), to.clone());
        }
    }

    /// Steps planned apart; copies made inside do not count outside.
    fn list(&mut self, plan: impl FnOnce(&mut Self)) -> Vec<Step> {
        let before = std::mem::take(&mut self.code().steps);
        let (copies, label) = (self.copies.clone(), self.label.clone());
        plan(self);
        (self.copies, self.label) = (copies, label);
        std::mem::replace(&mut self.code().steps, before)
    }

    fn step(&mut self, step: Step) {
        self.code().steps.push(step);
    }

    /// The number of a loop with a bound.
    fn limit(&mut self, max: Dim) -> i64 {
        self.code().limits.push(max);
        self.code().limits.len() as i64 - 1
    }

    /// Where the kernel finds the first element of a view.
    pub(super) fn inner_place(&mut self, view: &View, written: bool) -> Place {
        self.code().place(&view.place(), written)
    }
}

fn max(data: &NodeData) -> Dim {
    data.attrs.dim("max").cloned().unwrap_or(0.into())
}

/// Whether a value is known to be all zeros.
fn is_zero(m: &Module, value: Value) -> bool {
    match m.producer(value) {
        Some(node) => {
            let data = &m.nodes[node];
            matches!(data.op, Op::Broadcast | Op::Reshape | Op::Transpose | Op::Slice) && is_zero(m, data.operand(0))
        }
        None => m.consts.values().any(|c| c.value == value && c.data.iter().all(|x| x.as_f64() == 0.0)),
    }
}

/// A planned condition.
struct Test {
    steps: Vec<Step>,
    /// What the condition yields.
    flags: View,
    /// Whether the loop goes on.
    go: View,
}
