//! Steps as structured code: addresses and sizes where they are needed, loops with the pairs as carried addresses.

use super::{Counter, Loop, Memory, Place, Spec, Step, Times, compact};
use crate::{
    Family, KernelSpec,
    abi::{BAD_INDEX_BYTES, INDEX_OUT_OF_RANGE, Kernel, LOOP_LIMIT, ModuleBuilder},
    build::{Bool, Cmp, Elem, Ix, K, Ptr, Ty, V},
    cpu::Cpu,
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
        let emitter = Emitter::new(spec, kernel, symbol, &calls);
        emitter.status.store(kernel.k.int(Ty::I32, 0));
        kernel.tasks(|task| emitter.task(task));
        Some(emitter.result())
    });
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
    /// The first status that was not 0.
    pub status: Ptr<'k>,
    /// The loop's own memory.
    pub state: Ptr<'k>,
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
    fn new(spec: &'s Spec, kernel: &'s Kernel<'k>, symbol: &'s str, calls: &'s [String]) -> Self {
        let value = |d: &Dim| evaluate(d, &|s| kernel.size(&Dim::symbol(s)));
        let memory = |d: &Dim| kernel.scratch.bytes(value(d));
        let mut at = spec.pairs_start();
        let mut pairs = vec![];
        for bytes in &spec.pairs {
            let bytes = spec.aligned(bytes);
            pairs.push([memory(&at), memory(&(at.clone() + bytes.clone()))]);
            at = at + bytes * 2.into();
        }
        let locals = spec.locals_start();
        Emitter {
            spec,
            k: kernel.k,
            kernel,
            symbol,
            calls,
            buffers: (0..spec.buffers.len()).map(|i| kernel.buffer(i)).collect(),
            locals: spec.locals.iter().map(|d| memory(&(locals.clone() + spec.whole(d)))).collect(),
            pairs,
            scratch: memory(&spec.scratch_start()),
            status: kernel.scratch.bytes(STATUS_AT),
            state: kernel.scratch,
        }
    }

    /// The status. A note that a lookup inside has left comes to where that of this kernel is looked for.
    fn result(&self) -> V<'k> {
        let (k, status) = (self.k, self.status.load(Ty::I32));
        if self.spec.kernels.iter().any(|kernel| matches!(kernel, KernelSpec::Gather(_))) {
            k.if_(Bool::Value(status.cmp(Cmp::Eq, k.int(Ty::I32, INDEX_OUT_OF_RANGE))), || {
                for word in (0..BAD_INDEX_BYTES).step_by(8) {
                    self.kernel.scratch.bytes(word).store(self.scratch.bytes(word).load(Ty::I64));
                }
            });
        }
        status
    }

    fn task(&self, task: Ix<'k>) {
        let (first, rows) = match &self.spec.tiles {
            None => (Ix::Const(0), Ix::Const(0)),
            Some(t) => {
                let first = task * t.tile;
                let all = evaluate(&t.rows, &|s| self.kernel.size(&Dim::symbol(s)));
                (first, (all - first).min(t.tile))
            }
        };
        self.steps(&self.spec.steps, At { first, rows, pairs: self.pairs.clone(), counters: vec![], numbers: vec![] });
    }

    /// The value of a size.
    pub(super) fn size(&self, dim: &Dim, at: &At<'k>) -> Ix<'k> {
        evaluate(dim, &|s| match &self.spec.tiles {
            Some(t) if t.symbol == s => at.rows,
            _ => self.kernel.size(&Dim::symbol(s)),
        })
    }

    pub(super) fn place(&self, place: &Place, at: &At<'k>) -> Ptr<'k> {
        let base = match place.memory {
            Memory::Buffer(i) => self.buffers[i],
            Memory::Local(i) => self.locals[i],
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

    /// Whether nothing has failed.
    pub(super) fn sound(&self) -> Bool<'k> {
        Bool::Value(self.status.load(Ty::I32).cmp(Cmp::Eq, self.k.int(Ty::I32, 0)))
    }

    /// Keeps the first status that is not 0 and the note that may stand in the scratch memory of its kernel.
    fn fail(&self, status: V<'k>) {
        let failed = Bool::Value(status.cmp(Cmp::Ne, self.k.int(Ty::I32, 0)));
        self.k.if_(failed.and(self.sound()), || {
            self.status.store(status);
            for at in (0..BAD_INDEX_BYTES).step_by(8) {
                self.state.bytes(at).store(self.scratch.bytes(at).load(Ty::I64));
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
                self.k.if_else(self.flag(self.place(condition, &at)), || branch(then), || branch(otherwise));
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
        let tasks = self.size(&spec.tasks(), at);
        self.fail(self.kernel.call(&self.calls[kernel], args, &sizes, tasks, self.scratch));
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
            let stop = || self.status.store(self.k.int(Ty::I32, LOOP_LIMIT + number));
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
                    self.place(index, &at).store(counter.v(k));
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
