//! One decision by Cedar: the five policies of `proxy/policy/example.cedar`, a request that one of them admits.

use benches::policies;
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use xks_proxy::authorise::cedar::Policies;

#[expect(clippy::expect_used, reason = "without policies there is nothing to measure")]
fn policy(criterion: &mut Criterion) {
    let key = policies::key().expect("a key id");
    let asked = policies::asked(&key);
    let few = policies::example().expect("the example");
    assert_eq!(few.decide(&asked), Ok(vec!["only-our-account"]));
    criterion.bench_function("policy/5 policies", |bencher| bencher.iter(|| few.decide(black_box(&asked))));

    let others: String = (0..95)
        .map(|number| {
            format!(
                "@id(\"other-{number}\") forbid (principal, action, resource) when {{ resource.id like \"{number}-*\" }};\n"
            )
        })
        .collect();
    let text = format!("{}{others}", policies::EXAMPLE);
    let many = Policies::parse(&text, None, "main").expect("more of the same");
    assert!(many.decide(&asked).is_ok());
    criterion
        .bench_function("policy/100 policies", |bencher| bencher.iter(|| many.decide(black_box(&asked))));
}

criterion_group!(benches, policy);
criterion_main!(benches);
