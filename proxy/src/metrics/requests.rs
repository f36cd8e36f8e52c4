//! The counters of requests, resolved before the first of them comes.
//!
//! Place on the map: part of `metrics`.

use super::REQUEST_BOUNDS;
use super::histogram::Histogram;
use crate::error::ErrorName;
use crate::events::{AuditEvent, Operation, STATUS_CALLER_GONE};
use std::sync::atomic::{AtomicU64, Ordering};

/// One key store's, by operation.
#[derive(Default)]
pub(super) struct Requests([Series; Operation::ALL.len()]);

impl Requests {
    pub(super) fn of(&self, operation: Operation) -> &Series {
        let [metadata, encrypt, decrypt, health] = &self.0;
        match operation {
            Operation::GetKeyMetadata => metadata,
            Operation::Encrypt => encrypt,
            Operation::Decrypt => decrypt,
            Operation::GetHealthStatus => health,
        }
    }
}

/// Of one key store and operation.
pub(super) struct Series {
    outcomes: [AtomicU64; OUTCOMES],
    shadow_denied: AtomicU64,
    pub(super) duration: Histogram,
}

impl Default for Series {
    fn default() -> Self {
        let outcomes = std::array::from_fn(|_| AtomicU64::new(0));
        Self { outcomes, shadow_denied: AtomicU64::new(0), duration: Histogram::new(&REQUEST_BOUNDS) }
    }
}

/// What a request can end with, as labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) status: &'static str,
    pub(super) error_name: &'static str,
    /// One of those that each operation can end with: written also when it has not happened yet.
    pub(super) usual: bool,
}

/// Success, the twelve errors with their own status, five statuses that HTTP asks for, a caller that is gone, and the
/// rest.
const OUTCOMES: usize = 1 + 12 + HTTP_STATUSES.len() + 2;

/// Statuses beside the error table's, all with ValidationException.
const HTTP_STATUSES: [(u16, &str); 5] =
    [(405, "405"), (413, "413"), (414, "414"), (415, "415"), (431, "431")];

const CALLER_GONE: usize = OUTCOMES - 2;
const OTHER: usize = OUTCOMES - 1;

fn index(event: &AuditEvent) -> usize {
    match event.error_name {
        None if event.status == 200 => 0,
        None if event.status == STATUS_CALLER_GONE => CALLER_GONE,
        None => OTHER,
        // The position in `ErrorName::ALL`, which is the order of declaration; a test sees to it.
        Some(name) if event.status == name.status().as_u16() => 1 + name as usize,
        Some(ErrorName::ValidationException) => {
            let known = HTTP_STATUSES.iter().position(|(status, _)| *status == event.status);
            known.map_or(OTHER, |index| 1 + ErrorName::ALL.len() + index)
        }
        Some(_) => OTHER,
    }
}

/// In the order of [`index`].
fn outcomes() -> impl Iterator<Item = Outcome> {
    let usual = |status, error_name| Outcome { status, error_name, usual: true };
    let rare = |status, error_name| Outcome { status, error_name, usual: false };
    let table = ErrorName::ALL.into_iter().map(move |name| usual(status_text(name), name.as_str()));
    let http =
        HTTP_STATUSES.iter().map(move |(_, status)| rare(*status, ErrorName::ValidationException.as_str()));
    let ends = [usual("499", "CallerGone"), rare("other", "other")];
    [usual("200", "none")].into_iter().chain(table).chain(http).chain(ends)
}

fn status_text(name: ErrorName) -> &'static str {
    match name.status().as_u16() {
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        429 => "429",
        500 => "500",
        501 => "501",
        503 => "503",
        _ => "other",
    }
}

impl Series {
    pub(super) fn count(&self, event: &AuditEvent) {
        if let Some(count) = self.outcomes.get(index(event)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if event.shadow_denied.is_some() {
            self.shadow_denied.fetch_add(1, Ordering::Relaxed);
        }
        self.duration.observe(event.stations.total);
    }

    /// Requests that rules or policies in shadow mode would have denied.
    pub(super) fn shadow_denied(&self) -> u64 {
        self.shadow_denied.load(Ordering::Relaxed)
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = (Outcome, u64)> {
        outcomes().zip(&self.outcomes).map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::UnixTime;
    use std::time::Duration;

    #[test]
    fn every_error_is_counted_under_its_own_name_and_status() {
        assert_eq!(outcomes().count(), OUTCOMES);
        for name in ErrorName::ALL {
            for status in [name.status().as_u16(), 405, 413, 414, 415, 431] {
                let mut event = AuditEvent::new(UnixTime(Duration::ZERO), String::new());
                (event.status, event.error_name) = (status, Some(name));
                let outcome = outcomes().nth(index(&event)).unwrap();
                if name == ErrorName::ValidationException || status == name.status().as_u16() {
                    assert_eq!(outcome.status, status.to_string());
                    assert_eq!(outcome.error_name, name.as_str());
                } else {
                    assert_eq!(outcome.error_name, "other");
                }
            }
        }
        let gone = AuditEvent::new(UnixTime(Duration::ZERO), String::new());
        assert_eq!(outcomes().nth(index(&gone)).unwrap().error_name, "CallerGone");
    }
}
