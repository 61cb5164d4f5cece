//! The kernel for GPUs: neighbouring threads have neighbouring elements. Where all accesses walk memory as one run, a
//! thread moves 16 bytes at a time; it finds out by the addresses whether they are aligned to that. Elsewhere it has one
//! element.

use super::{Spec, emit::bits};
use crate::{
    Access, Family,
    abi::{Kernel, ModuleBuilder},
    build::{Bool, Cmp, Elem, Ix, K, Ptr, Ty, V},
    cpu::Converts,
    cuda::Grid,
    map::axes::Axis,
    scalar::{self, fold, memory},
    view::{coordinates, sizes},
};
use kiln_ir::{Dim, scalar::Expr};

/// Threads of a block.
const THREADS: u32 = 256;
/// Bytes that a thread moves at a time.
const VECTOR: i64 = 16;

/// How a map is cut for threads.
struct Cut {
    axes: Vec<Axis>,
    /// Elements of a thread.
    width: i64,
}

impl Cut {
    fn of(spec: &Spec) -> Cut {
        let axes = spec.axes();
        let last = &axes[axes.len() - 1];
        let runs = axes.len() == 1
            && last.strides.iter().all(|s| s.is(0) || s.is(1))
            && last.strides.last().is_some_and(|s| s.is(1));
        let widest = spec.accesses().map(|a| memory(a.elem).bits() / 8).max().unwrap_or(1);
        Cut { axes, width: if runs { VECTOR / i64::from(widest) } else { 1 } }
    }

    fn elements(&self) -> Dim {
        self.axes.iter().fold(Dim::from(1), |n, axis| n * axis.length())
    }
}

pub(super) fn grid(spec: &Spec) -> Grid {
    let cut = Cut::of(spec);
    Grid::new(cut.elements().ceil_div(&cut.width.into()), THREADS, THREADS)
}

pub(super) fn emit(spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str) {
    module.kernel(symbol, &spec.size_args(), |kernel| {
        let task = Task::new(spec, kernel);
        kernel.tasks(|at| task.run(at));
        None
    });
}

/// An access with the strides of the loops.
struct Operand<'k> {
    base: Ptr<'k>,
    strides: Vec<Ix<'k>>,
    moves: scalar::Access,
}

struct Task<'s, 'k> {
    k: K<'k>,
    kernel: &'s Kernel<'k>,
    expr: Expr,
    cut: Cut,
    inputs: Vec<Operand<'k>>,
    output: Operand<'k>,
}

impl<'s, 'k> Task<'s, 'k> {
    fn new(spec: &Spec, kernel: &'s Kernel<'k>) -> Self {
        let cut = Cut::of(spec);
        let copies = spec.expr.is_identity();
        let elem = |e| if copies { bits(e) } else { e };
        let operand = |i: usize, access: &Access| {
            let elem = elem(access.elem);
            Operand {
                base: kernel.buffer(i).offset(memory(elem), kernel.size(&access.offset)),
                strides: cut.axes.iter().map(|a| kernel.size(&a.strides[i])).collect(),
                moves: scalar::Access { elem, lanes: 1, converts: Converts::F16AndBf16 },
            }
        };
        let inputs: Vec<Operand<'k>> = spec.inputs.iter().enumerate().map(|(i, a)| operand(i, a)).collect();
        let output = operand(spec.inputs.len(), &spec.output);
        let expr = if copies { Expr::input(0, elem(spec.output.elem)) } else { spec.expr.clone() };
        Task { k: kernel.k, kernel, expr, cut, inputs, output }
    }

    fn run(&self, task: Ix<'k>) {
        let width = self.cut.width;
        if width == 1 {
            let sizes: Vec<Ix> = self.cut.axes.iter().map(|a| a.size(self.kernel)).collect();
            return self.one(&coordinates(task, &sizes));
        }
        let (k, first) = (self.k, task * width);
        let all: Vec<Dim> = self.cut.axes[0].sizes.clone();
        let length = sizes(self.kernel, &all).into_iter().fold(Ix::Const(1), |n, s| n * s);
        let whole = (first + width).le(length).and(self.aligned());
        let statement = |body: &dyn Fn()| {
            body();
            vec![]
        };
        k.if_else(
            whole,
            || statement(&|| self.vector(first)),
            || statement(&|| k.for_(first, (first + width).min(length), 1, |i| self.one(&[i]))),
        );
    }

    /// Whether all that is moved by vectors starts at a whole one.
    fn aligned(&self) -> Bool<'k> {
        let moved = self.inputs.iter().chain([&self.output]).filter(|o| o.strides[0].is(1));
        let address = |o: &Operand<'k>| self.k.op1("llvm.ptrtoint", &[o.base.0], Ty::I64, &[]);
        // Vectors of narrower elements are shorter than the widest, and so is what they must be aligned to.
        let off = |o: &Operand<'k>| address(o) & address(o).like((self.vector_bytes(o) - 1) as f64);
        let any = moved.map(off).reduce(|a, b| a | b).expect("the output is moved");
        Bool::Value(any.cmp(Cmp::Eq, any.like(0.0)))
    }

    fn vector_bytes(&self, operand: &Operand<'k>) -> i64 {
        self.cut.width * i64::from(operand.moves.memory().elem.bits() / 8)
    }

    /// The value at these coordinates, given the inputs.
    fn value(&self, index: &[Ix<'k>], input: &mut dyn FnMut(u32) -> V<'k>) -> V<'k> {
        let mut coordinate = |axis: u32| {
            let at = self.cut.axes.iter().position(|a| a.source == Some(axis as usize));
            // The others have one element.
            at.map_or_else(|| self.k.zero(Ty::new(Elem::I64, 1)), |at| index[at].v(self.k))
        };
        fold(self.k, &self.expr, 1, input, &mut coordinate)
    }

    fn at(operand: &Operand<'k>, index: &[Ix<'k>]) -> Ptr<'k> {
        let offset = index.iter().zip(&operand.strides).fold(Ix::Const(0), |sum, (i, s)| sum + *i * *s);
        operand.base.offset(operand.moves.memory().elem, offset)
    }

    fn one(&self, index: &[Ix<'k>]) {
        let mut input = |n: u32| {
            let operand = &self.inputs[n as usize];
            operand.moves.load(Self::at(operand, index))
        };
        let value = self.value(index, &mut input);
        self.output.moves.store(Self::at(&self.output, index), value);
    }

    /// As many elements as a thread has, from `first` on.
    fn vector(&self, first: Ix<'k>) {
        let width = self.cut.width;
        let raw = |operand: &Operand<'k>| operand.moves.memory().elem;
        let load = |operand: &Operand<'k>| {
            let from = Self::at(operand, &[first]);
            match operand.strides[0].is(1) {
                true => from.load_aligned(Ty::new(raw(operand), width as u32), self.vector_bytes(operand) as u32),
                false => from.load(Ty::new(raw(operand), 1)),
            }
        };
        let used = self.expr.inputs();
        let loaded: Vec<Option<V<'k>>> =
            self.inputs.iter().enumerate().map(|(n, o)| used.contains(&(n as u32)).then(|| load(o))).collect();
        let mut values = vec![];
        for i in 0..width {
            let mut input = |n: u32| {
                let raw = loaded[n as usize].expect("it is used");
                self.inputs[n as usize].moves.from_memory(raw.lane(i as u32))
            };
            let value = self.value(&[first + i], &mut input);
            values.push(self.output.moves.to_memory(value));
        }
        let to = Self::at(&self.output, &[first]);
        let vector = self.k.vector(&values);
        to.store_aligned(vector, self.vector_bytes(&self.output) as u32);
    }
}
