//! The scenario file: TOML text to a checked [`Scenario`], with an error that names the line and the nearest word.
//!
//! Place on the map: read by `main`, run by [`run`](crate::run). Every setting has a default, so that the smallest
//! useful scenario is ten lines; unknown keys are refused.

use crate::fault::{Fault, FaultKind};
use crate::kms::settings::KmsSettings;
use crate::net::settings::LinkFile;
use crate::services::ServiceSettings;
use serde::Deserialize;
use std::fmt;
use std::path::Path;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// A checked scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The file's name without `.toml`.
    pub name: String,
    /// The text it was read from.
    pub text: String,
    /// What happens, in one line.
    pub title: String,
    /// When it strikes in real life and what to do about it.
    pub about: String,
    /// Length of the run, simulated.
    pub duration: Duration,
    /// What there is.
    pub topology: Topology,
    /// The link between KMS and each proxy.
    pub link: LinkFile,
    /// The endpoint that KMS connects to.
    pub load_balancer: LoadBalancerFile,
    /// The proxies' limits.
    pub proxy: ProxyFile,
    /// The HSMs.
    pub hsm: HsmFile,
    /// The KMS model.
    pub kms: KmsSettings,
    /// Who calls KMS.
    pub services: Vec<ServiceSettings>,
    /// What goes wrong, by time.
    pub faults: Vec<Fault>,
    /// What must hold.
    pub expectations: Vec<Expectation>,
}

/// The `[topology]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topology {
    /// Proxies behind the endpoint, 1 to 16. Default 2.
    pub proxies: usize,
    /// HSMs, 1 to 16, with the same keys. Proxy *i* uses HSM *i* modulo this. Default 2.
    pub hsms: usize,
    /// HSMs that each proxy uses, 1 to 10 and at most `hsms`: proxy *i* fails over between HSM *i* and those that follow.
    /// Default 1.
    pub hsms_per_proxy: usize,
    /// TLS between KMS and the proxies. Default 1.3, as KMS would choose.
    pub tls: TlsVersion,
}

impl Default for Topology {
    fn default() -> Self {
        Self { proxies: 2, hsms: 2, hsms_per_proxy: 1, tls: TlsVersion::V13 }
    }
}

/// TLS between KMS and the proxies.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum TlsVersion {
    /// Plain HTTP.
    #[serde(rename = "off")]
    Off,
    /// TLS 1.2: one round trip more than 1.3 for a new connection.
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V13,
}

/// The `[load_balancer]` section. Connections go to the healthy proxies in turn, to all when none is healthy.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoadBalancerFile {
    /// How often each proxy is checked by a TCP connection, 1 to 300 s. Default 10, as AWS's NLB.
    pub check_interval_s: f64,
    /// Checks failed in a row before a proxy gets no new connections, 1 to 10. Default 2, as AWS's NLB.
    pub unhealthy_after: u32,
    /// Checks passed in a row before it gets them again, 1 to 10. Default 2.
    pub healthy_after: u32,
}

impl Default for LoadBalancerFile {
    fn default() -> Self {
        Self { check_interval_s: 10.0, unhealthy_after: 2, healthy_after: 2 }
    }
}

/// The `[proxy]` section: limits of each proxy.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyFile {
    /// A request is answered within this time, 10 to 10,000 ms. Default 150.
    pub deadline_ms: f64,
    /// Requests worked on at once, 1 to 65,536. Default 256.
    pub in_flight_max: usize,
    /// Connections open at once, 1 to 65,536. Default 1,024.
    pub connections_max: usize,
}

impl Default for ProxyFile {
    fn default() -> Self {
        Self { deadline_ms: 150.0, in_flight_max: 256, connections_max: 1_024 }
    }
}

/// The `[hsm]` section: the capacity of each HSM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HsmFile {
    /// Median of the lognormal service time of one AES-GCM operation, network to the HSM included; 0.001 to 10,000 ms.
    /// Default 3.
    pub service_ms: f64,
    /// Shape of that distribution (standard deviation of its logarithm), 0 to 3. Default 0.25.
    pub service_sigma: f64,
    /// Operations worked on at once, 1 to 1,024. Default 16.
    pub parallel_max: usize,
    /// PKCS#11 sessions, 1 to 65,536: operations queued or worked on. Default 64.
    pub sessions_max: usize,
}

impl Default for HsmFile {
    fn default() -> Self {
        Self { service_ms: 3.0, service_sigma: 0.25, parallel_max: 16, sessions_max: 64 }
    }
}

/// One `[[expect]]`: a bound, checked at the end of the run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// Only for this service, by its kind or name; all services without it.
    pub service: Option<String>,
    /// Largest share of failed requests over the whole run, 0 to 1.
    pub failures_max: Option<f64>,
    /// Smallest share of failed requests while a fault is on, 0 to 1: the scenario must show what it promises to show.
    pub failures_during_faults_min: Option<f64>,
    /// Longest time from the end of the last fault to the last failure, in seconds.
    pub recovered_within_s: Option<f64>,
    /// Largest 99th percentile of the proxy calls outside faults, in milliseconds.
    pub latency_p99_max_ms: Option<f64>,
}

/// What is wrong with a scenario file, in one line.
#[derive(Debug)]
pub struct ScenarioError(pub String);

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ScenarioError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    title: String,
    #[serde(default)]
    about: String,
    duration_s: Spanned<f64>,
    #[serde(default)]
    topology: Topology,
    #[serde(default)]
    link: LinkFile,
    #[serde(default)]
    load_balancer: LoadBalancerFile,
    #[serde(default)]
    proxy: ProxyFile,
    #[serde(default)]
    hsm: HsmFile,
    #[serde(default)]
    kms: KmsSettings,
    /// Read by [`Checker::services`]: which keys a service has depends on its `kind`.
    #[serde(default, rename = "service")]
    _services: Vec<serde::de::IgnoredAny>,
    #[serde(default, rename = "fault")]
    faults: Vec<Spanned<RawFault>>,
    #[serde(default, rename = "expect")]
    expectations: Vec<Spanned<Expectation>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFault {
    kind: RawFaultKind,
    from_s: f64,
    to_s: Option<f64>,
    #[serde(default)]
    target: RawTarget,
    factor: Option<f64>,
    ckr: Option<String>,
    rate: Option<f64>,
    extra_ms: Option<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum RawFaultKind {
    HsmDown,
    HsmSlow,
    HsmError,
    HsmHang,
    Partition,
    Latency,
    ProxyCrash,
    KillSwitch,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(untagged, expecting = "target is \"all\" or a list of numbers such as [0]")]
enum RawTarget {
    #[default]
    Unset,
    Word(String),
    Numbers(Vec<usize>),
}

/// The longest run: 31 days.
const DURATION_MAX_S: f64 = 31.0 * 86_400.0;
/// The most faults in one timeline.
const FAULTS_MAX: usize = 1_000;
/// The most services in one scenario.
const SERVICES_MAX: usize = 64;
/// The largest scenario file.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;

impl Scenario {
    /// Parses and checks a scenario. `origin` is the file's path, for messages; `name` for the report.
    ///
    /// # Errors
    /// One line: file, line, what is wrong and what would be right.
    pub fn parse(name: &str, origin: &str, text: &str) -> Result<Self, ScenarioError> {
        let place = Place { origin, text };
        let document = DeTable::parse(text).map_err(|error| place.toml_error(&error, 0))?;
        let raw = Raw::deserialize(toml::Deserializer::from(document.clone()))
            .map_err(|error| place.toml_error(&error, 0))?;
        Checker { place, document: document.get_ref() }.check(name, raw)
    }

    /// When the first fault begins and the last one ends, within the run.
    pub fn fault_span(&self) -> Option<(Duration, Duration)> {
        let first = self.faults.iter().map(|fault| fault.from).min()?;
        let last = self.faults.iter().map(|fault| fault.to.unwrap_or(self.duration)).max()?;
        Some((first, last))
    }

    /// Whether any fault is on at this time.
    pub fn in_fault(&self, at: Duration) -> bool {
        self.faults.iter().any(|fault| fault.from <= at && at < fault.to.unwrap_or(self.duration))
    }
}

/// Turns a place in the text into a line.
#[derive(Clone, Copy)]
struct Place<'a> {
    origin: &'a str,
    text: &'a str,
}

impl Place<'_> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    fn at(&self, offset: usize, message: impl fmt::Display) -> ScenarioError {
        // It may quote the file, which can hold line breaks and a terminal's commands as escapes of TOML.
        let message = message.to_string().replace(char::is_control, " ");
        ScenarioError(format!("{}:{}: {message}", self.origin, self.line(offset)))
    }

    /// `otherwise` is the place of an error that does not know its own.
    fn toml_error(&self, error: &toml::de::Error, otherwise: usize) -> ScenarioError {
        let message = in_plain_words(&error.message().trim().replace('\n', "; "));
        let hint = nearest_in(&message).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        self.at(error.span().map_or(otherwise, |span| span.start), format!("{message}{hint}"))
    }
}

/// serde names the types of Rust at the end of its messages; a scenario's author need not know them.
fn in_plain_words(message: &str) -> String {
    let types = [
        ("expected f64", "expected a number"),
        ("expected u8", "expected a whole number from 0 to 255"),
        ("expected u32", "expected a whole number, 0 or more"),
        ("expected u64", "expected a whole number, 0 or more"),
        ("expected usize", "expected a whole number, 0 or more"),
        ("expected a string", "expected text in quotation marks"),
        ("expected a boolean", "expected true or false"),
    ];
    let found = types.into_iter().find_map(|(name, words)| Some((message.strip_suffix(name)?, words)));
    found.map_or_else(|| message.to_owned(), |(before, words)| format!("{before}{words}"))
}

struct Checker<'a> {
    place: Place<'a>,
    document: &'a DeTable<'a>,
}

impl Checker<'_> {
    /// At the key that a message begins with, where it begins with one of this table; otherwise where said.
    fn about(
        &self,
        table: Option<&DeTable<'_>>,
        otherwise: usize,
        message: impl fmt::Display,
    ) -> ScenarioError {
        let message = message.to_string();
        let word = message.split(|letter: char| !(letter.is_ascii_lowercase() || letter == '_')).next();
        let key = word.and_then(|word| table?.get_key_value(word));
        self.place.at(key.map_or(otherwise, |(key, _)| key.span().start), message)
    }

    fn section(&self, name: &str) -> Option<&DeTable<'_>> {
        self.document.get(name)?.get_ref().as_table()
    }

    fn entries(&self, name: &str) -> &[Spanned<DeValue<'_>>] {
        self.document.get(name).and_then(|value| value.get_ref().as_array()).map_or(&[], |array| array)
    }

    fn entry(&self, name: &str, index: usize) -> Option<&DeTable<'_>> {
        self.entries(name).get(index)?.get_ref().as_table()
    }

    fn services(&self) -> Result<Vec<ServiceSettings>, ScenarioError> {
        self.entries("service").iter().map(|entry| self.service(entry)).collect()
    }

    fn service(&self, entry: &Spanned<DeValue<'_>>) -> Result<ServiceSettings, ScenarioError> {
        let at = entry.span().start;
        let kinds = ServiceSettings::KINDS.map(|kind| format!("`{kind}`")).join(", ");
        let Some(table) = entry.get_ref().as_table() else {
            return Err(self.place.at(at, "a service is a table: write [[service]] above its keys"));
        };
        let Some(kind) = table.get("kind") else {
            return Err(self.place.at(at, format!("a [[service]] needs its kind, one of {kinds}")));
        };
        let known = kind.get_ref().as_str().filter(|word| ServiceSettings::KINDS.contains(word));
        let Some(known) = known else {
            let near =
                kind.get_ref().as_str().and_then(|word| nearest(word, ServiceSettings::KINDS.into_iter()));
            let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            return Err(self.place.at(kind.span().start, format!("kind is one of {kinds}{hint}")));
        };
        let mut parameters = table.clone();
        parameters.remove("kind");
        let parameters = ValueDeserializer::from(Spanned::new(entry.span(), DeValue::Table(parameters)));
        let service = ServiceSettings::deserialize_kind(known, parameters)
            .map_err(|error| self.place.toml_error(&error, at))?;
        service.check().map_err(|error| {
            let key_at = table.get_key_value(error.key).map_or(at, |(key, _)| key.span().start);
            self.place.at(key_at, error)
        })?;
        Ok(service)
    }

    fn check(&self, name: &str, mut raw: Raw) -> Result<Scenario, ScenarioError> {
        let duration_at = raw.duration_s.span().start;
        let duration_s = *raw.duration_s.get_ref();
        if !(duration_s > 0.0 && duration_s <= DURATION_MAX_S) {
            return Err(self
                .place
                .at(duration_at, format!("duration_s is above 0 and at most {DURATION_MAX_S} (31 days)")));
        }
        let duration = Duration::from_secs_f64(duration_s);
        self.ranges(&mut raw)?;
        let Topology { hsms, hsms_per_proxy, .. } = raw.topology;
        if hsms_per_proxy > hsms {
            return Err(self.about(
                self.section("topology"),
                0,
                format!("hsms_per_proxy = {hsms_per_proxy} is more than there are: hsms = {hsms}"),
            ));
        }
        if raw.faults.len() > FAULTS_MAX {
            return Err(self
                .place
                .at(0, format!("at most {FAULTS_MAX} faults, this scenario has {}", raw.faults.len())));
        }
        let mut services = self.services()?;
        if services.is_empty() {
            services = ServiceSettings::default_fleet();
        }
        if services.len() > SERVICES_MAX {
            return Err(self
                .place
                .at(0, format!("at most {SERVICES_MAX} services, this scenario has {}", services.len())));
        }
        let mut faults: Vec<Fault> = Vec::with_capacity(raw.faults.len());
        let mut places = Vec::with_capacity(raw.faults.len());
        for (index, fault) in raw.faults.into_iter().enumerate() {
            let at = fault.span().start;
            let fault = check_fault(fault.into_inner(), duration_s, &raw.topology)
                .map_err(|message| self.about(self.entry("fault", index), at, message))?;
            if let Some(twin) = faults.iter().position(|earlier| *earlier == fault) {
                let line = places.get(twin).map_or(0, |at| self.place.line(*at));
                return Err(self
                    .place
                    .at(at, format!("this fault is the same as the one in line {line}: remove one")));
            }
            faults.push(fault);
            places.push(at);
        }
        // By time, so that indices in the trace and bands in the report run left to right.
        faults.sort_by_key(|fault: &Fault| fault.from);
        let mut expectations = Vec::with_capacity(raw.expectations.len());
        let last_end = faults.iter().map(|fault| fault.to.unwrap_or(duration)).max();
        for (index, expectation) in raw.expectations.into_iter().enumerate() {
            let at = expectation.span().start;
            let expectation = expectation.into_inner();
            check_expectation(&expectation, &services, last_end, duration)
                .map_err(|message| self.about(self.entry("expect", index), at, message))?;
            expectations.push(expectation);
        }
        raw.kms.check().map_err(|message| self.about(self.section("kms"), 0, message))?;
        Ok(Scenario {
            name: name.to_owned(),
            text: self.place.text.to_owned(),
            title: raw.title,
            about: raw.about.trim().to_owned(),
            duration,
            topology: raw.topology,
            link: raw.link,
            load_balancer: raw.load_balancer,
            proxy: raw.proxy,
            hsm: raw.hsm,
            kms: raw.kms,
            services,
            faults,
            expectations,
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of at most 65,536")]
    fn ranges(&self, raw: &mut Raw) -> Result<(), ScenarioError> {
        let checks = [
            ("topology", "proxies", raw.topology.proxies as f64, 1.0, 16.0),
            ("topology", "hsms", raw.topology.hsms as f64, 1.0, 16.0),
            ("topology", "hsms_per_proxy", raw.topology.hsms_per_proxy as f64, 1.0, 10.0),
            ("load_balancer", "check_interval_s", raw.load_balancer.check_interval_s, 1.0, 300.0),
            ("load_balancer", "unhealthy_after", f64::from(raw.load_balancer.unhealthy_after), 1.0, 10.0),
            ("load_balancer", "healthy_after", f64::from(raw.load_balancer.healthy_after), 1.0, 10.0),
            ("proxy", "deadline_ms", raw.proxy.deadline_ms, 10.0, 10_000.0),
            ("proxy", "in_flight_max", raw.proxy.in_flight_max as f64, 1.0, 65_536.0),
            ("proxy", "connections_max", raw.proxy.connections_max as f64, 1.0, 65_536.0),
            ("hsm", "service_ms", raw.hsm.service_ms, 0.001, 10_000.0),
            ("hsm", "service_sigma", raw.hsm.service_sigma, 0.0, 3.0),
            ("hsm", "parallel_max", raw.hsm.parallel_max as f64, 1.0, 1_024.0),
            ("hsm", "sessions_max", raw.hsm.sessions_max as f64, 1.0, 65_536.0),
        ];
        for (section, key, value, min, max) in checks {
            if !(value >= min && value <= max) {
                let key_span = self.section(section).and_then(|table| table.get_key_value(key));
                let at = key_span.map_or(0, |(key, _)| key.span().start);
                return Err(self
                    .place
                    .at(at, format!("[{section}] {key} is between {min} and {max}, not {value}")));
            }
        }
        // Where the section names a file, it lies beside the scenario.
        let directory = Path::new(self.place.origin).parent().unwrap_or(Path::new(""));
        raw.link.check(directory).map_err(|message| self.about(self.section("link"), 0, message))?;
        Ok(())
    }
}

fn check_fault(raw: RawFault, duration_s: f64, topology: &Topology) -> Result<Fault, String> {
    if !(raw.from_s >= 0.0 && raw.from_s < duration_s) {
        return Err(format!("from_s is between 0 and the run's {duration_s} s, not {}", raw.from_s));
    }
    if let Some(to_s) = raw.to_s
        && !(to_s > raw.from_s && to_s <= duration_s)
    {
        return Err(format!(
            "to_s is after from_s = {} and at most the run's {duration_s} s, not {to_s}",
            raw.from_s
        ));
    }
    let word = |kind: RawFaultKind| format!("{kind:?}");
    for (key, given, of) in [
        ("factor", raw.factor.is_some(), RawFaultKind::HsmSlow),
        ("ckr", raw.ckr.is_some(), RawFaultKind::HsmError),
        ("rate", raw.rate.is_some(), RawFaultKind::HsmError),
        ("extra_ms", raw.extra_ms.is_some(), RawFaultKind::Latency),
    ] {
        if given && raw.kind != of {
            return Err(format!(
                "{key} belongs to kind {}, not to {}",
                kebab(&word(of)),
                kebab(&word(raw.kind))
            ));
        }
    }
    let hsms = |target: RawTarget| targets(target, topology.hsms, "HSM");
    let proxies = |target: RawTarget| targets(target, topology.proxies, "proxy");
    let kind = match raw.kind {
        RawFaultKind::HsmDown => FaultKind::HsmDown { hsms: hsms(raw.target)? },
        RawFaultKind::HsmHang => FaultKind::HsmHang { hsms: hsms(raw.target)? },
        RawFaultKind::HsmSlow => {
            let factor = raw.factor.ok_or("hsm-slow needs factor, such as factor = 20")?;
            if !(factor > 1.0 && factor <= 1e6) {
                return Err(format!("factor is above 1 and at most 1,000,000, not {factor}"));
            }
            FaultKind::HsmSlow { hsms: hsms(raw.target)?, factor }
        }
        RawFaultKind::HsmError => {
            let name = raw.ckr.unwrap_or_else(|| "CKR_DEVICE_ERROR".into());
            let ckr = crate::fault::ckr_by_name(&name).ok_or_else(|| {
                let near = nearest(&name, crate::fault::CKR_NAMES.iter().map(|(name, _)| *name));
                format!(
                    "ckr: no PKCS#11 return value is called {name}; did you mean {}?",
                    near.unwrap_or("CKR_DEVICE_ERROR")
                )
            })?;
            let rate = raw.rate.unwrap_or(1.0);
            if !(rate > 0.0 && rate <= 1.0) {
                return Err(format!("rate is above 0 and at most 1, not {rate}"));
            }
            FaultKind::HsmError { hsms: hsms(raw.target)?, name, ckr, rate }
        }
        RawFaultKind::Partition => FaultKind::Partition { proxies: proxies(raw.target)? },
        RawFaultKind::Latency => {
            let extra_ms = raw.extra_ms.ok_or("latency needs extra_ms, the round-trip time to add")?;
            if !(extra_ms > 0.0 && extra_ms <= 60_000.0) {
                return Err(format!("extra_ms is above 0 and at most 60,000, not {extra_ms}"));
            }
            let extra = Duration::from_secs_f64(extra_ms / 1_000.0);
            FaultKind::Latency { proxies: proxies(raw.target)?, extra }
        }
        RawFaultKind::ProxyCrash => FaultKind::ProxyCrash { proxies: proxies(raw.target)? },
        RawFaultKind::KillSwitch => FaultKind::KillSwitch,
    };
    Ok(Fault { from: Duration::from_secs_f64(raw.from_s), to: raw.to_s.map(Duration::from_secs_f64), kind })
}

fn kebab(word: &str) -> String {
    let mut out = String::new();
    for (index, letter) in word.chars().enumerate() {
        if letter.is_uppercase() && index > 0 {
            out.push('-');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

fn targets(target: RawTarget, count: usize, what: &str) -> Result<Vec<usize>, String> {
    match target {
        RawTarget::Unset => Ok((0..count).collect()),
        RawTarget::Word(word) if word == "all" => Ok((0..count).collect()),
        RawTarget::Word(word) => {
            Err(format!("target is \"all\" or a list of numbers such as [0], not {word:?}"))
        }
        RawTarget::Numbers(mut numbers) => {
            numbers.sort_unstable();
            numbers.dedup();
            match numbers.iter().find(|number| **number >= count) {
                Some(number) => {
                    Err(format!("target: there is no {what} {number}: they are numbered 0 to {}", count - 1))
                }
                None if numbers.is_empty() => {
                    Err("target is an empty list: name at least one, or \"all\"".into())
                }
                None => Ok(numbers),
            }
        }
    }
}

fn check_expectation(
    expectation: &Expectation,
    services: &[ServiceSettings],
    last_fault_ends: Option<Duration>,
    duration: Duration,
) -> Result<(), String> {
    if let Some(wanted) = &expectation.service
        && !services.iter().any(|service| service.name() == wanted)
    {
        let near = nearest(wanted, services.iter().map(ServiceSettings::name));
        return Err(format!("service: none is called {wanted:?}; did you mean {:?}?", near.unwrap_or("s3")));
    }
    for (key, value) in [
        ("failures_max", expectation.failures_max),
        ("failures_during_faults_min", expectation.failures_during_faults_min),
    ] {
        if value.is_some_and(|value| !(0.0..=1.0).contains(&value)) {
            return Err(format!("{key} is a share between 0 and 1"));
        }
    }
    if last_fault_ends == Some(duration) && expectation.recovered_within_s.is_some() {
        return Err(
            "recovered_within_s needs every fault to end before the run does: give each a to_s, or a longer \
                    duration_s"
                .into(),
        );
    }
    if last_fault_ends.is_none()
        && (expectation.failures_during_faults_min.is_some() || expectation.recovered_within_s.is_some())
    {
        return Err("recovered_within_s and failures_during_faults_min need a [[fault]]".into());
    }
    let bounds = [
        expectation.failures_max,
        expectation.failures_during_faults_min,
        expectation.recovered_within_s,
        expectation.latency_p99_max_ms,
    ];
    if bounds.iter().all(Option::is_none) {
        return Err("an [[expect]] without a bound; give failures_max, failures_during_faults_min, recovered_within_s \
                    or latency_p99_max_ms"
            .into());
    }
    for (key, value, most) in [
        ("recovered_within_s", expectation.recovered_within_s, DURATION_MAX_S),
        ("latency_p99_max_ms", expectation.latency_p99_max_ms, 60_000.0),
    ] {
        if value.is_some_and(|value| !(0.0..=most).contains(&value)) {
            return Err(format!("{key} is between 0 and {most}"));
        }
    }
    Ok(())
}

/// The word of the serde message's list that is nearest to its unknown word.
fn nearest_in(message: &str) -> Option<&str> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut words = message.split('`').skip(1).step_by(2);
    let unknown = words.next()?;
    nearest(unknown, words)
}

/// The candidate nearest to `word`, unless all are quite unlike it.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.6)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}
