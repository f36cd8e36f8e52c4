//! Storage and compute against the reference, section by section: S3 (3.1, 3.2), EBS (2.1), EC2 (2.2), EFS (2.3).

use crate::scripted_kms::{CALL_TAKES, DOWN, Fault, by_kms, cached, held, run, visible};
use scenarios::kms::{KmsException, KmsOperation};
use scenarios::services::{Ebs, Ec2Launch, Efs, S3, S3Express, ServiceSettings};
use std::time::Duration;

const HOUR_S: u64 = 3_600;
const DAY_S: u64 = 24 * HOUR_S;

/// Section 3.1: 503 for KMS's 500 (MA-D13), SlowDown when throttled, the service's own code for a disabled key.
#[test]
fn s3_has_a_code_of_its_own_for_each_answer_of_kms() {
    for (exception, expected) in [
        (KmsException::KmsInvalidState, "KMS.KMSInvalidStateException (400)"),
        (KmsException::KmsInternal, "ServiceUnavailable (503)"),
        (KmsException::Throttling, "SlowDown (503)"),
        (KmsException::Disabled, "KMS.DisabledException (400)"),
    ] {
        let run = run(ServiceSettings::S3(S3::default()), 1, 40, &[(20..30, Fault::Fails(exception))]);
        assert_eq!(run.failed(20..30), run.during(20..30).count());
        assert!(run.failures(20..30).iter().all(|(visible, _)| *visible == expected));
    }
}

/// Section 3.1, MA-D12: HEAD makes no call; an upload of n parts makes n + 2.
#[test]
fn heads_need_no_key_and_an_upload_of_n_parts_makes_n_plus_2_calls() {
    let settings =
        S3 { head_share: 0.5, write_share: 1.0, multipart_share: 1.0, multipart_parts: 5, ..S3::default() };
    let settings = S3 { rate_per_s: 20.0, ..settings };
    let run = run(ServiceSettings::S3(settings), 2, 300, &[(100..200, DOWN)]);
    let heads = run.count(100..200, held);
    assert_eq!(heads + run.failed(100..200), run.during(100..200).count());
    assert!(heads.abs_diff(1_000) < 150, "{heads}");
    let uploads = run.count(10..90, by_kms);
    assert!(run.calls_during(10..90).abs_diff(uploads * 7) <= 14, "{uploads} uploads");
    assert!(run.failures(100..200).iter().all(|(_, attempts)| *attempts == 1), "the first failure ends one");
}

/// Section 3.1, MA-D14: replication under a failed key ends in FAILED, and such gaps outlive the outage.
#[test]
fn replication_during_the_outage_leaves_gaps_for_batch_replication() {
    let settings = S3 { replication_share: 0.5, replication_after_s: 60, ..S3::default() };
    let run = run(ServiceSettings::S3(settings.clone()), 3, 400, &[(100..200, DOWN)]);
    // Written in the minute before the outage: 30 PUT/s, half of them replicated 60 s later.
    let gaps = run.manual("S3 Batch Replication");
    assert!((800..1_000).contains(&gaps), "{gaps}");
    let quiet = crate::scripted_kms::run(ServiceSettings::S3(settings), 3, 400, &[]);
    assert_eq!(quiet.manual("S3 Batch Replication"), 0);
}

/// Section 3.2: a directory bucket's key is got at CreateSession, and a session lasts 5 min: onset at most that.
#[test]
fn s3_express_sessions_carry_their_users_for_up_to_five_minutes() {
    let run = run(ServiceSettings::S3Express(S3Express::default()), 4, 1_500, &[(500..1_100, DOWN)]);
    assert_eq!(run.failed(0..500), 0);
    let (left, all) = (run.count(645..655, cached), run.during(645..655).count());
    assert!(
        (all / 4..all * 3 / 4).contains(&left),
        "about half are left after half the time: {left} of {all}"
    );
    let last = run.during(500..1_100).filter(|it| cached(&it.outcome)).map(|it| it.at).max().unwrap();
    assert!((740..=800).contains(&last.as_secs()), "{last:?}");
    assert_eq!(run.failed(801..1_100), run.during(801..1_100).count());
    assert!(run.failures(0..1_500).iter().all(|(it, _)| *it == "KMS.KMSInvalidStateException (400)"));
    assert_eq!(run.failed(1_101..1_500), 0, "the next session");
    // 4 buckets, 8 requesters, read and write (MA-D5): one refill each.
    let refills = run.calls_during(1_100..1_110);
    assert!((50..=64).contains(&refills), "{refills}");
}

/// Section 2.1, MA-D7: CreateVolume succeeds, and the volume changes to `error` 5 to 30 s later.
#[test]
fn a_volume_that_cannot_be_created_changes_to_error_after_5_to_30_seconds() {
    let settings = Ebs { create_share: 0.5, rate_per_s: 5.0, ..Ebs::default() };
    let run = run(ServiceSettings::Ebs(settings), 5, 600, &[(100..300, DOWN)]);
    let failed: Vec<_> = run
        .during(100..300)
        .filter(|it| visible(&it.outcome) == Some(("EBS createVolume failed (volume state: error)", 1)))
        .collect();
    assert!(failed.len() > 400, "{}", failed.len());
    let took: Vec<Duration> = failed.iter().map(|it| it.took).collect();
    let (least, most) = (took.iter().min().unwrap(), took.iter().max().unwrap());
    assert!(*least >= Duration::from_secs(5) && *least < Duration::from_secs(7), "{least:?}");
    assert!(*most <= Duration::from_secs(30) + 2 * CALL_TAKES && *most > Duration::from_secs(28), "{most:?}");
}

/// Section 2.1: AWS attaches volumes again after maintenance, so a long outage slowly reaches those that were safe.
#[test]
fn a_long_outage_slowly_reaches_attached_volumes() {
    let settings =
        Ebs { rate_per_s: 0.02, attach_share: 0.0, reattach_every_s: 10 * DAY_S, ..Ebs::default() };
    let script = [(DAY_S..8 * DAY_S, DOWN)];
    let outage = run(ServiceSettings::Ebs(settings.clone()), 6, 10 * DAY_S, &script);
    let detached = outage.became("detached").len();
    // 40 volumes, every 10 days each, over 7 days: all but exp(-0.7) of them.
    assert!((12..=28).contains(&detached), "{detached}");
    assert_eq!(outage.failed(0..DAY_S), 0);
    let failures = outage.failures(7 * DAY_S..8 * DAY_S);
    assert!(failures.iter().all(|it| *it == ("I/O error: EBS reattachVolume failed", 0)));
    let share = failures.len() as f64 / outage.during(7 * DAY_S..8 * DAY_S).count() as f64;
    assert!((0.25..0.75).contains(&share), "{share}");
    // Nobody attaches them again.
    assert_eq!(outage.manual("volumes to attach again"), detached as u64);
    assert!(outage.failed(9 * DAY_S..10 * DAY_S) > 0);

    let tended = Ebs { operator_delay_s: HOUR_S, ..settings };
    let tended = run(ServiceSettings::Ebs(tended), 6, 10 * DAY_S, &script);
    assert_eq!(tended.became("detached").len(), detached);
    assert_eq!(tended.manual("volumes to attach again"), 0);
    assert_eq!(tended.failed(8 * DAY_S + HOUR_S + 60..10 * DAY_S), 0);
}

/// Section 2.2, MA-D10: Auto Scaling terminates first, and tries again after 60 s, doubling to 15 min.
#[test]
fn auto_scaling_shrinks_the_group_and_fills_it_up_within_its_back_off() {
    let settings = Ec2Launch { rate_per_s: 0.05, ..Ec2Launch::default() };
    let run = run(ServiceSettings::Ec2Launch(settings), 7, 8_000, &[(1_000..4_000, DOWN)]);
    let failed = run.failed(1_000..4_000);
    assert_eq!(failed, run.during(1_000..4_000).count());
    assert_eq!(run.became("missing").len(), failed);
    let replaced = *run.became("all replaced").first().unwrap();
    assert!((4_000..4_000 + 900).contains(&replaced.as_secs()), "{replaced:?}");
    // Further attempts come at 60, 180, 420, 900, 1,800, 2,700 s after the first failure, and then every 900 s.
    let first = run.first_failure().as_secs();
    let own: Vec<u64> = run
        .calls
        .iter()
        .filter(|call| !run.requests.iter().any(|it| it.at <= call.at && call.at <= it.at + it.took))
        .map(|call| call.at.as_secs() - first)
        .take(6)
        .collect();
    let expected = [60, 180, 420, 900, 1_800, 2_700];
    assert!(own.iter().zip(expected).all(|(at, wanted)| at.abs_diff(wanted) <= 1), "{own:?}");
    // Two volumes each, two calls per volume.
    let filling = run.calls.iter().filter(|call| (4_000..4_901).contains(&call.at.as_secs())).count();
    assert!(filling >= failed * 4, "{filling} calls for {failed} instances");
    let told = &run.narrative.lasting_damage;
    assert!(
        told.contains("had terminated the instances") && told.contains("replaced all of them by"),
        "{told}"
    );
}

/// Section 2.3, MA-D11: stops 5 to 60 min after the key, and is back within 5 min of it.
#[test]
fn efs_stops_between_5_and_60_minutes_and_comes_back_by_itself() {
    let settings = Efs { rate_per_s: 5.0, create_share: 0.0, file_systems: 50, ..Efs::default() };
    let run = run(ServiceSettings::Efs(settings.clone()), 8, 12_000, &[(1_000..8_000, DOWN)]);
    assert_eq!(run.failed(0..1_300), 0);
    let stops = run.became("stopped");
    assert_eq!(stops.len(), 50);
    for at in &stops {
        assert!((1_300..4_600 + 121).contains(&at.as_secs()), "{at:?}");
    }
    let early = stops.iter().filter(|at| at.as_secs() < 1_000 + 1_950 + 60).count();
    assert!((15..=35).contains(&early), "uniform: half of them by half the time, {early}");
    assert!(run.failures(0..12_000).iter().all(|it| *it == ("EIO: input/output error", 0)));
    assert_eq!(run.failed(4_800..8_000), run.during(4_800..8_000).count());
    assert_eq!(run.failed(8_000 + 300 + 121..12_000), 0);
    assert!(run.failed(8_100..8_400) > 0, "not all at once");

    // Hard mounts hang instead, and go on when the file system is back.
    let hard = Efs { hard_mounts: true, rate_per_s: 1.0, ..settings };
    let hard = crate::scripted_kms::run(ServiceSettings::Efs(hard), 8, 12_000, &[(1_000..8_000, DOWN)]);
    assert_eq!(hard.failed(0..12_000), 0);
    let longest = hard.requests.iter().map(|it| it.took).max().unwrap();
    assert!((3_400..7_500).contains(&longest.as_secs()), "{longest:?}");
}

/// Section 2.3: a new file system with a bad key is refused, with one of EFS's generic errors.
#[test]
fn a_file_system_cannot_be_created_without_its_key() {
    let settings = Efs { create_share: 1.0, ..Efs::default() };
    let run = run(ServiceSettings::Efs(settings), 9, 60, &[(20..40, DOWN)]);
    assert_eq!(run.failed(20..40), run.during(20..40).count());
    assert!(run.failures(20..40).iter().all(|it| *it == ("CreateFileSystem: BadRequest (400)", 1)));
    let made =
        |it: &&scenarios::trace::KmsEvent| it.operation == KmsOperation::GenerateDataKeyWithoutPlaintext;
    assert!(run.calls.iter().filter(made).count() > 1_000);
}
