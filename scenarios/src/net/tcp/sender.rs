//! The sending half of one end: what is in flight, when it is acknowledged, and what is sent again and when.
//!
//! Place on the map: [`connection`](super::connection) sends its segments over the link and tells it their fate. It
//! detects losses as Linux does by default: by what has arrived of segments sent later (RACK, RFC 8985, 6), by a probe
//! at the end of a flight (TLP, RFC 8985, 7), and by the retransmission time-out (RFC 6298).

use super::rtt::{RTO_MIN, RoundTrip};
use super::segment::Segment;
use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

/// RFC 6928 and Linux's `TCP_INIT_CWND`.
const WINDOW_INITIAL: u32 = 10;
/// Segments in flight, at most: what Linux's default receive buffer takes.
const WINDOW_MAX: u32 = 128;
/// Segments known to have arrived after a gap, from which on it is a loss and no reordering (RFC 8985, 6.2).
const REORDERING: usize = 3;
/// Linux's `TCP_TIMEOUT_MIN_US`: what a probe waits beyond two round trips where several segments are in flight.
const PROBE_EXTRA: Duration = Duration::from_millis(2);
/// How long Linux retransmits in vain: `tcp_retries2` = 15 doublings of `TCP_RTO_MIN`, those above 120 s cut.
const GIVE_UP_AFTER: Duration = Duration::from_millis(924_600);
/// The same for a socket that its process has closed: 8 doublings.
const GIVE_UP_ORPHAN_AFTER: Duration = Duration::from_millis(102_200);

/// When the acknowledgement of a segment gets to its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ack {
    /// The segment has not arrived, or its acknowledgement was lost; a later one may stand for it.
    Missing,
    /// It waits at the receiver for data to ride on.
    Delayed,
    /// Then.
    At(Duration),
}

/// A segment that has been sent and is not known to have arrived, or lies behind one of those.
pub(super) struct InFlight {
    pub(super) number: u64,
    /// Until it arrives.
    pub(super) segment: Option<Segment>,
    pub(super) bytes: usize,
    /// The last time.
    sent: Duration,
    /// The copy that arrived was sent then.
    pub(super) delivered_sent: Duration,
    pub(super) arrives: Option<Duration>,
    /// When the latest copy was sent that arrives after the first, and when that is.
    pub(super) copy: Option<(Duration, Duration)>,
    pub(super) ack: Ack,
    /// What the timestamp (RFC 7323) of that acknowledgement echoes: when the latest copy was sent that the receiver had
    /// then. A round trip is measured from there, so that an answer to a copy is not taken for one to the first.
    echoed: Duration,
    /// The sender has its acknowledgement, as a SACK if the segment is still here.
    known: bool,
    /// The sender takes it for lost, and will send it again.
    lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is known to be lost.
    Open,
    /// A loss was detected by what arrived after it; over when everything sent before is acknowledged.
    Recovery { until: u64 },
    /// As after a retransmission time-out.
    Loss { until: u64 },
}

/// What a sender's timer made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fired {
    /// Nothing was due.
    Nothing,
    /// Send this segment again as a probe.
    Probe(u64),
    /// Go on with [`Sender::next_to_send`].
    TimeOut,
    /// Nobody has answered for too long.
    GivenUp,
}

/// What to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A new segment, now in flight.
    New(u64),
    /// One that was lost.
    Again(u64),
}

/// See the module.
pub(super) struct Sender {
    round_trip: RoundTrip,
    unsent: VecDeque<Segment>,
    flight: VecDeque<InFlight>,
    /// The number of the next new segment.
    next: u64,
    window: u32,
    /// Acknowledged in congestion avoidance, towards a window of one more.
    avoided: u32,
    threshold: u32,
    phase: Phase,
    /// Time-outs without an acknowledgement in between.
    doublings: u32,
    /// A probe is under way.
    probed: bool,
    /// Since when the timer runs.
    timer_from: Duration,
    /// It was restarted by an acknowledgement, not by sending.
    timer_from_ack: bool,
    /// When a segment that others have overtaken counts as lost.
    overtaken_at: Option<Duration>,
    first_retransmission: Option<Duration>,
    /// The latest sent segment known to have arrived: when it was sent, its number, and its round trip.
    rack: Option<(Duration, u64, Duration)>,
    /// Acknowledgements may come after the time-out, or not at all.
    pub(super) watch: bool,
    /// The event that the clock holds for this sender.
    pub(super) scheduled: Option<Duration>,
    /// Written and not read yet by the peer.
    pub(super) bytes: usize,
    pub(super) writer: Option<Waker>,
    /// A FIN has been written.
    pub(super) closed: bool,
}

impl Sender {
    pub(super) fn new(round_trip: Duration) -> Self {
        Self {
            round_trip: RoundTrip::new(round_trip),
            unsent: VecDeque::new(),
            flight: VecDeque::new(),
            next: 0,
            window: WINDOW_INITIAL,
            avoided: 0,
            threshold: u32::MAX,
            phase: Phase::Open,
            doublings: 0,
            probed: false,
            timer_from: Duration::ZERO,
            timer_from_ack: false,
            overtaken_at: None,
            first_retransmission: None,
            rack: None,
            watch: false,
            scheduled: None,
            bytes: 0,
            writer: None,
            closed: false,
        }
    }

    /// Puts a segment in the queue.
    pub(super) fn write(&mut self, segment: Segment) {
        self.bytes += segment.len();
        self.unsent.push_back(segment);
    }

    /// The retransmission time-out in force.
    pub(super) fn time_out(&self) -> Duration {
        self.round_trip.time_out(self.doublings)
    }

    pub(super) fn flight(&self) -> impl Iterator<Item = &InFlight> {
        self.flight.iter()
    }

    /// When the first segment arrived whose acknowledgement waits for data to ride on.
    pub(super) fn delayed_since(&self) -> Option<Duration> {
        self.flight.iter().find(|it| it.ack == Ack::Delayed)?.arrives
    }

    /// The segment of this number, if it is in flight.
    pub(super) fn in_flight(&mut self, number: u64) -> Option<&mut InFlight> {
        let first = self.flight.front()?.number;
        self.flight.get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// Nothing is sent any more: the connection is over.
    pub(super) fn clear(&mut self) {
        self.flight.clear();
        self.unsent.clear();
    }

    /// What can be sent now; that segment is marked as sent. Call until `None`.
    pub(super) fn next_to_send(&mut self, now: Duration) -> Option<Next> {
        if self.flight.is_empty() {
            if self.unsent.is_empty() {
                return None;
            }
            // RFC 5681, 4.1, and Linux's tcp_slow_start_after_idle.
            if now.saturating_sub(self.timer_from) > self.time_out() {
                self.window = self.window.min(WINDOW_INITIAL);
            }
        }
        let on_their_way = self.flight.iter().filter(|it| !it.known && !it.lost).count();
        if on_their_way >= self.window as usize {
            return None;
        }
        if let Some((place, lost)) = self.flight.iter_mut().enumerate().find(|(_, it)| it.lost) {
            lost.lost = false;
            lost.sent = now;
            self.first_retransmission.get_or_insert(now);
            let number = lost.number;
            if place == 0 {
                // Linux's tcp_xmit_retransmit_queue gives the first of the flight its whole time-out again.
                (self.timer_from, self.timer_from_ack) = (now, false);
            }
            return Some(Next::Again(number));
        }
        let segment = self.unsent.pop_front()?;
        if (self.phase == Phase::Open && !self.probed) || self.flight.is_empty() {
            (self.timer_from, self.timer_from_ack) = (now, false);
        }
        let number = self.next;
        self.next += 1;
        self.flight.push_back(InFlight {
            number,
            bytes: segment.len(),
            segment: Some(segment),
            sent: now,
            delivered_sent: now,
            arrives: None,
            copy: None,
            ack: Ack::Missing,
            echoed: now,
            known: false,
            lost: false,
        });
        Some(Next::New(number))
    }

    /// An acknowledgement of everything that had arrived at `sent_at` gets here at `arrives`.
    pub(super) fn acknowledged(&mut self, sent_at: Duration, arrives: Duration) {
        for segment in &mut self.flight {
            let had = segment.arrives.is_some_and(|arrived| arrived <= sent_at);
            let known_before = matches!(segment.ack, Ack::At(at) if at <= arrives);
            if had && !known_before {
                segment.ack = Ack::At(arrives);
                let copy = segment.copy.filter(|(_, arrived)| *arrived <= sent_at);
                segment.echoed = copy.map_or(segment.delivered_sent, |(sent, _)| sent);
            }
        }
    }

    /// An acknowledgement, sent at `sent_at`, was lost; so is what waited to ride on it.
    pub(super) fn acknowledgement_lost(&mut self, sent_at: Duration) {
        for segment in &mut self.flight {
            if segment.ack == Ack::Delayed && segment.arrives.is_some_and(|arrived| arrived <= sent_at) {
                segment.ack = Ack::Missing;
            }
        }
    }

    /// Takes note of the acknowledgements that have arrived by now.
    pub(super) fn settle(&mut self, now: Duration) {
        let mut news = false;
        for segment in &mut self.flight {
            if let Ack::At(at) = segment.ack
                && at <= now
                && !segment.known
            {
                (segment.known, segment.lost, news) = (true, false, true);
                let latest = (segment.delivered_sent, segment.number);
                if self.rack.is_none_or(|(sent, number, _)| latest > (sent, number)) {
                    self.rack = Some((latest.0, latest.1, at.saturating_sub(latest.0)));
                }
            }
        }
        if !news {
            return;
        }
        self.advance();
        self.detect(now);
    }

    /// Lets go of what is acknowledged in order.
    fn advance(&mut self) {
        let full = self.flight.len() * 2 >= self.window as usize;
        let mut measured = None;
        while self.flight.front().is_some_and(|first| first.known) {
            let Some(InFlight { ack: Ack::At(at), echoed, number, .. }) = self.flight.pop_front() else {
                return;
            };
            // One measurement for each acknowledgement, by its first segment.
            if measured != Some(at) {
                measured = Some(at);
                self.round_trip.measure(at.saturating_sub(echoed), number + 1, self.next);
            }
            self.doublings = 0;
            if at >= self.timer_from {
                (self.timer_from, self.timer_from_ack) = (at, true);
            }
            self.probed = false;
            match self.phase {
                Phase::Recovery { until } | Phase::Loss { until } if number + 1 >= until => {
                    self.phase = Phase::Open;
                }
                _ => {}
            }
            if full {
                self.widen();
            }
        }
        if self.flight.is_empty() {
            (self.first_retransmission, self.overtaken_at, self.watch) = (None, None, false);
        }
    }

    /// Slow start and congestion avoidance (RFC 5681, 3.1), for one segment.
    fn widen(&mut self) {
        if self.window < self.threshold {
            self.window = (self.window + 1).min(WINDOW_MAX);
        } else {
            self.avoided += 1;
            if self.avoided >= self.window {
                (self.avoided, self.window) = (0, (self.window + 1).min(WINDOW_MAX));
            }
        }
    }

    /// RACK: what was sent before something that has arrived, and has not, is lost as soon as it is overdue.
    fn detect(&mut self, now: Duration) {
        self.overtaken_at = None;
        let Some((rack_sent, rack_number, rack_round_trip)) = self.rack else { return };
        let known = self.flight.iter().filter(|it| it.known).count();
        let grace = if self.phase != Phase::Open || known >= REORDERING {
            Duration::ZERO
        } else {
            (self.round_trip.least() / 4).min(self.round_trip.smoothed())
        };
        let mut found = false;
        for segment in &mut self.flight {
            if segment.known || segment.lost || (segment.sent, segment.number) >= (rack_sent, rack_number) {
                continue;
            }
            let due = segment.sent + rack_round_trip + grace;
            if due <= now {
                (segment.lost, found) = (true, true);
            } else {
                self.overtaken_at = Some(self.overtaken_at.map_or(due, |other| other.min(due)));
            }
        }
        if found && self.phase == Phase::Open {
            self.phase = Phase::Recovery { until: self.next };
            self.narrow();
            self.window = self.threshold;
        }
    }

    /// What CUBIC leaves of the window.
    fn narrow(&mut self) {
        self.threshold = (self.window * 7 / 10).max(2);
        self.avoided = 0;
    }

    /// When the timer is due, and whether a probe comes before the time-out.
    fn deadline(&self) -> Option<(Duration, bool)> {
        let first = self.flight.front()?;
        let time_out = self.time_out();
        if self.phase != Phase::Open || self.probed {
            return Some((self.timer_from + time_out, false));
        }
        // RFC 8985, 7.2; with one segment in flight its acknowledgement may be delayed, for which Linux allows 200 ms.
        let extra = if self.flight.len() == 1 { RTO_MIN } else { PROBE_EXTRA };
        let probe = self.timer_from + self.round_trip.smoothed() * 2 + extra;
        let by = if self.timer_from_ack { self.timer_from } else { first.sent } + time_out;
        Some((probe.min(by), true))
    }

    /// When this sender has to be looked at again; `None` while everything in flight is on the best way to be
    /// acknowledged, which is the rule.
    pub(super) fn next_event(&self, now: Duration) -> Option<Duration> {
        let trouble = self.watch
            || !self.unsent.is_empty()
            || self.phase != Phase::Open
            || self.flight.iter().any(|it| it.ack == Ack::Missing);
        if !trouble {
            return None;
        }
        let (deadline, _) = self.deadline()?;
        let soonest = self.overtaken_at.map_or(deadline, |other| other.min(deadline));
        let acks = self.flight.iter().filter_map(|it| match it.ack {
            Ack::At(at) if !it.known => Some(at),
            Ack::Delayed => it.arrives.map(|arrives| arrives + super::receiver::DELAYED_ACK),
            _ => None,
        });
        Some(acks.fold(soonest, Duration::min).max(now))
    }

    /// Does what is due by now; `orphan`: the process has closed the socket.
    pub(super) fn fire(&mut self, now: Duration, orphan: bool) -> Fired {
        if self.overtaken_at.is_some_and(|at| at <= now) {
            self.detect(now);
        }
        match self.deadline() {
            Some((at, true)) if at <= now => {
                (self.probed, self.timer_from, self.timer_from_ack) = (true, now, false);
                self.first_retransmission.get_or_insert(now);
                let Some(last) = self.flight.iter_mut().rev().find(|it| !it.known) else {
                    return Fired::Nothing;
                };
                last.sent = now;
                Fired::Probe(last.number)
            }
            Some((at, false)) if at <= now => {
                let since = self.first_retransmission.map(|first| now.saturating_sub(first));
                let limit = if orphan { GIVE_UP_ORPHAN_AFTER } else { GIVE_UP_AFTER };
                if self.doublings > 0 && since.is_some_and(|since| since >= limit) {
                    return Fired::GivenUp;
                }
                if !matches!(self.phase, Phase::Loss { .. }) {
                    self.narrow();
                    self.phase = Phase::Loss { until: self.next };
                }
                for segment in self.flight.iter_mut().filter(|it| !it.known) {
                    segment.lost = true;
                }
                self.window = 1;
                self.doublings += 1;
                (self.probed, self.timer_from, self.timer_from_ack) = (false, now, false);
                Fired::TimeOut
            }
            _ => Fired::Nothing,
        }
    }
}
