//! The project's own commands, the only ones to learn besides cargo's:
//!
//! - `cargo xtask test`: installs SoftHSM2 and Prometheus when they are missing, then runs every test;
//! - `cargo xtask serve-softhsm`: the daemon over a throwaway SoftHSM2 token, to try it by hand.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its user")]

mod apt;
mod prometheus;
mod serve;
mod softhsm;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  test                             install SoftHSM2 and Prometheus when missing (needs root), then run every test
  serve-softhsm [--port N] [--tls] run the daemon over a throwaway SoftHSM2 token until Ctrl-C
                                   (port 8080, with --tls 8443)";

/// What went wrong, in one line for the user.
type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["test"] => test(),
        ["serve-softhsm", options @ ..] => {
            serve::Options::parse(options).and_then(|options| serve::run(&options))
        }
        // SoftHSM2 finds its directory through the environment of its process, so tokens are made in one of their own.
        ["make-token", module] => softhsm::make_token(Path::new(module)),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::from(1)
        }
    }
}

/// Every test of every crate, with whatever they need.
fn test() -> Outcome {
    let module = softhsm::ensure()?;
    println!("SoftHSM2: {}", module.display());
    prometheus::ensure()?;
    run(cargo().args(["test", "--workspace", "--all-features"]))
}

/// Cargo, in the workspace's directory.
fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(workspace());
    command
}

fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Runs a command with its output on ours.
fn run(command: &mut Command) -> Outcome {
    let line = format!("{command:?}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{line}: {status}")),
        Err(error) => Err(format!("cannot start {line}: {error}")),
    }
}
