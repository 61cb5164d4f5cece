//! Canonical form of what moves data.

use crate::{
    Exactness::E0,
    analysis,
    edit::{Around, Local},
};
use kiln_ir::{Dim, ElemType, NodeData, Op, Value, Violation, ops::Seq, types::Kind};

type Found = Result<Option<Value>, Violation>;

pub(super) static RULES: &[Local] = &[
    Local { name: "moves-nothing", class: E0, apply: moves_nothing },
    Local { name: "view-of-view", class: E0, apply: view_of_view },
    Local { name: "convert-of-convert", class: E0, apply: convert_of_convert },
    Local { name: "reduced-axes-put-back", class: E0, apply: reduced_axes_put_back },
    Local { name: "kept-axes-dropped", class: E0, apply: kept_axes_dropped },
    Local { name: "operand-broadcasts-by-itself", class: E0, apply: operand_broadcasts_by_itself },
    Local { name: "broadcast-behind-elementwise", class: E0, apply: broadcast_behind_elementwise },
    Local { name: "broadcast-behind-reduce", class: E0, apply: broadcast_behind_reduce },
    Local { name: "lookup-of-known-rows", class: E0, apply: lookup_of_known_rows },
    Local { name: "lookup-repeats", class: E0, apply: lookup_repeats },
    Local { name: "slice-of-concat", class: E0, apply: slice_of_concat },
];

/// Operand 0 of the node that defines `value`, if its op is `op`.
pub(super) fn inner<'a>(s: &'a Seq<'_>, value: Value, op: Op) -> Option<(&'a NodeData, Value)> {
    let data = &s.module.nodes[s.module.producer(value)?];
    (data.op == op).then(|| (data, data.operand(0)))
}

fn moves_nothing(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    let Some(x) = data.optional(0) else { return Ok(None) };
    let same = s.module.ty(x) == s.module.ty(data.result());
    let nothing = match data.op {
        Op::Reshape | Op::Broadcast | Op::Convert | Op::Pad => same,
        Op::Slice => same && data.attrs.int("step").unwrap_or(1) == 1,
        Op::Transpose => data.attrs.ints("perm").iter().enumerate().all(|(i, p)| i as i64 == *p),
        Op::Concat => data.operands.len() == 1,
        Op::Reduce => data.attrs.ints("axes").is_empty(),
        _ => false,
    };
    Ok(nothing.then_some(x))
}

fn view_of_view(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    if !matches!(data.op, Op::Reshape | Op::Transpose | Op::Broadcast) {
        return Ok(None);
    }
    let Some((before, x)) = inner(s, data.operand(0), data.op) else { return Ok(None) };
    let mut attrs = data.attrs.clone();
    if data.op == Op::Transpose {
        let (first, then) = (before.attrs.ints("perm"), data.attrs.ints("perm"));
        attrs.set("perm", then.iter().map(|p| first[*p as usize]).collect::<Vec<i64>>());
    }
    s.op(data.op, [x], attrs).map(Some)
}

/// Whether every value of `from` is one of `to`.
fn keeps_values(from: ElemType, to: ElemType) -> bool {
    let float = |e| match e {
        ElemType::F64 => (53, 11),
        ElemType::F32 => (24, 8),
        ElemType::F16 => (11, 5),
        ElemType::BF16 => (8, 8),
        _ => (0, 0),
    };
    let bits = from.bytes() * 8;
    match (from.kind(), to.kind()) {
        _ if from == to => true,
        (Kind::Bool, Kind::Bool) => true,
        (_, Kind::Bool) => false,
        (Kind::Bool, _) => true,
        (Kind::Float, Kind::Float) => float(from).0 <= float(to).0 && float(from).1 <= float(to).1,
        (Kind::Float, _) => false,
        (Kind::Signed, Kind::Float) => bits - 1 <= float(to).0,
        (Kind::Unsigned, Kind::Float) => bits <= float(to).0,
        (Kind::Unsigned, Kind::Unsigned) | (Kind::Signed, Kind::Signed) => from.bytes() <= to.bytes(),
        (Kind::Unsigned, Kind::Signed) => from.bytes() < to.bytes(),
        (Kind::Signed, Kind::Unsigned) => false,
    }
}

fn convert_of_convert(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    if data.op != Op::Convert {
        return Ok(None);
    }
    let middle = s.ty(data.operand(0)).elem;
    let Some((_, x)) = inner(s, data.operand(0), Op::Convert) else { return Ok(None) };
    let ty = s.ty(x);
    // Integers of f16 range would overflow on the way to a narrow float, so only what keeps every value is left out.
    if !keeps_values(ty.elem, middle) {
        return Ok(None);
    }
    if Some(ty.elem) == data.attrs.elem("to") {
        return Ok(Some(x));
    }
    s.op(Op::Convert, [x], data.attrs.clone()).map(Some)
}

/// `reshape(reduce(x, keep=false))` to the sizes that `keep=true` gives.
fn reduced_axes_put_back(s: &mut Seq<'_>, data: &NodeData, around: &Around) -> Found {
    if data.op != Op::Reshape || !around.has_one_use(data.operand(0)) {
        return Ok(None);
    }
    let Some((reduce, x)) = inner(s, data.operand(0), Op::Reduce) else { return Ok(None) };
    let mut dims = s.module.ty(x).dims.clone();
    for axis in reduce.attrs.ints("axes") {
        dims[*axis as usize] = 1.into();
    }
    if dims != data.attrs.dims("to") {
        return Ok(None);
    }
    let mut attrs = reduce.attrs.clone();
    attrs.set("keep", true);
    s.op(Op::Reduce, [x], attrs).map(Some)
}

/// `reshape(reduce(x, keep=true))` to the sizes that `keep=false` gives.
fn kept_axes_dropped(s: &mut Seq<'_>, data: &NodeData, around: &Around) -> Found {
    if data.op != Op::Reshape || !around.has_one_use(data.operand(0)) {
        return Ok(None);
    }
    let Some((reduce, x)) = inner(s, data.operand(0), Op::Reduce) else { return Ok(None) };
    let axes = reduce.attrs.ints("axes");
    let dims = s.module.ty(x).dims.iter().enumerate().filter(|(i, _)| !axes.contains(&(*i as i64)));
    if !reduce.attrs.bool("keep") || !dims.map(|(_, d)| d).eq(data.attrs.dims("to")) {
        return Ok(None);
    }
    let mut attrs = reduce.attrs.clone();
    attrs.set("keep", false);
    s.op(Op::Reduce, [x], attrs).map(Some)
}

/// A broadcast, or a reshape that only adds leading axes of size 1, in front of an op that broadcasts by itself.
fn operand_broadcasts_by_itself(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    if !data.op.is_scalar() || data.operands.len() < 2 {
        return Ok(None);
    }
    for (at, operand) in data.inputs().enumerate() {
        let plain = if let Some((_, x)) = inner(s, operand, Op::Broadcast) {
            x
        } else if let Some((_, x)) = inner(s, operand, Op::Reshape) {
            let (from, to) = (s.ty(x).dims, s.ty(operand).dims);
            let added = to.len().saturating_sub(from.len());
            if added == 0 || to[..added].iter().any(|d| !d.is(1)) || to[added..] != from {
                continue;
            }
            x
        } else {
            match analysis::splat(s.module, operand) {
                Some(literal) if s.ty(operand).rank() > 0 => s.module.scalar(s.ty(operand).elem, literal),
                _ => continue,
            }
        };
        let mut operands = data.operands.clone();
        operands[at] = Some(plain);
        let node = s.module.create_node(data.op, operands, data.attrs.clone(), vec![], s.source.clone());
        if let Ok(node) = node
            && s.module.ty(s.module.nodes[node].result()) == s.module.ty(data.result())
        {
            s.nodes.push(node);
            return Ok(Some(s.module.nodes[node].result()));
        }
    }
    Ok(None)
}

/// An elementwise op whose every operand repeats along an axis computes once and repeats the result.
fn broadcast_behind_elementwise(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    if !data.op.is_scalar() {
        return Ok(None);
    }
    let plain = |v: Value| inner(s, v, Op::Broadcast).map_or(v, |(_, x)| x);
    let operands: Vec<Value> = data.inputs().map(plain).collect();
    if operands.iter().copied().eq(data.inputs()) {
        return Ok(None);
    }
    let result = s.module.ty(data.result()).clone();
    let operands = operands.into_iter().map(Some).collect();
    let node = s.module.create_node(data.op, operands, data.attrs.clone(), vec![], s.source.clone())?;
    let value = s.module.nodes[node].result();
    if s.module.ty(value).elements() == result.elements() {
        return Ok(None);
    }
    s.nodes.push(node);
    s.op(Op::Broadcast, [value], [("to", result.dims.into())]).map(Some)
}

/// A reduction of a value that repeats along other axes than the reduced ones.
fn broadcast_behind_reduce(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    if data.op != Op::Reduce {
        return Ok(None);
    }
    let Some((_, x)) = inner(s, data.operand(0), Op::Broadcast) else { return Ok(None) };
    let (narrow, wide) = (s.ty(x), s.ty(data.operand(0)));
    let reduces_repeated = |a: &i64| narrow.dims[*a as usize] != wide.dims[*a as usize];
    if narrow.rank() != wide.rank() || data.attrs.ints("axes").iter().any(reduces_repeated) {
        return Ok(None);
    }
    let reduced = s.op(Op::Reduce, [x], data.attrs.clone())?;
    let to = s.ty(data.result()).dims;
    s.op(Op::Broadcast, [reduced], [("to", to.into())]).map(Some)
}

/// A `gather` of one table for all indices.
fn is_lookup(data: &NodeData) -> bool {
    data.op == Op::Gather && data.attrs.get("batch").is_none()
}

/// The rows that an index asks for, when they are known to lie side by side: the first, and how many.
fn known_rows(s: &Seq<'_>, index: Value) -> Option<(Dim, Dim)> {
    if let Some(literal) = analysis::splat(s.module, index) {
        return (literal.as_f64() >= 0.0).then(|| (Dim::from(literal.as_f64() as i64), 1.into()));
    }
    let ty = s.module.ty(index);
    let only_axis = |axis: usize| ty.dims.iter().enumerate().all(|(i, d)| i == axis || d.is(1));
    let data = &s.module.nodes[s.module.producer(index)?];
    let axis = data.attrs.int("axis").unwrap_or(0) as usize;
    match data.op {
        Op::Iota if only_axis(axis) => Some((0.into(), ty.dims[axis].clone())),
        Op::Broadcast => known_rows(s, data.operand(0)).filter(|(_, n)| n.is(1)),
        Op::Reshape => known_rows(s, data.operand(0)),
        Op::Slice if only_axis(axis) && data.attrs.int("step").unwrap_or(1) == 1 => {
            let from = data.operand(0);
            let start = data.attrs.dim("start")?;
            let first = match s.module.values[from].def {
                kiln_ir::Def::Const(c) => {
                    let rows: Vec<i64> = s.module.consts[c].data.iter().map(|l| l.as_f64() as i64).collect();
                    let counts_up = rows.windows(2).all(|w| w[1] == w[0] + 1);
                    Dim::from(*rows.first().filter(|r| counts_up && **r >= 0)?)
                }
                _ => known_rows(s, from).filter(|_| s.module.ty(from).elements() == s.module.ty(from).dims[axis])?.0,
            };
            Some((first + start.clone(), ty.dims[axis].clone()))
        }
        _ => None,
    }
}

/// `gather` of rows `a, a + 1, ...` is a slice, of one row over and over a broadcast of it.
fn lookup_of_known_rows(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    if !is_lookup(data) {
        return Ok(None);
    }
    let (table, index) = (data.operand(0), data.operand(1));
    let Some((first, count)) = known_rows(s, index) else { return Ok(None) };
    let axis = data.attrs.int("axis").unwrap_or(0);
    let end = first.clone() + count.clone();
    let beyond = end.clone() - s.ty(table).dims[axis as usize].clone();
    // An index out of range is an error at run time, which a slice would not report for every value of a symbol.
    if beyond.range(&s.module.symbols).1 > 0 {
        return Ok(None);
    }
    let to = s.ty(data.result()).dims;
    let rows = s.op(Op::Slice, [table], [("axis", axis.into()), ("start", first.into()), ("end", end.into())])?;
    let mut dims = s.ty(table).dims;
    dims.splice(
        axis as usize..axis as usize + 1,
        if count.is(1) { vec![Dim::from(1); s.ty(index).rank()] } else { s.ty(index).dims },
    );
    let rows = s.op(Op::Reshape, [rows], [("to", dims.into())])?;
    s.op(Op::Broadcast, [rows], [("to", to.into())]).map(Some)
}

/// `gather(x, broadcast(i))` looks up once and broadcasts what it found.
fn lookup_repeats(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    if !is_lookup(data) {
        return Ok(None);
    }
    let Some((_, index)) = inner(s, data.operand(1), Op::Broadcast) else { return Ok(None) };
    let (narrow, wide) = (s.ty(index), s.ty(data.operand(1)));
    // Axes that the broadcast adds must stand in front of those of the table that are kept.
    let axis = data.attrs.int("axis").unwrap_or(0);
    if narrow.rank() != wide.rank() && axis != 0 {
        return Ok(None);
    }
    let found = s.op(Op::Gather, [data.operand(0), index], data.attrs.clone())?;
    let to = s.ty(data.result()).dims;
    s.op(Op::Broadcast, [found], [("to", to.into())]).map(Some)
}

/// A slice that is exactly one of the pieces.
fn slice_of_concat(s: &mut Seq<'_>, data: &NodeData, _: &Around) -> Found {
    if data.op != Op::Slice || data.attrs.int("step").unwrap_or(1) != 1 {
        return Ok(None);
    }
    let Some((concat, _)) = inner(s, data.operand(0), Op::Concat) else { return Ok(None) };
    let axis = data.attrs.int("axis");
    if concat.attrs.int("axis") != axis {
        return Ok(None);
    }
    let (start, end) = (data.attrs.dim("start"), data.attrs.dim("end"));
    let mut at = Dim::from(0);
    for piece in concat.inputs() {
        let next = at.clone() + s.module.ty(piece).dims[axis.unwrap_or(0) as usize].clone();
        if start == Some(&at) && end == Some(&next) {
            return Ok(Some(piece));
        }
        at = next;
    }
    Ok(None)
}
