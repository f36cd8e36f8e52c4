//! One whole Encrypt request of about 600 bytes through `http::handle`: everything the proxy does but TLS, HTTP framing
//! and the HSM, whose place a copy of the plaintext takes.

use benches::{ID, NOW, PATH, SECRET, signed_headers};
use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::Request;
use http_body_util::Full;
use std::error::Error;
use std::future::{Future, ready};
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;
use xks_proxy::app::{App, KeyStore, Settings};
use xks_proxy::env::{Env, UnixTime};
use xks_proxy::events::{AuditEvent, Subscriber};
use xks_proxy::hsm::{Aad, Answer, DeviceHealth, Hsm, Iv, KeyFacts, KeySpec, Sealed};
use xks_proxy::http::handle;
use xks_proxy::key::{KeyName, UriPrefix};
use xks_proxy::secret::{Plaintext, Secret};
use xks_proxy::sigv4::Credential;

/// The request KMS makes of a data key: 96 bytes of plaintext, an encryption context hash as AAD.
fn body(integrity_value: bool) -> String {
    let algorithm =
        if integrity_value { r#""ciphertextDataIntegrityValueAlgorithm":"SHA_256","# } else { "" };
    let plaintext = "cGxhaW50ZXh0".repeat(10);
    format!(
        r#"{{"requestMetadata":{{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsKeyArn":"arn:aws:kms:us-east-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab","kmsOperation":"GenerateDataKey","kmsRequestId":"4112f4d6-db54-4af4-ae30-c55a22a8dfae","kmsViaService":"ebs"}},{algorithm}"additionalAuthenticatedData":"cHJvamVjdD1uaWxlLGRlcGFydG1lbnQ9bWFya2V0aW5n","plaintext":"{plaintext}","encryptionAlgorithm":"AES_GCM"}}"#
    )
}

fn signed(body: &str) -> Result<Request<Full<Bytes>>, Box<dyn Error>> {
    let mut request = Request::post(PATH).body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
    *request.headers_mut() = signed_headers(body.as_bytes())?;
    Ok(request)
}

/// Takes no time and protects nothing: the ciphertext is the plaintext.
struct NoHsm;

impl Hsm for NoHsm {
    fn describe<'a>(&'a self, _key: &'a KeyName, _deadline: Instant) -> Answer<'a, KeyFacts> {
        let facts = KeyFacts { spec: KeySpec::Aes(256), encrypt: true, decrypt: true, enabled: true };
        Box::pin(ready(Ok(facts)))
    }

    fn encrypt<'a>(
        &'a self,
        _key: &'a KeyName,
        _aad: &'a Aad,
        plaintext: &'a Plaintext,
        _deadline: Instant,
    ) -> Answer<'a, Sealed> {
        let ciphertext = plaintext.expose().to_vec();
        Box::pin(ready(Ok(Sealed { ciphertext, iv: Iv::Twelve([0; 12]), tag: [0; 16] })))
    }

    fn decrypt<'a>(
        &'a self,
        _key: &'a KeyName,
        _aad: &'a Aad,
        sealed: &'a Sealed,
        _deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        Box::pin(ready(Ok(Plaintext::new(sealed.ciphertext.clone()))))
    }

    fn health<'a>(
        &'a self,
        _deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        Box::pin(ready(Vec::new()))
    }
}

/// Stands still at the time the request was signed.
struct StandingClock;

impl Env for StandingClock {
    fn now(&self) -> UnixTime {
        UnixTime(NOW)
    }

    fn noise(&self) -> u64 {
        0x00c0_ffee
    }
}

/// Counts the requests that were served.
#[derive(Default)]
struct Served(AtomicU64);

impl Subscriber for Served {
    fn audit(&self, event: &AuditEvent) {
        self.0.fetch_add(u64::from(black_box(event).status == 200), Ordering::Relaxed);
    }
}

fn app(served: Arc<Served>) -> Result<App, Box<dyn Error>> {
    let credential = Credential::new(ID, Secret::new(SECRET.to_owned()))?;
    let store = KeyStore::new("bench", UriPrefix::parse("example")?, vec![credential], Arc::new(NoHsm));
    Ok(App::new(Settings::default(), vec![store], Arc::new(StandingClock), served)?)
}

#[expect(clippy::expect_used, reason = "without an app, a runtime and a request there is nothing to measure")]
fn request(criterion: &mut Criterion) {
    let served = Arc::new(Served::default());
    let app = app(Arc::clone(&served)).expect("the app can be built");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime can be built");
    for (name, integrity_value) in
        [("request/encrypt", false), ("request/encrypt with integrity value", true)]
    {
        let request = signed(&body(integrity_value)).expect("the request can be signed");
        let served_before = served.0.load(Ordering::Relaxed);
        runtime.block_on(handle(&app, request.clone()));
        assert!(served.0.load(Ordering::Relaxed) > served_before, "the benchmark's own request is refused");
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(handle(&app, request.clone())));
        });
    }
}

criterion_group!(benches, request);
criterion_main!(benches);
