//! HTTP/1.1 in bytes: signed requests in pieces, and answers.

use crate::support::{CREDENTIAL, encrypt, metadata, signed_at, uri, with};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use xks_proxy::env::{Env, SystemEnv};

/// A signed request whose framing is left to the test.
pub(crate) struct Pieces {
    /// Request line and fields, without `Content-Length` and without the empty line.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Pieces {
    pub(crate) fn new(operation: &str, body: &str) -> Self {
        let request = signed_at(&uri(operation), body.to_owned(), CREDENTIAL, SystemEnv.now());
        let mut head = format!("POST {} HTTP/1.1\r\n", request.uri());
        for (name, value) in request.headers() {
            head += &format!("{name}: {}\r\n", value.to_str().unwrap());
        }
        Self { head, body: body.to_owned() }
    }

    /// An Encrypt that the audit log shows under this KMS request id.
    pub(crate) fn encrypt(kms_request_id: &str) -> Self {
        let metadata = with(metadata(), "kmsRequestId", json!(kms_request_id));
        let body = with(encrypt("aGk="), "requestMetadata", metadata);
        Self::new("keys/foo/encrypt", &body.to_string())
    }

    pub(crate) fn health() -> Self {
        Self::new("health", &json!({ "requestMetadata": metadata() }).to_string())
    }

    /// With a length, as everybody sends it, and with further fields.
    pub(crate) fn with_length(&self, fields: &str) -> Vec<u8> {
        format!("{}content-length: {}\r\n{fields}\r\n{}", self.head, self.body.len(), self.body).into_bytes()
    }

    /// With these fields and whatever follows the empty line.
    pub(crate) fn framed(&self, fields: &str, rest: &str) -> Vec<u8> {
        format!("{}{fields}\r\n{rest}", self.head).into_bytes()
    }

    /// The body as a single chunk and the last one.
    pub(crate) fn chunked(&self) -> String {
        format!("{:x}\r\n{}\r\n0\r\n\r\n", self.body.len(), self.body)
    }
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// Reads one; its body is JSON, an error's with a name and a message.
    pub(crate) async fn read(io: &mut (impl AsyncRead + Unpin + ?Sized)) -> Option<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(io.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.strip_prefix("HTTP/1.1 ").or(head.strip_prefix("HTTP/1.0 ")).unwrap();
        let status = status.get(..3).unwrap().parse().unwrap();
        if status == 100 {
            return Some(Self { status, body: Value::Null });
        }
        assert!(head.contains("content-type: application/json\r\n"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        io.read_exact(&mut body).await.ok()?;
        let body: Value = serde_json::from_slice(&body).unwrap();
        let is_error = body["errorName"].is_string() && body["errorMessage"].is_string();
        assert_eq!(is_error, status >= 400, "{head}{body}");
        Some(Self { status, body })
    }

    /// All in these bytes, which must be nothing else.
    pub(crate) async fn all_of(mut bytes: &[u8]) -> Vec<Self> {
        let mut answers = Vec::new();
        while !bytes.is_empty() {
            let text = String::from_utf8_lossy(bytes).into_owned();
            answers.push(Self::read(&mut bytes).await.unwrap_or_else(|| panic!("cut off: {text:?}")));
        }
        answers
    }
}
