//! The daemon `xks-proxy`: arguments → configuration → HSMs → bind → serve → drain.
//!
//! Exit codes: 0 served and drained, or checked and found right; 2 anything wrong, with one line on standard error.

mod daemon {
    pub(crate) mod check;
    pub(crate) mod listen;
    pub(crate) mod log;
    pub(crate) mod open_files;
    pub(crate) mod serve;
}

use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// An AWS KMS External Key Store (XKS) proxy over any PKCS#11 HSM.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT, then finish the requests at hand. SIGHUP reads credentials, keys and rules anew.
    Serve {
        /// The configuration; proxy/config.example.toml shows every key.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check the configuration, log in to each HSM, look up each key that is named, and say what is found.
    Check {
        /// The configuration to check.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Serve { config } => daemon::serve::run(&config),
        Command::Check { config } => daemon::check::run(&config),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(std::io::stderr(), "xks-proxy: {message}");
            ExitCode::from(2)
        }
    }
}
