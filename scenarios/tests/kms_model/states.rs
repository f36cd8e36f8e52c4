//! What befalls a key store while callers use it: keys disabled and deleted, calls on one of several keys, dry runs,
//! quotas, and the alarms that ring meanwhile.

use crate::scripted::{Reply, error, one_host, scripted};
use crate::support::{CALLER, OTHER_CALLER, World, simulate};
use scenarios::kms::alarms::AlarmName;
use scenarios::kms::cloudwatch::XksOperation;
use scenarios::kms::key::{KeyOperation, KeyState};
use scenarios::kms::settings::KmsSettings;
use scenarios::kms::{KmsApi, KmsException as E, KmsOperation};
use std::time::Duration;

const ARN: &str = "arn:aws:kms:us-east-1:123456789012:key/0";

async fn call(world: &World) -> Result<(), (E, String, u8)> {
    let result = world.kms.encrypt(KmsOperation::GenerateDataKey, &CALLER).await;
    result.map(|_| ()).map_err(|failure| (failure.exception, failure.message.into_owned(), failure.row))
}

#[test]
fn a_disabled_or_deleted_key_fails_before_the_proxy_and_leaves_the_others_alone() {
    simulate(async {
        let (world, proxy) = scripted(KmsSettings { propagation_ms: 0, ..one_host() });
        let blob = world.kms.encrypt(KmsOperation::Encrypt, &CALLER).await.unwrap();
        let heard = proxy.heard();
        world.kms.disable_key(0).unwrap();
        let disabled = (E::Disabled, format!("{ARN} is disabled."), 0);
        assert_eq!(call(&world).await, Err(disabled.clone()));
        assert_eq!(world.kms.decrypt(&blob, &CALLER).await.unwrap_err().exception, E::Disabled);
        assert_eq!(world.kms.key_state(0), Ok(KeyState::Disabled));
        assert_eq!(proxy.heard(), heard);
        world.kms.encrypt(KmsOperation::Encrypt, &OTHER_CALLER).await.unwrap();

        let gone = world.kms.schedule_key_deletion(0, 7).unwrap();
        let pending = (E::KmsInvalidState, format!("{ARN} is pending deletion."), 0);
        assert_eq!(call(&world).await, Err(pending.clone()));
        assert_eq!(world.kms.enable_key(0).unwrap_err().exception, E::KmsInvalidState);
        // A key pending deletion stays so through a disconnect; every other is Unavailable, be it disabled or not.
        world.kms.disconnect().unwrap();
        assert_eq!(call(&world).await, Err(pending));
        let other = world.kms.encrypt(KmsOperation::Encrypt, &OTHER_CALLER).await.unwrap_err();
        assert_eq!(other.row, 18);
        world.kms.cancel_key_deletion(0).unwrap();
        assert_eq!(call(&world).await.unwrap_err().2, 18, "MA-15");
        assert_eq!(world.kms.key_state(0), Ok(KeyState::Unavailable));
        assert_eq!(world.kms.admit_key(0, KeyOperation::CreateGrant), Ok(()));
        // The key's own state is back with the connection.
        world.kms.set_connected(true);
        assert_eq!(call(&world).await, Err(disabled));
        assert_eq!(world.kms.admit_key(0, KeyOperation::CreateGrant).unwrap_err().exception, E::Disabled);
        world.kms.disconnect().unwrap();
        world.kms.enable_key(0).unwrap();
        tokio::time::sleep(Duration::from_secs(300)).await;
        world.kms.connect().unwrap();
        tokio::time::sleep(Duration::from_secs(301)).await;
        assert_eq!(call(&world).await, Ok(()));
        world.kms.set_connected(false);
        assert_eq!(call(&world).await.unwrap_err().2, 18);
        world.kms.set_connected(true);
        assert_eq!(call(&world).await, Ok(()), "at once");

        world.kms.schedule_key_deletion(0, 7).unwrap();
        tokio::time::sleep(gone).await;
        let missing = (E::NotFound, format!("Key '{ARN}' does not exist"), 0);
        assert_eq!(call(&world).await, Err(missing));
    });
}

#[test]
fn a_disabled_key_works_on_until_every_host_has_heard() {
    simulate(async {
        let (world, _proxy) = scripted(KmsSettings { hosts: 9, ..one_host() });
        world.kms.disable_key(0).unwrap();
        let mut failed = [0; 4];
        for second in &mut failed {
            for _ in 0..100 {
                *second += u32::from(call(&world).await.is_err());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert!(failed[0] < failed[1] && failed[1] < failed[2] && failed[2] < 100, "{failed:?}");
        assert_eq!(failed[3], 100);
    });
}

#[test]
fn a_disconnect_reaches_the_hosts_one_after_another_where_told_to() {
    simulate(async {
        for (connection_propagation_ms, at_once) in [(0, true), (3_000, false)] {
            let settings = KmsSettings { hosts: 3, connection_propagation_ms, ..one_host() };
            let (world, _proxy) = scripted(settings);
            world.kms.disconnect().unwrap();
            let mut served = [0; 4];
            for second in &mut served {
                for _ in 0..100 {
                    *second += u32::from(call(&world).await.is_ok());
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            if at_once {
                assert_eq!(served, [0; 4], "MA-25");
            } else {
                assert!(served[0] == 100 && served[1] > served[2] && served[2] > 0, "{served:?}");
                assert_eq!(served[3], 0);
            }
        }
    });
}

#[test]
fn another_context_is_refused_by_the_proxy_or_by_kms_itself() {
    simulate(async {
        for context_in_aad in [true, false] {
            let (world, proxy) = scripted(KmsSettings { context_in_aad, ..one_host() });
            let blob = world.kms.encrypt(KmsOperation::Encrypt, &CALLER).await.unwrap();
            world.kms.decrypt(&blob, &CALLER).await.unwrap();
            let heard = proxy.heard();
            let failure = world.kms.decrypt(&blob, &OTHER_CALLER).await.unwrap_err();
            let expected = if context_in_aad { (E::KmsInvalidState, 3) } else { (E::InvalidCiphertext, 0) };
            assert_eq!((failure.exception, failure.row), expected, "MA-8");
            assert_eq!(proxy.heard() - heard, usize::from(context_in_aad));
        }
    });
}

#[test]
fn re_encrypt_calls_the_proxy_twice_and_the_quota_once() {
    simulate(async {
        let (world, proxy) = scripted(KmsSettings { quota_per_s: 2, ..one_host() });
        let blob = world.kms.encrypt(KmsOperation::Encrypt, &CALLER).await.unwrap();
        let moved = world.kms.re_encrypt(&blob, 1, &CALLER).await.unwrap();
        assert_eq!(world.kms.re_encrypt(&blob, 1, &CALLER).await.unwrap_err().exception, E::Throttling);
        let seen = proxy.seen();
        let paths: Vec<_> = seen.iter().map(|seen| seen.path.rsplit("v1/").next().unwrap()).collect();
        assert_eq!(paths, ["keys/key-0/encrypt", "keys/key-0/decrypt", "keys/key-1/encrypt"]);
        for seen in &seen[1..] {
            assert_eq!(seen.body["requestMetadata"]["kmsOperation"], "ReEncrypt");
            assert!(seen.body["ciphertextDataIntegrityValueAlgorithm"].is_null(), "MA-6");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.kms.decrypt_under(1, &moved, &CALLER).await.unwrap();
        let failure = world.kms.decrypt_under(0, &moved, &CALLER).await.unwrap_err();
        assert_eq!(failure.exception, E::IncorrectKey);

        // Each half has the whole patience (MA-4).
        let (world, proxy) = scripted(one_host());
        let blob = world.kms.encrypt(KmsOperation::Encrypt, &CALLER).await.unwrap();
        proxy.always(Reply::ServeLate(Duration::from_millis(240)));
        world.kms.re_encrypt(&blob, 1, &CALLER).await.unwrap();
        assert_eq!(world.tape.kms().last().unwrap().took, Duration::from_millis(480));
    });
}

#[test]
fn a_dry_run_never_reaches_the_proxy() {
    simulate(async {
        let (world, proxy) = scripted(KmsSettings { propagation_ms: 0, ..one_host() });
        let dry = |key| world.kms.dry_run(KmsOperation::Decrypt, key).unwrap_err().exception;
        assert_eq!(dry(0), E::DryRunOperation);
        assert_eq!(dry(2), E::NotFound);
        world.kms.disable_key(0).unwrap();
        assert_eq!((dry(0), dry(1)), (E::Disabled, E::DryRunOperation));
        world.kms.disconnect().unwrap();
        assert_eq!(dry(1), E::KmsInvalidState);
        assert_eq!(proxy.heard(), 0);
    });
}

#[test]
fn the_account_has_a_quota_too_and_both_can_change() {
    simulate(async {
        let (world, _proxy) = scripted(KmsSettings { account_quota_per_s: 3, ..one_host() });
        for _ in 0..3 {
            call(&world).await.unwrap();
        }
        assert_eq!(call(&world).await.unwrap_err().0, E::Throttling);
        // CloudWatch's metric counts what the key store's own quota rejects.
        assert!(world.kms.cloudwatch().throttled().is_empty());

        let (world, proxy) = scripted(one_host());
        world.kms.set_quota(2);
        assert!(call(&world).await.is_ok() && call(&world).await.is_ok());
        assert_eq!(call(&world).await.unwrap_err().2, 20);
        assert_eq!((proxy.heard(), world.kms.cloudwatch().throttled()["GenerateDataKey"]), (2, 1));
        assert_eq!(world.kms.cloudwatch().total().throttled, 1);
    });
}

#[test]
fn every_call_is_in_the_metrics_and_a_failing_proxy_rings() {
    simulate(async {
        let (world, proxy) = scripted(one_host());
        let spans = |name| {
            let alarms = world.kms.alarms();
            alarms.iter().find(|alarm| alarm.name == name).unwrap().spans.clone()
        };
        let s = Duration::from_secs;
        let blob = world.kms.encrypt(KmsOperation::GenerateDataKey, &CALLER).await.unwrap();
        world.kms.decrypt(&blob, &CALLER).await.unwrap();
        world.kms.check_health("KmsHealthCheck").await.unwrap();
        tokio::time::sleep(s(90)).await;
        proxy.always(error(500, "InternalException"));
        for _ in 0..6 {
            call(&world).await.unwrap_err();
        }
        proxy.always(error(401, "AuthenticationFailedException"));
        for _ in 0..5 {
            call(&world).await.unwrap_err();
        }
        tokio::time::sleep(s(29)).await;
        assert_eq!(spans(AlarmName::RetryableErrors), []);
        tokio::time::sleep(s(1)).await;
        assert_eq!(spans(AlarmName::RetryableErrors), [(s(120), None)], "30 s after the fault began");
        proxy.always(Reply::Silence);
        for _ in 0..4 {
            call(&world).await.unwrap_err();
        }
        tokio::time::sleep(s(200)).await;
        assert_eq!(spans(AlarmName::RetryableErrors), [(s(120), Some(s(180)))]);
        assert_eq!(spans(AlarmName::NonRetryableErrors), []);
        assert_eq!(spans(AlarmName::SlowProxy), [], "four calls in sixteen take 250 ms: 63 ms on average");

        let cloudwatch = world.kms.cloudwatch();
        let total = cloudwatch.total();
        assert_eq!((total.latency.samples, total.retryable, total.non_retryable), (18, 10, 5));
        assert_eq!(
            cloudwatch.top_exceptions(2),
            [("InternalException", 6), ("AuthenticationFailedException", 5)]
        );
        let kinds: Vec<_> =
            cloudwatch.operations().iter().map(|it| (it.kms_operation, it.xks_operation)).collect();
        assert_eq!(
            kinds,
            [
                ("GenerateDataKey", XksOperation::Encrypt),
                ("Decrypt", XksOperation::Decrypt),
                ("KmsHealthCheck", XksOperation::GetHealthStatus),
            ]
        );
        assert_eq!(cloudwatch.successful()[&(0, KmsOperation::GenerateDataKey)], 1);
        assert_eq!(cloudwatch.successful()[&(0, KmsOperation::Decrypt)], 1);
        let reliability = total.reliability();
        assert!((reliability - 8.0 / 18.0).abs() < 1e-9, "{reliability}");
    });
}
