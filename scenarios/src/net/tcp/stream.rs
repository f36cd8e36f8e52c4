//! One end of a connection, as its process reads and writes it.
//!
//! Place on the map: what [`Network::connect`](super::Network::connect) and
//! [`Listener`](super::Listener) give out.

use super::connection::Connection;
use super::segment::{SEGMENT_BYTES_MAX, Segment, Side};
use bytes::{Buf, Bytes};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes on their way in one direction before a writer has to wait; Linux's default send buffer and window together.
const IN_TRANSIT_BYTES_MAX: usize = 256 * 1024;

/// One end of a connection. Dropping it closes the socket.
pub struct Stream {
    connection: Arc<Connection>,
    side: Side,
}

impl Stream {
    pub(super) fn new(connection: Arc<Connection>, side: Side) -> Self {
        Self { connection, side }
    }

    /// Whether the other end's FIN, or a reset, had arrived by `at`, a time that is not ahead.
    pub fn is_over_by(&self, at: Duration) -> bool {
        let mut state = self.connection.state();
        let receiver = &state.end(self.side).receiver;
        receiver.ended(at) || receiver.reset.is_some_and(|reset| reset <= at)
    }

    /// Cuts this end off for good: what it has sent and not got through is not sent again, and dropping it sends nothing.
    pub fn vanish(&mut self) {
        self.connection.vanish(self.side);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = &self.connection;
        let now = connection.clock.now();
        let mut state = connection.state();
        let end = state.end(self.side);
        let mut taken = 0;
        while buffer.remaining() > 0
            && let Some(bytes) = end.receiver.readable(now)
        {
            let part = bytes.len().min(buffer.remaining());
            buffer.put_slice(bytes.get(..part).unwrap_or_default());
            bytes.advance(part);
            taken += part;
            if bytes.is_empty() {
                end.receiver.pop();
            }
        }
        if taken == 0 && buffer.remaining() > 0 {
            // What had arrived before the connection broke has been read.
            if let Some(kind) = end.notice_reset(now) {
                return Poll::Ready(Err(kind.into()));
            }
            if !end.receiver.at_end(now) {
                end.receiver.reader = Some(context.waker().clone());
                let wake_at = end.receiver.next_readable().into_iter().chain(end.receiver.reset).min();
                if let Some(at) = wake_at {
                    connection.clock.wake_at(at, context.waker().clone());
                }
                return Poll::Pending;
            }
        }
        let peer = &mut state.end(self.side.other()).sender;
        peer.bytes = peer.bytes.saturating_sub(taken);
        if peer.bytes < IN_TRANSIT_BYTES_MAX
            && let Some(waker) = peer.writer.take()
        {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let connection = &self.connection;
        let now = connection.clock.now();
        let mut state = connection.state();
        let end = state.end(self.side);
        if let Some(kind) = end.notice_reset(now) {
            return Poll::Ready(Err(kind.into()));
        }
        if end.sender.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if end.sender.bytes >= IN_TRANSIT_BYTES_MAX {
            end.sender.writer = Some(context.waker().clone());
            if let Some(at) = end.receiver.reset {
                connection.clock.wake_at(at, context.waker().clone());
            }
            return Poll::Pending;
        }
        let whole = Bytes::copy_from_slice(data);
        let mut from = 0;
        while from < whole.len() {
            let to = (from + SEGMENT_BYTES_MAX).min(whole.len());
            end.sender.write(Segment::Data(whole.slice(from..to)));
            from = to;
        }
        connection.send(state, self.side);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.end_stream(self.connection.state(), self.side);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.close(self.side);
    }
}
