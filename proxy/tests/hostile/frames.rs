//! Frames of HTTP/2 written by hand, right and wrong ones, and read back (RFC 9113, 4.1; RFC 7541).

use crate::support::{CREDENTIAL, signed_at, uri};
use crate::target::HUNG;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;
use xks_proxy::env::{Env, SystemEnv};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

/// Error codes (RFC 9113, 7).
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame of any kind.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame_of_length(u32::try_from(payload.len()).unwrap(), kind, flags, stream, payload)
}

/// One that says a length of its own.
pub(crate) fn frame_of_length(length: u32, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A setting and its value, as a frame.
pub(crate) fn setting(name: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[name.to_be_bytes().as_slice(), &value.to_be_bytes()].concat())
}

/// A field as HPACK has it in the plainest way: literal, not indexed, not compressed.
pub(crate) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0], length(name).as_slice(), name, &length(value), value].concat()
}

/// The length of a string of up to 16,000 bytes: an integer of a prefix of seven bits.
pub(crate) fn length(text: &[u8]) -> Vec<u8> {
    match text.len() {
        short @ 0..127 => vec![short as u8],
        long => vec![127, ((long - 127) % 128) as u8 | 128, ((long - 127) / 128) as u8],
    }
}

/// The fields of a signed request.
pub(crate) fn signed_fields(operation: &str, body: &str) -> Vec<u8> {
    let request = signed_at(&uri(operation), body.to_owned(), CREDENTIAL, SystemEnv.now());
    let mut fields = pseudo_fields(&uri(operation));
    for (name, value) in request.headers().iter().filter(|(name, _)| *name != "host") {
        fields.extend(field(name.as_str().as_bytes(), value.as_bytes()));
    }
    fields
}

/// Those that each request begins with.
pub(crate) fn pseudo_fields(path: &str) -> Vec<u8> {
    let fields =
        [(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "xks.example.com")];
    fields.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect()
}

/// One frame that came back.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The next one; `None` when the connection has ended.
    pub(crate) async fn read(io: &mut (impl AsyncRead + Unpin)) -> Option<Self> {
        let read = async {
            let mut head = [0; 9];
            io.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, _flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            io.read_exact(&mut payload).await.ok()?;
            Some(Self { kind, stream: u32::from_be_bytes(stream), payload })
        };
        timeout(HUNG, read).await.unwrap_or_else(|_| panic!("neither a frame nor the end"))
    }

    /// The error code of a GOAWAY or RST_STREAM.
    pub(crate) fn code(&self) -> Option<u32> {
        let at = match self.kind {
            GOAWAY => 4,
            RST_STREAM => 0,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().ok()?))
    }
}
