//! Floods and breaches of HTTP/2, each with what must come of it.

use crate::frames::*;
use crate::support::metadata;
use crate::target::{HUNG, Target};
use serde_json::json;
use tokio::io::{AsyncWriteExt, split};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What must come of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The connection ends, with this code.
    GoAway(u32),
    /// This stream ends with this code. Others may go on.
    Reset(u32, u32),
    /// This stream is answered.
    Answer(u32),
    /// Nothing: the frames are within the protocol, cost the proxy no memory, and the connection ends as an idle one.
    Idle,
}

/// One connection: what is sent after the opening, and how it must end.
struct Case {
    name: &'static str,
    sent: Vec<u8>,
    end: End,
}

/// All of them, side by side: some last until a limit of time.
pub(crate) async fn attack(target: &Target) {
    let mut running = JoinSet::new();
    for case in cases() {
        let target = target.clone();
        running.spawn(async move {
            let end = end(&target, &case).await;
            (end != Some(case.end)).then(|| format!("{}: {end:?} instead of {:?}", case.name, case.end))
        });
    }
    let wrong: Vec<String> = running.join_all().await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// How it ended: the first of what may be expected of its kind, and the last word when the connection was closed.
async fn end(target: &Target, case: &Case) -> Option<End> {
    let (mut read, mut write) = split(target.connect().await);
    let send = async {
        let all = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &case.sent].concat();
        let _ = timeout(HUNG, write.write_all(&all)).await.unwrap_or_else(|_| panic!("{}: stuck", case.name));
        let _ = write.flush().await;
    };
    let receive = async {
        let mut last = None;
        while let Some(frame) = Frame::read(&mut read).await {
            let end = match (frame.kind, frame.code()) {
                (GOAWAY, Some(NO_ERROR)) => End::Idle,
                (GOAWAY, Some(code)) => End::GoAway(code),
                (RST_STREAM, Some(code)) => End::Reset(frame.stream, code),
                (HEADERS, _) => End::Answer(frame.stream),
                _ => continue,
            };
            if end == case.end && !matches!(end, End::GoAway(_) | End::Idle) {
                return Some(end);
            }
            last = Some(end);
        }
        last
    };
    // What is read may end it while a flood is still on its way.
    let (_, end) = tokio::join!(send, receive);
    end
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name, sent: Vec<u8>, end| cases.push(Case { name, sent, end });
    floods(&mut case);
    breaches(&mut case);
    streams(&mut case);
    fields(&mut case);
    cases
}

type Add<'a> = &'a mut dyn FnMut(&'static str, Vec<u8>, End);

/// The stream of the `n`th request.
fn stream(n: u32) -> u32 {
    2 * n + 1
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

fn window(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

fn health() -> String {
    json!({ "requestMetadata": metadata() }).to_string()
}

fn floods(case: Add<'_>) {
    let block = signed_fields("health", &health());
    let open = |n| frame(HEADERS, END_HEADERS, stream(n), &block);
    case(
        "rapid reset (CVE-2023-44487)",
        (0..10_000).flat_map(|n| [open(n), reset(stream(n))].concat()).collect(),
        End::GoAway(ENHANCE_YOUR_CALM),
    );
    case(
        "streams that the proxy is made to reset (CVE-2025-8671)",
        (0..10_000).flat_map(|n| [open(n), window(stream(n), 0x7fff_ffff)].concat()).collect(),
        End::GoAway(ENHANCE_YOUR_CALM),
    );
    case("100,000 SETTINGS", setting(4, 65_535).repeat(100_000), End::Idle);
    case("100,000 PINGs", frame(PING, 0, 0, &[0; 8]).repeat(100_000), End::Idle);
    case("100,000 PRIORITYs", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]).repeat(100_000), End::Idle);
    case("100,000 frames of a kind nobody knows", frame(99, 0, 0, &[0; 8]).repeat(100_000), End::Idle);
    case(
        "windows that go up and down",
        [setting(4, 0), setting(4, 65_535)].concat().repeat(20_000),
        End::Idle,
    );
    let many = field(b"x", &[b'y'; 1_000]).repeat(16);
    case(
        "CONTINUATION without end",
        [frame(HEADERS, 0, 1, &block), frame(CONTINUATION, 0, 1, &many).repeat(1_000)].concat(),
        End::GoAway(ENHANCE_YOUR_CALM),
    );
    case(
        "CONTINUATION of nothing, without end",
        [frame(HEADERS, 0, 1, &block), frame(CONTINUATION, 0, 1, &[]).repeat(100_000)].concat(),
        End::GoAway(ENHANCE_YOUR_CALM),
    );
    case(
        "DATA of one byte without end",
        [open(0), frame(DATA, 0, 1, b"x").repeat(60_000)].concat(),
        End::GoAway(ENHANCE_YOUR_CALM),
    );
    case(
        "DATA of nothing without end",
        [open(0), frame(DATA, 0, 1, b"").repeat(100_000)].concat(),
        End::GoAway(ENHANCE_YOUR_CALM),
    );
    // Each byte of the second part stands for 4,000.
    let entry = [&[0x40], length(b"x").as_slice(), b"x", &length(&[b'y'; 3_900]), &[b'y'; 3_900]].concat();
    let bomb = [pseudo_fields("/"), entry, vec![0xbe; 10_000]].concat();
    case(
        "a compressed head of 40 MB",
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb),
        End::GoAway(ENHANCE_YOUR_CALM),
    );
}

fn breaches(case: Add<'_>) {
    let open = frame(HEADERS, END_HEADERS, 1, &signed_fields("health", &health()));
    let protocol = End::GoAway(PROTOCOL_ERROR);
    // For most breaches the library has the general code, also where there is a finer one.
    let size = End::GoAway(FRAME_SIZE_ERROR);
    case("CONTINUATION of nothing begun", frame(CONTINUATION, END_HEADERS, 1, &[]), protocol);
    case(
        "a PING within a head",
        [frame(HEADERS, 0, 1, &pseudo_fields("/")), frame(PING, 0, 0, &[0; 8])].concat(),
        protocol,
    );
    case("a frame of 16 MB", frame_of_length(0xff_ffff, DATA, 0, 1, &[0; 1_000]), size);
    case("a PING of seven bytes", frame(PING, 0, 0, &[0; 7]), protocol);
    case("SETTINGS of five bytes", frame(SETTINGS, 0, 0, &[0; 5]), protocol);
    case("SETTINGS that acknowledge something", frame(SETTINGS, ACK, 0, &[0; 6]), protocol);
    case("SETTINGS of a stream", frame(SETTINGS, 0, 1, &[]), protocol);
    case("a window of 4 GB", setting(4, u32::MAX), protocol);
    case("frames of at least one byte", setting(5, 1), protocol);
    case("a window that grows by nothing", window(0, 0), protocol);
    case("a window beyond 2 GB", window(0, 0x7fff_ffff), End::GoAway(FLOW_CONTROL_ERROR));
    case(
        "a stream's window beyond 2 GB",
        [open.clone(), window(1, 0x7fff_ffff)].concat(),
        End::Reset(1, FLOW_CONTROL_ERROR),
    );
    case("PUSH_PROMISE of a client", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), protocol);
    case("more padding than frame", frame(HEADERS, END_HEADERS | PADDED, 1, &[200, 0]), protocol);
    case("field 0 of the table", frame(HEADERS, END_HEADERS, 1, &[0x80]), protocol);
    case("field 1,000 of the table", frame(HEADERS, END_HEADERS, 1, &[0xff, 0xe9, 6]), protocol);
    case("an index without end", frame(HEADERS, END_HEADERS, 1, &[0xff; 100]), protocol);
    case("a table of 2 MB", frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xff, 0xff, 0x7f]), protocol);
    case("a string beyond its frame", frame(HEADERS, END_HEADERS, 1, &[0, 100, b'x']), protocol);
    // Cut off, it is waited for as long as anything on an idle connection.
    case("a head that is never ended", frame(HEADERS, 0, 1, &pseudo_fields("/")), End::Idle);
    case("half a frame", frame_of_length(100, HEADERS, END_HEADERS, 1, &[0; 10]), End::Idle);
    case("nothing", Vec::new(), End::Idle);
}

fn streams(case: Add<'_>) {
    let block = signed_fields("health", &health());
    let open = |stream| frame(HEADERS, END_HEADERS, stream, &block);
    let ended = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
    let protocol = End::GoAway(PROTOCOL_ERROR);
    case("a stream with an even number", ended(2), protocol);
    case("a head on no stream", ended(0), protocol);
    case("a number that was passed over", [ended(5), ended(3)].concat(), protocol);
    case("DATA of no stream", frame(DATA, 0, 0, b"x"), protocol);
    case("DATA of a stream that nobody opened", frame(DATA, 0, 1, b"x"), protocol);
    case("the reset of a stream that nobody opened", reset(1), protocol);
    case("a window of a stream that nobody opened", window(1, 1), protocol);
    case("DATA after the end", [ended(1), frame(DATA, 0, 1, b"x")].concat(), protocol);
    case("a second head after the end", [ended(1), ended(1)].concat(), protocol);
    case(
        "65 requests at once",
        (0..65).flat_map(|n| open(stream(n))).collect(),
        End::Reset(stream(64), REFUSED_STREAM),
    );
    case("a body that never comes", open(1), End::Answer(1));
    let body = frame(DATA, END_STREAM, 1, health().as_bytes());
    case("an answer that may not be sent", [setting(4, 0), open(1), body].concat(), End::Idle);
}

fn fields(case: Add<'_>) {
    let (wrong, undecodable) = (End::Reset(1, PROTOCOL_ERROR), End::GoAway(PROTOCOL_ERROR));
    let with = |more: Vec<u8>| {
        let block = [signed_fields("health", &health()), more].concat();
        let head = frame(HEADERS, END_HEADERS, 1, &block);
        [head, frame(DATA, END_STREAM, 1, health().as_bytes())].concat()
    };
    case("a name in capitals", with(field(b"X", b"y")), undecodable);
    case("an empty name", with(field(b"", b"y")), undecodable);
    case("a name with a line break", with(field(b"x: y\r\nz", b"y")), undecodable);
    case("a value with a line break", with(field(b"x", b"y\r\ntransfer-encoding: chunked")), undecodable);
    case("a value with a NUL", with(field(b"x", b"y\0")), undecodable);
    case("chunked", with(field(b"transfer-encoding", b"chunked")), wrong);
    case("Connection", with(field(b"connection", b"close")), wrong);
    case("Upgrade", with(field(b"upgrade", b"h2c")), wrong);
    case("a pseudo field at the end", with(field(b":path", b"/")), wrong);
    case("a pseudo field nobody knows", with(field(b":x", b"y")), undecodable);
    case("a status in a request", with(field(b":status", b"200")), wrong);
    case("a length that is not that of the body", with(field(b"content-length", b"1")), wrong);
    case("a length that is none", with(field(b"content-length", b"x")), wrong);
    case(
        "two lengths",
        with([field(b"content-length", b"1"), field(b"content-length", b"2")].concat()),
        wrong,
    );
    let head = |block: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 1, block);
    case("no pseudo fields", head(&field(b"x", b"y")), wrong);
    case("two paths", head(&[pseudo_fields("/"), field(b":path", b"/x")].concat()), wrong);
    case("a path that is not UTF-8", head(&pseudo_fields("/").replace_path(b"\xff")), undecodable);
    case("65 fields and more", with(field(b"x", b"y").repeat(65)), End::Answer(1));
    case(
        "a head of 17,000 bytes",
        head(&[pseudo_fields("/"), field(b"x", &[b'y'; 16_000])].concat()),
        End::Answer(1),
    );
}

/// In a block of fields.
trait ReplacePath {
    fn replace_path(self, path: &[u8]) -> Self;
}

impl ReplacePath for Vec<u8> {
    fn replace_path(self, path: &[u8]) -> Self {
        [field(b":method", b"POST"), field(b":scheme", b"https"), field(b":path", path)].concat()
    }
}
