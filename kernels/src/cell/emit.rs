//! The task of a cell: tiles of rows by hidden units with the sums of all gates in registers, and the gates' arithmetic.

use super::{Cell, ROWS, Spec, WEIGHT};
use crate::{
    Access,
    abi::Kernel,
    build::{Bool, Ix, K, Ptr, Ty, V},
    cpu::Cpu,
    matmul::pack::PANEL,
    scalar::{self, register},
    view::{Part, View},
};

/// The most rows of a tile at any level.
pub(super) const TALLEST: i64 = 6;
/// Rows of the weight that a low tile takes in one turn of its loop.
const UNROLLED: i64 = 4;

pub(super) struct Emitter<'s, 'k> {
    spec: &'s Spec,
    kernel: &'s Kernel<'k>,
    k: K<'k>,
    /// The type of the sums, of all lanes.
    sums: Ty,
    /// How elements of the weight are loaded for it.
    weight: scalar::Access,
    gates: i64,
    /// The heights of tiles, falling, 1 last; rows take the tallest that fits, again and again.
    heights: &'static [i64],
    /// Vectors of units that a tile of one row takes side by side.
    widest: i64,
    /// Vectors of units whose gates are worked on at a time.
    chains: i64,
    gx: View<'k>,
    h: View<'k>,
    w: Ptr<'k>,
    /// `c` or the bias.
    extra: Option<View<'k>>,
    output: View<'k>,
    next: Option<View<'k>>,
}

/// A vector of units of one row; `unit` is the first.
#[derive(Clone, Copy)]
struct Units<'k> {
    row: Ix<'k>,
    unit: Ix<'k>,
}

impl<'s, 'k> Emitter<'s, 'k> {
    pub(super) fn new(spec: &'s Spec, kernel: &'s Kernel<'k>, cpu: &'static Cpu) -> Self {
        let bytes = spec.sum_elem().bytes() as u32;
        let lanes = cpu.lanes(bytes);
        let many = cpu.vector_registers >= 32;
        // Sums of all gates, a row of the weight and an element of the state fit the registers.
        let heights: &[i64] = match (many, cpu.has_fma) {
            (true, _) => &[TALLEST, 4, 2, 1],
            (false, true) => &[3, 2, 1],
            // A product takes a register of its own.
            (false, false) => &[2, 1],
        };
        let vectors = PANEL / lanes as i64;
        let widest = vectors.min(if many { 4 } else { 2 });
        let view = |buffer: usize, access: &Access| View::new(kernel, buffer, access, cpu);
        let (extra, next) = match &spec.cell {
            Cell::Lstm { c, next } => (Some(c), Some(next)),
            Cell::Gru { bias } => (bias.as_ref(), None),
        };
        let inputs = WEIGHT + 1 + usize::from(extra.is_some());
        Emitter {
            k: kernel.k,
            sums: Ty::new(register(spec.sum_elem()), lanes),
            weight: scalar::Access { elem: spec.weight, lanes, converts: cpu.converts },
            gates: spec.cell.gates(),
            heights,
            widest,
            chains: if many { 4 } else { 2 },
            gx: view(0, &spec.gx),
            h: view(1, &spec.h),
            w: kernel.buffer(WEIGHT),
            extra: extra.map(|access| view(WEIGHT + 1, access)),
            output: view(inputs, &spec.output),
            next: next.map(|access| view(inputs + 1, access)),
            spec,
            kernel,
        }
    }

    pub(super) fn tasks(&self) {
        let blocks = self.spec.blocks();
        let rows = self.kernel.size(&self.spec.rows);
        let one = rows.as_const().is_some_and(|rows| rows <= ROWS);
        self.kernel.tasks(|task| {
            let (first, block) = if one { (Ix::Const(0), task) } else { (task.div(blocks) * ROWS, task.rem(blocks)) };
            let block = if blocks == 1 { Ix::Const(0) } else { block };
            self.rows(first, if one { rows } else { (first + ROWS).min(rows) }, block);
        });
    }

    /// Tiles of falling heights.
    fn rows(&self, first: Ix<'k>, end: Ix<'k>, block: Ix<'k>) {
        let tallest = self.heights[0];
        let tall = first + (end - first).div(tallest) * tallest;
        self.k.for_(first, tall, tallest, |row| self.tile(row, tallest, block));
        let mut row = tall;
        for (n, height) in self.heights.iter().enumerate().skip(1) {
            let most = (self.heights[n - 1] - 1) / height;
            for _ in 0..most {
                let fits = Ix::Const(*height).le(end - row);
                self.k.if_(fits, || self.tile(row, *height, block));
                row = row + fits.choose(*height, 0);
            }
        }
    }

    /// The next states of `height` rows from `row` on.
    fn tile(&self, row: Ix<'k>, height: i64, block: Ix<'k>) {
        let vectors = PANEL / self.sums.lanes as i64;
        if self.spec.starts {
            let zero = self.k.zero(self.sums);
            return self.finish_tile(row, height, block, |_, _, _| zero);
        }
        let wide = if height == 1 { self.widest } else { 1 };
        if height == 1 && wide == vectors && wide <= self.chains {
            let sums = self.sums_of(row, 1, block, 0, wide);
            let units: Vec<Units> = (0..wide).map(|v| self.units(row, block, v)).collect();
            return self.finish(block, &units, |gate, n| sums[gate as usize * wide as usize + n]);
        }
        let elem = self.sums.elem;
        let place = |row: Ix<'k>, gate: i64, vector: i64| {
            let of_row = row * (self.gates * PANEL) + (gate * PANEL + vector * self.sums.lanes as i64);
            self.kernel.scratch.offset(elem, of_row)
        };
        for first in (0..vectors).step_by(wide as usize) {
            let sums = self.sums_of(row, height, block, first, wide);
            for (n, sum) in sums.into_iter().enumerate() {
                let (r, gate, v) = (n as i64 / wide / self.gates, n as i64 / wide % self.gates, n as i64 % wide);
                place(Ix::Const(r), gate, first + v).store(sum);
            }
        }
        self.finish_tile(row, height, block, |r, gate, v| {
            place(r, gate, 0).offset(elem, v * self.sums.lanes as i64).load(self.sums)
        });
    }

    /// The next states of a tile from the sums by row of the tile, gate and vector of units.
    fn finish_tile(&self, row: Ix<'k>, height: i64, block: Ix<'k>, sum: impl Fn(Ix<'k>, i64, Ix<'k>) -> V<'k>) {
        let vectors = PANEL / self.sums.lanes as i64;
        // Vectors in the order of rows, as many at a time as divide them.
        let total = height * vectors;
        let together = (1..=self.chains).rev().find(|n| total % n == 0).unwrap_or(1);
        self.k.for_(0, total, together, |at| {
            let which: Vec<Ix> = (0..together).map(|n| at + n).collect();
            let split = |n: Ix<'k>| (n.div(vectors), n.rem(vectors));
            let units: Vec<Units> = which
                .iter()
                .map(|n| {
                    let (r, v) = split(*n);
                    Units { row: row + r, unit: block * PANEL + v * self.sums.lanes as i64 }
                })
                .collect();
            self.finish(block, &units, |gate, n| {
                let (r, v) = split(which[n]);
                sum(r, gate, v)
            });
        });
    }

    fn units(&self, row: Ix<'k>, block: Ix<'k>, vector: i64) -> Units<'k> {
        Units { row, unit: block * PANEL + vector * self.sums.lanes as i64 }
    }

    /// `sums[row][gate][vector]` of `h . w` for `wide` vectors of units from `first` on.
    fn sums_of(&self, row: Ix<'k>, height: i64, block: Ix<'k>, first: i64, wide: i64) -> Vec<V<'k>> {
        let (k, hidden) = (self.k, self.spec.hidden);
        let lanes = self.sums.lanes as i64;
        let memory = self.weight.memory();
        let align = memory.elem.bits() / 8 * memory.lanes;
        let line = self.gates * PANEL;
        let w = self.w.offset(memory.elem, block * (hidden * line) + first * lanes);
        let rows: Vec<Ptr> = (0..height).map(|r| self.h.at(&[row + r])).collect();
        // Elements of the state are held, vectors of the weight come and go: that way the sums of the tallest tile fit.
        let step = |at: Ix<'k>, sums: &[V<'k>]| -> Vec<V<'k>> {
            let h = rows.iter().map(|h| self.h.load(self.h.step(*h, at), 1.into(), Part::All(1)));
            let h: Vec<V> = h.map(|h| h.float_to(self.sums.elem).broadcast(self.sums.lanes)).collect();
            let w = w.offset(memory.elem, at * line);
            let mut next = sums.to_vec();
            for n in 0..self.gates * wide {
                let from = w.offset(memory.elem, n / wide * PANEL + n % wide * lanes);
                let w = self.weight.from_memory(from.load_aligned(memory, align)).float_to(self.sums.elem);
                for (h, sums) in h.iter().zip(next.chunks_mut((self.gates * wide) as usize)) {
                    sums[n as usize] = h.fma(w, sums[n as usize]);
                }
            }
            next
        };
        let zeros = vec![k.zero(self.sums); (height * self.gates * wide) as usize];
        let turns = if height == 1 { UNROLLED } else { 1 };
        let whole = hidden / turns * turns;
        let sums = k.for_carry(0, whole, turns, &zeros, |at, sums| {
            (0..turns).fold(sums.to_vec(), |sums, turn| step(at + turn, &sums))
        });
        (whole..hidden).fold(sums, |sums, at| step(at.into(), &sums))
    }

    /// The next states of these units from the sums of each gate.
    fn finish(&self, block: Ix<'k>, units: &[Units<'k>], sum: impl Fn(i64, usize) -> V<'k>) {
        let inside = if self.spec.hidden % PANEL == 0 {
            Bool::Const(true)
        } else {
            (block * PANEL + PANEL).le(self.spec.hidden)
        };
        let write = |masked: bool| {
            self.gated(units, masked, &sum);
            vec![]
        };
        self.k.if_else(inside, || write(false), || write(true));
    }

    fn gated(&self, units: &[Units<'k>], masked: bool, sum: &impl Fn(i64, usize) -> V<'k>) {
        let (k, lanes, hidden) = (self.k, self.sums.lanes, self.spec.hidden);
        let part = |unit: Ix<'k>| match masked {
            true => Part::Masked(lanes, k.first_lanes(lanes, Ix::Const(hidden) - unit)),
            false => Part::All(lanes),
        };
        let parts: Vec<Part> = units.iter().map(|u| part(u.unit)).collect();
        let each = |value: &dyn Fn(usize) -> V<'k>| V::join(&(0..units.len()).map(value).collect::<Vec<_>>());
        let sums: Vec<V> = (0..self.gates).map(|gate| each(&|n| sum(gate, n))).collect();
        let load = |view: &View<'k>, leading: &[Ix<'k>], gate: i64, n: usize| {
            let from = view.step(view.at(leading), units[n].unit + gate * hidden);
            view.load(from, 1.into(), parts[n]).float_to(self.sums.elem)
        };
        let of_row = |view: &View<'k>, gate: i64| each(&|n| load(view, &[units[n].row], gate, n));
        let gx = |gate: i64| of_row(&self.gx, gate);
        let store = |view: &View<'k>, value: V<'k>| {
            for (n, value) in value.split().into_iter().enumerate() {
                let to = view.step(view.at(&[units[n].row]), units[n].unit);
                view.store(to, 1.into(), parts[n], value);
            }
        };
        if let (Some(c), Some(next)) = (&self.extra, &self.next) {
            let gates = [0, 1, 2, 3].map(|gate| sums[gate as usize] + gx(gate));
            let [h, c] = super::lstm(gates, of_row(c, 0));
            store(next, c);
            store(&self.output, h);
            return;
        }
        let biased = |gate: i64| match &self.extra {
            Some(bias) => sums[gate as usize] + each(&|n| load(bias, &[], gate, n)),
            None => sums[gate as usize],
        };
        let h = super::gru([0, 1, 2].map(gx), [0, 1, 2].map(biased), of_row(&self.h, 0));
        store(&self.output, h);
    }
}
