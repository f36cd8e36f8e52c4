//! Lines of the log that nobody will read.
//!
//! Place on the map: part of `metrics`; counted by the daemon's log.

use std::sync::atomic::{AtomicU64, Ordering};

/// Lines dropped because the log's reader stalled, by what they were.
#[derive(Debug, Default)]
pub struct LinesDropped {
    audit: AtomicU64,
    other: AtomicU64,
}

impl LinesDropped {
    /// The audit event of an authenticated request.
    pub fn audit(&self) {
        self.audit.fetch_add(1, Ordering::Relaxed);
    }

    /// The audit event of a stranger, or a line of the daemon's own.
    pub fn other(&self) {
        self.other.fetch_add(1, Ordering::Relaxed);
    }

    /// Each kind and its count.
    pub fn all(&self) -> [(&'static str, u64); 2] {
        [("audit", self.audit.load(Ordering::Relaxed)), ("other", self.other.load(Ordering::Relaxed))]
    }
}
