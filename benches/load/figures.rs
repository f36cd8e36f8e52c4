//! The result of one measurement, for people and for programs.
//!
//! Place on the map: made by `run`.

use crate::run::Moment;
use crate::shape::Shape;
use crate::tally::Tally;
use crate::target::Target;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Everything measured in one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) endpoint: String,
    pub(crate) operation: String,
    pub(crate) connections: u32,
    pub(crate) threads: u32,
    /// `None` in a closed loop.
    pub(crate) rate_asked_per_s: Option<u32>,
    pub(crate) seconds: f64,
    /// Answers of any kind.
    pub(crate) throughput_per_s: f64,
    /// Answers with status 200 that were right.
    pub(crate) right_per_s: f64,
    pub(crate) latency_us: Latency,
    /// By status and error name; `"200"` counts the right ones only.
    pub(crate) answers: BTreeMap<String, u64>,
    pub(crate) wrong: BTreeMap<String, u64>,
    pub(crate) lost: BTreeMap<String, u64>,
    pub(crate) unsent: u64,
    /// CPU time of this program per answer, all its threads.
    pub(crate) load_cpu_us_per_request: f64,
    /// The proxy's process, if it is known.
    pub(crate) proxy: Option<ProxyFigures>,
}

/// From when a request was due to when its answer was read.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

/// What the proxy's process used.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ProxyFigures {
    pub(crate) pid: u32,
    /// CPU time per answer, all its threads.
    pub(crate) cpu_us_per_request: f64,
    /// Resident at the end of the measurement, with all connections open.
    pub(crate) memory_kib: u64,
    /// The most since it started.
    pub(crate) memory_max_kib: u64,
}

impl Figures {
    pub(crate) fn new(
        target: &Target,
        shape: &Shape,
        tally: &Tally,
        before: &Moment,
        after: &Moment,
    ) -> Self {
        let seconds = (after.at - before.at).as_secs_f64();
        let answered = (after.answered - before.answered) as f64;
        let per_request = |cpu: std::time::Duration| match answered {
            0.0 => 0.0,
            some => cpu.as_secs_f64() * 1e6 / some,
        };
        let at = |quantile| tally.latency_us.value_at_quantile(quantile);
        let mut answers = tally.answers.clone();
        answers.insert("200".into(), tally.right);
        let proxy = match (target.pid, before.proxy, after.proxy) {
            (Some(pid), Some(earlier), Some(later)) => Some(ProxyFigures {
                pid,
                cpu_us_per_request: per_request(later.cpu.saturating_sub(earlier.cpu)),
                memory_kib: later.memory_kib,
                memory_max_kib: later.memory_max_kib,
            }),
            _ => None,
        };
        Self {
            endpoint: target.endpoint.clone(),
            operation: shape.operation.to_string(),
            connections: shape.connections,
            threads: shape.threads,
            rate_asked_per_s: shape.rate,
            seconds,
            throughput_per_s: answered / seconds,
            right_per_s: tally.right as f64 / seconds,
            latency_us: Latency {
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: tally.latency_us.max(),
            },
            answers,
            wrong: tally.wrong.clone(),
            lost: tally.lost.clone(),
            unsent: tally.unsent,
            load_cpu_us_per_request: per_request(after.load.cpu.saturating_sub(before.load.cpu)),
            proxy,
        }
    }

    /// CPU time of the proxy per answer, in microseconds; NaN if it is not known.
    pub(crate) fn proxy_cpu_us(&self) -> f64 {
        self.proxy.map_or(f64::NAN, |proxy| proxy.cpu_us_per_request)
    }

    /// How many answers were not right, and how many requests had none.
    pub(crate) fn others(&self) -> u64 {
        let count = |map: &BTreeMap<String, u64>| map.values().sum::<u64>();
        let refused: u64 =
            self.answers.iter().filter(|(kind, _)| *kind != "200").map(|(_, count)| count).sum();
        refused + count(&self.wrong) + count(&self.lost)
    }

    /// The share of requests that had no right answer, in per cent. CPU time and latency are of all answers, refusals among
    /// them, so they say little where this is large.
    pub(crate) fn others_percent(&self) -> f64 {
        let (others, right) = (self.others() as f64, self.answers.get("200").copied().unwrap_or(0) as f64);
        if others + right == 0.0 { 0.0 } else { 100.0 * others / (others + right) }
    }

    /// Whether something was answered, and nothing wrong or lost.
    pub(crate) fn held(&self) -> bool {
        self.wrong.is_empty()
            && self.lost.is_empty()
            && self.answers.get("200").is_some_and(|right| *right > 0)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |map: &BTreeMap<String, u64>| match map.is_empty() {
            true => "0".to_owned(),
            false => {
                map.iter().map(|(what, count)| format!("{count} × {what}")).collect::<Vec<_>>().join("; ")
            }
        };
        let ms = |us: u64| us as f64 / 1_000.0;
        let loop_kind = match self.rate_asked_per_s {
            Some(rate) => format!("open loop, {rate} requests/s asked for"),
            None => "closed loop".into(),
        };
        writeln!(f, "{}, {}, {} connections, {loop_kind}", self.endpoint, self.operation, self.connections)?;
        writeln!(
            f,
            "throughput     {:.0} requests/s over {:.1} s, {:.0} of them right",
            self.throughput_per_s, self.seconds, self.right_per_s
        )?;
        writeln!(
            f,
            "latency        p50 {:.3} ms, p90 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms, max {:.3} ms",
            ms(self.latency_us.p50),
            ms(self.latency_us.p90),
            ms(self.latency_us.p99),
            ms(self.latency_us.p999),
            ms(self.latency_us.max)
        )?;
        writeln!(f, "answers        {}", list(&self.answers))?;
        writeln!(f, "wrong          {}", list(&self.wrong))?;
        writeln!(f, "lost           {}", list(&self.lost))?;
        if self.rate_asked_per_s.is_some() {
            writeln!(f, "unsent         {} that were due when the time was over", self.unsent)?;
        }
        write!(f, "CPU            {:.1} µs per request in this program", self.load_cpu_us_per_request)?;
        match &self.proxy {
            None => write!(f, "; of the proxy unknown: name its process with --pid"),
            Some(proxy) => write!(
                f,
                ", {:.1} µs in the proxy (process {})\nmemory         {:.1} MiB of the proxy, {:.1} MiB at most",
                proxy.cpu_us_per_request,
                proxy.pid,
                proxy.memory_kib as f64 / 1_024.0,
                proxy.memory_max_kib as f64 / 1_024.0
            ),
        }
    }
}
