//! The KMS model, tested from both sides: against a scripted proxy that does everything wrong, and against the real
//! proxy core, which shows whether two independent readings of the spec agree.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod account;
mod real_proxy;
mod rows;
mod scripted;
mod states;
#[path = "../support/stub_hsm.rs"]
mod stub_hsm;
mod support;
