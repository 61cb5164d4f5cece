//! The task of a gather: slice by slice, the index checked before the slice is copied.

use super::Spec;
use crate::{
    Access,
    abi::Kernel,
    build::{Cmp, Ix, K, Ptr, Ty, V},
    cpu::Cpu,
    map::{axes::Axis, bits},
    view::{Part, View, coordinates, masks, product, vectors},
};
use kiln_ir::{Dim, types::Kind};

pub(super) struct Task<'s, 'k> {
    pub(super) spec: &'s Spec,
    pub(super) k: K<'k>,
    pub(super) kernel: &'s Kernel<'k>,
    cpu: &'static Cpu,
    /// Loops over slices: those over `shared`, over `before`, over `indices`.
    pub(super) shared: Vec<Axis>,
    pub(super) before: Vec<Axis>,
    indices: Vec<Axis>,
    /// Loops over a slice.
    after: Vec<Axis>,
    /// The strides of the table are those of the loops over `shared` and `before`, of the indexed axis, of the loops over
    /// `after`; those of the index of the loops over `shared` and `indices`; those of the output follow the loops.
    pub(super) table: View<'k>,
    pub(super) index: View<'k>,
    pub(super) output: View<'k>,
}

impl<'s, 'k> Task<'s, 'k> {
    pub(super) fn new(spec: &'s Spec, kernel: &'s Kernel<'k>, cpu: &'static Cpu) -> Self {
        let [shared, before, indices, after] = spec.axes();
        let of = |axes: &[Axis], access: usize| axes.iter().map(|a| a.strides[access].clone()).collect::<Vec<_>>();
        let axis = spec.table.strides[spec.shared.len() + spec.before.len()].clone();
        let view = |buffer: usize, access: &Access, strides: Vec<Dim>| {
            let elem = if buffer == 1 { access.elem } else { bits(access.elem) };
            View::new(kernel, buffer, &Access { elem, offset: access.offset.clone(), strides }, cpu)
        };
        Task {
            table: view(0, &spec.table, [of(&shared, 0), of(&before, 0), vec![axis], of(&after, 0)].concat()),
            index: view(1, &spec.index, [of(&shared, 1), of(&indices, 0)].concat()),
            output: view(2, &spec.output, [of(&shared, 2), of(&before, 1), of(&indices, 1), of(&after, 1)].concat()),
            spec,
            k: kernel.k,
            kernel,
            cpu,
            shared,
            before,
            indices,
            after,
        }
    }

    /// Returns the status.
    pub(super) fn run(&self) -> V<'k> {
        let (k, kernel) = (self.k, self.kernel);
        let axis = kernel.size(&self.spec.axis);
        let (outer, after) = self.extents();
        let zero = k.int(Ty::I32, 0);
        if outer.iter().any(|n| n.is(0)) {
            return zero;
        }
        let (per_task, slices) = (self.spec.slices_per_task(), product(&outer));
        let status = k.for_carry(kernel.lo, kernel.hi, 1, &[zero], |task, status| {
            let first = task * per_task;
            let end = (first + per_task).min(slices);
            k.for_carry(first, end, 1, status, |slice, status| {
                let at = coordinates(slice, &outer);
                let (front, indices) = at.split_at(self.shared.len() + self.before.len());
                let address = self.index.at(&[&front[..self.shared.len()], indices].concat());
                let index = self.index_at(address);
                let copy = || {
                    let from = self.table.at(&[front, &[Ix::Value(index)]].concat());
                    self.copy(&after, from, self.output.at(&at));
                    vec![status[0]]
                };
                let refuse = || {
                    k.if_(status[0].cmp(Cmp::Eq, zero), || kernel.note_bad_index(address, index, axis));
                    vec![k.int(Ty::I32, 1)]
                };
                k.if_else(index.cmp(Cmp::Ult, axis.v(k)), copy, refuse)
            })
        });
        status[0]
    }

    /// The sizes of the loops over slices, and of those over a slice.
    pub(super) fn extents(&self) -> (Vec<Ix<'k>>, Vec<Ix<'k>>) {
        let size = |a: &Axis| a.size(self.kernel);
        let slices = self.shared.iter().chain(&self.before).chain(&self.indices);
        (slices.map(size).collect(), self.after.iter().map(size).collect())
    }

    /// The index as a number that is below the size of the axis only if it is one of its indices.
    pub(super) fn index_at(&self, address: Ptr<'k>) -> V<'k> {
        let raw = self.index.load(address, 0.into(), Part::All(1));
        raw.to_index(self.index.elem.kind() == Kind::Signed).v(self.k)
    }

    /// Copies what the loops over the last `sizes` reach.
    fn copy(&self, sizes: &[Ix<'k>], from: Ptr<'k>, to: Ptr<'k>) {
        let inner = |view: &View<'k>| view.strides[view.strides.len() - sizes.len()];
        let (table, output) = (inner(&self.table), inner(&self.output));
        if let [size, rest @ ..] = sizes
            && !rest.is_empty()
        {
            return self.k.for_(0, *size, 1, |i| {
                self.copy(rest, self.table.step(from, i * table), self.output.step(to, i * output));
            });
        }
        let contiguous = table.is(1) && output.is(1);
        let lanes = if contiguous { self.cpu.lanes(self.table.elem.bytes() as u32) } else { 1 };
        let masked = contiguous && masks(self.cpu, [self.table.elem]);
        vectors(self.k, (0.into(), sizes[0]), lanes, masked, |i, part| {
            let value = self.table.load(self.table.step(from, i * table), table, part);
            self.output.store(self.output.step(to, i * output), output, part, value);
        });
    }
}
