//! What has become of traces.
//!
//! Place on the map: part of `metrics`; counted by `traces`, which only some builds have.

use std::sync::atomic::{AtomicU64, Ordering};

/// Requests whose traces were sent, could not be sent, or found no place to wait.
#[derive(Debug, Default)]
pub struct SpanCounts {
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl SpanCounts {
    /// The collector has taken so many.
    pub fn sent(&self, traces: u64) {
        self.sent.fetch_add(traces, Ordering::Relaxed);
    }

    /// The collector has not taken so many.
    pub fn failed(&self, traces: u64) {
        self.failed.fetch_add(traces, Ordering::Relaxed);
    }

    /// The queue was full.
    pub fn dropped(&self, traces: u64) {
        self.dropped.fetch_add(traces, Ordering::Relaxed);
    }

    /// Each outcome and its count.
    pub fn all(&self) -> [(&'static str, u64); 3] {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [("sent", count(&self.sent)), ("failed", count(&self.failed)), ("dropped", count(&self.dropped))]
    }
}
