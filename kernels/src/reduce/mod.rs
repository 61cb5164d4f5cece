//! Reductions over axes, with elementwise arithmetic before and after.
//!
//! Floats are added up in the register type (f32 for f16 and bf16) in an order that depends on the shape and the CPU
//! level alone. A NaN makes a maximum or minimum NaN and is the largest for `Argmax`. The output overlaps no input.
//! Vectors lie along the axis that is contiguous in the inputs: a reduced one, or an outer one, whose results are then
//! computed side by side. Along a reduced axis, costly results that the epilogue does not use are not computed.

pub(crate) mod accumulate;
mod cuda;
mod emit;

use crate::{
    Access, Buffer, Cost, Family,
    abi::ModuleBuilder,
    access::{self, Operand},
    cpu::Cpu,
    cuda::{Grid, Sm},
};
use kiln_ir::{
    Dim,
    scalar::{Expr, Inst, Unary},
};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Sum,
    Mean,
    Prod,
    Max,
    Min,
    /// The position (`i64`, in row-major order of the reduced axes) of the largest element, the first of equal ones.
    Argmax,
}

/// `output[o] = epilogue(kind over r of prologue(inputs[..][o, r]), epilogue_inputs[..][o])` for `o` in `outer`, `r` in
/// `reduced`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spec {
    pub outer: Vec<Dim>,
    pub reduced: Vec<Dim>,
    /// Of rank `outer.len() + reduced.len()`, the outer axes first.
    pub inputs: Vec<Access>,
    /// What is reduced: `Input(n)` is `inputs[n]`, `Index(axis)` the coordinate along an axis of the inputs.
    pub prologue: Expr,
    pub kind: Kind,
    /// `Input(0)` is the result, of the prologue's type or `i64`; `Input(n + 1)` is `epilogue_inputs[n]`, `Index(axis)`
    /// the coordinate along an outer axis.
    pub epilogue: Expr,
    /// Of rank `outer.len()`.
    pub epilogue_inputs: Vec<Access>,
    /// Of rank `outer.len()`, with the element type of the epilogue.
    pub output: Access,
}

/// Results side by side that a task has at least: enough for whole cache lines of every row read.
const COLUMNS: i64 = 64;

impl Spec {
    /// What says that nothing is made of a result, and the value that says so: a result that is costly to compute and
    /// that the epilogue throws away there, as scores behind a mask are.
    fn unused_where(&self) -> Option<(Expr, bool)> {
        let costly = |inst: &Inst| matches!(inst, Inst::Unary(Unary::Exp | Unary::Log | Unary::Tanh | Unary::Erf, _));
        if self.kind == Kind::Argmax || !self.prologue.insts().iter().any(|(inst, _)| costly(inst)) {
            return None;
        }
        let Some((Inst::Select(condition, yes, no), _)) = self.epilogue.insts().last() else { return None };
        let [condition, yes, no] = [condition, yes, no].map(|id| self.epilogue.part(*id));
        let reads = |expr: &Expr| expr.inputs().contains(&0);
        match (reads(&condition), reads(&yes), reads(&no)) {
            (false, false, true) => Some((condition, true)),
            (false, true, false) => Some((condition, false)),
            _ => None,
        }
    }

    /// The axis of the inputs that vectors lie along, if there is one on which elements are neighbours.
    fn vector_axis(&self) -> Option<usize> {
        let read = self.prologue.inputs();
        let strides = |axis: usize| read.iter().map(move |n| &self.inputs[*n as usize].strides[axis]);
        let neighbours = |axis: usize| strides(axis).filter(|s| s.is(1)).count();
        let apart = |axis: usize| strides(axis).filter(|s| !s.is(0) && !s.is(1)).count();
        let sizes: Vec<&Dim> = self.outer.iter().chain(&self.reduced).collect();
        (0..sizes.len())
            .filter(|a| !sizes[*a].is(1) && neighbours(*a) > 0)
            .max_by_key(|a| (std::cmp::Reverse(apart(*a)), neighbours(*a), *a))
    }

    /// Every access whose elements are moved side by side where vectors lie along [`Spec::vector_axis`].
    fn moved(&self) -> Vec<&Access> {
        let across = self.vector_axis().is_some_and(|a| a < self.outer.len());
        let results = self.epilogue_inputs.iter().chain([&self.output]).filter(|_| across);
        self.inputs.iter().chain(results).collect()
    }

    fn results_per_task(&self) -> i64 {
        let results = access::rows_per_task(&access::product(&self.reduced), 256, 16384);
        let least = if self.vector_axis().is_some_and(|a| a < self.outer.len()) { COLUMNS } else { 1 };
        results.clamp(least, 256)
    }

    fn operands(&self) -> Vec<Operand<'_>> {
        let space = [self.outer.clone(), self.reduced.clone()].concat();
        let read = self.inputs.iter().map(|a| (a, space.clone(), false));
        let epilogue = self.epilogue_inputs.iter().map(|a| (a, self.outer.clone(), false));
        read.chain(epilogue).chain([(&self.output, self.outer.clone(), true)]).collect()
    }
}

impl Family for Spec {
    const NAME: &'static str = "reduce";

    /// The inputs, the epilogue's inputs, the output.
    fn buffers(&self) -> Vec<Buffer> {
        access::buffers(&self.operands())
    }

    fn size_args(&self) -> Vec<Dim> {
        let accesses = self.inputs.iter().chain(&self.epilogue_inputs).chain([&self.output]);
        access::size_args(self.outer.iter().chain(&self.reduced), accesses)
    }

    fn tasks(&self) -> Dim {
        access::product(&self.outer).ceil_div(&self.results_per_task().into())
    }

    fn scratch_bytes(&self) -> Dim {
        0.into()
    }

    fn cost(&self) -> Cost {
        let elements = access::product(self.outer.iter().chain(&self.reduced));
        let flops = elements * (self.prologue.insts().len() as i64).into();
        Cost { flops, bytes: access::bytes(&self.operands()) }
    }

    fn emit(&self, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu) {
        module.kernel(symbol, &self.size_args(), |kernel| {
            emit::Task::new(self, kernel, cpu, None).run();
            None
        });
    }

    fn grid(&self, sm: Sm) -> Grid {
        cuda::grid(self, sm)
    }

    fn block_grid(&self, sm: Sm) -> Grid {
        cuda::block_grid(self, sm)
    }

    fn emit_cuda(&self, module: &mut ModuleBuilder<'_>, symbol: &str, _: Sm) {
        cuda::emit(self, module, symbol);
    }
}
