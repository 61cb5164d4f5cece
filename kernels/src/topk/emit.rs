//! The task of topk: rows, and the sorted list that the elements of a row are put into.

use super::Spec;
use crate::{
    abi::Kernel,
    build::{Ix, K, Ptr, Ty, V},
    cpu::Cpu,
    scalar,
    view::{Part, View, at, coordinates, product, sizes, vectors},
};
use kiln_ir::{ElemType, scalar::Compare};

/// Whether `a` stands before `b` wherever they are.
pub(super) fn exceeds<'k>(a: V<'k>, b: V<'k>, elem: ElemType) -> V<'k> {
    let greater = scalar::compare(Compare::Gt, a, b, elem);
    if !a.ty.elem.is_float() {
        return greater;
    }
    let ordered = b.is_nan().select(greater.like(0.0), a.is_nan());
    greater | ordered
}

pub(super) struct Task<'s, 'k> {
    spec: &'s Spec,
    kernel: &'s Kernel<'k>,
    k: K<'k>,
    lanes: u32,
    input: View<'k>,
    values: View<'k>,
    indices: View<'k>,
    /// Elements of a row, and how many of them are wanted, at most all.
    length: Ix<'k>,
    wanted: Ix<'k>,
}

impl<'s, 'k> Task<'s, 'k> {
    pub(super) fn new(spec: &'s Spec, kernel: &'s Kernel<'k>, cpu: &'static Cpu) -> Self {
        let bytes = scalar::register(spec.input.elem).bits().div_ceil(8);
        Task {
            spec,
            kernel,
            k: kernel.k,
            lanes: cpu.lanes(bytes),
            input: View::new(kernel, 0, &spec.input, cpu),
            values: View::new(kernel, 1, &spec.values, cpu),
            indices: View::new(kernel, 2, &spec.indices, cpu),
            length: kernel.size(&spec.inner),
            wanted: kernel.size(&spec.k),
        }
    }

    pub(super) fn run(&self) {
        let outer = sizes(self.kernel, &self.spec.outer);
        let (rows, step) = (product(&outer), self.spec.rows_per_task());
        self.kernel.tasks(|task| {
            let first = task * step;
            self.k.for_(first, (first + step).min(rows), 1, |row| self.row(&coordinates(row, &outer)));
        });
    }

    fn row(&self, index: &[Ix<'k>]) {
        let (k, wanted) = (self.k, self.wanted);
        let input = self.input.at(index);
        let stride = self.input.strides[index.len()];
        let load = |i: Ix<'k>, part| self.input.load(self.input.step(input, i * stride), stride, part);
        k.for_(0, wanted, 1, |i| self.insert(load(i, Part::All(1)), i, i));
        vectors(k, (wanted, self.length), self.lanes, false, |i, part| {
            let lanes = part.lanes();
            let last = || self.load_value(wanted - 1);
            let exceeds = self.exceeds(load(i, part), last().broadcast(lanes));
            let any = if lanes == 1 { exceeds } else { exceeds.any() };
            k.if_(any, || {
                k.for_(i, i + lanes as i64, 1, |i| {
                    let x = load(i, Part::All(1));
                    k.if_(self.exceeds(x, last()), || self.insert(x, i, wanted - 1));
                });
            });
        });
        let (values, indices) = (self.values.at(index), self.indices.at(index));
        let strides = [self.values.strides[index.len()], self.indices.strides[index.len()]];
        k.for_(0, wanted, 1, |j| {
            let part = Part::All(1);
            self.values.store(self.values.step(values, j * strides[0]), strides[0], part, self.load_value(j));
            let position = self.position(j).load(Ty::I64);
            self.indices.store(self.indices.step(indices, j * strides[1]), strides[1], part, position);
        });
    }

    fn exceeds(&self, a: V<'k>, b: V<'k>) -> V<'k> {
        exceeds(a, b, self.spec.input.elem)
    }

    fn value(&self, j: Ix<'k>) -> Ptr<'k> {
        self.input.step(self.kernel.scratch, j)
    }

    fn load_value(&self, j: Ix<'k>) -> V<'k> {
        self.input.moves(1).load(self.value(j))
    }

    fn position(&self, j: Ix<'k>) -> Ptr<'k> {
        at(self.kernel.scratch.bytes(self.wanted * 8), Ty::I64, j)
    }

    /// Puts an element into the list, of which `end` elements stay, behind those it does not exceed.
    fn insert(&self, x: V<'k>, i: Ix<'k>, end: Ix<'k>) {
        let k = self.k;
        let before = |j: &[V<'k>]| Ix::from(j[0]) - 1;
        let place = k.while_(
            &[end.v(k)],
            |j| {
                let exceeds = || vec![self.exceeds(x, self.load_value(before(j)))];
                k.if_else(Ix::Const(0).lt(Ix::from(j[0])), exceeds, || vec![k.int(Ty::I1, 0)])[0]
            },
            |j| {
                let (from, to) = (before(j), Ix::from(j[0]));
                self.input.moves(1).store(self.value(to), self.load_value(from));
                self.position(to).store(self.position(from).load(Ty::I64));
                vec![from.v(k)]
            },
        );
        let to = Ix::from(place[0]);
        self.input.moves(1).store(self.value(to), x);
        self.position(to).store(i.v(k));
    }
}
