//! Connections: taken up to a limit, served over HTTP/1.1 and HTTP/2, drained on shutdown.
//!
//! Place on the map: the outermost station. [`serve`] is generic over the listener, so that it runs over real sockets
//! and simulated ones, and uses no time but tokio's. What is bounded here (XKS-NET-9): connections, the time of a TLS
//! handshake, of a request's head and of idling, the size of a head, and HTTP/2 streams per connection.

mod activity;
mod connection;
mod counts;
mod guarded_io;
mod streams;

pub use counts::{Counts, Refused};

use crate::app::App;
use crate::tls::ServerTls;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// A source of connections.
pub trait Listen: Send + 'static {
    /// One connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection. Must lose none when the future is dropped before it is ready.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

#[cfg(feature = "daemon")]
impl Listen for tokio::net::TcpListener {
    type Io = tokio::net::TcpStream;

    async fn accept(&mut self) -> io::Result<Self::Io> {
        let (stream, _peer) = Self::accept(self).await?;
        // An answer is one small write; waiting for more to send would only add latency. A connection that is already
        // gone says so when it is read.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
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
    let (drain, draining) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        // The place is taken before the connection, so a full house waits in the kernel's queue.
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            next = next => next,
        };
        match accepted {
            Ok(io) => {
                let current = tls.as_ref().map(|tls| Arc::clone(&tls.current().config));
                let served = connection::serve(io, Arc::clone(&app), current, draining.clone());
                connections.spawn(async move {
                    served.await;
                    drop(place);
                });
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
