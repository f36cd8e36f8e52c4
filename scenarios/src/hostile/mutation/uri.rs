//! Paths and queries: encoded, bent, too long, of nothing (XKS-NET-4, XKS-NET-5), signed for what they are or for what
//! they were.

use super::super::case::{Expected, Operation, Target};
use super::super::finding::FindingKind;
use super::super::signing::{Signing, plain_segments};
use super::{AUTHENTICATION, INVALID_PATH, KEY_NOT_FOUND, Mutation, VALIDATION, valid};
use rand_core::Rng;

/// Makes another target of a path, the prefix before `/kms/xks/v1`, and the key's id.
type Change = fn(path: &str, prefix: &str, key: &str) -> String;

const CHANGES: [(&str, Change); 34] = [
    ("a slash at the end", |path, _, _| format!("{path}/")),
    ("a slash twice", |path, _, _| path.replacen("/keys/", "/keys//", 1)),
    ("a slash twice at the beginning", |path, _, _| format!("/{path}")),
    ("a dot segment", |path, _, _| path.replacen("/keys/", "/keys/./", 1)),
    ("a segment up and down again", |path, _, _| path.replacen("/keys/", "/x/../keys/", 1)),
    ("up beyond the root", |path, _, _| format!("/../..{path}")),
    ("an encoded dot segment", |path, _, _| path.replacen("/keys/", "/keys/%2e/", 1)),
    ("an encoded slash", |path, _, _| path.replacen("/keys/", "/keys%2F", 1)),
    ("a doubly encoded slash", |path, _, _| path.replacen("/keys/", "/keys%252F", 1)),
    ("a backslash", |path, _, _| path.replacen("/keys/", "\\keys\\", 1)),
    ("an encoded letter", |path, _, _| path.replacen("/keys/", "/%6beys/", 1)),
    ("half a percent-encoding", |path, _, _| format!("{path}%")),
    ("a percent-encoding that is none", |path, _, _| format!("{path}%zz")),
    ("an encoded NUL", |path, _, _| format!("{path}%00")),
    ("an overlong UTF-8 dot", |path, _, _| path.replacen("/keys/", "/keys/%c0%ae%c0%ae/", 1)),
    ("bytes above 0x7f", |path, _, _| format!("{path}\u{e9}")),
    ("a parameter", |path, _, _| format!("{path};v=1")),
    ("a query", |path, _, _| format!("{path}?a=b")),
    ("an empty query", |path, _, _| format!("{path}?")),
    ("the root in capitals", |path, _, _| path.replacen("/kms/xks/", "/KMS/XKS/", 1)),
    ("another version", |path, _, _| path.replacen("/xks/v1", "/xks/v2", 1)),
    ("an unknown operation", |path, _, _| path.replace("/encrypt", "/reencrypt")),
    ("the operation in capitals", |path, _, _| path.replace("/encrypt", "/ENCRYPT")),
    ("no operation", |path, _, _| path.replace("/encrypt", "")),
    ("no key", |_, prefix, _| format!("{prefix}/kms/xks/v1/keys/encrypt")),
    ("an empty key", |_, prefix, _| format!("{prefix}/kms/xks/v1/keys//encrypt")),
    ("a key of 129 characters", |_, prefix, _| {
        format!("{prefix}/kms/xks/v1/keys/{}/encrypt", "k".repeat(129))
    }),
    ("a key with a tilde", |_, prefix, _| format!("{prefix}/kms/xks/v1/keys/a~b/encrypt")),
    ("a key that is two dots", |_, prefix, _| format!("{prefix}/kms/xks/v1/keys/../encrypt")),
    ("a key with a quote and a semicolon", |_, prefix, key| {
        format!("{prefix}/kms/xks/v1/keys/{key}'%20OR%201=1;--/encrypt")
    }),
    ("another prefix", |_, _, key| format!("/no-such-key-store/kms/xks/v1/keys/{key}/encrypt")),
    ("the root of the server", |_, _, _| "/".into()),
    ("a URI of 300 characters", |path, _, _| format!("{path}?a={}", "b".repeat(300))),
    ("a URI of 9,000 characters", |path, _, _| format!("{path}/{}", "b".repeat(9_000))),
];

pub(super) fn mutations() -> Vec<Mutation> {
    let mut mutations: Vec<Mutation> = CHANGES
        .into_iter()
        .flat_map(|(name, change)| [(name, change, true), (name, change, false)])
        .map(|(name, change, resigned)| {
            Mutation::new(move |seeds, random| {
                let operation = Operation::Encrypt;
                let path = seeds.path(operation);
                let target = change(&path, &seeds.prefix, &seeds.key_id);
                let errors = [INVALID_PATH, KEY_NOT_FOUND, VALIDATION, AUTHENTICATION];
                let refused =
                    Expected { shape: seeds.shape(operation), ..Expected::error("XKS-NET-4", &errors) }
                        .http(&[400, 404, 405, 414]);
                // SigV4 signs a path without dot segments and repeated slashes, and says nothing of an empty query.
                let same = means_the_same(&target, &path);
                let expected = match (resigned, same) {
                    (true, true) => refused.or_success(),
                    (true, false) if target.contains('?') => refused.or_success(),
                    (true, false) => refused,
                    (false, true) => refused.or_success(),
                    (false, false) => refused.never(FindingKind::AuthenticationBypass),
                };
                let words = format!("{name}, signed {}", if resigned { "as sent" } else { "before" });
                let mut case = valid(seeds, random, Target::Uri, operation, words, expected);
                if !resigned {
                    case.signing = Signing::Over(Box::new(case.request.clone()));
                }
                case.request.target = target;
                case
            })
        })
        .collect();
    for operation in [Operation::GetKeyMetadata, Operation::Encrypt, Operation::Decrypt] {
        mutations.push(Mutation::new(move |seeds, random| {
            // A key the store cannot have: XKS-META-3.
            let unknown = format!("no-such-key-{:016x}", random.next_u64());
            let expected = Expected::error("XKS-META-3", &[KEY_NOT_FOUND]);
            let mut case =
                valid(seeds, random, Target::Uri, operation, "a key that does not exist", expected);
            let known = format!("/keys/{}/", seeds.key_id);
            case.request.target = case.request.target.replacen(&known, &format!("/keys/{unknown}/"), 1);
            case
        }));
    }
    mutations
}

/// Whether a server may take both for the same resource (RFC 3986, section 6.2.2).
fn means_the_same(target: &str, path: &str) -> bool {
    let target = target.strip_suffix('?').unwrap_or(target);
    let mut decoded = String::new();
    let mut rest = target;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match digits.filter(u8::is_ascii_graphic) {
            Some(byte) => {
                decoded.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            None => {
                decoded.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    decoded.push_str(rest);
    plain_segments(&decoded) == plain_segments(path)
}
