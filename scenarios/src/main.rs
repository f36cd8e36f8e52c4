//! `xks-sim`: runs scenarios and shows what they did, and aims hostile requests at real proxies.
//!
//! Place on the map: the only place of this crate that reads arguments, files and the terminal, and writes to them.

#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a command line program talks to its terminal")]

/// About a fifth faster here than the C library's; see `benches/README.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod fuzz_command;

use clap::{Parser, Subcommand};
use scenarios::explain::explain;
use scenarios::report::{self, Style};
use scenarios::result::RunResult;
use scenarios::scenario::{FILE_BYTES_MAX, Scenario, nearest};
use scenarios::world::Options;
use scenarios::{catalogue, real_hsm, run};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    Run(RunArguments),
    /// List the scenarios of the catalogue.
    List,
    /// Explain a scenario: what happens, when it strikes, what to do about it, and the file itself.
    Show {
        /// A name from `xks-sim list`, or the path of a scenario file.
        scenario: String,
    },
    /// Send malformed, forged and hostile requests to a running XKS proxy, yours or your vendor's, and judge the answers.
    Fuzz(fuzz_command::FuzzArguments),
}

#[derive(clap::Args)]
struct RunArguments {
    /// A name from `xks-sim list`, or the path of a scenario file.
    scenario: String,
    /// Seed of every random choice; the same seed gives the same run.
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_seed)]
    seed: u64,
    /// Where report.html and report.json go; made if it is missing. [default: out/SCENARIO]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Run twice and compare event by event; exit with 3 and the first difference if there is one.
    #[arg(long)]
    check_determinism: bool,
    /// What stands behind each simulated HSM: `emulated`, or `pkcs11:MODULE` for a real PKCS#11 library, called
    /// inline. SoftHSM2 gets a throwaway token of its own; any other module needs --token-label and --pin-file.
    #[arg(long, value_name = "HSM", default_value = "emulated")]
    hsm: String,
    /// Label of the token to use behind `--hsm pkcs11:MODULE`; it must hold an AES-256 key labelled `example-key`.
    #[arg(long, value_name = "LABEL", requires = "pin_file")]
    token_label: Option<String>,
    /// File with the user PIN of that token.
    #[arg(long, value_name = "FILE", requires = "token_label")]
    pin_file: Option<PathBuf>,
}

fn parse_seed(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| {
        "a seed is a whole number from 0 to 18446744073709551615, or 0x and hexadecimal digits".into()
    })
}

/// Exit codes, as documented in the README.
mod exit {
    /// Every expectation and invariant held.
    pub(crate) const HELD: u8 = 0;
    /// One did not.
    pub(crate) const VIOLATED: u8 = 1;
    /// The command line, the scenario or the machine is not as it must be.
    pub(crate) const USAGE: u8 = 2;
    /// Two equal runs differed.
    pub(crate) const NOT_DETERMINISTIC: u8 = 3;
    /// Ended by Ctrl-C, as shells have it: 128 and the number of SIGINT.
    pub(crate) const INTERRUPTED: u8 = 130;
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
        Command::Run(arguments) => run_command(&arguments),
        Command::List => list(),
        Command::Show { scenario } => show(&scenario),
        Command::Fuzz(arguments) => fuzz_command::fuzz(&arguments),
    };
    ExitCode::from(outcome.unwrap_or_else(|message| {
        eprintln!("xks-sim: {message}");
        exit::USAGE
    }))
}

/// Prints to stdout. A reader that has gone away (`xks-sim list | head`) is no error.
fn say(text: &str) -> Result<(), String> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}"))
        }
        _ => Ok(()),
    }
}

fn load(scenario: &str) -> Result<Scenario, String> {
    if let Some(entry) = catalogue::find(scenario) {
        return Scenario::parse(entry.name, &format!("catalogue/{}.toml", entry.name), entry.text)
            .map_err(|error| error.to_string());
    }
    let path = Path::new(scenario);
    let looks_like_path = scenario.contains(['/', '.']) || path.exists();
    if !looks_like_path {
        let names = catalogue::CATALOGUE.iter().map(|entry| entry.name);
        let hint = match nearest(scenario, names.clone()) {
            Some(near) => format!(" did you mean `{near}`?"),
            None => String::new(),
        };
        let all = names.collect::<Vec<_>>().join(", ");
        return Err(format!(
            "no scenario is called `{scenario}`;{hint} there are: {all}; or give the path of a file"
        ));
    }
    let size = std::fs::metadata(path)
        .map_err(|error| format!("cannot read the scenario file {scenario}: {error}"))?
        .len();
    if size > FILE_BYTES_MAX as u64 {
        return Err(format!("{scenario} has {size} bytes; a scenario file has at most {FILE_BYTES_MAX}"));
    }
    let bytes =
        std::fs::read(path).map_err(|error| format!("cannot read the scenario file {scenario}: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        format!(
            "{scenario} is not UTF-8 text: the first wrong byte is at offset {}",
            error.utf8_error().valid_up_to()
        )
    })?;
    let name = path.file_stem().map_or_else(|| "scenario".into(), |stem| stem.to_string_lossy().into_owned());
    Scenario::parse(&name, scenario, &text).map_err(|error| error.to_string())
}

fn list() -> Result<u8, String> {
    let mut text = String::new();
    let widest = catalogue::CATALOGUE.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    for entry in catalogue::CATALOGUE {
        let scenario = load(entry.name)?;
        text.push_str(&format!("{:<widest$}  {}\n", entry.name, scenario.title));
    }
    text.push_str("\nxks-sim show NAME explains one, xks-sim run NAME runs it.\n");
    say(&text)?;
    Ok(exit::HELD)
}

fn show(name: &str) -> Result<u8, String> {
    let scenario = load(name)?;
    say(&explain(&scenario))?;
    Ok(exit::HELD)
}

fn run_command(arguments: &RunArguments) -> Result<u8, String> {
    let scenario = load(&arguments.scenario)?;
    let hsm = match arguments.hsm.split_once(':') {
        _ if arguments.hsm == "emulated" => None,
        Some(("pkcs11", module)) if !module.is_empty() => Some(real_hsm::Request {
            module: PathBuf::from(module),
            token_label: arguments.token_label.clone(),
            pin_file: arguments.pin_file.clone(),
        }),
        _ => {
            return Err(format!(
                "--hsm is `emulated` or `pkcs11:MODULE` (the path of a PKCS#11 library), not `{}`",
                arguments.hsm
            ));
        }
    };
    let out = arguments.out.clone().unwrap_or_else(|| Path::new("out").join(&scenario.name));
    std::fs::create_dir_all(&out).map_err(|error| {
        format!("cannot make the directory {}: {error}; choose another with --out", out.display())
    })?;
    if let Some(request) = &hsm
        && let Some(code) = real_hsm::run_again_with_throwaway_token(request)?
    {
        return Ok(code);
    }
    let hsm_in_words = match &hsm {
        None => "emulated HSM".to_owned(),
        Some(request) => format!("PKCS#11 module {}", request.module.display()),
    };
    let engine = hsm.as_ref().map(real_hsm::open).transpose()?;
    let command = command_line(arguments);
    let interrupted = Arc::new(AtomicBool::new(false));
    heed_ctrl_c(Arc::clone(&interrupted));
    let once = |keep_lines: bool, what: &str| {
        let mut options = Options::new(arguments.seed);
        options.interrupted = Arc::clone(&interrupted);
        options.keep_lines = keep_lines;
        options.engine = engine.as_ref().map(real_hsm::Opened::maker);
        options.progress = progress(what, scenario.duration);
        let ran = run::run(&scenario, &options, &command, &hsm_in_words);
        clear_progress();
        ran
    };
    let ran = once(arguments.check_determinism, "simulated")?;
    let whole = ran.result.interrupted_at_ms.is_none();
    if arguments.check_determinism && whole {
        let second = once(true, "second run: simulated")?;
        if second.result.interrupted_at_ms.is_some() {
            return Err(
                "interrupted in the second run: nothing has been compared, and no report written".into()
            );
        }
        if ran.result.digest != second.result.digest {
            tell_difference(&ran, &second)?;
            return Ok(exit::NOT_DETERMINISTIC);
        }
    }
    let result = &ran.result;
    let page = out.join("report.html");
    write_whole(&page, &report::html(result))?;
    write_whole(&out.join("report.json"), &report::json(result))?;
    let terminal = std::io::stdout().is_terminal();
    let style = Style {
        colour: terminal && colour_wished(),
        unicode: terminal && unicode_wished(),
        width: columns(),
    };
    let mut text = report::terminal(result, style);
    if arguments.check_determinism && whole {
        text.push_str("determinism: two runs, the same ");
        text.push_str(&format!("{} events in the same order\n", ran.events));
    }
    let held = all_held(result);
    if !held && whole {
        text.push_str(&format!("to see this again: {}\n", result.command));
    }
    text.push_str(&format!("report: {}\ndigest: {}\n", page.display(), result.digest));
    say(&text)?;
    Ok(match (whole, held) {
        (false, _) => exit::INTERRUPTED,
        (true, true) => exit::HELD,
        (true, false) => exit::VIOLATED,
    })
}

/// The first Ctrl-C ends the run at the next opportunity, with a report of what there is; the second ends the program.
#[expect(
    clippy::disallowed_methods,
    reason = "the run has this thread to itself, and never waits for a signal"
)]
fn heed_ctrl_c(interrupted: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        // Without a runtime Ctrl-C ends the program at once, as it does by default.
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                interrupted.store(true, Ordering::Relaxed);
            }
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(i32::from(exit::INTERRUPTED));
            }
        });
    });
}

fn all_held(result: &RunResult) -> bool {
    result.invariants.iter().chain(&result.expectations).all(|check| check.held)
}

fn command_line(arguments: &RunArguments) -> String {
    let mut command = format!("cargo run --release -- run {} --seed {}", arguments.scenario, arguments.seed);
    if arguments.hsm != "emulated" {
        command.push_str(&format!(" --hsm {}", arguments.hsm));
    }
    if let (Some(label), Some(file)) = (&arguments.token_label, &arguments.pin_file) {
        command.push_str(&format!(" --token-label {label} --pin-file {}", file.display()));
    }
    command
}

fn tell_difference(first: &run::Ran, second: &run::Ran) -> Result<(), String> {
    let none = Vec::new();
    let (first_lines, second_lines) =
        (first.lines.as_ref().unwrap_or(&none), second.lines.as_ref().unwrap_or(&none));
    let ended = || "(the run had ended)".to_owned();
    let text = match run::first_difference(first_lines, second_lines) {
        Some(difference) => format!(
            "not deterministic: two equal runs differ at event {}\n  first run:  {}\n  second run: {}\n",
            difference.index,
            difference.first.unwrap_or_else(ended),
            difference.second.unwrap_or_else(ended),
        ),
        None => "not deterministic: two equal runs differ after the last event that was kept\n".to_owned(),
    };
    say(&format!("{text}to see this again: {} --check-determinism\n", first.result.command))
}

/// Writes a file under another name first, so that a reader never finds half of it.
fn write_whole(path: &Path, text: &str) -> Result<(), String> {
    let half = path.with_extension("part");
    std::fs::write(&half, text).and_then(|()| std::fs::rename(&half, path)).map_err(|error| {
        format!("cannot write {}: {error}; choose another directory with --out", path.display())
    })
}

/// A line that is overwritten, on a terminal; nothing in a pipe.
fn progress(what: &str, duration: std::time::Duration) -> Option<Box<dyn Fn(std::time::Duration)>> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let what = what.to_owned();
    Some(Box::new(move |now| {
        let percent = 100.0 * now.as_secs_f64() / duration.as_secs_f64();
        eprint!("\r{what} {:.0} s of {:.0} s ({percent:.0} %)", now.as_secs_f64(), duration.as_secs_f64());
    }))
}

fn clear_progress() {
    if std::io::stderr().is_terminal() {
        eprint!("\r{:60}\r", "");
    }
}

#[expect(clippy::disallowed_methods, reason = "how the terminal is set up stands in the environment")]
fn colour_wished() -> bool {
    // https://no-color.org
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

#[expect(clippy::disallowed_methods, reason = "how the terminal is set up stands in the environment")]
fn unicode_wished() -> bool {
    // As the C library decides: the first of these that is set and not empty.
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .is_some_and(|locale| locale.to_uppercase().replace('-', "").contains("UTF8"))
}

/// Of the terminal behind standard output; 100 where there is none.
fn columns() -> usize {
    terminal_size::terminal_size().map_or(100, |(width, _)| usize::from(width.0))
}
