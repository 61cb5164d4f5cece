//! Plans: what the session does for one entry on one target.
//!
//! A CPU kernel is `unsafe extern "C" fn(bufs: *const *mut u8, sizes: *const i64, lo: i64, hi: i64, scratch: *mut u8) ->
//! i32`. It does the tasks `lo..hi` of the launch's linear grid; any split of `0..tasks` into such ranges, in any order
//! and on any number of threads at once, gives the same bits. `bufs[i]` is argument `i` with its byte offset applied:
//! 64-byte aligned at offset 0 of arena, weights and states, aligned to the element alone in the caller's tensors.
//! `scratch` is the calling worker's own, 64-byte aligned, and keeps nothing between calls. It returns 0, or 1 when it
//! met an index out of range, or 16 plus the number of a loop inside that ran more often than it may; the other values
//! are reserved and are errors. Before it returns 1 it may leave a [`BadIndexNote`] at the start of its scratch memory, so
//! that the error can say which index.
//!
//! A GPU kernel is the PTX entry `(ptr bufs.., i64 sizes.., i64 tasks, ptr scratch, ptr status, ptr guard, maps..)`,
//! launched by blocks as its [`Grid`](super::Grid) says; any number of blocks does all tasks, or none where `guard` is not
//! null and the i32 there is 0. The last of the launch's `sizes` is the number of scratch bytes of one task: `scratch` has
//! them for `block_tasks` tasks of every block. `status`, an i32, is set to what a CPU kernel would return where that is not
//! 0. The maps are those of its [tensors](super::TensorMap), of 128 bytes each. In front
//! of `scratch` stand [`COUNTERS`] words by which the blocks of a launch count: they are zero when it begins, and it leaves
//! them so. Buffers at offset 0 are aligned to 256 bytes.

use super::SizeExpr;
use serde::{Deserialize, Serialize};

/// Words of four bytes in front of the scratch memory on a GPU.
pub const COUNTERS: usize = 4096;

/// What a kernel that meets an index out of range leaves behind. `mark` is [`BAD_INDEX`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BadIndexNote {
    pub mark: u64,
    /// Of the index in memory.
    pub address: u64,
    pub value: i64,
    /// The number of indices that there are.
    pub size: i64,
}

/// The first word of a [`BadIndexNote`].
pub const BAD_INDEX: u64 = u64::from_le_bytes(*b"badindex");

/// What to run for one entry. Offsets and sizes are formulas over the manifest's symbols, in bytes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Index into the manifest's entries.
    pub entry: u32,
    pub arena_bytes: SizeExpr,
    /// Scratch memory of one worker.
    pub scratch_bytes: SizeExpr,
    /// Block 0 is the body. A step may refer only to blocks after its own, so that nesting ends.
    pub blocks: Vec<Block>,
}

/// Steps that run one after another.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Block {
    pub steps: Vec<Step>,
}

/// One thing the session does. Conditions are single `i1` or `u8` elements; anything but zero is true.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Step {
    /// Runs the tasks `0..tasks` of a kernel. A launch of no tasks does nothing.
    Launch {
        /// Index into the target's kernels.
        kernel: u32,
        args: Vec<Arg>,
        sizes: Vec<SizeExpr>,
        tasks: SizeExpr,
        /// The most runs of each loop inside the kernel that has a bound, for the error that names it.
        limits: Vec<SizeExpr>,
    },
    If {
        cond: Arg,
        then: u32,
        otherwise: u32,
    },
    /// Tests `cond` before each run of `body`. A run beyond `max` is an error.
    While {
        cond: Arg,
        body: u32,
        max: SizeExpr,
        /// What the loop is called in errors.
        label: String,
    },
    /// Runs `body` `count` times; `index`, an `i64` element, holds 0, 1, ... as it starts.
    For {
        count: Count,
        index: Option<Arg>,
        body: u32,
    },
}

/// How often a [`Step::For`] runs its body. A negative count is none.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Count {
    Size(SizeExpr),
    /// An `i64` element, read when the loop starts.
    Scalar(Arg),
}

/// A place in memory.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Arg {
    Arena { offset: SizeExpr },
    Weight { offset: u64 },
    Input { index: u32, offset: SizeExpr },
    Output { index: u32, offset: SizeExpr },
    State { index: u32, offset: SizeExpr },
}
