//! The HTTP/1.1 that a client needs: one request head, one answer.
//!
//! Place on the map: pure; [`client`](super::client) moves the bytes. Strict where the framing of the answer is at
//! stake, for a client that guesses would blame the proxy for the wrong thing (RFC 9112).

/// The largest head of an answer. Larger is malformed.
pub const HEAD_BYTES_MAX: usize = 16_384;
/// The largest body of an answer. Larger is malformed; the largest legal one is below 32 KiB.
pub const BODY_BYTES_MAX: usize = 65_536;
const HEADERS_MAX: usize = 64;

/// A complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The value of `content-type`, if there is one.
    pub content_type: Option<String>,
    /// The body, unchunked.
    pub body: Vec<u8>,
    /// Whether the connection can carry another request.
    pub reusable: bool,
}

/// Why bytes are not an answer, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

impl Malformed {
    fn because(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Parses what has arrived so far; `ended`: the peer has closed its side. `Ok(None)` asks for more bytes.
///
/// # Errors
/// When the bytes are not, and cannot become, an HTTP/1.1 answer within the limits.
pub fn parse_response(bytes: &[u8], ended: bool) -> Result<Option<Response>, Malformed> {
    let mut bytes = bytes;
    loop {
        let Some(head) = parse_head(bytes)? else {
            return if ended { Err(Malformed::because("closed within the head")) } else { Ok(None) };
        };
        bytes = &bytes[head.len..];
        // Interim answers may come first (RFC 9110, section 15.2); 101 would be the answer to an upgrade not asked for.
        if (100..200).contains(&head.status) {
            if head.status == 101 {
                return Err(Malformed::because("status 101 without an upgrade"));
            }
            continue;
        }
        let body = match head.framing {
            _ if matches!(head.status, 204 | 304) => Some((Vec::new(), 0)),
            Framing::Sized(length) => bytes.get(..length).map(|body| (body.to_vec(), length)),
            Framing::Chunked => parse_chunks(bytes)?,
            Framing::UntilClose if bytes.len() > BODY_BYTES_MAX => {
                return Err(Malformed::because("body too large"));
            }
            Framing::UntilClose => ended.then(|| (bytes.to_vec(), bytes.len())),
        };
        return match body {
            Some((body, used)) => Ok(Some(Response {
                status: head.status,
                content_type: head.content_type,
                body,
                // Bytes beyond the answer belong to no request of ours.
                reusable: head.keeps_alive && !ended && used == bytes.len(),
            })),
            None if ended => Err(Malformed::because("closed within the body")),
            None => Ok(None),
        };
    }
}

struct Head {
    len: usize,
    status: u16,
    content_type: Option<String>,
    framing: Framing,
    keeps_alive: bool,
}

enum Framing {
    Sized(usize),
    Chunked,
    UntilClose,
}

fn parse_head(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(Malformed::because("head too large")),
        Err(error) => return Err(Malformed(format!("head: {error}"))),
    };
    let status = response.code.unwrap_or_default();
    let mut keeps_alive = response.version == Some(1);
    let mut length = None;
    let mut chunked = false;
    let mut content_type = None;
    for header in response.headers.iter() {
        let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
        if header.name.eq_ignore_ascii_case("content-length") {
            // One number, and digits only: a sign is not allowed (RFC 9112, section 6.3).
            let number = (value.len() < 10 && value.bytes().all(|b| b.is_ascii_digit()))
                .then(|| value.parse::<usize>().ok())
                .flatten()
                .ok_or_else(|| Malformed(format!("content-length {value:?}")))?;
            if length.is_some_and(|before| before != number) {
                return Err(Malformed::because("two content-lengths"));
            }
            if number > BODY_BYTES_MAX {
                return Err(Malformed::because("body too large"));
            }
            length = Some(number);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case("chunked") {
                return Err(Malformed(format!("transfer-encoding {value:?}")));
            }
            chunked = true;
        } else if header.name.eq_ignore_ascii_case("content-type") {
            content_type = Some(value.to_owned());
        } else if header.name.eq_ignore_ascii_case("connection") {
            for option in value.split(',').map(str::trim) {
                if option.eq_ignore_ascii_case("close") {
                    keeps_alive = false;
                }
            }
        }
    }
    let framing = match (chunked, length) {
        (true, None) => Framing::Chunked,
        (true, Some(_)) => return Err(Malformed::because("both content-length and transfer-encoding")),
        (false, Some(length)) => Framing::Sized(length),
        (false, None) => Framing::UntilClose,
    };
    Ok(Some(Head { len, status, content_type, framing, keeps_alive }))
}

/// The body and how many bytes it took; `None` when it is not complete.
fn parse_chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Malformed> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let (line, size) = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete((line, size))) => (line, size),
            Ok(httparse::Status::Partial) if bytes.len() - at <= HEAD_BYTES_MAX => return Ok(None),
            _ => return Err(Malformed::because("chunk size")),
        };
        at += line;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > BODY_BYTES_MAX - body.len() {
            return Err(Malformed::because("body too large"));
        }
        if size == 0 {
            break;
        }
        let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
        if !chunk.ends_with(b"\r\n") {
            return Err(Malformed::because("chunk without its end"));
        }
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
    }
    // Trailer fields are read over, up to the empty line.
    loop {
        let Some(end) = bytes[at..].windows(2).position(|pair| pair == b"\r\n") else {
            return if bytes.len() - at > HEAD_BYTES_MAX {
                Err(Malformed::because("trailer too large"))
            } else {
                Ok(None)
            };
        };
        at += end + 2;
        if end == 0 {
            return Ok(Some((body, at)));
        }
    }
}

/// Writes a POST: the request line, `headers` in the given order, the framing header, and the body.
pub fn write_post(path: &str, headers: &[(&str, &str)], body: &[u8], chunked: bool) -> Vec<u8> {
    let mut request = Vec::with_capacity(512 + body.len());
    for part in ["POST ", path, " HTTP/1.1\r\n"] {
        request.extend_from_slice(part.as_bytes());
    }
    for (name, value) in headers {
        for part in [name, ": ", value, "\r\n"] {
            request.extend_from_slice(part.as_bytes());
        }
    }
    if chunked {
        request.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
        // Two chunks, so that whoever reads must put them together.
        let (first, second) = body.split_at(body.len() / 2);
        for chunk in [first, second].into_iter().filter(|chunk| !chunk.is_empty()) {
            request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            request.extend_from_slice(chunk);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"0\r\n\r\n");
    } else {
        request.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        request.extend_from_slice(body);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(status: u16, body: &str, reusable: bool) -> Result<Option<Response>, Malformed> {
        Ok(Some(Response { status, content_type: None, body: body.into(), reusable }))
    }

    #[test]
    fn every_legal_framing_gives_the_body() {
        for (bytes, ended, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", false, ok(200, "{}", true)),
            ("HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}", true, ok(200, "{}", false)),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: x, Close\r\n\r\n{}",
                false,
                ok(200, "{}", false),
            ),
            ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}", false, ok(200, "{}", false)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP", false, ok(200, "{}", false)),
            (
                "HTTP/1.1 503 x\r\ntransfer-encoding: chunked\r\n\r\n1;a=b\r\n{\r\n1\r\n}\r\n0\r\nt: 1\r\n\r\n",
                false,
                ok(503, "{}", true),
            ),
            ("HTTP/1.1 200 OK\r\n\r\n{}", true, ok(200, "{}", false)),
            ("HTTP/1.1 204 No\r\n\r\n", false, ok(204, "", true)),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                false,
                ok(200, "", true),
            ),
        ] {
            assert_eq!(parse_response(bytes.as_bytes(), ended), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_part_of_an_answer_asks_for_more_and_malformed_once_closed() {
        for bytes in [
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n{}{}\r\n0\r\n\r\n",
        ] {
            for cut in 0..bytes.len() {
                let part = &bytes.as_bytes()[..cut];
                assert_eq!(parse_response(part, false), Ok(None), "{cut}");
                assert!(parse_response(part, true).is_err(), "{cut}");
            }
        }
    }

    #[test]
    fn what_cannot_be_an_answer_is_refused_at_once() {
        let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_BYTES_MAX));
        for bytes in [
            "SSH-2.0-OpenSSH_9.6\r\n",
            "\u{16}\u{3}\u{1}",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 65537\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffff\r\n",
            "HTTP/1.1 101 Switching\r\n\r\n",
            &long,
        ] {
            assert!(parse_response(bytes.as_bytes(), false).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_post_is_written_sized_or_chunked() {
        let sized = write_post("/p", &[("host", "h")], b"{}", false);
        assert_eq!(sized, b"POST /p HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}");
        let chunked = write_post("/p", &[("host", "h")], b"{\"a\"}", true);
        assert!(String::from_utf8(chunked).unwrap().ends_with("\r\n\r\n2\r\n{\"\r\n3\r\na\"}\r\n0\r\n\r\n"));
    }
}
