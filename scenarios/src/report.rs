//! Renders a finished run for its readers: a terminal, a browser (and the board behind it), a ticket, a spreadsheet, a CI
//! server, a program.
//!
//! Place on the map: the last station; it takes a [`RunResult`] and returns text. It reads nothing and writes nothing.
//! `story` words the facts, `human` the numbers, `counts` what happened how often, `chart`, `topology` and `waterfall` draw; `terminal`, `html`, `markdown`, `csv` and `junit` lay out.

mod chart;
mod counts;
mod csv;
mod html;
mod human;
mod junit;
mod markdown;
mod story;
mod terminal;
mod topology;
mod waterfall;

pub use csv::csv;
pub use html::html;
pub use junit::junit;
pub use markdown::markdown;
pub use terminal::{Style, terminal};

use crate::result::RunResult;

/// The JSON Schema (draft 2020-12) of what [`json`] returns.
pub const SCHEMA: &str = include_str!("../report.schema.json");

/// The result as indented JSON, as [`SCHEMA`] describes it.
#[expect(
    clippy::expect_used,
    reason = "a RunResult has string keys only and no hand-written Serialize that could fail"
)]
pub fn json(result: &RunResult) -> String {
    serde_json::to_string_pretty(result).expect("a RunResult serialises")
}
