//! The largest elements on GPUs: a team of threads has a row and goes through it once for each of them, for the first in
//! the order of the results behind the one found before. It needs no memory, whatever their number; after the first time
//! the row is in a cache.

use super::{Spec, emit};
use crate::{
    Family,
    abi::{Kernel, ModuleBuilder},
    access,
    build::{Cmp, Ix, Ty, V},
    cpu::ONE_LANE,
    cuda::{
        Grid,
        team::{Size, Team},
    },
    view::{Part, View, coordinates, sizes},
};
use kiln_ir::ElemType;

/// Elements that a thread loads at a time.
const UNROLL: i64 = 4;

pub(super) fn grid(spec: &Spec) -> Grid {
    Size::of(&spec.inner).grid(access::product(&spec.outer))
}

pub(super) fn block_grid(spec: &Spec) -> Grid {
    Size::of(&spec.inner).block_grid(access::product(&spec.outer))
}

pub(super) fn emit(spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str) {
    let size = Size::of(&spec.inner);
    size.shared(module, symbol);
    module.cuda(symbol, spec.buffers().len(), &spec.size_args(), |entry| {
        let kernel = &entry.kernel;
        let k = kernel.k;
        let team = Team::new(k, size, symbol);
        let (length, wanted) = (kernel.size(&spec.inner), kernel.size(&spec.k));
        let fits = Ix::Const(1).le(wanted).and(wanted.le(length)).or(kernel.hi.le(0));
        let outer = sizes(kernel, &spec.outer);
        let rows = || {
            team.rows(kernel.hi, |at| row(spec, kernel, &team, &coordinates(at, &outer)));
            vec![]
        };
        let refuse = || {
            entry.report(k.int(Ty::I32, 1));
            vec![]
        };
        k.if_else(fits, rows, refuse);
    });
}

/// An element and where it was; behind the row, if there is none.
#[derive(Clone, Copy)]
struct Found<'k> {
    value: V<'k>,
    position: V<'k>,
}

impl<'k> Found<'k> {
    fn of(state: &[V<'k>]) -> Found<'k> {
        Found { value: state[0], position: state[1] }
    }

    fn state(self) -> Vec<V<'k>> {
        vec![self.value, self.position]
    }

    /// Whether it stands before another one, both of which there are.
    fn before(self, other: Found<'k>, elem: ElemType) -> V<'k> {
        let below = emit::exceeds(other.value, self.value, elem);
        let earlier = Ix::from(self.position).lt(Ix::from(other.position)).v(self.value.builder());
        emit::exceeds(self.value, other.value, elem) | (earlier & below.cmp(Cmp::Eq, below.like(0.0)))
    }

    /// Whichever of two stands first.
    fn first(self, other: Found<'k>, (elem, length): (ElemType, Ix<'k>)) -> Found<'k> {
        let k = self.value.builder();
        let is = |f: Found<'k>| Ix::from(f.position).lt(length).v(k);
        let none = is(other).cmp(Cmp::Eq, k.int(Ty::I1, 0));
        let mine = is(self) & (none | self.before(other, elem));
        Found { value: mine.select(self.value, other.value), position: mine.select(self.position, other.position) }
    }
}

fn row<'k>(spec: &Spec, kernel: &Kernel<'k>, team: &Team<'k>, index: &[Ix<'k>]) {
    let k = kernel.k;
    let [input, values, indices] = [(0, &spec.input), (1, &spec.values), (2, &spec.indices)]
        .map(|(buffer, access)| View::new(kernel, buffer, access, &ONE_LANE));
    let (length, elem, axis) = (kernel.size(&spec.inner), spec.input.elem, index.len());
    let (from, stride) = (input.at(index), input.strides[axis]);
    let load = |i: Ix<'k>| input.load(input.step(from, i * stride), stride, Part::All(1));
    let first = load(0.into());
    let start = [first, k.int(Ty::I64, -1)];
    k.for_carry(0, kernel.size(&spec.k), 1, &start, |n, last| {
        let last = Found::of(last);
        let candidate = |i: Ix<'k>, value: V<'k>| {
            let found = Found { value, position: i.v(k) };
            let left = n.eq(0).v(k) | last.before(found, elem);
            Found { position: left.select(found.position, length.v(k)), ..found }
        };
        let none = Found { value: first, position: length.v(k) };
        let threads = team.threads();
        let whole = length.div(threads * UNROLL) * (threads * UNROLL);
        let go = |range: [Ix<'k>; 2], unroll: i64, found: Vec<V<'k>>| {
            k.for_carry(range[0], range[1], threads * unroll, &found, |i, found| {
                let loaded: Vec<(Ix, V)> = (0..unroll).map(|j| i + j * threads).map(|i| (i, load(i))).collect();
                let best = |best: Found<'k>, (i, value)| candidate(i, value).first(best, (elem, length));
                loaded.into_iter().fold(Found::of(found), best).state()
            })
        };
        let found = go([team.rank, whole], UNROLL, none.state());
        let found = go([whole + team.rank, length], 1, found);
        let all = team.total_by(&found, |a, b| Found::of(a).first(Found::of(b), (elem, length)).state());
        k.if_(team.rank.eq(0), || {
            let put = |view: &View<'k>, value| {
                view.store(view.step(view.at(index), n * view.strides[axis]), view.strides[axis], Part::All(1), value);
            };
            put(&values, all[0]);
            put(&indices, all[1]);
        });
        all
    });
}
