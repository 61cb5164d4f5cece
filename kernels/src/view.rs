//! Strided buffers inside a kernel, and loops over them in whole vectors with a rest.
//!
//! Nothing outside the elements asked for is read or written: the last elements of a row go through masked moves where
//! the target has them, and one by one elsewhere.

use crate::{
    Access,
    abi::Kernel,
    build::{Ix, K, Ptr, Ty, V},
    cpu::{Converts, Cpu},
    scalar,
};
use kiln_ir::{Dim, ElemType};

/// An access bound to a kernel's buffer.
#[derive(Clone)]
pub(crate) struct View<'k> {
    /// The element at the origin of the index space.
    pub base: Ptr<'k>,
    pub strides: Vec<Ix<'k>>,
    pub elem: ElemType,
    pub converts: Converts,
    /// Whether vectors of neighbours are aligned to their size, or to 16 bytes if they are larger.
    pub whole: bool,
}

/// How many of the lanes from an element on take part.
#[derive(Clone, Copy)]
pub(crate) enum Part<'k> {
    /// All of this many; 1 for a scalar.
    All(u32),
    /// The first ones of this many, by a mask.
    Masked(u32, V<'k>),
}

impl Part<'_> {
    pub(crate) fn lanes(self) -> u32 {
        match self {
            Part::All(lanes) | Part::Masked(lanes, _) => lanes,
        }
    }
}

impl<'k> View<'k> {
    pub(crate) fn new(kernel: &Kernel<'k>, buffer: usize, access: &Access, cpu: &Cpu) -> View<'k> {
        let base = kernel.buffer(buffer).offset(scalar::memory(access.elem), kernel.size(&access.offset));
        let strides = access.strides.iter().map(|s| kernel.size(s)).collect();
        View { base, strides, elem: access.elem, converts: cpu.converts, whole: false }
    }

    pub(crate) fn moves(&self, lanes: u32) -> scalar::Access {
        scalar::Access { elem: self.elem, lanes, converts: self.converts }
    }

    /// The address of the element at `index` along the first axes.
    pub(crate) fn at(&self, index: &[Ix<'k>]) -> Ptr<'k> {
        let offset = index.iter().zip(&self.strides).fold(Ix::Const(0), |sum, (i, s)| sum + *i * *s);
        self.step(self.base, offset)
    }

    /// The address `by` elements further on.
    pub(crate) fn step(&self, from: Ptr<'k>, by: impl Into<Ix<'k>>) -> Ptr<'k> {
        from.offset(scalar::memory(self.elem), by)
    }

    /// The alignment of a vector of these lanes.
    fn alignment(&self, lanes: u32) -> u32 {
        let bytes = self.moves(lanes).memory().elem.bits() / 8;
        if self.whole { (lanes * bytes).min(16) } else { bytes }
    }

    /// Lanes from an address on, `stride` elements apart.
    pub(crate) fn load(&self, from: Ptr<'k>, stride: Ix<'k>, part: Part<'k>) -> V<'k> {
        let lanes = part.lanes();
        let moves = self.moves(lanes);
        match (stride.as_const(), part) {
            (_, Part::Masked(1, mask)) => moves.load_masked(from, mask),
            _ if lanes == 1 => moves.load(from),
            (Some(0), _) => moves.load_broadcast(from),
            (Some(1), Part::All(_)) => moves.from_memory(from.load_aligned(moves.memory(), self.alignment(lanes))),
            (Some(1), Part::Masked(_, mask)) => moves.load_masked(from, mask),
            (_, Part::All(_)) => moves.from_memory(from.load_strided(moves.memory(), stride)),
            (_, Part::Masked(..)) => panic!("only neighbouring elements are masked"),
        }
    }

    pub(crate) fn store(&self, to: Ptr<'k>, stride: Ix<'k>, part: Part<'k>, value: V<'k>) {
        let moves = self.moves(part.lanes());
        match (stride.as_const(), part) {
            (_, Part::All(1)) => moves.store(to, value),
            (_, Part::Masked(1, mask)) => moves.store_masked(to, value, mask),
            (Some(1), Part::All(lanes)) => to.store_aligned(moves.to_memory(value), self.alignment(lanes)),
            (Some(1), Part::Masked(_, mask)) => moves.store_masked(to, value, mask),
            (_, Part::All(lanes)) => {
                let raw = moves.to_memory(value);
                for i in 0..lanes {
                    self.step(to, stride * i as i64).store(raw.lane(i));
                }
            }
            (_, Part::Masked(..)) => panic!("only neighbouring elements are masked"),
        }
    }
}

/// Whether the target moves parts of vectors of all these elements by a mask in one instruction.
pub(crate) fn masks(cpu: &Cpu, elems: impl IntoIterator<Item = ElemType>) -> bool {
    cpu.masks_from.is_some_and(|fewest| elems.into_iter().all(|e| e.bytes() >= fewest))
}

/// Runs `body` for all of `lo..hi` in steps of `lanes`, then for the rest: at once under a mask if `masked`, otherwise
/// one by one.
pub(crate) fn vectors<'k>(
    k: K<'k>,
    (lo, hi): (Ix<'k>, Ix<'k>),
    lanes: u32,
    masked: bool,
    body: impl Fn(Ix<'k>, Part<'k>),
) {
    let step = lanes as i64;
    let whole = lo + (hi - lo).div(step) * step;
    k.for_(lo, whole, step, |i| body(i, Part::All(lanes)));
    if lanes == 1 {
        return;
    }
    if masked {
        k.if_(whole.lt(hi), || body(whole, Part::Masked(lanes, k.first_lanes(lanes, hi - whole))));
    } else {
        k.for_(whole, hi, 1, |i| body(i, Part::All(1)));
    }
}

/// A matrix of `rows.len()` by as many lanes with rows and columns exchanged; the number is a power of two.
pub(crate) fn transpose<'k>(mut rows: Vec<V<'k>>) -> Vec<V<'k>> {
    let n = rows.len();
    let mut block = 1;
    if n >= 4 && rows[0].ty.elem.bits() == 32 {
        // Squares of four inside runs of four lanes, by the two steps that registers of 128 bits have instructions for.
        for four in rows.chunks_exact_mut(4) {
            let pick = |of_run: [usize; 4]| -> Vec<i32> {
                let lane = |i: usize| i / 4 * 4 + of_run[i % 4] % 4 + of_run[i % 4] / 4 * n;
                (0..n).map(|i| lane(i) as i32).collect()
            };
            let (low, high) = (pick([0, 4, 1, 5]), pick([2, 6, 3, 7]));
            let (first, second) = (pick([0, 1, 4, 5]), pick([2, 3, 6, 7]));
            let pairs = |a: V<'k>, b: V<'k>| [a.shuffle(b, &low), a.shuffle(b, &high)];
            let ([a, c], [b, d]) = (pairs(four[0], four[1]), pairs(four[2], four[3]));
            let halves = |a: V<'k>, b: V<'k>| [a.shuffle(b, &first), a.shuffle(b, &second)];
            let ([w, x], [y, z]) = (halves(a, b), halves(c, d));
            four.copy_from_slice(&[w, x, y, z]);
        }
        block = 4;
    }
    while block < n {
        // Of each pair of rows `block` apart, every other run of `block` lanes changes places.
        let pick = |upper: usize| -> Vec<i32> {
            let lane =
                |i: usize| if (i / block).is_multiple_of(2) { i + upper * block } else { n + i - (1 - upper) * block };
            (0..n).map(|i| lane(i) as i32).collect()
        };
        for i in (0..n).filter(|i| (i / block) % 2 == 0) {
            let (a, b) = (rows[i], rows[i + block]);
            rows[i] = a.shuffle(b, &pick(0));
            rows[i + block] = a.shuffle(b, &pick(1));
        }
        block *= 2;
    }
    rows
}

/// The coordinates of position `linear` in a row-major index space of these sizes; the first is not reduced.
pub(crate) fn coordinates<'k>(linear: Ix<'k>, sizes: &[Ix<'k>]) -> Vec<Ix<'k>> {
    let mut index = vec![Ix::Const(0); sizes.len()];
    let mut rest = linear;
    for axis in (0..sizes.len()).rev() {
        if axis == 0 {
            index[0] = rest;
        } else {
            index[axis] = rest.rem(sizes[axis]);
            rest = rest.div(sizes[axis]);
        }
    }
    index
}

pub(crate) fn product<'k>(sizes: &[Ix<'k>]) -> Ix<'k> {
    sizes.iter().fold(Ix::Const(1), |n, s| n * *s)
}

pub(crate) fn sizes<'k>(kernel: &Kernel<'k>, dims: &[Dim]) -> Vec<Ix<'k>> {
    dims.iter().map(|d| kernel.size(d)).collect()
}

/// Memory of a type that a kernel lays out itself.
pub(crate) fn at<'k>(memory: Ptr<'k>, ty: Ty, element: impl Into<Ix<'k>>) -> Ptr<'k> {
    memory.offset(ty.elem, element)
}
