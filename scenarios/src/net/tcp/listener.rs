//! A listening socket and its queue of connections.
//!
//! Place on the map: given by [`Network::listen`](super::Network::listen) to the proxy's `server::serve`; filled by
//! [`handshake`](super::handshake).

use super::lock;
use super::stream::Stream;
use crate::clock::Clock;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Connections that wait to be accepted, as the daemon asks for. A SYN beyond is dropped; Linux takes one more than asked.
const BACKLOG_MAX: usize = xks_proxy::server::BACKLOG as usize + 1;

/// The queue.
#[derive(Default)]
pub(super) struct Backlog {
    /// By the time at which each can be accepted: a slow path does not hold up a fast one.
    waiting: VecDeque<(Duration, Stream)>,
    acceptor: Option<Waker>,
    /// The listener is gone: what it had not accepted is closed, and a SYN is refused.
    pub(super) closed: bool,
}

impl Backlog {
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= BACKLOG_MAX
    }

    /// Puts in a connection that can be accepted from `at` on. A listener that is gone closes it.
    pub(super) fn put(backlog: &Mutex<Self>, clock: &Clock, at: Duration, stream: Stream) {
        let mut queue = lock(backlog);
        if queue.closed {
            // The stream is dropped after the lock.
            drop(queue);
            return;
        }
        let place = queue.waiting.partition_point(|(earlier, _)| *earlier <= at);
        queue.waiting.insert(place, (at, stream));
        // Left in place: another connection may become acceptable before this one does.
        let acceptor = queue.acceptor.clone();
        drop(queue);
        if let Some(waker) = acceptor {
            clock.wake_at(at, waker);
        }
    }
}

/// A listening socket of the simulated network.
pub struct Listener {
    clock: Clock,
    backlog: Arc<Mutex<Backlog>>,
}

impl Listener {
    pub(super) fn new(clock: Clock, backlog: Arc<Mutex<Backlog>>) -> Self {
        Self { clock, backlog }
    }
}

impl Drop for Listener {
    /// The process has stopped listening, or has died.
    fn drop(&mut self) {
        let waiting = {
            let mut backlog = lock(&self.backlog);
            backlog.closed = true;
            std::mem::take(&mut backlog.waiting)
        };
        // Dropped outside the lock: each of them sends a FIN or a reset.
        drop(waiting);
    }
}

impl xks_proxy::server::Listen for Listener {
    type Io = Stream;

    async fn accept(&mut self) -> io::Result<Stream> {
        std::future::poll_fn(|context| {
            let mut backlog = lock(&self.backlog);
            match backlog.waiting.front() {
                Some((acceptable, _)) if *acceptable <= self.clock.now() => match backlog.waiting.pop_front()
                {
                    Some((_, stream)) => Poll::Ready(Ok(stream)),
                    None => Poll::Pending,
                },
                Some((acceptable, _)) => {
                    let acceptable = *acceptable;
                    backlog.acceptor = Some(context.waker().clone());
                    drop(backlog);
                    self.clock.wake_at(acceptable, context.waker().clone());
                    Poll::Pending
                }
                None => {
                    backlog.acceptor = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}
