//! KMS for other people's programs: the model of [`kms`](crate::kms) behind a real socket, in the wire format that AWS
//! SDKs and the AWS CLI speak, and in front of a real XKS proxy.
//!
//! Place on the map: not simulated, as [`hostile`](crate::hostile) is not: time, sockets and the proxy are real. The
//! command builds an [`Api`] and hands it to [`server::serve`].
//!
//! | step of a request | module |
//! |---|---|
//! | connections, their limits, HTTP | [`server`] |
//! | which operation; its members; its answer | [`api`] |
//! | where its proxy is | [`proxy_door`] |
//! | what is told of it | [`journal`] |
//!
//! Callers' signatures are not verified: whoever reaches the socket is served, as the principal it claims to be.
//! Key stores, keys and their material are in memory alone and end with the process.

pub mod api;
pub mod journal;
pub mod proxy_door;
pub mod server;

pub use api::Api;
