//! Durations in buckets.
//!
//! Place on the map: part of `metrics`. prometheus-client's own histogram takes a lock at each observation, which all
//! worker threads would share; this one adds to two atomics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of one histogram, besides the one without an upper bound.
pub(super) const BOUNDS: usize = 16;

pub(super) struct Histogram {
    bounds: &'static [f64; BOUNDS],
    /// One more than there are bounds: the last has none.
    buckets: [AtomicU64; BOUNDS + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [f64; BOUNDS]) -> Self {
        Self { bounds, buckets: Default::default(), sum_ns: AtomicU64::new(0) }
    }

    pub(super) fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let index = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get(index) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Sum in seconds, count, and the count of each bucket by itself with its upper bound.
    pub(super) fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<_> =
            bounds.zip(&self.buckets).map(|(bound, count)| (bound, count.load(Ordering::Relaxed))).collect();
        // The count is what the buckets add up to, also while requests come in.
        let count = buckets.iter().map(|(_, count)| count).sum();
        (Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)).as_secs_f64(), count, buckets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::REQUEST_BOUNDS;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_what_is_longer_than_all_to_the_last() {
        let histogram = Histogram::new(&REQUEST_BOUNDS);
        for ms in [150, 151, 250, 5_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let (sum, count, buckets) = histogram.read();
        assert_eq!((sum, count), (5.551, 4));
        let filled: Vec<_> = buckets.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.15, 1), (0.2, 1), (0.25, 1), (f64::INFINITY, 1)]);
    }
}
