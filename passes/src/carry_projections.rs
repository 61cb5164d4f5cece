//! Carries the product of a value with a weight from step to step instead of the value, and looks it up in the table's.
//!
//! ```text
//!     %r = for 7, %go, .. body(%t, %x: f32[2,3], ..) {       %q = linear %table, %w : f32[2,9,5]
//!       %p = linear %x, %w : f32[2,5]                        %g = linear %go, %w : f32[2,5]
//!       ..                                                   %r = for 7, %g, .. body(%t, %x: f32[2,5], ..) {
//!       %n = gather %table, %i axis=1 batch=1 : f32[2,3]       .. %x in the place of %p ..
//!       yield %n, ..                                           %n = gather %q, %i axis=1 batch=1 : f32[2,5]
//! ```
//!
//! So a decoder that reads what it picked multiplies each row of the table once, in one product, and not one row in each
//! step; and the product of the learned first input is known when the weights are written.
//!
//! It must not fire where the value has another consumer or leaves the loop, where what comes next is no lookup in a
//! table from outside, where weight or bias change in the loop, where the table has more rows than the loop has steps, or
//! where its rows are so narrow that a product is computed in less time than it is written and looked up.

use crate::{
    Exactness, analysis, cost,
    loops::{Loop, drop_dead},
    pass::{Context, Outcome, Pass, PassError},
    record::Rewrite,
};
use kiln_ir::{Dim, Module, Node, NodeData, Op, Type, Value, Violation, ops::Seq};
use std::collections::HashMap;

pub(crate) static PASS: Pass = Pass {
    name: "carry-projections",
    summary: "carries the product of a value that is looked up instead of the value",
    class: Exactness::E1,
    required: false,
    run,
};

fn run(m: &mut Module, cx: &mut Context<'_>) -> Result<Outcome, PassError> {
    if !cx.allows(Exactness::E1) {
        return Ok(Outcome { changed: false });
    }
    let mut changed = false;
    for l in Loop::all(m) {
        for n in 0..l.carried(m) {
            if let Some(found) = find(m, cx, &l, n)
                && let Some(index) = cx.admit()
            {
                carry(m, cx, &l, n, &found, index)?;
                changed = true;
            }
        }
    }
    Ok(Outcome { changed })
}

/// Where a carried value is multiplied, and the lookup that gives the next one.
struct Found {
    product: Node,
    lookup: Node,
}

fn find(m: &Module, cx: &mut Context<'_>, l: &Loop, n: usize) -> Option<Found> {
    let (uses, inside, arg) = (m.use_counts(), l.inside(m), l.arg(m, n));
    let body = &m.regions[l.body];
    let product =
        *body.nodes.iter().find(|node| m.nodes[**node].op == Op::Linear && m.nodes[**node].operand(0) == arg)?;
    let data = &m.nodes[product];
    if data.optional(3).is_some() || data.inputs().skip(1).any(|v| inside.contains(&v)) {
        return None;
    }
    let lookup = m.producer(body.results[n]).filter(|p| m.nodes[*p].op == Op::Gather && body.nodes.contains(p))?;
    let table = m.nodes[lookup].operand(0);
    let axis = m.nodes[lookup].attrs.int("axis").unwrap_or(0) as usize;
    let ty = m.ty(table);
    // `linear` takes two axes or more, and sums over the last one, which must not be the one of the lookup.
    if inside.contains(&table) || axis + 1 >= ty.rank() {
        return None;
    }
    let reason = if uses.get(&arg) != Some(&1) {
        "the value has another consumer"
    } else if uses.contains_key(&m.nodes[l.node].results[n]) {
        "the value leaves the loop"
    } else if cost::typical(&ty.dims[axis], &m.symbols) > l.trips(m) {
        "the table has more rows than the loop has steps"
    } else if cost::is_cheaper_than_kept(cx.target, m, product) {
        "the product takes less time than to look it up"
    } else {
        return Some(Found { product, lookup });
    };
    cx.refused("carry", analysis::place(m, product), reason);
    None
}

fn carry(
    m: &mut Module,
    cx: &mut Context<'_>,
    l: &Loop,
    n: usize,
    found: &Found,
    index: usize,
) -> Result<(), PassError> {
    let place = analysis::place(m, found.product);
    let (product, lookup) = (m.nodes[found.product].clone(), m.nodes[found.lookup].clone());
    let before = [found.product, found.lookup].iter().map(|n| analysis::text(m, *n)).collect();
    let cost_before = cost::repeated_arithmetic_cycles(cx.target, m, found.product, l.trips(m));
    let init = m.nodes[l.node].operand(l.init(n));
    let mut s = Seq::new(m, product.source.clone());
    let built = outside(&mut s, &product, init, lookup.operand(0));
    let mut nodes = s.nodes;
    let (start, table) = built.map_err(|v| cx.broken("carry", place.clone(), v))?;
    let mut s = Seq::new(m, lookup.source.clone());
    let next = s.op(Op::Gather, [table, lookup.operand(1)], lookup.attrs.clone());
    let inner = s.nodes;
    let next = next.map_err(|v| cx.broken("carry", place.clone(), v))?;

    let ty = m.ty(product.result()).clone();
    l.put_in_front(m, &nodes);
    let at = m.regions[l.body].nodes.iter().position(|n| *n == found.lookup).unwrap_or(0);
    m.regions[l.body].nodes.splice(at..at, inner.iter().copied());
    m.regions[l.body].results[n] = next;
    m.nodes[l.node].operands[l.init(n)] = Some(start);
    let arg = l.arg(m, n);
    let result = m.nodes[l.node].results[n];
    let asked = l.condition.map(|c| m.regions[c].args[n]);
    for v in [arg, result].into_iter().chain(asked) {
        m.values[v].ty = ty.clone();
    }
    m.replace_uses(&HashMap::from([(product.result(), arg)]));
    m.regions[l.body].nodes.retain(|n| *n != found.product);
    drop_dead(m, l.body);
    drop_dead(m, l.around);
    // The product of the first value is that of the first step, or is known when weights are written.
    let cost_after = m.producer(table).map_or(0, |n| cost::arithmetic_cycles(cx.target, m, n));
    nodes.extend(inner);
    cx.fired(Rewrite {
        index,
        pass: cx.pass().into(),
        rule: "carry".into(),
        place,
        before,
        after: nodes.iter().map(|n| analysis::text(m, *n)).collect(),
        cost_before,
        cost_after,
        class: Exactness::E1,
    });
    Ok(())
}

/// The products of the first value and of the table.
fn outside(s: &mut Seq<'_>, product: &NodeData, init: Value, table: Value) -> Result<(Value, Value), Violation> {
    let times = |s: &mut Seq<'_>, x: Value| {
        s.op(Op::Linear, [Some(x), product.optional(1), product.optional(2)], product.attrs.clone())
    };
    // What repeats along the rows is multiplied once.
    let single = s.module.producer(init).map(|p| s.module.nodes[p].clone()).filter(|d| d.op == Op::Broadcast);
    let start = match single {
        Some(broadcast) => {
            let Type { dims, .. } = s.ty(broadcast.operand(0));
            let (to, whole) = (s.ty(init).dims, s.ty(product.result()).dims);
            match dims.split_last() {
                Some((last, front)) if *last == to[to.len() - 1] => {
                    let mut one = vec![Dim::from(1); (to.len() - 1).saturating_sub(front.len())];
                    one.extend_from_slice(&dims);
                    let x = broadcast.operand(0);
                    let x = if one == dims { x } else { s.op(Op::Reshape, [x], [("to", one.into())])? };
                    let y = times(s, x)?;
                    s.op(Op::Broadcast, [y], [("to", whole.into())])?
                }
                _ => times(s, init)?,
            }
        }
        None => times(s, init)?,
    };
    Ok((start, times(s, table)?))
}
