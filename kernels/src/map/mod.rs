//! Elementwise kernels: one scalar expression over an index space, which also covers copies, transpositions, pieces of
//! a concatenation or padding (by the output's offset) and coordinates.
//!
//! The output may be the memory of an input that has the same access and element size; otherwise it overlaps none.

pub(crate) mod axes;
mod cuda;
mod emit;

use crate::{
    Access, Buffer, Cost, Family,
    abi::ModuleBuilder,
    access::{self, Operand},
    cpu::Cpu,
    cuda::{Grid, Sm},
};
use axes::Axis;
pub(crate) use emit::{bits, lanes};
use kiln_ir::{
    Dim,
    scalar::{Expr, Inst},
};

/// `output[i] = expr(inputs[..][i], i)` for every `i` in `dims`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spec {
    pub dims: Vec<Dim>,
    /// Of the rank of `dims`; `Input(n)` of `expr` is `inputs[n]`.
    pub inputs: Vec<Access>,
    /// `Index(axis)` is the coordinate along that axis of `dims`.
    pub expr: Expr,
    /// Of the rank of `dims`, with the element type of `expr`.
    pub output: Access,
}

/// Elements of one task.
const TASK: i64 = 8192;

impl Spec {
    fn accesses(&self) -> impl Iterator<Item = &Access> {
        self.inputs.iter().chain([&self.output])
    }

    fn operands(&self) -> Vec<Operand<'_>> {
        let inputs = self.inputs.iter().map(|a| (a, self.dims.clone(), false));
        inputs.chain([(&self.output, self.dims.clone(), true)]).collect()
    }

    /// The loops, with the strides of the inputs and then of the output.
    fn axes(&self) -> Vec<Axis> {
        let strides: Vec<&[Dim]> = self.accesses().map(|a| a.strides.as_slice()).collect();
        let index = |(inst, _): &(Inst, _)| if let Inst::Index(axis) = inst { Some(*axis as usize) } else { None };
        let indexed: Vec<usize> = self.expr.insts().iter().filter_map(index).collect();
        axes::arrange(&self.dims, &strides, &indexed)
    }

    /// How many turns of the innermost loop make a task; `None` if tasks are runs of elements that cut through them.
    fn rows_per_task(axes: &[Axis]) -> Option<i64> {
        let row = axes[axes.len() - 1].length().as_const().filter(|n| axes.len() > 1 && *n <= TASK)?;
        Some(TASK / row.max(1))
    }
}

impl Family for Spec {
    const NAME: &'static str = "map";

    /// The inputs, the output.
    fn buffers(&self) -> Vec<Buffer> {
        access::buffers(&self.operands())
    }

    fn size_args(&self) -> Vec<Dim> {
        access::size_args(&self.dims, self.accesses())
    }

    fn tasks(&self) -> Dim {
        let axes = self.axes();
        let dims: Vec<Dim> = axes.iter().map(Axis::length).collect();
        match Spec::rows_per_task(&axes) {
            // Without elements in a row there is nothing to do.
            Some(_) if dims[dims.len() - 1].is(0) => 0.into(),
            Some(rows) => access::product(&dims[..dims.len() - 1]).ceil_div(&rows.into()),
            None => access::product(&dims).ceil_div(&TASK.into()),
        }
    }

    fn scratch_bytes(&self) -> Dim {
        0.into()
    }

    fn cost(&self) -> Cost {
        let counts = |(inst, _): &&(Inst, _)| !matches!(inst, Inst::Input(_) | Inst::Index(_) | Inst::Const(_));
        let flops = self.expr.insts().iter().filter(counts).count() as i64;
        Cost { flops: access::product(&self.dims) * flops.into(), bytes: access::bytes(&self.operands()) }
    }

    fn emit(&self, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu) {
        module.kernel(symbol, &self.size_args(), |kernel| {
            emit::Task::new(self, kernel, cpu).run();
            None
        });
    }

    fn grid(&self, _: Sm) -> Grid {
        cuda::grid(self)
    }

    fn emit_cuda(&self, module: &mut ModuleBuilder<'_>, symbol: &str, _: Sm) {
        cuda::emit(self, module, symbol);
    }
}
