//! One whole request of about 600 bytes through `http::handle`: everything the proxy does but TLS, HTTP framing and the
//! HSM, whose place a copy of the plaintext takes.

use benches::{DECRYPT_PATH, PATH, proxy_core, requests};
use criterion::{Criterion, criterion_group, criterion_main};
use xks_proxy::http::handle;

#[expect(clippy::expect_used, reason = "without an app, a runtime and a request there is nothing to measure")]
fn request(criterion: &mut Criterion) {
    let (app, served) = proxy_core::app().expect("the app can be built");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime can be built");
    for (name, path, body) in [
        ("request/encrypt", PATH, requests::encrypt(false)),
        ("request/encrypt with integrity value", PATH, requests::encrypt(true)),
        ("request/decrypt", DECRYPT_PATH, requests::decrypt()),
    ] {
        let request = requests::signed(path, &body).expect("the request can be signed");
        let served_before = served.count();
        runtime.block_on(handle(&app, request.clone()));
        assert!(served.count() > served_before, "the benchmark's own request is refused");
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(handle(&app, request.clone())));
        });
    }
}

criterion_group!(benches, request);
criterion_main!(benches);
