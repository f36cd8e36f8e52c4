//! What a proxy did wrong: kinds, severities, and a case that shows it.
//!
//! Place on the map: [`verdict`](super::verdict) finds, [`run`](super::run) gathers, the command writes files.

use super::case::Case;
use super::endpoint::Endpoint;
use serde::{Deserialize, Serialize};

/// How bad a finding is, in the words of vulnerability reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Keys or data are open to whoever has no right to them.
    Critical,
    /// Requests are served wrongly, or the service can be stopped.
    High,
    /// The spec is broken in a way that KMS meets.
    Medium,
    /// The spec is broken in a way that hardly hurts.
    Low,
}

impl Severity {
    /// As reports write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A request without a valid signature was served.
    AuthenticationBypass,
    /// A ciphertext, IV, tag, AAD or metadata that was changed decrypted.
    ForgedCiphertextDecrypted,
    /// Two encryptions had one IV.
    IvReused,
    /// Decrypt gave something else than what was encrypted.
    WrongPlaintext,
    /// The plaintext stands in an error.
    PlaintextInError,
    /// A request whose end is ambiguous was served.
    RequestSmuggling,
    /// After hostile requests, valid ones are no longer served.
    UnhealthyAfterwards,
    /// No answer, and the connection stays open.
    Hang,
    /// The connection was closed without an answer.
    NoAnswer,
    /// The integrity value (CDIV) is missing or wrong.
    WrongIntegrityValue,
    /// An answer of status 200 is not what the spec says.
    MalformedSuccess,
    /// What came back is not HTTP.
    NotHttp,
    /// An error is not the JSON of the spec.
    NotASpecError,
    /// The status is not the one of the error name.
    WrongStatus,
    /// The error name is not one for this request.
    WrongErrorName,
    /// What is not valid was served.
    InvalidRequestServed,
    /// What is valid was refused.
    ValidRequestRefused,
    /// The answer came after the time that KMS waits.
    SlowAnswer,
    /// The error message is too long, or not printable ASCII.
    BadErrorMessage,
    /// The content type is not application/json.
    WrongContentType,
}

impl FindingKind {
    /// As reports and files name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AuthenticationBypass => "authentication-bypass",
            Self::ForgedCiphertextDecrypted => "forged-ciphertext-decrypted",
            Self::IvReused => "iv-reused",
            Self::WrongPlaintext => "wrong-plaintext",
            Self::PlaintextInError => "plaintext-in-error",
            Self::RequestSmuggling => "request-smuggling",
            Self::UnhealthyAfterwards => "unhealthy-afterwards",
            Self::Hang => "hang",
            Self::NoAnswer => "no-answer",
            Self::WrongIntegrityValue => "wrong-integrity-value",
            Self::MalformedSuccess => "malformed-success",
            Self::NotHttp => "not-http",
            Self::NotASpecError => "not-a-spec-error",
            Self::WrongStatus => "wrong-status",
            Self::WrongErrorName => "wrong-error-name",
            Self::InvalidRequestServed => "invalid-request-served",
            Self::ValidRequestRefused => "valid-request-refused",
            Self::SlowAnswer => "slow-answer",
            Self::BadErrorMessage => "bad-error-message",
            Self::WrongContentType => "wrong-content-type",
        }
    }

    /// How bad it is.
    pub fn severity(self) -> Severity {
        match self {
            Self::AuthenticationBypass
            | Self::ForgedCiphertextDecrypted
            | Self::IvReused
            | Self::WrongPlaintext
            | Self::PlaintextInError => Severity::Critical,
            Self::RequestSmuggling
            | Self::UnhealthyAfterwards
            | Self::Hang
            | Self::WrongIntegrityValue
            | Self::MalformedSuccess => Severity::High,
            Self::NoAnswer
            | Self::NotHttp
            | Self::NotASpecError
            | Self::WrongStatus
            | Self::WrongErrorName
            | Self::InvalidRequestServed
            | Self::ValidRequestRefused
            | Self::SlowAnswer => Severity::Medium,
            Self::BadErrorMessage | Self::WrongContentType => Severity::Low,
        }
    }
}

/// One thing that is wrong with one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: FindingKind,
    /// The requirement it breaks.
    pub requirement: String,
    /// What was seen and what should have been, in one line.
    pub detail: String,
}

/// All faults of one kind in one target: the first of them with its case.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What.
    pub fault: Fault,
    /// The case that showed it first.
    pub case: Case,
    /// The bytes that were sent.
    pub sent: Vec<u8>,
    /// How many cases showed it.
    pub count: u64,
}

impl Finding {
    /// What its files are called, without extension.
    pub fn stem(&self) -> String {
        format!("{}-{}", self.fault.kind.name(), self.case.target.name())
    }

    /// The command that sends the very same bytes with curl. `body_file` and `request_file` are the paths of the saved
    /// body and of the whole saved request; `ca_file` is the authority to trust.
    pub fn curl(
        &self,
        endpoint: &Endpoint,
        body_file: &str,
        request_file: &str,
        ca_file: Option<&str>,
    ) -> String {
        match self.plain_head() {
            Some((method, target, fields)) => {
                let mut words = vec![
                    "curl --silent --show-error --include --max-time 5 --http1.1 --path-as-is --globoff"
                        .to_owned(),
                ];
                if let Some(file) = ca_file {
                    words.push(format!("--cacert {}", quoted(file)));
                }
                words.push(format!("--request {}", quoted(method)));
                // These curl would add by itself.
                words.push("--header Accept: --header Expect: --header User-Agent:".into());
                if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
                    words.push("--header Content-Type:".into());
                }
                for (name, value) in fields {
                    // curl takes `Name;` for a field without a value.
                    let field =
                        if value.is_empty() { format!("{name};") } else { format!("{name}: {value}") };
                    words.push(format!("--header {}", quoted(&field)));
                }
                words.push(format!("--data-binary {}", quoted(&format!("@{body_file}"))));
                words.push(quoted(&format!("{}{target}", endpoint.url)));
                words.join(" ")
            }
            // No HTTP client sends such bytes, so they go out as they are.
            None if endpoint.uses_tls() => {
                let ca = ca_file.map(|file| format!(" -CAfile {}", quoted(file))).unwrap_or_default();
                format!(
                    "openssl s_client -quiet -connect {}{ca} < {}",
                    quoted(&endpoint.authority),
                    quoted(request_file)
                )
            }
            None => format!(
                "curl --silent --show-error --no-buffer --max-time 5 {} < {}",
                quoted(&format!("telnet://{}", endpoint.authority)),
                quoted(request_file)
            ),
        }
    }

    /// Method, target and fields, if curl can send them as they are.
    #[expect(clippy::type_complexity, reason = "three parts of one thing, used once")]
    fn plain_head(&self) -> Option<(&str, &str, Vec<(&str, &str)>)> {
        if self.case.framing != super::framing::Framing::Sized {
            return None;
        }
        let end = self.sent.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&self.sent[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let mut request_line = lines.next()?.split(' ');
        let (method, target) = (request_line.next()?, request_line.next()?);
        let graphic = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !graphic(method) || !graphic(target) || !target.starts_with('/') || target.contains('#') {
            return None;
        }
        let mut fields = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(": ")?;
            if !graphic(name) || value.bytes().any(|byte| byte < b' ') {
                return None;
            }
            if !name.eq_ignore_ascii_case("content-length") {
                fields.push((name, value));
            }
        }
        Some((method, target, fields))
    }
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
