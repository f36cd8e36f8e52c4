//! One connection, from its TLS handshake to its end.
//!
//! Place on the map: a task started by [`serve`](super::serve).

use super::activity::{Activity, Expiry};
use super::counts::Refused;
use super::guarded_io::GuardedIo;
use super::strangers::{Place, Stranger};
use super::streams::{Spawner, Streams};
use crate::app::{App, Limits};
use crate::http::{Visit, visit};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::TlsAcceptor;

/// Requests at once on one HTTP/2 connection. KMS spreads its load over connections, and all of them together are
/// limited by `limits.in_flight_max`.
const STREAMS_MAX: u32 = 64;

/// What is read of a peer whose handshake has failed: more than the first flight of requests.
const UNREAD_BYTES_MAX: u64 = 65_536;

/// The smallest read buffer hyper takes.
const HYPER_BUFFER_BYTES_MIN: usize = 8_192;

/// Serves one connection until it ends, is cut off, or drains; `_place`, the first so that it is
/// dropped last once this runs, is free again then.
///
/// What comes after the handshake is in a box of its own: else each connection would take for as long as it lasts the room
/// of its handshake, of a failed one and of HTTP with and without TLS, several kilobytes.
pub(super) async fn serve<T>(
    _place: Place,
    io: T,
    app: Arc<App>,
    tls: Option<Arc<rustls::ServerConfig>>,
    stranger: Stranger,
    draining: watch::Receiver<bool>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let counted = Arc::clone(&app);
    let _open = counted.connections.enter();
    let Some(tls) = tls else {
        return Box::pin(serve_http(io, http_settings(&app.limits), app, stranger, draining)).await;
    };
    let until = Instant::now() + app.limits.handshake_timeout;
    match Box::pin(timeout_at(until, TlsAcceptor::from(tls).accept(io).into_fallible())).await {
        Ok(Ok(stream)) => {
            let (http, streams) = http_settings(&app.limits);
            // What was agreed on is known; else the first bytes tell, and reading these by themselves makes hyper's buffer
            // twice as large for as long as the connection lasts.
            let is_http1 = stream.get_ref().1.alpn_protocol() == Some(b"http/1.1");
            let http = if is_http1 { http.http1_only() } else { http };
            Box::pin(serve_http(stream, (http, streams), app, stranger, draining)).await
        }
        // At a level an operator can switch on: scanners and TCP health checks make this an everyday event.
        Ok(Err((error, io))) => {
            counted.connections.refuse(Refused::Handshake);
            tracing::debug!(%error, "TLS handshake failed");
            let _ = timeout_at(until, Box::pin(let_read(io))).await;
        }
        Err(_) => {
            counted.connections.refuse(Refused::HandshakeTimeout);
            tracing::debug!("TLS handshake took longer than limits.handshake_timeout");
        }
    }
}

/// Lets the peer read the alert that ended its handshake. In TLS 1.3 a client sends its request together with the
/// certificate that is refused; closing a socket with unread data resets the connection, and a reset takes the alert
/// with it. So what still comes is read, up to a limit, until the peer closes.
async fn let_read(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = io.shutdown().await;
    let mut unread = io.take(UNREAD_BYTES_MAX);
    let mut piece = [0; 512];
    while matches!(unread.read(&mut piece).await, Ok(1..)) {}
}

async fn serve_http<T>(
    io: T,
    (http, streams): (auto::Builder<Spawner>, Streams),
    app: Arc<App>,
    stranger: Stranger,
    mut draining: watch::Receiver<bool>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::begin());
    let stranger = Arc::new(stranger);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (app, activity, stranger) = (Arc::clone(&app), Arc::clone(&activity), Arc::clone(&stranger));
        async move {
            let in_flight = activity.request();
            let authenticated = || {
                if activity.prove() {
                    stranger.prove();
                }
            };
            let seen = Visit { began: in_flight.began, authenticated: &authenticated };
            Ok::<_, Infallible>(visit(&app, request, &seen).await)
        }
    });
    let io = TokioIo::new(GuardedIo::new(io, Arc::clone(&app), Arc::clone(&activity)));
    let mut connection = pin!(http.serve_connection(io, service));
    let mut drain = pin!(draining.wait_for(|draining| *draining));
    let mut timer = pin!(sleep_until(Instant::now() + app.limits.idle_timeout));
    let mut closing: Option<Instant> = None;
    poll_fn(|cx| {
        loop {
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if closing.is_none() && drain.as_mut().poll(cx).is_ready() {
                // From here on the drain timeout is the limit.
                closing = Some(Instant::now() + app.limits.drain_timeout);
                connection.as_mut().graceful_shutdown();
                continue;
            }
            // The limit moves with every request; the timer follows only when it would ring too late, and otherwise
            // finds out when it rings that it is too early. So a busy connection does not touch it.
            let now = Instant::now();
            let (limit, idle) = match (closing, activity.expiry(&app.limits)) {
                (Some(at), _) => (at, false),
                (None, Expiry::Head(at)) => (at, false),
                (None, Expiry::Idle(at)) => (at, true),
                (None, Expiry::Never) => (now + app.limits.idle_timeout, false),
            };
            if limit < timer.deadline() {
                timer.as_mut().reset(limit);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if now < limit {
                timer.as_mut().reset(limit);
            } else if idle {
                // What an idle peer has not read yet, or its last answer, gets as long as a head gets to arrive.
                closing = Some(now + app.limits.head_timeout);
                connection.as_mut().graceful_shutdown();
                timer.as_mut().reset(now + app.limits.head_timeout);
            } else {
                return Poll::Ready(());
            }
        }
    })
    .await;
    drop(streams);
}

/// What hyper is told, and where the tasks of HTTP/2 streams belong.
fn http_settings(limits: &Limits) -> (auto::Builder<Spawner>, Streams) {
    let streams = Streams::default();
    let header_list_bytes_max = u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX);
    let mut http = auto::Builder::new(streams.spawner());
    // `Activity` limits heads and idleness apart from each other, which hyper's one timer cannot; and `Date` comes from
    // our own clock.
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes_max.max(HYPER_BUFFER_BYTES_MIN))
        .max_headers(limits.headers_max)
        .auto_date_header(false);
    http.http2()
        .timer(TokioTimer::new())
        .max_header_list_size(header_list_bytes_max)
        .max_concurrent_streams(STREAMS_MAX)
        .auto_date_header(false);
    (http, streams)
}
