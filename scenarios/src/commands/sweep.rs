//! `xks-sim sweep`: a scenario with settings varied, and where it stops to hold.

use super::exit;
use super::files::{load, origin, write_whole};
use super::interrupt::heed_ctrl_c;
use super::run::parse_seed;
use super::terminal::{clear_progress, say, style};
use super::watch::Watch;
use scenarios::sweep::crew::{Crew, JOBS_MAX};
use scenarios::sweep::plan::SEEDS_MAX;
use scenarios::sweep::slo::Slo;
use scenarios::sweep::vary::{Base, Vary};
use scenarios::sweep::{Plan, Sweep};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What to vary, and what must hold.
#[derive(clap::Args)]
pub(crate) struct SweepArguments {
    /// A name from `xks-sim list`, or the path of a scenario file.
    scenario: String,
    /// A setting and the values to try: from, to and how many (link.rtt_ms=5..120:12), or a list (topology.hsms=1,2,4).
    /// The setting is named as in the scenario file: section.key, service.s3.rate_per_s, fault.0.to_s or fault.hsm-slow.factor.
    /// Given once it makes a chart, given twice a heat map; without it the scenario runs as it is.
    #[arg(long, value_name = "KEY=VALUES")]
    vary: Vec<String>,
    /// What must hold: failures=0.1% (share of requests), p99_ms=100 or p999_ms=200 (proxy calls), recovered_s=15 (after the
    /// last fault). Several must all hold. [default: the scenario's own expectations]
    #[arg(long, value_name = "NAME=VALUE")]
    slo: Vec<String>,
    /// Narrow the limit down between two steps, until it is known to half a per cent.
    #[arg(long)]
    find: bool,
    /// Runs at each point, with different seeds: the more, the surer.
    #[arg(long, value_name = "N", default_value = "3", value_parser = parse_seeds)]
    seeds: u64,
    /// The first seed.
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_seed)]
    seed: u64,
    /// Runs at the same time. [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = parse_jobs)]
    jobs: Option<usize>,
    /// Where sweep.html, sweep.json and sweep.csv go; made if it is missing. [default: out/SCENARIO-sweep]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn parse_seeds(text: &str) -> Result<u64, String> {
    let seeds = text.parse().ok().filter(|seeds| (1..=SEEDS_MAX).contains(seeds));
    seeds.ok_or_else(|| format!("--seeds is a whole number from 1 to {SEEDS_MAX}"))
}

pub(crate) fn parse_jobs(text: &str) -> Result<usize, String> {
    let jobs = text.parse().ok().filter(|jobs| (1..=JOBS_MAX).contains(jobs));
    jobs.ok_or_else(|| format!("--jobs is a whole number from 1 to {JOBS_MAX}"))
}

/// Threads for runs: as asked for, or one for each processor.
pub(crate) fn jobs(asked: Option<usize>) -> usize {
    asked
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
        .min(JOBS_MAX)
}

/// The seeds from `first` on.
///
/// # Errors
/// When they would go beyond the largest.
pub(crate) fn seeds(first: u64, count: u64) -> Result<std::ops::Range<u64>, String> {
    let end = first.checked_add(count);
    end.map(|end| first..end)
        .ok_or_else(|| "--seed and --seeds together go beyond the largest seed".to_owned())
}

/// Performs `xks-sim sweep`.
///
/// # Errors
/// In words, whatever keeps it from being run or its result from being written.
pub(crate) fn perform(arguments: &SweepArguments) -> Result<u8, String> {
    let varies = arguments.vary.iter().map(|text| Vary::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let scenario = load(&arguments.scenario)?;
    let slo = Slo::choose(&arguments.slo, &scenario)?;
    let name = scenario.name.clone();
    let base = Base::new(scenario, &origin(&arguments.scenario))?;
    let seeds = seeds(arguments.seed, arguments.seeds)?;
    let plan = Plan::new(base, varies, seeds, slo, command_line(arguments))?;
    if arguments.find {
        plan.check_find()?;
    }
    let out = arguments.out.clone().unwrap_or_else(|| Path::new("out").join(format!("{name}-sweep")));
    std::fs::create_dir_all(&out).map_err(|error| {
        format!("cannot make the directory {}: {error}; choose another with --out", out.display())
    })?;
    let interrupted = Arc::new(AtomicBool::new(false));
    heed_ctrl_c(Arc::clone(&interrupted));
    let jobs = jobs(arguments.jobs);
    let watch = Watch::new(jobs, plan.runs());
    let told = |done, of| watch.told(done, of);
    let crew = Crew { jobs, interrupted, told: &told };
    let ran = plan.sweep(&crew, arguments.find);
    clear_progress();
    let sweep = ran?;
    write(&out, &sweep)?;
    say(&sweep.terminal(style()))?;
    say(&format!("page: {}\n", out.join("sweep.html").display()))?;
    Ok(if sweep.complete { exit::HELD } else { exit::INTERRUPTED })
}

fn write(out: &Path, sweep: &Sweep) -> Result<(), String> {
    write_whole(&out.join("sweep.json"), &sweep.json())?;
    write_whole(&out.join("sweep.csv"), &sweep.csv())?;
    write_whole(&out.join("sweep.html"), &sweep.html())
}

fn command_line(arguments: &SweepArguments) -> String {
    let mut command = format!("cargo run --release -- sweep {}", arguments.scenario);
    for vary in &arguments.vary {
        command.push_str(&format!(" --vary '{vary}'"));
    }
    for slo in &arguments.slo {
        command.push_str(&format!(" --slo '{slo}'"));
    }
    if arguments.find {
        command.push_str(" --find");
    }
    command.push_str(&format!(" --seeds {} --seed {}", arguments.seeds, arguments.seed));
    command
}
