//! The trace of a run as JSON lines, one event each, written as it happens: memory does not grow with the run.
//!
//! Place on the map: an [`Observer`] that `xks-sim run NAME --trace FILE` hands to the world. Every time is simulated, in
//! nanoseconds since the start of the run. The fields, in this order:
//!
//! | field | of | what |
//! |---|---|---|
//! | `event` | all | number of the event, from 0; that of the digest and of `replay` |
//! | `time_ns` | all | when it was told: the end of what it tells of |
//! | `kind` | all | `service` (a user's request), `kms` (a KMS call), `xks` (a call of the proxy), `fault` |
//! | `request` | service, kms, xks | number of the user's request that it belongs to, from 1; `null` for none |
//! | `service` | service, kms, xks | the service's name in the scenario; `null` for none |
//! | `host` | xks | number of the KMS host, from 0 |
//! | `began_ns`, `took_ns` | service, kms, xks | when it began, and how long it took |
//! | `outcome` | service | `kms`, `cache`, `held-key` (what served it) or `failed` |
//! | `error` | service | what the user saw, or `null` |
//! | `attempts` | service | KMS calls made for a request that failed, or `null` |
//! | `operation` | kms | as in the KMS API |
//! | `exception`, `message` | service, kms | KMS's exception and its message, word for word, or `null` |
//! | `outcome` | xks | `answered`, the proxy's error with its status, or what else kept an answer from coming |
//! | `fresh_connection` | xks | whether it took a new connection |
//! | `fault`, `begins` | fault | number in the scenario's timeline, from 0; whether it begins or ends |

use crate::kms::KmsFailure;
use crate::observer::{Observer, Seen};
use crate::recording::ending_in_words;
use crate::trace::{Event, ServiceOutcome};
use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, Write};

/// Which events are written: those that fit everything that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this request alone.
    pub request: Option<u64>,
    /// Calls from this KMS host alone.
    pub host: Option<usize>,
    /// Of this service alone, by its index in the run's list.
    pub service: Option<usize>,
}

impl Filter {
    fn admits(&self, seen: &Seen<'_>) -> bool {
        let (host, service) = match seen.event {
            Event::Service(event) => (None, Some(event.service)),
            Event::Kms(event) => (None, Some(event.service)),
            Event::Xks(event) => (Some(event.kms_host), seen.request.map(|request| request.service)),
            Event::Fault { .. } => (None, None),
        };
        self.request.is_none_or(|wanted| seen.request.is_some_and(|request| request.number == wanted))
            && self.host.is_none_or(|wanted| host == Some(wanted))
            && self.service.is_none_or(|wanted| service == Some(wanted))
    }
}

#[derive(Serialize)]
struct Line<'a> {
    event: u64,
    time_ns: u64,
    kind: &'static str,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Service {
        request: Option<u64>,
        service: Option<&'a str>,
        began_ns: u64,
        took_ns: u64,
        outcome: &'static str,
        error: Option<&'static str>,
        attempts: Option<u32>,
        exception: Option<&'static str>,
        message: Option<&'a str>,
    },
    Kms {
        request: Option<u64>,
        service: Option<&'a str>,
        began_ns: u64,
        took_ns: u64,
        operation: &'static str,
        exception: Option<&'static str>,
        message: Option<&'a str>,
    },
    Xks {
        request: Option<u64>,
        service: Option<&'a str>,
        host: usize,
        began_ns: u64,
        took_ns: u64,
        outcome: Cow<'static, str>,
        fresh_connection: bool,
    },
    Fault {
        fault: usize,
        begins: bool,
    },
}

/// Writes the events that fit a [`Filter`].
pub struct TraceFile<W> {
    out: W,
    filter: Filter,
    services: Vec<&'static str>,
    written: u64,
    failed: Option<io::Error>,
}

impl<W: Write> TraceFile<W> {
    /// `services` are the names of the run's services, in order.
    pub fn new(out: W, filter: Filter, services: Vec<&'static str>) -> Self {
        Self { out, filter, services, written: 0, failed: None }
    }

    /// How many events have been written.
    ///
    /// # Errors
    /// The first that writing met with; nothing was written after it.
    pub fn finish(&mut self) -> io::Result<u64> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.out.flush().map(|()| self.written),
        }
    }

    fn write(&mut self, seen: &Seen<'_>) -> io::Result<()> {
        let ns = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let request = seen.request.map(|request| request.number);
        let name = |service: usize| self.services.get(service).copied();
        let exception = |failure: &Option<KmsFailure>| failure.as_ref().map(|it| it.exception.as_str());
        let (kind, what) = match seen.event {
            Event::Service(event) => {
                let (outcome, error, attempts, kms) = match &event.outcome {
                    ServiceOutcome::ServedByKms => ("kms", None, None, &None),
                    ServiceOutcome::ServedFromCache => ("cache", None, None, &None),
                    ServiceOutcome::ServedByHeldKey => ("held-key", None, None, &None),
                    ServiceOutcome::Failed { visible, kms, attempts } => {
                        ("failed", Some(*visible), Some(*attempts), kms)
                    }
                };
                let what = What::Service {
                    request,
                    service: name(event.service),
                    began_ns: ns(event.at),
                    took_ns: ns(event.took),
                    outcome,
                    error,
                    attempts,
                    exception: exception(kms),
                    message: kms.as_ref().map(|it| it.message.as_ref()),
                };
                ("service", what)
            }
            Event::Kms(event) => {
                let what = What::Kms {
                    request,
                    service: name(event.service),
                    began_ns: ns(event.at),
                    took_ns: ns(event.took),
                    operation: event.operation.as_str(),
                    exception: exception(&event.failure),
                    message: event.failure.as_ref().map(|it| it.message.as_ref()),
                };
                ("kms", what)
            }
            Event::Xks(event) => {
                let what = What::Xks {
                    request,
                    service: seen.request.and_then(|request| name(request.service)),
                    host: event.kms_host,
                    began_ns: ns(event.at),
                    took_ns: ns(event.took),
                    outcome: ending_in_words(event),
                    fresh_connection: event.fresh_connection,
                };
                ("xks", what)
            }
            Event::Fault { index, begins, .. } => ("fault", What::Fault { fault: *index, begins: *begins }),
        };
        let line = Line { event: seen.number, time_ns: ns(seen.now), kind, what };
        serde_json::to_writer(&mut self.out, &line)?;
        self.out.write_all(b"\n")
    }
}

impl<W: Write> Observer for TraceFile<W> {
    fn observe(&mut self, seen: &Seen<'_>) {
        if self.failed.is_some() || !self.filter.admits(seen) {
            return;
        }
        match self.write(seen) {
            Ok(()) => self.written += 1,
            Err(error) => self.failed = Some(error),
        }
    }
}
