//! `xks-sim budget`: one run, and where the time of its proxy calls went.

use super::exit;
use super::files::{load, write_whole};
use super::interrupt::heed_ctrl_c;
use super::run::parse_seed;
use super::terminal::{clear_progress, progress, say, style};
use scenarios::budget::Budget;
use scenarios::run;
use scenarios::stages::StageBook;
use scenarios::world::Options;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to run.
#[derive(clap::Args)]
pub(crate) struct BudgetArguments {
    /// A name from `xks-sim list`, or the path of a scenario file.
    scenario: String,
    /// Seed of every random choice; the same seed gives the same run.
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_seed)]
    seed: u64,
    /// Where budget.html and budget.json go; made if it is missing. [default: out/SCENARIO-budget]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Performs `xks-sim budget`.
///
/// # Errors
/// In words, whatever keeps the scenario from being run or the result from being written.
pub(crate) fn perform(arguments: &BudgetArguments) -> Result<u8, String> {
    let scenario = load(&arguments.scenario)?;
    let out =
        arguments.out.clone().unwrap_or_else(|| Path::new("out").join(format!("{}-budget", scenario.name)));
    std::fs::create_dir_all(&out).map_err(|error| {
        format!("cannot make the directory {}: {error}; choose another with --out", out.display())
    })?;
    let book = Arc::new(StageBook::default());
    let mut options = Options::new(arguments.seed);
    options.stages = Some(Arc::clone(&book));
    options.progress = progress("simulated", scenario.duration);
    heed_ctrl_c(Arc::clone(&options.interrupted));
    let command = format!("cargo run --release -- budget {} --seed {}", arguments.scenario, arguments.seed);
    let ran = run::run(&scenario, &options, &command, "emulated HSM");
    clear_progress();
    let budget = Budget::of(&scenario, &ran?.result, &book);
    let page = out.join("budget.html");
    write_whole(&out.join("budget.json"), &budget.json())?;
    write_whole(&page, &budget.html())?;
    say(&budget.terminal(style()))?;
    say(&format!("page: {}\n", page.display()))?;
    Ok(if budget.interrupted_at_ms.is_none() { exit::HELD } else { exit::INTERRUPTED })
}
