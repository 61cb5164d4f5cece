//! Keys and values on their way through shared memory: each warp has a ring of three places of its own, of which two are
//! being filled while it works on the third, and waits for no other warp.
//!
//! Rows lie as chunks of 16 bytes, a power of two of them a row, which change places so that eight of them one above the
//! other are in different banks.

use super::{Place, WARPS};
use crate::{
    Access,
    build::{Elem, Ix, Ptr, Ty, V},
    cpu::ONE_LANE,
    cuda::{
        aligned,
        block::{Block, CHUNK_BYTES, WARP},
    },
    view::View,
};

const PLACES: i64 = 3;

/// How rows of so many bytes lie in shared memory.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    row_bytes: i64,
}

impl Layout {
    pub(super) fn new(depth: i64, elem: kiln_ir::ElemType) -> Layout {
        Layout { row_bytes: depth * elem.bytes() as i64 }
    }

    /// Chunks of a row, and those from a row to the next.
    fn chunks(self) -> i64 {
        self.row_bytes / CHUNK_BYTES
    }

    pub(super) fn pitch(self) -> i64 {
        self.chunks().max(1).unsigned_abs().next_power_of_two() as i64
    }

    /// The bits in which the chunks of a row change places.
    fn swizzle<'k>(self, row: Ix<'k>) -> Ix<'k> {
        match self.pitch() {
            1 => Ix::Const(0),
            2 => row.div(4).rem(2),
            4 => row.div(2).rem(4),
            _ => row.rem(8),
        }
    }

    /// Where a chunk of a row is, in bytes.
    pub(super) fn place<'k>(self, row: Ix<'k>, chunk: Ix<'k>) -> Ix<'k> {
        (row * self.pitch() + chunk.xor(self.swizzle(row))) * CHUNK_BYTES
    }

    /// Where a chunk is that lies `rows` rows below and `chunks` chunks beside one at `from`, a place behind which a row of
    /// places begins. `rows` is a multiple of 8 or has no bits that the row of `from` may have, and likewise `chunks`. So
    /// one place serves for many, with no register for each.
    pub(super) fn beside<'k>(self, from: Ix<'k>, rows: i64, chunks: i64) -> Ix<'k> {
        let swizzle = self.swizzle(rows.into()).as_const().expect("a constant number of rows");
        from.xor((chunks ^ swizzle) * CHUNK_BYTES) + rows * self.pitch() * CHUNK_BYTES
    }
}

/// Rows of a head in device memory.
struct Rows<'k> {
    block: Block<'k>,
    from: Ptr<'k>,
    stride: Ix<'k>,
    end: Ix<'k>,
    layout: Layout,
}

impl<'k> Rows<'k> {
    /// Starts to bring `count` rows to a place in `memory`; those behind the end become zero and are not read. With `fast`,
    /// by asynchronous copies.
    fn bring(&self, memory: Ptr<'k>, to: Ix<'k>, first: Ix<'k>, count: i64, fast: bool) {
        let (k, pitch) = (self.block.k, self.layout.pitch());
        // Each time the warp moves some rows, or a part of one.
        let (down, across) = ((WARP / pitch).max(1), pitch.min(WARP));
        let (row, chunk) = (self.block.lane.div(across), self.block.lane.rem(across));
        let left = self.end - first - row;
        let begin = to + self.layout.place(row, chunk);
        let source = self.from.bytes((first + row) * self.stride + chunk * CHUNK_BYTES);
        let copy = |rows: Ix<'k>, chunks: i64, to: Ix<'k>| {
            let bytes = rows.lt(left).choose(CHUNK_BYTES, 0);
            let from = source.bytes(rows * self.stride + chunks * CHUNK_BYTES);
            if fast {
                return self.block.copy_async(memory.bytes(to), from, Some(bytes.v(k).int_to(Elem::I32, false)));
            }
            // Elements have two bytes at least.
            let (half, to) = (Ty::new(Elem::I16, 1), memory.bytes(to));
            k.for_(0, bytes, 2, |i| to.bytes(i).store(from.bytes(i).load(half)));
            k.for_(bytes, CHUNK_BYTES, 2, |i| to.bytes(i).store(k.zero(half)));
        };
        for chunks in (0..pitch).step_by(across as usize) {
            k.if_((chunk + chunks).lt(self.layout.chunks()), || match fast {
                true => (0..count)
                    .step_by(down as usize)
                    .for_each(|rows| copy(rows.into(), chunks, self.layout.beside(begin, rows, chunks))),
                false => k.for_(0, count, down, |rows| {
                    copy(rows, chunks, to + self.layout.place(row + rows, chunk + chunks));
                }),
            });
        }
    }
}

/// How a block goes through its keys: each warp takes every so manieth run of `keys`.
pub(super) struct Ring {
    pub(super) keys: i64,
    pub(super) layouts: [Layout; 2],
}

impl Ring {
    fn place_bytes(&self) -> i64 {
        self.keys * self.layouts.map(Layout::pitch).into_iter().max().unwrap_or(1) * CHUNK_BYTES
    }

    pub(super) fn bytes(&self) -> i64 {
        WARPS * PLACES * self.place_bytes()
    }

    /// Runs `scores` on each run of keys of this warp, given its first key, where the keys are in shared memory and what is
    /// carried, and then `add`, given where the values are and what `scores` made; it makes what is carried on.
    pub(super) fn run<'k>(
        &self,
        place: &Place<'_, 'k>,
        init: &[V<'k>],
        scores: impl Fn(Ix<'k>, Ix<'k>, &[V<'k>]) -> Vec<V<'k>>,
        add: impl Fn(Ix<'k>, &[V<'k>]) -> Vec<V<'k>>,
    ) -> Vec<V<'k>> {
        let (k, block) = (place.k, place.block);
        let rows = |buffer: usize, access: &Access| {
            let view = View::new(place.kernel, buffer, access, &ONE_LANE);
            let stride = view.strides[2] * access.elem.bytes() as i64;
            let layout = self.layouts[buffer - 1];
            Rows { block, from: view.at(&[place.batch, place.head]), stride, end: place.end, layout }
        };
        let (keys, values) = (rows(1, &place.spec.k), rows(2, &place.spec.v));
        let steps = (place.end - place.first).max(0).ceil_div(self.keys);
        let first = |step: Ix<'k>| place.first + step * self.keys;
        let go = |fast: bool| {
            let bring = |rows: &Rows<'k>, at: V<'k>, first: Ix<'k>| {
                k.if_(first.lt(place.end), || rows.bring(place.memory, at.into(), first, self.keys, fast));
                block.commit_copies();
            };
            let arrived = || {
                block.wait_for_copies(1);
                block.warp_barrier();
            };
            let place_of = |i: i64| (block.warp * (PLACES * self.place_bytes()) + i * self.place_bytes()).v(k);
            let begin = first(block.warp);
            let [a, b, c] = [0, 1, 2].map(place_of);
            bring(&keys, a, begin);
            bring(&values, b, begin);
            let next = begin + WARPS * self.keys;
            let carried = [&[a, b, c, next.v(k)], init].concat();
            let carried = k.for_carry(block.warp, steps, WARPS, &carried, |step, carried| {
                let ([a, b, c, next], carried) = carried.split_first_chunk().expect("the places of the ring");
                let next = Ix::from(*next);
                arrived();
                bring(&keys, *c, next);
                let scored = scores(first(step), Ix::from(*a), carried);
                arrived();
                bring(&values, *a, next);
                let carried = add(Ix::from(*b), &scored);
                // A choice, or a register is made of each address that depends on it.
                let next = next.lt(place.end).choose(next + WARPS * self.keys, next);
                [vec![*c, *a, *b, next.v(k)], carried].concat()
            });
            block.wait_for_copies(0);
            carried[4..].to_vec()
        };
        let fast = aligned(&[keys.from, values.from], &[], CHUNK_BYTES);
        let carried = k.if_else(fast, || go(true), || go(false));
        block.barrier();
        carried
    }
}
