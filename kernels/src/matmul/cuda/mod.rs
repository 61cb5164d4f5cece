//! Kernels for GPUs. Which one computes a product, and with which tiles, is a function of its shape and types alone.

mod element;
mod epilogue;
mod fma;
mod hopper;
mod operand;
mod order;
mod tensor;

use super::{Rhs, Spec};
use crate::{
    abi::{Kernel, ModuleBuilder},
    build::Ix,
    cuda::{Grid, Sm},
    view::{coordinates, sizes},
};
use kiln_ir::{Dim, ElemType};
use operand::Layout;

/// How a product is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// Where rows or columns are few.
    Few(element::Share),
    /// A tile of *C* a block, by multiply-adds.
    Fma(fma::Tile),
    /// A tile of *C* a block, by tensor cores.
    Tensor(tensor::Tile),
    /// A tile of *C* a block at a time, by products of warp groups.
    Hopper(hopper::Tile),
}

/// Tiles that keep a device busy: about one for each of an A100's multiprocessors.
const TILES_WANTED: i64 = 96;
/// What symbolic sizes are taken for.
const USUAL_SIZE: i64 = 1024;
const USUAL_BATCH: i64 = 8;
/// With fewer rows most of a tile would be idle.
const FEWEST_ROWS: i64 = 8;

impl Way {
    /// For a product that is done by one block `alone`, whose rows are few, or by all of a device.
    fn of(spec: &Spec, sm: Sm, alone: bool) -> Way {
        let m = spec.m.as_const().unwrap_or(USUAL_SIZE);
        let n = spec.n.as_const().unwrap_or(USUAL_SIZE);
        let batch: i64 = spec.batch.iter().map(|d| d.as_const().unwrap_or(USUAL_BATCH)).fold(1, i64::saturating_mul);
        if alone || m < FEWEST_ROWS || n < FEWEST_ROWS {
            return Way::Few(element::Share::of(spec, alone));
        }
        let tiles = |[rows, columns]: [i64; 2]| {
            ((m + rows - 1) / rows).saturating_mul((n + columns - 1) / columns).saturating_mul(batch)
        };
        let busy = |size: [i64; 2]| tiles(size) >= TILES_WANTED;
        let b = match &spec.b {
            Rhs::Packed(elem) => *elem,
            Rhs::Strided(matrix) => matrix.elem,
        };
        let short = spec.a.elem == b && matches!(b, ElemType::F16 | ElemType::BF16);
        if short && Layout::of_a(spec).is_some() && Layout::of_b(spec).is_some() {
            let large = hopper::TILES.iter().filter(|t| busy(t.size()) && hopper::serves(spec, **t));
            let fastest = large.min_by_key(|t| t.time_of(tiles(t.size())));
            if let (Sm::Sm90a, Some(tile)) = (sm, fastest) {
                return Way::Hopper(*tile);
            }
            let all = &tensor::TILES;
            return Way::Tensor(*all.iter().find(|t| busy(t.size())).unwrap_or(&all[all.len() - 1]));
        }
        let all = fma::tiles(spec.sum_elem());
        Way::Fma(*all.iter().find(|t| busy(t.size())).unwrap_or(&all[all.len() - 1]))
    }
}

pub(super) fn grid(spec: &Spec, sm: Sm, alone: bool) -> Grid {
    let way = Way::of(spec, sm, alone);
    let (size, threads) = match way {
        Way::Few(share) => return share.grid(spec),
        Way::Fma(tile) => (tile.size(), fma::THREADS),
        Way::Tensor(tile) => (tile.size(), tile.threads()),
        Way::Hopper(tile) => (tile.size(), 0),
    };
    let [rows, columns] = size.map(Dim::from);
    let tasks = spec.batch_size() * spec.m.ceil_div(&rows) * spec.n.ceil_div(&columns);
    match way {
        Way::Hopper(tile) => hopper::grid(spec, tile, tasks),
        _ => Grid::new(tasks, threads as u32, 1),
    }
}

pub(super) fn emit(spec: &Spec, sm: Sm, module: &mut ModuleBuilder<'_>, symbol: &str) {
    match Way::of(spec, sm, module.is_within_block()) {
        Way::Few(share) => share.emit(spec, module, symbol),
        Way::Fma(tile) => fma::emit(spec, tile, module, symbol),
        Way::Tensor(tile) => tensor::emit(spec, tile, module, symbol),
        Way::Hopper(tile) => hopper::emit(spec, tile, module, symbol),
    }
}

/// Where a tile lies: the batch coordinates, the first row and the first column.
struct Place<'k> {
    batch: Vec<Ix<'k>>,
    row: Ix<'k>,
    column: Ix<'k>,
}

impl<'k> Place<'k> {
    /// The tile of a task, for tiles of this size.
    fn of(spec: &Spec, kernel: &Kernel<'k>, task: Ix<'k>, [rows, columns]: [i64; 2]) -> Place<'k> {
        let down = kernel.size(&spec.m).ceil_div(rows);
        let across = kernel.size(&spec.n).ceil_div(columns);
        let each = down * across;
        let (matrix, tile) =
            if spec.batch.is_empty() { (Ix::Const(0), task) } else { (task.div(each), task.rem(each)) };
        let (row, column) = order::place(tile, down, across);
        Place { batch: coordinates(matrix, &sizes(kernel, &spec.batch)), row: row * rows, column: column * columns }
    }
}
