//! One request before it is signed and framed.
//!
//! Place on the map: [`seeds`](super::seeds) makes valid ones, [`mutation`](super::mutation) changes them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most header fields in a request of a corpus.
const HEADERS_MAX: usize = 128;

/// Method, target, header fields and body; the fields of signature and framing are not among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `POST`, or what a mutation makes of it.
    pub method: String,
    /// The request target: path and query.
    pub target: String,
    /// Header fields in the order of the wire.
    pub headers: Vec<(String, String)>,
    /// Lower-case names of the fields that are signed if they are there, besides `x-amz-date`.
    pub signed: Vec<String>,
    /// The body, before any framing.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub body: Vec<u8>,
}

impl Request {
    /// A POST of JSON.
    pub fn post(host: &str, target: String, body: Vec<u8>) -> Self {
        Self {
            method: "POST".into(),
            target,
            headers: vec![("Host".into(), host.into()), ("Content-Type".into(), "application/json".into())],
            signed: vec!["content-type".into(), "host".into()],
            body,
        }
    }

    /// Reads a request as HTTP/1.1 writes it, for `host`. What belongs to signature, framing and host is left out.
    /// `None` when it is not a complete head.
    pub fn read(bytes: &[u8], host: &str) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut read = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(head)) = read.parse(bytes) else { return None };
        let mut request = Self::post(host, read.path?.to_owned(), bytes[head..].to_vec());
        request.method = read.method?.to_owned();
        request.headers.truncate(1);
        for header in read.headers.iter() {
            let name = header.name.to_ascii_lowercase();
            let ours = ["host", "authorization", "x-amz-date", "content-length", "transfer-encoding"];
            if !ours.contains(&name.as_str()) {
                let value = String::from_utf8_lossy(header.value).into_owned();
                request.headers.push((header.name.to_owned(), value));
            }
        }
        Some(request)
    }

    /// Gives the first field of this name another value, or adds the field.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.headers.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some(field) => value.clone_into(&mut field.1),
            None => self.headers.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Takes all fields of this name away.
    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}
