//! Verification of the signature of a typical encrypt request: 600 bytes of body, two credentials in the key store.

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, UNIX_EPOCH};
use xks_proxy::env::UnixTime;
use xks_proxy::secret::Secret;
use xks_proxy::sigv4::{Credential, Received, verify};

const ID: &str = "BETWEEN2AND7ABCDEFGHIJ";
const SECRET: &str = "PR2Esecretsecretsecretsecretsecretsecret+/=";
const PATH: &str = "/example/kms/xks/v1/keys/a-key-of-a-customer/encrypt";
const HOST: &str = "xks-proxy.example.com";
const NOW: Duration = Duration::from_secs(1_780_000_000);

fn signed_headers(body: &[u8]) -> Result<HeaderMap, Box<dyn Error>> {
    let identity = Credentials::from_keys(ID, SECRET, None).into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("eu-west-1")
        .name("kms-xks-proxy")
        .time(UNIX_EPOCH + NOW)
        .settings(SigningSettings::default())
        .build()?
        .into();
    let unsigned = [("content-type", "application/json"), ("host", HOST)];
    let request = SignableRequest::new(
        "POST",
        format!("https://{HOST}{PATH}"),
        unsigned.into_iter(),
        SignableBody::Bytes(body),
    )?;
    let (instructions, _) = sign(request, &params)?.into_parts();
    unsigned
        .into_iter()
        .chain(instructions.headers())
        .map(|(name, value)| Ok((HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?)))
        .collect()
}

#[expect(clippy::expect_used, reason = "without a signed request there is nothing to measure")]
fn sigv4(criterion: &mut Criterion) {
    let body = [b'x'; 600];
    let headers = signed_headers(&body).expect("the request can be signed");
    let received =
        Received { method: "POST", path: PATH, query: "", headers: &headers, authority: None, body: &body };
    let other = "K2ANOTHERID3XXXXXXXX";
    let warm = [other, ID].map(|id| Credential::unchecked(id, Secret::new(SECRET.to_owned())));
    let ask = |credentials: &[Credential]| {
        verify(black_box(&received), credentials, Some("eu-west-1"), UnixTime(NOW))
    };
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
