//! Bodies of the fuzz targets, one function each; `tests/replay.rs` runs the saved inputs under plain `cargo test`.
//!
//! A body must return for every input. What it asserts beyond that is written above it.

#![forbid(unsafe_code)]

mod sigv4;
mod wildcards;

pub use sigv4::{sigv4_header, sigv4_request};
pub use wildcards::wildcards;
