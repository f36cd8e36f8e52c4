//! The failure table of kms-behaviour 7.1, row by row, each provoked on the wire for every column it has: Create- and
//! UpdateCustomKeyStore, ConnectCustomKeyStore, CreateKey, and cryptographic operations with a reliable and an
//! unreliable proxy. Classes and messages stand here as in the document, word for word.

use crate::account::{Site, account, public_proxy, site};
use crate::scripted::{Proxy, Reply, error, health, one_host, scripted, tls};
use crate::support::{ACCESS_KEY_ID, CALLER, Connect, SECRET, World, simulate};
use Provoked::*;
use scenarios::kms::account::Which;
use scenarios::kms::key::KeyState;
use scenarios::kms::lifecycle::ConnectionState;
use scenarios::kms::settings::KmsSettings;
use scenarios::kms::{KmsApi, KmsFailure, KmsOperation};
use serde_json::json;
use std::rc::Rc;
use std::time::Duration;
use xks_proxy::secret::Secret;

/// What the world does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Provoked {
    /// The proxy answers so.
    Error(u16, &'static str),
    /// The proxy decrypts, and changes a bit.
    FlippedPlaintext,
    /// The connection is refused.
    NoConnection,
    /// The certificate is another host's.
    NoTls,
    /// The proxy never answers.
    Silence,
    /// The proxy answers with what is no JSON.
    Html,
    /// The owner has disconnected the key store.
    Disconnected,
    /// All key managers are UNAVAILABLE.
    Unhealthy,
    /// The quota of the key store is used up.
    Quota,
}

struct Row {
    row: u8,
    provoked: Provoked,
    key_store: Option<&'static str>,
    create_key: Option<&'static str>,
    reliable: Option<&'static str>,
    unreliable: Option<&'static str>,
    /// `ConnectionErrorCode`.
    code: Option<&'static str>,
    message: &'static str,
}

const TABLE: [Row; 20] = [
    Row {
        row: 1,
        provoked: Error(400, "ValidationException"),
        key_store: Some("XksProxyInvalidResponseException"),
        create_key: Some("CustomKeyStoreInvalidStateException"),
        reliable: Some("KMSInvalidStateException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("XKS_PROXY_INVALID_RESPONSE"),
        message: "AWS KMS cannot interpret the response from the external key store proxy. If you see this error repeatedly, report it to your external key store proxy administrator.",
    },
    Row {
        row: 2,
        provoked: Error(400, "InvalidStateException"),
        key_store: None,
        create_key: Some("XksKeyInvalidConfigurationException"),
        reliable: Some("KMSInvalidStateException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("XKS_PROXY_INVALID_RESPONSE"),
        message: "The external key associated with this KMS key in an external key store is not enabled in the external key manager. Enable the external key in the external key manager and retry the request.",
    },
    Row {
        row: 3,
        provoked: Error(400, "InvalidCiphertextException"),
        key_store: None,
        create_key: None,
        reliable: Some("KMSInvalidStateException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("XKS_PROXY_INVALID_RESPONSE"),
        message: "The external key store proxy rejected the request because the specified ciphertext or encryption context is corrupted, missing, or otherwise invalid.",
    },
    Row {
        row: 4,
        provoked: FlippedPlaintext,
        key_store: None,
        create_key: None,
        reliable: Some("KMSInvalidStateException"),
        unreliable: Some("KMSInvalidStateException"),
        code: None,
        message: "The ciphertext that the external key store proxy submitted for decryption, or the encryption context, is corrupted, missing, or otherwise invalid.",
    },
    Row {
        row: 5,
        provoked: Error(400, "InvalidKeyUsageException"),
        key_store: None,
        create_key: Some("XksKeyInvalidConfigurationException"),
        reliable: Some("KMSInvalidStateException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("XKS_PROXY_INVALID_RESPONSE"),
        message: "The external key associated with this KMS key in an external key store does not support the requested operation. Enable the operation on the key in your external key manager, and try the request again.",
    },
    Row {
        row: 6,
        provoked: Error(401, "AuthenticationFailedException"),
        key_store: Some("XksProxyIncorrectAuthenticationCredentialException"),
        create_key: Some("CustomKeyStoreInvalidStateException"),
        reliable: Some("KMSInvalidStateException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("INVALID_CREDENTIALS"),
        message: "The external key store proxy rejected the request because it could not authenticate AWS KMS. Verify the XKS proxy authentication credentials for your external key store and update if necessary.",
    },
    Row {
        row: 7,
        provoked: Error(403, "AccessDeniedException"),
        key_store: None,
        create_key: Some("CustomKeyStoreInvalidStateException"),
        reliable: Some("KMSInvalidStateException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("XKS_PROXY_ACCESS_DENIED"),
        message: "The external key store proxy denied access to the operation. Verify that the user and the external key are both authorized for this operation, and try the request again.",
    },
    Row {
        row: 8,
        provoked: Error(404, "KeyNotFoundException"),
        key_store: None,
        create_key: Some("XksKeyNotFoundException"),
        reliable: Some("KMSInvalidStateException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("XKS_PROXY_INVALID_RESPONSE"),
        message: "The external key associated with this KMS key in an external key store was not found in its external key manager. If the external key ID associated with this KMS key is incorrect, create a new KMS key with the correct external key ID.",
    },
    Row {
        row: 9,
        provoked: Error(404, "InvalidUriPathException"),
        key_store: Some("XksProxyInvalidConfigurationException"),
        create_key: Some("CustomKeyStoreInvalidStateException"),
        reliable: Some("KMSInvalidStateException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("XKS_PROXY_INVALID_CONFIGURATION"),
        message: "The external key store proxy rejected the request because of an invalid URI path. Verify the URI path for your external key store and update if necessary.",
    },
    Row {
        row: 10,
        provoked: Error(501, "UnsupportedOperationException"),
        key_store: None,
        create_key: Some("UnsupportedOperationException"),
        reliable: Some("KMSInvalidStateException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("XKS_PROXY_INVALID_RESPONSE"),
        message: "The external key store proxy rejected the request because it does not support the requested operation. If you see this error repeatedly, report it to your external key store proxy administrator.",
    },
    Row {
        row: 11,
        provoked: Error(503, "DependencyTimeoutException"),
        key_store: Some("XksProxyUriUnreachableException"),
        create_key: Some("CustomKeyStoreInvalidStateException"),
        reliable: Some("KMSInternalException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("XKS_PROXY_TIMED_OUT"),
        message: "The external key store proxy did not respond to the request in the time allotted. Retry the request. If you see this error repeatedly, report it to your external key store proxy administrator.",
    },
    Row {
        row: 12,
        provoked: Error(429, "ThrottlingException"),
        key_store: Some("XksProxyUriUnreachableException"),
        create_key: Some("CustomKeyStoreInvalidStateException"),
        reliable: Some("KMSInvalidStateException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("XKS_PROXY_NOT_REACHABLE"),
        message: "The external key store proxy rejected the request due to a very high request rate. Reduce the frequency of your calls using KMS keys in this external key store.",
    },
    Row {
        row: 13,
        provoked: Error(500, "InternalException"),
        key_store: Some("XksProxyInvalidResponseException"),
        create_key: Some("CustomKeyStoreInvalidStateException"),
        reliable: Some("KMSInternalException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("XKS_PROXY_INVALID_RESPONSE"),
        message: "The external key store proxy rejected the request because it cannot communicate with the external key manager. Verify that the external key store proxy configuration is correct and that the external key manager is available.",
    },
    Row {
        row: 14,
        provoked: NoConnection,
        key_store: Some("XksProxyUriUnreachableException"),
        create_key: Some("CustomKeyStoreInvalidStateException"),
        reliable: Some("KMSInternalException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("XKS_PROXY_NOT_REACHABLE"),
        message: "AWS KMS cannot communicate with the external key store proxy. This might be a transient network issue. If you see this error repeatedly, verify that your external key store proxy is active and is connected to the network, and that its endpoint URI is correct in your external keystore.",
    },
    Row {
        row: 15,
        provoked: NoTls,
        key_store: Some("XksProxyUriUnreachableException"),
        create_key: Some("CustomKeyStoreInvalidStateException"),
        reliable: Some("KMSInvalidStateException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("XKS_PROXY_INVALID_TLS_CONFIGURATION"),
        message: "AWS KMS cannot establish a TLS connection to the external key store proxy. Verify the TLS configuration, including its certificate.",
    },
    Row {
        row: 16,
        provoked: Silence,
        key_store: Some("XksProxyUriUnreachableException"),
        create_key: Some("CustomKeyStoreInvalidStateException"),
        reliable: Some("KMSInternalException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("XKS_PROXY_TIMED_OUT"),
        message: "AWS KMS rejected the request because the external key store proxy did not respond in time. Retry the request. If you see this error repeatedly, report it to your external key store proxy administrator.",
    },
    Row {
        row: 17,
        provoked: Html,
        key_store: Some("XksProxyInvalidResponseException"),
        create_key: Some("CustomKeyStoreInvalidStateException"),
        reliable: Some("KMSInvalidStateException"),
        unreliable: Some("KMSInvalidStateException"),
        code: Some("XKS_PROXY_INVALID_RESPONSE"),
        message: "AWS KMS cannot interpret the response from the external key store proxy. If you see this error repeatedly, report it to your external key store proxy administrator.",
    },
    Row {
        row: 18,
        provoked: Disconnected,
        key_store: None,
        create_key: Some("CustomKeyStoreInvalidStateException"),
        reliable: Some("KMSInvalidStateException"),
        unreliable: Some("KMSInvalidStateException"),
        code: None,
        message: "This KMS key is in a custom key store that is not connected to its external key store proxy. Connect the external key store and try the request again.",
    },
    Row {
        row: 19,
        provoked: Unhealthy,
        key_store: Some("XksProxyUriUnreachableException"),
        create_key: None,
        reliable: None,
        unreliable: None,
        code: Some("XKS_PROXY_NOT_REACHABLE"),
        message: "The external key store proxy is in an unhealthy state. If you see this message repeatedly, notify your external key store proxy administrator.",
    },
    Row {
        row: 20,
        provoked: Quota,
        key_store: None,
        create_key: None,
        reliable: Some("ThrottlingException"),
        unreliable: Some("ThrottlingException"),
        code: None,
        message: "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.",
    },
];

/// Columns that a row does not have are told as row 17 (MA-14), since GetHealthStatus has no such error.
fn or_not_understood(row: &Row, class: Option<&'static str>) -> (&'static str, u8, &'static str) {
    match class {
        Some(class) => (class, row.row, row.message),
        None => ("XksProxyInvalidResponseException", 17, TABLE[16].message),
    }
}

fn said(failure: &KmsFailure) -> (&'static str, u8, &str) {
    (failure.exception.as_str(), failure.row, &failure.message)
}

fn settings(row: &Row, threshold: f64) -> KmsSettings {
    let quota_per_s = if row.provoked == Quota { 1 } else { 1_800 };
    // Nothing is refused on a connection that is kept.
    let idle_ms = if row.provoked == NoConnection { 0 } else { 60_000 };
    KmsSettings { quota_per_s, idle_ms, reliability_threshold: threshold, ..one_host() }
}

/// A connected key store in the state of the row.
fn world_of(row: &Row, threshold: f64) -> (World, Rc<Proxy>) {
    if row.provoked == NoTls {
        return tls::over_tls_with(settings(row, threshold), "other.example", false);
    }
    scripted(settings(row, threshold))
}

fn provoke(row: &Row, world: &World, proxy: &Proxy) {
    match row.provoked {
        Error(status, name) => proxy.always(error(status, name)),
        FlippedPlaintext => proxy.always(Reply::FlipPlaintext),
        NoConnection => world.pipes.behaviour.set(Connect::Refuse),
        Silence => proxy.always(Reply::Silence),
        Html => proxy.always(HTML),
        Unhealthy => proxy.always(Reply::Answer(200, health("UNAVAILABLE").to_string())),
        Disconnected => world.kms.disconnect().unwrap(),
        NoTls | Quota => {}
    }
}

const HTML: Reply = Reply::Raw("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 6\r\n\r\n<html>");

#[test]
fn cryptographic_operations_say_what_the_table_says() {
    simulate(async {
        for row in &TABLE {
            for (reliable, class) in [(true, row.reliable), (false, row.unreliable)] {
                let Some(class) = class else { continue };
                let (world, proxy) = world_of(row, if reliable { 0.0 } else { 1.0 });
                let blob = if row.provoked == NoTls { None } else { Some(encrypt(&world).await.unwrap()) };
                if !reliable {
                    // One retryable failure makes it unreliable, at a threshold of 1. Without TLS nothing is answered at all.
                    if row.provoked == NoTls {
                        world.pipes.behaviour.set(Connect::Refuse);
                    } else {
                        proxy.always(error(500, "InternalException"));
                    }
                    let failed = [encrypt(&world).await, encrypt(&world).await].map(Result::unwrap_err);
                    if row.provoked != Quota {
                        let classes = failed.map(|failure| failure.exception.as_str());
                        assert_eq!(classes, ["KMSInternalException", "KMSInvalidStateException"]);
                    }
                    world.pipes.behaviour.set(Connect::Accept);
                    proxy.always(Reply::Serve);
                }
                tokio::time::sleep(Duration::from_secs(2)).await;
                provoke(row, &world, &proxy);
                if row.provoked == Quota {
                    encrypt(&world).await.unwrap();
                }
                let decrypts = matches!(row.row, 3 | 4);
                let failure = if decrypts {
                    world.kms.decrypt(blob.as_ref().unwrap(), &CALLER).await.unwrap_err()
                } else {
                    encrypt(&world).await.unwrap_err()
                };
                assert_eq!(said(&failure), (class, row.row, row.message));
                if row.provoked != Quota
                    && !decrypts
                    && let Some(blob) = &blob
                {
                    let failure = world.kms.decrypt(blob, &CALLER).await.unwrap_err();
                    assert_eq!(said(&failure), (class, row.row, row.message), "Decrypt");
                }
            }
        }
    });
}

async fn encrypt(world: &World) -> Result<scenarios::kms::CiphertextBlob, KmsFailure> {
    world.kms.encrypt(KmsOperation::GenerateDataKey, &CALLER).await
}

#[test]
fn create_key_says_what_the_table_says() {
    simulate(async {
        for row in &TABLE {
            let Some(class) = row.create_key else { continue };
            let (world, proxy) = world_of(row, 0.95);
            provoke(row, &world, &proxy);
            let failure = world.kms.create_key("arn:new".into(), "key-9", &CALLER).await.unwrap_err();
            assert_eq!(said(&failure), (class, row.row, row.message));
            assert_eq!(world.kms.keys_held(), 2);
        }
    });
}

#[test]
fn update_says_what_the_table_says_and_changes_nothing() {
    simulate(async {
        for row in &TABLE {
            // Decryption, the connection state and the quota have no part in it.
            if matches!(row.row, 4 | 18 | 20) {
                continue;
            }
            let (world, proxy) = world_of(row, 0.95);
            provoke(row, &world, &proxy);
            let secret = Secret::new(SECRET.into());
            let failure = world.kms.update_credential("BETAWXOPQLAGCMTVZZZZ", secret).await.unwrap_err();
            assert_eq!(said(&failure), or_not_understood(row, row.key_store));
            if row.provoked == NoTls || row.provoked == NoConnection {
                continue;
            }
            let seen = proxy.last();
            assert_eq!(seen.path, "/example/kms/xks/v1/health");
            assert_eq!(seen.body["requestMetadata"]["kmsOperation"], "UpdateCustomKeyStore");
            assert!(seen.head.contains("BETAWXOPQLAGCMTVZZZZ"), "tried with the new credential");
            proxy.always(Reply::Serve);
            encrypt(&world).await.unwrap();
            assert!(proxy.last().head.contains(ACCESS_KEY_ID), "the old credential stays");
        }
    });
}

#[test]
fn create_custom_key_store_says_what_the_table_says() {
    simulate(async {
        for row in &TABLE {
            if matches!(row.row, 4 | 18 | 20) {
                continue;
            }
            let settings = KmsSettings { hosts: 1, ..KmsSettings::default() };
            let Site { account, proxy, pipes, .. } = if row.provoked == NoTls {
                let (pipes, tls, proxy) = tls::network("other.example", false);
                Site { account: account(settings, Rc::clone(&pipes), Some(tls)), proxy, pipes }
            } else {
                site(settings)
            };
            match row.provoked {
                NoTls => {}
                NoConnection => pipes.behaviour.set(Connect::Refuse),
                Error(status, name) => proxy.always(error(status, name)),
                Silence => proxy.always(Reply::Silence),
                Html => proxy.always(HTML),
                _ => proxy.always(Reply::Answer(200, health("UNAVAILABLE").to_string())),
            }
            let create =
                account.create_custom_key_store("store", public_proxy("example"), Secret::new(SECRET.into()));
            let failure = create.await.unwrap_err();
            assert_eq!(said(&failure), or_not_understood(row, row.key_store));
            assert!(account.describe_custom_key_stores(Which::All, 10, None).unwrap().0.is_empty());
            if row.provoked != NoConnection && row.provoked != NoTls {
                let operation = &proxy.last().body["requestMetadata"]["kmsOperation"];
                assert_eq!(operation, &json!("CreateCustomKeyStore"));
            }
        }
    });
}

#[test]
fn a_failed_connect_has_the_code_of_the_row() {
    simulate(async {
        for row in &TABLE {
            let Some(code) = row.code else { continue };
            let (world, proxy) = world_of(row, 0.95);
            world.kms.disconnect().unwrap();
            tokio::time::sleep(Duration::from_secs(301)).await;
            provoke(row, &world, &proxy);
            world.kms.connect().unwrap();
            assert_eq!(world.kms.connection().0, ConnectionState::Connecting);
            tokio::time::sleep(Duration::from_secs(302)).await;
            let (state, error) = world.kms.connection();
            assert_eq!((state, error.unwrap().as_str()), (ConnectionState::Failed, code), "row {}", row.row);
            assert_eq!(world.kms.key_state(0).unwrap(), KeyState::Unavailable);
        }
    });
}

/// Row 19 has no column "crypto"; MA-20 gives it one.
#[test]
fn failing_fast_is_row_19() {
    simulate(async {
        for fail_fast in [false, true] {
            let (world, proxy) = scripted(KmsSettings { fail_fast, ..one_host() });
            proxy.always(Reply::Answer(200, health("UNAVAILABLE").to_string()));
            world.kms.check_health("KmsHealthCheck").await.unwrap_err();
            proxy.always(Reply::Serve);
            match encrypt(&world).await {
                Ok(_) => assert!(!fail_fast),
                Err(failure) => {
                    let expected = ("KMSInvalidStateException", 19, TABLE[18].message);
                    assert_eq!((said(&failure), fail_fast), (expected, true));
                }
            }
            world.kms.check_health("KmsHealthCheck").await.unwrap();
            encrypt(&world).await.unwrap();
            // A check that failed did not find them all UNAVAILABLE.
            proxy.always(Reply::Answer(200, health("UNAVAILABLE").to_string()));
            world.kms.check_health("KmsHealthCheck").await.unwrap_err();
            proxy.always(Reply::Silence);
            world.kms.check_health("KmsHealthCheck").await.unwrap_err();
            proxy.always(Reply::Serve);
            encrypt(&world).await.unwrap();
        }
    });
}
