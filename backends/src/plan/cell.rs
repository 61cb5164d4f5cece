//! `lstm_cell` and `gru_cell`: recurrent cells with a packed weight.

use super::{
    Buffer,
    group::Group,
    layout::Layout,
    lower::alone,
    planner::{Planner, Refusal, View},
};
use crate::weights::Item;
use kiln_ir::{Node, Op, Value};
use kiln_kernels::{
    Access,
    cell::{Cell, Spec},
};

pub(super) fn cell(p: &mut Planner<'_>, g: &Group<'_>, node: Node) -> Result<(), Refusal> {
    alone(g, node)?;
    let data = g.data(node);
    let lstm = data.op == Op::LstmCell;
    let weight = g.outer(data.operand(if lstm { 3 } else { 2 }));
    let Some(matrix) = p.part(weight) else {
        return Err((node, format!("the cpu back end has no {} whose weight is not known when compiling", data.op)));
    };
    let (hidden, gates) = (matrix.dims[0], if lstm { 4 } else { 3 });
    let stored = p.weights.get(matrix.source).elem;
    let elem = p.options.weights.filter(|_| stored.is_float()).unwrap_or(stored);
    let buffer = Buffer::Weight(p.weights.item(Item::Packed { matrix, gates, elem }));
    let packed = View { buffer, elem, layout: Layout::contiguous(&[]) };
    let mut read = |value: Value| {
        let view = p.view(g.outer(value));
        if is_dense_along_rows(&view) { view } else { p.packed(&view) }
    };
    let (gx, h) = (read(data.operand(0)), read(data.operand(1)));
    let extra = if lstm { Some(data.operand(2)) } else { data.optional(3) }.map(&mut read);
    let wanted: Vec<View> = g.outs.iter().map(|out| p.output(*out)).collect();
    let outputs: Vec<View> = wanted
        .iter()
        .map(|view| if is_dense_along_rows(view) { view.clone() } else { p.scratch(view.elem, &view.layout.dims) })
        .collect();
    let cell = match (lstm, &extra) {
        (true, Some(c)) => Cell::Lstm { c: access(c), next: access(&outputs[1]) },
        (_, bias) => Cell::Gru { bias: bias.as_ref().map(access) },
    };
    let spec = Spec {
        cell,
        rows: h.layout.dims[0].clone(),
        hidden,
        weight: elem,
        starts: false,
        gx: access(&gx),
        h: access(&h),
        output: access(&outputs[0]),
    };
    let start = p.zero_at_first(&h).map(|depth| (Spec { starts: true, ..spec.clone() }, depth));
    p.launch(spec.into(), [gx, h, packed].into_iter().chain(extra).collect(), outputs.clone(), vec![]);
    if let Some((spec, depth)) = start {
        p.at_first(spec.into(), depth);
    }
    for (from, to) in outputs.iter().zip(&wanted).filter(|(from, to)| from != to) {
        p.copy(from, to);
    }
    Ok(())
}

/// Whether neighbours along the last axis are neighbours in memory.
fn is_dense_along_rows(view: &View) -> bool {
    let last = view.layout.rank() - 1;
    view.layout.dims[last].is(1) || view.layout.strides[last].is(1)
}

/// The view as the kernel reads it, the last axis with a stride of 1 also where its size is 1.
fn access(view: &View) -> Access {
    let mut access = view.layout.access(view.elem);
    if let Some(last) = access.strides.last_mut() {
        *last = 1.into();
    }
    access
}
