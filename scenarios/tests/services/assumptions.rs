//! Each modelling assumption about services that is a number or a choice is a setting, and the setting changes what happens
//! (downstream-services 11).

use crate::scripted_kms::{DOWN, Fault, Run, by_kms, cached, held, run};
use scenarios::kms::{KmsException, KmsOperation};
use scenarios::services::{
    Ebs, Ec2Launch, Ecr, Kinesis, PullError, S3, S3BucketKeys, S3EncryptionClient, ServiceSettings, ShownAs,
    Sns, Sqs, Ssm, TaskError,
};
use std::collections::BTreeSet;

const INTERNAL: Fault = Fault::Fails(KmsException::KmsInternal);
const THROTTLED: Fault = Fault::Fails(KmsException::Throttling);

/// The settings of a kind with these lines of a scenario file.
fn settings(kind: &str, lines: &str) -> ServiceSettings {
    let table = toml::de::Deserializer::parse(lines).unwrap();
    let settings = ServiceSettings::deserialize_kind(kind, table).unwrap();
    settings.check().unwrap();
    settings
}

fn seen(run: &Run, s: std::ops::Range<u64>) -> BTreeSet<&'static str> {
    run.failures(s).into_iter().map(|(visible, _)| visible).collect()
}

/// MA-D3: three attempts on 500 and throttling by default, none on 400, and as many as the setting says.
#[test]
fn services_try_kms_as_often_as_they_are_told() {
    for (kind, own) in [("s3", ""), ("ssm", ""), ("rds", "start_share = 1\n"), ("encryption-sdk", "")] {
        for attempts_max in [1, 3, 5] {
            let lines = format!("{own}rate_per_s = 2\nkms_attempts_max = {attempts_max}");
            let first = |fault| run(settings(kind, &lines), 1, 60, &[(20..40, fault)]).failures(20..40)[0].1;
            assert_eq!(first(INTERNAL), attempts_max, "{kind}");
            assert_eq!(first(THROTTLED), attempts_max, "{kind}");
            assert_eq!(first(DOWN), 1, "{kind}: 400 is not retried");
        }
        let told = settings(kind, "kms_attempts_max = 5").assumptions();
        assert!(told.iter().any(|it| it.starts_with("MA-D3: ") && it.contains("tried 5 times")), "{told:?}");
    }
}

/// MA-D1, MA-D4, MA-D13, MA-D17, MA-D26: which of a service's own codes stands for which answer of KMS.
#[test]
fn each_answer_of_kms_can_be_shown_as_another_code() {
    for (kind, usual, other) in [
        ("s3", "KMS.KMSInvalidStateException (400)", "ServiceUnavailable (503)"),
        ("dynamodb", "ValidationException (400): KMS key disabled error", "InternalServerError (500)"),
        ("secrets-manager", "DecryptionFailure (400)", "InternalServiceError (500)"),
        ("sqs", "KMS.InvalidStateException (KmsInvalidState, 400)", "InternalFailure (500)"),
        ("lambda", "KMSInvalidStateException (502)", "ServiceException (500)"),
    ] {
        let codes = |lines: &str, fault| {
            let quick = match kind {
                "dynamodb" => "ttl_s = 1\nttl_spread_s = 1\n",
                "sqs" => "kms_data_key_reuse_period_s = 60\nsqs_extend_on_500 = false\n",
                "lambda" => "fresh_share = 1\n",
                "secrets-manager" => "write_share = 0\n",
                _ => "",
            };
            seen(&run(settings(kind, &format!("{quick}{lines}")), 2, 200, &[(100..200, fault)]), 165..200)
        };
        assert_eq!(codes("", DOWN), BTreeSet::from([usual]), "{kind}");
        assert_eq!(codes("on_400 = \"internal\"", DOWN), BTreeSet::from([other]), "{kind}");
        assert_eq!(codes("", INTERNAL), BTreeSet::from([other]), "{kind}");
        assert_eq!(codes("on_500 = \"invalid-state\"", INTERNAL), BTreeSet::from([usual]), "{kind}");
        assert_eq!(codes("on_throttle = \"invalid-state\"", THROTTLED), BTreeSet::from([usual]), "{kind}");
    }
    let told = S3 { on_500: ShownAs::InvalidState, ..S3::default() };
    let told = ServiceSettings::S3(told).assumptions();
    assert!(told.iter().any(|it| it.contains("500 (MA-D4) shows as a key in an invalid state")), "{told:?}");
}

/// Sections 3.1, 4 and 5.3: a key that is gone has a code of its own.
#[test]
fn a_deleted_key_has_a_code_of_its_own() {
    for (settings, code) in [
        (ServiceSettings::S3(S3::default()), "KMS.NotFoundException (400)"),
        (ServiceSettings::Sqs(Sqs::default()), "KMS.NotFoundException (KmsNotFound, 400)"),
        (ServiceSettings::Sns(Sns::default()), "KMSNotFound (400)"),
        (ServiceSettings::Kinesis(Kinesis::default()), "KMSNotFoundException (400)"),
    ] {
        let run = run(settings, 3, 500, &[(100..500, Fault::Fails(KmsException::NotFound))]);
        assert_eq!(seen(&run, 450..500), BTreeSet::from([code]));
    }
}

/// MA-D8: snapshots of attached volumes go on, unless they need KMS.
#[test]
fn snapshots_of_attached_volumes_go_on() {
    let ebs = |snapshots_need_key| {
        let ebs = Ebs { snapshot_share: 0.5, attach_share: 0.0, snapshots_need_key, ..Ebs::default() };
        run(ServiceSettings::Ebs(ebs), 4, 300, &[(100..200, DOWN)])
    };
    let usual = ebs(false);
    assert_eq!((usual.failed(0..300), usual.count(100..200, held)), (0, usual.during(100..200).count()));
    let needing = ebs(true);
    assert_eq!(seen(&needing, 100..200), BTreeSet::from(["EBS createSnapshot failed"]));
    let share = needing.failed(100..200) as f64 / needing.during(100..200).count() as f64;
    assert!((0.45..0.55).contains(&share), "{share}");
    assert_eq!(needing.failed(201..300), 0);
}

/// Section 2.2 and MA-D9: a reboot keeps the host and needs no key; a start needs one Decrypt for each volume, and leaves the
/// instance stopped when it fails.
#[test]
fn reboots_go_on_and_starts_leave_the_instance_stopped() {
    let settings = Ec2Launch { rate_per_s: 5.0, start_share: 0.3, reboot_share: 0.6, ..Ec2Launch::default() };
    let usual = run(ServiceSettings::Ec2Launch(settings.clone()), 5, 300, &[(100..200, DOWN)]);
    let share = usual.count(100..200, held) as f64 / usual.during(100..200).count() as f64;
    assert!((0.52..0.68).contains(&share), "every reboot: {share}");
    let code = "Client.InternalError: Client error on launch";
    assert_eq!(seen(&usual, 100..200), BTreeSet::from([code]));
    let failed = usual.failed(100..200) as u64;
    let stopped = usual.manual("went back to stopped");
    assert!((failed * 6 / 10..failed * 9 / 10).contains(&stopped), "starts among {failed}: {stopped}");
    assert_eq!(usual.became("missing").len() as u64, failed - stopped, "the others are launches");

    let starting =
        Ec2Launch { start_share: 1.0, reboot_share: 0.0, volumes_per_launch: 3, ..settings.clone() };
    let starting = run(ServiceSettings::Ec2Launch(starting), 5, 100, &[]);
    let starts = starting.count(10..90, by_kms);
    let decrypts = starting
        .calls
        .iter()
        .filter(|it| it.operation == KmsOperation::Decrypt && (10..90).contains(&it.at.as_secs()));
    assert!(decrypts.count().abs_diff(starts * 3) <= 3, "{starts}");

    let needing = Ec2Launch { reboots_need_key: true, ..settings.clone() };
    let needing = run(ServiceSettings::Ec2Launch(needing), 5, 300, &[(100..200, DOWN)]);
    assert_eq!(needing.failed(100..200), needing.during(100..200).count());

    let named = Ec2Launch { key_named_share: 1.0, ..settings };
    let named = run(ServiceSettings::Ec2Launch(named), 5, 300, &[(100..200, DOWN)]);
    let code = "Client.InvalidKMSKey.InvalidState: The KMS key provided is in an incorrect state";
    assert_eq!(seen(&named, 100..200), BTreeSet::from([code]));
}

/// MA-D12: HEAD, and what a multipart upload costs.
#[test]
fn heads_and_uploads_cost_what_is_set() {
    let heads = |head_needs_key| {
        let s3 = S3 { head_share: 1.0, head_needs_key, ..S3::default() };
        run(ServiceSettings::S3(s3), 6, 60, &[(20..40, DOWN)])
    };
    assert_eq!(heads(false).failed(0..60), 0);
    let needing = heads(true);
    assert_eq!(needing.failed(20..40), needing.during(20..40).count());
    for (decrypts_per_part, decrypts_per_completion, expected) in [(1, 1, 7), (0, 1, 2), (2, 0, 11)] {
        let s3 = S3 {
            multipart_share: 1.0,
            multipart_parts: 5,
            write_share: 1.0,
            rate_per_s: 5.0,
            ..S3::default()
        };
        let s3 = S3 { decrypts_per_part, decrypts_per_completion, ..s3 };
        let run = run(ServiceSettings::S3(s3), 6, 100, &[]);
        let uploads = run.count(10..90, by_kms);
        assert!(run.calls_during(10..90).abs_diff(uploads * expected) <= 2 * expected, "{uploads}");
    }
}

/// MA-D24: consumers that are no Kinesis Client Library may stop at the first KMS error and stay so.
#[test]
fn consumers_that_stop_wait_for_someone() {
    let kinesis = |consumers_stop| {
        let kinesis = Kinesis { consumers_stop, streams: 2, consumers: 3, ..Kinesis::default() };
        run(ServiceSettings::Kinesis(kinesis), 7, 1_500, &[(500..900, DOWN)])
    };
    let stopping = kinesis(true);
    assert_eq!(stopping.manual("consumers to start again"), 6);
    let code = "consumer stopped: KMS error is fatal";
    assert_eq!(seen(&stopping, 1_000..1_500), BTreeSet::from([code]));
    let usual = kinesis(false);
    assert_eq!((usual.manual("consumers"), usual.failed(1_250..1_500)), (0, 0));
}

/// MA-D27: a task that cannot read its parameters.
#[test]
fn tasks_show_the_error_that_is_set() {
    for (task_error, code) in [
        (TaskError::ResourceInitialization, "ResourceInitializationError (ECS task stopped)"),
        (TaskError::ParameterStore, "InvalidKeyId (400)"),
    ] {
        let ssm = Ssm { task_error, task_start_share: 1.0, write_share: 0.0, ..Ssm::default() };
        let run = run(ServiceSettings::Ssm(ssm), 8, 60, &[(20..40, DOWN)]);
        assert_eq!(seen(&run, 20..40), BTreeSet::from([code]));
    }
}

/// MA-D30: a failed pull.
#[test]
fn pulls_show_the_error_that_is_set() {
    for (pull_error, code) in [
        (PullError::S3, "CannotPullContainerError: KMS.KMSInvalidStateException (400)"),
        (PullError::Ecr, "CannotPullContainerError: KmsException (400), kmsError KMSInvalidStateException"),
    ] {
        let ecr = Ecr { pull_error, push_share: 0.0, ..Ecr::default() };
        let run = run(ServiceSettings::Ecr(ecr), 9, 200, &[(100..200, DOWN)]);
        assert_eq!(seen(&run, 100..200), BTreeSet::from([code]));
    }
}

/// MA-D33: a client with a cache goes on reading what it knows.
#[test]
fn an_encryption_client_with_a_cache_reads_on() {
    let client = |cache_ttl_s| {
        let client =
            S3EncryptionClient { cache_ttl_s, objects: 5, write_share: 0.0, ..S3EncryptionClient::default() };
        run(ServiceSettings::S3EncryptionClient(client), 10, 1_500, &[(500..1_000, DOWN)])
    };
    let without = client(0);
    assert_eq!(without.failed(500..1_000), without.during(500..1_000).count());
    let with = client(300);
    assert!(with.count(500..600, cached) > 0);
    assert_eq!(with.failed(801..1_000), with.during(801..1_000).count());
    assert_eq!(with.failed(1_001..1_500), 0);
}

/// MA-D34: failures are not cached by default; kept for a time they spare KMS, and outlast the outage by that time.
#[test]
fn a_cached_failure_spares_kms_and_outlasts_the_outage() {
    for kind in ["s3-bucket-keys", "s3-express", "dynamodb", "sqs", "sns", "kinesis", "cloudwatch-logs"] {
        let with = |failures_cached_s: u64| {
            let ttl = if kind == "sqs" { "kms_data_key_reuse_period_s = 60\n" } else { "" };
            let lines = format!("{ttl}failures_cached_s = {failures_cached_s}");
            run(settings(kind, &lines), 11, 900, &[(400..800, DOWN)])
        };
        let (usual, keeping) = (with(0), with(60));
        assert_eq!(usual.failed(801..900), 0, "{kind}");
        let late = keeping.failed(801..860);
        assert!(late > 0, "{kind}");
        assert_eq!(keeping.failed(861..900), 0, "{kind}");
        let (asked, spared) = (usual.calls_during(700..800), keeping.calls_during(700..800));
        assert!(spared * 3 < asked, "{kind}: {spared} and {asked}");
    }
    let told = S3BucketKeys { failures_cached_s: 60, ..S3BucketKeys::default() };
    let told = ServiceSettings::S3BucketKeys(told).assumptions();
    assert!(told.iter().any(|it| it == "MA-D34: a failure is cached for 60 s"), "{told:?}");
}
