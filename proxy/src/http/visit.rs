//! What a connection and one of its requests tell each other.
//!
//! Place on the map: `server` makes one per request; [`handle`](crate::http::handle) makes its own.

use tokio::time::Instant;

/// One request, as its connection sees it.
pub(crate) struct Visit<'a> {
    /// When the request began to arrive, as early as that is known. The deadline counts from here.
    pub(crate) began: Instant,
    /// Called once its signature has been verified.
    pub(crate) authenticated: &'a (dyn Fn() + Sync),
}
