//! A tile of *C* a block, by tensor cores: `mma.sync` on registers that `ldmatrix` fills from shared memory, to which
//! `cp.async` brings the parts of *A* and *B* several steps ahead.
//!
//! In shared memory lie rows of 16-byte chunks: of an operand whose neighbours lie along the depth, a row of [`DEPTH`]
//! elements for each of its rows; of others, a row of the tile's width for each depth. Chunks change places within their row
//! so that the eight that a matrix of `ldmatrix` consists of, one above the other, are in different banks.

use super::{
    Place,
    epilogue::{Epilogue, Part},
    operand::{Layout, Operand},
};
use crate::{
    abi::{Kernel, ModuleBuilder},
    build::{Bool, Elem, Ix, K, Ptr, Ty, V},
    cuda::block::{self, Block, CHUNK, CHUNK_BYTES, SHARED_BYTES, WARP},
    matmul::Spec,
};
use kiln_ir::ElemType;

/// The depth of a part.
const DEPTH: i64 = 32;
/// Rows and depth of a fragment of an operand, and columns of one of the sums.
const FRAGMENT: i64 = 16;
const SUM_COLUMNS: i64 = 8;
/// Elements that rows of sums are longer, so that they do not begin in the same bank.
const SUMS_PAD: i64 = 8;
/// Rows of sums of a warp that are in shared memory at a time.
const STRIP: i64 = 32;

/// Two by two warps, each of which has this many rows and columns of sums; parts that are in shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tile {
    rows: i64,
    columns: i64,
    stages: i64,
}

/// What there is to choose from, the largest first.
pub(super) const TILES: [Tile; 3] = [
    Tile { rows: 64, columns: 64, stages: 3 },
    Tile { rows: 32, columns: 64, stages: 4 },
    Tile { rows: 32, columns: 32, stages: 4 },
];

/// Warps along each side of a tile.
const WARPS: i64 = 2;

impl Tile {
    pub(super) fn size(self) -> [i64; 2] {
        [WARPS * self.rows, WARPS * self.columns]
    }

    pub(super) fn threads(self) -> i64 {
        WARPS * WARPS * WARP
    }

    /// Bytes of a part of *A* and of *B*.
    fn part_bytes(self) -> [i64; 2] {
        self.size().map(|outer| outer * DEPTH * 2)
    }

    fn stage_bytes(self) -> i64 {
        self.part_bytes().iter().sum()
    }

    /// Bytes of a warp's sums that are in shared memory at a time.
    fn strip_bytes(self) -> i64 {
        STRIP * (self.columns + SUMS_PAD) * 4
    }

    fn shared_bytes(self) -> i64 {
        (self.stages * self.stage_bytes()).max(WARPS * WARPS * self.strip_bytes())
    }
}

const _: () = {
    let mut i = 0;
    while i < TILES.len() {
        let Tile { rows, columns, stages } = TILES[i];
        assert!(stages * WARPS * (rows + columns) * DEPTH * 2 <= SHARED_BYTES);
        assert!(WARPS * WARPS * STRIP * (columns + SUMS_PAD) * 4 <= SHARED_BYTES);
        i += 1;
    }
};

pub(super) fn emit(spec: &Spec, tile: Tile, module: &mut ModuleBuilder<'_>, symbol: &str) {
    block::kernel(spec, module, symbol, tile.shared_bytes(), |kernel, block, shared, task| {
        Task { spec, kernel, block, tile, shared }.run(task);
    });
}

struct Task<'s, 'k> {
    spec: &'s Spec,
    kernel: &'s Kernel<'k>,
    block: Block<'k>,
    tile: Tile,
    shared: Ptr<'k>,
}

/// One of the operands: how its parts get to shared memory and from there to registers.
struct Side<'k> {
    k: K<'k>,
    block: Block<'k>,
    operand: Operand<'k>,
    aligned: Bool<'k>,
    /// Rows or columns of *C* that the block has, and the first of them.
    width: i64,
    first: Ix<'k>,
    threads: i64,
    /// Whether all parts are whole.
    divides: bool,
    /// Where lanes find the rows of the matrices that they load, as bytes within a part but for the place of the chunk.
    row: Ix<'k>,
    /// The first chunk in its row, and what its number is changed by.
    chunk: Ix<'k>,
    swizzle: Ix<'k>,
}

impl<'k> Side<'k> {
    /// `warp` is the first row or column of the warp within the block's; `is_a` tells in which order fragments are.
    fn new(
        block: Block<'k>,
        operand: Operand<'k>,
        tile: (i64, i64),
        first: Ix<'k>,
        warp: Ix<'k>,
        is_a: bool,
    ) -> Side<'k> {
        let (width, threads) = tile;
        let (matrix, r) = (block.lane.div(8), block.lane.rem(8));
        let (low, high) = (matrix.rem(2), matrix.div(2));
        let (outer, depth) = if is_a { (low, high) } else { (high, low) };
        let (row, chunk, swizzle) = match operand.layout {
            Layout::Depth => ((warp + outer * 8 + r) * DEPTH * 2, depth, r.div(2)),
            Layout::Outer => ((depth * 8 + r) * width * 2, warp.div(CHUNK) + outer, r),
        };
        let aligned = operand.is_aligned(CHUNK_BYTES);
        let whole = |size: Ix<'k>, part: i64| size.as_const().is_some_and(|size| size % part == 0);
        let divides = whole(operand.outer, width) && whole(operand.depth, DEPTH);
        Side { k: block.k, block, operand, aligned, width, first, threads, divides, row, chunk, swizzle }
    }

    /// Starts to bring the part at a depth to `to`.
    fn bring(&self, to: Ptr<'k>, depth: Ix<'k>) {
        let across = match self.operand.layout {
            Layout::Depth => DEPTH / CHUNK,
            Layout::Outer => self.width / CHUNK,
        };
        let chunks = self.width * DEPTH / CHUNK / self.threads;
        let (first, chunk) = (self.block.thread.div(across), self.block.thread.rem(across));
        self.block.copy_chunks(self.aligned, |copy| {
            for i in 0..chunks {
                let row = first + i * (self.threads / across);
                let (outer, depth, swizzle) = match self.operand.layout {
                    Layout::Depth => (self.first + row, depth + chunk * CHUNK, row.div(2).rem(4)),
                    Layout::Outer => (self.first + chunk * CHUNK, depth + row, row.rem(8)),
                };
                let mut from = self.operand.at(outer, depth);
                let mut left = Ix::Const(CHUNK);
                if !self.divides {
                    left = self.operand.left(outer, depth, CHUNK);
                    // Where nothing is read, the address has to be one all the same.
                    let none = left.eq(0).v(self.k);
                    from = none.select(self.operand.at(0.into(), 0.into()).0, from.0).ptr();
                }
                copy(to.bytes(row * across * CHUNK_BYTES + chunk.xor(swizzle) * CHUNK_BYTES), from, left);
            }
        });
    }

    /// The registers of fragment `at` along the outer axis and `step` along the depth of a part.
    fn fragment(&self, part: Ptr<'k>, at: i64, step: i64) -> Vec<V<'k>> {
        let (row, chunk) = match self.operand.layout {
            Layout::Depth => (self.row + at * FRAGMENT * DEPTH * 2, self.chunk + step * FRAGMENT / CHUNK),
            Layout::Outer => (self.row + step * FRAGMENT * self.width * 2, self.chunk + at * FRAGMENT / CHUNK),
        };
        let from = part.bytes(chunk.xor(self.swizzle) * CHUNK_BYTES).bytes(row);
        self.block.load_matrices(from, self.operand.layout == Layout::Outer)
    }
}

impl<'k> Task<'_, 'k> {
    fn run(&self, task: Ix<'k>) {
        let (k, tile, block) = (self.kernel.k, self.tile, self.block);
        let place = Place::of(self.spec, self.kernel, task, tile.size());
        let (down, across) = (block.warp.div(WARPS), block.warp.rem(WARPS));
        let [rows, columns] = tile.size();
        let side =
            |operand, width, first, warp, is_a| Side::new(block, operand, (width, tile.threads()), first, warp, is_a);
        let a = Operand::a(self.spec, self.kernel, &place.batch);
        let a = side(a, rows, place.row, down * tile.rows, true);
        let b = Operand::b(self.spec, self.kernel, &place.batch);
        let b = side(b, columns, place.column, across * tile.columns, false);
        let bring = |stage: Ptr<'k>, depth: Ix<'k>| {
            a.bring(stage, depth);
            b.bring(stage.bytes(tile.part_bytes()[0]), depth);
        };

        let steps = self.kernel.size(&self.spec.k).ceil_div(DEPTH);
        let ahead = tile.stages - 1;
        for stage in 0..ahead {
            k.if_(Ix::Const(stage).lt(steps), || {
                bring(self.shared.bytes(stage * tile.stage_bytes()), (stage * DEPTH).into());
            });
            block.commit_copies();
        }
        let count = (tile.rows / FRAGMENT * (tile.columns / SUM_COLUMNS) * 4) as usize;
        let mut carried = vec![k.zero(Ty::F32); count];
        // The parts that are read and written next.
        carried.extend([0, ahead * tile.stage_bytes()].map(|at| k.int(Ty::I64, at)));
        let after = |at: V<'k>| {
            let next = Ix::Value(at) + tile.stage_bytes();
            next.eq(tile.stages * tile.stage_bytes()).choose(0, next).v(k)
        };
        let sums = k.for_carry(0, steps, 1, &carried, |step, carried| {
            let (sums, stages) = carried.split_at(count);
            block.wait_for_copies(ahead - 1);
            block.barrier();
            k.if_((step + ahead).lt(steps), || {
                bring(self.shared.bytes(Ix::Value(stages[1])), (step + ahead) * DEPTH);
            });
            block.commit_copies();
            let mut sums = self.multiply((&a, &b), self.shared.bytes(Ix::Value(stages[0])), sums);
            sums.extend(stages.iter().map(|at| after(*at)));
            sums
        });
        block.wait_for_copies(0);
        block.barrier();
        self.finish(&place, (down, across), &sums[..count]);
        block.barrier();
    }

    /// Adds the products of a part.
    fn multiply(&self, (a, b): (&Side<'k>, &Side<'k>), part: Ptr<'k>, sums: &[V<'k>]) -> Vec<V<'k>> {
        let tile = self.tile;
        let across = (tile.columns / SUM_COLUMNS) as usize;
        let mut sums = sums.to_vec();
        let bf16 = self.spec.a.elem == ElemType::BF16;
        for step in 0..DEPTH / FRAGMENT {
            let b_part = part.bytes(tile.part_bytes()[0]);
            let a: Vec<Vec<V>> = (0..tile.rows / FRAGMENT).map(|i| a.fragment(part, i, step)).collect();
            let b: Vec<Vec<V>> = (0..tile.columns / FRAGMENT).map(|j| b.fragment(b_part, j, step)).collect();
            for (i, a) in a.iter().enumerate() {
                for j in 0..across {
                    let at = 4 * (i * across + j);
                    let b = &b[j / 2][2 * (j % 2)..][..2];
                    let next = self.block.multiply(bf16, a, b, &sums[at..at + 4]);
                    sums[at..at + 4].copy_from_slice(&next);
                }
            }
        }
        sums
    }

    /// Takes a warp's sums through the epilogue, some rows at a time.
    fn finish(&self, place: &Place<'k>, (down, across): (Ix<'k>, Ix<'k>), sums: &[V<'k>]) {
        let (k, tile, block) = (self.kernel.k, self.tile, self.block);
        let epilogue = Epilogue::new(self.spec, self.kernel, place);
        let stride = tile.columns + SUMS_PAD;
        let strip = self.shared.bytes(block.warp * tile.strip_bytes());
        let (row, column) = (block.lane.div(4), block.lane.rem(4) * 2);
        for first in (0..tile.rows).step_by(STRIP as usize) {
            for i in 0..STRIP / FRAGMENT {
                for j in 0..tile.columns / SUM_COLUMNS {
                    let at = 4 * ((first / FRAGMENT + i) * (tile.columns / SUM_COLUMNS) + j) as usize;
                    for half in 0..2 {
                        let to = (row + i * FRAGMENT + half * 8) * stride + column + j * SUM_COLUMNS;
                        let pair = k.vector(&sums[at + 2 * half as usize..][..2]);
                        strip.offset(Elem::F32, to).store_aligned(pair, 8);
                    }
                }
            }
            block.warp_barrier();
            let part = Part {
                sums: strip,
                stride,
                rows: STRIP,
                columns: tile.columns,
                row: place.row + down * tile.rows + first,
                column: place.column + across * tile.columns,
            };
            epilogue.run(&part, (block.lane, WARP));
            block.warp_barrier();
        }
    }
}
