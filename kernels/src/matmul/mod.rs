//! `C[b.., M, N] = epilogue(sum over K of A[b.., M, K] * B[b.., K, N], ...)`.
//!
//! *B* is either a weight packed at compile time ([`pack`]) or a strided tensor of the run. *A* is any strided tensor;
//! batch strides of 0 broadcast. Sums are in f32 (f64 if *A* is f64), whatever the elements in memory are. Each element
//! of *C* is summed in an order that depends on the shape alone. The epilogue is a scalar expression: its input 0 is
//! the sum, input `i + 1` the element of operand `i` at the same place; `Index(axis)` are the coordinates `b.., m, n`.
//! Rows of *C* are contiguous. *C* may lie on an operand with the same element type and strides, since each element of
//! that operand is read just before its place is written, but not on *A* or *B*.
//!
//! A task is 32 columns of a block of rows. Within it, for each part of K that fits the caches, a micro-kernel with a
//! tile of sums in registers runs down the rows; the tile is added to a partial result in scratch, and after the last
//! part the epilogue takes it from there to *C*. *A* is read in place when its rows are contiguous, at distances known
//! at compile time that do not collide in the first cache; otherwise each row block is copied first.

pub mod pack;

mod cuda;
mod emit;
mod tile;

use crate::{
    Buffer, Cost, Family,
    abi::{self, ModuleBuilder},
    cpu::Cpu,
    cuda::{Grid, Sm},
};
use kiln_ir::{Dim, ElemType, scalar::Expr};

/// One of many equal matrices in a tensor: strides are in elements.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Matrix {
    pub elem: ElemType,
    /// One for each batch dimension.
    pub batch: Vec<Dim>,
    pub row: Dim,
    pub col: Dim,
}

/// The right-hand side.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Rhs {
    /// One weight for the whole batch, in the layout of [`pack`]; *K* and *N* are constant. Aligned to 64 bytes.
    Packed(ElemType),
    Strided(Matrix),
}

/// A matrix product. Buffers: *A*, *B*, the operands, *C*.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spec {
    pub batch: Vec<Dim>,
    pub m: Dim,
    pub n: Dim,
    pub k: Dim,
    pub a: Matrix,
    pub b: Rhs,
    pub epilogue: Expr,
    /// The column stride of an operand is 0 or 1; strides of 0 make rows, columns and scalars.
    pub operands: Vec<Matrix>,
    /// The column stride is 1.
    pub c: Matrix,
}

/// Columns of a task, and of two packed panels.
const TASK_COLUMNS: i64 = 32;
/// Rows of a task are a multiple of this, but for the last.
const ROW_UNIT: i64 = 12;
/// Bytes of *A* that a task may go through for each of its panels: they stay in the second cache.
const ROW_BLOCK_BYTES: i64 = 448 << 10;
/// Rows of *A* in a task when *K* is symbolic.
const ROW_BLOCK_SYMBOLIC: i64 = 120;
/// *K* is cut into equal parts of at most this.
const K_PART: i64 = 768;
/// Few columns leave too few tasks for several threads: then rows are cut so that there are about this many.
const TASKS_WANTED: i64 = 32;

impl Spec {
    /// The type sums are in.
    pub fn sum_elem(&self) -> ElemType {
        if self.a.elem == ElemType::F64 { ElemType::F64 } else { ElemType::F32 }
    }

    fn sum_bytes(&self) -> i64 {
        self.sum_elem().bytes() as i64
    }

    fn batch_size(&self) -> Dim {
        self.batch.iter().fold(Dim::from(1), |n, d| n * d.clone())
    }

    /// The length of a part of *K*.
    fn k_part(&self) -> i64 {
        match self.k.as_const() {
            Some(k) if k > 0 => {
                let parts = (k + K_PART - 1) / K_PART;
                ((k + parts - 1) / parts + 7) / 8 * 8
            }
            Some(_) => 8,
            None => K_PART,
        }
    }

    /// The most rows of a row block: a multiple of [`ROW_UNIT`].
    fn row_block(&self) -> i64 {
        let rows = match self.k.as_const() {
            Some(k) => ROW_BLOCK_BYTES / (self.sum_bytes() * k.max(1)),
            None => ROW_BLOCK_SYMBOLIC,
        };
        rows.clamp(ROW_UNIT, 40 * ROW_UNIT) / ROW_UNIT * ROW_UNIT
    }

    fn row_blocks(&self) -> Dim {
        self.m.ceil_div(&self.row_block().into())
    }

    fn column_tasks(&self) -> Dim {
        self.n.ceil_div(&TASK_COLUMNS.into())
    }

    /// Into how many pieces a row block is cut to have enough tasks, at most.
    fn max_row_cuts(&self) -> i64 {
        match self.n.as_const() {
            Some(n) if self.a_in_place() => (TASKS_WANTED * TASK_COLUMNS / n.max(1)).clamp(1, 4),
            _ => 1,
        }
    }

    /// The pieces of a row block: none is shorter than about 8 rows.
    fn row_cuts(&self) -> Dim {
        match self.max_row_cuts() {
            1 => 1.into(),
            cuts => self.m.floor_div(&8.into()).max_with(&1.into()).min_with(&cuts.into()),
        }
    }

    /// Whether the micro-kernel reads *A* where it is: rows contiguous, of the type of the sums, and at a constant
    /// distance at which the rows of a tile do not fall on the same few sets of the first cache.
    fn a_in_place(&self) -> bool {
        let Some(stride) = self.a.row.as_const() else { return false };
        let bytes = stride.unsigned_abs() * self.sum_bytes() as u64;
        self.a.elem == self.sum_elem() && self.a.col.is(1) && (bytes == 0 || !bytes.is_multiple_of(4096))
    }

    /// Elements from one row to the next in a copied row block, for one part of *K*: an odd number of cache lines.
    fn packed_row(&self) -> i64 {
        let line = 64 / self.sum_bytes();
        ((self.k_part() + line - 1) / line) / 2 * 2 * line + line
    }

    fn k_parts(&self) -> Dim {
        self.k.ceil_div(&self.k_part().into()).max_with(&1.into())
    }

    /// Bytes of the three parts of scratch: the partial result, copied rows of *A*, a packed panel of *B*.
    fn scratch_parts(&self) -> [Dim; 3] {
        let rows = self.row_block() + ROW_UNIT;
        let bytes = self.sum_bytes();
        let a = if self.a_in_place() { 0 } else { rows * self.packed_row() * bytes };
        let b = if matches!(self.b, Rhs::Packed(_)) { 0 } else { self.k_part() * TASK_COLUMNS * bytes };
        [(rows * TASK_COLUMNS * bytes).into(), self.k_parts() * a.into(), self.k_parts() * b.into()]
    }
}

impl Family for Spec {
    const NAME: &'static str = "matmul";

    fn buffers(&self) -> Vec<Buffer> {
        let extent = |matrix: &Matrix, rows: &Dim, cols: &Dim| {
            let reach = |size: &Dim, stride: &Dim| (size.clone() - 1.into()) * stride.clone();
            let batch = self.batch.iter().zip(&matrix.batch).map(|(size, stride)| reach(size, stride));
            batch.fold(reach(rows, &matrix.row) + reach(cols, &matrix.col) + 1.into(), |sum, d| sum + d)
        };
        let read = |matrix: &Matrix, rows: &Dim, cols: &Dim| Buffer {
            elem: matrix.elem,
            elements: extent(matrix, rows, cols),
            written: false,
        };
        let mut buffers = vec![read(&self.a, &self.m, &self.k)];
        buffers.push(match &self.b {
            Rhs::Packed(elem) => Buffer {
                elem: *elem,
                elements: self.n.ceil_div(&pack::PANEL.into()) * pack::PANEL.into() * self.k.clone(),
                written: false,
            },
            Rhs::Strided(b) => read(b, &self.k, &self.n),
        });
        buffers.extend(self.operands.iter().map(|o| read(o, &self.m, &self.n)));
        buffers.push(Buffer { written: true, ..read(&self.c, &self.m, &self.n) });
        buffers
    }

    fn size_args(&self) -> Vec<Dim> {
        let strides = |m: &Matrix| m.batch.iter().chain([&m.row, &m.col]).cloned().collect::<Vec<_>>();
        let mut dims = vec![self.m.clone(), self.n.clone(), self.k.clone()];
        dims.extend(self.batch.iter().cloned());
        dims.extend(strides(&self.a));
        if let Rhs::Strided(b) = &self.b {
            dims.extend(strides(b));
        }
        dims.extend(self.operands.iter().chain([&self.c]).flat_map(strides));
        abi::size_args(&dims)
    }

    fn tasks(&self) -> Dim {
        self.batch_size() * self.row_blocks() * self.column_tasks() * self.row_cuts()
    }

    fn scratch_bytes(&self) -> Dim {
        let [partial, a, b] = self.scratch_parts();
        partial + a + b
    }

    fn cost(&self) -> Cost {
        let products = self.batch_size() * self.m.clone() * self.n.clone() * self.k.clone();
        let bytes = self.buffers().into_iter().map(|b| b.elements * (b.elem.bytes() as i64).into());
        Cost { flops: products * 2.into(), bytes: bytes.fold(0.into(), |sum, d| sum + d) }
    }

    fn emit(&self, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu) {
        emit::emit(self, module, symbol, cpu);
    }

    fn grid(&self, sm: Sm) -> Grid {
        cuda::grid(self, sm, false)
    }

    fn block_grid(&self, sm: Sm) -> Grid {
        cuda::grid(self, sm, true)
    }

    fn emit_cuda(&self, module: &mut ModuleBuilder<'_>, symbol: &str, sm: Sm) {
        cuda::emit(self, sm, module, symbol);
    }
}
