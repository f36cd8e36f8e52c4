//! What must hold of every input, shown on generated ones: the framing of the AAD, the integrity value, Base64, and the
//! way from a path to a key store. The models are written from the text of the spec and share no code with the proxy.

#![expect(clippy::unwrap_used, reason = "a test's helper fails loudly")]

mod support;

use http::Request;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::sync::Arc;
use support::{CREDENTIAL, StandingClock, StubHsm, World, encrypt, metadata, with};
use xks_proxy::api::encrypt::integrity_value;
use xks_proxy::app::{App, KeyStore, Settings};
use xks_proxy::events::{AuditEvent, Subscriber};
use xks_proxy::hsm::{Aad, Iv, Sealed};
use xks_proxy::key::{API_ROOT, UriPrefix};
use xks_proxy::secret::Secret;
use xks_proxy::sigv4::Credential;

fn bytes(len_max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..=len_max)
}

fn iv() -> impl Strategy<Value = Iv> {
    prop_oneof![any::<[u8; 12]>().prop_map(Iv::Twelve), any::<[u8; 16]>().prop_map(Iv::Sixteen)]
}

fn sealed() -> impl Strategy<Value = Sealed> {
    (bytes(64), iv(), any::<[u8; 16]>()).prop_map(|(ciphertext, iv, tag)| Sealed { ciphertext, iv, tag })
}

/// Reads a framed AAD back, by the sentence of XKS-ENC-7. `None` when it is no framing.
fn unframe(framed: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = framed.split_first_chunk::<2>()?;
    let (additional, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    let (len, metadata) = rest.split_first()?;
    (metadata.len() == usize::from(*len)).then_some((additional, metadata))
}

proptest! {
    /// What can be read back in one way only cannot be the frame of anything else: the framing is injective.
    #[test]
    fn enc_7_a_framed_aad_says_what_it_was_made_of(additional in bytes(300), metadata in bytes(255)) {
        let framed = Aad::frame(&additional, &metadata).unwrap();
        prop_assert_eq!(unframe(framed.as_bytes()), Some((&additional[..], &metadata[..])));
        prop_assert_eq!(framed.as_bytes().len(), 3 + additional.len() + metadata.len());
    }

    /// The same bytes, cut elsewhere between AAD and metadata, are framed differently.
    #[test]
    fn enc_7_where_the_aad_ends_is_part_of_the_frame(all in bytes(255), cuts in any::<(Index, Index)>()) {
        let (one, other) = (cuts.0.index(all.len() + 1), cuts.1.index(all.len() + 1));
        let frame = |at: usize| Aad::frame(&all[..at], &all[at..]).unwrap();
        prop_assert_eq!(frame(one) == frame(other), one == other);
    }

    /// XKS-ENC-9, on the bytes laid end to end.
    #[test]
    fn enc_9_the_integrity_value_is_the_hash_of_all_parts(
        additional in bytes(100),
        metadata in bytes(20),
        sealed in sealed(),
    ) {
        let parts = [&additional, &metadata, sealed.iv.as_bytes(), &sealed.ciphertext, &sealed.tag];
        let wanted: [u8; 32] = Sha256::digest(parts.concat()).into();
        prop_assert_eq!(integrity_value(&additional, &metadata, &sealed), wanted);
    }

    #[test]
    fn enc_9_every_bit_counts_in_the_integrity_value(
        additional in bytes(40),
        metadata in bytes(20),
        sealed in sealed(),
        which in any::<Index>(),
    ) {
        let before = integrity_value(&additional, &metadata, &sealed);
        let (mut additional, mut metadata, mut changed) = (additional, metadata, sealed);
        let mut iv = changed.iv.as_bytes().to_vec();
        {
            let parts: [&mut [u8]; 5] =
                [&mut additional, &mut metadata, &mut iv, &mut changed.ciphertext, &mut changed.tag];
            let mut all: Vec<&mut u8> = parts.into_iter().flatten().collect();
            let bit = which.index(all.len() * 8);
            *all[bit / 8] ^= 1 << (bit % 8);
        }
        changed.iv = Iv::from_slice(&iv).unwrap();
        prop_assert_ne!(integrity_value(&additional, &metadata, &changed), before);
    }
}

/// RFC 4648, section 4, read the slow way: groups of four out of the alphabet, padding at the end of the last one
/// alone, and no bits set that stand for nothing.
fn is_base64(text: &str) -> bool {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if !text.len().is_multiple_of(4) {
        return false;
    }
    let digits = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    let values: Option<Vec<usize>> = digits.chars().map(|letter| ALPHABET.find(letter)).collect();
    let unused_bits = match text.len() - digits.len() {
        0 => 1,
        1 => 4,
        _ => 16,
    };
    values.is_some_and(|values| values.last().is_none_or(|last| last % unused_bits == 0))
}

/// Base64, and what is nearly Base64.
fn nearly_base64() -> impl Strategy<Value = String> {
    let spoilt =
        ("([A-Za-z0-9+/]{4}){0,3}([A-D][AQgw]==)?", any::<Index>(), r"[A-Za-z0-9+/=_\-\n\r \t.é]{0,2}");
    prop_oneof![
        "[A-Za-z0-9+/]{0,12}={0,3}",
        "([A-Za-z0-9+/]{4}){0,3}[A-D][AQgw]==",
        spoilt.prop_map(|(mut text, at, more)| {
            text.insert_str(at.index(text.len() + 1), &more);
            text
        }),
    ]
}

/// One runtime for all cases of a test.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Every field that is Base64 takes exactly what RFC 4648 calls so (XKS-ENC-1, XKS-ENC-3, XKS-DEC-1).
#[test]
fn base64_is_what_rfc_4648_says_and_nothing_else() {
    let (runtime, world) = (runtime(), World::new());
    proptest!(|(text in nearly_base64())| {
        let valid = is_base64(&text);
        for body in [
            encrypt(&text),
            with(encrypt("aGk="), "additionalAuthenticatedData", json!(text)),
            json!({
                "requestMetadata": metadata(), "encryptionAlgorithm": "AES_GCM", "ciphertext": text,
                "ciphertextMetadata": "AQE=", "initializationVector": "AAAAAAAAAAAAAAAA",
                "authenticationTag": "AAAAAAAAAAAAAAAAAAAAAA==",
            }),
        ] {
            let operation = if body.get("ciphertext").is_some() { "decrypt" } else { "encrypt" };
            let reply = runtime.block_on(world.call(&format!("keys/foo/{operation}"), &body));
            let refused = reply.status != 200 && reply.text("errorName") == "ValidationException";
            prop_assert_eq!(refused, !valid, "{:?} in {}: {:?}", text, body, reply.body);
        }
    });
}

/// Keeps the last audit event, which says where a path has led.
#[derive(Default)]
struct Last(std::sync::Mutex<Option<AuditEvent>>);

impl Subscriber for Last {
    fn audit(&self, event: &AuditEvent) {
        *self.0.lock().unwrap() = Some(event.clone());
    }
}

/// Key stores named after their prefixes.
fn proxy_with(prefixes: &BTreeSet<String>) -> (App, Arc<Last>) {
    let last = Arc::new(Last::default());
    let stores = prefixes.iter().map(|prefix| {
        let credential = Credential::new(CREDENTIAL.0, Secret::new(CREDENTIAL.1.into())).unwrap();
        KeyStore::new(
            prefix,
            UriPrefix::parse(prefix).unwrap(),
            vec![credential],
            Arc::new(StubHsm::default()),
        )
    });
    let subscriber: Arc<dyn Subscriber> = Arc::<Last>::clone(&last);
    let env = Arc::new(StandingClock::default());
    (App::new(Settings::default(), stores.collect(), env, subscriber).unwrap(), last)
}

/// Where a path must lead: to the key store whose prefix, the API's root and the operation laid end to end are that very
/// path (XKS-NET-3, XKS-NET-4). Key store, operation and key.
fn wanted(prefixes: &BTreeSet<String>, path: &str) -> Option<(String, &'static str, Option<String>)> {
    let is_key = |key: &str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        (1..=128).contains(&key.len()) && key.chars().all(letter) && key != "." && key != ".."
    };
    let found = prefixes.iter().find_map(|prefix| {
        let rest = path.strip_prefix(&format!("{prefix}{API_ROOT}"))?;
        if rest == "/health" {
            return Some((prefix.clone(), "GetHealthStatus", None));
        }
        let rest = rest.strip_prefix("/keys/")?;
        [("/metadata", "GetKeyMetadata"), ("/encrypt", "Encrypt"), ("/decrypt", "Decrypt")].iter().find_map(
            |(end, operation)| {
                let key = rest.strip_suffix(end).filter(|key| is_key(key))?;
                Some((prefix.clone(), *operation, Some(key.to_owned())))
            },
        )
    });
    found.filter(|_| path.len() <= 256)
}

fn prefix() -> impl Strategy<Value = String> {
    // Few letters, so that one is often the beginning or the end of another; some hold the API's own root.
    let segment =
        prop_oneof![4 => "[ab]{1,2}", 1 => Just("kms/xks/v1".to_owned()), 1 => Just("keys".to_owned())];
    prop::collection::vec(segment, 0..4)
        .prop_map(|segments| segments.iter().map(|segment| format!("/{segment}")).collect())
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[A-Za-z0-9._-]{1,12}", 1 => "[a-z.]{1,2}", 1 => "[a-z]{120,140}", 1 => "[a-z/%.]{0,6}",
        1 => Just("foo%2Fencrypt".to_owned()), 1 => Just("%66oo".to_owned()),
    ]
}

fn operation() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just("/health".to_owned()),
        4 => (key(), prop::sample::select(vec!["encrypt", "decrypt", "metadata", "health", "Encrypt", ""]))
            .prop_map(|(key, operation)| format!("/keys/{key}/{operation}")),
    ]
}

/// What people and attackers do to paths: none of it may lead anywhere.
fn change() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "/",
        "/",
        "/",
        "//",
        "/./",
        "/../",
        "%2F",
        "%2e%2e/",
        "%00",
        "a",
        ";",
        "/kms/xks/v1",
    ])
}

proptest! {
    /// A path leads to the key store of exactly its prefix or nowhere. Nothing is decoded, no dots or slashes are
    /// resolved, and a prefix that begins, ends or holds another stays its own.
    #[test]
    fn net_4_a_path_leads_to_the_one_key_store_it_names(
        prefixes in prop::collection::btree_set(prefix(), 1..5),
        asked in prop_oneof![prefix().prop_map(Err), any::<Index>().prop_map(Ok)],
        operation in operation(),
        change in prop::option::weighted(0.6, (change(), any::<Index>())),
    ) {
        let asked = match asked {
            Ok(known) => known.get(&prefixes.iter().collect::<Vec<_>>()).to_string(),
            Err(any) => any,
        };
        let mut path = format!("{asked}{API_ROOT}{operation}");
        if let Some((change, at)) = change {
            // Before a slash, most often before the API's root, or at the end.
            let slashes = path.match_indices('/').map(|(at, _)| at);
            let places: Vec<usize> = slashes.chain([asked.len(); 4]).chain([path.len()]).collect();
            path.insert_str(*at.get(&places), change);
        }
        prop_assume!(path.starts_with('/'));
        let (app, last) = proxy_with(&prefixes);
        let request = Request::post(&path).header("content-type", "application/json");
        let request = request.body(http_body_util::Full::<bytes::Bytes>::default()).unwrap();
        let reply = runtime().block_on(xks_proxy::http::handle(&Arc::new(app), request));
        // It is not signed, so a path that leads somewhere ends there with 401, and any other with 404.
        let event = last.0.lock().unwrap().take().unwrap();
        let found = event.key_store.map(|store| {
            (store, event.operation.map_or("none", |operation| operation.as_str()), event.key_id)
        });
        prop_assert_eq!(&found, &wanted(&prefixes, &path), "{}", path);
        prop_assert_eq!(reply.status().as_u16(), if found.is_some() { 401 } else { 404 });
    }
}
