//! What can be said from a few runs: intervals around a figure, and which differences are beyond chance.
//!
//! Place on the map: used by [`sweep`](crate::sweep) and [`compare`](crate::compare). Pure functions of numbers.
//!
//! The unit is the run, which is to say the seed, and never the request. The requests of one run share its outage, its
//! queues and its caches: if one fails, its neighbours probably do too, so ten thousand of them are not ten thousand
//! experiments. Runs with different seeds are independent of each other.

pub mod difference;
pub mod interval;
mod student;

/// Sure to so much: the level of every interval.
pub const CONFIDENCE: f64 = 0.95;
