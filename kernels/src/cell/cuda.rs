//! Cells on GPUs: a warp has 16 hidden units of a few rows with all of their gates, and a lane what the gates make of one
//! unit.

use super::{Cell, Spec, WEIGHT};
use crate::{
    Family,
    abi::{Kernel, ModuleBuilder},
    build::{Bool, Ix, Ty, V},
    cpu::ONE_LANE,
    cuda::{
        BLOCK_THREADS, Grid,
        panel::{Cut, Panel, Reads},
    },
    matmul::pack::PANEL,
    scalar::{memory, register},
    view::{Part, View},
};

/// What a symbolic number of rows is taken for.
const USUAL_ROWS: i64 = 128;

fn cut(spec: &Spec, alone: bool) -> Cut {
    let rows = if alone { 1 } else { spec.rows.as_const().unwrap_or(USUAL_ROWS) };
    // Without a product there is no depth to share.
    let depth = if spec.starts { 0 } else { spec.hidden };
    let cut = Cut::new([spec.weight, spec.sum_elem()], spec.cell.gates(), depth, alone);
    cut.shared((rows + cut.rows - 1) / cut.rows * spec.blocks())
}

pub(super) fn grid(spec: &Spec, alone: bool) -> Grid {
    let cut = cut(spec, alone);
    let tasks = spec.rows.ceil_div(&cut.rows.into()) * spec.blocks().into();
    Grid::new(tasks, BLOCK_THREADS, cut.teams() as u32)
}

pub(super) fn emit(spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str) {
    let cut = cut(spec, module.is_within_block());
    cut.memory(module, symbol);
    module.cuda(symbol, spec.buffers().len(), &spec.size_args(), |entry| {
        let kernel = &entry.kernel;
        let step = Step::new(spec, kernel, cut);
        let panel = Panel::new(kernel.k, cut, symbol);
        panel.tasks(kernel.hi, |task| step.sums(&panel, task), |task, sums| step.finish(&panel, task, sums));
    });
}

struct Step<'s, 'k> {
    spec: &'s Spec,
    cut: Cut,
    kernel: &'s Kernel<'k>,
    rows: Ix<'k>,
    gx: View<'k>,
    h: View<'k>,
    /// `c` or the bias.
    extra: Option<View<'k>>,
    output: View<'k>,
    next: Option<View<'k>>,
}

impl<'s, 'k> Step<'s, 'k> {
    fn new(spec: &'s Spec, kernel: &'s Kernel<'k>, cut: Cut) -> Self {
        let view = |buffer: usize, access| View::new(kernel, buffer, access, &ONE_LANE);
        let (extra, next) = match &spec.cell {
            Cell::Lstm { c, next } => (Some(c), Some(next)),
            Cell::Gru { bias } => (bias.as_ref(), None),
        };
        let inputs = WEIGHT + 1 + usize::from(extra.is_some());
        Step {
            spec,
            cut,
            kernel,
            rows: kernel.size(&spec.rows),
            gx: view(0, &spec.gx),
            h: view(1, &spec.h),
            extra: extra.map(|access| view(WEIGHT + 1, access)),
            output: view(inputs, &spec.output),
            next: next.map(|access| view(inputs + 1, access)),
        }
    }

    /// The first row of a task and its block of hidden units.
    fn place(&self, task: Ix<'k>) -> (Ix<'k>, Ix<'k>) {
        let blocks = self.spec.blocks();
        (task.div(blocks) * self.cut.rows, task.rem(blocks))
    }

    fn sums(&self, panel: &Panel<'k>, task: Ix<'k>) -> Vec<V<'k>> {
        let (spec, (first, block)) = (self.spec, self.place(task));
        if spec.starts {
            let zero = self.kernel.k.zero(Ty::new(register(spec.sum_elem()), 1));
            return vec![zero; (self.cut.rows * spec.cell.gates()) as usize];
        }
        let line = spec.cell.gates() * PANEL;
        let elem = memory(spec.weight);
        let weight = self.kernel.buffer(WEIGHT).offset(elem, block * (spec.hidden * line) + panel.first);
        let rows: Vec<_> = (0..self.cut.rows).map(|r| self.h.at(&[(first + r).min(self.rows - 1)])).collect();
        let sum = register(spec.sum_elem());
        panel.sums(
            self.rows - first,
            &Reads {
                weight: &|depth, gate| weight.offset(elem, depth * line + gate * PANEL),
                element: &|row, depth| {
                    self.h.load(self.h.step(rows[row as usize], depth), 1.into(), Part::All(1)).float_to(sum)
                },
            },
        )
    }

    fn finish(&self, panel: &Panel<'k>, task: Ix<'k>, sums: &[V<'k>]) {
        let (first, block) = self.place(task);
        let unit = block * PANEL + panel.column;
        let inside = if self.spec.hidden % PANEL == 0 { Bool::Const(true) } else { unit.lt(self.spec.hidden) };
        panel.each_row(sums, |row, sums| {
            let row = first + row;
            self.kernel.k.if_(row.lt(self.rows).and(inside), || self.unit(row, unit, sums));
        });
    }

    /// The next states of a hidden unit of a row.
    fn unit(&self, row: Ix<'k>, unit: Ix<'k>, sums: &[V<'k>]) {
        let (hidden, part) = (self.spec.hidden, Part::All(1));
        let sum = register(self.spec.sum_elem());
        let load = |view: &View<'k>, leading: &[Ix<'k>], gate: i64| {
            view.load(view.step(view.at(leading), unit + gate * hidden), 1.into(), part).float_to(sum)
        };
        let store = |view: &View<'k>, value| view.store(view.step(view.at(&[row]), unit), 1.into(), part, value);
        let gx: Vec<V> = (0..self.spec.cell.gates()).map(|gate| load(&self.gx, &[row], gate)).collect();
        if let (Some(c), Some(next)) = (&self.extra, &self.next) {
            let [i, f, g, o] = [0, 1, 2, 3].map(|gate| sums[gate] + gx[gate]);
            let [h, c] = super::lstm([i, f, g, o], load(c, &[row], 0));
            store(next, c);
            return store(&self.output, h);
        }
        let biased = |gate: usize| match &self.extra {
            Some(bias) => sums[gate] + load(bias, &[], gate as i64),
            None => sums[gate],
        };
        let h = super::gru([gx[0], gx[1], gx[2]], [0, 1, 2].map(biased), load(&self.h, &[row], 0));
        store(&self.output, h);
    }
}
