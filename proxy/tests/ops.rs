//! The ops listener of the running daemon, its log, and its traces.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests fail loudly; these tests stand outside of the daemon, with sockets of their own"
)]

#[path = "common/running.rs"]
mod running;
#[path = "common/softhsm.rs"]
mod softhsm;
mod support;

use running::Running;
use running::tokens::TOKENS;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use support::{CREDENTIAL, encrypt, metadata};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, timeout};
use xks_proxy::app::{App, Settings};
use xks_proxy::config::Groups;
use xks_proxy::env::SystemEnv;
use xks_proxy::events::{Several, Subscriber};
use xks_proxy::hsm::Hsm;
use xks_proxy::hsm::monitored::{MonitorSettings, Monitored};
use xks_proxy::hsm::pkcs11::Pkcs11Hsm;
use xks_proxy::metrics::{HsmSource, Page, Sources};
use xks_proxy::ops;
use xks_proxy::server::Listen;

#[test]
fn probes_say_what_was_checked_and_other_requests_are_refused() {
    let daemon = Running::start("");
    let live = daemon.ops("GET", "/livez", "");
    assert_eq!((live.status, live.body.as_str()), (200, "[+]runtime ok\nlivez check passed\n"));
    let ready = daemon.ops("GET", "/readyz", "");
    assert_eq!(ready.status, 200, "{}", ready.body);
    assert!(ready.body.starts_with("[+]serving ok\n[+]hsm softhsm ok: "), "{}", ready.body);
    assert!(ready.body.ends_with("readyz check passed\n"), "{}", ready.body);
    let head = daemon.ops("HEAD", "/readyz", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));

    let post = daemon.ops("POST", "/livez", "content-length: 0\r\n");
    assert!(post.status == 405 && post.head.contains("allow: get, head"), "{}", post.head);
    assert_eq!(daemon.ops("GET", "/kms/xks/v1/health", "").status, 404);
    let large = format!("x: {}\r\n", "y".repeat(9_000));
    assert_eq!(daemon.ops("GET", "/livez", &large).status, 431);
    // Not on the listener of KMS.
    let mut stream = TcpStream::connect(daemon.address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 404 "), "{text}");
}

#[test]
fn readiness_turns_red_while_the_daemon_drains_and_liveness_does_not() {
    let mut daemon = Running::start("[limits]\ndeadline_ms = 60000\ndrain_timeout_ms = 60000\n");
    let body = json!({ "requestMetadata": metadata() }).to_string();
    // A request that has begun keeps the daemon alive.
    let mut begun = TcpStream::connect(daemon.address).unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        support::uri("health"),
        body.len()
    );
    begun.write_all(head.as_bytes()).unwrap();
    let mut go_on = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    begun.read_exact(&mut go_on).unwrap();
    daemon.signal("TERM");
    daemon.wait_for("draining");
    // The signal is logged a moment before the listener is closed.
    let red = loop {
        let ready = daemon.ops("GET", "/readyz", "");
        if ready.status != 200 {
            break ready;
        }
    };
    assert_eq!(red.status, 503);
    assert!(red.body.starts_with("[-]serving failed: draining\n"), "{}", red.body);
    assert_eq!(daemon.ops("GET", "/livez", "").status, 200);
    assert_eq!(daemon.metric("xks_proxy_draining"), Some(1.0));
    begun.write_all(body.as_bytes()).unwrap();
    let mut text = String::new();
    begun.read_to_string(&mut text).unwrap();
    daemon.wait_for("stopped");
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
}

/// Connections that a test makes.
struct Pipes(tokio::sync::mpsc::Receiver<DuplexStream>);

impl Listen for Pipes {
    type Io = DuplexStream;

    async fn accept(&mut self) -> std::io::Result<DuplexStream> {
        self.0.recv().await.ok_or_else(|| std::io::ErrorKind::BrokenPipe.into())
    }
}

/// A page over these HSMs.
fn page(hsms: Vec<HsmSource>) -> Arc<Page> {
    let events: Arc<dyn Subscriber> = Arc::new(Several(Vec::new()));
    let app = App::new(Settings::default(), Vec::new(), Arc::new(SystemEnv), events).unwrap();
    let sources = Sources {
        app: Arc::new(app),
        hsms,
        groups: Groups::default(),
        certificate: Box::new(|| None),
        log_lines_dropped: Arc::default(),
        spans: None,
        process: Box::new(|| None),
    };
    Arc::new(Page::new(Arc::default(), sources))
}

/// The ops listener by itself.
struct Ops {
    connect: tokio::sync::mpsc::Sender<DuplexStream>,
    serving: tokio::task::JoinHandle<()>,
}

impl Ops {
    fn start(hsms: Vec<HsmSource>) -> Self {
        let (connect, pipes) = tokio::sync::mpsc::channel(128);
        Self { connect, serving: tokio::spawn(ops::serve(Pipes(pipes), page(hsms))) }
    }

    async fn connection(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(64 * 1_024);
        self.connect.send(theirs).await.unwrap();
        ours
    }

    /// The whole answer.
    async fn get(&self, path: &str) -> String {
        let mut peer = self.connection().await;
        peer.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        peer.read_to_string(&mut text).await.unwrap();
        text
    }
}

impl Drop for Ops {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Sixteen silent connections once held all places for ten seconds, again and again: probes failed, and Kubernetes
/// restarted the proxy.
#[tokio::test(start_paused = true)]
async fn a_house_full_of_silent_peers_is_emptied() {
    let ops = Ops::start(Vec::new());
    // As many as may be served at once, each holding its place and saying nothing.
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(ops.connection().await);
    }
    let begun = Instant::now();
    let answer = ops.get("/livez").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(begun.elapsed(), Duration::ZERO, "a probe waits for nobody");
    // The oldest has made room, and no other.
    let is_cut_off = async |peer: &mut DuplexStream, within| {
        let read = timeout(Duration::from_millis(within), peer.read(&mut [0])).await;
        read.map(|read| assert_eq!(read.unwrap_or(0), 0, "without an answer")).is_ok()
    };
    assert!(is_cut_off(&mut silent[0], 0).await);
    assert!(!is_cut_off(&mut silent[1], 900).await, "a request may take a second to arrive");
    for peer in &mut silent[1..] {
        assert!(is_cut_off(peer, 101).await, "but no longer");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_is_cut_off() {
    let ops = Ops::start(Vec::new());
    let (mut ours, theirs) = tokio::io::duplex(256);
    ops.connect.send(theirs).await.unwrap();
    ours.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(5_001)).await;
    let mut text = String::new();
    ours.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 ") && text.len() <= 256, "{text}");
}

/// With the only HSM out, every proxy took itself out of service: the load balancer had none left, and KMS got failed
/// connections instead of quick errors.
#[tokio::test]
#[expect(clippy::await_holding_lock, reason = "nobody else on this test's runtime wants it")]
async fn an_hsm_that_goes_out_does_not_take_the_proxy_out_of_service() {
    let _alone = TOKENS.lock().unwrap_or_else(PoisonError::into_inner);
    let hsm = Arc::new(Pkcs11Hsm::open(softhsm::SoftHsm::get().settings()).unwrap());
    let source = || {
        let inner = Arc::<Pkcs11Hsm>::clone(&hsm);
        let monitor = Arc::new(Monitored::new("softhsm", inner, MonitorSettings::default()));
        vec![HsmSource { name: "softhsm".into(), hsm: Arc::clone(&hsm), monitor }]
    };
    let served = source();
    // The first check of the background, which passes.
    let _ = served[0].monitor.health(Instant::now() + Duration::from_secs(60)).await;
    let ops = Ops::start(served);
    // No probe of readiness has come yet when it goes out.
    let alive = ops.get("/livez").await;
    assert!(alive.starts_with("HTTP/1.1 200 "), "{alive}");
    assert!(hsm.close(Duration::from_secs(60)));
    let later = ops.get("/readyz").await;
    assert!(later.starts_with("HTTP/1.1 200 "), "{later}");
    assert!(later.contains("[-]hsm softhsm failed: ") && later.ends_with("readyz check passed\n"), "{later}");
    // One that has never reached it is not ready.
    let new = Ops::start(source()).get("/readyz").await;
    assert!(new.starts_with("HTTP/1.1 503 ") && new.contains("[-]first-hsm failed: "), "{new}");
}

#[test]
fn all_lines_of_the_log_have_a_time_and_a_kind_and_the_level_is_configured() {
    let mut daemon = Running::start("[log]\nlevel = \"debug\"\n");
    let reply = daemon.ask("keys/foo/encrypt", &encrypt("aGVsbG8="), CREDENTIAL);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let is_time = |text: &str| text.len() == 24 && text.ends_with('Z') && text.starts_with("20");
    let audit = daemon.line(|line| line["kind"] == "audit");
    assert!(is_time(audit["time"].as_str().unwrap()), "{audit}");
    assert_eq!(audit["operation"], "Encrypt");
    // A line of level DEBUG: what is no HTTP on the ops listener.
    let mut stream = TcpStream::connect(daemon.ops).unwrap();
    stream.write_all(b"\x16\x03\x01 no HTTP\r\n\r\n").unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    let debug = daemon.wait_for("a connection of the ops listener ended early");
    assert_eq!((&debug["kind"], &debug["level"]), (&json!("daemon"), &json!("DEBUG")));
    assert!(is_time(debug["time"].as_str().unwrap()), "{debug}");
    assert!(debug.get("timestamp").is_none(), "{debug}");
}

/// MD-6: at the level that tells most, on the daemon as it runs, libraries included.
#[test]
fn md_6_no_plaintext_and_no_secret_is_logged_at_any_level() {
    const PLAINTEXT: &str = "a plaintext that nobody may read";
    const BASE64: &str = "YSBwbGFpbnRleHQgdGhhdCBub2JvZHkgbWF5IHJlYWQ=";
    let mut daemon = Running::start_with("[log]\nlevel = \"trace\"\n", Stdio::piped());
    let sealed = daemon.ask("keys/foo/encrypt", &encrypt(BASE64), CREDENTIAL);
    let mut sealed: serde_json::Value = serde_json::from_str(&sealed.body).unwrap();
    sealed["requestMetadata"] = metadata();
    sealed["encryptionAlgorithm"] = json!("AES_GCM");
    let opened = daemon.ask("keys/foo/decrypt", &sealed, CREDENTIAL);
    assert!(opened.status == 200 && opened.body.contains(BASE64), "{}", opened.body);
    // What is refused is told in more words.
    assert_eq!(daemon.ask("keys/foo/encrypt", &json!({ "plaintext": BASE64 }), CREDENTIAL).status, 400);
    assert_eq!(daemon.ask("keys/foo/encrypt", &encrypt(BASE64), (CREDENTIAL.0, "wrong")).status, 401);
    daemon.signal("TERM");
    let mut told = String::new();
    daemon.take_log().read_to_string(&mut told).unwrap();
    daemon.child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(
        ["Encrypt", "Decrypt"].iter().all(|done| told.contains(&format!("\"operation\":\"{done}\""))),
        "{told}"
    );
    let bytes = format!("{:?}", PLAINTEXT.as_bytes());
    let hex: String = PLAINTEXT.bytes().map(|byte| format!("{byte:02x}")).collect();
    for secret in [PLAINTEXT, BASE64, bytes.trim_matches(['[', ']']), &hex, CREDENTIAL.1, softhsm::PIN] {
        let lower = told.to_lowercase();
        let at = lower.find(&secret.to_lowercase());
        assert_eq!(at.map(|at| &lower[at.saturating_sub(200)..at]), None, "{secret}");
    }
}
