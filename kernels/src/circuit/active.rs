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
    build::{Cmp, Elem, Ix, Ptr, Ty, V},
    cpu::{Converts, Cpu},
    scalar::{self, register},
    view::View,
};

/// Rows whose cells are read at a time, which are the bits of a byte.
pub(super) const CHUNK: i64 = 8;
const WORD: i64 = 64;
/// Slots whose flags are looked at together.
const STRIP: i64 = 64;
/// A slot has a set of rows upwards and one downwards in place of [`CHUNK`] values of f64.
const _: () = assert!(2 * COMPLETE_ROWS / 8 == CHUNK * 8 && COMPLETE_ROWS / WORD == 4);

/// Where the sums of the rows are, then the set of complete rows, the codes of all chunks, and a byte for each slot that
/// says whether a tree has reached it.
struct Places {
    sums: i64,
    complete: i64,
    codes: i64,
    flags: i64,
    bytes: i64,
}

fn places(shape: &Shape) -> Places {
    let sums = scratch(shape).bytes;
    let complete = sums + COMPLETE_ROWS * 8;
    let codes = complete + 64;
    let flags = codes + shape.variables * COMPLETE_ROWS * 4;
    // Flags are read a strip at a time.
    Places { sums, complete, codes, flags, bytes: flags + (shape.slots + STRIP) / 64 * 64 + 64 }
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
            Trees { kernel, walk, words, places: places(&spec.shape) }.run(first, count, &output);
            vec![]
        };
        // Few rows have small sets.
        k.if_else(count.le(WORD), || run(1), || run(COMPLETE_ROWS / WORD));
    });
}

struct Trees<'s, 'k> {
    kernel: &'s Kernel<'k>,
    walk: Walk<'s, 'k>,
    /// Of a set of rows.
    words: i64,
    places: Places,
}

impl<'s, 'k> Trees<'s, 'k> {
    fn run(&self, first: Ix<'k>, count: Ix<'k>, output: &View<'k>) {
        let (k, shape) = (self.walk.k, &self.walk.spec.shape);
        self.zeros(self.walk.at(self.places.flags), (shape.slots + STRIP).div_euclid(8).into());
        self.zeros(self.walk.at(self.places.sums), COMPLETE_ROWS.into());
        self.zeros(self.complete(), self.words.into());
        self.supported(0.into()).store(k.int(self.set(), -1));
        let chunks = count.ceil_div(CHUNK);
        k.for_(0, chunks, 1, |chunk| self.read(first, chunk, count));
        k.for_(0, shape.runs, 1, |run| {
            let run = self.walk.fields(run);
            self.walk.by_kind(run.kind, &|kind| self.up(kind, &run, chunks));
        });
        let root = shape.root.into();
        self.reach(root, self.supported(root).load(self.set()) & self.complete().load(self.set()));
        k.for_(0, shape.runs, 1, |i| {
            let run = self.walk.fields(Ix::Const(shape.runs - 1) - i);
            self.walk.by_kind(run.kind, &|kind| self.down(kind, &run));
        });
        self.words(self.complete().load(self.set()), |word, rows| {
            self.each(rows, |bit| {
                let row = word * WORD + bit;
                let sum = self.sum(row).load(Ty::new(Elem::F64, 1));
                let supported = self.supported(root).offset(Elem::I64, word).load(Ty::I64);
                let bit = k.op1("arith.shrui", &[supported, bit.v(k)], Ty::I64, &[]) & k.int(Ty::I64, 1);
                let value = bit.cmp(Cmp::Ne, bit.like(0.0)).select(sum, sum.like(f64::NEG_INFINITY));
                let to = scalar::Access { elem: output.elem, lanes: 1, converts: Converts::Nothing };
                to.store(output.at(&[first + row]), value.float_to(register(output.elem)));
            });
        });
    }

    /// The walk of a chunk's codes.
    fn chunk(&self, chunk: Ix<'k>) -> Walk<'s, 'k> {
        let codes = self.walk.at(self.places.codes);
        let spec = self.walk.spec;
        let mut walk = Walk::new(spec, self.kernel, self.walk.cpu, CHUNK, Space::Log);
        walk.codes = codes.offset(Elem::I32, chunk * (spec.shape.variables * CHUNK));
        walk
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
        let zero = self.walk.k.int(Ty::I64, 0);
        self.walk.k.for_(0, words, 1, |i| from.offset(Elem::I64, i).store(zero));
    }

    /// Codes of a chunk of rows, and whether the rows are complete.
    fn read(&self, first: Ix<'k>, chunk: Ix<'k>, count: Ix<'k>) {
        let k = self.walk.k;
        let before = chunk * CHUNK;
        let here = (count - before).min(CHUNK);
        let missing = self.bits(self.chunk(chunk).read(first + before, here));
        // Bits of rows that there are.
        let all = k.op1("arith.shrui", &[k.int(Ty::I64, 0xff), (Ix::Const(CHUNK) - here).v(k)], Ty::I64, &[]);
        let given = all.int_to(Elem::I8, false) & (missing ^ missing.like(-1.0));
        self.complete().bytes(chunk).store(given);
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
        self.walk.k.op1("llvm.bitcast", &[all[0]], Ty::new(Elem::I8, 1), &[])
    }

    fn up(&self, kind: RunKind, run: &Fields<'k>, chunks: Ix<'k>) {
        let (k, walk) = (self.walk.k, &self.walk);
        let load = |at: Ix<'k>| self.supported(walk.index(at)).load(self.set());
        let (width, zero) = (Self::width(kind), k.int(self.set(), 0));
        let ones = k.int(self.set(), -1);
        match kind {
            // Bits of rows beyond the last are those of the last, and mean nothing.
            RunKind::Indicator => k.for_(0, run.count, 1, |i| {
                let var = walk.index(run.index + i * 2);
                let code = walk.index(run.index + i * 2 + 1).v(k).int_to(Elem::I32, false);
                k.for_(0, chunks, 1, |chunk| {
                    let holds = self.bits(self.chunk(chunk).holds(var, code));
                    self.supported(run.to + i).bytes(chunk).store(holds);
                });
            }),
            RunKind::Product | RunKind::Sum | RunKind::Pairs => walk.unrolled(run.fan, 1, &|fan| {
                k.for_(0, run.count, 1, |i| {
                    let index = run.index + i * fan * width;
                    let init = if kind == RunKind::Product { ones } else { zero };
                    let all = walk.fold(0, fan, vec![init], |j, all| {
                        vec![match kind {
                            RunKind::Product => all[0] & load(index + j),
                            RunKind::Sum => all[0] | load(index + j),
                            _ => all[0] | load(index + j * 2) & load(index + j * 2 + 1),
                        }]
                    });
                    self.supported(run.to + i).store(all[0]);
                });
            }),
            _ => {}
        }
    }

    /// Positions of a term.
    fn width(kind: RunKind) -> i64 {
        if kind == RunKind::Pairs { 2 } else { 1 }
    }

    fn flag(&self, slot: Ix<'k>) -> Ptr<'k> {
        self.walk.at(self.places.flags).offset(Elem::I8, slot)
    }

    /// Adds rows, perhaps none, to those whose trees reach a slot. What a slot without a flag has is not read.
    fn reach(&self, slot: Ix<'k>, rows: V<'k>) {
        let byte = Ty::new(Elem::I8, 1);
        let (flag, to) = (self.flag(slot), self.reached(slot));
        let old = flag.load(byte);
        let known = old.cmp(Cmp::Ne, old.like(0.0)).broadcast(self.words as u32);
        to.store(known.select(to.load(self.set()), rows.like(0.0)) | rows);
        flag.store(old | rows.cmp(Cmp::Ne, rows.like(0.0)).any().int_to(Elem::I8, false));
    }

    fn down(&self, kind: RunKind, run: &Fields<'k>) {
        let (k, walk) = (self.walk.k, &self.walk);
        if !matches!(kind, RunKind::Product | RunKind::Sum | RunKind::Pairs) {
            return;
        }
        let width = Self::width(kind);
        let node = |i: Ix<'k>, fan: Ix<'k>| {
            let here = self.reached(run.to + i).load(self.set());
            let index = run.index + i * fan * width;
            k.for_(0, fan, 1, |j| {
                let slots: Vec<Ix<'k>> = (0..width).map(|side| walk.index(index + j * width + side)).collect();
                if kind == RunKind::Product {
                    return self.reach(slots[0], here);
                }
                let both = |rows: V<'k>, slot: &Ix<'k>| rows & self.supported(*slot).load(self.set());
                let rows = slots.iter().fold(here, both);
                slots.iter().for_each(|slot| self.reach(*slot, rows));
                let weight = walk.numbers(walk.number_at(run.number + i * fan + j), 1);
                k.if_(weight.cmp(Cmp::Ne, weight.like(0.0)), || {
                    self.words(rows, |word, rows| {
                        self.each(rows, |bit| {
                            let to = self.sum(word * WORD + bit);
                            to.store(to.load(weight.ty) + weight);
                        });
                    });
                });
            });
        };
        k.for_(0, run.count, STRIP, |first| {
            let flags = self.flag(run.to + first).load(Ty::new(Elem::I8, STRIP as u32));
            let set = flags.cmp(Cmp::Ne, flags.like(0.0));
            let set = k.op1("llvm.bitcast", &[set], Ty::I64, &[]);
            let beyond = (Ix::Const(STRIP) - (run.count - first)).max(0).v(k);
            let within = k.op1("arith.shrui", &[k.int(Ty::I64, -1), beyond], Ty::I64, &[]);
            self.each(set & within, |bit| node(first + bit, run.fan));
        });
    }

    /// Calls `body` with each word of a set that has rows, and its rows.
    fn words(&self, rows: V<'k>, body: impl Fn(Ix<'k>, V<'k>)) {
        let k = self.walk.k;
        if self.words == 1 {
            return body(0.into(), rows);
        }
        let some = rows.cmp(Cmp::Ne, rows.like(0.0));
        let lanes: Vec<i32> = (0..8).collect();
        let some = some.shuffle(some.like(0.0), &lanes);
        let some = k.op1("llvm.bitcast", &[some], Ty::new(Elem::I8, 1), &[]);
        self.each(some.int_to(Elem::I64, false), |word| {
            let rows = k.op1("llvm.extractelement", &[rows, word.v(k)], Ty::I64, &[]);
            body(word, rows);
        });
    }

    /// Calls `body` with each bit of a word.
    fn each(&self, bits: V<'k>, body: impl Fn(Ix<'k>)) {
        let k = self.walk.k;
        let more = |bits: &[V<'k>]| bits[0].cmp(Cmp::Ne, bits[0].like(0.0));
        k.while_(&[bits], more, |bits| {
            let first = k.op1("llvm.intr.cttz", &[bits[0]], Ty::I64, &[("is_zero_poison", k.int_attr(1, -1))]);
            body(first.into());
            vec![bits[0] & (bits[0] - 1.0)]
        });
    }
}
