//! Cedar policies: which texts are refused and where, what they decide, that they agree with the allow-list, and that
//! what they deny never reaches the HSM.

#![cfg(feature = "cedar")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail loudly")]

mod support;

use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;
use support::{World, encrypt, metadata, with, without};
use xks_proxy::app::{KeyStore, Limits};
use xks_proxy::authorise::cedar::{DEFAULT_SCHEMA, Policies, Text};
use xks_proxy::authorise::{Access, Asked, Mode, Pattern, Rule};
use xks_proxy::events::Operation;
use xks_proxy::key::KeyId;

const EVERYTHING: &str = "permit(principal, action, resource);";
const ALICE: &str = "arn:aws:iam::123456789012:user/Alice";

fn parse(policies: &str) -> Policies {
    Policies::parse(policies, None, "main").expect(policies)
}

/// What an operator reads, as `config` puts it together.
fn refusal(policies: &str, schema: Option<&str>) -> String {
    let remark = Policies::parse(policies, schema, "main").expect_err(policies);
    let (line, column) = remark.place.unwrap_or_default();
    format!("{:?} {line}:{column} {}", remark.text, remark.message)
}

struct Call<'a> {
    key: &'a str,
    operation: Operation,
    principal: &'a str,
    kms_key: Option<&'a str>,
    kms_operation: &'a str,
    via: Option<&'a str>,
}

const CALL: Call<'static> = Call {
    key: "orders",
    operation: Operation::Decrypt,
    principal: ALICE,
    kms_key: Some("arn:aws:kms:eu-west-1:123456789012:key/1"),
    kms_operation: "Decrypt",
    via: None,
};

impl Call<'_> {
    fn ask<T>(&self, ask: impl FnOnce(&Asked<'_>) -> T) -> T {
        ask(&Asked {
            key: &KeyId::parse(self.key).unwrap(),
            operation: self.operation,
            principal_arn: self.principal,
            kms_key_arn: self.kms_key,
            kms_operation: self.kms_operation,
            via_service: self.via,
            source_vpc: None,
            source_vpce: None,
            access_key_id: "BETWEEN2TENAND3TENCHARACTERS",
        })
    }

    /// The names that admit, or the log's words for a denial.
    fn put_to(&self, policies: &Policies) -> Result<Vec<String>, String> {
        self.ask(|asked| match policies.decide(asked) {
            Ok(names) => Ok(names.into_iter().map(str::to_owned).collect()),
            Err(refused) => Err(refused.to_string()),
        })
    }
}

// ---------------------------------------------------------------------------------------------- Texts

#[test]
fn the_example_fits_the_schema_we_ship() {
    let policies = parse(include_str!("../policy/example.cedar"));
    assert_eq!((policies.count(), policies.warnings()), (5, &[][..]));
}

/// Each row: a text, and what is said of it. Cedar's own words are quoted up to where they matter.
const MISTAKES: &[(&str, &str)] = &[
    ("", "Policies 0:0 there is no policy, which would deny every request"),
    ("// nothing yet\n", "Policies 0:0 there is no policy, which would deny every request"),
    ("permit(principal, action, resource)", "Policies 1:36 unexpected end of input"),
    ("permit(principal, action, resource);\n\n  forbit(principal, action, resource);", "Policies 3:3 "),
    (
        "permit(principal, action, resource)\nwhen { principal.name == \"x\" };",
        "Policies 2:8 for policy `policy0`, attribute `name` on entity type `Xks::Principal` not found",
    ),
    (
        "permit(principal, action, resource)\nwhen { context.kmsKeyArn == \"x\" };",
        "Policies 2:8 for policy `policy0`, unable to guarantee safety of access to optional attribute `kmsKeyArn`",
    ),
    (
        "permit(principal, action == Xks::Action::\"Encypt\", resource);",
        "Policies 1:29 for policy `policy0`, unrecognized action `Xks::Action::\"Encypt\"` (did you mean \
         `Xks::Action::\"Encrypt\"`?)",
    ),
    (
        "permit(principal == User::\"a\", action, resource);",
        "Policies 1:21 for policy `policy0`, unrecognized entity type `User`",
    ),
    (
        "permit(principal, action, resource) when { resource.id == 7 };",
        "Policies 1:44 the types Long and String are not compatible",
    ),
    (
        "permit(principal, action, resource);\nforbid(principal, action, resource)\n  when { context has kmsViaServce };",
        "Policies 2:1 for policy `policy1`, policy is impossible",
    ),
    (
        "@id(\"one\")\npermit(principal == ?principal, action, resource);",
        "Policies 1:1 this policy has a slot (?principal or ?resource)",
    ),
    (
        "@id(\"one\") permit(principal, action, resource);\n\n @id(\"one\") forbid(principal, action, resource);",
        "Policies 3:2 the id \"one\" stands here for the second time",
    ),
    (
        "permit(principal, action, resource); @id(\"policy0\") forbid(principal, action, resource);",
        "Policies 1:38 the id \"policy0\" stands here for the second time",
    ),
];

#[test]
fn every_mistake_has_its_place() {
    for (text, expected) in MISTAKES {
        let said = refusal(text, None);
        assert!(said.starts_with(expected), "{text}\n said: {said}\nwants: {expected}");
    }
}

/// The log of a denial would name nothing.
#[test]
fn a_blank_id_is_none() {
    let policies = parse("@id(\" \") permit(principal, action, resource);");
    let key = KeyId::parse("foo").unwrap();
    let asked = Asked {
        key: &key,
        operation: Operation::Encrypt,
        principal_arn: ALICE,
        kms_key_arn: None,
        kms_operation: "Encrypt",
        via_service: None,
        source_vpc: None,
        source_vpce: None,
        access_key_id: "",
    };
    assert!(matches!(policies.decide(&asked), Ok(names) if names.iter().eq(&["policy0"])));
}

#[test]
fn a_schema_is_held_against_what_the_proxy_says_of_requests() {
    let with = |from: &str, to: &str| {
        assert!(DEFAULT_SCHEMA.contains(from), "{from}");
        refusal(EVERYTHING, Some(&DEFAULT_SCHEMA.replace(from, to)))
    };
    assert!(with("entity Account;", "entity Account").starts_with("Schema "), "syntax");
    for (from, to) in [
        ("namespace Xks", "namespace Yks"),
        ("arn: String", "arn: String, role: String"),
        ("arn: String", "arn: Long"),
        ("kmsKeyArn?: String", "kmsKeyArn: String"),
        ("accessKeyId: String", "accessKeyId: String, hour: Long"),
        ("sourceVpce?: String,", ""),
        ("sourceVpc?: String,", ""),
        ("kmsViaService?: String,", ""),
        ("kmsKeyArn?: String,", ""),
        ("GetKeyMetadata, Encrypt", "Encrypt"),
        ("entity Key in [KeyStore]", "entity Key"),
        ("entity Principal in [Account]", "entity Principal"),
    ] {
        let said = with(from, to);
        assert!(
            said.contains("the schema does not fit what the proxy says of a request"),
            "{from} → {to}: {said}"
        );
        assert!(said.starts_with("Schema "), "{said}");
    }
}

#[test]
fn a_schema_of_ones_own_may_group_actions() {
    let schema = DEFAULT_SCHEMA.replace(
        "action GetKeyMetadata, Encrypt, Decrypt appliesTo",
        "action Use;\n  action GetKeyMetadata, Encrypt, Decrypt in [Use] appliesTo",
    );
    let text = r#"permit(principal, action in Xks::Action::"Use", resource);"#;
    let policies = Policies::parse(text, Some(&schema), "main").unwrap();
    assert_eq!(CALL.put_to(&policies), Ok(vec!["policy0".into()]));
}

#[test]
fn the_legal_and_odd_is_warned_of() {
    let only_forbids = parse("forbid(principal, action, resource);");
    assert_eq!(only_forbids.warnings().len(), 1);
    assert_eq!(only_forbids.warnings()[0].message, "no policy is a `permit`, so every request is denied");
    assert_eq!(only_forbids.warnings()[0].text, Text::Policies);
    let look_alike =
        parse(&format!("{EVERYTHING}\nforbid(principal, action, resource == Xks::Key::\"\u{202e}foo\");"));
    assert_eq!(look_alike.warnings().len(), 1, "a character that turns the direction of writing");
    assert_eq!(look_alike.warnings()[0].place.map(|(line, _)| line), Some(2), "{:?}", look_alike.warnings());
}

// ---------------------------------------------------------------------------------------------- Decisions

#[test]
fn az_2_a_denial_names_the_policies_that_forbid_or_says_that_none_permits() {
    let policies = parse(
        r#"
        @id("ours") permit(principal in Xks::Account::"123456789012", action, resource in Xks::KeyStore::"main");
        @id("b") forbid(principal, action, resource) when { resource.id like "b*" };
        @id("also b") forbid(principal, action, resource == Xks::Key::"both");
        forbid(principal, action == Xks::Action::"Encrypt", resource);
        "#,
    );
    let refused = |text: &str| Err(text.to_owned());
    assert_eq!(CALL.put_to(&policies), Ok(vec!["ours".into()]));
    assert_eq!(
        Call { key: "b1", ..CALL }.put_to(&policies),
        refused(r#"the policy "b" forbids the request"#)
    );
    assert_eq!(
        Call { key: "both", ..CALL }.put_to(&policies),
        refused(r#"the policies ["also b", "b"] forbid the request"#)
    );
    assert_eq!(
        Call { operation: Operation::Encrypt, ..CALL }.put_to(&policies),
        refused(r#"the policy "policy3" forbids the request"#)
    );
    assert_eq!(
        Call { principal: "arn:aws:iam::999999999999:user/Eve", ..CALL }.put_to(&policies),
        refused("no permit policy matches the request")
    );
    let elsewhere =
        Policies::parse(r#"permit(principal, action, resource in Xks::KeyStore::"main");"#, None, "other");
    assert_eq!(CALL.put_to(&elsewhere.unwrap()), refused("no permit policy matches the request"));
}

/// Cedar skips a policy that fails. A `forbid` that is skipped would let through what somebody meant to stop.
#[test]
fn a_forbid_that_fails_forbids_and_a_permit_that_fails_does_not_permit() {
    const FAILS: &str = "9223372036854775807 + 1 > 0";
    let forbid = parse(&format!(
        "{EVERYTHING} @id(\"overflow\") forbid(principal, action, resource) when {{ {FAILS} }};"
    ));
    let said = CALL.put_to(&forbid).unwrap_err();
    assert!(
        said.starts_with(r#"the policy "overflow" forbids the request; "overflow" could not be evaluated: "#),
        "{said}"
    );
    assert!(said.contains("overflow while attempting to add"), "{said}");
    CALL.ask(|asked| assert_eq!(forbid.decide(asked).unwrap_err().forbidden_by, ["overflow"]));

    let permit = format!("@id(\"broken\") permit(principal, action, resource) when {{ {FAILS} }};");
    let said = CALL.put_to(&parse(&permit)).unwrap_err();
    assert!(
        said.starts_with(r#"no permit policy matches the request; "broken" could not be evaluated: "#),
        "{said}"
    );
    assert_eq!(CALL.put_to(&parse(&format!("{permit} {EVERYTHING}"))), Ok(vec!["policy1".into()]));
    let both = format!("{permit} @id(\"no\") forbid(principal, action, resource);");
    let said = CALL.put_to(&parse(&both)).unwrap_err();
    assert!(said.starts_with(r#"the policy "no" forbids the request; "broken" could not"#), "{said}");
}

#[test]
fn md_2_creating_a_kms_key_sends_no_kms_key_arn_and_a_policy_must_say_what_then() {
    let create =
        Call { operation: Operation::GetKeyMetadata, kms_key: None, kms_operation: "CreateKey", ..CALL };
    let demanding = parse(
        r#"permit(principal, action, resource) when { context has kmsKeyArn && context.kmsKeyArn like "*" };"#,
    );
    assert!(create.put_to(&demanding).is_err());
    assert!(CALL.put_to(&demanding).is_ok());
    let lenient = parse(
        r#"permit(principal, action, resource)
           when { action == Xks::Action::"GetKeyMetadata" || (context has kmsKeyArn && context.kmsKeyArn like "*") };"#,
    );
    assert!(create.put_to(&lenient).is_ok());
}

/// A role's path may hold almost any character, so that the text of an ARN can pretend to be of another account.
#[test]
fn an_account_is_read_from_its_own_field_of_the_arn() {
    let ours = parse(r#"permit(principal in Xks::Account::"123456789012", action, resource);"#);
    for (arn, admitted) in [
        ("arn:aws:iam::123456789012:root", true),
        ("arn:aws-us-gov:sts::123456789012:assumed-role/a/b:c", true),
        ("arn:aws:iam::999999999999:role/:123456789012:/x", false),
        ("arn:aws:iam::999999999999:role/arn:aws:iam::123456789012:root", false),
        ("arn:aws:iam:123456789012:999999999999:root", false),
        ("arn:aws:iam::123456789012", false),
        ("arn:aws:iam::1234567890123:root", false),
        ("arn:aws:iam::１２３４５６７８９０１２:root", false),
        ("urn:aws:iam::123456789012:root", false),
        (" arn:aws:iam::123456789012:root", false),
        ("123456789012", false),
        ("", false),
    ] {
        assert_eq!(Call { principal: arn, ..CALL }.put_to(&ours).is_ok(), admitted, "{arn}");
    }
}

/// `text` as a literal of Cedar.
fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|letter| match letter {
            '"' | '\\' => format!("\\{letter}"),
            letter if letter.is_control() => format!("\\u{{{:x}}}", u32::from(letter)),
            letter => letter.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

#[test]
fn odd_arns_stay_ids() {
    let alice = parse(&format!("permit(principal == Xks::Principal::{}, action, resource);", quoted(ALICE)));
    let long = format!("{ALICE}{}", "ü".repeat(2_048 - ALICE.len()));
    assert_eq!(long.chars().count(), 2_048);
    for arn in [
        &format!("{ALICE}\""),
        &format!("\", Xks::Principal::\"{ALICE}"),
        &format!("x\" || principal == Xks::Principal::\"{ALICE}\" || \"x"),
        &format!("{ALICE}\\"),
        &format!("{ALICE}\0"),
        &format!("{ALICE}\n"),
        &format!("{ALICE}\u{202e}"),
        "*",
        "arn:aws:iam::123456789012:user/\\u{41}lice",
        "arn:aws:iam::123456789012:user/Al\u{131}ce",
        &long,
    ] {
        assert!(Call { principal: arn, ..CALL }.put_to(&alice).is_err(), "{arn:?} is not Alice");
        let exactly = parse(&format!(
            "permit(principal == Xks::Principal::{0}, action, resource) when {{ principal.arn == {0} }};",
            quoted(arn)
        ));
        assert!(Call { principal: arn, ..CALL }.put_to(&exactly).is_ok(), "{arn:?} is itself");
        assert!(CALL.put_to(&exactly).is_err(), "Alice is not {arn:?}");
    }
}

// ---------------------------------------------------------------------------------------------- Against the allow-list

/// A rule of the allow-list as a policy: the one is the specification of the other. Cedar has no `?`, so the rules
/// here have none either.
fn translated(rule: &Rule) -> String {
    let like = |subject: &str, patterns: &[Pattern]| -> Option<String> {
        let any: Vec<String> =
            patterns.iter().map(|pattern| format!("{subject} like {}", quoted(pattern.as_str()))).collect();
        (!any.is_empty()).then(|| format!("({})", any.join(" || ")))
    };
    let optional = |name: &str, patterns: &[Pattern]| {
        like(&format!("context.{name}"), patterns).map(|any| format!("context has {name} && {any}"))
    };
    let conditions: Vec<String> = [
        like("resource.id", &rule.keys),
        like("principal.arn", &rule.principal_arns),
        optional("kmsKeyArn", &rule.kms_key_arns),
        like("context.kmsOperation", &rule.kms_operations),
        optional("kmsViaService", &rule.via_services),
    ]
    .into_iter()
    .flatten()
    .collect();
    let actions: Vec<String> =
        rule.operations.iter().map(|operation| format!("Xks::Action::\"{}\"", operation.as_str())).collect();
    let action =
        if actions.is_empty() { "action".into() } else { format!("action in [{}]", actions.join(", ")) };
    let when = if conditions.is_empty() { "true".into() } else { conditions.join(" && ") };
    format!("@id({}) permit(principal, {action}, resource) when {{ {when} }};\n", quoted(&rule.name))
}

fn pattern() -> impl Strategy<Value = Pattern> {
    // Few letters, so that patterns match often enough; quotes and backslashes, because they are what breaks.
    "[ab*\"\\\\ü]{0,4}".prop_map(Pattern::new)
}

fn patterns() -> impl Strategy<Value = Vec<Pattern>> {
    prop::collection::vec(pattern(), 0..3)
}

const OPERATIONS: [Operation; 3] = [Operation::GetKeyMetadata, Operation::Encrypt, Operation::Decrypt];

prop_compose! {
    fn rule()(
        keys in prop::collection::vec("[ab*]{0,3}".prop_map(Pattern::new), 0..3),
        operations in prop::collection::vec(prop::sample::select(&OPERATIONS[..]), 0..3),
        principal_arns in patterns(),
        kms_key_arns in patterns(),
        kms_operations in patterns(),
        via_services in patterns(),
    ) -> Rule {
        Rule { name: String::new(), keys, operations, principal_arns, kms_key_arns, kms_operations, via_services }
    }
}

fn fact() -> impl Strategy<Value = String> {
    "[ab\"\\\\ü]{0,4}"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two implementations, ours and Cedar's, of one meaning.
    #[test]
    fn a_translated_allow_list_decides_alike(
        mut rules in prop::collection::vec(rule(), 1..4),
        key in "[ab]{1,3}",
        operation in prop::sample::select(&OPERATIONS[..]),
        principal in fact(),
        kms_key in prop::option::of(fact()),
        kms_operation in fact(),
        via in prop::option::of(fact()),
    ) {
        for (number, rule) in rules.iter_mut().enumerate() {
            rule.name = format!("rule \"{number}\"");
        }
        let text: String = rules.iter().map(translated).collect();
        let policies = Policies::parse(&text, None, "main");
        // Every rule has its translation.
        let policies = policies.map_err(|remark| TestCaseError::fail(format!("{text}: {remark:?}")))?;
        let call = Call {
            key: &key, operation, principal: &principal, kms_key: kms_key.as_deref(),
            kms_operation: &kms_operation, via: via.as_deref(),
        };
        let access = Access { rules, policies: Some(Arc::new(policies)), ..Access::default() };
        let verdict = call.ask(|asked| access.decide(asked));
        let (ours, cedars) = (verdict.rules.unwrap(), verdict.policies.unwrap());
        prop_assert_eq!(ours.denied.is_none(), cedars.denied.is_none(), "{} {:?} {:?}", text, ours, cedars);
        if ours.denied.is_none() {
            prop_assert!(cedars.decided_by.contains(&ours.decided_by[0]), "{:?} {:?}", ours, cedars);
        }
    }

    /// Whatever text an ARN is, it is itself to a policy and nobody else.
    #[test]
    fn any_arn_is_itself_only(arn in "\\PC{0,40}|.{0,40}") {
        let policies = Policies::parse(
            &format!("permit(principal == Xks::Principal::{}, action, resource);", quoted(&arn)), None, "main",
        );
        let policies = policies.map_err(|remark| TestCaseError::fail(format!("{arn:?}: {remark:?}")))?;
        let itself = Call { principal: &arn, ..CALL }.put_to(&policies);
        prop_assert!(itself.is_ok(), "{:?} {:?}", arn, itself);
        let longer = format!("{arn}x");
        let other = Call { principal: &longer, ..CALL }.put_to(&policies);
        prop_assert!(other.is_err());
    }
}

// ---------------------------------------------------------------------------------------------- On the wire

fn world(adjust: impl FnOnce(&mut Access)) -> World {
    World::with(Limits::default(), |store: &mut KeyStore| adjust(&mut store.access))
}

fn bob_only() -> Rule {
    Rule {
        name: "only Bob".into(),
        principal_arns: vec![Pattern::new("arn:aws:iam::123456789012:user/Bob")],
        ..Rule::default()
    }
}

fn as_principal(body: Value, arn: &str) -> Value {
    let metadata = with(body["requestMetadata"].clone(), "awsPrincipalArn", json!(arn));
    with(body, "requestMetadata", metadata)
}

const NOT_ALICE: &str = r#"permit(principal, action, resource);
@id("not Alice") forbid(principal == Xks::Principal::"arn:aws:iam::123456789012:user/Alice", action, resource);"#;

#[tokio::test]
async fn az_1_az_2_a_forbidden_request_does_not_reach_the_hsm_and_names_its_policy_in_the_log() {
    let world = world(|access| access.policies = Some(Arc::new(parse(NOT_ALICE))));
    let metadata_body = json!({ "requestMetadata": metadata() });
    let decrypt_body = json!({
        "requestMetadata": metadata(), "encryptionAlgorithm": "AES_GCM", "ciphertext": "AAAA",
        "ciphertextMetadata": "AQE=", "initializationVector": "AAAAAAAAAAAAAAAA",
        "authenticationTag": "AAAAAAAAAAAAAAAAAAAAAA=="
    });
    for (operation, body) in
        [("metadata", &metadata_body), ("encrypt", &encrypt("aGk=")), ("decrypt", &decrypt_body)]
    {
        let reply = world.call(&format!("keys/foo/{operation}"), body).await;
        reply.is_error(403, "AccessDeniedException");
        assert_eq!(reply.text("errorMessage"), "The policy of this key store denies the request.");
        let event = world.events.last();
        assert_eq!(event.detail.as_deref(), Some(r#"cedar: the policy "not Alice" forbids the request"#));
        assert_eq!(event.shadow_denied, None);
    }
    assert_eq!(world.hsm.calls(), Vec::<String>::new());
    world.call("keys/foo/encrypt", &as_principal(encrypt("aGk="), "arn:aws:iam::1:user/Bob")).await.is_ok();
    assert!(!world.hsm.calls().is_empty());
}

#[tokio::test]
async fn hlt_3_health_needs_no_policy() {
    let world = world(|access| {
        access.policies = Some(Arc::new(parse("forbid(principal, action, resource);")));
        access.rules = vec![bob_only()];
    });
    world.call("health", &json!({ "requestMetadata": metadata() })).await.is_ok();
    world.call("keys/foo/encrypt", &encrypt("aGk=")).await.is_error(403, "AccessDeniedException");
}

#[tokio::test]
async fn both_the_allow_list_and_the_policies_must_admit() {
    let world = world(|access| {
        access.rules = vec![
            bob_only(),
            Rule { name: "Alice".into(), principal_arns: vec![Pattern::new(ALICE)], ..Rule::default() },
        ];
        access.policies = Some(Arc::new(parse(NOT_ALICE)));
    });
    let mut seen = Vec::new();
    for user in ["Alice", "Bob", "Eve"] {
        let arn = format!("arn:aws:iam::123456789012:user/{user}");
        let reply = world.call("keys/foo/encrypt", &as_principal(encrypt("aGk="), &arn)).await;
        seen.push((user, reply.status, world.events.last().detail));
    }
    let eve = r#"allow-list: no rule admits the request; the closest, "only Bob", does not admit awsPrincipalArn "arn:aws:iam::123456789012:user/Eve""#;
    assert_eq!(
        seen,
        [
            ("Alice", 403, Some(r#"cedar: the policy "not Alice" forbids the request"#.into())),
            ("Bob", 200, None),
            ("Eve", 403, Some(eve.into())),
        ]
    );
}

#[tokio::test]
async fn a_shadow_denies_nothing_and_logs_what_it_would_have_denied() {
    let world = world(|access| {
        access.rules = vec![bob_only()];
        access.rules_mode = Mode::Shadow;
        access.policies = Some(Arc::new(parse(NOT_ALICE)));
        access.policies_mode = Mode::Shadow;
    });
    world.call("keys/foo/encrypt", &encrypt("aGk=")).await.is_ok();
    let event = world.events.last();
    assert_eq!((event.error_name, event.detail.as_deref()), (None, None));
    let would = concat!(
        r#"allow-list: no rule admits the request; the closest, "only Bob", does not admit awsPrincipalArn "#,
        r#""arn:aws:iam::123456789012:user/Alice"; cedar: the policy "not Alice" forbids the request"#
    );
    assert_eq!(event.shadow_denied.as_deref(), Some(would));
    let line: Value = serde_json::from_str(world.events.text().lines().last().unwrap()).unwrap();
    assert_eq!(line["shadow_denied"], would);
    let bob = as_principal(encrypt("aGk="), "arn:aws:iam::123456789012:user/Bob");
    world.call("keys/foo/encrypt", &bob).await.is_ok();
    assert_eq!(world.events.last().shadow_denied, None);
}

/// One in shadow does not weaken the other, and both findings are on record.
#[tokio::test]
async fn one_shadow_beside_one_that_is_enforced() {
    let world = world(|access| {
        access.rules = vec![bob_only()];
        access.policies = Some(Arc::new(parse(NOT_ALICE)));
        access.policies_mode = Mode::Shadow;
    });
    world.call("keys/foo/encrypt", &encrypt("aGk=")).await.is_error(403, "AccessDeniedException");
    let event = world.events.last();
    assert!(event.detail.unwrap().starts_with("allow-list: "));
    assert_eq!(event.shadow_denied.as_deref(), Some(r#"cedar: the policy "not Alice" forbids the request"#));
    assert!(world.hsm.calls().is_empty());
}

#[tokio::test]
async fn md_2_get_key_metadata_without_a_kms_key_arn_is_decided_without_one_and_empty_is_absent() {
    let with_key_arn = "permit(principal, action, resource) when { context has kmsKeyArn };";
    let world = world(|access| access.policies = Some(Arc::new(parse(with_key_arn))));
    let ask = async |metadata: Value| {
        world.call("keys/foo/metadata", &json!({ "requestMetadata": metadata })).await
    };
    ask(metadata()).await.is_ok();
    ask(without(metadata(), "kmsKeyArn")).await.is_error(403, "AccessDeniedException");
    ask(with(metadata(), "kmsKeyArn", json!(""))).await.is_error(403, "AccessDeniedException");
}

#[tokio::test]
async fn every_fact_of_the_request_reaches_the_policies() {
    let everything = r#"permit(principal, action == Xks::Action::"Encrypt", resource == Xks::Key::"foo") when {
        resource in Xks::KeyStore::"main" && resource.id == "foo" &&
        principal == Xks::Principal::"arn:aws:iam::123456789012:user/Alice" &&
        principal in Xks::Account::"123456789012" && principal.arn == "arn:aws:iam::123456789012:user/Alice" &&
        context has kmsKeyArn &&
        context.kmsKeyArn == "arn:aws:kms:us-east-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab" &&
        context.kmsOperation == "Encrypt" && context has kmsViaService && context.kmsViaService == "ebs" &&
        context has sourceVpc && context.sourceVpc == "vpc-1" &&
        context has sourceVpce && context.sourceVpce == "vpce-2" &&
        context.accessKeyId == "BETWEEN2TENAND3TENCHARACTERS"
    };"#;
    let world = world(|access| access.policies = Some(Arc::new(parse(everything))));
    let full = with(with(metadata(), "awsSourceVpc", json!("vpc-1")), "awsSourceVpce", json!("vpce-2"));
    let body = |metadata: Value| with(encrypt("aGk="), "requestMetadata", metadata);
    world.call("keys/foo/encrypt", &body(full.clone())).await.is_ok();
    for field in
        ["awsPrincipalArn", "kmsKeyArn", "kmsOperation", "kmsViaService", "awsSourceVpc", "awsSourceVpce"]
    {
        let other = with(full.clone(), field, json!("other"));
        world.call("keys/foo/encrypt", &body(other)).await.is_error(403, "AccessDeniedException");
    }
    world.call("keys/bar/encrypt", &body(full)).await.is_error(403, "AccessDeniedException");
}
