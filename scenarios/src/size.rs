//! How many HSMs, proxies and sessions are enough: the smallest of each that meets an SLO with HSMs down.
//!
//! Place on the map: `xks-sim size` makes a [`Question`]; [`Question::search`] tries configurations with real runs
//! ([`sweep::crew`](crate::sweep::crew)) and hands back a [`Sizing`].
//!
//! HSMs cost most, so their number is the first to be made small, with as many proxies and sessions as there may be; then
//! the number of proxies, then that of sessions. More of anything is taken to be no worse.
//!
//! | module | what it is |
//! |---|---|
//! | [`question`] | what is asked, and the scenario of one configuration |
//! | `search` | the order in which configurations are tried |
//! | [`outcome`] | what came of it, as `size.json` |
//! | `page`, `screen` | for a browser and for a terminal |

pub mod outcome;
mod page;
pub mod question;
mod screen;
mod search;

pub use outcome::Sizing;
pub use question::Question;
