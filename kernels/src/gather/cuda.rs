//! A gather on GPUs: neighbouring threads have neighbouring elements of a slice, 16 bytes each where memory is walked as
//! one run and addresses allow it.

use super::{Spec, emit::Task};
use crate::{
    Family,
    abi::ModuleBuilder,
    build::{Bool, Cmp, Ix, Ty, V},
    cpu::ONE_LANE,
    cuda::{Grid, aligned},
    map::bits,
    scalar::memory,
    view::{Part, coordinates, product},
};
use kiln_ir::Dim;

/// Threads of a block.
const THREADS: u32 = 256;
/// Bytes that a thread moves at a time.
const VECTOR: i64 = 16;

fn element_bytes(spec: &Spec) -> i64 {
    i64::from(memory(bits(spec.table.elem)).bits() / 8)
}

/// Elements of a slice that a thread has.
fn width(spec: &Spec) -> i64 {
    let [.., after] = spec.axes();
    match &after[..] {
        [run] if run.strides.iter().all(|s| s.is(1)) => VECTOR / element_bytes(spec),
        _ => 1,
    }
}

pub(super) fn grid(spec: &Spec) -> Grid {
    let [shared, before, indices, after] = spec.axes();
    let slices = [shared, before, indices].iter().flatten().fold(Dim::from(1), |n, a| n * a.length());
    let slice = after.iter().fold(Dim::from(1), |n, a| n * a.length());
    let tasks = slices * slice.ceil_div(&width(spec).into());
    Grid::new(tasks, THREADS, THREADS)
}

pub(super) fn emit(spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str) {
    let width = width(spec);
    module.kernel(symbol, &spec.size_args(), |kernel| {
        let task = Task::new(spec, kernel, &ONE_LANE);
        Some(one(&task, kernel.lo, width, element_bytes(spec)))
    });
}

/// The status of one thread's elements.
fn one<'k>(task: &Task<'_, 'k>, at: Ix<'k>, width: i64, bytes: i64) -> V<'k> {
    let (k, kernel) = (task.k, task.kernel);
    let axis = kernel.size(&task.spec.axis);
    let (outer, after) = task.extents();
    let length = product(&after);
    let parts = length.ceil_div(width);
    let place = coordinates(at.div(parts), &outer);
    let front = task.shared.len() + task.before.len();
    let within = at.rem(parts) * width;
    let index = task.index_at(task.index.at(&[&place[..task.shared.len()], &place[front..]].concat()));
    let table = task.table.at(&[&place[..front], &[Ix::Value(index)]].concat());
    let output = task.output.at(&place);
    let one = |within: Ix<'k>| {
        let inner = coordinates(within, &after);
        let step = |strides: &[Ix<'k>]| {
            let last = &strides[strides.len() - inner.len()..];
            inner.iter().zip(last).fold(Ix::Const(0), |sum, (i, s)| sum + *i * *s)
        };
        let value = task.table.load(task.table.step(table, step(&task.table.strides)), 0.into(), Part::All(1));
        let to = task.output.step(output, step(&task.output.strides));
        task.output.store(to, 1.into(), Part::All(1), value);
    };
    let copy = || {
        if width == 1 {
            one(within);
            return vec![k.int(Ty::I32, 0)];
        }
        let strides = |all: &[Ix<'k>]| all[..all.len() - 1].iter().map(|s| *s * bytes).collect::<Vec<_>>();
        let far = [strides(&task.table.strides), strides(&task.output.strides)].concat();
        let whole: Bool<'k> =
            (within + width).le(length).and(aligned(&[task.table.base, task.output.base], &far, VECTOR));
        let vector = || {
            let ty = task.table.moves(width as u32).memory();
            let value = task.table.step(table, within).load_aligned(ty, VECTOR as u32);
            task.output.step(output, within).store_aligned(value, VECTOR as u32);
            vec![]
        };
        let single = || {
            k.for_(within, (within + width).min(length), 1, one);
            vec![]
        };
        k.if_else(whole, vector, single);
        vec![k.int(Ty::I32, 0)]
    };
    k.if_else(index.cmp(Cmp::Ult, axis.v(k)), copy, || vec![k.int(Ty::I32, 1)])[0]
}
