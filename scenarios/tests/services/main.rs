//! Every service model against the reference, over a scripted KMS on a paused clock: what its users see, when, and what is
//! left when the outage is over.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

mod assumptions;
mod configuration;
mod consequences;
mod databases;
mod messaging;
mod models;
mod scripted_kms;
mod settings;
mod storage;
