//! Metrics: counts each request as a subscriber of its audit event, reads everything else when it is asked, and writes
//! both as Prometheus reads them.
//!
//! Place on the map: `daemon` makes one [`Metrics`] and gives it to the [`App`] as a subscriber; [`ops`](crate::ops)
//! serves its page at `/metrics`.
//!
//! | module | what it does |
//! |---|---|
//! | `histogram` | durations in buckets, of atomics only |
//! | `lines` | lines of the log that were dropped |
//! | `requests` | the counters of one key store, resolved beforehand |
//! | `spans` | what has become of traces |
//! | `page` | all of it, written down |
//!
//! What a request costs: one look-up of its key store among those configured and some additions to atomics; no
//! allocation and no lock. What a stranger can cause: counts under `key_store="none"`. No label holds anything that a
//! request brought along: paths, key ids and principals are in the audit log.

mod histogram;
mod lines;
mod page;
mod requests;
mod spans;

pub use lines::LinesDropped;
pub use page::{Format, HsmSource, Page, Process, Sources};
pub use spans::SpanCounts;

use crate::app::App;
use crate::env::UnixTime;
use crate::events::{AuditEvent, Operation, Stations, Subscriber};
use arc_swap::ArcSwap;
use histogram::Histogram;
use requests::{Requests, Series};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What has been counted since the start. Everything else on the page is read when it is written.
pub struct Metrics {
    by_store: ArcSwap<BTreeMap<String, Arc<Requests>>>,
    /// Requests whose path led to no key store.
    strangers: Series,
    stations: [[Histogram; STATIONS.len()]; Operation::ALL.len()],
    reloads: Reloads,
}

/// A station's name and its time in an event.
type Station = (&'static str, fn(&Stations) -> Duration);

/// The stations of a request but for `total`, which has a family of its own.
const STATIONS: [Station; 4] = [
    ("read", |stations| stations.read),
    ("sigv4", |stations| stations.sigv4),
    ("parse", |stations| stations.parse),
    ("hsm", |stations| stations.hsm),
];

/// Upper bounds of the buckets of a whole request, in seconds: dense around the deadline of 0.15 and KMS's 0.25.
const REQUEST_BOUNDS: [f64; 16] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.5, 1.0];

/// Upper bounds of the buckets of one station, in seconds: SigV4 takes some 20 µs, an HSM call up to the deadline.
const STATION_BOUNDS: [f64; 16] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.15, 0.25, 1.0,
];

#[derive(Default)]
struct Reloads {
    done: AtomicU64,
    failed: AtomicU64,
    /// The configuration was refused when it was last read.
    refused: AtomicBool,
    /// Milliseconds since 1970.
    last_done_ms: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            by_store: ArcSwap::default(),
            strangers: Series::default(),
            stations: std::array::from_fn(|_| std::array::from_fn(|_| Histogram::new(&STATION_BOUNDS))),
            reloads: Reloads::default(),
        }
    }
}

impl Metrics {
    /// A configuration has been taken over; also to be called for the first one.
    pub fn configured(&self, now: UnixTime) {
        let ms = u64::try_from(now.0.as_millis()).unwrap_or(u64::MAX);
        self.reloads.last_done_ms.store(ms, Ordering::Relaxed);
    }

    /// A configuration read anew has been taken over (`true`) or refused.
    pub fn reloaded(&self, done: bool, now: UnixTime) {
        let count = if done { &self.reloads.done } else { &self.reloads.failed };
        count.fetch_add(1, Ordering::Relaxed);
        self.reloads.refused.store(!done, Ordering::Relaxed);
        if done {
            self.configured(now);
        }
    }

    /// Makes counters for key stores that have come, and drops those of key stores that have gone. Called for each
    /// page, so that every series is there, at zero, before its first event: a rate can only see steps.
    fn follow(&self, app: &App) {
        let names: Vec<String> = app.stores().iter().map(|store| store.name.clone()).collect();
        let known = self.by_store.load();
        if known.len() == names.len() && names.iter().all(|name| known.contains_key(name)) {
            return;
        }
        self.by_store.rcu(|known| {
            let of = |name: &String| known.get(name).cloned().unwrap_or_default();
            names.iter().map(|name| (name.clone(), of(name))).collect::<BTreeMap<_, _>>()
        });
    }

    /// Makes the counters of a key store that a reload has brought since the last page. Names come from the
    /// configuration alone, so there are no more of them than it has key stores.
    #[cold]
    fn add(&self, store: &str) -> Arc<Requests> {
        let new = Arc::new(Requests::default());
        let before = self.by_store.rcu(|known| {
            let mut all = BTreeMap::clone(known);
            all.entry(store.to_owned()).or_insert_with(|| Arc::clone(&new));
            all
        });
        before.get(store).cloned().unwrap_or(new)
    }
}

impl Subscriber for Metrics {
    fn audit(&self, event: &AuditEvent) {
        let (Some(store), Some(operation)) = (&event.key_store, event.operation) else {
            return self.strangers.count(event);
        };
        match self.by_store.load().get(store) {
            Some(requests) => requests.of(operation).count(event),
            None => self.add(store).of(operation).count(event),
        }
        let Some(stations) = self.stations.get(operation as usize) else { return };
        for (histogram, (_, time)) in stations.iter().zip(&STATIONS) {
            let time = time(&event.stations);
            // Zero is a station that the request did not reach.
            if !time.is_zero() {
                histogram.observe(time);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorName;

    fn event(store: Option<&str>, status: u16) -> AuditEvent {
        let mut event = AuditEvent::new(UnixTime(Duration::ZERO), String::new());
        event.key_store = store.map(str::to_owned);
        event.operation = store.map(|_| Operation::Encrypt);
        event.status = status;
        event
    }

    #[test]
    fn a_key_store_that_a_reload_has_just_brought_is_counted_from_its_first_request_on() {
        let metrics = Metrics::default();
        for _ in 0..3 {
            metrics.audit(&event(Some("new"), 200));
        }
        let known = metrics.by_store.load();
        let (outcome, count) = known["new"].of(Operation::Encrypt).counts().next().unwrap();
        assert_eq!((known.len(), outcome.error_name, count), (1, "none", 3));
    }

    #[test]
    fn an_outcome_that_nobody_foresaw_is_counted_as_other() {
        let metrics = Metrics::default();
        let mut odd = event(None, 418);
        odd.error_name = Some(ErrorName::ValidationException);
        metrics.audit(&odd);
        let counted: Vec<_> = metrics.strangers.counts().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted.len(), 1);
        assert_eq!((counted[0].0.status, counted[0].0.error_name), ("other", "other"));
    }
}
