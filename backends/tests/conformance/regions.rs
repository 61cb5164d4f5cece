//! Loops that are kernels: one row after the other, as if each tile had one.

use super::{Base, Memory, Simulator};
use kiln_ir::{Dim, ElemType};
use kiln_kernels::{
    Access,
    region::{self, Compact, Counter, Loop, Place, Rows, Spec, Step, Times},
};

/// Where a step stands.
struct At<'s> {
    spec: &'s Spec,
    args: &'s [Base],
    row: i64,
    counters: Vec<i64>,
    /// Of the loops around.
    numbers: Vec<i64>,
    /// Where in the loop's memory.
    pairs: Vec<[i64; 2]>,
    locals: Vec<i64>,
}

impl Simulator<'_> {
    pub(super) fn loops(&mut self, spec: &Spec, args: &[Base]) {
        let rows = spec.tiles.as_ref().map_or(1, |t| self.value(&t.rows));
        let before = self.symbols.len();
        let mut at = At { spec, args, row: 0, counters: vec![], numbers: vec![], pairs: vec![], locals: vec![] };
        self.symbols.extend(spec.tiles.iter().map(|t| (t.symbol, t.tile)));
        let mut end = 0;
        for bytes in &spec.pairs {
            let bytes = self.value(bytes);
            at.pairs.push([end, end + bytes]);
            end += 2 * bytes;
        }
        at.locals = spec.locals.iter().map(|d| end + self.value(d)).collect();
        self.region = vec![0xcd; (end + self.value(&spec.local_bytes)) as usize];
        self.symbols.truncate(before);
        self.symbols.extend(spec.tiles.iter().map(|t| (t.symbol, 1)));
        for row in 0..rows {
            at.row = row;
            let first = at.pairs.clone();
            self.steps(&spec.steps, &mut at);
            at.pairs = first;
        }
        self.symbols.truncate(before);
    }

    fn place(&self, place: &Place, at: &At<'_>) -> Base {
        let local = |start| Base { memory: Memory::Region, start };
        let base = match place.memory {
            region::Memory::Buffer(i) => at.args[i],
            region::Memory::Local(i) => local(at.locals[i]),
            region::Memory::Now(i) => local(at.pairs[i][0]),
            region::Memory::Next(i) => local(at.pairs[i][1]),
        };
        let counter = |c: &Counter| match c {
            Counter::Row => at.row,
            Counter::Loop(depth) => at.counters[*depth],
        };
        let moved = place.strides.iter().map(|(c, d)| counter(c) * self.value(d)).sum::<i64>();
        Base { start: base.start + self.value(&place.offset) + moved, ..base }
    }

    fn steps(&mut self, steps: &[Step], at: &mut At<'_>) {
        for step in steps {
            match step {
                Step::Call { kernel, args, first } => {
                    let first = first.as_ref().filter(|f| at.numbers[f.depth] == 0).map(|f| f.kernel);
                    let args: Vec<Base> = args.iter().map(|p| self.place(p, at)).collect();
                    let spec = &at.spec.kernels[first.unwrap_or(*kernel)];
                    assert_eq!(args.len(), spec.buffers().len());
                    self.launch(spec, &args);
                }
                Step::If { condition, then, otherwise } => {
                    let yes = self.element(self.place(condition, at), ElemType::I1) != 0;
                    self.steps(if yes { then } else { otherwise }, at);
                }
                Step::Loop(l) => self.looped(l, at),
            }
        }
    }

    fn looped(&mut self, l: &Loop, at: &mut At<'_>) {
        let count = match &l.times {
            Times::Size(d) | Times::While { max: d, .. } => self.value(d),
            Times::Read(place) => self.element(self.place(place, at), ElemType::I64),
        };
        let length = match &l.compact {
            Some(Compact { lengths: Some(rows), .. }) => {
                self.element(self.outside(rows, 0, at), ElemType::I64).clamp(0, count)
            }
            _ => count,
        };
        for (rows, local) in l.compact.iter().flat_map(|c| &c.kept) {
            self.bring(self.outside(rows, 0, at), self.place(local, at), rows);
        }
        for step in 0.. {
            at.counters.push(if l.down { count - 1 - step } else { step });
            at.numbers.push(step);
            if let Times::While { test, flag, .. } = &l.times {
                self.steps(test, at);
                if self.element(self.place(flag, at), ElemType::I1) == 0 {
                    break;
                }
                assert!(step < count, "more than {count} steps");
            } else if step >= length {
                break;
            }
            if let Some(index) = &l.index {
                let to = self.bind(self.place(index, at), &Access::new(ElemType::I64, 0, [0; 0]));
                self.set(&to, &[], kiln_ir::scalar::Scalar::I(at.counters[at.counters.len() - 1]));
            }
            let position = if l.compact.as_ref().is_some_and(|c| c.reverse) { length - 1 - step } else { step };
            for (rows, local) in l.compact.iter().flat_map(|c| &c.slices) {
                self.bring(self.outside(rows, position, at), self.place(local, at), rows);
            }
            self.steps(&l.body, at);
            for (local, rows) in l.compact.iter().flat_map(|c| &c.stacked) {
                self.take(self.place(local, at), self.outside(rows, position, at), rows);
            }
            l.pairs.iter().for_each(|p| at.pairs[*p].swap(0, 1));
            at.counters.pop();
            at.numbers.pop();
        }
        at.counters.pop();
        at.numbers.pop();
        if let Some(c) = &l.compact {
            for (pair, rows) in l.pairs.iter().zip(&c.home) {
                let from = Base { memory: Memory::Region, start: at.pairs[*pair][0] };
                self.take(from, self.outside(rows, 0, at), rows);
            }
            for (_, rows) in &c.stacked {
                for position in length..count {
                    let bytes = self.value(&rows.row_bytes()) as usize;
                    self.region.resize(self.region.len() + bytes, 0);
                    let zeros = Base { memory: Memory::Region, start: (self.region.len() - bytes) as i64 };
                    self.take(zeros, self.outside(rows, position, at), rows);
                    self.region.truncate(self.region.len() - bytes);
                }
            }
        }
    }

    /// Copies the runs of a row outside to one place after the other.
    fn bring(&mut self, from: Base, to: Base, rows: &Rows) {
        for (outside, inside) in self.runs(rows) {
            let [from, to] = [(from, outside), (to, inside)].map(|(b, by)| Base { start: b.start + by, ..b });
            self.copy(from, to, &rows.bytes);
        }
    }

    fn take(&mut self, from: Base, to: Base, rows: &Rows) {
        for (outside, inside) in self.runs(rows) {
            let [from, to] = [(from, inside), (to, outside)].map(|(b, by)| Base { start: b.start + by, ..b });
            self.copy(from, to, &rows.bytes);
        }
    }

    fn runs(&self, rows: &Rows) -> Vec<(i64, i64)> {
        let (apart, bytes) = (self.value(&rows.apart), self.value(&rows.bytes));
        (0..self.value(&rows.runs)).map(|run| (run * apart, run * bytes)).collect()
    }

    /// The row of the tile at a position.
    fn outside(&self, rows: &Rows, position: i64, at: &At<'_>) -> Base {
        let base = self.place(&rows.first, at);
        Base { start: base.start + position * self.value(&rows.position), ..base }
    }

    fn copy(&mut self, from: Base, to: Base, bytes: &Dim) {
        let bytes = self.value(bytes) as usize;
        let data = self.bytes(from.memory)[from.start as usize..][..bytes].to_vec();
        self.bytes_mut(to.memory)[to.start as usize..][..bytes].copy_from_slice(&data);
    }
}
