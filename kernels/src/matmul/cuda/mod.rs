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
    /// An element of *C* a thread.
    Element,
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
    fn of(spec: &Spec, sm: Sm) -> Way {
        let m = spec.m.as_const().unwrap_or(USUAL_SIZE);
        let n = spec.n.as_const().unwrap_or(USUAL_SIZE);
        let batch: i64 = spec.batch.iter().map(|d| d.as_const().unwrap_or(USUAL_BATCH)).fold(1, i64::saturating_mul);
        if m < FEWEST_ROWS || n < FEWEST_ROWS {
            return Way::Element;
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
            let large = hopper::TILES.iter().find(|t| busy(t.size())).filter(|t| hopper::serves(spec, **t));
            if let (Sm::Sm90a, Some(tile)) = (sm, large) {
                return Way::Hopper(*tile);
            }
            let all = &tensor::TILES;
            return Way::Tensor(*all.iter().find(|t| busy(t.size())).unwrap_or(&all[all.len() - 1]));
        }
        let all = fma::tiles(spec.sum_elem());
        Way::Fma(*all.iter().find(|t| busy(t.size())).unwrap_or(&all[all.len() - 1]))
    }

    /// Rows and columns of *C* that a task computes.
    fn size(self) -> [i64; 2] {
        match self {
            Way::Element => [1, 1],
            Way::Fma(tile) => tile.size(),
            Way::Tensor(tile) => tile.size(),
            Way::Hopper(tile) => tile.size(),
        }
    }
}

pub(super) fn grid(spec: &Spec, sm: Sm) -> Grid {
    let way = Way::of(spec, sm);
    let [rows, columns] = way.size().map(Dim::from);
    let tasks = spec.batch_size() * spec.m.ceil_div(&rows) * spec.n.ceil_div(&columns);
    let (threads, block_tasks) = match way {
        Way::Hopper(tile) => return hopper::grid(spec, tile, tasks),
        Way::Element => (element::THREADS, element::THREADS),
        Way::Fma(_) => (fma::THREADS as u32, 1),
        Way::Tensor(tile) => (tile.threads() as u32, 1),
    };
    Grid::new(tasks, threads, block_tasks)
}

pub(super) fn emit(spec: &Spec, sm: Sm, module: &mut ModuleBuilder<'_>, symbol: &str) {
    match Way::of(spec, sm) {
        Way::Element => element::emit(spec, module, symbol),
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
