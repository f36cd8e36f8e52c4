//! Hostile requests for any XKS proxy, over real sockets: valid ones are mutated, sent, and every answer is judged.
//!
//! Place on the map: `xks-sim fuzz` runs [`run::run`]. Nothing here is simulated but the client, which signs and reads
//! with the code of [`kms`](crate::kms).
//!
//! | step | module |
//! |---|---|
//! | where the proxy is, and who may be aimed at | [`endpoint`] |
//! | the valid requests, and those of a corpus | [`seeds`], [`request`] |
//! | what is changed, and what must then come back | [`mutation`], [`case`] |
//! | the signature: valid, forged or none; the bytes on the wire | [`signing`], [`framing`] |
//! | what came back | [`wire`] |
//! | whether that is right | [`verdict`] |
//! | what is told and kept | [`finding`], [`summary`] |

pub mod case;
pub mod endpoint;
pub mod finding;
pub mod framing;
pub mod mutation;
pub mod request;
pub mod run;
pub mod seeds;
pub mod signing;
pub mod summary;
pub mod verdict;
pub mod wire;
