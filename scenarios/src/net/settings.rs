//! The section `[link]` of a scenario file: the link between KMS and each proxy.
//!
//! Place on the map: read and checked by [`scenario`](crate::scenario), turned into [`LinkSettings`] for
//! [`world`](crate::world). The section `[hsm_link]` ([`hsm_link`](crate::hsm_link)) takes the same keys.

use super::burst::GilbertElliott;
use super::histogram::Histogram;
use super::latency::Latency;
use super::link::LinkSettings;
use super::packet::EachWay;
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The section as written. KMS is on this side of the link, the proxy `there`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkFile {
    /// Round-trip time, 0 to 10,000 ms, and with what the ways take longer less than KMS waits. Default 10; AWS advises at
    /// most 35.
    pub rtt_ms: f64,
    /// Spread of the latency of single packets, 0 to 10,000 ms; what it is depends on `distribution`. Default 0.5.
    pub jitter_ms: f64,
    /// How latencies are distributed. Default `exponential`.
    pub distribution: Distribution,
    /// With `lognormal`, the standard deviation of the logarithm of the latency, 0 to 3. Default 0.25.
    pub latency_sigma: f64,
    /// With `measured`, a file of round-trip times, one `latency_ms count` a line; relative to the scenario file.
    /// Default none.
    pub latency_file: String,
    /// What the way to the proxy takes longer than half of `rtt_ms`, 0 to 10,000 ms. Default 0.
    pub extra_there_ms: f64,
    /// What the way back takes longer than half of `rtt_ms`, 0 to 10,000 ms. Default 0.
    pub extra_back_ms: f64,
    /// Share of packets lost in each direction, 0 to 1. Default 0.
    pub loss: f64,
    /// Share of packets lost on the way to the proxy, besides `loss`, 0 to 1. Default 0.
    pub loss_there: f64,
    /// Share of packets lost on the way back, besides `loss`, 0 to 1. Default 0.
    pub loss_back: f64,
    /// Loss in bursts, the model of Gilbert and Elliott: the chance, packet by packet, to go from the good state to the
    /// bad one, 0 to 1. Default 0: no bursts.
    pub burst_p: f64,
    /// The chance to go back to the good one, above 0 to 1; bursts have `1 / burst_r` packets on average. Default 0.5.
    pub burst_r: f64,
    /// Share of packets lost in the good state, 0 to 1. Default 0.
    pub burst_loss_good: f64,
    /// Share of packets lost in the bad state, 0 to 1. Default 1.
    pub burst_loss_bad: f64,
    /// Share of packets that arrive twice, 0 to 1. Default 0.
    pub duplication: f64,
    /// Share of packets that later ones overtake, 0 to 1. Default 0.
    pub reordering: f64,
    /// How much longer such a packet takes, 0 to 10,000 ms. Default 5.
    pub reordering_extra_ms: f64,
    /// Bandwidth to the proxy in Mbit/s, 0 to 1,000,000; 0 is no limit. Default 0.
    pub bandwidth_there_mbps: f64,
    /// Bandwidth back in Mbit/s, 0 to 1,000,000; 0 is no limit. Default 0.
    pub bandwidth_back_mbps: f64,
    /// Bytes that may wait for the line where bandwidth is limited, 1,500 to 1,000,000,000; more are dropped. Default
    /// 262,144.
    pub queue_bytes: u64,
    /// What `latency_file` holds, once read.
    #[serde(skip)]
    pub(crate) measured: Option<Arc<Histogram>>,
}

/// How the latencies of single packets are distributed, in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Half of `rtt_ms`, always.
    Fixed,
    /// Half of `rtt_ms`, and an exponentially distributed extra with the mean `jitter_ms`.
    Exponential,
    /// Half of `rtt_ms`, give or take up to `jitter_ms`.
    Uniform,
    /// Normal: mean half of `rtt_ms`, standard deviation `jitter_ms`; never below 0.
    Normal,
    /// Lognormal: median half of `rtt_ms`, shape `latency_sigma`.
    Lognormal,
    /// Half of a round-trip time out of `latency_file`.
    Measured,
}

impl Default for LinkFile {
    fn default() -> Self {
        Self {
            rtt_ms: 10.0,
            jitter_ms: 0.5,
            distribution: Distribution::Exponential,
            latency_sigma: 0.25,
            latency_file: String::new(),
            extra_there_ms: 0.0,
            extra_back_ms: 0.0,
            loss: 0.0,
            loss_there: 0.0,
            loss_back: 0.0,
            burst_p: 0.0,
            burst_r: 0.5,
            burst_loss_good: 0.0,
            burst_loss_bad: 1.0,
            duplication: 0.0,
            reordering: 0.0,
            reordering_extra_ms: 5.0,
            bandwidth_there_mbps: 0.0,
            bandwidth_back_mbps: 0.0,
            queue_bytes: 256 * 1024,
            measured: None,
        }
    }
}

/// The longest time of any key, in milliseconds.
const MS_MAX: f64 = 10_000.0;
/// The widest line, in Mbit/s.
const MBPS_MAX: f64 = 1_000_000.0;

impl LinkFile {
    /// Looks at every range, and reads the latency file, which is found relative to `directory`.
    ///
    /// # Errors
    /// Begins with the key that is wrong, and says what would be right.
    pub fn check(&mut self, directory: &Path) -> Result<(), String> {
        #[expect(clippy::cast_precision_loss, reason = "only compared with small bounds")]
        let queue_bytes = self.queue_bytes as f64;
        for (key, value, from, to) in [
            ("rtt_ms", self.rtt_ms, 0.0, MS_MAX),
            ("jitter_ms", self.jitter_ms, 0.0, MS_MAX),
            ("latency_sigma", self.latency_sigma, 0.0, 3.0),
            ("extra_there_ms", self.extra_there_ms, 0.0, MS_MAX),
            ("extra_back_ms", self.extra_back_ms, 0.0, MS_MAX),
            ("loss", self.loss, 0.0, 1.0),
            ("loss_there", self.loss_there, 0.0, 1.0),
            ("loss_back", self.loss_back, 0.0, 1.0),
            ("burst_p", self.burst_p, 0.0, 1.0),
            ("burst_r", self.burst_r, 0.0, 1.0),
            ("burst_loss_good", self.burst_loss_good, 0.0, 1.0),
            ("burst_loss_bad", self.burst_loss_bad, 0.0, 1.0),
            ("duplication", self.duplication, 0.0, 1.0),
            ("reordering", self.reordering, 0.0, 1.0),
            ("reordering_extra_ms", self.reordering_extra_ms, 0.0, MS_MAX),
            ("bandwidth_there_mbps", self.bandwidth_there_mbps, 0.0, MBPS_MAX),
            ("bandwidth_back_mbps", self.bandwidth_back_mbps, 0.0, MBPS_MAX),
            ("queue_bytes", queue_bytes, 1_500.0, 1e9),
        ] {
            if !(from..=to).contains(&value) {
                return Err(format!("{key} is between {from} and {to}, not {value}"));
            }
        }
        if self.burst_r <= 0.0 {
            return Err("burst_r is above 0 and at most 1: at 0 the first burst would never end".into());
        }
        for (key, mbps) in [
            ("bandwidth_there_mbps", self.bandwidth_there_mbps),
            ("bandwidth_back_mbps", self.bandwidth_back_mbps),
        ] {
            // Less than a byte a second would take days for a request.
            if mbps > 0.0 && mbps < 0.000_008 {
                return Err(format!(
                    "{key} is at least 0.000008 (a byte per second), or 0 for no limit, not {mbps}"
                ));
            }
        }
        self.measured = match (self.distribution, self.latency_file.as_str()) {
            (Distribution::Measured, "") => {
                return Err(
                    "distribution = \"measured\" needs latency_file, the file with the measurements".into()
                );
            }
            (Distribution::Measured, file) => Some(Arc::new(
                Histogram::read(&directory.join(file)).map_err(|error| format!("latency_file: {error}"))?,
            )),
            (_, "") => None,
            _ => return Err("latency_file needs distribution = \"measured\" beside it".into()),
        };
        Ok(())
    }

    /// A key that changes nothing beside the others, in a message that begins with it. `is_given` says which keys are given,
    /// by the section or by a fault that does the same.
    pub fn without_effect(&self, is_given: impl Fn(&str) -> bool) -> Option<String> {
        let shape = self.distribution;
        let spreads =
            matches!(shape, Distribution::Exponential | Distribution::Uniform | Distribution::Normal);
        let bandwidth = is_given("bandwidth_there_mbps") || is_given("bandwidth_back_mbps");
        let keys = [
            (
                "rtt_ms",
                shape == Distribution::Measured,
                "where latencies are measured: latency_file has the round trips",
            ),
            ("jitter_ms", !spreads, "with this distribution; give exponential, uniform or normal"),
            ("latency_sigma", shape != Distribution::Lognormal, "without distribution = \"lognormal\""),
            ("burst_r", !is_given("burst_p"), "without burst_p"),
            ("burst_loss_bad", !is_given("burst_p"), "without burst_p"),
            ("reordering_extra_ms", !is_given("reordering"), "without reordering, or a fault of that kind"),
            (
                "queue_bytes",
                !bandwidth,
                "without bandwidth_there_mbps, bandwidth_back_mbps, or a fault of kind bandwidth",
            ),
        ];
        let (key, _, why) = keys.into_iter().find(|(key, idle, _)| *idle && is_given(key))?;
        Some(format!("{key} has no effect {why}: remove it, or add what it needs"))
    }

    /// A round trip without jitter, in milliseconds; `None` where it is measured.
    pub fn round_trip_ms(&self) -> Option<f64> {
        (self.distribution != Distribution::Measured)
            .then_some(self.rtt_ms + self.extra_there_ms + self.extra_back_ms)
    }

    /// For [`Link::new`](super::link::Link::new).
    pub fn settings(&self) -> LinkSettings {
        let jitter = milliseconds(self.jitter_ms);
        let loss = |besides: f64| 1.0 - (1.0 - self.loss) * (1.0 - besides);
        LinkSettings {
            rtt: milliseconds(self.rtt_ms),
            latency: match self.distribution {
                Distribution::Fixed => Latency::Fixed,
                Distribution::Exponential => Latency::Exponential(jitter),
                Distribution::Uniform => Latency::Uniform(jitter),
                Distribution::Normal => Latency::Normal(jitter),
                Distribution::Lognormal => Latency::Lognormal(self.latency_sigma),
                // `check` has refused the word without its file.
                Distribution::Measured => self.measured.clone().map_or(Latency::Fixed, Latency::Measured),
            },
            extra: EachWay {
                there: milliseconds(self.extra_there_ms),
                back: milliseconds(self.extra_back_ms),
            },
            loss: EachWay { there: loss(self.loss_there), back: loss(self.loss_back) },
            burst: GilbertElliott {
                p: self.burst_p,
                r: self.burst_r,
                loss_good: self.burst_loss_good,
                loss_bad: self.burst_loss_bad,
            },
            duplication: self.duplication,
            reordering: self.reordering,
            reordering_extra: milliseconds(self.reordering_extra_ms),
            bits_per_s: EachWay {
                there: bits_per_s(self.bandwidth_there_mbps),
                back: bits_per_s(self.bandwidth_back_mbps),
            },
            queue_bytes: self.queue_bytes,
        }
    }
}

fn milliseconds(ms: f64) -> Duration {
    Duration::from_secs_f64(ms / 1_000.0)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: at most 10^12")]
fn bits_per_s(mbps: f64) -> Option<u64> {
    (mbps > 0.0).then_some((mbps * 1e6) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, directory: &Path) -> Result<LinkFile, String> {
        let mut file = toml::from_str::<LinkFile>(text).map_err(|error| error.to_string())?;
        file.check(directory).map(|()| file)
    }

    #[test]
    fn an_empty_section_is_the_default() {
        let file = read("", Path::new("")).unwrap();
        assert_eq!(file, LinkFile::default());
        let settings = file.settings();
        assert_eq!(
            (settings.rtt, settings.latency, settings.loss),
            (Duration::from_millis(10), Latency::Exponential(Duration::from_micros(500)), EachWay::both(0.0))
        );
    }

    #[test]
    fn mistakes_are_named_by_their_key() {
        for (text, message) in [
            ("rtt_ms = -1", "rtt_ms is between 0 and 10000"),
            ("loss = 1.5", "loss is between 0 and 1, not 1.5"),
            ("loss = nan", "loss is between"),
            ("burst_p = 2", "burst_p is between"),
            ("burst_p = 0.1\nburst_r = 0", "burst_r is above 0"),
            ("queue_bytes = 100", "queue_bytes is between 1500"),
            ("bandwidth_back_mbps = 0.000001", "bandwidth_back_mbps is at least"),
            ("distribution = \"measured\"", "distribution = \"measured\" needs latency_file"),
            ("latency_file = \"wan.txt\"", "latency_file needs distribution"),
            (
                "distribution = \"measured\"\nlatency_file = \"gone.txt\"",
                "latency_file: cannot read the latency file /nowhere/gone.txt",
            ),
        ] {
            let error = read(text, Path::new("/nowhere")).unwrap_err();
            assert!(error.starts_with(message), "{text}: {error}");
        }
        assert!(read("distribution = \"gauss\"", Path::new("")).unwrap_err().contains("`normal`"));
    }

    #[test]
    fn a_key_that_changes_nothing_is_named() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("wan.txt"), "12.5 100\n").unwrap();
        let measured = "distribution = \"measured\"\nlatency_file = \"wan.txt\"";
        for (text, idle) in [
            (format!("{measured}\nrtt_ms = 3"), Some("rtt_ms")),
            (format!("{measured}\njitter_ms = 3"), Some("jitter_ms")),
            (format!("{measured}\nloss = 0.1"), None),
            ("distribution = \"lognormal\"\njitter_ms = 1".into(), Some("jitter_ms")),
            ("distribution = \"lognormal\"\nlatency_sigma = 1".into(), None),
            ("distribution = \"normal\"\njitter_ms = 1".into(), None),
            ("latency_sigma = 1".into(), Some("latency_sigma")),
            ("burst_r = 0.1".into(), Some("burst_r")),
            ("burst_loss_bad = 0.5".into(), Some("burst_loss_bad")),
            // A sweep may begin at 0.
            ("burst_p = 0\nburst_r = 0.1\nburst_loss_bad = 0.5".into(), None),
            ("reordering_extra_ms = 1".into(), Some("reordering_extra_ms")),
            ("queue_bytes = 9000".into(), Some("queue_bytes")),
            ("queue_bytes = 9000\nbandwidth_back_mbps = 1".into(), None),
        ] {
            let file = read(&text, directory.path()).unwrap();
            let keys: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
            let message = file.without_effect(|key| keys.contains(&key));
            assert_eq!(
                message.as_deref().and_then(|says| says.split(' ').next()),
                idle,
                "{text}: {message:?}"
            );
        }
    }

    #[test]
    fn a_latency_file_is_found_beside_the_scenario() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("wan.txt"), "12.5 100\n").unwrap();
        let text = "distribution = \"measured\"\nlatency_file = \"wan.txt\"";
        let file = read(text, directory.path()).unwrap();
        let expected = Histogram::parse("12.5 100").unwrap();
        assert_eq!(file.settings().latency, Latency::Measured(Arc::new(expected)));
        std::fs::write(directory.path().join("wan.txt"), "12.5 100\nabout 3\n").unwrap();
        let error = read(text, directory.path()).unwrap_err();
        assert!(error.starts_with("latency_file: ") && error.contains("wan.txt:2: a line is"), "{error}");
    }

    #[test]
    fn the_ways_differ_where_the_file_says_so() {
        let text = "loss = 0.1\nloss_back = 0.5\nextra_there_ms = 3\nbandwidth_there_mbps = 2";
        let settings = read(text, Path::new("")).unwrap().settings();
        assert!((settings.loss.there - 0.1).abs() < 1e-12 && (settings.loss.back - 0.55).abs() < 1e-12);
        assert_eq!(settings.extra, EachWay { there: Duration::from_millis(3), back: Duration::ZERO });
        assert_eq!(settings.bits_per_s, EachWay { there: Some(2_000_000), back: None });
    }
}
