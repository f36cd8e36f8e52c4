//! The core of an AWS KMS External Key Store (XKS) proxy, API v1, spec 1.0.3.
//!
//! The map, in the order a request travels; start at [`http::handle`]:
//!
//! | station | module | what it does |
//! |---|---|---|
//! | TCP | [`server`] | takes connections up to a limit, drains on shutdown |
//! | TLS | [`tls`] | rustls set-up: TLS 1.2 and 1.3 with the spec's cipher suites |
//! | HTTP | [`http`] | deadline, routing, body limits; `handle` shows all stations in order |
//! | admit | [`admission`] | how much is let in at once |
//! | SigV4 | [`sigv4`] | pure verification of the signature |
//! | quota | [`quota`] | how many requests per second a key store may make |
//! | parse | [`api`] | JSON to typed requests, one file per operation |
//! | allow | [`authorise`] | pure decision on key, operation and caller |
//! | HSM | [`hsm`] | the `Hsm` capability; [`hsm::pkcs11`] is the production implementation |
//! | reply | [`error`], [`events`] | the error table; exactly one audit event per request |
//!
//! Around them: [`app`] holds the key stores, [`config`] is the only reader of files and environment,
//! [`env`] is the door to wall time and non-secret randomness, [`secret`] the types that cannot print,
//! [`scheme`] binds AAD and metadata into a ciphertext, [`calendar`] writes wall time as logs and HTTP want it. With the
//! feature `daemon`, `metrics` counts and `ops` answers probes and Prometheus; with the feature `otel`, traces are sent.

#![forbid(unsafe_code)]

pub mod admission;
pub mod api;
pub mod app;
pub mod authorise;
mod bodies;
pub mod calendar;
pub mod config;
pub mod env;
pub mod error;
pub mod events;
pub mod hsm;
pub mod http;
pub mod key;
#[cfg(feature = "daemon")]
pub mod metrics;
#[cfg(feature = "daemon")]
pub mod ops;
pub mod quota;
pub mod scheme;
pub mod secret;
pub mod server;
pub mod sigv4;
pub mod tls;
#[cfg(feature = "otel")]
pub mod traces;
