//! Signatures of AWS's own signer, against our verification.

use crate::signer::{HOST, Key, REGION, signature};
use crate::world::{NOW, ONE};
use arbitrary::{Arbitrary, Unstructured};
use http::{HeaderMap, HeaderName, HeaderValue};
use xks_proxy::env::UnixTime;
use xks_proxy::secret::Secret;
use xks_proxy::sigv4::{Credential, Received, verify};

/// The characters of which paths, queries and header values are made, in which signers and verifiers may differ.
const LETTERS: &[u8; 16] = b"aZ09-._~/=&+% :;";

#[derive(Arbitrary, Debug)]
struct Input {
    method: u8,
    path: Vec<u8>,
    query: Vec<u8>,
    header: Vec<u8>,
    body: Vec<u8>,
    change: Change,
    at: u8,
    bit: u8,
}

/// The one thing that is changed after signing.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Method,
    Path,
    Query,
    Host,
    Header,
    Date,
    Body,
    Signature,
    SignedHeaders,
    Region,
}

/// What a signature covers, as it is sent.
struct Request {
    method: &'static str,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// A request made of the input and signed by the `aws-sigv4` crate verifies; and after any single change to a signed part,
/// or to the signature, it does not.
pub(crate) fn open() -> impl FnMut(&[u8]) {
    let credential = Credential::new(ONE.id, Secret::new(ONE.secret.to_owned()));
    let credentials = [credential.unwrap_or_else(|error| panic!("{error}"))];
    move |data| {
        let Ok(input) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
        let Some(mut request) = Request::signed(&input, ONE) else { return };
        let verified = request.verify(&credentials);
        assert!(verified.is_ok(), "{verified:?}: {input:?}");
        if request.change(&input) {
            assert!(request.verify(&credentials).is_err(), "still verifies: {input:?}");
        }
    }
}

impl Request {
    /// `None` when AWS's signer refuses what the input makes.
    fn signed(input: &Input, key: Key) -> Option<Self> {
        let text = |bytes: &[u8], without: &[u8]| -> String {
            let letters = bytes.iter().take(64).map(|byte| LETTERS[usize::from(*byte) % LETTERS.len()]);
            letters.filter(|letter| !without.contains(letter)).map(char::from).collect()
        };
        let method = ["POST", "GET", "PUT", "DELETE"][usize::from(input.method) % 4];
        let path = format!("/{}", escaped(&text(&input.path, b" ")));
        // A plus in a query is a space to this signer, as in a form; to SigV4 as AWS describes it, and to us, it is a plus.
        let query = escaped(&text(&input.query, b" +"));
        let value = text(&input.header, b"");
        let uri = if query.is_empty() { path.clone() } else { format!("{path}?{query}") };
        let sent = [("host", HOST), ("content-type", "application/json"), ("x-value", value.as_str())];
        let signature = signature(key, NOW, method, &uri, &sent, &input.body).ok()?;
        let mut headers = HeaderMap::new();
        let signed = signature.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in sent.into_iter().chain(signed) {
            headers.insert(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
        }
        Some(Self { method, path, query, headers, body: input.body.clone() })
    }

    fn verify(&self, credentials: &[Credential]) -> Result<(), String> {
        let received = Received {
            method: self.method,
            path: &self.path,
            query: &self.query,
            headers: &self.headers,
            authority: None,
            body: &self.body,
        };
        let verified = verify(&received, credentials, Some(REGION), UnixTime(NOW));
        verified.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Changes what the input says; false when nothing that is signed has changed by that.
    fn change(&mut self, input: &Input) -> bool {
        match input.change {
            Change::Method => self.method = "PATCH",
            // A letter more is another resource and another parameter, however the rest is normalised.
            Change::Path => self.path.push('q'),
            Change::Query => self.query.push_str(if self.query.is_empty() { "q" } else { "&q" }),
            Change::Host => self.set("host", "xks.example.org".to_owned()),
            // Not a space, which the canonical form takes out.
            Change::Header => {
                let value = self.get("x-value");
                self.set("x-value", format!("{value}q"));
            }
            Change::Date => self.set("x-amz-date", "20260102T030406Z".to_owned()),
            Change::Body => match self.body.len() {
                0 => self.body.push(input.at),
                length => self.body[usize::from(input.at) % length] ^= 1 << (input.bit % 8),
            },
            Change::Signature => self.flip_digit(usize::from(input.at)),
            Change::SignedHeaders => self.replace("content-type;host;", "host;"),
            Change::Region => self.replace(REGION, "us-east-2"),
        }
        true
    }

    /// Makes another digit of one of the 64 of the signature.
    fn flip_digit(&mut self, at: usize) {
        let mut value = self.get("authorization");
        let place = value.len() - 1 - at % 64;
        let other = if value.as_bytes()[place] == b'0' { "1" } else { "0" };
        value.replace_range(place..=place, other);
        self.set("authorization", value);
    }

    fn replace(&mut self, from: &str, to: &str) {
        let before = self.get("authorization");
        let after = before.replacen(from, to, 1);
        assert_ne!(before, after, "{from:?} is not there");
        self.set("authorization", after);
    }

    fn get(&self, name: &str) -> String {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    }

    fn set(&mut self, name: &'static str, value: String) {
        let value = HeaderValue::try_from(value).unwrap_or_else(|error| panic!("{error}"));
        self.headers.insert(name, value);
    }
}

/// A percent sign begins an escape, or no URI holds it.
fn escaped(text: &str) -> String {
    text.replace('%', "%2F")
}
