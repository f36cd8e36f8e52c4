//! TCP connections over simulated links, as an application on Linux sees them.
//!
//! Place on the map: below the proxy's `server::serve` ([`Listener`]) and the KMS model's connections
//! ([`Network::connect`]); above [`link`](super::link).
//!
//! What is modelled: the three-way handshake with SYN retransmission after 1, 3, 7 … s (RFC 6298 and Linux's
//! `TCP_TIMEOUT_INIT`); refusal where nobody listens; loss and partitions as retransmission delay, first after the
//! retransmission time-out of RFC 6298 with Linux's floor of 200 ms, then doubling; head-of-line blocking; a FIN when
//! a process stops or dies and a reset for what is sent to it later; ETIMEDOUT when fifteen retransmissions found no
//! way (Linux's `tcp_retries2`). A write is one segment: requests and answers of this protocol fit a few packets. Not
//! modelled: windows, congestion control,
//! fast retransmit (it needs three later segments, which a request that waits for its answer never sends).

use super::link::{Fate, Link};
use super::packet::{Flow, Packet, PacketKind, Way};
use crate::clock::Clock;
use bytes::{Buf, Bytes};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// IPv4 and TCP headers with the timestamp option.
const HEADER_BYTES: usize = 52;
/// Linux's `TCP_RTO_MIN`.
const RTO_MIN: Duration = Duration::from_millis(200);
/// Linux's `TCP_TIMEOUT_INIT`: the first retransmission of a SYN.
const SYN_RTO: Duration = Duration::from_secs(1);
/// Linux's `TCP_RTO_MAX`.
const RTO_MAX: Duration = Duration::from_secs(120);
/// Linux's default `tcp_syn_retries`.
const SYN_RETRIES_MAX: u32 = 6;
/// Linux's default `tcp_retries2`.
const RETRIES_MAX: u32 = 15;
/// Connections that wait to be accepted; Linux's default `somaxconn`. A SYN beyond is dropped.
const BACKLOG_MAX: usize = 4_096;
/// Bytes on their way in one direction before a writer has to wait; Linux's default send buffer and window together.
const IN_TRANSIT_BYTES_MAX: usize = 256 * 1024;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The places that listen. Clones are the same network.
#[derive(Clone)]
pub struct Network {
    clock: Clock,
    listeners: Arc<Mutex<BTreeMap<Address, Arc<Mutex<Backlog>>>>>,
}

/// A place that can listen: the number of a proxy.
pub type Address = usize;

struct Backlog {
    /// By the time at which each can be accepted: a slow path does not hold up a fast one.
    waiting: VecDeque<(Duration, Stream)>,
    acceptor: Option<Waker>,
    /// The listener is gone: what it had not accepted is closed, and a SYN is refused.
    closed: bool,
}

impl Network {
    /// An empty network.
    pub fn new(clock: Clock) -> Self {
        Self { clock, listeners: Arc::default() }
    }

    /// Listens at an address. A second listener at the same address replaces the first.
    pub fn listen(&self, address: Address) -> Listener {
        let backlog =
            Arc::new(Mutex::new(Backlog { waiting: VecDeque::new(), acceptor: None, closed: false }));
        lock(&self.listeners).insert(address, Arc::clone(&backlog));
        Listener { clock: self.clock.clone(), backlog }
    }

    /// Opens a connection to `address` over `link`.
    ///
    /// # Errors
    /// `ConnectionRefused` where nobody listens, `TimedOut` when no SYN got through.
    pub async fn connect(&self, address: Address, link: Link) -> io::Result<Stream> {
        let mut rto = SYN_RTO;
        let mut flow = Flow::default();
        for _ in 0..=SYN_RETRIES_MAX {
            let sent = self.clock.now();
            let syn = Packet { bytes: HEADER_BYTES, kind: PacketKind::Syn };
            let fate = link.send(Way::There, syn, &mut flow, sent);
            if let Fate::Refused { after } = fate {
                self.clock.sleep(after).await;
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            if let Fate::Arrives { after: there, .. } = fate {
                self.clock.sleep(there).await;
                let backlog =
                    lock(&self.listeners).get(&address).filter(|backlog| !lock(backlog).closed).cloned();
                let full = backlog.as_ref().is_some_and(|backlog| lock(backlog).waiting.len() >= BACKLOG_MAX);
                let syn_ack = Packet { bytes: HEADER_BYTES, kind: PacketKind::SynAck };
                if !full
                    && let Fate::Arrives { after: back, .. } =
                        link.send(Way::Back, syn_ack, &mut flow, self.clock.now())
                {
                    self.clock.sleep(back).await;
                    let Some(backlog) = backlog else {
                        return Err(io::ErrorKind::ConnectionRefused.into());
                    };
                    let rtt = self.clock.now() - sent;
                    return self.established(&backlog, link, flow, rtt);
                }
            }
            self.clock.sleep_until(sent + rto).await;
            rto = (rto * 2).min(RTO_MAX);
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn established(
        &self,
        backlog: &Mutex<Backlog>,
        link: Link,
        flow: Flow,
        rtt: Duration,
    ) -> io::Result<Stream> {
        let connection = Arc::new(Connection {
            clock: self.clock.clone(),
            link,
            flow: Mutex::new(flow),
            rto: rto_after(rtt),
            to_server: Mutex::new(Direction::default()),
            to_client: Mutex::new(Direction::default()),
        });
        // The client's ACK makes the connection acceptable. If it is lost, the first request does the same.
        let acceptable = match connection.packet(Side::Client, 0) {
            Fate::Arrives { after, .. } => self.clock.now() + after,
            _ => self.clock.now() + rtt / 2,
        };
        let mut backlog = lock(backlog);
        if backlog.closed {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        // Left in place: another connection may become acceptable before this one does.
        let acceptor = backlog.acceptor.clone();
        let place = backlog.waiting.partition_point(|(earlier, _)| *earlier <= acceptable);
        let stream = Stream { connection: Arc::clone(&connection), side: Side::Server };
        backlog.waiting.insert(place, (acceptable, stream));
        drop(backlog);
        if let Some(waker) = acceptor {
            self.clock.wake_at(acceptable, waker);
        }
        Ok(Stream { connection, side: Side::Client })
    }
}

/// RFC 6298, 2.2, after the one measurement that the handshake gives: SRTT + max(G, 4 × SRTT / 2), with Linux's floor
/// applied to the variance part.
fn rto_after(rtt: Duration) -> Duration {
    rtt + (rtt * 2).max(RTO_MIN)
}

/// A listening socket of the simulated network.
pub struct Listener {
    clock: Clock,
    backlog: Arc<Mutex<Backlog>>,
}

impl Drop for Listener {
    /// The process has stopped listening, or has died.
    fn drop(&mut self) {
        let waiting = {
            let mut backlog = lock(&self.backlog);
            backlog.closed = true;
            std::mem::take(&mut backlog.waiting)
        };
        // Dropped outside the lock: each of them sends a FIN.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

struct Connection {
    clock: Clock,
    link: Link,
    flow: Mutex<Flow>,
    rto: Duration,
    to_server: Mutex<Direction>,
    to_client: Mutex<Direction>,
}

#[derive(Default)]
struct Direction {
    /// Sent and on their way, in order.
    in_transit: VecDeque<(Duration, Segment)>,
    /// Behind a lost segment, the lost one first: delivered in order once it has got through.
    blocked: VecDeque<Segment>,
    bytes: usize,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The sender has closed or died: nothing more can be written.
    closed: bool,
    /// The reader is gone: what arrives is answered with a reset.
    reader_gone: bool,
    broken: Option<io::ErrorKind>,
}

enum Segment {
    Data(Bytes),
    End,
    Reset,
}

impl Segment {
    fn len(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len(),
            Self::End | Self::Reset => 0,
        }
    }
}

impl Direction {
    /// What a reset that has arrived means to the side that got it: after a FIN Linux says EPIPE, else ECONNRESET.
    fn reset_arrived(&self, now: Duration) -> Option<io::ErrorKind> {
        let reset =
            |(arrives, segment): &(Duration, Segment)| *arrives <= now && matches!(segment, Segment::Reset);
        self.in_transit.iter().any(reset).then(|| {
            let ended = self.in_transit.iter().any(|(_, segment)| matches!(segment, Segment::End));
            if ended { io::ErrorKind::BrokenPipe } else { io::ErrorKind::ConnectionReset }
        })
    }
}

impl Connection {
    /// The direction in which `side` reads.
    fn incoming(&self, side: Side) -> &Mutex<Direction> {
        match side {
            Side::Client => &self.to_client,
            Side::Server => &self.to_server,
        }
    }

    /// The direction in which `side` writes.
    fn outgoing(&self, side: Side) -> &Mutex<Direction> {
        match side {
            Side::Client => &self.to_server,
            Side::Server => &self.to_client,
        }
    }

    fn send(self: &Arc<Self>, side: Side, segment: Segment) {
        let mut direction = lock(self.outgoing(side));
        direction.bytes += segment.len();
        if !direction.blocked.is_empty() {
            direction.blocked.push_back(segment);
            return;
        }
        match self.packet(side, segment.len()) {
            Fate::Arrives { after, .. } => self.in_transit(&mut direction, after, segment),
            Fate::Reset { after } => {
                drop(direction);
                self.reset_both(after);
            }
            Fate::Lost | Fate::Refused { .. } => {
                direction.blocked.push_back(segment);
                drop(direction);
                self.retransmit_after(side, self.rto, 1);
            }
        }
    }

    /// Sends one packet from `side`.
    fn packet(&self, side: Side, payload: usize) -> Fate {
        let way = match side {
            Side::Client => Way::There,
            Side::Server => Way::Back,
        };
        let bytes = if payload == 0 { 0 } else { payload + HEADER_BYTES };
        let packet = Packet { bytes, kind: PacketKind::Established };
        self.link.send(way, packet, &mut lock(&self.flow), self.clock.now())
    }

    /// A middlebox resets both ends.
    fn reset_both(&self, after: Duration) {
        for direction in [&self.to_client, &self.to_server] {
            let mut direction = lock(direction);
            direction.blocked.clear();
            self.in_transit(&mut direction, after, Segment::Reset);
        }
    }

    fn in_transit(&self, direction: &mut Direction, delay: Duration, segment: Segment) {
        let last = direction.in_transit.back().map_or(Duration::ZERO, |(arrives, _)| *arrives);
        let arrives = (self.clock.now() + delay).max(last);
        direction.in_transit.push_back((arrives, segment));
        if let Some(waker) = direction.reader.take() {
            self.clock.wake_at(arrives, waker);
        }
    }

    fn retransmit_after(self: &Arc<Self>, side: Side, rto: Duration, tries: u32) {
        // A strong reference: the kernel goes on retransmitting what a closed socket has left behind.
        let connection = Arc::clone(self);
        self.clock.call_at(self.clock.now() + rto, move || connection.retransmit(side, rto, tries));
    }

    fn retransmit(self: &Arc<Self>, side: Side, rto: Duration, tries: u32) {
        let mut direction = lock(self.outgoing(side));
        if direction.broken.is_some() {
            return;
        }
        let bytes = direction.blocked.front().map_or(0, Segment::len);
        match self.packet(side, bytes) {
            Fate::Arrives { after: delay, .. } => {
                while let Some(segment) = direction.blocked.pop_front() {
                    self.in_transit(&mut direction, delay, segment);
                }
            }
            Fate::Reset { after } => {
                drop(direction);
                self.reset_both(after);
            }
            _ if tries >= RETRIES_MAX => {
                drop(direction);
                self.break_off(io::ErrorKind::TimedOut);
            }
            Fate::Lost | Fate::Refused { .. } => {
                drop(direction);
                self.retransmit_after(side, (rto * 2).min(RTO_MAX), tries + 1);
            }
        }
    }

    /// Both sides see `kind` at once; used where the kernels of both have given up.
    fn break_off(&self, kind: io::ErrorKind) {
        for direction in [&self.to_client, &self.to_server] {
            let mut direction = lock(direction);
            direction.broken.get_or_insert(kind);
            direction.blocked.clear();
            for waker in [direction.reader.take(), direction.writer.take()].into_iter().flatten() {
                waker.wake();
            }
        }
    }
}

/// One end of a connection.
pub struct Stream {
    connection: Arc<Connection>,
    side: Side,
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = &self.connection;
        let mut direction = lock(connection.incoming(self.side));
        if let Some(kind) = direction.broken {
            return Poll::Ready(Err(kind.into()));
        }
        let now = connection.clock.now();
        let mut taken = 0;
        while buffer.remaining() > 0 {
            match direction.in_transit.front_mut() {
                Some((arrives, _)) if *arrives > now => {
                    if taken == 0 {
                        let arrives = *arrives;
                        connection.clock.wake_at(arrives, context.waker().clone());
                        return Poll::Pending;
                    }
                    break;
                }
                None if taken == 0 => {
                    direction.reader = Some(context.waker().clone());
                    return Poll::Pending;
                }
                None => break,
                Some((_, Segment::Data(bytes))) => {
                    let part = bytes.len().min(buffer.remaining());
                    buffer.put_slice(bytes.get(..part).unwrap_or_default());
                    bytes.advance(part);
                    taken += part;
                    if bytes.is_empty() {
                        direction.in_transit.pop_front();
                    }
                }
                Some((_, Segment::End | Segment::Reset)) if taken > 0 => break,
                Some((_, Segment::End | Segment::Reset)) => {
                    let Some(kind) = direction.reset_arrived(now) else { break };
                    direction.broken = Some(kind);
                    drop(direction);
                    lock(connection.outgoing(self.side)).broken = Some(kind);
                    return Poll::Ready(Err(kind.into()));
                }
            }
        }
        direction.bytes = direction.bytes.saturating_sub(taken);
        if direction.bytes < IN_TRANSIT_BYTES_MAX
            && let Some(waker) = direction.writer.take()
        {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let reset = lock(self.connection.incoming(self.side)).reset_arrived(self.connection.clock.now());
        if let Some(kind) = reset {
            lock(self.connection.outgoing(self.side)).broken = Some(kind);
        }
        {
            let mut direction = lock(self.connection.outgoing(self.side));
            if let Some(kind) = direction.broken {
                return Poll::Ready(Err(kind.into()));
            }
            if direction.closed {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if direction.reader_gone {
                // The peer's kernel answers with a reset; until it arrives this side can still write.
                drop(direction);
                self.peer_resets();
                return Poll::Ready(Ok(data.len()));
            }
            if direction.bytes >= IN_TRANSIT_BYTES_MAX {
                direction.writer = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
        self.connection.send(self.side, Segment::Data(Bytes::copy_from_slice(data)));
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close();
        Poll::Ready(Ok(()))
    }
}

impl Stream {
    /// Sends a FIN, once.
    fn close(&self) {
        {
            let mut direction = lock(self.connection.outgoing(self.side));
            if direction.closed || direction.broken.is_some() {
                return;
            }
            direction.closed = true;
        }
        self.connection.send(self.side, Segment::End);
    }

    fn peer_resets(&self) {
        let other = match self.side {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        if let Fate::Arrives { after: there, .. } = self.connection.packet(self.side, 0)
            && let Fate::Arrives { after: back, .. } = self.connection.packet(other, 0)
        {
            let mut incoming = lock(self.connection.incoming(self.side));
            self.connection.in_transit(&mut incoming, there + back, Segment::Reset);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close();
        let writer = {
            let mut direction = lock(self.connection.incoming(self.side));
            direction.reader_gone = true;
            direction.writer.take()
        };
        // Nobody will ever read what the peer waits to see read.
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}
