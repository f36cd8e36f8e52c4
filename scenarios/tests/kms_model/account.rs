//! One account's management calls against scripted proxies: preconditions, uniqueness, rates, and the life of key
//! stores and keys from creation to deletion.

use crate::scripted::{Proxy, Reply};
use crate::support::{ACCESS_KEY_ID, BEGIN_SECS, CALLER, Pipes, SECRET, Tape, simulate};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use scenarios::kms::account::{
    Account, AccountDoors, Connectivity, Endpoints, KeyStoreUpdate, ProxyConfiguration, Which,
};
use scenarios::kms::client::{ClientTls, Dial};
use scenarios::kms::key::{KeyOperation, KeyState};
use scenarios::kms::lifecycle::{ConnectionErrorCode, ConnectionState};
use scenarios::kms::payload::OwnCall;
use scenarios::kms::settings::{KmsSettings, VpcServiceFault};
use scenarios::kms::{KmsApi, KmsException as E, KmsFailure, KmsOperation};
use scenarios::trace::Recorder;
use serde_json::json;
use std::rc::Rc;
use std::time::Duration;
use xks_proxy::env::UnixTime;
use xks_proxy::secret::{Plaintext, Secret};

const SYMMETRIC: (&str, &str, bool) = ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", false);
const NEW_ACCESS_KEY_ID: &str = "BETAWXOPQLAGCMTVZZZZ";
const DAY: Duration = Duration::from_secs(86_400);

/// An account whose key stores all reach the same scripted proxy, but for hosts under `unknown.example`.
pub(crate) struct Site {
    pub(crate) account: Account,
    pub(crate) proxy: Rc<Proxy>,
    pub(crate) pipes: Rc<Pipes>,
}

struct Names(Rc<Pipes>, Option<ClientTls>);

impl Endpoints for Names {
    fn open(&self, host: &str) -> Option<(Rc<dyn Dial>, Option<ClientTls>)> {
        (!host.ends_with("unknown.example")).then(|| (Rc::clone(&self.0) as Rc<dyn Dial>, self.1.clone()))
    }
}

pub(crate) fn site(settings: KmsSettings) -> Site {
    let proxy = Rc::new(Proxy::default());
    let server = Rc::clone(&proxy);
    let pipes = Pipes::new(move |stream| {
        let proxy = Rc::clone(&server);
        tokio::task::spawn_local(async move { proxy.run(stream).await });
    });
    let account = account(settings, Rc::clone(&pipes), None);
    Site { account, proxy, pipes }
}

/// The account alone, of a KMS that reaches every proxy through `pipes`.
pub(crate) fn account(settings: KmsSettings, pipes: Rc<Pipes>, tls: Option<ClientTls>) -> Account {
    let doors = AccountDoors {
        endpoints: Rc::new(Names(pipes, tls)),
        clock: Rc::new(|_host: usize, at: Duration| UnixTime(Duration::from_secs(BEGIN_SECS) + at)),
        recorder: Rc::new(Tape::new()) as Rc<dyn Recorder>,
        violations: Rc::default(),
    };
    let random = ChaCha20Rng::from_seed([9; 32]);
    Account::new("111122223333", "eu-west-1", settings, doors, random).unwrap()
}

pub(crate) fn public_proxy(path: &str) -> ProxyConfiguration {
    ProxyConfiguration {
        connectivity: Connectivity::PublicEndpoint,
        uri_endpoint: "https://proxy.example".into(),
        uri_path: format!("/{path}/kms/xks/v1"),
        access_key_id: ACCESS_KEY_ID.into(),
    }
}

fn vpc_proxy(service: &str, endpoint: &str) -> ProxyConfiguration {
    ProxyConfiguration {
        connectivity: Connectivity::VpcEndpointService {
            name: format!("com.amazonaws.vpce.eu-west-1.vpce-svc-{service}"),
            owner: Some("444455556666".into()),
        },
        uri_endpoint: format!("https://{endpoint}"),
        ..public_proxy("vpc")
    }
}

fn secret() -> Secret {
    Secret::new(SECRET.into())
}

fn class<T>(result: Result<T, KmsFailure>) -> Option<E> {
    result.err().map(|failure| failure.exception)
}

impl Site {
    /// After the management rates have filled up again.
    async fn create(&self, name: &str, proxy: ProxyConfiguration) -> Result<String, KmsFailure> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.account.create_custom_key_store(name, proxy, secret()).await
    }

    async fn connected(&self, name: &str) -> String {
        let id = self.create(name, public_proxy(name)).await.unwrap();
        self.account.connect_custom_key_store(&id).unwrap();
        tokio::time::sleep(Duration::from_secs(301)).await;
        id
    }

    fn state(&self, id: &str) -> (ConnectionState, Option<ConnectionErrorCode>) {
        self.account.key_store(id).unwrap().connection()
    }
}

#[test]
fn a_key_store_lives_from_creation_to_deletion() {
    simulate(async {
        let site = site(KmsSettings::default());
        let account = &site.account;
        let id = site.create("store", public_proxy("store")).await.unwrap();
        assert!(id.len() == 21 && id.starts_with("cks-"), "{id}");
        let seen = site.proxy.last();
        assert_eq!(seen.path, "/store/kms/xks/v1/health");
        assert_eq!(seen.body["requestMetadata"]["kmsOperation"], "CreateCustomKeyStore");
        assert_eq!(site.state(&id), (ConnectionState::Disconnected, None));
        let failure = account.create_key(&id, "key-1", SYMMETRIC, &CALLER).await.unwrap_err();
        assert_eq!((failure.exception, failure.row), (E::CustomKeyStoreInvalidState, 18));

        account.connect_custom_key_store(&id).unwrap();
        tokio::time::sleep(Duration::from_secs(299)).await;
        assert_eq!(site.state(&id), (ConnectionState::Connecting, None));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(site.state(&id), (ConnectionState::Connected, None));
        assert_eq!(site.proxy.last().body["requestMetadata"]["kmsOperation"], "ConnectCustomKeyStore");

        let key = account.create_key(&id, "key-1", SYMMETRIC, &CALLER).await.unwrap();
        assert_eq!((key.state, key.external_key_id.as_str()), (KeyState::Enabled, "key-1"));
        assert!(key.arn.starts_with("arn:aws:kms:eu-west-1:111122223333:key/"), "{}", key.arn);
        account.create_alias("alias/one", &key.id).unwrap();
        for name in [&key.id, &key.arn, "alias/one", "arn:aws:kms:eu-west-1:111122223333:alias/one"] {
            assert_eq!(account.describe_key(name).unwrap().id, key.id, "{name}");
        }
        let (kms, number) = account.resolve("alias/one").unwrap();
        let blob = kms.encrypt(KmsOperation::Encrypt, &CALLER).await.unwrap();
        kms.decrypt_under(number, &blob, &CALLER).await.unwrap();
        assert!(site.proxy.last().path.ends_with("/store/kms/xks/v1/keys/key-1/decrypt"));

        // Disconnected: the proxy hears nothing, DescribeKey goes on, and so do most calls on the key.
        let heard = site.proxy.heard();
        account.disconnect_custom_key_store(&id).unwrap();
        assert_eq!(site.state(&id).0, ConnectionState::Disconnecting);
        assert_eq!(kms.decrypt(&blob, &CALLER).await.unwrap_err().row, 18, "MA-24");
        assert_eq!(account.describe_key(&key.id).unwrap().state, KeyState::Unavailable);
        assert_eq!(account.admit_key(&key.id, KeyOperation::CreateGrant), Ok(()));
        account.disable_key(&key.id).unwrap();
        assert_eq!(class(account.delete_custom_key_store(&id)), Some(E::CustomKeyStoreInvalidState));
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(site.state(&id).0, ConnectionState::Disconnected);
        assert_eq!(class(account.delete_custom_key_store(&id)), Some(E::CustomKeyStoreHasCmks));
        let gone = account.schedule_key_deletion(&key.id, 7).unwrap();
        assert_eq!(account.describe_key(&key.id).unwrap().state, KeyState::PendingDeletion);
        assert_eq!(account.describe_key(&key.id).unwrap().deletion_at, Some(gone));
        assert_eq!(class(account.delete_custom_key_store(&id)), Some(E::CustomKeyStoreHasCmks));
        tokio::time::sleep(DAY * 7).await;
        assert_eq!(class(account.describe_key(&key.id)), Some(E::NotFound));
        account.delete_custom_key_store(&id).unwrap();
        assert_eq!(class(account.describe_key(&key.id)), Some(E::NotFound));
        assert_eq!(class(account.connect_custom_key_store(&id)), Some(E::CustomKeyStoreNotFound));
        assert_eq!(site.proxy.heard(), heard);
    });
}

#[test]
fn each_call_has_its_connection_states() {
    simulate(async {
        let site = site(KmsSettings::default());
        let account = &site.account;
        let id = site.connected("store").await;
        let moved = || KeyStoreUpdate {
            uri_endpoint: Some("https://elsewhere.example".into()),
            ..KeyStoreUpdate::default()
        };
        account.connect_custom_key_store(&id).unwrap();
        assert_eq!(site.state(&id).0, ConnectionState::Connected, "connecting twice changes nothing");
        let invalid = Some(E::CustomKeyStoreInvalidState);
        assert_eq!(class(account.update_custom_key_store(&id, moved()).await), invalid);
        assert_eq!(class(account.delete_custom_key_store(&id)), invalid);

        account.disconnect_custom_key_store(&id).unwrap();
        assert_eq!(class(account.disconnect_custom_key_store(&id)), invalid, "DISCONNECTING");
        assert_eq!(class(account.connect_custom_key_store(&id)), invalid, "DISCONNECTING");
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(class(account.disconnect_custom_key_store(&id)), invalid, "DISCONNECTED");
        account.update_custom_key_store(&id, moved()).await.unwrap();
        assert!(site.proxy.last().head.to_lowercase().contains("host: elsewhere.example"));

        // A connect fails; only a disconnect leads out.
        site.proxy
            .always(Reply::Answer(401, json!({"errorName": "AuthenticationFailedException"}).to_string()));
        account.connect_custom_key_store(&id).unwrap();
        tokio::time::sleep(Duration::from_secs(301)).await;
        assert_eq!(site.state(&id), (ConnectionState::Failed, Some(ConnectionErrorCode::InvalidCredentials)));
        site.proxy.always(Reply::Serve);
        assert_eq!(class(account.connect_custom_key_store(&id)), invalid, "FAILED");
        account.disconnect_custom_key_store(&id).unwrap();
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(site.state(&id), (ConnectionState::Disconnected, None));

        // A disconnect overtakes the connect before it.
        account.connect_custom_key_store(&id).unwrap();
        tokio::time::sleep(Duration::from_secs(200)).await;
        account.disconnect_custom_key_store(&id).unwrap();
        tokio::time::sleep(Duration::from_secs(301)).await;
        assert_eq!(site.state(&id), (ConnectionState::Disconnected, None));
        account.key_store(&id).unwrap().set_connect_fault(Some(ConnectionErrorCode::InternalError));
        account.connect_custom_key_store(&id).unwrap();
        tokio::time::sleep(Duration::from_secs(301)).await;
        assert_eq!(site.state(&id).1, Some(ConnectionErrorCode::InternalError));
    });
}

/// A host that still signs with the old credential has no say in a connect.
#[test]
fn a_connect_is_tried_with_the_credential_that_was_given_last() {
    simulate(async {
        let site = site(KmsSettings { connect_s: 2, ..KmsSettings::default() });
        let account = &site.account;
        let id = site.create("store", public_proxy("store")).await.unwrap();
        site.proxy.accept_only(NEW_ACCESS_KEY_ID);
        account.connect_custom_key_store(&id).unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(site.state(&id), (ConnectionState::Failed, Some(ConnectionErrorCode::InvalidCredentials)));
        account.disconnect_custom_key_store(&id).unwrap();
        tokio::time::sleep(Duration::from_secs(300)).await;
        let update = KeyStoreUpdate {
            credential: Some((NEW_ACCESS_KEY_ID.into(), secret())),
            ..KeyStoreUpdate::default()
        };
        account.update_custom_key_store(&id, update).await.unwrap();
        account.connect_custom_key_store(&id).unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(site.state(&id), (ConnectionState::Connected, None));
    });
}

#[test]
fn names_endpoints_paths_and_services_are_unique() {
    simulate(async {
        let site = site(KmsSettings::default());
        let refused = |result| class(result).map(E::as_str);
        site.create("public", public_proxy("a")).await.unwrap();
        site.create("same endpoint, other path", public_proxy("b")).await.unwrap();
        site.create("vpc", vpc_proxy("0a", "private.example")).await.unwrap();
        for (name, proxy, expected) in [
            ("public", public_proxy("c"), "CustomKeyStoreNameInUseException"),
            ("x", public_proxy("a"), "XksProxyUriInUseException"),
            ("x", vpc_proxy("0b", "proxy.example"), "XksProxyUriEndpointInUseException"),
            ("x", vpc_proxy("0b", "private.example"), "XksProxyUriEndpointInUseException"),
            ("x", vpc_proxy("0a", "other.example"), "XksProxyVpcEndpointServiceInUseException"),
            (
                "x",
                ProxyConfiguration { uri_endpoint: "https://private.example".into(), ..public_proxy("c") },
                "XksProxyUriEndpointInUseException",
            ),
            (
                "x",
                ProxyConfiguration { uri_path: "/kms/xks".into(), ..public_proxy("c") },
                "ValidationException",
            ),
            (
                "x",
                ProxyConfiguration { uri_endpoint: "https://a.unknown.example".into(), ..public_proxy("c") },
                "XksProxyUriUnreachableException",
            ),
        ] {
            let heard = site.proxy.heard();
            assert_eq!(refused(site.create(name, proxy).await), Some(expected));
            assert_eq!(site.proxy.heard(), heard, "{expected}: the proxy was asked for nothing");
        }
        for n in 4..=10 {
            site.create(&format!("store {n}"), public_proxy(&format!("path-{n}"))).await.unwrap();
        }
        assert_eq!(refused(site.create("x", public_proxy("x")).await), Some("LimitExceededException"));

        // Pages of them, and each alone.
        let account = &site.account;
        let (first, marker) = account.describe_custom_key_stores(Which::All, 7, None).unwrap();
        let (second, end) = account.describe_custom_key_stores(Which::All, 7, marker.as_deref()).unwrap();
        assert_eq!((first.len(), second.len(), end), (7, 3, None));
        let (one, _) = account.describe_custom_key_stores(Which::Name("vpc"), 1, None).unwrap();
        assert_eq!(one[0].proxy, vpc_proxy("0a", "private.example"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (same, _) = account.describe_custom_key_stores(Which::Id(&one[0].id), 1, None).unwrap();
        assert_eq!(same, one);
        for (which, limit, marker, expected) in [
            (Which::Name("none"), 1, None, E::CustomKeyStoreNotFound),
            (Which::All, 1, Some("cks-none"), E::InvalidMarker),
            (Which::All, 1_001, None, E::Validation),
        ] {
            assert_eq!(class(account.describe_custom_key_stores(which, limit, marker)), Some(expected));
        }
    });
}

#[test]
fn a_key_store_behind_a_vpc_is_first_tried_when_connected() {
    simulate(async {
        let site = site(KmsSettings::default());
        for (service, host, expected) in [
            ("0a", "private.example", (ConnectionState::Connected, None)),
            (
                "0b",
                "private.unknown.example",
                (ConnectionState::Failed, Some(ConnectionErrorCode::XksProxyNotReachable)),
            ),
        ] {
            let heard = site.proxy.heard();
            let id = site.create(service, vpc_proxy(service, host)).await.unwrap();
            assert_eq!(site.proxy.heard(), heard);
            site.account.connect_custom_key_store(&id).unwrap();
            tokio::time::sleep(Duration::from_secs(301)).await;
            assert_eq!(site.state(&id), expected);
        }
    });
}

#[test]
fn a_re_encrypt_between_two_key_stores_counts_once_in_the_account_and_once_in_each_store() {
    simulate(async {
        // With a quota of four in the account and two in each key store.
        for (account_quota_per_s, quota_per_s, passed) in [(4, 1_800, 4), (1_800, 2, 2)] {
            let site =
                site(KmsSettings { account_quota_per_s, quota_per_s, hosts: 1, ..KmsSettings::default() });
            let account = &site.account;
            let mut keys = Vec::new();
            for name in ["one", "two"] {
                let id = site.connected(name).await;
                keys.push(account.create_key(&id, "key-1", SYMMETRIC, &CALLER).await.unwrap().id);
            }
            let call = |operation| OwnCall { operation, context: b"{}", requester: (&CALLER).into() };
            let plaintext = Plaintext::new(b"x".to_vec());
            let encrypted = account.encrypt(&keys[0], &plaintext, call(KmsOperation::Encrypt)).await.unwrap();
            tokio::time::sleep(Duration::from_secs(2)).await;
            for _ in 0..passed {
                let to = (keys[1].as_str(), &b"{}"[..]);
                let call = call(KmsOperation::ReEncrypt);
                account.re_encrypt(None, &encrypted.blob, to, call).await.unwrap();
            }
            let to = (keys[1].as_str(), &b"{}"[..]);
            let next = account.re_encrypt(None, &encrypted.blob, to, call(KmsOperation::ReEncrypt)).await;
            assert_eq!(class(next), Some(E::Throttling), "MA-18");
        }
    });
}

#[test]
fn every_connect_ends_with_the_code_that_is_set() {
    simulate(async {
        for code in ConnectionErrorCode::ALL {
            let site = site(KmsSettings { connect_fault: Some(code), ..KmsSettings::default() });
            let public = site.connected("public").await;
            let failed = (ConnectionState::Failed, Some(code));
            let connected = (ConnectionState::Connected, None);
            assert_eq!(site.state(&public), if code.is_of_vpc() { connected } else { failed });
            let vpc = site.create("vpc", vpc_proxy("0a", "private.example")).await.unwrap();
            site.account.connect_custom_key_store(&vpc).unwrap();
            tokio::time::sleep(Duration::from_secs(301)).await;
            assert_eq!(site.state(&vpc), failed);
            // With a public endpoint it has no VPC endpoint service any more.
            site.account.disconnect_custom_key_store(&vpc).unwrap();
            tokio::time::sleep(Duration::from_secs(301)).await;
            let update = KeyStoreUpdate {
                uri_endpoint: Some("https://elsewhere.example".into()),
                connectivity: Some(Connectivity::PublicEndpoint),
                ..KeyStoreUpdate::default()
            };
            site.account.update_custom_key_store(&vpc, update).await.unwrap();
            site.account.connect_custom_key_store(&vpc).unwrap();
            tokio::time::sleep(Duration::from_secs(301)).await;
            assert_eq!(site.state(&vpc), if code.is_of_vpc() { connected } else { failed });
        }
    });
}

#[test]
fn a_vpc_endpoint_service_is_looked_at_before_it_is_taken() {
    simulate(async {
        for (vpc_service_fault, expected) in [
            (VpcServiceFault::None, None),
            (VpcServiceFault::NotFound, Some("XksProxyVpcEndpointServiceNotFoundException")),
            (
                VpcServiceFault::InvalidConfiguration,
                Some("XksProxyVpcEndpointServiceInvalidConfigurationException"),
            ),
        ] {
            let site = site(KmsSettings { vpc_service_fault, ..KmsSettings::default() });
            let id = site.create("public", public_proxy("a")).await.unwrap();
            let heard = site.proxy.heard();
            let created = site.create("vpc", vpc_proxy("0a", "private.example")).await;
            assert_eq!(class(created).map(E::as_str), expected);
            let ProxyConfiguration { connectivity, uri_endpoint, .. } = vpc_proxy("0b", "other.example");
            let update = KeyStoreUpdate {
                uri_endpoint: Some(uri_endpoint),
                connectivity: Some(connectivity),
                ..KeyStoreUpdate::default()
            };
            let updated = site.account.update_custom_key_store(&id, update).await;
            assert_eq!(class(updated).map(E::as_str), expected);
            assert_eq!(site.proxy.heard() > heard, expected.is_none(), "refused before the proxy is asked");
        }
    });
}

#[test]
fn a_new_name_alone_asks_the_proxy_nothing_unless_told_to() {
    simulate(async {
        for check_on_rename in [false, true] {
            let site = site(KmsSettings { check_on_rename, ..KmsSettings::default() });
            let id = site.connected("store").await;
            let rename = KeyStoreUpdate { name: Some("renamed".into()), ..KeyStoreUpdate::default() };
            let heard = site.proxy.heard();
            site.account.update_custom_key_store(&id, rename).await.unwrap();
            assert_eq!(site.proxy.heard() - heard, usize::from(check_on_rename), "MA-1");
            let (found, _) =
                site.account.describe_custom_key_stores(Which::Name("renamed"), 1, None).unwrap();
            assert_eq!(found[0].id, id);

            // Path and credential may change while connected, and are tried first.
            let update = || KeyStoreUpdate {
                uri_path: Some("/moved/kms/xks/v1".into()),
                credential: Some(("BETAWXOPQLAGCMTVZZZZ".into(), secret())),
                ..KeyStoreUpdate::default()
            };
            site.proxy
                .always(Reply::Answer(404, json!({"errorName": "InvalidUriPathException"}).to_string()));
            let refused = site.account.update_custom_key_store(&id, update()).await;
            assert_eq!(class(refused), Some(E::XksProxyInvalidConfiguration));
            site.proxy.always(Reply::Serve);
            site.account.update_custom_key_store(&id, update()).await.unwrap();
            let seen = site.proxy.last();
            assert_eq!(seen.path, "/moved/kms/xks/v1/health");
            assert_eq!(seen.body["requestMetadata"]["kmsOperation"], "UpdateCustomKeyStore");
            let (found, _) = site.account.describe_custom_key_stores(Which::Id(&id), 1, None).unwrap();
            assert_eq!(found[0].proxy.access_key_id, "BETAWXOPQLAGCMTVZZZZ");
        }
    });
}

#[test]
fn management_calls_have_rates() {
    simulate(async {
        let site = site(KmsSettings::default());
        let id = site.create("store", public_proxy("store")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let describe = || site.account.describe_custom_key_stores(Which::All, 1, None);
        for _ in 0..5 {
            describe().unwrap();
        }
        let failure = describe().unwrap_err();
        assert_eq!(failure.exception, E::Throttling);
        assert_eq!(
            failure.message,
            "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls."
        );
        // Each call has a rate of its own, and the key store's quota nothing to do with it.
        site.account.connect_custom_key_store(&id).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        describe().unwrap();
    });
}

#[test]
fn create_key_takes_what_kms_can_use() {
    simulate(async {
        let site = site(KmsSettings::default());
        let id = site.connected("store").await;
        let create = async |external: &str, kind| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            site.account.create_key(&id, external, kind, &CALLER).await
        };
        for kind in [
            ("RSA_2048", "ENCRYPT_DECRYPT", false),
            ("SYMMETRIC_DEFAULT", "SIGN_VERIFY", false),
            ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", true),
        ] {
            assert_eq!(class(create("key-1", kind).await), Some(E::UnsupportedOperation), "MA-3");
        }
        assert_eq!(class(create("key 1", SYMMETRIC).await), Some(E::Validation));
        for (spec, usage, status, message) in [
            (
                "RSA_2048",
                vec!["ENCRYPT", "DECRYPT"],
                "ENABLED",
                "The key spec of the external key must be AES_256. The key spec of specified external key is RSA_2048.",
            ),
            (
                "AES_256",
                vec!["ENCRYPT", "DECRYPT"],
                "DISABLED",
                "The status of the external key must be ENABLED. The status of specified external key is DISABLED.",
            ),
            (
                "AES_256",
                vec!["ENCRYPT", "SIGN"],
                "ENABLED",
                "The key usage of the external key must include ENCRYPT and DECRYPT. The key use of specified external key is ENCRYPT, SIGN.",
            ),
        ] {
            let answer = json!({"keySpec": spec, "keyUsage": usage, "keyStatus": status});
            site.proxy.always(Reply::Answer(200, answer.to_string()));
            let failure = create("key-1", SYMMETRIC).await.unwrap_err();
            assert_eq!(failure.exception, E::XksKeyInvalidConfiguration);
            assert_eq!(failure.message, message);
        }
        site.proxy.always(Reply::Serve);
        let key = create("key-1", SYMMETRIC).await.unwrap();
        assert_eq!(class(create("key-1", SYMMETRIC).await), Some(E::XksKeyAlreadyInUse));

        // What no key of such a store can do, whatever its state.
        for operation in [KeyOperation::Rotation, KeyOperation::DataKeyPair, KeyOperation::Replicate] {
            assert_eq!(class(site.account.admit_key(&key.id, operation)), Some(E::UnsupportedOperation));
        }
        assert_eq!(class(site.account.generate_random_in(&id)), Some(E::UnsupportedOperation));
        site.account.create_alias("alias/one", &key.id).unwrap();
        assert_eq!(class(site.account.create_alias("alias/one", &key.id)), Some(E::AlreadyExists));
        assert_eq!(class(site.account.create_alias("alias/aws/one", &key.id)), Some(E::InvalidAliasName));
        // A key that is gone frees its external key.
        site.account.schedule_key_deletion(&key.id, 7).unwrap();
        assert_eq!(class(site.account.create_alias("alias/two", &key.id)), Some(E::KmsInvalidState));
        site.account.cancel_key_deletion(&key.id).unwrap();
        assert_eq!(site.account.describe_key(&key.id).unwrap().state, KeyState::Disabled);
        site.account.enable_key(&key.id).unwrap();
        site.account.schedule_key_deletion(&key.id, 7).unwrap();
        assert_eq!(class(create("key-1", SYMMETRIC).await), Some(E::XksKeyAlreadyInUse));
        tokio::time::sleep(DAY * 7).await;
        create("key-1", SYMMETRIC).await.unwrap();
    });
}
