//! When a second member is asked although the first has not failed: after the 95th percentile of what the operation
//! took lately, and never for more than a share of the requests.
//!
//! Place on the map: part of [`group`](crate::hsm::group); pure.

use std::time::Duration;

/// Latencies kept: the most recent ones.
const KEPT: usize = 128;
/// Fewer say nothing about a 95th percentile.
const KEPT_MIN: usize = 32;
/// The percentile is found anew after so many.
const RENEWED_AFTER: usize = 16;

/// The latest latencies of one operation.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    kept: Vec<Duration>,
    next: usize,
    since: usize,
    p95: Option<Duration>,
}

impl Latencies {
    pub(super) fn note(&mut self, took: Duration) {
        if self.kept.len() < KEPT {
            self.kept.push(took);
        } else if let Some(oldest) = self.kept.get_mut(self.next) {
            *oldest = took;
            self.next = (self.next + 1) % KEPT;
        }
        self.since += 1;
        if self.kept.len() >= KEPT_MIN && (self.since >= RENEWED_AFTER || self.p95.is_none()) {
            self.since = 0;
            let mut sorted = self.kept.clone();
            sorted.sort_unstable();
            self.p95 = sorted.get(sorted.len() * 95 / 100).copied();
        }
    }

    /// `None` until enough is known.
    pub(super) fn p95(&self) -> Option<Duration> {
        self.p95
    }
}

/// Hedges that may be saved up by quiet times.
const SAVED_MAX: u32 = 10;
/// What a hedge costs; a request earns the share in percent.
const COST: u32 = 100;

/// Keeps hedges to a share of the requests, so that they cannot double the load of an HSM that is slow for all.
#[derive(Debug, Default)]
pub(super) struct Budget {
    credit: u32,
}

impl Budget {
    pub(super) fn earn(&mut self, share_percent: u32) {
        self.credit = self.credit.saturating_add(share_percent).min(SAVED_MAX * COST);
    }

    /// Whether one more hedge is allowed; if so it is paid for.
    pub(super) fn pay(&mut self) -> bool {
        match self.credit.checked_sub(COST) {
            Some(rest) => {
                self.credit = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_needs_enough_and_follows_the_latest() {
        let mut latencies = Latencies::default();
        (1..32).for_each(|ms| latencies.note(Duration::from_millis(ms)));
        assert_eq!(latencies.p95(), None);
        latencies.note(Duration::from_millis(32));
        assert_eq!(latencies.p95(), Some(Duration::from_millis(31)));
        (0..KEPT + RENEWED_AFTER).for_each(|_| latencies.note(Duration::from_millis(5)));
        assert_eq!(latencies.p95(), Some(Duration::from_millis(5)));
        assert_eq!(latencies.kept.len(), KEPT);
    }

    #[test]
    fn hedges_are_a_share_of_the_requests_and_little_is_saved_up() {
        let mut budget = Budget::default();
        let mut hedged = 0;
        for _ in 0..1_000 {
            budget.earn(5);
            hedged += u32::from(budget.pay());
        }
        assert_eq!(hedged, 50);
        (0..100_000).for_each(|_| budget.earn(5));
        assert_eq!((0..100).filter(|_| budget.pay()).count(), 10);
    }
}
