//! The `k` largest elements of each row in falling order and where they were; of equal ones the first comes first, a
//! NaN counts as largest.
//!
//! The largest so far are kept sorted; whole vectors of elements that do not exceed the last of them are passed over.

mod cuda;
mod emit;

use crate::{
    Access, Buffer, Cost, Family,
    abi::ModuleBuilder,
    access::{self, Operand},
    build::{Elem, Ix},
    cpu::Cpu,
    cuda::{Grid, Sm},
};
use kiln_ir::Dim;

/// `values[o, j]` is the `j`-th largest of `input[o, ..]` and `indices[o, j]` its position. With a `k` below 1 or above the
/// length of a row the kernel ends with status 1, and nothing is written.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spec {
    pub outer: Vec<Dim>,
    /// Elements of a row.
    pub inner: Dim,
    /// Of rank `outer.len() + 1`.
    pub input: Access,
    pub k: Dim,
    /// Of rank `outer.len() + 1`, with the input's element type.
    pub values: Access,
    /// Of rank `outer.len() + 1`, of `i64`.
    pub indices: Access,
}

impl Spec {
    fn rows_per_task(&self) -> i64 {
        access::rows_per_task(&self.inner, 512, 4096)
    }

    fn operands(&self) -> [Operand<'_>; 3] {
        let space = |row: Dim| self.outer.iter().cloned().chain([row]).collect();
        [
            (&self.input, space(self.inner.clone()), false),
            (&self.values, space(self.k.clone()), true),
            (&self.indices, space(self.k.clone()), true),
        ]
    }
}

impl Family for Spec {
    const NAME: &'static str = "topk";

    /// The input, the values, the indices.
    fn buffers(&self) -> Vec<Buffer> {
        access::buffers(&self.operands())
    }

    fn size_args(&self) -> Vec<Dim> {
        let dims = self.outer.iter().chain([&self.inner, &self.k]);
        access::size_args(dims, [&self.input, &self.values, &self.indices])
    }

    fn tasks(&self) -> Dim {
        access::product(&self.outer).ceil_div(&self.rows_per_task().into())
    }

    /// The largest elements so far and their positions.
    fn scratch_bytes(&self) -> Dim {
        self.k.clone() * 16.into()
    }

    fn cost(&self) -> Cost {
        let elements = access::product(self.outer.iter().chain([&self.inner]));
        Cost { flops: elements, bytes: access::bytes(&self.operands()) }
    }

    fn emit(&self, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu) {
        module.kernel(symbol, &self.size_args(), |kernel| {
            let (length, wanted) = (kernel.size(&self.inner), kernel.size(&self.k));
            let fits = Ix::Const(1).le(wanted).and(wanted.le(length));
            kernel.k.if_(fits, || emit::Task::new(self, kernel, cpu).run());
            let status = fits.choose(0, kernel.lo.lt(kernel.hi).choose(1, 0)).v(kernel.k);
            Some(status.int_to(Elem::I32, false))
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
