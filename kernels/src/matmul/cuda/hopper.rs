//! A tile of *C* a block at a time, by the products of warp groups of Hopper: a thread has the hardware copy parts of *A* and
//! *B*, unless that is panels, to a ring of stages in shared memory, and two groups, each of which has 64 rows of sums, multiply what is there. As
//! many blocks as there are multiprocessors go from tile to tile; while one ends, parts of the next are on their way.
//!
//! This is the form of CUTLASS's "warp-specialized persistent cooperative" kernels (NVIDIA, 2023).

use super::{
    Place,
    epilogue::{Epilogue, Part},
    operand,
};
use crate::{
    Family,
    abi::{Entry, Kernel, ModuleBuilder},
    build::{Bool, Cmp, Elem, Ix, Ptr, Ty, V},
    cuda::{
        Grid, Swizzle, TensorMap,
        block::{Block, CHUNK, CHUNK_BYTES, WARP},
        hopper::{self, DEPTH, GROUP, LAUNCH_BYTES, Layout, Left, Sums},
        ring::{Ring, Turn},
        tile,
    },
    matmul::{Matrix, Rhs, Spec, pack::PANEL},
};
use kiln_ir::{Dim, ElemType};

/// The depth of a part: a row of it is as wide as a swizzle.
const PART: i64 = 64;
/// Groups that multiply.
const CONSUMERS: i64 = 2;
const ROWS: i64 = CONSUMERS * hopper::ROWS;
const WARPS: i64 = CONSUMERS * GROUP / WARP;
/// One more group has a thread that copies.
const THREADS: i64 = (CONSUMERS + 1) * GROUP;
/// Registers of a thread of the group that copies, and of those that multiply.
const FEW: i64 = 40;
const MANY: i64 = 232;
const _: () = assert!(GROUP * FEW + CONSUMERS * GROUP * MANY <= hopper::REGISTERS);
/// Rows and columns of a warp's sums that are in shared memory at a time, and how much longer rows are, so that they do not
/// begin in the same bank.
const STRIP: [i64; 2] = [16, 32];
const STRIP_PAD: i64 = 8;
const STRIP_BYTES: i64 = STRIP[0] * (STRIP[1] + STRIP_PAD) * 4;

/// Columns of a tile of 128 rows, stages, and the time that it takes, in hundredths of that of 128 columns at the best speed:
/// narrow tiles read more for what they multiply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tile {
    columns: i64,
    stages: i64,
    time: i64,
}

/// What there is to choose from, the largest first.
pub(super) const TILES: [Tile; 2] =
    [Tile { columns: 256, stages: 4, time: 200 }, Tile { columns: 128, stages: 6, time: 115 }];

/// Multiprocessors of an H100; each has a tile at a time.
const MULTIPROCESSORS: i64 = 132;

impl Tile {
    pub(super) fn size(self) -> [i64; 2] {
        [ROWS, self.columns]
    }

    /// The time that so many tiles take.
    pub(super) fn time_of(self, tiles: i64) -> i64 {
        (tiles / MULTIPROCESSORS + i64::from(tiles % MULTIPROCESSORS > 0)).saturating_mul(self.time)
    }

    const fn stage_bytes(self) -> i64 {
        (ROWS + self.columns) * PART * 2
    }

    const fn shared_bytes(self) -> i64 {
        self.stages * self.stage_bytes() + WARPS * STRIP_BYTES + Ring::barrier_bytes(self.stages)
    }
}

const _: () = {
    let mut i = 0;
    while i < TILES.len() {
        assert!(TILES[i].shared_bytes() <= LAUNCH_BYTES);
        i += 1;
    }
};

/// How the hardware copies parts of an operand: all that is known when compiling.
struct Side {
    /// Rows or columns of *C* of a tile.
    width: i64,
    form: Form,
    /// The axes of the batch along which it goes on.
    batch: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Rows(operand::Layout),
    Panels,
}

impl Side {
    fn a(spec: &Spec) -> Option<Side> {
        Some(Side::strided(&spec.a, operand::Layout::of_a(spec)?, ROWS))
    }

    fn b(spec: &Spec, columns: i64) -> Option<Side> {
        match &spec.b {
            Rhs::Packed(_) => Some(Side { width: columns, form: Form::Panels, batch: vec![] }),
            Rhs::Strided(b) => Some(Side::strided(b, operand::Layout::of_b(spec)?, columns)),
        }
    }

    fn strided(matrix: &Matrix, layout: operand::Layout, width: i64) -> Side {
        let batch = (0..matrix.batch.len()).filter(|axis| !matrix.batch[*axis].is(0)).collect();
        Side { width, form: Form::Rows(layout), batch }
    }

    /// Where parts lie in shared memory.
    fn layout(&self) -> Layout {
        match self.form {
            Form::Rows(operand::Layout::Depth) => Layout { swizzle: Swizzle::Bytes128, outer: false, across: 0 },
            Form::Rows(operand::Layout::Outer) => {
                Layout { swizzle: Swizzle::Bytes128, outer: true, across: PART * 128 }
            }
            Form::Panels => Layout { swizzle: Swizzle::Bytes32, outer: true, across: PART * 32 },
        }
    }

    /// Hands the tiles of a part to `copy`: where it lies among the part's bytes, and its first element but for the batch.
    fn tiles<'k>(&self, outer: Ix<'k>, depth: Ix<'k>, copy: impl Fn(i64, &[Ix<'k>])) {
        match self.form {
            Form::Rows(operand::Layout::Depth) => copy(0, &[depth, outer]),
            Form::Rows(operand::Layout::Outer) => {
                for at in (0..self.width).step_by(PART as usize) {
                    copy(at * PART * 2, &[outer + at, depth]);
                }
            }
            Form::Panels => copy(0, &[0.into(), depth, outer.div(PANEL)]),
        }
    }

    /// The tensor in buffer `buffer`, if it is one that the hardware copies tiles of.
    fn map(&self, spec: &Spec, buffer: usize) -> Option<TensorMap> {
        let (matrix, outer) = match (buffer, &spec.b) {
            (0, _) => (&spec.a, &spec.m),
            (_, Rhs::Strided(b)) => (b, &spec.n),
            (_, Rhs::Packed(elem)) => {
                return Some(TensorMap {
                    buffer,
                    elem: *elem,
                    offset: 0.into(),
                    dims: vec![PANEL.into(), spec.k.clone(), spec.n.ceil_div(&PANEL.into())],
                    strides: vec![PANEL.into(), spec.k.clone() * PANEL.into()],
                    tile: [PANEL, PART, self.width / PANEL].map(|n| n as u32).to_vec(),
                    swizzle: Swizzle::Bytes32,
                });
            }
        };
        let (outer_stride, depth_stride) =
            if buffer == 0 { (&matrix.row, &matrix.col) } else { (&matrix.col, &matrix.row) };
        let (mut dims, far, tile) = match self.form {
            Form::Rows(operand::Layout::Outer) => (vec![outer.clone(), spec.k.clone()], depth_stride, [PART, PART]),
            _ => (vec![spec.k.clone(), outer.clone()], outer_stride, [PART, self.width]),
        };
        let mut strides = vec![far.clone()];
        for axis in &self.batch {
            dims.push(spec.batch[*axis].clone());
            strides.push(matrix.batch[*axis].clone());
        }
        let mut tile: Vec<u32> = tile.map(|n| n as u32).to_vec();
        tile.resize(dims.len(), 1);
        let well = dims.len() <= 5 && strides.iter().all(TensorMap::takes);
        well.then_some(TensorMap {
            buffer,
            elem: matrix.elem,
            offset: 0.into(),
            dims,
            strides,
            tile,
            swizzle: Swizzle::Bytes128,
        })
    }
}

/// Copies a tile of side 0 or 1 to shared memory, from an element on.
type Copy<'a, 'k> = &'a dyn Fn(usize, Ptr<'k>, &[Ix<'k>]);

/// The two sides, and their maps, if the hardware copies both.
fn sides(spec: &Spec, tile: Tile) -> Option<([Side; 2], Vec<TensorMap>)> {
    let sides = [Side::a(spec)?, Side::b(spec, tile.columns)?];
    let maps = vec![sides[0].map(spec, 0)?, sides[1].map(spec, 1)?];
    Some((sides, maps))
}

pub(super) fn serves(spec: &Spec, tile: Tile) -> bool {
    sides(spec, tile).is_some()
}

pub(super) fn grid(spec: &Spec, tile: Tile, tasks: Dim) -> Grid {
    let mut maps = sides(spec, tile).map_or(vec![], |(_, maps)| maps);
    // Panels are copied otherwise.
    maps.truncate(if matches!(spec.b, Rhs::Packed(_)) { 1 } else { 2 });
    Grid { shared_bytes: tile.shared_bytes() as u32, resident: true, maps, ..Grid::new(tasks, THREADS as u32, 1) }
}

pub(super) fn emit(spec: &Spec, tile: Tile, module: &mut ModuleBuilder<'_>, symbol: &str) {
    let name = format!("{symbol}_shared");
    let (sides, maps) = sides(spec, tile).expect("it is served");
    module.launch_memory(&name);
    module.cuda(symbol, spec.buffers().len(), &spec.size_args(), |entry| {
        let block = Block::new(entry.kernel.k);
        let shared = block.shared(&name);
        let strips = shared.bytes(tile.stages * tile.stage_bytes());
        let barriers = strips.bytes(WARPS * STRIP_BYTES);
        let ring = Ring::new(block, (shared, barriers), tile.stages, tile.stage_bytes());
        let job =
            Job { spec, kernel: &entry.kernel, entry: &entry, block, tile, sides: &sides, maps: &maps, ring, strips };
        job.run();
    });
}

struct Job<'s, 'k> {
    spec: &'s Spec,
    kernel: &'s Kernel<'k>,
    entry: &'s Entry<'k>,
    block: Block<'k>,
    tile: Tile,
    sides: &'s [Side; 2],
    maps: &'s [TensorMap],
    ring: Ring<'k>,
    strips: Ptr<'k>,
}

impl<'k> Job<'_, 'k> {
    fn run(&self) {
        let (k, block) = (self.kernel.k, self.block);
        k.if_(block.thread.eq(0), || {
            self.ring.make(self.fillers(), WARPS);
            block.show_barriers();
        });
        block.barrier();
        let statement = |body: &dyn Fn()| {
            body();
            vec![]
        };
        let copies = || {
            block.give_registers(FEW);
            let by_hardware = tile::can_copy(self.kernel, self.maps);
            let copy = || if self.panels() { self.copy_panels() } else { self.copy() };
            k.if_else(by_hardware, || statement(&copy), || statement(&|| self.store()));
        };
        k.if_else(block.thread.lt(GROUP), || statement(&copies), || statement(&|| self.multiply()));
    }

    /// Whether *B* is panels.
    fn panels(&self) -> bool {
        self.sides[1].form == Form::Panels
    }

    /// Arrivals at a full stage: of the thread that has tiles copied, and of the warps that copy panels.
    fn fillers(&self) -> i64 {
        if self.panels() { 1 + GROUP / WARP } else { 1 }
    }

    fn steps(&self) -> Ix<'k> {
        self.kernel.size(&self.spec.k).ceil_div(PART)
    }

    fn place(&self, task: Ix<'k>) -> Place<'k> {
        Place::of(self.spec, self.kernel, task, self.tile.size())
    }

    /// What the first group does: its first thread has the hardware fill the ring.
    fn copy(&self) {
        let maps = &self.entry.maps;
        self.kernel.k.if_(self.block.thread.eq(0), || {
            self.fill(|turn, tiles| {
                self.ring.fill(turn, |stage, barrier| {
                    tiles(stage, &|side, to, at| self.block.copy_tile(to, maps[side], at, barrier));
                });
            });
        });
    }

    /// The same where the hardware cannot: all threads of the group do it.
    fn store(&self) {
        const MEETING: i64 = 1;
        self.fill(|turn, tiles| {
            self.ring.fill_by_group(turn, (self.fillers(), MEETING), |stage| {
                let copy = |side: usize, to, at: &[Ix<'k>]| {
                    tile::copy(self.block, self.kernel, &self.maps[side], to, at, self.block.thread);
                };
                tiles(stage, &copy);
            });
        });
    }

    /// The hardware copies *A*, and all threads of the group copy panels: rows of these have 32 bytes, and it takes rows of
    /// any length one by one. A thread has a chunk of each panel. The copies of a stage are waited for when those of the next
    /// have begun.
    fn copy_panels(&self) {
        let (k, block, ring) = (self.kernel.k, self.block, self.ring);
        let (depth, outer) = (self.kernel.size(&self.spec.k), self.kernel.size(&self.spec.n).ceil_div(PANEL));
        let panel_bytes = PART * PANEL * 2;
        let (row, half) = (block.thread.div(2), block.thread.rem(2));
        let place_within = row * (PANEL * 2) + half.xor(row.div(4).rem(2)) * CHUNK_BYTES;
        let hand_over = |stage: Ix<'k>| {
            block.show_stores();
            block.warp_barrier();
            k.if_(block.lane.eq(0), || block.arrive(ring.full(stage)));
        };
        // Whether there was a stage before.
        let begun = k.int(Ty::I32, 0);
        let is = |begun: V<'k>| Bool::Value(begun.cmp(Cmp::Ne, begun.like(0.0)));
        let first = [&ring.first().values()[..], &[begun]].concat();
        let last = block.tasks_carry(self.kernel.hi, &first, |task, carried| {
            let place = self.place(task);
            let panel = place.column.div(PANEL);
            k.for_carry(0, self.steps(), 1, carried, |step, carried| {
                let turn = Turn::from(carried);
                ring.wait_empty(turn);
                let stage = ring.stage(turn.stage);
                k.if_(block.thread.eq(0), || {
                    block.arrive_for(ring.full(turn.stage), ROWS * PART * 2);
                    let batch: Vec<Ix> = self.sides[0].batch.iter().map(|axis| place.batch[*axis]).collect();
                    self.sides[0].tiles(place.row, step * PART, |at, from| {
                        let from = [from, &batch].concat();
                        block.copy_tile(stage.bytes(at), self.entry.maps[0], &from, ring.full(turn.stage));
                    });
                });
                let to = stage.bytes(place_within + ROWS * PART * 2);
                let at = step * PART + row;
                for i in 0..self.sides[1].width / PANEL {
                    let there = at.lt(depth).and((panel + i).lt(outer));
                    // Where nothing is read, the address has to be one all the same.
                    let source = there.choose(((panel + i) * depth + at) * PANEL + half * CHUNK, 0);
                    let bytes = there.choose(CHUNK_BYTES, 0).v(k).int_to(Elem::I32, false);
                    let from = self.kernel.buffer(1).offset(Elem::I16, source);
                    block.copy_async(to.bytes(i * panel_bytes), from, Some(bytes));
                }
                block.commit_copies();
                block.wait_for_copies(1);
                k.if_(is(carried[2]), || hand_over(ring.before(turn)));
                [&ring.next(turn).values()[..], &[k.int(Ty::I32, 1)]].concat()
            })
        });
        block.wait_for_copies(0);
        k.if_(is(last[2]), || hand_over(ring.before(Turn::from(&last))));
    }

    /// Goes round the ring: `fill` fills a stage with the tiles that it is given.
    fn fill(&self, fill: impl FnOnce(Turn<'k>, &dyn Fn(Ptr<'k>, Copy<'_, 'k>))) {
        let k = self.kernel.k;
        self.block.tasks_carry(self.kernel.hi, &self.ring.first().values(), |task, turn| {
            let place = self.place(task);
            k.for_carry(0, self.steps(), 1, turn, |step, turn| {
                let turn = Turn::from(turn);
                fill(turn, &|stage, copy| {
                    for (i, (side, first)) in self.sides.iter().zip([place.row, place.column]).enumerate() {
                        let to = stage.bytes(i as i64 * ROWS * PART * 2);
                        let batch: Vec<Ix> = side.batch.iter().map(|axis| place.batch[*axis]).collect();
                        side.tiles(first, step * PART, |at, from| {
                            copy(i, to.bytes(at), &[from, &batch].concat());
                        });
                    }
                });
                self.ring.next(turn).values().to_vec()
            })
        });
    }

    /// What the other groups do.
    fn multiply(&self) {
        let (k, block, ring) = (self.kernel.k, self.block, self.ring);
        block.take_registers(MANY);
        let warp = block.warp - GROUP / WARP;
        // A group's rows are half of each part of A.
        let rows = warp.div(GROUP / WARP) * (hopper::ROWS * PART * 2);
        let count = (self.tile.columns / 2) as usize;
        block.tasks_carry(self.kernel.hi, &ring.first().values(), |task, turn| {
            let place = self.place(task);
            let mut carried = vec![k.zero(Ty::F32); count];
            carried.extend(turn);
            let carried = k.for_carry(0, self.steps(), 1, &carried, |step, carried| {
                let (sums, turn) = carried.split_at(count);
                let turn = Turn::from(turn);
                let part = ring.wait(turn);
                let mut sums = self.products(part.bytes(rows), part.bytes(ROWS * PART * 2), sums);
                // What came before has ended, and its stage may be filled.
                block.wait_for_products(1, &[]);
                k.if_(Ix::Const(0).lt(step), || ring.release(ring.before(turn)));
                sums.extend(ring.next(turn).values());
                sums
            });
            let (sums, turn) = carried.split_at(count);
            let sums = block.wait_for_products(0, sums);
            k.if_(Ix::Const(0).lt(self.steps()), || ring.release(ring.before(Turn::from(turn))));
            self.finish(&place, warp, &sums);
            turn.to_vec()
        });
    }

    /// Starts the products of a part.
    fn products(&self, a: Ptr<'k>, b: Ptr<'k>, sums: &[V<'k>]) -> Vec<V<'k>> {
        let (k, block) = (self.kernel.k, self.block);
        let [left, right] = self.sides.each_ref().map(Side::layout);
        let (a, b) = (block.descriptor(a, left), block.descriptor(b, right));
        let bf16 = self.spec.a.elem == ElemType::BF16;
        let mut sums = block.order_products(sums);
        for step in 0..PART / DEPTH {
            let at = |first: V<'k>, layout: Layout| first + k.int(Ty::I64, step * layout.step() / 16);
            let a = Left::Memory(at(a, left), left.outer);
            sums = block.start_product(bf16, a, (at(b, right), right.outer), Sums::Of(&sums));
        }
        block.commit_products();
        sums
    }

    /// Takes a warp's sums through the epilogue, some columns at a time.
    fn finish(&self, place: &Place<'k>, warp: Ix<'k>, sums: &[V<'k>]) {
        let (k, block) = (self.kernel.k, self.block);
        let epilogue = Epilogue::new(self.spec, self.kernel, place);
        let strip = self.strips.bytes(warp * STRIP_BYTES);
        let [rows, columns] = STRIP;
        let stride = columns + STRIP_PAD;
        let (row, column) = (block.lane.div(4), block.lane.rem(4) * 2);
        for first in (0..self.tile.columns).step_by(columns as usize) {
            for j in 0..columns / 8 {
                let at = 4 * (first / 8 + j) as usize;
                for half in 0..2 {
                    let to = (row + half * 8) * stride + column + j * 8;
                    let pair = k.vector(&sums[at + 2 * half as usize..][..2]);
                    strip.offset(Elem::F32, to).store_aligned(pair, 8);
                }
            }
            block.warp_barrier();
            let part =
                Part { sums: strip, stride, rows, columns, row: place.row + warp * rows, column: place.column + first };
            epilogue.run(&part, (block.lane, WARP));
            block.warp_barrier();
        }
    }
}
