//! The page that Prometheus reads: what has been counted, and what can be read off the running parts.
//!
//! Place on the map: part of `metrics`. Names and units follow the Prometheus conventions: base units, `_total` for
//! counters, moments as Unix time rather than as an age that would be old when it is read.

use super::{LinesDropped, Metrics, STATIONS, SpanCounts};
use crate::app::App;
use crate::config::Groups;
use crate::events::Operation;
use crate::hsm::HealthStatus;
use crate::hsm::group::{BreakerReport, BreakerState};
use crate::hsm::monitored::Monitored;
use crate::hsm::pkcs11::{OTHERS, Pkcs11Hsm, names};
use crate::server::Refused;
use crate::tls::CertificateFacts;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where everything is read that is not counted as it happens.
pub struct Sources {
    /// Key stores, admission and connections.
    pub app: Arc<App>,
    /// The HSMs.
    pub hsms: Vec<HsmSource>,
    /// The HSMs of each key store, with their breakers.
    pub groups: Groups,
    /// What the server's certificate says of itself, now.
    pub certificate: Box<dyn Fn() -> Option<CertificateFacts> + Send + Sync>,
    /// Lines of the log that were dropped because its reader stalled.
    pub log_lines_dropped: Arc<LinesDropped>,
    /// What has become of traces; `None` when none are made.
    pub spans: Option<Arc<SpanCounts>>,
    /// What the system knows of this process; `None` where it cannot be asked.
    pub process: Box<dyn Fn() -> Option<Process> + Send + Sync>,
}

/// One `[[hsm]]`.
pub struct HsmSource {
    /// Its configured name.
    pub name: String,
    /// The HSM.
    pub hsm: Arc<Pkcs11Hsm>,
    /// The watch over it.
    pub monitor: Arc<Monitored>,
}

impl HsmSource {
    /// Whether a request given to it now has a chance: some session could take it, and the latest check did not fail.
    pub fn is_usable(&self) -> bool {
        self.hsm.stats().usable && self.monitor.status() != Some(HealthStatus::Unavailable)
    }
}

/// Facts about this process, named as Prometheus' client libraries name them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// User and system time, in seconds.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Most file descriptors that it may open.
    pub max_fds: u64,
    /// Virtual memory, in bytes.
    pub virtual_memory_bytes: u64,
    /// Resident memory, in bytes.
    pub resident_memory_bytes: u64,
    /// OS threads.
    pub threads: u64,
    /// When it was started, Unix time in seconds.
    pub start_time_seconds: f64,
}

/// The two forms that Prometheus asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0, which Prometheus prefers.
    OpenMetrics,
    /// Prometheus' own text format 0.0.4, for everybody else.
    Text,
}

impl Format {
    /// What an `Accept` header asks for: OpenMetrics where it is named and not refused with `q=0`, else the text format,
    /// as Prometheus' own client library negotiates.
    pub fn accepted(accept: &str) -> Self {
        let named = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_named = parts.next() == Some("application/openmetrics-text");
            let refused = |part: &str| part.strip_prefix("q=").and_then(|q| q.parse().ok()) == Some(0.0_f32);
            is_named && !parts.any(refused)
        });
        if named { Self::OpenMetrics } else { Self::Text }
    }

    /// For the header `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// Writes the page.
pub struct Page {
    registry: Registry,
    content: Arc<Content>,
}

struct Content {
    metrics: Arc<Metrics>,
    sources: Sources,
}

impl Page {
    /// Of what `metrics` counts and `sources` know.
    pub fn new(metrics: Arc<Metrics>, sources: Sources) -> Self {
        let content = Arc::new(Content { metrics, sources });
        content.metrics.follow(&content.sources.app);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&content)));
        Self { registry, content }
    }

    /// What the page is made of.
    pub fn sources(&self) -> &Sources {
        &self.content.sources
    }

    /// The page as it is now.
    pub fn write(&self, format: Format) -> String {
        self.content.metrics.follow(&self.content.sources.app);
        let mut page = String::with_capacity(64 * 1_024);
        // Writing to a String cannot fail.
        let _ = match format {
            Format::OpenMetrics => text::encode(&mut page, &self.registry),
            Format::Text => prometheus_text::encode(&mut page, &self.registry),
        };
        page
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content")
    }
}

impl Collector for Content {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sheet = Sheet(&mut encoder);
        self.requests(&mut sheet)?;
        self.connections(&mut sheet)?;
        self.hsms(&mut sheet)?;
        self.keeping(&mut sheet)?;
        match (self.sources.process)() {
            Some(process) => process.write(&mut sheet),
            None => Ok(()),
        }
    }
}

/// A counter of a breaker's report: name, help, value.
type Count<'a> = (&'a str, &'a str, fn(&BreakerReport) -> u64);

type Labels<'a> = Vec<(&'static str, &'a str)>;

/// Writes families of metrics one after the other.
struct Sheet<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Sheet<'_, '_> {
    fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        all: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in all {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// `name` without `_total`, which the formats add.
    fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        all: impl IntoIterator<Item = (Labels<'a>, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in all {
            family.encode_family(&labels)?.encode_counter(&value, None::<&Exemplar<NoLabelSet, u64>>)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>)
    }

    fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        all: impl IntoIterator<Item = (Labels<'a>, &'a super::Histogram)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, histogram) in all {
            let (sum, count, buckets) = histogram.read();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "no count on this page comes near 2^53")]
fn float(count: impl TryInto<u64>) -> f64 {
    count.try_into().unwrap_or(u64::MAX) as f64
}

impl Content {
    fn requests(&self, sheet: &mut Sheet<'_, '_>) -> fmt::Result {
        let by_store = self.metrics.by_store.load();
        let mut all = Vec::new();
        for (name, requests) in by_store.iter() {
            all.extend(
                Operation::ALL.map(|operation| (name.as_str(), operation.as_str(), requests.of(operation))),
            );
        }
        all.push(("none", "none", &self.metrics.strangers));
        sheet.counters(
            "xks_proxy_requests",
            "Requests answered, by key store, operation, HTTP status and error name; none: the path led nowhere.",
            all.iter().flat_map(|(store, operation, series)| {
                let shown = series.counts().filter(|(outcome, count)| outcome.usual || *count > 0);
                shown.map(|(outcome, count)| {
                    let labels = vec![
                        ("key_store", *store),
                        ("operation", *operation),
                        ("status", outcome.status),
                        ("error_name", outcome.error_name),
                    ];
                    (labels, count)
                })
            }),
        )?;
        sheet.counters(
            "xks_proxy_shadow_denials",
            "Requests that rules or policies in shadow mode would have denied.",
            all.iter().map(|(store, operation, series)| {
                (vec![("key_store", *store), ("operation", *operation)], series.shadow_denied())
            }),
        )?;
        sheet.histograms(
            "xks_proxy_request_duration_seconds",
            "Time from the head of a request to its answer; AWS KMS gives up after 0.25 s, the network included.",
            all.iter().map(|(store, operation, series)| {
                (vec![("key_store", *store), ("operation", *operation)], &series.duration)
            }),
        )?;
        let stations = Operation::ALL.iter().zip(&self.metrics.stations).flat_map(|(operation, stations)| {
            STATIONS.iter().zip(stations).map(|((station, _), histogram)| {
                (vec![("station", *station), ("operation", operation.as_str())], histogram)
            })
        });
        sheet.histograms(
            "xks_proxy_station_duration_seconds",
            "Time of a request at one station: reading it, its signature, parsing it, the HSM with its queue.",
            stations,
        )?;
        let app = &self.sources.app;
        sheet.gauge(
            "xks_proxy_requests_in_flight",
            "Requests being worked on.",
            float(app.admission.in_flight()),
        )?;
        sheet.gauge(
            "xks_proxy_requests_in_flight_limit",
            "limits.in_flight_max: one more is answered 429.",
            float(app.limits.in_flight_max),
        )?;
        sheet.gauge(
            "xks_proxy_request_deadline_seconds",
            "limits.deadline_ms: a request is answered within this time.",
            app.limits.deadline.as_secs_f64(),
        )
    }

    fn connections(&self, sheet: &mut Sheet<'_, '_>) -> fmt::Result {
        let app = &self.sources.app;
        let connections = &app.connections;
        sheet.gauge("xks_proxy_connections", "Connections open.", float(connections.open()))?;
        sheet.gauge(
            "xks_proxy_connections_limit",
            "limits.connections_max: further ones wait in the kernel's queue.",
            float(app.limits.connections_max),
        )?;
        sheet.counter(
            "xks_proxy_connections_accepted",
            "Connections accepted.",
            float(connections.accepted()),
        )?;
        sheet.counters(
            "xks_proxy_connections_refused",
            "Connections that never came to carry a request, by reason.",
            Refused::ALL.map(|why| (vec![("reason", why.as_str())], connections.refused(why))),
        )?;
        sheet.gauge(
            "xks_proxy_draining",
            "1 while the proxy finishes its requests before it ends.",
            f64::from(u8::from(app.is_draining())),
        )
    }

    fn hsms(&self, sheet: &mut Sheet<'_, '_>) -> fmt::Result {
        let all: Vec<_> =
            self.sources.hsms.iter().map(|source| (source.name.as_str(), source.hsm.stats())).collect();
        sheet.gauges(
            "xks_proxy_hsm_sessions",
            "PKCS#11 sessions by state; set_aside: left behind in a call that does not return.",
            all.iter().flat_map(|(hsm, stats)| {
                let states = [
                    ("in_use", stats.in_use),
                    ("idle", stats.idle),
                    ("without_session", stats.without_session),
                    ("set_aside", stats.set_aside),
                ];
                states.map(|(state, count)| (vec![("hsm", *hsm), ("state", state)], float(count)))
            }),
        )?;
        sheet.gauges(
            "xks_proxy_hsm_queue_length",
            "Requests that wait for a session.",
            all.iter().map(|(hsm, stats)| (vec![("hsm", *hsm)], float(stats.queued))),
        )?;
        sheet.gauges(
            "xks_proxy_hsm_usable",
            "1 when some session could take a request now and the latest health check has not failed.",
            self.sources
                .hsms
                .iter()
                .map(|source| (vec![("hsm", source.name.as_str())], f64::from(u8::from(source.is_usable())))),
        )?;
        sheet.counters(
            "xks_proxy_hsm_calls",
            "Requests that the HSM's queue or a session has taken.",
            all.iter().map(|(hsm, stats)| (vec![("hsm", *hsm)], stats.counts.calls)),
        )?;
        sheet.counters(
            "xks_proxy_hsm_timeouts",
            "Of xks_proxy_hsm_calls_total, those not answered before their deadline.",
            all.iter().map(|(hsm, stats)| (vec![("hsm", *hsm)], stats.counts.timeouts)),
        )?;
        sheet.counters(
            "xks_proxy_hsm_refusals",
            "Requests refused at once: the queue was full, or no session could take them.",
            all.iter().flat_map(|(hsm, stats)| {
                let reasons = [
                    ("queue_full", stats.counts.refused_full),
                    ("no_session", stats.counts.refused_helpless),
                ];
                reasons.map(|(reason, count)| (vec![("hsm", *hsm), ("reason", reason)], count))
            }),
        )?;
        self.health(sheet)?;
        self.breakers(sheet)?;
        let mut answers = Vec::new();
        for source in &self.sources.hsms {
            for (ck_rv, count) in source.hsm.return_values() {
                let (name, number) = match ck_rv {
                    OTHERS => ("other", "other".to_owned()),
                    ck_rv => (names::name(ck_rv), format!("{ck_rv:#x}")),
                };
                answers.push((source.name.as_str(), name, number, count));
            }
        }
        sheet.counters(
            "xks_proxy_hsm_return_values",
            "Errors (CK_RV) that the PKCS#11 library returned, also where the call was repeated with success.",
            answers.iter().map(|(hsm, name, number, count)| {
                (vec![("hsm", *hsm), ("ckr", *name), ("number", number.as_str())], *count)
            }),
        )
    }

    fn health(&self, sheet: &mut Sheet<'_, '_>) -> fmt::Result {
        let states = [
            ("active", Some(HealthStatus::Active)),
            ("degraded", Some(HealthStatus::Degraded)),
            ("unavailable", Some(HealthStatus::Unavailable)),
            ("unknown", None),
        ];
        let hsms = &self.sources.hsms;
        sheet.gauges(
            "xks_proxy_hsm_health",
            "1 for the state that the latest health check found, 0 for the others; unknown: none of the last minute.",
            hsms.iter().flat_map(|source| {
                let found = source.monitor.status();
                states.map(|(name, state)| {
                    let labels = vec![("hsm", source.name.as_str()), ("status", name)];
                    (labels, f64::from(u8::from(state == found)))
                })
            }),
        )?;
        sheet.gauges(
            "xks_proxy_hsm_health_check_duration_seconds",
            "How long the latest health check took.",
            hsms.iter().filter_map(|source| {
                Some((vec![("hsm", source.name.as_str())], source.monitor.latest()?.took.as_secs_f64()))
            }),
        )
    }

    fn breakers(&self, sheet: &mut Sheet<'_, '_>) -> fmt::Result {
        let states = [
            ("closed", BreakerState::Closed),
            ("half_open", BreakerState::HalfOpen),
            ("open", BreakerState::Open),
        ];
        let groups = self.sources.groups.load();
        let all: Vec<_> = groups
            .iter()
            .flat_map(|(store, group)| {
                group.breakers().into_iter().map(move |report| (store.as_str(), report))
            })
            .collect();
        sheet.gauges(
            "xks_proxy_hsm_breaker",
            "1 for the state of the circuit breaker of an HSM in a key store, 0 for the others; open: left alone.",
            all.iter().flat_map(|(store, report)| {
                states.map(|(name, state)| {
                    let labels = vec![("key_store", *store), ("hsm", report.member.as_str()), ("state", name)];
                    (labels, f64::from(u8::from(state == report.state)))
                })
            }),
        )?;
        let counters: [Count<'_>; 3] = [
            ("xks_proxy_hsm_breaker_opened", "How often the breaker has opened.", |report| report.opened),
            (
                "xks_proxy_hsm_failovers",
                "Requests that this HSM failed or kept waiting, and that another one was asked for.",
                |report| report.failovers,
            ),
            (
                "xks_proxy_hsm_hedges",
                "Requests for which this HSM was asked early, beside another one.",
                |report| report.hedges,
            ),
        ];
        for (name, help, count) in counters {
            let of_members = all.iter().map(|(store, report)| {
                (vec![("key_store", *store), ("hsm", report.member.as_str())], count(report))
            });
            sheet.counters(name, help, of_members)?;
        }
        Ok(())
    }

    /// Credentials, configuration, log and build.
    fn keeping(&self, sheet: &mut Sheet<'_, '_>) -> fmt::Result {
        let stores = self.sources.app.stores();
        let credentials = stores.iter().flat_map(|store| {
            store.credentials.iter().filter_map(|credential| {
                let labels = vec![
                    ("key_store", store.name.as_str()),
                    ("access_key_id", credential.access_key_id().as_str()),
                ];
                Some((labels, credential.created()?.0.as_secs_f64()))
            })
        });
        sheet.gauges(
            "xks_proxy_credential_created_timestamp_seconds",
            "When the secret of an access key id was made: `created` in the configuration, or its file's last change.",
            credentials,
        )?;
        let certificate = (self.sources.certificate)();
        sheet.gauges(
            "xks_proxy_tls_certificate_not_after_timestamp_seconds",
            "Until when the server's certificate is valid.",
            certificate
                .iter()
                .map(|facts| (vec![("subject", &*facts.subject)], facts.not_after.0.as_secs_f64())),
        )?;
        let reloads = &self.metrics.reloads;
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        sheet.counters(
            "xks_proxy_config_reloads",
            "Configurations read anew and taken over or refused.",
            [
                (vec![("outcome", "done")], count(&reloads.done)),
                (vec![("outcome", "failed")], count(&reloads.failed)),
            ],
        )?;
        sheet.gauge(
            "xks_proxy_config_last_reload_successful",
            "1 when the configuration was taken over when it was last read, 0 when it was refused; 1 at the start.",
            f64::from(u8::from(!reloads.refused.load(Ordering::Relaxed))),
        )?;
        sheet.gauge(
            "xks_proxy_config_last_success_timestamp_seconds",
            "When the configuration in use was taken over.",
            float(count(&reloads.last_done_ms)) / 1_000.0,
        )?;
        sheet.counters(
            "xks_proxy_log_lines_dropped",
            "Lines of the log dropped because its reader stalled; audit: events of authenticated requests.",
            self.sources.log_lines_dropped.all().map(|(kind, count)| (vec![("kind", kind)], count)),
        )?;
        sheet.counters(
            "xks_proxy_traces",
            "Traces by what became of them; dropped: the queue was full.",
            self.sources
                .spans
                .iter()
                .flat_map(|spans| spans.all().map(|(outcome, count)| (vec![("outcome", outcome)], count))),
        )?;
        let features = features();
        let build = vec![("version", env!("CARGO_PKG_VERSION")), ("features", features.as_str())];
        let help = "1, with the version and the optional features of this build.";
        sheet.0.encode_descriptor("xks_proxy_build", help, None, MetricType::Info)?.encode_info(&build)
    }
}

/// The optional features compiled in, comma-separated.
fn features() -> String {
    let all = [("cedar", cfg!(feature = "cedar")), ("otel", cfg!(feature = "otel"))];
    all.iter().filter(|(_, is_in)| *is_in).map(|(name, _)| *name).collect::<Vec<_>>().join(",")
}

impl Process {
    fn write(self, sheet: &mut Sheet<'_, '_>) -> fmt::Result {
        sheet.counter(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds.",
            self.cpu_seconds,
        )?;
        sheet.gauge("process_open_fds", "Number of open file descriptors.", float(self.open_fds))?;
        sheet.gauge("process_max_fds", "Maximum number of open file descriptors.", float(self.max_fds))?;
        let memory = [
            ("process_virtual_memory_bytes", "Virtual memory size in bytes.", self.virtual_memory_bytes),
            ("process_resident_memory_bytes", "Resident memory size in bytes.", self.resident_memory_bytes),
        ];
        for (name, help, bytes) in memory {
            sheet.gauge(name, help, float(bytes))?;
        }
        sheet.gauge("process_threads", "Number of OS threads in the process.", float(self.threads))?;
        let help = "Start time of the process since unix epoch in seconds.";
        sheet.gauge("process_start_time_seconds", help, self.start_time_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_gets_openmetrics_and_everybody_else_text() {
        // What Prometheus 2.42 sends.
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        for text in ["", "*/*", "text/plain", "application/openmetrics-text;q=0, text/plain", "nonsense;;,"] {
            assert_eq!(Format::accepted(text), Format::Text, "{text}");
        }
    }
}
