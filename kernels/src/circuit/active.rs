//! Complete rows of deterministic circuits: which nodes have a positive value, many rows to a word, and then along the
//! few nodes of each row's tree.
//!
//! Upwards, the support of a node is a set of rows: a conjunction for each product, a disjunction for each sum. At most
//! one term of a sum is supported, so downwards each row follows one tree, and the weights it comes by are added up. The
//! order of these additions is that of the runs, whatever the other rows are.

use super::{
    COMPLETE_ROWS, Spec,
    emit::scratch,
    runs::Fields,
    table::{RunKind, Shape, Space},
    walk::Walk,
};
use crate::{
    Access,
    abi::Kernel,
    build::{Cmp, Elem, Ix, K, Ptr, Ty, V},
    cpu::Cpu,
    scalar::{self, register},
    view::View,
};

/// Rows whose cells are read at a time, which are the bits of a byte.
pub(super) const CHUNK: i64 = 8;
const WORD: i64 = 64;
/// A slot has a set of rows upwards and one downwards in place of [`CHUNK`] values of f64.
const _: () = assert!(2 * COMPLETE_ROWS / 8 == CHUNK * 8);

/// Where the sums of the rows are, then the sets of complete rows and of all bytes.
struct Places {
    sums: i64,
    complete: i64,
    bytes: i64,
}

fn places(shape: &Shape) -> Places {
    let sums = scratch(shape).bytes;
    let complete = sums + COMPLETE_ROWS * 8;
    Places { sums, complete, bytes: complete + 64 }
}

pub(super) fn bytes(shape: &Shape) -> i64 {
    places(shape).bytes
}

pub(super) fn complete(spec: &Spec, kernel: &Kernel<'_>, cpu: &'static Cpu, output: &Access) {
    let k = kernel.k;
    let output = View::new(kernel, spec.first_table() + 5, output, cpu);
    let rows = kernel.size(&spec.rows);
    kernel.tasks(|task| {
        let first = task * COMPLETE_ROWS;
        let count = (rows - first).min(COMPLETE_ROWS);
        let run = |words: i64| {
            let walk = Walk::new(spec, kernel, cpu, CHUNK, Space::Log);
            Trees { k, walk: &walk, words, places: places(&spec.shape) }.run(first, count, &output);
            vec![]
        };
        // Few rows have small sets.
        k.if_else(count.le(WORD), || run(1), || run(COMPLETE_ROWS / WORD));
    });
}

struct Trees<'s, 'k> {
    k: K<'k>,
    walk: &'s Walk<'s, 'k>,
    /// Of a set of rows.
    words: i64,
    places: Places,
}

impl<'k> Trees<'_, 'k> {
    fn run(&self, first: Ix<'k>, count: Ix<'k>, output: &View<'k>) {
        let (k, shape) = (self.k, &self.walk.spec.shape);
        self.zeros(self.walk.at(0), (shape.slots * 2 * self.words).into());
        self.zeros(self.walk.at(self.places.sums), COMPLETE_ROWS.into());
        self.zeros(self.walk.at(self.places.complete), self.words.into());
        self.supported(0.into()).store(k.int(self.set(), -1));
        k.for_(0, count, CHUNK, |chunk| self.read(first, chunk, count));
        k.for_(0, shape.runs, 1, |run| {
            let run = self.walk.fields(run);
            self.walk.by_kind(run.kind, &|kind| self.up(kind, &run));
        });
        let root = shape.root.into();
        let start = self.supported(root).load(self.set()) & self.complete().load(self.set());
        self.reached(root).store(start);
        k.for_(0, shape.runs, 1, |i| {
            let run = self.walk.fields(Ix::Const(shape.runs - 1) - i);
            self.walk.by_kind(run.kind, &|kind| self.down(kind, &run));
        });
        self.each(self.complete(), |row| {
            let sum = self.sum(row).load(Ty::new(Elem::F64, 1));
            let word = self.supported(root).offset(Elem::I64, row.div(WORD)).load(Ty::I64);
            let bit = k.op1("arith.shrui", &[word, row.rem(WORD).v(k)], Ty::I64, &[]) & k.int(Ty::I64, 1);
            let value = bit.cmp(Cmp::Ne, bit.like(0.0)).select(sum, sum.like(f64::NEG_INFINITY));
            let to = scalar::Access { elem: output.elem, lanes: 1, converts_f16: false };
            to.store(output.at(&[first + row]), value.float_to(register(output.elem)));
        });
    }

    /// The type of a set of rows.
    fn set(&self) -> Ty {
        Ty::new(Elem::I64, self.words as u32)
    }

    fn supported(&self, slot: Ix<'k>) -> Ptr<'k> {
        self.walk.at(0).offset(Elem::I64, slot * self.words)
    }

    fn reached(&self, slot: Ix<'k>) -> Ptr<'k> {
        self.walk.at(0).offset(Elem::I64, (slot + self.walk.spec.shape.slots) * self.words)
    }

    fn complete(&self) -> Ptr<'k> {
        self.walk.at(self.places.complete)
    }

    fn sum(&self, row: Ix<'k>) -> Ptr<'k> {
        self.walk.at(self.places.sums).offset(Elem::F64, row)
    }

    fn zeros(&self, from: Ptr<'k>, words: Ix<'k>) {
        let zero = self.k.int(Ty::I64, 0);
        self.k.for_(0, words, 1, |i| from.offset(Elem::I64, i).store(zero));
    }

    /// Codes of a chunk of rows as bits of indicators, and whether the rows are complete.
    fn read(&self, first: Ix<'k>, chunk: Ix<'k>, count: Ix<'k>) {
        let (k, walk) = (self.k, self.walk);
        let here = (count - chunk).min(CHUNK);
        let missing = self.bits(walk.read(first + chunk, here));
        // Bits of rows that there are.
        let all = k.op1("arith.shrui", &[k.int(Ty::I64, 0xff), (Ix::Const(CHUNK) - here).v(k)], Ty::I64, &[]);
        let byte = chunk.div(CHUNK);
        let given = all.int_to(Elem::I8, false) & (missing ^ missing.like(-1.0));
        self.complete().bytes(byte).store(given);
        k.for_(0, walk.spec.shape.runs, 1, |run| {
            let run = walk.fields(run);
            k.if_(run.kind.cmp(Cmp::Eq, k.int(Ty::I32, RunKind::Indicator as i64)), || {
                k.for_(0, run.count, 1, |i| {
                    let var = walk.index(run.index + i * 2);
                    let code = walk.index(run.index + i * 2 + 1).v(k).int_to(Elem::I32, false);
                    self.supported(run.to + i).bytes(byte).store(self.bits(walk.holds(var, code)));
                });
            });
        });
    }

    /// A byte of one bit a row.
    fn bits(&self, flags: V<'k>) -> V<'k> {
        let mut all = flags.split();
        while all.len() > 1 {
            let join = |pair: &[V<'k>]| {
                let lanes: Vec<i32> = (0..2 * pair[0].ty.lanes as i32).collect();
                pair[0].shuffle(pair[1], &lanes)
            };
            all = all.chunks(2).map(join).collect();
        }
        self.k.op1("llvm.bitcast", &[all[0]], Ty::new(Elem::I8, 1), &[])
    }

    fn up(&self, kind: RunKind, run: &Fields<'k>) {
        let (k, walk) = (self.k, self.walk);
        let load = |at: Ix<'k>| self.supported(walk.index(at)).load(self.set());
        let (width, zero) = (Self::width(kind), k.int(self.set(), 0));
        let ones = k.int(self.set(), -1);
        match kind {
            RunKind::Product | RunKind::Sum | RunKind::Pairs => k.for_(0, run.count, 1, |i| {
                let index = run.index + i * run.fan * width;
                let init = if kind == RunKind::Product { ones } else { zero };
                let all = k.for_carry(0, run.fan, 1, &[init], |j, all| {
                    vec![match kind {
                        RunKind::Product => all[0] & load(index + j),
                        RunKind::Sum => all[0] | load(index + j),
                        _ => all[0] | load(index + j * 2) & load(index + j * 2 + 1),
                    }]
                });
                self.supported(run.to + i).store(all[0]);
            }),
            _ => {}
        }
    }

    /// Positions of a term.
    fn width(kind: RunKind) -> i64 {
        if kind == RunKind::Pairs { 2 } else { 1 }
    }

    fn down(&self, kind: RunKind, run: &Fields<'k>) {
        let (k, walk) = (self.k, self.walk);
        if !matches!(kind, RunKind::Product | RunKind::Sum | RunKind::Pairs) {
            return;
        }
        let width = Self::width(kind);
        let any = |set: V<'k>| set.cmp(Cmp::Ne, set.like(0.0)).any();
        k.for_(0, run.count, 1, |i| {
            let here = self.reached(run.to + i).load(self.set());
            let reach = |slot: Ix<'k>, rows: V<'k>| {
                let to = self.reached(slot);
                to.store(to.load(self.set()) | rows);
            };
            k.if_(any(here), || {
                let index = run.index + i * run.fan * width;
                k.for_(0, run.fan, 1, |j| {
                    let slots: Vec<Ix<'k>> = (0..width).map(|side| walk.index(index + j * width + side)).collect();
                    if kind == RunKind::Product {
                        return reach(slots[0], here);
                    }
                    let both = |rows: V<'k>, slot: &Ix<'k>| rows & self.supported(*slot).load(self.set());
                    let rows = slots.iter().fold(here, both);
                    k.if_(any(rows), || {
                        slots.iter().for_each(|slot| reach(*slot, rows));
                        let weight = walk.numbers(walk.number_at(run.number + i * run.fan + j), 1);
                        k.if_(weight.cmp(Cmp::Ne, weight.like(0.0)), || {
                            let add = |row: Ix<'k>| {
                                let to = self.sum(row);
                                to.store(to.load(weight.ty) + weight);
                            };
                            (0..self.words as usize)
                                .map(|w| (w, rows.lane(w as u32)))
                                .for_each(|(word, rows)| self.word(rows, word, add));
                        });
                    });
                });
            });
        });
    }

    /// Calls `body` with each row of the set in memory.
    fn each(&self, set: Ptr<'k>, body: impl Fn(Ix<'k>) + Copy) {
        for word in 0..self.words as usize {
            self.word(set.offset(Elem::I64, word as i64).load(Ty::I64), word, body);
        }
    }

    /// Calls `body` with each row of a word.
    fn word(&self, rows: V<'k>, word: usize, body: impl Fn(Ix<'k>)) {
        let k = self.k;
        let more = |rows: &[V<'k>]| rows[0].cmp(Cmp::Ne, rows[0].like(0.0));
        k.while_(&[rows], more, |rows| {
            let first = k.op1("llvm.intr.cttz", &[rows[0]], Ty::I64, &[("is_zero_poison", k.int_attr(1, -1))]);
            body(Ix::from(first) + WORD * word as i64);
            vec![rows[0] & (rows[0] - 1.0)]
        });
    }
}
