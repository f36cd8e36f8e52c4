//! Two runs or sweeps side by side, and which of their differences are beyond chance.
//!
//! Place on the map: `xks-sim compare` makes or reads two [`Sweep`](crate::sweep::Sweep)s, a single run being a sweep of one
//! point, and [`Comparison::of`] judges them by [`statistics`](crate::statistics).
//!
//! | module | what it is |
//! |---|---|
//! | [`measure`] | what is compared |
//! | [`change`] | in which settings the two scenarios differ |
//! | [`outcome`] | the judgement, as `compare.json` |
//! | `page`, `screen` | for a browser and for a terminal |

pub mod change;
pub mod measure;
pub mod outcome;
mod page;
mod screen;

pub use outcome::{Comparison, Side};
