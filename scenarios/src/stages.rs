//! Where each proxy call spent its time: looked at from beside a run, and never part of it.
//!
//! Place on the map: `world` tells the [`StageBook`] of [`Options`](crate::world::Options), if there is one, what KMS's events
//! and the proxies' audit events say; [`budget`](crate::budget) reads it afterwards. Nothing of it enters an event line, so a
//! run's digest is the same with it and without.

use crate::processor::Processor;
use crate::trace::{Event, Recorder, XksEvent, XksOutcome};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use xks_proxy::events::{AuditEvent, Stations, Subscriber};

/// Calls that are kept, at the most; what comes after is only counted.
pub const CALLS_MAX: usize = 2_000_000;
/// Answers of proxies that no call has asked for yet, at the most: KMS has given those up.
const ANSWERS_MAX: usize = 100_000;

/// The parts of a call, in the order in which they pass; together they are the whole of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Until there is a TCP connection; zero on a kept one.
    pub connect: Duration,
    /// Until there is TLS on it, the proxy's work for it included.
    pub tls: Duration,
    /// The request's way there and the answer's way back.
    pub network: Duration,
    /// At the proxy, until a processor has had the time for the request.
    pub processor: Duration,
    /// In the proxy's own stations: signature, parsing, authorisation.
    pub proxy: Duration,
    /// HSM calls, queueing and the way there included.
    pub hsm: Duration,
    /// From when the request could be sent, if no answer came in time or at all.
    pub unanswered: Duration,
}

impl Parts {
    /// All of them, in order.
    pub fn all(&self) -> [Duration; 7] {
        [self.connect, self.tls, self.network, self.processor, self.proxy, self.hsm, self.unanswered]
    }
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it began.
    pub at: Duration,
    /// How long it took, as KMS saw it.
    pub took: Duration,
    /// Where that went.
    pub parts: Parts,
}

/// What a run's proxy calls were made of.
#[derive(Debug, Default)]
pub struct StageBook {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// What proxies have answered, by `kmsRequestId`.
    answers: BTreeMap<String, (Stations, Duration)>,
    calls: Vec<Call>,
    not_kept: u64,
    /// The figures of the run are closed, and so is the book.
    closed: bool,
}

impl StageBook {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All calls in the order of their ends, and how many more there were than are kept.
    pub fn take(&self) -> (Vec<Call>, u64) {
        let mut inner = self.inner();
        (std::mem::take(&mut inner.calls), inner.not_kept)
    }

    /// What comes now is no part of the run's figures.
    pub(crate) fn close(&self) {
        self.inner().closed = true;
    }

    fn answered(&self, request_id: &str, stations: Stations, processor: Duration) {
        let mut inner = self.inner();
        inner.answers.insert(request_id.to_owned(), (stations, processor));
        if inner.answers.len() > ANSWERS_MAX {
            inner.answers.pop_first();
        }
    }

    fn called(&self, event: &XksEvent) {
        let mut inner = self.inner();
        let answer = inner.answers.remove(&event.stages.kms_request_id);
        if inner.closed {
            return;
        }
        if inner.calls.len() >= CALLS_MAX {
            inner.not_kept += 1;
            return;
        }
        let call = Call { at: event.at, took: event.took, parts: parts(event, answer) };
        inner.calls.push(call);
    }
}

/// What is left of the whole when everything known is taken away is the network, or the waiting in vain.
fn parts(event: &XksEvent, answer: Option<(Stations, Duration)>) -> Parts {
    let connect = event.stages.connecting.min(event.took);
    let tls = event.stages.securing.min(event.took - connect);
    let rest = event.took - connect - tls;
    let got = matches!(event.outcome, XksOutcome::Ok | XksOutcome::Error { .. } | XksOutcome::Malformed);
    match answer.filter(|_| got) {
        Some((stations, processor)) => {
            let hsm = stations.hsm.min(rest);
            let proxy = stations.total.saturating_sub(stations.hsm + stations.read).min(rest - hsm);
            let processor = processor.min(rest - hsm - proxy);
            Parts {
                connect,
                tls,
                hsm,
                proxy,
                processor,
                network: rest - hsm - proxy - processor,
                ..Parts::default()
            }
        }
        // Refused before anybody knew which request it was: the proxy is quick with that.
        None if got => Parts { connect, tls, network: rest, ..Parts::default() },
        None => Parts { connect, tls, unanswered: rest, ..Parts::default() },
    }
}

/// KMS's recorder, with the book beside it.
pub(crate) struct WatchedRecorder {
    pub(crate) inner: Rc<dyn Recorder>,
    pub(crate) book: Arc<StageBook>,
}

impl Recorder for WatchedRecorder {
    fn emit(&self, event: Event) {
        if let Event::Xks(event) = &event {
            self.book.called(event);
        }
        self.inner.emit(event);
    }

    fn now(&self) -> Duration {
        self.inner.now()
    }
}

/// One proxy's audit events, with the book beside them.
pub(crate) struct WatchedProxy {
    pub(crate) book: Arc<StageBook>,
    pub(crate) processor: Option<Arc<Processor>>,
}

impl Subscriber for WatchedProxy {
    fn audit(&self, event: &AuditEvent) {
        let Some(request_id) = &event.kms_request_id else { return };
        let processor = self.processor.as_ref();
        let waited = processor.and_then(|processor| processor.waited_for_one_begun(event.stations.total));
        self.book.answered(request_id, event.stations, waited.unwrap_or_default());
    }
}
