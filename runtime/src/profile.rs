//! Hearing about every launch.

use std::time::{Duration, Instant};

/// One worker's part of one launch; worker 0's part is the whole of it, with the wait for the others. On a GPU there is
/// worker 0 alone, and the duration is what the device measured.
#[derive(Clone, Copy, Debug)]
pub struct LaunchEvent<'a> {
    /// The kernel's symbol.
    pub kernel: &'a str,
    /// The node of the model it came from.
    pub label: &'a str,
    /// 0 is the thread that called `run`.
    pub worker: usize,
    pub start: Instant,
    pub duration: Duration,
}

/// Called by each worker that took part in a launch, on its own thread, while other workers may still be at it; worker
/// 0 is always one, and comes when the launch is over.
pub trait Profile: Send + Sync {
    fn launch(&self, event: &LaunchEvent);
}
