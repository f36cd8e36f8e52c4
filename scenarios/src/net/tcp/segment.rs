//! What travels over a connection, and on which side its ends are.
//!
//! Place on the map: the vocabulary of the other files in `tcp`.

use crate::net::packet::Way;
use bytes::Bytes;

/// Payload of a full segment: an Ethernet frame of 1,500 bytes less IPv4 and TCP headers with timestamps.
pub(super) const SEGMENT_BYTES_MAX: usize = 1_448;
/// Those headers.
pub(super) const HEADER_BYTES: usize = 52;

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum Side {
    Client,
    Server,
}

impl Side {
    pub(in crate::net) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    /// The way of what this side sends.
    pub(super) fn way(self) -> Way {
        match self {
            Self::Client => Way::There,
            Self::Server => Way::Back,
        }
    }
}

/// What is sent in order.
pub(super) enum Segment {
    Data(Bytes),
    /// A FIN.
    End,
}

impl Segment {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len(),
            Self::End => 0,
        }
    }

    pub(super) fn payload(&self) -> Option<&Bytes> {
        match self {
            Self::Data(bytes) => Some(bytes),
            Self::End => None,
        }
    }
}
