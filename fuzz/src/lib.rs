//! The fuzz targets. Each is a body that takes bytes and panics when something about them is not as it must be; what it
//! asserts is written above it, and in `README.md`, which also says how to run, reproduce and add one.
//!
//! Place on the map: `main.rs` puts libFuzzer around them, `tests/replay.rs` runs the saved inputs under plain `cargo test`.

#![forbid(unsafe_code)]
#![expect(clippy::panic, reason = "a panic is how a target reports what it has found")]

mod allow_list;
mod answer;
mod authenticated_request;
mod config;
mod http_request;
mod policy;
mod request_body;
mod round_trip;
mod scenario;
mod seeds;
mod signed_request;
mod signer;
mod sigv4;
mod uri;
mod wildcards;
mod world;

pub use seeds::{Seed, http_requests};

/// One target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, which is also that of its directory under `corpus/`.
    pub name: &'static str,
    /// Builds what all inputs share, and gives the body.
    pub open: fn() -> Body,
}

/// Runs one input. It returns for every input, or panics.
pub type Body = Box<dyn FnMut(&[u8])>;

/// All of them, in the order of `targets.txt`.
pub const TARGETS: [Target; 13] = [
    Target { name: "sigv4_header", open: || Box::new(sigv4::sigv4_header) },
    Target { name: "sigv4_request", open: || Box::new(sigv4::sigv4_request) },
    Target { name: "signed_request", open: || Box::new(signed_request::open()) },
    Target { name: "uri", open: || Box::new(uri::open()) },
    Target { name: "request_body", open: || Box::new(request_body::request_body) },
    Target { name: "authenticated_request", open: || Box::new(authenticated_request::open()) },
    Target { name: "http_request", open: || Box::new(http_request::open()) },
    Target { name: "round_trip", open: || Box::new(round_trip::open()) },
    Target { name: "wildcards", open: || Box::new(wildcards::wildcards) },
    Target { name: "allow_list", open: || Box::new(allow_list::allow_list) },
    Target { name: "policy", open: || Box::new(policy::policy) },
    Target { name: "config", open: || Box::new(config::config) },
    Target { name: "scenario", open: || Box::new(scenario::scenario) },
];

impl Target {
    /// The target of this name.
    pub fn find(name: &str) -> Option<Self> {
        TARGETS.into_iter().find(|target| target.name == name)
    }
}
