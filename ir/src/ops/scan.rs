//! `%h, %ys = scan %xs, ..., %init, ... lengths=%n inputs=1 axis=1 body(%x: .., %h: ..) { ... yield %next, ..., %y, ... }`.
//!
//! Runs the body once for each position along `axis` of the first `inputs` operands, from the last to the first with
//! `reverse=true`; the other operands are carried. The body takes one slice of each input (without the axis) and the
//! carried values, and yields the carried values and then one slice of each stacked result.
//!
//! With `lengths`, row `b` along axis 0 has `lengths[b]` positions: at a position that is not below its length a row
//! keeps what it carries, and its stacked results are 0 there; `reverse` so begins each row at its own end. Row `b` of
//! what the body yields depends on no other row of what it takes; the body is defined for every row, and whether it
//! fails on one that has no such position is not.
//!
//! (C1) The inputs have the axis and agree in its size. (C2) The body's types fit. (C3) `lengths` is `i64[B]`, the axis
//! is at least 1, and `B` the size of axis 0 of every input, carried value and stacked result.

use super::{Cx, Meaning, OpDef, Primitive, Tolerance, Violation, many, no_flops, optional};
use crate::{
    ElemType, NodeData, Type, Value,
    attr::{AttrKind, attr, optional_attr},
};

pub(super) static DEF: OpDef = OpDef {
    name: "scan",
    summary: "maps the body over an axis with carried values, row by row up to its length if lengths are given",
    constraints: &[
        "C1: the inputs have the axis and agree in its size",
        "C2: the body's types fit",
        "C3: lengths is i64[B], the axis at least 1, B the size of axis 0 of inputs, carried values and stacked results",
    ],
    operands: &[optional("lengths"), many("xs")],
    attrs: &[attr("inputs", AttrKind::Int), attr("axis", AttrKind::Int), optional_attr("reverse", AttrKind::Bool)],
    regions: &["body"],
    infer,
    meaning: Meaning::Primitive(Primitive::Scan),
    flops: no_flops,
    tolerance: Tolerance::Exact,
    effect: false,
};

fn infer(cx: &Cx<'_>) -> Result<Vec<Type>, Violation> {
    let types: Vec<Type> = cx.operands.iter().skip(1).flatten().cloned().collect();
    let (inputs, axis) = (cx.attrs.int("inputs").unwrap_or(0), cx.attrs.int("axis").unwrap_or(0));
    if inputs < 1 || inputs > types.len() as i64 || axis < 0 {
        return Err(Violation::new("C1", format!("{inputs} inputs along axis {axis}")));
    }
    let (inputs, axis) = (inputs as usize, axis as usize);
    let Some(length) = types[0].dims.get(axis).cloned() else {
        return Err(Violation::new("C1", format!("{} has no axis {axis}", types[0])));
    };
    let mut takes = vec![];
    for t in &types[..inputs] {
        if t.dims.get(axis) != Some(&length) {
            return Err(Violation::new("C1", format!("{t} does not have size {length} at axis {axis}")));
        }
        let mut slice = t.clone();
        slice.dims.remove(axis);
        takes.push(slice);
    }
    let carried = &types[inputs..];
    takes.extend(carried.iter().cloned());
    let body = &cx.regions[0];
    let yielded = body.results.get(carried.len()..).unwrap_or(&[]);
    body.expect("the body", &takes, &[carried, yielded].concat(), "C2")?;
    if let Some(t) = yielded.iter().find(|t| t.rank() < axis) {
        return Err(Violation::new("C2", format!("{t} cannot be stacked along axis {axis}")));
    }
    if let Some(lengths) = cx.opt(0) {
        if lengths.elem != ElemType::I64 || lengths.rank() != 1 || axis == 0 {
            return Err(Violation::new("C3", format!("lengths are {lengths}, the axis {axis}")));
        }
        let rows = &lengths.dims[0];
        if let Some(t) = types.iter().chain(yielded).find(|t| t.dims.first() != Some(rows)) {
            return Err(Violation::new("C3", format!("{rows} lengths for {t}")));
        }
    }
    let stacked = yielded.iter().map(|t| {
        let mut t = t.clone();
        t.dims.insert(axis, length.clone());
        t
    });
    Ok(carried.iter().cloned().chain(stacked).collect())
}

/// The operands of a `scan` by their part in it.
pub struct Scan {
    pub lengths: Option<Value>,
    /// What the body takes slices of.
    pub inputs: Vec<Value>,
    /// The initial values of what is carried.
    pub inits: Vec<Value>,
    /// The axis of the slices in the inputs and in the stacked results.
    pub axis: usize,
    /// From the last position to the first.
    pub reverse: bool,
}

impl Scan {
    /// The parts of a verified `scan`.
    pub fn of(node: &NodeData) -> Scan {
        let size = |name: &str| node.attrs.int(name).and_then(|i| usize::try_from(i).ok()).unwrap_or(0);
        let mut inputs: Vec<Value> = node.operands.iter().skip(1).flatten().copied().collect();
        let inits = inputs.split_off(size("inputs").min(inputs.len()));
        let reverse = node.attrs.bool("reverse");
        Scan { lengths: node.optional(0), inputs, inits, axis: size("axis"), reverse }
    }
}
