//! Service settings as a scenario file gives them: defaults, unknown keys, ranges.

use scenarios::services::ServiceSettings;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use std::collections::BTreeSet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    workload: Vec<ServiceSettings>,
}

fn parse(toml: &str) -> Result<ServiceSettings, String> {
    let mut scenario: Scenario = toml::from_str(toml).map_err(|error| error.to_string())?;
    Ok(scenario.workload.remove(0))
}

#[test]
fn a_kind_alone_gives_the_defaults() {
    let mut titles = BTreeSet::new();
    let mut fleet = ServiceSettings::default_fleet();
    for kind in ServiceSettings::KINDS {
        let parsed = parse(&format!("[[workload]]\nkind = \"{kind}\"\n")).unwrap();
        assert_eq!(parsed.name(), kind);
        assert_eq!(parsed.check(), Ok(()), "{kind}");
        assert!(!parsed.assumptions().is_empty(), "{kind}");
        assert!(titles.insert(parsed.title()), "{} is the title of two kinds", parsed.title());
        fleet.retain(|service| *service != parsed);
    }
    assert_eq!(fleet, [], "the default fleet has the default parameters");
    assert_eq!(
        ServiceSettings::KINDS.iter().collect::<BTreeSet<_>>().len(),
        21,
        "every row of the reference"
    );
}

#[test]
fn numbers_may_be_written_whole_and_kind_may_come_last() {
    let ServiceSettings::S3BucketKeys(settings) =
        parse("[[workload]]\nttl_s = 60\nrate_per_s = 20\nkind = \"s3-bucket-keys\"\n").unwrap()
    else {
        panic!("another kind");
    };
    assert_eq!((settings.ttl_s, settings.rate_per_s, settings.requesters), (60, 20.0, 8));
}

#[test]
fn an_unknown_key_is_refused_for_every_kind_with_its_place_and_the_known_ones() {
    for kind in ServiceSettings::KINDS {
        let error = parse(&format!("\n[[workload]]\nkind = \"{kind}\"\nrate_per_sec = 5\n")).unwrap_err();
        assert!(error.contains("unknown field `rate_per_sec`"), "{error}");
        assert!(error.contains("`rate_per_s`"), "{error}");
        assert!(error.contains("line 2"), "{error}");
    }
    // A key of another kind is as unknown as a misspelt one.
    let error = parse("[[workload]]\nkind = \"ebs\"\ntables = 3\n").unwrap_err();
    assert!(error.contains("unknown field `tables`"), "{error}");
}

/// Parses a lone table the way that keeps the place of every key; an error comes with the text it points at.
fn parse_with_places(kind: &str, toml: &str) -> Result<ServiceSettings, (String, String)> {
    let table = DeTable::parse(toml).unwrap();
    let rest = Spanned::new(table.span(), DeValue::Table(table.into_inner())).into_deserializer();
    ServiceSettings::deserialize_kind(kind, rest)
        .map_err(|error| (error.message().to_owned(), toml[error.span().unwrap()].to_owned()))
}

#[test]
fn a_loader_that_keeps_places_gets_errors_that_point_at_the_key_or_value() {
    for kind in ServiceSettings::KINDS {
        assert_eq!(
            parse_with_places(kind, "").unwrap(),
            parse(&format!("[[workload]]\nkind = \"{kind}\"\n")).unwrap()
        );
        let (error, at) = parse_with_places(kind, "rate_per_s = 5\nrate_per_sec = 5\n").unwrap_err();
        assert!(error.contains("unknown field `rate_per_sec`"), "{error}");
        assert_eq!(at, "rate_per_sec");
    }
    let (error, at) = parse_with_places("s3", "objects = 5\nrate_per_s = \"fast\"\n").unwrap_err();
    assert!(error.contains("expected f64"), "{error}");
    assert_eq!(at, "\"fast\"");
}

#[test]
fn an_unknown_or_missing_kind_and_a_wrong_type_are_refused() {
    let error = parse("[[workload]]\nkind = \"sqz\"\n").unwrap_err();
    assert!(ServiceSettings::KINDS.iter().all(|kind| error.contains(kind)), "{error}");
    let error = parse("[[workload]]\nrate_per_s = 5\n").unwrap_err();
    assert!(error.contains("missing field `kind`"), "{error}");
    let error = parse("[[workload]]\nkind = \"s3\"\nrate_per_s = \"fast\"\n").unwrap_err();
    assert!(error.contains("expected f64"), "{error}");
    let error = parse("[[workload]]\nkind = \"s3-bucket-keys\"\nttl_s = -1\n").unwrap_err();
    assert!(error.contains("-1"), "{error}");
}

#[test]
fn a_value_out_of_range_is_refused_with_what_to_write_instead() {
    let wrong = [
        ("s3", "rate_per_s = 0", "rate_per_s is 0; write a number above 0 and at most 100000"),
        ("s3", "rate_per_s = nan", "rate_per_s is NaN"),
        ("ebs", "rate_per_s = 100001", "rate_per_s is 100001"),
        ("s3", "write_share = 1.5", "write_share is 1.5; write a share from 0 to 1"),
        ("s3", "objects = 0", "objects is 0; write a whole number from 1 to 500"),
        ("s3", "in_flight_max = 0", "in_flight_max is 0"),
        ("s3-bucket-keys", "requesters = 17", "requesters is 17; write a whole number from 1 to 16"),
        ("s3-bucket-keys", "write_share = 0.7\nold_read_share = 0.5", "together they can be at most 1"),
        ("s3-bucket-keys", "ttl_s = 0", "ttl_s is 0; write whole seconds from 1 to 86400"),
        ("ec2-launch", "volumes_per_launch = 21", "volumes_per_launch is 21"),
        ("lambda", "idle_expiry_min_s = 3000", "idle_expiry_min_s is 3000, above idle_expiry_max_s = 2700"),
        ("lambda", "fresh_share = -0.1", "fresh_share is -0.1"),
        ("dynamodb", "status_after_max_s = 100000", "status_after_max_s is 100000"),
        ("rds", "instances = 501", "instances is 501"),
        ("rds", "unstoppable = 21", "unstoppable is 21, more than there are: instances = 20"),
        (
            "dynamodb",
            "archive_after_s = 0",
            "archive_after_s is 0; write whole seconds from 1 to 2592000 (30 days)",
        ),
        ("s3", "represents = 0", "represents is 0; write a whole number from 1 to 1000000"),
        ("sqs", "kms_data_key_reuse_period_s = 59", "write whole seconds from 60 to 86400 (one day)"),
        ("sqs", "message_retention_s = 1209601", "write whole seconds from 60 to 1209600 (14 days)"),
        (
            "sqs",
            "producers = 10\nconsumers = 10",
            "consumers and producers add up to 20; together they can be at most 16",
        ),
        ("kinesis", "retention_s = 3600", "retention_s is 3600; write whole seconds from 86400"),
        ("secrets-manager", "secrets_manager_ttl_s = 301", "write whole seconds from 0 to 300"),
        ("lambda", "maximum_event_age_s = 21601", "write whole seconds from 60 to 21600"),
        ("efs", "onset_min_s = 4000", "onset_min_s is 4000, above onset_max_s = 3600"),
        ("ecr", "layers = 128", "layers is 128"),
    ];
    for (kind, lines, expected) in wrong {
        let settings = parse(&format!("[[workload]]\nkind = \"{kind}\"\n{lines}\n")).unwrap();
        let error = settings.check().unwrap_err().to_string();
        assert!(error.starts_with(&format!("service \"{kind}\": ")), "{error}");
        assert!(error.contains(expected), "{error}\nexpected {expected}");
    }
}
