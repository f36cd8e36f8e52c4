//! The emulated HSM as a network appliance: a server in front of the device, and a client with a vendor library's
//! manners on the machine of the proxy.
//!
//! Place on the map: above `backend` and `control`. Any byte stream will do: whoever builds the world gives the server a
//! way to listen and the client a way to connect. All waiting is in tokio's time.
//!
//! | module | what it is |
//! |---|---|
//! | `server` | accepts connections; each is one session at the device |
//! | `client` | the [`Hsm`](xks_proxy::hsm::Hsm) on the other side: sessions, time-outs, an HA group |
//! | `member` | one server as the client knows it: its connections, whether it is down, when it is tried again |
//! | `settings` | the manners, as numbers |
//! | `wire` | requests and answers as bytes |
//!
//! # Why the manners matter
//!
//! PKCS#11 knows neither deadlines nor cancellation, and the libraries of network HSMs wait with the patience of a
//! batch job: about ten seconds for an answer, half a minute between two attempts to reconnect. A proxy that must answer
//! within 250 ms meets both. What follows from them, and what the client models:
//!
//! - A call whose caller has given up goes on, and its session stays taken, until the answer or the library's own
//!   time-out. A silent HSM thereby takes every session, one call each, and then nothing else is served either.
//! - After a failure calls fail at once until a connection is back. The attempts are spaced by a back-off, so that
//!   service resumes up to `reconnect_max` after the HSM does.
//! - A group goes on to another member, but only after the call at the failed one has failed; a silent member fails only
//!   after the time-out.

mod client;
mod member;
mod server;
mod settings;
mod wire;

pub use client::NetworkHsm;
pub use member::{Connect, Endpoint, Opening, Transport};
pub use server::serve;
pub use settings::{
    ClientSettings, HaMode, MEMBERS_MAX, ServerSettings, SettingsError, WhenDown, WhileDisconnected,
};
pub use wire::FRAME_BYTES_MAX;
