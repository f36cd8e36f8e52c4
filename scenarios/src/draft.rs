//! A first scenario for somebody's own company: a few answers, and the commented file that they make.
//!
//! Place on the map: `xks-sim new` asks or takes flags, [`Draft::file`] writes; what comes out is read by
//! [`scenario`](crate::scenario) before it is handed over.

mod outage;

pub use outage::{OUTAGES, Outage};

use crate::scenario::{Scenario, nearest};
use crate::services::ServiceSettings;
use std::fmt::Write;

/// When the outage begins: caches have filled by then.
const BEGINS_S: u64 = 120;
/// What is watched after it.
const AFTERWARDS_S: u64 = 180;
/// The longest outage that can be asked for: half a day. Longer ones are written by hand.
pub const OUTAGE_S_MAX: u64 = 43_200;
/// KMS's patience (XKS-NET-9): a farther proxy never answers in time.
const PATIENCE_MS: f64 = 250.0;
/// HSMs between which one proxy fails over, at the most.
const HSMS_PER_PROXY_MAX: usize = 10;

/// The answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// The services in use, with their rates.
    pub services: Vec<Use>,
    /// Round trip between the AWS region and the proxies, in milliseconds.
    pub rtt_ms: f64,
    /// Proxies behind the endpoint.
    pub proxies: usize,
    /// HSMs.
    pub hsms: usize,
    /// What one HSM operation takes, in milliseconds.
    pub hsm_ms: f64,
    /// What goes wrong.
    pub outage: &'static Outage,
    /// For how long, in seconds.
    pub outage_s: u64,
}

/// A service in use.
#[derive(Clone, Debug, PartialEq)]
pub struct Use {
    /// Its kind: `s3`.
    pub kind: &'static str,
    /// Requests of its users per second; `None` for the model's default.
    pub rate_per_s: Option<f64>,
}

impl Default for Draft {
    /// The proposals: the default topology, the default fleet, and HSMs that are gone for five minutes.
    fn default() -> Self {
        let topology = crate::scenario::Topology::default();
        let fleet = ServiceSettings::default_fleet();
        let services = fleet
            .iter()
            .filter_map(|service| kind(service.name()))
            .map(|kind| Use { kind, rate_per_s: None });
        Self {
            services: services.collect(),
            rtt_ms: 10.0,
            proxies: topology.proxies,
            hsms: topology.hsms,
            hsm_ms: crate::scenario::HsmFile::default().service_ms,
            outage: &OUTAGES[0],
            outage_s: 300,
        }
    }
}

/// The kind as the models have it.
fn kind(word: &str) -> Option<&'static str> {
    ServiceSettings::KINDS.into_iter().find(|kind| *kind == word)
}

/// Reads `s3=200, ebs, dynamodb=50`.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn services(text: &str) -> Result<Vec<Use>, String> {
    let mut services: Vec<Use> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (word, rate) = match part.split_once('=') {
            Some((word, rate)) => (word.trim(), Some(rate.trim())),
            None => (part, None),
        };
        let Some(kind) = kind(word) else {
            let near = nearest(word, ServiceSettings::KINDS.into_iter());
            let hint = near.map(|near| format!(" did you mean `{near}`?")).unwrap_or_default();
            return Err(format!(
                "no service is called `{word}`;{hint} there are {}",
                ServiceSettings::KINDS.join(", ")
            ));
        };
        if services.iter().any(|service| service.kind == kind) {
            return Err(format!(
                "{kind} is there twice; write it once, with all its requests, such as {kind}=200"
            ));
        }
        let rate_per_s =
            rate.map(|rate| number("a rate", rate, 0.001, 100_000.0, "requests per second")).transpose();
        let rate_per_s = rate_per_s.map_err(|message| format!("{kind}: {message}, such as {kind}=200"))?;
        services.push(Use { kind, rate_per_s });
    }
    if services.is_empty() {
        return Err("no service is named; write at least one, such as s3=200, ebs".into());
    }
    Ok(services)
}

/// Reads a number with its range.
fn number(what: &str, text: &str, from: f64, to: f64, unit: &str) -> Result<f64, String> {
    let parsed = text.trim().parse::<f64>().ok().filter(|number| (from..=to).contains(number));
    parsed.ok_or_else(|| format!("{what} is a number from {from} to {to} ({unit}), not `{}`", text.trim()))
}

/// Reads the round trip.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn rtt_ms(text: &str) -> Result<f64, String> {
    let ms = number("the round trip", text, 0.0, 10_000.0, "milliseconds")?;
    if ms >= PATIENCE_MS {
        return Err(format!(
            "with a round trip of {ms} ms no call would ever be answered in time: KMS waits {PATIENCE_MS} ms, and a new \
             connection takes three or four round trips; write less than 60, or see `xks-sim show too-far-away`"
        ));
    }
    Ok(ms)
}

/// Reads a number of proxies or HSMs.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn count(what: &str, text: &str) -> Result<usize, String> {
    let parsed = text.trim().parse::<usize>().ok().filter(|count| (1..=16).contains(count));
    parsed
        .ok_or_else(|| format!("the number of {what} is a whole number from 1 to 16, not `{}`", text.trim()))
}

/// Reads how long one HSM operation takes.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn hsm_ms(text: &str) -> Result<f64, String> {
    let ms = number("the time of an HSM operation", text, 0.001, 10_000.0, "milliseconds")?;
    if ms * 2.0 >= PATIENCE_MS {
        return Err(format!(
            "with {ms} ms for an HSM operation no data key could ever be made: it takes two, one to encrypt and one to \
             verify, and KMS waits {PATIENCE_MS} ms; write less than 100"
        ));
    }
    Ok(ms)
}

/// Reads the name of an outage.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn outage(text: &str) -> Result<&'static Outage, String> {
    let text = text.trim();
    OUTAGES.iter().find(|outage| outage.name == text).ok_or_else(|| {
        let names = || OUTAGES.iter().map(|outage| outage.name);
        let hint = nearest(text, names()).map(|near| format!(" did you mean `{near}`?")).unwrap_or_default();
        format!("no outage is called `{text}`;{hint} there are {}", names().collect::<Vec<_>>().join(", "))
    })
}

/// Reads how long the outage lasts.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn outage_s(text: &str) -> Result<u64, String> {
    let parsed = text.trim().parse::<u64>().ok().filter(|s| (1..=OUTAGE_S_MAX).contains(s));
    parsed.ok_or_else(|| {
        format!("the outage lasts a whole number of seconds from 1 to {OUTAGE_S_MAX}, not `{}`", text.trim())
    })
}

impl Draft {
    /// Whether the answers fit each other.
    ///
    /// # Errors
    /// Which do not, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        let Outage { name, proxies_min, hsms_min, instead, .. } = self.outage;
        for (what, there_are, needs) in
            [("proxies", self.proxies, *proxies_min), ("HSMs", self.hsms, *hsms_min)]
        {
            if there_are < needs {
                return Err(format!(
                    "{name} needs {needs} {what} and there is {there_are}: write {needs} or more of them, or the outage \
                     `{instead}`"
                ));
            }
        }
        Ok(())
    }

    /// The commented scenario file.
    ///
    /// # Errors
    /// Answers that do not fit each other; those of the scenario, in its words.
    pub fn file(&self, name: &str) -> Result<String, String> {
        self.check()?;
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        Scenario::parse(name, &format!("{name}.toml"), &text).map_err(|error| error.to_string())?;
        Ok(text)
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let Self { rtt_ms, proxies, hsms, hsm_ms, outage, outage_s, .. } = self;
        let ends_s = BEGINS_S + outage_s;
        let per_proxy = (*hsms).min(HSMS_PER_PROXY_MAX);
        let zones = (*proxies).min(2);
        writeln!(text, "# A scenario of xks-sim: what there is, who uses it, and what goes wrong.")?;
        writeln!(text, "#   xks-sim run FILE      what happens")?;
        writeln!(text, "#   xks-sim show FILE     this in words and pictures")?;
        writeln!(text, "#   xks-sim sweep FILE --vary link.rtt_ms=5..60:12      and if it were otherwise?")?;
        writeln!(
            text,
            "# Editors that know taplo complete and check it: `xks-sim schema > scenario.schema.json`, and as"
        )?;
        writeln!(
            text,
            "# the first line here `#:schema ./scenario.schema.json`. What is left out has a default.\n"
        )?;
        writeln!(text, "title = \"{}\"", outage.title)?;
        writeln!(text, "about = \"\"\"")?;
        writeln!(text, "{}\"\"\"", outage.about)?;
        writeln!(
            text,
            "# Two minutes for caches to fill, the outage, and three minutes to see what comes back."
        )?;
        writeln!(text, "duration_s = {}\n", ends_s + AFTERWARDS_S)?;
        writeln!(text, "[topology]")?;
        writeln!(text, "proxies = {proxies}")?;
        writeln!(text, "hsms = {hsms}")?;
        writeln!(text, "# HSMs between which each proxy fails over; with 1 a proxy is lost with its HSM.")?;
        writeln!(text, "hsms_per_proxy = {per_proxy}")?;
        writeln!(text, "# Availability zones: proxies and HSMs stand in them by turns.")?;
        writeln!(text, "zones = {zones}\n")?;
        writeln!(text, "[link]")?;
        writeln!(
            text,
            "# Round trip between the AWS region and the proxies, in ms: `ping` from an instance there tells."
        )?;
        writeln!(text, "rtt_ms = {rtt_ms:?}")?;
        writeln!(text, "# Share of packets lost, there and back alike.")?;
        writeln!(text, "loss = 0.0\n")?;
        writeln!(text, "[hsm]")?;
        writeln!(
            text,
            "# Median of one encryption or decryption in ms, network to the HSM included. A new data key takes two."
        )?;
        writeln!(text, "service_ms = {hsm_ms:?}")?;
        writeln!(
            text,
            "# What an HSM works on at once, and what may be queued or worked on: see its data sheet."
        )?;
        writeln!(text, "parallel_max = 16")?;
        writeln!(text, "sessions_max = 64\n")?;
        writeln!(text, "# Who calls KMS under keys of this key store. Further kinds:")?;
        let others: Vec<&str> = ServiceSettings::KINDS
            .into_iter()
            .filter(|kind| self.services.iter().all(|service| service.kind != *kind))
            .collect();
        for line in others.chunks(8) {
            writeln!(text, "#   {}", line.join(", "))?;
        }
        for service in &self.services {
            writeln!(text, "\n[[service]]")?;
            writeln!(text, "kind = \"{}\"", service.kind)?;
            match service.rate_per_s {
                Some(rate) => writeln!(text, "# Requests of its users per second.\nrate_per_s = {rate:?}")?,
                None => writeln!(text, "# rate_per_s = …      the model's default until you know better")?,
            }
        }
        if !outage.fault.is_empty() {
            writeln!(text, "\n# {}", outage.what)?;
            writeln!(text, "[[fault]]")?;
            writeln!(text, "{}", outage.fault.trim_end())?;
            writeln!(text, "from_s = {BEGINS_S}")?;
            writeln!(text, "to_s = {ends_s}")?;
            writeln!(
                text,
                "\n# What must hold, or `xks-sim run` exits with 1; take the # away to ask for it."
            )?;
            writeln!(text, "# [[expect]]")?;
            writeln!(text, "# recovered_within_s = 15")?;
        } else {
            writeln!(
                text,
                "\n# What must hold, or `xks-sim run` exits with 1; take the # away to ask for it."
            )?;
            writeln!(text, "# [[expect]]")?;
            writeln!(text, "# latency_p99_max_ms = 100")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outage_makes_a_scenario_that_is_read_and_reads_as_asked() {
        for outage in &OUTAGES {
            let draft = Draft {
                services: services("s3=12.5, ebs").unwrap(),
                rtt_ms: 7.0,
                proxies: 3,
                hsms: 4,
                outage,
                ..Draft::default()
            };
            let text = draft.file("mine").unwrap_or_else(|error| panic!("{}: {error}", outage.name));
            let scenario = Scenario::parse("mine", "mine.toml", &text).unwrap();
            assert_eq!((scenario.topology.proxies, scenario.topology.hsms_per_proxy), (3, 4));
            assert_eq!((scenario.link.rtt_ms, scenario.services.len()), (7.0, 2));
            assert_eq!(scenario.faults.len(), usize::from(outage.name != "none"), "{}", outage.name);
            if let Some(fault) = scenario.faults.first() {
                assert_eq!(
                    (fault.from.as_secs(), fault.to.unwrap().as_secs()),
                    (120, 420),
                    "{}",
                    outage.name
                );
            }
        }
        assert!(Draft::default().file("mine").is_ok());
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_could() {
        for (error, told) in [
            (services("s4").unwrap_err(), "no service is called `s4`; did you mean `s3`?"),
            (services("s3=fast").unwrap_err(), "s3: a rate is a number from 0.001 to 100000"),
            (services("s3, s3=2").unwrap_err(), "s3 is there twice; write it once"),
            (services(" , ").unwrap_err(), "write at least one, such as s3=200, ebs"),
            (rtt_ms("400").unwrap_err(), "no call would ever be answered in time: KMS waits 250 ms"),
            (rtt_ms("-1").unwrap_err(), "is a number from 0 to 10000 (milliseconds), not `-1`"),
            (hsm_ms("200").unwrap_err(), "no data key could ever be made"),
            (
                count("proxies", "17").unwrap_err(),
                "the number of proxies is a whole number from 1 to 16, not `17`",
            ),
            (outage("hsm-gone").unwrap_err(), "no outage is called `hsm-gone`; did you mean `hsm-down`?"),
            (outage_s("0").unwrap_err(), "a whole number of seconds from 1 to 43200, not `0`"),
        ] {
            assert!(error.contains(told), "{error}");
        }
        let alone = Draft { proxies: 1, hsms: 1, ..Draft::default() };
        let of = |name: &str| Draft { outage: outage(name).unwrap(), ..alone.clone() }.file("x").unwrap_err();
        assert!(of("zone-loss").contains("zone-loss needs 2 proxies and there is 1"), "{}", of("zone-loss"));
        assert!(of("one-hsm-down").contains("or the outage `hsm-down`"), "{}", of("one-hsm-down"));
    }
}
