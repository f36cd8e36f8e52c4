//! A connection: both of its kernels, and the link between them.
//!
//! Place on the map: made by [`handshake`](super::handshake), written and read through [`stream`](super::stream). Each
//! segment's fate is known when it is sent, and so is, as a rule, its acknowledgement's: while nothing is lost, the
//! only event is the reader's. A [`sender`](super::sender) is woken only where something is lost or late.

use super::listener::Backlog;
use super::lock;
use super::receiver::{DELAYED_ACK, Manner, Receiver};
use super::segment::{HEADER_BYTES, Segment, Side};
use super::sender::{Ack, Fired, Next, Sender};
use super::stream::Stream;
use crate::clock::Clock;
use crate::net::capture::Wire;
use crate::net::link::{Fate, Link};
use crate::net::packet::{Flow, Packet, PacketKind};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// See the module.
pub(super) struct Connection {
    pub(super) clock: Clock,
    link: Link,
    state: Mutex<State>,
    /// Where its packets are written down, if anywhere.
    wire: Option<Wire>,
}

/// A packet without data.
#[derive(Clone, Copy)]
pub(super) enum Bare {
    /// An acknowledgement.
    Ack,
    /// An acknowledgement that has waited for data to ride on: a capture has heard of it when it began to wait.
    DelayedAck,
    SynAck,
    Reset,
}

/// What the kernels of both ends hold.
pub(super) struct State {
    flow: Flow,
    client: End,
    server: End,
    /// The listener whose acceptor does not know of the connection yet, because the client's ACK was lost.
    unaccepted: Option<Arc<Mutex<Backlog>>>,
    /// It can be accepted from this time on.
    accept_at: Option<Duration>,
}

/// One of the kernels.
pub(super) struct End {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    /// What the process is told when it reads or writes.
    pub(super) broken: Option<io::ErrorKind>,
    /// The process has closed the socket, or has died.
    pub(super) gone: bool,
}

impl End {
    fn new(round_trip: Duration) -> Self {
        Self { sender: Sender::new(round_trip), receiver: Receiver::default(), broken: None, gone: false }
    }

    /// Takes note of a reset that has arrived: after a FIN Linux says EPIPE, else ECONNRESET.
    pub(super) fn notice_reset(&mut self, now: Duration) -> Option<io::ErrorKind> {
        if self.broken.is_none() && self.receiver.reset.is_some_and(|at| at <= now) {
            self.broken = Some(if self.receiver.ended(now) {
                io::ErrorKind::BrokenPipe
            } else {
                io::ErrorKind::ConnectionReset
            });
            self.sender.clear();
        }
        self.broken
    }

    fn wake(&mut self) {
        for waker in [self.receiver.reader.take(), self.sender.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl State {
    pub(super) fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }
}

impl Connection {
    /// A connection whose client has just got the SYN-ACK; `round_trip` is what both ends have measured.
    pub(super) fn new(
        clock: Clock,
        link: Link,
        flow: Flow,
        round_trip: Duration,
        wire: Option<Wire>,
    ) -> Arc<Self> {
        Arc::new(Self {
            clock,
            link,
            wire,
            state: Mutex::new(State {
                flow,
                client: End::new(round_trip),
                server: End::new(round_trip),
                unaccepted: None,
                accept_at: None,
            }),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The fate of a packet without data that `side` sends at `at`.
    pub(super) fn bare(&self, state: &mut State, side: Side, what: Bare, at: Duration) -> Fate {
        let kind = match what {
            Bare::SynAck => PacketKind::SynAck,
            Bare::Ack | Bare::DelayedAck | Bare::Reset => PacketKind::Established,
        };
        let fate = self.link.send(side.way(), Packet { bytes: 0, kind }, &mut state.flow, at);
        if let Some(wire) = &self.wire {
            match what {
                Bare::Ack => wire.ack(side, at, &fate),
                Bare::DelayedAck => {}
                Bare::SynAck => wire.syn_ack(at, &fate),
                Bare::Reset => wire.reset(side, at, &fate),
            }
        }
        fate
    }

    /// The client's ACK was lost: `backlog` gets the connection with the first data, or when the ACK of a SYN-ACK sent
    /// again arrives.
    pub(super) fn accept_later(&self, backlog: Arc<Mutex<Backlog>>) {
        self.state().unaccepted = Some(backlog);
    }

    /// The ACK of a repeated SYN-ACK arrives at `at`.
    pub(super) fn accept(self: &Arc<Self>, at: Duration) {
        let mut state = self.state();
        state.accept_at = Some(at);
        self.finish(state);
    }

    /// Whether the server's kernel still waits for the client's ACK.
    pub(super) fn is_unaccepted(&self) -> bool {
        self.state().unaccepted.is_some()
    }

    /// Lets `side` send what it has in its queue, as far as its window goes.
    pub(super) fn send(self: &Arc<Self>, mut state: MutexGuard<'_, State>, side: Side) {
        let now = self.clock.now();
        self.settle(&mut state, side, now);
        self.pump(&mut state, side, now);
        self.finish(state);
    }

    fn pump(&self, state: &mut State, side: Side, now: Duration) {
        while let Some(next) = state.end(side).sender.next_to_send(now) {
            match next {
                Next::New(number) | Next::Again(number) => self.transmit(state, side, number, now),
            }
        }
    }

    /// Sends one segment in flight, for the first time or again.
    fn transmit(&self, state: &mut State, side: Side, number: u64, now: Duration) {
        // Its acknowledgement number stands for everything that has arrived here. What has waited too long for that has
        // been acknowledged without data.
        self.settle_delayed(state, side.other(), now);
        state.end(side).receiver.sends(now);
        let Some(payload) = state.end(side).sender.in_flight(number).map(|it| it.bytes) else { return };
        let packet = Packet { bytes: payload + HEADER_BYTES, kind: PacketKind::Established };
        let fate = self.link.send(side.way(), packet, &mut state.flow, now);
        if let Some(wire) = &self.wire {
            let segment = state.end(side).sender.in_flight(number).and_then(|it| it.segment.as_ref());
            wire.segment(side, number, || segment.and_then(Segment::payload).cloned(), now, &fate);
        }
        match fate {
            Fate::Arrives { after, again } => {
                state.end(side.other()).sender.acknowledged(now, now + after);
                self.deliver(state, side, number, now, after);
                // What is there already is acknowledged at once, with all that has arrived (RFC 9293, 3.10.7.4).
                if let Some(again) = again {
                    self.acknowledge(state, side, Bare::Ack, now + again);
                }
            }
            Fate::Lost | Fate::Refused { .. } => state.end(side.other()).sender.acknowledgement_lost(now),
            Fate::Reset { after } => {
                self.reset(state, Side::Client, now + after);
                self.reset(state, Side::Server, now + after);
            }
        }
    }

    /// A segment sent at `now` gets to the other end.
    fn deliver(&self, state: &mut State, side: Side, number: u64, now: Duration, after: Duration) {
        let arrives = now + after;
        let peer = side.other();
        if state.unaccepted.is_some() && side == Side::Client {
            state.accept_at = Some(arrives);
        }
        let dead = {
            let end = state.end(peer);
            end.gone || end.notice_reset(now).is_some()
        };
        let idle = state.end(side).sender.time_out();
        let Some(segment) = state.end(side).sender.in_flight(number) else { return };
        if dead && matches!(segment.segment, Some(Segment::Data(_))) {
            // Nobody is there to read it: that kernel answers with a reset.
            if let Fate::Arrives { after, .. } = self.bare(state, peer, Bare::Reset, arrives) {
                self.reset(state, side, arrives + after);
            }
            return;
        }
        let (bytes, known) = (segment.bytes, segment.arrives);
        let first = segment.segment.take();
        if known.is_none_or(|known| arrives < known) {
            (segment.arrives, segment.delivered_sent) = (Some(arrives), now);
        } else {
            segment.copy = Some((now, arrives));
        }
        let manner = match (first, known) {
            (Some(segment), _) => {
                let taken = state.end(peer).receiver.take(number, arrives, segment);
                self.wake_reader(state, peer, taken.readable);
                let own = &state.end(side).sender;
                let waiting: usize =
                    own.flight().filter(|it| it.ack == Ack::Delayed).map(|it| it.bytes).sum();
                let manner = state.end(peer).receiver.manner(arrives, waiting + bytes, idle);
                if taken.plain { manner } else { Manner::Quick }
            }
            (None, Some(known)) if arrives < known => {
                let readable = state.end(peer).receiver.sooner(number, arrives);
                self.wake_reader(state, peer, readable);
                Manner::Quick
            }
            // A copy of what is there already.
            _ => Manner::Quick,
        };
        if manner == Manner::Quick {
            self.acknowledge(state, side, Bare::Ack, arrives);
        } else if let Some(segment) = state.end(side).sender.in_flight(number) {
            segment.ack = Ack::Delayed;
            if let Some(wire) = &self.wire {
                wire.delayed_ack(peer, arrives + DELAYED_ACK);
            }
        }
        // While a partition keeps acknowledgements from coming back, or they take their time, the sender must look.
        let late = after * 2 + DELAYED_ACK > idle;
        if late || (manner == Manner::Delayed && self.link.is_cut(peer.way())) {
            state.end(side).sender.watch = true;
        }
    }

    /// The receiver of what `side` sends acknowledges, at `at`, everything that has arrived.
    fn acknowledge(&self, state: &mut State, side: Side, how: Bare, at: Duration) {
        match self.bare(state, side.other(), how, at) {
            Fate::Arrives { after, .. } => state.end(side).sender.acknowledged(at, at + after),
            _ => state.end(side).sender.acknowledgement_lost(at),
        }
    }

    /// Acknowledgements of what `side` has sent, that have waited in vain for data to ride on.
    fn settle_delayed(&self, state: &mut State, side: Side, now: Duration) {
        while let Some(sent_at) = state.end(side).sender.delayed_since().map(|since| since + DELAYED_ACK)
            && sent_at <= now
        {
            state.end(side.other()).receiver.waited_in_vain();
            self.acknowledge(state, side, Bare::DelayedAck, sent_at);
        }
    }

    fn settle(&self, state: &mut State, side: Side, now: Duration) {
        self.settle_delayed(state, side, now);
        state.end(side).sender.settle(now);
    }

    fn wake_reader(&self, state: &mut State, side: Side, readable: Option<Duration>) {
        if let Some(at) = readable
            && let Some(waker) = state.end(side).receiver.reader.take()
        {
            self.clock.wake_at(at, waker);
        }
    }

    /// A reset gets to `side` at `at`.
    fn reset(&self, state: &mut State, side: Side, at: Duration) {
        let end = state.end(side);
        end.receiver.reset = Some(end.receiver.reset.map_or(at, |earlier| earlier.min(at)));
        for waker in [end.receiver.reader.clone(), end.sender.writer.clone()].into_iter().flatten() {
            self.clock.wake_at(at, waker);
        }
    }

    /// The process on `side` closes its socket or dies. What nobody will read is answered with a reset; else a FIN goes
    /// out.
    pub(super) fn close(self: &Arc<Self>, side: Side) {
        let now = self.clock.now();
        let mut state = self.state();
        let end = state.end(side);
        end.gone = true;
        let unread = end.receiver.unread();
        if end.notice_reset(now).is_some() {
            return;
        }
        if let Some(at) = unread {
            let at = at.max(now);
            if let Fate::Arrives { after, .. } = self.bare(&mut state, side, Bare::Reset, at) {
                self.reset(&mut state, side.other(), at + after);
            }
            if at <= now {
                let end = state.end(side);
                end.broken = Some(io::ErrorKind::ConnectionReset);
                end.sender.clear();
                return;
            }
        }
        self.end_stream(state, side);
    }

    /// Nothing that `side` sends gets anywhere from now on.
    pub(super) fn vanish(&self, side: Side) {
        let mut state = self.state();
        let end = state.end(side);
        (end.gone, end.broken) = (true, Some(io::ErrorKind::TimedOut));
        end.sender.clear();
    }

    /// Sends a FIN, once.
    pub(super) fn end_stream(self: &Arc<Self>, mut state: MutexGuard<'_, State>, side: Side) {
        let end = state.end(side);
        if end.sender.closed || end.broken.is_some() {
            return;
        }
        end.sender.closed = true;
        end.sender.write(Segment::End);
        self.send(state, side);
    }

    /// Arms what has to be armed, and hands the connection to its acceptor, outside the lock.
    fn finish(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let now = self.clock.now();
        let mut events = [None, None];
        for (event, side) in events.iter_mut().zip([Side::Client, Side::Server]) {
            let sender = &mut state.end(side).sender;
            if let Some(at) = sender.next_event(now)
                && sender.scheduled.is_none_or(|known| at < known)
            {
                sender.scheduled = Some(at);
                *event = Some((at, side));
            }
        }
        let accept = state.accept_at.and_then(|at| Some((at, state.unaccepted.take()?)));
        drop(state);
        for (at, side) in events.into_iter().flatten() {
            // A strong reference: the kernel goes on retransmitting what a closed socket has left behind.
            let connection = Arc::clone(self);
            self.clock.call_at(at, move || connection.event(side, at));
        }
        if let Some((at, backlog)) = accept {
            let stream = Stream::new(Arc::clone(self), Side::Server);
            Backlog::put(&backlog, &self.clock, at, stream);
        }
    }

    /// A sender's timer, or an acknowledgement that it waits for.
    fn event(self: &Arc<Self>, side: Side, at: Duration) {
        let mut state = self.state();
        if state.end(side).sender.scheduled != Some(at) {
            return;
        }
        state.end(side).sender.scheduled = None;
        if state.end(side).notice_reset(at).is_some() {
            return;
        }
        self.settle(&mut state, side, at);
        let orphan = state.end(side).gone;
        match state.end(side).sender.fire(at, orphan) {
            Fired::Probe(number) => self.transmit(&mut state, side, number, at),
            Fired::GivenUp => {
                // The other end is not told: it holds a half-open connection.
                let end = state.end(side);
                end.broken = Some(io::ErrorKind::TimedOut);
                end.sender.clear();
                end.wake();
                return;
            }
            Fired::Nothing | Fired::TimeOut => {}
        }
        self.pump(&mut state, side, at);
        self.finish(state);
    }
}
