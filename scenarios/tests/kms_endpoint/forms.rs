//! What is not of the API's form, and how it is answered.

use crate::site::{Site, base64, key_store, really, request, settings};
use scenarios::trace::Recorder;
use serde_json::json;

#[test]
fn what_is_no_operation_is_404() {
    really(async {
        let site = Site::new(settings()).await;
        let whole = request("ListKeys", "{}");
        for (what, bytes) in [
            ("another operation", request("ListRetirableGrants", "{}")),
            ("no operation", request("", "{}")),
            ("another service", whole.replace("TrentService", "DynamoDB_20120810")),
            ("no target", whole.replace("X-Amz-Target", "X-Other")),
            ("another method", whole.replace("POST", "PUT")),
            ("another path", whole.replace("POST / ", "POST /kms ")),
        ] {
            let answer = site.send(bytes.as_bytes()).await;
            let failure = answer.failure();
            assert_eq!(failure, (404, "UnknownOperationException".into(), String::new()), "{what}");
        }
        assert_eq!(site.send(whole.as_bytes()).await.status, 200);
        // Who is not HTTP gets no answer of KMS's.
        assert_ne!(site.send(b"EHLO example.com\r\n\r\n").await.status, 200);
    });
}

#[test]
fn what_is_no_json_or_of_another_type_is_a_serialization_exception() {
    really(async {
        let site = Site::new(settings()).await;
        for body in [
            "{",
            "[]",
            "\"text\"",
            "{\"KeyId\":5}",
            "{\"KeyId\":\"a\",\"Plaintext\":\"not Base64!\"}",
            "{\"EncryptionContext\":{\"a\":1}}",
            "{\"DryRun\":\"yes\"}",
            "{} {}",
        ] {
            let (status, class, message) = site.send(request("Encrypt", body).as_bytes()).await.failure();
            assert_eq!((status, class.as_str()), (400, "SerializationException"), "{body}");
            assert!(!message.is_empty(), "{body}");
        }
    });
}

#[test]
fn what_is_missing_or_out_of_its_range_is_a_validation_exception() {
    really(async {
        let site = Site::new(settings()).await;
        let without = |member: &str| {
            let mut members = key_store(0);
            members.as_object_mut().unwrap().remove(member);
            members
        };
        let with = |member: &str, value: &str| {
            let mut members = key_store(0);
            members[member] = json!(value);
            members
        };
        let long = "x".repeat(8_200);
        for (operation, members, name) in [
            ("Encrypt", json!({}), "Value null at 'keyId'"),
            ("Encrypt", json!({ "KeyId": "a" }), "Value null at 'plaintext'"),
            (
                "Encrypt",
                json!({ "KeyId": "a", "Plaintext": base64(b"x"), "EncryptionContext": { "a": long } }),
                "encryptionContext",
            ),
            (
                "Encrypt",
                json!({ "KeyId": "a", "Plaintext": base64(b"x"), "EncryptionAlgorithm": "ROT13" }),
                "Value 'ROT13' at 'encryptionAlgorithm'",
            ),
            ("Decrypt", json!({ "CiphertextBlob": base64(&[0; 6_145]) }), "ciphertextBlob"),
            (
                "Encrypt",
                json!({ "KeyId": "a", "Plaintext": base64(b"x"), "GrantTokens": vec!["x"; 11] }),
                "grantTokens",
            ),
            (
                "Decrypt",
                json!({ "CiphertextBlob": base64(b"x"), "GrantTokens": vec!["x"; 11] }),
                "grantTokens",
            ),
            (
                "ReEncrypt",
                json!({
                    "CiphertextBlob": base64(b"x"), "DestinationKeyId": "a", "GrantTokens": vec!["x"; 11],
                }),
                "grantTokens",
            ),
            (
                "GenerateDataKey",
                json!({ "KeyId": "a", "KeySpec": "AES_256", "GrantTokens": [""] }),
                "grantTokens",
            ),
            ("DescribeKey", json!({ "KeyId": "a", "GrantTokens": vec!["x"; 11] }), "grantTokens"),
            ("CreateKey", json!({ "Origin": "EXTERNAL_KEY_STORE" }), "Value null at 'customKeyStoreId'"),
            ("CreateCustomKeyStore", without("XksProxyUriPath"), "xksProxyUriPath"),
            ("CreateCustomKeyStore", without("XksProxyConnectivity"), "xksProxyConnectivity"),
            ("CreateCustomKeyStore", with("XksProxyConnectivity", "CABLE"), "'CABLE'"),
            ("CreateCustomKeyStore", with("XksProxyUriEndpoint", "http://a.example"), "xksProxyUriEndpoint"),
            ("CreateCustomKeyStore", with("XksProxyConnectivity", "VPC_ENDPOINT_SERVICE"), "ServiceName"),
        ] {
            // The rate of management calls is not what is tested: whoever is throttled asks again.
            let (status, class, message) = loop {
                let refusal = site.refused(operation, members.clone()).await;
                if refusal.1 != "ThrottlingException" {
                    break refusal;
                }
            };
            assert_eq!(
                (status, class.as_str()),
                (400, "ValidationException"),
                "{operation} {name}: {message}"
            );
            assert!(message.contains("1 validation error detected:") && message.contains(name), "{message}");
        }
        for (operation, members, expected) in [
            ("Encrypt", json!({ "KeyId": "a", "Plaintext": base64(b"x") }), "NotFoundException"),
            (
                "Encrypt",
                json!({ "KeyId": "a", "Plaintext": base64(b"x"), "EncryptionAlgorithm": "SM2PKE" }),
                "InvalidKeyUsageException",
            ),
            ("CreateKey", json!({}), "UnsupportedOperationException"),
            ("CreateCustomKeyStore", without("CustomKeyStoreType"), "UnsupportedOperationException"),
            (
                "Decrypt",
                json!({ "CiphertextBlob": base64(b"x"), "Recipient": { "KeyEncryptionAlgorithm": "x" } }),
                "UnsupportedOperationException",
            ),
        ] {
            assert_eq!(site.refused(operation, members).await.1, expected, "{operation}");
        }
    });
}

/// Five a second, of account and Region (kms-behaviour 3); SDKs try again.
#[test]
fn management_calls_have_their_rate() {
    really(async {
        let site = Site::new(settings()).await;
        let began = site.api.journal().now();
        let mut throttled = 0;
        for _ in 0..200 {
            let answer = site.call("DescribeCustomKeyStores", json!({})).await;
            if answer.status != 200 {
                let (status, class, message) = answer.failure();
                assert_eq!((status, class.as_str()), (400, "ThrottlingException"));
                assert_eq!(
                    message,
                    "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls."
                );
                throttled += 1;
            }
        }
        // A full bucket of five at first, and what has flowed in since.
        let passed = site.api.journal().now() - began;
        let most = 5.0 + 5.0 * passed.as_secs_f64();
        let served = f64::from(200 - throttled);
        assert!((5.0..=most).contains(&served), "{served} calls in {passed:?}");
    });
}
