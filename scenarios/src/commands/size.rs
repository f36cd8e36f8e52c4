//! `xks-sim size`: how many HSMs, proxies and sessions meet a rate and an SLO with an HSM down.

use super::exit;
use super::files::{load, write_whole};
use super::interrupt::heed_ctrl_c;
use super::run::parse_seed;
use super::sweep::{jobs, parse_jobs, parse_seeds, seeds};
use super::terminal::{clear_progress, say, style};
use super::watch::Watch;
use scenarios::size::question::{self, Configuration, DURATION_S, EACH_MAX, Question, SESSIONS_MAX, Terms};
use scenarios::sweep::crew::Crew;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The load, the world and the SLO.
#[derive(clap::Args)]
pub(crate) struct SizeArguments {
    /// A scenario whose services, ways and HSMs are taken; its faults and expectations are not.
    scenario: Option<String>,
    /// KMS calls per second, instead of a scenario.
    #[arg(long, value_name = "N", conflicts_with = "scenario")]
    rate: Option<f64>,
    /// Round trip between KMS and the proxies. [default: the scenario's]
    #[arg(long, value_name = "MS")]
    rtt_ms: Option<f64>,
    /// What one HSM operation takes; a data key takes two. [default: the scenario's]
    #[arg(long, value_name = "MS")]
    hsm_ms: Option<f64>,
    /// Operations that an HSM works on at once. [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    hsm_parallel: Option<u32>,
    /// HSMs that are down in the middle half of each run.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(0..EACH_MAX as u64))]
    down: u64,
    /// What must hold in every run, as for `sweep`. [default: failures=0.1%, p99_ms=200]
    #[arg(long, value_name = "NAME=VALUE")]
    slo: Vec<String>,
    /// HSMs to look at, at the most.
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u64).range(1..=EACH_MAX as u64))]
    hsms_max: u64,
    /// Proxies to look at, at the most.
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u64).range(1..=EACH_MAX as u64))]
    proxies_max: u64,
    /// Sessions of each HSM to look at, at the most.
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u64).range(1..=SESSIONS_MAX as u64))]
    sessions_max: u64,
    /// Simulated seconds of each run.
    #[arg(long, value_name = "N", default_value_t = DURATION_S, value_parser = clap::value_parser!(u64).range(4..=86_400))]
    seconds: u64,
    /// Runs of each configuration, with different seeds: the more, the surer.
    #[arg(long, value_name = "N", default_value = "3", value_parser = parse_seeds)]
    seeds: u64,
    /// The first seed.
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_seed)]
    seed: u64,
    /// Runs at the same time. [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = parse_jobs)]
    jobs: Option<usize>,
    /// Where size.html, size.json and, with an answer, its scenario size.toml go; made if it is missing.
    #[arg(long, value_name = "DIR", default_value = "out/size")]
    out: PathBuf,
}

/// Performs `xks-sim size`.
///
/// # Errors
/// In words, whatever keeps the search from being made or its result from being written.
pub(crate) fn perform(arguments: &SizeArguments) -> Result<u8, String> {
    let scenario = match (&arguments.scenario, arguments.rate) {
        (Some(name), _) => load(name)?,
        (None, Some(rate)) => question::load(rate)?,
        (None, None) => return Err("name a scenario, or give --rate, KMS calls per second".into()),
    };
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let terms = Terms {
        down: count(arguments.down),
        duration_s: arguments.seconds,
        most: Configuration {
            hsms: count(arguments.hsms_max),
            proxies: count(arguments.proxies_max),
            sessions: count(arguments.sessions_max),
        },
        slo: arguments.slo.clone(),
        seeds: seeds(arguments.seed, arguments.seeds)?,
        command: command_line(arguments),
    };
    let mut question = Question::new(&scenario, terms)?;
    let given = [
        ("--rtt-ms", "link", "rtt_ms", arguments.rtt_ms),
        ("--hsm-ms", "hsm", "service_ms", arguments.hsm_ms),
        ("--hsm-parallel", "hsm", "parallel_max", arguments.hsm_parallel.map(f64::from)),
    ];
    for (option, section, key, value) in given {
        if let Some(value) = value {
            question.set(section, key, value).map_err(|message| format!("{option}: {message}"))?;
        }
    }
    let out = &arguments.out;
    std::fs::create_dir_all(out).map_err(|error| {
        format!("cannot make the directory {}: {error}; choose another with --out", out.display())
    })?;
    let interrupted = Arc::new(AtomicBool::new(false));
    heed_ctrl_c(Arc::clone(&interrupted));
    let (jobs, expected) = (jobs(arguments.jobs), question.runs_max());
    eprintln!("at most {expected} runs; Ctrl-C ends early and keeps what was tried");
    let (watch, done) = (Watch::new(jobs, expected), AtomicUsize::new(0));
    let told = |_, _| watch.told(done.fetch_add(1, Ordering::Relaxed) + 1, expected);
    let searched = question.search(&Crew { jobs, interrupted, told: &told });
    clear_progress();
    let sizing = searched?;
    write_whole(&out.join("size.json"), &sizing.json())?;
    write_whole(&out.join("size.html"), &sizing.html())?;
    say(&sizing.terminal(style()))?;
    if !sizing.smallest_toml.is_empty() {
        let file = out.join("size.toml");
        write_whole(&file, &sizing.smallest_toml)?;
        say(&format!("its scenario: {}\n", file.display()))?;
    }
    say(&format!("page: {}\n", out.join("size.html").display()))?;
    Ok(match (sizing.complete, sizing.smallest) {
        (false, _) => exit::INTERRUPTED,
        (true, Some(_)) => exit::HELD,
        (true, None) => exit::VIOLATED,
    })
}

fn command_line(arguments: &SizeArguments) -> String {
    let mut command = "cargo run --release -- size".to_owned();
    if let Some(scenario) = &arguments.scenario {
        command.push_str(&format!(" {scenario}"));
    }
    let numbers = [
        ("rate", arguments.rate),
        ("rtt-ms", arguments.rtt_ms),
        ("hsm-ms", arguments.hsm_ms),
        ("hsm-parallel", arguments.hsm_parallel.map(f64::from)),
    ];
    for (option, value) in numbers {
        if let Some(value) = value {
            command.push_str(&format!(" --{option} {value}"));
        }
    }
    for slo in &arguments.slo {
        command.push_str(&format!(" --slo '{slo}'"));
    }
    let SizeArguments { down, hsms_max, proxies_max, sessions_max, seconds, seeds, seed, .. } = arguments;
    command.push_str(&format!(
        " --down {down} --hsms-max {hsms_max} --proxies-max {proxies_max} --sessions-max {sessions_max} --seconds {seconds} \
         --seeds {seeds} --seed {seed}"
    ));
    command
}
