//! Recognises the step of an LSTM or a GRU written out.
//!
//! ```text
//!     %0 = matmul %x, %wx : f32[2,12]                  %4 = add %bx, %bh : f32[12]
//!     %1 = matmul %h, %wh : f32[2,12]                  %5 = add %0, %4 : f32[2,12]
//!     %2 = .. the sum of both, %bx and %bh ..          %h1, %c1 = lstm_cell %5, %h, %c, %wh : f32[2,3], f32[2,3]
//!     %i, %f, %g, %o = .. slices of %2 ..
//!     %c1 = sigmoid(%f) * %c + sigmoid(%i) * tanh(%g)
//!     %h1 = sigmoid(%o) * tanh(%c1)
//! ```
//!
//! and `h1 = (1 - z) * n + z * h` or `n + z * (h - n)` of a GRU that resets behind the product. Sums and products stand in
//! either order, gates in any: then weights and biases, which are known, are permuted. States with more than two axes are
//! taken as rows.
//!
//! It must not fire where a gate has another consumer, where the weight of the state is computed at run time, or where
//! gates in another order come from elsewhere than a product with a known weight.

mod parts;

use crate::{
    Exactness, analysis, cost, edit,
    loops::drop_dead,
    pass::{Context, Outcome, Pass, PassError},
    record::Rewrite,
};
use kiln_ir::{Dim, Module, Node, Op, Region, Value, Violation, ops::Seq};
use parts::{Addend, Gate, Parts};
use std::collections::{HashMap, HashSet};

pub(crate) static PASS: Pass = Pass {
    name: "fuse-recurrent-cell",
    summary: "recognises the steps of LSTM and GRU",
    class: Exactness::E1,
    required: false,
    run,
};

fn run(m: &mut Module, cx: &mut Context<'_>) -> Result<Outcome, PassError> {
    let mut changed = false;
    if !cx.allows(Exactness::E1) {
        return Ok(Outcome { changed });
    }
    for region in edit::open_regions(m) {
        // Facts about the module, until a cell changes it.
        let mut facts = None;
        for node in m.regions[region].nodes.clone() {
            // An earlier cell may have taken it.
            if changed && !m.regions[region].nodes.contains(&node) {
                continue;
            }
            let (known, uses) = facts.get_or_insert_with(|| (analysis::weight_time(m), m.use_counts()));
            let parts = Parts { m, region, known, uses };
            let found = lstm(&parts, node).or_else(|| gru(&parts, node));
            let Some(found) = found else { continue };
            let place = analysis::place(m, node);
            if let Err(reason) = found {
                cx.refused("cell", place, reason);
                continue;
            }
            if let Ok(cell) = found
                && let Some(index) = cx.admit()
            {
                fuse(m, cx, region, known, &cell, (place, index))?;
                changed = true;
                facts = None;
            }
        }
    }
    Ok(Outcome { changed })
}

/// A cell that was recognised.
struct Cell {
    op: Op,
    /// What it computes: `h1`, and for an LSTM `c1`.
    results: Vec<Value>,
    h: Value,
    c: Option<Value>,
    w: Value,
    /// Biases of the product with `h`, where they stand apart.
    biases: Vec<Value>,
    /// What is added to it: the input's part.
    rest: Vec<Addend>,
    /// Where the gates of the op stand in `w` and in `rest`.
    order: Vec<i64>,
    rest_order: Vec<i64>,
}

type Found = Option<Result<Cell, &'static str>>;

fn lstm(p: &Parts<'_>, node: Node) -> Found {
    let h1 = p.result(node)?;
    for [o, bounded] in p.both(h1, Op::Mul)? {
        let (Some(o), Some(c1)) = (p.gate(o, Op::Sigmoid), p.unary(bounded, Op::Tanh)) else { continue };
        for [kept, new] in p.both(c1, Op::Add)? {
            for ([f, c], [i, g]) in p.pairs(kept, new)? {
                let gates = (p.gate(i, Op::Sigmoid), p.gate(f, Op::Sigmoid), p.gate(g, Op::Tanh));
                let (Some(i), Some(f), Some(g)) = gates else { continue };
                return p.one_of([&i, &f, &g, &o]).map(|order| lstm_cell(p, [h1, c1], c, [i, f, g, o], order));
            }
        }
    }
    None
}

fn lstm_cell(
    p: &Parts<'_>,
    results: [Value; 2],
    c: Value,
    gates: [Gate; 4],
    order: Vec<i64>,
) -> Result<Cell, &'static str> {
    if gates.iter().any(|g| p.uses(g.open) != 1 || p.uses(g.slice) != 1) || p.uses(gates[0].of) != 4 {
        return Err("a gate has another consumer");
    }
    let mut rest = p.addends(gates[0].of);
    let (h, w) = p.take_recurrent(&mut rest, c, 4)?;
    p.can_reorder(&rest, &order)?;
    Ok(Cell {
        op: Op::LstmCell,
        results: results.to_vec(),
        h,
        c: Some(c),
        w,
        biases: vec![],
        rest,
        rest_order: order.clone(),
        order,
    })
}

fn gru(p: &Parts<'_>, node: Node) -> Found {
    let h1 = p.result(node)?;
    for [a, b] in p.both(h1, Op::Add)? {
        // (1 - z) * n + z * h
        for ([rest, n], [z, h]) in p.pairs(a, b).into_iter().flatten() {
            if p.one_minus(rest) == Some(z)
                && let Some(cell) = gru_cell(p, h1, n, z, h)
            {
                return Some(cell);
            }
        }
        // n + z * (h - n)
        for [z, difference] in p.both(b, Op::Mul).into_iter().flatten() {
            if let Some([h, n]) = p.binary(difference, Op::Sub)
                && n == a
                && let Some(cell) = gru_cell(p, h1, n, z, h)
            {
                return Some(cell);
            }
        }
    }
    None
}

fn gru_cell(p: &Parts<'_>, h1: Value, n: Value, z: Value, h: Value) -> Found {
    let z_sum = p.unary(z, Op::Sigmoid)?;
    let n_sum = p.unary(n, Op::Tanh)?;
    for [xn, reset] in p.both(n_sum, Op::Add)? {
        let Some(xn) = p.slice(xn) else { continue };
        for [r, hn] in p.both(reset, Op::Mul).into_iter().flatten() {
            let (Some(r_sum), Some(hn)) = (p.unary(r, Op::Sigmoid), p.slice(hn)) else { continue };
            let of = |sum: Value| {
                let sides = p.both(sum, Op::Add)?;
                sides.into_iter().find_map(|[x, h]| {
                    let (x, h) = (p.slice(x)?, p.slice(h)?);
                    (x.of == xn.of && h.of == hn.of).then_some((x, h))
                })
            };
            let ((Some((xr, hr)), Some((xz, hz))), true) = ((of(r_sum), of(z_sum)), xn.of != hn.of) else { continue };
            let (Some(rest_order), Some(order)) = (p.one_of([&xr, &xz, &xn]), p.one_of([&hr, &hz, &hn])) else {
                continue;
            };
            let slices = [&xr, &xz, &xn, &hr, &hz, &hn];
            let apart = slices.iter().any(|g| p.uses(g.slice) != 1) || p.uses(xn.of) != 3 || p.uses(hn.of) != 3;
            // One of z and n stands twice in the sum.
            if apart || p.uses(r) != 1 || p.uses(z) + p.uses(n) != 3 {
                return Some(Err("a gate has another consumer"));
            }
            return Some(gru_from(p, h1, h, (xn.of, rest_order), (hn.of, order)));
        }
    }
    None
}

fn gru_from(
    p: &Parts<'_>,
    h1: Value,
    h: Value,
    (gx, rest_order): (Value, Vec<i64>),
    (gh, order): (Value, Vec<i64>),
) -> Result<Cell, &'static str> {
    let mut addends = p.addends(gh);
    let (state, w) = p.take_recurrent(&mut addends, h, 3)?;
    if state != h {
        return Err("the state that is kept is not the one that is multiplied");
    }
    let biases: Option<Vec<Value>> = addends.iter().map(|a| p.known_vector(a)).collect();
    let biases = biases.ok_or("more than a bias is added to the product with the state")?;
    let rest = p.addends(gx);
    p.can_reorder(&rest, &rest_order)?;
    Ok(Cell { op: Op::GruCell, results: vec![h1], h, c: None, w, biases, rest, order, rest_order })
}

fn fuse(
    m: &mut Module,
    cx: &mut Context<'_>,
    region: Region,
    known: &HashSet<Value>,
    cell: &Cell,
    (place, index): (String, usize),
) -> Result<(), PassError> {
    // The last result in the order of execution that is computed first: everything that the cell takes stands before it.
    let list = &m.regions[region].nodes;
    let at = cell.results.iter().filter_map(|v| list.iter().position(|n| m.nodes[*n].results.contains(v))).min();
    let source = m.producer(cell.results[0]).and_then(|n| m.nodes[n].source.clone());
    let mut s = Seq::new(m, source);
    let built = build(&mut s, known, cell);
    let nodes = s.nodes;
    let results = built.map_err(|v| cx.broken("cell", place.clone(), v))?;
    let at = at.unwrap_or(0);
    m.regions[region].nodes.splice(at..at, nodes.iter().copied());
    for (old, new) in cell.results.iter().zip(&results) {
        edit::swap_labels(m, *old, *new);
    }
    let replaced: HashMap<Value, Value> = cell.results.iter().copied().zip(results).collect();
    m.replace_uses(&replaced);
    let gone = drop_dead(m, region);
    let known = analysis::weight_time(m);
    cx.fired(Rewrite {
        index,
        pass: cx.pass().into(),
        rule: cell.op.name().into(),
        place,
        before: gone.iter().map(|n| analysis::text(m, *n)).collect(),
        after: nodes.iter().map(|n| analysis::text(m, *n)).collect(),
        cost_before: cost::node_cycles(cx.target, m, &gone, &known),
        cost_after: cost::node_cycles(cx.target, m, &nodes, &known),
        class: Exactness::E1,
    });
    Ok(())
}

/// The results of the cell.
fn build(s: &mut Seq<'_>, known: &HashSet<Value>, cell: &Cell) -> Result<Vec<Value>, Violation> {
    let state = s.ty(cell.h).dims;
    let width = state[state.len() - 1].clone();
    let gates = cell.order.len() as i64;
    let wide: Vec<Dim> = [&state[..state.len() - 1], &[width.clone() * gates.into()]].concat();
    let gx = input_part(s, known, cell, &wide)?;
    let w = reordered(s, cell.w, &cell.order)?;
    let rows: Dim = state[..state.len() - 1].iter().fold(Dim::from(1), |n, d| n * d.clone());
    let flat = |s: &mut Seq<'_>, v: Value, columns: &Dim| match state.len() {
        2 => Ok(v),
        _ => s.op(Op::Reshape, [v], [("to", vec![rows.clone(), columns.clone()].into())]),
    };
    let mut operands = vec![Some(flat(s, gx, &wide[wide.len() - 1])?), Some(flat(s, cell.h, &width)?)];
    if let Some(c) = cell.c {
        operands.push(Some(flat(s, c, &width)?));
    }
    operands.push(Some(w));
    if let Some(bias) = sum(s, &cell.biases)? {
        let one = s.ty(bias).dims.len() == 1;
        let bias =
            if one { bias } else { s.op(Op::Reshape, [bias], [("to", vec![wide[wide.len() - 1].clone()].into())])? };
        operands.push(Some(reordered(s, bias, &cell.order)?));
    }
    let results = s.ops(cell.op, operands, [])?;
    if state.len() == 2 {
        return Ok(results);
    }
    results.into_iter().map(|v| s.op(Op::Reshape, [v], [("to", state.clone().into())])).collect()
}

/// The sum of the input's part with all biases, gates in the op's order. Vectors are added to each other first.
fn input_part(s: &mut Seq<'_>, known: &HashSet<Value>, cell: &Cell, wide: &[Dim]) -> Result<Value, Violation> {
    let (mut vectors, mut tensors) = (vec![], vec![]);
    for addend in &cell.rest {
        match addend {
            Addend::Product { x, w, value } => {
                let straight = cell.rest_order.iter().copied().eq(0..cell.rest_order.len() as i64);
                tensors.push(match value {
                    Some(value) if straight => *value,
                    _ => {
                        let w = reordered(s, *w, &cell.rest_order)?;
                        s.op(Op::Matmul, [*x, w], [])?
                    }
                });
            }
            Addend::Other(v) if known.contains(v) => vectors.push(reordered(s, *v, &cell.rest_order)?),
            Addend::Other(v) => tensors.push(*v),
        }
    }
    let (tensor, vector) = (sum(s, &tensors)?, sum(s, &vectors)?);
    let parts: Vec<Value> = tensor.into_iter().chain(vector).collect();
    match sum(s, &parts)? {
        Some(v) if s.ty(v).dims == wide => Ok(v),
        Some(v) => s.op(Op::Broadcast, [v], [("to", wide.to_vec().into())]),
        None => {
            let zero = s.number(0.0, cell.h);
            s.op(Op::Broadcast, [zero], [("to", wide.to_vec().into())])
        }
    }
}

fn sum(s: &mut Seq<'_>, values: &[Value]) -> Result<Option<Value>, Violation> {
    let mut values = values.iter().copied();
    let Some(mut total) = values.next() else { return Ok(None) };
    for v in values {
        total = s.op(Op::Add, [total, v], [])?;
    }
    Ok(Some(total))
}

/// The columns of a weight, or the elements of a bias, with the gates in the op's order.
fn reordered(s: &mut Seq<'_>, v: Value, order: &[i64]) -> Result<Value, Violation> {
    let dims = s.ty(v).dims;
    let (Some(last), false) = (dims.last(), order.iter().copied().eq(0..order.len() as i64)) else { return Ok(v) };
    let (axis, width) = (dims.len() as i64 - 1, last.clone().floor_div(&(order.len() as i64).into()));
    let mut gates = vec![];
    for at in order {
        let (start, end) = (width.clone() * (*at).into(), width.clone() * (at + 1).into());
        gates.push(s.op(Op::Slice, [v], [("axis", axis.into()), ("start", start.into()), ("end", end.into())])?);
    }
    s.op(Op::Concat, gates, [("axis", axis.into())])
}
