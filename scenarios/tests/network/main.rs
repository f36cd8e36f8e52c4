//! The simulated network: its links, its TCP, the load balancer on it, and the first two as they were calibrated against Linux.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, outside of #[test] functions")]

mod balancer;
mod calibration;
mod link;
mod tcp;
