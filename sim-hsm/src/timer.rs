//! Time as the device sees it: virtual in simulation, tokio's otherwise.
//!
//! Place on the map: given to [`SimHsm::new`](crate::SimHsm::new); `backend` and `control` ask it for the time.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// A clock that never goes back, and a way to wait on it.
pub trait Timer: Send + Sync {
    /// Time since some fixed start. It must advance at the pace of `tokio::time`, in which deadlines are given.
    fn now(&self) -> Duration;

    /// Resolves once [`Timer::now`] is at or after `at`; late is allowed, early is not.
    fn sleep_until(&self, at: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// tokio's clock, real or paused. Waits end on the next whole millisecond, as tokio's timers do.
#[derive(Clone, Copy, Debug)]
pub struct TokioTimer {
    start: tokio::time::Instant,
}

impl TokioTimer {
    /// A timer whose time zero is now. Call it inside the runtime whose clock it is to follow.
    pub fn new() -> Self {
        Self { start: tokio::time::Instant::now() }
    }
}

impl Default for TokioTimer {
    fn default() -> Self {
        Self::new()
    }
}

impl Timer for TokioTimer {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep_until(&self, at: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match self.start.checked_add(at) {
            Some(at) => Box::pin(tokio::time::sleep_until(at)),
            // Beyond what the clock can say: never, for all practical purposes.
            None => Box::pin(std::future::pending()),
        }
    }
}
