//! `xks-sim run`: one scenario, one run, its report and its exit code.

use super::exit;
use super::files::{load, origin, write_whole};
use super::interrupt::heed_ctrl_c;
use super::keep::KeepArguments;
use super::terminal::{clear_progress, progress, say, style};
use scenarios::net::capture::{CaptureFile, CaptureSummary};
use scenarios::report;
use scenarios::result::RunResult;
use scenarios::world::Options;
use scenarios::{real_hsm, run};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Wireshark takes minutes for more.
const PCAP_BYTES_MAX: u64 = 100_000_000;

/// What to run, and what to do with the result.
#[derive(clap::Args)]
pub(crate) struct RunArguments {
    /// A name from `xks-sim list`, or the path of a scenario file.
    scenario: String,
    /// Seed of every random choice; the same seed gives the same run.
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_seed)]
    seed: u64,
    /// Where report.html, .json, .md, .csv and junit.xml go; made if it is missing. [default: out/SCENARIO]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Run twice and compare event by event; exit with 3 and the first difference if there is one.
    #[arg(long)]
    check_determinism: bool,
    /// Write the simulated traffic down for Wireshark, in pcapng: every packet as its sender sends it, lost ones with a
    /// comment.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Where that file ends, at the latest.
    #[arg(long, value_name = "BYTES", requires = "pcap", default_value_t = PCAP_BYTES_MAX,
          value_parser = clap::value_parser!(u64).range(1_024..))]
    pcap_bytes_max: u64,
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
    #[command(flatten)]
    keep: KeepArguments,
}

/// Reads a seed as people write it: decimal, or hexadecimal after `0x`.
pub(crate) fn parse_seed(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| {
        "a seed is a whole number from 0 to 18446744073709551615, or 0x and hexadecimal digits".into()
    })
}

/// Performs `xks-sim run`.
///
/// # Errors
/// In words, whatever keeps the scenario from being run or its report from being written.
pub(crate) fn perform(arguments: &RunArguments) -> Result<u8, String> {
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
    arguments.keep.check(hsm.is_none())?;
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
    let keeping = arguments.keep.begin(&scenario)?;
    let engine = hsm.as_ref().map(real_hsm::open).transpose()?;
    let command = command_line(arguments);
    let interrupted = Arc::new(AtomicBool::new(false));
    heed_ctrl_c(Arc::clone(&interrupted));
    let once = |first: bool, what: &str| {
        let mut options = Options::new(arguments.seed);
        options.interrupted = Arc::clone(&interrupted);
        options.keep_lines = arguments.check_determinism;
        options.samples = first;
        if first {
            options.capture = capture(arguments);
            keeping.watch(&mut options);
        }
        options.engine = engine.as_ref().map(real_hsm::Opened::maker);
        options.progress = progress(what, scenario.duration);
        let ran = run::run(&scenario, &options, &command, &hsm_in_words);
        clear_progress();
        ran
    };
    let ran = once(true, "simulated")?;
    let whole = ran.result.interrupted_at_ms.is_none();
    if arguments.check_determinism && whole {
        let second = once(false, "second run: simulated")?;
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
    let kept = keeping.finish(&scenario, &origin(&arguments.scenario), &ran)?;
    let page = out.join("report.html");
    write_whole(&page, &report::html(result))?;
    for (name, text) in [
        ("report.json", report::json(result)),
        ("report.md", report::markdown(result)),
        ("report.csv", report::csv(result)),
        ("junit.xml", report::junit(result)),
    ] {
        write_whole(&out.join(name), &text)?;
    }
    let mut text = report::terminal(result, style());
    if arguments.check_determinism && whole {
        text.push_str("determinism: two runs, the same ");
        text.push_str(&format!("{} events in the same order\n", ran.events));
    }
    let held = all_held(result);
    if !held && whole {
        text.push_str(&format!("to see this again: {}\n", result.command));
    }
    if let (Some(summary), Some(file)) = (&ran.capture, &arguments.pcap) {
        text.push_str(&capture_in_words(summary, file, arguments.pcap_bytes_max));
    }
    text.push_str(&kept);
    text.push_str(&format!("report: {}\ndigest: {}\n", page.display(), result.digest));
    keeping.say(&text)?;
    Ok(match (whole, held) {
        (false, _) => exit::INTERRUPTED,
        (true, true) => exit::HELD,
        (true, false) => exit::VIOLATED,
    })
}

fn capture(arguments: &RunArguments) -> Option<CaptureFile> {
    let file = arguments.pcap.clone()?;
    Some(CaptureFile {
        name: file.display().to_string(),
        open: Box::new(move || Ok(Box::new(BufWriter::new(File::create(&file)?)))),
        bytes_max: arguments.pcap_bytes_max,
    })
}

fn capture_in_words(summary: &CaptureSummary, file: &Path, bytes_max: u64) -> String {
    let end = match summary.full_at {
        Some(at) => format!(
            "; it ends at {:.3} s, where the next packet would exceed {bytes_max} bytes (--pcap-bytes-max)",
            at.as_secs_f64()
        ),
        None => String::new(),
    };
    format!("capture: {}, {} packets{end}\n", file.display(), summary.packets)
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
