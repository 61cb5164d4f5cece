//! Values that are known at compile time: parameters, constants, and what is computed from nothing else.

use super::{
    group::{Group, Scalars},
    layout::{Layout, axis, is_view},
    planner::Planner,
};
use crate::weights::{Data, Part, Source, SourceId, encode};
use kiln_ir::{Node, Op, Value};
use std::collections::HashMap;

/// Elements that the interpreter may go through for one weight.
const EVALUATED: i64 = 1 << 20;

impl Planner<'_> {
    /// Makes a source of each parameter and constant.
    pub(super) fn parameters(&mut self) {
        let m = self.m;
        let mut first = HashMap::new();
        for (id, param) in m.params.iter() {
            let ty = m.ty(param.value);
            let Some(dims) = ty.const_dims() else { continue };
            let id = *first.entry((param.file, &param.key)).or_insert(id);
            self.known(param.value, dims, Data::Param(id));
        }
        for constant in m.consts.values() {
            let ty = m.ty(constant.value);
            let Some(dims) = ty.const_dims() else { continue };
            let size = ty.elem.bytes();
            let mut bytes = vec![0; constant.data.len() * size];
            for (to, literal) in bytes.chunks_exact_mut(size).zip(&constant.data) {
                encode(ty.elem, literal.value(), to);
            }
            self.known(constant.value, dims, Data::Inline(bytes));
        }
    }

    fn known(&mut self, value: Value, dims: Vec<i64>, data: Data) {
        let ty = self.m.ty(value);
        let source = self.weights.source(Source { elem: ty.elem, dims, data });
        self.weight_time.insert(value, (source, Layout::contiguous(&ty.dims)));
    }

    /// Whether the results of the node are weight-time.
    pub(super) fn is_weight_time(&self, node: Node) -> bool {
        self.m.nodes[node].results.iter().any(|r| self.weight_time.contains_key(r))
    }

    /// Makes the node's results weight-time, if they can be.
    pub(super) fn weight_node(&mut self, node: Node) {
        let m = self.m;
        let data = &m.nodes[node];
        let mut operands = data.inputs().peekable();
        if operands.peek().is_none() || !operands.all(|v| self.weight_time.contains_key(&v)) {
            return;
        }
        if is_view(data.op) {
            self.weight_view(node);
            return;
        }
        let Some(dims) = data.results.first().and_then(|r| m.ty(*r).const_dims()) else { return };
        if data.op == Op::Concat {
            let parts: Option<Vec<Part>> = data.inputs().map(|v| self.part(v)).collect();
            if let Some(parts) = parts {
                let axis = axis(data, dims.len());
                self.known(data.result(), dims, Data::Concat { axis, parts });
            }
            return;
        }
        let group = Group::of(m, node);
        if !data.op.is_scalar() && data.op != Op::Fusion || !group.anchors().is_empty() || group.results.len() != 1 {
            self.evaluated(node);
            return;
        }
        let mut scalars = Scalars::new(&group);
        let Ok(expr) = scalars.expr(group.results[0], None, dims.len()) else { return };
        let to = &m.ty(group.outs[0]).dims;
        let inputs = scalars.inputs.iter().map(|input| {
            let (source, layout) = self.weight_time.get(&group.outer(input.value))?;
            Part::new(*source, &layout.broadcast(to))
        });
        if let Some(inputs) = inputs.collect() {
            self.known(group.outs[0], dims, Data::Map { inputs, expr });
        }
    }

    /// Leaves the node's results to the interpreter, if all that they depend on is small.
    fn evaluated(&mut self, node: Node) {
        let m = self.m;
        let (op, results) = (m.nodes[node].op, &m.nodes[node].results);
        // Regions other than bodies of fusions may use values that are no operands.
        if op != Op::Fusion && !m.nodes[node].regions.is_empty() {
            return;
        }
        let mut seen: Vec<Value> = results.clone();
        let (mut at, mut elements) = (0, 0i64);
        while at < seen.len() {
            let Some(dims) = m.ty(seen[at]).const_dims() else { return };
            elements = dims.iter().fold(1i64, |n, d| n.saturating_mul(*d)).saturating_add(elements);
            if elements > EVALUATED {
                return;
            }
            if let Some(node) = m.producer(seen[at]) {
                let operands: Vec<Value> = m.nodes[node].inputs().filter(|v| !seen.contains(v)).collect();
                seen.extend(operands);
            }
            at += 1;
        }
        for result in results.clone() {
            if let Some(dims) = m.ty(result).const_dims() {
                self.known(result, dims, Data::Evaluated(result));
            }
        }
    }

    fn weight_view(&mut self, node: Node) {
        let data = &self.m.nodes[node];
        let to = &self.m.ty(data.result()).dims;
        let Some((source, layout)) = self.weight_time.get(&data.operand(0)).cloned() else { return };
        if let Some(layout) = layout.through(data, to) {
            self.weight_time.insert(data.result(), (source, layout));
        } else if let Some(part) = Part::new(source, &layout)
            && let Some(layout) = Layout::contiguous(&layout.dims).through(data, to)
        {
            let source = self.dense_source(part);
            self.weight_time.insert(data.result(), (source, layout));
        }
    }

    /// The same elements in row-major order.
    pub(super) fn dense_source(&mut self, part: Part) -> SourceId {
        let (elem, dims) = (self.weights.get(part.source).elem, part.dims.clone());
        self.weights.source(Source { elem, dims, data: Data::Concat { axis: 0, parts: vec![part] } })
    }

    /// A weight-time value as a strided view of its source; `None` when it is not one, or its sizes are symbolic.
    pub(super) fn part(&self, value: Value) -> Option<Part> {
        let (source, layout) = self.weight_time.get(&value)?;
        Part::new(*source, layout)
    }
}
