//! `cargo xtask fuzz`: builds the targets of the crate `fuzz` with coverage counters and libFuzzer, on the toolchain that
//! is there, and runs one.

mod corpus;
mod program;
mod run;
mod status;

use crate::Outcome;
use corpus::Corpus;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The names of the targets and what each asserts, one a line. The crate `fuzz` holds itself to this list.
const TARGETS: &str = include_str!("../../fuzz/targets.txt");

/// How long a target runs when nothing is said.
const SECONDS: u64 = 60;

/// The longest run: a week.
const SECONDS_MAX: u64 = 7 * 86_400;

/// The most processes at once.
const JOBS_MAX: u64 = 256;

/// What is asked for, its words checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Name the targets.
    List,
    /// Look for inputs that break a target.
    Run { target: &'static str, time: Duration, jobs: u64 },
    /// Run one input once.
    Reproduce { target: &'static str, input: PathBuf },
    /// Take over into the committed corpus what widens its coverage.
    Minimise { target: &'static str },
}

impl Request {
    /// Reads the words after `cargo xtask fuzz`.
    ///
    /// # Errors
    /// One line: what is wrong and what would be right.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        match words {
            [] | ["--list"] => Ok(Self::List),
            ["minimise", name] => Ok(Self::Minimise { target: find(name)? }),
            ["minimise", ..] => {
                Err("fuzz minimise takes one target: cargo xtask fuzz minimise TARGET".to_owned())
            }
            [name, options @ ..] => Self::parse_options(find(name)?, options),
        }
    }

    fn parse_options(target: &'static str, options: &[&str]) -> Result<Self, String> {
        let (mut seconds, mut jobs, mut input) = (None, None, None);
        for pair in options.chunks(2) {
            let [option, value] = pair else {
                return Err(format!("fuzz: {} needs a value, or is no option", pair.join(" ")));
            };
            match *option {
                "--seconds" => seconds = Some(number(option, value, SECONDS_MAX)?),
                "--jobs" => jobs = Some(number(option, value, JOBS_MAX)?),
                "--input" => input = Some(Path::new(value)),
                _ => return Err(format!("fuzz: no option {option:?}: write --seconds, --jobs or --input")),
            }
        }
        match input {
            Some(_) if seconds.or(jobs).is_some() => {
                Err("fuzz: --input runs one file once: leave out --seconds and --jobs".to_owned())
            }
            Some(input) if !input.is_file() => Err(format!("fuzz: {} is no file", input.display())),
            Some(input) => Ok(Self::Reproduce { target, input: input.to_owned() }),
            None => Ok(Self::Run {
                target,
                time: Duration::from_secs(seconds.unwrap_or(SECONDS)),
                jobs: jobs.unwrap_or(1),
            }),
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// When something was found, or cannot be built or run.
    pub(crate) fn perform(&self) -> Outcome {
        match self {
            Self::List => {
                print!("{TARGETS}");
                Ok(())
            }
            Self::Run { target, time, jobs } => run::run(target, *time, *jobs),
            Self::Reproduce { target, input } => run::reproduce(target, input),
            Self::Minimise { target } => Corpus::of(target).minimise(&program::Program::build()?),
        }
    }
}

/// The names, in the order of the list.
fn names() -> impl Iterator<Item = &'static str> {
    TARGETS.lines().filter_map(|line| line.split_whitespace().next())
}

fn find(name: &str) -> Result<&'static str, String> {
    names().find(|known| *known == name).ok_or_else(|| {
        let near = names()
            .map(|known| (strsim::damerau_levenshtein(name, known), known))
            .filter(|(distance, known)| *distance <= 1 + known.len() / 3)
            .min();
        match near {
            Some((_, near)) => format!("fuzz: no target {name:?}: did you mean {near}?"),
            None => format!("fuzz: no target {name:?}: write {}", names().collect::<Vec<_>>().join(", ")),
        }
    })
}

fn number(option: &str, value: &str, most: u64) -> Result<u64, String> {
    let number = value.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("fuzz: {option} is a whole number from 1 to {most}, not {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_words_are_understood() {
        for words in [&[][..], &["--list"]] {
            assert_eq!(Request::parse(words), Ok(Request::List));
        }
        let run =
            |seconds, jobs| Ok(Request::Run { target: "uri", time: Duration::from_secs(seconds), jobs });
        assert_eq!(Request::parse(&["uri"]), run(60, 1));
        assert_eq!(Request::parse(&["uri", "--jobs", "2", "--seconds", "1200"]), run(1_200, 2));
        assert_eq!(Request::parse(&["minimise", "config"]), Ok(Request::Minimise { target: "config" }));
    }

    #[test]
    fn wrong_words_are_told_in_one_line() {
        for (words, told) in [
            (&["urli"][..], "did you mean uri?"),
            (&["everything"], "write sigv4_header, "),
            (&["minimise"], "one target"),
            (&["minimise", "nothing"], "no target"),
            (&["uri", "--seconds"], "needs a value"),
            (&["uri", "--seconds", "0"], "from 1 to 604800"),
            (&["uri", "--seconds", "-1"], "from 1 to 604800"),
            (&["uri", "--jobs", "many"], "from 1 to 256"),
            (&["uri", "--sedonds", "5"], "no option \"--sedonds\""),
            (&["uri", "--input", "/nowhere"], "/nowhere is no file"),
            (&["uri", "--input", "Cargo.toml", "--jobs", "2"], "leave out"),
        ] {
            let error = Request::parse(words).unwrap_err();
            assert!(error.contains(told) && !error.contains('\n'), "{words:?}: {error}");
        }
    }
}
