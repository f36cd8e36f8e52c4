//! "What if?": a scenario run again and again with one or two of its settings varied, and where it stops to hold.
//!
//! Place on the map: `xks-sim sweep` and `compare` make a [`Plan`], [`Plan::sweep`] runs it over [`run`](crate::run)
//! on every core, and `page`, `screen` and [`Sweep::json`] show what came of it.
//!
//! | module | what it is |
//! |---|---|
//! | [`vary`] | `link.rtt_ms=5..120:12`: a key and its values, put into the scenario's TOML |
//! | [`slo`] | what must hold at a point |
//! | [`figures`] | what is kept of one run |
//! | [`point`] | the runs of one combination of values, with intervals |
//! | [`crew`] | runs on all cores |
//! | [`cliff`] | where the SLO stops to be met |
//! | [`find`] | and, more closely, by bisection |
//! | [`outcome`] | all of it, as `sweep.json` and `sweep.csv` |
//! | `page`, `screen` | for a browser and for a terminal |
//! | `words` | numbers as people write them |

pub mod cliff;
pub mod crew;
pub mod figures;
pub mod find;
pub mod outcome;
mod page;
pub mod plan;
pub mod point;
mod screen;
pub mod slo;
pub mod vary;
pub(crate) mod words;

pub use outcome::Sweep;
pub use plan::Plan;
