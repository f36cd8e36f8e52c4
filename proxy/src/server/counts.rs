//! How many connections there are and how many came to nothing, for metrics.
//!
//! Place on the map: held by [`App`](crate::app::App), counted by `server`. The order of memory does not matter: the
//! numbers protect no other data.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counts of connections since the start, and those open now.
#[derive(Debug, Default)]
pub struct Counts {
    open: AtomicUsize,
    accepted: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
}

/// Why a connection never came to carry a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The system could not hand it over: no file descriptor or memory left.
    Accept,
    /// The TLS handshake failed: no common cipher, a client certificate that is not accepted, or no TLS at all.
    Handshake,
    /// The TLS handshake took longer than `limits.handshake_timeout`.
    HandshakeTimeout,
}

impl Refused {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Accept, Self::Handshake, Self::HandshakeTimeout];

    /// In one word, for a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Handshake => "tls_handshake",
            Self::HandshakeTimeout => "tls_handshake_timeout",
        }
    }
}

impl Counts {
    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections refused for this reason since the start.
    pub fn refused(&self, why: Refused) -> u64 {
        self.of(why).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    pub(super) fn refuse(&self, why: Refused) {
        if let Some(count) = self.of(why) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts one connection in, and out when what is returned is dropped.
    pub(super) fn enter(&self) -> Open<'_> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(self)
    }

    fn of(&self, why: Refused) -> Option<&AtomicU64> {
        self.refused.get(why as usize)
    }
}

/// One open connection.
pub(super) struct Open<'a>(&'a Counts);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
