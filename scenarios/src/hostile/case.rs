//! One hostile request, and what must come back.
//!
//! Place on the map: made by [`mutation`](super::mutation), sent by [`run`](super::run), judged by
//! [`verdict`](super::verdict), kept in a [`finding`](super::finding) so that it can be sent again.

use super::finding::FindingKind;
use super::framing::Framing;
use super::request::Request;
use super::signing::{Credential, Signing};
use serde::{Deserialize, Serialize};
use xks_proxy::env::UnixTime;

/// What is mutated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The path and the query.
    Uri,
    /// Method and header fields other than those of the signature.
    Headers,
    /// The signature.
    Sigv4,
    /// The body of Encrypt.
    Encrypt,
    /// The body of Decrypt.
    Decrypt,
    /// The body of GetKeyMetadata.
    Metadata,
    /// The body of GetHealthStatus.
    Health,
    /// HTTP/1.1 itself.
    Framing,
    /// Requests of a corpus, byte by byte.
    Corpus,
}

impl Target {
    /// All that `--target` can name.
    pub const ALL: [Self; 8] = [
        Self::Uri,
        Self::Headers,
        Self::Sigv4,
        Self::Encrypt,
        Self::Decrypt,
        Self::Metadata,
        Self::Health,
        Self::Framing,
    ];

    /// As `--target` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uri => "uri",
            Self::Headers => "headers",
            Self::Sigv4 => "sigv4",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Metadata => "metadata",
            Self::Health => "health",
            Self::Framing => "framing",
            Self::Corpus => "corpus",
        }
    }
}

/// An operation of the XKS proxy API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "named as in the spec")]
pub enum Operation {
    GetHealthStatus,
    GetKeyMetadata,
    Encrypt,
    Decrypt,
}

/// Whether a request may be answered 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Success {
    /// It must be.
    Required,
    /// It may be.
    Allowed,
    /// Being served is this finding.
    Forbidden(FindingKind),
}

/// What a body of status 200 must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// What GetHealthStatus answers.
    Health,
    /// What GetKeyMetadata answers.
    Metadata,
    /// What Encrypt answers to a plaintext of so many bytes; with the AAD when the integrity value was asked for.
    Encrypt {
        /// Bytes of the plaintext.
        plaintext_bytes: usize,
        /// The AAD that goes into the integrity value.
        cdiv_aad: Option<Vec<u8>>,
    },
    /// What Decrypt answers: this plaintext, which the fuzzer made up.
    Decrypt(Vec<u8>),
    /// A JSON object.
    Any,
    /// Anything: it is no request of the API.
    Free,
}

/// What may come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The requirement at stake: an id of the requirements of the spec, or a section of a standard.
    pub requirement: String,
    /// Whether 200 is right.
    pub success: Success,
    /// What 200 must bring.
    pub shape: Shape,
    /// Which errors are right, by `errorName`.
    pub errors: Vec<String>,
    /// With which statuses HTTP itself may refuse the request; the body is then free.
    pub http_statuses: Vec<u16>,
    /// Whether the connection may be closed without an answer.
    pub may_close: bool,
    /// Whether the proxy may wait for the rest of it, for longer than KMS would for an answer.
    pub may_wait: bool,
}

impl Expected {
    /// An error of one of these names, and never success.
    pub fn error(requirement: &str, errors: &[&str]) -> Self {
        Self {
            requirement: requirement.into(),
            success: Success::Forbidden(FindingKind::InvalidRequestServed),
            shape: Shape::Any,
            errors: errors.iter().map(|&name| name.to_owned()).collect(),
            http_statuses: Vec::new(),
            may_close: false,
            may_wait: false,
        }
    }

    /// Success of this shape and nothing else.
    pub fn success(requirement: &str, shape: Shape) -> Self {
        Self { success: Success::Required, shape, ..Self::error(requirement, &[]) }
    }

    /// Success is as right as an error.
    pub fn or_success(mut self) -> Self {
        self.success = Success::Allowed;
        self
    }

    /// Being served is this finding.
    pub fn never(mut self, finding: FindingKind) -> Self {
        self.success = Success::Forbidden(finding);
        self
    }

    /// HTTP may refuse it with one of these statuses.
    pub fn http(mut self, statuses: &[u16]) -> Self {
        self.http_statuses.extend_from_slice(statuses);
        self
    }

    /// The rest may be waited for.
    pub fn or_wait(mut self) -> Self {
        self.may_wait = true;
        self
    }

    /// The connection may be closed without an answer.
    pub fn or_close(mut self) -> Self {
        self.may_close = true;
        self
    }
}

/// A hostile request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// What is mutated.
    pub target: Target,
    /// How, in words.
    pub mutation: String,
    /// The operation it began as.
    pub operation: Operation,
    /// The request.
    pub request: Request,
    /// Its signature.
    pub signing: Signing,
    /// Its framing.
    pub framing: Framing,
    /// What must come back.
    pub expected: Expected,
}

impl Case {
    /// The bytes to send at `now`.
    pub fn bytes(&self, credential: &Credential, now: UnixTime) -> Vec<u8> {
        self.framing.bytes(&self.request, &self.signing.fields(&self.request, credential, now))
    }

    /// Whether it needs a connection of its own, because what comes after it on the same one may be misread.
    pub fn wants_own_connection(&self) -> bool {
        self.framing != Framing::Sized
    }
}
