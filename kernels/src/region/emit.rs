//! Steps as structured code: addresses and sizes where they are needed, loops with the pairs as carried addresses.
//!
//! A thread runs a task, or all threads of a block: then control flow is the same for all of them, and what one has written
//! another one reads after a barrier only. There is one behind every call, and one between a read that control flow
//! depends on and whatever comes after.

use super::{Counter, Loop, Memory, Place, Spec, Step, Times, compact, memory::Layout};
use crate::{
    Family, KernelSpec,
    abi::{BAD_INDEX_BYTES, INDEX_OUT_OF_RANGE, Kernel, LOOP_LIMIT, ModuleBuilder},
    build::{Bool, Cmp, Elem, Ix, K, Ptr, Ty, V},
    cpu::Cpu,
    cuda::{self, Sm, block::Block},
};
use kiln_ir::{Dim, Symbol, dim::Atom};

/// Where the status stands in the loop's own memory, behind the note on a bad index that the runtime looks for.
pub(super) const STATUS_AT: i64 = BAD_INDEX_BYTES;

pub(super) fn emit(spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu) {
    let calls = spec.kernels.iter().enumerate();
    let calls: Vec<String> = calls.map(|(i, kernel)| module.inner(&format!("{symbol}.{i}"), kernel, cpu)).collect();
    if compact::is_used(&spec.steps) {
        compact::emit_copy(module, symbol, cpu);
    }
    module.kernel(symbol, &spec.size_args(), |kernel| {
        let own = Own {
            state: kernel.scratch,
            status: kernel.scratch.bytes(STATUS_AT),
            left: kernel.scratch.bytes(compact::LEFT_AT),
            block: None,
        };
        let scratch = |at| kernel.scratch.bytes(at);
        let emitter = Emitter::new(spec, kernel, (symbol, &calls), spec.layout(), own, &scratch);
        kernel.tasks(|task| emitter.task(task));
        Some(emitter.result())
    });
}

/// What a task has beside the memory that the steps name.
pub(super) struct Own<'k> {
    /// What the loop keeps of its own.
    pub state: Ptr<'k>,
    /// The first status that was not 0, of one thread.
    pub status: Ptr<'k>,
    /// The number of rows left in a compact loop, of one thread.
    pub left: Ptr<'k>,
    /// Whose threads run the task together, if they do, and of which architecture.
    pub block: Option<(Block<'k>, Sm)>,
}

pub(super) struct Emitter<'s, 'k> {
    pub spec: &'s Spec,
    pub k: K<'k>,
    kernel: &'s Kernel<'k>,
    pub symbol: &'s str,
    /// The functions of the kernels that are called.
    calls: &'s [String],
    buffers: Vec<Ptr<'k>>,
    locals: Vec<Ptr<'k>>,
    pairs: Vec<[Ptr<'k>; 2]>,
    /// Of the kernels that are called.
    scratch: Ptr<'k>,
    /// Rows of a tile, but for the last.
    pub tile: Ix<'k>,
    pub own: Own<'k>,
}

/// Where a step stands.
#[derive(Clone)]
pub(super) struct At<'k> {
    /// The first row of the tile.
    pub first: Ix<'k>,
    /// The rows that are left.
    pub rows: Ix<'k>,
    /// The memory that each pair's value is in, and the other one.
    pub pairs: Vec<[Ptr<'k>; 2]>,
    /// Of the loops around, outermost first.
    pub counters: Vec<Ix<'k>>,
    /// The numbers of their steps, from 0 on.
    pub numbers: Vec<Ix<'k>>,
}

impl<'s, 'k> Emitter<'s, 'k> {
    /// `memory` is the address so many bytes into the task's memory.
    pub(super) fn new(
        spec: &'s Spec,
        kernel: &'s Kernel<'k>,
        (symbol, calls): (&'s str, &'s [String]),
        layout: Layout<'_>,
        own: Own<'k>,
        memory: &dyn Fn(Ix<'k>) -> Ptr<'k>,
    ) -> Self {
        let at = |d: &Dim| memory(value(kernel, d));
        let locals = layout.locals();
        own.status.store(kernel.k.int(Ty::I32, 0));
        Emitter {
            spec,
            k: kernel.k,
            kernel,
            symbol,
            calls,
            buffers: (0..spec.buffers.len()).map(|i| kernel.buffer(i)).collect(),
            locals: spec.locals.iter().map(|d| at(&(locals.clone() + layout.whole(d)))).collect(),
            pairs: layout.pairs().iter().map(|pair| [at(&pair[0]), at(&pair[1])]).collect(),
            scratch: kernel.scratch.bytes(value(kernel, &layout.scratch())),
            tile: value(kernel, &layout.tile),
            own,
        }
    }

    /// Waits for the threads that run the task together.
    pub(super) fn barrier(&self) {
        self.own.block.iter().for_each(|(block, _)| block.barrier());
    }

    /// What one of the threads does for all.
    pub(super) fn once(&self, body: impl FnOnce()) {
        match &self.own.block {
            None => body(),
            Some((block, _)) => self.k.if_(block.thread.eq(0), body),
        }
    }

    /// The status. A note that a lookup inside has left comes to where that of this kernel is looked for.
    pub(super) fn result(&self) -> V<'k> {
        let (k, status) = (self.k, self.own.status.load(Ty::I32));
        if self.own.block.is_none() && self.spec.kernels.iter().any(|kernel| matches!(kernel, KernelSpec::Gather(_))) {
            k.if_(Bool::Value(status.cmp(Cmp::Eq, k.int(Ty::I32, INDEX_OUT_OF_RANGE))), || {
                for word in (0..BAD_INDEX_BYTES).step_by(8) {
                    self.kernel.scratch.bytes(word).store(self.scratch.bytes(word).load(Ty::I64));
                }
            });
        }
        status
    }

    pub(super) fn task(&self, task: Ix<'k>) {
        let (first, rows) = match &self.spec.tiles {
            None => (Ix::Const(0), Ix::Const(0)),
            Some(t) => {
                let first = task * self.tile;
                (first, (value(self.kernel, &t.rows) - first).min(self.tile))
            }
        };
        self.steps(&self.spec.steps, At { first, rows, pairs: self.pairs.clone(), counters: vec![], numbers: vec![] });
    }

    /// The same value. Of a GPU's threads, who have few registers for so many kernels, nothing that follows from it is
    /// computed before a loop.
    fn anew(&self, value: Ix<'k>) -> Ix<'k> {
        if self.own.block.is_some() { cuda::anew(value.v(self.k)) } else { value }
    }

    /// The value of a size.
    pub(super) fn size(&self, dim: &Dim, at: &At<'k>) -> Ix<'k> {
        let size = |s| match &self.spec.tiles {
            Some(t) if t.symbol == s => at.rows,
            _ => self.kernel.size(&Dim::symbol(s)),
        };
        evaluate(dim, &|s| self.anew(size(s)))
    }

    pub(super) fn place(&self, place: &Place, at: &At<'k>) -> Ptr<'k> {
        let base = match place.memory {
            Memory::Buffer(i) => self.buffers[i],
            Memory::Local(i) => self.locals[i].bytes(self.anew(0.into())),
            Memory::Now(i) => at.pairs[i][0],
            Memory::Next(i) => at.pairs[i][1],
        };
        let counter = |c: &Counter| match c {
            Counter::Row => at.first,
            Counter::Loop(depth) => at.counters[*depth],
        };
        let steps = place.strides.iter().map(|(c, d)| counter(c) * self.size(d, at));
        base.bytes(steps.fold(self.size(&place.offset, at), |sum, s| sum + s))
    }

    /// Whether the `i1` at an address is set.
    pub(super) fn flag(&self, at: Ptr<'k>) -> Bool<'k> {
        let byte = at.load(Ty::new(Elem::I8, 1));
        Bool::Value(byte.cmp(Cmp::Ne, self.k.zero(byte.ty)))
    }

    /// Whether this thread's part of nothing has failed.
    fn own_sound(&self) -> Bool<'k> {
        Bool::Value(self.own.status.load(Ty::I32).cmp(Cmp::Eq, self.k.int(Ty::I32, 0)))
    }

    /// Whether nothing has failed; a barrier too.
    pub(super) fn sound(&self) -> Bool<'k> {
        let own = self.own_sound();
        self.own.block.as_ref().map_or(own, |(block, _)| block.any(own.not()).not())
    }

    /// Keeps the first status that is not 0 and the note that may stand in the scratch memory of its kernel.
    fn fail(&self, status: V<'k>) {
        let failed = Bool::Value(status.cmp(Cmp::Ne, self.k.int(Ty::I32, 0)));
        self.k.if_(failed.and(self.own_sound()), || {
            self.own.status.store(status);
            // On a GPU nobody looks for it.
            for at in (0..BAD_INDEX_BYTES).step_by(8).filter(|_| self.own.block.is_none()) {
                self.own.state.bytes(at).store(self.scratch.bytes(at).load(Ty::I64));
            }
        });
    }

    pub(super) fn steps(&self, steps: &[Step], at: At<'k>) -> At<'k> {
        steps.iter().fold(at, |at, step| match step {
            Step::Call { kernel, args, first } => {
                let args: Vec<Ptr<'k>> = args.iter().map(|p| self.place(p, &at)).collect();
                match first {
                    None => self.call(*kernel, &args, &at),
                    Some(first) => {
                        let branch = |kernel: usize| {
                            self.call(kernel, &args, &at);
                            vec![]
                        };
                        self.k.if_else(at.numbers[first.depth].eq(0), || branch(first.kernel), || branch(*kernel));
                    }
                }
                at
            }
            Step::If { condition, then, otherwise } => {
                let branch = |steps: &[Step]| {
                    self.steps(steps, at.clone());
                    vec![]
                };
                let condition = self.flag(self.place(condition, &at));
                self.barrier();
                self.k.if_else(condition, || branch(then), || branch(otherwise));
                at
            }
            Step::Loop(l) => match &l.compact {
                None => self.repeat(l, at),
                Some(c) => self.compact(l, c, at),
            },
        })
    }

    fn call(&self, kernel: usize, args: &[Ptr<'k>], at: &At<'k>) {
        let spec = &self.spec.kernels[kernel];
        let sizes: Vec<Ix<'k>> = spec.size_args().iter().map(|d| self.size(d, at)).collect();
        let tasks = match &self.own.block {
            None => (None, self.size(&spec.tasks(), at)),
            Some((_, sm)) => {
                let grid = spec.block_grid(*sm);
                (Some(self.size(&grid.scratch_bytes, at)), self.size(&grid.tasks, at))
            }
        };
        self.fail(self.kernel.call(&self.calls[kernel], args, &sizes, tasks, self.scratch));
        self.barrier();
    }

    fn repeat(&self, l: &Loop, outer: At<'k>) -> At<'k> {
        let count = match &l.times {
            Times::Size(d) => self.size(d, &outer),
            Times::Read(place) => {
                let count = self.place(place, &outer).load(Ty::I64);
                // After a failure the element is anything.
                self.sound().choose(Ix::Value(count), 0)
            }
            Times::While { max, .. } => self.size(max, &outer),
        };
        self.run(l, &outer, count, |at, step| match &l.times {
            Times::While { test, flag, number, .. } => {
                let at = self.steps(test, at.clone());
                let go = self.flag(self.place(flag, &at)).and(self.sound());
                self.limit(go, step.lt(count), *number)
            }
            Times::Size(_) | Times::Read(_) => step.lt(count).and(self.sound()),
        })
    }

    /// Whether a loop goes on that would; where it may not, that is a failure.
    pub(super) fn limit(&self, go: Bool<'k>, below: Bool<'k>, number: i64) -> Bool<'k> {
        let both = go.and(below);
        self.k.if_(go, || {
            let stop = || self.own.status.store(self.k.int(Ty::I32, LOOP_LIMIT + number));
            self.k.if_else(below, Vec::new, || {
                stop();
                vec![]
            });
        });
        both
    }

    /// Runs the body while `condition` holds of where the step stands and of its number.
    pub(super) fn run(
        &self,
        l: &Loop,
        outer: &At<'k>,
        count: Ix<'k>,
        condition: impl FnOnce(&At<'k>, Ix<'k>) -> Bool<'k>,
    ) -> At<'k> {
        let k = self.k;
        let mut init = vec![k.int(Ty::I64, 0)];
        init.extend(l.pairs.iter().flat_map(|p| outer.pairs[*p].map(|p| p.0)));
        let inside = |v: &[V<'k>]| {
            let mut at = outer.clone();
            for (n, pair) in l.pairs.iter().enumerate() {
                at.pairs[*pair] = [v[1 + 2 * n].ptr(), v[2 + 2 * n].ptr()];
            }
            let step = Ix::Value(v[0]);
            at.counters.push(if l.down { count - 1 - step } else { step });
            at.numbers.push(step);
            at
        };
        let last = k.while_(
            &init,
            |v| condition(&inside(v), Ix::Value(v[0])).v(k),
            |v| {
                let at = inside(v);
                if let (Some(index), Some(counter)) = (&l.index, at.counters.last()) {
                    self.once(|| self.place(index, &at).store(counter.v(k)));
                    self.barrier();
                }
                self.body(l, at);
                let mut next = vec![v[0] + k.int(Ty::I64, 1)];
                next.extend(v[1..].chunks_exact(2).flat_map(|pair| [pair[1], pair[0]]));
                next
            },
        );
        let mut at = inside(&last);
        at.counters.pop();
        at.numbers.pop();
        at
    }

    fn body(&self, l: &Loop, at: At<'k>) {
        match &l.compact {
            None => {
                self.steps(&l.body, at);
            }
            Some(c) => self.compact_body(l, c, at),
        }
    }
}

/// The value of a size that has no rows of a tile in it.
pub(super) fn value<'k>(kernel: &Kernel<'k>, dim: &Dim) -> Ix<'k> {
    evaluate(dim, &|s| kernel.size(&Dim::symbol(s)))
}

/// The value of a size with these values of its symbols.
fn evaluate<'k>(dim: &Dim, symbol: &dyn Fn(Symbol) -> Ix<'k>) -> Ix<'k> {
    let atom = |atom: &Atom| match atom {
        Atom::Symbol(s) => symbol(*s),
        Atom::FloorDiv(a, b) => floor_div(evaluate(a, symbol), evaluate(b, symbol)),
        Atom::Min(a, b) => evaluate(a, symbol).min(evaluate(b, symbol)),
        Atom::Max(a, b) => evaluate(a, symbol).max(evaluate(b, symbol)),
    };
    let term = |(atoms, c): &(Vec<Atom>, i64)| atoms.iter().fold(Ix::Const(*c), |product, a| product * atom(a));
    dim.terms().iter().map(term).fold(Ix::Const(0), |sum, t| sum + t)
}

/// Rounded towards minus infinity.
fn floor_div<'k>(a: Ix<'k>, b: Ix<'k>) -> Ix<'k> {
    let (Ix::Value(x), k) = (match (a, b) {
        (Ix::Const(a), Ix::Const(b)) if b != 0 => return Ix::Const(a.div_euclid(b)),
        (Ix::Value(v), _) | (_, Ix::Value(v)) => (Ix::Value(a.v(v.builder())), v.builder()),
        _ => return Ix::Const(0),
    }) else {
        return Ix::Const(0);
    };
    let y = b.v(k);
    let quotient = Ix::Value(x.div_signed(y));
    let rest = Ix::Value(x) - quotient * b;
    // The rest has the sign of the dividend; sizes are divided by positive ones.
    rest.lt(0).choose(quotient - 1, quotient)
}
