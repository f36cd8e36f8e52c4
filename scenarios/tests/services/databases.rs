//! Databases against the reference: DynamoDB (3.3), RDS (3.4), Redshift (3.5), with their clocks of hours to weeks.

use crate::scripted_kms::{DOWN, Fault, Run, held, run};
use scenarios::kms::KmsException;
use scenarios::services::{DynamoDb, Rds, Redshift, ServiceSettings};
use std::time::Duration;

const HOUR_S: u64 = 3_600;
const DAY_S: u64 = 24 * HOUR_S;
/// A poll in between, and one more.
const POLLS_S: u64 = 121;

fn only(times: &[Duration]) -> Duration {
    assert_eq!(times.len(), 1, "{times:?}");
    times[0]
}

/// Section 3.3: the status recovers 18 to 57 min after the key, though reads work at once.
#[test]
fn dynamodb_reads_at_once_and_its_status_recovers_after_18_to_57_minutes() {
    let settings = DynamoDb { rate_per_s: 2.0, tables: 40, ..DynamoDb::default() };
    let run = run(ServiceSettings::DynamoDb(settings), 1, 14_000, &[(1_000..7_000, DOWN)]);
    assert_eq!(run.became("INACCESSIBLE_ENCRYPTION_CREDENTIALS").len(), 40);
    assert_eq!(run.failed(7_001..14_000), 0);
    let recovered = run.became("ACTIVE again");
    assert_eq!(recovered.len(), 40);
    let after: Vec<u64> = recovered.iter().map(|at| at.as_secs() - 7_000).collect();
    let (first, last) = (after.iter().min().unwrap(), after.iter().max().unwrap());
    assert!((1_080..1_500).contains(first) && (2_900..3_420 + POLLS_S).contains(last), "{first} to {last}");
    assert!(run.narrative.lasting_damage.contains("the status was ACTIVE again from"));
}

fn eight_days(settings: DynamoDb) -> Run {
    let quiet = DynamoDb { rate_per_s: 0.01, tables: 1, check_every_s: 600, ..settings };
    run(ServiceSettings::DynamoDb(quiet), 2, 8 * DAY_S, &[(HOUR_S..8 * DAY_S - HOUR_S, DOWN)])
}

/// Section 3.3: the replica leaves its global table after 20 h and the table is archived after 7 days, both counted from
/// `InaccessibleEncryptionDateTime`; the archive can only be restored to a new table.
#[test]
fn a_replica_goes_after_20_hours_and_a_table_is_archived_after_7_days() {
    let run = eight_days(DynamoDb { global_tables: 1, ..DynamoDb::default() });
    let inaccessible = only(&run.became("INACCESSIBLE_ENCRYPTION_CREDENTIALS")).as_secs();
    assert!((HOUR_S + 720..HOUR_S + 4_500 + 1_201).contains(&inaccessible), "{inaccessible}");
    let removed = only(&run.became("replica removed")).as_secs() - inaccessible;
    assert!((20 * HOUR_S..=20 * HOUR_S + 601).contains(&removed), "{removed}");
    let archived = only(&run.became("ARCHIVED")).as_secs() - inaccessible;
    assert!((7 * DAY_S..=7 * DAY_S + 601).contains(&archived), "{archived}");
    assert_eq!(run.manual("global-table replicas"), 1);
    assert_eq!(run.manual("archived tables"), 1);
    // The key is back in the last hour, and the table is not.
    let failures = run.failures(8 * DAY_S - HOUR_S..8 * DAY_S);
    assert_eq!(failures.len(), run.during(8 * DAY_S - HOUR_S..8 * DAY_S).count());
    assert!(failures.iter().all(|it| *it == ("table is ARCHIVED", 0)), "{failures:?}");
    let told = &run.narrative.lasting_damage;
    assert!(told.contains("1 table was archived after 7 days"), "{told}");
    // Once it said in one breath that the archived table's reads and writes work as soon as the key does.
    assert!(!told.contains("as soon as the key does"), "{told}");
}

/// Section 3.3 and rule 1.4: a clock runs from DynamoDB's own status change, and a recovery that it notices resets it.
#[test]
fn a_recovery_that_dynamodb_notices_resets_the_clocks() {
    let settings = DynamoDb { rate_per_s: 0.01, tables: 1, global_tables: 1, ..DynamoDb::default() };
    let script = [(HOUR_S..20 * HOUR_S, DOWN), (22 * HOUR_S..40 * HOUR_S, DOWN)];
    let noticed = run(ServiceSettings::DynamoDb(settings.clone()), 3, 45 * HOUR_S, &script);
    assert_eq!(noticed.became("INACCESSIBLE_ENCRYPTION_CREDENTIALS").len(), 2);
    assert!(noticed.became("replica removed").is_empty());
    // Ten minutes are too short for it.
    let script = [(HOUR_S..20 * HOUR_S, DOWN), (20 * HOUR_S + 600..40 * HOUR_S, DOWN)];
    let unnoticed = run(ServiceSettings::DynamoDb(settings), 3, 45 * HOUR_S, &script);
    assert_eq!(unnoticed.became("INACCESSIBLE_ENCRYPTION_CREDENTIALS").len(), 1);
    assert_eq!(unnoticed.became("replica removed").len(), 1);
}

/// Section 3.3: a table still CREATING when its key dies vanishes about 59 min later, without an error.
#[test]
fn tables_that_were_being_created_vanish_after_59_minutes() {
    let settings = DynamoDb { creates_per_h: 3_600, creating_s: 60, rate_per_s: 0.1, ..DynamoDb::default() };
    let run = run(ServiceSettings::DynamoDb(settings), 4, 8_000, &[(1_000..1_500, DOWN)]);
    let (vanished, first_at) = run.lost("vanished while CREATING").unwrap();
    // One created per second, a minute each.
    assert!((40..=80).contains(&vanished), "{vanished}");
    let first = first_at.as_secs();
    assert!((940 + 3_540..1_010 + 3_540).contains(&first), "{first}");
}

/// Likewise: a KMS that throttles, or fails by itself, has not lost the key.
#[test]
fn tables_that_are_being_created_outlive_throttling() {
    for exception in [KmsException::Throttling, KmsException::KmsInternal] {
        let settings =
            DynamoDb { creates_per_h: 3_600, creating_s: 60, rate_per_s: 0.1, ..DynamoDb::default() };
        let fault = Fault::Fails(exception);
        let run = run(ServiceSettings::DynamoDb(settings), 4, 8_000, &[(1_000..1_500, fault)]);
        assert_eq!(run.lost("vanished while CREATING"), None);
    }
}

/// Section 3.3: 500 and throttling have codes of their own, and say nothing about the key.
#[test]
fn throttling_changes_no_status() {
    for (exception, code) in [
        (KmsException::KmsInternal, "InternalServerError (500)"),
        (KmsException::Throttling, "ThrottlingException (400)"),
    ] {
        let settings = DynamoDb { rate_per_s: 1.0, ..DynamoDb::default() };
        let fault = Fault::Fails(exception);
        let run = run(ServiceSettings::DynamoDb(settings), 5, 12_000, &[(1_000..10_000, fault)]);
        assert_eq!(run.damage, []);
        let failures = run.failures(1_332..10_000);
        assert!(!failures.is_empty() && failures.iter().all(|(visible, _)| *visible == code));
    }
}

/// Section 3.4: stopped 2 h after detection (10 to 60 min, MA-D19), startable for 7 days, then terminal.
#[test]
fn rds_instances_not_started_within_seven_days_are_lost() {
    let settings = Rds { rate_per_s: 0.01, start_share: 0.0, instances: 4, ..Rds::default() };
    let run = run(ServiceSettings::Rds(settings), 6, 9 * DAY_S, &[(HOUR_S..10 * HOUR_S, DOWN)]);
    let (stopped, terminal) = (run.became("stopped"), run.became("terminal"));
    assert_eq!((stopped.len(), terminal.len()), (4, 4));
    for (stop, end) in stopped.iter().zip(&terminal) {
        assert!((HOUR_S + 7_800..HOUR_S + 10_800 + POLLS_S).contains(&stop.as_secs()), "{stop:?}");
        let days = (*end - *stop).as_secs();
        assert!((7 * DAY_S..7 * DAY_S + POLLS_S).contains(&days), "{days}");
    }
    assert_eq!(run.lost("terminal state").unwrap().0, 4);
    assert_eq!((run.manual("to start"), run.manual("restore from backup")), (0, 4));
    let told = &run.narrative.lasting_damage;
    assert!(told.contains("4 instances are beyond recovery"), "{told}");
    assert!(!told.contains("until an operator calls"), "nobody can start these: {told}");
    let code = "connection refused: instance inaccessible-encryption-credentials";
    assert!(run.failures(8 * DAY_S..9 * DAY_S).iter().all(|it| *it == (code, 0)));
}

/// Section 3.4: it does not restart by itself; an operator calls start-db-instance for each.
#[test]
fn an_operator_starts_rds_instances_so_long_after_the_key_is_back() {
    let settings = Rds { rate_per_s: 1.0, start_share: 0.0, operator_delay_s: HOUR_S, ..Rds::default() };
    let run = run(ServiceSettings::Rds(settings), 7, 10 * HOUR_S, &[(600..5 * HOUR_S, DOWN)]);
    assert_eq!(run.became("stopped").len(), 20);
    let started = run.became("started by an operator");
    assert_eq!(started.len(), 20);
    for at in &started {
        assert!((6 * HOUR_S..6 * HOUR_S + POLLS_S).contains(&at.as_secs()), "{at:?}");
    }
    assert_eq!(run.manual("to start"), 0);
    let before = run.failed(5 * HOUR_S..6 * HOUR_S);
    assert_eq!(before, run.during(5 * HOUR_S..6 * HOUR_S).count());
    assert_eq!(run.failed(6 * HOUR_S + POLLS_S..10 * HOUR_S), 0);
    assert!(run.narrative.lasting_damage.contains("An operator started 20 instances"));
}

/// Section 3.4, MA-D20: what cannot be stopped is terminal at once; without backups it runs on until maintenance.
#[test]
fn rds_instances_that_cannot_be_stopped_or_have_no_backups_go_other_ways() {
    let settings = Rds {
        rate_per_s: 0.1,
        start_share: 0.0,
        instances: 30,
        unstoppable: 10,
        without_backups: 10,
        maintenance_every_s: DAY_S,
        ..Rds::default()
    };
    let run = run(ServiceSettings::Rds(settings), 8, 3 * DAY_S, &[(HOUR_S..2 * DAY_S, DOWN)]);
    let within = |at: &Duration| at.as_secs() < HOUR_S + 10_800 + POLLS_S;
    let terminal = run.became("terminal");
    assert!(terminal.len() == 10 && terminal.iter().all(within), "{terminal:?}");
    let stopped: Vec<_> = run.damage.iter().filter(|it| it.what == "stopped").collect();
    let plain = stopped.iter().filter(|it| it.resource >= 20);
    assert!(plain.clone().count() == 10 && plain.clone().all(|it| within(&it.at)));
    // Of ten with a maintenance a day, most have had one after two days, at any time.
    let bare: Vec<_> = stopped.iter().filter(|it| (10..20).contains(&it.resource)).collect();
    assert!((5..=10).contains(&bare.len()), "{}", bare.len());
    assert!(bare.iter().any(|it| !within(&it.at)));
}

/// Section 3.4: once maintenance has taken the volumes off its host, an instance without backups is as dead as the others: no
/// host can attach them, and RDS stops it in its time. With the key back in time it comes back by itself.
#[test]
fn maintenance_takes_an_rds_instance_without_backups_down() {
    let settings = Rds {
        rate_per_s: 1.0,
        start_share: 0.0,
        without_backups: 20,
        maintenance_every_s: HOUR_S,
        ..Rds::default()
    };
    let outage = |hours: u64| {
        let settings = ServiceSettings::Rds(settings.clone());
        run(settings, 8, 8 * HOUR_S, &[(HOUR_S..(1 + hours) * HOUR_S, DOWN)])
    };
    let short = outage(2);
    let down = short.became("down: its volumes cannot be attached after maintenance");
    assert!((12..=20).contains(&down.len()), "most of twenty in two hours: {}", down.len());
    assert!(down.iter().all(|at| (HOUR_S..3 * HOUR_S + POLLS_S).contains(&at.as_secs())), "{down:?}");
    let failures = short.failures(HOUR_S..3 * HOUR_S);
    assert!(!failures.is_empty());
    assert!(failures.iter().all(|it| *it == ("connection refused: no host can attach the volumes", 0)));
    assert!(short.became("stopped").is_empty());
    assert_eq!(short.failed(3 * HOUR_S + POLLS_S..8 * HOUR_S), 0);

    let long = outage(5);
    let stopped = long.became("stopped");
    assert!((15..=20).contains(&stopped.len()), "{}", stopped.len());
    assert_eq!(long.manual("to start"), stopped.len() as u64);
}

/// Section 3.5, MA-D21: inaccessible after 60 min, restored by itself with the key; a reboot fails at once.
#[test]
fn redshift_is_set_aside_after_an_hour_and_restored_by_itself() {
    let settings = Redshift { rate_per_s: 2.0, reboot_share: 0.1, ..Redshift::default() };
    let run = run(ServiceSettings::Redshift(settings), 9, 10_000, &[(1_000..7_000, DOWN)]);
    assert_eq!(run.failed(0..1_000), 0);
    let reboots = run.failures(1_000..4_600);
    assert!((200..1_000).contains(&reboots.len()), "{}", reboots.len());
    assert!(reboots.iter().all(|it| *it == ("DependentServiceUnavailableFault (400)", 1)), "{reboots:?}");
    assert!(run.count(1_000..4_600, held) > 5_000, "running queries are not affected");
    let aside = run.became("inaccessible-kms-key");
    assert_eq!(aside.len(), 5);
    assert!(aside.iter().all(|at| (4_600..4_600 + POLLS_S).contains(&at.as_secs())), "{aside:?}");
    let failures = run.failures(4_800..7_000);
    assert_eq!(failures.len(), run.during(4_800..7_000).count());
    assert!(failures.iter().all(|it| *it == ("warehouse status inaccessible-kms-key", 0)));
    assert_eq!(run.failed(7_000 + POLLS_S..10_000), 0);
    assert_eq!((run.lost("warehouses"), run.manual("warehouses")), (None, 0));
    let told = &run.narrative.lasting_damage;
    assert!(told.contains("restored by themselves") && !told.contains("deleted"), "{told}");
}

/// Section 3.5: after 14 days without the key the warehouse is deleted, and only its backup remains.
#[test]
fn a_redshift_warehouse_is_deleted_after_14_days() {
    let settings = Redshift { rate_per_s: 0.01, check_every_s: 600, ..Redshift::default() };
    let run = run(ServiceSettings::Redshift(settings), 10, 16 * DAY_S, &[(HOUR_S..15 * DAY_S, DOWN)]);
    let (lost, first_at) = run.lost("warehouses deleted").unwrap();
    assert_eq!((lost, run.manual("warehouses to restore")), (5, 5));
    let days = first_at.as_secs() - run.became("inaccessible-kms-key")[0].as_secs();
    assert!((14 * DAY_S..14 * DAY_S + 601).contains(&days), "{days}");
    assert!(run.narrative.lasting_damage.contains("5 warehouses were deleted 14 days later"));
    assert!(run.failures(15 * DAY_S..16 * DAY_S).iter().all(|it| *it == ("warehouse deleted", 0)));
}

/// Section 3.5 and MA-D4: throttling has its own fault.
#[test]
fn redshift_has_a_fault_for_throttling() {
    let settings = Redshift { reboot_share: 1.0, ..Redshift::default() };
    let fault = Fault::Fails(KmsException::Throttling);
    let run = run(ServiceSettings::Redshift(settings), 11, 60, &[(20..40, fault)]);
    let failures = run.failures(20..40);
    assert!(failures.iter().all(|(it, _)| *it == "DependentServiceRequestThrottlingFault (400)"));
    assert_eq!(failures[0].1, 3, "three attempts");
}
