//! Load on an XKS proxy that is already running: how much it answers, how fast, and what that costs.
//!
//!     cargo xtask bench load --endpoint http://127.0.0.1:8080
//!
//! A client here signs as KMS does, speaks HTTP on kept-alive connections and checks every answer. In a closed loop each
//! connection asks again as soon as it has its answer; in an open loop (`--rate`) requests fall due on a schedule, and a
//! request's latency counts from when it was due, whoever was to blame that it left late: a proxy that stalls is charged
//! for everybody who would have asked meanwhile (no coordinated omission).
//!
//! From the bottom up: `target` (which proxy), `shape` (what is asked of it), `request` (bodies and signatures),
//! `connection`, `pace` (the schedule), `worker` (one thread full of connections), `tally` (what came back), `process` (what
//! the proxy's process uses), `run` (one measurement), `figures` (its result), `side_by_side` (two proxies in turn), `chart`, `floors`
//! (all of README.md's table, on servers of its own).

#![expect(
    clippy::disallowed_methods,
    reason = "a load program lives in real time, opens real connections and starts its own threads"
)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its user")]

mod chart;
mod connection;
mod figures;
mod floors;
mod pace;
mod process;
mod request;
mod run;
mod server;
mod shape;
mod side_by_side;
mod tally;
mod target;
mod worker;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use floors::FloorsArguments;
use shape::Shape;
use side_by_side::SideBySideArguments;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use target::{Target, TargetArguments};

/// The allocator of all measured programs of this project, so that the C library's does not stand between them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Loads a running XKS proxy and tells what it bears.
#[derive(Parser)]
#[command(name = "load", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One measurement of one proxy.
    Run(Box<RunArguments>),
    /// Two running proxies in turn, A B A B: figures of each, and the ratio of each pair.
    SideBySide(Box<SideBySideArguments>),
    /// Everything of README.md's table, on servers started for it.
    Floors(FloorsArguments),
}

#[derive(clap::Args)]
struct RunArguments {
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    shape: Shape,
    /// Where the figures go as JSON, besides the terminal.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Exit codes: 0 all answers were right, 1 some were wrong or lost or none succeeded, 2 bad usage or no such proxy, 130
/// ended by Ctrl-C.
fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("load: cannot start ({error})");
            return ExitCode::from(2);
        }
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = execute(&arguments.command) => Some(outcome),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    match outcome {
        Some(Ok(true)) => ExitCode::SUCCESS,
        Some(Ok(false)) => ExitCode::from(1),
        Some(Err(message)) => {
            eprintln!("load: {message}");
            ExitCode::from(2)
        }
        None => {
            eprintln!("load: ended by Ctrl-C; nothing was measured in full");
            ExitCode::from(130)
        }
    }
}

/// Help as clap writes it, and a mistake in one line.
fn refuse(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        error.exit();
    }
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let line = lines.join(" ");
    eprintln!("load: {}; --help lists the options", line.trim_start_matches("error: "));
    ExitCode::from(2)
}

/// Whether every answer was right.
async fn execute(command: &Command) -> Result<bool, String> {
    match command {
        Command::Run(arguments) => {
            arguments.shape.check()?;
            let target = Arc::new(Target::find(&arguments.target)?);
            target.answers().await?;
            let figures = run::measure(&target, &arguments.shape).await?;
            println!("{figures}");
            if let Some(path) = &arguments.json {
                write_json(path, &figures)?;
            }
            Ok(figures.held())
        }
        Command::SideBySide(arguments) => side_by_side::run(arguments).await,
        Command::Floors(arguments) => floors::run(arguments).await,
    }
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| format!("cannot write JSON: {error}"))?;
    write(path, &(text + "\n"))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
