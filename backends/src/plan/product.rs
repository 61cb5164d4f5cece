//! `linear` and `matmul`: products with a packed weight or with a tensor of the run.

use super::{
    group::{Anchor, Group, Input, Scalars, Then, index_axes},
    layout::{Layout, coalesce},
    lower::{input, refuse},
    planner::{Planner, Refusal, View},
};
use crate::{
    plan::Buffer,
    weights::{Item, Part},
};
use kiln_ir::{
    Dim, ElemType, Node, Op,
    scalar::{Binary, Builder, Expr, Id},
};
use kiln_kernels::matmul::{Matrix, Rhs, Spec};

pub(super) fn product(p: &mut Planner<'_>, g: &Group<'_>, node: Node, n: usize) -> Result<(), Refusal> {
    let data = g.data(node);
    let (a, b) = (g.outer(data.operand(0)), g.outer(data.operand(1)));
    let space = g.m.ty(data.result()).dims.clone();
    let rank = space.len();
    if g.m.ty(g.outs[n]).dims != space {
        return Err((node, "its fusion ends in other sizes than its result's".into()));
    }
    if !g.m.ty(a).elem.is_float() {
        return Err((node, format!("the cpu back end has no product of {}", g.m.ty(a).elem)));
    }
    for operand in [data.operand(0), data.operand(1)] {
        if let Some(inner) = g.producer(operand) {
            return Err((inner, format!("stands in front of {} in its fusion", data.op)));
        }
    }
    let mut then = vec![];
    if data.op == Op::Linear {
        let read = |n: usize| data.optional(n).map(|value| Then::Binary(Binary::Add, Input { value, axis: None }));
        then.extend(read(2));
        then.extend(data.attrs.word("act").and_then(Op::from_name).map(Then::Scalar));
        then.extend(read(3));
    }
    let anchor = Anchor { value: data.result(), then };
    let mut scalars = Scalars::new(g);
    let epilogue = scalars.expr(g.results[n], Some(&anchor), rank).map_err(refuse(node))?;
    let packed = p.part(b).filter(|part| part.dims.len() == 2 && g.m.ty(b).elem.is_float());
    let a = broadcast_batch(p.view(a), &space);
    let (k, columns) = (a.layout.dims[rank - 1].clone(), space[rank - 1].clone());
    let mut operands: Vec<View> = scalars.inputs.iter().map(|i| input(p, g, *i, &space)).collect();
    let sums = g.m.ty(data.result()).elem;
    if let Some(part) = packed.as_ref().filter(|part| is_narrow(p, part, &a, sums)) {
        let output = p.output(g.outs[n]);
        narrow(p, [&a, &output], part.clone(), epilogue, operands);
        return Ok(());
    }
    for operand in &mut operands {
        let column = &operand.layout.strides[rank - 1];
        if !column.is(0) && !column.is(1) {
            *operand = p.packed(operand);
        }
    }
    let wanted = p.output(g.outs[n]);
    let direct = wanted.layout.strides[rank - 1].is(1) || columns.is(1);
    let c = if direct { wanted.clone() } else { p.scratch(wanted.elem, &space) };
    let right = match packed {
        Some(part) => Right::Packed(part),
        None => Right::Strided(broadcast_batch(p.view(b), &space)),
    };
    let reads_coordinates = !index_axes(&epilogue).is_empty();
    let (mut batch, mut m) = (rank - 2, space[rank - 2].clone());
    let mut rows: Vec<Layout> = [&a, &c].into_iter().chain(&operands).map(|v| cut(&v.layout, 0, rank - 1)).collect();
    let mut right_batch = match &right {
        Right::Packed(_) => None,
        Right::Strided(b) => Some(cut(&b.layout, 0, rank - 2)),
    };
    if !reads_coordinates {
        match &mut right_batch {
            // Rows of all batches are rows of one matrix where they lie alike.
            None => {
                coalesce(&mut rows, &[]);
                if rows[0].rank() == 0 {
                    rows.iter_mut().for_each(|l| *l = l.broadcast(&[1.into()]));
                }
                batch = rows[0].rank() - 1;
                m = rows[0].dims[batch].clone();
            }
            Some(right) => {
                let mut batches: Vec<Layout> = rows.iter().map(|l| cut(l, 0, rank - 2)).collect();
                batches.push(right.clone());
                coalesce(&mut batches, &[]);
                batch = batches[0].rank();
                *right = batches.pop().unwrap_or_else(|| right.clone());
                for (row, front) in rows.iter_mut().zip(batches) {
                    let last = cut(row, rank - 2, rank - 1);
                    row.dims = [front.dims, last.dims].concat();
                    row.strides = [front.strides, last.strides].concat();
                }
            }
        }
    }
    let matrix = |row: &Layout, elem: ElemType, col: Dim| Matrix {
        elem,
        batch: row.strides[..batch].to_vec(),
        row: row.strides[batch].clone(),
        col,
    };
    let column = |view: &View| view.layout.strides[rank - 1].clone();
    let (b, rhs) = match right {
        Right::Packed(part) => {
            let stored = p.weights.get(part.source).elem;
            let elem = p.options.weights.filter(|_| stored.is_float()).unwrap_or(stored);
            let buffer = Buffer::Weight(p.weights.item(Item::Packed { matrix: part, gates: 1, elem }));
            (View { buffer, elem, layout: Layout::contiguous(&[]) }, Rhs::Packed(elem))
        }
        Right::Strided(view) => {
            let (row, col) = (view.layout.strides[rank - 2].clone(), column(&view));
            let batch = right_batch.map_or(vec![], |l| l.strides);
            let matrix = Matrix { elem: view.elem, batch, row, col };
            (view, Rhs::Strided(matrix))
        }
    };
    let spec = Spec {
        batch: rows[0].dims[..batch].to_vec(),
        m,
        n: columns,
        a: matrix(&rows[0], a.elem, if k.is(1) { 1.into() } else { column(&a) }),
        k,
        b: rhs,
        epilogue,
        operands: rows[2..].iter().zip(&operands).map(|(row, v)| matrix(row, v.elem, column(v))).collect(),
        c: matrix(&rows[1], c.elem, 1.into()),
    };
    let aliases = (2..2 + operands.len()).collect();
    p.launch(spec.into(), [a, b].into_iter().chain(operands).collect(), vec![c.clone()], aliases);
    if c != wanted {
        p.copy(&c, &wanted);
    }
    Ok(())
}

/// Rows of a weight up to which a product is a sum written out: tiles would take longer to set up than to fill.
const NARROW: i64 = 4;

fn is_narrow(p: &Planner<'_>, part: &Part, a: &View, sums: ElemType) -> bool {
    let exact = matches!(sums, ElemType::F32 | ElemType::F64);
    let alike = a.elem == sums && p.weights.get(part.source).elem == sums;
    exact && alike && p.options.weights.is_none() && (1..=NARROW).contains(&part.dims[0])
}

/// The product as a map: `sum of a[.., i] b[i, ..]`, and the epilogue of that.
fn narrow(p: &mut Planner<'_>, [a, output]: [&View; 2], part: Part, epilogue: Expr, operands: Vec<View>) {
    let (terms, space) = (part.dims[0] as u32, output.layout.dims.clone());
    let weight = Layout::contiguous(&[part.dims[0].into(), part.dims[1].into()]);
    let source = p.dense_source(part);
    let weight = View { buffer: Buffer::Weight(p.weights.item(Item::Plain(source))), elem: a.elem, layout: weight };
    let at = |view: &View, axis: usize, i: u32| {
        let mut layout = view.layout.clone();
        layout.offset = layout.offset + layout.strides[axis].clone() * Dim::from(i64::from(i));
        layout.dims[axis] = 1.into();
        view.with(layout.broadcast(&space))
    };
    let columns = (0..terms).map(|i| at(a, space.len() - 1, i));
    let inputs: Vec<View> = columns.chain((0..terms).map(|i| at(&weight, 0, i))).chain(operands).collect();
    let mut builder = Builder::new();
    let read: Vec<Id> = inputs.iter().enumerate().map(|(i, v)| builder.input(i as u32, v.elem)).collect();
    let (columns, rest) = read.split_at(terms as usize);
    let (rows, operands) = rest.split_at(terms as usize);
    let mut sum = builder.mul(columns[0], rows[0]);
    for (x, w) in columns.iter().zip(rows).skip(1) {
        let term = builder.mul(*x, *w);
        sum = builder.add(sum, term);
    }
    let result = builder.inline(&epilogue, &[&[sum], operands].concat());
    p.map(inputs, builder.finish(result), output.clone());
}

enum Right {
    Packed(Part),
    Strided(View),
}

/// The operand of a product with the batch axes of the result.
fn broadcast_batch(view: View, space: &[Dim]) -> View {
    let rank = view.layout.rank();
    let mut to = space[..space.len() - 2].to_vec();
    to.extend_from_slice(&view.layout.dims[rank - 2..]);
    view.with(view.layout.broadcast(&to))
}

fn cut(layout: &Layout, from: usize, to: usize) -> Layout {
    Layout {
        dims: layout.dims[from..to].to_vec(),
        strides: layout.strides[from..to].to_vec(),
        offset: layout.offset.clone(),
    }
}
