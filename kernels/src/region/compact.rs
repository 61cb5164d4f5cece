//! Loops that end for each row by itself: what is known of the rows, and how they move.
//!
//! Rows `0..left` of everything local are those that still run. `home` is the row of the tile that each one was, and
//! `lengths` the steps that it takes, where these are given.

use super::{
    Compact, Loop, Place, Rows, Step, Times,
    emit::{At, Emitter, STATUS_AT},
};
use crate::{
    abi::ModuleBuilder,
    build::{self, Elem, Ix, Linkage, Ptr, Ty},
    cpu::Cpu,
    cuda::{BLOCK_THREADS, aligned, block::Block},
};
use kiln_ir::Dim;

/// Where the number of rows left stands, behind what every loop keeps, and `home` behind it.
pub(super) const LEFT_AT: i64 = STATUS_AT + 8;
const HEAD: i64 = LEFT_AT + 8;

/// Bytes that a task of this many rows keeps of its own.
pub(super) fn state_bytes(tile: &Dim) -> Dim {
    tile.clone() * 16.into() + HEAD.into()
}

pub(super) fn is_used(steps: &[Step]) -> bool {
    steps.iter().any(|s| matches!(s, Step::Loop(l) if l.compact.is_some()))
}

fn copy_symbol(symbol: &str) -> String {
    format!("{symbol}.copy")
}

/// Emits `void copy(ptr to, ptr from, i64 bytes)` for a thread, the bytes in whole vectors, then in words, then one by one.
pub(super) fn emit_copy(module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &Cpu) {
    let params = [Ty::PTR, Ty::PTR, Ty::I64];
    let widths = [Ty::new(Elem::I8, cpu.vector_bytes), Ty::new(Elem::I8, 8), Ty::new(Elem::I8, 1)];
    build::function(
        &module.module,
        module.context,
        &copy_symbol(symbol),
        &params,
        &[],
        Linkage::Internal,
        |k, args| {
            let (to, from, bytes) = (args[0].ptr(), args[1].ptr(), Ix::Value(args[2]));
            let mut at = Ix::Const(0);
            for ty in widths {
                let width = ty.lanes as i64;
                let end = at + (bytes - at).div(width) * width;
                k.for_(at, end, width, |i| to.bytes(i).store(from.bytes(i).load(ty)));
                at = end;
            }
            vec![]
        },
    );
}

/// The same for the threads of a block together, the widest first that the addresses allow. There is a barrier before
/// anybody reads what is written.
pub(super) fn emit_copy_together(module: &mut ModuleBuilder<'_>, symbol: &str) {
    let params = [Ty::PTR, Ty::PTR, Ty::I64];
    let name = copy_symbol(symbol);
    build::function(&module.module, module.context, &name, &params, &[], Linkage::Internal, |k, args| {
        let (to, from, bytes) = (args[0].ptr(), args[1].ptr(), Ix::Value(args[2]));
        let thread = Block::new(k).thread;
        let mut at = Ix::Const(0);
        for (width, ty) in [(16, Ty::new(Elem::I32, 4)), (4, Ty::I32), (1, Ty::new(Elem::I8, 1))] {
            let whole = aligned(&[to, from], &[], width);
            let end = at + whole.choose((bytes - at).div(width) * width, 0);
            k.for_(at + thread * width, end, i64::from(BLOCK_THREADS) * width, |i| {
                to.bytes(i).store_aligned(from.bytes(i).load_aligned(ty, width as u32), width as u32);
            });
            at = end;
        }
        vec![]
    });
}

impl<'k> Emitter<'_, 'k> {
    fn left(&self) -> Ptr<'k> {
        self.own.left
    }

    fn home(&self, row: Ix<'k>) -> Ptr<'k> {
        self.own.state.bytes(HEAD).offset(Elem::I64, row)
    }

    fn length(&self, row: Ix<'k>) -> Ptr<'k> {
        self.own.state.bytes(self.tile * 8 + HEAD).offset(Elem::I64, row)
    }

    fn copy(&self, to: Ptr<'k>, from: Ptr<'k>, bytes: Ix<'k>) {
        self.k.call(&copy_symbol(self.symbol), &[to.0, from.0, bytes.v(self.k)], &[]);
    }

    /// Copies a row at a position in.
    fn bring(&self, rows: &Rows, (row, position): (Ix<'k>, Ix<'k>), to: Ptr<'k>, at: &At<'k>) {
        self.each_run(rows, row, position, at, |outside, by| {
            self.copy(to.bytes(by), outside, self.size(&rows.bytes, at))
        });
    }

    /// Copies a row to a position outside.
    fn take(&self, from: Ptr<'k>, rows: &Rows, (row, position): (Ix<'k>, Ix<'k>), at: &At<'k>) {
        self.each_run(rows, row, position, at, |outside, by| {
            self.copy(outside, from.bytes(by), self.size(&rows.bytes, at));
        });
    }

    /// Calls `each` with the address outside of each run of a row, and how far it starts inside.
    fn each_run(&self, rows: &Rows, row: Ix<'k>, position: Ix<'k>, at: &At<'k>, each: impl FnOnce(Ptr<'k>, Ix<'k>)) {
        let first = self.outside(rows, row, position, at);
        let (apart, bytes) = (self.size(&rows.apart, at), self.size(&rows.bytes, at));
        self.k.for_(0, self.size(&rows.runs, at), 1, |run| each(first.bytes(run * apart), run * bytes));
    }

    /// A row outside at a position.
    fn outside(&self, rows: &Rows, row: Ix<'k>, position: Ix<'k>, at: &At<'k>) -> Ptr<'k> {
        let by = row * self.size(&rows.row, at) + position * self.size(&rows.position, at);
        self.place(&rows.first, at).bytes(by)
    }

    /// A row of a local.
    fn inside(&self, place: &Place, rows: &Rows, row: Ix<'k>, at: &At<'k>) -> Ptr<'k> {
        self.place(place, at).bytes(row * self.size(&rows.row_bytes(), at))
    }

    /// The number of steps of a loop over an axis.
    fn steps_of(&self, l: &Loop, at: &At<'k>) -> Ix<'k> {
        match &l.times {
            Times::Size(d) | Times::While { max: d, .. } => self.size(d, at),
            Times::Read(_) => Ix::Const(0),
        }
    }

    pub(super) fn compact(&self, l: &Loop, c: &Compact, outer: At<'k>) -> At<'k> {
        let k = self.k;
        let all = outer.rows;
        let count = self.steps_of(l, &outer);
        self.left().store(all.v(k));
        k.for_(0, all, 1, |row| {
            self.once(|| self.home(row).store(row.v(k)));
            if let Some(lengths) = &c.lengths {
                let length = Ix::Value(self.outside(lengths, row, 0.into(), &outer).load(Ty::I64));
                self.once(|| self.length(row).store(length.min(count).max(0).v(k)));
            }
            for (rows, local) in &c.kept {
                self.bring(rows, (row, 0.into()), self.inside(local, rows, row, &outer), &outer);
            }
        });
        self.barrier();
        let after = self.run(l, &outer, count, |at, step| {
            let mut at = at.clone();
            at.rows = Ix::Value(self.left().load(Ty::I64));
            let mut flag = None;
            if let Times::While { test, flag: place, .. } = &l.times {
                at = self.steps(test, at);
                flag = Some(self.place(place, &at));
            }
            let rows = at.rows.v(k);
            let left = k.for_carry(0, at.rows, 1, &[rows], |i, left| {
                let row = at.rows - 1 - i;
                let done = match flag {
                    Some(flag) => self.flag(flag.bytes(row)).not(),
                    None => Ix::Value(self.length(row).load(Ty::I64)).le(step),
                };
                let left = Ix::Value(left[0]);
                k.if_(done, || self.retire(l, c, row, left - 1, &at));
                vec![done.choose(left - 1, left).v(k)]
            });
            self.left().store(left[0]);
            let go = Ix::Const(0).lt(Ix::Value(left[0])).and(self.sound());
            match &l.times {
                Times::While { number, .. } => self.limit(go, step.lt(count), *number),
                Times::Size(_) | Times::Read(_) => go,
            }
        });
        At { rows: all, ..after }
    }

    /// Writes a row home and moves the row `last` to its place.
    fn retire(&self, l: &Loop, c: &Compact, row: Ix<'k>, last: Ix<'k>, at: &At<'k>) {
        let k = self.k;
        let home = Ix::Value(self.home(row).load(Ty::I64));
        for (pair, rows) in l.pairs.iter().zip(&c.home) {
            let from = at.pairs[*pair][0].bytes(row * self.size(&rows.row_bytes(), at));
            self.take(from, rows, (home, 0.into()), at);
        }
        if c.lengths.is_some() {
            let length = Ix::Value(self.length(row).load(Ty::I64));
            for (_, rows) in &c.stacked {
                k.for_(length, self.steps_of(l, at), 1, |position| {
                    let zero = k.int(Ty::new(Elem::I8, 1), 0);
                    self.each_run(rows, home, position, at, |to, _| {
                        let (first, step) = self.share();
                        k.for_(first, self.size(&rows.bytes, at), step, |i| to.bytes(i).store(zero));
                    });
                });
            }
        }
        self.barrier();
        k.if_(row.ne(last), || {
            for (pair, rows) in l.pairs.iter().zip(&c.home) {
                let (now, bytes) = (at.pairs[*pair][0], self.size(&rows.row_bytes(), at));
                self.copy(now.bytes(row * bytes), now.bytes(last * bytes), bytes);
            }
            for (rows, local) in &c.kept {
                let row_of = |row| self.inside(local, rows, row, at);
                self.copy(row_of(row), row_of(last), self.size(&rows.row_bytes(), at));
            }
            self.once(|| {
                self.home(row).store(self.home(last).load(Ty::I64));
                if c.lengths.is_some() {
                    self.length(row).store(self.length(last).load(Ty::I64));
                }
            });
        });
        self.barrier();
    }

    /// The first of this thread's bytes, and how far apart they are.
    fn share(&self) -> (Ix<'k>, i64) {
        match &self.own.block {
            None => (0.into(), 1),
            Some((block, _)) => (block.thread, i64::from(BLOCK_THREADS)),
        }
    }

    /// A step: slices come in, stacked results go out.
    pub(super) fn compact_body(&self, l: &Loop, c: &Compact, at: At<'k>) {
        let k = self.k;
        let at = At { rows: Ix::Value(self.left().load(Ty::I64)), ..at };
        let step = at.counters[at.counters.len() - 1];
        let each = |move_row: &dyn Fn(Ix<'k>, Ix<'k>, Ix<'k>)| {
            k.for_(0, at.rows, 1, |row| {
                let home = Ix::Value(self.home(row).load(Ty::I64));
                let position = match c.reverse {
                    true => Ix::Value(self.length(row).load(Ty::I64)) - 1 - step,
                    false => step,
                };
                move_row(row, home, position);
            });
            self.barrier();
        };
        if !c.slices.is_empty() {
            each(&|row, home, position| {
                for (rows, local) in &c.slices {
                    self.bring(rows, (home, position), self.inside(local, rows, row, &at), &at);
                }
            });
        }
        self.steps(&l.body, at.clone());
        if !c.stacked.is_empty() {
            each(&|row, home, position| {
                for (local, rows) in &c.stacked {
                    self.take(self.inside(local, rows, row, &at), rows, (home, position), &at);
                }
            });
        }
    }
}
