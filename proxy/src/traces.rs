//! Traces by OpenTelemetry: one trace per sampled request, with a span for each station, sent by OTLP over gRPC.
//!
//! Place on the map: a subscriber of `events` and a task behind it, made by the daemon when the configuration has
//! `[otel] endpoint`. A request only puts a copy of its event into a bounded queue; spans are made and sent by the task.
//! A queue that is full costs traces, which are counted, and never a request.
//!
//! Each request is the root of a trace of its own. A `traceparent` of the caller is not read: AWS KMS sends none, and
//! whoever else sends one has no business in our traces.

use crate::config::OtelConfig;
use crate::env::Env;
use crate::events::{AuditEvent, Operation, Subscriber};
use crate::metrics::SpanCounts;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter, SpanLinks};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Requests that may wait to be sent: two seconds at KMS's full default quota, a few MiB.
const QUEUE_MAX: usize = 4_096;

/// Requests sent at once: well below the 4 MiB that a gRPC message may have.
const BATCH_MAX: usize = 512;

/// How long requests are collected when there are few of them.
const COLLECT: Duration = Duration::from_secs(1);

/// How long one attempt to send may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last ones may hold up the end of the process.
const LAST_TIMEOUT: Duration = Duration::from_secs(1);

/// Puts sampled requests into the queue.
pub struct Traces {
    queue: mpsc::Sender<AuditEvent>,
    sample_ratio: f64,
    env: Arc<dyn Env>,
    counts: Arc<SpanCounts>,
}

/// The task that sends.
pub struct Sending {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Sending {
    /// Sends what is in the queue still, for a second at most.
    pub async fn finish(self) {
        let _ = self.stop.send(());
        // Nothing to wait for once it has ended, in whatever way.
        let _ = timeout(LAST_TIMEOUT, self.task).await;
    }
}

impl Traces {
    /// Starts the task; needs a tokio runtime. Nothing is sent, and no connection made, before there is a request.
    ///
    /// # Errors
    /// When the endpoint is none, in words for the operator.
    pub fn start(config: &OtelConfig, env: Arc<dyn Env>) -> Result<(Self, Sending), String> {
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&config.endpoint.value)
            .with_timeout(SEND_TIMEOUT)
            .build()
            .map_err(|error| format!("traces cannot be sent to {}: {error}", config.endpoint.value))?;
        let resource = Resource::builder_empty()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        exporter.set_resource(&resource);
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        let (stop, stopped) = oneshot::channel();
        let counts = Arc::<SpanCounts>::default();
        let sender = Sender { exporter, env: Arc::clone(&env), counts: Arc::clone(&counts), is_away: false };
        let task = tokio::spawn(sender.run(requests, stopped));
        Ok((Self { queue, sample_ratio: config.sample_ratio, env, counts }, Sending { stop, task }))
    }

    /// What has become of the traces, for metrics.
    pub fn counts(&self) -> Arc<SpanCounts> {
        Arc::clone(&self.counts)
    }

    #[expect(clippy::cast_precision_loss, reason = "a share of requests need not be exact to 2^-53")]
    fn is_sampled(&self) -> bool {
        self.sample_ratio >= 1.0 || (self.env.noise() as f64) < self.sample_ratio * (u64::MAX as f64)
    }
}

impl Subscriber for Traces {
    fn audit(&self, event: &AuditEvent) {
        if self.is_sampled() && self.queue.try_send(event.clone()).is_err() {
            self.counts.dropped(1);
        }
    }
}

struct Sender {
    exporter: opentelemetry_otlp::SpanExporter,
    env: Arc<dyn Env>,
    counts: Arc<SpanCounts>,
    /// The last attempt failed.
    is_away: bool,
}

impl Sender {
    async fn run(mut self, mut requests: mpsc::Receiver<AuditEvent>, mut stopped: oneshot::Receiver<()>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                count = requests.recv_many(&mut batch, BATCH_MAX) => if count == 0 { return },
            }
            let is_full = batch.len() == BATCH_MAX;
            self.send(&mut batch).await;
            if !is_full {
                tokio::select! {
                    biased;
                    _ = &mut stopped => break,
                    () = sleep(COLLECT) => {}
                }
            }
        }
        while let Ok(event) = requests.try_recv() {
            batch.push(event);
            if batch.len() == BATCH_MAX {
                self.send(&mut batch).await;
            }
        }
        self.send(&mut batch).await;
    }

    async fn send(&mut self, batch: &mut Vec<AuditEvent>) {
        if batch.is_empty() {
            return;
        }
        let traces = batch.len() as u64;
        let spans = batch.drain(..).flat_map(|event| spans(&event, &*self.env)).collect();
        match timeout(SEND_TIMEOUT, self.exporter.export(spans)).await {
            Ok(Ok(())) => {
                self.counts.sent(traces);
                self.is_away = false;
            }
            outcome => {
                self.counts.failed(traces);
                // An outage of the collector is told once.
                if !std::mem::replace(&mut self.is_away, true) {
                    let why = outcome
                        .map_or_else(|_| "it did not answer in time".to_owned(), |sent| format!("{sent:?}"));
                    tracing::warn!(%why, "traces cannot be sent and are dropped until the collector is back");
                }
            }
        }
    }
}

/// The trace of one request: its root and a child for each station that it reached.
fn spans(event: &AuditEvent, env: &dyn Env) -> Vec<SpanData> {
    let trace = TraceId::from(u128::from(env.noise()) << 64 | u128::from(env.noise()));
    let end = SystemTime::UNIX_EPOCH + event.time.0;
    let start = end.checked_sub(event.stations.total).unwrap_or(SystemTime::UNIX_EPOCH);
    let root = SpanId::from(env.noise());
    let name = event.operation.map_or("unrouted", Operation::as_str);
    let status = match event.error_name {
        // As OpenTelemetry has it for servers: what the caller did wrong is no error of the span.
        Some(name) if event.status >= 500 => Status::error(name.as_str()),
        _ => Status::Unset,
    };
    let span = |id, parent, kind, name: &'static str, start, end| SpanData {
        span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default()),
        parent_span_id: parent,
        parent_span_is_remote: false,
        span_kind: kind,
        name: name.into(),
        start_time: start,
        end_time: end,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("xks-proxy").build(),
    };
    let mut first = span(root, SpanId::INVALID, SpanKind::Server, name, start, end);
    first.attributes = attributes(event);
    first.status = status;
    let mut all = vec![first];
    let mut at = start;
    let stations = &event.stations;
    for (name, took) in
        [("read", stations.read), ("sigv4", stations.sigv4), ("parse", stations.parse), ("hsm", stations.hsm)]
    {
        if !took.is_zero() {
            let kind = if name == "hsm" { SpanKind::Client } else { SpanKind::Internal };
            all.push(span(SpanId::from(env.noise()), root, kind, name, at, at + took));
            at += took;
        }
    }
    all
}

/// What finds the request again in the audit log, and what traces are looked for by. Principals and ARNs stay in the
/// audit log.
fn attributes(event: &AuditEvent) -> Vec<KeyValue> {
    let mut all = vec![
        KeyValue::new("xks.request_id", event.request_id.clone()),
        KeyValue::new("http.response.status_code", i64::from(event.status)),
    ];
    let texts = [
        ("xks.key_store", &event.key_store),
        ("xks.key_id", &event.key_id),
        ("xks.kms_request_id", &event.kms_request_id),
    ];
    all.extend(texts.into_iter().filter_map(|(name, text)| Some(KeyValue::new(name, text.clone()?))));
    all.extend(event.error_name.map(|name| KeyValue::new("error.type", name.as_str())));
    all.extend(event.ck_rv.map(|rv| KeyValue::new("xks.ck_rv", format!("{rv:#x}"))));
    all
}
