//! TCP connections over simulated links, as an application on Linux sees them.
//!
//! Place on the map: below the proxy's `server::serve` ([`Listener`]) and the KMS model's connections
//! ([`Network::connect`]); above [`link`](super::link).
//!
//! What is modelled, with the defaults of Linux 6.5 and later: the three-way handshake, with the SYN sent again after
//! 1, 2, 3, 4, 5, 7, 11 … s and the SYN-ACK after 1, 3, 7 … s; refusal where nobody listens; segments of an Ethernet
//! frame; immediate and delayed acknowledgements as far as they show in measured round trips; retransmission after the
//! time-out of RFC 6298 with a floor of 200 ms for the variance, doubling up to 120 s; tail loss probes and loss
//! detection by time of RFC 8985; slow start, congestion avoidance and recovery as far as they cost round trips;
//! head-of-line blocking; an acknowledgement for each copy that arrives; a FIN when a process stops or dies and a reset
//! for what is sent to it later or was left unread; ETIMEDOUT when nobody answers for fifteen doublings, of which the
//! other end learns nothing. Not modelled: Nagle's algorithm (HTTP implementations turn it off), pacing, keep-alive
//! probes, the timers' granularity of 1 to 4 ms, undoing a window narrowed for nothing.

mod connection;
mod handshake;
mod listener;
mod receiver;
mod rtt;
mod segment;
mod sender;
mod stream;

pub use listener::Listener;
pub use stream::Stream;

pub(in crate::net) use segment::Side;

use super::capture::Capture;
use super::link::Link;
use crate::clock::Clock;
use listener::Backlog;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The places that listen. Clones are the same network.
#[derive(Clone)]
pub struct Network {
    clock: Clock,
    listeners: Arc<Mutex<BTreeMap<Address, Arc<Mutex<Backlog>>>>>,
    capture: Option<Capture>,
    /// The proxy that opens connections through this clone; `None` is KMS or the load balancer.
    proxy: Option<usize>,
}

/// A place that can listen: the number of a proxy.
pub type Address = usize;

impl Network {
    /// An empty network.
    pub fn new(clock: Clock) -> Self {
        Self { clock, listeners: Arc::default(), capture: None, proxy: None }
    }

    /// The same network, whose packets go into a capture too.
    #[must_use]
    pub fn captured_by(mut self, capture: Capture) -> Self {
        self.capture = Some(capture);
        self
    }

    /// The same network as a proxy uses it; a capture shows which.
    #[must_use]
    pub fn of_proxy(&self, proxy: usize) -> Self {
        Self { proxy: Some(proxy), ..self.clone() }
    }

    /// The time of this network.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Listens at an address. A second listener at the same address replaces the first.
    pub fn listen(&self, address: Address) -> Listener {
        let backlog: Arc<Mutex<Backlog>> = Arc::default();
        lock(&self.listeners).insert(address, Arc::clone(&backlog));
        Listener::new(self.clock.clone(), backlog)
    }

    /// Opens a connection to `address` over `link`.
    ///
    /// # Errors
    /// `ConnectionRefused` where nobody listens, `TimedOut` when no SYN got through within 131 s, `ConnectionReset`
    /// when the listener was closed meanwhile.
    pub async fn connect(&self, address: Address, link: Link) -> io::Result<Stream> {
        handshake::open(self, address, link).await
    }
}
