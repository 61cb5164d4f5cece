//! One launch: a grid of tasks that several workers take in contiguous pieces.

use crate::code::KernelFn;
use crate::profile::{LaunchEvent, Profile};
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// The status of a launch whose profiler or executor panicked; kernels return other values.
pub(crate) const PANICKED: i32 = i32::MIN;

/// A kernel with its arguments.
#[derive(Clone, Copy)]
pub(crate) struct Launch<'a> {
    pub(crate) kernel: KernelFn,
    pub(crate) bufs: *const *mut u8,
    pub(crate) sizes: *const i64,
    pub(crate) tasks: i64,
    pub(crate) scratch: *mut u8,
    /// Bytes from one worker's scratch to the next's.
    pub(crate) scratch_stride: usize,
    pub(crate) profile: Option<Profiled<'a>>,
}

/// Who wants to hear about a launch, and its names.
#[derive(Clone, Copy)]
pub(crate) struct Profiled<'a> {
    pub(crate) hook: &'a dyn Profile,
    pub(crate) kernel: &'a str,
    pub(crate) label: &'a str,
}

impl Profiled<'_> {
    /// Reports a part that has just ended.
    pub(crate) fn report(&self, worker: usize, start: Instant) {
        self.report_as(worker, start, start.elapsed());
    }

    /// Reports a part that has been timed.
    pub(crate) fn report_as(&self, worker: usize, start: Instant, duration: Duration) {
        self.hook.launch(&LaunchEvent { kernel: self.kernel, label: self.label, worker, start, duration });
    }
}

// SAFETY: the pointers are to memory that outlives the launch and that kernels divide among the tasks by contract.
unsafe impl Send for Launch<'_> {}
// SAFETY: as above.
unsafe impl Sync for Launch<'_> {}

/// What the workers of a launch share. Padded, as every worker writes to it.
#[repr(align(128))]
pub(crate) struct Progress {
    next: AtomicI64,
    status: AtomicI32,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress { next: AtomicI64::new(0), status: AtomicI32::new(0) }
    }

    pub(crate) fn reset(&self) {
        self.next.store(0, Ordering::Relaxed);
        self.status.store(0, Ordering::Relaxed);
    }

    /// The first status that was not 0, if all workers are done.
    pub(crate) fn status(&self) -> i32 {
        self.status.load(Ordering::Relaxed)
    }

    pub(crate) fn fail(&self, status: i32) {
        let _ = self.status.compare_exchange(0, status, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The next piece for one of `workers`: half an even share of what is left, so that the pieces become small just
    /// as the end comes near.
    fn take(&self, tasks: i64, workers: i64) -> Option<(i64, i64)> {
        let mut lo = self.next.load(Ordering::Relaxed);
        while lo < tasks {
            let hi = lo + ((tasks - lo) / (2 * workers)).max(1);
            match self.next.compare_exchange_weak(lo, hi, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some((lo, hi)),
                Err(now) => lo = now,
            }
        }
        None
    }
}

impl Launch<'_> {
    /// Takes pieces until there are none. At most one call for each `worker` may run at a time.
    pub(crate) fn work(&self, progress: &Progress, worker: usize, workers: usize) {
        let mut piece = progress.take(self.tasks, workers as i64);
        if piece.is_none() {
            return;
        }
        // The caller's part is the whole launch, which the session reports.
        let profile = self.profile.filter(|_| worker != 0);
        let start = profile.map(|_| Instant::now());
        while let Some((lo, hi)) = piece {
            let status = self.call(worker, lo, hi);
            if status != 0 {
                progress.fail(status);
            }
            piece = if progress.status() == 0 { progress.take(self.tasks, workers as i64) } else { None };
        }
        if let (Some(p), Some(start)) = (profile, start) {
            p.report(worker, start);
        }
    }

    /// Does all tasks at once on the calling thread.
    pub(crate) fn run_inline(&self) -> i32 {
        self.call(0, 0, self.tasks)
    }

    fn call(&self, worker: usize, lo: i64, hi: i64) -> i32 {
        let scratch = self.scratch.wrapping_add(worker * self.scratch_stride);
        // SAFETY: the plan was checked against the memory it addresses, and each range of tasks is taken once.
        unsafe { (self.kernel)(self.bufs, self.sizes, lo, hi, scratch) }
    }
}
