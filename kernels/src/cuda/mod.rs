//! The GPUs code is made for, how kernels are launched on them, and what a thread knows of itself.

pub mod block;
pub mod hopper;
pub(crate) mod panel;
pub mod ring;
pub(crate) mod team;
pub mod tile;

use crate::{
    Family,
    build::{Bool, Cmp, Elem, Ix, K, Ptr, Ty, V},
};
use kiln_ir::{Dim, ElemType};

/// An architecture of streaming multiprocessors.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Sm {
    /// Ampere, and what came after it.
    Sm80,
    /// Hopper alone.
    Sm90a,
}

impl Sm {
    pub const ALL: [Sm; 2] = [Sm::Sm80, Sm::Sm90a];

    pub const fn name(self) -> &'static str {
        match self {
            Sm::Sm80 => "sm_80",
            Sm::Sm90a => "sm_90a",
        }
    }

    /// The version of PTX that the code is written in, as major and minor: the first that has all instructions used.
    /// The driver must know it, as those of CUDA 11.0 and 12.0 and later do.
    pub const fn ptx(self) -> (u32, u32) {
        match self {
            Sm::Sm80 => (7, 0),
            Sm::Sm90a => (8, 0),
        }
    }
}

/// How a kernel is launched: `tasks` tasks, of which a block does `block_tasks` at a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grid {
    pub tasks: Dim,
    /// Threads of a block.
    pub threads: u32,
    pub block_tasks: u32,
    /// Scratch bytes for each task that is under way.
    pub scratch_bytes: Dim,
    /// Bytes of shared memory that the launch gives each block: what the kernel has of
    /// [`ModuleBuilder::launch_memory`](crate::abi::ModuleBuilder::launch_memory).
    pub shared_bytes: u32,
    /// Whether there are no more blocks than run at the same time, however many tasks there are.
    pub resident: bool,
    /// Tensors of which the kernel copies tiles.
    pub maps: Vec<TensorMap>,
}

/// A tensor of two-byte elements of which a kernel copies tiles to shared memory. The hardware does that where its memory
/// begins at a multiple of 16 bytes, and tiles at multiples of 8 elements along the first dimension.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorMap {
    /// The buffer that it is.
    pub buffer: usize,
    pub elem: ElemType,
    /// Elements of the buffer before its first.
    pub offset: Dim,
    /// Its sizes, the one along which neighbours lie first; at most five.
    pub dims: Vec<Dim>,
    /// Elements from one to the next along each dimension but the first: multiples of 8.
    pub strides: Vec<Dim>,
    /// Elements of a tile along each dimension: at most 256, and along the first one as many as its swizzle is wide.
    pub tile: Vec<u32>,
    pub swizzle: Swizzle,
}

impl TensorMap {
    /// Whether it is known that a map takes elements of two bytes this far apart.
    pub(crate) fn takes(stride: &Dim) -> bool {
        stride.as_const().is_none_or(|n| n > 0) && stride.divisor(&[]) % 8 == 0
    }
}

/// Within how many bytes the chunks of a tile's rows change places in shared memory, so that chunks above each other are in
/// different banks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swizzle {
    Bytes32,
    Bytes128,
}

/// Threads of a block of a plain kernel.
const PLAIN_THREADS: u32 = 128;
/// Threads of a block that does kernels one after the other.
pub const BLOCK_THREADS: u32 = 256;

impl Grid {
    /// Blocks of `threads` threads that do `block_tasks` tasks at a time, with no memory but what their code declares.
    pub fn new(tasks: Dim, threads: u32, block_tasks: u32) -> Grid {
        Grid { tasks, threads, block_tasks, scratch_bytes: 0.into(), shared_bytes: 0, resident: false, maps: vec![] }
    }

    /// A task a thread.
    pub fn plain(family: &impl Family) -> Grid {
        let scratch_bytes = family.scratch_bytes();
        Grid { scratch_bytes, ..Grid::new(family.tasks(), PLAIN_THREADS, PLAIN_THREADS) }
    }
}

fn register<'k>(k: K<'k>, name: &str) -> Ix<'k> {
    let value = k.call_intrinsic(&format!("llvm.nvvm.read.ptx.sreg.{name}"), &[], Ty::I32);
    Ix::Value(value.int_to(Elem::I64, false))
}

/// The number of this block among those that do the kernel's tasks.
pub fn block(k: K<'_>) -> Ix<'_> {
    if k.within().is_some() { 0.into() } else { register(k, "ctaid.x") }
}

/// How many blocks these are.
pub fn blocks(k: K<'_>) -> Ix<'_> {
    if k.within().is_some() { 1.into() } else { register(k, "nctaid.x") }
}

/// The threads of each of them.
fn block_threads(k: K<'_>) -> Ix<'_> {
    k.within().map_or_else(|| register(k, "ntid.x"), |within| i64::from(within.threads).into())
}

/// The number of this thread in its block. A kernel that is part of another one reads it anew each time, lest what follows
/// from it for all kernels of a loop is computed before the loop, and takes the registers that their own loops need.
pub(crate) fn block_thread(k: K<'_>) -> Ix<'_> {
    if k.within().is_none() {
        return register(k, "tid.x");
    }
    let value = k.asm("mov.u32 $0, %tid.x;", "=r", &[], Some(Ty::I32)).expect("a result");
    Ix::Value(value.int_to(Elem::I64, false))
}

/// The same value, of which nothing is known: what follows from it is computed where it stands, and not before a loop.
pub(crate) fn anew(v: V<'_>) -> Ix<'_> {
    Ix::Value(v.builder().asm("mov.b64 $0, $1;", "=l,l", &[v.raw()], Some(Ty::I64)).expect("a result"))
}

/// The number of this thread among those that do the kernel's tasks.
pub fn thread(k: K<'_>) -> Ix<'_> {
    block(k) * block_threads(k) + block_thread(k)
}

/// How many threads these are.
pub fn threads(k: K<'_>) -> Ix<'_> {
    blocks(k) * block_threads(k)
}

/// Whether addresses and distances in bytes are multiples of `bytes`, a power of two.
pub(crate) fn aligned<'k>(addresses: &[Ptr<'k>], distances: &[Ix<'k>], bytes: i64) -> Bool<'k> {
    if distances.iter().any(|d| d.as_const().is_some_and(|d| d % bytes != 0)) {
        return Bool::Const(false);
    }
    let k = addresses[0].0.builder();
    let address = |p: &Ptr<'k>| k.op1("llvm.ptrtoint", &[p.0], Ty::I64, &[]);
    let distances = distances.iter().filter(|d| d.as_const().is_none()).map(|d| d.v(k));
    let all: Option<V> = addresses.iter().map(address).chain(distances).reduce(|a, b| a | b);
    all.map_or(Bool::Const(true), |all| {
        let rest = all & k.int(Ty::new(Elem::I64, 1), bytes - 1);
        Bool::Value(rest.cmp(Cmp::Eq, rest.like(0.0)))
    })
}
