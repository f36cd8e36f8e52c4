//! Where each proxy call spent its time: looked at from beside a run, and never part of it.
//!
//! Place on the map: `world` tells a [`StageBook`] what KMS's events and the proxies' audit events say, if somebody wants to
//! know: [`budget`](crate::budget) reads that of [`Options`](crate::world::Options) afterwards, and
//! [`samples`](crate::samples) asks for the latest call as it ends. Nothing of it enters an event line, so a run's digest is
//! the same with it and without.

use crate::clock::Clock;
use crate::processor::Processor;
use crate::trace::{Event, Recorder, XksEvent, XksOutcome};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use xks_proxy::events::{AuditEvent, Stations, Subscriber};

/// Calls that are kept, at the most; what comes after is only counted.
pub const CALLS_MAX: usize = 2_000_000;
/// Answers of proxies that no call has asked for, at the most: KMS has given those up. Of twice as many the older half is
/// forgotten.
const ANSWERS_MAX: usize = 50_000;

/// The parts of a call, in the order in which they pass; together they are the whole of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Until there is a TCP connection; zero on a kept one.
    pub connect: Duration,
    /// Until there is TLS on it, the proxy's work for it included.
    pub tls: Duration,
    /// The request's way to the proxy.
    pub there: Duration,
    /// At the proxy, until a processor has had the time for the request.
    pub processor: Duration,
    /// In the proxy's own stations: signature, parsing, authorisation.
    pub proxy: Duration,
    /// HSM calls, queueing and the way there included.
    pub hsm: Duration,
    /// The answer's way back.
    pub back: Duration,
    /// From when the request could be sent, if no answer came in time or at all.
    pub unanswered: Duration,
}

impl Parts {
    /// All of them, in order, with the network's two ways as one.
    pub fn all(&self) -> [Duration; 7] {
        let Self { connect, tls, there, processor, proxy, hsm, back, unanswered } = *self;
        [connect, tls, there + back, processor, proxy, hsm, unanswered]
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

/// What a run's proxy calls were made of. The default keeps every call.
#[derive(Debug, Default)]
pub struct StageBook {
    inner: Mutex<Inner>,
    latest_only: bool,
}

/// What a proxy said of one request.
#[derive(Clone, Copy, Debug)]
struct Answer {
    stations: Stations,
    /// Until a core had had the time for it.
    processor: Duration,
    /// When it was ready, in simulated time since the start of the run.
    at: Duration,
}

#[derive(Debug, Default)]
struct Inner {
    /// What proxies have answered, by `kmsRequestId`, and what they had answered before those.
    answers: BTreeMap<String, Answer>,
    older: BTreeMap<String, Answer>,
    latest: Parts,
    calls: Vec<Call>,
    not_kept: u64,
    /// The figures of the run are closed, and so is the book.
    closed: bool,
}

impl StageBook {
    /// One that knows the latest call and forgets it at the next.
    pub fn latest_only() -> Self {
        Self { latest_only: true, ..Self::default() }
    }

    /// The parts of the call that has ended last.
    pub fn latest(&self) -> Parts {
        self.inner().latest
    }

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

    fn answered(&self, request_id: &str, answer: Answer) {
        let mut inner = self.inner();
        inner.answers.insert(request_id.to_owned(), answer);
        if inner.answers.len() > ANSWERS_MAX {
            inner.older = std::mem::take(&mut inner.answers);
        }
    }

    fn called(&self, event: &XksEvent) {
        let mut inner = self.inner();
        let id = &event.stages.kms_request_id;
        let answer = inner.answers.remove(id).or_else(|| inner.older.remove(id));
        inner.latest = parts(event, answer);
        if self.latest_only || inner.closed {
            return;
        }
        if inner.calls.len() >= CALLS_MAX {
            inner.not_kept += 1;
            return;
        }
        let call = Call { at: event.at, took: event.took, parts: inner.latest };
        inner.calls.push(call);
    }
}

/// What is left of the whole when everything known is taken away is the network, or the waiting in vain.
fn parts(event: &XksEvent, answer: Option<Answer>) -> Parts {
    let connect = event.stages.connecting.min(event.took);
    let tls = event.stages.securing.min(event.took - connect);
    let rest = event.took - connect - tls;
    let got = matches!(event.outcome, XksOutcome::Ok | XksOutcome::Error { .. } | XksOutcome::Malformed);
    match answer.filter(|_| got) {
        Some(Answer { stations, processor, at }) => {
            let hsm = stations.hsm.min(rest);
            let proxy = stations.total.saturating_sub(stations.hsm + stations.read).min(rest - hsm);
            let processor = processor.min(rest - hsm - proxy);
            let network = rest - hsm - proxy - processor;
            let back = (event.at + event.took).saturating_sub(at).min(network);
            let there = network - back;
            Parts { connect, tls, there, processor, proxy, hsm, back, unanswered: Duration::ZERO }
        }
        // Refused before anybody knew which request it was: the proxy is quick with that.
        None if got => Parts { connect, tls, there: rest / 2, back: rest - rest / 2, ..Parts::default() },
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
    pub(crate) clock: Clock,
    pub(crate) processor: Option<Arc<Processor>>,
}

impl Subscriber for WatchedProxy {
    fn audit(&self, event: &AuditEvent) {
        let Some(request_id) = &event.kms_request_id else { return };
        let processor = self.processor.as_ref();
        let waited = processor.and_then(|processor| processor.waited_for_one_begun(event.stations.total));
        let (stations, at) = (event.stations, self.clock.now());
        self.book.answered(request_id, Answer { stations, processor: waited.unwrap_or_default(), at });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::XksStages;

    /// The smallest ids were forgotten first and not the oldest, and ids are random: after an hour of answers that nobody asked
    /// for, a fresh one was gone before its call had read it.
    #[test]
    fn answers_that_nobody_asks_for_push_out_none_that_somebody_will() {
        let book = StageBook::latest_only();
        let ms = Duration::from_millis;
        let answer = Answer {
            stations: Stations { hsm: ms(3), total: ms(3), ..Stations::default() },
            processor: ms(1),
            at: ms(6),
        };
        let asked = |id: &str| {
            let stages = XksStages { kms_request_id: id.to_owned(), ..XksStages::default() };
            book.called(&XksEvent {
                kms_host: 0,
                at: Duration::ZERO,
                took: ms(8),
                fresh_connection: false,
                outcome: XksOutcome::Ok,
                stages,
            });
            book.latest()
        };
        (0..5 * ANSWERS_MAX).for_each(|number| book.answered(&format!("z-{number}"), answer));
        book.answered("a", answer);
        let parts = Parts { there: ms(2), processor: ms(1), hsm: ms(3), back: ms(2), ..Parts::default() };
        assert_eq!(asked("a"), parts);
        // The old ones are gone, and no more than the limit is kept.
        assert_eq!(asked("z-0"), Parts { there: ms(4), back: ms(4), ..Parts::default() });
        let inner = book.inner();
        assert!(inner.answers.len() + inner.older.len() <= 2 * ANSWERS_MAX + 1);
    }
}
