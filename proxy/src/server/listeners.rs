//! Real listening sockets, and several as one, so that all of them share one proxy and its limits.
//!
//! Place on the map: the daemon opens the sockets and gives them to [`serve`](super::serve).

use super::Listen;
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use tokio::net::{TcpListener, TcpStream};

/// Takes connections from each socket in turn, so that none has to wait while another is flooded.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<TcpListener>,
    next: usize,
}

impl Listeners {
    /// With no socket at all it waits for ever.
    pub fn new(sockets: Vec<TcpListener>) -> Self {
        Self { sockets, next: 0 }
    }
}

impl Listen for Listeners {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (stream, _peer) = poll_fn(|cx| {
            let (before, from) = self.sockets.split_at(self.next.min(self.sockets.len()));
            for (index, socket) in (self.next..).zip(from).chain((0..).zip(before)) {
                if let Poll::Ready(accepted) = socket.poll_accept(cx) {
                    self.next = index + 1;
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await?;
        Ok(prepared(stream))
    }
}

impl Listen for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (stream, _peer) = Self::accept(self).await?;
        Ok(prepared(stream))
    }
}

/// An answer is one small write; waiting for more to send would only add latency. A connection that is already gone says
/// so when it is read.
fn prepared(stream: TcpStream) -> TcpStream {
    let _ = stream.set_nodelay(true);
    stream
}
