//! The task of a row kernel: a few rows, each in two or three passes while it stays in the first cache.

use super::{Spec, Stat};
use crate::{
    abi::Kernel,
    build::{Elem, Ix, K, Ptr, Ty, V},
    cpu::{Converts, Cpu},
    cuda::team::{self, Team},
    reduce::{
        Kind,
        accumulate::{Combine, Lanes},
    },
    scalar::{self, functions},
    view::{Part, View, at, coordinates, masks, product, sizes, vectors},
};
use kiln_ir::{
    ElemType,
    scalar::{Binary, Expr},
};

/// Registers that a pass works on at a time: what is cheap needs more of them to hide its latency than `exp` does.
const CHEAP: u32 = 4;
const COSTLY: u32 = 2;

pub(super) struct Task<'s, 'k> {
    spec: &'s Spec,
    kernel: &'s Kernel<'k>,
    k: K<'k>,
    /// The type of the statistics: f32 or f64.
    elem: ElemType,
    lanes: u32,
    masked: bool,
    inputs: Vec<View<'k>>,
    output: View<'k>,
    /// Elements of a row.
    length: Ix<'k>,
    /// The input that the prologue passes on, if it can be read again and again.
    direct: Option<usize>,
    /// Who goes through a row together on a GPU, and how. It keeps nothing in scratch memory.
    team: Option<(Team<'k>, team::Row<'k>)>,
}

impl<'s, 'k> Task<'s, 'k> {
    pub(super) fn new(
        spec: &'s Spec,
        kernel: &'s Kernel<'k>,
        cpu: &'static Cpu,
        team: Option<(Team<'k>, team::Row<'k>)>,
    ) -> Self {
        let view = |i: usize, access| View { whole: team.is_some(), ..View::new(kernel, i, access, cpu) };
        let inputs: Vec<View> = spec.inputs.iter().enumerate().map(|(i, a)| view(i, a)).collect();
        let output = view(inputs.len(), &spec.output);
        let elem = spec.elem();
        let accesses = || spec.inputs.iter().chain([&spec.output]);
        // An axis of one element may have any stride, so an output may also lie with a stride of 0.
        let near = spec.inputs.iter().all(|a| a.strides.last().is_some_and(|s| s.is(0) || s.is(1)));
        let stores = spec.output.strides.last().is_some_and(|s| s.is(1));
        let masked = near && stores && masks(cpu, accesses().map(|a| a.elem));
        let lanes = cpu.lanes(elem.bytes() as u32);
        let length = kernel.size(&spec.inner);
        let direct = spec.direct();
        Task { spec, kernel, k: kernel.k, elem, lanes, masked, inputs, output, length, direct, team }
    }

    pub(super) fn run(&self) {
        let rows = product(&sizes(self.kernel, &self.spec.outer));
        let step = self.spec.rows_per_task();
        self.kernel.tasks(|task| {
            let first = task * step;
            self.k.for_(first, (first + step).min(rows), 1, |row| self.row(row));
        });
    }

    /// The row at a row-major position.
    pub(super) fn row(&self, at: Ix<'k>) {
        let index = coordinates(at, &sizes(self.kernel, &self.spec.outer));
        let inputs = self.inputs.iter().map(|v| v.at(&index)).collect();
        let output = self.output.at(&index);
        Row { task: self, index, inputs, output }.run();
    }

    fn ty(&self, lanes: u32) -> Ty {
        Ty::new(scalar::register(self.elem), lanes)
    }
}

/// One row: its place and the addresses of its first elements.
struct Row<'t, 's, 'k> {
    task: &'t Task<'s, 'k>,
    index: Vec<Ix<'k>>,
    inputs: Vec<Ptr<'k>>,
    output: Ptr<'k>,
}

impl<'k> Row<'_, '_, 'k> {
    fn run(&self) {
        let k = self.task.k;
        let number = |value: f64| k.float(self.task.ty(1), value);
        // The same for all rows, so that no row waits for a division.
        let share = || number(1.0) / self.task.length.v(k).int_to_float(self.task.ty(1).elem, true);
        let root = |mean: V<'k>, eps: f64| number(1.0) / (mean + number(eps)).intrinsic("sqrt");
        match self.task.spec.stat {
            Stat::Softmax if self.task.team.is_some() => {
                let max = self.total(Kind::Max, CHEAP, |i, part| self.first(i, part));
                let exp = |i, part: Part<'k>| functions::exp(self.read(i, part) - max.broadcast(part.lanes()));
                let scale = number(1.0) / self.total(Kind::Sum, COSTLY, exp);
                self.write(|i, part| exp(i, part) * scale.broadcast(part.lanes()));
            }
            Stat::Softmax => {
                let max = self.total(Kind::Max, CHEAP, |i, part| self.first(i, part));
                let sum = self.total(Kind::Sum, COSTLY, |i, part| {
                    let e = functions::exp(self.read(i, part) - max.broadcast(part.lanes()));
                    self.keep(i, part, e);
                    e
                });
                let scale = number(1.0) / sum;
                self.write(|i, part| self.kept(i, part) * scale.broadcast(part.lanes()));
            }
            Stat::LogSoftmax => {
                let max = self.total(Kind::Max, CHEAP, |i, part| self.first(i, part));
                let shifted = |i, part: Part<'k>| self.read(i, part) - max.broadcast(part.lanes());
                let log = functions::log(self.total(Kind::Sum, COSTLY, |i, part| functions::exp(shifted(i, part))));
                self.write(|i, part| shifted(i, part) - log.broadcast(part.lanes()));
            }
            Stat::LayerNorm { eps } => {
                let mean = self.total(Kind::Sum, CHEAP, |i, part| self.first(i, part)) * share();
                let centred = |i, part: Part<'k>| self.read(i, part) - mean.broadcast(part.lanes());
                // The mean is rounded, which tells where it is large beside the spread; by how much, the centred sum says.
                let [sum, squares] = self.totals(CHEAP, |i, part| {
                    let x = centred(i, part);
                    [x, x * x]
                });
                let rest = sum * share();
                let variance = number(0.0).max_or(squares * share() - rest * rest);
                let scale = root(variance, eps.as_f64());
                let shift = -(rest * scale);
                self.write(|i, part| {
                    let lanes = part.lanes();
                    centred(i, part).fma(scale.broadcast(lanes), shift.broadcast(lanes))
                });
            }
            Stat::RmsNorm { eps } => {
                let scale = root(self.squares() * share(), eps.as_f64());
                self.write(|i, part| self.read(i, part) * scale.broadcast(part.lanes()));
            }
            Stat::L2Normalize { eps } => {
                let norm = self.squares().intrinsic("sqrt");
                let norm = scalar::binary(Binary::Max, norm, number(eps.as_f64()), self.task.elem);
                self.write(|i, part| self.read(i, part) / norm.broadcast(part.lanes()));
            }
        }
    }

    fn squares(&self) -> V<'k> {
        self.total(Kind::Sum, CHEAP, |i, part| {
            let x = self.first(i, part);
            x * x
        })
    }

    /// Combines what `value` gives for the elements of the row.
    fn total(&self, kind: Kind, registers: u32, value: impl Fn(Ix<'k>, Part<'k>) -> V<'k>) -> V<'k> {
        self.combine(kind, 1, registers, |i, part| vec![value(i, part)])[0]
    }

    /// The sums of what `values` gives for the elements of the row.
    fn totals<const N: usize>(&self, registers: u32, values: impl Fn(Ix<'k>, Part<'k>) -> [V<'k>; N]) -> [V<'k>; N] {
        let sums = self.combine(Kind::Sum, N, registers, |i, part| values(i, part).to_vec());
        std::array::from_fn(|n| sums[n])
    }

    fn combine(
        &self,
        kind: Kind,
        count: usize,
        registers: u32,
        values: impl Fn(Ix<'k>, Part<'k>) -> Vec<V<'k>>,
    ) -> Vec<V<'k>> {
        let t = self.task;
        let combine = Combine { kind, elem: t.elem, count };
        if let Some((team, row)) = &t.team {
            return team.total(combine, &team.partial(combine, *row, values));
        }
        let lanes = Lanes { wide: t.lanes * registers, vector: t.lanes, masked: t.masked };
        combine.run(t.k, t.length, lanes, values)
    }

    fn input(&self, n: usize, i: Ix<'k>, part: Part<'k>) -> V<'k> {
        let view = &self.task.inputs[n];
        let stride = view.strides[self.index.len()];
        view.load(view.step(self.inputs[n], i * stride), stride, part)
    }

    fn fold(&self, expr: &Expr, i: Ix<'k>, part: Part<'k>, input: impl Fn(u32) -> V<'k>) -> V<'k> {
        let (k, lanes) = (self.task.k, part.lanes());
        let mut coordinate = |axis: u32| match self.index.get(axis as usize) {
            Some(fixed) => fixed.v(k).broadcast(lanes),
            None => i.v(k).broadcast(lanes) + k.iota(Ty::new(Elem::I64, lanes)),
        };
        scalar::fold(k, expr, lanes, &mut |n| input(n), &mut coordinate)
    }

    /// Elements of the row, which [`Row::read`] gives again after all of them have been read once by this.
    fn first(&self, i: Ix<'k>, part: Part<'k>) -> V<'k> {
        if let Some(n) = self.task.direct {
            return self.input(n, i, part);
        }
        let x = self.fold(&self.task.spec.prologue, i, part, |n| self.input(n as usize, i, part));
        if self.task.team.is_none() {
            self.keep(i, part, x);
        }
        x
    }

    fn read(&self, i: Ix<'k>, part: Part<'k>) -> V<'k> {
        match self.task.direct {
            Some(n) => self.input(n, i, part),
            None if self.task.team.is_some() => self.first(i, part),
            None => self.kept(i, part),
        }
    }

    fn scratch(&self, i: Ix<'k>, part: Part<'k>) -> (scalar::Access, Ptr<'k>) {
        let t = self.task;
        let moves = scalar::Access { elem: t.elem, lanes: part.lanes(), converts: Converts::Nothing };
        (moves, at(t.kernel.scratch, t.ty(1), i))
    }

    /// Puts elements into scratch memory.
    fn keep(&self, i: Ix<'k>, part: Part<'k>, value: V<'k>) {
        let (moves, to) = self.scratch(i, part);
        match part {
            Part::All(_) => moves.store(to, value),
            Part::Masked(_, mask) => moves.store_masked(to, value, mask),
        }
    }

    fn kept(&self, i: Ix<'k>, part: Part<'k>) -> V<'k> {
        let (moves, from) = self.scratch(i, part);
        match part {
            Part::All(_) => moves.load(from),
            Part::Masked(_, mask) => moves.load_masked(from, mask),
        }
    }

    /// Stores the epilogue of the normalised elements that `value` gives.
    fn write(&self, value: impl Fn(Ix<'k>, Part<'k>) -> V<'k>) {
        let t = self.task;
        let write = |i: Ix<'k>, part: Part<'k>| {
            let x = value(i, part);
            let input = |n: u32| match n.checked_sub(1) {
                None => x,
                Some(n) => self.input(n as usize, i, part),
            };
            let y = self.fold(&t.spec.epilogue, i, part, input);
            let stride = t.output.strides[self.index.len()];
            t.output.store(t.output.step(self.output, i * stride), stride, part, y);
        };
        match &t.team {
            None => vectors(t.k, (0.into(), t.length), t.lanes, t.masked, write),
            Some((team, row)) => team.each(*row, write),
        }
    }
}
