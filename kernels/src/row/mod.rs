//! Softmax and normalisations along rows, with elementwise arithmetic before and after.
//!
//! The output may be the memory of an input that has the same access and element size; otherwise it overlaps none.

mod cuda;
mod emit;

pub(crate) use cuda::through;

use crate::{
    Access, Buffer, Cost, Family,
    abi::ModuleBuilder,
    access::{self, Operand},
    cpu::Cpu,
    cuda::{Grid, Sm},
};
use kiln_ir::{
    Dim, ElemType,
    scalar::{Expr, Inst, Literal},
};

/// What is computed from a row `x`; the meaning and the numbers are those of the IR's op of the same name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stat {
    Softmax,
    LogSoftmax,
    LayerNorm { eps: Literal },
    RmsNorm { eps: Literal },
    L2Normalize { eps: Literal },
}

/// `output[o, i] = epilogue(stat(prologue(inputs[..][o, ..]))[i], inputs[..][o, i])` for each row `o` in `outer`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spec {
    pub outer: Vec<Dim>,
    /// Elements of a row.
    pub inner: Dim,
    /// Of rank `outer.len() + 1`. A scale or a bias has stride 0 along the outer axes.
    pub inputs: Vec<Access>,
    /// The row's elements, a float: `Input(n)` is `inputs[n]`, `Index(axis)` the coordinate along an axis of the inputs.
    pub prologue: Expr,
    pub stat: Stat,
    /// `Input(0)` is the normalised element, of the type of the prologue; `Input(n + 1)` is `inputs[n]`.
    pub epilogue: Expr,
    /// Of rank `outer.len() + 1`, with the element type of the epilogue.
    pub output: Access,
}

impl Spec {
    /// The type of the statistics.
    fn elem(&self) -> ElemType {
        if self.prologue.elem() == ElemType::F64 { ElemType::F64 } else { ElemType::F32 }
    }

    /// The input that the prologue only passes on, if its rows are contiguous and need no conversion.
    fn direct(&self) -> Option<usize> {
        let [(Inst::Input(n), _)] = self.prologue.insts() else { return None };
        let input = &self.inputs[*n as usize];
        let plain = input.elem == self.elem() && input.strides.last().is_some_and(|s| s.is(1));
        plain.then_some(*n as usize)
    }

    fn rows_per_task(&self) -> i64 {
        access::rows_per_task(&self.inner, 512, 4096)
    }

    fn operands(&self) -> Vec<Operand<'_>> {
        let space: Vec<Dim> = self.outer.iter().chain([&self.inner]).cloned().collect();
        let read = self.inputs.iter().map(|a| (a, space.clone(), false));
        read.chain([(&self.output, space.clone(), true)]).collect()
    }
}

impl Family for Spec {
    const NAME: &'static str = "row";

    /// The inputs, the output.
    fn buffers(&self) -> Vec<Buffer> {
        access::buffers(&self.operands())
    }

    fn size_args(&self) -> Vec<Dim> {
        let dims = self.outer.iter().chain([&self.inner]);
        access::size_args(dims, self.inputs.iter().chain([&self.output]))
    }

    fn tasks(&self) -> Dim {
        access::product(&self.outer).ceil_div(&self.rows_per_task().into())
    }

    /// A row of the prologue's values.
    fn scratch_bytes(&self) -> Dim {
        self.inner.clone() * (self.elem().bytes() as i64).into()
    }

    fn cost(&self) -> Cost {
        let elements = access::product(self.outer.iter().chain([&self.inner]));
        let fused = self.prologue.insts().len() + self.epilogue.insts().len();
        Cost { flops: elements * (fused as i64 + 4).into(), bytes: access::bytes(&self.operands()) }
    }

    fn emit(&self, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu) {
        module.kernel(symbol, &self.size_args(), |kernel| {
            emit::Task::new(self, kernel, cpu, None).run();
            None
        });
    }

    fn grid(&self, _: Sm) -> Grid {
        cuda::grid(self)
    }

    fn block_grid(&self, _: Sm) -> Grid {
        cuda::block_grid(self)
    }

    fn emit_cuda(&self, module: &mut ModuleBuilder<'_>, symbol: &str, _: Sm) {
        cuda::emit(self, module, symbol);
    }
}
