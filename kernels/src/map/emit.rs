//! The task of a map: rows of the innermost loop in vectors, coordinates counted on from row to row.

use super::{
    Spec, TASK,
    axes::{Axis, advance},
};
use crate::{
    Access,
    abi::Kernel,
    build::{Elem, Ix, K, Ptr, Ty, V},
    cpu::Cpu,
    scalar::{fold, memory, register},
    view::{Part, View, coordinates, masks, product, vectors},
};
use kiln_ir::{ElemType, scalar::Expr};

/// Lanes of a vector that is gathered one by one, at most.
const GATHERED: u32 = 16;

pub(super) struct Task<'s, 'k> {
    k: K<'k>,
    kernel: &'s Kernel<'k>,
    expr: Expr,
    axes: Vec<Axis>,
    sizes: Vec<Ix<'k>>,
    /// With the strides of the axes.
    inputs: Vec<View<'k>>,
    output: View<'k>,
    lanes: u32,
    masked: bool,
    /// Whether an input is gathered: then neighbouring rows share its cache lines.
    gathers: bool,
}

/// The type whose registers hold the bits in memory.
pub(crate) fn bits(elem: ElemType) -> ElemType {
    match elem.bytes() {
        1 => ElemType::U8,
        2 => ElemType::U16,
        4 => ElemType::U32,
        _ => ElemType::U64,
    }
}

/// Lanes of a vector for the widest type in the expression.
pub(crate) fn lanes(expr: &Expr, output: ElemType, cpu: &Cpu) -> u32 {
    let bytes = |elem: Elem| elem.bits().div_ceil(8);
    let widest = expr.insts().iter().map(|(_, e)| bytes(register(*e))).chain([bytes(memory(output))]).max();
    cpu.lanes(widest.unwrap_or(1))
}

impl<'s, 'k> Task<'s, 'k> {
    pub(super) fn new(spec: &'s Spec, kernel: &'s Kernel<'k>, cpu: &'static Cpu) -> Self {
        let axes = spec.axes();
        let copies = spec.expr.is_identity();
        let elem = |e: ElemType| if copies { bits(e) } else { e };
        let expr = if copies { Expr::input(0, elem(spec.output.elem)) } else { spec.expr.clone() };
        let view = |i: usize, access: &Access| {
            let strides = axes.iter().map(|a| a.strides[i].clone()).collect();
            let access = Access { elem: elem(access.elem), offset: access.offset.clone(), strides };
            View::new(kernel, i, &access, cpu)
        };
        let inputs: Vec<View<'k>> = spec.inputs.iter().enumerate().map(|(i, a)| view(i, a)).collect();
        let output = view(spec.inputs.len(), &spec.output);

        let inner = axes.len() - 1;
        let stride = |v: &View<'k>| v.strides[inner].as_const();
        let gathers = inputs.iter().any(|v| !matches!(stride(v), Some(0 | 1)));
        let lanes = match (stride(&output), gathers) {
            (Some(1), false) => lanes(&expr, output.elem, cpu),
            (Some(1), true) => lanes(&expr, output.elem, cpu).min(GATHERED),
            _ => 1,
        };
        let mut moved: Vec<ElemType> = inputs.iter().filter(|v| !v.strides[inner].is(0)).map(|v| v.elem).collect();
        moved.push(output.elem);
        Task {
            k: kernel.k,
            kernel,
            sizes: axes.iter().map(|a| a.size(kernel)).collect(),
            masked: !gathers && masks(cpu, moved),
            gathers,
            expr,
            axes,
            inputs,
            output,
            lanes,
        }
    }

    pub(super) fn run(&self) {
        if self.sizes.iter().any(|n| n.is(0)) {
            return;
        }
        let (row, outer) = self.sizes.split_last().expect("there is at least one loop");
        self.kernel.tasks(|task| match Spec::rows_per_task(&self.axes) {
            Some(n) => {
                let first = task * n;
                let rows = (product(outer) - first).min(n);
                let step = if self.gathers { row.min(self.lanes as i64) } else { *row };
                self.k.for_(0, *row, step, |column| {
                    let length = if row.rem(step).is(0) { step } else { (*row - column).min(step) };
                    self.whole_rows(&coordinates(first, outer), rows, column, length);
                });
            }
            None => {
                let first = task * TASK;
                let count = (product(&self.sizes) - first).min(TASK);
                let at = coordinates(first, &self.sizes);
                let (column, at) = at.split_last().expect("one for each loop");
                if at.is_empty() {
                    self.row(&[], *column, count);
                } else {
                    let rows = (*column + count + (*row - 1)).div(*row);
                    self.cut_rows(at, rows, *column, count);
                }
            }
        });
    }

    /// `length` elements from `column` on of each of `rows` rows.
    fn whole_rows(&self, outer: &[Ix<'k>], rows: Ix<'k>, column: Ix<'k>, length: Ix<'k>) {
        self.each_row(outer, rows, &[], |outer, _| {
            self.row(outer, column, length);
            vec![]
        });
    }

    /// `count` elements in `rows` rows, from `column` of the row at `outer` on.
    fn cut_rows(&self, outer: &[Ix<'k>], rows: Ix<'k>, column: Ix<'k>, count: Ix<'k>) {
        let row = self.sizes[self.axes.len() - 1];
        self.each_row(outer, rows, &[column, count], |outer, cut| {
            let (column, left) = (cut[0], cut[1]);
            let length = (row - column).min(left);
            self.row(outer, column, length);
            vec![0.into(), left - length]
        });
    }

    /// Calls `each` with the coordinates of `rows` rows from `outer` on, and with what it returned for the row before.
    fn each_row(
        &self,
        outer: &[Ix<'k>],
        rows: Ix<'k>,
        carried: &[Ix<'k>],
        each: impl FnOnce(&[Ix<'k>], &[Ix<'k>]) -> Vec<Ix<'k>>,
    ) {
        let k = self.k;
        let init: Vec<V<'k>> = outer.iter().chain(carried).map(|x| x.v(k)).collect();
        k.for_carry(0, rows, 1, &init, |_, v| {
            let v: Vec<Ix<'k>> = v.iter().map(|v| Ix::Value(*v)).collect();
            let (at, carried) = v.split_at(outer.len());
            let next = advance(at, &self.sizes);
            next.into_iter().chain(each(at, carried)).map(|x| x.v(k)).collect()
        });
    }

    /// `length` elements from `column` on.
    fn row(&self, outer: &[Ix<'k>], column: Ix<'k>, length: Ix<'k>) {
        let (k, last) = (self.k, self.axes.len() - 1);
        let index: Vec<Ix<'k>> = outer.iter().copied().chain([column]).collect();
        let from: Vec<Ptr<'k>> = self.inputs.iter().map(|v| v.at(&index)).collect();
        let to = self.output.at(&index);
        // What is the same for the whole row is loaded once.
        let used = self.expr.inputs();
        let repeated = |(n, v): (usize, &View<'k>)| {
            let repeats = v.strides[last].is(0) && used.contains(&(n as u32));
            repeats.then(|| v.load(from[n], 0.into(), Part::All(1)))
        };
        let repeated: Vec<Option<V<'k>>> = self.inputs.iter().enumerate().map(repeated).collect();
        vectors(k, (0.into(), length), self.lanes, self.masked, |i, part| {
            let lanes = part.lanes();
            let mut input = |n: u32| {
                let n = n as usize;
                let (view, stride) = (&self.inputs[n], self.inputs[n].strides[last]);
                match repeated[n] {
                    Some(value) => value.broadcast(lanes),
                    None => view.load(view.step(from[n], i * stride), stride, part),
                }
            };
            let mut coordinate = |axis: u32| match self.axes.iter().position(|a| a.source == Some(axis as usize)) {
                Some(at) if at == last => (column + i).v(k).broadcast(lanes) + k.iota(Ty::new(Elem::I64, lanes)),
                Some(at) => outer[at].v(k).broadcast(lanes),
                // An axis of size 1.
                None => k.zero(Ty::new(Elem::I64, lanes)),
            };
            let value = fold(k, &self.expr, lanes, &mut input, &mut coordinate);
            let stride = self.output.strides[last];
            self.output.store(self.output.step(to, i * stride), stride, part, value);
        });
    }
}
