//! Verification of the signature of a typical encrypt request: 600 bytes of body, two credentials in the key store.

use benches::{ID, NOW, PATH, REGION, SECRET, signed_headers};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use xks_proxy::env::UnixTime;
use xks_proxy::secret::Secret;
use xks_proxy::sigv4::{Credential, Received, verify};

#[expect(clippy::expect_used, reason = "without a signed request there is nothing to measure")]
fn sigv4(criterion: &mut Criterion) {
    let body = [b'x'; 600];
    let headers = signed_headers(PATH, &body).expect("the request can be signed");
    let received =
        Received { method: "POST", path: PATH, query: "", headers: &headers, authority: None, body: &body };
    let other = "K2ANOTHERID3XXXXXXXX";
    let warm = [other, ID].map(|id| Credential::unchecked(id, Secret::new(SECRET.to_owned())));
    let ask =
        |credentials: &[Credential]| verify(black_box(&received), credentials, Some(REGION), UnixTime(NOW));
    assert!(ask(&warm).is_ok_and(|id| id.as_str() == ID), "the benchmark's own request is refused");

    criterion.bench_function("sigv4/verify", |bencher| bencher.iter(|| ask(&warm)));
    criterion.bench_function("sigv4/verify, first of the day", |bencher| {
        bencher.iter_batched(
            || warm.clone(),
            |cold| ask(&cold).map(|id| (id, cold)),
            criterion::BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, sigv4);
criterion_main!(benches);
