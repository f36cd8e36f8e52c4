//! Connections: limits, timeouts, drain and TLS. Most tests run over in-memory streams under paused time, so that a
//! timeout is seen to the nanosecond and costs nothing; the last ones over loopback sockets.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails loudly; clippy's leave for tests does not reach their helpers"
)]

mod support;

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CipherSuite, ProtocolVersion, SupportedCipherSuite};
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use support::{CREDENTIAL, Misdeed, World, encrypt, metadata, signed, uri};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use xks_proxy::app::Limits;
use xks_proxy::env::SystemEnv;
use xks_proxy::events::STATUS_CALLER_GONE;
use xks_proxy::server::{Listen, Listeners, serve};
use xks_proxy::tls::{ServerTls, certificates_from_pem, private_key_from_pem, server_config};

/// A listener whose connections are handed to it.
struct Door(mpsc::UnboundedReceiver<DuplexStream>);

impl Listen for Door {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<DuplexStream> {
        match self.0.recv().await {
            Some(stream) => Ok(stream),
            None => std::future::pending().await,
        }
    }
}

/// A served world.
struct House {
    world: World,
    door: mpsc::UnboundedSender<DuplexStream>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl House {
    fn open(limits: Limits) -> Self {
        Self::open_with(limits, None)
    }

    fn open_with(limits: Limits, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let world = World::with(limits, |_| {});
        let (door, connections) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let app = Arc::clone(&world.app);
        let serving = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            serve(Door(connections), app, tls.map(ServerTls::new), stopped).await;
        });
        Self { world, door, stop, serving }
    }

    fn connect(&self) -> DuplexStream {
        let (ours, theirs) = duplex(65_536);
        self.door.send(theirs).unwrap();
        ours
    }
}

/// A signed HTTP/1.1 request as bytes.
fn raw(operation: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let request = signed(&uri(operation), body.clone(), CREDENTIAL);
    let mut text = format!("POST {} HTTP/1.1\r\ncontent-length: {}\r\n", request.uri(), body.len());
    for (name, value) in request.headers() {
        text += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    (text + "\r\n" + &body).into_bytes()
}

fn health() -> Vec<u8> {
    raw("health", &json!({ "requestMetadata": metadata() }))
}

/// Longer than any limit under test; what takes longer has hung.
const HUNG: Duration = Duration::from_secs(300);

/// Reads one HTTP/1.1 response: status, head, body.
async fn response(io: &mut (impl AsyncRead + Unpin)) -> (u16, String, Value) {
    timeout(HUNG, response_when_it_comes(io)).await.unwrap_or_else(|_| panic!("no response"))
}

async fn response_when_it_comes(io: &mut (impl AsyncRead + Unpin)) -> (u16, String, Value) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = io.read_u8().await;
        head.push(byte.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&head))));
    }
    let head = String::from_utf8(head).unwrap();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    io.read_exact(&mut body).await.unwrap();
    (head[9..12].parse().unwrap(), head, serde_json::from_slice(&body).unwrap())
}

/// Waits for the end of the connection; whatever else comes is a mistake.
async fn ended(io: &mut (impl AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let _ = timeout(HUNG, io.read_to_end(&mut rest)).await.unwrap_or_else(|_| panic!("never closed"));
    assert_eq!(String::from_utf8_lossy(&rest), "");
}

type Http2 = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

async fn http2(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> (Http2, JoinHandle<hyper::Result<()>>) {
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    (sender, tokio::spawn(connection))
}

/// A signed request as HTTP/2 carries it: the host in `:authority` only (XKS-AUTH-1).
fn for_http2(operation: &str, body: &Value) -> Request<Full<Bytes>> {
    let (mut head, body) = signed(&uri(operation), body.to_string(), CREDENTIAL).into_parts();
    head.headers.remove("host");
    head.uri = format!("https://xks.example.com{}", uri(operation)).parse().unwrap();
    Request::from_parts(head, body)
}

async fn ask_http2(sender: &mut Http2) -> StatusCode {
    let body = json!({ "requestMetadata": metadata() });
    let response = sender.send_request(for_http2("health", &body)).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    let status = response.status();
    let json: Value =
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(json["ekmFleetDetails"][0]["healthStatus"], "ACTIVE");
    status
}

// ---------------------------------------------------------------------------------------------- HTTP/1.1

#[tokio::test(start_paused = true)]
async fn net_1_a_connection_serves_request_after_request() {
    let house = House::open(Limits::default());
    let mut io = house.connect();
    for _ in 0..3 {
        io.write_all(&health()).await.unwrap();
        let (status, head, _) = response(&mut io).await;
        assert_eq!(status, 200);
        assert!(head.contains("x-request-id: ") && head.contains("date: Fri, 02 Jan 2026 03:04:05 GMT\r\n"));
    }
    io.write_all(&[health(), health()].concat()).await.unwrap();
    assert_eq!((response(&mut io).await.0, response(&mut io).await.0), (200, 200));
    assert_eq!(house.world.events.all().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn net_9_a_body_may_come_in_chunks_and_after_a_100() {
    let house = House::open(Limits::default());
    let mut io = house.connect();
    let body = json!({ "requestMetadata": metadata() }).to_string();
    let request = String::from_utf8(health()).unwrap();
    let (head, _) = request.split_once("\r\n\r\n").unwrap();
    let head = head.replace(
        &format!("content-length: {}", body.len()),
        "transfer-encoding: chunked\r\nexpect: 100-continue",
    );
    io.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
    let mut proceed = [0; 25];
    io.read_exact(&mut proceed).await.unwrap();
    assert_eq!(&proceed, b"HTTP/1.1 100 Continue\r\n\r\n");
    for half in [&body[..7], &body[7..]] {
        io.write_all(format!("{:x}\r\n{half}\r\n", half.len()).as_bytes()).await.unwrap();
    }
    io.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(response(&mut io).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn err_4_what_hyper_refuses_is_json_too_and_is_recorded() {
    let house = House::open(Limits::default());
    let filler = "a".repeat(20_000);
    let many: String = (0..65).map(|n| format!("x-{n}: 1\r\n")).collect();
    for (bytes, status) in [
        ("BROKEN\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nno colon\r\n\r\n".to_owned(), 400),
        (format!("POST / HTTP/1.1\r\nx-filler: {filler}\r\n\r\n"), 431),
        (format!("POST /{filler} HTTP/1.1\r\n\r\n"), 431),
        (format!("POST / HTTP/1.1\r\n{many}\r\n"), 431),
    ] {
        let mut io = house.connect();
        let before = house.world.events.all().len();
        io.write_all(bytes.as_bytes()).await.unwrap();
        let (got, head, json) = response(&mut io).await;
        assert_eq!(got, status, "{head}");
        assert_eq!(json["errorName"], "ValidationException");
        assert!(
            head.contains("content-type: application/json\r\n") && head.contains("connection: close\r\n")
        );
        ended(&mut io).await;
        let events = house.world.events.all();
        assert_eq!((events.len() - before, events.last().unwrap().status), (1, status));
        assert!(head.contains(&events.last().unwrap().request_id));
    }
}

#[tokio::test(start_paused = true)]
async fn net_9_a_body_too_large_by_its_own_word_is_not_waited_for() {
    let house = House::open(Limits::default());
    let mut io = house.connect();
    let request = String::from_utf8(health()).unwrap();
    let (head, _) = request.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find(|line| line.starts_with("content-length")).unwrap();
    let head = head.replace(length, "content-length: 65537");
    io.write_all(format!("{head}\r\n\r\n{{").as_bytes()).await.unwrap();
    let start = Instant::now();
    let (status, _, json) = response(&mut io).await;
    assert_eq!((status, &json["errorName"]), (413, &json!("ValidationException")));
    ended(&mut io).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn net_9_a_slow_head_is_cut_off() {
    let house = House::open(Limits::default());
    // On a new connection, after the version is known, and after a request; a trickle buys no time.
    for (before, first) in [(false, "P"), (false, "POST /kms/xks/v1/health HTTP/1.1\r\n"), (true, "POST /a")]
    {
        let mut io = house.connect();
        if before {
            io.write_all(&health()).await.unwrap();
            assert_eq!(response(&mut io).await.0, 200);
        }
        sleep(Duration::from_secs(5)).await;
        let start = Instant::now();
        io.write_all(first.as_bytes()).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        io.write_all(b"x").await.unwrap();
        ended(&mut io).await;
        assert_eq!(start.elapsed(), Duration::from_secs(2), "{first:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn net_9_an_idle_connection_is_closed() {
    let house = House::open(Limits::default());
    let mut silent = house.connect();
    let start = Instant::now();
    ended(&mut silent).await;
    // The sniffing of the HTTP version ends with the grace that an idle connection gets.
    assert!(start.elapsed() <= Duration::from_secs(12), "{:?}", start.elapsed());

    let start = Instant::now();
    let mut io = house.connect();
    for pause in [70, 70] {
        io.write_all(&health()).await.unwrap();
        assert_eq!(response(&mut io).await.0, 200);
        sleep(Duration::from_secs(pause)).await;
    }
    ended(&mut io).await;
    assert_eq!(start.elapsed(), Duration::from_secs(145));
}

#[tokio::test(start_paused = true)]
async fn net_9_an_answer_that_nobody_reads_does_not_hold_the_connection() {
    let limits = Limits { connections_max: 1, ..Limits::default() };
    let house = House::open(limits);
    // A pipe far too narrow for the answer, whose other end never reads.
    let (mut narrow, theirs) = duplex(16);
    house.door.send(theirs).unwrap();
    narrow.write_all(&health()).await.unwrap();
    let mut next = house.connect();
    next.write_all(&health()).await.unwrap();
    let start = Instant::now();
    assert_eq!(response(&mut next).await.0, 200);
    assert!(start.elapsed() <= Duration::from_secs(77), "{:?}", start.elapsed());
}

/// What arrives late has less time left: the caller's patience began with its first byte.
#[tokio::test(start_paused = true)]
async fn time_2_the_deadline_counts_from_the_first_byte_of_the_head() {
    let house = House::open(Limits::default());
    let mut io = house.connect();
    for before in [false, true] {
        if before {
            sleep(Duration::from_secs(3)).await;
        }
        house.world.hsm.next([Misdeed::Hang]);
        let request = raw("keys/foo/encrypt", &encrypt("aGk="));
        let start = Instant::now();
        io.write_all(&request[..20]).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        io.write_all(&request[20..]).await.unwrap();
        assert_eq!(response(&mut io).await.0, 503);
        assert_eq!(start.elapsed(), Duration::from_millis(150));
        assert_eq!(house.world.events.last().stations.total, Duration::from_millis(150));
    }
    // Sent ahead of the last answer it has a whole deadline, from that answer on.
    house.world.hsm.next([Misdeed::Hang, Misdeed::Slow(Duration::from_millis(100))]);
    let request = raw("keys/foo/encrypt", &encrypt("aGk="));
    io.write_all(&[request.clone(), request].concat()).await.unwrap();
    assert_eq!((response(&mut io).await.0, response(&mut io).await.0), (503, 200));
}

// ---------------------------------------------------------------------------------------------- HTTP/2

/// What a network load balancer does (XKS-NET-8): connect and go, or ask `/ping` by a name that is not ours, in the clear or
/// over TLS, with no credential. None of it is a request of the API.
#[tokio::test(start_paused = true)]
async fn net_8_checks_by_tcp_http_and_https() {
    let ping = b"GET /ping HTTP/1.1\r\nhost: 10.0.0.7:8443\r\nconnection: close\r\n\r\n";
    let house = House::open(Limits::default());
    for _tcp_check in 0..3 {
        drop(house.connect());
    }
    let mut io = house.connect();
    io.write_all(ping).await.unwrap();
    let (status, _, body) = response(&mut io).await;
    assert_eq!((status, body), (200, json!({ "status": "ok" })));
    assert!(house.world.events.all().is_empty());

    let (mut io, house) = negotiate(true, rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES, &[]).await.unwrap();
    drop(house.connect());
    io.write_all(ping).await.unwrap();
    assert_eq!(response(&mut io).await.0, 200);
    assert!(house.world.events.all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn net_1_http2_serves_streams_side_by_side() {
    let house = House::open(Limits::default());
    let (mut sender, _connection) = http2(house.connect()).await;
    house
        .world
        .hsm
        .next([Misdeed::Slow(Duration::from_millis(100)), Misdeed::Slow(Duration::from_millis(100))]);
    let start = Instant::now();
    let (mut other, body) = (sender.clone(), encrypt("aGk="));
    let (first, second) = tokio::join!(
        sender.send_request(for_http2("keys/foo/encrypt", &body)),
        other.send_request(for_http2("keys/foo/encrypt", &body)),
    );
    assert_eq!((first.unwrap().status(), second.unwrap().status()), (StatusCode::OK, StatusCode::OK));
    assert_eq!(start.elapsed(), Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn net_9_http2_idles_as_long_as_it_may_and_no_longer() {
    let house = House::open(Limits::default());
    let (mut sender, connection) = http2(house.connect()).await;
    for pause in [9, 70] {
        sleep(Duration::from_secs(pause)).await;
        assert_eq!(ask_http2(&mut sender).await, StatusCode::OK);
    }
    let start = Instant::now();
    let _ = connection.await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(75) && start.elapsed() <= Duration::from_secs(77));
}

#[tokio::test(start_paused = true)]
async fn net_9_http2_limits_the_fields_of_a_head_too() {
    let house = House::open(Limits::default());
    let (mut sender, _connection) = http2(house.connect()).await;
    for (filler, status) in [(60, 200), (61, 431)] {
        let mut request = for_http2("health", &json!({ "requestMetadata": metadata() }));
        assert_eq!(request.headers().len(), 3, "hyper's client adds the length");
        for index in 0..filler {
            let name = http::HeaderName::try_from(format!("x-{index}")).unwrap();
            request.headers_mut().insert(name, "1".parse().unwrap());
        }
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), status);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let json: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json.get("errorName"), (status == 431).then_some(&json!("ValidationException")));
    }
    let detail = house.world.events.last().detail;
    assert_eq!(detail.as_deref(), Some("the head has 65 fields; limits.headers_max = 64"));
}

#[tokio::test(start_paused = true)]
async fn net_9_http2_has_64_streams_at_once_on_a_connection() {
    let limits = Limits { deadline: Duration::from_secs(5), ..Limits::default() };
    let house = House::open(limits);
    let (sender, _connection) = http2(house.connect()).await;
    // The first answer proves that the client has read the server's settings.
    assert_eq!(ask_http2(&mut sender.clone()).await, StatusCode::OK);
    house.world.hsm.next(vec![Misdeed::Hang; 64]);
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..65 {
        let request = for_http2("keys/foo/encrypt", &encrypt("aGk="));
        let mut sender = sender.clone();
        asked.spawn(async move { sender.send_request(request).await.unwrap().status().as_u16() });
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(house.world.hsm.calls().len(), 1 + 64);
    let mut statuses = asked.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![200], vec![503; 64]].concat());
}

/// The caller sees the answer, for what it has under way is read on and thrown away; up to a limit.
#[tokio::test(start_paused = true)]
async fn net_9_http2_a_body_too_large_is_answered_when_it_has_ended_or_at_the_deadline() {
    let house = House::open(Limits::default());
    let (mut sender, _connection) = http2(house.connect()).await;
    let mut whole = for_http2("health", &json!({}));
    *whole.body_mut() = Full::new(Bytes::from(vec![b' '; 1_000_000]));
    let response = sender.send_request(whole).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.starts_with(br#"{"errorName":"ValidationException""#), "{body:?}");

    let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, Slow>(
        TokioExecutor::new(),
        TokioIo::new(house.connect()),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let (head, _) = for_http2("health", &json!({})).into_parts();
    let start = Instant::now();
    let endless = Slow(Some(Bytes::from(vec![b' '; 65_537])));
    let response = sender.send_request(Request::from_parts(head, endless)).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(start.elapsed() < Duration::from_millis(150) && start.elapsed() > Duration::from_millis(140));
}

/// One piece, and then nothing for ever.
struct Slow(Option<Bytes>);

impl hyper::body::Body for Slow {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<io::Result<hyper::body::Frame<Bytes>>>> {
        let piece = self.0.take().map(|piece| Ok(hyper::body::Frame::data(piece)));
        piece.map_or(std::task::Poll::Pending, |piece| std::task::Poll::Ready(Some(piece)))
    }
}

// ---------------------------------------------------------------------------------------------- Limits and shutdown

#[tokio::test(start_paused = true)]
async fn net_9_a_stranger_may_idle_less() {
    let house = House::open(Limits::default());
    let start = Instant::now();
    let mut stranger = house.connect();
    // A load balancer's check keeps its connection, if it comes again in time; a wrong signature proves nothing.
    let unsigned =
        "POST /kms/xks/v1/health HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n";
    for (request, status) in [("GET /ping HTTP/1.1\r\n\r\n", 200), (unsigned, 401)] {
        sleep(Duration::from_secs(9)).await;
        stranger.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(response(&mut stranger).await.0, status);
    }
    ended(&mut stranger).await;
    assert_eq!(start.elapsed(), Duration::from_secs(28));
}

#[tokio::test(start_paused = true)]
async fn net_9_in_a_full_house_a_stranger_makes_room_and_nobody_else() {
    let house = House::open(Limits { connections_max: 3, ..Limits::default() });
    let start = Instant::now();
    let (mut proven, mut first, mut second) = (house.connect(), house.connect(), house.connect());
    proven.write_all(&health()).await.unwrap();
    assert_eq!(response(&mut proven).await.0, 200);
    // Busy or not: this one is in the midst of a request.
    sleep(Duration::from_millis(100)).await;
    first.write_all(b"POST /kms/xks/v1/health HTTP/1.1\r\ncontent-length: 9\r\n\r\n").await.unwrap();
    let mut third = house.connect();
    third.write_all(&health()).await.unwrap();
    assert_eq!(response(&mut third).await.0, 200);
    // Nobody is sent away before it can have authenticated: else a crowd of newcomers would drive out one another.
    assert_eq!(start.elapsed(), Duration::from_millis(150));
    ended(&mut first).await;
    assert_eq!(house.world.events.all()[1].status, STATUS_CALLER_GONE);
    // One for each who comes, and no more.
    assert!(timeout(Duration::from_millis(1), second.read_u8()).await.is_err());
    let mut fourth = house.connect();
    ended(&mut second).await;
    fourth.write_all(&health()).await.unwrap();
    assert_eq!(response(&mut fourth).await.0, 200);
    assert!(start.elapsed() <= Duration::from_millis(152), "{:?}", start.elapsed());
    for io in [&mut proven, &mut third, &mut fourth] {
        io.write_all(&health()).await.unwrap();
        assert_eq!(response(io).await.0, 200, "who has proven itself stays");
    }
}

/// Before it is answered, for the answer may take as long as the HSM.
#[tokio::test(start_paused = true)]
async fn net_9_an_authenticated_request_protects_its_connection_at_once() {
    let house = House::open(Limits { connections_max: 1, ..Limits::default() });
    house.world.hsm.next([Misdeed::Slow(Duration::from_millis(100))]);
    let mut first = house.connect();
    sleep(Duration::from_millis(100)).await;
    first.write_all(&raw("keys/foo/encrypt", &encrypt("aGk="))).await.unwrap();
    let _second = house.connect();
    assert_eq!(response(&mut first).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn net_9_a_full_house_leaves_connections_at_the_door() {
    let house = House::open(Limits { connections_max: 2, ..Limits::default() });
    let (mut first, mut second, mut third) = (house.connect(), house.connect(), house.connect());
    for io in [&mut first, &mut second, &mut third] {
        io.write_all(&health()).await.unwrap();
    }
    assert_eq!((response(&mut first).await.0, response(&mut second).await.0), (200, 200));
    assert!(timeout(Duration::from_secs(10), response(&mut third)).await.is_err());
    drop(first);
    assert_eq!(response(&mut third).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn shutdown_finishes_what_has_begun_and_takes_nothing_new() {
    let house = House::open(Limits::default());
    let (mut busy, mut idle, mut silent) = (house.connect(), house.connect(), house.connect());
    idle.write_all(&health()).await.unwrap();
    assert_eq!(response(&mut idle).await.0, 200);
    let (mut http2_busy, _connection) = http2(house.connect()).await;
    house
        .world
        .hsm
        .next([Misdeed::Slow(Duration::from_millis(100)), Misdeed::Slow(Duration::from_millis(100))]);
    busy.write_all(&raw("keys/foo/encrypt", &encrypt("aGk="))).await.unwrap();
    let body = encrypt("aGk=");
    let streaming = tokio::spawn(http2_busy.send_request(for_http2("keys/foo/encrypt", &body)));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(house.world.hsm.calls().len(), 3);

    let start = Instant::now();
    house.stop.send(()).unwrap();
    ended(&mut idle).await;
    ended(&mut silent).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(house.world.app.is_draining());
    let (status, head, _) = response(&mut busy).await;
    assert_eq!(status, 200);
    assert!(head.contains("connection: close\r\n"));
    assert_eq!(streaming.await.unwrap().unwrap().status(), StatusCode::OK);
    house.serving.await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(90));
    let (_late, theirs) = duplex(64);
    assert!(house.door.send(theirs).is_err(), "the listener is gone");
}

#[tokio::test(start_paused = true)]
async fn shutdown_cuts_off_what_outlasts_the_drain_timeout() {
    let limits = Limits { drain_timeout: Duration::from_millis(30), ..Limits::default() };
    let house = House::open(limits);
    house.world.hsm.next([Misdeed::Hang]);
    let mut io = house.connect();
    io.write_all(&raw("keys/foo/encrypt", &encrypt("aGk="))).await.unwrap();
    sleep(Duration::from_millis(10)).await;
    let start = Instant::now();
    house.stop.send(()).unwrap();
    house.serving.await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(30));
    ended(&mut io).await;
    assert_eq!(house.world.events.last().status, STATUS_CALLER_GONE);
    assert_eq!(Arc::strong_count(&house.world.app), 1, "a task has outlived its server");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_server_ends_every_task_as_a_crash_would() {
    let limits = Limits { deadline: Duration::from_secs(3_600), ..Limits::default() };
    let house = House::open(limits);
    house.world.hsm.next([Misdeed::Hang, Misdeed::Hang]);
    let mut io = house.connect();
    io.write_all(&raw("keys/foo/encrypt", &encrypt("aGk="))).await.unwrap();
    let (mut sender, _connection) = http2(house.connect()).await;
    let body = encrypt("aGk=");
    let streaming = tokio::spawn(sender.send_request(for_http2("keys/foo/encrypt", &body)));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(house.world.hsm.calls().len(), 2);
    house.serving.abort();
    assert!(house.serving.await.unwrap_err().is_cancelled());
    ended(&mut io).await;
    assert!(streaming.await.unwrap().is_err());
    let statuses: Vec<_> = house.world.events.all().iter().map(|event| event.status).collect();
    assert_eq!(statuses, [STATUS_CALLER_GONE; 2]);
    assert_eq!(Arc::strong_count(&house.world.app), 1, "a task has outlived its server");
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_hangs_up_is_noticed() {
    let house = House::open(Limits::default());
    house.world.hsm.next([Misdeed::Hang]);
    let mut io = house.connect();
    io.write_all(&raw("keys/foo/encrypt", &encrypt("aGk="))).await.unwrap();
    sleep(Duration::from_millis(10)).await;
    drop(io);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(house.world.events.last().status, STATUS_CALLER_GONE);
    assert_eq!(house.world.app.admission.in_flight(), 0);
}

// ---------------------------------------------------------------------------------------------- TLS

/// A certificate for `xks.example.com` and its key.
fn identity(ecdsa: bool) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let algorithm = if ecdsa { &rcgen::PKCS_ECDSA_P256_SHA256 } else { &rcgen::PKCS_RSA_SHA256 };
    let key = KeyPair::generate_for(algorithm).unwrap();
    let params = rcgen::CertificateParams::new(vec!["xks.example.com".into()]).unwrap();
    let cert = params.self_signed(&key).unwrap();
    (cert.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

/// What a client that trusts `cert` and offers only these negotiates with the server.
async fn negotiate(
    ecdsa: bool,
    suites: &[SupportedCipherSuite],
    alpn: &[&str],
) -> io::Result<(tokio_rustls::client::TlsStream<DuplexStream>, House)> {
    let (cert, key) = identity(ecdsa);
    let tls = server_config(vec![cert.clone()], key, Arc::new(SystemEnv)).unwrap();
    let house = House::open_with(Limits::default(), Some(tls));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert).unwrap();
    let provider = rustls::crypto::CryptoProvider {
        cipher_suites: suites.to_vec(),
        ..rustls::crypto::aws_lc_rs::default_provider()
    };
    let mut client = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("xks.example.com").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, house.connect()).await?;
    Ok((stream, house))
}

#[tokio::test(start_paused = true)]
async fn net_2_exactly_the_four_cipher_suites_are_served() {
    use rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
    for suite in ALL_CIPHER_SUITES {
        let wanted = match suite.suite() {
            CipherSuite::TLS13_AES_256_GCM_SHA384 | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => {
                Some((true, ProtocolVersion::TLSv1_3))
            }
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => Some((true, ProtocolVersion::TLSv1_2)),
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Some((false, ProtocolVersion::TLSv1_2)),
            _ => None,
        };
        match wanted {
            Some((ecdsa, version)) => {
                let (mut stream, _house) = negotiate(ecdsa, &[*suite], &[]).await.unwrap();
                let (_, session) = stream.get_ref();
                assert_eq!(session.protocol_version(), Some(version));
                assert_eq!(session.negotiated_cipher_suite(), Some(*suite));
                stream.write_all(&health()).await.unwrap();
                assert_eq!(response(&mut stream).await.0, 200);
            }
            None => {
                for ecdsa in [true, false] {
                    assert!(negotiate(ecdsa, &[*suite], &[]).await.is_err(), "{suite:?}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn net_1_alpn_offers_http2_and_http1() {
    let suites = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
    let (stream, _house) = negotiate(true, suites, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, _connection) = http2(stream).await;
    assert_eq!(ask_http2(&mut sender).await, StatusCode::OK);

    let (mut stream, _house) = negotiate(true, suites, &["http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    stream.write_all(b"BROKEN\r\n\r\n").await.unwrap();
    let (status, _, json) = response(&mut stream).await;
    assert_eq!((status, &json["errorName"]), (400, &json!("ValidationException")));
}

#[tokio::test(start_paused = true)]
async fn net_9_a_handshake_has_its_own_limit_and_does_not_block_others() {
    let (cert, key) = identity(true);
    let tls = server_config(vec![cert], key, Arc::new(SystemEnv)).unwrap();
    let house = House::open_with(Limits::default(), Some(tls));
    let start = Instant::now();
    let (mut silent, mut noisy) = (house.connect(), house.connect());
    noisy.write_all(&health()).await.unwrap();
    let mut alert = Vec::new();
    let _ = noisy.read_to_end(&mut alert).await;
    assert_eq!(alert.first(), Some(&21), "a TLS alert, while the other handshake is pending");
    assert_eq!(start.elapsed(), Duration::ZERO);
    ended(&mut silent).await;
    assert_eq!(start.elapsed(), Duration::from_secs(2));
}

#[test]
fn tls_errors_say_which_file_and_what_to_do() {
    let (cert, _) = identity(true);
    let (_, other_key) = identity(true);
    let error = server_config(vec![cert.clone()], other_key.clone_key(), Arc::new(SystemEnv)).unwrap_err();
    assert!(error.to_string().contains("does not belong to the first certificate"), "{error}");
    let error = server_config(vec![], other_key.clone_key(), Arc::new(SystemEnv)).unwrap_err();
    assert!(error.to_string().contains("is empty"), "{error}");
    let error =
        server_config(vec![CertificateDer::from(vec![1, 2, 3])], other_key, Arc::new(SystemEnv)).unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");

    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(vec!["a".into()]).unwrap();
    let (cert, key) = (cert.pem(), signing_key.serialize_pem());
    let both = format!("{cert}{cert}{key}");
    assert_eq!(certificates_from_pem(both.as_bytes(), "x.pem").unwrap().len(), 2);
    assert!(private_key_from_pem(both.as_bytes(), "x.pem").is_ok());
    for (error, expected) in [
        (certificates_from_pem(key.as_bytes(), "c.pem").unwrap_err(), "c.pem holds no certificate"),
        (certificates_from_pem(b"", "c.pem").unwrap_err(), "c.pem holds no certificate"),
        (
            certificates_from_pem(&cert.as_bytes()[..100], "c.pem").unwrap_err(),
            "c.pem is not a readable PEM file",
        ),
        (private_key_from_pem(cert.as_bytes(), "k.pem").unwrap_err(), "k.pem holds no private key"),
        (
            private_key_from_pem(key.replace("PRIVATE", "ENCRYPTED PRIVATE").as_bytes(), "k.pem")
                .unwrap_err(),
            "k.pem holds an encrypted private key",
        ),
    ] {
        assert!(error.to_string().contains(expected), "{error}");
    }
}

// ---------------------------------------------------------------------------------------------- Real sockets

/// One server behind an IPv4 and an IPv6 address, with one limit for both.
#[tokio::test(flavor = "multi_thread")]
async fn net_1_several_addresses_share_one_proxy_and_its_limits() {
    let mut sockets = Vec::new();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        #[expect(clippy::disallowed_methods, reason = "this test is about real sockets")]
        sockets.push(TcpListener::bind(address).await.unwrap());
    }
    let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
    let world = World::with(Limits { connections_max: 2, ..Limits::default() }, |_| {});
    let app = Arc::clone(&world.app);
    let serving = tokio::spawn(serve(Listeners::new(sockets), app, None, std::future::pending()));
    #[expect(clippy::disallowed_methods, reason = "this test is about real sockets")]
    let connect = |index: usize| TcpStream::connect(addresses[index]);
    let mut proven = Vec::new();
    for index in [0, 1] {
        let mut io = connect(index).await.unwrap();
        io.write_all(&health()).await.unwrap();
        assert_eq!(response(&mut io).await.0, 200);
        proven.push(io);
    }
    // The house is full by either door, and has room again for whoever waits at either.
    for index in [1, 0] {
        let mut io = connect(index).await.unwrap();
        io.write_all(&health()).await.unwrap();
        assert!(timeout(Duration::from_millis(50), response_when_it_comes(&mut io)).await.is_err());
        drop(proven.remove(0));
        assert_eq!(response(&mut io).await.0, 200);
        proven.push(io);
    }
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn real_sockets_and_threads_serve_the_same() {
    #[expect(clippy::disallowed_methods, reason = "this test is about real sockets")]
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let world = World::with(Limits::default(), |_| {});
    let (stop, stopped) = oneshot::channel::<()>();
    let app = Arc::clone(&world.app);
    let serving = tokio::spawn(serve(listener, app, None, async { drop(stopped.await) }));
    #[expect(clippy::disallowed_methods, reason = "this test is about real sockets")]
    let connect = || TcpStream::connect(address);
    let mut callers = Vec::new();
    for _ in 0..8 {
        let mut io = connect().await.unwrap();
        callers.push(tokio::spawn(async move {
            for _ in 0..20 {
                io.write_all(&health()).await.unwrap();
                assert_eq!(response(&mut io).await.0, 200);
            }
            io
        }));
    }
    let (mut sender, _connection) = http2(connect().await.unwrap()).await;
    assert_eq!(ask_http2(&mut sender).await, StatusCode::OK);
    let mut connections = Vec::new();
    for caller in callers {
        connections.push(caller.await.unwrap());
    }
    stop.send(()).unwrap();
    for io in &mut connections {
        ended(io).await;
    }
    serving.await.unwrap();
    assert_eq!(world.events.all().len(), 161);
}
