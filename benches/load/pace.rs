//! When each request of an open loop falls due.
//!
//! Place on the map: the connections of a `worker` share one. Whoever is free waits for the next turn; if all are busy
//! the turns pass, and are taken late but with the time at which they were due.

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

pub(crate) struct Pace {
    interval: Duration,
    until: Instant,
    // Fair: who waits longest is next.
    turn: Mutex<Turn>,
}

struct Turn {
    due: Instant,
    timer: Timer,
}

impl Pace {
    /// Turns every `interval` from `from`, the last of them before `until`.
    ///
    /// # Errors
    /// When the system has no timer to give.
    pub(crate) fn new(interval: Duration, from: Instant, until: Instant) -> Result<Self, String> {
        let timer = Timer::new().map_err(|error| format!("cannot make a timer: {error}"))?;
        Ok(Self { interval, until, turn: Mutex::new(Turn { due: from, timer }) })
    }

    /// Waits for the next turn and takes it: the time at which it was due. `None` when there are no more.
    ///
    /// # Errors
    /// When the system's timer fails.
    pub(crate) async fn next(&self) -> Result<Option<Instant>, String> {
        let mut turn = self.turn.lock().await;
        let due = turn.due;
        if due >= self.until {
            return Ok(None);
        }
        turn.timer.wait_until(due).await.map_err(|error| format!("the timer fails: {error}"))?;
        turn.due += self.interval;
        Ok(Some(due))
    }

    /// Turns that were due before `now` and that nobody took.
    pub(crate) async fn overdue(&self, now: Instant) -> u64 {
        let late = now.min(self.until).saturating_duration_since(self.turn.lock().await.due);
        u64::try_from(late.as_nanos() / self.interval.as_nanos().max(1)).unwrap_or(u64::MAX)
    }
}

/// A timer of the kernel's. tokio's own counts in whole milliseconds, which would be most of a latency measured here.
struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    #[expect(
        deprecated,
        reason = "its danger is a descriptor that is closed or replaced while it is registered; this one is owned, and \
                  never given away"
    )]
    fn new() -> std::io::Result<Self> {
        let descriptor =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self(AsyncFd::new(descriptor)?))
    }

    async fn wait_until(&mut self, due: Instant) -> std::io::Result<()> {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let value = Timespec::try_from(left).map_err(|_| std::io::ErrorKind::InvalidInput)?;
            let none = Timespec { tv_sec: 0, tv_nsec: 0 };
            let once = Itimerspec { it_interval: none, it_value: value };
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
            // Setting it anew takes back an expiry that has not been read, so nothing needs to be read.
            self.0.readable().await?.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn turns_keep_to_the_schedule_and_end() {
        block_on(async {
            let from = Instant::now();
            let interval = Duration::from_micros(700);
            let pace = Pace::new(interval, from, from + 3 * interval).unwrap();
            for turn in 0..3 {
                let due = pace.next().await.unwrap().unwrap();
                assert_eq!(due, from + turn * interval);
                assert!(Instant::now() >= due, "never early");
            }
            assert_eq!(pace.next().await, Ok(None));
        });
    }

    #[test]
    fn turns_nobody_took_are_taken_late_or_counted() {
        block_on(async {
            let now = Instant::now();
            let interval = Duration::from_millis(10);
            let from = now - 10 * interval;
            let pace = Pace::new(interval, from, now + interval).unwrap();
            assert_eq!(pace.next().await, Ok(Some(from)), "ten turns late, and its time says so");
            assert_eq!(pace.overdue(now).await, 9);
        });
    }
}
