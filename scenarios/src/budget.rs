//! Where KMS's 250 ms go: the proxy calls around the median and the high percentiles, taken apart.
//!
//! Place on the map: `xks-sim budget` makes one run with a [`StageBook`] beside it, and
//! [`Budget::of`] folds what it holds.
//!
//! Percentiles of parts do not add up to the percentile of the whole: the calls with the slowest HSM are not those with the
//! slowest network. So a level shows the mean parts of the calls whose total is near that percentile, and those do add up.
//!
//! | module | what it is |
//! |---|---|
//! | [`outcome`] | the budget, as `budget.json` |
//! | `page`, `screen` | for a browser and for a terminal |

pub mod outcome;
mod page;
mod screen;

pub use outcome::Budget;
