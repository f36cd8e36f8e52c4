//! Key stores beside each other under load: quotas, places, the queue of a shared HSM, and the memory all share.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails loudly; clippy's leave for tests does not reach their helpers"
)]

#[expect(dead_code, reason = "the tests of the PKCS#11 implementation use the rest")]
#[path = "common/softhsm.rs"]
mod softhsm;
mod support;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame};
use serde_json::{Value, json};
use softhsm::{PIN, SoftHsm, TOKEN};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use support::{CREDENTIAL, Misdeed, OTHER_CREDENTIAL, Reply, World, encrypt, metadata, signed, uri};
use tokio::task::JoinSet;
use tokio::time::{Instant, advance};
use xks_proxy::app::{KeyStore, Limits};
use xks_proxy::config::Config;
use xks_proxy::hsm::{Aad, Hsm};
use xks_proxy::http::handle;
use xks_proxy::key::KeyName;
use xks_proxy::quota::{Quota, Rate};
use xks_proxy::secret::{Plaintext, Secret};
use xks_proxy::sigv4::Credential;

fn health() -> Value {
    json!({ "requestMetadata": metadata() })
}

/// An Encrypt in the key store `other`.
fn in_other() -> Request<http_body_util::Full<Bytes>> {
    signed("/kms/xks/v1/keys/foo/encrypt", encrypt("aGk=").to_string(), OTHER_CREDENTIAL)
}

// ---------------------------------------------------------------------------------------------- Quota

fn with_quota(requests_per_s: u32, burst: u32) -> World {
    World::with(Limits::default(), |store| store.quota = Some(Quota::new(Rate { requests_per_s, burst })))
}

#[tokio::test(start_paused = true)]
async fn net_6_a_quota_refuses_at_once_and_one_key_store_only() {
    let (world, body) = (with_quota(10, 2), encrypt("aGk="));
    for _ in 0..2 {
        world.call("keys/foo/encrypt", &body).await.is_ok();
    }
    let start = Instant::now();
    world.call("keys/foo/encrypt", &body).await.is_error(429, "ThrottlingException");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(world.hsm.calls().len(), 2);
    let event = world.events.last();
    assert_eq!(event.detail.as_deref(), Some("quota.requests_per_s = 10 with burst = 2 is used up"));
    assert_eq!(event.access_key_id.as_deref(), Some(CREDENTIAL.0));
    world.send(in_other()).await.is_ok();
    advance(Duration::from_millis(100)).await;
    world.call("keys/foo/encrypt", &body).await.is_ok();
    world.call("keys/foo/encrypt", &body).await.is_error(429, "ThrottlingException");
}

#[tokio::test(start_paused = true)]
async fn net_6_strangers_use_up_no_quota_and_what_is_signed_does() {
    let (world, body) = (with_quota(1, 2), encrypt("aGk=").to_string());
    for _ in 0..10 {
        let stranger = signed(&uri("keys/foo/encrypt"), body.clone(), OTHER_CREDENTIAL);
        world.send(stranger).await.is_error(401, "AuthenticationFailedException");
    }
    world.call("keys/foo/encrypt", &json!({})).await.is_error(400, "ValidationException");
    world.call("keys/foo/encrypt", &encrypt("aGk=")).await.is_ok();
    world.call("keys/foo/encrypt", &json!({})).await.is_error(429, "ThrottlingException");
}

#[tokio::test(start_paused = true)]
async fn net_6_health_is_outside_the_quota() {
    let world = with_quota(1, 1);
    for _ in 0..5 {
        world.call("health", &health()).await.is_ok();
    }
    world.call("keys/foo/encrypt", &encrypt("aGk=")).await.is_ok();
    world.call("keys/foo/encrypt", &encrypt("aGk=")).await.is_error(429, "ThrottlingException");
    world.call("health", &health()).await.is_ok();
}

#[tokio::test(start_paused = true)]
async fn net_6_a_reload_hands_out_no_fresh_burst_and_changes_the_numbers() {
    let (world, body) = (with_quota(1, 3), encrypt("aGk="));
    let ask = async || world.call("keys/foo/encrypt", &body).await.status;
    assert_eq!([ask().await, ask().await], [200, 200]);
    let reload = |rate: Rate| {
        let old = world.app.store(support::PREFIX).unwrap();
        let mut one = KeyStore::new(
            "one",
            old.prefix.clone(),
            vec![Credential::new(CREDENTIAL.0, Secret::new(CREDENTIAL.1.into())).unwrap()],
            Arc::clone(&old.hsm),
        );
        one.quota = Some(Quota::new(rate));
        world.app.replace_stores(vec![one]).unwrap();
    };
    for _ in 0..5 {
        reload(Rate { requests_per_s: 1, burst: 3 });
    }
    assert_eq!([ask().await, ask().await], [200, 429], "one of three was left");
    reload(Rate { requests_per_s: 100, burst: 5 });
    assert_eq!(ask().await, 429);
    advance(Duration::from_millis(20)).await;
    assert_eq!([ask().await, ask().await, ask().await], [200, 200, 429]);
}

// ---------------------------------------------------------------------------------------------- Places

#[tokio::test(start_paused = true)]
async fn net_6_a_flooded_key_store_leaves_the_others_their_places() {
    let world = World::with(Limits { in_flight_max: 8, ..Limits::default() }, |_| {});
    world.hsm.next(vec![Misdeed::Hang; 6]);
    let (start, body) = (Instant::now(), encrypt("aGk=").to_string());
    let mut flood = JoinSet::new();
    for _ in 0..100 {
        let (app, body) = (Arc::clone(&world.app), body.clone());
        flood.spawn(async move {
            handle(&app, signed(&uri("keys/foo/encrypt"), body, CREDENTIAL)).await.status().as_u16()
        });
    }
    tokio::task::yield_now().await;
    assert_eq!(world.app.admission.in_flight(), 6, "its own two and the four for everyone");
    for _ in 0..10 {
        world.send(in_other()).await.is_ok();
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    let mut statuses = flood.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![429; 94], vec![503; 6]].concat());
    assert_eq!(world.app.admission.in_flight(), 0);
}

// ---------------------------------------------------------------------------------------------- The HSM's queue

/// Two key stores over one token with one session, as the configuration puts them together. The session is held by a call
/// of 64 MiB while one of the two is flooded.
#[tokio::test]
async fn net_6_a_flood_in_one_key_store_keeps_no_other_from_the_shared_hsm() {
    let here = tempfile::tempdir().unwrap();
    for (name, text) in [("pin", PIN), ("one", CREDENTIAL.1), ("other", OTHER_CREDENTIAL.1)] {
        std::fs::write(here.path().join(name), text).unwrap();
    }
    let store = |name: &str, prefix: &str, id: &str| {
        format!(
            "[[key_store]]\nname = {name:?}\nuri_prefix = {prefix:?}\nhsm = \"shared\"\n\
             credential = [{{ access_key_id = {id:?}, secret_file = {name:?} }}]\n"
        )
    };
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[limits]\ndeadline_ms = 60000\n\
         [[hsm]]\nname = \"shared\"\nmodule = {:?}\ntoken_label = {TOKEN:?}\npin_file = \"pin\"\n\
         sessions_max = 1\nqueue_max = 4\n{}{}",
        SoftHsm::get().module,
        store("one", support::PREFIX, CREDENTIAL.0),
        store("other", "", OTHER_CREDENTIAL.0),
    );
    let config = Config::parse(&here.path().join("xks.toml").display().to_string(), &text).unwrap();
    let events = Arc::new(support::Events::default());
    let ready = config.build(Arc::new(support::StandingClock::default()), events).unwrap();
    let (app, hsm) = (Arc::clone(&ready.app), &ready.hsms[0]);

    let (key, aad) = (KeyName::label("known"), Aad::frame(&[], &[]).unwrap());
    let giant = Plaintext::new(vec![7; 64 << 20]);
    let mut holding = pin!(hsm.encrypt(&key, &aad, &giant, Instant::now() + Duration::from_secs(60)));
    // Polled once, it is handed over.
    assert!(poll_fn(|cx| Poll::Ready(holding.as_mut().poll(cx))).await.is_pending());

    let ask = |uri: String, credential: (&'static str, &'static str)| {
        let app = Arc::clone(&app);
        let request = signed(&uri, encrypt("aGk=").to_string(), credential);
        async move { handle(&app, request).await.status().as_u16() }
    };
    let mut flood = JoinSet::new();
    for _ in 0..30 {
        flood.spawn(ask(uri("keys/known/encrypt"), CREDENTIAL));
    }
    // All of the flood has come to the queue and filled it, or has been refused already, when the other asks.
    tokio::task::yield_now().await;
    assert_eq!(ask("/kms/xks/v1/keys/known/encrypt".to_owned(), OTHER_CREDENTIAL).await, 200);
    let statuses = flood.join_all().await;
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!(refused >= 20 && statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    assert!(holding.await.is_ok());
}

// ---------------------------------------------------------------------------------------------- Bytes of bodies

/// A body that has arrived in part and never ends.
struct Unfinished(Option<Bytes>);

impl Body for Unfinished {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.take().map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(Frame::data(piece)))))
    }
}

#[tokio::test(start_paused = true)]
async fn net_9_all_bodies_together_are_bounded() {
    let limits = Limits { body_bytes_max: 1_500, body_bytes_in_flight_max: 4_000, ..Limits::default() };
    let world = World::with(limits, |_| {});
    let mut strangers = JoinSet::new();
    for _ in 0..3 {
        let app = Arc::clone(&world.app);
        strangers.spawn(async move {
            let body = Unfinished(Some(Bytes::from(vec![b' '; 1_200])));
            handle(&app, Request::post(uri("health")).body(body).unwrap()).await.status().as_u16()
        });
    }
    tokio::task::yield_now().await;
    let start = Instant::now();
    let fits = |size: usize| format!("{:<size$}", health().to_string());
    let ask = async |size| -> Reply { world.send(signed(&uri("health"), fits(size), CREDENTIAL)).await };
    ask(401).await.is_error(429, "ThrottlingException");
    assert_eq!(
        world.events.last().detail.as_deref(),
        Some("the bodies of all requests together have reached limits.body_bytes_in_flight_max")
    );
    // What was refused, and what was answered, has given its bytes back.
    for _ in 0..20 {
        ask(400).await.is_ok();
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(strangers.join_all().await, [503; 3]);
    ask(1_500).await.is_ok();
}
