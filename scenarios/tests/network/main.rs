//! The simulated network: its links, its TCP, and both as they were calibrated against Linux.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, outside of #[test] functions")]

mod calibration;
mod link;
mod tcp;
