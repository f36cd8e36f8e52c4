//! What follows from a lost key beside the failed request, against the reference: DynamoDB Streams and TTL (3.3), RDS failover
//! (3.4), EventBridge (4.1, 4.2), Firehose (4.3), and the requests that no cache helps (3.2, 5.6).

use crate::scripted_kms::{DOWN, by_kms, held, run};
use scenarios::services::{
    CloudwatchLogs, DeadLetterQueue, DynamoDb, Kinesis, Rds, S3BucketKeys, ServiceSettings, Sns, Sqs,
};

const HOUR_S: u64 = 3_600;
const DAY_S: u64 = 24 * HOUR_S;

/// Section 3.3: records of a stream expire after 24 h, read or not.
#[test]
fn stream_records_expire_after_24_hours_whether_or_not_they_could_be_read() {
    // Principals hold their table keys through the outage, so that writes go on; the stream's reader has none.
    let settings = DynamoDb {
        rate_per_s: 0.2,
        tables: 1,
        principals: 1,
        streams: 1,
        stream_write_share: 1.0,
        status_after_min_s: 86_400,
        status_after_max_s: 86_400,
        ..DynamoDb::default()
    };
    // The last records before the outage wait, at most those of one reading.
    let outage = |hours| {
        let dynamodb = DynamoDb { stream_read_every_s: 600, ..settings.clone() };
        run(ServiceSettings::DynamoDb(dynamodb), 1, 30 * HOUR_S, &[(HOUR_S..hours * HOUR_S, DOWN)])
    };
    let long = outage(28);
    let (count, first_at) = long.lost("stream records past their retention").unwrap();
    assert!((1..=200).contains(&count), "{count}");
    let first = first_at.as_secs();
    assert!(
        (25 * HOUR_S - 900..25 * HOUR_S + 1_000).contains(&first),
        "24 h after they were written: {first}"
    );
    assert_eq!(outage(20).lost("stream records"), None, "read in time");
    let short = DynamoDb { stream_retention_s: 4 * HOUR_S, stream_read_every_s: 600, ..settings };
    let short = run(ServiceSettings::DynamoDb(short), 1, 30 * HOUR_S, &[(HOUR_S..20 * HOUR_S, DOWN)]);
    let first = short.lost("stream records").unwrap().1.as_secs();
    assert!((5 * HOUR_S - 900..5 * HOUR_S + 1_000).contains(&first), "{first}");
}

/// Section 3.3: TTL deletes go on for 30 min after the status change, then stop until the table is ACTIVE again.
#[test]
fn ttl_deletes_go_on_for_30_minutes() {
    let settings = DynamoDb { rate_per_s: 0.5, tables: 4, ttl_deletes_per_h: 600, ..DynamoDb::default() };
    let outage =
        run(ServiceSettings::DynamoDb(settings.clone()), 2, 8 * HOUR_S, &[(HOUR_S..5 * HOUR_S, DOWN)]);
    let changed = outage.became("INACCESSIBLE_ENCRYPTION_CREDENTIALS");
    let stopped = outage.became("TTL deletes stopped");
    assert_eq!((changed.len(), stopped.len()), (4, 4));
    for (change, stop) in changed.iter().zip(&stopped) {
        let after = (*stop - *change).as_secs();
        assert!((1_800..1_800 + 61).contains(&after), "{after}");
    }
    assert_eq!(outage.lost("TTL deleted").unwrap(), (4 * 300, changed[0]));
    let again = outage.became("TTL deletes go on");
    assert_eq!(again, outage.became("ACTIVE again"));
    assert!(outage.narrative.lasting_damage.contains("TTL went on deleting for 30 min"));
    // The key is back before the half hour is over, the status is not: TTL stops all the same.
    let last = changed.iter().max().unwrap().as_secs();
    let brief = run(ServiceSettings::DynamoDb(settings.clone()), 2, 8 * HOUR_S, &[(HOUR_S..last + 61, DOWN)]);
    let (stopped, active) = (brief.became("TTL deletes stopped"), brief.became("ACTIVE again"));
    assert!(!stopped.is_empty() && stopped.len() < 5 && active.len() == 4, "{stopped:?} {active:?}");
    assert!(stopped.iter().all(|at| at.as_secs() > last + 61), "{stopped:?}");
    let longer = DynamoDb { ttl_deletes_for_s: 86_400, ..settings };
    let longer = run(ServiceSettings::DynamoDb(longer), 2, 8 * HOUR_S, &[(HOUR_S..5 * HOUR_S, DOWN)]);
    assert!(longer.became("TTL deletes stopped").is_empty());
}

/// Section 3.3: backups and changes of TTL or encryption are refused while the status is not ACTIVE, longer than reads.
#[test]
fn backups_are_refused_until_the_table_is_active_again() {
    let settings = DynamoDb { rate_per_s: 2.0, tables: 5, administration_share: 0.5, ..DynamoDb::default() };
    let outage = run(ServiceSettings::DynamoDb(settings), 3, 5 * HOUR_S, &[(600..7_200, DOWN)]);
    let code = ("table status INACCESSIBLE_ENCRYPTION_CREDENTIALS", 0);
    let after = outage.failures(7_201..7_200 + 1_000);
    assert!(!after.is_empty() && after.iter().all(|it| *it == code), "the key is back, the status is not");
    let share = after.len() as f64 / outage.during(7_201..8_200).count() as f64;
    assert!((0.42..0.58).contains(&share), "every backup and no read: {share}");
    assert_eq!(outage.failed(7_200 + 3_420 + 121..5 * HOUR_S), 0);
}

/// Section 3.4, MA-D20: failover to an existing standby works; the next standby, and a host for an instance without one, do not.
#[test]
fn rds_fails_over_to_a_standby_once_and_others_stay_down() {
    let settings = Rds {
        rate_per_s: 1.0,
        start_share: 0.0,
        instances: 20,
        multi_az: 10,
        host_failures_per_day: 1_000,
        ..Rds::default()
    };
    let outage = |rds: Rds| run(ServiceSettings::Rds(rds), 4, 3 * HOUR_S, &[(HOUR_S..HOUR_S + 5_400, DOWN)]);
    let usual = outage(settings.clone());
    let of = |what: &'static str, s: std::ops::Range<u64>| {
        usual
            .damage
            .iter()
            .filter(move |it| it.what == what && s.contains(&it.at.as_secs()))
            .collect::<Vec<_>>()
    };
    assert_eq!(usual.failed(0..HOUR_S), 0, "hosts fail, and are replaced");
    // About 62 hosts in the outage, over 20 instances.
    let over = of("failed over to its standby", HOUR_S..HOUR_S + 5_400);
    assert!((8..=10).contains(&over.len()), "each once, then it has none: {}", over.len());
    assert!(over.iter().all(|it| it.resource >= 10));
    let down = of("down: no host can attach its volumes", HOUR_S..HOUR_S + 5_400);
    assert!((14..=20).contains(&down.len()), "{}", down.len());
    for it in &down {
        let stood = over.iter().find(|other| other.resource == it.resource);
        assert!(it.resource < 10 || stood.is_some_and(|other| other.at < it.at), "{it:?}");
    }
    let code = "connection refused: no host can attach the volumes";
    let failures = usual.failures(HOUR_S..HOUR_S + 5_400);
    assert!(!failures.is_empty() && failures.iter().all(|it| *it == (code, 0)));
    // They come back by themselves: the outage was too short for RDS to stop anything.
    assert_eq!(of("back on a new host", HOUR_S + 5_400..HOUR_S + 5_461).len(), down.len());
    assert_eq!(usual.failed(HOUR_S + 5_461..3 * HOUR_S), 0);
    assert_eq!(usual.manual("DB instances"), 0);
    let needing = outage(Rds { failover_needs_key: true, ..settings });
    let in_outage = |at: &&std::time::Duration| (HOUR_S..HOUR_S + 5_400).contains(&at.as_secs());
    assert_eq!(needing.became("failed over to its standby").iter().filter(in_outage).count(), 0);
}

/// Sections 4.1 and 4.2: EventBridge accepts the event, and what it cannot deliver goes to the rule's dead-letter queue or is lost.
#[test]
fn events_that_cannot_be_delivered_go_to_the_rules_dead_letter_queue() {
    let script = [(600..1_200, DOWN)];
    let sqs = |event_dead_letter_queue| {
        let sqs = Sqs { event_share: 0.4, receive_share: 0.3, event_dead_letter_queue, ..Sqs::default() };
        run(ServiceSettings::Sqs(sqs), 5, 1_500, &script)
    };
    let sns = |event_dead_letter_queue| {
        let sns = Sns { event_share: 1.0, event_dead_letter_queue, ..Sns::default() };
        run(ServiceSettings::Sns(sns), 5, 1_500, &script)
    };
    for (none, other, code) in [
        (sqs(DeadLetterQueue::None), sqs(DeadLetterQueue::OtherKey), "(NO_RESOURCE)"),
        (sns(DeadLetterQueue::None), sns(DeadLetterQueue::OtherKey), "(NO_PERMISSIONS)"),
    ] {
        let (lost, first_at) = none.lost(code).unwrap();
        assert!((600..=901).contains(&first_at.as_secs()), "{first_at:?}");
        let accepted = none.count(900..1_200, held) as u64;
        assert!(lost >= accepted * 9 / 10 && accepted > 4_000, "{code}: {lost} of {accepted}");
        assert_eq!((other.lost(code), other.manual(code)), (None, lost));
    }
    assert_eq!(sns(DeadLetterQueue::None).failed(0..1_500), 0, "EventBridge itself accepts");
}

/// Section 4.1: deletes, visibility changes and attributes need no key.
#[test]
fn sqs_requests_without_a_body_go_on() {
    let sqs = Sqs { keyless_share: 0.5, receive_share: 0.25, ..Sqs::default() };
    let run = run(ServiceSettings::Sqs(sqs), 6, 1_500, &[(600..1_200, DOWN)]);
    let (kept, failed) = (run.count(950..1_200, held), run.failed(950..1_200));
    assert_eq!(kept + failed, run.during(950..1_200).count());
    assert!(kept.abs_diff(failed) < 700, "{kept} and {failed}");
}

/// Section 4.3: Firehose refuses puts with InvalidKMSResourceException and delivers for 24 h what it has accepted.
#[test]
fn firehose_refuses_puts_and_gives_up_deliveries_after_24_hours() {
    let settings = Kinesis { rate_per_s: 0.5, firehose_share: 1.0, get_share: 0.0, ..Kinesis::default() };
    let outage = |hours| {
        let script = [(HOUR_S..hours * HOUR_S, DOWN)];
        run(ServiceSettings::Kinesis(settings.clone()), 7, 30 * HOUR_S, &script)
    };
    let long = outage(28);
    assert!((HOUR_S..HOUR_S + 310).contains(&long.first_failure().as_secs()), "{:?}", long.first_failure());
    let code = "InvalidKMSResourceException (400)";
    assert!(long.failures(HOUR_S..28 * HOUR_S).iter().all(|it| it.0 == code));
    assert_eq!(long.failed(0..HOUR_S) + long.failed(28 * HOUR_S + 1..30 * HOUR_S), 0);
    let (undelivered, first_at) = long.lost("Firehose could not deliver").unwrap();
    assert!((1..=320).contains(&undelivered), "accepted and not delivered yet: {undelivered}");
    let first = first_at.as_secs();
    assert!((25 * HOUR_S - 310..25 * HOUR_S + 600).contains(&first), "{first}");
    let unput = long.lost("could not put").unwrap().0;
    assert!((46_000..50_000).contains(&unput), "0.5 per second for 27 h: {unput}");
    let short = outage(20);
    assert_eq!(short.lost("Firehose could not deliver"), None);
    let delivered = short.calls_during(20 * HOUR_S..20 * HOUR_S + 310);
    assert!(delivered > 0);
}

/// Section 3.2: objects from before Bucket Keys, and principals that S3 has not met, fail at once.
#[test]
fn per_object_keys_and_new_principals_fail_at_once_in_spite_of_bucket_keys() {
    for uncached in [
        S3BucketKeys { per_object_share: 0.2, ..S3BucketKeys::default() },
        S3BucketKeys { new_requester_share: 0.2, ..S3BucketKeys::default() },
    ] {
        let settings = S3BucketKeys { ttl_s: 86_400, old_read_share: 0.0, ..uncached };
        let run = run(ServiceSettings::S3BucketKeys(settings), 8, 700, &[(600..660, DOWN)]);
        let share = run.failed(600..660) as f64 / run.during(600..660).count() as f64;
        assert!((0.18..0.22).contains(&share), "{share}");
        assert!(run.failures(600..660).iter().all(|it| *it == ("KMS.KMSInvalidStateException (400)", 1)));
        let asked = run.count(500..600, by_kms) as f64 / run.during(500..600).count() as f64;
        assert!((0.18..0.23).contains(&asked), "{asked}");
        assert_eq!(run.failed(660..700), 0);
    }
}

/// Section 5.6: AssociateKmsKey fails at once, with a code of its own.
#[test]
fn a_log_group_cannot_be_associated_with_a_lost_key() {
    let settings = CloudwatchLogs { associate_share: 0.5, read_share: 0.0, ..CloudwatchLogs::default() };
    let run = run(ServiceSettings::CloudwatchLogs(settings), 9, 300, &[(100..110, DOWN)]);
    let refused =
        run.failures(100..110).into_iter().filter(|it| *it == ("InvalidParameterException (400)", 1));
    let (refused, all) = (refused.count(), run.during(100..110).count());
    assert!((all * 4 / 10..all * 6 / 10).contains(&refused), "{refused} of {all}");
    assert_eq!(run.failed(111..300), 0);
}

/// Section 5.6: what agents can buffer does not grow with the number of callers that one simulated caller stands for. Once it did,
/// and an outage that loses a million log events lost none.
#[test]
fn an_agents_buffer_is_as_large_whatever_a_request_stands_for() {
    let lost = |represents: u32| {
        let settings = CloudwatchLogs {
            rate_per_s: 10.0 / f64::from(represents),
            represents,
            read_share: 0.0,
            ..CloudwatchLogs::default()
        };
        let outage = [(600..2 * HOUR_S, DOWN)];
        let run = run(ServiceSettings::CloudwatchLogs(settings), 9, 2 * HOUR_S, &outage);
        run.lost("log events").map_or(0, |(count, _)| count)
    };
    let (each, twenty) = (lost(1), lost(20));
    assert!(each > 100_000, "{each}");
    assert!(twenty.abs_diff(each) < each / 10, "{twenty} for {each}");
}

/// A day of none of these costs nothing: what an outage of a minute leaves behind is nothing.
#[test]
fn a_minute_leaves_nothing_behind() {
    for settings in [
        ServiceSettings::DynamoDb(DynamoDb {
            streams: 10,
            ttl_deletes_per_h: 60,
            rate_per_s: 0.5,
            ..DynamoDb::default()
        }),
        ServiceSettings::Kinesis(Kinesis {
            firehose_share: 0.5,
            producers_buffer: true,
            rate_per_s: 0.5,
            ..Kinesis::default()
        }),
        ServiceSettings::Rds(Rds {
            multi_az: 20,
            host_failures_per_day: 100,
            rate_per_s: 0.5,
            ..Rds::default()
        }),
    ] {
        let run = run(settings.clone(), 10, DAY_S, &[(HOUR_S..HOUR_S + 60, DOWN)]);
        assert_eq!((run.narrative.lost, run.narrative.manual), (vec![], vec![]), "{}", settings.name());
    }
}
