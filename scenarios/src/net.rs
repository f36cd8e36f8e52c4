//! The simulated network: links that delay, lose and cut, and TCP streams over them that behave as Linux's do.
//!
//! Place on the map: `world` gives each proxy a [`tcp::Listener`] and the KMS model a [`tcp::Network::connect`]. The
//! proxy's and the KMS model's HTTP and TLS run unchanged above. It is event-driven on [`clock`](crate::clock): a
//! segment costs one wake-up, and a silent network nothing.
//!
//! - [`link`]: when does a segment arrive, if at all; the only place where the network draws random numbers.
//! - [`tcp`]: connections: handshake, refusal, reset, retransmission (RFC 6298 as Linux has it), in-order delivery.

pub mod link;
pub mod tcp;
