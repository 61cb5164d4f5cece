//! Queries of one row at a time that go upwards in logarithms and then back down: the most probable completion, draws,
//! marginals and expectations. No two nodes share a slot, and inputs have no tables.

use super::{
    Query, Spec,
    emit::scratch,
    runs::Fields,
    table::{RunKind, Space},
    walk::Walk,
};
use crate::{
    Access,
    abi::Kernel,
    build::{Cmp, Elem, Ix, K, Ptr, Ty, V},
    cpu::{Converts, Cpu},
    scalar::{self, functions, register},
    view::View,
};
use kiln_ir::circuit::normal_coefficients;

const F64: Ty = Ty::new(Elem::F64, 1);
const ZERO: f64 = f64::NEG_INFINITY;

/// Bytes of scratch memory: the walk's, then for each variable a count of draws and `values` numbers.
pub(super) fn bytes(spec: &Spec, values: i64) -> i64 {
    scratch(&spec.shape).bytes + spec.shape.variables * 8 * (1 + values)
}

pub(super) fn trace(spec: &Spec, kernel: &Kernel<'_>, cpu: &'static Cpu) {
    kernel.tasks(|task| row(spec, kernel, Walk::new(spec, kernel, cpu, 1, Space::Log), task));
}

/// Asks for a row by a walk in logarithms.
pub(super) fn row<'k>(spec: &Spec, kernel: &Kernel<'k>, mut walk: Walk<'_, 'k>, row: Ix<'k>) {
    let k = kernel.k;
    let first_output = spec.first_table() + 5;
    let view = |(n, o): (usize, &&Access)| View::new(kernel, first_output + n, o, walk.cpu);
    let outputs: Vec<View<'_>> = spec.query.outputs().iter().enumerate().map(view).collect();
    let seed = spec.seed().map(|seed| View::new(kernel, spec.first_table() - 1, seed, walk.cpu));
    walk.maximum = matches!(spec.query, Query::Mpe { .. });
    walk.read(row, 1.into());
    walk.up();
    let t = Trace { k, walk: &walk, outputs: &outputs, row };
    match &spec.query {
        Query::Mpe { .. } => {
            t.choose(None);
            walk.alone(|| t.put(1, &[], walk.slot(spec.shape.root.into())));
        }
        Query::Sample { .. } => {
            t.choose(seed.as_ref().map(|seed| seed.at(&[row]).load(Ty::I64)));
            let root = walk.slot(spec.shape.root.into());
            walk.wait();
            k.if_(root.cmp(Cmp::Le, root.like(ZERO)), || t.nothing());
        }
        Query::Marginals { values, .. } => {
            t.derivatives();
            t.marginals(*values);
        }
        _ => {
            t.derivatives();
            t.expectation();
        }
    }
}

struct Trace<'s, 'k> {
    k: K<'k>,
    walk: &'s Walk<'s, 'k>,
    outputs: &'s [View<'k>],
    row: Ix<'k>,
}

impl<'k> Trace<'_, 'k> {
    /// Stores an f64, or what it stands for in the output's type.
    fn put(&self, output: usize, index: &[Ix<'k>], value: V<'k>) {
        let view = &self.outputs[output];
        let to = scalar::Access { elem: view.elem, lanes: 1, converts: Converts::Nothing };
        let at = [&[self.row], index].concat();
        let value = if view.elem.is_float() {
            value.float_to(register(view.elem))
        } else {
            value.float_to_int(Elem::I64).int_to(register(view.elem), true)
        };
        self.k.if_(self.walk.inside, || to.store(view.at(&at), value));
    }

    /// What goes down: of each slot one number.
    fn down(&self, slot: Ix<'k>) -> Ptr<'k> {
        self.walk.slot_at(slot + self.walk.spec.shape.slots)
    }

    /// Numbers of eight bytes behind the places of the walk: for each variable a count of draws, and others.
    fn per_variable(&self, at: Ix<'k>) -> Ptr<'k> {
        self.walk.at(self.walk.places.bytes).offset(Elem::I64, at * self.walk.pitch + self.walk.row)
    }

    /// Calls `body` with those of so many things that are this walk's.
    fn each(&self, count: impl Into<Ix<'k>>, body: impl FnOnce(Ix<'k>)) {
        let (first, step) = self.walk.share(0);
        self.k.for_(first, count, step, body);
    }

    fn is_missing(&self, var: Ix<'k>) -> V<'k> {
        self.walk.code_at(var).load(Ty::I32).cmp(Cmp::Eq, self.walk.missing_code(var))
    }

    /// Calls `body` for the nodes of all runs, the last first, that something came down to.
    /// Where those that walk together share the nodes, `body` gets only its own.
    fn nodes(&self, least: f64, shared: bool, body: &dyn Fn(RunKind, &Fields<'k>, Ix<'k>, V<'k>)) {
        let (k, walk) = (self.k, self.walk);
        let runs = walk.spec.shape.runs;
        k.for_(0, runs, 1, |i| {
            let run = walk.fields(Ix::Const(runs - 1) - i);
            let (first, step) = if shared { walk.share(0) } else { (0.into(), 1) };
            walk.by_kind(run.kind, &|kind| {
                k.for_(first, run.count, step, |i| {
                    let own = self.down(run.to + i).load(F64);
                    k.if_(own.cmp(Cmp::Gt, own.like(least)), || body(kind, &run, i, own));
                });
            });
            if shared && walk.shares() {
                k.if_(run.waits, || walk.wait());
            }
        });
    }

    /// Slots of a term: one, or two where the run is of pairs.
    fn slots(&self, kind: RunKind, index: Ix<'k>) -> Vec<Ix<'k>> {
        let width = if kind == RunKind::Pairs { 2 } else { 1 };
        (0..width).map(|side| self.walk.index(index + side)).collect()
    }

    /// Along one tree, whose inputs give the missing cells: by largest terms, or by draws.
    fn choose(&self, seed: Option<V<'k>>) {
        let (k, walk) = (self.k, self.walk);
        let shape = &walk.spec.shape;
        let zero = k.float(F64, 0.0);
        let one = k.float(F64, 1.0);
        let mark = |slot: Ix<'k>| match walk.team {
            // Several may come to a slot at the same time.
            Some(team) => team.add(self.down(slot), one),
            None => self.down(slot).store(one),
        };
        self.each(shape.slots, |slot| self.down(slot).store(zero));
        self.each(shape.variables, |var| self.per_variable(var).store(k.int(Ty::I64, 0)));
        walk.copy_cells(&self.outputs[0], self.row);
        walk.wait();
        walk.alone(|| mark(shape.root.into()));
        walk.wait();
        let give = |var: Ix<'k>, value: V<'k>| {
            k.if_(self.is_missing(var), || self.put(0, &[var], value));
        };
        self.nodes(0.0, true, &|kind, run, i, _| match kind {
            RunKind::Product => k.for_(0, run.fan, 1, |j| mark(walk.index(run.index + i * run.fan + j))),
            RunKind::Sum | RunKind::Pairs => {
                let width = if kind == RunKind::Pairs { 2 } else { 1 };
                let index = run.index + i * run.fan * width;
                let term = |j: Ix<'k>| {
                    let slots = self.slots(kind, index + j * width);
                    let weight = walk.numbers(walk.number_at(run.number + i * run.fan + j), 1);
                    slots.iter().fold(weight, |sum, slot| sum + walk.slot(*slot))
                };
                let var = walk.index(run.index + run.count * run.fan * width + i);
                let chosen = match seed {
                    None => self.largest(run.fan, &term).0,
                    Some(seed) => {
                        let draw = || {
                            let (chosen, rest) = self.draw(run.fan, &term, self.uniform(seed, var));
                            if shape.has(RunKind::Interval) {
                                self.rest(var).store(rest);
                            }
                            vec![chosen.v(k)]
                        };
                        k.if_else(run.fan.eq(1), || vec![k.int(Ty::I64, 0)], draw)[0].into()
                    }
                };
                self.slots(kind, index + chosen * width).into_iter().for_each(mark);
            }
            RunKind::Indicator => {
                let [var, value] = [0, 1].map(|n| walk.index(run.index + i * 2 + n));
                give(var, value.v(k).int_to_float(Elem::F64, false));
            }
            RunKind::Gaussian => {
                let var = walk.index(run.index + i);
                let [mean, inverse] = [0, 1].map(|n| walk.numbers(walk.number_at(run.number + i * 4 + n), 1));
                give(
                    var,
                    match seed {
                        None => mean,
                        Some(seed) => mean + self.normal(self.uniform(seed, var)) / inverse,
                    },
                );
            }
            // What the draw of the interval left says where inside.
            RunKind::Interval => {
                let var = walk.index(run.index + i);
                let [low, span] = self.interval(run, i);
                let share = if seed.is_some() { self.rest(var).load(F64) } else { low.like(0.5) };
                give(var, share.fma(span, low));
            }
            _ => {}
        });
    }

    /// In place of draws from nothing: NaN, or 0 where the output has integers.
    fn nothing(&self) {
        let none = if self.outputs[0].elem.is_float() { f64::NAN } else { 0.0 };
        self.each(self.walk.spec.shape.variables, |var| {
            self.k.if_(self.is_missing(var), || self.put(0, &[var], self.k.float(F64, none)));
        });
    }

    /// The lowest value of an interval, and what draws add to it at most.
    fn interval(&self, run: &Fields<'k>, i: Ix<'k>) -> [V<'k>; 2] {
        [0, 2].map(|n| self.walk.numbers(self.walk.number_at(run.number + i * 4 + n), 1))
    }

    /// How far into its term the last draw for a variable came, from 0 to 1.
    fn rest(&self, var: Ix<'k>) -> Ptr<'k> {
        self.per_variable(Ix::Const(self.walk.spec.shape.variables) + var)
    }

    /// The first of the largest terms, and its value.
    fn largest(&self, fan: Ix<'k>, term: &dyn Fn(Ix<'k>) -> V<'k>) -> (Ix<'k>, V<'k>) {
        let k = self.k;
        let best = k.for_carry(1, fan, 1, &[k.int(Ty::I64, 0), term(0.into())], |j, best| {
            let value = term(j);
            let more = value.cmp(Cmp::Gt, best[1]);
            vec![more.select(j.v(k), best[0]), more.select(value, best[1])]
        });
        (best[0].into(), best[1])
    }

    /// The first term at which the running sum exceeds `u` of the whole, or else the last positive one, and how far into
    /// it that is, from 0 to 1.
    fn draw(&self, fan: Ix<'k>, term: &dyn Fn(Ix<'k>) -> V<'k>, u: V<'k>) -> (Ix<'k>, V<'k>) {
        let k = self.k;
        let (_, top) = self.largest(fan, term);
        let base = top.cmp(Cmp::Gt, top.like(ZERO)).select(top, top.like(0.0));
        let share = |j: Ix<'k>| functions::exp(term(j) - base);
        let zero = k.float(F64, 0.0);
        let total = k.for_carry(0, fan, 1, &[zero], |j, sum| vec![sum[0] + share(j)])[0];
        let target = u * total;
        let start = [zero, k.int(Ty::I64, 0), k.int(Ty::I1, 0), zero];
        let found = k.for_carry(0, fan, 1, &start, |j, carried| {
            let weight = share(j);
            let sum = carried[0] + weight;
            let positive = weight.cmp(Cmp::Gt, zero);
            let takes = positive & (carried[2] ^ k.int(Ty::I1, 1));
            let passes = positive & sum.cmp(Cmp::Gt, target);
            let rest = ((target - carried[0]) / weight).min_or(weight.like(1.0)).max_or(zero);
            vec![sum, takes.select(j.v(k), carried[1]), carried[2] | passes, takes.select(rest, carried[3])]
        });
        (found[1].into(), found[3])
    }

    /// The next draw for a variable: SplitMix64 of the seed and a counter, in steps of 2^-53.
    fn uniform(&self, seed: V<'k>, var: Ix<'k>) -> V<'k> {
        let k = self.k;
        let count = self.per_variable(var);
        let n = count.load(Ty::I64);
        count.store(n + k.int(Ty::I64, 1));
        let mix = |z: V<'k>| {
            let word = |w: u64| k.int(Ty::I64, w as i64);
            let z = z + word(0x9e37_79b9_7f4a_7c15);
            let z = (z ^ z.shr_unsigned(30)) * word(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z.shr_unsigned(27)) * word(0x94d0_49bb_1331_11eb);
            z ^ z.shr_unsigned(31)
        };
        let bits = mix(mix(seed) ^ (var.v(k).shl(32) | n)).shr_unsigned(11);
        bits.int_to_float(Elem::F64, true) * (1.0 / (1u64 << 53) as f64)
    }

    /// The inverse of the normal distribution function: Wichura's algorithm AS 241.
    fn normal(&self, u: V<'k>) -> V<'k> {
        let rational = |r: V<'k>, (p, q): &([f64; 8], [f64; 8])| {
            let horner = |c: &[f64; 8]| c.iter().rev().fold(r.like(0.0), |sum, c| sum * r + r.like(*c));
            horner(p) / horner(q)
        };
        let [centre, middle, far] = normal_coefficients();
        let q = u - 0.5;
        let near = q * rational(-(q * q) + 0.180625, centre);
        let low = q.cmp(Cmp::Lt, q.like(0.0));
        let tail = low.select(u, -u + 1.0);
        let r = (-functions::log(tail)).intrinsic("sqrt");
        let x = r.cmp(Cmp::Le, r.like(5.0)).select(rational(r - 1.6, middle), rational(r - 5.0, far));
        let x = tail.cmp(Cmp::Le, tail.like(0.0)).select(x.like(f64::INFINITY), x);
        q.abs().cmp(Cmp::Le, q.like(0.425)).select(near, low.select(-x, x))
    }

    fn log_add(&self, a: V<'k>, b: V<'k>) -> V<'k> {
        let top = a.max_or(b);
        let base = top.cmp(Cmp::Gt, top.like(ZERO)).select(top, top.like(0.0));
        base + functions::log(functions::exp(a - base) + functions::exp(b - base))
    }

    /// The logarithm of the derivative of the root by each slot.
    fn derivatives(&self) {
        let (k, walk) = (self.k, self.walk);
        let shape = &walk.spec.shape;
        self.each(shape.slots, |slot| self.down(slot).store(k.float(F64, ZERO)));
        walk.wait();
        let add = |slot: Ix<'k>, value: V<'k>| {
            k.if_(value.cmp(Cmp::Gt, value.like(ZERO)), || {
                let to = self.down(slot);
                to.store(self.log_add(to.load(F64), value));
            });
        };
        let all = || {
            self.nodes(ZERO, false, &|kind, run, i, own| match kind {
                RunKind::Sum | RunKind::Pairs => k.for_(0, run.fan, 1, |j| {
                    let weight = own + walk.numbers(walk.number_at(run.number + i * run.fan + j), 1);
                    let width = if kind == RunKind::Pairs { 2 } else { 1 };
                    let slots = self.slots(kind, run.index + (i * run.fan + j) * width);
                    match slots.as_slice() {
                        [slot] => add(*slot, weight),
                        [a, b] => {
                            add(*a, weight + walk.slot(*b));
                            add(*b, weight + walk.slot(*a));
                        }
                        _ => {}
                    }
                }),
                // All factors but one, also where that one is zero.
                RunKind::Product => k.for_(0, run.fan, 1, |j| {
                    let slot = |j: Ix<'k>| walk.index(run.index + i * run.fan + j);
                    let others = k.for_carry(0, run.fan, 1, &[own], |other, sum| {
                        let value = walk.slot(slot(other));
                        vec![other.eq(j).v(k).select(sum[0], sum[0] + value)]
                    });
                    add(slot(j), others[0]);
                }),
                _ => {}
            })
        };
        // What is added to one number is added in one order.
        walk.alone(|| {
            self.down(shape.root.into()).store(k.float(F64, 0.0));
            all();
        });
    }

    /// Calls `body` with variable, value, derivative and value if missing of every input.
    fn inputs(&self, body: &dyn Fn(Ix<'k>, V<'k>, V<'k>, V<'k>)) {
        let (k, walk) = (self.k, self.walk);
        self.nodes(ZERO, false, &|kind, run, i, own| match kind {
            RunKind::Indicator => {
                let [var, value] = [0, 1].map(|n| walk.index(run.index + i * 2 + n));
                body(var, value.v(k).int_to_float(Elem::F64, false), own, own.like(0.0));
            }
            RunKind::Gaussian => {
                let mean = walk.numbers(walk.number_at(run.number + i * 4), 1);
                body(walk.index(run.index + i), mean, own, own.like(0.0));
            }
            RunKind::Interval => {
                let [low, span] = self.interval(run, i);
                let missing = walk.numbers(walk.number_at(run.number + i * 4 + 3), 1);
                body(walk.index(run.index + i), span.fma(span.like(0.5), low), own, missing);
            }
            _ => {}
        });
    }

    fn marginals(&self, values: i64) {
        let (k, variables) = (self.k, self.walk.spec.shape.variables);
        let of = |var: Ix<'k>, value: Ix<'k>| self.per_variable(Ix::Const(variables) + var * values + value);
        self.each(variables * values, |at| of(0.into(), at).store(k.float(F64, ZERO)));
        self.walk.wait();
        self.walk.alone(|| {
            self.inputs(&|var, value, own, _| {
                let to = of(var, value.float_to_int(Elem::I64).into());
                to.store(self.log_add(to.load(F64), own));
            });
        });
        self.walk.wait();
        self.each(variables, |var| {
            let (_, top) = self.largest(values.into(), &|value| of(var, value).load(F64));
            let share = |value: Ix<'k>| functions::exp(of(var, value).load(F64) - top);
            let total = k.for_carry(0, values, 1, &[k.float(F64, 0.0)], |value, sum| vec![sum[0] + share(value)])[0];
            let count = self.walk.missing_code(var).to_index(false) - 1;
            k.for_(0, values, 1, |value| {
                let inside = value.lt(count).v(k);
                self.put(0, &[var, value], inside.select(share(value) / total, total.like(0.0)));
            });
        });
    }

    fn expectation(&self) {
        let (k, variables) = (self.k, self.walk.spec.shape.variables);
        let of = |var: Ix<'k>, n: i64| self.per_variable(Ix::Const(variables) + var * 3 + n);
        self.walk.copy_cells(&self.outputs[0], self.row);
        let zero = k.float(F64, 0.0);
        self.each(variables, |var| {
            of(var, 0).store(k.float(F64, ZERO));
            [1, 2].into_iter().for_each(|n| of(var, n).store(zero));
        });
        self.walk.wait();
        let top = |var: Ix<'k>| of(var, 0).load(F64);
        self.walk.alone(|| {
            self.inputs(&|var, _, own, missing| of(var, 0).store((own + missing).max_or(top(var))));
            self.inputs(&|var, value, own, missing| {
                let share = functions::exp(own + missing - top(var));
                of(var, 1).store(share.fma(value, of(var, 1).load(F64)));
                of(var, 2).store(of(var, 2).load(F64) + share);
            });
        });
        self.walk.wait();
        self.each(variables, |var| {
            k.if_(self.is_missing(var), || self.put(0, &[var], of(var, 1).load(F64) / of(var, 2).load(F64)));
        });
    }
}

/// The outputs and the seed of a query.
impl Query {
    pub(super) fn outputs(&self) -> Vec<&Access> {
        match self {
            Query::Evidence { output, .. }
            | Query::Complete { output, .. }
            | Query::Marginals { output, .. }
            | Query::Expectation { output } => vec![output],
            Query::Mpe { states, value } => vec![states, value],
            Query::Sample { states, .. } => vec![states],
        }
    }
}
