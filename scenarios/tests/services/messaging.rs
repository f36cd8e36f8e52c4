//! Messaging, streaming, events and logs against the reference: SQS (4.1), SNS (4.2), Kinesis (4.3), asynchronous events of
//! Lambda (5.3), CloudWatch Logs (5.6): whose keys last how long, and what is lost for good.

use crate::scripted_kms::{DOWN, Fault, Run, cached, run};
use scenarios::kms::{KmsException, KmsOperation};
use scenarios::services::{CloudwatchLogs, DeadLetterQueue, Kinesis, Lambda, ServiceSettings, Sns, Sqs};

const HOUR_S: u64 = 3_600;
const DAY_S: u64 = 24 * HOUR_S;

/// The last request in these seconds that was served without KMS.
fn last_cached(run: &Run, s: std::ops::Range<u64>) -> u64 {
    run.during(s).filter(|it| cached(&it.outcome)).map(|it| it.at.as_secs()).max().unwrap()
}

/// Section 4.1: R = (B / D) × (2P + C); onset 0 to D; next call after recovery.
#[test]
fn sqs_keys_last_for_their_reuse_period_and_cost_2p_plus_c_calls() {
    let settings = Sqs { rate_per_s: 200.0, queues: 1, producers: 4, consumers: 8, ..Sqs::default() };
    let run = run(ServiceSettings::Sqs(settings), 1, 2_400, &[(1_500..2_100, DOWN)]);
    // Four whole periods of 300 s, 2 × 4 + 8 calls each.
    let calls = run.calls_during(300..1_500);
    assert!((58..=68).contains(&calls), "{calls} calls, 64 expected");
    assert_eq!(run.failed(0..1_500), 0);
    let last = last_cached(&run, 1_500..2_100);
    assert!((1_650..=1_800).contains(&last), "{last}");
    assert_eq!(run.failed(1_801..2_100), run.during(1_801..2_100).count());
    let code = ("KMS.InvalidStateException (KmsInvalidState, 400)", 1);
    assert!(run.failures(1_500..2_100).iter().filter(|it| it.1 > 0).all(|it| *it == code));
    assert_eq!(run.failed(2_101..2_400), 0);
    assert!(run.calls_during(2_100..2_110) <= 16 + 1, "one refill per queue and principal (MA-D5)");
}

/// Section 4.1: each principal has its own key, so a reuse period of a day hides hours.
#[test]
fn a_reuse_period_of_a_day_hides_an_outage_of_hours() {
    let settings = Sqs { rate_per_s: 1.0, kms_data_key_reuse_period_s: 86_400, queues: 1, ..Sqs::default() };
    let run = run(ServiceSettings::Sqs(settings), 2, 6 * HOUR_S, &[(HOUR_S..5 * HOUR_S, DOWN)]);
    let failed = run.failed(HOUR_S..5 * HOUR_S) as f64 / run.during(HOUR_S..5 * HOUR_S).count() as f64;
    assert!(failed < 0.4, "any age of a key is as likely: {failed}");
}

/// Section 4.1, MA-D22: HTTP 500 extends a cached key until the outage ends; 400 does not; the switch turns it off.
#[test]
fn sqs_extends_a_cached_key_on_500_only() {
    let fault = |exception| [(400..1_400, Fault::Fails(exception))];
    let sqs = |sqs_extend_on_500| {
        ServiceSettings::Sqs(Sqs { rate_per_s: 20.0, queues: 1, sqs_extend_on_500, ..Sqs::default() })
    };
    let extended = run(sqs(true), 3, 1_500, &fault(KmsException::KmsInternal));
    assert_eq!(extended.failed(0..1_500), 0);
    assert!(extended.count(1_000..1_400, cached) > 7_000);
    let off = run(sqs(false), 3, 1_500, &fault(KmsException::KmsInternal));
    assert_eq!(off.failed(701..1_400), off.during(701..1_400).count());
    assert!(off.failures(701..1_400).iter().all(|(visible, _)| *visible == "InternalFailure (500)"));
    let invalid = run(sqs(true), 3, 1_500, &fault(KmsException::KmsInvalidState));
    assert_eq!(invalid.failed(701..1_400), invalid.during(701..1_400).count());
}

/// Section 4.1: messages age out at retention, 4 days by default.
#[test]
fn sqs_messages_that_nobody_can_receive_are_lost_after_four_days() {
    let settings = Sqs { rate_per_s: 0.01, queues: 2, waiting_messages: 5_000, ..Sqs::default() };
    let scale = |represents| ServiceSettings::Sqs(Sqs { represents, ..settings.clone() });
    let long = [(600..5 * DAY_S, DOWN)];
    let lost = run(scale(1), 4, 5 * DAY_S, &long);
    let (count, first_at) = lost.lost("past their retention").unwrap();
    assert!((9_900..=10_000).contains(&count), "{count}");
    assert_eq!(first_at.as_secs(), 4 * DAY_S);
    assert_eq!(run(scale(7), 4, 5 * DAY_S, &long).lost("past their retention").unwrap().0, 7 * count);
    // Three days are no loss.
    let short = run(scale(1), 4, 5 * DAY_S, &[(600..3 * DAY_S, DOWN)]);
    assert!(short.lost("past their retention").is_none_or(|(count, _)| count < 10_000));
    let busy = Sqs { rate_per_s: 0.5, queues: 2, waiting_messages: 5_000, ..Sqs::default() };
    let busy = run(ServiceSettings::Sqs(busy), 4, 5 * DAY_S, &[(600..3 * DAY_S, DOWN)]);
    assert_eq!(busy.lost("past their retention"), None, "consumers empty the queues in between");
}

/// Section 4.2: publishers' keys last up to 300 s, R = (B / D) × 2P.
#[test]
fn sns_publishers_fail_within_five_minutes() {
    let settings = Sns { rate_per_s: 100.0, topics: 1, delivery_ttl_s: 86_400, ..Sns::default() };
    let run = run(ServiceSettings::Sns(settings), 5, 2_400, &[(1_500..2_100, DOWN)]);
    let calls = run.calls_during(300..1_500);
    assert!((58..=70).contains(&calls), "{calls}: 4 periods of 2 × 8");
    let last = last_cached(&run, 1_500..2_100);
    assert!((1_600..=1_800).contains(&last), "{last}");
    assert_eq!(run.failed(1_801..2_100), run.during(1_801..2_100).count());
    assert!(run.failures(1_800..2_100).iter().all(|it| it.0 == "KMSInvalidState (400)"));
    assert_eq!(run.failed(2_101..2_400), 0);
}

/// Section 4.2, MA-D23: a delivery's key lasts 600 s; then its attempts are exhausted and the message goes to the DLQ or is
/// lost; a DLQ under the same key fails too.
#[test]
fn sns_messages_accepted_before_are_lost_without_a_dead_letter_queue() {
    // Publishers hold their keys for the whole outage, so SNS goes on accepting.
    let settings = Sns { rate_per_s: 10.0, topics: 2, publish_ttl_s: 86_400, ..Sns::default() };
    let with = |dead_letter_queue| {
        let settings = Sns { dead_letter_queue, ..settings.clone() };
        run(ServiceSettings::Sns(settings), 6, 3_000, &[(1_000..2_500, DOWN)])
    };
    let none = with(DeadLetterQueue::None);
    let (lost, first_at) = none.lost("delivery attempts were exhausted").unwrap();
    // Three attempts 20 s apart after the first, which fails when the delivery's key has run out.
    let first = first_at.as_secs();
    assert!((1_060..1_200).contains(&first), "the oldest delivery keys end soon after the onset: {first}");
    // 10 messages per second: most of those after 1,600 s, half of those before.
    assert!((8_000..12_000).contains(&lost), "{lost}");
    let same = with(DeadLetterQueue::SameKey);
    assert_eq!(same.lost("delivery attempts were exhausted").unwrap().0, lost);
    let other = with(DeadLetterQueue::OtherKey);
    assert_eq!(other.lost("delivery attempts were exhausted"), None);
    assert_eq!(other.manual("dead-letter queues"), lost);
    // To SQS and Lambda SNS tries for 23 days.
    let patient = Sns { delivery_retries: 100_015, ..settings };
    let patient = run(ServiceSettings::Sns(patient), 6, 3_000, &[(1_000..2_500, DOWN)]);
    assert_eq!(patient.lost("delivery attempts were exhausted"), None);
}

/// Section 4.3: about 12 calls per 300 s for each stream and set of credentials; onset 0 to 300 s (MA-D25).
#[test]
fn kinesis_makes_twelve_calls_in_five_minutes_per_set_of_credentials() {
    let settings =
        Kinesis { rate_per_s: 200.0, streams: 1, producers: 1, consumers: 1, ..Kinesis::default() };
    let run = run(ServiceSettings::Kinesis(settings), 7, 2_400, &[(1_500..2_100, DOWN)]);
    let calls = run.calls_during(300..1_500);
    assert!((85..=100).contains(&calls), "{calls}: 4 periods of 2 × 12");
    let (left, all) = (run.count(1_645..1_655, cached), run.during(1_645..1_655).count());
    assert!((all / 5..all * 4 / 5).contains(&left), "uniform: {left} of {all} after half the time");
    assert_eq!(run.failed(1_801..2_100), run.during(1_801..2_100).count());
    assert!(run.failures(1_500..2_100).iter().all(|it| it.0 == "KMSInvalidStateException (400)"));
}

/// Section 4.3: producers without buffers lose data from the onset; iterators expire after 5 min; catching up costs calls.
#[test]
fn kinesis_loses_unbuffered_records_and_consumers_come_back_with_expired_iterators() {
    let settings = Kinesis { rate_per_s: 50.0, streams: 1, ..Kinesis::default() };
    let script = [(1_000..3_000, DOWN)];
    let lost = run(ServiceSettings::Kinesis(settings.clone()), 8, 3_400, &script);
    let (records, first_at) = lost.lost("could not put").unwrap();
    assert_eq!(first_at.as_secs().clamp(1_000, 1_060), first_at.as_secs(), "{first_at:?}");
    assert!((40_000..50_000).contains(&records), "25 per second: {records}");
    let expired: Vec<_> = lost
        .failures(3_000..3_400)
        .into_iter()
        .filter(|it| it.0 == "ExpiredIteratorException (400)")
        .collect();
    assert_eq!(expired.len(), 2, "one of each consumer: {expired:?}");

    let buffered = Kinesis { producers_buffer: true, ..settings };
    let buffered = run(ServiceSettings::Kinesis(buffered), 8, 3_400, &script);
    assert_eq!(buffered.lost("could not put"), None);
    let (before, catching_up) = (buffered.calls_during(600..900), buffered.calls_during(3_030..3_330));
    assert!(catching_up > before * 10, "behind the tip each get calls: {before} and {catching_up}");
}

/// Section 4.3: unread records expire at retention, 24 h by default.
#[test]
fn kinesis_records_expire_after_24_hours() {
    // Producers' keys outlive the outage, consumers come too late.
    let settings =
        Kinesis { rate_per_s: 0.5, get_share: 0.001, streams: 1, consumers: 1, ..Kinesis::default() };
    let run = run(ServiceSettings::Kinesis(settings), 9, 30 * HOUR_S, &[(HOUR_S..28 * HOUR_S, DOWN)]);
    let (count, first_at) = run.lost("past their retention, unread").unwrap();
    assert!((24 * HOUR_S..24 * HOUR_S + 400).contains(&first_at.as_secs()), "{first_at:?}");
    assert!((1_000..=2_100).contains(&count), "those of the first hour: {count}");
}

/// Section 5.3: an asynchronous event that meets a KMS error is tried for up to 6 h, then goes to the DLQ or is lost.
#[test]
fn asynchronous_events_of_lambda_are_lost_after_six_hours() {
    let settings =
        Lambda { rate_per_s: 1.0, functions: 2, async_share: 1.0, fresh_share: 1.0, ..Lambda::default() };
    let script = [(HOUR_S..9 * HOUR_S, DOWN)];
    let lost = run(ServiceSettings::Lambda(settings.clone()), 10, 10 * HOUR_S, &script);
    assert_eq!(lost.failed(0..10 * HOUR_S), 0, "the invocation itself is accepted");
    let (events, first_at) = lost.lost("past their maximum age").unwrap();
    // Those of the first two hours of the outage.
    assert!((6_900..7_700).contains(&events), "{events}");
    assert!((7 * HOUR_S..7 * HOUR_S + 120).contains(&first_at.as_secs()), "{first_at:?}");
    // Attempts: 1 s at first, 5 min in the end.
    let attempts = lost.calls_during(4 * HOUR_S..8 * HOUR_S);
    assert!((90..=100).contains(&attempts), "two functions every 5 min: {attempts}");
    let kept = Lambda { dead_letter_queue: DeadLetterQueue::OtherKey, ..settings.clone() };
    let kept = run(ServiceSettings::Lambda(kept), 10, 10 * HOUR_S, &script);
    assert_eq!((kept.lost("maximum age"), kept.manual("dead-letter queues")), (None, events));
    // Five hours cost nothing.
    let short = run(ServiceSettings::Lambda(settings), 10, 10 * HOUR_S, &[(HOUR_S..6 * HOUR_S, DOWN)]);
    assert_eq!(short.lost("maximum age"), None);
}

/// Section 5.3: an update of a function's configuration fails and must be made again.
#[test]
fn updates_of_functions_fail_and_are_left_to_do() {
    let settings = Lambda { rate_per_s: 10.0, update_share: 0.1, ..Lambda::default() };
    let run = run(ServiceSettings::Lambda(settings), 11, 300, &[(100..200, DOWN)]);
    let failed =
        run.failures(100..200).into_iter().filter(|it| it.0 == "update failed: InvalidStateKMSKey").count();
    assert!((70..130).contains(&failed), "{failed}");
    assert_eq!(run.manual("updates of functions"), failed as u64);
    assert!(run.calls.iter().any(|call| call.operation == KmsOperation::Encrypt && call.failure.is_some()));
}

/// Section 5.6, MA-D32: reads and ingest for 300 s, then ServiceUnavailableException; agents buffer, then drop.
#[test]
fn agents_drop_log_events_when_their_buffers_are_full() {
    let settings = CloudwatchLogs {
        rate_per_s: 50.0,
        log_groups: 1,
        principals: 4,
        agent_buffer_events: 50_000,
        ..CloudwatchLogs::default()
    };
    let outage = run(ServiceSettings::CloudwatchLogs(settings.clone()), 12, 2_000, &[(500..1_500, DOWN)]);
    let last = last_cached(&outage, 500..1_500);
    assert!((600..=800).contains(&last), "{last}");
    assert_eq!(outage.failed(801..1_500), outage.during(801..1_500).count());
    assert!(outage.failures(500..1_500).iter().all(|it| it.0 == "ServiceUnavailableException (500)"));
    assert_eq!(outage.failed(1_501..2_000), 0);
    // 47.5 batches of 50 per second for 850 s on average, less four buffers.
    let (dropped, first_at) = outage.lost("dropped by agents").unwrap();
    assert!((1_500_000..2_100_000).contains(&dropped), "{dropped}");
    let first = first_at.as_secs();
    assert!((500 + 70..800 + 100).contains(&first), "50,000 events fill in 84 s: {first}");
    let roomy = CloudwatchLogs { agent_buffer_events: 1_000_000, ..settings };
    let roomy = run(ServiceSettings::CloudwatchLogs(roomy), 12, 2_000, &[(500..1_500, DOWN)]);
    assert_eq!(roomy.lost("dropped"), None);
}

/// Section 9: failures are not cached (MA-D34), so a partial outage breaks a principal for a short time only.
#[test]
fn a_partial_outage_fails_few_requests_of_cached_services() {
    let fault = Fault::FailsEvery(5, KmsException::KmsInvalidState);
    for settings in [
        ServiceSettings::Sqs(Sqs::default()),
        ServiceSettings::Sns(Sns::default()),
        ServiceSettings::Kinesis(Kinesis::default()),
        ServiceSettings::CloudwatchLogs(CloudwatchLogs::default()),
    ] {
        let run = run(settings.clone(), 13, 1_500, &[(500..1_500, fault)]);
        let share = run.failed(500..1_500) as f64 / run.during(500..1_500).count() as f64;
        assert!(share < 0.02, "{}: {share}", settings.name());
    }
}
