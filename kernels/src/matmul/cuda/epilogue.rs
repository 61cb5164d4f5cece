//! From sums in shared memory through the epilogue to *C*, eight neighbours of a row a thread.

use super::{Place, operand::matrix};
use crate::{
    abi::Kernel,
    build::{Bool, Ix, K, Ptr, Ty, V},
    cpu::Converts,
    cuda::aligned,
    matmul::{Matrix, Spec},
    scalar::{Access, fold, memory, register},
};

/// Neighbours that a thread takes at a time.
pub(super) const WIDTH: i64 = 8;
/// The most bytes that a thread moves at once.
const VECTOR: i64 = 16;

/// A part of a tile of sums: rows and columns of *C* from an element on, in memory `stride` elements apart.
pub(super) struct Part<'k> {
    pub(super) sums: Ptr<'k>,
    pub(super) stride: i64,
    pub(super) rows: i64,
    pub(super) columns: i64,
    pub(super) row: Ix<'k>,
    pub(super) column: Ix<'k>,
}

/// An operand or *C* in one of the matrices of the batch.
struct View<'k> {
    base: Ptr<'k>,
    row: Ix<'k>,
    col: Ix<'k>,
    access: Access,
}

pub(super) struct Epilogue<'s, 'k> {
    k: K<'k>,
    spec: &'s Spec,
    batch: &'s [Ix<'k>],
    m: Ix<'k>,
    n: Ix<'k>,
    /// The operands, and last *C*.
    views: Vec<View<'k>>,
    /// Whether all of them take whole vectors.
    aligned: Bool<'k>,
}

impl<'s, 'k> Epilogue<'s, 'k> {
    pub(super) fn new(spec: &'s Spec, kernel: &Kernel<'k>, place: &'s Place<'k>) -> Epilogue<'s, 'k> {
        let view = |(i, m): (usize, &Matrix)| View {
            base: matrix(kernel, 2 + i, m, &place.batch),
            row: kernel.size(&m.row),
            col: kernel.size(&m.col),
            access: Access { elem: m.elem, lanes: 1, converts: Converts::F16AndBf16 },
        };
        let views: Vec<View> = spec.operands.iter().chain([&spec.c]).enumerate().map(view).collect();
        let moved = views.iter().filter(|view| view.col.is(1));
        let aligned = moved.fold(Bool::Const(true), |all, view| {
            all.and(aligned(&[view.base], &[view.row * view.access.elem.bytes() as i64], view.vector_bytes()))
        });
        let (m, n) = (kernel.size(&spec.m), kernel.size(&spec.n));
        Epilogue { k: kernel.k, spec, batch: &place.batch, m, n, views, aligned }
    }

    /// Does a part with threads of which this is number `thread` of `threads`.
    pub(super) fn run(&self, part: &Part<'k>, (thread, threads): (Ix<'k>, i64)) {
        let across = part.columns / WIDTH;
        self.k.for_(thread, part.rows * across, threads, |i| {
            let (row, column) = (i.div(across), i.rem(across) * WIDTH);
            let ty = Ty::new(register(self.spec.sum_elem()), 1);
            let sums = part.sums.offset(ty.elem, row * part.stride + column);
            let (row, column) = (part.row + row, part.column + column);
            self.k.if_(row.lt(self.m), || {
                let whole = (column + WIDTH).le(self.n).and(self.aligned);
                let statement = |body: &dyn Fn()| {
                    body();
                    vec![]
                };
                let single = || {
                    let count = (self.n - column).min(WIDTH);
                    self.k.for_(0, count, 1, |j| self.one(row, column + j, sums.offset(ty.elem, j).load(ty)));
                };
                self.k.if_else(whole, || statement(&|| self.vector(row, column, sums)), || statement(&single));
            });
        });
    }

    fn value(&self, row: Ix<'k>, column: Ix<'k>, sum: V<'k>, operand: &dyn Fn(usize) -> V<'k>) -> V<'k> {
        let mut input = |n: u32| (n as usize).checked_sub(1).map_or(sum, operand);
        let mut coordinate = |axis: u32| match (axis as usize).checked_sub(self.batch.len()) {
            None => self.batch[axis as usize].v(self.k),
            Some(0) => row.v(self.k),
            Some(_) => column.v(self.k),
        };
        fold(self.k, &self.spec.epilogue, 1, &mut input, &mut coordinate)
    }

    fn one(&self, row: Ix<'k>, column: Ix<'k>, sum: V<'k>) {
        let value = self.value(row, column, sum, &|n| self.views[n].access.load(self.views[n].at(row, column)));
        let c = &self.views[self.views.len() - 1];
        c.access.store(c.at(row, column), value);
    }

    fn vector(&self, row: Ix<'k>, column: Ix<'k>, sums: Ptr<'k>) {
        let ty = Ty::new(register(self.spec.sum_elem()), WIDTH as u32);
        let sums = sums.load_aligned(ty, VECTOR as u32);
        let used = self.spec.epilogue.inputs();
        let operands = self.spec.operands.len();
        let load = |(n, view): (usize, &View<'k>)| {
            let from = view.at(row, column);
            let raw = Ty::new(memory(view.access.elem), if view.col.is(1) { WIDTH as u32 } else { 1 });
            let bytes = if view.col.is(1) { view.vector_bytes() } else { view.access.elem.bytes() as i64 };
            used.contains(&(n as u32 + 1)).then(|| from.load_aligned(raw, bytes as u32))
        };
        let loaded: Vec<Option<V<'k>>> = self.views[..operands].iter().enumerate().map(load).collect();
        let c = &self.views[operands];
        let values: Vec<V<'k>> = (0..WIDTH as u32)
            .map(|j| {
                let operand = |n: usize| self.views[n].access.from_memory(loaded[n].expect("it is used").lane(j));
                c.access.to_memory(self.value(row, column + i64::from(j), sums.lane(j), &operand))
            })
            .collect();
        c.at(row, column).store_aligned(self.k.vector(&values), c.vector_bytes() as u32);
    }
}

impl<'k> View<'k> {
    fn at(&self, row: Ix<'k>, column: Ix<'k>) -> Ptr<'k> {
        self.base.offset(memory(self.access.elem), row * self.row + column * self.col)
    }

    /// Bytes of what is moved at once.
    fn vector_bytes(&self) -> i64 {
        VECTOR.min(WIDTH * self.access.elem.bytes() as i64)
    }
}
