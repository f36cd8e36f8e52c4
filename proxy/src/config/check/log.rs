//! `[log]`.
//!
//! Place on the map: part of `check`.

use super::super::raw::{RawLevel, RawLog};
use super::Place;
use crate::config::LogLevel;

impl Place<'_> {
    pub(super) fn log(raw: &RawLog) -> LogLevel {
        match raw.level {
            None => LogLevel::default(),
            Some(RawLevel::Error) => LogLevel::Error,
            Some(RawLevel::Warn) => LogLevel::Warn,
            Some(RawLevel::Info) => LogLevel::Info,
            Some(RawLevel::Debug) => LogLevel::Debug,
            Some(RawLevel::Trace) => LogLevel::Trace,
        }
    }
}
