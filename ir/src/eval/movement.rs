//! Evaluation of the ops that only move data. Arguments are checked by the op's type inference against the actual
//! sizes; what depends on data or on the values of symbols is checked here.

use super::tensor::{Data, Tensor};
use crate::{ElemType, scalar::Literal};

/// Applies one generic function to the elements of either family.
macro_rules! each {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            Data::F($v) => Data::F($body),
            Data::I($v) => Data::I($body),
        }
    };
}
pub(super) use each;

/// Distance in elements between neighbours along each axis, row-major.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

/// Strides with which `shape` is read over `to`, aligned at the last axis; 0 where it repeats.
pub(super) fn broadcast_strides(shape: &[usize], to: &[usize]) -> Vec<usize> {
    let own = strides(shape);
    let missing = to.len() - shape.len();
    (0..to.len())
        .map(|axis| match axis.checked_sub(missing) {
            Some(own_axis) if shape[own_axis] != 1 => own[own_axis],
            _ => 0,
        })
        .collect()
}

/// Calls `row` for every run along the last axis of `shape`: its length, and for each list of strides where it starts.
/// A shape without axes is one run of one element; an empty shape has no runs.
pub(super) fn rows(shape: &[usize], strides: &[Vec<usize>], mut row: impl FnMut(usize, &[usize])) {
    if shape.contains(&0) {
        return;
    }
    let (length, outer) = shape.split_last().map_or((1, &[][..]), |(n, outer)| (*n, outer));
    let mut starts = vec![0; strides.len()];
    let mut index = vec![0; outer.len()];
    loop {
        row(length, &starts);
        let mut axis = outer.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            starts.iter_mut().zip(strides).for_each(|(at, s)| *at += s[axis]);
            if index[axis] < outer[axis] {
                break;
            }
            starts.iter_mut().zip(strides).for_each(|(at, s)| *at -= s[axis] * outer[axis]);
            index[axis] = 0;
        }
    }
}

/// Elements of `shape`, element `i` taken from `offset + sum(i[d] * strides[d])`.
fn view<T: Copy>(from: &[T], shape: &[usize], offset: usize, strides: Vec<usize>) -> Vec<T> {
    let step = strides.last().copied().unwrap_or(0);
    let mut out = vec![];
    rows(shape, &[strides], |length, starts| {
        out.extend((0..length).map(|i| from[offset + starts[0] + i * step]));
    });
    out
}

pub(super) fn reshape(x: &Tensor, shape: &[usize]) -> Tensor {
    Tensor { elem: x.elem, shape: shape.to_vec(), data: x.data.clone() }
}

pub(super) fn transpose(x: &Tensor, perm: &[i64]) -> Tensor {
    let own = strides(&x.shape);
    let shape: Vec<usize> = perm.iter().map(|p| x.shape[*p as usize]).collect();
    let moved: Vec<usize> = perm.iter().map(|p| own[*p as usize]).collect();
    Tensor { elem: x.elem, data: each!(&x.data, v => view(v, &shape, 0, moved)), shape }
}

pub(super) fn broadcast(x: &Tensor, shape: &[usize]) -> Tensor {
    let strides = broadcast_strides(&x.shape, shape);
    Tensor { elem: x.elem, shape: shape.to_vec(), data: each!(&x.data, v => view(v, shape, 0, strides)) }
}

pub(super) fn slice(x: &Tensor, axis: usize, start: i64, end: i64, step: i64) -> Result<Tensor, String> {
    let size = x.shape[axis];
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok()).filter(|(s, e)| s <= e && *e <= size);
    let (Some((start, end)), true) = (range, step >= 1) else {
        return Err(format!("slice {start}..{end} step {step} of an axis of size {size}"));
    };
    let mut shape = x.shape.clone();
    // A step beyond the axis takes one element, as one of the axis' size does.
    let step = usize::try_from(step).unwrap_or(usize::MAX).min(size.max(1));
    shape[axis] = (end - start).div_ceil(step);
    let mut moved = strides(&x.shape);
    let offset = start * moved[axis];
    moved[axis] *= step;
    Ok(Tensor { elem: x.elem, data: each!(&x.data, v => view(v, &shape, offset, moved)), shape })
}

/// Writes `x` into `out` of shape `shape`, beginning at position `at` of each axis.
fn paste<T: Copy>(out: &mut [T], shape: &[usize], x: &[T], x_shape: &[usize], at: &[usize]) {
    let (to, from) = (strides(shape), strides(x_shape));
    let offset: usize = at.iter().zip(&to).map(|(a, s)| a * s).sum();
    rows(x_shape, &[to, from], |length, starts| {
        let begin = offset + starts[0];
        out[begin..begin + length].copy_from_slice(&x[starts[1]..starts[1] + length]);
    });
}

fn paste_tensor(out: &mut Data, shape: &[usize], x: &Tensor, at: &[usize]) {
    match (out, &x.data) {
        (Data::F(out), Data::F(v)) => paste(out, shape, v, &x.shape, at),
        (Data::I(out), Data::I(v)) => paste(out, shape, v, &x.shape, at),
        (Data::F(_), Data::I(_)) | (Data::I(_), Data::F(_)) => {}
    }
}

/// A tensor of one repeated value.
pub(super) fn filled(elem: ElemType, shape: &[usize], value: f64) -> Tensor {
    let n = super::tensor::count(shape).unwrap_or(0);
    let data = match Literal::of(elem, value) {
        Literal::Float(bits) => Data::F(vec![f64::from_bits(bits); n]),
        Literal::Int(i) => Data::I(vec![i; n]),
    };
    Tensor { elem, shape: shape.to_vec(), data }
}

pub(super) fn pad(x: &Tensor, shape: &[usize], low: &[i64], value: f64) -> Tensor {
    let mut out = filled(x.elem, shape, value);
    let at: Vec<usize> = low.iter().map(|l| *l as usize).collect();
    paste_tensor(&mut out.data, shape, x, &at);
    out
}

pub(super) fn concat(parts: &[&Tensor], axis: usize, shape: &[usize]) -> Tensor {
    let mut out = filled(parts[0].elem, shape, 0.0);
    let mut at = vec![0; shape.len()];
    for part in parts {
        paste_tensor(&mut out.data, shape, part, &at);
        at[axis] += part.shape[axis];
    }
    out
}

/// Picks along `axis`; the first `batch` axes of both tensors are one. The error has the place of the index at fault.
pub(super) fn gather(
    x: &Tensor,
    indices: &Tensor,
    (batch, axis): (usize, usize),
    shape: &[usize],
) -> Result<Tensor, (usize, String)> {
    let size = x.shape[axis];
    let Data::I(indices_data) = &indices.data else { return Err((0, "the indices are not integers".into())) };
    let mut rows = Vec::with_capacity(indices_data.len());
    for (at, i) in indices_data.iter().enumerate() {
        // A u64 above i64::MAX is held as a negative number; it is outside as well.
        match usize::try_from(*i).ok().filter(|i| *i < size) {
            Some(i) => rows.push(i),
            None => {
                let shown = if indices.elem == ElemType::U64 { (*i as u64).to_string() } else { i.to_string() };
                return Err((at, format!("index {shown} is outside of an axis of size {size}")));
            }
        }
    }
    if shape.contains(&0) {
        return Ok(filled(x.elem, shape, 0.0));
    }
    let between: usize = x.shape[batch..axis].iter().product();
    let after: usize = x.shape[axis + 1..].iter().product();
    let each_batch = rows.len() / x.shape[..batch].iter().product::<usize>();
    let starts = rows.chunks(each_batch).enumerate().flat_map(|(b, rows)| {
        let slabs = b * between..(b + 1) * between;
        slabs.flat_map(move |slab| rows.iter().map(move |r| (slab * size + r) * after))
    });
    let data = each!(&x.data, v => starts.flat_map(|at| v[at..at + after].iter().copied()).collect());
    Ok(Tensor { elem: x.elem, shape: shape.to_vec(), data })
}

pub(super) fn iota(elem: ElemType, shape: &[usize], axis: usize) -> Tensor {
    let mut coordinates = vec![0; shape.len()];
    coordinates[axis] = 1;
    let step = if axis + 1 == shape.len() { 1 } else { 0 };
    let mut out = vec![];
    rows(shape, &[coordinates], |length, starts| out.extend((0..length).map(|i| (starts[0] + i * step) as i64)));
    let data = if elem.is_float() {
        Data::F(out.iter().map(|i| *i as f64).collect())
    } else {
        let wrapped = out.iter().map(|i| crate::scalar::Scalar::I(*i).wrap(elem).as_i64());
        Data::I(wrapped.collect())
    };
    Tensor { elem, shape: shape.to_vec(), data }
}
