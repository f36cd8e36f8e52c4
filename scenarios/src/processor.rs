//! The processor of a proxy host: cores, and how long requests and TLS handshakes keep them busy.
//!
//! Place on the map: between the simulated network and the proxy's `server::serve`. What arrives on a connection is
//! handed to the proxy when a core has had the time for it, first come, first served. So a proxy that has too much to
//! do, or too little processor time, reads late, as a starved process does: it does not even know of a request whose
//! caller has long given up, and spends its time on it.
//!
//! A request is booked whole when its first byte is read; a new connection costs a handshake (or, without TLS, its first
//! request). The figures are settings of the scenario; `benches/README.md` has those measured.

use crate::clock::{Clock, Sleep};
use crate::net::tcp;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use xks_proxy::server::Listen;

/// The cores of one host.
pub struct Processor {
    clock: Clock,
    request: Duration,
    greeting: Duration,
    state: Mutex<State>,
}

struct State {
    /// When each core will have done what it was given.
    free_at: BinaryHeap<Reverse<Duration>>,
    /// How many times as long everything takes, for each fault in force.
    factors: Vec<f64>,
}

impl Processor {
    /// Idle cores, 1 or more. `request` is the processor time of one request, `handshake` that of a TLS handshake if
    /// there is TLS.
    pub fn new(clock: Clock, cores: usize, request: Duration, handshake: Option<Duration>) -> Self {
        let free_at = (0..cores.max(1)).map(|_| Reverse(Duration::ZERO)).collect();
        let state = Mutex::new(State { free_at, factors: Vec::new() });
        Self { clock, request, greeting: handshake.unwrap_or(request), state }
    }

    /// From now on new work takes `factor` times as long. Factors multiply.
    pub fn starve(&self, factor: f64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).factors.push(factor);
    }

    /// Takes one such factor back.
    pub fn feed(&self, factor: f64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = state.factors.iter().position(|known| *known == factor) {
            state.factors.remove(place);
        }
    }

    /// Gives a core this much work, and says when it will be done.
    fn book(&self, work: Duration) -> Duration {
        let now = self.clock.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let factor: f64 = state.factors.iter().product();
        let free_at = state.free_at.pop().map_or(now, |Reverse(free_at)| free_at.max(now));
        let done = free_at.saturating_add(work.mul_f64(factor));
        state.free_at.push(Reverse(done));
        done
    }
}

/// A listener whose connections cost processor time.
pub struct BusyListener {
    /// The network's.
    pub listener: tcp::Listener,
    /// Who reads.
    pub processor: Arc<Processor>,
}

impl Listen for BusyListener {
    type Io = BusyStream;

    async fn accept(&mut self) -> io::Result<BusyStream> {
        let stream = self.listener.accept().await?;
        Ok(BusyStream {
            stream,
            processor: Arc::clone(&self.processor),
            greeted: false,
            answered: false,
            held: None,
        })
    }
}

/// One connection of it.
pub struct BusyStream {
    stream: tcp::Stream,
    processor: Arc<Processor>,
    /// Its first bytes have been read.
    greeted: bool,
    /// Something was written since the last read: the next byte begins a request.
    answered: bool,
    /// Has arrived, and waits for a core.
    held: Option<Held>,
}

struct Held {
    bytes: Vec<u8>,
    read: usize,
    until: Sleep,
}

impl BusyStream {
    /// What reading the next byte costs.
    fn work(&self) -> Duration {
        match (self.greeted, self.answered) {
            (false, _) => self.processor.greeting,
            (true, true) => self.processor.request,
            (true, false) => Duration::ZERO,
        }
    }

    fn hand_over(
        held: &mut Option<Held>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(waiting) = held else { return Poll::Ready(Ok(())) };
        ready!(Pin::new(&mut waiting.until).poll(context));
        let rest = waiting.bytes.get(waiting.read..).unwrap_or_default();
        let part = rest.len().min(buffer.remaining());
        buffer.put_slice(rest.get(..part).unwrap_or_default());
        waiting.read += part;
        if waiting.read == waiting.bytes.len() {
            *held = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for BusyStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.held.is_some() {
            return Self::hand_over(&mut this.held, context, buffer);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        if buffer.filled().len() == before {
            return Poll::Ready(Ok(()));
        }
        let work = this.work();
        (this.greeted, this.answered) = (true, false);
        if work.is_zero() {
            return Poll::Ready(Ok(()));
        }
        let until = this.processor.clock.sleep_until(this.processor.book(work));
        let bytes = buffer.filled().get(before..).unwrap_or_default().to_vec();
        buffer.set_filled(before);
        this.held = Some(Held { bytes, read: 0, until });
        Self::hand_over(&mut this.held, context, buffer)
    }
}

impl AsyncWrite for BusyStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answered = true;
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn work_waits_for_a_free_core_and_takes_longer_when_starved() {
        clock::run([0; 32], |clock| async move {
            let ms = Duration::from_millis;
            let processor = Processor::new(clock.clone(), 2, ms(1), None);
            assert_eq!([1, 2, 3, 4].map(|n| processor.book(ms(n))), [ms(1), ms(2), ms(4), ms(6)]);
            clock.sleep_until(ms(10)).await;
            processor.starve(5.0);
            assert_eq!(processor.book(ms(1)), ms(15));
            processor.feed(5.0);
            assert_eq!(processor.book(ms(1)), ms(11));
        })
        .unwrap();
    }
}
