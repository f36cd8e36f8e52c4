//! The TLS that new connections are served with, replaceable while others go on.
//!
//! Place on the map: part of `tls`; `server` takes the current set-up for each connection, a reload replaces it.

use super::CertificateFacts;
use arc_swap::ArcSwap;
use std::sync::Arc;

/// A set-up of TLS and a way to replace it. Connections that are open, or in their handshake, go on with the one they
/// began with.
///
/// The whole set-up is replaced and not its certificate only. It owns the memory of sessions that can be resumed, so a
/// session from before a reload cannot be resumed after it: no client gets in on the word of an authority that is no
/// longer trusted, and none is shown an old certificate.
pub struct ServerTls(ArcSwap<Served>);

/// One set-up.
pub struct Served {
    /// For rustls.
    pub config: Arc<rustls::ServerConfig>,
    /// The server's own certificate, when it is known.
    pub certificate: Option<CertificateFacts>,
}

impl From<Arc<rustls::ServerConfig>> for Served {
    fn from(config: Arc<rustls::ServerConfig>) -> Self {
        Self { config, certificate: None }
    }
}

impl ServerTls {
    /// Begins with this set-up.
    pub fn new(first: impl Into<Served>) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(first.into())))
    }

    /// What a connection that begins now is served with.
    pub fn current(&self) -> Arc<Served> {
        self.0.load_full()
    }

    /// From now on new connections are served with this.
    pub fn replace(&self, next: Served) {
        self.0.store(Arc::new(next));
    }
}
