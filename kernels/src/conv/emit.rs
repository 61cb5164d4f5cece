//! The task of a convolution: copying, products of tiles, and what is written.

use super::{CHANNELS, POSITIONS, Spec};
use crate::{
    Access,
    abi::Kernel,
    build::{Cmp, Elem, Ix, K, Ptr, Ty, V},
    cpu::Cpu,
    map::{
        axes::{Axis, advance, arrange},
        lanes,
    },
    scalar::{fold, register},
    view::{Part, View, at, coordinates, masks, product, sizes, vectors},
};
use kiln_ir::{
    Dim, ElemType,
    scalar::{Expr, Inst},
};

/// Rows of a tile of sums: channels of the output.
const ROWS: i64 = 4;

pub(super) struct Task<'s, 'k> {
    spec: &'s Spec,
    kernel: &'s Kernel<'k>,
    k: K<'k>,
    cpu: &'static Cpu,
    input: View<'k>,
    weight: View<'k>,
    epilogue_inputs: Vec<View<'k>>,
    output: View<'k>,
    out_spatial: Vec<Ix<'k>>,
    channels: Ix<'k>,
    group_out_channels: Ix<'k>,
    taps: Ix<'k>,
    /// Sums, `[channel][position]`, and copied elements, `[channel][tap][position]`.
    sums: Ptr<'k>,
    copied: Ptr<'k>,
    sum: Elem,
    /// Loops over the taps of a channel with the strides of the weight and of the taps in order.
    tap_loops: Vec<Axis>,
}

/// Where in the index space a task is.
struct Place<'k> {
    batch: Ix<'k>,
    group: Ix<'k>,
    /// The first channel of the output, and how many there are.
    channel: Ix<'k>,
    channels: Ix<'k>,
    /// The first position of the output in row-major order, and how many there are.
    position: Ix<'k>,
    positions: Ix<'k>,
}

impl<'s, 'k> Task<'s, 'k> {
    pub(super) fn new(spec: &'s Spec, kernel: &'s Kernel<'k>, cpu: &'static Cpu) -> Self {
        let view = |i: usize, access| View::new(kernel, i, access, cpu);
        let in_order = Access::contiguous(spec.weight.elem, &spec.kernel).strides;
        let inputs = spec.epilogue_inputs.len();
        Task {
            input: view(0, &spec.input),
            weight: view(1, &spec.weight),
            epilogue_inputs: spec.epilogue_inputs.iter().enumerate().map(|(i, a)| view(2 + i, a)).collect(),
            output: view(2 + inputs, &spec.output),
            out_spatial: sizes(kernel, &spec.out_spatial),
            channels: kernel.size(&spec.channels),
            group_out_channels: kernel.size(&spec.out_channels).div(spec.groups),
            taps: product(&sizes(kernel, &spec.kernel)),
            sums: kernel.scratch,
            copied: kernel.scratch.bytes(spec.sum_bytes()),
            sum: register(spec.sum_elem()),
            tap_loops: arrange(&spec.kernel, &[&spec.weight.strides[2..], &in_order], &[]),
            k: kernel.k,
            spec,
            kernel,
            cpu,
        }
    }

    fn scalar(&self) -> Ty {
        Ty::new(self.sum, 1)
    }

    fn vector(&self) -> Ty {
        Ty::new(self.sum, self.cpu.lanes(self.sum.bits() / 8))
    }

    /// Vectors of a row of a tile of sums.
    fn columns(&self) -> i64 {
        self.cpu.vector_registers as i64 / 8
    }

    pub(super) fn run(&self) {
        let (k, spec) = (self.k, self.spec);
        let positions = product(&self.out_spatial);
        let grid = [
            self.kernel.size(&spec.batch),
            spec.groups.into(),
            self.group_out_channels.ceil_div(CHANNELS),
            positions.ceil_div(POSITIONS),
        ];
        if grid.iter().any(|n| n.is(0)) {
            return;
        }
        self.kernel.tasks(|task| {
            let at = coordinates(task, &grid);
            let (channel, position) = (at[2] * CHANNELS, at[3] * POSITIONS);
            let place = Place {
                batch: at[0],
                group: at[1],
                channel: at[1] * self.group_out_channels + channel,
                channels: (self.group_out_channels - channel).min(CHANNELS),
                position,
                positions: (positions - position).min(POSITIONS),
            };
            self.clear(&place);
            let some = spec.channels_at_a_time();
            k.for_(0, self.channels, some, |first| {
                let count = (self.channels - first).min(some);
                self.copy(&place, first, count);
                let whole = place.channels.div(ROWS) * ROWS;
                k.for_(0, whole, ROWS, |row| self.multiply(&place, row, ROWS, first, count));
                k.for_(whole, place.channels, 1, |row| self.multiply(&place, row, 1, first, count));
            });
            self.write(&place);
        });
    }

    fn clear(&self, place: &Place<'k>) {
        let zero = self.k.zero(self.vector());
        self.k.for_(0, place.channels * POSITIONS, self.vector().lanes as i64, |i| {
            at(self.sums, self.vector(), i).store(zero);
        });
    }

    /// Copies what the taps meet in `count` channels from `first` on.
    fn copy(&self, place: &Place<'k>, first: Ix<'k>, count: Ix<'k>) {
        let k = self.k;
        let from = self.input.at(&[place.batch, place.group * self.channels + first]);
        let start: Vec<V<'k>> = coordinates(place.position, &self.out_spatial).iter().map(|i| i.v(k)).collect();
        k.for_carry(0, place.positions, 1, &start, |position, index| {
            let index: Vec<Ix<'k>> = index.iter().map(|i| Ix::Value(*i)).collect();
            let corner: Vec<Ix<'k>> =
                (0..index.len()).map(|d| index[d] * self.spec.strides[d] - self.spec.low[d]).collect();
            self.each_tap(&corner, 0.into(), from, None, &|tap, from, inside| {
                let to = |channel: Ix<'k>| {
                    at(self.copied, self.scalar(), (channel * self.taps + tap) * POSITIONS + position)
                };
                let copy = || {
                    k.for_(0, count, 1, |channel| {
                        let element = self.input.step(from, channel * self.input.strides[1]);
                        let value = self.input.load(element, 0.into(), Part::All(1));
                        to(channel).store(value.float_to(self.sum));
                    });
                    vec![]
                };
                let clear = || {
                    k.for_(0, count, 1, |channel| to(channel).store(k.zero(self.scalar())));
                    vec![]
                };
                k.if_else(inside, copy, clear);
            });
            advance(&index, &self.out_spatial).into_iter().map(|i| i.v(k)).collect()
        });
    }

    /// Calls `each` for every tap of the kernel with its number, the element it meets, and whether that is inside the
    /// input. `tap`, `from` and `inside` are those of the axes before the last `corner`s.
    fn each_tap(
        &self,
        corner: &[Ix<'k>],
        tap: Ix<'k>,
        from: Ptr<'k>,
        inside: Option<V<'k>>,
        each: &dyn Fn(Ix<'k>, Ptr<'k>, V<'k>),
    ) {
        let k = self.k;
        let [corner, rest @ ..] = corner else {
            let inside = inside.expect("there is a spatial axis");
            return each(tap, from, inside);
        };
        let axis = self.spec.kernel.len() - 1 - rest.len();
        let (size, length) = (self.kernel.size(&self.spec.kernel[axis]), self.kernel.size(&self.spec.spatial[axis]));
        k.for_(0, size, 1, |i| {
            let coordinate = *corner + i * self.spec.dilations[axis];
            // A negative one is a large one.
            let within = coordinate.v(k).cmp(Cmp::Ult, length.v(k));
            let inside = inside.map_or(within, |outer| outer & within);
            let from = self.input.step(from, coordinate * self.input.strides[2 + axis]);
            self.each_tap(rest, tap * size + i, from, Some(inside), each);
        });
    }

    /// Adds the products of `count` channels from `first` on to `rows` channels of sums from `row` on.
    fn multiply(&self, place: &Place<'k>, row: Ix<'k>, rows: i64, first: Ix<'k>, count: Ix<'k>) {
        let (k, lanes) = (self.k, self.vector().lanes as i64);
        let weight = self.weight.at(&[place.channel + row, first]);
        let loops: Vec<(Ix<'k>, Ix<'k>, Ix<'k>)> = [(count, self.weight.strides[1], self.taps)]
            .into_iter()
            .chain(self.tap_loops.iter().map(|axis| {
                let stride = |i: usize| self.size(&axis.strides[i]);
                (axis.size(self.kernel), stride(0), stride(1))
            }))
            .collect();
        k.for_(0, place.positions, lanes * self.columns(), |position| {
            let sum = |i: i64| {
                let (row, column) = (row + i / self.columns(), i % self.columns() * lanes);
                at(self.sums, self.vector(), row * POSITIONS + position + column)
            };
            let before: Vec<V<'k>> = (0..rows * self.columns()).map(|i| sum(i).load(self.vector())).collect();
            let copied = at(self.copied, self.scalar(), position);
            let after = self.products(&loops, weight, copied, before);
            after.into_iter().enumerate().for_each(|(i, value)| sum(i as i64).store(value));
        });
    }

    /// A size, or a product of sizes of the kernel.
    fn size(&self, dim: &Dim) -> Ix<'k> {
        let kernel = &self.spec.kernel;
        match (0..kernel.len()).find(|i| *dim == crate::access::product(&kernel[*i..])) {
            Some(i) => product(&sizes(self.kernel, &kernel[i..])),
            None => self.kernel.size(dim),
        }
    }

    /// Adds products in the order of nested loops of some length, stride of the weight and of the taps.
    fn products(
        &self,
        loops: &[(Ix<'k>, Ix<'k>, Ix<'k>)],
        weight: Ptr<'k>,
        copied: Ptr<'k>,
        sums: Vec<V<'k>>,
    ) -> Vec<V<'k>> {
        if let [(length, weight_stride, tap_stride), rest @ ..] = loops {
            return self.k.for_carry(0, *length, 1, &sums, |i, sums| {
                let weight = self.weight.step(weight, i * *weight_stride);
                let copied = at(copied, self.scalar(), i * *tap_stride * POSITIONS);
                self.products(rest, weight, copied, sums.to_vec())
            });
        }
        let (columns, vector) = (self.columns() as usize, self.vector());
        let inputs: Vec<V<'k>> =
            (0..columns).map(|i| at(copied, vector, i as i64 * vector.lanes as i64).load(vector)).collect();
        let weight = |row: usize| {
            let element = self.weight.step(weight, self.weight.strides[0] * row as i64);
            self.weight.load(element, 0.into(), Part::All(1)).float_to(self.sum).broadcast(vector.lanes)
        };
        let weights: Vec<V<'k>> = (0..sums.len() / columns).map(weight).collect();
        sums.into_iter().enumerate().map(|(i, sum)| inputs[i % columns].fma(weights[i / columns], sum)).collect()
    }

    /// The epilogue and the result.
    fn write(&self, place: &Place<'k>) {
        let k = self.k;
        let views = || self.epilogue_inputs.iter().chain([&self.output]);
        let strides = self.flat_strides();
        self.k.for_(0, place.channels, 1, |row| {
            let channel = place.channel + row;
            let sums = at(self.sums, self.scalar(), row * POSITIONS);
            let origin: Vec<Ptr<'k>> = views().map(|v| v.at(&[place.batch, channel])).collect();
            let Some(strides) = &strides else {
                return k.for_(0, place.positions, 1, |i| {
                    let index = coordinates(place.position + i, &self.out_spatial);
                    let reached = views().zip(&origin).map(|(view, origin)| {
                        let axes = index.iter().zip(&view.strides[2..]);
                        view.step(*origin, axes.fold(Ix::Const(0), |sum, (i, stride)| sum + *i * *stride))
                    });
                    let reached: Vec<(Ptr<'k>, Ix<'k>)> = reached.map(|p| (p, Ix::Const(0))).collect();
                    let index: Vec<Ix<'k>> = [place.batch, channel].into_iter().chain(index).collect();
                    self.finish(at(sums, self.scalar(), i), &index, &reached, Part::All(1));
                });
            };
            let (lanes, masked) = self.flat_lanes(strides);
            vectors(k, (0.into(), place.positions), lanes, masked, |i, part| {
                let position = place.position + i;
                let reached = views().zip(&origin).zip(strides);
                let reached =
                    reached.map(|((view, origin), s)| (view.step(*origin, position * *s), *s)).collect::<Vec<_>>();
                self.finish(at(sums, self.scalar(), i), &[place.batch, channel], &reached, part);
            });
        });
    }

    /// The strides of the epilogue's inputs and of the output along the positions in row-major order, where there are
    /// such, and coordinates of positions are not asked for.
    fn flat_strides(&self) -> Option<Vec<Ix<'k>>> {
        let spec = self.spec;
        let asks = |(inst, _): &(Inst, ElemType)| matches!(inst, Inst::Index(axis) if *axis >= 2);
        if spec.epilogue.insts().iter().any(asks) {
            return None;
        }
        let in_order = Access::contiguous(spec.output.elem, &spec.out_spatial).strides;
        let accesses = spec.epilogue_inputs.iter().chain([&spec.output]).map(|a| &a.strides[2..]);
        let strides: Vec<&[Dim]> = std::iter::once(in_order.as_slice()).chain(accesses).collect();
        let axes = arrange(&spec.out_spatial, &strides, &[]);
        match axes.as_slice() {
            [axis] => Some(axis.strides[1..].iter().map(|s| self.kernel.size(s)).collect()),
            _ => None,
        }
    }

    /// Lanes of the epilogue, and whether the rest goes by a mask.
    fn flat_lanes(&self, strides: &[Ix<'k>]) -> (u32, bool) {
        let (output, inputs) = strides.split_last().expect("the output's");
        if !output.is(1) || inputs.iter().any(|s| !s.is(0) && !s.is(1)) {
            return (1, false);
        }
        let moved = self.epilogue_inputs.iter().chain([&self.output]).map(|v| v.elem);
        (lanes(&self.spec.epilogue, self.output.elem, self.cpu).min(self.vector().lanes), masks(self.cpu, moved))
    }

    /// Writes the results for the sums at `sums`. `reached` are the elements of the epilogue's inputs and of the output,
    /// and the distances to the next ones.
    fn finish(&self, sums: Ptr<'k>, index: &[Ix<'k>], reached: &[(Ptr<'k>, Ix<'k>)], part: Part<'k>) {
        let (k, lanes) = (self.k, part.lanes());
        // Whole vectors lie in scratch memory, whatever part of them is wanted.
        let sum = sums.load(Ty::new(self.sum, lanes));
        let mut input = |n: u32| match n.checked_sub(1) {
            None => sum,
            Some(n) => {
                let (from, stride) = reached[n as usize];
                self.epilogue_inputs[n as usize].load(from, stride, part)
            }
        };
        let mut coordinate = |axis: u32| index[axis as usize].v(k).broadcast(lanes);
        let epilogue: &Expr = &self.spec.epilogue;
        let value = fold(k, epilogue, lanes, &mut input, &mut coordinate);
        let (to, stride) = reached[reached.len() - 1];
        self.output.store(to, stride, part, value);
    }
}
