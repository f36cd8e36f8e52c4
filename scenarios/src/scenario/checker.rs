//! From the text of a scenario file to a checked [`Scenario`]: ranges, references, and where each mistake is.

use super::faults::RawFault;
use super::place::{Place, among};
use super::sections::{HsmFile, LoadBalancerFile, ProxyFile, Topology};
use super::{Expectation, Scenario, ScenarioError, expectation, faults};
use crate::fault::{Fault, FaultKind, LinkChange};
use crate::hsm_link::HsmLinkFile;
use crate::kms::settings::KmsSettings;
use crate::net::settings::LinkFile;
use crate::services::ServiceSettings;
use serde::Deserialize;
use std::fmt;
use std::path::Path;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    title: String,
    #[serde(default)]
    about: String,
    duration_s: Spanned<f64>,
    #[serde(default = "settle_s")]
    settle_s: f64,
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
    hsm_link: Option<HsmLinkFile>,
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

/// Default of `settle_s`.
fn settle_s() -> f64 {
    60.0
}

/// The longest run: 31 days.
pub(super) const DURATION_MAX_S: f64 = 31.0 * 86_400.0;
/// The most faults in one timeline.
const FAULTS_MAX: usize = 1_000;
/// The most services in one scenario.
const SERVICES_MAX: usize = 64;

pub(super) struct Checker<'a> {
    pub(super) place: Place<'a>,
    pub(super) document: &'a DeTable<'a>,
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

    /// That of the scenario, where files lie that it names.
    fn directory(&self) -> &Path {
        Path::new(self.place.origin).parent().unwrap_or(Path::new(""))
    }

    /// Whether the file itself gives this key, and not its default.
    fn is_written(&self, section: &str, key: &str) -> bool {
        self.section(section).is_some_and(|table| table.get(key).is_some())
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
            let told = match kind.get_ref().as_str() {
                Some(word) => format!("unknown kind {}", among(word, &ServiceSettings::KINDS)),
                None => format!("kind is text in quotation marks, one of {kinds}"),
            };
            return Err(self.place.at(kind.span().start, told));
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

    pub(super) fn check(&self, name: &str, mut raw: Raw) -> Result<Scenario, ScenarioError> {
        let duration_at = raw.duration_s.span().start;
        let duration_s = *raw.duration_s.get_ref();
        if !(duration_s > 0.0 && duration_s <= DURATION_MAX_S) {
            return Err(self
                .place
                .at(duration_at, format!("duration_s is above 0 and at most {DURATION_MAX_S} (31 days)")));
        }
        let duration = Duration::from_secs_f64(duration_s);
        self.ranges(&mut raw)?;
        self.within_run(&raw, duration_s)?;
        let Topology { proxies, hsms, hsms_per_proxy, zones, .. } = raw.topology;
        if zones > proxies {
            return Err(self.about(
                self.section("topology"),
                0,
                format!(
                    "zones = {zones} is more than proxies = {proxies}: the load balancer's address in a zone without one \
                     would lead nowhere"
                ),
            ));
        }
        if hsms_per_proxy > hsms {
            return Err(self.about(
                self.section("topology"),
                0,
                format!("hsms_per_proxy = {hsms_per_proxy} is more than there are: hsms = {hsms}"),
            ));
        }
        let settle_s = raw.settle_s;
        if !(0.0..=86_400.0).contains(&settle_s) {
            return Err(self.about(
                Some(self.document),
                0,
                format!("settle_s is between 0 and 86,400, not {settle_s}"),
            ));
        }
        let settle = Duration::from_secs_f64(settle_s);
        let mut services = self.services()?;
        if services.is_empty() {
            services = ServiceSettings::default_fleet();
        }
        if services.len() > SERVICES_MAX {
            return Err(self
                .place
                .at(0, format!("at most {SERVICES_MAX} services, this scenario has {}", services.len())));
        }
        let around = faults::Around {
            duration_s,
            topology: &raw.topology,
            proxy: &raw.proxy,
            load_balancer: &raw.load_balancer,
            hsm_link: raw.hsm_link.is_some(),
        };
        let mut faults: Vec<Fault> = Vec::with_capacity(raw.faults.len());
        let mut places = Vec::with_capacity(raw.faults.len());
        for (index, fault) in raw.faults.iter().enumerate() {
            let at = fault.span().start;
            let strikes = faults::check(fault.get_ref(), &around)
                .map_err(|message| self.about(self.entry("fault", index), at, message))?;
            for strike in strikes {
                if let Some(twin) = faults.iter().position(|earlier| *earlier == strike) {
                    let line = places.get(twin).map_or(0, |at| self.place.line(*at));
                    return Err(self
                        .place
                        .at(at, format!("this fault is the same as the one in line {line}: remove one")));
                }
                let clash = faults.iter().zip(&places).find_map(|(earlier, at)| {
                    let other = format!("the fault in line {}", self.place.line(*at));
                    faults::clash(&strike, earlier, &other)
                });
                if let Some(message) = clash {
                    return Err(self.about(self.entry("fault", index), at, message));
                }
                faults.push(strike);
                places.push(at);
            }
            if faults.len() > FAULTS_MAX {
                return Err(self
                    .place
                    .at(at, format!("at most {FAULTS_MAX} faults, repeated ones counted each time")));
            }
        }
        // By time, so that indices in the trace and bands in the report run left to right.
        faults.sort_by_key(|fault: &Fault| fault.from);
        let mut expectations = Vec::with_capacity(raw.expectations.len());
        let last_end = faults.iter().map(|fault| fault.to.unwrap_or(duration)).max();
        for (index, expectation) in raw.expectations.into_iter().enumerate() {
            let at = expectation.span().start;
            let expectation = expectation.into_inner();
            expectation::check(&expectation, &services, last_end, settle, duration)
                .map_err(|message| self.about(self.entry("expect", index), at, message))?;
            expectations.push(expectation);
        }
        if let Some(link) = &mut raw.hsm_link {
            let checked = link.check(hsms_per_proxy, self.directory()).and_then(|()| {
                let idle = link.line().without_effect(|key| self.is_written("hsm_link", key));
                idle.map_or(Ok(()), Err)
            });
            checked.map_err(|message| self.about(self.section("hsm_link"), 0, message))?;
        }
        raw.kms.check().map_err(|message| self.about(self.section("kms"), 0, message))?;
        self.in_time(&raw.link, &raw.proxy, &raw.kms)?;
        let fault_gives = |key: &str| {
            faults.iter().any(|fault| match &fault.kind {
                FaultKind::Link { change: LinkChange::Bandwidth(_), .. } => key == "bandwidth_there_mbps",
                FaultKind::Link { change: LinkChange::Reordering(_), .. } => key == "reordering",
                _ => false,
            })
        };
        if let Some(message) = raw.link.without_effect(|key| self.is_written("link", key) || fault_gives(key))
        {
            return Err(self.about(self.section("link"), 0, message));
        }
        Ok(Scenario {
            name: name.to_owned(),
            text: self.place.text.to_owned(),
            title: raw.title,
            about: raw.about.trim().to_owned(),
            duration,
            settle,
            topology: raw.topology,
            link: raw.link,
            load_balancer: raw.load_balancer,
            proxy: raw.proxy,
            hsm: raw.hsm,
            hsm_link: raw.hsm_link,
            kms: raw.kms,
            services,
            faults,
            expectations,
        })
    }

    /// No time that a call takes is as long as the run.
    fn within_run(&self, raw: &Raw, duration_s: f64) -> Result<(), ScenarioError> {
        let mut times = vec![("hsm", "service_ms", raw.hsm.service_ms)];
        let hsm_line = raw.hsm_link.as_ref().map(HsmLinkFile::line);
        for (section, line) in [("link", Some(&raw.link)), ("hsm_link", hsm_line.as_ref())] {
            let Some(line) = line else { continue };
            times.extend([
                (section, "rtt_ms", line.rtt_ms),
                (section, "jitter_ms", line.jitter_ms),
                (section, "extra_there_ms", line.extra_there_ms),
                (section, "extra_back_ms", line.extra_back_ms),
            ]);
        }
        for (section, key, ms) in times {
            // A default may be longer than a run of microseconds; who writes such a thing means something else.
            if self.is_written(section, key) && ms / 1_000.0 >= duration_s {
                let message = format!(
                    "{key} = {ms} is as long as the run or longer, {duration_s} s: no call would ever end; give a longer \
                     duration_s"
                );
                return Err(self.about(self.section(section), 0, message));
            }
        }
        Ok(())
    }

    /// What the file itself asks for can be answered within KMS's patience.
    #[expect(clippy::cast_precision_loss, reason = "at most 60,000")]
    fn in_time(&self, link: &LinkFile, proxy: &ProxyFile, kms: &KmsSettings) -> Result<(), ScenarioError> {
        let patience_ms = kms.patience_ms as f64;
        let ways = ["rtt_ms", "extra_there_ms", "extra_back_ms"];
        let key = ways.into_iter().find(|key| self.is_written("link", key));
        if let (Some(key), Some(ms)) = (key, link.round_trip_ms())
            && ms >= patience_ms
        {
            let message = format!(
                "{key} makes a round trip of {ms} ms, and KMS waits {patience_ms} (patience_ms in [kms]): no call would ever \
                 be answered in time"
            );
            return Err(self.about(self.section("link"), 0, message));
        }
        let deadline_ms = proxy.deadline_ms;
        if self.is_written("proxy", "deadline_ms") && deadline_ms > patience_ms {
            let message = format!(
                "deadline_ms is at most what KMS waits, patience_ms = {patience_ms} in [kms], not {deadline_ms}: later \
                 answers reach nobody"
            );
            return Err(self.about(self.section("proxy"), 0, message));
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of at most 65,536")]
    fn ranges(&self, raw: &mut Raw) -> Result<(), ScenarioError> {
        let checks = [
            ("topology", "proxies", raw.topology.proxies as f64, 1.0, 16.0),
            ("topology", "hsms", raw.topology.hsms as f64, 1.0, 16.0),
            ("topology", "hsms_per_proxy", raw.topology.hsms_per_proxy as f64, 1.0, 10.0),
            ("topology", "zones", raw.topology.zones as f64, 1.0, 6.0),
            ("load_balancer", "check_interval_s", raw.load_balancer.check_interval_s, 1.0, 300.0),
            ("load_balancer", "check_timeout_s", raw.load_balancer.check_timeout_s, 1.0, 120.0),
            ("load_balancer", "unhealthy_after", f64::from(raw.load_balancer.unhealthy_after), 1.0, 10.0),
            ("load_balancer", "healthy_after", f64::from(raw.load_balancer.healthy_after), 1.0, 10.0),
            ("load_balancer", "idle_timeout_s", raw.load_balancer.idle_timeout_s, 60.0, 6_000.0),
            ("load_balancer", "dns_ttl_s", raw.load_balancer.dns_ttl_s, 0.0, 3_600.0),
            ("proxy", "deadline_ms", raw.proxy.deadline_ms, 10.0, 10_000.0),
            ("proxy", "in_flight_max", raw.proxy.in_flight_max as f64, 1.0, 65_536.0),
            ("proxy", "connections_max", raw.proxy.connections_max as f64, 1.0, 65_536.0),
            ("proxy", "cores", raw.proxy.cores as f64, 1.0, 64.0),
            ("proxy", "cpu_request_us", raw.proxy.cpu_request_us, 0.0, 1e6),
            ("proxy", "cpu_handshake_us", raw.proxy.cpu_handshake_us, 0.0, 1e6),
            ("proxy", "certificate_days", f64::from(raw.proxy.certificate_days), 1.0, 3_650.0),
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
        let LoadBalancerFile { check_interval_s, check_timeout_s, .. } = raw.load_balancer;
        if self.is_written("load_balancer", "check_timeout_s") && check_timeout_s > check_interval_s {
            return Err(self.about(
                self.section("load_balancer"),
                0,
                format!(
                    "check_timeout_s is at most check_interval_s = {check_interval_s}, not {check_timeout_s}: give a \
                     longer check_interval_s"
                ),
            ));
        }
        raw.link.check(self.directory()).map_err(|message| self.about(self.section("link"), 0, message))?;
        Ok(())
    }
}
