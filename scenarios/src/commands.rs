//! The commands of `xks-sim`, one module each, and what they share.
//!
//! Place on the map: between `main`, which chooses one, and the library, which does the work. Each has a `perform` that
//! ends with an [`exit`] code, or with what to tell a user whose input was wrong.

pub(crate) mod budget;
pub(crate) mod compare;
pub(crate) mod exit;
mod files;
pub(crate) mod fuzz;
mod interrupt;
mod keep;
pub(crate) mod kms;
pub(crate) mod list;
pub(crate) mod new;
mod proxy_options;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod show;
pub(crate) mod size;
pub(crate) mod sweep;
mod terminal;
mod watch;
