//! The limits of the server, each reached.

use crate::proxy::Proxy;
use crate::site::{Answer, Site, read, really, request, settings};
use scenarios::kms_endpoint::Api;
use scenarios::kms_endpoint::journal::Journal;
use scenarios::kms_endpoint::server::{Limits, serve};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn site(limits: Limits) -> Site {
    Site::with(Proxy::start(None).await, None, settings(), limits).await
}

#[test]
fn a_body_has_a_length_at_the_most_announced_or_not() {
    really(async {
        let site = site(Limits::default()).await;
        let most = Limits::default().body_bytes_max;
        assert_eq!(most, 256 << 10);
        let body = |length: usize| format!("{{\"Other\":\"{}\"}}", "x".repeat(length - 12));
        assert_eq!(site.send(request("ListKeys", &body(most)).as_bytes()).await.status, 200);
        let refused = |answer: Answer| {
            let (status, class, _) = answer.failure();
            assert_eq!((status, class.as_str()), (413, "RequestEntityTooLargeException"));
        };
        // Announced: refused before a byte of it has come.
        let announced =
            request("ListKeys", "").replace("Content-Length: 0", &format!("Content-Length: {}", most + 1));
        refused(site.send(announced.as_bytes()).await);
        let long = body(most + 1);
        let chunked = request("ListKeys", "").replace(
            "Content-Length: 0\r\n\r\n",
            &format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{long}", long.len()),
        );
        refused(site.send(chunked.as_bytes()).await);
    });
}

#[test]
fn heads_and_bodies_have_their_time() {
    really(async {
        let short = Duration::from_millis(50);
        let site = site(Limits { head_timeout: short, body_timeout: short, ..Limits::default() }).await;
        // Half a head, none at all, and a kept connection without a second request.
        let kept = request("ListKeys", "{}").replace("Connection: close\r\n", "");
        for (begin, status) in [("POST / HTTP/1.1\r\nHost: x\r\n", None), ("", None), (&*kept, Some(200))] {
            let mut stream = site.connect().await;
            stream.write_all(begin.as_bytes()).await.unwrap();
            let answer = read(&mut stream).await;
            match status {
                None => assert_ne!(answer.status, 200, "{answer:?}"),
                Some(status) => assert_eq!(answer.status, status),
            }
        }
        let late = request("ListKeys", "").replace("Content-Length: 0", "Content-Length: 5");
        let (status, class, _) = site.send(late.as_bytes()).await.failure();
        assert_eq!((status, class.as_str()), (408, "RequestTimeoutException"));
    });
}

#[test]
fn connections_beyond_the_most_wait_for_a_place() {
    really(async {
        let site = site(Limits { connections_max: 2, ..Limits::default() }).await;
        let kept = request("ListKeys", "{}").replace("Connection: close\r\n", "");
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = site.connect().await;
            stream.write_all(kept.as_bytes()).await.unwrap();
            let mut first = [0; 15];
            stream.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"HTTP/1.1 200 OK");
            held.push(stream);
        }
        let bytes = request("ListKeys", "{}");
        let third = site.send(bytes.as_bytes());
        let mut third = std::pin::pin!(third);
        let early = tokio::time::timeout(Duration::from_millis(200), &mut third).await;
        assert!(early.is_err(), "{early:?}");
        held.pop();
        assert_eq!(third.await.status, 200);
    });
}

/// A server that can be told to stop, and nothing of which ends by itself within an hour.
struct Stoppable {
    _proxy: Proxy,
    address: std::net::SocketAddr,
    stop: tokio::sync::oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
}

const HOUR: Duration = Duration::from_secs(3_600);

impl Stoppable {
    async fn start() -> Self {
        let proxy = Proxy::start(None).await;
        let door = crate::site::endpoint(&proxy, None).await;
        let journal = Journal::new(Box::new(|_| ()));
        let api = Api::new("111122223333", "us-east-1", settings(), door, [7; 32], journal).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the tests' own server")]
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let limits = Limits { head_timeout: HOUR, body_timeout: HOUR, drain: HOUR, ..Limits::default() };
        let stopped = async { stopped.await.unwrap_or_default() };
        let serving = tokio::task::spawn_local(serve(listener, std::rc::Rc::new(api), limits, stopped));
        Self { _proxy: proxy, address, stop, serving }
    }

    #[expect(clippy::disallowed_methods, reason = "a client of the tests' own")]
    async fn connect(&self) -> tokio::net::TcpStream {
        tokio::net::TcpStream::connect(self.address).await.unwrap()
    }
}

async fn expect(stream: &mut tokio::net::TcpStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), text);
}

#[test]
fn a_server_that_stops_closes_what_is_idle() {
    really(async {
        let server = Stoppable::start().await;
        let mut stream = server.connect().await;
        let kept = request("ListKeys", "{}").replace("Connection: close\r\n", "");
        stream.write_all(kept.as_bytes()).await.unwrap();
        expect(&mut stream, "HTTP/1.1 200 OK").await;
        // From here on time passes only when nothing can happen any more but that a limit ends: a server that waits for its
        // idle connection has waited an hour.
        tokio::time::pause();
        let stopped_at = tokio::time::Instant::now();
        server.stop.send(()).unwrap();
        server.serving.await.unwrap();
        assert!(stopped_at.elapsed() < HOUR, "{:?}", stopped_at.elapsed());
        read(&mut stream).await;
    });
}

#[test]
fn a_server_that_stops_answers_what_it_has_begun() {
    really(async {
        let server = Stoppable::start().await;
        let mut stream = server.connect().await;
        let whole = request("ListKeys", "{}");
        let (head, body) = whole.split_once("\r\n\r\n").unwrap();
        stream.write_all(format!("{head}\r\nExpect: 100-continue\r\n\r\n").as_bytes()).await.unwrap();
        // It waits for the body now.
        expect(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
        server.stop.send(()).unwrap();
        // Nobody is let in any more once it has heard.
        while tokio::net::TcpSocket::new_v4().unwrap().connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!server.serving.is_finished());
        stream.write_all(body.as_bytes()).await.unwrap();
        assert_eq!(read(&mut stream).await.status, 200);
        server.serving.await.unwrap();
    });
}
