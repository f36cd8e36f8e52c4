//! `xks-sim compare`: two runs or sweeps side by side, and which differences are beyond chance.

use super::exit;
use super::files::{load, origin, read_text, write_whole};
use super::interrupt::heed_ctrl_c;
use super::run::parse_seed;
use super::sweep::{jobs, parse_jobs, parse_seeds, seeds};
use super::terminal::{clear_progress, say, style};
use super::watch::Watch;
use scenarios::compare::{Comparison, Side};
use scenarios::sweep::crew::Crew;
use scenarios::sweep::slo::Slo;
use scenarios::sweep::vary::{Base, Vary};
use scenarios::sweep::{Plan, Sweep};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Seeds of each side unless told otherwise: enough for an effect that is far larger than luck.
const SEEDS_DEFAULT: u64 = 5;

/// What to compare.
#[derive(clap::Args)]
pub(crate) struct CompareArguments {
    /// A name from `xks-sim list`, the path of a scenario file, or a saved report.json or sweep.json.
    a: String,
    /// The same for the other side. [default: A, with what --set changes]
    b: Option<String>,
    /// Changes a setting of B, which is then a scenario: KEY=VALUE, named as in the scenario file, such as topology.hsms=1,
    /// service.s3.rate_per_s=50 or fault.hsm-slow.factor=10. Can be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Runs of each scenario, with different seeds: the more, the smaller the differences that show. [default: 5, or the
    /// seeds of the saved side]
    #[arg(long, value_name = "N", value_parser = parse_seeds)]
    seeds: Option<u64>,
    /// The first seed; both sides have the same, so that their runs are compared in pairs. [default: 1]
    #[arg(long, value_name = "N", value_parser = parse_seed)]
    seed: Option<u64>,
    /// Runs at the same time. [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = parse_jobs)]
    jobs: Option<usize>,
    /// Where compare.html and compare.json go; made if it is missing.
    #[arg(long, value_name = "DIR", default_value = "out/compare")]
    out: PathBuf,
}

/// One side before anything has run.
enum Source {
    Saved(Box<Side>),
    Scenario { name: String, base: Box<Base>, command: String },
}

/// Performs `xks-sim compare`.
///
/// # Errors
/// In words, whatever keeps the sides from being read, run or compared.
pub(crate) fn perform(arguments: &CompareArguments) -> Result<u8, String> {
    let (a, b) = (source(&arguments.a, &[])?, second(arguments)?);
    let saved_seeds = [&a, &b].into_iter().find_map(|side| match side {
        Source::Saved(side) => Some(side.sweep.seeds.clone()),
        Source::Scenario { .. } => None,
    });
    let chosen = chosen_seeds(arguments, saved_seeds)?;
    std::fs::create_dir_all(&arguments.out).map_err(|error| {
        format!("cannot make the directory {}: {error}; choose another with --out", arguments.out.display())
    })?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let jobs = jobs(arguments.jobs);
    let plan = |source: Source| -> Result<(String, Result<Plan, Side>), String> {
        match source {
            Source::Saved(side) => Ok((side.name.clone(), Err(*side))),
            Source::Scenario { name, base, command } => {
                let seeds = chosen.clone();
                let command = format!("{command} --seeds {} --seed {}", seeds.end - seeds.start, seeds.start);
                Ok((name, Ok(Plan::new(*base, Vec::new(), seeds, Slo::None, command)?)))
            }
        }
    };
    let ((a_name, a), (b_name, b)) = (plan(a)?, plan(b)?);
    let expected = [&a, &b].into_iter().filter_map(|side| side.as_ref().ok()).map(Plan::runs).sum();
    let watch = Watch::new(jobs, expected);
    let told = |done, of| watch.told(done, of);
    if expected > 0 {
        heed_ctrl_c(Arc::clone(&interrupted));
    }
    let pressed = Arc::clone(&interrupted);
    let crew = Crew { jobs, interrupted, told: &told };
    let ran = |name: &str, sweep: Sweep| Side { name: name.to_owned(), sweep };
    let sides = match (a, b) {
        (Err(a), Err(b)) => Ok((a, b)),
        (Ok(a), Err(b)) => a.sweep(&crew, false).map(|a| (ran(&a_name, a), b)),
        (Err(a), Ok(b)) => b.sweep(&crew, false).map(|b| (a, ran(&b_name, b))),
        (Ok(a), Ok(b)) => Plan::sweep_both(&a, &b, &crew).map(|(a, b)| (ran(&a_name, a), ran(&b_name, b))),
    };
    clear_progress();
    let (a, b) = sides?;
    let whole = expected == 0 || (a.sweep.complete && b.sweep.complete);
    let ran = |side: &Side| side.sweep.points.iter().any(|point| !point.runs.is_empty());
    if pressed.load(Ordering::Relaxed) && !(ran(&a) && ran(&b)) {
        eprintln!(
            "xks-sim: interrupted before both sides had a run: there is nothing to compare, and no page is written"
        );
        return Ok(exit::INTERRUPTED);
    }
    let comparison = Comparison::of(&a, &b, command_line(arguments))?;
    let page = arguments.out.join("compare.html");
    write_whole(&arguments.out.join("compare.json"), &comparison.json())?;
    write_whole(&page, &comparison.html())?;
    say(&comparison.terminal(style()))?;
    say(&format!("page: {}\n", page.display()))?;
    Ok(if whole { exit::HELD } else { exit::INTERRUPTED })
}

fn second(arguments: &CompareArguments) -> Result<Source, String> {
    match (&arguments.b, arguments.set.as_slice()) {
        (None, []) => Err(
            "there is one side only: name a second, or change a setting of the first with --set, such as --set topology.hsms=1"
                .into(),
        ),
        (Some(b), []) if *b == arguments.a => Err(format!(
            "both sides are {b} as it is: name another, or change a setting of the second with --set, such as \
             --set topology.hsms=1"
        )),
        (b, set) => source(b.as_ref().unwrap_or(&arguments.a), set),
    }
}

fn source(name: &str, set: &[String]) -> Result<Source, String> {
    if Path::new(name).extension().is_some_and(|extension| extension == "json") {
        if !set.is_empty() {
            return Err(format!(
                "--set changes a scenario before it runs, and {name} has run: name the scenario instead"
            ));
        }
        return Ok(Source::Saved(Box::new(Side { name: name.to_owned(), sweep: saved(name)? })));
    }
    let varies = set.iter().map(|text| Vary::one(text)).collect::<Result<Vec<_>, _>>()?;
    let scenario = load(name)?;
    let base = Base::new(scenario, &origin(name))?;
    let command = format!("cargo run --release -- sweep {name}");
    if varies.is_empty() {
        return Ok(Source::Scenario { name: name.to_owned(), base: Box::new(base), command });
    }
    let changed = base.set(varies)?;
    let parts: Vec<String> = set.iter().map(|text| text.trim().to_owned()).collect();
    let given: String = parts.iter().map(|part| format!(" --vary '{part}'")).collect();
    Ok(Source::Scenario {
        name: format!("{name} with {}", parts.join(", ")),
        base: Box::new(changed),
        command: format!("{command}{given}"),
    })
}

/// A saved sweep, or a saved run as a sweep of one.
fn saved(name: &str) -> Result<Sweep, String> {
    let text = read_text(Path::new(name))?;
    Sweep::of_json(&text).or_else(|as_sweep| {
        Sweep::of_report(&text).map_err(|as_report| {
            format!(
                "{name} is neither a sweep.json nor a report.json of this version: as the one, {as_sweep}; as the other, \
                 {as_report}"
            )
        })
    })
}

/// Those asked for; else those of what is saved, if they follow each other; else the first five.
fn chosen_seeds(
    arguments: &CompareArguments,
    saved: Option<Vec<u64>>,
) -> Result<std::ops::Range<u64>, String> {
    let in_a_row = |seeds: &Vec<u64>| {
        seeds.windows(2).all(|pair| matches!(pair, [one, next] if one.checked_add(1) == Some(*next)))
    };
    match saved.filter(in_a_row).and_then(|seeds| Some((*seeds.first()?, seeds.len() as u64))) {
        Some((first, count)) if arguments.seeds.is_none() && arguments.seed.is_none() => seeds(first, count),
        _ => seeds(arguments.seed.unwrap_or(1), arguments.seeds.unwrap_or(SEEDS_DEFAULT)),
    }
}

fn command_line(arguments: &CompareArguments) -> String {
    let mut command = format!("cargo run --release -- compare {}", arguments.a);
    if let Some(b) = &arguments.b {
        command.push_str(&format!(" {b}"));
    }
    for set in &arguments.set {
        command.push_str(&format!(" --set '{set}'"));
    }
    for (option, value) in [("seeds", arguments.seeds), ("seed", arguments.seed)] {
        if let Some(value) = value {
            command.push_str(&format!(" --{option} {value}"));
        }
    }
    command
}
