//! The task of a reduction: a run of results, each reduced along a row, or many side by side.

use super::{
    Kind, Spec,
    accumulate::{Combine, Lanes},
};
use crate::{
    Access,
    abi::Kernel,
    build::{Bool, Elem, Ix, K, Ty, V},
    cpu::Cpu,
    cuda::team::{Row, Team},
    row::through,
    scalar,
    view::{Part, View, coordinates, masks, product, sizes, vectors},
};
use kiln_ir::scalar::Expr;

pub(super) struct Task<'s, 'k> {
    pub(super) spec: &'s Spec,
    kernel: &'s Kernel<'k>,
    k: K<'k>,
    pub(super) combine: Combine,
    lanes: Lanes,
    inputs: Vec<View<'k>>,
    epilogue_inputs: Vec<View<'k>>,
    output: View<'k>,
    /// The sizes of the outer axes, then of the reduced ones.
    pub(super) sizes: Vec<Ix<'k>>,
    /// Who goes along a row together on a GPU, and how.
    team: Option<(Team<'k>, Row<'k>)>,
    /// How far apart neighbours along an axis are in the row-major order of the reduced axes; 0 for outer axes.
    positions: Vec<Ix<'k>>,
}

impl<'s, 'k> Task<'s, 'k> {
    pub(super) fn new(spec: &'s Spec, kernel: &'s Kernel<'k>, cpu: &'static Cpu, team: Option<Team<'k>>) -> Self {
        let view = |i: usize, access| View { whole: team.is_some(), ..View::new(kernel, i, access, cpu) };
        let inputs: Vec<View> = spec.inputs.iter().enumerate().map(|(i, a)| view(i, a)).collect();
        let after = |i: usize| inputs.len() + i;
        let epilogue_inputs: Vec<View> =
            spec.epilogue_inputs.iter().enumerate().map(|(i, a)| view(after(i), a)).collect();
        let output = view(after(epilogue_inputs.len()), &spec.output);
        let mut all = sizes(kernel, &spec.outer);
        all.extend(sizes(kernel, &spec.reduced));
        let mut positions = vec![Ix::Const(0); all.len()];
        for axis in spec.outer.len()..all.len() {
            positions[axis] = product(&all[axis + 1..]);
        }
        let lanes = lanes(spec, cpu);
        let combine = Combine { kind: spec.kind, elem: spec.prologue.elem(), count: 1 };
        let accesses: Vec<&Access> = spec.inputs.iter().collect();
        let row = |axis: usize| through(kernel, &accesses, axis, all[axis]);
        let team = team.map(|team| (team, row(row_axis(spec))));
        Task { spec, kernel, k: kernel.k, combine, lanes, inputs, epilogue_inputs, output, sizes: all, team, positions }
    }

    pub(super) fn run(&self) {
        let spec = self.spec;
        let axis = spec.vector_axis();
        let across = axis.filter(|a| *a < spec.outer.len());
        // The axis along which results lie side by side is the innermost.
        let mut order: Vec<usize> = (0..spec.outer.len()).filter(|a| Some(*a) != across).collect();
        order.extend(across);
        let extents: Vec<Ix> = order.iter().map(|a| self.sizes[*a]).collect();
        let total = product(&extents);
        let chunk = spec.results_per_task();
        self.kernel.tasks(|task| {
            let first = task * chunk;
            let end = (first + chunk).min(total);
            match across {
                Some(axis) => self.across(axis, &order, &extents, first, end),
                None => self.k.for_(first, end, 1, |result| {
                    let mut index = vec![Ix::Const(0); self.sizes.len()];
                    for (axis, i) in order.iter().zip(coordinates(result, &extents)) {
                        index[*axis] = i;
                    }
                    self.along(index);
                }),
            }
        });
    }

    /// The results `first..end`, in vectors along `axis`.
    fn across(&self, axis: usize, order: &[usize], extents: &[Ix<'k>], first: Ix<'k>, end: Ix<'k>) {
        let (k, length) = (self.k, self.sizes[axis]);
        let (rows, row_axes) = (&extents[..extents.len() - 1], &order[..order.len() - 1]);
        let (from, to) = match rows.is_empty() {
            true => (Ix::Const(0), Ix::Const(1)),
            false => (first.div(length), (end + length - 1).div(length)),
        };
        k.for_(from, to, 1, |row| {
            let mut index = vec![Ix::Const(0); self.sizes.len()];
            for (axis, i) in row_axes.iter().zip(coordinates(row, rows)) {
                index[*axis] = i;
            }
            let (lo, hi) = ((first - row * length).max(0), (end - row * length).min(length));
            let columns = |i: Ix<'k>, part: Part<'k>| {
                let mut index = index.clone();
                index[axis] = i;
                let state = self.nest(&mut index, self.reduced_order(None), part, Some(axis));
                self.finish(&state, &index, part, Some(axis));
            };
            let wide = self.lanes.wide as i64;
            let whole = lo + (hi - lo).div(wide) * wide;
            k.for_(lo, whole, wide, |i| columns(i, Part::All(self.lanes.wide)));
            vectors(k, (whole, hi), self.lanes.vector, self.lanes.masked, columns);
        });
    }

    /// The result of a row-major position, which a team has.
    pub(super) fn result(&self, at: Ix<'k>) {
        let outer = &self.sizes[..self.spec.outer.len()];
        let mut index = coordinates(at, outer);
        index.resize(self.sizes.len(), Ix::Const(0));
        self.along(index);
    }

    /// One result, in vectors along a reduced axis.
    fn along(&self, mut index: Vec<Ix<'k>>) {
        let axis = self.spec.reduced.len().checked_sub(1).map(|_| row_axis(self.spec));
        let part = Part::All(1);
        let total = |index: &mut Vec<Ix<'k>>| {
            let state = self.nest(index, self.reduced_order(axis), part, axis);
            self.team.as_ref().map_or(state.clone(), |(team, _)| team.total(self.combine, &state))
        };
        let finish = |state: &[V<'k>], index: &[Ix<'k>]| match &self.team {
            None => self.finish(state, index, part, None),
            Some((team, _)) => self.k.if_(team.rank.eq(0), || self.finish(state, index, part, None)),
        };
        let Some((condition, unused)) = self.spec.unused_where() else {
            let state = total(&mut index);
            return finish(&state, &index);
        };
        let nothing = self.k.zero(Ty::new(scalar::register(self.spec.prologue.elem()), 1));
        // The same for all of a team.
        let holds = Bool::Value(self.late(&condition, nothing, &index, part, None));
        let branch = |needed: bool| {
            let mut index = index.clone();
            let state = if needed { total(&mut index) } else { vec![nothing] };
            finish(&state, &index);
            vec![]
        };
        self.k.if_else(holds, || branch(!unused), || branch(unused));
    }

    /// The reduced axes, `last` as the last.
    fn reduced_order(&self, last: Option<usize>) -> Vec<usize> {
        let axes = self.spec.outer.len()..self.sizes.len();
        axes.filter(|a| Some(*a) != last).chain(last).collect()
    }

    /// Combines over the axes of `order`. Lanes lie along `axis`: if it is the last of `order` its elements are
    /// combined to one lane, otherwise every lane is a result.
    pub(super) fn nest(
        &self,
        index: &mut Vec<Ix<'k>>,
        order: Vec<usize>,
        part: Part<'k>,
        axis: Option<usize>,
    ) -> Vec<V<'k>> {
        let (k, combine, lanes) = (self.k, self.combine, part.lanes());
        let Some((next, rest)) = order.split_first() else {
            return self.element(index, part, axis);
        };
        if Some(*next) == axis {
            let index = &*index;
            let element = |i, part| {
                let mut index = index.clone();
                index[*next] = i;
                self.element(&index, part, axis)
            };
            return match &self.team {
                None => combine.run(k, self.sizes[*next], self.lanes, element),
                Some((team, row)) => team.partial(combine, *row, element),
            };
        }
        combine.each(k, self.sizes[*next], lanes, |i| {
            index[*next] = i;
            self.nest(index, rest.to_vec(), part, axis)
        })
    }

    /// A coordinate in every lane.
    fn coordinate(&self, index: &[Ix<'k>], of: usize, lanes: u32, axis: Option<usize>) -> V<'k> {
        let first = index[of].v(self.k).broadcast(lanes);
        if Some(of) == axis { first + self.k.iota(Ty::new(Elem::I64, lanes)) } else { first }
    }

    /// The prologue's value and, if asked for, its position.
    fn element(&self, index: &[Ix<'k>], part: Part<'k>, axis: Option<usize>) -> Vec<V<'k>> {
        let (k, lanes) = (self.k, part.lanes());
        let mut input = |n: u32| {
            let view = &self.inputs[n as usize];
            view.load(view.at(index), axis.map_or(Ix::Const(1), |a| view.strides[a]), part)
        };
        let mut coordinate = |a: u32| self.coordinate(index, a as usize, lanes, axis);
        let value = scalar::fold(k, &self.spec.prologue, lanes, &mut input, &mut coordinate);
        if self.combine.kind != Kind::Argmax {
            return vec![value];
        }
        let at = index.iter().zip(&self.positions).fold(Ix::Const(0), |sum, (i, p)| sum + *i * *p);
        let mut position = at.v(k).broadcast(lanes);
        if let Some(axis) = axis.filter(|a| *a >= self.spec.outer.len() && lanes > 1) {
            let step = self.positions[axis].v(k).broadcast(lanes);
            position = position + k.iota(Ty::new(Elem::I64, lanes)) * step;
        }
        vec![value, position]
    }

    /// Stores the epilogue's values of results side by side along `axis`.
    pub(super) fn finish(&self, state: &[V<'k>], index: &[Ix<'k>], part: Part<'k>, axis: Option<usize>) {
        let (k, lanes) = (self.k, part.lanes());
        let index = &index[..self.spec.outer.len()];
        let result = match self.combine.kind {
            Kind::Argmax => state[1],
            Kind::Mean => {
                let count = product(&self.sizes[self.spec.outer.len()..]).v(k);
                state[0] / count.int_to_float(state[0].ty.elem, true).broadcast(lanes)
            }
            _ => state[0],
        };
        let value = self.late(&self.spec.epilogue, result, index, part, axis);
        let stride = axis.map_or(Ix::Const(1), |a| self.output.strides[a]);
        self.output.store(self.output.at(index), stride, part, value);
    }

    /// The value of an expression over the result and the epilogue's inputs.
    fn late(&self, expr: &Expr, result: V<'k>, index: &[Ix<'k>], part: Part<'k>, axis: Option<usize>) -> V<'k> {
        let (k, lanes, index) = (self.k, part.lanes(), &index[..self.spec.outer.len()]);
        let stride = |view: &View<'k>| axis.map_or(Ix::Const(1), |a| view.strides[a]);
        let mut input = |n: u32| match n.checked_sub(1) {
            None => result,
            Some(n) => {
                let view = &self.epilogue_inputs[n as usize];
                view.load(view.at(index), stride(view), part)
            }
        };
        let mut coordinate = |a: u32| self.coordinate(index, a as usize, lanes, axis);
        scalar::fold(k, expr, lanes, &mut input, &mut coordinate)
    }
}

/// The axis that vectors lie along if results do not, or the last.
fn row_axis(spec: &Spec) -> usize {
    let last = spec.outer.len() + spec.reduced.len() - 1;
    spec.vector_axis().unwrap_or(last)
}

/// Lanes for the type that is reduced, fewer where the expression goes through a wider one.
fn lanes(spec: &Spec, cpu: &Cpu) -> Lanes {
    let argmax = spec.kind == Kind::Argmax;
    let own = spec.prologue.elem().bytes();
    let widest = spec.prologue.insts().iter().map(|(_, elem)| elem.bytes()).max().unwrap_or(own);
    let register = scalar::register(spec.prologue.elem()).bits().div_ceil(8) as usize;
    let bytes = register.max(if argmax { 4 } else { widest.min(4) });
    let vector = cpu.lanes(bytes as u32);
    let near = |stride: &kiln_ir::Dim| stride.is(0) || stride.is(1);
    let moved = spec.moved();
    let masked = match spec.vector_axis() {
        None => false,
        Some(axis) => {
            // An axis of one element may have any stride, so an output may also lie with a stride of 0.
            let stores = spec.output.strides.get(axis).is_none_or(|s| s.is(1));
            let loads = moved.iter().all(|a| a.strides.get(axis).is_none_or(near));
            loads && stores && masks(cpu, moved.iter().map(|a| a.elem))
        }
    };
    Lanes { wide: vector * if argmax { 2 } else { 4 }, vector, masked }
}
