//! From groups of nodes to kernel specs, one function a family.

use super::{
    cell, circuit,
    group::{Anchor, Group, Input, Scalars, Then, back_order, index_axes, rename_axes},
    layout::{Layout, axis, coalesce},
    planner::{Planner, Refusal, View},
    product,
};
use kiln_ir::{
    Dim, Node, NodeData, Op, Value,
    scalar::{Binary, Expr, Literal},
};
use kiln_kernels::{attention, conv, decode, gather, reduce, row, topk};

/// Plans a group: one kernel for each of its results, as a rule one.
pub(super) fn group(p: &mut Planner<'_>, g: &Group<'_>) -> Result<(), Refusal> {
    let anchors = g.anchors();
    let anchor = match anchors.as_slice() {
        [] => None,
        [anchor] => Some(*anchor),
        [_, second, ..] => {
            return Err((*second, format!("{} is not the only such op of its fusion", g.data(*second).op)));
        }
    };
    if let Some(node) = anchor.filter(|n| g.data(*n).op == Op::Topk) {
        return topk(p, g, node);
    }
    if let Some(node) = anchor.filter(|n| matches!(g.data(*n).op, Op::LstmCell | Op::GruCell)) {
        return cell::cell(p, g, node);
    }
    if let Some(node) = anchor.filter(|n| g.data(*n).op == Op::CircuitQuery) {
        return circuit::query(p, g, node);
    }
    for n in 0..g.results.len() {
        match anchor.filter(|a| depends(g, g.results[n], *a)) {
            None => map(p, g, n)?,
            Some(node) => match g.data(node).op {
                Op::Softmax | Op::LogSoftmax | Op::LayerNorm | Op::RmsNorm | Op::L2Normalize => row(p, g, node, n)?,
                Op::Reduce | Op::Argmax => reduce(p, g, node, n)?,
                Op::Linear | Op::Matmul => product::product(p, g, node, n)?,
                Op::Conv => conv(p, g, node, n)?,
                Op::Attention => attention(p, g, node)?,
                Op::DecodeAttention => decode_attention(p, g, node)?,
                Op::Gather => gather(p, g, node)?,
                op => return Err((node, format!("the cpu back end has no kernel for {op}"))),
            },
        }
    }
    Ok(())
}

/// Whether a value of the group is computed from a result of `anchor`.
fn depends(g: &Group<'_>, value: Value, anchor: Node) -> bool {
    let mut todo = vec![value];
    let mut seen = vec![];
    while let Some(value) = todo.pop() {
        let Some(node) = g.producer(value).filter(|n| !seen.contains(n)) else { continue };
        if node == anchor {
            return true;
        }
        seen.push(node);
        todo.extend(g.data(node).inputs());
    }
    false
}

pub(super) fn refuse(node: Node) -> impl Fn(Node) -> Refusal {
    move |inner| (node, format!("node {inner} of it is no scalar op"))
}

/// The view of an input over an index space of these sizes.
pub(super) fn input(p: &mut Planner<'_>, g: &Group<'_>, input: Input, space: &[Dim]) -> View {
    let view = p.view(g.outer(input.value));
    let layout = match input.axis.filter(|_| view.layout.rank() == 1) {
        None => view.layout.broadcast(space),
        Some(axis) => {
            let mut layout = Layout::contiguous(&[]).broadcast(space);
            layout.offset = view.layout.offset.clone();
            if !view.layout.dims[0].is(1) {
                layout.strides[axis] = view.layout.strides[0].clone();
            }
            layout
        }
    };
    view.with(layout)
}

fn inputs(p: &mut Planner<'_>, g: &Group<'_>, scalars: &Scalars<'_, '_>, space: &[Dim]) -> Vec<View> {
    scalars.inputs.iter().map(|i| input(p, g, *i, space)).collect()
}

fn map(p: &mut Planner<'_>, g: &Group<'_>, n: usize) -> Result<(), Refusal> {
    let space = g.m.ty(g.outs[n]).dims.clone();
    let mut scalars = Scalars::new(g);
    let expr = scalars.expr(g.results[n], None, space.len()).map_err(refuse(g.nodes[0]))?;
    let inputs = inputs(p, g, &scalars, &space);
    let output = p.output(g.outs[n]);
    p.map(inputs, expr, output);
    Ok(())
}

/// The axes that the op works along.
fn axes(node: &NodeData, rank: usize) -> Vec<usize> {
    match node.op {
        Op::LayerNorm | Op::RmsNorm => (axis(node, rank)..rank).collect(),
        Op::Reduce => {
            let from_front = |a: &i64| if *a < 0 { (*a + rank as i64) as usize } else { *a as usize };
            node.attrs.ints("axes").iter().map(from_front).collect()
        }
        _ => vec![axis(node, rank)],
    }
}

/// A layout with the given axes last, cut in front of them.
fn split(layout: &Layout, last: &[usize]) -> (Layout, Layout) {
    let mut front = layout.transpose(&back_order(layout.rank(), last));
    let at = front.rank() - last.len();
    let back = Layout { dims: front.dims.split_off(at), strides: front.strides.split_off(at), offset: 0.into() };
    (front, back)
}

fn join(parts: &[&Layout]) -> Layout {
    Layout {
        dims: parts.iter().flat_map(|p| p.dims.clone()).collect(),
        strides: parts.iter().flat_map(|p| p.strides.clone()).collect(),
        offset: parts[0].offset.clone(),
    }
}

/// Merges the outer axes of all views; those whose coordinates are read stay.
fn merge(layouts: &mut [Layout], exprs: &[&Expr]) {
    if exprs.iter().all(|e| index_axes(e).is_empty()) {
        coalesce(layouts, &[]);
    }
}

fn row(p: &mut Planner<'_>, g: &Group<'_>, node: Node, n: usize) -> Result<(), Refusal> {
    let data = g.data(node);
    let x = data.operand(0);
    let space = g.m.ty(x).dims.clone();
    let rank = space.len();
    let last = axes(data, rank);
    if g.m.ty(g.outs[n]).dims != space {
        return Err((node, "its fusion ends in other sizes than its operand's".into()));
    }
    let operand = |n: usize| data.optional(n).map(|value| Input { value, axis: None });
    let mut then = vec![];
    if matches!(data.op, Op::LayerNorm | Op::RmsNorm) {
        then.extend(operand(1).map(|scale| Then::Binary(Binary::Mul, scale)));
        then.extend(operand(2).map(|bias| Then::Binary(Binary::Add, bias)));
    }
    let anchor = Anchor { value: data.result(), then };
    let mut scalars = Scalars::new(g);
    let prologue = scalars.expr(x, None, rank).map_err(refuse(node))?;
    let epilogue = scalars.expr(g.results[n], Some(&anchor), rank).map_err(refuse(node))?;
    if last.len() > 1 && [&prologue, &epilogue].iter().any(|e| !index_axes(e).is_empty()) {
        return Err((node, "coordinates along several normalised axes".into()));
    }
    let order = back_order(rank, &last);
    let renamed = |a: usize| order.iter().position(|o| *o == a).unwrap_or(a);
    let (prologue, epilogue) = (rename_axes(&prologue, &renamed), rename_axes(&epilogue, &renamed));
    let mut views = inputs(p, g, &scalars, &space);
    let wanted = p.output(g.outs[n]);
    let inner: Dim = last.iter().fold(Dim::from(1), |n, a| n * space[*a].clone());
    let row = |layout: &Layout| {
        let (front, back) = split(layout, &last);
        back.reshape(std::slice::from_ref(&inner)).map(|back| (front, back))
    };
    for view in &mut views {
        if row(&view.layout).is_none() {
            *view = p.packed(view);
        }
    }
    let output = if row(&wanted.layout).is_some() { wanted.clone() } else { p.scratch(wanted.elem, &space) };
    let parts: Option<Vec<(Layout, Layout)>> = std::iter::once(&output).chain(&views).map(|v| row(&v.layout)).collect();
    let parts = parts.ok_or((node, "its rows have no stride".to_string()))?;
    let (mut fronts, backs): (Vec<Layout>, Vec<Layout>) = parts.into_iter().unzip();
    merge(&mut fronts, &[&prologue, &epilogue]);
    let layouts: Vec<Layout> = fronts.iter().zip(&backs).map(|(f, b)| join(&[f, b])).collect();
    let eps = Literal::of(kiln_ir::ElemType::F64, data.attrs.float("eps").unwrap_or(0.0));
    let spec = row::Spec {
        outer: fronts[0].dims.clone(),
        inner,
        inputs: layouts[1..].iter().zip(&views).map(|(l, v)| l.access(v.elem)).collect(),
        prologue,
        stat: match data.op {
            Op::Softmax => row::Stat::Softmax,
            Op::LogSoftmax => row::Stat::LogSoftmax,
            Op::LayerNorm => row::Stat::LayerNorm { eps },
            Op::RmsNorm => row::Stat::RmsNorm { eps },
            _ => row::Stat::L2Normalize { eps },
        },
        epilogue,
        output: layouts[0].access(output.elem),
    };
    let aliases = (0..views.len()).collect();
    p.launch(spec.into(), views, vec![output.clone()], aliases);
    if output != wanted {
        p.copy(&output, &wanted);
    }
    Ok(())
}

fn reduce(p: &mut Planner<'_>, g: &Group<'_>, node: Node, n: usize) -> Result<(), Refusal> {
    let data = g.data(node);
    let x = data.operand(0);
    let space = g.m.ty(x).dims.clone();
    let last = axes(data, space.len());
    let keep = data.attrs.bool("keep");
    let result_space = g.m.ty(g.outs[n]).dims.clone();
    if result_space != g.m.ty(data.result()).dims {
        return Err((node, "its fusion ends in other sizes than its result's".into()));
    }
    let mut before = Scalars::new(g);
    let prologue = before.expr(x, None, space.len()).map_err(refuse(node))?;
    let anchor = Anchor { value: data.result(), then: vec![] };
    let mut after = Scalars::new(g);
    let epilogue = after.expr(g.results[n], Some(&anchor), result_space.len()).map_err(refuse(node))?;
    let order = back_order(space.len(), &last);
    let prologue = rename_axes(&prologue, &|a| order.iter().position(|o| *o == a).unwrap_or(a));
    let epilogue =
        if keep { rename_axes(&epilogue, &|a| order.iter().position(|o| *o == a).unwrap_or(a)) } else { epilogue };
    let reads = inputs(p, g, &before, &space);
    let epilogue_reads = inputs(p, g, &after, &result_space);
    let output = p.output(g.outs[n]);
    let outer = |layout: &Layout| if keep { split(layout, &last).0 } else { layout.clone() };
    let (fronts, mut backs): (Vec<Layout>, Vec<Layout>) = reads.iter().map(|v| split(&v.layout, &last)).unzip();
    let mut fronts: Vec<Layout> = std::iter::once(outer(&output.layout))
        .chain(fronts)
        .chain(epilogue_reads.iter().map(|v| outer(&v.layout)))
        .collect();
    let reduced_space: Vec<Dim> = order[order.len() - last.len()..].iter().map(|a| space[*a].clone()).collect();
    merge(&mut fronts, &[&prologue, &epilogue]);
    merge(&mut backs, &[&prologue]);
    let reduced = backs.first().map_or(reduced_space, |b| b.dims.clone());
    let layouts: Vec<Layout> = fronts[1..].iter().zip(&backs).map(|(f, b)| join(&[f, b])).collect();
    let spec = reduce::Spec {
        outer: fronts[0].dims.clone(),
        reduced,
        inputs: layouts.iter().zip(&reads).map(|(l, v)| l.access(v.elem)).collect(),
        prologue,
        kind: match (data.op, data.attrs.word("kind").unwrap_or("sum")) {
            (Op::Argmax, _) => reduce::Kind::Argmax,
            (_, "mean") => reduce::Kind::Mean,
            (_, "prod") => reduce::Kind::Prod,
            (_, "max") => reduce::Kind::Max,
            (_, "min") => reduce::Kind::Min,
            _ => reduce::Kind::Sum,
        },
        epilogue,
        epilogue_inputs: fronts[1 + reads.len()..].iter().zip(&epilogue_reads).map(|(l, v)| l.access(v.elem)).collect(),
        output: fronts[0].access(output.elem),
    };
    p.launch(spec.into(), reads.into_iter().chain(epilogue_reads).collect(), vec![output], vec![]);
    Ok(())
}

fn topk(p: &mut Planner<'_>, g: &Group<'_>, node: Node) -> Result<(), Refusal> {
    let data = g.data(node);
    if g.nodes.len() > 1 || g.results.len() != 2 || g.results != data.results {
        return Err((node, "topk does not stand alone in its fusion".into()));
    }
    let x = p.view(g.outer(data.operand(0)));
    let last = axes(data, x.layout.rank());
    let (values, indices) = (p.output(g.outs[0]), p.output(g.outs[1]));
    let views = [&x, &values, &indices];
    let (mut fronts, backs): (Vec<Layout>, Vec<Layout>) = views.iter().map(|v| split(&v.layout, &last)).unzip();
    coalesce(&mut fronts, &[]);
    let access = |i: usize| join(&[&fronts[i], &backs[i]]).access(views[i].elem);
    let spec = topk::Spec {
        outer: fronts[0].dims.clone(),
        inner: backs[0].dims[0].clone(),
        input: access(0),
        k: data.attrs.dim("k").cloned().unwrap_or(1.into()),
        values: access(1),
        indices: access(2),
    };
    p.launch(spec.into(), vec![x], vec![values, indices], vec![]);
    Ok(())
}

pub(super) fn alone(g: &Group<'_>, node: Node) -> Result<(), Refusal> {
    let data = g.data(node);
    if g.nodes.len() == 1 && g.results == data.results {
        return Ok(());
    }
    Err((node, format!("{} does not stand alone in its fusion", data.op)))
}

fn gather(p: &mut Planner<'_>, g: &Group<'_>, node: Node) -> Result<(), Refusal> {
    alone(g, node)?;
    let data = g.data(node);
    let (table, index) = (p.view(g.outer(data.operand(0))), p.view(g.outer(data.operand(1))));
    let output = p.output(g.outs[0]);
    let axis = axis(data, table.layout.rank());
    let cut = |layout: &Layout, from: usize, to: usize| Layout {
        dims: layout.dims[from..to].to_vec(),
        strides: layout.strides[from..to].to_vec(),
        offset: 0.into(),
    };
    let batch = data.attrs.int("batch").unwrap_or(0) as usize;
    let (rank, indices) = (table.layout.rank(), index.layout.rank());
    // The output's axes behind the indices.
    let behind = axis + indices - batch;
    let mut shared = [&table, &index, &output].map(|v| cut(&v.layout, 0, batch));
    let mut before = [cut(&table.layout, batch, axis), cut(&output.layout, batch, axis)];
    let mut at = [cut(&index.layout, batch, indices), cut(&output.layout, axis, behind)];
    let mut after = [cut(&table.layout, axis + 1, rank), cut(&output.layout, behind, output.layout.rank())];
    coalesce(&mut shared, &[]);
    [&mut before, &mut at, &mut after].into_iter().for_each(|both| coalesce(both, &[]));
    let spec = gather::Spec {
        shared: shared[0].dims.clone(),
        before: before[0].dims.clone(),
        axis: table.layout.dims[axis].clone(),
        indices: at[0].dims.clone(),
        after: after[0].dims.clone(),
        table: join(&[&shared[0], &before[0], &cut(&table.layout, axis, axis + 1), &after[0]]).access(table.elem),
        index: join(&[&shared[1], &at[0]]).access(index.elem),
        output: join(&[&shared[2], &before[1], &at[1], &after[1]]).access(output.elem),
    };
    p.launch(spec.into(), vec![table, index], vec![output], vec![]);
    Ok(())
}

fn attention(p: &mut Planner<'_>, g: &Group<'_>, node: Node) -> Result<(), Refusal> {
    alone(g, node)?;
    let data = g.data(node);
    let swap = data.attrs.word("layout") == Some("bshd");
    let heads_first = |view: View| if swap { view.with(view.layout.transpose(&[0, 2, 1, 3])) } else { view };
    let [q, k, v] = [0, 1, 2].map(|n| heads_first(p.view(g.outer(data.operand(n)))));
    let output = heads_first(p.output(g.outs[0]));
    let [batch, heads, queries, depth] = [0, 1, 2, 3].map(|a| q.layout.dims[a].clone());
    let [_, kv_heads, keys, value_depth] = [0, 1, 2, 3].map(|a| v.layout.dims[a].clone());
    let constant = |d: &Dim| d.as_const().ok_or((node, format!("the head's depth {d} is not constant")));
    let scores = [batch.clone(), heads.clone(), queries.clone(), keys.clone()];
    let mask = data.optional(3).map(|m| p.view(g.outer(m))).map(|m| m.with(m.layout.broadcast(&scores)));
    let spec = attention::Spec {
        depth: constant(&depth)?,
        value_depth: constant(&value_depth)?,
        batch,
        heads,
        kv_heads,
        queries,
        keys,
        scale: Literal::of(kiln_ir::ElemType::F64, data.attrs.float("scale").unwrap_or(1.0)),
        causal: data.attrs.bool("causal"),
        q: q.layout.access(q.elem),
        k: k.layout.access(k.elem),
        v: v.layout.access(v.elem),
        mask: mask.as_ref().map(|m| m.layout.access(m.elem)),
        output: output.layout.access(output.elem),
    };
    p.launch(spec.into(), [q, k, v].into_iter().chain(mask).collect(), vec![output], vec![]);
    Ok(())
}

fn decode_attention(p: &mut Planner<'_>, g: &Group<'_>, node: Node) -> Result<(), Refusal> {
    alone(g, node)?;
    let data = g.data(node);
    let [q, k, v, lengths] = [0, 1, 2, 3].map(|n| p.view(g.outer(data.operand(n))));
    let output = p.output(g.outs[0]);
    let constant = |d: &Dim| d.as_const().ok_or((node, format!("the head's depth {d} is not constant")));
    let (queries, cache) = (q.layout.dims.clone(), v.layout.dims.clone());
    let spec = decode::Spec {
        batch: queries[0].clone(),
        heads: queries[1].clone(),
        kv_heads: cache[1].clone(),
        queries: queries[2].clone(),
        keys: cache[2].clone(),
        depth: constant(&queries[3])?,
        value_depth: constant(&cache[3])?,
        scale: Literal::of(kiln_ir::ElemType::F64, data.attrs.float("scale").unwrap_or(1.0)),
        splits: data.attrs.int("splits"),
        q: q.layout.access(q.elem),
        k: k.layout.access(k.elem),
        v: v.layout.access(v.elem),
        lengths: lengths.layout.access(lengths.elem),
        output: output.layout.access(output.elem),
    };
    p.launch(spec.into(), vec![q, k, v, lengths], vec![output], vec![]);
    Ok(())
}

fn conv(p: &mut Planner<'_>, g: &Group<'_>, node: Node, n: usize) -> Result<(), Refusal> {
    let data = g.data(node);
    let space = g.m.ty(data.result()).dims.clone();
    if g.m.ty(g.outs[n]).dims != space {
        return Err((node, "its fusion ends in other sizes than its result's".into()));
    }
    if space.len() > 5 {
        return Err((node, format!("{} spatial axes, at most 3", space.len() - 2)));
    }
    for n in 0..2 {
        if let Some(inner) = g.producer(data.operand(n)) {
            return Err((inner, "stands in front of conv in its fusion".into()));
        }
    }
    let bias = data.optional(2).map(|value| Then::Binary(Binary::Add, Input { value, axis: Some(1) }));
    let anchor = Anchor { value: data.result(), then: bias.into_iter().collect() };
    let mut scalars = Scalars::new(g);
    let epilogue = scalars.expr(g.results[n], Some(&anchor), space.len()).map_err(refuse(node))?;
    let (x, w) = (p.view(g.outer(data.operand(0))), p.view(g.outer(data.operand(1))));
    let reads = inputs(p, g, &scalars, &space);
    let output = p.output(g.outs[n]);
    let list = |name: &str| data.attrs.ints(name).to_vec();
    let spec = conv::Spec {
        batch: space[0].clone(),
        channels: w.layout.dims[1].clone(),
        out_channels: space[1].clone(),
        groups: data.attrs.int("groups").unwrap_or(1),
        spatial: x.layout.dims[2..].to_vec(),
        kernel: w.layout.dims[2..].to_vec(),
        out_spatial: space[2..].to_vec(),
        strides: list("strides"),
        dilations: list("dilations"),
        low: list("low"),
        input: x.layout.access(x.elem),
        weight: w.layout.access(w.elem),
        epilogue,
        epilogue_inputs: reads.iter().map(|v| v.layout.access(v.elem)).collect(),
        output: output.layout.access(output.elem),
    };
    p.launch(spec.into(), [x, w].into_iter().chain(reads).collect(), vec![output], vec![]);
    Ok(())
}
