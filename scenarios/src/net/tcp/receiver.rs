//! The receiving half of one end: puts segments in order for the reader, and decides how soon each is acknowledged.
//!
//! Place on the map: fed by [`connection`](super::connection) with the time at which each segment will arrive, which
//! is known when it is sent; read by [`stream`](super::stream).

use super::segment::{SEGMENT_BYTES_MAX, Segment};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;
use std::time::Duration;

/// Linux's `TCP_DELACK_MIN` and `TCP_ATO_MIN`: how long an acknowledgement waits for data to ride on.
pub(super) const DELAYED_ACK: Duration = Duration::from_millis(40);
/// Linux's `TCP_MAX_QUICKACKS`.
const QUICK_ACKS_MAX: u32 = 16;

/// How a segment is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// At once.
    Quick,
    /// With the next data sent back, or after [`DELAYED_ACK`].
    Delayed,
}

/// See the module.
pub(super) struct Receiver {
    /// In order, each with the time at which it arrives and the time at which it can be read (nothing overtakes).
    ready: VecDeque<(Duration, Duration, Segment)>,
    /// Behind a gap.
    out_of_order: BTreeMap<u64, (Duration, Segment)>,
    /// The first segment that is not in `ready` yet or read.
    next: u64,
    /// When a reset arrives.
    pub(super) reset: Option<Duration>,
    pub(super) reader: Option<Waker>,
    /// Linux's "pingpong" mode: this end answers what it gets, so that acknowledgements wait for the answer.
    interactive: bool,
    quick_acks: u32,
    /// When the latest segment arrives.
    latest: Option<Duration>,
    /// A FIN can be read, or has been.
    ended: bool,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            out_of_order: BTreeMap::new(),
            next: 0,
            reset: None,
            reader: None,
            interactive: false,
            quick_acks: QUICK_ACKS_MAX,
            latest: None,
            ended: false,
        }
    }
}

impl Receiver {
    /// Takes segment `number`, which arrives at `arrives`, for the first time. Returns when the reader can go on with
    /// what this made readable, and whether it was simply the next one.
    pub(super) fn take(&mut self, number: u64, arrives: Duration, segment: Segment) -> Taken {
        if number != self.next {
            self.out_of_order.insert(number, (arrives, segment));
            return Taken { readable: None, plain: false };
        }
        let plain = self.out_of_order.is_empty();
        let readable = self.push(arrives, segment);
        while let Some((arrives, segment)) = self.out_of_order.remove(&self.next) {
            self.push(arrives, segment);
        }
        Taken { readable: Some(readable), plain }
    }

    fn push(&mut self, arrives: Duration, segment: Segment) -> Duration {
        let before = self.ready.back().map_or(Duration::ZERO, |(_, readable, _)| *readable);
        let readable = arrives.max(before);
        self.ended |= matches!(segment, Segment::End);
        self.ready.push_back((arrives, readable, segment));
        self.next += 1;
        readable
    }

    /// A copy of segment `number` arrives earlier than the one that was taken. Returns when it can be read.
    pub(super) fn sooner(&mut self, number: u64, arrives: Duration) -> Option<Duration> {
        if let Some((known, _)) = self.out_of_order.get_mut(&number) {
            *known = arrives.min(*known);
            return None;
        }
        let from_end = usize::try_from(self.next.checked_sub(number)?).ok()?;
        let place = self.ready.len().checked_sub(from_end)?;
        let (known, _, _) = self.ready.get_mut(place)?;
        *known = arrives.min(*known);
        let mut before = Duration::ZERO;
        for (arrives, readable, _) in &mut self.ready {
            *readable = before.max(*arrives);
            before = *readable;
        }
        self.ready.get(place).map(|(_, readable, _)| *readable)
    }

    /// How the segment that arrives at `arrives`, without a gap before it, is acknowledged; `with_others` are the bytes
    /// that wait for an acknowledgement, its own among them. `idle` is the gap after which Linux takes the sender for
    /// one that begins anew: its retransmission time-out.
    pub(super) fn manner(&mut self, arrives: Duration, with_others: usize, idle: Duration) -> Manner {
        let gap = self.latest.map(|latest| arrives.saturating_sub(latest));
        self.latest = Some(arrives);
        if gap.is_none_or(|gap| gap > idle) {
            self.quick_acks = QUICK_ACKS_MAX;
        }
        if with_others > SEGMENT_BYTES_MAX {
            return Manner::Quick;
        }
        if self.interactive || self.quick_acks == 0 {
            return Manner::Delayed;
        }
        self.quick_acks -= 1;
        Manner::Quick
    }

    /// This end sends data: an answer, if it comes soon after what it got.
    pub(super) fn sends(&mut self, now: Duration) {
        let soon = |latest: Duration| now.checked_sub(latest).is_some_and(|since| since < DELAYED_ACK);
        self.interactive |= self.latest.is_some_and(soon);
    }

    /// An acknowledgement has waited for an answer in vain.
    pub(super) fn waited_in_vain(&mut self) {
        self.interactive = false;
    }

    /// The data that can be read by now and comes first.
    pub(super) fn readable(&mut self, now: Duration) -> Option<&mut Bytes> {
        match self.ready.front_mut() {
            Some((_, readable, Segment::Data(bytes))) if *readable <= now => Some(bytes),
            _ => None,
        }
    }

    /// When the first in order can be read.
    pub(super) fn next_readable(&self) -> Option<Duration> {
        self.ready.front().map(|(_, readable, _)| *readable)
    }

    /// The data that came first has been read.
    pub(super) fn pop(&mut self) {
        self.ready.pop_front();
    }

    /// A FIN comes next, and has arrived.
    pub(super) fn at_end(&self, now: Duration) -> bool {
        matches!(self.ready.front(), Some((_, readable, Segment::End)) if *readable <= now)
    }

    /// When the first data arrives that nobody has read.
    pub(super) fn unread(&self) -> Option<Duration> {
        let data = |(_, _, segment): &&(_, _, Segment)| matches!(segment, Segment::Data(_));
        self.ready.iter().find(data).map(|(_, readable, _)| *readable)
    }

    /// The peer has ended its stream, and a reset that comes now finds this end after the FIN.
    pub(super) fn ended(&self, now: Duration) -> bool {
        let end = |(_, _, segment): &(_, _, Segment)| matches!(segment, Segment::End);
        self.ended && self.ready.iter().find(|it| end(it)).is_none_or(|(_, readable, _)| *readable <= now)
    }
}

/// See [`Receiver::take`].
pub(super) struct Taken {
    pub(super) readable: Option<Duration>,
    pub(super) plain: bool,
}
