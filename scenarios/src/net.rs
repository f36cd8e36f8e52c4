//! The simulated network: links that delay, lose and cut, and TCP streams over them that behave as Linux's do.
//!
//! Place on the map: `world` gives each proxy a [`tcp::Listener`] and the KMS model a [`tcp::Network::connect`]. The
//! proxy's and the KMS model's HTTP and TLS run unchanged above. It is event-driven on [`clock`](crate::clock): a
//! segment costs one wake-up, and a silent network nothing.
//!
//! - [`settings`]: the section `[link]` of a scenario file.
//! - [`link`]: when does a packet arrive, if at all; the only place where the network draws random numbers, with
//!   [`latency`] (of which [`histogram`] is one), [`burst`], and a queue for limited bandwidth.
//! - [`fault`]: what the timeline of a scenario does to a link.
//! - [`packet`]: what a link must know of a packet and of its connection.
//! - [`tcp`]: connections as Linux's kernel has them.
//! - [`capture`]: its packets as Wireshark reads them.
//! - [`calibration`]: how far those agree with a kernel's.

pub mod burst;
pub mod calibration;
pub mod capture;
pub mod fault;
pub mod histogram;
pub mod latency;
pub mod link;
pub mod packet;
mod queue;
pub(crate) mod random;
pub mod settings;
pub mod tcp;
