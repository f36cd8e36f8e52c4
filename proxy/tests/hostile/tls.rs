//! What is no TLS, and what TLS allows and the proxy does not.

use crate::messages::{Answer, Pieces};
use crate::target::{HUNG, Target, until_closed};
use rustls::pki_types::ServerName;
use std::io;
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::{AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Descriptions of alerts (RFC 8446, 6).
const UNEXPECTED_MESSAGE: u8 = 10;
const HANDSHAKE_FAILURE: u8 = 40;
const DECODE_ERROR: u8 = 50;

pub(crate) async fn attack(target: &Target) {
    tokio::join!(
        before_the_handshake(target),
        names_and_protocols(target),
        after_the_handshake(target),
        renegotiation(target)
    );
}

/// A record of any kind.
fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    [&[kind, 3, 1], length.to_be_bytes().as_slice(), payload].concat()
}

/// A ClientHello for TLS 1.1 and older, with a suite of its time.
fn old_hello() -> Vec<u8> {
    let body = [&[3, 2], [7; 32].as_slice(), &[0, 0, 2, 0xc0, 0x14, 1, 0]].concat();
    let length = u32::try_from(body.len()).unwrap();
    record(22, &[&[1], &length.to_be_bytes()[1..], &body].concat())
}

/// Each ends with this alert, or without any at the time that a handshake may take; never with a byte of HTTP.
async fn before_the_handshake(target: &Target) {
    let cases: Vec<(&str, Vec<u8>, Option<u8>)> = vec![
        ("nothing", Vec::new(), None),
        ("half a hello", old_hello().into_iter().take(20).collect(), None),
        ("garbage", [0xa5; 20_000].to_vec(), Some(DECODE_ERROR)),
        ("plain HTTP", Pieces::health().with_length(""), Some(DECODE_ERROR)),
        ("HTTP/2 by prior knowledge", crate::frames::PREFACE.to_vec(), Some(DECODE_ERROR)),
        (
            "a record of 65,535 bytes",
            [&[22, 3, 1, 0xff, 0xff], [0; 65_535].as_slice()].concat(),
            Some(DECODE_ERROR),
        ),
        ("100,000 empty records of a handshake", record(22, &[]).repeat(100_000), Some(DECODE_ERROR)),
        ("100,000 empty records of data", record(23, &[]).repeat(100_000), Some(UNEXPECTED_MESSAGE)),
        ("10,000 changes of the cipher", record(20, &[1]).repeat(10_000), Some(UNEXPECTED_MESSAGE)),
        ("10,000 warnings", record(21, &[1, 90]).repeat(10_000), None),
        (
            "a hello of 16 MB",
            record(22, &[&[1, 0xff, 0xff, 0xff], [0; 16_000].as_slice()].concat()).repeat(1_000),
            None,
        ),
        ("SSL 2", [0x80, 0x2e, 1, 0, 2].to_vec(), Some(DECODE_ERROR)),
        ("TLS 1.1", old_hello(), Some(HANDSHAKE_FAILURE)),
    ];
    let mut wrong = Vec::new();
    for (name, sent, alert) in cases {
        let (mut read, mut write) = split(target.tcp().await);
        let send = async {
            let _ = timeout(HUNG, write.write_all(&sent)).await.unwrap_or_else(|_| panic!("{name}: stuck"));
        };
        let ((), got) = tokio::join!(send, until_closed(&mut read));
        let got = match got.as_slice() {
            [] => Ok(None),
            [21, 3, _, 0, 2, 2, alert] => Ok(Some(*alert)),
            other => Err(other.to_vec()),
        };
        if got != Ok(alert) {
            wrong.push(format!("{name}: {got:?} instead of {alert:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

async fn connect(
    target: &Target,
    name: &'static str,
    protocol: Option<&[u8]>,
) -> io::Result<TlsStream<TcpStream>> {
    let mut config = target.tls.as_deref().unwrap().clone();
    config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
    let name = ServerName::try_from(name).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, target.tcp().await).await
}

/// A protocol nobody serves ends the handshake. A name selects nothing: there is one certificate, and it is for the
/// client to refuse it.
async fn names_and_protocols(target: &Target) {
    let refused = connect(target, "localhost", Some(b"smtp")).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    let refused = connect(target, "other.example.com", None).await.unwrap_err();
    assert!(refused.to_string().contains("not valid for name"), "{refused}");
    // What was agreed on by ALPN is what KMS goes by; the proxy goes by the first bytes.
    let mut stream = connect(target, "localhost", Some(b"h2")).await.unwrap();
    stream.write_all(&Pieces::health().with_length("connection: close\r\n")).await.unwrap();
    let answers = Answer::all_of(&until_closed(&mut stream).await).await;
    assert_eq!(answers.first().unwrap().status, 200);
}

/// A connection that breaks the rules is closed, without an answer.
async fn after_the_handshake(target: &Target) {
    for (name, sent) in [
        ("a record nobody has sealed", record(23, &[7; 100])),
        ("plain HTTP", Pieces::health().with_length("")),
        ("100,000 empty records", record(23, &[]).repeat(100_000)),
    ] {
        let mut stream = connect(target, "localhost", None).await.unwrap();
        let _ = stream.get_mut().0.write_all(&sent).await;
        assert_eq!(until_closed(&mut stream).await, b"", "{name}");
    }
    let mut stream = connect(target, "localhost", None).await.unwrap();
    for _ in 0..1_000 {
        stream.get_mut().1.refresh_traffic_keys().unwrap();
    }
    let _ = stream.flush().await;
    assert_eq!(until_closed(&mut stream).await, b"", "new keys without end");
}

/// A client of TLS 1.2 that wants to negotiate anew gets no second handshake, and the connection ends as an idle one.
async fn renegotiation(target: &Target) {
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-tls1_2", "-connect", &target.address.to_string()]);
    openssl.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut openssl = openssl.kill_on_drop(true).spawn().unwrap();
    // R by itself on a line asks for it; the input stays open until the connection has ended.
    let mut input = openssl.stdin.take().unwrap();
    input.write_all(b"R\n").await.unwrap();
    let said = until_closed(&mut openssl.stderr.take().unwrap()).await;
    let said = String::from_utf8(said).unwrap();
    let (first, second) = said.split_once("RENEGOTIATING").unwrap_or_else(|| panic!("{said}"));
    // It looks at the certificate once for each handshake.
    assert!(first.contains("verify return") && !second.contains("verify return"), "{said}");
}
