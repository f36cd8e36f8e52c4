//! A run: one or more libFuzzer processes that share their corpus, and one summary of all of them.

use super::corpus::Corpus;
use super::program::Program;
use super::status::Status;
use crate::{Outcome, workspace};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// How often the run says how it is going.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// How soon a signal is noticed.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(200);

/// An input that takes longer is a finding.
const TIMEOUT: &str = "-timeout=10";

/// A process that takes more memory is a finding.
const MEMORY_MAX: &str = "-rss_limit_mb=2048";

/// Runs a target for a time, or until each process has found something, or until it is interrupted.
///
/// # Errors
/// When something was found.
pub(super) fn run(target: &str, time: Duration, jobs: u64) -> Outcome {
    let program = Program::build()?;
    let corpus = Corpus::of(target);
    corpus.prepare()?;
    let before = corpus.working_count()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .map_err(|error| format!("cannot wait for Ctrl-C: {error}"))?;
    }
    let (teller, told) = mpsc::channel();
    let mut children = Vec::new();
    for job in 0..jobs {
        children.push(start(&program, &corpus, target, time, teller.clone(), job)?);
    }
    drop(teller);

    let mut statuses = vec![Status::default(); children.len()];
    let began = now();
    let mut next_progress = PROGRESS_INTERVAL;
    let mut is_ending = false;
    loop {
        match told.recv_timeout(SIGNAL_INTERVAL) {
            Ok((job, line)) => statuses[job].read(&line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if interrupted.load(Ordering::Relaxed) && !is_ending {
            is_ending = true;
            // They have a process group of their own, so that a terminal's Ctrl-C does not reach them twice.
            for child in &children {
                let _ = kill_process(Pid::from_child(child), Signal::INT);
            }
        }
        let elapsed = now() - began;
        if elapsed >= next_progress {
            next_progress = elapsed + PROGRESS_INTERVAL;
            progress(elapsed, time, &statuses);
        }
    }
    for mut child in children {
        child.wait().map_err(|error| format!("the fuzzer: {error}"))?;
    }
    let new_inputs = corpus.working_count()?.saturating_sub(before);
    summary(target, now() - began, &statuses, new_inputs)
}

/// Runs one input once, with all that the target says of it.
///
/// # Errors
/// When the target breaks.
pub(super) fn reproduce(target: &str, input: &Path) -> Outcome {
    let input = input.canonicalize().map_err(|error| format!("{}: {error}", input.display()))?;
    let mut command = Program::build()?.command(target);
    let ran = command.args([TIMEOUT, MEMORY_MAX]).env("RUST_BACKTRACE", "1").arg(&input).status();
    match ran.map_err(|error| format!("cannot start the fuzzer: {error}"))?.success() {
        true => println!("{target}: nothing found in {}", input.display()),
        false => return Err(format!("fuzz: {target} breaks on {}", input.display())),
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a run takes real time, and xtask is no part of the proxy")]
fn now() -> Instant {
    Instant::now()
}

fn start(
    program: &Program,
    corpus: &Corpus,
    target: &str,
    time: Duration,
    teller: Sender<(usize, String)>,
    job: u64,
) -> Result<Child, String> {
    let mut command = program.command(target);
    let artifacts = format!("-artifact_prefix={}/", corpus.findings.display());
    let seconds = format!("-max_total_time={}", time.as_secs());
    command.args([&seconds, &artifacts, TIMEOUT, MEMORY_MAX, "-print_final_stats=1"]);
    // What broke and where is one line; --input shows how it came there.
    command.arg(&corpus.working).arg(&corpus.committed).env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("cannot start the fuzzer: {error}"))?;
    let lines = child.stderr.take().map(BufReader::new);
    let job = usize::try_from(job).unwrap_or_default();
    #[expect(clippy::disallowed_methods, reason = "one thread per pipe, and xtask is no part of the proxy")]
    std::thread::spawn(move || {
        // What a target prints need not be text.
        for line in lines.into_iter().flat_map(|lines| lines.split(b'\n')).map_while(Result::ok) {
            let _ = teller.send((job, String::from_utf8_lossy(&line).into_owned()));
        }
    });
    Ok(child)
}

fn progress(elapsed: Duration, time: Duration, statuses: &[Status]) {
    let executions: u64 = statuses.iter().map(|status| status.executions).sum();
    let edges = statuses.iter().map(|status| status.edges).max().unwrap_or_default();
    let findings: usize = statuses.iter().map(|status| status.findings.len()).sum();
    // libFuzzer counts aloud only when something is new and at powers of two.
    println!(
        "{:>5} of {} s: at least {executions} executions, {edges} edges, {findings} findings",
        elapsed.as_secs(),
        time.as_secs()
    );
}

fn summary(target: &str, elapsed: Duration, statuses: &[Status], new_inputs: usize) -> Outcome {
    let sum = |of: fn(&Status) -> u64| statuses.iter().map(of).sum::<u64>();
    let most = |of: fn(&Status) -> u64| statuses.iter().map(of).max().unwrap_or_default();
    let executions = sum(|status| status.executions);
    let per_s = sum(|status| status.executions_per_s);
    let jobs = statuses.len() as u64;
    let findings: Vec<&Path> =
        statuses.iter().flat_map(|status| &status.findings).map(std::path::PathBuf::as_path).collect();
    println!("\ntarget        {target}, {jobs} job(s), {} s", elapsed.as_secs());
    println!("executions    {executions}");
    println!("executions/s  {per_s} ({} per job)", per_s / jobs.max(1));
    println!("coverage      {} of {} edges", most(|status| status.edges), most(|status| status.edges_max));
    println!("new inputs    {new_inputs}");
    println!("findings      {}", findings.len());
    if executions == 0 && findings.is_empty() {
        let said: Vec<&String> = statuses.iter().flat_map(|status| &status.said).collect();
        return Err(format!("fuzz: {target} did not run: {said:?}"));
    }
    for status in statuses.iter().filter(|status| !status.findings.is_empty()) {
        println!();
        status.said.iter().for_each(|line| println!("    {line}"));
        for file in &status.findings {
            let file = file.strip_prefix(workspace()).unwrap_or(file);
            println!("  to reproduce: cargo xtask fuzz {target} --input {}", file.display());
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(format!("fuzz: {target} has findings")) }
}
