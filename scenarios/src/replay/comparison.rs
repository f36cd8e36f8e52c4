//! Holds a run against a saved one, event by event, until they part.
//!
//! Place on the map: an [`Observer`] of the second run; `xks-sim replay` prints what it has found.

use super::keeper::{Checkpoint, brief, fingerprint};
use super::saved::SavedRun;
use crate::observer::{Observer, Seen};
use aws_lc_rs::digest::{Context, SHA256};
use std::fmt;

/// Events between two checkpoints that are kept to be shown.
const SHOWN_MAX: usize = 8;

/// Where two runs part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parting {
    /// The first event that differs.
    At {
        /// Its number, from 0.
        event: u64,
        /// The last event that both share; `None` for the first of all.
        before: Option<String>,
        /// The event in the saved run, where a checkpoint keeps it; `Err` says what is known instead.
        saved: Result<String, &'static str>,
        /// The event in this run; `None` if it had ended.
        replayed: Option<String>,
    },
    /// Too far into the run for the file to tell the event: the first one that differs is one of these.
    Among {
        /// The number of the first, from 0.
        first: u64,
        /// The number after the last.
        end: u64,
        /// The last event that both share.
        before: Option<String>,
        /// The first of them in this run.
        replayed: Vec<String>,
        /// The last of them in the saved run.
        saved_last: Option<String>,
    },
}

const NOT_KEPT: &str = "(another one; its text is not in the file)";
const HAD_ENDED: &str = "(the run had ended)";

impl fmt::Display for Parting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At { event, before, saved, replayed } => {
                writeln!(f, "not the same: the two runs differ at event {event}")?;
                if let Some(before) = before {
                    writeln!(f, "  both until:  {before}")?;
                }
                let saved = saved.as_ref().map_or_else(|known| *known, String::as_str);
                writeln!(f, "  saved run:   {saved}")?;
                writeln!(f, "  this replay: {}", replayed.as_deref().unwrap_or(HAD_ENDED))
            }
            Self::Among { first, end, before, replayed, saved_last } => {
                writeln!(f, "not the same: the two runs differ at one of the events {first} to {}", end - 1)?;
                if let Some(before) = before {
                    writeln!(f, "  both until:  {before}")?;
                }
                for line in replayed {
                    writeln!(f, "  this replay: {line}")?;
                }
                let more = (end - first).saturating_sub(replayed.len() as u64);
                if more > 0 {
                    writeln!(f, "               ({more} more)")?;
                }
                if let Some(line) = saved_last {
                    writeln!(f, "  saved run, the last of them: {line}")?;
                }
                Ok(())
            }
        }
    }
}

/// See the module.
pub struct Comparison {
    saved: SavedRun,
    fingerprints: Vec<u16>,
    running: Context,
    /// The next checkpoint in the list.
    next: usize,
    events: u64,
    /// The last event.
    latest: Option<String>,
    /// Events that agree for certain, and the last of them.
    agreed: (u64, Option<String>),
    /// The first ones since then.
    since: Vec<String>,
    parting: Option<Parting>,
}

impl Comparison {
    /// With this run.
    pub fn new(saved: SavedRun) -> Self {
        Self {
            fingerprints: saved.fingerprints().unwrap_or_default(),
            saved,
            running: Context::new(&SHA256),
            next: 0,
            events: 0,
            latest: None,
            agreed: (0, None),
            since: Vec::new(),
            parting: None,
        }
    }

    /// The run has ended with this digest: where it parts from the saved one; `None` when they are the same.
    pub fn finish(&mut self, digest: &str) -> Option<Parting> {
        if self.parting.is_some() {
            return self.parting.take();
        }
        if self.events < self.saved.events && self.fingerprints.len() as u64 > self.events {
            let saved = self.saved_line(self.events).ok_or(NOT_KEPT);
            return Some(Parting::At {
                event: self.events,
                before: self.latest.clone(),
                saved,
                replayed: None,
            });
        }
        if digest == self.saved.digest {
            return None;
        }
        let end = self.events.max(self.saved.events).max(self.agreed.0 + 1);
        Some(self.among(end))
    }

    fn saved_line(&self, event: u64) -> Option<String> {
        let found = self.saved.checkpoints.binary_search_by_key(&(event + 1), |checkpoint| checkpoint.events);
        self.saved.checkpoints.get(found.ok()?).map(|checkpoint| checkpoint.line.clone())
    }

    fn among(&self, end: u64) -> Parting {
        Parting::Among {
            first: self.agreed.0,
            end,
            before: self.agreed.1.clone(),
            replayed: self.since.clone(),
            saved_last: self.saved_line(end - 1),
        }
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        self.saved.checkpoints.get(self.next)
    }
}

impl Observer for Comparison {
    fn observe(&mut self, seen: &Seen<'_>) {
        if self.parting.is_some() {
            return;
        }
        let line = seen.line.trim_end();
        self.events = seen.number + 1;
        let known = usize::try_from(seen.number).ok().and_then(|number| self.fingerprints.get(number));
        let at = |saved| Parting::At {
            event: seen.number,
            before: self.latest.clone(),
            saved,
            replayed: Some(line.to_owned()),
        };
        if seen.number >= self.saved.events {
            self.parting = Some(at(Err(HAD_ENDED)));
            return;
        }
        if known.is_some_and(|known| *known != fingerprint(seen.line)) {
            self.parting = Some(at(self.saved_line(seen.number).ok_or(NOT_KEPT)));
            return;
        }
        self.running.update(seen.line.as_bytes());
        self.latest = Some(line.to_owned());
        if self.since.len() < SHOWN_MAX {
            self.since.push(line.to_owned());
        }
        if let Some(checkpoint) = self.checkpoint()
            && checkpoint.events == self.events
        {
            if checkpoint.digest != brief(&self.running) {
                self.parting = Some(self.among(self.events));
                return;
            }
            self.next += 1;
            self.agreed = (self.events, self.latest.clone());
            self.since.clear();
        }
    }
}
