//! Evaluation of the ops that compute: scalar expressions, reductions, selections by order, and products.

use super::{
    movement::{broadcast_strides, each, rows, strides},
    tensor::{Data, Tensor, count},
};
use crate::{
    ElemType,
    scalar::{Expr, Scalar},
    types::Kind,
};
use std::cmp::Ordering;

/// The expression for every element of `shape`, to which the operands broadcast.
pub(super) fn map(expr: &Expr, operands: &[&Tensor], shape: &[usize]) -> Tensor {
    let elem = expr.elem();
    let steps: Vec<Vec<usize>> = operands.iter().map(|t| broadcast_strides(&t.shape, shape)).collect();
    let inner: Vec<usize> = steps.iter().map(|s| s.last().copied().unwrap_or(0)).collect();
    let n = count(shape).unwrap_or(0);
    let (mut floats, mut ints) = (vec![], vec![]);
    if elem.is_float() {
        floats.reserve_exact(n);
    } else {
        ints.reserve_exact(n);
    }
    let mut inputs = vec![Scalar::I(0); operands.len()];
    let mut values = vec![];
    rows(shape, &steps, |length, starts| {
        for i in 0..length {
            for (n, t) in operands.iter().enumerate() {
                let at = starts[n] + i * inner[n];
                inputs[n] = match &t.data {
                    Data::F(v) => Scalar::F(v[at]),
                    Data::I(v) => Scalar::I(v[at]),
                };
            }
            match expr.eval_in(&inputs, &[], &mut values) {
                Scalar::F(x) => floats.push(x),
                Scalar::I(i) => ints.push(i),
            }
        }
    });
    let data = if elem.is_float() { Data::F(floats) } else { Data::I(ints) };
    Tensor { elem, shape: shape.to_vec(), data }
}

/// Order of two integers of a type, `u64` being held by its bits.
fn int_order(elem: ElemType, a: i64, b: i64) -> Ordering {
    if elem.kind() == Kind::Unsigned { (a as u64).cmp(&(b as u64)) } else { a.cmp(&b) }
}

/// Order of two floats with NaN, all of them equal, above everything.
fn float_order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

fn smallest(elem: ElemType) -> i64 {
    match elem.kind() {
        Kind::Signed => i64::MIN >> (64 - 8 * elem.bytes()),
        Kind::Float | Kind::Unsigned | Kind::Bool => 0,
    }
}

fn largest(elem: ElemType) -> i64 {
    match elem.kind() {
        Kind::Signed => i64::MAX >> (64 - 8 * elem.bytes()),
        Kind::Unsigned => (u64::MAX >> (64 - 8 * elem.bytes())) as i64,
        Kind::Float | Kind::Bool => 1,
    }
}

/// Reduces `axes`; `shape` is the result's, with or without the reduced axes.
pub(super) fn reduce(x: &Tensor, kind: &str, axes: &[usize], shape: &[usize]) -> Tensor {
    let kept: Vec<usize> = x.shape.iter().enumerate().map(|(i, d)| if axes.contains(&i) { 1 } else { *d }).collect();
    let to: Vec<usize> =
        strides(&kept).iter().enumerate().map(|(i, s)| if axes.contains(&i) { 0 } else { *s }).collect();
    let step = to.last().copied().unwrap_or(0);
    let (n, elem) = (count(&kept).unwrap_or(0), x.elem);
    fn fold<T: Copy>(v: &[T], shape: &[usize], to: Vec<usize>, step: usize, acc: &mut [T], f: impl Fn(T, T) -> T) {
        let mut from = 0;
        rows(shape, &[to], |length, starts| {
            for (i, x) in v[from..from + length].iter().enumerate() {
                let slot = &mut acc[starts[0] + i * step];
                *slot = f(*slot, *x);
            }
            from += length;
        });
    }
    let data = match &x.data {
        Data::F(v) => {
            let (neutral, f): (f64, fn(f64, f64) -> f64) = match kind {
                "prod" => (1.0, |a, b| a * b),
                "max" => (f64::NEG_INFINITY, |a, b| if float_order(b, a).is_gt() { b } else { a }),
                "min" => (f64::INFINITY, |a, b| if b.is_nan() || b < a { b } else { a }),
                _ => (0.0, |a, b| a + b),
            };
            let mut acc = vec![neutral; n];
            fold(v, &x.shape, to, step, &mut acc, f);
            if kind == "mean" {
                let size: usize = axes.iter().map(|a| x.shape[*a]).product();
                acc.iter_mut().for_each(|a| *a /= size as f64);
            }
            Data::F(acc)
        }
        Data::I(v) => {
            let mut acc = match kind {
                "prod" => vec![1; n],
                "max" => vec![smallest(elem); n],
                "min" => vec![largest(elem); n],
                _ => vec![0; n],
            };
            let f = |a: i64, b: i64| match kind {
                "prod" => a.wrapping_mul(b),
                "max" => {
                    if int_order(elem, b, a).is_gt() {
                        b
                    } else {
                        a
                    }
                }
                "min" => {
                    if int_order(elem, b, a).is_lt() {
                        b
                    } else {
                        a
                    }
                }
                _ => a.wrapping_add(b),
            };
            fold(v, &x.shape, to, step, &mut acc, f);
            acc.iter_mut().for_each(|a| *a = Scalar::I(*a).wrap(elem).as_i64());
            Data::I(acc)
        }
    };
    Tensor { elem, shape: shape.to_vec(), data }
}

/// Order of two elements of one tensor, NaN above everything.
fn order(x: &Tensor, i: usize, j: usize) -> Ordering {
    match &x.data {
        Data::F(v) => float_order(v[i], v[j]),
        Data::I(v) => int_order(x.elem, v[i], v[j]),
    }
}

/// Number of elements before and after `axis`.
fn around(shape: &[usize], axis: usize) -> (usize, usize) {
    (shape[..axis].iter().product(), shape[axis + 1..].iter().product())
}

pub(super) fn argmax(x: &Tensor, axis: usize, shape: &[usize]) -> Result<Tensor, String> {
    let (before, after) = around(&x.shape, axis);
    let size = x.shape[axis];
    if size == 0 && before * after > 0 {
        return Err("argmax over an axis of size 0".into());
    }
    let mut out = vec![];
    for b in 0..before {
        for a in 0..after {
            let at = |i: usize| (b * size + i) * after + a;
            let best = (1..size).fold(0, |best, i| if order(x, at(i), at(best)).is_gt() { i } else { best });
            out.push(best as i64);
        }
    }
    Ok(Tensor::ints(ElemType::I64, shape, out))
}

/// Values and positions of the `k` largest along `axis`.
pub(super) fn topk(x: &Tensor, axis: usize, k: usize, shape: &[usize]) -> Result<[Tensor; 2], String> {
    let (before, after) = around(&x.shape, axis);
    let size = x.shape[axis];
    if k < 1 || k > size {
        return Err(format!("the {k} largest of an axis of size {size}"));
    }
    let n = count(shape).unwrap_or(0);
    let (mut from, mut positions) = (vec![0; n], vec![0; n]);
    for b in 0..before {
        for a in 0..after {
            let at = |i: usize| (b * size + i) * after + a;
            let mut falling: Vec<usize> = (0..size).collect();
            // The sort is stable: equal elements stay in their order.
            falling.sort_by(|i, j| order(x, at(*j), at(*i)));
            for (place, i) in falling[..k].iter().enumerate() {
                let to = (b * k + place) * after + a;
                from[to] = at(*i);
                positions[to] = *i as i64;
            }
        }
    }
    let data = each!(&x.data, v => from.iter().map(|at| v[*at]).collect());
    let values = Tensor { elem: x.elem, shape: shape.to_vec(), data };
    Ok([values, Tensor::ints(ElemType::I64, shape, positions)])
}

/// Rows of `a` that share one pass over `b`, which keeps a product of the size of a transformer's layer in the cache.
const ROW_BLOCK: usize = 8;

pub(super) fn matmul(a: &Tensor, b: &Tensor, shape: &[usize]) -> Tensor {
    fn product<T: Copy>(a: &[T], b: &[T], c: &mut [T], inner: usize, n: usize, f: impl Fn(T, T, T) -> T) {
        for (a, c) in a.chunks(ROW_BLOCK * inner).zip(c.chunks_mut(ROW_BLOCK * n)) {
            for k in 0..inner {
                let row = &b[k * n..(k + 1) * n];
                for (i, c) in c.chunks_exact_mut(n).enumerate() {
                    let x = a[i * inner + k];
                    c.iter_mut().zip(row).for_each(|(c, y)| *c = f(*c, x, *y));
                }
            }
        }
    }
    let rank = shape.len();
    let (m, n, inner) = (shape[rank - 2], shape[rank - 1], a.shape[a.shape.len() - 1]);
    let mut out = super::movement::filled(a.elem, shape, 0.0);
    if inner == 0 || out.data.is_empty() {
        return out;
    }
    let batch = &shape[..rank - 2];
    let mut per_matrix = batch.to_vec();
    per_matrix.push(1);
    let offsets = |t: &Tensor| {
        let own = &t.shape[..t.shape.len() - 2];
        let mut s = broadcast_strides(own, batch);
        s.push(0);
        s
    };
    let mut at = 0;
    rows(&per_matrix, &[offsets(a), offsets(b)], |_, starts| {
        let (a_at, b_at, c_at) = (starts[0] * m * inner, starts[1] * inner * n, at * m * n);
        at += 1;
        match (&a.data, &b.data, &mut out.data) {
            (Data::F(a), Data::F(b), Data::F(c)) => {
                let (a, b) = (&a[a_at..a_at + m * inner], &b[b_at..b_at + inner * n]);
                product(a, b, &mut c[c_at..c_at + m * n], inner, n, |c, x, y| c + x * y);
            }
            (Data::I(a), Data::I(b), Data::I(c)) => {
                let (a, b) = (&a[a_at..a_at + m * inner], &b[b_at..b_at + inner * n]);
                let add = |c: i64, x: i64, y: i64| c.wrapping_add(x.wrapping_mul(y));
                product(a, b, &mut c[c_at..c_at + m * n], inner, n, add);
            }
            _ => {}
        }
    });
    if let Data::I(c) = &mut out.data {
        c.iter_mut().for_each(|c| *c = Scalar::I(*c).wrap(a.elem).as_i64());
    }
    out
}

/// The attributes of a convolution, one number for each spatial axis.
pub(super) struct ConvAttrs<'a> {
    pub(super) strides: &'a [i64],
    pub(super) low: &'a [i64],
    pub(super) dilations: &'a [i64],
    pub(super) groups: usize,
}

pub(super) fn conv(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, attrs: &ConvAttrs<'_>, shape: &[usize]) -> Tensor {
    let mut out = vec![];
    let (Data::F(xs), Data::F(ws)) = (&x.data, &w.data) else {
        return Tensor::floats(x.elem, shape, out);
    };
    let (x_strides, kernel) = (strides(&x.shape), &w.shape[2..]);
    let (per_group, taps) = (w.shape[1], kernel.iter().product::<usize>());
    let outputs_per_group = (shape[1] / attrs.groups).max(1);
    let spatial: Vec<usize> = shape[2..].to_vec();
    let positions: usize = spatial.iter().product();
    for n in 0..shape[0] {
        for m in 0..shape[1] {
            let start = match bias.map(|b| &b.data) {
                Some(Data::F(b)) => b[m],
                _ => 0.0,
            };
            let first_channel = m / outputs_per_group * per_group;
            for position in 0..positions {
                let at = unravel(position, &spatial);
                let mut sum = start;
                for tap in 0..taps {
                    let k = unravel(tap, kernel);
                    let inside = (0..kernel.len()).try_fold(0usize, |offset, d| {
                        let i = at[d] as i64 * attrs.strides[d] + k[d] as i64 * attrs.dilations[d] - attrs.low[d];
                        let i = usize::try_from(i).ok().filter(|i| *i < x.shape[d + 2])?;
                        Some(offset + i * x_strides[d + 2])
                    });
                    let Some(offset) = inside else { continue };
                    for c in 0..per_group {
                        let channel = n * x_strides[0] + (first_channel + c) * x_strides[1];
                        sum += xs[channel + offset] * ws[(m * per_group + c) * taps + tap];
                    }
                }
                out.push(sum);
            }
        }
    }
    Tensor::floats(x.elem, shape, out)
}

/// Coordinates of element `at` of a tensor of this shape.
fn unravel(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        index[axis] = at % shape[axis];
        at /= shape[axis];
    }
    index
}
