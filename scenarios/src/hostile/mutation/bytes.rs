//! Bytes changed at random: bodies of valid requests, and the requests of a corpus.

use super::super::case::{Case, Expected, Operation, Shape, Success, Target};
use super::super::finding::FindingKind;
use super::super::framing::Framing;
use super::super::request::Request;
use super::super::signing::Signing;
use super::{
    AUTHENTICATION, INVALID_CIPHERTEXT, INVALID_PATH, KEY_NOT_FOUND, Mutation, UNSUPPORTED, VALIDATION,
    body_target, valid,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use serde_json::Value;
use xks_proxy::key::API_ROOT;

/// How often random bytes have their turn beside the other mutations of a body.
const SHARE: usize = 12;
/// How often a corpus has its turn beside the other targets.
const CORPUS_SHARE: usize = 100;

pub(super) fn body_mutations(operation: Operation) -> Vec<Mutation> {
    let one = move |_| {
        Mutation::new(move |seeds, random| {
            let errors = [VALIDATION, UNSUPPORTED, INVALID_CIPHERTEXT];
            let expected = Expected::error("XKS-MD-1", &errors).or_success();
            let words = "bytes of the body changed at random";
            let mut case = valid(seeds, random, body_target(operation), operation, words, expected);
            let before = case.request.body.clone();
            change(&mut case.request.body, random);
            if operation == Operation::Decrypt {
                case.expected.success = decrypt_success(&before, &case.request.body);
            }
            case
        })
    };
    (0..SHARE).map(one).collect()
}

/// Whether what is left of a decrypt may still decrypt.
fn decrypt_success(before: &[u8], after: &[u8]) -> Success {
    match (sealed_fields(before), sealed_fields(after)) {
        // Readers differ in what they make of JSON or Base64 that is not quite right.
        (_, None) => Success::Allowed,
        (before, after) if before == after => Success::Allowed,
        _ => Success::Forbidden(FindingKind::ForgedCiphertextDecrypted),
    }
}

/// What the authentication tag of a decrypt covers, and the tag; absent is empty. `None` when it cannot be read.
pub(super) fn sealed_fields(body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let fields = [
        "ciphertext",
        "initializationVector",
        "authenticationTag",
        "additionalAuthenticatedData",
        "ciphertextMetadata",
    ];
    let decoded = fields.map(|name| match body.get(name) {
        Some(Value::String(text)) => STANDARD.decode(text).ok(),
        None | Some(Value::Null) => Some(Vec::new()),
        Some(_) => None,
    });
    decoded.into_iter().collect()
}

/// One to four changes of a byte, a piece or a length.
fn change(bytes: &mut Vec<u8>, random: &mut ChaCha20Rng) {
    const TELLING: [u8; 12] = *b"\"\\{}[],:0\0\xff\n";
    for _ in 0..=random.next_u32() % 4 {
        let Some(at) = (random.next_u32() as usize).checked_rem(bytes.len()) else {
            bytes.push(random.next_u32() as u8);
            continue;
        };
        let length = (random.next_u32() as usize % 32 + 1).min(bytes.len() - at);
        match random.next_u32() % 6 {
            0 => bytes[at] ^= 1 << (random.next_u32() % 8),
            1 => bytes[at] = TELLING[random.next_u32() as usize % TELLING.len()],
            2 => bytes.insert(at, TELLING[random.next_u32() as usize % TELLING.len()]),
            3 => drop(bytes.drain(at..at + length)),
            4 => {
                let piece = bytes[at..at + length].to_vec();
                let to = random.next_u32() as usize % (bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            _ => bytes.truncate(at),
        }
    }
}

pub(super) fn corpus_mutations() -> Vec<Mutation> {
    let one = |_| {
        Mutation::new(|seeds, random| {
            let pick = (random.next_u32() as usize).checked_rem(seeds.corpus.len());
            let bytes = pick.map_or(&[][..], |at| &seeds.corpus[at]);
            let draw = random.next_u32() % 4;
            let errors =
                [VALIDATION, UNSUPPORTED, INVALID_CIPHERTEXT, AUTHENTICATION, INVALID_PATH, KEY_NOT_FOUND];
            let expected = Expected::error("XKS-ERR-2", &errors)
                .http(&[400, 404, 405, 408, 411, 413, 414, 415, 417, 431, 501, 505])
                .or_close()
                .or_wait();
            // As bytes it may be the beginning of a request only.
            let mut case = Case {
                target: Target::Corpus,
                mutation: "a request of the corpus".into(),
                operation: Operation::Encrypt,
                request: Request::post(&seeds.host, String::new(), bytes.to_vec()),
                signing: Signing::None,
                framing: Framing::Raw,
                expected: Expected { shape: Shape::Any, ..expected }.never(FindingKind::AuthenticationBypass),
            };
            match seeds.adapted(bytes) {
                Some(request) if draw > 0 => {
                    case.operation = operation_of(&request.target);
                    case.request = request;
                    case.framing = Framing::Sized;
                    case.expected.may_wait = false;
                    if draw > 1 {
                        change(&mut case.request.body, random);
                    }
                    if draw > 2 {
                        case.signing = Signing::Valid;
                        case.expected.success = Success::Allowed;
                    }
                }
                _ => change(&mut case.request.body, random),
            }
            // A load balancer's health check, a page of metrics: whoever asks may be answered.
            if !asks_the_api(&case) {
                case.expected.success = Success::Allowed;
                case.expected.shape = Shape::Free;
            }
            case
        })
    };
    (0..CORPUS_SHARE).map(one).collect()
}

fn asks_the_api(case: &Case) -> bool {
    let line = match case.framing {
        Framing::Raw => {
            String::from_utf8_lossy(&case.request.body).lines().next().unwrap_or_default().to_owned()
        }
        _ => case.request.target.clone(),
    };
    line.contains(API_ROOT)
}

fn operation_of(target: &str) -> Operation {
    let path = target.split('?').next().unwrap_or_default();
    match path.rsplit('/').next() {
        Some("health") => Operation::GetHealthStatus,
        Some("metadata") => Operation::GetKeyMetadata,
        Some("decrypt") => Operation::Decrypt,
        _ => Operation::Encrypt,
    }
}
