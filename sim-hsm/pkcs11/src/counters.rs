//! What was called how often, for tests that look for leaks.
//!
//! Place on the map: `shim` counts, and writes the file when it is asked to.

use super::faults::complain;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

#[derive(Default)]
pub(crate) struct Counters {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: BTreeMap<&'static str, u64>,
    threads_inside: usize,
    threads_inside_max: usize,
}

/// The file's content.
#[derive(Serialize)]
struct Stats<'a> {
    /// Calls of each function since the module was loaded.
    calls: &'a BTreeMap<&'static str, u64>,
    /// Sessions the program has open.
    sessions_open: usize,
    /// The most it ever had open at once.
    sessions_open_max: usize,
    /// Threads inside a call, the one that writes this among them.
    threads_inside: usize,
    /// The most there ever were at once.
    threads_inside_max: usize,
}

impl Counters {
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        Self { path, state: Mutex::default() }
    }

    /// A call begins, and ends when the guard is dropped.
    pub(crate) fn enter(&self, function: &'static str) -> Inside<'_> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state.calls.entry(function).or_default() += 1;
        state.threads_inside += 1;
        state.threads_inside_max = state.threads_inside_max.max(state.threads_inside);
        Inside(self)
    }

    /// Writes the file, if one was asked for.
    pub(crate) fn write(&self, (sessions_open, sessions_open_max): (usize, usize)) {
        let Some(path) = &self.path else { return };
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stats = Stats {
            calls: &state.calls,
            sessions_open,
            sessions_open_max,
            threads_inside: state.threads_inside,
            threads_inside_max: state.threads_inside_max,
        };
        let written = serde_json::to_vec_pretty(&stats).map_err(std::io::Error::other);
        if let Err(error) = written.and_then(|json| replace(path, &json)) {
            complain(&format!("{}: {error}", path.display()));
        }
    }
}

/// In one step, so that nobody reads half a file.
fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("next");
    std::fs::write(&beside, content)?;
    std::fs::rename(beside, path)
}

/// See [`Counters::enter`].
pub(crate) struct Inside<'a>(&'a Counters);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).threads_inside -= 1;
    }
}
