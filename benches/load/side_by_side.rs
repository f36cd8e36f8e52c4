//! Two running proxies in turn, A B A B, and the ratio of each pair.
//!
//! Place on the map: called by `main`; `floors` compares with it too. Machines are noisy, and a ratio of two measurements
//! made one right after the other is what noise spoils least; the median of several pairs is what is believed.

use crate::chart::{Panel, Row, svg};
use crate::figures::Figures;
use crate::run;
use crate::shape::Shape;
use crate::target::{Target, TargetArguments};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Which two, how often, and where the results go.
#[derive(clap::Args)]
pub(crate) struct SideBySideArguments {
    /// The first proxy: its URL, then what differs from `load run`'s defaults, separated by commas, such as
    /// http://127.0.0.1:8080,name=ours,pid=17. Names: name, pid, uri-prefix, key, region, access-key-id, secret-file,
    /// secret-env, ca.
    #[arg(long, value_name = "PROXY")]
    a: Contestant,
    /// The second proxy, likewise.
    #[arg(long, value_name = "PROXY")]
    b: Contestant,
    #[command(flatten)]
    shape: Shape,
    /// How often each is measured.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pairs: u32,
    /// Load endpoints that are not on this machine. Only do so to what is yours.
    #[arg(long)]
    i_own_this_endpoint: bool,
    /// Where the figures go as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the chart goes.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// One of the two, as the command line names it.
#[derive(Clone, Debug)]
pub(crate) struct Contestant {
    pub(crate) name: String,
    pub(crate) target: TargetArguments,
}

impl std::str::FromStr for Contestant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let endpoint = parts.next().unwrap_or_default().to_owned();
        let mut contestant = Self { name: endpoint.clone(), target: TargetArguments::new(endpoint) };
        for part in parts {
            let (name, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not NAME=VALUE"))?;
            let (value, target) = (value.to_owned(), &mut contestant.target);
            match name {
                "name" => contestant.name = value,
                "pid" => {
                    target.pid = Some(value.parse().map_err(|_| format!("pid={value} is not a number"))?);
                }
                "uri-prefix" => target.uri_prefix = value,
                "key" => target.key = value,
                "region" => target.region = value,
                "access-key-id" => target.access_key_id = value,
                "secret-file" => target.secret_file = Some(value.into()),
                "secret-env" => target.secret_env = Some(value),
                "ca" => target.ca = Some(value.into()),
                _ => {
                    return Err(format!(
                        "no {name:?} here: write name, pid, uri-prefix, key, region, access-key-id, secret-file, \
                         secret-env or ca"
                    ));
                }
            }
        }
        Ok(contestant)
    }
}

/// What was measured of two proxies in turn.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) a: Measured,
    pub(crate) b: Measured,
    /// A's figure divided by B's: `"right_per_s"`, `"cpu_us_per_request"`, `"latency_p99_us"`.
    pub(crate) ratios: BTreeMap<&'static str, Ratio>,
}

/// One of the two and its runs, in order.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) runs: Vec<Figures>,
}

impl Measured {
    /// The median of a figure over the runs.
    pub(crate) fn median(&self, figure: Figure) -> f64 {
        median(&self.runs.iter().map(figure).collect::<Vec<_>>())
    }
}

/// The ratio of each pair, and what is to be believed of them.
#[derive(Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) pairs: Vec<f64>,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// One figure of a run.
type Figure = fn(&Figures) -> f64;

/// What is compared: its name in JSON, and the figure.
const COMPARED: [(&str, Figure); 3] = [
    ("right_per_s", |figures| figures.right_per_s),
    ("cpu_us_per_request", Figures::proxy_cpu_us),
    ("latency_p99_us", |figures| figures.latency_us.p99 as f64),
];

/// Measures as the command line says; whether every answer was right.
///
/// # Errors
/// One line that says what is wrong.
pub(crate) async fn run(arguments: &SideBySideArguments) -> Result<bool, String> {
    arguments.shape.check()?;
    let find = |contestant: &Contestant| {
        let mut target = contestant.target.clone();
        target.i_own_this_endpoint |= arguments.i_own_this_endpoint;
        Target::find(&target).map(Arc::new)
    };
    let (a, b) = (find(&arguments.a)?, find(&arguments.b)?);
    for target in [&a, &b] {
        target.answers().await?;
        if target.pid.is_none() {
            return Err(format!("cannot tell which process serves {}: name it with pid=N", target.endpoint));
        }
    }
    let comparison =
        compare([(&arguments.a.name, &a), (&arguments.b.name, &b)], &arguments.shape, arguments.pairs)
            .await?;
    println!("{comparison}");
    if let Some(path) = &arguments.json {
        crate::write_json(path, &comparison)?;
    }
    if let Some(path) = &arguments.svg {
        let title = format!("{} over {} connections", arguments.shape.operation, arguments.shape.connections);
        crate::write(path, &svg(&title, &comparison.panels()))?;
    }
    Ok(comparison.a.runs.iter().chain(&comparison.b.runs).all(Figures::held))
}

/// A B A B.
///
/// # Errors
/// When one of the two cannot be measured.
pub(crate) async fn compare(
    [(name_a, a), (name_b, b)]: [(&str, &Arc<Target>); 2],
    shape: &Shape,
    pairs: u32,
) -> Result<Comparison, String> {
    let mut measured = [name_a, name_b].map(|name| Measured { name: name.to_owned(), runs: Vec::new() });
    for pair in 1..=pairs {
        for (measured, target) in measured.iter_mut().zip([a, b]) {
            let figures = run::measure(target, shape).await?;
            eprintln!(
                "{pair}/{pairs} {}: {:.0} right answers/s, {:.1} µs CPU each, p99 {:.2} ms",
                measured.name,
                figures.right_per_s,
                figures.proxy_cpu_us(),
                figures.latency_us.p99 as f64 / 1_000.0
            );
            measured.runs.push(figures);
        }
    }
    let [a, b] = measured;
    let ratios = COMPARED
        .into_iter()
        .map(|(name, figure)| {
            let pairs: Vec<f64> = a
                .runs
                .iter()
                .zip(&b.runs)
                .map(|(a, b)| figure(a) / figure(b))
                .filter(|r| r.is_finite())
                .collect();
            let (min, max) =
                pairs.iter().fold((f64::INFINITY, 0.0_f64), |(min, max), r| (min.min(*r), max.max(*r)));
            (name, Ratio { median: median(&pairs), min, max, pairs })
        })
        .collect();
    Ok(Comparison { a, b, ratios })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

impl Comparison {
    /// A panel for each thing compared.
    fn panels(&self) -> Vec<Panel> {
        let titles = [
            "right answers per second",
            "CPU time of the proxy per request, µs",
            "latency, 99th percentile, µs",
        ];
        COMPARED
            .iter()
            .zip(titles)
            .map(|((_, figure), title)| Panel {
                title: title.into(),
                rows: [&self.a, &self.b]
                    .map(|measured| Row {
                        name: measured.name.clone(),
                        middle: measured.median(*figure),
                        values: measured.runs.iter().map(figure).collect(),
                    })
                    .into(),
            })
            .collect()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| proxy | right/s | other answers | p50 ms | p90 ms | p99 ms | p99.9 ms | max ms | CPU µs/request | memory MiB |\n\
             |---|---|---|---|---|---|---|---|---|---|"
        )?;
        for measured in [&self.a, &self.b] {
            for run in &measured.runs {
                let ms = |us: u64| us as f64 / 1_000.0;
                let latency = run.latency_us;
                writeln!(
                    f,
                    "| {} | {:.0} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} | {:.1} |",
                    measured.name,
                    run.right_per_s,
                    run.others(),
                    ms(latency.p50),
                    ms(latency.p90),
                    ms(latency.p99),
                    ms(latency.p999),
                    ms(latency.max),
                    run.proxy_cpu_us(),
                    run.proxy.map_or(f64::NAN, |proxy| proxy.memory_kib as f64 / 1_024.0)
                )?;
            }
        }
        write!(f, "\n{} divided by {}, median of the pairs and their range:", self.a.name, self.b.name)?;
        for (name, ratio) in &self.ratios {
            write!(f, "\n{name:<20} {:.3} ({:.3} to {:.3})", ratio.median, ratio.min, ratio.max)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contestant_is_read() {
        let contestant: Contestant = "http://127.0.0.1:1,name=ours,pid=17,key=a".parse().unwrap();
        assert_eq!((contestant.name.as_str(), contestant.target.pid), ("ours", Some(17)));
        assert_eq!(contestant.target.key, "a");
        for (text, part) in [
            ("http://h,pid=x", "pid=x"),
            ("http://h,colour=red", "no \"colour\""),
            ("http://h,x", "NAME=VALUE"),
        ] {
            assert!(text.parse::<Contestant>().unwrap_err().contains(part));
        }
    }

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
