//! `xks-sim`: runs scenarios and shows what they did, aims hostile requests at real proxies, and stands in for AWS KMS in
//! front of one.
//!
//! Place on the map: with [`commands`], the only place of this crate that reads arguments, files and the terminal, and
//! writes to them.

#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a command line program talks to its terminal")]

/// About a fifth faster here than the C library's; see `benches/README.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod commands;

use clap::{Parser, Subcommand};
use commands::{budget, compare, exit, fuzz, kms, list, new, replay, run, schema, show, size, sweep};
use std::process::ExitCode;

/// Simulates an AWS KMS External Key Store in trouble: the real proxy core between a model of KMS with its downstream
/// services and an HSM, and everything that can go wrong between them.
#[derive(Parser)]
#[command(name = "xks-sim", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a scenario of the catalogue, or one from a file, and report what happened.
    Run(run::RunArguments),
    /// Do a saved run again, and say whether it is the same or which event is the first to differ.
    Replay(replay::ReplayArguments),
    /// List the scenarios of the catalogue.
    List,
    /// Explain a scenario: what happens, when it strikes, what to do about it, and the file itself.
    Show {
        /// A name from `xks-sim list`, or the path of a scenario file.
        scenario: String,
    },
    /// Ask a few questions, or take flags, and write a commented scenario of your own.
    New(new::NewArguments),
    /// Print the JSON Schema of scenario files, for editors.
    Schema,
    /// Turn one or two knobs of a scenario and see where it stops to hold: a chart or a heat map, and the limit.
    Sweep(sweep::SweepArguments),
    /// Find how many HSMs, proxies and sessions meet a rate and an SLO with an HSM down.
    Size(size::SizeArguments),
    /// Run a scenario and see where KMS's 250 ms go: network, TLS, proxy, HSM, at the median and the high percentiles.
    Budget(budget::BudgetArguments),
    /// Set two runs or sweeps side by side, and say which differences are beyond chance.
    Compare(compare::CompareArguments),
    /// Send malformed, forged and hostile requests to a running XKS proxy, yours or your vendor's, and judge the answers.
    Fuzz(fuzz::FuzzArguments),
    /// Serve the model of AWS KMS to AWS SDKs and the AWS CLI, in front of a running XKS proxy, yours or your vendor's.
    Kms(kms::KmsArguments),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; clap prints them to stdout.
            let code = if error.use_stderr() { exit::USAGE } else { exit::HELD };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let outcome = match arguments.command {
        Command::Run(arguments) => run::perform(&arguments),
        Command::Replay(arguments) => replay::perform(&arguments),
        Command::List => list::perform(),
        Command::Show { scenario } => show::perform(&scenario),
        Command::New(arguments) => new::perform(&arguments),
        Command::Schema => schema::perform(),
        Command::Sweep(arguments) => sweep::perform(&arguments),
        Command::Size(arguments) => size::perform(&arguments),
        Command::Budget(arguments) => budget::perform(&arguments),
        Command::Compare(arguments) => compare::perform(&arguments),
        Command::Fuzz(arguments) => fuzz::perform(&arguments),
        Command::Kms(arguments) => kms::perform(&arguments),
    };
    ExitCode::from(outcome.unwrap_or_else(|message| {
        eprintln!("xks-sim: {message}");
        exit::USAGE
    }))
}
