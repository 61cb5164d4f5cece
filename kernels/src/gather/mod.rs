//! Slices of a table at indices along one axis.

mod cuda;
mod emit;

use crate::{
    Access, Buffer, Cost, Family,
    abi::{BAD_INDEX_BYTES, ModuleBuilder},
    access::{self, Operand},
    cpu::Cpu,
    cuda::{Grid, Sm},
    map::axes::{Axis, arrange},
};
use kiln_ir::Dim;

/// `output[s, b, i, a] = table[s, b, index[s, i], a]` for `s` in `shared`, `b` in `before`, `i` in `indices`, `a` in
/// `after`. For an index that is negative or not below `axis` nothing is read or written, and the status is 1 with a note
/// on the first such index.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spec {
    /// The axes that the table and the index have in common.
    pub shared: Vec<Dim>,
    pub before: Vec<Dim>,
    /// Size of the indexed axis.
    pub axis: Dim,
    pub indices: Vec<Dim>,
    pub after: Vec<Dim>,
    /// Of rank `shared + before + 1 + after`; its element type is also the output's.
    pub table: Access,
    /// Of rank `shared + indices`, of any integer type.
    pub index: Access,
    /// Of rank `shared + before + indices + after`.
    pub output: Access,
}

impl Spec {
    fn operands(&self) -> [Operand<'_>; 3] {
        let front: Vec<Dim> = self.shared.iter().chain(&self.before).cloned().collect();
        let table = front.iter().chain([&self.axis]).chain(&self.after).cloned().collect();
        let index = self.shared.iter().chain(&self.indices).cloned().collect();
        let output = front.iter().chain(&self.indices).chain(&self.after).cloned().collect();
        [(&self.table, table, false), (&self.index, index, false), (&self.output, output, true)]
    }

    /// The loops over `shared` with the strides of the table, the index and the output, over `before` with those of
    /// the table and the output, over `indices` with those of the index and the output, and over `after` with those of
    /// the table and the output.
    fn axes(&self) -> [Vec<Axis>; 4] {
        let (shared, indices) = (self.shared.len(), self.indices.len());
        let front = shared + self.before.len();
        let (table, index, output) = (&self.table.strides, &self.index.strides, &self.output.strides);
        [
            arrange(&self.shared, &[&table[..shared], &index[..shared], &output[..shared]], &[]),
            arrange(&self.before, &[&table[shared..front], &output[shared..front]], &[]),
            arrange(&self.indices, &[&index[shared..], &output[front..front + indices]], &[]),
            arrange(&self.after, &[&table[front + 1..], &output[front + indices..]], &[]),
        ]
    }

    fn slices_per_task(&self) -> i64 {
        access::rows_per_task(&access::product(&self.after), 512, 16384).clamp(1, 256)
    }
}

impl Family for Spec {
    const NAME: &'static str = "gather";

    /// The table, the index, the output.
    fn buffers(&self) -> Vec<Buffer> {
        access::buffers(&self.operands())
    }

    fn size_args(&self) -> Vec<Dim> {
        let front = self.shared.iter().chain(&self.before);
        let dims = front.chain([&self.axis]).chain(&self.indices).chain(&self.after);
        access::size_args(dims, [&self.table, &self.index, &self.output])
    }

    fn tasks(&self) -> Dim {
        access::product(self.shared.iter().chain(&self.before).chain(&self.indices))
            .ceil_div(&self.slices_per_task().into())
    }

    fn scratch_bytes(&self) -> Dim {
        BAD_INDEX_BYTES.into()
    }

    /// Of the table, what the indices reach is moved.
    fn cost(&self) -> Cost {
        let [_, index, output] = self.operands();
        Cost { flops: 0.into(), bytes: access::bytes(&[index, output.clone(), output]) }
    }

    fn emit(&self, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu) {
        module.kernel(symbol, &self.size_args(), |kernel| Some(emit::Task::new(self, kernel, cpu).run()));
    }

    fn grid(&self, _: Sm) -> Grid {
        cuda::grid(self)
    }

    fn emit_cuda(&self, module: &mut ModuleBuilder<'_>, symbol: &str, _: Sm) {
        cuda::emit(self, module, symbol);
    }
}
