//! `cargo xtask catalogue`: runs every scenario of the catalogue, optimised and as many at once as there are processors,
//! and holds each to its expectations, its invariants and its pinned digest.
//!
//! The digests stand in `scenarios/catalogue/digests.txt`, one line each: name, seed, digest. A change of behaviour shows
//! there, so that an intended one is committed (`--renew`) and an unintended one is noticed. `docs/failure-catalogue.md` is
//! written from the same runs.

use crate::{Outcome, cargo, failure_catalogue, release_directory, run, workspace};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// What the user asked for.
struct Request {
    renew: bool,
    /// Seeds 1 to this.
    seeds: u64,
}

/// A scenario and a seed.
type Job = (String, u64);

const USAGE: &str = "give --renew, --seeds N (1 to 1000), or nothing";

impl Request {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let mut request = Self { renew: false, seeds: 1 };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--renew" => request.renew = true,
                "--seeds" => {
                    let number = words.next().and_then(|word| word.parse().ok());
                    request.seeds = number
                        .filter(|number| (1..=1_000).contains(number))
                        .ok_or_else(|| format!("--seeds: {USAGE}"))?;
                }
                other => return Err(format!("catalogue: {other} is unknown; {USAGE}")),
            }
        }
        Ok(request)
    }
}

/// Runs all of them.
pub(crate) fn perform(words: &[&str]) -> Outcome {
    let request = Request::parse(words)?;
    run(cargo().args(["build", "--release"]))?;
    let program = release_directory().join("xks-sim");
    let names = names(&program)?;
    let pinned_path = workspace().join("scenarios/catalogue/digests.txt");
    let pinned = if request.renew { BTreeMap::new() } else { read(&pinned_path)? };
    let mut jobs: VecDeque<Job> = VecDeque::new();
    for name in &names {
        jobs.extend((1..=request.seeds).map(|seed| (name.clone(), seed)));
    }
    let total = jobs.len();
    let (queue, done) = (Mutex::new(jobs), Mutex::new(BTreeMap::new()));
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(job) = job else { return };
                    let outcome = run_one(&program, &job);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    let in_words = outcome.as_ref().map_or_else(String::clone, |_| "held".to_owned());
                    println!("{:>3} of {total}  {:<30} seed {}  {in_words}", done.len() + 1, job.0, job.1);
                    done.insert(job, outcome);
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut wrong = Vec::new();
    let mut lines = String::from(
        "# Digest of every scenario of the catalogue with seed 1, written by `cargo xtask catalogue --renew`.\n",
    );
    for ((name, seed), outcome) in &done {
        match outcome {
            Err(why) => wrong.push(format!("{name}, seed {seed}: {why}")),
            Ok(digest) if *seed == 1 => {
                lines.push_str(&format!("{name} {seed} {digest}\n"));
                if let Some(expected) = pinned.get(name).filter(|expected| *expected != digest) {
                    wrong.push(format!("{name}: its digest is {digest}, and was {expected}"));
                }
            }
            Ok(_) => {}
        }
    }
    let page_path = workspace().join("docs/failure-catalogue.md");
    if wrong.is_empty() {
        let page = page(&names)?;
        if request.renew {
            for (what, path, text) in
                [("digests", &pinned_path, lines), ("failure catalogue", &page_path, page)]
            {
                std::fs::write(path, text)
                    .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
                println!("{what}: {}", path.display());
            }
        } else if std::fs::read_to_string(&page_path).ok().as_deref() != Some(&page) {
            wrong.push(format!("{}: it does not say what these runs say", page_path.display()));
        }
    }
    if wrong.is_empty() {
        println!("{total} runs held");
        return Ok(());
    }
    let hint = "if the change is meant, renew them: cargo xtask catalogue --renew";
    Err(format!("{} of {total} runs are not as they were:\n{}\n{hint}", wrong.len(), wrong.join("\n")))
}

fn names(program: &Path) -> Result<Vec<String>, String> {
    let output = Command::new(program)
        .arg("list")
        .output()
        .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // The list ends with an empty line and a hint.
    let names = text.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split(' ').next());
    Ok(names.map(str::to_owned).collect())
}

fn read(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?.to_owned(), words.nth(1)?.to_owned()))
        })
        .collect())
}

/// The failure catalogue of what has just run with seed 1.
fn page(names: &[String]) -> Result<String, String> {
    let mut runs = Vec::new();
    for name in names {
        let path = out(&(name.clone(), 1)).join("report.json");
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        runs.push(failure_catalogue::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?);
    }
    Ok(failure_catalogue::page(&runs))
}

/// Where a job writes its report.
fn out((name, seed): &Job) -> PathBuf {
    release_directory().join("catalogue").join(format!("{name}-{seed}"))
}

/// The digest of a run that held.
fn run_one(program: &Path, job: &Job) -> Result<String, String> {
    let (name, seed) = job;
    let out = out(job);
    let output = Command::new(program)
        .args(["run", name, "--seed", &seed.to_string(), "--out"])
        .arg(&out)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        // The summary marks what did not hold with NO, and says below it why.
        let marked = text.lines().skip_while(|line| !line.trim_start().starts_with("NO "));
        let said: Vec<&str> = marked.take(4).chain(error.lines()).map(str::trim).collect();
        return Err(format!("{}: {}", output.status, said.join("; ")));
    }
    let digest = text.lines().rev().find_map(|line| line.strip_prefix("digest: "));
    digest.map(str::to_owned).ok_or_else(|| "it printed no digest".to_owned())
}
