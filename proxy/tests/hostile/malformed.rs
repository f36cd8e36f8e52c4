//! Requests over HTTP/1.1 that are malformed, ambiguous, too large or merely strange, each with what must come of it.

use crate::messages::{Answer, Pieces};
use crate::target::{HUNG, Target, until_closed};
use tokio::io::{AsyncWriteExt, split};
use tokio::time::timeout;

/// The KMS request id of what is smuggled. No event of the audit log may have it.
pub(crate) const SMUGGLED: &str = "smuggled";

/// One connection: what is sent at once, and the statuses of the answers after which the proxy closes it.
struct Case {
    name: &'static str,
    sent: Vec<u8>,
    statuses: Vec<u16>,
}

/// All of them.
pub(crate) async fn attack(target: &Target) {
    let mut wrong = Vec::new();
    for Case { name, sent, statuses } in cases() {
        let got = exchange(target, &sent).await;
        let got: Vec<u16> = got.iter().map(|answer| answer.status).collect();
        if got != statuses {
            wrong.push(format!("{name}: {got:?} instead of {statuses:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Sends and reads at once, since a refusal may come before all is sent; and reads until the proxy closes.
async fn exchange(target: &Target, sent: &[u8]) -> Vec<Answer> {
    let (mut read, mut write) = split(target.connect().await);
    let send = async {
        // What is refused may not be taken to its end.
        let _ =
            timeout(HUNG, write.write_all(sent)).await.unwrap_or_else(|_| panic!("not taken, not refused"));
        let _ = write.flush().await;
    };
    let ((), bytes) = tokio::join!(send, until_closed(&mut read));
    Answer::all_of(&bytes).await
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name, sent: Vec<u8>, statuses: &[u16]| {
        cases.push(Case { name, sent, statuses: statuses.to_vec() });
    };
    framing(&mut case);
    heads(&mut case);
    chunks(&mut case);
    sizes(&mut case);
    forms(&mut case);
    cases
}

type Add<'a> = &'a mut dyn FnMut(&'static str, Vec<u8>, &[u16]);

/// Whose end is told in two ways, or in a way that somebody on the road may read otherwise. A second request follows,
/// signed and complete; it must never be one.
fn framing(case: Add<'_>) {
    let first = Pieces::encrypt("framing");
    let second = String::from_utf8(Pieces::encrypt(SMUGGLED).with_length("connection: close\r\n")).unwrap();
    let length = first.body.len();
    let chunked = first.chunked();
    let whole = format!("{}{second}", first.body);
    let both = chunked.len() + second.len();

    for (name, fields) in [
        ("two lengths", format!("content-length: {length}\r\ncontent-length: {}\r\n", whole.len())),
        (
            "two lengths, the longer first",
            format!("content-length: {}\r\ncontent-length: {length}\r\n", whole.len()),
        ),
        ("two lengths in one field", format!("content-length: {length}, {}\r\n", whole.len())),
        ("a length with a sign", format!("content-length: +{length}\r\n")),
        ("a negative length", "content-length: -1\r\n".to_owned()),
        ("a hexadecimal length", format!("content-length: 0x{length:x}\r\n")),
        ("a length with a blank in it", "content-length: 1 2\r\n".to_owned()),
        ("a length beyond 64 bits", "content-length: 18446744073709551617\r\n".to_owned()),
        ("no length where there is a field", "content-length: \r\n".to_owned()),
        ("a blank before the colon", format!("content-length : {length}\r\n")),
        ("a length on a folded line", format!("content-length:\r\n {length}\r\n")),
        ("a folded line", format!("content-length: {length}\r\nx: a\r\n b\r\n")),
        ("a first line that is folded", format!(" content-length: {length}\r\n")),
        ("a NUL in a value", format!("content-length: {length}\r\nx: a\0b\r\n")),
        ("a NUL in a name", format!("content-length: {length}\r\nx\0: a\r\n")),
        ("a bare CR in a value", format!("content-length: {length}\r\nx: a\rb\r\n")),
        ("a field without a colon", format!("content-length: {length}\r\nx\r\n")),
        ("a field without a name", format!("content-length: {length}\r\n: x\r\n")),
    ] {
        case(name, first.framed(&fields, &whole), &[400]);
    }
    for (name, fields) in [
        ("an encoding nobody knows", "transfer-encoding: xchunked\r\n".to_owned()),
        ("an encoding after chunked", "transfer-encoding: chunked, identity\r\n".to_owned()),
        ("chunked with a vertical tab before", "transfer-encoding: \x0bchunked\r\n".to_owned()),
        ("chunked on a folded line", "transfer-encoding:\r\n chunked\r\n".to_owned()),
        ("chunked after a blank before the colon", "transfer-encoding : chunked\r\n".to_owned()),
        (
            "chunked, then something else",
            "transfer-encoding: chunked\r\ntransfer-encoding: cow\r\n".to_owned(),
        ),
        (
            "a length and an encoding nobody knows",
            format!("content-length: {both}\r\ntransfer-encoding: x\r\n"),
        ),
    ] {
        case(name, first.framed(&fields, &format!("{chunked}{second}")), &[400]);
    }
    // RFC 9112, 6.3: chunked wins, and the connection ends with the answer.
    for (name, fields) in [
        ("a length and chunked", format!("content-length: {both}\r\ntransfer-encoding: chunked\r\n")),
        ("chunked and a length", format!("transfer-encoding: chunked\r\ncontent-length: {both}\r\n")),
        (
            "chunked and a length that is none",
            "transfer-encoding: chunked\r\ncontent-length: x\r\n".to_owned(),
        ),
    ] {
        case(name, first.framed(&fields, &format!("{chunked}{second}")), &[200]);
    }
    // Everybody who takes a bare LF for the end of a line reads this, and nobody else reads it otherwise than as one
    // request that is malformed (RFC 9112, 2.2).
    let bare = format!("{}content-length: {length}\nconnection: close\n\n", first.head.replace('\r', ""));
    case("bare LF everywhere", format!("{bare}{whole}").into_bytes(), &[200]);
}

fn heads(case: Add<'_>) {
    let first = Pieces::encrypt("heads");
    let close = "connection: close\r\n";
    let many = |count: usize| -> String { (0..count).map(|i| format!("x-{i}: y\r\n")).collect() };
    case("65 fields and more", first.with_length(&many(65)), &[431]);
    case("100,000 fields", first.with_length(&many(100_000)), &[431]);
    case("a field of 20,000 bytes", first.with_length(&format!("x: {}\r\n", "y".repeat(20_000))), &[431]);
    case("a field of a megabyte", first.with_length(&format!("x: {}\r\n", "y".repeat(1 << 20))), &[431]);
    case("a name of 20,000 bytes", first.with_length(&format!("{}: y\r\n", "x".repeat(20_000))), &[431]);
    case(
        "a request line of a megabyte",
        format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20)).into(),
        &[431],
    );
    case("a megabyte of empty lines", "\r\n".repeat(1 << 19).into_bytes(), &[431]);
    case("a method without end", "A".repeat(20_000).into_bytes(), &[431]);
    case(
        "a URI of 300 characters",
        format!("POST /{} HTTP/1.1\r\nhost: x\r\n{close}\r\n", "a".repeat(300)).into(),
        &[404],
    );
    case("two hosts", first.with_length(&format!("host: other.example.com\r\n{close}")), &[401]);
    case("no host", first.with_length(close).replace_once(b"host: xks.example.com\r\n", b""), &[401]);
    case(
        "obs-text in a value",
        first.with_length(close).replace_once(b"\r\n\r\n", b"\r\nx: \xff\xfe\r\n\r\n"),
        &[200],
    );
    case(
        "obs-text in a name",
        first.with_length(close).replace_once(b"\r\n\r\n", b"\r\nx\xff: y\r\n\r\n"),
        &[400],
    );
    case("a path that is not UTF-8", b"POST /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), &[400]);
    case("a control character in the path", b"POST /\x01 HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), &[400]);
    case("a NUL in the path", b"POST /\0 HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), &[400]);
    case("a query that is not UTF-8", first.with_length(close).replace_once(b" HTTP", b"?\xff HTTP"), &[400]);
    let body = Pieces::encrypt("not UTF-8");
    case(
        "a body that is not UTF-8",
        body.with_length(close).replace_once(b"arn:aws:iam", b"arn:\xff\xfe\xfd:iam"),
        &[401],
    );
}

fn chunks(case: Add<'_>) {
    let first = Pieces::encrypt("chunks");
    let second = String::from_utf8(Pieces::encrypt(SMUGGLED).with_length("connection: close\r\n")).unwrap();
    let (fields, close) =
        ("transfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\nconnection: close\r\n");
    let (body, length) = (&first.body, first.body.len());
    for (name, rest) in [
        ("a chunk size that is none", format!("x\r\n{body}\r\n0\r\n\r\n")),
        ("a chunk size with 0x", format!("0x{length:x}\r\n{body}\r\n0\r\n\r\n")),
        ("a chunk size with a sign", format!("+{length:x}\r\n{body}\r\n0\r\n\r\n")),
        ("a negative chunk size", format!("-{length:x}\r\n{body}\r\n0\r\n\r\n")),
        ("a chunk size beyond 64 bits", format!("10000000000000001\r\n{body}\r\n0\r\n\r\n")),
        ("no chunk size", format!("\r\n{body}\r\n0\r\n\r\n")),
        ("a chunk that is longer than its size", format!("{:x}\r\n{body}\r\n0\r\n\r\n", length - 1)),
        ("a chunk that is shorter than its size", format!("{:x}\r\n{body}\r\n0\r\n\r\n", length + 1)),
        ("a bare LF after a chunk size", format!("{length:x}\n{body}\r\n0\r\n\r\n")),
        ("a bare LF after a chunk", format!("{length:x}\r\n{body}\n0\r\n\r\n")),
        ("a bare LF in an extension", format!("{length:x};a\nb\r\n{body}\r\n0\r\n\r\n")),
        ("a bare CR in an extension", format!("{length:x};a\rb\r\n{body}\r\n0\r\n\r\n")),
        (
            "an extension of 100,000 bytes",
            format!("{length:x};{}\r\n{body}\r\n0\r\n\r\n", "a".repeat(100_000)),
        ),
        (
            "a trailer of 100,000 bytes",
            format!("{length:x}\r\n{body}\r\n0\r\nx: {}\r\n\r\n", "a".repeat(100_000)),
        ),
        ("100,000 trailers", format!("{length:x}\r\n{body}\r\n0\r\n{}\r\n", "x: y\r\n".repeat(100_000))),
        ("a trailer without a colon", format!("{length:x}\r\n{body}\r\n0\r\nx\r\n\r\n")),
    ] {
        case(name, first.framed(fields, &format!("{rest}{second}")), &[400]);
    }
    let bytes: String = body.chars().map(|char| format!("1\r\n{char}\r\n")).collect();
    case("chunks of one byte", first.framed(close, &format!("{bytes}0\r\n\r\n{second}")), &[200]);
    let extended: String = body.chars().map(|char| format!("1;{}\r\n{char}\r\n", "a".repeat(500))).collect();
    case(
        "chunks of one byte with extensions",
        first.framed(fields, &format!("{extended}0\r\n\r\n{second}")),
        &[400],
    );
    let extension = format!("{length:x};a=\"b\"\r\n{body}\r\n0\r\n\r\n{second}");
    case("an extension", first.framed(close, &extension), &[200]);
    let trailer =
        format!("{length:x}\r\n{body}\r\n0\r\ncontent-length: 9\r\ntransfer-encoding: x\r\n\r\n{second}");
    case("trailers that speak of framing", first.framed(close, &trailer), &[200]);
    let zeros = format!("{}{length:x}\r\n{body}\r\n0\r\n\r\n{second}", "0".repeat(15));
    case("a chunk size that begins with zeros", first.framed(close, &zeros), &[200]);
}

fn sizes(case: Add<'_>) {
    let (first, large) = (Pieces::encrypt("sizes"), Pieces::new("keys/foo/encrypt", &"x".repeat(65_537)));
    case("a body of one byte too many", large.with_length(""), &[413]);
    case(
        "a body of 65,536 bytes",
        Pieces::new("health", &" ".repeat(65_536)).with_length("connection: close\r\n"),
        &[400],
    );
    case("an announced petabyte", first.framed("content-length: 1000000000000000\r\n", "x"), &[413]);
    case(
        "10 MB in one chunk",
        first.framed("transfer-encoding: chunked\r\n", &format!("a00000\r\n{}", "x".repeat(10 << 20))),
        &[413],
    );
    let pieces = format!("1000\r\n{}\r\n", "x".repeat(4_096)).repeat(2_560);
    case("10 MB in many chunks", first.framed("transfer-encoding: chunked\r\n", &pieces), &[413]);
}

/// Old versions, rare forms and other protocols.
fn forms(case: Add<'_>) {
    let first = Pieces::encrypt("forms");
    let (close, line) = ("connection: close\r\n", "POST /example");
    let with = |from: &str, to: &str| first.with_length(close).replace_once(from.as_bytes(), to.as_bytes());
    case("HTTP/0.9", b"GET /ping\r\n".to_vec(), &[400]);
    case("HTTP/1.0", with("HTTP/1.1", "HTTP/1.0"), &[200]);
    case(
        "chunked over HTTP/1.0",
        [first
            .framed("transfer-encoding: chunked\r\n", &first.chunked())
            .replace_once(b"HTTP/1.1", b"HTTP/1.0")]
        .concat(),
        &[400],
    );
    case("HTTP/1.2", with("HTTP/1.1", "HTTP/1.2"), &[400]);
    case("HTTP/2.0 in a line", with("HTTP/1.1", "HTTP/2.0"), &[400]);
    case("http/1.1", with("HTTP/1.1", "http/1.1"), &[400]);
    case("no version", with(" HTTP/1.1", ""), &[400]);
    case("two blanks in the line", with("POST ", "POST  "), &[400]);
    case("the absolute form", with(line, "POST http://xks.example.com/example"), &[200]);
    // Nothing is chosen by a host; what was signed is the field.
    case("the absolute form with another host", with(line, "POST http://other.example.com/example"), &[200]);
    case("CONNECT", format!("CONNECT xks.example.com:443 HTTP/1.1\r\nhost: x\r\n{close}\r\n").into(), &[404]);
    case("OPTIONS *", format!("OPTIONS * HTTP/1.1\r\nhost: x\r\n{close}\r\n").into(), &[404]);
    case("TRACE", with("POST ", "TRACE "), &[405]);
    case("GET", with("POST ", "GET "), &[405]);
    case("a lower-case method", with("POST ", "post "), &[405]);
    let h2c =
        "connection: upgrade, http2-settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n";
    case("an upgrade to h2c", first.with_length(h2c), &[200]);
    case(
        "an upgrade to a web socket",
        first
            .with_length("connection: upgrade, close\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"),
        &[200],
    );
    case("an expectation", first.with_length(&format!("expect: 100-continue\r\n{close}")), &[100, 200]);
    case("an expectation nobody knows", first.with_length(&format!("expect: rain\r\n{close}")), &[200]);
    case("an empty line first", [b"\r\n", first.with_length(close).as_slice()].concat(), &[200]);
    case(
        "PROXY protocol 1",
        [b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", first.with_length(close).as_slice()].concat(),
        &[400],
    );
    case(
        "PROXY protocol 2",
        [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", [0; 12].as_slice(), &first.with_length(close)].concat(),
        &[400],
    );
    case("a TLS hello", [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".as_slice(), &[7; 507]].concat(), &[400]);
    case("an HTTP/2 opening with a mistake", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(), &[400]);
    case("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), &[400]);
    case("nothing but NULs", vec![0; 5_000], &[400]);
    let many: Vec<u8> = (0..50).flat_map(|_| Pieces::encrypt("pipelined").with_length("")).collect();
    case("51 in a pipeline", [many, Pieces::health().with_length(close)].concat(), &[200; 51]);
}

/// In bytes that need not be text.
trait ReplaceOnce {
    fn replace_once(self, from: &[u8], to: &[u8]) -> Vec<u8>;
}

impl ReplaceOnce for Vec<u8> {
    #[track_caller]
    fn replace_once(self, from: &[u8], to: &[u8]) -> Vec<u8> {
        let at = self.windows(from.len()).position(|window| window == from).unwrap();
        let (before, rest) = self.split_at(at);
        [before, to, rest.get(from.len()..).unwrap_or_default()].concat()
    }
}
