//! Whether an answer is right.
//!
//! Place on the map: pure; [`run`](super::run) gives it each case with what was seen. Ids of requirements are those of
//! the spec's digest (`XKS-ERR-2`), which `proxy/spec/xks-v1.toml` lists.

use super::case::{Case, Operation, Shape, Success};
use super::finding::{Fault, FindingKind};
use super::wire::Seen;
use crate::kms::answers::{Wrong, read_decrypt, read_encrypt, read_health, read_key_metadata};
use crate::kms::http1::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use xks_proxy::error::ErrorName;

/// The longest legal `errorMessage`, in characters (XKS-ERR-1).
const MESSAGE_CHARS_MAX: usize = 511;
/// A plaintext shorter than this could stand in an error by chance.
const PLAINTEXT_BYTES_MIN: usize = 12;
/// Errors that a valid request may meet too: the rules of the key store, its quota, and an HSM in trouble.
const ALWAYS: [ErrorName; 3] =
    [ErrorName::AccessDeniedException, ErrorName::ThrottlingException, ErrorName::DependencyTimeoutException];

/// What is to be said of one answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How it is counted: `200`, an error name, or what came instead.
    pub answer: String,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
    /// The IV of a successful encrypt.
    pub iv: Option<Vec<u8>>,
}

impl Verdict {
    fn fault(&mut self, kind: FindingKind, requirement: &str, detail: impl Into<String>) {
        self.faults.push(Fault { kind, requirement: requirement.into(), detail: detail.into() });
    }
}

/// Judges what was seen of a case, whatever time it took. `plaintext`: what the seeds encrypt.
pub fn judge(case: &Case, seen: &Seen, plaintext: &[u8]) -> Verdict {
    let mut verdict = Verdict::default();
    match seen {
        Seen::Answer(response) => judge_answer(case, response, plaintext, &mut verdict),
        Seen::Closed(in_part) => {
            verdict.answer = "(closed)".into();
            if *in_part {
                verdict.fault(
                    FindingKind::NoAnswer,
                    "XKS-ERR-1",
                    "the connection was closed within the answer",
                );
            } else if !case.expected.may_close {
                verdict.fault(
                    FindingKind::NoAnswer,
                    "XKS-ERR-1",
                    "the connection was closed without an answer",
                );
            }
        }
        Seen::NotHttp(why) => {
            verdict.answer = "(not HTTP)".into();
            verdict.fault(FindingKind::NotHttp, "XKS-NET-1", format!("the answer is not HTTP/1.1: {why}"));
        }
        Seen::Silence => {
            verdict.answer = "(silence)".into();
            if !case.expected.may_wait {
                let detail = "neither an answer nor an end of the connection";
                verdict.fault(FindingKind::Hang, "XKS-NET-9", detail);
            }
        }
        Seen::Unreachable(why) => {
            verdict.answer = "(no connection)".into();
            verdict.fault(FindingKind::UnhealthyAfterwards, "XKS-NET-9", format!("no connection: {why}"));
        }
    }
    verdict
}

fn judge_answer(case: &Case, response: &Response, plaintext: &[u8], verdict: &mut Verdict) {
    if response.status == 200 {
        verdict.answer = "200".into();
        return judge_success(case, response, verdict);
    }
    let expected = &case.expected;
    let status = response.status;
    verdict.answer = format!("HTTP {status}");
    if plaintext.len() >= PLAINTEXT_BYTES_MIN
        && [plaintext, STANDARD.encode(plaintext).as_bytes()].iter().any(|part| holds(&response.body, part))
    {
        verdict.fault(FindingKind::PlaintextInError, "XKS-MD-6", "the body of the error holds the plaintext");
    }
    let by_http = expected.http_statuses.contains(&status);
    let body: Option<Value> = serde_json::from_slice(&response.body).ok();
    let name_text = body.as_ref().and_then(|body| body.get("errorName")).and_then(Value::as_str);
    let Some(name_text) = name_text else {
        if !by_http {
            let detail = format!("status {status} without JSON that has an errorName");
            verdict.fault(FindingKind::NotASpecError, "XKS-ERR-1", detail);
        }
        return;
    };
    let Some(name) = ErrorName::ALL.into_iter().find(|name| name.as_str() == name_text) else {
        let detail = format!("errorName {name_text:.60?} is none of the twelve");
        verdict.fault(FindingKind::NotASpecError, "XKS-ERR-2", detail);
        return;
    };
    verdict.answer = name.as_str().into();
    if name.status().as_u16() != status && !by_http {
        let detail = format!("{} has status {status}; its own is {}", name.as_str(), name.status().as_u16());
        verdict.fault(FindingKind::WrongStatus, "XKS-ERR-2", detail);
    }
    match body.as_ref().and_then(|body| body.get("errorMessage")) {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => {
            if text.chars().count() > MESSAGE_CHARS_MAX {
                let detail = format!("errorMessage has {} characters; 511 are allowed", text.chars().count());
                verdict.fault(FindingKind::BadErrorMessage, "XKS-ERR-1", detail);
            }
            if !text.chars().all(|character| matches!(character, ' '..='~')) {
                let detail = "errorMessage holds characters that are not printable ASCII";
                verdict.fault(FindingKind::BadErrorMessage, "XKS-ERR-1", detail);
            }
        }
        Some(_) => verdict.fault(FindingKind::BadErrorMessage, "XKS-ERR-1", "errorMessage is not a text"),
    }
    check_content_type(response, verdict);
    if expected.success == Success::Required && !ALWAYS.contains(&name) {
        let detail = format!("a valid request was answered {}", name.as_str());
        verdict.fault(FindingKind::ValidRequestRefused, &expected.requirement, detail);
    } else if !ALWAYS.contains(&name) && !expected.errors.iter().any(|right| right == name.as_str()) {
        let detail = match expected.errors.as_slice() {
            [] => format!("answered {}; no error was called for", name.as_str()),
            right => format!("answered {}; right would be {}", name.as_str(), right.join(" or ")),
        };
        verdict.fault(FindingKind::WrongErrorName, &expected.requirement, detail);
    }
}

fn judge_success(case: &Case, response: &Response, verdict: &mut Verdict) {
    if let Success::Forbidden(kind) = case.expected.success {
        let detail = "answered 200; it must be refused";
        verdict.fault(kind, &case.expected.requirement, detail);
        return;
    }
    if case.expected.shape == Shape::Free {
        return;
    }
    check_content_type(response, verdict);
    let body = &response.body;
    let wrong = match &case.expected.shape {
        Shape::Health => read_health(body).err(),
        Shape::Metadata => read_key_metadata(body).err(),
        Shape::Encrypt { plaintext_bytes, cdiv_aad } => {
            read_encrypt(body, *plaintext_bytes, cdiv_aad.as_deref()).err()
        }
        Shape::Decrypt(plaintext) => match read_decrypt(body) {
            Ok(decrypted) if decrypted == *plaintext => None,
            Ok(_) => {
                let detail = "the plaintext is not the one that was encrypted";
                verdict.fault(FindingKind::WrongPlaintext, "XKS-DEC-3", detail);
                None
            }
            Err(wrong) => Some(wrong),
        },
        Shape::Free => None,
        Shape::Any => match serde_json::from_slice::<Value>(body) {
            Ok(Value::Object(_)) => None,
            _ => Some(Wrong::Form("the body is no JSON object".into())),
        },
    };
    let requirement = match case.operation {
        Operation::GetHealthStatus => "XKS-HLT-1",
        Operation::GetKeyMetadata => "XKS-META-1",
        Operation::Encrypt => "XKS-ENC-5",
        Operation::Decrypt => "XKS-DEC-3",
    };
    match wrong {
        Some(Wrong::Form(what)) => {
            verdict.fault(FindingKind::MalformedSuccess, requirement, format!("status 200, but {what}"));
        }
        Some(Wrong::IntegrityValue(what)) => {
            verdict.fault(FindingKind::WrongIntegrityValue, "XKS-ENC-9", what);
        }
        None => {}
    }
    if case.operation == Operation::Encrypt
        && let Ok(body) = serde_json::from_slice::<Value>(body)
    {
        let iv = body.get("initializationVector").and_then(Value::as_str);
        verdict.iv = iv.and_then(|text| STANDARD.decode(text).ok());
    }
}

fn check_content_type(response: &Response, verdict: &mut Verdict) {
    let media_type =
        response.content_type.as_deref().unwrap_or_default().split(';').next().unwrap_or_default();
    if !media_type.trim().eq_ignore_ascii_case("application/json") {
        let detail = format!("Content-Type is {:.60?}", response.content_type.as_deref().unwrap_or_default());
        verdict.fault(FindingKind::WrongContentType, "XKS-NET-1", detail);
    }
}

fn holds(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}
