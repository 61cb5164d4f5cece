//! Products that no tile suits, since rows or columns are few: an element of *C* a thread, a few elements a warp, whose lanes
//! share the depth, or a panel of packed weights a warp ([`crate::cuda::panel`]).

use crate::{
    Family,
    abi::{Kernel, ModuleBuilder},
    build::{Ix, K, Ptr, Ty, V},
    cpu::Converts,
    cuda::{
        self, BLOCK_THREADS, Grid,
        block::{Block, WARP},
        panel::{Cut, Panel, Reads, exchange},
    },
    matmul::{Matrix, Rhs, Spec, pack::PANEL},
    scalar::{Access, fold, memory, register},
    view::{coordinates, sizes},
};
use kiln_ir::Dim;

use super::{Layout, USUAL_BATCH, USUAL_SIZE};

/// How elements are shared out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Share {
    /// One a thread. Neighbouring threads have neighbouring columns, so that *B* and *C* are read and written in whole lines;
    /// an element of *A* is read once for all of them.
    Thread,
    /// So many rows and columns a warp.
    Lanes([i64; 2]),
    Panel(Cut),
}

/// Products that a thread has under way.
const UNROLL: i64 = 4;
/// Elements of a warp whose lanes share the depth.
const TOGETHER: i64 = 4;
const WARPS: i64 = BLOCK_THREADS as i64 / WARP;
/// Columns from which on most of a panel is of use.
const FEWEST_COLUMNS: i64 = 8;

impl Share {
    /// For a product that is done by one block `alone`, or by all of a device.
    pub(super) fn of(spec: &Spec, alone: bool) -> Share {
        let size = |d: &Dim, usual: i64| d.as_const().unwrap_or(usual);
        let (m, n, k) = (size(&spec.m, USUAL_SIZE), size(&spec.n, USUAL_SIZE), size(&spec.k, USUAL_SIZE));
        if let (Rhs::Packed(weight), Some(depth)) = (&spec.b, spec.k.as_const())
            && n >= FEWEST_COLUMNS
        {
            let batch = spec.batch.iter().map(|d| size(d, USUAL_BATCH)).fold(1, i64::saturating_mul);
            let cut = Cut::new([*weight, spec.sum_elem()], 1, depth, alone);
            let groups = if alone { 1 } else { batch.saturating_mul(m).saturating_add(cut.rows - 1) / cut.rows };
            return Share::Panel(cut.shared(groups.saturating_mul((n + PANEL - 1) / PANEL)));
        }
        let along = |layout: Option<Layout>| layout == Some(Layout::Depth);
        let few_columns = n < FEWEST_COLUMNS;
        if k >= WARP && along(Layout::of_a(spec)) && (few_columns || along(Layout::of_b(spec))) {
            return Share::Lanes(if few_columns { [TOGETHER, 1] } else { [1, TOGETHER] });
        }
        Share::Thread
    }

    pub(super) fn grid(self, spec: &Spec) -> Grid {
        let batch = spec.batch_size();
        let tasks = |rows: Dim, [down, across]: [i64; 2]| rows.ceil_div(&down.into()) * spec.n.ceil_div(&across.into());
        let (tasks, block_tasks) = match self {
            Share::Thread => (batch * tasks(spec.m.clone(), [1, 1]), i64::from(BLOCK_THREADS)),
            Share::Lanes(size) => (batch * tasks(spec.m.clone(), size), WARPS),
            Share::Panel(cut) => (tasks(batch * spec.m.clone(), [cut.rows, PANEL]), cut.teams()),
        };
        Grid::new(tasks, BLOCK_THREADS, block_tasks as u32)
    }

    pub(super) fn emit(self, spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str) {
        let (buffers, sizes) = (spec.buffers().len(), spec.size_args());
        match self {
            Share::Thread => module.kernel(symbol, &sizes, |kernel| {
                let element = Element { spec, kernel, k: kernel.k };
                kernel.tasks(|task| element.compute(task));
                None
            }),
            Share::Lanes(size) => module.cuda(symbol, buffers, &sizes, |entry| {
                let (kernel, k) = (&entry.kernel, entry.kernel.k);
                let (element, block) = (Element { spec, kernel, k }, Block::new(k));
                let first = cuda::block(k) * WARPS + block.warp;
                k.for_(first, kernel.hi, cuda::blocks(k) * WARPS, |task| element.along(block, size, task));
            }),
            Share::Panel(cut) => {
                cut.memory(module, symbol);
                module.cuda(symbol, buffers, &sizes, |entry| {
                    let (kernel, k) = (&entry.kernel, entry.kernel.k);
                    let (element, panel) = (Element { spec, kernel, k }, Panel::new(k, cut, symbol));
                    panel.tasks(
                        kernel.hi,
                        |task| element.down(&panel, task),
                        |task, sums| element.rows_of(&panel, task, sums),
                    );
                });
            }
        }
    }
}

struct Element<'s, 'k> {
    spec: &'s Spec,
    kernel: &'s Kernel<'k>,
    k: K<'k>,
}

impl<'k> Element<'_, 'k> {
    fn access(matrix: &Matrix) -> Access {
        Access { elem: matrix.elem, lanes: 1, converts: Converts::F16AndBf16 }
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
                let access = Access { elem: *elem, lanes: 1, converts: Converts::F16AndBf16 };
                (self.kernel.buffer(1).offset(memory(*elem), offset), PANEL.into(), access)
            }
            Rhs::Strided(matrix) => {
                let at = self.at(1, matrix, batch, 0.into(), col);
                (at, self.kernel.size(&matrix.row), Self::access(matrix))
            }
        }
    }

    fn sum_ty(&self) -> Ty {
        Ty::new(register(self.spec.sum_elem()), 1)
    }

    /// The sizes of the batch, the rows and the columns, each cut into parts of so many.
    fn space(&self, [rows, columns]: [i64; 2]) -> Vec<Ix<'k>> {
        let mut space = sizes(self.kernel, &self.spec.batch);
        space.push(self.kernel.size(&self.spec.m).ceil_div(rows));
        space.push(self.kernel.size(&self.spec.n).ceil_div(columns));
        space
    }

    fn compute(&self, task: Ix<'k>) {
        let index = coordinates(task, &self.space([1, 1]));
        let batch = &index[..self.spec.batch.len()];
        let sum = self.sum(batch, index[batch.len()], index[batch.len() + 1]);
        self.finish(&index, sum);
    }

    /// Stores the element of *C* at the coordinates of the batch, the row and the column.
    fn finish(&self, index: &[Ix<'k>], sum: V<'k>) {
        let (k, spec) = (self.k, self.spec);
        let (batch, row, col) = (&index[..spec.batch.len()], index[spec.batch.len()], index[spec.batch.len() + 1]);
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
        let ty = self.sum_ty();
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

    /// A warp's elements, each lane with every 32nd of the depth.
    fn along(&self, block: Block<'k>, size: [i64; 2], task: Ix<'k>) {
        let (k, spec, ty) = (self.k, self.spec, self.sum_ty());
        let mut index = coordinates(task, &self.space(size));
        let batches = spec.batch.len();
        let batch = index[..batches].to_vec();
        let [first_row, first_column] = [index[batches] * size[0], index[batches + 1] * size[1]];
        let [m, n, depth] = [&spec.m, &spec.n, &spec.k].map(|d| self.kernel.size(d));
        // What is beyond the last one is the last one.
        let a: Vec<Ptr> =
            (0..size[0]).map(|i| self.at(0, &spec.a, &batch, (first_row + i).min(m - 1), 0.into())).collect();
        let b: Vec<_> = (0..size[1]).map(|j| self.rhs(&batch, (first_column + j).min(n - 1))).collect();
        let a_step = self.kernel.size(&spec.a.col);
        let load = |at: Ix<'k>| -> Vec<V<'k>> {
            let a = a.iter().map(|a| Self::access(&spec.a).load(a.offset(memory(spec.a.elem), at * a_step)));
            let b = b.iter().map(|(b, step, access)| access.load(b.offset(memory(access.elem), at * *step)));
            a.chain(b).map(|v| v.float_to(ty.elem)).collect()
        };
        let multiply = |loaded: &[V<'k>], sums: &[V<'k>]| -> Vec<V<'k>> {
            let (a, b) = loaded.split_at(a.len());
            let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (a, b)));
            pairs.zip(sums).map(|((a, b), sum)| a.fma(*b, *sum)).collect()
        };
        let step = UNROLL * WARP;
        let whole = depth.div(step) * step;
        let zeros = vec![k.zero(ty); (size[0] * size[1]) as usize];
        let sums = k.for_carry(0, whole, step, &zeros, |at, sums| {
            let loaded: Vec<_> = (0..UNROLL).map(|i| load(at + block.lane + i * WARP)).collect();
            loaded.iter().fold(sums.to_vec(), |sums, loaded| multiply(loaded, &sums))
        });
        let sums = k.for_carry(whole + block.lane, depth, WARP, &sums, |at, sums| multiply(&load(at), sums));
        // Two bits of a lane's number choose its element.
        let sum = exchange(block, sums, 1);
        let which = block.lane.rem(2) * 2 + block.lane.div(2).rem(2);
        let at = [which.rem(size[0]), which.rem(size[1])];
        index[batches] = first_row + at[0];
        index[batches + 1] = first_column + at[1];
        let there = index[batches].lt(m).and(index[batches + 1].lt(n)).and(block.lane.lt(TOGETHER));
        k.if_(there, || self.finish(&index, sum));
    }

    /// The rows of all matrices of the batch, and the first row and the first column of a task.
    fn panel_of(&self, cut: Cut, task: Ix<'k>) -> (Ix<'k>, Ix<'k>, Ix<'k>) {
        let across = self.kernel.size(&self.spec.n).ceil_div(PANEL);
        let rows = self.rows_space().into_iter().fold(Ix::Const(1), |n, s| n * s);
        (rows, task.div(across) * cut.rows, task.rem(across) * PANEL)
    }

    fn rows_space(&self) -> Vec<Ix<'k>> {
        let mut space = sizes(self.kernel, &self.spec.batch);
        space.push(self.kernel.size(&self.spec.m));
        space
    }

    fn down(&self, panel: &Panel<'k>, task: Ix<'k>) -> Vec<V<'k>> {
        let (spec, sum) = (self.spec, self.sum_ty().elem);
        let (rows, first, column) = self.panel_of(panel.cut, task);
        let weight = memory(panel.cut.weight);
        let b = self.kernel.buffer(1).offset(weight, column * self.kernel.size(&spec.k) + panel.first);
        let space = self.rows_space();
        let of_row = |i: i64| {
            let index = coordinates((first + i).min(rows - 1), &space);
            let (row, batch) = (index[index.len() - 1], &index[..index.len() - 1]);
            self.at(0, &spec.a, batch, row, 0.into())
        };
        let a: Vec<Ptr> = (0..panel.cut.rows).map(of_row).collect();
        let step = self.kernel.size(&spec.a.col);
        panel.sums(
            rows - first,
            &Reads {
                weight: &|depth, _| b.offset(weight, depth * PANEL),
                element: &|row, depth| {
                    let from = a[row as usize].offset(memory(spec.a.elem), depth * step);
                    Self::access(&spec.a).load(from).float_to(sum)
                },
            },
        )
    }

    fn rows_of(&self, panel: &Panel<'k>, task: Ix<'k>, sums: &[V<'k>]) {
        let (rows, first, column) = self.panel_of(panel.cut, task);
        let column = column + panel.column;
        let inside = column.lt(self.kernel.size(&self.spec.n));
        panel.each_row(sums, |row, sum| {
            let row = first + row;
            self.k.if_(row.lt(rows).and(inside), || {
                let mut index = coordinates(row, &self.rows_space());
                index.push(column);
                self.finish(&index, sum[0]);
            });
        });
    }
}
