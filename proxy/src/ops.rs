//! The listener for operators: `/livez`, `/readyz` and `/metrics`, apart from the requests of KMS.
//!
//! Place on the map: beside `server`, started by `daemon` when the configuration has a table `[ops]`. What is bounded
//! here: connections at once, the time of one, the size of its head; one request per connection. When all places are
//! taken, whoever has held one longest makes room: peers that say nothing or read nothing keep no probe waiting, and a
//! probe that fails has Kubernetes restart the proxy. Plain HTTP, for it answers nothing secret and probes know no
//! certificates.

mod readiness;

pub use readiness::{Check, EverUsable, Readiness};

use crate::metrics::{Format, Page};
use crate::server::Listen;
use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// Connections at once; a further one takes the place of the oldest.
const CONNECTIONS_MAX: usize = 64;

/// From the acceptance of a connection to the end of its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(1);

/// Life of a connection, from its acceptance to the last byte of its answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest head of a request; the smallest buffer hyper takes.
const HEADER_BYTES_MAX: usize = 8_192;

/// Most header fields in a request.
const HEADERS_MAX: usize = 32;

/// How long to wait after a failed accept.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Serves until the future is dropped; all its connections end with it.
pub async fn serve<L: Listen>(mut listener: L, page: Arc<Page>) {
    let ever_usable = Arc::new(EverUsable::default());
    let mut watch = JoinSet::new();
    let (seen, sources) = (Arc::clone(&ever_usable), Arc::clone(&page));
    watch.spawn(async move { seen.watch(sources.sources()).await });
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok(io) => {
                connections.make_room().await;
                let (page, ever_usable) = (Arc::clone(&page), Arc::clone(&ever_usable));
                connections.spawn(async move {
                    // Whoever is too slow is cut off; there is nobody to tell.
                    let _ = timeout(CONNECTION_TIMEOUT, connection(io, &page, &ever_usable)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the ops listener failed to accept a connection");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Those being served.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// In the order they came.
    oldest_first: VecDeque<AbortHandle>,
}

impl Connections {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.oldest_first.push_back(self.tasks.spawn(task));
    }

    /// Sees to it that a place is free. An answer takes far less time than a crowd needs to fill all places, so that the
    /// oldest one is waiting for its peer.
    async fn make_room(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.oldest_first.retain(|task| !task.is_finished());
        while self.tasks.len() >= CONNECTIONS_MAX {
            if let Some(oldest) = self.oldest_first.pop_front() {
                oldest.abort();
            }
            // The others go on meanwhile.
            self.tasks.join_next().await;
        }
    }
}

async fn connection<T>(io: T, page: &Page, ever_usable: &EverUsable)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let service = service_fn(async |request: Request<hyper::body::Incoming>| {
        Ok::<_, Infallible>(answer(page, ever_usable, &request))
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of the ops listener ended early");
    }
}

/// The answer to one request. A body that comes with it is not read: the connection ends with the answer.
fn answer<B>(page: &Page, ever_usable: &EverUsable, request: &Request<B>) -> Response<Full<Bytes>> {
    let method = request.method();
    if *method != Method::GET && *method != Method::HEAD {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n".into());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        // A runtime that is stuck does not come here, and the probe's own timeout says so.
        "/livez" => plain(StatusCode::OK, "[+]runtime ok\nlivez check passed\n".into()),
        "/readyz" => {
            let readiness = Readiness::of(page.sources(), ever_usable);
            let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            plain(status, readiness.to_string())
        }
        "/metrics" => {
            let accept =
                request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let format = Format::accepted(accept);
            let mut response = plain(StatusCode::OK, page.write(format));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
            response
        }
        _ => plain(StatusCode::NOT_FOUND, "here are /livez, /readyz and /metrics\n".into()),
    }
}

fn plain(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
