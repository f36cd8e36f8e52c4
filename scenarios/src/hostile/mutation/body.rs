//! Bodies that are not JSON, or not the JSON of the spec, signed as they should be (XKS-MD, XKS-ENC, XKS-DEC).

use super::super::case::{Case, Expected, Operation, Success};
use super::super::finding::FindingKind;
use super::super::seeds::Seeds;
use super::{INVALID_CIPHERTEXT, Mutation, UNSUPPORTED, VALIDATION, body_target, bytes, valid};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use serde_json::{Map, Value, json};

/// What a field holds, which decides what must come of changing it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// `requestMetadata`.
    Metadata,
    /// A text of the request's metadata.
    Text,
    /// The name of an algorithm.
    Algorithm,
    /// Bytes in Base64 that are free to choose.
    Bytes,
    /// Bytes in Base64 that the authentication tag covers, or the tag itself.
    Sealed,
}

struct Field {
    name: &'static str,
    content: Content,
    required: bool,
    requirement: &'static str,
}

const fn field(name: &'static str, content: Content, required: bool, requirement: &'static str) -> Field {
    Field { name, content, required, requirement }
}

const OUTER: Field = field("requestMetadata", Content::Metadata, true, "XKS-MD-1");
const REQUEST_ID: Field = field("kmsRequestId", Content::Text, true, "XKS-MD-2");
const OPERATION: Field = field("kmsOperation", Content::Text, true, "XKS-MD-2");
const PRINCIPAL: Field = field("awsPrincipalArn", Content::Text, true, "XKS-MD-2");
const KEY_ARN: Field = field("kmsKeyArn", Content::Text, true, "XKS-MD-2");

fn fields(operation: Operation) -> Vec<Field> {
    let mut fields = vec![OUTER, REQUEST_ID, OPERATION];
    if operation != Operation::GetHealthStatus {
        fields.push(PRINCIPAL);
    }
    match operation {
        Operation::GetHealthStatus | Operation::GetKeyMetadata => {}
        Operation::Encrypt => fields.extend([
            KEY_ARN,
            field("plaintext", Content::Bytes, true, "XKS-ENC-1"),
            field("encryptionAlgorithm", Content::Algorithm, true, "XKS-ENC-2"),
            field("additionalAuthenticatedData", Content::Bytes, false, "XKS-ENC-3"),
            field("ciphertextDataIntegrityValueAlgorithm", Content::Algorithm, false, "XKS-ENC-4"),
        ]),
        Operation::Decrypt => fields.extend([
            KEY_ARN,
            field("ciphertext", Content::Sealed, true, "XKS-DEC-1"),
            field("encryptionAlgorithm", Content::Algorithm, true, "XKS-DEC-1"),
            field("initializationVector", Content::Sealed, true, "XKS-DEC-1"),
            field("authenticationTag", Content::Sealed, true, "XKS-DEC-1"),
            field("additionalAuthenticatedData", Content::Sealed, false, "XKS-DEC-4"),
            field("ciphertextMetadata", Content::Sealed, false, "XKS-DEC-2"),
        ]),
    }
    fields
}

/// What is done to a field, whatever it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edit {
    Missing,
    Null,
    Empty,
    Number,
    Boolean,
    Array,
    Object,
    Renamed,
    Long,
}

const EDITS: [Edit; 9] = [
    Edit::Missing,
    Edit::Null,
    Edit::Empty,
    Edit::Number,
    Edit::Boolean,
    Edit::Array,
    Edit::Object,
    Edit::Renamed,
    Edit::Long,
];

pub(super) fn mutations(operation: Operation) -> Vec<Mutation> {
    let mut mutations = Vec::new();
    for field in fields(operation) {
        for edit in EDITS {
            let (name, expected) = (field.name, after_edit(&field, edit));
            mutations.push(Mutation::new(move |seeds, random| {
                let expected = expected.clone();
                let words = format!("{name}: {edit:?}");
                let valid = seeds.request(operation, &mut random.clone()).body;
                let mut case = object_case(seeds, random, operation, words, expected, |body, _| {
                    apply(edit, body, name);
                });
                // A proxy without metadata of its own has none that could be taken away.
                let after = bytes::sealed_fields(&case.request.body);
                if operation == Operation::Decrypt
                    && after.is_some()
                    && after == bytes::sealed_fields(&valid)
                    && matches!(
                        case.expected.success,
                        Success::Forbidden(FindingKind::ForgedCiphertextDecrypted)
                    )
                {
                    case.expected.success = Success::Allowed;
                }
                case
            }));
        }
        mutations.extend(special(operation, &field));
    }
    mutations.extend(whole(operation));
    mutations.extend(bytes::body_mutations(operation));
    mutations
}

fn after_edit(field: &Field, edit: Edit) -> Expected {
    let refused = match field.content {
        Content::Sealed => Expected::error(field.requirement, &[VALIDATION, INVALID_CIPHERTEXT, UNSUPPORTED])
            .never(FindingKind::ForgedCiphertextDecrypted),
        Content::Algorithm | Content::Bytes => Expected::error(field.requirement, &[VALIDATION, UNSUPPORTED]),
        Content::Metadata | Content::Text => Expected::error(field.requirement, &[VALIDATION]),
    }
    .http(if edit == Edit::Long { &[413] } else { &[] });
    let tolerable = match (field.content, edit) {
        (Content::Sealed, _) => false,
        // Whether empty is a text, and how long one may be, the spec leaves open; empty bytes are legal AES-GCM.
        (Content::Text | Content::Bytes, Edit::Empty | Edit::Long) => true,
        // An optional field may be passed over whatever it holds, and an algorithm may not.
        (Content::Algorithm, edit) => {
            !field.required && matches!(edit, Edit::Missing | Edit::Null | Edit::Renamed)
        }
        _ => !field.required,
    };
    if tolerable { refused.or_success() } else { refused }
}

fn apply(edit: Edit, body: &mut Map<String, Value>, name: &str) {
    let Some(object) = holder(body, name) else { return };
    let value = match edit {
        Edit::Missing => {
            object.remove(name);
            return;
        }
        Edit::Renamed => {
            let value = object.remove(name).unwrap_or_default();
            object.insert(name.to_uppercase(), value);
            return;
        }
        Edit::Null => Value::Null,
        Edit::Empty => match object.get(name) {
            Some(Value::Object(_)) => json!({}),
            _ => json!(""),
        },
        Edit::Number => json!(-1.5e300),
        Edit::Boolean => json!(true),
        Edit::Array => json!([object.get(name)]),
        Edit::Object => json!({ name: object.get(name) }),
        Edit::Long => json!("A".repeat(100_000)),
    };
    object.insert(name.to_owned(), value);
}

/// The object that holds a field: the metadata or the body.
fn holder<'a>(body: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    let nested = matches!(name, "kmsRequestId" | "kmsOperation" | "awsPrincipalArn" | "kmsKeyArn");
    if nested { body.get_mut("requestMetadata")?.as_object_mut() } else { Some(body) }
}

/// A case whose body is changed as JSON.
fn object_case(
    seeds: &Seeds,
    random: &mut ChaCha20Rng,
    operation: Operation,
    name: String,
    expected: Expected,
    change: impl FnOnce(&mut Map<String, Value>, &mut ChaCha20Rng),
) -> Case {
    let mut case = valid(seeds, random, body_target(operation), operation, name, expected);
    if let Ok(Value::Object(mut body)) = serde_json::from_slice(&case.request.body) {
        change(&mut body, random);
        case.request.body = Value::Object(body).to_string().into_bytes();
    }
    case
}

/// Mutations of a field that depend on what it holds.
fn special(operation: Operation, field: &Field) -> Vec<Mutation> {
    let mut mutations = Vec::new();
    let (name, requirement) = (field.name, field.requirement);
    // Changes the text of the field; what the expectation is follows from what the proxy should read.
    let mut text = |what: &'static str, expected: Expected, change: fn(&str, &mut ChaCha20Rng) -> Value| {
        mutations.push(Mutation::new(move |seeds, random| {
            let words = format!("{name}: {what}");
            object_case(seeds, random, operation, words, expected.clone(), |body, random| {
                if let Some(object) = holder(body, name) {
                    let old = object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                    object.insert(name.to_owned(), change(&old, random));
                }
            })
        }));
    };
    match field.content {
        Content::Metadata => {}
        Content::Text => {
            let free = |id: &str| Expected::error(id, &[]).or_success();
            match name {
                "kmsOperation" => {
                    text("an operation of the future", free("XKS-MD-3"), |_, _| json!("ReEncryptTo2030"));
                }
                "kmsRequestId" => {
                    text("not a UUID", free("XKS-MD-3"), |_, _| json!("\u{e4}\u{1f511} \"\\ \u{7f}"));
                }
                _ => {
                    text("an ARN of 2,048 characters", free("XKS-NET-7"), |old, _| {
                        json!(format!("{old}{}", "x".repeat(2_048_usize.saturating_sub(old.len()))))
                    });
                }
            }
            let expected = Expected::error(requirement, &[VALIDATION]).or_success();
            text("control characters", expected, |old, _| json!(format!("{old}\u{0}\u{1b}[2J\r\nX: y")));
        }
        Content::Algorithm => {
            let refused = Expected::error(requirement, &[VALIDATION, UNSUPPORTED]);
            text("unknown", refused.clone(), |_, _| json!("ROT_13"));
            text("in small letters", refused.clone(), |old, _| json!(old.to_lowercase()));
            text("with a space at the end", refused, |old, _| json!(format!("{old} ")));
        }
        Content::Bytes | Content::Sealed => {
            let refused = after_edit(field, Edit::Number);
            let lenient = Expected::error(requirement, &[VALIDATION, INVALID_CIPHERTEXT]).or_success();
            let malformed = match field.content {
                Content::Sealed => Expected::error(requirement, &[VALIDATION, INVALID_CIPHERTEXT]),
                _ => Expected::error(requirement, &[VALIDATION]),
            };
            text("not Base64", malformed.clone(), |old, _| json!(format!("{old}!*")));
            text("Base64 without its padding", malformed.clone(), |_, _| {
                json!(STANDARD_NO_PAD.encode([0xfb, 0xff, 0xfe, 0x01]))
            });
            text("Base64 for URLs", malformed, |_, _| json!(URL_SAFE.encode([0xfb, 0xff, 0xfe])));
            text("Base64 with a line feed", lenient, |old, _| json!(format!("{old}\n")));
            if field.content == Content::Sealed {
                text("a bit flipped", refused.clone(), |old, random| {
                    changed(old, random, |bytes, random| flip(bytes, random))
                });
                text("cut short", refused.clone(), |old, random| changed(old, random, cut));
                text("a byte longer", refused.clone(), |old, random| {
                    changed(old, random, |bytes, random| bytes.push(random.next_u32() as u8))
                });
                text("random", refused, |old, random| {
                    changed(old, random, |bytes, random| refill(bytes, random))
                });
            } else {
                let longest = Expected::error(requirement, &[]).or_success();
                if name == "plaintext" {
                    text("4,300 bytes", longest, |_, _| json!(STANDARD.encode([7; 4_300])));
                } else {
                    text("8,192 bytes", longest, |_, _| json!(STANDARD.encode([7; 8_192])));
                }
            }
        }
    }
    if name == "authenticationTag" {
        // Short tags can be guessed: NIST SP 800-38D, appendix C.
        for length in [1, 4, 8, 12, 15] {
            let expected = after_edit(field, Edit::Number);
            mutations.push(Mutation::new(move |seeds, random| {
                let words = format!("{name}: the first {length} bytes of the right one");
                object_case(seeds, random, operation, words, expected.clone(), |body, _| {
                    body.insert(name.into(), json!(STANDARD.encode(&seeds.sealed.tag[..length])));
                })
            }));
        }
    }
    mutations
}

type Change = fn(&mut Vec<u8>, &mut ChaCha20Rng);

/// Never what it was before.
fn changed(old: &str, random: &mut ChaCha20Rng, change: Change) -> Value {
    let before = STANDARD.decode(old).unwrap_or_default();
    let mut bytes = before.clone();
    change(&mut bytes, random);
    if bytes == before {
        bytes.push(0);
    }
    json!(STANDARD.encode(bytes))
}

fn flip(bytes: &mut [u8], random: &mut ChaCha20Rng) {
    let draw = random.next_u32() as usize;
    if let Some(at) = (draw / 8).checked_rem(bytes.len()) {
        bytes[at] ^= 1 << (draw % 8);
    }
}

fn cut(bytes: &mut Vec<u8>, random: &mut ChaCha20Rng) {
    let keep = (random.next_u32() as usize).checked_rem(bytes.len()).unwrap_or(0);
    bytes.truncate(keep);
}

fn refill(bytes: &mut [u8], random: &mut ChaCha20Rng) {
    random.fill_bytes(bytes);
}

/// Mutations of the whole body.
fn whole(operation: Operation) -> Vec<Mutation> {
    type Rewrite = fn(&str) -> Vec<u8>;
    let target = body_target(operation);
    let refused = || Expected::error("XKS-MD-1", &[VALIDATION]).http(&[413]);
    let extra: [(&str, Rewrite); 3] = [
        ("an unknown field", |body| inserted(body, r#""fieldOfTheFuture":{"a":[1,null]},"#)),
        ("white space around everything", |body| format!("\r\n\t {body}\n\n").into_bytes()),
        ("an unknown field in the metadata", |body| {
            body.replacen(r#""kmsRequestId":"#, r#""field":[],"kmsRequestId":"#, 1).into_bytes()
        }),
    ];
    let bad: [(&str, Rewrite); 17] = [
        ("empty", |_| Vec::new()),
        ("white space", |_| b"  \n".to_vec()),
        ("not JSON", |_| b"<xml/>".to_vec()),
        ("null", |_| b"null".to_vec()),
        ("a number", |_| b"1".to_vec()),
        ("a text", |_| b"\"{}\"".to_vec()),
        ("an empty object", |_| b"{}".to_vec()),
        ("within an array", |body| format!("[{body}]").into_bytes()),
        ("cut short", |body| body.as_bytes()[..body.len() / 2].to_vec()),
        ("garbage after its end", |body| format!("{body}}}").into_bytes()),
        ("twice", |body| format!("{body}{body}").into_bytes()),
        ("a comma too many", |body| body.replacen('{', "{,", 1).into_bytes()),
        ("text in single quotes", |body| body.replace('"', "'").into_bytes()),
        ("invalid UTF-8", |body| [b"{\"x\":\"\xff\xfe\",".as_slice(), &body.as_bytes()[1..]].concat()),
        ("UTF-16", |body| body.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("10,000 brackets", |_| vec![b'['; 10_000]),
        ("itself as its own metadata, 2,000 deep", |body| {
            format!("{}{body}{}", "{\"requestMetadata\":".repeat(2_000), "}".repeat(2_000)).into_bytes()
        }),
    ];
    let doubtful: [(&str, Rewrite); 7] = [
        ("a byte order mark", |body| format!("\u{feff}{body}").into_bytes()),
        ("the metadata twice", |body| inserted(body, r#""requestMetadata":{"kmsRequestId":"2"},"#)),
        ("an algorithm twice", |body| inserted(body, r#""encryptionAlgorithm":"ROT_13","#)),
        ("a number beyond all bounds", |body| inserted(body, r#""x":1e99999,"#)),
        ("half a surrogate pair", |body| inserted(body, r#""x":"\ud800","#)),
        ("an unknown field nested 100 deep", |body| {
            inserted(body, &format!("\"x\":{}1{},", "[".repeat(100), "]".repeat(100)))
        }),
        ("an unknown field of 1 MiB", |body| inserted(body, &format!("\"x\":\"{}\",", "a".repeat(1 << 20)))),
    ];
    let case = move |name: &'static str, rewrite: Rewrite, expected: Option<Expected>| {
        Mutation::new(move |seeds, random| {
            let expected =
                expected.clone().unwrap_or_else(|| Expected::success("XKS-MD-4", seeds.shape(operation)));
            let words = format!("the body: {name}");
            let mut case = valid(seeds, random, target, operation, words, expected);
            case.request.body = rewrite(&String::from_utf8_lossy(&case.request.body));
            case
        })
    };
    let extra = extra.into_iter().map(|(name, rewrite)| case(name, rewrite, None));
    let bad = bad.into_iter().map(|(name, rewrite)| case(name, rewrite, Some(refused())));
    let doubtful = doubtful.into_iter().map(|(name, rewrite)| {
        // Some servers refuse a body of a MiB by closing.
        case(name, rewrite, Some(refused().or_success().or_close()))
    });
    extra.chain(bad).chain(doubtful).collect()
}

/// The body with more fields at its beginning.
fn inserted(body: &str, fields: &str) -> Vec<u8> {
    body.replacen('{', &format!("{{{fields}"), 1).into_bytes()
}
