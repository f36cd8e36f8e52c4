//! A connection's bytes, watched in both directions: arriving bytes are noted in [`Activity`], and the bare refusals
//! that hyper writes on its own get a JSON body.
//!
//! Place on the map: between TLS and hyper.
//!
//! hyper answers a head it cannot take (400, 414, 431) before any service sees a request, with an empty body and no way
//! to have a say. All of our own answers have a body, so a 4xx of length 0 at the start of a write is hyper's. This
//! holds for HTTP/1.1 only; HTTP/2 refuses in its own frames (RST_STREAM, GOAWAY, or a bare 431), which stay as they are.

use super::activity::Activity;
use crate::app::App;
use crate::http::refuse_head;
use bytes::{Buf, Bytes};
use http::StatusCode;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module's documentation.
pub(super) struct GuardedIo<T> {
    inner: T,
    app: Arc<App>,
    activity: Arc<Activity>,
    /// A refusal being written in place of hyper's, and how many of hyper's bytes it stands for.
    replacement: Option<(Bytes, usize)>,
}

impl<T> GuardedIo<T> {
    pub(super) fn new(inner: T, app: Arc<App>, activity: Arc<Activity>) -> Self {
        Self { inner, app, activity, replacement: None }
    }
}

/// The status of a refusal of hyper's own making, if `written` is one.
fn refusal(written: &[u8]) -> Option<StatusCode> {
    let rest = written.strip_prefix(b"HTTP/1.")?;
    let status = rest.get(2..5).filter(|status| status.first() == Some(&b'4'))?;
    let bare = written.ends_with(b"\r\n\r\n")
        && written.windows(b"content-length: 0\r\n".len()).any(|line| line == b"content-length: 0\r\n");
    if bare { StatusCode::from_bytes(status).ok() } else { None }
}

/// The whole refusal as HTTP/1.1 writes it.
fn replacement(app: &App, status: StatusCode) -> Bytes {
    let (head, body) = refuse_head(app, status).into_parts();
    let json = body.into_inner().unwrap_or_default();
    let reason = status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\nconnection: close\r\n", status.as_str()).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", json.len()).as_bytes());
    bytes.extend_from_slice(&json);
    bytes.into()
}

impl<T: AsyncWrite + Unpin> GuardedIo<T> {
    /// Starts or goes on writing a replacement; `None` when these bytes are to be written as they are.
    fn poll_replacement(&mut self, cx: &mut Context<'_>, written: &[u8]) -> Poll<Option<io::Result<usize>>> {
        if self.replacement.is_none() {
            let Some(status) = refusal(written) else { return Poll::Ready(None) };
            self.replacement = Some((replacement(&self.app, status), written.len()));
        }
        while let Some((bytes, stands_for)) = &mut self.replacement {
            if bytes.is_empty() {
                let stands_for = *stands_for;
                self.replacement = None;
                return Poll::Ready(Some(Ok(stands_for)));
            }
            match ready!(Pin::new(&mut self.inner).poll_write(cx, bytes)) {
                Ok(0) => return Poll::Ready(Some(Err(io::ErrorKind::WriteZero.into()))),
                Ok(count) => bytes.advance(count),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        Poll::Ready(None)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for GuardedIo<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        if let Some(bytes) = buf.filled().get(before..).filter(|bytes| !bytes.is_empty()) {
            this.activity.bytes_arrived(bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for GuardedIo<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match ready!(this.poll_replacement(cx, buf)) {
            Some(result) => Poll::Ready(result),
            None => Pin::new(&mut this.inner).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // A refusal has no body, so it is all in the first slice.
        let first = bufs.iter().find(|slice| !slice.is_empty());
        match ready!(this.poll_replacement(cx, first.map_or(&[], |slice| slice))) {
            Some(result) => Poll::Ready(result),
            None => Pin::new(&mut this.inner).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_4xx_is_hypers_own() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(refusal(bare), Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        for ours in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 4",
            "",
        ] {
            assert_eq!(refusal(ours.as_bytes()), None, "{ours:?}");
        }
    }
}
