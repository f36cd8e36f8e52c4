//! What `xks-sim run` keeps of a run beside its report: the run itself, its events.
//!
//! Place on the map: options of [`run`](super::run) and their files. All of them only look on: the digest of a run is the
//! same with and without.

use super::files::write_whole_or;
use super::terminal::say;
use scenarios::observer::Observer;
use scenarios::replay::{Keeper, Provenance, SavedRun};
use scenarios::run::Ran;
use scenarios::scenario::{Scenario, nearest};
use scenarios::services::ServiceSettings;
use scenarios::trace_file::{Filter, TraceFile};
use scenarios::world::Options;
use std::cell::RefCell;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What to keep.
#[derive(clap::Args)]
pub(crate) struct KeepArguments {
    /// Keep the run in one file, for `xks-sim replay FILE`: scenario, seed, version, digest, and what finds a difference.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Write every event to FILE as JSON lines; `-` is standard output, and the summary goes to standard error.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Trace one user's request alone: the number that the trace gives it.
    #[arg(long, value_name = "N", requires = "trace")]
    trace_request: Option<u64>,
    /// Trace the proxy calls of one KMS host alone: its number, from 0.
    #[arg(long, value_name = "N", requires = "trace")]
    trace_host: Option<usize>,
    /// Trace one service alone: its name in the scenario.
    #[arg(long, value_name = "NAME", requires = "trace")]
    trace_service: Option<String>,
}

/// The observers of a run hold it too.
type SharedTrace = Rc<RefCell<TraceFile<Box<dyn Write>>>>;

/// What looks on while a run goes on.
pub(crate) struct Keeping<'a> {
    arguments: &'a KeepArguments,
    keeper: Option<Rc<RefCell<Keeper>>>,
    trace: Option<SharedTrace>,
}

impl KeepArguments {
    /// Whether standard output belongs to the trace.
    pub(crate) fn takes_stdout(&self) -> bool {
        self.trace.as_deref() == Some(Path::new("-"))
    }

    /// Before anything is opened. `emulated`: the HSMs are.
    ///
    /// # Errors
    /// In words: a run that could not be replayed.
    pub(crate) fn check(&self, emulated: bool) -> Result<(), String> {
        if self.save.is_some() && !emulated {
            return Err(
                "--save keeps runs with the emulated HSM, which is what `replay` runs: leave out --hsm"
                    .into(),
            );
        }
        Ok(())
    }

    /// Opens the files.
    ///
    /// # Errors
    /// In words: a file that cannot be written, a filter that fits nothing.
    pub(crate) fn begin(&self, scenario: &Scenario) -> Result<Keeping<'_>, String> {
        let trace = match &self.trace {
            None => None,
            Some(path) => {
                let names: Vec<_> = scenario.services.iter().map(ServiceSettings::name).collect();
                let filter = self.filter(&names, scenario.kms.hosts)?;
                let out: Box<dyn Write> = if self.takes_stdout() {
                    Box::new(BufWriter::new(std::io::stdout()))
                } else {
                    Box::new(BufWriter::new(create(path, "--trace")?))
                };
                Some(Rc::new(RefCell::new(TraceFile::new(out, filter, names))))
            }
        };
        Ok(Keeping { arguments: self, keeper: self.save.is_some().then(Rc::default), trace })
    }

    fn filter(&self, names: &[&'static str], hosts: usize) -> Result<Filter, String> {
        let service = match &self.trace_service {
            None => None,
            Some(wanted) => Some(names.iter().position(|name| name == wanted).ok_or_else(|| {
                let hint = nearest(wanted, names.iter().copied())
                    .map_or_else(String::new, |near| format!(" did you mean `{near}`?"));
                format!(
                    "no service of the scenario is called `{wanted}`;{hint} there are: {}",
                    names.join(", ")
                )
            })?),
        };
        if self.trace_request == Some(0) {
            return Err("--trace-request counts from 1; take a number that a whole trace shows".into());
        }
        if self.trace_host.is_some_and(|host| host >= hosts) {
            return Err(format!(
                "--trace-host is from 0 to {}, the KMS hosts of the scenario",
                hosts.saturating_sub(1)
            ));
        }
        Ok(Filter { request: self.trace_request, host: self.trace_host, service })
    }
}

fn create(path: &Path, option: &str) -> Result<File, String> {
    File::create(path).map_err(|error| {
        format!("cannot write {}: {error}; choose another file with {option}", path.display())
    })
}

impl Keeping<'_> {
    /// Lets them look on.
    pub(crate) fn watch(&self, options: &mut Options) {
        let keeper = self.keeper.as_ref().map(|it| Rc::clone(it) as Rc<RefCell<dyn Observer>>);
        let trace = self.trace.as_ref().map(|it| Rc::clone(it) as Rc<RefCell<dyn Observer>>);
        options.observers.extend(keeper.into_iter().chain(trace));
    }

    /// The run is over: closes the files, and returns a line about each.
    ///
    /// # Errors
    /// When one cannot be written.
    pub(crate) fn finish(&self, scenario: &Scenario, origin: &str, ran: &Ran) -> Result<String, String> {
        let mut text = String::new();
        if let (Some(path), Some(trace)) = (&self.arguments.trace, &self.trace) {
            let shown = path.display();
            match trace.borrow_mut().finish() {
                Ok(written) => {
                    text.push_str(&format!("trace: {shown} ({written} of {} events)\n", ran.events))
                }
                // A reader of standard output that has gone away (`| head`) has what it wanted.
                Err(error)
                    if self.arguments.takes_stdout() && error.kind() == std::io::ErrorKind::BrokenPipe => {}
                Err(error) => return Err(format!("cannot write the trace {shown}: {error}")),
            }
        }
        if let (Some(path), Some(keeper)) = (&self.arguments.save, &self.keeper) {
            if ran.result.interrupted_at_ms.is_some() {
                text.push_str(&format!("{}: not written, since the run was interrupted\n", path.display()));
            } else {
                let from = Provenance { scenario, origin, seed: ran.result.seed };
                let saved = SavedRun::new(&from, ran.events, &ran.result.digest, &keeper.borrow());
                write_whole_or(path, &saved.text(), "another file with --save")?;
                text.push_str(&format!("saved: {0} (xks-sim replay {0})\n", path.display()));
            }
        }
        Ok(text)
    }

    /// Prints the summary where it does not mix with the trace.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn say(&self, text: &str) -> Result<(), String> {
        if self.arguments.takes_stdout() {
            eprint!("{text}");
            return Ok(());
        }
        say(text)
    }
}
