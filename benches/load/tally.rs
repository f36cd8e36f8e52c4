//! What came back: latencies, and how many answers of which kind.
//!
//! Place on the map: each `worker` fills one; `run` adds them up for `figures`.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// Kinds of trouble that are told apart; more are counted together.
const KINDS_MAX: usize = 100;

pub(crate) struct Tally {
    /// From when a request was due to when its answer was read.
    pub(crate) latency_us: Histogram<u64>,
    /// Answers by status, and error name if there is one.
    pub(crate) answers: BTreeMap<String, u64>,
    /// Answers with status 200; counted apart, being nearly all.
    pub(crate) right: u64,
    /// Answers that are not the spec's, or not true, by what is wrong.
    pub(crate) wrong: BTreeMap<String, u64>,
    /// Requests without an answer, by why.
    pub(crate) lost: BTreeMap<String, u64>,
    /// Requests that fell due and were never sent.
    pub(crate) unsent: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            // Three significant digits, from a microsecond up, growing as it must.
            latency_us: Histogram::new(3).unwrap_or_else(|_| unreachable!("3 is a legal precision")),
            answers: BTreeMap::new(),
            right: 0,
            wrong: BTreeMap::new(),
            lost: BTreeMap::new(),
            unsent: 0,
        }
    }
}

impl Tally {
    pub(crate) fn took(&mut self, latency: Duration) {
        // A histogram that grows by itself refuses no value.
        let _ = self.latency_us.record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn count(kinds: &mut BTreeMap<String, u64>, kind: String) {
        let is_new = !kinds.contains_key(&kind) && kinds.len() >= KINDS_MAX;
        *kinds.entry(if is_new { "others".into() } else { kind }).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let _ = self.latency_us.add(&other.latency_us);
        self.right += other.right;
        self.unsent += other.unsent;
        for (mine, others) in [
            (&mut self.answers, &other.answers),
            (&mut self.wrong, &other.wrong),
            (&mut self.lost, &other.lost),
        ] {
            for (kind, count) in others {
                *mine.entry(kind.clone()).or_default() += count;
            }
        }
    }
}
