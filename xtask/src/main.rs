//! The project's own commands, the only ones to learn besides cargo's:
//!
//! - `cargo xtask test`: installs SoftHSM2, Prometheus, curl, openssl and Chromium when they are missing, then runs every test;
//! - `cargo xtask serve-softhsm`: the daemon over a throwaway SoftHSM2 token, to try it by hand;
//! - `cargo xtask catalogue`: runs every scenario of the catalogue and holds it to its pinned digest;
//! - `cargo xtask reliability`: measures what each fault of the HSM does, and renews `proxy/RELIABILITY.md`;
//! - `cargo xtask fuzz`: runs a fuzz target, coverage-guided, and tends its corpus;
//! - `cargo xtask soak`: full load, faults and reloads for minutes;
//! - `cargo xtask bench instructions`: instructions and allocations of the hot paths, against the committed figures;
//! - `cargo xtask bench`: load on a running proxy, two proxies side by side, the floors of speed;
//! - `cargo xtask calibrate-net`: the simulated TCP against this kernel's, and `scenarios/CALIBRATION.md`;
//! - `cargo xtask packaging`: the Debian package, and checks of everything in `packaging/`.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its user")]

mod apt;
mod bench;
mod calibrate;
mod catalogue;
mod failure_catalogue;
mod fuzz;
mod instructions;
mod packaging;
mod prometheus;
mod sample;
mod serve;
mod soak;
mod softhsm;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  test                             install what tests need and is missing (SoftHSM2, Prometheus, curl, openssl, Chromium;
                                   needs root),
                                   then run every test
  test --long                      the determinism check over 200 seeds, twice each in processes of their own
  catalogue [--renew] [--seeds N]  run every scenario of the catalogue, and compare with, or renew, the pinned digests
  reliability                      measure what each fault of the HSM does, and renew proxy/RELIABILITY.md
  serve-softhsm [--port N] [--tls | --mtls] [--for-load] [--sessions N] [--hsm-latency-ms N [--every-call]]
                [--sample PROGRAM] [--directory DIR]
                                   run the daemon over a throwaway SoftHSM2 token until Ctrl-C, and say what to type to run
                                   AWS's public test client against it (test-xks-proxy; with --mtls test_negative_mtls too)
                                   (port 8080, with TLS 8443; --mtls demands a client certificate; --for-load: as
                                   shipped, quiet, with room for 4,096 requests; --hsm-latency-ms: encrypt and decrypt
                                   take so much longer, with --every-call every PKCS#11 call; --sample: AWS's sample
                                   proxy in its place; --directory: where its files go)
  fuzz [--list]                    name the fuzz targets
  fuzz TARGET [--seconds N] [--jobs N]
                                   run one, coverage-guided (60 seconds, 1 job)
  fuzz TARGET --input FILE         run one input, such as a finding
  fuzz minimise TARGET             renew the committed corpus from what runs have found
  bench instructions [--renew]     count instructions and allocations of the hot paths under callgrind (installs valgrind
                                   when missing, needs root), and compare with, or renew, benches/instructions.toml
  bench load OPTIONS               load a running proxy; --help lists the options, as for the next three
  bench side-by-side OPTIONS       two running proxies in turn
  bench floors [OPTIONS]           start what is needed and measure every floor of benches/README.md
  bench bare [--port N]            a server that does next to nothing, the limit of any proxy
  calibrate-net [--quick] [--seconds N] [--only TEXT]
                                   compare the simulated TCP with this kernel's at every point of a grid, and renew
                                   scenarios/CALIBRATION.md (needs root, TUN devices and iproute2; --quick: a sample, nothing
                                   is written)
  packaging                        build the Debian package, check unit, image and manifests
  soak [--minutes N] [--connections N]
                                   full load with faults and reloads over SoftHSM2 (10 minutes, 32 connections)";

/// What went wrong, in one line for the user.
type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["test"] => test(),
        ["test", "--long"] => test_long(),
        ["catalogue", words @ ..] => catalogue::perform(words),
        ["packaging"] => packaging::run_all(),
        ["bench", "instructions", options @ ..] => instructions::run(options),
        ["calibrate-net", options @ ..] => calibrate::run(options),
        ["soak", options @ ..] => soak::run(options),
        ["fuzz", words @ ..] => match fuzz::Request::parse(words) {
            Ok(request) => request.perform(),
            Err(message) => {
                eprintln!("xtask: {message}");
                return ExitCode::from(2);
            }
        },
        ["bench", words @ ..] => bench::run(words),
        ["reliability"] => reliability(),
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
    apt::ensure("curl")?;
    apt::ensure("openssl")?;
    apt::ensure("tshark")?;
    apt::ensure("chromium")?;
    run(cargo().args(["test", "--workspace", "--all-features"]))
}

/// What takes too long for every day.
fn test_long() -> Outcome {
    run(cargo().args(["test", "--release", "--package", "scenarios", "--test", "determinism", "--"]).args([
        "--ignored",
        "--exact",
        "two_hundred_seeds_in_two_processes_each",
    ]))
}

/// The fault matrix with the shipped deadline, held to its bounds, and written down.
fn reliability() -> Outcome {
    softhsm::ensure()?;
    run(cargo().args(["test", "--package", "sim-hsm-pkcs11", "--test", "reliability", "--"]).args([
        "--ignored",
        "--exact",
        "renew_the_document",
    ]))
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

/// Where cargo puts what it builds with --release.
fn release_directory() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "cargo's own setting, and xtask is no part of the proxy")]
    let target = std::env::var_os("CARGO_TARGET_DIR");
    target.map_or_else(|| workspace().join("target"), PathBuf::from).join("release")
}

/// Runs a program that tells its user what is wrong by itself, and ends as it does.
fn hand_over(command: &mut Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        // A program ended by a signal has no code.
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(error) => Err(format!("cannot start {command:?}: {error}")),
    }
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
