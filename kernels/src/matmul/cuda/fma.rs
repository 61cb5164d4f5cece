//! A tile of *C* a block, by multiply-adds: parts of *A* and *B* go through shared memory, where they lie with the depth
//! first, and a thread has a square of sums in registers. While one part is multiplied, the next is on its way.

use super::{
    Place,
    epilogue::{Epilogue, Part},
    operand::{Layout, Operand},
};
use crate::{
    abi::{Kernel, ModuleBuilder},
    build::{Bool, Ix, Ptr, Ty, V},
    cpu::Converts,
    cuda::block::{self, Block},
    matmul::Spec,
    scalar::{Access, register},
};
use kiln_ir::ElemType;

/// Threads of a block: a square of 16 by 16, of which a warp has 4 by 8: so its lanes read no more than 128 different bytes of
/// an operand at a time.
pub(super) const THREADS: i64 = SIDE * SIDE;
const SIDE: i64 = 16;
/// Neighbours that a thread moves at once.
const WIDTH: i64 = 4;
/// Elements that rows in shared memory are longer, so that they do not begin in the same bank.
const PAD: i64 = 4;
/// The same for rows of sums.
const SUMS_PAD: i64 = 8;

/// Rows and columns of sums that a thread has, and the depth of a part: four elements of each operand a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tile {
    sums: i64,
    depth: i64,
}

const LARGE: Tile = Tile { sums: 8, depth: 8 };
const SMALL: Tile = Tile { sums: 4, depth: 16 };

/// What there is to choose from, the largest first.
pub(super) fn tiles(sums: ElemType) -> &'static [Tile] {
    // f64 takes two registers an element.
    if sums == ElemType::F64 { &[SMALL] } else { &[LARGE, SMALL] }
}

impl Tile {
    fn side(self) -> i64 {
        SIDE * self.sums
    }

    pub(super) fn size(self) -> [i64; 2] {
        [self.side(); 2]
    }

    /// Elements of a part of *A* or *B* in shared memory.
    fn part(self) -> i64 {
        self.depth * (self.side() + PAD)
    }

    /// Rows of sums that are in shared memory at a time.
    fn strip(self) -> i64 {
        SIDE * WIDTH
    }

    fn shared_elements(self) -> i64 {
        (4 * self.part()).max(self.strip() * (self.side() + SUMS_PAD))
    }
}

pub(super) fn emit(spec: &Spec, tile: Tile, module: &mut ModuleBuilder<'_>, symbol: &str) {
    let bytes = tile.shared_elements() * spec.sum_elem().bytes() as i64;
    block::kernel(spec, module, symbol, bytes, |kernel, block, shared, task| {
        let ty = Ty::new(register(spec.sum_elem()), 1);
        Task { spec, kernel, block, tile, shared, ty }.run(task);
    });
}

struct Task<'s, 'k> {
    spec: &'s Spec,
    kernel: &'s Kernel<'k>,
    block: Block<'k>,
    tile: Tile,
    shared: Ptr<'k>,
    /// The type of the sums.
    ty: Ty,
}

/// The four neighbours of an operand that a thread moves from each part.
struct Moved<'k> {
    operand: Operand<'k>,
    aligned: Bool<'k>,
    /// Where the first is, in *C* and within a part.
    outer: Ix<'k>,
    outer_within: Ix<'k>,
    depth_within: Ix<'k>,
}

impl<'k> Task<'_, 'k> {
    fn run(&self, task: Ix<'k>) {
        let (k, tile) = (self.kernel.k, self.tile);
        let place = Place::of(self.spec, self.kernel, task, tile.size());
        let a = self.moved(Operand::a(self.spec, self.kernel, &place.batch), place.row);
        let b = self.moved(Operand::b(self.spec, self.kernel, &place.batch), place.column);
        let (warp, lane) = (self.block.warp, self.block.lane);
        let (down, across) = (warp.div(2) * 4 + lane.div(8), warp.rem(2) * 8 + lane.rem(8));

        let steps = self.kernel.size(&self.spec.k).ceil_div(tile.depth);
        let put = |buffer: Ix<'k>, values: &[V<'k>]| {
            self.put(&a, buffer, &values[..WIDTH as usize]);
            self.put(&b, buffer + tile.part(), &values[WIDTH as usize..]);
        };
        let get = |depth: Ix<'k>| [self.get(&a, depth), self.get(&b, depth)].concat();
        put(0.into(), &get(0.into()));
        self.block.barrier();
        let count = (tile.sums * tile.sums) as usize;
        let sums = k.for_carry(0, steps, 1, &vec![k.zero(self.ty); count], |step, sums| {
            // Past the end everything is zero, and nobody looks at it.
            let next = get((step + 1) * tile.depth);
            let buffer = step.rem(2) * (2 * tile.part());
            let sums = self.multiply(buffer, (down, across), sums);
            put(Ix::Const(2 * tile.part()) - buffer, &next);
            self.block.barrier();
            sums
        });
        let epilogue = Epilogue::new(self.spec, self.kernel, &place);
        let stride = tile.side() + SUMS_PAD;
        for strip in 0..tile.sums / WIDTH {
            for i in 0..WIDTH {
                for j in 0..tile.sums / WIDTH {
                    let first = ((strip * WIDTH + i) * tile.sums + j * WIDTH) as usize;
                    let to = (down * WIDTH + i) * stride + across * WIDTH + j * SIDE * WIDTH;
                    let vector = k.vector(&sums[first..first + WIDTH as usize]);
                    self.shared.offset(self.ty.elem, to).store_aligned(vector, 16);
                }
            }
            self.block.barrier();
            let part = Part {
                sums: self.shared,
                stride,
                rows: tile.strip(),
                columns: tile.side(),
                row: place.row + strip * tile.strip(),
                column: place.column,
            };
            epilogue.run(&part, (self.block.thread, THREADS));
            self.block.barrier();
        }
    }

    fn moved(&self, operand: Operand<'k>, first: Ix<'k>) -> Moved<'k> {
        let thread = self.block.thread;
        let (outer, depth) = match operand.layout {
            Layout::Depth => {
                let across = self.tile.depth / WIDTH;
                (thread.div(across), thread.rem(across) * WIDTH)
            }
            Layout::Outer => {
                let across = self.tile.side() / WIDTH;
                (thread.rem(across) * WIDTH, thread.div(across))
            }
        };
        let bytes = (WIDTH * operand.elem.bytes() as i64).min(16);
        let aligned = operand.is_aligned(bytes);
        Moved { operand, aligned, outer: first + outer, outer_within: outer, depth_within: depth }
    }

    /// The four elements of the part that begins at a depth; 0 where there are none.
    fn get(&self, moved: &Moved<'k>, depth: Ix<'k>) -> Vec<V<'k>> {
        let (k, operand) = (self.kernel.k, &moved.operand);
        let depth = depth + moved.depth_within;
        let left = operand.left(moved.outer, depth, WIDTH);
        let whole = Ix::Const(WIDTH).le(left).and(moved.aligned);
        let access = |lanes| Access { elem: operand.elem, lanes, converts: Converts::F16AndBf16 };
        let vector = || {
            let access = access(WIDTH as u32);
            let bytes = (WIDTH * operand.elem.bytes() as i64).min(16);
            let raw = operand.at(moved.outer, depth).load_aligned(access.memory(), bytes as u32);
            let all = access.from_memory(raw).float_to(self.ty.elem);
            (0..WIDTH as u32).map(|i| all.lane(i)).collect()
        };
        let single = || {
            let element = |i: i64| {
                let at = match operand.layout {
                    Layout::Depth => operand.at(moved.outer, depth + i),
                    Layout::Outer => operand.at(moved.outer + i, depth),
                };
                let load = || vec![access(1).load(at).float_to(self.ty.elem)];
                k.if_else(Ix::Const(i).lt(left), load, || vec![k.zero(self.ty)])[0]
            };
            (0..WIDTH).map(element).collect()
        };
        k.if_else(whole, vector, single)
    }

    /// Puts four elements where a part has them.
    fn put(&self, moved: &Moved<'k>, part: Ix<'k>, values: &[V<'k>]) {
        let row = self.tile.side() + PAD;
        let to = |i: i64| {
            let at = part + (moved.depth_within + i) * row + moved.outer_within;
            self.shared.offset(self.ty.elem, at)
        };
        match moved.operand.layout {
            Layout::Depth => values.iter().enumerate().for_each(|(i, value)| to(i as i64).store(*value)),
            Layout::Outer => to(0).store_aligned(self.kernel.k.vector(values), 16),
        }
    }

    /// Adds the products of a part.
    fn multiply(&self, part: Ix<'k>, (down, across): (Ix<'k>, Ix<'k>), sums: &[V<'k>]) -> Vec<V<'k>> {
        let (tile, ty) = (self.tile, self.ty);
        let mut sums = sums.to_vec();
        let load = |first: Ix<'k>, depth: i64| -> Vec<V<'k>> {
            let squares = 0..tile.sums / WIDTH;
            let vectors = squares.map(|i| {
                let at = first + depth * (tile.side() + PAD) + i * SIDE * WIDTH;
                self.shared.offset(ty.elem, at).load_aligned(Ty::new(ty.elem, WIDTH as u32), 16)
            });
            vectors.flat_map(|v| (0..WIDTH as u32).map(move |i| v.lane(i))).collect()
        };
        for depth in 0..tile.depth {
            let a = load(part + down * WIDTH, depth);
            let b = load(part + tile.part() + across * WIDTH, depth);
            for (i, a) in a.iter().enumerate() {
                for (j, b) in b.iter().enumerate() {
                    let sum = &mut sums[i * tile.sums as usize + j];
                    *sum = a.fma(*b, *sum);
                }
            }
        }
        sums
    }
}
