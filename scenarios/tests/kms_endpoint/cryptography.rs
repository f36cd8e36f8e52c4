//! Payloads of the caller's own, there and back.

use crate::site::{Site, base64, bytes, really, settings};
use crate::stub_hsm::Mood;
use scenarios::kms::settings::KmsSettings;
use scenarios::kms::violations::X1;
use serde_json::{Value, json};

const ROW_3: &str = "The external key store proxy rejected the request because the specified ciphertext or encryption context is corrupted, missing, or otherwise invalid.";

/// A site with one key; its ARN.
async fn with_key(settings: KmsSettings) -> (Site, String) {
    let site = Site::new(settings).await;
    let store = site.store(0).await;
    let arn = site.key(&store, "external-1").await;
    (site, arn)
}

async fn encrypt(site: &Site, key: &str, plaintext: &[u8], context: Value) -> Value {
    let members = json!({
        "KeyId": key, "Plaintext": base64(plaintext), "EncryptionContext": context,
    });
    site.ok("Encrypt", members).await
}

#[test]
fn a_plaintext_comes_back_as_it_went_whatever_its_length() {
    really(async {
        let (site, arn) = with_key(settings()).await;
        let context = json!({ "b": "2", "a": "1 \" ü" });
        for length in [1, 16, 4_096] {
            let plaintext: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let encrypted = encrypt(&site, &arn, &plaintext, context.clone()).await;
            assert_eq!(
                (&encrypted["KeyId"], &encrypted["EncryptionAlgorithm"]),
                (&json!(arn), &json!("SYMMETRIC_DEFAULT"))
            );
            assert!(bytes(&encrypted["CiphertextBlob"]).len() <= 6_144);
            // The same context in another order, with the key named and without.
            for named in [Value::Null, json!(arn)] {
                let members = json!({
                    "CiphertextBlob": encrypted["CiphertextBlob"], "KeyId": named,
                    "EncryptionContext": { "a": "1 \" ü", "b": "2" },
                });
                let decrypted = site.ok("Decrypt", members).await;
                assert_eq!(bytes(&decrypted["Plaintext"]), plaintext);
                assert_eq!(decrypted["KeyId"], arn.as_str());
            }
        }
        let again = encrypt(&site, &arn, b"x", json!({})).await;
        assert_ne!(encrypt(&site, &arn, b"x", json!({})).await["CiphertextBlob"], again["CiphertextBlob"]);
        for length in [0, 4_097] {
            let members = json!({ "KeyId": arn, "Plaintext": base64(&vec![1; length]) });
            assert_eq!(site.refused("Encrypt", members).await.1, "ValidationException", "{length}");
        }
    });
}

#[test]
fn the_proxy_hears_who_asks_and_under_which_request() {
    really(async {
        let (site, arn) = with_key(settings()).await;
        let answer = site.call("Encrypt", json!({ "KeyId": arn, "Plaintext": base64(b"x") })).await;
        let heard = site.proxy.log.last();
        assert_eq!(heard.kms_request_id.as_deref(), answer.header("x-amzn-requestid"));
        assert_eq!(heard.kms_request_id.unwrap().len(), 36);
        assert_eq!(heard.principal_arn.as_deref(), Some("arn:aws:iam::111122223333:user/AKIAALICE"));
        assert_eq!(heard.kms_key_arn, Some(arn));
        assert_eq!(heard.kms_operation.as_deref(), Some("Encrypt"));
    });
}

#[test]
fn another_context_is_refused_by_the_proxy_or_by_kms_itself() {
    really(async {
        for context_in_aad in [true, false] {
            let (site, arn) = with_key(KmsSettings { context_in_aad, ..settings() }).await;
            let encrypted = encrypt(&site, &arn, b"x", json!({ "a": "1" })).await;
            let heard = site.proxy.log.len();
            for context in [json!({ "a": "2" }), json!({}), json!({ "a": "1", "b": "" })] {
                let members =
                    json!({ "CiphertextBlob": encrypted["CiphertextBlob"], "EncryptionContext": context });
                let refused = site.refused("Decrypt", members).await;
                if context_in_aad {
                    assert_eq!(refused, (400, "KMSInvalidStateException".into(), ROW_3.into()), "MA-8");
                } else {
                    assert_eq!(refused, (400, "InvalidCiphertextException".into(), String::new()), "MA-8");
                }
            }
            let asked = site.proxy.log.len() - heard;
            assert_eq!(asked, if context_in_aad { 3 } else { 0 });
            assert!(site.api.verdicts().iter().all(|verdict| verdict.violated == 0));
        }
    });
}

#[test]
fn what_is_no_blob_of_this_account_is_an_invalid_ciphertext() {
    really(async {
        let (site, arn) = with_key(settings()).await;
        let encrypted = encrypt(&site, &arn, b"x", json!({})).await;
        let blob = bytes(&encrypted["CiphertextBlob"]);
        let heard = site.proxy.log.len();
        let mut other_account = blob.clone();
        other_account[3] ^= 1;
        let mut other_version = blob.clone();
        other_version[16] ^= 3;
        let mut other_key = blob.clone();
        other_key[18] ^= 1;
        for (what, blob) in [
            ("another key's id", other_account),
            ("another version", other_version),
            ("another key's number", other_key),
            ("half of it", blob[..blob.len() / 4].to_vec()),
            ("one byte", vec![1]),
        ] {
            let refused = site.refused("Decrypt", json!({ "CiphertextBlob": base64(&blob) })).await;
            assert_eq!(refused, (400, "InvalidCiphertextException".into(), String::new()), "{what}");
        }
        assert_eq!(site.proxy.log.len(), heard);
        // Its fields are the proxy's to judge.
        let mut spoiled = blob;
        *spoiled.last_mut().unwrap() ^= 1;
        let refused = site.refused("Decrypt", json!({ "CiphertextBlob": base64(&spoiled) })).await;
        assert_eq!(refused.2, ROW_3);
    });
}

#[test]
fn data_keys_are_encrypted_as_they_are_told() {
    really(async {
        let (site, arn) = with_key(settings()).await;
        for (members, length) in [
            (json!({ "KeySpec": "AES_256" }), 32),
            (json!({ "KeySpec": "AES_128" }), 16),
            (json!({ "NumberOfBytes": 1_024 }), 1_024),
        ] {
            for operation in ["GenerateDataKey", "GenerateDataKeyWithoutPlaintext"] {
                let mut members = members.clone();
                members["KeyId"] = json!(arn);
                members["EncryptionContext"] = json!({ "a": "1" });
                let generated = site.ok(operation, members).await;
                assert_eq!(site.proxy.log.last().kms_operation.as_deref(), Some(operation));
                let members = json!({
                    "CiphertextBlob": generated["CiphertextBlob"], "EncryptionContext": { "a": "1" },
                });
                let decrypted = site.ok("Decrypt", members).await;
                assert_eq!(bytes(&decrypted["Plaintext"]).len(), length);
                if operation == "GenerateDataKey" {
                    assert_eq!(generated["Plaintext"], decrypted["Plaintext"]);
                } else {
                    assert_eq!(generated["Plaintext"], Value::Null);
                }
            }
        }
        for members in [
            json!({ "KeyId": arn }),
            json!({ "KeyId": arn, "KeySpec": "AES_256", "NumberOfBytes": 32 }),
            json!({ "KeyId": arn, "KeySpec": "AES_512" }),
            json!({ "KeyId": arn, "NumberOfBytes": 1_025 }),
        ] {
            let refused = site.refused("GenerateDataKey", members.clone()).await;
            assert_eq!(refused.1, "ValidationException", "{members}");
        }
        let random = site.ok("GenerateRandom", json!({ "NumberOfBytes": 24 })).await;
        assert_eq!(bytes(&random["Plaintext"]).len(), 24);
    });
}

#[test]
fn a_proxy_that_decrypts_to_something_else_is_found_out() {
    really(async {
        let (site, arn) = with_key(settings()).await;
        let blob = encrypt(&site, &arn, b"x", json!({})).await["CiphertextBlob"].clone();
        let members = json!({ "CiphertextBlob": blob });
        site.ok("Decrypt", members.clone()).await;
        site.proxy.hsm.set_mood(Mood::Lies);
        let (status, class, message) = site.refused("Decrypt", members).await;
        assert_eq!((status, class.as_str()), (400, "KMSInvalidStateException"), "row 4");
        assert!(message.contains("submitted for decryption"), "{message}");
        let x1 = site.api.verdicts().into_iter().find(|verdict| verdict.invariant == X1).unwrap();
        assert_eq!((x1.checked, x1.violated), (2, 1));
    });
}

#[test]
fn a_blob_moves_to_another_key_of_another_key_store() {
    really(async {
        let (site, from) = with_key(settings()).await;
        let store = site.store(1).await;
        let to = site.key(&store, "external-2").await;
        let encrypted = encrypt(&site, &from, b"moved", json!({ "a": "1" })).await;
        let members = json!({
            "CiphertextBlob": encrypted["CiphertextBlob"], "SourceEncryptionContext": { "a": "1" },
            "DestinationKeyId": to, "DestinationEncryptionContext": { "b": "2" },
        });
        let heard = site.proxy.log.len();
        let moved = site.ok("ReEncrypt", members).await;
        assert_eq!((&moved["SourceKeyId"], &moved["KeyId"]), (&json!(from), &json!(to)));
        let calls = site.proxy.log.all().split_off(heard);
        let calls: Vec<_> =
            calls.iter().map(|call| (call.key_store.as_deref(), call.kms_operation.as_deref())).collect();
        assert_eq!(calls, [(Some("one"), Some("ReEncrypt")), (Some("two"), Some("ReEncrypt"))]);
        let decrypted = site
            .ok(
                "Decrypt",
                json!({ "CiphertextBlob": moved["CiphertextBlob"], "EncryptionContext": { "b": "2" } }),
            )
            .await;
        assert_eq!(
            (bytes(&decrypted["Plaintext"]).as_slice(), &decrypted["KeyId"]),
            (&b"moved"[..], &json!(to))
        );
        let members = json!({ "CiphertextBlob": encrypted["CiphertextBlob"], "KeyId": to });
        assert_eq!(site.refused("Decrypt", members).await.1, "IncorrectKeyException");
    });
}

#[test]
fn a_dry_run_comes_as_far_as_the_proxy_and_no_further() {
    really(async {
        let (site, arn) = with_key(settings()).await;
        let blob = encrypt(&site, &arn, b"x", json!({})).await["CiphertextBlob"].clone();
        let heard = site.proxy.log.len();
        for (operation, members) in [
            ("Encrypt", json!({ "KeyId": arn, "Plaintext": base64(b"x"), "DryRun": true })),
            ("Decrypt", json!({ "CiphertextBlob": blob, "DryRun": true })),
            ("ReEncrypt", json!({ "CiphertextBlob": blob, "DestinationKeyId": arn, "DryRun": true })),
            ("GenerateDataKey", json!({ "KeyId": arn, "KeySpec": "AES_256", "DryRun": true })),
        ] {
            assert_eq!(site.refused(operation, members).await.1, "DryRunOperationException", "{operation}");
        }
        // Its parameters are looked at as those of any other request.
        let long = json!({ "a": "x".repeat(8_200) });
        for (operation, members) in [
            ("Encrypt", json!({ "KeyId": arn, "Plaintext": base64(&[1; 5_000]) })),
            ("Encrypt", json!({ "KeyId": arn, "Plaintext": base64(b"x"), "EncryptionContext": long })),
            ("Decrypt", json!({ "CiphertextBlob": blob, "EncryptionContext": long })),
            (
                "ReEncrypt",
                json!({
                    "CiphertextBlob": blob, "DestinationKeyId": arn, "DestinationEncryptionContext": long,
                }),
            ),
            ("GenerateDataKey", json!({ "KeyId": arn, "NumberOfBytes": 5_000 })),
            ("GenerateDataKeyWithoutPlaintext", json!({ "KeyId": arn, "NumberOfBytes": 0 })),
        ] {
            let mut members = members;
            members["DryRun"] = json!(true);
            assert_eq!(site.refused(operation, members).await.1, "ValidationException", "{operation}");
        }
        assert_eq!(site.proxy.log.len(), heard);
    });
}

#[test]
fn a_proxy_that_has_gone_is_500_while_it_was_reliable_and_400_after() {
    really(async {
        let (site, arn) = with_key(settings()).await;
        let members = json!({ "KeyId": arn, "Plaintext": base64(b"x") });
        site.ok("Encrypt", members.clone()).await;
        let blob = encrypt(&site, &arn, b"x", json!({})).await["CiphertextBlob"].clone();
        site.proxy.stop().await;
        let row_14 = "AWS KMS cannot communicate with the external key store proxy. This might be a transient network issue.";
        let (status, class, message) = site.refused("Encrypt", members.clone()).await;
        assert_eq!((status, class.as_str()), (500, "KMSInternalException"));
        assert!(message.starts_with(row_14), "{message}");
        // One of a handful of calls failed: less than 95 % are reliable.
        let (status, class, message) = site.refused("Decrypt", json!({ "CiphertextBlob": blob })).await;
        assert_eq!((status, class.as_str()), (400, "KMSInvalidStateException"));
        assert!(message.starts_with(row_14), "{message}");
        assert_eq!(
            site.ok("DescribeKey", json!({ "KeyId": arn })).await["KeyMetadata"]["KeyState"],
            "Enabled"
        );
        let totals = site.api.journal().totals();
        assert_eq!((totals.refused, totals.proxy_failures), (2, 2));
    });
}
