//! The HSM behind the proxies: the emulated one beside SoftHSM2, and the link to it.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod conformance;
mod link;
#[path = "../../../sim-hsm/tests/support/memory.rs"]
mod memory;
mod token;
