//! Reading blocks of sources and parts: index maps all the way down to the files.

use super::{Data, Item, Params, Part, SourceId, WeightError, Weights, decode, encode};
use kiln_ir::{
    Module, Param, eval,
    scalar::{Expr, Scalar},
};
use kiln_kernels::matmul::pack::PANEL;
use std::{
    collections::HashMap,
    io::{self, Write},
};

/// Elements written at a time.
const CHUNK: i64 = 1 << 16;

/// Reads what the sources describe.
pub struct Reader<'a> {
    weights: &'a Weights,
    params: &'a Params<'a>,
    /// The bytes of the sources that take the interpreter, which are small.
    evaluated: HashMap<SourceId, Vec<u8>>,
}

impl<'a> Reader<'a> {
    /// A reader of the weights of a plan of `module`.
    ///
    /// # Errors
    /// When something computed from parameters has no value, such as a slice at an index out of range.
    pub fn new(module: &Module, weights: &'a Weights, params: &'a Params<'a>) -> Result<Reader<'a>, WeightError> {
        let tensor = |param: Param| {
            let ty = module.ty(module.params[param].value);
            let shape: Vec<usize> = ty.const_dims().unwrap_or_default().iter().map(|d| *d as usize).collect();
            let bytes = params.bytes(param);
            params.touch(param, 1, bytes.len() as u64);
            eval::Tensor::from_bytes(ty.elem, shape, bytes).ok_or_else(|| format!("not the bytes of {ty}"))
        };
        let mut evaluated = HashMap::new();
        for (id, source) in weights.sources() {
            if let Data::Evaluated(value) = source.data {
                evaluated.insert(id, eval::value(module, value, &tensor)?.to_bytes());
            }
        }
        Ok(Reader { weights, params, evaluated })
    }

    /// Writes a tensor of the artifact.
    pub fn write(&self, item: &Item, out: &mut dyn Write) -> io::Result<()> {
        match item {
            Item::Plain(source) => {
                let s = self.weights.get(*source);
                let n: i64 = s.dims.iter().product();
                let mut chunk = vec![0; CHUNK.min(n) as usize * s.elem.bytes()];
                let mut at = 0;
                while at < n {
                    let take = CHUNK.min(n - at);
                    let bytes = &mut chunk[..take as usize * s.elem.bytes()];
                    self.run(*source, at, 1, take, bytes);
                    out.write_all(bytes)?;
                    at += take;
                }
            }
            Item::Packed { matrix, gates, elem } => {
                let stored = self.weights.get(matrix.source).elem;
                let (k, n) = (matrix.dims[0], matrix.dims[1] / gates);
                let mut block = vec![0; (k * PANEL) as usize * stored.bytes()];
                let mut panel = vec![0; (k * gates * PANEL) as usize * elem.bytes()];
                for first in (0..n).step_by(PANEL as usize) {
                    let columns = PANEL.min(n - first);
                    let block = &mut block[..(k * columns) as usize * stored.bytes()];
                    panel.fill(0);
                    for gate in 0..*gates {
                        self.block(matrix, &[0, gate * n + first], &[k, columns], block);
                        let rows = block.chunks_exact(columns as usize * stored.bytes());
                        let runs = panel.chunks_exact_mut(PANEL as usize * elem.bytes());
                        for (from, to) in rows.zip(runs.skip(gate as usize).step_by(*gates as usize)) {
                            if stored == *elem {
                                to[..from.len()].copy_from_slice(from);
                                continue;
                            }
                            let pairs = from.chunks_exact(stored.bytes()).zip(to.chunks_exact_mut(elem.bytes()));
                            pairs.for_each(|(from, to)| encode(*elem, decode(stored, from), to));
                        }
                    }
                    out.write_all(&panel)?;
                }
            }
        }
        Ok(())
    }

    /// The block of `counts` elements from `starts` on, row-major, into `out`, which has exactly its size in bytes.
    pub fn block(&self, part: &Part, starts: &[i64], counts: &[i64], out: &mut [u8]) {
        if counts.contains(&0) {
            return;
        }
        let size = self.weights.get(part.source).elem.bytes();
        let rank = counts.len();
        let mut out_strides = vec![1i64; rank];
        for d in (1..rank).rev() {
            out_strides[d - 1] = out_strides[d] * counts[d];
        }
        let offset = part.offset + starts.iter().zip(&part.strides).map(|(i, s)| i * s).sum::<i64>();
        // Runs go along the axis whose elements are closest together.
        let near = |d: &usize| (part.strides[*d] == 0, part.strides[*d], std::cmp::Reverse(*d));
        let Some(inner) = (0..rank).filter(|d| counts[*d] > 1).min_by_key(near) else {
            return self.run(part.source, offset, 1, 1, &mut out[..size]);
        };
        let (n, stride, out_stride) = (counts[inner], part.strides[inner], out_strides[inner] as usize);
        let mut run = vec![0u8; n as usize * size];
        let mut index = vec![0i64; rank];
        loop {
            let at = |strides: &[i64]| index.iter().zip(strides).map(|(i, s)| i * s).sum::<i64>();
            let (from, to) = (offset + at(&part.strides), at(&out_strides) as usize);
            if out_stride == 1 {
                self.run(part.source, from, stride, n, &mut out[to * size..][..n as usize * size]);
            } else {
                self.run(part.source, from, stride, n, &mut run);
                for (i, element) in run.chunks_exact(size).enumerate() {
                    out[(to + i * out_stride) * size..][..size].copy_from_slice(element);
                }
            }
            if !advance(&mut index, counts, inner) {
                return;
            }
        }
    }

    /// `n` elements of a source from element `start` of its row-major order on, `stride` elements apart.
    fn run(&self, source: SourceId, start: i64, stride: i64, n: i64, out: &mut [u8]) {
        let s = self.weights.get(source);
        let size = s.elem.bytes();
        match &s.data {
            Data::Param(param) => {
                let span = (n - 1) as u64 * stride as u64 * size as u64;
                let far = stride as u64 * size as u64 >= 4096;
                let (runs, bytes) = if far { (n as u64, size as u64) } else { (1, span) };
                self.params.touch(*param, runs, bytes);
                strided(self.params.bytes(*param), size, start, stride, out);
            }
            Data::Inline(bytes) => strided(bytes, size, start, stride, out),
            Data::Evaluated(_) => {
                strided(self.evaluated.get(&source).map_or(&[], Vec::as_slice), size, start, stride, out);
            }
            Data::Concat { axis, parts } if stride == 1 => {
                let (mut at, mut out) = (start, out);
                while !out.is_empty() {
                    let (part, inside, left) = self.locate(&s.dims, *axis, parts, at);
                    let take = left.min((out.len() / size) as i64);
                    let (now, later) = out.split_at_mut(take as usize * size);
                    self.part_run(part, inside, now);
                    (at, out) = (at + take, later);
                }
            }
            Data::Concat { axis, parts } => {
                for (i, out) in out.chunks_exact_mut(size).enumerate() {
                    let (part, inside, _) = self.locate(&s.dims, *axis, parts, start + i as i64 * stride);
                    self.part_run(part, inside, out);
                }
            }
            Data::Map { inputs, expr } if stride == 1 => self.map(&s.dims, inputs, expr, start, out),
            Data::Map { inputs, expr } => {
                for (i, out) in out.chunks_exact_mut(size).enumerate() {
                    self.map(&s.dims, inputs, expr, start + i as i64 * stride, out);
                }
            }
        }
    }

    /// The part that holds element `at` of a concatenation, its place in the part's row-major order, and how many
    /// elements from there on lie in the part without a break.
    fn locate<'p>(&self, dims: &[i64], axis: usize, parts: &'p [Part], at: i64) -> (&'p Part, i64, i64) {
        let inner: i64 = dims[axis + 1..].iter().product();
        let (outer, rest) = (at / (dims[axis] * inner), at % (dims[axis] * inner));
        let (mut along, rest) = (rest / inner, rest % inner);
        let mut found = 0;
        while along >= parts[found].dims[axis] {
            along -= parts[found].dims[axis];
            found += 1;
        }
        let run = parts[found].dims[axis] * inner;
        let inside = along * inner + rest;
        (&parts[found], outer * run + inside, run - inside)
    }

    /// As many elements as `out` holds, from element `start` of the part's row-major order on.
    fn part_run(&self, part: &Part, start: i64, out: &mut [u8]) {
        let size = self.weights.get(part.source).elem.bytes();
        let rank = part.dims.len();
        if rank == 0 {
            return self.run(part.source, part.offset, 1, 1, out);
        }
        let row = part.dims[rank - 1];
        let (mut at, mut out) = (start, out);
        while !out.is_empty() {
            let (mut rest, column) = (at / row, at % row);
            let mut from = part.offset + column * part.strides[rank - 1];
            for d in (0..rank - 1).rev() {
                from += rest % part.dims[d] * part.strides[d];
                rest /= part.dims[d];
            }
            let take = (row - column).min((out.len() / size) as i64);
            let (now, later) = out.split_at_mut(take as usize * size);
            self.run(part.source, from, part.strides[rank - 1], take, now);
            (at, out) = (at + take, later);
        }
    }

    fn map(&self, dims: &[i64], inputs: &[Part], expr: &Expr, start: i64, out: &mut [u8]) {
        let size = expr.elem().bytes();
        let n = out.len() / size;
        let blocks: Vec<(kiln_ir::ElemType, Vec<u8>)> = inputs
            .iter()
            .map(|part| {
                let elem = self.weights.get(part.source).elem;
                let mut block = vec![0; n * elem.bytes()];
                self.part_run(part, start, &mut block);
                (elem, block)
            })
            .collect();
        let (mut values, mut index) = (vec![Scalar::I(0); inputs.len()], vec![0i64; dims.len()]);
        for (i, out) in out.chunks_exact_mut(size).enumerate() {
            for (value, (elem, block)) in values.iter_mut().zip(&blocks) {
                *value = decode(*elem, &block[i * elem.bytes()..]);
            }
            let mut rest = start + i as i64;
            for d in (0..dims.len()).rev() {
                index[d] = rest % dims[d];
                rest /= dims[d];
            }
            encode(expr.elem(), expr.eval(&values, &index), out);
        }
    }
}

/// The next index in row-major order over all axes but `skip`; false after the last.
fn advance(index: &mut [i64], counts: &[i64], skip: usize) -> bool {
    for d in (0..index.len()).rev().filter(|d| *d != skip) {
        index[d] += 1;
        if index[d] < counts[d] {
            return true;
        }
        index[d] = 0;
    }
    false
}

fn strided(from: &[u8], size: usize, start: i64, stride: i64, out: &mut [u8]) {
    let start = start as usize * size;
    if stride == 1 {
        out.copy_from_slice(&from[start..start + out.len()]);
        return;
    }
    let step = stride as usize * size;
    fn each<const N: usize>(from: &[u8], step: usize, out: &mut [u8]) {
        for (i, o) in out.chunks_exact_mut(N).enumerate() {
            o.copy_from_slice(&from[i * step..i * step + N]);
        }
    }
    match size {
        1 => each::<1>(&from[start..], step, out),
        2 => each::<2>(&from[start..], step, out),
        4 => each::<4>(&from[start..], step, out),
        _ => each::<8>(&from[start..], step, out),
    }
}
