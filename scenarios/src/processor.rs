//! The processor of a proxy host: cores, and how long requests and TLS handshakes keep them busy.
//!
//! Place on the map: between the simulated network and the proxy's `server::serve`. What arrives on a connection is
//! handed to the proxy when a core has had the time for it, first come, first served. So a proxy that has too much to
//! do, or too little processor time, reads late, as a starved process does: it does not even know of a request whose
//! caller has long given up, and spends its time on it.
//!
//! Work that waits when the pace changes goes on at the new pace, so that the backlog of a starved process is worked off
//! quickly once it is fed again.
//!
//! A request is booked whole when its first byte is read; a new connection costs a handshake (or, without TLS, its first
//! request). The figures are settings of the scenario; `benches/README.md` has those measured.

use crate::clock::{Clock, Sleep};
use crate::net::tcp;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
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

/// All in the processor's own time, which passes more slowly while it is starved.
struct State {
    /// Its own time at the moment `told` of the run.
    own: Duration,
    told: Duration,
    /// When each core will have done what it was given.
    free_at: BinaryHeap<Reverse<Duration>>,
    /// How many times as long everything takes, for each fault in force.
    factors: Vec<f64>,
    /// Who waits for work to be done, to be told when the pace changes.
    waiting: BTreeMap<u64, Waker>,
    next_job: u64,
}

impl State {
    fn factor(&self) -> f64 {
        self.factors.iter().product()
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.told);
        self.own += if self.factors.is_empty() { passed } else { passed.div_f64(self.factor()) };
        self.told = now;
    }
}

/// Work that a core was given.
struct Job {
    number: u64,
    /// When it is done, in the processor's own time.
    done: Duration,
}

impl Processor {
    /// Idle cores, 1 or more. `request` is the processor time of one request, `handshake` that of a TLS handshake if
    /// there is TLS.
    pub fn new(clock: Clock, cores: usize, request: Duration, handshake: Option<Duration>) -> Self {
        let state = State {
            own: Duration::ZERO,
            told: clock.now(),
            free_at: (0..cores.max(1)).map(|_| Reverse(Duration::ZERO)).collect(),
            factors: Vec::new(),
            waiting: BTreeMap::new(),
            next_job: 0,
        };
        Self { clock, request, greeting: handshake.unwrap_or(request), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.advance(self.clock.now());
        state
    }

    /// From now on everything takes `factor` times as long, what already waits too. Factors multiply.
    pub fn starve(&self, factor: f64) {
        self.change(|factors| factors.push(factor));
    }

    /// Takes one such factor back.
    pub fn feed(&self, factor: f64) {
        self.change(|factors| {
            if let Some(place) = factors.iter().position(|known| *known == factor) {
                factors.remove(place);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Vec<f64>)) {
        let waiting = {
            let mut state = self.state();
            change(&mut state.factors);
            std::mem::take(&mut state.waiting)
        };
        waiting.into_values().for_each(Waker::wake);
    }

    /// Gives the core that is free first this much work.
    fn book(&self, work: Duration) -> Job {
        let mut state = self.state();
        let own = state.own;
        let free_at = state.free_at.pop().map_or(own, |Reverse(free_at)| free_at.max(own));
        let done = free_at.saturating_add(work);
        state.free_at.push(Reverse(done));
        state.next_job += 1;
        Job { number: state.next_job, done }
    }

    /// How long it takes at the present pace until the work is done; `None` when it is.
    fn remaining(&self, job: &Job) -> Option<Duration> {
        let state = self.state();
        let own = job.done.checked_sub(state.own).filter(|own| !own.is_zero())?;
        // At least a nanosecond, which rounding may have swallowed.
        Some(own.mul_f64(state.factor()).max(Duration::from_nanos(1)))
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
    job: Job,
    sleep: Option<Sleep>,
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
        processor: &Processor,
        held: &mut Option<Held>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(waiting) = held else { return Poll::Ready(Ok(())) };
        if let Some(remaining) = processor.remaining(&waiting.job) {
            processor.state().waiting.insert(waiting.job.number, context.waker().clone());
            let mut sleep = processor.clock.sleep(remaining);
            // It is in the future: this registers the wake-up.
            let _ = Pin::new(&mut sleep).poll(context);
            waiting.sleep = Some(sleep);
            return Poll::Pending;
        }
        if waiting.sleep.take().is_some() {
            processor.state().waiting.remove(&waiting.job.number);
        }
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

impl Drop for BusyStream {
    fn drop(&mut self) {
        if let Some(held) = &self.held {
            self.processor.state().waiting.remove(&held.job.number);
        }
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
            return Self::hand_over(&this.processor, &mut this.held, context, buffer);
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
        let job = this.processor.book(work);
        let bytes = buffer.filled().get(before..).unwrap_or_default().to_vec();
        buffer.set_filled(before);
        this.held = Some(Held { bytes, read: 0, job, sleep: None });
        Self::hand_over(&this.processor, &mut this.held, context, buffer)
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
    fn work_waits_for_a_free_core_and_all_of_it_takes_longer_while_starved() {
        clock::run([0; 32], |clock| async move {
            let ms = Duration::from_millis;
            let processor = Processor::new(clock.clone(), 2, ms(1), None);
            let jobs = [1, 2, 3, 4].map(|n| processor.book(ms(n)));
            let left = |jobs: &[Job]| -> Vec<_> { jobs.iter().map(|job| processor.remaining(job)).collect() };
            assert_eq!(left(&jobs), [1, 2, 4, 6].map(|n| Some(ms(n))));
            clock.sleep_until(ms(2)).await;
            processor.starve(5.0);
            assert_eq!(left(&jobs), [None, None, Some(ms(10)), Some(ms(20))]);
            clock.sleep_until(ms(7)).await;
            assert_eq!(left(&jobs), [None, None, Some(ms(5)), Some(ms(15))]);
            processor.feed(5.0);
            assert_eq!(
                left(&jobs),
                [None, None, Some(ms(1)), Some(ms(3))],
                "the backlog is worked off at full pace"
            );
        })
        .unwrap();
    }
}
