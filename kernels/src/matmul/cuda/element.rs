//! An element of *C* a thread. Neighbouring threads have neighbouring columns, so that *B* and *C*
//! are read and written in whole lines; an element of *A* is read once for all of them.

use crate::{
    Family,
    abi::{Kernel, ModuleBuilder},
    build::{Ix, K, Ptr, Ty, V},
    matmul::{Matrix, Rhs, Spec, pack::PANEL},
    scalar::{Access, fold, memory, register},
    view::{coordinates, sizes},
};

/// Threads of a block.
pub(super) const THREADS: u32 = 256;
/// Products that a thread has under way.
const UNROLL: i64 = 4;

pub(super) fn emit(spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str) {
    module.kernel(symbol, &spec.size_args(), |kernel| {
        let element = Element { spec, kernel, k: kernel.k };
        kernel.tasks(|task| element.compute(task));
        None
    });
}

struct Element<'s, 'k> {
    spec: &'s Spec,
    kernel: &'s Kernel<'k>,
    k: K<'k>,
}

impl<'k> Element<'_, 'k> {
    fn access(matrix: &Matrix) -> Access {
        Access { elem: matrix.elem, lanes: 1, converts_f16: true }
    }

    /// The address of the element at `row` and `col` of the matrix in buffer `buffer`.
    fn at(&self, buffer: usize, matrix: &Matrix, batch: &[Ix<'k>], row: Ix<'k>, col: Ix<'k>) -> Ptr<'k> {
        let size = |d| self.kernel.size(d);
        let batch = batch.iter().zip(&matrix.batch).fold(Ix::Const(0), |sum, (i, d)| sum + *i * size(d));
        let offset = batch + row * size(&matrix.row) + col * size(&matrix.col);
        self.kernel.buffer(buffer).offset(memory(matrix.elem), offset)
    }

    /// Where element `(0, col)` of *B* is, how far the next row is, and how it is loaded.
    fn rhs(&self, batch: &[Ix<'k>], col: Ix<'k>) -> (Ptr<'k>, Ix<'k>, Access) {
        match &self.spec.b {
            Rhs::Packed(elem) => {
                let offset = col.div(PANEL) * PANEL * self.kernel.size(&self.spec.k) + col.rem(PANEL);
                let access = Access { elem: *elem, lanes: 1, converts_f16: true };
                (self.kernel.buffer(1).offset(memory(*elem), offset), PANEL.into(), access)
            }
            Rhs::Strided(matrix) => {
                let at = self.at(1, matrix, batch, 0.into(), col);
                (at, self.kernel.size(&matrix.row), Self::access(matrix))
            }
        }
    }

    fn compute(&self, task: Ix<'k>) {
        let (k, spec) = (self.k, self.spec);
        let mut space = sizes(self.kernel, &spec.batch);
        space.extend([&spec.m, &spec.n].map(|d| self.kernel.size(d)));
        let index = coordinates(task, &space);
        let (batch, row, col) = (&index[..spec.batch.len()], index[spec.batch.len()], index[spec.batch.len() + 1]);
        let sum = self.sum(batch, row, col);
        let mut input = |n: u32| match (n as usize).checked_sub(1) {
            None => sum,
            Some(n) => {
                let matrix = &spec.operands[n];
                Self::access(matrix).load(self.at(2 + n, matrix, batch, row, col))
            }
        };
        let mut coordinate = |axis: u32| index[axis as usize].v(k);
        let value = fold(k, &spec.epilogue, 1, &mut input, &mut coordinate);
        let c = 2 + spec.operands.len();
        Self::access(&spec.c).store(self.at(c, &spec.c, batch, row, col), value);
    }

    fn sum(&self, batch: &[Ix<'k>], row: Ix<'k>, col: Ix<'k>) -> V<'k> {
        let (k, spec) = (self.k, self.spec);
        let ty = Ty::new(register(spec.sum_elem()), 1);
        let (a, a_step) = (self.at(0, &spec.a, batch, row, 0.into()), self.kernel.size(&spec.a.col));
        let (b, b_step, b_access) = self.rhs(batch, col);
        let product = |at: Ix<'k>, sum: V<'k>| {
            let a = Self::access(&spec.a).load(a.offset(memory(spec.a.elem), at * a_step));
            let b = b_access.load(b.offset(memory(b_access.elem), at * b_step));
            a.float_to(ty.elem).fma(b.float_to(ty.elem), sum)
        };
        let depth = self.kernel.size(&spec.k);
        let whole = depth.div(UNROLL) * UNROLL;
        let sums = k.for_carry(0, whole, UNROLL, &[k.zero(ty)], |at, sum| {
            vec![(0..UNROLL).fold(sum[0], |sum, i| product(at + i, sum))]
        });
        k.for_carry(whole, depth, 1, &sums, |at, sum| vec![product(at, sum[0])])[0]
    }
}
