//! Writes the packets of the simulated network down as Wireshark reads them: `xks-sim run --pcap FILE`.
//!
//! Place on the map: [`tcp`](super::tcp) tells it of every segment as it leaves its sender; [`pcapng`] is the file's
//! format. It only watches: a run with it and one without are the same to the digest.
//!
//! Every packet is written once, with the time at which its sender sent it, whether or not it arrives; one that a link
//! loses, and one that a middlebox swallows, carries a comment (`frame.comment` in Wireshark). Sequence and
//! acknowledgement numbers are those of the bytes that the real proxy and KMS's model have exchanged, so that
//! Wireshark puts requests together and marks what was sent again.

mod conversation;
mod pcapng;

use super::link::Fate;
use super::tcp::{Address, Side};
use crate::clock::Clock;
use crate::environment::RUN_BEGINS;
use crate::hsm_link::HSM_ADDRESSES_BEGIN;
use bytes::Bytes;
use conversation::{Conversation, Flags, Place};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Ports of clients, as Linux gives them out by default.
const CLIENT_PORTS: std::ops::Range<u16> = 32_768..61_000;
/// Where HSMs listen: the port of a network HSM's library traffic.
const HSM_PORT: u16 = 1_792;

/// A file that grows with the traffic, up to a limit. Clones write to the same file.
#[derive(Clone)]
pub struct Capture {
    clock: Clock,
    inner: Arc<Mutex<Inner>>,
}

/// How a capture is to be made.
pub struct CaptureSettings {
    /// The proxies' port: 443 with TLS, 80 without.
    pub proxy_port: u16,
    /// Nothing sent later is written.
    pub until: Duration,
    /// The file is closed before it would be larger.
    pub bytes_max: u64,
}

/// Where a run's capture goes.
pub struct CaptureFile {
    /// Opens it.
    pub open: Box<dyn Fn() -> std::io::Result<Box<dyn Write + Send>>>,
    /// Its name, for messages.
    pub name: String,
    /// Bytes it may have.
    pub bytes_max: u64,
}

/// What a capture came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureSummary {
    /// Packets in the file.
    pub packets: u64,
    /// Its length.
    pub bytes: u64,
    /// The time of the last packet written, if the limit kept out what came after it.
    pub full_at: Option<Duration>,
}

struct Inner {
    settings: CaptureSettings,
    file: Box<dyn Write + Send>,
    /// Packets whose time may still be ahead, or that earlier ones may still come before.
    waiting: BinaryHeap<Reverse<Waiting>>,
    next_serial: u64,
    conversations: BTreeMap<u64, Conversation>,
    next_conversation: u64,
    summary: CaptureSummary,
    last: Duration,
    /// The run is over: what its end closes has no time any more.
    finished: bool,
    failed: Option<std::io::Error>,
}

/// A packet before its acknowledgement number is known: that depends on what arrives before it is sent.
struct Waiting {
    at: Duration,
    serial: u64,
    conversation: u64,
    side: Side,
    what: What,
    comment: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Syn,
    SynAck,
    Ack,
    /// An acknowledgement that goes out only if no data has carried it before.
    DelayedAck,
    Reset,
    /// A reset to a SYN.
    Refusal,
    Segment(u64),
    /// The connection is known to nobody any more.
    Over,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.serial) == (other.at, other.serial)
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

impl Capture {
    /// Begins a capture into `file`, which should have a buffer.
    ///
    /// # Errors
    /// When its first bytes cannot be written.
    pub fn new(
        clock: Clock,
        mut file: Box<dyn Write + Send>,
        settings: CaptureSettings,
    ) -> std::io::Result<Self> {
        let head = pcapng::head(&["KMS to proxies", "proxies to HSMs"]);
        file.write_all(&head)?;
        let inner = Inner {
            settings,
            file,
            waiting: BinaryHeap::new(),
            next_serial: 0,
            conversations: BTreeMap::new(),
            next_conversation: 0,
            summary: CaptureSummary { packets: 0, bytes: head.len() as u64, full_at: None },
            last: Duration::ZERO,
            finished: false,
            failed: None,
        };
        Ok(Self { clock, inner: Arc::new(Mutex::new(inner)) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that somebody at `from` is about to open to `address`; `from` is the number of a proxy, `None` is KMS.
    pub(super) fn open(&self, from: Option<usize>, address: Address) -> Wire {
        let mut inner = self.inner();
        let number = inner.next_conversation;
        inner.next_conversation += 1;
        let proxy = |index: usize| host(1, index);
        let ports = u64::from(CLIENT_PORTS.end - CLIENT_PORTS.start);
        let client_port = CLIENT_PORTS.start + u16::try_from(number % ports).unwrap_or(0);
        let (interface, client, server) = match address.checked_sub(HSM_ADDRESSES_BEGIN) {
            Some(hsm) => (1, from.map_or(Ipv4Addr::new(10, 0, 1, 254), proxy), (host(2, hsm), HSM_PORT)),
            None => (0, Ipv4Addr::new(10, 0, 0, 1), (proxy(address), inner.settings.proxy_port)),
        };
        let places =
            [Place { address: client, port: client_port }, Place { address: server.0, port: server.1 }];
        inner.conversations.insert(number, Conversation::new(interface, places));
        Wire { capture: self.clone(), number }
    }

    /// Writes what is left, and says what the capture came to.
    ///
    /// # Errors
    /// The first that writing to the file gave.
    pub fn finish(self) -> std::io::Result<CaptureSummary> {
        let mut inner = self.inner();
        inner.write_until(Duration::MAX);
        inner.finished = true;
        if let Some(error) = inner.failed.take() {
            return Err(error);
        }
        inner.file.flush()?;
        Ok(inner.summary.clone())
    }
}

/// Host `index` of a network `10.0.net.0/24`; more than 253 run on into the networks above.
fn host(net: u8, index: usize) -> Ipv4Addr {
    let base = u32::from(Ipv4Addr::new(10, 0, net, 1));
    Ipv4Addr::from(base.saturating_add(u32::try_from(index).unwrap_or(0)))
}

/// One connection of a capture.
pub(super) struct Wire {
    capture: Capture,
    number: u64,
}

impl Wire {
    /// A SYN, and what becomes of it.
    pub(super) fn syn(&self, at: Duration, fate: &Fate) {
        self.tell(Side::Client, What::Syn, at, fate);
        if let Fate::Refused { after } | Fate::Reset { after } = fate {
            self.push(Side::Server, What::Refusal, at + *after, Some("sent by a middlebox"));
        }
    }

    /// The answer to a SYN, or where nobody listens a reset.
    pub(super) fn syn_ack(&self, at: Duration, fate: &Fate) {
        self.tell(Side::Server, What::SynAck, at, fate);
    }

    /// The answer to a SYN where nobody listens.
    pub(super) fn refusal(&self, at: Duration, fate: &Fate) {
        self.tell(Side::Server, What::Refusal, at, fate);
    }

    /// An acknowledgement without data.
    pub(super) fn ack(&self, side: Side, at: Duration, fate: &Fate) {
        self.tell(side, What::Ack, at, fate);
    }

    /// An acknowledgement that waits until then for data to ride on.
    pub(super) fn delayed_ack(&self, side: Side, at: Duration) {
        self.push(side, What::DelayedAck, at, None);
    }

    /// A reset.
    pub(super) fn reset(&self, side: Side, at: Duration, fate: &Fate) {
        self.tell(side, What::Reset, at, fate);
    }

    /// A segment with data, or with a FIN where there is no `payload`; the same number again is the same segment again.
    /// `payload` is asked for the first time only.
    pub(super) fn segment(
        &self,
        side: Side,
        number: u64,
        payload: impl FnOnce() -> Option<Bytes>,
        at: Duration,
        fate: &Fate,
    ) {
        if let Some(conversation) = self.capture.inner().conversations.get_mut(&self.number) {
            let half = conversation.half(side);
            half.lay(number, payload);
            if let Fate::Arrives { after, .. } = fate {
                half.arrives(number, at + *after);
            }
        }
        self.tell(side, What::Segment(number), at, fate);
        if let Fate::Reset { after } = fate {
            for side in [Side::Client, Side::Server] {
                self.push(side, What::Reset, at + *after, Some("sent by a middlebox"));
            }
        }
    }

    fn tell(&self, side: Side, what: What, at: Duration, fate: &Fate) {
        let comment = match fate {
            Fate::Arrives { again: Some(_), .. } => Some("arrives twice"),
            Fate::Arrives { again: None, .. } => None,
            Fate::Lost => Some("lost: it never arrives"),
            Fate::Reset { .. } | Fate::Refused { .. } => {
                Some("swallowed by a middlebox, which answers with a reset")
            }
        };
        self.push(side, what, at, comment);
    }

    fn push(&self, side: Side, what: What, at: Duration, comment: Option<&'static str>) {
        let now = self.capture.clock.now();
        let mut inner = self.capture.inner();
        if inner.finished {
            return;
        }
        let serial = inner.next_serial;
        inner.next_serial += 1;
        inner.waiting.push(Reverse(Waiting { at, serial, conversation: self.number, side, what, comment }));
        inner.write_until(now);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let now = self.capture.clock.now();
        // Behind whatever of this connection waits, such as the acknowledgement of its last segment.
        let mut inner = self.capture.inner();
        if inner.finished {
            return;
        }
        let serial = inner.next_serial;
        inner.next_serial += 1;
        let last =
            inner.waiting.iter().filter(|Reverse(it)| it.conversation == self.number).map(|it| it.0.at).max();
        let at = last.unwrap_or(now).max(now);
        let (conversation, side) = (self.number, Side::Client);
        inner.waiting.push(Reverse(Waiting {
            at,
            serial,
            conversation,
            side,
            what: What::Over,
            comment: None,
        }));
    }
}

impl Inner {
    /// Writes the packets whose time has come.
    fn write_until(&mut self, now: Duration) {
        while self.waiting.peek().is_some_and(|Reverse(first)| first.at <= now) {
            let Some(Reverse(waiting)) = self.waiting.pop() else { return };
            self.write(&waiting);
        }
    }

    fn write(&mut self, waiting: &Waiting) {
        let Waiting { at, side, what, comment, .. } = *waiting;
        let Some(conversation) = self.conversations.get_mut(&waiting.conversation) else { return };
        let packet = match what {
            What::Syn => conversation.packet(side, at, Flags::SYN, None),
            What::SynAck => conversation.packet(side, at, Flags::SYN | Flags::ACK, None),
            What::Ack => conversation.packet(side, at, Flags::ACK, None),
            What::Over => {
                self.conversations.remove(&waiting.conversation);
                return;
            }
            What::DelayedAck if !conversation.owes_ack(side, at) => return,
            What::DelayedAck => conversation.packet(side, at, Flags::ACK, None),
            What::Reset | What::Refusal => conversation.packet(side, at, Flags::RST | Flags::ACK, None),
            What::Segment(number) => conversation.packet(side, at, Flags::ACK, Some(number)),
        };
        if at > self.settings.until || self.summary.full_at.is_some() || self.failed.is_some() {
            return;
        }
        let block = pcapng::packet(conversation.interface(), RUN_BEGINS + at, &packet, comment);
        let length = block.len() as u64;
        if self.summary.bytes + length > self.settings.bytes_max {
            self.summary.full_at = Some(self.last);
            return;
        }
        match self.file.write_all(&block) {
            Ok(()) => {
                self.summary.bytes += length;
                self.summary.packets += 1;
                self.last = at;
            }
            Err(error) => self.failed = Some(error),
        }
    }
}
