//! Opening a connection: SYN, SYN-ACK, ACK, each sent again where it is lost.
//!
//! Place on the map: the work of [`Network::connect`](super::Network::connect).

use super::connection::{Bare, Connection};
use super::listener::Backlog;
use super::rtt::RTO_INITIAL;
use super::segment::{HEADER_BYTES, Side};
use super::stream::Stream;
use super::{Address, Network, lock};
use crate::net::capture::Wire;
use crate::net::link::{Fate, Link};
use crate::net::packet::{Flow, Packet, PacketKind, Way};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Linux's default `tcp_syn_linear_timeouts`: so many times a SYN is sent again after the same time.
const SYN_LINEAR: u32 = 4;
/// That, and Linux's default `tcp_syn_retries`.
const SYN_RETRIES_MAX: u32 = SYN_LINEAR + 6;
/// Linux's default `tcp_synack_retries`.
const SYN_ACK_RETRIES_MAX: u32 = 5;

/// What happens next, at one end or the other.
enum Step {
    /// The client sends its SYN for this time, counted from 0.
    Syn(u32),
    /// A SYN sent at this time gets to the server.
    SynArrives(Duration),
    /// The server's timer for the SYN-ACK, for this time, in answer to a SYN sent then.
    SynAck(u32, Duration),
    /// A SYN-ACK gets to the client, in answer to a SYN sent at this time.
    Answered(Duration),
    /// A reset gets to the client.
    Refused,
}

/// How long after the SYN sent for this time, counted from 0, the next follows: 1 s five times, then twice as long each
/// time.
fn syn_time_out(times: u32) -> Duration {
    RTO_INITIAL * (1 << times.saturating_sub(SYN_LINEAR))
}

struct Opening<'a> {
    network: &'a Network,
    address: Address,
    link: &'a Link,
    flow: Flow,
    wire: Option<&'a Wire>,
    /// Few enough to search.
    steps: Vec<(Duration, Step)>,
    /// The server holds the request open.
    requested: Option<Arc<Mutex<Backlog>>>,
}

impl Opening<'_> {
    fn packet(&mut self, way: Way, kind: PacketKind, now: Duration) -> Fate {
        self.link.send(way, Packet { bytes: HEADER_BYTES, kind }, &mut self.flow, now)
    }

    fn capture(&self, tell: impl FnOnce(&Wire)) {
        if let Some(wire) = self.wire {
            tell(wire);
        }
    }

    fn send_syn(&mut self, times: u32, now: Duration) {
        let fate = self.packet(Way::There, PacketKind::Syn, now);
        self.capture(|wire| wire.syn(now, &fate));
        match fate {
            Fate::Arrives { after, .. } => self.steps.push((now + after, Step::SynArrives(now))),
            Fate::Refused { after } | Fate::Reset { after } => self.steps.push((now + after, Step::Refused)),
            Fate::Lost => {}
        }
        self.steps.push((now + syn_time_out(times), Step::Syn(times + 1)));
    }

    fn syn_arrives(&mut self, sent: Duration, now: Duration) {
        let listening = lock(&self.network.listeners).get(&self.address).cloned();
        let Some(backlog) = listening.filter(|backlog| !lock(backlog).closed) else {
            self.requested = None;
            let fate = self.packet(Way::Back, PacketKind::SynAck, now);
            self.capture(|wire| wire.refusal(now, &fate));
            if let Fate::Arrives { after, .. } = fate {
                self.steps.push((now + after, Step::Refused));
            }
            return;
        };
        if lock(&backlog).is_full() {
            return;
        }
        // A SYN for a request that is known is answered too, beside the timer.
        if self.requested.replace(backlog).is_none() {
            self.steps.push((now + RTO_INITIAL, Step::SynAck(1, sent)));
        }
        self.send_syn_ack(sent, now);
    }

    fn send_syn_ack(&mut self, syn_sent: Duration, now: Duration) {
        let fate = self.packet(Way::Back, PacketKind::SynAck, now);
        self.capture(|wire| wire.syn_ack(now, &fate));
        if let Fate::Arrives { after, .. } = fate {
            self.steps.push((now + after, Step::Answered(syn_sent)));
        }
    }

    fn syn_ack_timer(&mut self, times: u32, syn_sent: Duration, now: Duration) {
        if times > SYN_ACK_RETRIES_MAX {
            self.requested = None;
            return;
        }
        self.send_syn_ack(syn_sent, now);
        self.steps.push((now + RTO_INITIAL * (1 << times), Step::SynAck(times + 1, syn_sent)));
    }

    /// The first of the steps ahead.
    fn next(&mut self) -> Option<(Duration, Step)> {
        let first = self.steps.iter().enumerate().min_by_key(|(_, (at, _))| *at)?.0;
        Some(self.steps.remove(first))
    }
}

/// See [`Network::connect`].
pub(super) async fn open(network: &Network, address: Address, link: Link) -> io::Result<Stream> {
    let clock = &network.clock;
    let wire = network.capture.as_ref().map(|capture| capture.open(network.proxy, address));
    let mut opening = Opening {
        network,
        address,
        link: &link,
        flow: Flow::default(),
        wire: wire.as_ref(),
        steps: Vec::new(),
        requested: None,
    };
    opening.send_syn(0, clock.now());
    while let Some((at, step)) = opening.next() {
        clock.sleep_until(at).await;
        match step {
            Step::Syn(times) if times > SYN_RETRIES_MAX => return Err(io::ErrorKind::TimedOut.into()),
            Step::Syn(times) => opening.send_syn(times, at),
            Step::SynArrives(sent) => opening.syn_arrives(sent, at),
            Step::SynAck(times, syn_sent) => opening.syn_ack_timer(times, syn_sent, at),
            Step::Refused => return Err(io::ErrorKind::ConnectionRefused.into()),
            Step::Answered(syn_sent) => {
                let (flow, requested) = (opening.flow, opening.requested.take());
                let backlog = requested.filter(|backlog| !lock(backlog).closed);
                let backlog = backlog.ok_or(io::ErrorKind::ConnectionReset)?;
                let connection = Connection::new(clock.clone(), link, flow, at - syn_sent, wire);
                return Ok(established(connection, backlog, at - syn_sent));
            }
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// The client has the SYN-ACK and sends its ACK, which makes the connection acceptable.
fn established(connection: Arc<Connection>, backlog: Arc<Mutex<Backlog>>, round_trip: Duration) -> Stream {
    let now = connection.clock.now();
    let fate = connection.bare(&mut connection.state(), Side::Client, Bare::Ack, now);
    connection.accept_later(backlog);
    match fate {
        Fate::Arrives { after, .. } => connection.accept(now + after),
        // The server's timer began when the SYN-ACK left, half a round trip ago.
        _ => answer_again(&connection, (now + RTO_INITIAL).saturating_sub(round_trip / 2), 1),
    }
    Stream::new(connection, Side::Client)
}

/// At `at` the server sends its SYN-ACK again, unless it has heard from the client; the client acknowledges it.
fn answer_again(connection: &Arc<Connection>, at: Duration, times: u32) {
    let (clock, connection) = (connection.clock.clone(), Arc::clone(connection));
    clock.call_at(at, move || {
        if times > SYN_ACK_RETRIES_MAX || !connection.is_unaccepted() {
            return;
        }
        let ack = {
            let mut state = connection.state();
            match connection.bare(&mut state, Side::Server, Bare::SynAck, at) {
                Fate::Arrives { after, .. } => {
                    let there = at + after;
                    match connection.bare(&mut state, Side::Client, Bare::Ack, there) {
                        Fate::Arrives { after, .. } => Some(there + after),
                        _ => None,
                    }
                }
                _ => None,
            }
        };
        match ack {
            Some(arrives) => connection.accept(arrives),
            None => answer_again(&connection, at + RTO_INITIAL * (1 << times), times + 1),
        }
    });
}
