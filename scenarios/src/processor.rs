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

use crate::clock::Clock;
use crate::net::tcp;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use xks_proxy::server::Listen;

/// Hand-overs that are remembered for who looks: more than there are requests in flight.
const HANDED_OVER_MAX: usize = 4_096;

/// The cores of one host.
pub struct Processor {
    clock: Clock,
    request: Duration,
    greeting: Duration,
    state: Mutex<State>,
}

/// All in the processor's own time, which passes more slowly while it is starved.
struct State {
    /// Its own time now.
    own: Duration,
    /// Its own time, and the run's, when the pace last changed. Its time is reckoned from there and not step by step,
    /// for each step would lose a fraction of a nanosecond.
    since: (Duration, Duration),
    cores: usize,
    /// What the cores are doing, by job, and when each will have done it.
    running: BTreeMap<u64, Duration>,
    /// Jobs that wait for a core, in order, with the work of each.
    queue: BTreeMap<u64, Duration>,
    /// Who waits for a job.
    waiting: BTreeMap<u64, Waker>,
    next_job: u64,
    /// How many times as long everything takes, for each fault in force.
    factors: Vec<f64>,
    /// For who looks where the time went: when what had arrived was handed over, and how long that took. `None` if nobody
    /// looks.
    handed_over: Option<VecDeque<(Duration, Duration)>>,
}

impl State {
    fn factor(&self) -> f64 {
        self.factors.iter().product()
    }

    fn advance(&mut self, now: Duration) {
        let (own, told) = self.since;
        let passed = now.saturating_sub(told);
        self.own = own + if self.factors.is_empty() { passed } else { passed.div_f64(self.factor()) };
    }

    fn change(&mut self, now: Duration, change: impl FnOnce(&mut Vec<f64>)) {
        self.since = (self.own, now);
        change(&mut self.factors);
    }

    /// How long it takes at the present pace until a core has done what it is doing.
    fn next_done(&self) -> Option<Duration> {
        let done = self.running.values().min()?.saturating_sub(self.own);
        Some(done.mul_f64(self.factor()).max(Duration::from_nanos(1)))
    }

    /// Ends what is done and begins what waits; hands back whom to wake.
    fn turn(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        // What is less than a nanosecond away is done: rounding may have swallowed the rest.
        let own = self.own + Duration::from_nanos(1);
        let done: Vec<u64> =
            self.running.iter().filter(|(_, done)| **done <= own).map(|(job, _)| *job).collect();
        for job in done {
            self.running.remove(&job);
            woken.extend(self.waiting.remove(&job));
        }
        while self.running.len() < self.cores
            && let Some((job, work)) = self.queue.pop_first()
        {
            self.running.insert(job, self.own.saturating_add(work));
        }
        woken
    }
}

impl Processor {
    /// Idle cores, 1 or more. `request` is the processor time of one request, `handshake` that of a TLS handshake if
    /// there is TLS.
    pub fn new(clock: Clock, cores: usize, request: Duration, handshake: Option<Duration>) -> Self {
        let state = State {
            own: Duration::ZERO,
            since: (Duration::ZERO, clock.now()),
            cores: cores.max(1),
            running: BTreeMap::new(),
            queue: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_job: 0,
            factors: Vec::new(),
            handed_over: None,
        };
        Self { clock, request, greeting: handshake.unwrap_or(request), state: Mutex::new(state) }
    }

    /// From now on [`waited_for_one_begun`](Self::waited_for_one_begun) can tell.
    pub(crate) fn watch(&self) {
        self.state().handed_over = Some(VecDeque::new());
    }

    /// How long the request waited for a core and had it, that the proxy began to serve so long ago; `None` when that is not
    /// known. Each is told once.
    pub(crate) fn waited_for_one_begun(&self, ago: Duration) -> Option<Duration> {
        let began = self.clock.now().checked_sub(ago)?;
        let mut state = self.state();
        let handed_over = state.handed_over.as_mut()?;
        let place = handed_over.iter().rposition(|(at, _)| *at == began)?;
        handed_over.remove(place).map(|(_, waited)| waited)
    }

    fn note_handed_over(&self, arrived: Duration) {
        let now = self.clock.now();
        if let Some(handed_over) = &mut self.state().handed_over {
            if handed_over.len() >= HANDED_OVER_MAX {
                handed_over.pop_front();
            }
            handed_over.push_back((now, now.saturating_sub(arrived)));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.advance(self.clock.now());
        state
    }

    /// Requests and handshakes that wait for a core.
    pub fn waiting(&self) -> usize {
        self.state().queue.len()
    }

    /// From now on everything takes `factor` times as long, what already waits too. Factors multiply.
    pub fn starve(self: &Arc<Self>, factor: f64) {
        self.state().change(self.clock.now(), |factors| factors.push(factor));
        self.turn();
    }

    /// Takes one such factor back.
    pub fn feed(self: &Arc<Self>, factor: f64) {
        self.state().change(self.clock.now(), |factors| {
            if let Some(place) = factors.iter().position(|known| *known == factor) {
                factors.remove(place);
            }
        });
        self.turn();
    }

    /// Looks what is done, and arranges to look again when the next will be.
    fn turn(self: &Arc<Self>) {
        let (woken, next) = {
            let mut state = self.state();
            (state.turn(), state.next_done())
        };
        woken.into_iter().for_each(Waker::wake);
        if let Some(next) = next {
            let processor = Arc::downgrade(self);
            self.clock.call_at(self.clock.now() + next, move || {
                if let Some(processor) = processor.upgrade() {
                    processor.turn();
                }
            });
        }
    }

    /// Gives the core that is free first this much work.
    fn book(self: &Arc<Self>, work: Duration) -> u64 {
        let (job, begins) = {
            let mut state = self.state();
            state.next_job += 1;
            let job = state.next_job;
            state.queue.insert(job, work);
            (job, state.running.len() < state.cores)
        };
        if begins {
            self.turn();
        }
        job
    }

    /// Whether it is done; if not, `waker` is woken when it is.
    fn is_done(&self, job: u64, waker: &Waker) -> bool {
        let mut state = self.state();
        let done = !state.running.contains_key(&job) && !state.queue.contains_key(&job);
        if !done {
            state.waiting.insert(job, waker.clone());
        }
        done
    }

    /// Nobody wants it any more. A core that has begun it goes on with it.
    fn cancel(&self, job: u64) {
        let mut state = self.state();
        state.queue.remove(&job);
        state.waiting.remove(&job);
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
    job: u64,
    arrived: Duration,
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
        if !processor.is_done(waiting.job, context.waker()) {
            return Poll::Pending;
        }
        if waiting.read == 0 {
            processor.note_handed_over(waiting.arrived);
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
            self.processor.cancel(held.job);
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
        this.held = Some(Held { bytes, read: 0, job, arrived: this.processor.clock.now() });
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

    /// When each job was done, in milliseconds; one that is cancelled never is.
    fn done_at(
        cores: usize,
        jobs_ms: &'static [u64],
        meanwhile: impl AsyncFnOnce(&Clock, &Arc<Processor>, &[u64]) + 'static,
    ) -> Vec<Option<u128>> {
        clock::run([0; 32], |clock| async move {
            let processor = Arc::new(Processor::new(clock.clone(), cores, Duration::from_millis(1), None));
            let jobs: Vec<u64> =
                jobs_ms.iter().map(|ms| processor.book(Duration::from_millis(*ms))).collect();
            let waiting: Vec<_> = jobs
                .iter()
                .map(|job| {
                    let (clock, processor, job) = (clock.clone(), Arc::clone(&processor), *job);
                    tokio::task::spawn_local(async move {
                        std::future::poll_fn(|context| {
                            if processor.is_done(job, context.waker()) {
                                Poll::Ready(())
                            } else {
                                Poll::Pending
                            }
                        })
                        .await;
                        clock.now().as_millis()
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            meanwhile(&clock, &processor, &jobs).await;
            clock.sleep_until(Duration::from_secs(1)).await;
            let mut done = Vec::new();
            for task in waiting {
                done.push(if task.is_finished() { task.await.ok() } else { None });
            }
            done
        })
        .unwrap()
    }

    #[test]
    fn work_waits_for_a_free_core() {
        let done = done_at(2, &[1, 2, 3, 4], async |_, _, _| {});
        assert_eq!(done, [Some(1), Some(2), Some(4), Some(6)]);
    }

    #[test]
    fn all_of_it_takes_longer_while_starved_and_the_backlog_is_worked_off_at_full_pace() {
        let done = done_at(2, &[1, 2, 3, 4], async |clock, processor, _| {
            clock.sleep_until(Duration::from_millis(2)).await;
            processor.starve(5.0);
            // Two of four, and four of four milliseconds are left.
            clock.sleep_until(Duration::from_millis(7)).await;
            processor.feed(5.0);
        });
        assert_eq!(done, [Some(1), Some(2), Some(8), Some(10)]);
    }

    #[test]
    fn work_that_nobody_wants_any_more_is_not_done() {
        let done = done_at(1, &[5, 100, 5], async |_, processor, jobs| processor.cancel(jobs[1]));
        assert_eq!(done, [Some(5), None, Some(10)]);
    }
}
