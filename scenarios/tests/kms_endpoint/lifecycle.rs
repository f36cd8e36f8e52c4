//! Key stores, keys and aliases from creation to deletion.

use crate::proxy::Proxy;
use crate::site::{Site, base64, key_store, really, settings};
use scenarios::kms::lifecycle::{ConnectionErrorCode, ConnectionState};
use scenarios::kms::settings::{KmsSettings, VpcServiceFault};
use scenarios::kms_endpoint::server::Limits;
use serde_json::{Value, json};

#[test]
fn a_key_store_and_its_key_live_from_creation_to_deletion() {
    really(async {
        let site = Site::new(settings()).await;
        let created = site.ok("CreateCustomKeyStore", key_store(0)).await;
        let id = created["CustomKeyStoreId"].as_str().unwrap();
        assert_eq!(site.proxy.log.last().kms_operation.as_deref(), Some("CreateCustomKeyStore"));
        let store = json!({ "CustomKeyStoreId": id });
        let told = site.ok("DescribeCustomKeyStores", store.clone()).await;
        let entry = &told["CustomKeyStores"][0];
        assert_eq!(entry["ConnectionState"], "DISCONNECTED");
        assert_eq!(entry["XksProxyConfiguration"]["UriPath"], "/one/kms/xks/v1");
        assert!(
            entry["CreationDate"].as_f64().unwrap() > 1_700_000_000.0 && !told.to_string().contains("Raw")
        );
        assert_eq!(site.ok("ConnectCustomKeyStore", store.clone()).await, json!({}));
        site.settled(id, ConnectionState::Connected).await;
        assert_eq!(site.proxy.log.last().kms_operation.as_deref(), Some("ConnectCustomKeyStore"));

        let members = json!({
            "Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": id, "XksKeyId": "external-1",
            "Description": "the first", "Tags": [{ "TagKey": "a", "TagValue": "b" }], "Policy": "{}",
        });
        let key = site.ok("CreateKey", members.clone()).await["KeyMetadata"].clone();
        let arn = key["Arn"].as_str().unwrap();
        assert!(arn.starts_with("arn:aws:kms:us-east-1:111122223333:key/"), "{arn}");
        for (member, expected) in [
            ("AWSAccountId", json!("111122223333")),
            ("KeyState", json!("Enabled")),
            ("Enabled", json!(true)),
            ("Description", json!("the first")),
            ("Origin", json!("EXTERNAL_KEY_STORE")),
            ("CustomKeyStoreId", json!(id)),
            ("XksKeyConfiguration", json!({ "Id": "external-1" })),
            ("KeySpec", json!("SYMMETRIC_DEFAULT")),
            ("EncryptionAlgorithms", json!(["SYMMETRIC_DEFAULT"])),
            ("MultiRegion", json!(false)),
        ] {
            assert_eq!(key[member], expected, "{member}");
        }
        assert_eq!(site.refused("CreateKey", members).await.1, "XksKeyAlreadyInUseException");
        let absent = json!({
            "Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": id, "XksKeyId": "no-such-key",
        });
        assert_eq!(site.refused("CreateKey", absent).await.1, "XksKeyNotFoundException");

        let named = json!({ "KeyId": arn });
        let alias = json!({ "AliasName": "alias/first", "TargetKeyId": key["KeyId"] });
        site.ok("CreateAlias", alias.clone()).await;
        assert_eq!(site.refused("CreateAlias", alias).await.1, "AlreadyExistsException");
        let by_alias = site.ok("DescribeKey", json!({ "KeyId": "alias/first" })).await;
        assert_eq!(by_alias["KeyMetadata"], key);
        let aliases = site.ok("ListAliases", named.clone()).await;
        assert_eq!(aliases["Aliases"][0]["AliasName"], "alias/first");
        assert_eq!(aliases["Aliases"][0]["TargetKeyId"], key["KeyId"]);
        let keys = site.ok("ListKeys", json!({})).await;
        assert_eq!(keys, json!({ "Keys": [{ "KeyId": key["KeyId"], "KeyArn": arn }], "Truncated": false }));

        assert_eq!(site.ok("DisableKey", named.clone()).await, Value::Null);
        let plaintext = json!({ "KeyId": arn, "Plaintext": base64(b"x") });
        let refused = site.refused("Encrypt", plaintext.clone()).await;
        assert_eq!(refused, (400, "DisabledException".into(), format!("{arn} is disabled.")));
        site.ok("EnableKey", named.clone()).await;
        site.ok("Encrypt", plaintext.clone()).await;
        for (operation, class) in [
            ("GetKeyRotationStatus", "UnsupportedOperationException"),
            ("GenerateDataKeyPair", "UnsupportedOperationException"),
            ("CancelKeyDeletion", "KMSInvalidStateException"),
        ] {
            assert_eq!(site.refused(operation, named.clone()).await.1, class, "{operation}");
        }
        let scheduled =
            site.ok("ScheduleKeyDeletion", json!({ "KeyId": "alias/first", "PendingWindowInDays": 7 })).await;
        assert_eq!(scheduled["KeyId"], arn);
        assert_eq!(scheduled["KeyState"], "PendingDeletion");
        let described = site.ok("DescribeKey", named.clone()).await;
        assert_eq!(described["KeyMetadata"]["DeletionDate"], scheduled["DeletionDate"]);
        let waits = scheduled["DeletionDate"].as_f64().unwrap() - key["CreationDate"].as_f64().unwrap();
        assert!((7.0 * 86_400.0..7.1 * 86_400.0).contains(&waits), "{waits}");
        let refused = site.refused("Encrypt", plaintext.clone()).await;
        assert_eq!(refused, (400, "KMSInvalidStateException".into(), format!("{arn} is pending deletion.")));
        assert_eq!(site.ok("CancelKeyDeletion", named.clone()).await, json!({ "KeyId": arn }));
        site.ok("EnableKey", named.clone()).await;

        let heard = site.proxy.log.len();
        assert_eq!(site.ok("DisconnectCustomKeyStore", store.clone()).await, json!({}));
        let refused = site.refused("Encrypt", plaintext).await;
        assert!(
            refused.1 == "KMSInvalidStateException" && refused.2.contains("not connected"),
            "{refused:?}"
        );
        let described = site.ok("DescribeKey", named.clone()).await;
        assert_eq!(described["KeyMetadata"]["KeyState"], "Unavailable");
        let refused = site.refused("DeleteCustomKeyStore", store.clone()).await;
        assert_eq!(refused.1, "CustomKeyStoreHasCMKsException");
        assert_eq!(site.proxy.log.len(), heard, "a disconnected proxy hears nothing");
        site.ok("DeleteAlias", json!({ "AliasName": "alias/first" })).await;
        assert_eq!(
            site.refused("DescribeKey", json!({ "KeyId": "alias/first" })).await.1,
            "NotFoundException"
        );

        let other = site.store(1).await;
        site.ok("DisconnectCustomKeyStore", json!({ "CustomKeyStoreId": other })).await;
        site.ok("DeleteCustomKeyStore", json!({ "CustomKeyStoreId": other })).await;
        let refused = site.refused("ConnectCustomKeyStore", json!({ "CustomKeyStoreId": other })).await;
        assert_eq!(refused.1, "CustomKeyStoreNotFoundException");
    });
}

#[test]
fn lists_come_in_pages() {
    really(async {
        let site = Site::new(settings()).await;
        let store = site.store(0).await;
        let mut arns = Vec::new();
        for number in 0..3 {
            arns.push(site.key(&store, &format!("external-{number}")).await);
        }
        arns.sort();
        let first = site.ok("ListKeys", json!({ "Limit": 2 })).await;
        assert_eq!((&first["Truncated"], first["Keys"].as_array().unwrap().len()), (&json!(true), 2));
        let second = site.ok("ListKeys", json!({ "Limit": 2, "Marker": first["NextMarker"] })).await;
        assert_eq!(second["Truncated"], false);
        let pages = [&first, &second].map(|page| page["Keys"].as_array().unwrap().clone()).concat();
        let listed: Vec<_> = pages.iter().map(|key| key["KeyArn"].as_str().unwrap()).collect();
        assert_eq!(listed, arns);
        assert_eq!(site.refused("ListKeys", json!({ "Marker": "x" })).await.1, "InvalidMarkerException");
        assert_eq!(site.refused("ListKeys", json!({ "Limit": 1_001 })).await.1, "ValidationException");
        assert_eq!(site.refused("ListAliases", json!({ "Limit": -1 })).await.1, "ValidationException");
    });
}

#[test]
fn an_update_is_tried_on_the_proxy_first() {
    really(async {
        let site = Site::new(settings()).await;
        let id = site.store(0).await;
        let with = |member: &str, value: Value| {
            let mut members = json!({ "CustomKeyStoreId": id });
            members[member] = value;
            members
        };
        let wrong = json!({ "AccessKeyId": "A".repeat(20), "RawSecretAccessKey": "b".repeat(43) });
        let refused =
            site.refused("UpdateCustomKeyStore", with("XksProxyAuthenticationCredential", wrong)).await;
        assert_eq!(refused.1, "XksProxyIncorrectAuthenticationCredentialException", "{refused:?}");
        let path = with("XksProxyUriPath", json!("/two/kms/xks/v1"));
        assert_eq!(site.ok("UpdateCustomKeyStore", path).await, json!({}));
        let moved = with("XksProxyUriEndpoint", json!("https://other.example.com"));
        assert_eq!(
            site.refused("UpdateCustomKeyStore", moved).await.1,
            "CustomKeyStoreInvalidStateException"
        );
        let service = json!("com.amazonaws.vpce.us-east-1.vpce-svc-0e9a");
        let refused =
            site.refused("UpdateCustomKeyStore", with("XksProxyVpcEndpointServiceName", service)).await;
        assert!(refused.1 == "ValidationException" && refused.2.contains("Connectivity"), "{refused:?}");
        let told = site.ok("DescribeCustomKeyStores", json!({ "CustomKeyStoreName": "store 0" })).await;
        assert_eq!(told["CustomKeyStores"][0]["XksProxyConfiguration"]["UriPath"], "/two/kms/xks/v1");
    });
}

/// The certificate's name is neither the address nor the key store's endpoint: it is what `--tls-name` says.
#[test]
fn a_proxy_with_tls_is_reached_under_the_name_that_is_given() {
    really(async {
        for (name, reached) in [("proxy.internal", true), ("other.internal", false)] {
            let proxy = Proxy::start(Some("proxy.internal")).await;
            let site = Site::with(proxy, Some(name), settings(), Limits::default()).await;
            let answer = site.call("CreateCustomKeyStore", key_store(0)).await;
            if reached {
                assert_eq!(answer.status, 200, "{answer:?}");
            } else {
                let (_, class, message) = answer.failure();
                assert_eq!(class, "XksProxyUriUnreachableException");
                assert!(message.starts_with("AWS KMS cannot establish a TLS connection"), "{message}");
            }
        }
    });
}

#[test]
fn a_proxy_without_a_suite_that_kms_offers_is_one_without_tls() {
    use rustls::crypto::aws_lc_rs::cipher_suite as suite;
    really(async {
        for (suite, reached) in [
            (suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, true),
            (suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false),
        ] {
            let proxy = Proxy::with_one_suite("proxy.internal", suite).await;
            let site = Site::with(proxy, Some("proxy.internal"), settings(), Limits::default()).await;
            let answer = site.call("CreateCustomKeyStore", key_store(0)).await;
            if reached {
                assert_eq!(answer.status, 200, "{answer:?}");
            } else {
                let (_, class, message) = answer.failure();
                assert_eq!(class, "XksProxyUriUnreachableException");
                assert!(
                    message.starts_with("AWS KMS cannot establish a TLS connection"),
                    "row 15: {message}"
                );
            }
        }
    });
}

#[test]
fn a_vpc_endpoint_service_can_be_wrong_from_the_first_or_when_connected() {
    really(async {
        let mut vpc = key_store(0);
        vpc["XksProxyConnectivity"] = json!("VPC_ENDPOINT_SERVICE");
        vpc["XksProxyVpcEndpointServiceName"] = json!("com.amazonaws.vpce.us-east-1.vpce-svc-0e9a");
        for (vpc_service_fault, class) in [
            (VpcServiceFault::NotFound, "XksProxyVpcEndpointServiceNotFoundException"),
            (
                VpcServiceFault::InvalidConfiguration,
                "XksProxyVpcEndpointServiceInvalidConfigurationException",
            ),
        ] {
            let site = Site::new(KmsSettings { vpc_service_fault, ..settings() }).await;
            let refused = site.refused("CreateCustomKeyStore", vpc.clone()).await;
            assert_eq!((refused.0, refused.1.as_str()), (400, class));
        }
        let code = ConnectionErrorCode::XksVpcEndpointServiceNotFound;
        let site = Site::new(KmsSettings { connect_fault: Some(code), ..settings() }).await;
        let id = site.ok("CreateCustomKeyStore", vpc).await["CustomKeyStoreId"].clone();
        let store = json!({ "CustomKeyStoreId": id });
        site.ok("ConnectCustomKeyStore", store.clone()).await;
        site.settled(id.as_str().unwrap(), ConnectionState::Failed).await;
        let told = site.ok("DescribeCustomKeyStores", store).await;
        assert_eq!(told["CustomKeyStores"][0]["ConnectionErrorCode"], "XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND");
    });
}

#[test]
fn policies_grants_and_tags_are_kept_whatever_the_key_is_in() {
    really(async {
        let site = Site::new(settings()).await;
        let store = site.store(0).await;
        let members = json!({
            "Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": store, "XksKeyId": "external-1",
            "Tags": [{ "TagKey": "a", "TagValue": "1" }, { "TagKey": "b", "TagValue": "" }],
        });
        let key = site.ok("CreateKey", members).await["KeyMetadata"].clone();
        let named = json!({ "KeyId": key["KeyId"] });
        let with = |members: Value| {
            let mut all = named.clone();
            all.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
            all
        };
        let grant = with(json!({
            "GranteePrincipal": "arn:aws:iam::111122223333:role/app", "Operations": ["Decrypt", "RetireGrant"],
            "RetiringPrincipal": "arn:aws:iam::111122223333:role/admin", "Name": "grant",
            "Constraints": { "EncryptionContextEquals": { "a": "1" } },
        }));

        let policy = site.ok("GetKeyPolicy", named.clone()).await;
        assert_eq!(policy["PolicyName"], "default");
        let document: Value = serde_json::from_str(policy["Policy"].as_str().unwrap()).unwrap();
        assert_eq!(document["Statement"][0]["Principal"]["AWS"], "arn:aws:iam::111122223333:root");
        assert_eq!(site.ok("ListGrants", named.clone()).await, json!({ "Grants": [], "Truncated": false }));
        let created = site.ok("CreateGrant", grant.clone()).await;
        let again = site.ok("CreateGrant", grant.clone()).await;
        assert_eq!(
            (&again["GrantId"], created["GrantId"].as_str().unwrap().len()),
            (&created["GrantId"], 64)
        );
        assert_ne!(again["GrantToken"], created["GrantToken"], "a grant of the same name and terms");
        let dry = with(json!({ "GranteePrincipal": "a", "Operations": ["Encrypt"], "DryRun": true }));
        assert_eq!(site.refused("CreateGrant", dry).await.1, "DryRunOperationException");
        let tags = json!([{ "TagKey": "a", "TagValue": "1" }, { "TagKey": "b", "TagValue": "" }]);

        // Whatever the key's state is, but for a grant on a key that is disabled or pending deletion.
        for (change, grants_refused) in [
            (None, None),
            (Some("DisableKey"), Some("DisabledException")),
            (Some("ScheduleKeyDeletion"), Some("KMSInvalidStateException")),
            (Some("CancelKeyDeletion"), Some("DisabledException")),
            (Some("DisconnectCustomKeyStore"), None),
        ] {
            match change {
                Some("DisconnectCustomKeyStore") => {
                    site.ok("DisconnectCustomKeyStore", json!({ "CustomKeyStoreId": store })).await;
                }
                Some(operation) => {
                    site.ok(operation, named.clone()).await;
                }
                None => {}
            }
            let text = json!({ "Id": change }).to_string();
            assert_eq!(site.ok("PutKeyPolicy", with(json!({ "Policy": text }))).await, Value::Null);
            let policy = site.ok("GetKeyPolicy", with(json!({ "PolicyName": "default" }))).await;
            assert_eq!(policy, json!({ "Policy": text, "PolicyName": "default" }));
            let listed = site.ok("ListGrants", with(json!({ "GrantId": created["GrantId"] }))).await;
            assert_eq!(listed["Grants"].as_array().unwrap().len(), 1);
            let entry = &listed["Grants"][0];
            assert_eq!((&entry["KeyId"], &entry["GrantId"]), (&key["Arn"], &created["GrantId"]));
            assert_eq!(
                (&entry["Name"], &entry["RetiringPrincipal"]),
                (&grant["Name"], &grant["RetiringPrincipal"])
            );
            assert_eq!(entry["Operations"], json!(["Decrypt", "RetireGrant"]));
            assert_eq!(entry["Constraints"], json!({ "EncryptionContextEquals": { "a": "1" } }));
            assert_eq!(entry["IssuingAccount"], "arn:aws:iam::111122223333:root");
            assert!(entry["CreationDate"].as_f64().unwrap() > 1_700_000_000.0);
            let none = site.ok("ListGrants", with(json!({ "GranteePrincipal": "nobody" }))).await;
            assert_eq!(none["Grants"], json!([]));
            let listed = site.ok("ListResourceTags", named.clone()).await;
            assert_eq!(listed, json!({ "Tags": tags, "Truncated": false }));
            let more = with(json!({ "GranteePrincipal": "a", "Operations": ["Encrypt"] }));
            match grants_refused {
                None => {
                    site.ok("CreateGrant", more).await;
                }
                Some(class) => assert_eq!(site.refused("CreateGrant", more).await.1, class, "{change:?}"),
            }
        }
        let first = site.ok("ListGrants", with(json!({ "Limit": 2 }))).await;
        assert_eq!((&first["Truncated"], first["Grants"].as_array().unwrap().len()), (&json!(true), 2));
        let rest = site.ok("ListGrants", with(json!({ "Limit": 2, "Marker": first["NextMarker"] }))).await;
        assert_eq!((&rest["Truncated"], rest["Grants"].as_array().unwrap().len()), (&json!(false), 1));
    });
}

#[test]
fn policies_grants_and_tags_have_their_forms() {
    really(async {
        let site = Site::new(settings()).await;
        let store = site.store(0).await;
        let arn = site.key(&store, "external-1").await;
        for (operation, members, class) in [
            ("GetKeyPolicy", json!({}), "ValidationException"),
            ("GetKeyPolicy", json!({ "KeyId": "no-such-key" }), "NotFoundException"),
            ("GetKeyPolicy", json!({ "KeyId": arn, "PolicyName": "other" }), "NotFoundException"),
            ("PutKeyPolicy", json!({ "KeyId": arn }), "ValidationException"),
            ("PutKeyPolicy", json!({ "KeyId": arn, "Policy": "[]" }), "MalformedPolicyDocumentException"),
            ("PutKeyPolicy", json!({ "KeyId": arn, "Policy": " ".repeat(32_769) }), "LimitExceededException"),
            ("CreateGrant", json!({ "KeyId": arn, "Operations": ["Encrypt"] }), "ValidationException"),
            ("CreateGrant", json!({ "KeyId": arn, "GranteePrincipal": "a" }), "ValidationException"),
            (
                "CreateGrant",
                json!({ "KeyId": arn, "GranteePrincipal": "a", "Operations": [] }),
                "ValidationException",
            ),
            (
                "CreateGrant",
                json!({ "KeyId": arn, "GranteePrincipal": "a", "Operations": ["Sign"] }),
                "ValidationException",
            ),
            (
                "CreateGrant",
                json!({ "KeyId": arn, "GranteePrincipal": "a b", "Operations": ["Encrypt"] }),
                "ValidationException",
            ),
            ("ListGrants", json!({ "KeyId": "no-such-key" }), "NotFoundException"),
            ("ListGrants", json!({ "KeyId": arn, "Limit": 101 }), "ValidationException"),
            ("ListGrants", json!({ "KeyId": arn, "Marker": "x" }), "InvalidMarkerException"),
            ("ListResourceTags", json!({ "KeyId": arn, "Limit": 51 }), "ValidationException"),
        ] {
            assert_eq!(site.refused(operation, members.clone()).await.1, class, "{operation} {members}");
        }
        let tag = |key: &str| json!({ "TagKey": key, "TagValue": "x" });
        for (tags, class) in [
            (json!([tag("a"), tag("a")]), "TagException"),
            (json!([tag("")]), "ValidationException"),
            (json!([{ "TagKey": "a" }]), "ValidationException"),
        ] {
            let members = json!({
                "Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": store, "XksKeyId": "external-2", "Tags": tags,
            });
            assert_eq!(site.refused("CreateKey", members).await.1, class, "{tags}");
        }
    });
}
