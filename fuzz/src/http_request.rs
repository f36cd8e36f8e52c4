//! A connection's bytes, from HTTP's own parser to the HSM.

use crate::answer;
use crate::seeds::http_requests;
use crate::world::{Call, World};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};
use xks_proxy::server::{Listen, serve};

/// Serves one connection on which these bytes arrive. Each answer is one of the spec's; every answer has its audit event;
/// and the HSM sees no call but those of the signed and admitted seeds, since nobody can sign another.
pub(crate) fn open() -> impl FnMut(&[u8]) {
    let world = World::new();
    let mut known = BTreeSet::new();
    for seed in http_requests() {
        exchange(&world, &seed.bytes);
        let calls = world.calls();
        assert_eq!(seed.reaches_hsm, !calls.is_empty(), "{}: {calls:?}", seed.name);
        known.extend(calls);
    }
    drop(world.events());
    move |data| run(&world, &known, data)
}

fn run(world: &World, known: &BTreeSet<Call>, data: &[u8]) {
    let sent = exchange(world, data);
    for call in world.calls() {
        assert!(known.contains(&call), "reached the HSM without a signature: {call:?}");
    }
    let mut audited: BTreeSet<String> = world.events().into_iter().map(|event| event.request_id).collect();
    let mut rest = &sent[..];
    // What begins as HTTP/2 is answered in frames.
    while rest.starts_with(b"HTTP/1.") {
        rest = check_first(rest, &mut audited);
    }
    assert!(rest.is_empty() || data.starts_with(b"PRI * HTTP/2"), "{:?}", String::from_utf8_lossy(&sent));
}

/// Checks the first answer of several and gives the rest.
fn check_first<'a>(sent: &'a [u8], audited: &mut BTreeSet<String>) -> &'a [u8] {
    let shown = || String::from_utf8_lossy(sent).into_owned();
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut head = httparse::Response::new(&mut fields);
    let Ok(httparse::Status::Complete(head_bytes)) = head.parse(sent) else { panic!("{}", shown()) };
    let status = head.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.unwrap_or_else(|| panic!("{}", shown()));
    let rest = &sent[head_bytes..];
    if status.is_informational() {
        return rest;
    }
    let mut headers = HeaderMap::new();
    for field in &*head.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else { panic!("{}", shown()) };
        assert!(headers.insert(name, value).is_none(), "twice: {} in {}", field.name, shown());
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(id) = text("x-request-id") {
        assert!(audited.remove(id), "no audit event for {}", shown());
    }
    // Only the answer to a HEAD has no body, and every body is an object.
    let body_bytes = match text("content-length").and_then(|length| length.parse().ok()) {
        Some(length) if rest.starts_with(b"{") => length,
        Some(_) => return rest,
        None => panic!("no length: {}", shown()),
    };
    let (body, rest) = rest.split_at_checked(body_bytes).unwrap_or_else(|| panic!("cut off: {}", shown()));
    answer::check(status, &headers, body);
    rest
}

/// How long the peer waits for answers before it closes, in the time of the runtime, which costs nothing: longer than the
/// deadline of a request, and shorter than a connection may be idle.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the server sends to a connection on which `data` arrives at once. The peer closes when it has waited long enough:
/// earlier, hyper would drop the requests that it has not answered.
fn exchange(world: &World, data: &[u8]) -> Vec<u8> {
    let wire = Arc::new(Wire { sent: Mutex::default(), closed: Notify::new() });
    let connection = Connection { unread: data.to_vec(), patience: None, wire: Arc::clone(&wire) };
    let app = Arc::clone(&world.app);
    world.runtime.block_on(async {
        let mut served = std::pin::pin!(serve(Once(Some(connection)), app, None, pending()));
        tokio::select! {
            biased;
            () = wire.closed.notified() => {}
            () = &mut served => {}
        }
    });
    std::mem::take(&mut wire.sent.lock().unwrap_or_else(PoisonError::into_inner))
}

/// One connection, then none.
struct Once(Option<Connection>);

impl Listen for Once {
    type Io = Connection;

    async fn accept(&mut self) -> io::Result<Connection> {
        match self.0.take() {
            Some(connection) => Ok(connection),
            None => pending().await,
        }
    }
}

/// What stays when the connection is closed.
struct Wire {
    sent: Mutex<Vec<u8>>,
    closed: Notify,
}

/// The server's end: all that the peer sends is there already, and it takes everything.
struct Connection {
    unread: Vec<u8>,
    patience: Option<Pin<Box<Sleep>>>,
    wire: Arc<Wire>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.wire.closed.notify_one();
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
            return patience.as_mut().poll(cx).map(Ok);
        }
        let taken = buffer.remaining().min(self.unread.len());
        buffer.put_slice(&self.unread[..taken]);
        self.unread.drain(..taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.wire.sent.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
