//! Rows on GPUs: a team of threads has one. What the prologue makes of a row is made again in each pass, as that is
//! quicker than to keep it, and the row stays in the first cache.

use super::{Spec, emit::Task};
use crate::{
    Access, Family,
    abi::{Kernel, ModuleBuilder},
    access,
    build::{Bool, Ix},
    cpu::ONE_LANE,
    cuda::{
        Grid, aligned,
        team::{Row, Size, Team},
    },
    scalar::memory,
};

/// Bytes that a thread moves at a time.
const VECTOR: i64 = 16;

pub(super) fn grid(spec: &Spec) -> Grid {
    Size::of(&spec.inner).grid(access::product(&spec.outer))
}

pub(super) fn block_grid(spec: &Spec) -> Grid {
    Size::of(&spec.inner).block_grid(access::product(&spec.outer))
}

pub(super) fn emit(spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str) {
    let size = Size::of(&spec.inner);
    size.shared(module, symbol);
    module.cuda(symbol, spec.buffers().len(), &spec.size_args(), |entry| {
        let kernel = &entry.kernel;
        let team = Team::new(kernel.k, size, symbol);
        let accesses: Vec<&Access> = spec.inputs.iter().chain([&spec.output]).collect();
        let row = through(kernel, &accesses, spec.outer.len(), kernel.size(&spec.inner));
        let task = Task::new(spec, kernel, &ONE_LANE, Some((team, row)));
        team.rows(kernel.hi, |at| task.row(at));
    });
}

/// How a team goes along `axis` of these accesses, the last of which is written: by vectors where all move them.
pub(crate) fn through<'k>(kernel: &Kernel<'k>, accesses: &[&Access], axis: usize, length: Ix<'k>) -> Row<'k> {
    let bytes = |access: &Access| i64::from(memory(access.elem).bits() / 8);
    let moved: Vec<(usize, &&Access)> = accesses.iter().enumerate().filter(|(_, a)| a.strides[axis].is(1)).collect();
    let near = accesses.iter().all(|a| a.strides[axis].is(0) || a.strides[axis].is(1));
    let widest = moved.iter().map(|(_, a)| bytes(a)).max();
    let width = widest.filter(|_| near).map_or(1, |widest| VECTOR / widest);
    let mut whole = Bool::Const(width > 1);
    for (i, access) in moved.iter().filter(|_| width > 1) {
        let base = kernel.buffer(*i).offset(memory(access.elem), kernel.size(&access.offset));
        let others = access.strides.iter().enumerate().filter(|(a, _)| *a != axis);
        let far: Vec<Ix> = others.map(|(_, s)| kernel.size(s) * bytes(access)).collect();
        whole = whole.and(aligned(&[base], &far, width * bytes(access)));
    }
    Row { length, whole: whole.choose(length.div(width) * width, 0), width }
}
