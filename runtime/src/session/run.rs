//! Running a bound plan on the processor.

use super::bind::{Binding, Call};
use super::walk::{self, Flag};
use crate::code::KernelFn;
use crate::error::{BadIndex, Error, Result};
use crate::executor::Workers;
use crate::format::{BAD_INDEX, BadIndexNote, Entry, Kernel};
use crate::launch::{Launch, PANICKED, Profiled};
use crate::profile::Profile;
use std::time::Instant;

/// The status by which a kernel says that it met an index out of range.
const INDEX_OUT_OF_RANGE: i32 = 1;
/// The status by which it says that its loop 0 ran more often than it may; those of the other loops follow.
const LOOP_LIMIT: i32 = 16;

struct Processor<'a> {
    binding: &'a Binding,
    entry: &'a Entry,
    functions: &'a [KernelFn],
    kernels: &'a [Kernel],
    workers: &'a mut Workers,
    profile: Option<&'a dyn Profile>,
}

/// Runs all steps of a binding of `entry`. `functions` are the target's kernels, `kernels` their names.
pub(super) fn run(
    binding: &Binding,
    entry: &Entry,
    functions: &[KernelFn],
    kernels: &[Kernel],
    workers: &mut Workers,
    profile: Option<&dyn Profile>,
) -> Result<()> {
    let mut machine = Processor { binding, entry, functions, kernels, workers, profile };
    walk::walk(&mut machine, binding, 0)
}

impl walk::Machine for Processor<'_> {
    type Guard = std::convert::Infallible;

    fn test(&mut self, slot: u32, _: bool) -> Result<Flag<Self::Guard>> {
        // SAFETY: binding has made room for the element, and no kernel runs.
        Ok(Flag::Known(unsafe { self.binding.bufs[slot as usize].read() } != 0))
    }

    fn count(&mut self, slot: u32) -> Result<i64> {
        // SAFETY: as above.
        Ok(unsafe { self.binding.bufs[slot as usize].cast::<i64>().read_unaligned() })
    }

    fn set(&mut self, slot: u32, value: i64) -> Result<()> {
        let to = self.binding.bufs[slot as usize].cast::<i64>();
        // SAFETY: as above, and the reader admits only writable memory.
        unsafe { to.write_unaligned(value) };
        Ok(())
    }

    fn guard(&mut self, guard: Option<Self::Guard>) -> Option<Self::Guard> {
        guard
    }

    fn launch(&mut self, call: &Call) -> Result<()> {
        let &Call { kernel, bufs, sizes, tasks, ref limits, .. } = call;
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
}

impl Processor<'_> {
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
