//! Requirements on the wire that `wire.rs` does not show, each test named by the id of `XKS-…`.

mod support;

use serde_json::{Value, json};
use std::path::Path;
use support::{World, encrypt, metadata, with};
use xks_proxy::app::{KeyStore, Limits, OtherKeys};
use xks_proxy::authorise::{Pattern, Rule};

#[tokio::test]
async fn enc_4_sha_256_is_the_only_integrity_algorithm() {
    let world = World::new();
    for (algorithm, status) in [
        (json!("SHA_256"), 200),
        (Value::Null, 200),
        (json!("SHA_512"), 400),
        (json!("sha_256"), 400),
        (json!(""), 400),
        (json!(256), 400),
    ] {
        let body = with(encrypt("aGk="), "ciphertextDataIntegrityValueAlgorithm", algorithm.clone());
        let reply = world.call("keys/foo/encrypt", &body).await;
        assert_eq!(reply.status, status, "{algorithm}");
        if status == 400 {
            reply.is_error(400, "ValidationException");
        } else {
            let present = reply.json().get("ciphertextDataIntegrityValue").is_some();
            assert_eq!(present, algorithm == "SHA_256");
        }
    }
}

/// The string literals that come right after `call` in Rust source, raw and as they would be sent.
fn literals_after(source: &str, call: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in source.match_indices(call) {
        let rest = source[at + call.len()..].trim_start();
        let Some(rest) = rest.strip_prefix('"') else { continue };
        let mut text = String::new();
        let mut letters = rest.chars();
        while let Some(letter) = letters.next().filter(|letter| *letter != '"') {
            text.push(letter);
            if letter == '\\' {
                text.extend(letters.next());
            }
        }
        found.push(text);
    }
    found
}

/// Sentences are fixed texts written into JSON as they are, so none may hold what JSON would have to escape, and each must
/// be short and printable. Tests on the wire meet most of them; this finds the rest.
#[test]
fn err_1_every_sentence_in_the_source_can_be_sent() {
    fn visit(directory: &Path, sentences: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, sentences);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                for call in
                    ["with_sentence(", "invalid(", "unsupported(", ".base64(", "error_json(error.name,"]
                {
                    sentences.extend(literals_after(&source, call));
                }
            }
        }
    }
    let mut sentences = Vec::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sentences);
    assert!(sentences.len() > 25, "only {} sentences found", sentences.len());
    assert!(sentences.iter().any(|text| text == "The health check answers GET and HEAD."));
    for text in sentences {
        let plain = text.bytes().all(|b| (0x20..=0x7e).contains(&b) && b != b'\\');
        assert!(plain && text.len() < 512, "{text:?}");
    }
}

/// Health asks no policy and names no key, so it has nothing to be denied or not to find, whatever the key store is like.
#[tokio::test]
async fn err_3_health_is_never_denied_and_misses_no_key() {
    let world = World::with(Limits::default(), |store| {
        store.access.rules = vec![only("nobody", &[], "arn:aws:iam::1:user/Nobody")];
        store.keys.others = OtherKeys::NotFound;
    });
    for principal in ["arn:aws:iam::123456789012:user/Alice", ""] {
        let metadata = with(metadata(), "awsPrincipalArn", json!(principal));
        world.call("health", &json!({ "requestMetadata": metadata })).await.is_ok();
    }
}

fn only(name: &str, keys: &[&str], principal: &str) -> Rule {
    Rule {
        name: name.into(),
        keys: keys.iter().map(|key| Pattern::new(*key)).collect(),
        principal_arns: vec![Pattern::new(principal)],
        ..Rule::default()
    }
}

fn asks(principal: &str, kms_key: &str) -> Value {
    let metadata = with(
        with(metadata(), "awsPrincipalArn", json!(format!("arn:aws:iam::123456789012:user/{principal}"))),
        "kmsKeyArn",
        json!(format!("arn:aws:kms:us-east-2:123456789012:key/{kms_key}")),
    );
    with(encrypt("aGk="), "requestMetadata", metadata)
}

#[tokio::test]
async fn az_3_a_key_is_limited_to_its_callers_and_its_kms_key() {
    let world = World::with(Limits::default(), |store| {
        let orders = Rule {
            kms_key_arns: vec![Pattern::new("arn:aws:kms:*:123456789012:key/orders")],
            ..only("orders", &["orders"], "arn:aws:iam::123456789012:user/Alice")
        };
        let rest = only("rest", &["rest-*"], "*");
        store.access.rules = vec![orders, rest];
    });
    for (key, principal, kms_key, status) in [
        ("orders", "Alice", "orders", 200),
        ("orders", "Bob", "orders", 403),
        ("orders", "Alice", "other", 403),
        ("rest-1", "Bob", "other", 200),
        ("else", "Alice", "orders", 403),
    ] {
        let reply = world.call(&format!("keys/{key}/encrypt"), &asks(principal, kms_key)).await;
        assert_eq!(reply.status, status, "{key} {principal} {kms_key}");
    }
}

#[tokio::test]
async fn az_4_rules_change_between_two_requests() {
    let world = World::new();
    let body = asks("Alice", "orders");
    world.call("keys/orders/encrypt", &body).await.is_ok();
    let store = world.app.store(support::PREFIX).unwrap();
    let mut stricter = KeyStore::new(
        "one",
        store.prefix.clone(),
        store.credentials.to_vec(),
        std::sync::Arc::clone(&store.hsm),
    );
    stricter.access.rules = vec![only("Bob only", &["orders"], "*user/Bob")];
    world.app.replace_stores(vec![stricter]).unwrap();
    world.call("keys/orders/encrypt", &body).await.is_error(403, "AccessDeniedException");
    world.call("keys/orders/encrypt", &asks("Bob", "orders")).await.is_ok();
}
