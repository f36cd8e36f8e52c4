//! Single requests from near: for each service one that was served, one that failed, and the slowest, with every station
//! that they passed.
//!
//! Place on the map: an [`Observer`] that `world` adds to a run whose report is wanted; it asks the
//! [`StageBook`](crate::stages::StageBook) for the parts of each proxy call. What it has chosen goes into
//! [`ServiceResult`](crate::result::ServiceResult), and `report` draws it as a waterfall.
//!
//! Only requests that asked KMS are looked at. A request is chosen when it has ended, and what is not chosen is forgotten, so
//! that a long run needs no more memory than a short one.

use crate::observer::{Observer, Seen};
use crate::recording::ending_in_words;
use crate::result::{SampleKind, SampleRequest, Span, Station};
use crate::stages::{Parts, StageBook};
use crate::trace::{Event, KmsEvent, ServiceEvent, ServiceOutcome, XksEvent, XksOutcome};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Of so many requests, the first of their kind, the median is the sample.
const FIRST: usize = 101;
/// Spans that are kept of one request; further ones are counted. Three attempts that pass every station have 26.
const SPANS_MAX: usize = 60;

/// See the module.
pub(crate) struct Sampler {
    book: Arc<StageBook>,
    /// Requests under way that have asked KMS, by their numbers.
    under_way: BTreeMap<u64, Way>,
    services: Vec<Chosen>,
}

#[derive(Clone, Default)]
struct Chosen {
    served: Vec<Sample>,
    failed: Vec<Sample>,
    slowest: Option<Sample>,
    asked_kms: u64,
}

#[derive(Clone)]
struct Sample {
    request: u64,
    at: Duration,
    took: Duration,
    outcome: String,
    way: Way,
}

/// The way of one request.
#[derive(Clone, Default)]
struct Way {
    spans: Vec<Stretch>,
    more: u64,
    /// Where the KMS call that is under way will stand, before its parts.
    call: usize,
    /// When the last KMS call ended, if it failed.
    failed_at: Option<Duration>,
}

#[derive(Clone)]
struct Stretch {
    station: Station,
    what: &'static str,
    from: Duration,
    took: Duration,
    ended: String,
}

impl Way {
    fn push(&mut self, stretch: Stretch) {
        if self.spans.len() < SPANS_MAX {
            self.spans.push(stretch);
        } else {
            self.more += 1;
        }
    }

    /// A proxy call; the KMS call that makes it ends later. A connection that took two tries is told as one.
    fn proxy_call(&mut self, event: &XksEvent, parts: Parts) {
        let mut from = event.at;
        let stations = [
            (Station::Connect, "new TCP connection", parts.connect),
            (Station::Tls, "TLS handshake", parts.tls),
            (Station::Network, "request on the network", parts.there),
            (Station::Processor, "proxy: queue for a core, and its work", parts.processor),
            (Station::Proxy, "proxy: signature, parsing, authorisation", parts.proxy),
            (Station::Hsm, "HSM, its queue and the way to it", parts.hsm),
            (Station::Network, "answer on the network", parts.back),
            (Station::Unanswered, "no answer", parts.unanswered),
        ];
        let passed = stations.iter().rposition(|(_, _, took)| !took.is_zero());
        for (index, (station, what, took)) in stations.into_iter().enumerate() {
            if took.is_zero() {
                continue;
            }
            let last = passed == Some(index);
            let ended = match event.outcome {
                XksOutcome::Ok => String::new(),
                _ if last => ending_in_words(event).into_owned(),
                _ => String::new(),
            };
            self.push(Stretch { station, what, from, took, ended });
            from += took;
        }
    }

    fn kms_call(&mut self, event: &KmsEvent) {
        let ended = event.failure.as_ref().map_or("", |failure| failure.exception.as_str()).to_owned();
        let call = Stretch {
            station: Station::Kms,
            what: event.operation.as_str(),
            from: event.at,
            took: event.took,
            ended,
        };
        let place = self.call.min(self.spans.len());
        let waited = self.failed_at.and_then(|failed_at| event.at.checked_sub(failed_at));
        let wait = waited.filter(|waited| !waited.is_zero()).map(|waited| Stretch {
            station: Station::Wait,
            what: "wait before the next try",
            from: event.at.saturating_sub(waited),
            took: waited,
            ended: String::new(),
        });
        let inserted: Vec<Stretch> = wait.into_iter().chain([call]).collect();
        self.spans.splice(place..place, inserted);
        self.more += self.spans.len().saturating_sub(SPANS_MAX) as u64;
        self.spans.truncate(SPANS_MAX);
        self.call = self.spans.len();
        self.failed_at = event.failure.as_ref().map(|_| event.at + event.took);
    }
}

impl Sampler {
    /// For a run with so many services, told of proxy calls by this book.
    pub(crate) fn new(book: Arc<StageBook>, services: usize) -> Self {
        Self { book, under_way: BTreeMap::new(), services: vec![Chosen::default(); services] }
    }

    /// What has been chosen, for each service.
    pub(crate) fn take(&mut self) -> Vec<Vec<SampleRequest>> {
        self.under_way.clear();
        self.services.iter_mut().map(|chosen| std::mem::take(chosen).samples()).collect()
    }

    fn ended(&mut self, request: u64, event: &ServiceEvent) {
        // A key that is cached or held asks nobody.
        let Some(way) = self.under_way.remove(&request) else { return };
        let Some(chosen) = self.services.get_mut(event.service) else { return };
        chosen.asked_kms += 1;
        let (kind, outcome) = match &event.outcome {
            ServiceOutcome::Failed { visible, .. } => (&mut chosen.failed, *visible),
            _ => (&mut chosen.served, "served"),
        };
        let among_first = kind.len() < FIRST;
        let slowest = chosen.slowest.as_ref().is_none_or(|slowest| event.took > slowest.took);
        if !among_first && !slowest {
            return;
        }
        let sample = Sample { request, at: event.at, took: event.took, outcome: outcome.to_owned(), way };
        if slowest {
            chosen.slowest = Some(sample.clone());
        }
        if among_first {
            kind.push(sample);
        }
    }
}

impl Observer for Sampler {
    fn observe(&mut self, seen: &Seen<'_>) {
        let Some(request) = seen.request else { return };
        match seen.event {
            Event::Service(event) => self.ended(request.number, event),
            Event::Kms(event) => self.under_way.entry(request.number).or_default().kms_call(event),
            Event::Xks(event) => {
                let parts = self.book.latest();
                self.under_way.entry(request.number).or_default().proxy_call(event, parts);
            }
            Event::Fault { .. } => {}
        }
    }
}

impl Chosen {
    fn samples(self) -> Vec<SampleRequest> {
        let Self { served, failed, slowest, asked_kms } = self;
        let medians = [(SampleKind::Served, served), (SampleKind::Failed, failed)];
        let mut samples: Vec<SampleRequest> =
            medians.into_iter().filter_map(|(kind, first)| median(kind, first)).collect();
        // The slowest of few is often the only one that failed: nobody looks at it twice.
        let slowest = slowest.filter(|it| samples.iter().all(|sample| sample.request != it.request));
        samples.extend(slowest.map(|sample| sample.told(SampleKind::Slowest, asked_kms)));
        samples
    }
}

/// The first of equals, so that the choice is the same in every run.
fn median(kind: SampleKind, mut first: Vec<Sample>) -> Option<SampleRequest> {
    let of = first.len();
    first.sort_by_key(|sample| (sample.took, sample.request));
    let middle = of.saturating_sub(1) / 2;
    first.into_iter().nth(middle).map(|sample| sample.told(kind, of as u64))
}

impl Sample {
    fn told(self, kind: SampleKind, of: u64) -> SampleRequest {
        let Self { request, at, took, outcome, way } = self;
        let spans = way.spans.into_iter().map(|stretch| Span {
            station: stretch.station,
            what: stretch.what.to_owned(),
            from_ms: milliseconds(stretch.from.saturating_sub(at)),
            took_ms: milliseconds(stretch.took),
            ended: stretch.ended,
        });
        SampleRequest {
            kind,
            of,
            request,
            at_ms: milliseconds(at),
            took_ms: milliseconds(took),
            outcome,
            spans: spans.collect(),
            spans_more: way.more,
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::KmsOperation;
    use crate::result::RunResult;
    use crate::scenario::Scenario;
    use crate::world::Options;

    const WORLD: &str = "title = \"x\"\nduration_s = 20\n[link]\nrtt_ms = 30\n[hsm]\nservice_ms = 20\nservice_sigma = 0\n\
                         [proxy]\ncpu_request_us = 1000\n[[service]]\nkind = \"s3\"\nrate_per_s = 20\nwrite_share = 0\n";

    fn ran(text: &str, samples: bool) -> RunResult {
        let scenario = Scenario::parse("x", "x.toml", text).unwrap();
        let options = Options { samples, ..Options::new(3) };
        crate::run::run(&scenario, &options, "", "emulated HSM").unwrap().result
    }

    fn sample(result: &RunResult, kind: SampleKind) -> SampleRequest {
        result.services[0].samples.iter().find(|sample| sample.kind == kind).unwrap().clone()
    }

    fn at(sample: &SampleRequest) -> Vec<(Station, f64, f64)> {
        sample.spans.iter().map(|span| (span.station, span.from_ms, span.took_ms)).collect()
    }

    fn about(value: f64, wanted: f64) -> bool {
        (value - wanted).abs() < 0.02 * wanted.max(1.0)
    }

    /// The parts of each KMS call follow each other without a gap and fill it.
    fn assert_whole(sample: &SampleRequest) {
        let mut end = 0.0_f64;
        let mut call_ends = 0.0_f64;
        for span in &sample.spans {
            match span.station {
                Station::Kms => {
                    assert!((end - call_ends).abs() < 1e-6 && span.from_ms >= end - 1e-6, "{sample:?}");
                    end = span.from_ms;
                    call_ends = span.from_ms + span.took_ms;
                }
                Station::Wait => assert!((span.from_ms - end).abs() < 1e-6, "{sample:?}"),
                _ => {
                    assert!((span.from_ms - end).abs() < 1e-6, "{sample:?}");
                    end = span.from_ms + span.took_ms;
                }
            }
        }
        assert!((end - call_ends).abs() < 1e-6 && end <= sample.took_ms + 1e-6, "{sample:?}");
    }

    #[test]
    fn a_served_request_passes_every_station_in_order() {
        let result = ran(WORLD, true);
        let served = sample(&result, SampleKind::Served);
        assert_eq!((served.of, served.outcome.as_str(), served.spans_more), (101, "served", 0));
        assert_whole(&served);
        // A kept connection: half a round trip, a millisecond of a core, two operations of the HSM (it encrypts, and decrypts
        // what it has encrypted) or one, and half a round trip.
        let operations = if served.spans[0].what == "Decrypt" { 1.0 } else { 2.0 };
        let spans = at(&served);
        let [(Station::Kms, ..), there, processor, hsm, back] = spans[..] else { panic!("{served:?}") };
        assert!(there.0 == Station::Network && (14.9..17.0).contains(&there.2), "{served:?}");
        assert!(processor.0 == Station::Processor && about(processor.2, 1.0), "{served:?}");
        assert!(hsm.0 == Station::Hsm && about(hsm.2, operations * 20.0), "{served:?}");
        assert!(back.0 == Station::Network && (14.9..17.0).contains(&back.2), "{served:?}");
        // The first requests open connections, and nothing is slower in a world without faults.
        let slowest = sample(&result, SampleKind::Slowest);
        assert_whole(&slowest);
        assert_eq!(slowest.spans[1].station, Station::Connect, "{slowest:?}");
        assert_eq!(slowest.spans[2].station, Station::Tls, "{slowest:?}");
        assert!(slowest.took_ms > served.took_ms && slowest.of > 300, "{slowest:?}");
        assert!(result.services[0].samples.iter().all(|sample| sample.kind != SampleKind::Failed));
    }

    #[test]
    fn a_failed_request_shows_each_attempt_and_what_became_of_it() {
        // The caller's own software tries three times in all.
        let text =
            format!("{WORLD}caller_attempts = 3\n[[fault]]\nkind = \"partition\"\nfrom_s = 5\nto_s = 15\n");
        let failed = sample(&ran(&text, true), SampleKind::Failed);
        assert_whole(&failed);
        let calls: Vec<&Span> = failed.spans.iter().filter(|span| span.station == Station::Kms).collect();
        assert!(calls.len() >= 3 && calls.iter().all(|call| call.ended.ends_with("Exception")), "{failed:?}");
        let waits = failed.spans.iter().filter(|span| span.station == Station::Wait).count();
        assert_eq!(waits, calls.len() - 1, "{failed:?}");
        let last = failed.spans.last().unwrap();
        assert!(
            matches!(last.station, Station::Unanswered | Station::Connect) && !last.ended.is_empty(),
            "{failed:?}"
        );
        assert!(failed.at_ms >= 2_000.0 && failed.outcome != "served", "{failed:?}");
    }

    #[test]
    fn looking_changes_no_event_and_nothing_is_looked_at_unasked() {
        let (with, without) = (ran(WORLD, true), ran(WORLD, false));
        assert_eq!(with.digest, without.digest);
        assert!(without.services[0].samples.is_empty());
        // The same run has the same samples.
        let again = ran(WORLD, true);
        assert_eq!(format!("{:?}", with.services[0].samples), format!("{:?}", again.services[0].samples));
    }

    #[test]
    fn a_request_of_very_many_calls_is_cut_short_and_says_so() {
        let ms = Duration::from_millis;
        let mut way = Way::default();
        for call in 0..SPANS_MAX as u64 {
            let (from, took) = (ms(10 * call), ms(10));
            let xks = XksEvent {
                kms_host: 0,
                at: from,
                took,
                fresh_connection: false,
                outcome: XksOutcome::Ok,
                stages: crate::trace::XksStages::default(),
            };
            way.proxy_call(&xks, Parts { there: ms(4), back: ms(6), ..Parts::default() });
            way.kms_call(&KmsEvent {
                service: 0,
                operation: KmsOperation::Decrypt,
                at: from,
                took,
                failure: None,
            });
        }
        assert_eq!((way.spans.len(), way.more), (SPANS_MAX, 3 * SPANS_MAX as u64 - SPANS_MAX as u64));
        let stations: Vec<_> = way.spans.iter().map(|stretch| stretch.station).collect();
        let each = [Station::Kms, Station::Network, Station::Network];
        assert_eq!(stations, each.repeat(SPANS_MAX / 3));
    }

    #[test]
    fn after_a_failed_call_there_is_a_wait_and_between_others_there_is_none() {
        let ms = Duration::from_millis;
        let failure = || Some(crate::kms::failure::Cause::TimedOut.failure(false));
        let call = |at, failed: bool| KmsEvent {
            service: 0,
            operation: KmsOperation::Decrypt,
            at,
            took: ms(10),
            failure: failed.then(failure).flatten(),
        };
        let mut way = Way::default();
        way.kms_call(&call(ms(5), true));
        way.kms_call(&call(ms(40), false));
        way.kms_call(&call(ms(70), false));
        let told: Vec<_> = way.spans.iter().map(|it| (it.station, it.from, it.took)).collect();
        let kms = |from| (Station::Kms, ms(from), ms(10));
        assert_eq!(told, [kms(5), (Station::Wait, ms(15), ms(25)), kms(40), kms(70)]);
        assert_eq!(way.spans[0].ended, "KMSInvalidStateException");
    }

    #[test]
    fn the_sample_is_the_median_of_the_first_and_the_slowest_is_named_once() {
        let sampler = || Sampler::new(Arc::new(StageBook::latest_only()), 1);
        let kms =
            |at, took| KmsEvent { service: 0, operation: KmsOperation::Decrypt, at, took, failure: None };
        let tell = |sampler: &mut Sampler, request: u64, took_ms: u64| {
            let (at, took) = (Duration::from_secs(request), Duration::from_millis(took_ms));
            sampler.under_way.entry(request).or_default().kms_call(&kms(at, took));
            sampler
                .ended(request, &ServiceEvent { service: 0, at, took, outcome: ServiceOutcome::ServedByKms });
        };
        let told = |sampler: &mut Sampler| -> Vec<_> {
            let samples = sampler.take().remove(0);
            samples.iter().map(|sample| (sample.kind, sample.request, sample.of)).collect()
        };
        let mut few = sampler();
        (1..=5).for_each(|request| tell(&mut few, request, 100 * request));
        assert_eq!(told(&mut few), [(SampleKind::Served, 3, 5), (SampleKind::Slowest, 5, 5)]);
        let mut one = sampler();
        tell(&mut one, 1, 100);
        assert_eq!(told(&mut one), [(SampleKind::Served, 1, 1)]);
        // What comes after the first ones moves the slowest only.
        let mut many = sampler();
        (1..=FIRST as u64).for_each(|request| tell(&mut many, request, request));
        (200..=300).for_each(|request| tell(&mut many, request, 5_000 - request));
        assert_eq!(told(&mut many), [(SampleKind::Served, 51, 101), (SampleKind::Slowest, 200, 202)]);
        // A request that asked nobody is no sample.
        let mut none = sampler();
        let at = Duration::ZERO;
        none.ended(1, &ServiceEvent { service: 0, at, took: at, outcome: ServiceOutcome::ServedFromCache });
        assert_eq!(told(&mut none), []);
    }
}
