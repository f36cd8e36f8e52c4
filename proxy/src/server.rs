//! Connections: taken up to a limit, served over HTTP/1.1 and HTTP/2, drained on shutdown.
//!
//! Place on the map: the outermost station. [`serve`] is generic over the listener, so that it runs over real sockets
//! and simulated ones, and uses no time but tokio's. What is bounded here (XKS-NET-9): connections, the time of a TLS
//! handshake, of a request's head and of idling, the size of a head, and HTTP/2 streams per connection. Who has not
//! carried an authenticated request may idle less, and goes first when the house is full.

mod activity;
mod connection;
mod counts;
mod guarded_io;
#[cfg(feature = "daemon")]
mod listeners;
mod strangers;
mod streams;

pub use counts::{Counts, Refused};
#[cfg(feature = "daemon")]
pub use listeners::Listeners;

use crate::app::App;
use crate::tls::ServerTls;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use strangers::Strangers;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections that wait in the kernel until they are taken: what whoever opens the socket gives to `listen(2)`. The system
/// may lower it (`net.core.somaxconn`, by default 4,096).
pub const BACKLOG: u32 = 1_024;

/// A source of connections.
pub trait Listen: Send + 'static {
    /// One connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection. Must lose none when the future is dropped before it is ready.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// How long to wait after a failed accept: the cause (no file descriptors left) seldom passes at once.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Serves connections until `shutdown` resolves, then lets requests in flight finish within
/// `app.limits.drain_timeout` and cuts off the rest.
///
/// Each connection takes the TLS that is current when it is accepted; `None` serves plain HTTP.
///
/// All tasks this starts, HTTP/2 streams included, belong to the future it returns: dropping that future aborts them
/// all, as a crash would.
pub async fn serve<L: Listen>(
    mut listener: L,
    app: Arc<App>,
    tls: Option<Arc<ServerTls>>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let places = Arc::new(Semaphore::new(app.limits.connections_max));
    let strangers = Strangers::default();
    let (drain, draining) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        // In a full house one waits at the door, and all others in the kernel's queue.
        let next = async {
            let io = listener.accept().await?;
            let place = strangers.make_room(&places, app.limits.deadline).await;
            Ok((io, place))
        };
        let accepted: io::Result<_> = tokio::select! {
            biased;
            () = &mut shutdown => break,
            next = next => next,
        };
        match accepted {
            Ok((io, place)) => {
                let stranger = strangers.enter();
                let id = stranger.id();
                let current = tls.as_ref().map(|tls| Arc::clone(&tls.current().config));
                let served =
                    connection::serve(place, io, Arc::clone(&app), current, stranger, draining.clone());
                let task = connections.spawn(served);
                strangers.introduce(id, task);
            }
            Err(error) => {
                app.connections.refuse(Refused::Accept);
                tracing::warn!(%error, "accepting a connection failed; trying again in {ACCEPT_RETRY:?}");
                sleep(ACCEPT_RETRY).await;
            }
        }
        while let Some(finished) = connections.try_join_next() {
            report(&finished);
        }
    }
    app.start_draining();
    drop(listener);
    drain.send_replace(true);
    let finish = async {
        while let Some(finished) = connections.join_next().await {
            report(&finished);
        }
    };
    if timeout(app.limits.drain_timeout, finish).await.is_err() {
        tracing::warn!(
            left = connections.len(),
            "not every request finished within the drain timeout; cut off"
        );
    }
    connections.shutdown().await;
}

/// A panic takes its own connection down and no other; it must still be seen.
fn report(finished: &Result<(), tokio::task::JoinError>) {
    if let Err(error) = finished
        && error.is_panic()
    {
        tracing::error!(%error, "a connection ended in a panic");
    }
}
