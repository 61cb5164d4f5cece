//! Loops on GPUs: the threads of a block run a task together, and each kernel of the body is done by all of them.
//!
//! Tiles have few rows, so that blocks are many, up to as many as share the second cache's rate well: a weight that comes
//! from there serves all rows of the tile. What a task has of its own lies in shared memory if it fits.

use super::{
    Spec, compact,
    emit::{Emitter, Own, value},
    memory::Layout,
};
use crate::{
    Family,
    abi::ModuleBuilder,
    build::Ty,
    cuda::{
        BLOCK_THREADS, Grid, Sm,
        block::{Block, SHARED_BYTES},
    },
};
use kiln_ir::Dim;
use std::collections::BTreeSet;

/// Blocks that take what the second cache can give: 64 bytes in each of its cycles go to one, and 5 KB in all.
const BLOCKS_WANTED: i64 = 64;

/// The architecture whose kernels are called: those made for later ones alone have blocks of their own making.
const INNER: Sm = Sm::Sm80;

fn layout(spec: &Spec) -> Layout<'_> {
    let tile = spec
        .tiles
        .as_ref()
        .map_or(0.into(), |t| t.rows.ceil_div(&BLOCKS_WANTED.into()).max_with(&1.into()).min_with(&t.tile.into()));
    Layout::new(spec, tile)
}

pub(super) fn grid(spec: &Spec) -> Grid {
    let layout = layout(spec);
    // Of plain kernels each thread has scratch.
    let inner = |kernel: &crate::KernelSpec| {
        let grid = kernel.block_grid(INNER);
        let under_way = if grid.block_tasks == 1 { 1 } else { i64::from(BLOCK_THREADS) };
        layout.aligned(&(grid.scratch_bytes * under_way.into()))
    };
    let inner: BTreeSet<Dim> = spec.kernels.iter().map(inner).collect();
    let scratch_bytes = layout.scratch() + inner.into_iter().reduce(|a, b| a.max_with(&b)).unwrap_or(0.into());
    let tasks = spec.tiles.as_ref().map_or(1.into(), |t| t.rows.ceil_div(&layout.tile));
    Grid { scratch_bytes, ..Grid::new(tasks, BLOCK_THREADS, 1) }
}

pub(super) fn emit(spec: &Spec, module: &mut ModuleBuilder<'_>, symbol: &str) {
    let calls: Vec<String> = (0..spec.kernels.len()).map(|i| format!("{symbol}.{i}")).collect();
    for (call, kernel) in calls.iter().zip(&spec.kernels) {
        module.inner_cuda(call, kernel, INNER, symbol);
    }
    if compact::is_used(&spec.steps) {
        compact::emit_copy_together(module, symbol);
    }
    let room = (SHARED_BYTES - module.inner_shared_bytes()).max(0);
    let (start, shared) = module.caller_memory(symbol, room);
    module.cuda(symbol, spec.buffers.len(), &spec.size_args(), |entry| {
        let kernel = &entry.kernel;
        let k = kernel.k;
        let (status, left) = (k.variable(Ty::I32), k.variable(Ty::I64));
        let block = Block::new(k);
        let layout = layout(spec);
        let fits = value(kernel, &layout.scratch()).le(room);
        let scratch = kernel.scratch.bytes(crate::cuda::block(k) * entry.scratch_bytes);
        let state = fits.choose_address(block.shared(&shared).bytes(start), scratch);
        let mut kernel = kernel.clone();
        kernel.scratch = scratch;
        let own = Own { state, status, left, block: Some((block, INNER)) };
        let emitter = Emitter::new(spec, &kernel, (symbol, &calls), layout, own, &|at| state.bytes(at));
        block.tasks(kernel.hi, |task| {
            emitter.task(task);
            block.barrier();
        });
        entry.report(emitter.result());
    });
}
