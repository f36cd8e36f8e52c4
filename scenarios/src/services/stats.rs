//! What happened to one service during each fault, folded from its events: the numbers behind the words of the report.

use super::words::{clock, count, plural, span};
use crate::trace::{ServiceEvent, ServiceOutcome};
use std::time::Duration;

/// One service's run, fault by fault.
#[derive(Clone, Debug, Default)]
pub struct ServiceStats {
    /// Failed requests of the whole run.
    pub failed: u64,
    /// The faults; those that overlap or touch are one.
    pub windows: Vec<WindowTally>,
}

/// What happened to the requests that came in during one fault, or during all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowTally {
    /// When it began, since the start of the run.
    pub from: Duration,
    /// When it ended.
    pub to: Duration,
    /// Served by calling KMS.
    pub by_kms: u64,
    /// Served from a cached data key.
    pub from_cache: u64,
    /// Served by a key held in a running resource.
    pub from_held_key: u64,
    /// Failed.
    pub failed: u64,
    /// When the first that failed came in.
    pub first_failure: Option<Duration>,
    /// When the last that was served from a cache came in.
    pub last_from_cache: Option<Duration>,
    /// Failed and came in after that.
    pub failed_since: u64,
    /// How many more faults it is about, between `from` and `to`.
    pub more: usize,
}

impl ServiceStats {
    /// Nothing has happened yet. `faults` are the beginnings and ends of the run's faults, in any order.
    pub fn new(faults: &[(Duration, Duration)]) -> Self {
        let mut faults = faults.to_vec();
        faults.sort();
        let mut windows: Vec<WindowTally> = Vec::new();
        for (from, to) in faults {
            match windows.last_mut() {
                Some(last) if from <= last.to => last.to = last.to.max(to),
                _ => windows.push(WindowTally { from, to, ..WindowTally::default() }),
            }
        }
        Self { failed: 0, windows }
    }

    /// Takes in one of the service's events, in the order of the trace.
    pub fn record(&mut self, event: &ServiceEvent) {
        let failed = matches!(event.outcome, ServiceOutcome::Failed { .. });
        self.failed += u64::from(failed);
        let Some(window) = self.windows.iter_mut().find(|w| (w.from..w.to).contains(&event.at)) else {
            return;
        };
        match event.outcome {
            ServiceOutcome::ServedByKms => window.by_kms += 1,
            ServiceOutcome::ServedByHeldKey => window.from_held_key += 1,
            ServiceOutcome::ServedFromCache => {
                window.from_cache += 1;
                if window.last_from_cache.is_none_or(|last| last <= event.at) {
                    window.last_from_cache = Some(event.at);
                    window.failed_since = 0;
                }
            }
            ServiceOutcome::Failed { .. } => {
                window.failed += 1;
                window.first_failure =
                    Some(window.first_failure.map_or(event.at, |first| first.min(event.at)));
                window.failed_since += u64::from(window.last_from_cache.is_none_or(|last| last <= event.at));
            }
        }
    }

    /// The same if every event stood for so many.
    pub(super) fn times(&self, n: u64) -> Self {
        let window = |window: &WindowTally| WindowTally {
            by_kms: window.by_kms * n,
            from_cache: window.from_cache * n,
            from_held_key: window.from_held_key * n,
            failed: window.failed * n,
            failed_since: window.failed_since * n,
            ..window.clone()
        };
        Self { failed: self.failed * n, windows: self.windows.iter().map(window).collect() }
    }

    /// All faults as one, from the first one's beginning to the last one's end; `None` without any. A cache was last used
    /// in the last of them in which it was used at all, and counts as run out by what failed in that one since.
    pub fn during_faults(&self) -> Option<WindowTally> {
        let (first, more) = self.windows.split_first()?;
        let add = |all: WindowTally, next: &WindowTally| WindowTally {
            from: all.from,
            to: next.to,
            by_kms: all.by_kms + next.by_kms,
            from_cache: all.from_cache + next.from_cache,
            from_held_key: all.from_held_key + next.from_held_key,
            failed: all.failed + next.failed,
            first_failure: all.first_failure.or(next.first_failure),
            last_from_cache: next.last_from_cache.or(all.last_from_cache),
            failed_since: match next.last_from_cache {
                Some(_) => next.failed_since,
                None => all.failed_since + next.failed_since,
            },
            more: all.more + 1,
        };
        Some(more.iter().fold(first.clone(), add))
    }
}

/// A cache counts as run out when nothing was served from it for this long before the fault's end.
const RUN_OUT_MARGIN: Duration = Duration::from_secs(5);

impl WindowTally {
    fn served(&self) -> u64 {
        self.by_kms + self.from_cache + self.from_held_key
    }

    fn the_fault(&self) -> &'static str {
        if self.more == 0 { "the fault" } else { "the faults" }
    }

    /// The sentences every service has in common: nothing failed, or some calls of KMS still got through.
    pub(super) fn in_general(&self) -> String {
        if self.failed == 0 && self.served() > 0 {
            return format!(
                "Nothing failed: {} during {} succeeded.",
                plural(self.served(), "request", "requests"),
                self.the_fault()
            );
        }
        if self.by_kms > 0 {
            return format!(
                "{} got a key from KMS in spite of {}.",
                plural(self.by_kms, "request", "requests"),
                self.the_fault()
            );
        }
        String::new()
    }

    /// Requests served from `cached` keys, which the service keeps as long as `kept` says, and whether they ran out.
    pub(super) fn cache_sentence(&self, cached: &str, kept: &str) -> String {
        let Some(last) = self.last_from_cache else { return String::new() };
        let served =
            format!("{} served from {cached}", plural(self.from_cache, "request was", "requests were"));
        if self.failed_since > 0 && last + RUN_OUT_MARGIN < self.to {
            // Of several faults each has a beginning of its own.
            let since = match self.more {
                0 => format!(", {} after the fault began", span(last.saturating_sub(self.from))),
                _ => String::new(),
            };
            format!("{served} until these ran out: the last at {}{since} ({kept}).", clock(last))
        } else if self.failed > 0 {
            let which = if self.more == 0 { "the fault" } else { "the last fault" };
            format!("{served}, some up to the end of {which} ({kept}).")
        } else {
            format!("{served} ({kept}).")
        }
    }

    /// Requests served by held keys: `what` kept working because of `why`.
    pub(super) fn held_sentence(&self, what: &str, why: &str) -> String {
        match self.from_held_key {
            0 => String::new(),
            n => format!("{} {what} kept working: {why}.", count(n)),
        }
    }
}

/// Sentences one after the other, without the empty ones.
pub(super) fn join(sentences: &[String]) -> String {
    sentences.iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: ServiceOutcome = ServiceOutcome::Failed { visible: "503", kms: None, attempts: 1 };

    fn stats(faults: &[(u64, u64)], events: &[(u64, ServiceOutcome)]) -> ServiceStats {
        let s = Duration::from_secs;
        let faults: Vec<_> = faults.iter().map(|(from, to)| (s(*from), s(*to))).collect();
        let mut stats = ServiceStats::new(&faults);
        for (at, outcome) in events {
            stats.record(&ServiceEvent { service: 0, at: s(*at), took: s(0), outcome: outcome.clone() });
        }
        stats
    }

    #[test]
    fn faults_that_overlap_are_one_and_all_of_them_are_told_of() {
        let events = [(9, FAILED), (10, FAILED), (25, FAILED), (30, FAILED), (40, FAILED), (50, FAILED)];
        let stats = stats(&[(40, 50), (20, 30), (10, 25)], &events);
        let windows: Vec<_> =
            stats.windows.iter().map(|w| (w.from.as_secs(), w.to.as_secs(), w.failed)).collect();
        assert_eq!(windows, [(10, 30, 2), (40, 50, 1)]);
        assert_eq!(stats.failed, 6);
        let all = stats.during_faults().unwrap();
        assert_eq!((all.from.as_secs(), all.to.as_secs(), all.failed, all.more), (10, 50, 3, 1));
        assert_eq!(all.first_failure, Some(Duration::from_secs(10)));
        assert_eq!(stats.windows[0].first_failure, Some(Duration::from_secs(10)));
    }

    #[test]
    fn a_cache_has_run_out_only_if_requests_failed_after_its_last_use() {
        use ServiceOutcome::ServedFromCache as Cached;
        let told = |events: &[(u64, ServiceOutcome)]| {
            stats(&[(100, 200)], events).windows[0].cache_sentence("cached keys", "TTL 60 s")
        };
        assert_eq!(
            told(&[(110, Cached), (120, FAILED), (150, Cached), (170, FAILED)]),
            "2 requests were served from cached keys until these ran out: the last at 2:30, 50 s after the fault began \
             (TTL 60 s)."
        );
        let still = "2 requests were served from cached keys, some up to the end of the fault (TTL 60 s).";
        assert_eq!(told(&[(110, Cached), (120, FAILED), (150, Cached)]), still, "nobody came after that");
        assert_eq!(told(&[(110, Cached), (198, Cached), (199, FAILED)]), still);
        assert_eq!(told(&[(150, Cached)]), "1 request was served from cached keys (TTL 60 s).");
        assert_eq!(told(&[(150, FAILED)]), "");
    }

    #[test]
    fn what_kept_working_is_counted_over_every_fault() {
        use ServiceOutcome::{ServedByHeldKey as Held, ServedByKms as Kms, ServedFromCache as Cached};
        let all = |events: &[(u64, ServiceOutcome)]| {
            stats(&[(100, 200), (300, 400)], events).during_faults().unwrap()
        };
        let served = all(&[(110, Kms), (120, Held), (250, Kms), (310, Kms), (320, Held)]);
        assert_eq!(served.in_general(), "Nothing failed: 4 requests during the faults succeeded.");
        assert_eq!(served.held_sentence("reads", "no key"), "2 reads kept working: no key.");
        let cached = |events: &[(u64, ServiceOutcome)]| all(events).cache_sentence("cached keys", "TTL 60 s");
        assert_eq!(
            cached(&[(110, Cached), (120, FAILED), (310, Cached), (320, Cached), (350, FAILED)]),
            "3 requests were served from cached keys until these ran out: the last at 5:20 (TTL 60 s)."
        );
        assert_eq!(
            cached(&[(110, Cached), (120, FAILED), (310, Cached)]),
            "2 requests were served from cached keys, some up to the end of the last fault (TTL 60 s)."
        );
    }
}
