//! A long run of the real daemon under full load, while its HSM fails again and again and its credentials and its
//! certificate change: nothing may be wrong, nothing lost, and memory and threads stay flat.
//!
//!     cargo xtask soak --minutes 10
//!
//! Real processes, sockets, TLS and SoftHSM2; faults come from the fault-injecting PKCS#11 module. Every answer is checked:
//! an integrity value against its parts, a plaintext against what was encrypted. While a fault lasts, and for the two
//! seconds the proxy has to recover, an answer may be one of the errors that mean "not now"; at any other time it may not.
//! A request without a well-formed answer is lost. Ciphertexts made along the way must decrypt at the end.

#![expect(
    clippy::disallowed_methods,
    reason = "a load program lives in real time and opens real connections"
)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its user")]

mod client;
mod daemon;
mod script;
mod tally;
mod world;

use client::Worker;
use daemon::Daemon;
use script::Script;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tally::Tally;
use tokio::task::JoinSet;
use world::World;

const USAGE: &str = "\
Usage: soak --daemon FILE --faults FILE --module FILE --token-maker FILE [--minutes N] [--connections N]

  --daemon       the program xks-proxy
  --faults       the fault-injecting PKCS#11 module (libsim_hsm_pkcs11.so)
  --module       SoftHSM2's module, which it stands in front of
  --token-maker  the program that makes a token when called with `make-token MODULE` (xtask)
  --minutes      how long (1 to 1440, default 10)
  --connections  how many clients, each with one request at a time (1 to 512, default 32)";

/// What the command line says.
pub(crate) struct Options {
    pub(crate) daemon: PathBuf,
    pub(crate) faults: PathBuf,
    pub(crate) module: PathBuf,
    pub(crate) token_maker: PathBuf,
    pub(crate) duration: Duration,
    pub(crate) connections: usize,
}

impl Options {
    fn parse(arguments: &[String]) -> Option<Self> {
        let value = |name: &str| {
            let at = arguments.iter().position(|argument| argument == name)?;
            arguments.get(at + 1).cloned()
        };
        let number = |name: &str, default: u64, max: u64| match value(name) {
            None => Some(default),
            Some(text) => text.parse().ok().filter(|number| (1..=max).contains(number)),
        };
        Some(Self {
            daemon: value("--daemon")?.into(),
            faults: value("--faults")?.into(),
            module: value("--module")?.into(),
            token_maker: value("--token-maker")?.into(),
            duration: Duration::from_secs(60 * number("--minutes", 10, 1_440)?),
            connections: usize::try_from(number("--connections", 32, 512)?).ok()?,
        })
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(options) = Options::parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("soak: cannot start ({error})");
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything held.
async fn run(options: &Options) -> Result<bool, String> {
    let world = Arc::new(World::make(options)?);
    let mut daemon = Daemon::start(options, &world).await?;
    world.set_address(daemon.address());
    let tally = Arc::new(Tally::default());
    let mut workers = JoinSet::new();
    for number in 0..options.connections {
        let worker = Worker::new(number, Arc::clone(&world), Arc::clone(&tally));
        workers.spawn(worker.run());
    }
    println!(
        "{} clients for {} minutes against {}; Ctrl-C ends it early",
        options.connections,
        options.duration.as_secs() / 60,
        daemon.address()
    );
    let script = Script::new(Arc::clone(&world), Arc::clone(&tally), options.faults.clone());
    let ended_early = tokio::select! {
        outcome = script.run(&mut daemon, options.duration) => { outcome?; false }
        _ = tokio::signal::ctrl_c() => true,
    };
    world.calm_down()?;
    world.stop();
    let mut kept = Vec::new();
    while let Some(worker) = workers.join_next().await {
        kept.extend(worker.map_err(|error| format!("a client failed: {error}"))?);
    }
    let undecryptable = client::decrypt_again(&world, &tally, kept).await?;
    let log = daemon.stop().await?;
    if ended_early {
        println!("ended early");
    }
    Ok(tally.report(undecryptable, &log))
}
