//! `xks-sim replay`: does a saved run again, and says whether it is the same or where it is not.

use super::exit;
use super::interrupt::heed_ctrl_c;
use super::terminal::{clear_progress, progress, say};
use scenarios::replay::saved::SAVED_BYTES_MAX;
use scenarios::replay::{Comparison, SavedRun};
use scenarios::run;
use scenarios::world::Options;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Which run.
#[derive(clap::Args)]
pub(crate) struct ReplayArguments {
    /// A file that `xks-sim run NAME --save FILE` has written.
    file: PathBuf,
    /// Replay a run that another version has saved, to see where the two part.
    #[arg(long)]
    any_version: bool,
}

/// Performs `xks-sim replay`.
///
/// # Errors
/// In words: a file that cannot be read, is damaged, or comes from another version.
pub(crate) fn perform(arguments: &ReplayArguments) -> Result<u8, String> {
    let saved = read(&arguments.file, arguments.any_version)?;
    let scenario = saved.scenario()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    heed_ctrl_c(Arc::clone(&interrupted));
    let comparison = Rc::new(RefCell::new(Comparison::new(saved.clone())));
    let mut options = Options::new(saved.seed);
    options.interrupted = interrupted;
    options.observers = vec![Rc::clone(&comparison) as _];
    options.progress = progress("replayed", scenario.duration);
    let ran = run::run(&scenario, &options, "", "emulated HSM");
    clear_progress();
    let ran = ran?;
    if ran.result.interrupted_at_ms.is_some() {
        say("interrupted: what was replayed until then says nothing of the rest\n")?;
        return Ok(exit::INTERRUPTED);
    }
    let parting = comparison.borrow_mut().finish(&ran.result.digest);
    match parting {
        None => {
            say(&format!("the same, digest {} ({} events)\n", saved.digest, saved.events))?;
            Ok(exit::HELD)
        }
        Some(parting) => {
            say(&format!(
                "{parting}  saved digest {}\n  this digest  {}\n",
                saved.digest, ran.result.digest
            ))?;
            Ok(exit::VIOLATED)
        }
    }
}

fn read(path: &std::path::Path, any_version: bool) -> Result<SavedRun, String> {
    let cannot = |error: std::io::Error| format!("cannot read the saved run {}: {error}", path.display());
    let size = std::fs::metadata(path).map_err(cannot)?.len();
    if size > SAVED_BYTES_MAX {
        return Err(format!(
            "{} has {size} bytes; a saved run has at most {SAVED_BYTES_MAX}",
            path.display()
        ));
    }
    let bytes = std::fs::read(path).map_err(cannot)?;
    SavedRun::parse(&path.display().to_string(), &String::from_utf8_lossy(&bytes), any_version)
}
