//! Complete rows of deterministic circuits, as [`active`](super::super::active) on processors: a thread has a node, and a word
//! has a bit for each row of the tile. Upwards, it says whether the node's value is positive; downwards, whether the row's
//! tree has reached it. At most one node of a batch is in a row's tree, so each batch has a place for a number of each row;
//! these are added up in their order, whichever thread has come to them when.

use super::{
    super::{
        Spec,
        emit::Scratch,
        runs::Fields,
        table::{RunKind, Shape, Space},
        walk::Walk,
    },
    Team, WARP, memory_of, of_all_warps,
};
use crate::{
    Access,
    abi::Kernel,
    build::{Cmp, Elem, Ix, K, Ptr, Ty, V},
    cpu::{Converts, ONE_LANE},
    scalar::{self, register},
    view::View,
};

const F64: Ty = Ty::new(Elem::F64, 1);
/// Codes, or numbers, that a thread reads in turn.
const TURN: i64 = 4;

/// Behind the places of a walk: a number of each row for each batch, and two words for each slot.
pub(super) fn bytes(shape: &Shape, places: &Scratch, sums: i64) -> i64 {
    places.bytes + sums * WARP * 8 + (2 * shape.slots * 4 + 63) / 64 * 64
}

struct Trees<'s, 'k> {
    k: K<'k>,
    walk: &'s Walk<'s, 'k>,
    team: Team<'k>,
    batches: i64,
}

pub(super) fn complete<'k>(spec: &Spec, kernel: &Kernel<'k>, team: Team<'k>, output: &Access, batches: i64) {
    let k = kernel.k;
    let output = View::new(kernel, spec.first_table() + 5, output, &ONE_LANE);
    let rows = kernel.size(&spec.rows);
    team.block.tasks(kernel.hi, |tile| {
        let row = tile * team.tile + team.row;
        let walk = Walk::with_team(spec, kernel, team, memory_of(spec, super::Way::Trees), Space::Log);
        let missing = of_all_warps(&walk, walk.read(row.min(rows - 1), 1.into()));
        let complete = row.lt(rows).v(k) & (missing ^ missing.like(1.0));
        let bit = k.op1("arith.shli", &[k.int(Ty::I32, 1), team.row.v(k).int_to(Elem::I32, false)], Ty::I32, &[]);
        let set = complete.select(bit, bit.like(0.0));
        let set = team.block.combine(&[set], WARP, |a, b| vec![a[0] | b[0]])[0];
        k.if_(set.cmp(Cmp::Ne, set.like(0.0)), || {
            let trees = Trees { k, walk: &walk, team, batches };
            trees.run(set);
            let supported = trees.supported(spec.shape.root.into()).load(Ty::I32) & bit;
            let possible = supported.cmp(Cmp::Ne, bit.like(0.0));
            walk.alone(|| {
                let value = possible.select(trees.total(), k.float(F64, f64::NEG_INFINITY));
                let to = scalar::Access { elem: output.elem, lanes: 1, converts: Converts::Nothing };
                k.if_(complete, || to.store(output.at(&[row]), value.float_to(register(output.elem))));
            });
        });
        team.wait();
    });
}

impl<'k> Trees<'_, 'k> {
    fn supported(&self, slot: Ix<'k>) -> Ptr<'k> {
        self.sums().offset(Elem::F64, self.batches * WARP).offset(Elem::I32, slot)
    }

    fn reached(&self, slot: Ix<'k>) -> Ptr<'k> {
        self.supported(slot + self.walk.spec.shape.slots)
    }

    /// The numbers of all rows for each batch.
    fn sums(&self) -> Ptr<'k> {
        self.walk.at(self.walk.places.bytes)
    }

    /// Calls `body` with those of so many things that are this thread's; many small runs go to all threads in turn.
    fn each(&self, count: Ix<'k>, turn: Ix<'k>, body: impl FnOnce(Ix<'k>)) {
        let threads = self.team.warps * WARP;
        let first = (self.team.block.thread + turn).rem(threads);
        self.k.for_(first, count, threads, body);
    }

    fn run(&self, complete: V<'k>) {
        let (k, walk) = (self.k, self.walk);
        let shape = &walk.spec.shape;
        let zero = k.int(Ty::I32, 0);
        self.each(shape.slots.into(), 0.into(), |slot| self.reached(slot).store(zero));
        let sums = (self.batches * WARP).into();
        self.each(sums, 0.into(), |at| self.sums().offset(Elem::F64, at).store(k.float(F64, 0.0)));
        walk.alone(|| self.supported(0.into()).store(k.int(Ty::I32, -1)));
        let turn = |run: Ix<'k>| run * 7 * WARP;
        k.for_(0, shape.runs, 1, |at| {
            let run = walk.fields(at);
            k.if_(run.waits, || walk.wait());
            walk.by_kind(run.kind, &|kind| self.up(kind, &run, turn(at)));
        });
        walk.wait();
        let root = shape.root.into();
        walk.alone(|| self.reached(root).store(self.supported(root).load(Ty::I32) & complete));
        walk.wait();
        k.for_(0, shape.runs, 1, |i| {
            let at = Ix::Const(shape.runs - 1) - i;
            let run = walk.fields(at);
            walk.by_kind(run.kind, &|kind| self.down(kind, &run, turn(at)));
            k.if_(run.waits, || walk.wait());
        });
    }

    fn up(&self, kind: RunKind, run: &Fields<'k>, turn: Ix<'k>) {
        let (k, walk) = (self.k, self.walk);
        let load = |at: Ix<'k>| self.supported(walk.index(at)).load(Ty::I32);
        let (none, all) = (k.int(Ty::I32, 0), k.int(Ty::I32, -1));
        let width = width(kind);
        match kind {
            RunKind::Indicator => self.each(run.count, turn, |i| {
                let var = walk.index(run.index + i * 2);
                let code = walk.index(run.index + i * 2 + 1).v(k).int_to(Elem::I32, false);
                let codes = walk.codes.offset(Elem::I32, var * WARP);
                let word = k.for_carry(0, WARP, TURN, &[none], |row, word| {
                    let codes = codes.offset(Elem::I32, row).load_aligned(Ty::new(Elem::I32, TURN as u32), 16);
                    let bit = |word: V<'k>, i: i64| {
                        let holds = codes.lane(i as u32).cmp(Cmp::Eq, code).int_to(Elem::I32, false);
                        let at = (row + i).v(k).int_to(Elem::I32, false);
                        word | k.op1("arith.shli", &[holds, at], Ty::I32, &[])
                    };
                    vec![(0..TURN).fold(word[0], bit)]
                });
                self.supported(run.to + i).store(word[0]);
            }),
            RunKind::Product | RunKind::Sum | RunKind::Pairs => walk.unrolled(run.fan, 1, &|fan| {
                self.each(run.count, turn, |i| {
                    let index = run.index + i * fan * width;
                    let init = if kind == RunKind::Product { all } else { none };
                    let word = walk.fold(0, fan, vec![init], |j, word| {
                        vec![match kind {
                            RunKind::Product => word[0] & load(index + j),
                            RunKind::Sum => word[0] | load(index + j),
                            _ => word[0] | load(index + j * 2) & load(index + j * 2 + 1),
                        }]
                    });
                    self.supported(run.to + i).store(word[0]);
                });
            }),
            _ => {}
        }
    }

    fn down(&self, kind: RunKind, run: &Fields<'k>, turn: Ix<'k>) {
        let (k, walk) = (self.k, self.walk);
        if !matches!(kind, RunKind::Product | RunKind::Sum | RunKind::Pairs) {
            return;
        }
        let width = width(kind);
        let some = |rows: V<'k>| rows.cmp(Cmp::Ne, rows.like(0.0));
        self.each(run.count, turn, |i| {
            let here = self.reached(run.to + i).load(Ty::I32);
            k.if_(some(here), || {
                let index = run.index + i * run.fan * width;
                let batch = walk.index(run.index + run.count * run.fan * width + i);
                k.for_(0, run.fan, 1, |j| {
                    let slots: Vec<Ix<'k>> = (0..width).map(|side| walk.index(index + j * width + side)).collect();
                    if kind == RunKind::Product {
                        return self.team.block.set_bits(self.reached(slots[0]), here);
                    }
                    let both = |rows: V<'k>, slot: &Ix<'k>| rows & self.supported(*slot).load(Ty::I32);
                    let rows = slots.iter().fold(here, both);
                    k.if_(some(rows), || {
                        slots.iter().for_each(|slot| self.team.block.set_bits(self.reached(*slot), rows));
                        let weight = walk.numbers(walk.number_at(run.number + i * run.fan + j), 1);
                        let sums = self.sums().offset(Elem::F64, batch * WARP);
                        k.while_(
                            &[rows],
                            |rows| some(rows[0]),
                            |rows| {
                                let poison = [("is_zero_poison", k.int_attr(1, -1))];
                                let row = k.op1("llvm.intr.cttz", &[rows[0]], Ty::I32, &poison);
                                self.team.block.add_float(sums.offset(Elem::F64, row.to_index(false)), weight);
                                vec![rows[0] & (rows[0] - 1.0)]
                            },
                        );
                    });
                });
            });
        });
    }

    /// The sum of all numbers of this thread's row, the last batch first.
    fn total(&self) -> V<'k> {
        let number = |at: Ix<'k>| self.sums().offset(Elem::F64, at * WARP + self.team.row).load(F64);
        let zero = self.k.float(F64, 0.0);
        let last = Ix::Const(self.batches - 1);
        let sum = self.k.for_carry(0, self.batches / TURN * TURN, TURN, &[zero], |i, sum| {
            let numbers: Vec<V<'k>> = (0..TURN).map(|j| number(last - i - j)).collect();
            vec![numbers.into_iter().fold(sum[0], |sum, number| sum + number)]
        });
        self.k.for_carry(self.batches / TURN * TURN, self.batches, 1, &sum, |i, sum| vec![sum[0] + number(last - i)])[0]
    }
}

/// Positions of a term.
fn width(kind: RunKind) -> i64 {
    if kind == RunKind::Pairs { 2 } else { 1 }
}
