//! One connection to the proxy, with one request on it at a time.
//!
//! Place on the map: `worker` keeps as many as were asked for. HTTP/1.1 is written by hand and read by the KMS model's
//! parser: a general client's task per connection costs more than signing does, and this must cost less than any proxy.

use crate::request::Request;
use crate::target::{Target, Tls};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use scenarios::kms::http1::{Malformed, parse_response};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Plain or TLS.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// Whether the connection can carry another request.
    pub(crate) reusable: bool,
}

pub(crate) struct Connection {
    wire: Wire,
    host: String,
}

enum Wire {
    Http1 { stream: Box<dyn Stream>, buffer: BytesMut },
    Http2 { sender: http2::SendRequest<Full<Bytes>>, base: String },
}

impl Connection {
    /// TCP, TLS and HTTP/2's preface, as far as each is asked for.
    ///
    /// # Errors
    /// Why not, in words.
    pub(crate) async fn open(target: &Target, is_http2: bool) -> Result<Self, String> {
        let tcp = TcpStream::connect(target.address)
            .await
            .map_err(|error| format!("cannot connect to {}: {error}", target.address))?;
        tcp.set_nodelay(true).map_err(|error| format!("cannot set TCP_NODELAY: {error}"))?;
        let stream: Box<dyn Stream> = match &target.tls {
            None => Box::new(tcp),
            Some(tls) => Box::new(shake_hands(tls, tcp, is_http2).await?),
        };
        let wire = if is_http2 {
            let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|error| format!("HTTP/2: {error}"))?;
            // It ends with the sender, and its errors reach the request that is under way.
            tokio::spawn(driver);
            let scheme = if target.tls.is_some() { "https" } else { "http" };
            Wire::Http2 { sender, base: format!("{scheme}://{}", target.host) }
        } else {
            Wire::Http1 { stream, buffer: BytesMut::with_capacity(4_096) }
        };
        Ok(Self { wire, host: target.host.clone() })
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// Why there was none, in words; the connection is of no more use then.
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<Answer, String> {
        match &mut self.wire {
            Wire::Http1 { stream, buffer } => {
                buffer.clear();
                write_head(buffer, &self.host, request);
                buffer.extend_from_slice(&request.body);
                stream.write_all(buffer).await.map_err(|error| error.to_string())?;
                buffer.clear();
                read(stream, buffer).await
            }
            Wire::Http2 { sender, base } => {
                let request = http::Request::post([base.as_str(), &request.path].concat())
                    .header("content-type", "application/json")
                    .header("x-amz-date", &request.signature.date)
                    .header("authorization", &request.signature.authorization)
                    .body(Full::new(Bytes::from(request.body.clone())))
                    .map_err(|error| error.to_string())?;
                sender.ready().await.map_err(|error| error.to_string())?;
                let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
                let status = response.status().as_u16();
                let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
                Ok(Answer { status, body: body.to_bytes().to_vec(), reusable: !sender.is_closed() })
            }
        }
    }
}

async fn shake_hands(
    tls: &Tls,
    tcp: TcpStream,
    is_http2: bool,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let mut config = rustls::ClientConfig::clone(&tls.config);
    config.alpn_protocols = vec![if is_http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    TlsConnector::from(Arc::new(config))
        .connect(tls.name.clone(), tcp)
        .await
        .map_err(|error| format!("TLS: {error}"))
}

fn write_head(buffer: &mut BytesMut, host: &str, request: &Request) {
    let length = request.body.len().to_string();
    for part in [
        "POST ",
        &request.path,
        " HTTP/1.1\r\nhost: ",
        host,
        "\r\ncontent-type: application/json\r\nx-amz-date: ",
        &request.signature.date,
        "\r\nauthorization: ",
        &request.signature.authorization,
        "\r\ncontent-length: ",
        &length,
        "\r\n\r\n",
    ] {
        buffer.extend_from_slice(part.as_bytes());
    }
}

async fn read(stream: &mut Box<dyn Stream>, buffer: &mut BytesMut) -> Result<Answer, String> {
    loop {
        let ended = stream.read_buf(buffer).await.map_err(|error| error.to_string())? == 0;
        if ended && buffer.is_empty() {
            return Err("closed instead of an answer".into());
        }
        match parse_response(buffer, ended) {
            Ok(Some(answer)) => {
                return Ok(Answer { status: answer.status, body: answer.body, reusable: answer.reusable });
            }
            Ok(None) if ended => return Err("closed within an answer".into()),
            Ok(None) => {}
            Err(Malformed(what)) => return Err(format!("malformed HTTP: {what}")),
        }
    }
}
