//! The loops around the micro-kernels.

use super::{Matrix, ROW_UNIT, Rhs, Spec, TASK_COLUMNS, pack::PANEL, tile::MicroKernels};
use crate::{
    Family,
    abi::{Kernel, ModuleBuilder},
    build::{Bool, Ix, K, Ptr, Ty, V},
    cpu::Cpu,
    scalar::{Access, fold_parts, memory},
    view::transpose,
};
use kiln_ir::Dim;

/// Vectors that the epilogue takes at a time: their chains of operations stand interleaved.
const CHAINS: i64 = 4;

pub(super) fn emit(spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu) {
    let a_row = if spec.a_in_place() { spec.a.row.as_const() } else { Some(spec.packed_row()) };
    let kernels = MicroKernels::of(spec, cpu, a_row.expect("A in place has a constant row stride"));
    kernels.emit(&module.module, module.context, symbol);
    module.kernel(symbol, &spec.size_args(), |kernel| {
        Emitter::new(spec, kernel, kernels, symbol, cpu).tasks();
        None
    });
}

struct Emitter<'k, 'a> {
    spec: &'a Spec,
    k: K<'k>,
    kernel: &'a Kernel<'k>,
    micro: MicroKernels,
    symbol: &'a str,
    cpu: &'static Cpu,
    a: Ptr<'k>,
    b: Ptr<'k>,
    operands: Vec<Ptr<'k>>,
    c: Ptr<'k>,
    /// Scratch: the partial result, the copy of A, the packed panel of B.
    partial: Ptr<'k>,
    a_copy: Ptr<'k>,
    b_copy: Ptr<'k>,
    m: Ix<'k>,
    n: Ix<'k>,
    depth: Ix<'k>,
    /// The length of a part of K and the number of parts.
    part: i64,
    parts: Ix<'k>,
}

/// What one task does.
#[derive(Clone)]
struct Task<'k> {
    batch: Vec<Ix<'k>>,
    /// The rows of the row block that A is copied in, and those of this task.
    block: Ix<'k>,
    rows: (Ix<'k>, Ix<'k>),
    column: Ix<'k>,
}

impl<'k, 'a> Emitter<'k, 'a> {
    fn new(
        spec: &'a Spec,
        kernel: &'a Kernel<'k>,
        micro: MicroKernels,
        symbol: &'a str,
        cpu: &'static Cpu,
    ) -> Emitter<'k, 'a> {
        let size = |d: &Dim| kernel.size(d);
        let part = spec.k_part();
        let depth = size(&spec.k);
        let parts = depth.ceil_div(part).max(1);
        let operands = (0..spec.operands.len()).map(|i| kernel.buffer(2 + i)).collect();
        let [partial_bytes, a_bytes, _] = spec.scratch_parts();
        let partial_bytes = partial_bytes.as_const().expect("the partial result has a constant size");
        let a_copy = kernel.scratch.bytes(partial_bytes);
        // The size of the copy of A is a number of bytes for each part of K.
        let a_part = a_bytes.exact_div(&spec.k_parts()).and_then(|d| d.as_const()).unwrap_or(0);
        Emitter {
            spec,
            k: kernel.k,
            kernel,
            micro,
            symbol,
            cpu,
            a: kernel.buffer(0),
            b: kernel.buffer(1),
            operands,
            c: kernel.buffer(2 + spec.operands.len()),
            partial: kernel.scratch,
            a_copy,
            b_copy: a_copy.bytes(parts * a_part),
            m: size(&spec.m),
            n: size(&spec.n),
            depth,
            part,
            parts,
        }
    }

    fn access(&self, matrix: &Matrix, lanes: u32) -> Access {
        Access { elem: matrix.elem, lanes, converts: self.cpu.converts }
    }

    /// The address of the matrix of this batch element.
    fn matrix(&self, base: Ptr<'k>, matrix: &Matrix, batch: &[Ix<'k>]) -> Ptr<'k> {
        let offset = batch.iter().zip(&matrix.batch).fold(Ix::Const(0), |sum, (i, d)| sum + *i * self.kernel.size(d));
        base.offset(memory(matrix.elem), offset)
    }

    fn at(&self, base: Ptr<'k>, matrix: &Matrix, row: Ix<'k>, col: Ix<'k>) -> Ptr<'k> {
        let offset = row * self.kernel.size(&matrix.row) + col * self.kernel.size(&matrix.col);
        base.offset(memory(matrix.elem), offset)
    }

    fn tasks(&self) {
        let spec = self.spec;
        let blocks = self.m.ceil_div(spec.row_block()).max(1);
        let columns = self.n.ceil_div(TASK_COLUMNS).max(1);
        let cuts = match spec.max_row_cuts() {
            1 => Ix::Const(1),
            most => self.m.div(8).max(1).min(most),
        };
        let block_rows = self.div_rem(self.m + (blocks - 1), blocks).0.ceil_div(ROW_UNIT) * ROW_UNIT;
        let cut_rows =
            if cuts.is(1) { block_rows } else { self.div_rem(block_rows + (cuts - 1), cuts).0.ceil_div(4) * 4 };
        // The row block whose copy is in scratch, counted through the batch.
        let none = self.k.int(Ty::I64, -1);
        self.k.for_carry(self.kernel.lo, self.kernel.hi, 1, &[none], |task, copied| {
            let (rest, cut) = self.div_rem(task, cuts);
            let (which, column) = self.div_rem(rest, columns);
            let column = column * TASK_COLUMNS;
            let (mut rest, block) = self.div_rem(which, blocks);
            let mut batch = vec![Ix::Const(0); spec.batch.len()];
            for (i, dim) in spec.batch.iter().enumerate().rev() {
                let size = self.kernel.size(dim).max(1);
                (batch[i], rest) = if i == 0 { (rest, rest) } else { (rest.rem(size), rest.div(size)) };
            }
            let start = block * block_rows;
            let end = (start + block_rows).min(self.m);
            let from = start + cut * cut_rows;
            let task = Task { batch, block: start, rows: (from, (from + cut_rows).min(end)), column };
            if spec.a_in_place() {
                self.task(&task);
                return vec![none];
            }
            self.k.if_(which.ne(Ix::Value(copied[0])), || self.copy_a(&task, end));
            self.task(&task);
            vec![which.v(self.k)]
        });
    }

    /// Quotient and remainder of two sizes. Few rows are not cut, and a division by a 1 that is only known at run time
    /// takes longer than finding that out.
    fn div_rem(&self, a: Ix<'k>, by: Ix<'k>) -> (Ix<'k>, Ix<'k>) {
        if by.as_const().is_some() {
            return (a.div(by), a.rem(by));
        }
        let zero = Ix::Const(0);
        let both = |q: Ix<'k>, r: Ix<'k>| vec![q.v(self.k), r.v(self.k)];
        let results = self.k.if_else(by.eq(1), || both(a, zero), || both(a.div(by), a.rem(by)));
        (results[0].into(), results[1].into())
    }

    /// Copies the rows of A from the block's start to `end`, one part of K after the other.
    fn copy_a(&self, task: &Task<'k>, end: Ix<'k>) {
        let (a, spec) = (self.matrix(self.a, &self.spec.a, &task.batch), &self.spec.a);
        let (sum, lanes) = (self.micro.sums.elem, self.micro.sums.lanes);
        self.for_parts(|part, from, len| {
            self.k.for_(task.block, end, 1, |row| {
                let to = self.a_copy.offset(sum, self.a_copy_offset(part, row - task.block));
                let copy = |from_k: Ix<'k>, to_k: Ix<'k>, lanes: u32| {
                    self.k.for_(from_k, to_k, lanes as i64, |i| {
                        let access = self.access(spec, lanes);
                        let value = access.load(self.at(a, spec, row, from + i));
                        to.offset(sum, i).store(value.float_to(sum));
                    });
                };
                let whole = if spec.col.is(1) { len.div(lanes as i64) * lanes as i64 } else { Ix::Const(0) };
                copy(Ix::Const(0), whole, lanes);
                copy(whole, len, 1);
            });
        });
    }

    fn a_copy_offset(&self, part: Ix<'k>, row: Ix<'k>) -> Ix<'k> {
        let rows = self.spec.row_block() + ROW_UNIT;
        (part * rows + row) * self.micro.a_row
    }

    /// `body(part, its start, its length)` for the parts of K.
    fn for_parts(&self, body: impl FnOnce(Ix<'k>, Ix<'k>, Ix<'k>)) {
        self.k.for_(0, self.parts, 1, |part| {
            let from = part * self.part;
            // One part: its length is K, which is then a constant more often than a difference is.
            let len = if self.parts.is(1) { self.depth } else { (self.depth - from).min(self.part) };
            body(part, from, len);
        });
    }

    fn task(&self, task: &Task<'k>) {
        let width = self.micro.tiling.columns();
        self.k.for_(0, TASK_COLUMNS, width, |offset| {
            let column = task.column + offset;
            self.k.if_(column.lt(self.n), || {
                if self.micro.accumulate {
                    self.clear_partial(task);
                }
                let panels = self.panels(task, column);
                self.for_parts(|part, from, len| {
                    let b: Vec<Ptr> =
                        panels.iter().map(|p| p.offset(self.micro.b.memory().elem, from * PANEL)).collect();
                    let last = (part + 1).eq(self.parts);
                    self.column_of_tiles(task, column, &b, part, len, last);
                });
            });
        });
    }

    fn clear_partial(&self, task: &Task<'k>) {
        let sums = self.micro.sums;
        let count = (task.rows.1 - task.rows.0) * self.micro.tiling.columns();
        self.k.for_(0, count, sums.lanes as i64, |i| self.partial.offset(sums.elem, i).store(self.k.zero(sums)));
    }

    /// The packed panels of a tile's columns, from K = 0. Beyond the last panel the last one stands in: its sums are
    /// not stored.
    fn panels(&self, task: &Task<'k>, column: Ix<'k>) -> Vec<Ptr<'k>> {
        let elem = self.micro.b.memory().elem;
        let count = self.micro.tiling.panels;
        match &self.spec.b {
            Rhs::Packed(_) => {
                let last = self.n.ceil_div(PANEL) - 1;
                let first = column.div(PANEL);
                (0..count).map(|p| self.b.offset(elem, (first + p).min(last) * self.depth * PANEL)).collect()
            }
            Rhs::Strided(matrix) => {
                let b = self.matrix(self.b, matrix, &task.batch);
                let panel = |p: i64| self.b_copy.offset(elem, self.parts * (p * self.part * PANEL));
                for p in 0..count {
                    self.copy_b(matrix, b, column + p * PANEL, panel(p));
                }
                (0..count).map(panel).collect()
            }
        }
    }

    /// Packs 16 columns of B; those beyond N repeat the last one.
    fn copy_b(&self, matrix: &Matrix, b: Ptr<'k>, column: Ix<'k>, to: Ptr<'k>) {
        let (k, sum) = (self.k, self.micro.sums.elem);
        let at = |row: Ix<'k>, column: Ix<'k>| self.at(b, matrix, row, column.min(self.n - 1));
        let one_by_one = |from: Ix<'k>| {
            k.for_(0, PANEL, 1, |lane| {
                k.for_(from, self.depth, 1, |row| {
                    let value = self.access(matrix, 1).load(at(row, column + lane));
                    to.offset(sum, row * PANEL + lane).store(value.float_to(sum));
                });
            });
        };
        // Squares, so that columns that are contiguous become rows.
        let by_columns = || {
            let side = self.micro.sums.lanes.min(8);
            let whole = self.depth.div(side as i64) * side as i64;
            k.for_(0, PANEL, side as i64, |lane| {
                let first = column + lane;
                k.for_(0, whole, side as i64, |row| {
                    let load = |i: i64| self.access(matrix, side).load(at(row, first + i)).float_to(sum);
                    let square = transpose((0..side as i64).map(load).collect());
                    for (i, values) in square.into_iter().enumerate() {
                        to.offset(sum, (row + i as i64) * PANEL + lane).store(values);
                    }
                });
            });
            one_by_one(whole);
        };
        let by_rows = || {
            let lanes = self.micro.sums.lanes;
            k.for_(0, self.depth, 1, |row| {
                for lane in (0..PANEL).step_by(lanes as usize) {
                    let value = self.access(matrix, lanes).load(self.at(b, matrix, row, column + lane));
                    to.offset(sum, row * PANEL + lane).store(value.float_to(sum));
                }
            });
        };
        let statement = |body: &dyn Fn()| {
            body();
            vec![]
        };
        match (matrix.row.is(1), matrix.col.is(1)) {
            (_, true) => {
                let whole = (column + PANEL).le(self.n);
                k.if_else(whole, || statement(&by_rows), || statement(&|| one_by_one(Ix::Const(0))));
            }
            (true, false) => by_columns(),
            (false, false) => one_by_one(Ix::Const(0)),
        }
    }

    /// Runs micro-kernels down the rows of the task; where `last` holds, the epilogue after each.
    fn column_of_tiles(
        &self,
        task: &Task<'k>,
        column: Ix<'k>,
        b: &[Ptr<'k>],
        part: Ix<'k>,
        len: Ix<'k>,
        last: Bool<'k>,
    ) {
        let elem = self.micro.sums.elem;
        let a = self.matrix(self.a, &self.spec.a, &task.batch);
        let (from, to) = task.rows;
        self.k.while_(
            &[from.v(self.k)],
            |row| Ix::Value(row[0]).lt(to).v(self.k),
            |row| {
                let row = Ix::Value(row[0]);
                let a = if self.spec.a_in_place() {
                    self.at(a, &self.spec.a, row, part * self.part)
                } else {
                    self.a_copy.offset(elem, self.a_copy_offset(part, row - task.block))
                };
                let partial = self.partial.offset(elem, (row - from) * self.micro.tiling.columns());
                if self.cpu.prefetches {
                    self.k.if_(last, || self.prefetch(&task.batch, row, to, column));
                }
                let height = self.micro.call(self.symbol, to - row, a, b, partial, len);
                self.k.if_(last, || self.epilogue(&task.batch, row, height, column, partial));
                vec![(row + height).v(self.k)]
            },
        );
    }

    /// Asks for what the epilogue of a tile reads and writes, long before it is its turn.
    fn prefetch(&self, batch: &[Ix<'k>], row: Ix<'k>, to: Ix<'k>, column: Ix<'k>) {
        let tallest = self.micro.tiling.heights[0];
        let operands = self.spec.operands.iter().zip(&self.operands).filter(|(m, _)| !m.row.is(0) && m.col.is(1));
        let matrices: Vec<(&Matrix, Ptr)> = operands
            .chain([(&self.spec.c, &self.c)])
            .map(|(matrix, base)| (matrix, self.matrix(*base, matrix, batch)))
            .collect();
        self.k.for_(row, (row + tallest).min(to), 1, |row| {
            for (matrix, base) in &matrices {
                for column in [column, column + (self.micro.tiling.columns() - PANEL)] {
                    self.at(*base, matrix, row, column).prefetch(3);
                }
            }
        });
    }

    /// Takes `height` rows of the partial result through the epilogue to C, some rows at a time.
    fn epilogue(&self, batch: &[Ix<'k>], row: Ix<'k>, height: Ix<'k>, column: Ix<'k>, partial: Ptr<'k>) {
        let width = self.micro.tiling.columns();
        let together = (CHAINS / self.micro.tiling.vectors()).max(1);
        let rows = |masked: bool| {
            self.k.for_(0, height, together, |i| {
                // Past the last row, the last is done again.
                let rows: Vec<Ix> = (0..together).map(|j| if j == 0 { i } else { (i + j).min(height - 1) }).collect();
                let sums: Vec<Ptr> = rows.iter().map(|i| partial.offset(self.micro.sums.elem, *i * width)).collect();
                let rows: Vec<Ix> = rows.iter().map(|i| row + *i).collect();
                self.finish(batch, &rows, column, &sums, masked);
            });
            vec![]
        };
        let divides = self.n.as_const().is_some_and(|n| n % width == 0);
        let whole = if divides { Bool::Const(true) } else { (column + width).le(self.n) };
        self.k.if_else(whole, || rows(false), || rows(true));
    }

    /// Applies the epilogue to rows of sums and stores them; `masked` keeps to columns below N. The vectors of all rows
    /// are the parts of one value.
    fn finish(&self, batch: &[Ix<'k>], rows: &[Ix<'k>], column: Ix<'k>, sums: &[Ptr<'k>], masked: bool) {
        let (k, ty) = (self.k, self.micro.sums);
        let (lanes, vectors) = (ty.lanes, self.micro.tiling.vectors());
        let parts = rows.len() as u32 * vectors as u32;
        let columns: Vec<Ix> = (0..vectors).map(|v| column + v * lanes as i64).collect();
        let masks: Vec<Option<V>> = columns.iter().map(|c| masked.then(|| k.first_lanes(lanes, self.n - *c))).collect();
        let each = |load: &dyn Fn(usize, usize) -> V<'k>| -> V<'k> {
            let vectors = 0..vectors as usize;
            let all: Vec<V> = (0..rows.len()).flat_map(|r| vectors.clone().map(move |v| load(r, v))).collect();
            V::join(&all)
        };
        let mut input = |n: u32| -> V<'k> {
            if n == 0 {
                return each(&|r, v| sums[r].offset(ty.elem, v as i64 * lanes as i64).load(ty));
            }
            let matrix = &self.spec.operands[n as usize - 1];
            let base = self.matrix(self.operands[n as usize - 1], matrix, batch);
            let access = self.access(matrix, lanes);
            let load = |r: usize, v: usize| {
                let from = self.at(base, matrix, rows[r], columns[v]);
                match masks[v] {
                    _ if matrix.col.is(0) => access.load_broadcast(from),
                    Some(mask) => access.load_masked(from, mask),
                    None => access.load(from),
                }
            };
            // What does not change from row to row, or along it, is loaded once.
            let (row, col) =
                (if matrix.row.is(0) { 1 } else { rows.len() }, if matrix.col.is(0) { 1 } else { vectors });
            let loaded: Vec<Vec<V>> = (0..row).map(|r| (0..col as usize).map(|v| load(r, v)).collect()).collect();
            each(&|r, v| loaded[r.min(row - 1)][v.min(col as usize - 1)])
        };
        let index_ty = Ty::new(crate::build::Elem::I64, lanes);
        let mut index = |axis: u32| -> V<'k> {
            let axis = axis as usize;
            let same = |i: Ix<'k>| i.v(k).broadcast(lanes);
            each(&|r, v| match axis.checked_sub(batch.len()) {
                None => same(batch[axis]),
                Some(0) => same(rows[r]),
                Some(_) => same(columns[v]) + k.iota(index_ty),
            })
        };
        let value = fold_parts(k, &self.spec.epilogue, (lanes, parts), &mut input, &mut index);
        let c = &self.spec.c;
        let base = self.matrix(self.c, c, batch);
        for (i, value) in value.split().into_iter().enumerate() {
            let (r, v) = (i / vectors as usize, i % vectors as usize);
            let to = self.at(base, c, rows[r], columns[v]);
            match masks[v] {
                Some(mask) => self.access(c, lanes).store_masked(to, value, mask),
                None => self.access(c, lanes).store(to, value),
            }
        }
    }
}
