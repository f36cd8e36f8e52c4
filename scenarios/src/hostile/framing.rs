//! A request as bytes: framed as HTTP/1.1 asks for, or in ways it forbids.
//!
//! Place on the map: the last step before [`wire`](super::wire). Numbers are those of RFC 9112.

use super::request::Request;
use serde::{Deserialize, Serialize};

/// How the end of a request is told, and what is wrong with that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each says in its name what is done")]
pub enum Framing {
    Sized,
    Chunked,
    ChunkedWithExtension,
    ChunkedWithTrailer,
    LengthTwiceAlike,
    LengthTwiceDifferent,
    LengthList,
    LengthWithPlus,
    LengthNegative,
    LengthHexadecimal,
    LengthHuge,
    LengthEmpty,
    LengthTooShort,
    LengthAndChunked,
    ChunkedTwice,
    TransferEncodingUnknown,
    TransferEncodingGzip,
    ChunkSizeNotHexadecimal,
    ChunkSizeOverflow,
    ChunkSizeTooShort,
    BareLineFeeds,
    BareCarriageReturn,
    SpaceBeforeColon,
    FoldedHeader,
    NulInHeader,
    HeaderWithoutColon,
    HeaderNameEmpty,
    VersionMissing,
    Version10,
    Version20,
    VersionMalformed,
    MethodEmpty,
    TargetVeryLong,
    HeaderVeryLong,
    HeadersVeryMany,
    LinesBefore,
    NotHttp,
    TlsRecord,
    HeadCutShort,
    BodyCutShort,
    LastChunkMissing,
    /// The body is the whole request, as a corpus has it.
    Raw,
}

/// What a server may make of a framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// It must be served.
    Legal,
    /// It may be served or refused.
    Tolerable,
    /// Whoever serves it may disagree with a load balancer about where the request ends: request smuggling.
    Ambiguous,
    /// It must be refused.
    Illegal,
    /// The rest never comes.
    Incomplete,
}

impl Framing {
    /// All that the target `framing` sends.
    pub const HOSTILE: [(Self, Nature); 40] = [
        (Self::Chunked, Nature::Legal),
        (Self::ChunkedWithExtension, Nature::Legal),
        (Self::ChunkedWithTrailer, Nature::Tolerable),
        (Self::LengthTwiceAlike, Nature::Tolerable),
        (Self::LengthTwiceDifferent, Nature::Ambiguous),
        (Self::LengthList, Nature::Ambiguous),
        (Self::LengthWithPlus, Nature::Ambiguous),
        (Self::LengthNegative, Nature::Illegal),
        (Self::LengthHexadecimal, Nature::Ambiguous),
        (Self::LengthHuge, Nature::Illegal),
        (Self::LengthEmpty, Nature::Illegal),
        (Self::LengthTooShort, Nature::Illegal),
        (Self::LengthAndChunked, Nature::Tolerable),
        (Self::ChunkedTwice, Nature::Ambiguous),
        (Self::TransferEncodingUnknown, Nature::Ambiguous),
        (Self::TransferEncodingGzip, Nature::Illegal),
        (Self::ChunkSizeNotHexadecimal, Nature::Illegal),
        (Self::ChunkSizeOverflow, Nature::Ambiguous),
        (Self::ChunkSizeTooShort, Nature::Illegal),
        (Self::BareLineFeeds, Nature::Tolerable),
        (Self::BareCarriageReturn, Nature::Ambiguous),
        (Self::SpaceBeforeColon, Nature::Ambiguous),
        (Self::FoldedHeader, Nature::Tolerable),
        (Self::NulInHeader, Nature::Ambiguous),
        (Self::HeaderWithoutColon, Nature::Illegal),
        (Self::HeaderNameEmpty, Nature::Illegal),
        (Self::VersionMissing, Nature::Illegal),
        (Self::Version10, Nature::Tolerable),
        (Self::Version20, Nature::Tolerable),
        (Self::VersionMalformed, Nature::Illegal),
        (Self::MethodEmpty, Nature::Illegal),
        (Self::TargetVeryLong, Nature::Illegal),
        (Self::HeaderVeryLong, Nature::Tolerable),
        (Self::HeadersVeryMany, Nature::Tolerable),
        (Self::LinesBefore, Nature::Tolerable),
        (Self::NotHttp, Nature::Illegal),
        (Self::TlsRecord, Nature::Illegal),
        (Self::HeadCutShort, Nature::Incomplete),
        (Self::BodyCutShort, Nature::Incomplete),
        (Self::LastChunkMissing, Nature::Incomplete),
    ];

    /// The bytes of `request` with `added`, the fields of its signature.
    pub fn bytes(self, request: &Request, added: &[(String, String)]) -> Vec<u8> {
        if self == Self::Raw {
            return request.body.clone();
        }
        let head = self.head(request, added);
        let length = request.body.len();
        let sized = |fields: &str| [head.as_bytes(), fields.as_bytes(), b"\r\n", &request.body].concat();
        let chunked =
            |fields: &str, body: Vec<u8>| [head.as_bytes(), fields.as_bytes(), b"\r\n", &body].concat();
        let one_chunk = |size: &str, end: &str| {
            [size.as_bytes(), b"\r\n", &request.body, b"\r\n", end.as_bytes()].concat()
        };
        let size = format!("{length:x}");
        const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
        const END: &str = "0\r\n\r\n";
        let plain = format!("Content-Length: {length}\r\n");
        match self {
            Self::Chunked => chunked(CHUNKED, one_chunk(&size, END)),
            Self::ChunkedWithExtension => chunked(CHUNKED, one_chunk(&format!("{size};name=value"), END)),
            Self::ChunkedWithTrailer => chunked(CHUNKED, one_chunk(&size, "0\r\nX-Trailer: 1\r\n\r\n")),
            Self::LengthTwiceAlike => sized(&format!("{plain}{plain}")),
            Self::LengthTwiceDifferent => sized(&format!("{plain}Content-Length: {}\r\n", length + 7)),
            Self::LengthList => sized(&format!("Content-Length: {length}, {}\r\n", length + 7)),
            Self::LengthWithPlus => sized(&format!("Content-Length: +{length}\r\n")),
            Self::LengthNegative => sized("Content-Length: -1\r\n"),
            Self::LengthHexadecimal => sized(&format!("Content-Length: 0x{size}\r\n")),
            Self::LengthHuge => sized("Content-Length: 99999999999999999999999\r\n"),
            Self::LengthEmpty => sized("Content-Length:\r\n"),
            Self::LengthTooShort => sized(&format!("Content-Length: {}\r\n", length / 2)),
            Self::LengthAndChunked => chunked(&format!("{plain}{CHUNKED}"), one_chunk(&size, END)),
            Self::ChunkedTwice => chunked("Transfer-Encoding: chunked, chunked\r\n", one_chunk(&size, END)),
            Self::TransferEncodingUnknown => {
                chunked("Transfer-Encoding: xchunked\r\n", one_chunk(&size, END))
            }
            Self::TransferEncodingGzip => {
                chunked("Transfer-Encoding: gzip, chunked\r\n", one_chunk(&size, END))
            }
            Self::ChunkSizeNotHexadecimal => chunked(CHUNKED, one_chunk("zz", END)),
            Self::ChunkSizeOverflow => {
                chunked(CHUNKED, one_chunk(&format!("10000000000000000{size:0>3}"), END))
            }
            Self::ChunkSizeTooShort => chunked(CHUNKED, one_chunk(&format!("{:x}", length / 2), END)),
            Self::LastChunkMissing => chunked(CHUNKED, one_chunk(&size, "")),
            Self::BareLineFeeds => {
                let lines = format!("{head}{plain}\r\n").replace("\r\n", "\n");
                [lines.as_bytes(), &request.body].concat()
            }
            Self::BareCarriageReturn => sized(&format!("X-Bare: a\rTransfer-Encoding: chunked\r\n{plain}")),
            Self::SpaceBeforeColon => sized(&format!("Content-Length : {length}\r\n")),
            Self::FoldedHeader => sized(&format!("X-Folded: a\r\n b\r\n{plain}")),
            Self::NulInHeader => sized(&format!("X-Nul: a\0b\r\n{plain}")),
            Self::HeaderWithoutColon => sized(&format!("no colon in this line\r\n{plain}")),
            Self::HeaderNameEmpty => sized(&format!(": no name\r\n{plain}")),
            Self::HeaderVeryLong => sized(&format!("X-Long: {}\r\n{plain}", "a".repeat(100_000))),
            Self::HeadersVeryMany => sized(&format!("{}{plain}", "X-Many: 1\r\n".repeat(2_000))),
            Self::LinesBefore => [b"\r\n\r\n", &sized(&plain)[..]].concat(),
            Self::NotHttp => b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec(),
            // A ClientHello's beginning, as a client sends it that takes a plain port for a TLS one.
            Self::TlsRecord => b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03\r\n\r\n".to_vec(),
            Self::HeadCutShort => head.as_bytes()[..head.len() / 2].to_vec(),
            Self::BodyCutShort => sized(&format!("Content-Length: {}\r\n", length + 100)),
            _ => sized(&plain),
        }
    }

    /// The request line and the fields, without those that tell the length.
    fn head(self, request: &Request, added: &[(String, String)]) -> String {
        let target = match self {
            Self::TargetVeryLong => format!("{}/{}", request.target, "a".repeat(100_000)),
            _ => request.target.clone(),
        };
        let method = if self == Self::MethodEmpty { "" } else { &request.method };
        let version = match self {
            Self::VersionMissing => "",
            Self::Version10 => " HTTP/1.0",
            Self::Version20 => " HTTP/2.0",
            Self::VersionMalformed => " HTPP/1.1",
            _ => " HTTP/1.1",
        };
        let mut head = format!("{method} {target}{version}\r\n");
        for (name, value) in request.headers.iter().chain(added) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head
    }
}
