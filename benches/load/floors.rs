//! Every floor of speed that this project holds itself to, measured in one go.
//!
//!     cargo xtask bench floors --sample PROGRAM
//!
//! Place on the map: called by `main`. Starts what it measures (`server`), one after the other on the same SoftHSM2, and
//! compares with `side_by_side`. Without AWS's sample proxy to compare with, the floors that need it are left out.

use crate::chart::{Panel, Row, svg};
use crate::figures::Figures;
use crate::server::{Kind, Server};
use crate::shape::Shape;
use crate::side_by_side::{Comparison, Measured, compare};
use crate::target::{Target, TargetArguments};
use crate::{run, write, write_json};
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// What there is to measure, and where the results go.
#[derive(clap::Args)]
pub(crate) struct FloorsArguments {
    /// The program that serves on `serve-softhsm` (xtask).
    #[arg(long, value_name = "FILE")]
    server: PathBuf,
    /// The server that does next to nothing.
    #[arg(long, value_name = "FILE")]
    bare: PathBuf,
    /// AWS's sample proxy, built; README.md tells how.
    #[arg(long, value_name = "FILE")]
    sample: Option<PathBuf>,
    /// How often each is measured.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pairs: u32,
    /// Seconds of each measurement, after a second of warm-up.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Only what has this word in its name.
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
    /// The first of three free ports of 127.0.0.1.
    #[arg(long, value_name = "N", default_value_t = 18_080, value_parser = clap::value_parser!(u16).range(1_024..=65_000))]
    first_port: u16,
    /// Where the figures go as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the chart goes.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// An HSM and a way to reach the proxy, and what is measured there.
struct Stage {
    name: &'static str,
    /// Options of `serve-softhsm`.
    server: &'static [&'static str],
    /// Name, options of `load run`, and whether the sample is measured too.
    measurements: &'static [(&'static str, &'static str, Against)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Against {
    Sample,
    Nobody,
}
use Against::{Nobody, Sample};

const SOFTHSM: &str = "SoftHSM2";
const SLOW: &str = "HSM of 5 ms";
const FAR: &str = "5 ms for every call to the HSM";
const TLS: &str = "SoftHSM2, TLS";
const THOUSAND: &str = "encrypt, 1,000 connections";

/// How long an HSM takes with [`SLOW`] and [`FAR`].
const HSM_MS: f64 = 5.0;

const STAGES: [Stage; 6] = [
    Stage {
        name: SOFTHSM,
        server: &[],
        measurements: &[
            ("encrypt", "", Sample),
            ("encrypt with CDIV", "--cdiv", Sample),
            ("decrypt", "--operation decrypt", Sample),
            ("encrypt, 1 connection", "--connections 1", Sample),
            ("encrypt, 100 connections", "--connections 100", Sample),
            (THOUSAND, "--connections 1000", Sample),
        ],
    },
    Stage {
        name: "HSM of 1 ms",
        server: &["--hsm-latency-ms", "1"],
        measurements: &[("encrypt", "--connections 64", Sample)],
    },
    Stage {
        name: SLOW,
        server: &["--hsm-latency-ms", "5"],
        measurements: &[
            ("encrypt", "--connections 64", Sample),
            ("encrypt, 1,800/s", "--connections 256 --rate 1800", Nobody),
        ],
    },
    Stage {
        name: "HSM of 20 ms",
        server: &["--hsm-latency-ms", "20"],
        measurements: &[("encrypt", "--connections 64", Sample)],
    },
    Stage {
        name: FAR,
        server: &["--hsm-latency-ms", "5", "--every-call"],
        measurements: &[
            ("encrypt, 1 connection", "--connections 1", Sample),
            ("decrypt, 1 connection", "--connections 1 --operation decrypt", Sample),
            ("encrypt", "--connections 64", Sample),
        ],
    },
    Stage {
        name: TLS,
        server: &["--tls"],
        measurements: &[("encrypt", "", Sample), (THOUSAND, "--connections 1000", Sample)],
    },
];

/// PKCS#11 sessions of each proxy.
const SESSIONS: &str = "32";

/// One row of the result.
#[derive(Serialize)]
struct Entry {
    stage: &'static str,
    measurement: &'static str,
    /// Both proxies.
    comparison: Option<Comparison>,
    /// Ours alone, where there is nothing to compare.
    alone: Option<Measured>,
}

impl Entry {
    fn ours(&self) -> Option<&Measured> {
        self.comparison.as_ref().map(|comparison| &comparison.a).or(self.alone.as_ref())
    }
}

/// A promise and what became of it.
#[derive(Serialize)]
struct Floor {
    what: &'static str,
    /// As a limit on [`Floor::measured`].
    floor: String,
    aim: String,
    measured: f64,
    held: bool,
    reached_aim: bool,
}

impl Floor {
    fn at_most(what: &'static str, floor: f64, aim: f64, measured: f64) -> Self {
        Self {
            what,
            floor: format!("≤ {floor:.3}"),
            aim: format!("≤ {aim:.3}"),
            measured,
            held: measured <= floor,
            reached_aim: measured <= aim,
        }
    }

    fn at_least(what: &'static str, floor: f64, aim: f64, measured: f64) -> Self {
        Self {
            what,
            floor: format!("≥ {floor}"),
            aim: format!("≥ {aim}"),
            measured,
            held: measured >= floor,
            reached_aim: measured >= aim,
        }
    }
}

#[derive(Serialize)]
struct Results {
    entries: Vec<Entry>,
    floors: Vec<Floor>,
}

/// Measures everything; whether every floor holds.
///
/// # Errors
/// When something cannot be started or measured.
pub(crate) async fn run(arguments: &FloorsArguments) -> Result<bool, String> {
    if let Some(program) = arguments.sample.as_ref().filter(|program| !program.is_file()) {
        return Err(format!("there is no program {}: README.md tells how to build it", program.display()));
    }
    let wanted = |stage: &str, name: &str| match &arguments.only {
        None => true,
        Some(word) => stage.contains(word.as_str()) || name.contains(word.as_str()),
    };
    let mut entries = Vec::new();
    for stage in &STAGES {
        let wanted: Vec<_> =
            stage.measurements.iter().filter(|(name, ..)| wanted(stage.name, name)).collect();
        if wanted.is_empty() {
            continue;
        }
        eprintln!("-- {}", stage.name);
        let options = [&["--sessions", SESSIONS][..], stage.server].concat();
        let port = arguments.first_port;
        let ours = Server::start(&Kind::Ours, &arguments.server, port, &options).await?;
        let sample = match &arguments.sample {
            None => None,
            Some(program) => {
                Some(Server::start(&Kind::Sample(program), &arguments.server, port + 1, &options).await?)
            }
        };
        for (name, words, against) in wanted {
            eprintln!("{name}");
            let words = format!("{words} --seconds {} --warm-up-seconds 1", arguments.seconds);
            let shape = Shape::of(&words)?;
            let (comparison, alone) = match (&sample, against) {
                (Some(sample), Sample) => {
                    let both = [("ours", &ours.target), ("sample", &sample.target)];
                    (Some(compare(both, &shape, arguments.pairs).await?), None)
                }
                _ => {
                    let mut runs = Vec::new();
                    for _ in 0..arguments.pairs {
                        runs.push(run::measure(&ours.target, &shape).await?);
                    }
                    (None, Some(Measured { name: "ours".into(), runs }))
                }
            };
            entries.push(Entry { stage: stage.name, measurement: name, comparison, alone });
        }
        ours.stop().await?;
        if let Some(sample) = sample {
            sample.stop().await?;
        }
    }
    let mut floors = floors(&entries);
    if wanted("the load program itself", "bare") {
        floors.extend(load_itself(arguments).await?);
    }
    println!("{}", table(&entries, &floors));
    let results = Results { entries, floors };
    if let Some(path) = &arguments.json {
        write_json(path, &results)?;
    }
    if let Some(path) = &arguments.svg {
        let title = "This proxy and AWS's sample proxy 3.1.2 over the same HSM, 32 PKCS#11 sessions each";
        write(path, &svg(title, &panels(&results.entries)))?;
    }
    Ok(results.floors.iter().all(|floor| floor.held))
}

/// What the load program can do, against a server that does next to nothing.
async fn load_itself(arguments: &FloorsArguments) -> Result<Vec<Floor>, String> {
    let port = arguments.first_port;
    let bare = Server::start_bare(&arguments.bare, port).await?;
    let target = Arc::new(Target::find(&TargetArguments::new(format!("http://127.0.0.1:{port}")))?);
    let shape = Shape::of(&format!("--connections 64 --seconds {} --warm-up-seconds 1", arguments.seconds))?;
    let mut runs = Vec::new();
    for _ in 0..arguments.pairs {
        runs.push(run::measure(&target, &shape).await?);
    }
    bare.stop().await?;
    let measured = Measured { name: "bare".into(), runs };
    eprintln!(
        "the load program against the bare server: {:.0} signed requests/s, {:.1} µs CPU each, {:.1} µs in the server",
        measured.median(|run| run.throughput_per_s),
        measured.median(|run| run.load_cpu_us_per_request),
        measured.median(Figures::proxy_cpu_us),
    );
    // Both share the processors here, so what one core could do is reckoned from the CPU time.
    let per_core = measured.median(|run| 1e6 / run.load_cpu_us_per_request);
    Ok(vec![Floor::at_least(
        "signed requests the load program sends per second of one core's time",
        15_000.0,
        40_000.0,
        per_core.round(),
    )])
}

fn floors(entries: &[Entry]) -> Vec<Floor> {
    let find = |stage: &str, name: &str| {
        entries.iter().find(|entry| entry.stage == stage && entry.measurement == name)
    };
    let ratio = |stage: &str, name: &str, of: &str| {
        let ratio = find(stage, name)?.comparison.as_ref()?.ratios.get(of)?;
        Some(ratio.median)
    };
    let ours = |stage: &str, name: &str, figure: fn(&Figures) -> f64| {
        Some(find(stage, name)?.ours()?.median(figure))
    };
    let memory = |run: &Figures| run.proxy.map_or(f64::NAN, |proxy| proxy.memory_kib as f64 / 1_024.0);
    let p99_ms = |run: &Figures| run.latency_us.p99 as f64 / 1_000.0;
    [
        ratio(SOFTHSM, "encrypt", "cpu_us_per_request")
            .map(|r| Floor::at_most("CPU per encrypt over SoftHSM2, of the sample's", 1.0 / 3.0, 0.25, r)),
        ratio(SLOW, "encrypt", "right_per_s")
            .map(|r| Floor::at_least("encrypts/s over an HSM of 5 ms, of the sample's", 12.0, 16.0, r)),
        ours(SLOW, "encrypt, 1,800/s", p99_ms).map(|ms| {
            Floor::at_most(
                "p99 of encrypt at 1,800/s over an HSM of 5 ms, ms",
                3.0 * HSM_MS,
                3.0 * HSM_MS,
                ms,
            )
        }),
        ours(SOFTHSM, THOUSAND, memory)
            .map(|mib| Floor::at_most("memory under 1,000 connections, MiB", 64.0, 32.0, mib)),
        ours(TLS, THOUSAND, memory)
            .map(|mib| Floor::at_most("memory under 1,000 connections with TLS, MiB", 64.0, 32.0, mib)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn table(entries: &[Entry], floors: &[Floor]) -> String {
    let mut text = String::from(
        "\n| HSM | request | ours/s | sample/s | ratio (range) | ours CPU µs | sample CPU µs | ratio (range) | ours p50, p99 ms | \
         sample p50, p99 ms | MiB ours, sample | not right, % ours, sample |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for entry in entries {
        let Some(ours) = entry.ours() else { continue };
        let sample = entry.comparison.as_ref().map(|comparison| &comparison.b);
        let of = |measured: Option<&Measured>, figure: fn(&Figures) -> f64, digits: usize| {
            measured.map_or("–".into(), |measured| format!("{:.digits$}", measured.median(figure)))
        };
        let p50 = |run: &Figures| run.latency_us.p50 as f64 / 1_000.0;
        let p99 = |run: &Figures| run.latency_us.p99 as f64 / 1_000.0;
        let mib = |run: &Figures| run.proxy.map_or(f64::NAN, |proxy| proxy.memory_kib as f64 / 1_024.0);
        let ratio = |name: &str| match entry.comparison.as_ref().and_then(|both| both.ratios.get(name)) {
            None => "–".into(),
            Some(ratio) => format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.min, ratio.max),
        };
        let (mine, theirs) = (Some(ours), sample);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {}, {} | {}, {} | {}, {} | {}, {} |",
            entry.stage,
            entry.measurement,
            of(mine, |run| run.right_per_s, 0),
            of(theirs, |run| run.right_per_s, 0),
            ratio("right_per_s"),
            of(mine, Figures::proxy_cpu_us, 1),
            of(theirs, Figures::proxy_cpu_us, 1),
            ratio("cpu_us_per_request"),
            of(mine, p50, 2),
            of(mine, p99, 2),
            of(theirs, p50, 2),
            of(theirs, p99, 2),
            of(mine, mib, 1),
            of(theirs, mib, 1),
            of(mine, Figures::others_percent, 1),
            of(theirs, Figures::others_percent, 1),
        );
    }
    for operation in ["encrypt", "decrypt"] {
        let name = format!("{operation}, 1 connection");
        if let Some(entry) = entries.iter().find(|entry| entry.stage == FAR && entry.measurement == name) {
            let trips =
                |measured: &Measured| measured.median(|run| run.latency_us.p50 as f64 / 1_000.0) / HSM_MS;
            let _ = write!(text, "\nround trips to the HSM per {operation}: ours ");
            let _ = write!(text, "{:.1}", entry.ours().map_or(f64::NAN, trips));
            if let Some(both) = &entry.comparison {
                let _ = write!(text, ", sample {:.1}", trips(&both.b));
            }
        }
    }
    text.push_str("\n\n| floor | at | aim | measured | |\n|---|---|---|---|---|\n");
    for Floor { what, floor, aim, measured, held, reached_aim } in floors {
        let verdict = match (held, reached_aim) {
            (_, true) => "aim reached",
            (true, _) => "held",
            (false, _) => "MISSED",
        };
        let _ = writeln!(text, "| {what} | {floor} | {aim} | {measured:.3} | {verdict} |");
    }
    text
}

/// What the chart shows: throughput by HSM, and the proxy's CPU time by kind of request.
fn panels(entries: &[Entry]) -> Vec<Panel> {
    let panel = |title: &str, choose: fn(&Entry) -> bool, figure: fn(&Figures) -> f64| Panel {
        title: title.into(),
        rows: entries
            .iter()
            .filter(|entry| choose(entry))
            .filter_map(|entry| entry.comparison.as_ref().map(|both| (entry, both)))
            .flat_map(|(entry, both)| {
                let name = |who: &str| match entry.measurement {
                    "encrypt" if entry.stage != SOFTHSM => {
                        format!("{}, {who}", entry.stage.trim_end_matches(" for every call to the HSM"))
                    }
                    other => format!("{other}, {who}"),
                };
                [&both.a, &both.b].map(|measured| Row {
                    name: name(&measured.name),
                    middle: measured.median(figure),
                    values: measured.runs.iter().map(figure).collect(),
                })
            })
            .collect(),
    };
    vec![
        panel(
            "encrypts answered per second, 64 connections",
            |entry| entry.stage.starts_with("HSM of") && entry.measurement == "encrypt",
            |run| run.right_per_s,
        ),
        panel(
            "CPU time of the proxy per request over SoftHSM2, µs",
            |entry| entry.stage == SOFTHSM || (entry.stage == TLS && entry.measurement == "encrypt"),
            Figures::proxy_cpu_us,
        ),
        panel(
            "latency over SoftHSM2, 99th percentile, ms",
            |entry| {
                // Connections that all ask at once by the hundred would dwarf the rest.
                let is_crowd = entry.measurement.contains("00 connections");
                (entry.stage == SOFTHSM && !is_crowd)
                    || (entry.stage == TLS && entry.measurement == "encrypt")
            },
            |run| run.latency_us.p99 as f64 / 1_000.0,
        ),
    ]
}
