//! One link between two places: decides for each packet, in each direction, when it arrives or that it is lost.
//!
//! Place on the map: asked by [`tcp`](super::tcp) for every segment; it knows no clock of its own, so that a relay between
//! real sockets can ask it as well. Faults ([`fault`](super::fault)) change it while a run goes on.

use super::burst::{Chain, GilbertElliott};
use super::fault::{Faults, LinkFault, LinkFaultId};
use super::latency::Latency;
use super::packet::{EachWay, Flow, Packet, PacketKind, Way};
use super::queue::Queue;
use super::random::{Purpose, sub_stream, unit};
use rand_chacha::ChaCha20Rng;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a link is like when nothing is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkSettings {
    /// Round-trip time without jitter. Half of it each way.
    pub rtt: Duration,
    /// How the latency of single packets is spread.
    pub latency: Latency,
    /// What one way takes longer than half the round-trip time.
    pub extra: EachWay<Duration>,
    /// Share of packets lost, 0 to 1, independent of each other.
    pub loss: EachWay<f64>,
    /// Loss in bursts, besides; each way has a chain of its own.
    pub burst: GilbertElliott,
    /// Share of packets that arrive twice, 0 to 1.
    pub duplication: f64,
    /// Share of packets, 0 to 1, that take `reordering_extra` longer, so that later ones of their connection overtake
    /// them.
    pub reordering: f64,
    /// See `reordering`.
    pub reordering_extra: Duration,
    /// Bits per second; `None` is no limit.
    pub bits_per_s: EachWay<Option<u64>>,
    /// Bytes that may wait for a line of limited bandwidth; what comes on top is dropped.
    pub queue_bytes: u64,
}

impl LinkSettings {
    /// A link that takes half of `rtt` each way, always, and has no other property.
    pub fn fixed(rtt: Duration) -> Self {
        Self {
            rtt,
            latency: Latency::Fixed,
            extra: EachWay::both(Duration::ZERO),
            loss: EachWay::both(0.0),
            burst: GilbertElliott::default(),
            duplication: 0.0,
            reordering: 0.0,
            reordering_extra: Duration::ZERO,
            bits_per_s: EachWay::both(None),
            queue_bytes: 256 * 1024,
        }
    }
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It never arrives.
    Lost,
    /// It arrives.
    Arrives {
        /// After this time.
        after: Duration,
        /// It arrives a second time, after this time.
        again: Option<Duration>,
    },
    /// A middlebox swallows it, and a reset reaches both ends.
    Reset {
        /// After this time.
        after: Duration,
    },
    /// A middlebox swallows the SYN, and a reset reaches its sender.
    Refused {
        /// After this time.
        after: Duration,
    },
}

/// A link in use. Clones are the same link.
#[derive(Clone)]
pub struct Link {
    state: Arc<Mutex<State>>,
}

struct State {
    settings: LinkSettings,
    faults: Faults,
    ways: EachWay<Direction>,
}

/// What each direction has of its own.
struct Direction {
    latency: ChaCha20Rng,
    loss: ChaCha20Rng,
    burst: Chain,
    duplication: ChaCha20Rng,
    reordering: ChaCha20Rng,
    fault_loss: ChaCha20Rng,
    fault_reset: ChaCha20Rng,
    queue: Queue,
}

impl Direction {
    fn new(random: &ChaCha20Rng, way: Way) -> Self {
        let stream = |purpose| sub_stream(random, purpose, way);
        Self {
            latency: stream(Purpose::Latency),
            loss: stream(Purpose::Loss),
            burst: Chain::new(stream(Purpose::Burst)),
            duplication: stream(Purpose::Duplication),
            reordering: stream(Purpose::Reordering),
            fault_loss: stream(Purpose::FaultLoss),
            fault_reset: stream(Purpose::FaultReset),
            queue: Queue::default(),
        }
    }
}

/// Draws only where something can come of it: each purpose has its own stream.
fn hit(share: f64, random: &mut ChaCha20Rng) -> bool {
    share > 0.0 && unit(random) < share
}

impl Link {
    /// A link with its own randomness, which it divides among its purposes.
    pub fn new(settings: LinkSettings, random: ChaCha20Rng) -> Self {
        let ways =
            EachWay { there: Direction::new(&random, Way::There), back: Direction::new(&random, Way::Back) };
        Self { state: Arc::new(Mutex::new(State { settings, faults: Faults::default(), ways })) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides about one packet sent at `now`, any time that grows along a connection. `flow` is that of its
    /// connection. A packet of 0 bytes stands for an acknowledgement without data: too small to fill a line.
    pub fn send(&self, way: Way, packet: Packet, flow: &mut Flow, now: Duration) -> Fate {
        self.state().send(way, packet, flow, now)
    }

    /// Whether a partition is in force this way.
    pub fn is_cut(&self, way: Way) -> bool {
        *self.state().faults.sum().cut.of(way)
    }

    /// There and back as settings and faults have it now, without jitter; where latencies are measured, a typical one.
    pub fn round_trip(&self) -> Duration {
        let state = self.state();
        let (settings, delay) = (&state.settings, state.faults.sum().delay);
        settings.latency.typical(settings.rtt)
            + settings.extra.there
            + settings.extra.back
            + delay.there
            + delay.back
    }

    /// Begins a fault. Faults add up.
    pub fn begin(&self, fault: LinkFault) -> LinkFaultId {
        self.state().faults.begin(fault)
    }

    /// Puts another fault in the place of one in force, such as the next step of a ramp. Without effect on one that has
    /// ended.
    pub fn change(&self, id: LinkFaultId, fault: LinkFault) {
        self.state().faults.change(id, fault);
    }

    /// Ends a fault; the others stay.
    pub fn end(&self, id: LinkFaultId) {
        self.state().faults.end(id);
    }

    /// From now on no packet is lost by chance, neither by the settings nor by a fault.
    pub fn lose_nothing(&self) {
        let mut state = self.state();
        state.settings.loss = EachWay::both(0.0);
        state.settings.burst = GilbertElliott::default();
        state.faults.end_losses();
    }
}

impl State {
    fn send(&mut self, way: Way, packet: Packet, flow: &mut Flow, now: Duration) -> Fate {
        let (settings, faults) = (&self.settings, self.faults.sum());
        let direction = self.ways.of_mut(way);
        // Everything that may be drawn is, whatever becomes of the packet.
        let mut latency = settings.latency.draw(settings.rtt / 2, &mut direction.latency)
            + *settings.extra.of(way)
            + *faults.delay.of(way);
        let lost = hit(*settings.loss.of(way), &mut direction.loss);
        let lost = direction.burst.loses(&settings.burst) || lost;
        let lost = hit(1.0 - *faults.kept.of(way), &mut direction.fault_loss) || lost;
        let twice = hit(1.0 - (1.0 - settings.duplication) * faults.once, &mut direction.duplication);
        let overtaken = hit(1.0 - (1.0 - settings.reordering) * faults.in_order, &mut direction.reordering);
        let reset =
            packet.kind == PacketKind::Established && hit(1.0 - faults.not_reset, &mut direction.fault_reset);

        if *faults.cut.of(way) || (packet.kind == PacketKind::Syn && faults.syn_drop) {
            return Fate::Lost;
        }
        if let Some(idle) = faults.idle {
            if packet.kind == PacketKind::Syn {
                flow.forgotten = false;
            } else if now.saturating_sub(flow.passed) > idle {
                flow.forgotten = true;
            }
            if flow.forgotten {
                return Fate::Lost;
            }
        } else {
            flow.forgotten = false;
        }
        flow.passed = now.max(flow.passed);
        if lost {
            return Fate::Lost;
        }
        if packet.kind == PacketKind::Syn && faults.refuse {
            return Fate::Refused { after: latency * 2 };
        }
        if reset {
            return Fate::Reset { after: latency };
        }
        let limit = match (*settings.bits_per_s.of(way), *faults.bits_per_s.of(way)) {
            (Some(always), Some(now)) => Some(always.min(now)),
            (always, now) => always.or(now),
        };
        let mut copy = None;
        #[expect(clippy::cast_precision_loss, reason = "a bandwidth needs no more than 53 bits")]
        if let Some(limit) = limit {
            let mut pass = || direction.queue.pass(packet.bytes, limit as f64, settings.queue_bytes, now);
            let Some(line) = pass() else { return Fate::Lost };
            if twice {
                copy = pass().map(|line| line + latency);
            }
            latency += line;
        } else {
            // What waited for the line when its limit went has left.
            direction.queue = Queue::default();
            copy = twice.then_some(latency);
        }
        let latest = flow.latest.of_mut(way);
        let in_order = |after: Duration| (now + after).max(*latest) - now;
        let after = if overtaken {
            latency + settings.reordering_extra
        } else {
            let after = in_order(latency);
            // An acknowledgement may be decided about ahead of its time.
            if packet.bytes > 0 {
                *latest = now + after;
            }
            after
        };
        Fate::Arrives { after, again: copy.map(|copy| copy.max(after)) }
    }
}
