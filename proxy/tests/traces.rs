//! Traces of the running daemon, as a collector gets them: an OTLP/gRPC server of a few lines that shares no code with
//! the exporter, its protobuf read by hand.

#![cfg(feature = "otel")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests fail loudly; these tests stand outside of the daemon, with sockets of their own"
)]

#[path = "common/running.rs"]
mod running;
#[expect(dead_code, reason = "the tests of the PKCS#11 implementation use the rest")]
#[path = "common/softhsm.rs"]
mod softhsm;
mod support;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use running::Running;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use support::{CREDENTIAL, encrypt};
use xks_proxy::config::{OtelConfig, Placed};
use xks_proxy::env::{SystemEnv, UnixTime};
use xks_proxy::events::{AuditEvent, Subscriber};
use xks_proxy::traces::Traces;

/// A field of a protobuf message: a number, or the bytes of a text or of a message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return value;
        }
    }
    panic!("no varint");
}

/// The fields of a message, each with its number.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)),
            1 => {
                let (number, rest) = bytes.split_at(8);
                bytes = rest;
                Field::Number(u64::from_le_bytes(number.try_into().unwrap()))
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                let (inner, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(inner)
            }
            5 => {
                let (number, rest) = bytes.split_at(4);
                bytes = rest;
                Field::Number(u32::from_le_bytes(number.try_into().unwrap()).into())
            }
            kind => panic!("wire type {kind}"),
        };
        all.push((tag >> 3, field));
    }
    all
}

/// The fields of this number that hold bytes.
fn inner(bytes: &[u8], number: u64) -> Vec<&[u8]> {
    let of_number = fields(bytes).into_iter().filter_map(|(n, field)| match field {
        Field::Bytes(bytes) if n == number => Some(bytes),
        _ => None,
    });
    of_number.collect()
}

fn text(bytes: &[u8], number: u64) -> String {
    String::from_utf8(inner(bytes, number).concat()).unwrap()
}

fn number(bytes: &[u8], number: u64) -> u64 {
    let found = fields(bytes).into_iter().find_map(|(n, field)| match field {
        Field::Number(value) if n == number => Some(value),
        _ => None,
    });
    found.unwrap_or(0)
}

/// `KeyValue`s with their text or number.
fn attributes(all: &[&[u8]]) -> BTreeMap<String, String> {
    let value = |any: &[u8]| match number(any, 3) {
        0 => text(any, 1),
        integer => integer.to_string(),
    };
    all.iter().map(|pair| (text(pair, 1), value(&inner(pair, 2).concat()))).collect()
}

/// trace.v1.Span.
#[derive(Debug)]
struct Span {
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    name: String,
    start: u64,
    end: u64,
    attributes: BTreeMap<String, String>,
    /// Of the resource.
    service: BTreeMap<String, String>,
}

/// collector.trace.v1.ExportTraceServiceRequest.
fn spans(message: &[u8]) -> Vec<Span> {
    let mut all = Vec::new();
    for of_resource in inner(message, 1) {
        let service = attributes(&inner(&inner(of_resource, 1).concat(), 1));
        for of_scope in inner(of_resource, 2) {
            all.extend(inner(of_scope, 2).into_iter().map(|span| Span {
                trace: inner(span, 1).concat(),
                id: inner(span, 2).concat(),
                parent: inner(span, 4).concat(),
                name: text(span, 5),
                start: number(span, 7),
                end: number(span, 8),
                attributes: attributes(&inner(span, 9)),
                service: service.clone(),
            }));
        }
    }
    all
}

/// A collector on a thread of its own, which ends with the test's process.
fn collector() -> (SocketAddr, mpsc::Receiver<Vec<Span>>) {
    let (tell, told) = mpsc::channel();
    let (bound, address) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let tell = tell.clone();
                let service = service_fn(move |request| export(request, tell.clone()));
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
    });
    (address.recv().unwrap(), told)
}

/// One unary call of gRPC: five bytes of frame (compressed?, length), the message, the status in the trailers.
async fn export(
    request: Request<Incoming>,
    tell: mpsc::Sender<Vec<Span>>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body[0], 0, "not compressed");
    let _ = tell.send(spans(&body[5..]));
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let answer = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async { Some(Ok(trailers)) });
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(answer).unwrap())
}

#[test]
fn a_request_is_one_trace_of_its_own_with_a_span_for_each_station() {
    let (address, told) = collector();
    let mut daemon =
        Running::start(&format!("[otel]\nendpoint = \"http://{address}\"\nservice_name = \"our-proxy\"\n"));
    // What a caller says of its own trace is not believed.
    let foreign = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let reply = daemon.ask_with("keys/foo/encrypt", &encrypt("aGVsbG8="), CREDENTIAL, foreign);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let event = daemon.line(|line| line["kind"] == "audit");

    let spans = told.recv_timeout(Duration::from_secs(30)).unwrap();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["Encrypt", "read", "sigv4", "parse", "hsm"]);
    let root = &spans[0];
    assert!(root.parent.is_empty() && root.trace.len() == 16 && root.id.len() == 8, "{root:?}");
    assert_ne!(root.trace[..4], [0x0a, 0xf7, 0x65, 0x19]);
    assert_eq!(root.attributes["xks.request_id"], event["request_id"].as_str().unwrap());
    assert_eq!(root.attributes["xks.key_store"], "main");
    assert_eq!(root.attributes["http.response.status_code"], "200");
    assert_eq!(root.service["service.name"], "our-proxy");
    let mut at = root.start;
    for station in &spans[1..] {
        assert_eq!((&station.trace, &station.parent), (&root.trace, &root.id));
        assert!(station.start == at && station.start < station.end && station.end <= root.end, "{spans:?}");
        at = station.end;
    }
    // Counted once the collector has answered.
    while daemon.metric("xks_proxy_traces_total{outcome=\"sent\"}") != Some(1.0) {
        std::thread::yield_now();
    }
    // What is still in the queue is sent before the end.
    assert_eq!(daemon.ask("keys/foo/encrypt", &encrypt("aGVsbG8="), CREDENTIAL).status, 200);
    daemon.signal("TERM");
    assert_eq!(told.recv_timeout(Duration::from_secs(30)).unwrap().len(), 5);
    daemon.wait_for("stopped");
}

#[test]
fn a_collector_that_is_away_costs_traces_that_are_counted_and_no_request() {
    // Free a moment ago, and nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut daemon = Running::start(&format!("[otel]\nendpoint = \"http://{nobody}\"\n"));
    assert_eq!(daemon.ask("keys/foo/encrypt", &encrypt("aGVsbG8="), CREDENTIAL).status, 200);
    daemon.wait_for("traces cannot be sent");
    assert_eq!(daemon.ask("keys/foo/encrypt", &encrypt("aGVsbG8="), CREDENTIAL).status, 200);
    assert!(daemon.metric("xks_proxy_traces_total{outcome=\"failed\"}").unwrap() >= 1.0);
}

#[tokio::test]
async fn a_full_queue_drops_at_once_and_counts() {
    // Accepts connections into the kernel's queue and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Placed { line: 1, value: format!("http://{}", silent.local_addr().unwrap()) };
    let config = OtelConfig { endpoint, service_name: "x".into(), sample_ratio: 1.0 };
    let (traces, _sending) = Traces::start(&config, Arc::new(SystemEnv)).unwrap();
    let event = AuditEvent::new(UnixTime(Duration::from_secs(1)), "00".into());
    // On one thread without a pause, so that the task has no chance to take any.
    (0..10_000).for_each(|_| traces.audit(&event));
    assert_eq!(traces.counts().all(), [("sent", 0), ("failed", 0), ("dropped", 10_000 - 4_096)]);
}

#[tokio::test]
async fn about_the_configured_share_becomes_traces() {
    let endpoint = Placed { line: 1, value: "http://127.0.0.1:9".to_owned() };
    for (sample_ratio, range) in [(0.0, 0..=0), (0.5, 1_500..=2_500)] {
        let config = OtelConfig { endpoint: endpoint.clone(), service_name: "x".into(), sample_ratio };
        let (traces, _sending) = Traces::start(&config, Arc::new(SystemEnv)).unwrap();
        let event = AuditEvent::new(UnixTime(Duration::from_secs(1)), "00".into());
        // The first 4,096 fill the queue, so what is dropped of the rest has been sampled.
        while traces.counts().all()[2].1 == 0 && sample_ratio > 0.0 {
            traces.audit(&event);
        }
        let before = traces.counts().all()[2].1;
        (0..4_000).for_each(|_| traces.audit(&event));
        let sampled = traces.counts().all()[2].1 - before;
        assert!(range.contains(&sampled), "{sample_ratio}: {sampled} of 4,000");
    }
}
