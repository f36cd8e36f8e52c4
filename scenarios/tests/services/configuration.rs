//! Configuration, images, clusters and client-side encryption against the reference: Secrets Manager (5.1), Parameter Store
//! (5.2), ECR (5.4), EKS (5.5), the Encryption SDK and its relatives (6).

use crate::scripted_kms::{DOWN, Fault, Run, cached, held, run};
use scenarios::kms::{KmsException, KmsOperation};
use scenarios::services::{
    Ecr, Eks, EncryptionSdk, HierarchicalKeyring, S3EncryptionClient, SecretsClient, SecretsManager,
    ServiceSettings, Ssm, Tier,
};

const HOUR_S: u64 = 3_600;
const DAY_S: u64 = 24 * HOUR_S;

fn secrets(client: SecretsClient) -> SecretsManager {
    SecretsManager { client, secrets: 2, fresh_share: 0.0, write_share: 0.0, ..SecretsManager::default() }
}

/// Section 5.1, MA-D26: at once, with DecryptionFailure; 500 and throttling as InternalServiceError.
#[test]
fn uncached_secrets_fail_at_once() {
    for (exception, code) in [
        (KmsException::KmsInvalidState, "DecryptionFailure (400)"),
        (KmsException::Disabled, "DecryptionFailure (400)"),
        (KmsException::KmsInternal, "InternalServiceError (500)"),
        (KmsException::Throttling, "InternalServiceError (500)"),
    ] {
        let settings = ServiceSettings::SecretsManager(secrets(SecretsClient::Uncached));
        let run = run(settings, 1, 60, &[(20..40, Fault::Fails(exception))]);
        assert_eq!(run.failed(20..40), run.during(20..40).count());
        assert!(run.failures(20..40).iter().all(|it| it.0 == code));
        assert_eq!(run.failed(0..20) + run.failed(44..60), 0);
    }
    let writes = SecretsManager { write_share: 1.0, ..secrets(SecretsClient::Uncached) };
    let run = run(ServiceSettings::SecretsManager(writes), 1, 60, &[(20..40, DOWN)]);
    assert!(run.failures(20..40).iter().all(|it| *it == ("EncryptionFailure (400)", 1)));
}

/// Section 5.1: the Lambda extension drops a value after at most 300 s.
#[test]
fn the_lambda_extension_carries_its_callers_for_300_seconds() {
    let settings = ServiceSettings::SecretsManager(secrets(SecretsClient::LambdaExtension));
    let run = run(settings, 2, 1_600, &[(500..1_100, DOWN)]);
    assert_eq!(run.failed(0..500), 0);
    assert!(run.count(600..610, cached) > 0);
    assert_eq!(run.failed(801..1_100), run.during(801..1_100).count());
    assert_eq!(run.failed(1_101..1_600), 0);
}

/// Section 5.1: Java keeps stale secrets, Python needs no key for a known version; what starts anew fails all the same.
#[test]
fn caching_libraries_carry_warm_processes_through_any_outage() {
    for client in [SecretsClient::JavaLibrary, SecretsClient::PythonLibrary] {
        let warm = SecretsManager { rate_per_s: 2.0, ..secrets(client) };
        let script = [(HOUR_S..30 * HOUR_S, DOWN)];
        let warm_run = run(ServiceSettings::SecretsManager(warm.clone()), 3, 31 * HOUR_S, &script);
        assert_eq!(warm_run.failed(0..31 * HOUR_S), 0, "{client:?}");
        let starting = SecretsManager { fresh_share: 0.1, ..warm };
        let starting = run(ServiceSettings::SecretsManager(starting), 3, 31 * HOUR_S, &script);
        let share =
            starting.failed(HOUR_S..30 * HOUR_S) as f64 / starting.during(HOUR_S..30 * HOUR_S).count() as f64;
        assert!((0.08..0.12).contains(&share), "{client:?}: {share}");
    }
}

/// Section 5.1: a rotation interrupted between setSecret and finishSecret outlives the outage.
#[test]
fn a_rotation_cut_in_two_is_left_for_a_human() {
    let rotating = SecretsManager {
        rotations_per_day: 10_000,
        rotation_step_s: 60,
        rate_per_s: 0.1,
        ..secrets(SecretsClient::Uncached)
    };
    let outage = run(ServiceSettings::SecretsManager(rotating.clone()), 4, 3_000, &[(1_000..2_000, DOWN)]);
    // One every 8.6 s, and the step that counts takes a minute.
    let half = outage.manual("between setSecret and finishSecret");
    assert!((3..=13).contains(&half), "{half}");
    let stopped = outage.became("rotation stopped half-way");
    assert!(stopped.iter().all(|at| (1_000..1_061).contains(&at.as_secs())), "{stopped:?}");
    let quiet = run(ServiceSettings::SecretsManager(rotating), 4, 3_000, &[]);
    assert_eq!(quiet.manual("setSecret"), 0);
}

/// Section 5.1: the Python library asks again when a secret has rotated.
#[test]
fn a_rotated_secret_is_new_to_the_python_library() {
    let settings =
        SecretsManager { rotations_per_day: 100, rate_per_s: 2.0, ..secrets(SecretsClient::PythonLibrary) };
    let run = run(ServiceSettings::SecretsManager(settings), 5, DAY_S / 2, &[]);
    let reads = run.count(60..DAY_S / 2, crate::scripted_kms::by_kms);
    // About 50 rotations, 8 readers each.
    assert!((250..=500).contains(&reads), "{reads}");
}

/// Section 5.2: one Decrypt for each parameter; InvalidKeyId at once; reads without decryption work; tasks do not start (MA-D27).
#[test]
fn secure_strings_fail_at_once_and_tasks_do_not_start() {
    let settings = Ssm {
        parameters_per_read: 3,
        task_start_share: 0.3,
        write_share: 0.1,
        plain_read_share: 0.5,
        ..Ssm::default()
    };
    let outage = run(ServiceSettings::Ssm(settings), 6, 300, &[(100..200, DOWN)]);
    let (plain, failed) = (outage.count(100..200, held), outage.failed(100..200));
    assert_eq!(plain + failed, outage.during(100..200).count());
    assert!(plain.abs_diff(600) < 120, "{plain}");
    let tasks =
        outage.failures(100..200).into_iter().filter(|it| it.0.starts_with("ResourceInitializationError"));
    let tasks = tasks.count();
    assert!(tasks.abs_diff(600) < 120, "{tasks}");
    let others = outage.failures(100..200).into_iter().filter(|it| *it == ("InvalidKeyId (400)", 1)).count();
    assert_eq!(tasks + others, failed);
    let decrypts = outage
        .calls
        .iter()
        .filter(|it| it.operation == KmsOperation::Decrypt && it.at.as_secs() < 100)
        .count();
    let reads = outage.count(1..100, crate::scripted_kms::by_kms);
    assert!(decrypts > reads * 2, "three for each read: {decrypts} for {reads}");
    assert!(outage.calls.iter().any(|it| it.operation == KmsOperation::Encrypt), "standard tier");

    let advanced = Ssm { tier: Tier::Advanced, write_share: 1.0, task_start_share: 0.0, ..Ssm::default() };
    let advanced = run(ServiceSettings::Ssm(advanced), 6, 30, &[]);
    assert!(advanced.calls.iter().all(|it| it.operation == KmsOperation::GenerateDataKey));
}

/// Section 5.4: l calls for a pull, l + 1 for a push; nodes with the image go on; MA-D30's error; orchestrators retry together.
#[test]
fn pulls_fail_at_once_and_are_repeated_by_the_orchestrator() {
    let settings = Ecr { rate_per_s: 1.0, push_share: 0.0, ..Ecr::default() };
    let outage = run(ServiceSettings::Ecr(settings), 7, 2_400, &[(600..1_200, DOWN)]);
    let code = "CannotPullContainerError: KMS.KMSInvalidStateException (400)";
    assert!(outage.failures(600..1_200).iter().all(|it| *it == (code, 1)));
    assert!(outage.count(600..1_200, held) > 200, "nodes that have the image");
    // About 300 pods; each repeats after 10, 30, 70, 150, 310, 610 s.
    let repeated = outage.failed(600..1_200);
    assert!((1_200..1_850).contains(&repeated), "{repeated}");
    // Each of them starts within 300 s of the key.
    let after = outage.count(1_200..1_520, crate::scripted_kms::by_kms);
    assert!((380..560).contains(&after), "300 that waited and 160 new ones: {after}");
    assert_eq!(outage.failed(1_201..2_400), 0);
    let (pulls, calls) = (outage.count(100..500, crate::scripted_kms::by_kms), outage.calls_during(100..500));
    assert!(calls.abs_diff(pulls * 15) <= 30, "{calls} calls for {pulls} pulls of 15 layers");

    let pushing = Ecr { push_share: 1.0, layers: 4, rate_per_s: 2.0, ..Ecr::default() };
    let pushing = run(ServiceSettings::Ecr(pushing), 7, 300, &[(100..200, DOWN)]);
    let code = "KmsException (400), kmsError KMSInvalidStateException";
    assert!(pushing.failures(100..200).iter().all(|it| *it == (code, 1)));
    let pushes = pushing.during(10..90).count();
    assert!(pushing.calls_during(10..90).abs_diff(pushes * 5) <= 10, "{pushes}");
}

fn eks_outage(settings: Eks) -> Run {
    run(ServiceSettings::Eks(settings), 8, 3_000, &[(1_000..2_000, DOWN)])
}

/// Section 5.5: 2a calls per 30 s; writes fail about 3 min after the onset, reads go on; automatic recovery.
#[test]
fn eks_writes_fail_after_three_minutes_and_reads_go_on() {
    let settings = Eks { api_servers: 3, restart_every_s: 31_536_000, ..Eks::default() };
    let run = eks_outage(settings);
    let probes = run.calls_during(100..1_000);
    assert!((174..=186).contains(&probes), "2 × 3 calls per 30 s: {probes}");
    let first = run.first_failure().as_secs() - 1_000;
    assert!((120..=182).contains(&first), "120 to 180 s after the onset: {first}");
    let failures = run.failures(1_185..2_000);
    let writes = failures.len() as f64 / run.during(1_185..2_000).count() as f64;
    assert!((0.09..0.11).contains(&writes), "every write and no read: {writes}");
    assert!(failures.iter().all(|it| it.0 == "Internal error (500): secrets: KMS plug-in is not healthy"));
    assert_eq!(run.failed(2_031..3_000), 0);
    assert!(run.became("health issue KmsKeyDisabled").is_empty(), "MA-D31");
}

/// Section 5.5: an API server that restarts cannot boot; MA-D31's switch; a disabled key is flagged at once.
#[test]
fn an_api_server_that_restarts_in_the_outage_does_not_come_up() {
    let settings = Eks { restart_every_s: 3_600, api_servers: 16, ..Eks::default() };
    let run = eks_outage(settings.clone());
    assert!(!run.became("API server cannot start").is_empty());
    assert!(
        run.failures(1_000..2_000).iter().any(|it| it.0 == "connection refused: API server cannot start")
    );
    assert_eq!(run.failed(2_031..3_000), 0);
    let flagged = eks_outage(Eks { raise_health_issue: true, ..settings.clone() });
    assert_eq!(flagged.became("health issue KmsKeyDisabled").len(), 1);
    // An outage begins with HTTP 500 (kms-behaviour 7.2); the issue is raised when the first 400 tells of the key.
    let flagging = ServiceSettings::Eks(Eks { raise_health_issue: true, ..settings.clone() });
    let script = [(1_000..1_100, Fault::Fails(KmsException::KmsInternal)), (1_100..1_200, DOWN)];
    let at = crate::scripted_kms::run(flagging, 8, 1_200, &script).became("health issue KmsKeyDisabled");
    assert!(at.len() == 1 && (1_100..=1_130).contains(&at[0].as_secs()), "{at:?}");
    let fault = Fault::Fails(KmsException::Disabled);
    let disabled =
        crate::scripted_kms::run(ServiceSettings::Eks(settings), 8, 1_200, &[(1_000..1_200, fault)]);
    let at = disabled.became("health issue KmsKeyDisabled");
    assert!(at.len() == 1 && at[0].as_secs() <= 1_030, "{at:?}");
}

/// Section 5.5: the key must return within 30 days.
#[test]
fn a_cluster_may_not_come_back_after_thirty_days() {
    let settings =
        Eks { rate_per_s: 0.01, probe_every_s: 600, api_servers: 1, status_poll_s: 600, ..Eks::default() };
    let outage = |days| {
        let script = [(HOUR_S..days * DAY_S, DOWN)];
        run(ServiceSettings::Eks(settings.clone()), 9, 31 * DAY_S, &script)
    };
    assert_eq!(outage(29).lost("clusters"), None);
    let (count, first_at) = outage(31).lost("clusters").unwrap();
    assert_eq!(count, 1);
    assert!((30 * DAY_S + HOUR_S..30 * DAY_S + HOUR_S + 1_201).contains(&first_at.as_secs()), "{first_at:?}");
}

/// Section 6: one call for each message, the raw exception, SDK retries of kms-behaviour 12.
#[test]
fn the_encryption_sdk_without_a_cache_fails_with_every_message() {
    for (exception, code, attempts) in [
        (KmsException::KmsInvalidState, "KMSInvalidStateException (400)", 1),
        (KmsException::KmsInternal, "KMSInternalException (500)", 3),
        (KmsException::Throttling, "ThrottlingException (400)", 3),
        (KmsException::Disabled, "DisabledException (400)", 1),
    ] {
        let settings = EncryptionSdk { rate_per_s: 5.0, ..EncryptionSdk::default() };
        let run = run(ServiceSettings::EncryptionSdk(settings), 10, 90, &[(60..80, Fault::Fails(exception))]);
        assert_eq!(run.calls_during(0..60), run.during(0..60).count());
        let failures = run.failures(60..80);
        assert_eq!(failures.len(), run.during(60..80).count());
        assert!(failures.iter().all(|it| it.0 == code));
        assert_eq!(failures[0].1, attempts);
    }
}

/// Section 6: with the caching CMM, onset is what is left of the maximum age; unseen messages fail at once; budgets of messages.
#[test]
fn the_caching_cmm_lasts_for_its_age_or_its_messages() {
    let aged = EncryptionSdk { rate_per_s: 50.0, max_age_s: 300, ..EncryptionSdk::default() };
    let outage = run(ServiceSettings::EncryptionSdk(aged.clone()), 11, 1_400, &[(500..1_100, DOWN)]);
    assert!(outage.first_failure().as_secs() <= 502, "unseen messages: {:?}", outage.first_failure());
    let share = outage.failed(500..520) as f64 / outage.during(500..520).count() as f64;
    assert!((0.07..0.3).contains(&share), "a tenth of all is unseen: {share}");
    assert_eq!(outage.failed(801..1_100), outage.during(801..1_100).count());

    let encrypting = EncryptionSdk { encrypt_share: 1.0, encryption_contexts: 1, ..aged };
    let unlimited = run(ServiceSettings::EncryptionSdk(encrypting.clone()), 11, 250, &[]).calls.len();
    assert!(unlimited <= 3, "{unlimited}");
    let budget = EncryptionSdk { max_messages: 100, ..encrypting };
    let limited = run(ServiceSettings::EncryptionSdk(budget), 11, 250, &[]);
    let expected = limited.requests.len() / 100;
    assert!(limited.calls.len().abs_diff(expected) <= 4, "{} and {expected}", limited.calls.len());
}

/// Section 6: one Decrypt for each branch key and TTL; refreshed 10 s early by one thread, which alone meets the failure.
#[test]
fn a_branch_key_lasts_for_its_ttl_and_is_refreshed_early_by_one_thread() {
    let settings = HierarchicalKeyring { branch_keys: 1, ..HierarchicalKeyring::default() };
    let quiet = run(ServiceSettings::HierarchicalKeyring(settings.clone()), 12, 7_000, &[]);
    let decrypts: Vec<u64> = quiet
        .calls
        .iter()
        .filter(|it| it.operation == KmsOperation::Decrypt)
        .map(|it| it.at.as_secs())
        .collect();
    assert!((11..=14).contains(&decrypts.len()), "{decrypts:?}");
    let gaps: Vec<u64> = decrypts.windows(2).skip(3).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (589..=592).contains(gap)), "10 s early: {gaps:?}");
    assert!(quiet.requests.len() > 300_000 && quiet.failed(0..7_000) == 0);

    // The outage begins just before the refresh.
    let refresh = decrypts[3];
    let script = [(refresh - 1..refresh + 300, DOWN)];
    let outage = run(ServiceSettings::HierarchicalKeyring(settings), 12, 7_000, &script);
    let early = outage.failures(refresh..refresh + 9);
    assert!((8..=10).contains(&early.len()), "one per second in the grace period: {}", early.len());
    assert!(outage.count(refresh..refresh + 9, cached) > 350, "all others are served");
    let after = outage.failed(refresh + 12..refresh + 300);
    assert_eq!(after, outage.during(refresh + 12..refresh + 300).count(), "then everyone fails");
    assert!(
        outage.failures(refresh..refresh + 300).iter().all(|it| it.0 == "KMSInvalidStateException (400)")
    );
}

/// Section 6: the table of branch keys under an XKS key is a second dependency in series.
#[test]
fn the_keyrings_table_may_depend_on_the_key_store_too() {
    let settings =
        HierarchicalKeyring { rate_per_s: 500.0, table_under_key: true, ..HierarchicalKeyring::default() };
    let run = run(ServiceSettings::HierarchicalKeyring(settings), 13, 2_000, &[(1_000..1_900, DOWN)]);
    let failures = run.failures(1_700..1_900);
    let table = "key store: ValidationException (400): KMS key disabled error";
    // Those that waited for another's refresh see why that one failed, as it does itself.
    assert!(failures.iter().any(|it| it.1 == 0), "nobody waited");
    assert!(failures.iter().all(|it| it.0 == table), "{failures:?}");
    assert_eq!(run.failed(1_901..2_000), 0);
}

/// Section 6, MA-D33: one call for each object, the exception wrapped.
#[test]
fn the_s3_encryption_client_fails_with_every_object() {
    let settings = ServiceSettings::S3EncryptionClient(S3EncryptionClient::default());
    let run = run(settings, 14, 60, &[(20..40, DOWN)]);
    assert_eq!(run.calls.len(), run.requests.len());
    assert_eq!(run.failed(20..40), run.during(20..40).count());
    let code = ("S3EncryptionClientException: KMSInvalidStateException (400)", 1);
    assert!(run.failures(20..40).iter().all(|it| *it == code));
    assert_eq!(run.failed(0..20) + run.failed(40..60), 0);
}

/// A service's figures do not depend on what it stands for, except in the words and counts of the report.
#[test]
fn what_one_caller_stands_for_scales_losses_and_words() {
    let told = |represents| {
        let settings = S3EncryptionClient { represents, ..S3EncryptionClient::default() };
        let settings = ServiceSettings::S3EncryptionClient(settings);
        let fault = Fault::FailsEvery(2, KmsException::KmsInvalidState);
        let run = run(settings.clone(), 15, 60, &[(20..40, fault)]);
        (run.requests.len(), run.narrative.kept_working, settings.assumptions())
    };
    let ((one, words, _), (thousand, scaled, assumptions)) = (told(1), told(1_000));
    assert_eq!(one, thousand);
    let number = |words: &str| words.split(' ').next().unwrap().replace(',', "").parse::<u64>().unwrap();
    assert_eq!(number(&words) * 1_000, number(&scaled), "{words} / {scaled}");
    assert!(assumptions.iter().any(|it| it.contains("each simulated request stands for 1,000")));
}
