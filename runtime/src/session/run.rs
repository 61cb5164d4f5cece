//! Walking a bound plan.

use super::bind::{Binding, Node, Times};
use crate::code::KernelFn;
use crate::error::{BadIndex, Error, Result};
use crate::executor::Workers;
use crate::format::{BAD_INDEX, BadIndexNote, Entry, Kernel};
use crate::launch::{Launch, PANICKED, Profiled};
use crate::profile::Profile;
use std::ops::Range;
use std::time::Instant;

/// The status by which a kernel says that it met an index out of range.
const INDEX_OUT_OF_RANGE: i32 = 1;
/// The status by which it says that its loop 0 ran more often than it may; those of the other loops follow.
const LOOP_LIMIT: i32 = 16;

struct Walk<'a> {
    binding: &'a Binding,
    entry: &'a Entry,
    functions: &'a [KernelFn],
    kernels: &'a [Kernel],
    workers: &'a mut Workers,
    profile: Option<&'a dyn Profile>,
}

/// Runs all steps of a binding of `entry`. `functions` are the target's kernels, `kernels` their names.
pub(super) fn walk(
    binding: &Binding,
    entry: &Entry,
    functions: &[KernelFn],
    kernels: &[Kernel],
    workers: &mut Workers,
    profile: Option<&dyn Profile>,
) -> Result<()> {
    Walk { binding, entry, functions, kernels, workers, profile }.block(0)
}

impl Walk<'_> {
    /// Recursion is as deep as the plan nests, which the reader bounds.
    fn block(&mut self, block: u32) -> Result<()> {
        for node in &self.binding.blocks[block as usize] {
            match *node {
                Node::Launch { kernel, bufs, sizes, tasks, ref limits, .. } => {
                    if tasks > 0 {
                        self.launch(kernel, bufs, sizes, tasks, limits)?;
                    }
                }
                Node::If { cond, then, otherwise } => self.block(if self.test(cond) { then } else { otherwise })?,
                Node::While { cond, body, max, ref label } => {
                    let mut times = 0;
                    while self.test(cond) {
                        if times == max {
                            return Err(Error::LoopLimit { label: label.clone(), max });
                        }
                        times += 1;
                        self.block(body)?;
                    }
                }
                Node::For { ref count, index, body } => {
                    let count = match count {
                        Times::Fixed(count) => *count,
                        // SAFETY: binding has made room for the element, and no kernel runs.
                        Times::Scalar(slot) => unsafe { self.address(*slot).cast::<i64>().read_unaligned() },
                    };
                    for i in 0..count {
                        if let Some(slot) = index {
                            // SAFETY: as above, and the reader admits only writable memory.
                            unsafe { self.address(slot).cast::<i64>().write_unaligned(i) };
                        }
                        self.block(body)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn address(&self, slot: u32) -> *mut u8 {
        self.binding.bufs[slot as usize]
    }

    fn test(&self, slot: u32) -> bool {
        // SAFETY: binding has made room for the element, and no kernel runs.
        unsafe { self.address(slot).read() != 0 }
    }

    fn launch(&mut self, kernel: u32, bufs: u32, sizes: u32, tasks: i64, limits: &Range<u32>) -> Result<()> {
        let names = &self.kernels[kernel as usize];
        let profile = self.profile.map(|hook| Profiled { hook, kernel: &names.symbol, label: &names.label });
        let launch = Launch {
            kernel: self.functions[kernel as usize],
            bufs: self.binding.bufs[bufs as usize..].as_ptr(),
            sizes: self.binding.sizes[sizes as usize..].as_ptr(),
            tasks,
            scratch: self.binding.scratch,
            scratch_stride: self.binding.scratch_stride,
            profile,
        };
        let start = profile.map(|_| Instant::now());
        let status = self.workers.run(&launch);
        if let (Some(profile), Some(start)) = (profile, start) {
            profile.report(0, start);
        }
        if status == 0 {
            return Ok(());
        }
        let index = if status == INDEX_OUT_OF_RANGE { self.bad_index() } else { None };
        Err(failure(names, status, &self.binding.sizes[limits.start as usize..limits.end as usize], index))
    }

    /// What the workers' notes say of the index that failed the last launch; of several the first in memory. The notes
    /// are taken away, so that no later launch is taken to have left them.
    fn bad_index(&self) -> Option<Box<BadIndex>> {
        let (binding, count) = (self.binding, self.workers.count());
        if binding.scratch_stride < size_of::<BadIndexNote>() {
            return None;
        }
        let notes = (0..count).filter_map(|worker| {
            let note = binding.scratch.wrapping_add(worker * binding.scratch_stride).cast::<BadIndexNote>();
            // SAFETY: every worker has `scratch_stride` bytes of its own, aligned to 64, any bytes make a note, and no
            // kernel runs.
            let found = unsafe { note.replace(BadIndexNote { mark: 0, address: 0, value: 0, size: 0 }) };
            (found.mark == BAD_INDEX).then_some(found)
        });
        // All of them are read, whichever comes out.
        let first = notes.min_by_key(|note| note.address)?;
        let input = usize::try_from(first.address).ok().and_then(|at| binding.locate(self.entry, at));
        Some(Box::new(BadIndex { value: first.value, size: first.size, input }))
    }
}

/// The error that a kernel's status stands for; `bounds` are those of its loops.
pub(super) fn failure(names: &Kernel, status: i32, bounds: &[i64], index: Option<Box<BadIndex>>) -> Error {
    let (label, kernel) = (names.label.clone(), names.symbol.clone());
    let number = status.checked_sub(LOOP_LIMIT).and_then(|n| usize::try_from(n).ok());
    match (status, number.and_then(|n| bounds.get(n))) {
        (_, Some(max)) => Error::LoopLimit { label, max: *max },
        (INDEX_OUT_OF_RANGE, _) => Error::IndexOutOfRange { label, kernel, index },
        (PANICKED, _) => Error::Panicked,
        (code, _) => Error::Kernel { label, kernel, code },
    }
}
