//! One connection of a capture: its numbers, and its packets as they look on the wire.
//!
//! Place on the map: kept by [`capture`](super) for as long as the connection lives.

use crate::net::tcp::Side;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// An end of the connection.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) address: Ipv4Addr,
    pub(super) port: u16,
}

/// TCP's flags (RFC 9293, section 3.1).
pub(super) struct Flags;

impl Flags {
    const FIN: u8 = 0x01;
    pub(super) const SYN: u8 = 0x02;
    pub(super) const RST: u8 = 0x04;
    const PSH: u8 = 0x08;
    pub(super) const ACK: u8 = 0x10;
}

/// Segments that may still be sent again, more than the largest window.
const SEGMENTS_KEPT: u64 = 256;
/// Ethernet's, for IPv4 (RFC 9293, section 3.7.1), and a window large enough for the model's: 65,535 × 2⁷ bytes.
const SYN_OPTIONS: [u8; 8] = [2, 4, 0x05, 0xb4, 1, 3, 3, 7];
const IP_HEADER_BYTES: usize = 20;
const TCP_HEADER_BYTES: usize = 20;

/// See the module.
pub(super) struct Conversation {
    interface: u32,
    places: [Place; 2],
    halves: [Half; 2],
}

/// What one end sends.
#[derive(Default)]
pub(super) struct Half {
    /// Bytes laid out so far; a FIN counts as one.
    laid: u64,
    segments: BTreeMap<u64, Laid>,
    /// The first segment that the other end may not have yet.
    missing: u64,
    /// What the other end has of it without a gap.
    received: u64,
    /// The end of what was sent.
    sent: u64,
    /// What it has acknowledged of the other half.
    acknowledged: u64,
    /// It has answered, or opened, so that its SYN counts.
    opened: bool,
}

struct Laid {
    offset: u64,
    /// `None` is a FIN.
    payload: Option<Bytes>,
    arrives: Option<Duration>,
}

impl Laid {
    fn end(&self) -> u64 {
        self.offset + self.payload.as_ref().map_or(1, |payload| payload.len() as u64)
    }
}

impl Half {
    /// Gives a segment its place in the stream the first time it is sent.
    pub(super) fn lay(&mut self, number: u64, payload: impl FnOnce() -> Option<Bytes>) {
        if number < self.segments.keys().next_back().map_or(0, |last| last + 1) {
            return;
        }
        let laid = Laid { offset: self.laid, payload: payload(), arrives: None };
        self.laid = laid.end();
        self.segments.insert(number, laid);
        while let Some((first, _)) = self.segments.first_key_value()
            && first + SEGMENTS_KEPT <= number
            && *first < self.missing
        {
            self.segments.pop_first();
        }
    }

    pub(super) fn arrives(&mut self, number: u64, at: Duration) {
        if let Some(laid) = self.segments.get_mut(&number) {
            laid.arrives = Some(laid.arrives.map_or(at, |known| known.min(at)));
        }
    }

    /// What the other end has of it without a gap at that time. Asked in the order of times.
    fn received_at(&mut self, at: Duration) -> u64 {
        while let Some(laid) = self.segments.get(&self.missing)
            && laid.arrives.is_some_and(|arrives| arrives <= at)
        {
            self.received = laid.end();
            self.missing += 1;
        }
        self.received
    }
}

impl Conversation {
    pub(super) fn new(interface: u32, places: [Place; 2]) -> Self {
        Self { interface, places, halves: Default::default() }
    }

    pub(super) fn interface(&self) -> u32 {
        self.interface
    }

    pub(super) fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Client => &mut self.halves[0],
            Side::Server => &mut self.halves[1],
        }
    }

    /// Whether something has arrived at `side` that no packet of its has acknowledged.
    pub(super) fn owes_ack(&mut self, side: Side, at: Duration) -> bool {
        let received = self.half(side.other()).received_at(at);
        received > self.half(side).acknowledged
    }

    /// A packet as it leaves `side`: IPv4, TCP, and the payload of that segment if there is one.
    pub(super) fn packet(&mut self, side: Side, at: Duration, flags: u8, segment: Option<u64>) -> Vec<u8> {
        let received = self.half(side.other()).received_at(at);
        let peer_opened = self.half(side.other()).opened;
        let half = self.half(side);
        let syn = flags & Flags::SYN != 0;
        half.opened |= syn;
        half.acknowledged = half.acknowledged.max(received);
        let laid = segment.and_then(|number| half.segments.get(&number));
        let (offset, payload, more) = match laid {
            Some(Laid { offset, payload: Some(payload), .. }) => (*offset, payload.clone(), Flags::PSH),
            Some(Laid { offset, payload: None, .. }) => (*offset, Bytes::new(), Flags::FIN),
            None => (half.sent, Bytes::new(), 0),
        };
        half.sent = half.sent.max(laid.map_or(0, Laid::end));
        // A SYN has the number before the first byte. A reset to a SYN comes from an end that has sent none.
        let first = u64::from(!syn && half.opened);
        let ack = if flags & Flags::ACK == 0 { 0 } else { received + u64::from(peer_opened) };
        let (from, to) = match side {
            Side::Client => (self.places[0], self.places[1]),
            Side::Server => (self.places[1], self.places[0]),
        };
        let options: &[u8] = if syn { &SYN_OPTIONS } else { &[] };
        bytes_of(from, to, [offset + first, ack], flags | more, options, &payload)
    }
}

/// The packet on the wire, checksums and all (RFC 791, RFC 9293). Numbers wrap, as TCP's do.
fn bytes_of(
    from: Place,
    to: Place,
    [sequence, acknowledgement]: [u64; 2],
    flags: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let wrapped = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0).to_be_bytes();
    let tcp_bytes = TCP_HEADER_BYTES + options.len() + payload.len();
    let mut tcp = Vec::with_capacity(tcp_bytes);
    tcp.extend(from.port.to_be_bytes());
    tcp.extend(to.port.to_be_bytes());
    tcp.extend(wrapped(sequence));
    tcp.extend(wrapped(acknowledgement));
    let header_words = u8::try_from((TCP_HEADER_BYTES + options.len()) / 4).unwrap_or(5);
    tcp.extend([header_words << 4, flags]);
    tcp.extend(u16::MAX.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(options);
    tcp.extend(payload);
    let length = u16::try_from(tcp_bytes).unwrap_or(u16::MAX).to_be_bytes();
    let mut pseudo_header = Vec::with_capacity(12);
    pseudo_header.extend(from.address.octets());
    pseudo_header.extend(to.address.octets());
    pseudo_header.extend([0, 6, length[0], length[1]]);
    let sum = checksum(&[&pseudo_header, &tcp]);
    if let Some(place) = tcp.get_mut(16..18) {
        place.copy_from_slice(&sum);
    }

    let whole = u16::try_from(IP_HEADER_BYTES + tcp_bytes).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = Vec::with_capacity(IP_HEADER_BYTES + tcp_bytes);
    packet.extend([0x45, 0, whole[0], whole[1], 0, 0, 0x40, 0, 64, 6, 0, 0]);
    packet.extend(from.address.octets());
    packet.extend(to.address.octets());
    let sum = checksum(&[&packet]);
    if let Some(place) = packet.get_mut(10..12) {
        place.copy_from_slice(&sum);
    }
    packet.extend(tcp);
    packet
}

/// RFC 1071, over parts of which all but the last have an even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum: u64 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let (high, low) = (pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0));
            sum += u64::from(u16::from_be_bytes([high, low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or(0)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_that_of_the_rfc_and_of_a_known_header() {
        // RFC 1071, section 3: the sum is ddf2.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), [!0xdd, !0xf2]);
        assert_eq!(checksum(&[&[0x01]]), [!0x01, 0xff]);
    }
}
