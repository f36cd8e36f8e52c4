//! The model of KMS over a real socket, in front of the real proxy core over a real socket: what an SDK would send and
//! what it would be answered, the limits of the server, and the command around it.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

mod command;
mod cryptography;
mod forms;
mod lifecycle;
mod limits;
mod proxy;
mod site;
#[path = "../support/stub_hsm.rs"]
mod stub_hsm;
