//! The commands of `xks-sim` as their user meets them: what they print, the files they leave, how they end, and one clear
//! line for every mistake.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests, where a panic is a failed test"
)]

mod budget;
mod cli;
mod compare;
mod keeping;
mod new;
mod pcap;
mod program;
mod replay;
mod schema;
mod size;
mod sweep;
