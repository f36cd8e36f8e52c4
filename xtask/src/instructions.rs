//! `cargo xtask bench instructions`: how many instructions and allocations the proxy's hot paths take, against the figures
//! of `benches/instructions.toml`.
//!
//! Times differ from run to run on a busy machine; instructions hardly do, so a build machine can hold a change to them.
//! The program `benches/instructions` runs each path under callgrind twice, few times and many times: the difference is the
//! path's, and the set-up cancels out. Callgrind also records who calls whom how often, so one run counts both.

use crate::{Outcome, apt, cargo, workspace};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How often a path is run in the shorter and the longer run.
const TIMES: [u64; 2] = [100, 1_100];

/// A path may take so many percent more instructions than committed. Allocations may not grow at all.
const GROWTH_PERCENT_MAX: f64 = 5.0;

/// What C calls an allocation, which is where Rust's end.
const ALLOCATORS: [&str; 6] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"];

/// What the file says.
#[derive(Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Figures {
    /// Compiler, callgrind and processor. With others the figures differ by themselves.
    made_with: String,
    /// Per operation of each path.
    path: BTreeMap<String, Cost>,
}

/// Of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    instructions: u64,
    allocations: u64,
}

/// What the whole of a program took.
#[derive(Debug, PartialEq, Eq)]
struct Profile {
    instructions: u64,
    allocations: u64,
}

/// Measures, and compares or, with `--renew`, writes down.
pub(crate) fn run(options: &[&str]) -> Outcome {
    let renew = match options {
        [] => false,
        ["--renew"] => true,
        other => return Err(format!("bench instructions does not know {other:?}: write --renew or nothing")),
    };
    ensure_valgrind()?;
    // Cedar is no path of these, and takes minutes to build.
    let program = ["--package", "benches", "--no-default-features", "--bin", "instructions"];
    crate::run(cargo().args(["build", "--release"]).args(program))?;
    let program = crate::release_directory().join("instructions");
    let scratch = tempfile::tempdir().map_err(|error| format!("cannot make a directory: {error}"))?;
    let mut found = Figures { made_with: made_with()?, path: BTreeMap::new() };
    for path in output(&mut Command::new(&program))?.lines() {
        eprintln!("measuring: {path}");
        found.path.insert(path.to_owned(), measure(&program, path, scratch.path())?);
    }
    let file = workspace().join("benches/instructions.toml");
    if renew {
        fs::write(&file, written(&found)?)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        println!("{} is renewed", file.display());
        return Ok(());
    }
    let committed = read(&file)?;
    if committed.made_with != found.made_with {
        println!(
            "The committed figures were made with {}, these with {}: differences may be due to that.",
            committed.made_with, found.made_with
        );
    }
    let (table, grown) = compare(&committed, &found);
    print!("{table}");
    if grown.is_empty() {
        return Ok(());
    }
    Err(format!(
        "grown: {}; make it as small again, or, if it is worth that, run: cargo xtask bench instructions --renew",
        grown.join(", ")
    ))
}

fn ensure_valgrind() -> Outcome {
    let is_there =
        || Command::new("valgrind").arg("--version").output().is_ok_and(|out| out.status.success());
    if is_there() {
        return Ok(());
    }
    apt::install("valgrind")?;
    if is_there() {
        Ok(())
    } else {
        Err("valgrind is missing; install it with: apt-get install valgrind".into())
    }
}

fn made_with() -> Result<String, String> {
    // What cargo calls when nobody tells it otherwise.
    let compiler = output(Command::new("rustc").arg("--version").current_dir(workspace()))?;
    let valgrind = output(Command::new("valgrind").arg("--version"))?;
    Ok(format!("{}, {}, {}", compiler.trim(), valgrind.trim(), std::env::consts::ARCH))
}

fn output(command: &mut Command) -> Result<String, String> {
    let line = format!("{command:?}");
    let out =
        command.stderr(Stdio::inherit()).output().map_err(|error| format!("cannot start {line}: {error}"))?;
    if !out.status.success() {
        return Err(format!("{line}: {}", out.status));
    }
    String::from_utf8(out.stdout).map_err(|error| format!("{line}: {error}"))
}

fn measure(program: &Path, path: &str, scratch: &Path) -> Result<Cost, String> {
    let [few, many] = TIMES.map(|times| profile(program, path, times, &scratch.join("callgrind.out")));
    let (few, many) = (few?, many?);
    let each = |few: u64, many: u64| {
        let operations = TIMES[1] - TIMES[0];
        (many.saturating_sub(few) + operations / 2) / operations
    };
    Ok(Cost {
        instructions: each(few.instructions, many.instructions),
        allocations: each(few.allocations, many.allocations),
    })
}

fn profile(program: &Path, path: &str, times: u64, file: &PathBuf) -> Result<Profile, String> {
    let mut to_file = std::ffi::OsString::from("--callgrind-out-file=");
    to_file.push(file);
    output(
        Command::new("valgrind")
            .args(["--quiet", "--tool=callgrind"])
            .arg(to_file)
            .arg(program)
            .args([path, &times.to_string()])
            // Names would be cut to pieces by a user's own settings.
            .env_remove("VALGRIND_OPTS"),
    )?;
    let text =
        fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    Profile::of(&text).ok_or_else(|| format!("{} is not what callgrind writes", file.display()))
}

impl Profile {
    /// Reads what callgrind writes ("Callgrind Format Specification" in Valgrind's manual): `summary:` has the instructions;
    /// a function is named `(number) name` once and `(number)` from then on; `calls=` belongs to the `cfn=` before it.
    fn of(text: &str) -> Option<Self> {
        let (mut instructions, mut allocations) = (None, 0);
        let mut allocators = Vec::new();
        let mut calls_allocator = false;
        for line in text.lines() {
            if let Some(total) = line.strip_prefix("summary: ") {
                instructions = total.trim().parse().ok();
            } else if let Some(function) = line.strip_prefix("fn=").or(line.strip_prefix("cfn=")) {
                let (number, name) = function.split_once(' ').unwrap_or((function, ""));
                // 'N marks the Nth level of a recursion.
                if ALLOCATORS.contains(&name.split('\'').next().unwrap_or_default()) {
                    allocators.push(number);
                }
                calls_allocator = line.starts_with('c') && allocators.contains(&number);
            } else if let Some(count) = line.strip_prefix("calls=")
                && calls_allocator
            {
                allocations += count.split(' ').next()?.parse::<u64>().ok()?;
            }
        }
        Some(Self { instructions: instructions?, allocations })
    }
}

fn read(file: &Path) -> Result<Figures, String> {
    let again = "run: cargo xtask bench instructions --renew";
    let text = fs::read_to_string(file)
        .map_err(|error| format!("cannot read {}: {error}; {again}", file.display()))?;
    toml::from_str(&text).map_err(|error| format!("{}: {}; {again}", file.display(), error.message()))
}

fn written(figures: &Figures) -> Result<String, String> {
    let head = "# What one operation of each hot path takes: see \"Instructions\" in README.md.\n\
                # Written by: cargo xtask bench instructions --renew\n";
    let text = toml::to_string(figures).map_err(|error| format!("cannot write the figures: {error}"))?;
    Ok(format!("{head}{text}"))
}

/// The table, and what has grown too much in it.
fn compare(committed: &Figures, found: &Figures) -> (String, Vec<String>) {
    let mut grown = Vec::new();
    let mut table = format!(
        "{:38} {:>12} {:>10} {:>9}   {:>11} {:>5}\n",
        "path", "instructions", "before", "change", "allocations", "before"
    );
    // Writing to a String cannot fail.
    for (name, now) in &found.path {
        let Some(before) = committed.path.get(name) else {
            let _ = writeln!(table, "{name:38} {:>12} {:>10}", now.instructions, "none");
            grown.push(format!("{name} (not in the file)"));
            continue;
        };
        let change_percent = change_percent(before.instructions, now.instructions);
        let _ = writeln!(
            table,
            "{name:38} {:>12} {:>10} {change_percent:>+8.1}%   {:>11} {:>5}",
            now.instructions, before.instructions, now.allocations, before.allocations
        );
        if change_percent > GROWTH_PERCENT_MAX {
            grown.push(format!("{name} ({change_percent:+.1}% instructions)"));
        }
        if now.allocations > before.allocations {
            grown.push(format!("{name} ({:+} allocations)", now.allocations - before.allocations));
        }
    }
    for name in committed.path.keys().filter(|name| !found.path.contains_key(*name)) {
        grown.push(format!("{name} (in the file, and not measured any more)"));
    }
    (table, grown)
}

fn change_percent(before: u64, now: u64) -> f64 {
    (now as f64 - before as f64) * 100.0 / before.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "\
version: 1
events: Ir

fn=(1) main
12 3
cfn=(2) malloc
calls=2 0
12 200
cfn=(3) parse
calls=7 20
13 90
fn=(3)
20 9
cfn=(2)
calls=1 0
21 100
cfn=(4) realloc'2
calls=4 0
22 5
fn=(2)
0 300
cfn=(5) sysmalloc
calls=9 0
0 9

summary: 716
";

    #[test]
    fn a_profile_says_how_many_instructions_and_allocations() {
        assert_eq!(Profile::of(PROFILE), Some(Profile { instructions: 716, allocations: 2 + 1 + 4 }));
        assert_eq!(Profile::of("nothing of the kind"), None);
    }

    fn figures(paths: &[(&str, u64, u64)]) -> Figures {
        let cost = |(name, instructions, allocations): &(&str, u64, u64)| {
            ((*name).to_owned(), Cost { instructions: *instructions, allocations: *allocations })
        };
        Figures { made_with: "a test".into(), path: paths.iter().map(cost).collect() }
    }

    #[test]
    fn a_planted_regression_is_caught_and_named() {
        let committed = figures(&[("parse", 1_000, 5), ("sign", 2_000, 0), ("gone", 1, 1)]);
        let same = compare(&committed, &committed);
        assert!(same.1.is_empty(), "{same:?}");
        let slightly = figures(&[("parse", 1_050, 5), ("sign", 1_000, 0), ("gone", 1, 0)]);
        assert!(compare(&committed, &slightly).1.is_empty(), "5 % are allowed, and less of anything");

        let found = figures(&[("parse", 1_051, 5), ("sign", 2_000, 1), ("new", 1, 1)]);
        let (table, grown) = compare(&committed, &found);
        assert_eq!(
            grown,
            [
                "new (not in the file)",
                "parse (+5.1% instructions)",
                "sign (+1 allocations)",
                "gone (in the file, and not measured any more)"
            ]
        );
        assert!(table.contains("+5.1%"), "{table}");
    }

    #[test]
    fn the_file_reads_as_it_was_written() {
        let figures = figures(&[("request encrypt", 1_000, 5), ("sign", 2_000, 0)]);
        assert_eq!(toml::from_str::<Figures>(&written(&figures).unwrap()).unwrap(), figures);
    }
}
