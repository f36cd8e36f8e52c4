//! The service models against a scripted KMS on a paused clock: who fails when, what they see, and how they recover.

use crate::scripted_kms::{CALL_TAKES, DOWN, Fault, Script, by_kms, cached, held, run, run_fleet, visible};
use scenarios::kms::{KmsException, KmsOperation};
use scenarios::services::{
    DynamoDb, Ebs, Ec2Launch, INSTANCE_STOPPED, Lambda, Narrative, Rds, S3, S3BucketKeys, ServiceSettings,
    TOO_MANY_WAITING,
};
use std::time::Duration;

#[test]
fn s3_fails_at_once_with_every_request_and_recovers_at_once() {
    let run = run(ServiceSettings::S3(S3::default()), 1, 60, &[(20..40, DOWN)]);
    assert!((1_800..2_200).contains(&run.during(20..40).count()), "100 requests per second");
    assert_eq!(run.failed(0..20) + run.failed(40..60), 0);
    assert_eq!(run.failed(20..40), run.during(20..40).count());
    for request in run.during(20..40) {
        assert_eq!(visible(&request.outcome), Some(("KMS.KMSInvalidStateException (400)", 1)));
        assert!(request.took <= CALL_TAKES + Duration::from_millis(1), "no retry: {:?}", request.took);
    }
    // One call per request, PUT as GenerateDataKey and GET as Decrypt.
    assert_eq!(run.calls.len(), run.requests.len());
    let puts = run.calls.iter().filter(|call| call.operation == KmsOperation::GenerateDataKey).count();
    assert!((0.27..0.35).contains(&(puts as f64 / run.calls.len() as f64)));
    assert_eq!(run.narrative, Narrative::default(), "nothing kept working, nothing is damaged");
}

#[test]
fn internal_errors_and_throttling_are_retried_until_the_bucket_is_empty() {
    let cases = [
        (KmsException::KmsInternal, "ServiceUnavailable (503)", 500 / 14, 150),
        (KmsException::Throttling, "SlowDown (503)", 500 / 5, 3_000),
    ];
    for (exception, code, retries, back_off_ms) in cases {
        let settings = ServiceSettings::S3(S3 { rate_per_s: 10.0, ..S3::default() });
        let run = run(settings, 2, 200, &[(100..180, Fault::Fails(exception))]);
        let failures = run.failures(0..200);
        assert!(failures.len() > 700);
        assert!(failures.iter().all(|(visible, _)| *visible == code));
        assert_eq!(failures[0].1, 3);
        assert_eq!(failures[failures.len() - 1].1, 1, "the bucket is empty");
        let total: u32 = failures.iter().map(|(_, attempts)| attempts - 1).sum();
        assert_eq!(total, retries, "each retry costs its tokens");
        let longest = run.during(100..180).map(|request| request.took).max().unwrap();
        // Three calls, two back-offs, and a millisecond of rounding for each sleep.
        assert!(longest <= 3 * CALL_TAKES + Duration::from_millis(back_off_ms + 5), "{longest:?}");
        assert!(longest > 3 * CALL_TAKES + Duration::from_millis(back_off_ms / 2), "{longest:?}");
        assert_eq!(run.failed(181..200), 0);
    }
}

#[test]
fn a_few_internal_errors_are_absorbed_by_retries() {
    let fault = Fault::FailsEvery(20, KmsException::KmsInternal);
    let run = run(ServiceSettings::S3(S3::default()), 3, 60, &[(20..40, fault)]);
    let failed_calls = run.calls.iter().filter(|call| call.failure.is_some()).count();
    assert!(failed_calls > 80);
    assert!(run.failed(0..60) * 10 < failed_calls, "{} of {failed_calls}", run.failed(0..60));
}

#[test]
fn hot_bucket_keys_last_for_their_ttl_and_old_data_fails_almost_at_once() {
    let settings = ServiceSettings::S3BucketKeys(S3BucketKeys::default());
    let run = run(settings, 4, 1_500, &[(400..1_000, DOWN)]);
    assert_eq!(run.failed(0..400), 0);
    // Warm: few requests call KMS.
    let (calls, requests) = (run.calls_during(100..400), run.during(100..400).count());
    assert!(calls * 40 < requests, "{calls} calls for {requests} requests");

    assert!(
        run.first_failure() < Duration::from_secs(405),
        "old data fails first: {:?}",
        run.first_failure()
    );
    assert!(run.count(400..430, cached) > run.during(400..430).count() * 2 / 3, "hot keys still serve");
    assert!(run.count(670..700, cached) < run.during(670..700).count() / 2, "one after the other runs out");
    let last = run.during(400..1_000).filter(|r| cached(&r.outcome)).map(|r| r.at).max().unwrap();
    assert!(last <= Duration::from_secs(700), "nobody holds a key for longer than 300 s: {last:?}");
    assert!(last > Duration::from_secs(500), "{last:?}");
    assert_eq!(run.failed(701..1_000), run.during(701..1_000).count());

    // Failures are not cached. Each requester refills once to write and once to read its newest key; old data follows.
    assert_eq!(run.failed(1_001..1_500), 0);
    let refills =
        run.calls.iter().filter(|c| (1_000..1_002).contains(&c.at.as_secs()) && c.failure.is_none());
    assert!((8..=8 * 2 + 10).contains(&refills.count()));
    assert!(run.count(1_010..1_020, cached) > run.during(1_010..1_020).count() * 9 / 10);

    let told = &run.narrative.kept_working;
    assert!(told.contains("served from cached bucket keys until these ran out: the last at "), "{told}");
    assert!(told.contains("keeps a bucket key for 300 s per requester"), "{told}");
}

#[test]
fn a_ttl_that_outlasts_the_fault_hides_it_from_writers() {
    let settings =
        S3BucketKeys { old_read_share: 0.0, write_share: 1.0, ttl_s: 3_600, ..S3BucketKeys::default() };
    let run = run(ServiceSettings::S3BucketKeys(settings), 5, 300, &[(100..200, DOWN)]);
    assert_eq!(run.failed(0..300), 0);
    assert!(run.narrative.kept_working.starts_with("Nothing failed: "), "{}", run.narrative.kept_working);
}

#[test]
fn dynamodb_fails_between_now_and_332_seconds_and_its_status_later_still() {
    let settings = ServiceSettings::DynamoDb(DynamoDb::default());
    let run = run(settings, 6, 7_200, &[(1_000..6_500, DOWN)]);
    assert_eq!(run.failed(0..1_000), 0);
    let first = run.first_failure();
    assert!(first >= Duration::from_secs(1_000) && first < Duration::from_secs(1_060), "{first:?}");
    // Fifty keys with every age from 0 to 300 s: half of them are left after half the time.
    let (left, all) = (run.count(1_145..1_155, cached), run.during(1_145..1_155).count());
    assert!((all / 3..all * 2 / 3).contains(&left), "{left} of {all}");
    let last = run.during(1_000..6_500).filter(|r| cached(&r.outcome)).map(|r| r.at).max().unwrap();
    assert!(last > Duration::from_secs(1_250), "{last:?}");
    assert_eq!(run.failed(1_333..6_500), run.during(1_333..6_500).count());
    let code = "ValidationException (400): KMS key disabled error";
    assert!(run.failures(0..7_200).iter().all(|(visible, _)| *visible == code));
    assert_eq!(run.failed(6_501..7_200), 0);

    assert_eq!(run.damage.len(), 10, "5,500 s are longer than any table takes");
    for damage in &run.damage {
        let after = damage.at - Duration::from_secs(1_000);
        // Two polls may lie between the onset and the first sign of it, and between patience and the last.
        assert!((720..4_500 + 121).contains(&after.as_secs()), "{after:?}");
    }
    assert!(run.narrative.lasting_damage.starts_with("10 of 10 tables changed to status"));
    assert!(run.narrative.kept_working.contains("cached table keys until these ran out"));
}

#[test]
fn two_short_faults_change_no_table_status() {
    let settings = ServiceSettings::DynamoDb(DynamoDb::default());
    let run = run(settings, 6, 3_000, &[(500..1_100, DOWN), (1_300..1_900, DOWN)]);
    assert!(run.failed(500..1_100) > 0);
    assert_eq!((run.damage.len(), run.narrative.lasting_damage.as_str()), (0, ""));
}

#[test]
fn one_refresh_per_cache_entry_however_slow_kms_is() {
    let settings = DynamoDb { rate_per_s: 1_000.0, check_every_s: 86_400, ..DynamoDb::default() };
    let slow = Fault::Slow(Duration::from_millis(240));
    let run = run(ServiceSettings::DynamoDb(settings), 7, 400, &[(100..400, slow)]);
    assert_eq!(run.failed(0..400), 0);
    // 10 tables of 5 principals, each refreshed when the rest of its first 300 s is over. A key refreshed before 100 s may
    // be due again before the end.
    let (early, slow) = (run.calls_during(2..100), run.calls_during(100..400));
    assert!((50..=50 + early).contains(&(early + slow)), "{early} and {slow}");
}

#[test]
fn requests_that_wait_for_a_refresh_share_its_failure() {
    let settings = DynamoDb {
        rate_per_s: 1_000.0,
        tables: 1,
        principals: 1,
        check_every_s: 86_400,
        ..DynamoDb::default()
    };
    let run = run(ServiceSettings::DynamoDb(settings), 8, 600, &[(200..600, DOWN)]);
    let failures = run.failures(550..565);
    let calls = run.calls_during(550..565);
    assert!(calls > 1_000 && failures.len() > calls * 3, "{calls} calls for {} failures", failures.len());
    let attempts: u32 = failures.iter().map(|(_, attempts)| attempts).sum();
    assert!(attempts.abs_diff(calls as u32) <= 1, "every call belongs to one request: {attempts}, {calls}");
}

#[test]
fn attached_volumes_do_not_notice_and_attaches_fail() {
    let run = run(ServiceSettings::Ebs(Ebs::default()), 9, 300, &[(100..200, DOWN)]);
    let failures = run.failures(100..200);
    assert!((60..140).contains(&failures.len()), "{}", failures.len());
    assert!(failures.iter().all(|failure| *failure == ("EBS attachVolume failed", 1)));
    let running = run.count(100..200, held);
    assert_eq!(running + failures.len(), run.during(100..200).count());
    assert!(running > 4_500);
    assert_eq!(run.failed(0..100) + run.failed(200..300), 0);
    let told = &run.narrative;
    let why =
        "reads and writes on attached volumes kept working: the volume key stays in the Nitro card's memory";
    assert!(told.kept_working.contains(why), "{}", told.kept_working);
    assert!(told.lasting_damage.contains("attaches and creates failed"), "{}", told.lasting_damage);
}

#[test]
fn a_launch_needs_two_calls_per_volume_and_fails_with_the_first() {
    let settings = Ec2Launch { rate_per_s: 2.0, ..Ec2Launch::default() };
    let run = run(ServiceSettings::Ec2Launch(settings), 10, 300, &[(100..200, DOWN)]);
    assert!(run.during(0..99).all(|r| by_kms(&r.outcome)));
    assert!(run.calls_during(0..99).abs_diff(run.during(0..99).count() * 4) <= 3);
    assert_eq!(run.failed(100..200), run.during(100..200).count());
    let expected = ("Client.InternalError: Client error on launch", 1);
    assert!(run.failures(100..200).iter().all(|failure| *failure == expected));
    assert!(run.narrative.lasting_damage.contains("launches ended in \"terminated\""));
}

/// However many launches fail, the story ends with when the last was made up for.
#[test]
fn auto_scaling_replaces_ten_thousand_and_says_so() {
    let settings = Ec2Launch { rate_per_s: 12.0, retry_max_s: 60, start_share: 0.1, ..Ec2Launch::default() };
    let run = run(ServiceSettings::Ec2Launch(settings), 10, 2_400, &[(100..1_300, DOWN)]);
    let told = &run.narrative.lasting_damage;
    let starts = run.manual("went back to stopped");
    assert!(starts > 1_000, "{starts}");
    let launches = run.failed(0..2_400) as u64 - starts;
    assert!(launches > 12_000, "{launches}");
    let counted = format!("{},{:03} launches ended in \"terminated\"", launches / 1_000, launches % 1_000);
    assert!(told.contains(&counted), "{counted}: {told}");
    assert!(told.contains("it had replaced all of them by"), "{told}");
}

#[test]
fn a_launch_that_fails_late_counts_all_its_calls() {
    let settings = Ec2Launch { rate_per_s: 0.01, volumes_per_launch: 4, ..Ec2Launch::default() };
    let fault = Fault::FailsEvery(7, KmsException::KmsInvalidState);
    let run = run(ServiceSettings::Ec2Launch(settings), 11, 1_000, &[(0..1_000, fault)]);
    assert_eq!(visible(&run.requests[0].outcome).unwrap().1, 7, "the key of the fourth volume");
}

#[test]
fn warm_functions_go_on_and_cold_starts_fail() {
    let run = run(ServiceSettings::Lambda(Lambda::default()), 12, 900, &[(300..600, DOWN)]);
    assert_eq!(run.failed(0..300) + run.failed(600..900), 0);
    let failures = run.failures(300..600);
    let invocations = run.during(300..600).count();
    assert!((invocations / 200..invocations / 50).contains(&failures.len()), "about 1 %: {}", failures.len());
    assert!(failures.iter().all(|failure| *failure == ("KMSInvalidStateException (502)", 1)));
    assert_eq!(run.count(300..600, held) + failures.len(), invocations);
    // A warm invocation takes its 100 ms and no KMS call.
    let warm = run.during(300..600).find(|r| held(&r.outcome)).unwrap();
    assert!((100..=102).contains(&warm.took.as_millis()), "{:?}", warm.took);
    assert!(run.narrative.kept_working.contains("invocations in warm environments kept working"));
}

#[test]
fn environments_go_when_idle_or_old() {
    let quiet = Lambda {
        rate_per_s: 0.01,
        functions: 1,
        idle_expiry_min_s: 5,
        idle_expiry_max_s: 5,
        fresh_share: 0.0,
        ..Lambda::default()
    };
    let rare = run(ServiceSettings::Lambda(quiet.clone()), 13, 20_000, &[]);
    let (cold, warm) = (rare.count(2..20_000, by_kms), rare.count(2..20_000, held));
    assert!(cold > warm * 5, "idle for 100 s on average: {cold} cold, {warm} warm");

    let busy = Lambda { rate_per_s: 2.0, idle_expiry_min_s: 900, idle_expiry_max_s: 900, ..quiet };
    let short = Lambda { life_s: 100, ..busy.clone() };
    let cold = run(ServiceSettings::Lambda(short), 13, 2_000, &[]).count(2..2_000, by_kms);
    assert!(cold >= 19, "an environment lives for 100 s, however busy: {cold} cold starts");
    let lasting = run(ServiceSettings::Lambda(busy), 13, 2_000, &[]).count(2..2_000, by_kms);
    assert!(lasting * 3 < cold, "{lasting} and {cold}");
}

#[test]
fn rds_stops_instances_two_hours_after_noticing_and_they_stay_stopped() {
    let settings = Rds { rate_per_s: 5.0, ..Rds::default() };
    let run = run(ServiceSettings::Rds(settings), 14, 15_000, &[(600..12_600, DOWN)]);
    assert_eq!(run.failed(0..600), 0);
    // Until the first stop only starting instances fails.
    let first_stop = run.damage.first().unwrap().at;
    assert!((600 + 600 + 7_200..600 + 1_500 + 7_200).contains(&first_stop.as_secs()), "{first_stop:?}");
    let expected = ("KMSKeyNotAccessibleFault (400)", 1);
    assert!(run.failures(600..first_stop.as_secs()).iter().all(|failure| *failure == expected));
    assert_eq!(run.damage.len(), 20);
    assert!(run.damage.iter().all(|d| d.at.as_secs() < 600 + 3_600 + 7_200 + 121));
    // The key is back, and queries still fail: an operator has to act.
    let queries = run.failures(12_700..15_000);
    assert!(queries.iter().all(|failure| *failure == (INSTANCE_STOPPED, 0)));
    assert!(queries.len() > run.during(12_700..15_000).count() * 9 / 10);
    assert!(run.count(12_700..15_000, by_kms) > 0, "starts succeed");
    let told = &run.narrative;
    assert!(told.lasting_damage.starts_with("RDS stopped 20 of 20 instances"), "{}", told.lasting_damage);
    assert!(told.lasting_damage.contains("start-db-instance"));
    assert!(told.kept_working.contains("queries on running instances kept working"), "{}", told.kept_working);
}

#[test]
fn outages_under_two_hours_stop_no_instance() {
    let settings = Rds { rate_per_s: 5.0, ..Rds::default() };
    let script = [(600..7_500, DOWN), (7_700..14_500, DOWN)];
    let run = run(ServiceSettings::Rds(settings), 14, 15_000, &script);
    assert_eq!(run.damage, []);
    assert!(run.failed(600..7_500) > 0);
    assert_eq!(run.narrative.lasting_damage, "");
}

#[test]
fn throttling_is_no_sign_that_a_key_is_lost() {
    let settings = Rds { rate_per_s: 1.0, ..Rds::default() };
    let fault = Fault::Fails(KmsException::Throttling);
    let run = run(ServiceSettings::Rds(settings), 14, 15_000, &[(600..14_000, fault)]);
    assert_eq!(run.damage, []);
    let failures = run.failures(0..15_000);
    assert!(!failures.is_empty() && failures.iter().all(|f| f.0 == "ServiceUnavailable (503)"));
}

#[test]
fn a_partial_fault_fails_its_share_of_s3_and_few_cached_requests() {
    let fault = Fault::FailsEvery(5, KmsException::KmsInvalidState);
    let s3 = run(ServiceSettings::S3(S3::default()), 15, 700, &[(100..700, fault)]);
    let share = s3.failed(100..700) as f64 / s3.during(100..700).count() as f64;
    assert!((0.195..0.205).contains(&share), "{share}");
    assert!(s3.narrative.kept_working.contains("got a key from KMS in spite of the fault"));
    let tables = run(ServiceSettings::DynamoDb(DynamoDb::default()), 15, 700, &[(100..700, fault)]);
    assert!(tables.failed(100..700) < 40, "failures are not cached: {}", tables.failed(100..700));
}

#[test]
fn slow_kms_neither_slows_arrivals_nor_piles_up_without_bound() {
    let settings = S3 { rate_per_s: 50.0, in_flight_max: 100, ..S3::default() };
    let fault = Fault::Slow(Duration::from_secs(10));
    let run = run(ServiceSettings::S3(settings), 16, 60, &[(20..40, fault)]);
    let came = run.during(20..40).count();
    assert!((900..1_100).contains(&came), "{came}");
    let turned_away = run.count(20..40, |outcome| visible(outcome) == Some((TOO_MANY_WAITING, 0)));
    // 100 places, each taken twice in 20 s.
    assert!((came - 210..=came - 190).contains(&turned_away), "{turned_away} of {came}");
    assert_eq!(run.failed(51..60), 0);
}

#[test]
fn resources_come_into_being_even_if_kms_is_down_at_the_start() {
    let settings = DynamoDb { rate_per_s: 1.0, ..DynamoDb::default() };
    let run = run(ServiceSettings::DynamoDb(settings), 17, 400, &[(0..15, DOWN)]);
    let made =
        run.calls.iter().filter(|c| c.operation != KmsOperation::Decrypt && c.failure.is_none()).count();
    assert!((10..14).contains(&made), "{made}");
    assert_eq!(run.failed(30..400), 0);
}

#[test]
fn resources_are_created_in_the_first_second() {
    for settings in ServiceSettings::default_fleet() {
        let run = run(settings.clone(), 18, 30, &[]);
        let second = Duration::from_secs(1);
        let made = run.calls.iter().filter(|c| c.operation != KmsOperation::Decrypt && c.at < second).count();
        let expected = if settings.name() == "ec2-launch" { 0 } else { 10 };
        assert!(made >= expected, "{}: {made}", settings.name());
        assert_eq!(run.failed(0..30), 0, "{}", settings.name());
    }
}

#[test]
fn the_default_fleet_makes_100_to_150_kms_calls_per_second() {
    let runs = run_fleet(&ServiceSettings::default_fleet(), 19, 900, &[]);
    let per_s = runs.iter().map(|run| run.calls_during(300..900)).sum::<usize>() as f64 / 600.0;
    assert!((100.0..150.0).contains(&per_s), "{per_s}");
}

#[test]
fn the_same_seed_gives_the_same_events_and_another_seed_others() {
    let script = [(50..90, Fault::FailsEvery(3, KmsException::KmsInternal)), (120..160, DOWN)];
    let fleet = ServiceSettings::default_fleet();
    let traces = |seed| {
        let runs = run_fleet(&fleet, seed, 200, &script);
        runs.iter().map(|run| format!("{:?} {:?}", run.requests, run.calls)).collect::<Vec<_>>()
    };
    let (one, again, other) = (traces(20), traces(20), traces(21));
    assert!(one == again);
    assert!(one.iter().zip(&other).all(|(one, other)| one != other));
}

#[test]
fn requests_that_wait_together_go_on_in_the_order_they_came() {
    let settings = DynamoDb { rate_per_s: 2_000.0, tables: 2, principals: 2, ..DynamoDb::default() };
    let script = [(0..60, Fault::Slow(Duration::from_millis(240)))];
    let trace =
        || format!("{:?}", run(ServiceSettings::DynamoDb(settings.clone()), 23, 60, &script).requests);
    let one = trace();
    assert!((0..3).all(|_| one == trace()));
}

#[test]
fn a_fault_does_not_reshuffle_who_comes_when() {
    for settings in ServiceSettings::default_fleet() {
        let arrivals = |script: &Script| {
            let run = run(settings.clone(), 22, 120, script);
            let mut at: Vec<_> = run.requests.iter().map(|request| request.at).collect();
            at.sort();
            at
        };
        let quiet = arrivals(&[]);
        for fault in [DOWN, Fault::Fails(KmsException::KmsInternal)] {
            assert!(quiet == arrivals(&[(30..60, fault)]), "{}", settings.name());
        }
    }
}

/// Section 3.1, MA-D13: SDKs retry 503, so that throttling multiplies the load; a 400 for the key they return at once.
#[test]
fn users_sdks_try_a_503_again_and_no_400() {
    let calls = |sdk_attempts_max, exception| {
        let settings = ServiceSettings::S3(S3 { rate_per_s: 1.0, sdk_attempts_max, ..S3::default() });
        let run = run(settings, 2, 200, &[(100..130, Fault::Fails(exception))]);
        let failures = run.failures(100..130);
        assert!(failures.len() > 20, "{}", failures.len());
        (failures, run.requests.len())
    };
    for (exception, code) in [
        (KmsException::KmsInternal, "ServiceUnavailable (503)"),
        (KmsException::Throttling, "SlowDown (503)"),
    ] {
        let ((alone, requests), (by_sdk, as_many)) = (calls(1, exception), calls(3, exception));
        assert_eq!(requests, as_many, "the tries of one request are one request");
        assert_eq!(alone[0], (code, 3), "S3's own tries");
        assert_eq!(by_sdk[0], (code, 9), "three times each");
        // Until the SDK's own bucket is empty.
        assert!(by_sdk.iter().all(|it| it.0 == code && it.1 % 3 == 0 || it.1 < 9), "{by_sdk:?}");
    }
    let (refused, _) = calls(3, KmsException::KmsInvalidState);
    assert!(refused.iter().all(|it| *it == ("KMS.KMSInvalidStateException (400)", 1)), "{refused:?}");
    // One that succeeds at the second try is no failure.
    let settings = ServiceSettings::S3(S3 {
        rate_per_s: 1.0,
        sdk_attempts_max: 3,
        kms_attempts_max: 1,
        ..S3::default()
    });
    let every_third = Fault::FailsEvery(3, KmsException::KmsInternal);
    let run = run(settings, 2, 200, &[(100..130, every_third)]);
    assert!(
        run.failed(0..200) == 0 && run.calls_during(100..131) > run.during(100..130).count(),
        "{:?}",
        run.failures(0..200)
    );
    // What users call by other means nobody tries again.
    let rds = ServiceSettings::Rds(Rds { sdk_attempts_max: 3, ..Rds::default() });
    assert!(rds.check().unwrap_err().to_string().contains("sdk_attempts_max has no effect"));
    assert!(ServiceSettings::S3(S3::default()).assumptions().iter().any(|it| it.starts_with("MA-D13")));
    assert!(!ServiceSettings::Rds(Rds::default()).assumptions().iter().any(|it| it.starts_with("MA-D13")));
}
