//! The proxy's reliability over the last minutes, which decides between HTTP 500 and 400 at the caller.
//!
//! Place on the map: [`model`](super::model) feeds it every proxy call and asks it at each failure (kms-behaviour 7.2).

use std::collections::VecDeque;
use std::time::Duration;

/// Slices per window: the window slides in steps of a sixtieth (5 s of the documented five minutes).
const SLICES: u64 = 60;

/// A sliding window of outcomes.
#[derive(Clone, Debug)]
pub struct Reliability {
    threshold: f64,
    slice: Duration,
    slices: VecDeque<Slice>,
    total: u64,
    failed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slice {
    number: u128,
    total: u64,
    failed: u64,
}

impl Reliability {
    /// `threshold` is the share, 0 to 1, from which on the proxy counts as reliable (MA-17).
    pub fn new(threshold: f64, window: Duration) -> Self {
        let slice = Duration::from_nanos((window.as_nanos() as u64 / SLICES).max(1));
        Self { threshold, slice, slices: VecDeque::new(), total: 0, failed: 0 }
    }

    /// Notes one proxy call that ended at simulated time `now`; `failed`: with an error that counts as retryable.
    pub fn note(&mut self, now: Duration, failed: bool) {
        self.forget(now);
        let number = now.as_nanos() / self.slice.as_nanos();
        if self.slices.back().is_none_or(|slice| slice.number != number) {
            self.slices.push_back(Slice { number, total: 0, failed: 0 });
        }
        if let Some(slice) = self.slices.back_mut() {
            slice.total += 1;
            slice.failed += u64::from(failed);
        }
        self.total += 1;
        self.failed += u64::from(failed);
    }

    /// The share of calls in the window that did not fail so; 1 when there were none (MA-17).
    pub fn share(&mut self, now: Duration) -> f64 {
        self.forget(now);
        if self.total == 0 {
            return 1.0;
        }
        (self.total - self.failed) as f64 / self.total as f64
    }

    /// Whether the share is at or above the threshold.
    pub fn is_high(&mut self, now: Duration) -> bool {
        self.share(now) >= self.threshold
    }

    fn forget(&mut self, now: Duration) {
        let number = now.as_nanos() / self.slice.as_nanos();
        while let Some(slice) = self.slices.front().copied()
            && slice.number + u128::from(SLICES) <= number
        {
            self.total -= slice.total;
            self.failed -= slice.failed;
            self.slices.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn five_minutes() -> Reliability {
        Reliability::new(0.95, Duration::from_secs(300))
    }

    #[test]
    fn an_empty_window_is_reliable() {
        assert!(five_minutes().is_high(Duration::ZERO));
    }

    #[test]
    fn the_threshold_itself_is_reliable() {
        let mut reliability = five_minutes();
        for n in 0..100 {
            reliability.note(Duration::from_millis(n), n < 5);
        }
        assert!(reliability.is_high(Duration::from_secs(1)), "95 of 100");
        reliability.note(Duration::from_secs(1), true);
        assert!(!reliability.is_high(Duration::from_secs(1)), "95 of 101");
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut reliability = five_minutes();
        reliability.note(Duration::from_secs(2), true);
        assert!(!reliability.is_high(Duration::from_secs(299)));
        assert!(reliability.is_high(Duration::from_secs(305)));
        assert_eq!(reliability.slices.len(), 0);
    }
}
