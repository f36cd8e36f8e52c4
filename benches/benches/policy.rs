//! One decision by Cedar: the five policies of `proxy/policy/example.cedar`, a request that one of them admits.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use xks_proxy::authorise::Asked;
use xks_proxy::authorise::cedar::Policies;
use xks_proxy::events::Operation;
use xks_proxy::key::KeyId;

const POLICIES: &str = include_str!("../../proxy/policy/example.cedar");

#[expect(clippy::expect_used, reason = "without policies there is nothing to measure")]
fn policy(criterion: &mut Criterion) {
    let key = KeyId::parse("payments-2026").expect("a key id");
    let asked = Asked {
        key: &key,
        operation: Operation::Decrypt,
        principal_arn: "arn:aws:sts::111122223333:assumed-role/payments-api/i-0123456789abcdef0",
        kms_key_arn: Some("arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
        kms_operation: "Decrypt",
        via_service: Some("s3.eu-west-1.amazonaws.com"),
        source_vpc: Some("vpc-0123456789abcdef0"),
        source_vpce: Some("vpce-0a1b2c3d4e5f67890"),
        access_key_id: benches::ID,
    };
    let few = Policies::parse(POLICIES, None, "main").expect("the example");
    assert_eq!(few.decide(&asked), Ok(vec!["only-our-account"]));
    criterion.bench_function("policy/5 policies", |bencher| bencher.iter(|| few.decide(black_box(&asked))));

    let others: String = (0..95)
        .map(|number| {
            format!(
                "@id(\"other-{number}\") forbid (principal, action, resource) when {{ resource.id like \"{number}-*\" }};\n"
            )
        })
        .collect();
    let many = Policies::parse(&format!("{POLICIES}{others}"), None, "main").expect("more of the same");
    assert!(many.decide(&asked).is_ok());
    criterion
        .bench_function("policy/100 policies", |bencher| bencher.iter(|| many.decide(black_box(&asked))));
}

criterion_group!(benches, policy);
criterion_main!(benches);
