//! The API on the wire, requirement by requirement: each test names the id of `XKS-…` it shows. Requests are signed by
//! AWS's own signer and go through `http::handle` without a socket.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails loudly; clippy's leave for tests does not reach their helpers"
)]

mod support;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use support::{CREDENTIAL, Misdeed, NOW, OTHER_CREDENTIAL, PREFIX, Reply, World};
use support::{decrypt, encrypt, metadata, signed, signed_at, uri, versions, with, without};
use tokio::time::Instant;
use xks_proxy::api::encrypt::integrity_value;
use xks_proxy::app::{KeyEntry, Limits, OtherKeys};
use xks_proxy::authorise::{Pattern, Rule};
use xks_proxy::env::UnixTime;
use xks_proxy::error::ErrorName;
use xks_proxy::events::{Operation, STATUS_CALLER_GONE};
use xks_proxy::hsm::{DeviceHealth, HealthStatus, HsmErrorKind, Iv, Sealed};
use xks_proxy::http::handle;
use xks_proxy::key::{KeyId, KeyVersion};
use xks_proxy::scheme::{SampleProxy, Scheme};

const SECRET_TEXT: &str = "the plaintext that no log may hold";

fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

fn bytes(reply: &Reply, field: &str) -> Vec<u8> {
    STANDARD.decode(reply.text(field)).unwrap()
}

fn with_integrity(plaintext: &str) -> Value {
    with(encrypt(plaintext), "ciphertextDataIntegrityValueAlgorithm", json!("SHA_256"))
}

// ---------------------------------------------------------------------------------------------- Addressing

#[tokio::test]
async fn net_3_only_post_is_served() {
    let world = World::new();
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"] {
        let request = Request::builder().method(method).uri(uri("health")).body(Full::default()).unwrap();
        let reply = world.send(request).await;
        reply.is_error(405, "ValidationException");
        assert_eq!(reply.headers["allow"], "POST");
    }
    let unknown = Request::get("/nothing/here").body(Full::default()).unwrap();
    world.send(unknown).await.is_error(404, "InvalidUriPathException");
    // A method may be as long as a head, and the log keeps little of what a stranger sends.
    let mut request = signed(&uri("health"), "{}", CREDENTIAL);
    *request.method_mut() = http::Method::from_bytes(&[b'A'; 8_000]).unwrap();
    world.send(request).await.is_error(405, "ValidationException");
    assert!(world.events.text().lines().all(|line| line.len() < 1_000));
}

#[tokio::test]
async fn net_4_paths_match_exactly() {
    let world = World::new();
    let root = format!("{PREFIX}/kms/xks/v1");
    for path in [
        "/".to_owned(),
        root.clone(),
        format!("{root}/"),
        format!("{root}/keys"),
        format!("{root}/keys/"),
        format!("{root}/keys/foo"),
        format!("{root}/keys/foo/"),
        format!("{root}/keys/foo/encrypt/"),
        format!("{root}/keys//encrypt"),
        format!("{root}/keys/foo/Encrypt"),
        format!("{root}/keys/foo/bar/encrypt"),
        format!("{root}/keys/foo/health"),
        format!("{root}/health/"),
        format!("{root}0/health"),
        format!("{PREFIX}/kms/xks/v2/health"),
        format!("{PREFIX}/invalid/kms/xks/v1/health"),
        format!("{PREFIX}//kms/xks/v1/health"),
        "/example/kms/xks/v1/health".to_owned(),
        format!("{root}/keys/foo/../health"),
    ] {
        let reply = world.send(signed(&path, "{}", CREDENTIAL)).await;
        reply.is_error(404, "InvalidUriPathException");
    }
    assert!(world.hsm.calls().is_empty());
}

#[tokio::test]
async fn net_4_the_whole_uri_has_at_most_256_characters() {
    let world = World::new();
    let body = json!({ "requestMetadata": metadata() }).to_string();
    let path = uri("health?x=");
    let fits = format!("{path}{}", "a".repeat(256 - path.len()));
    world.send(signed(&fits, body.clone(), CREDENTIAL)).await.is_ok();
    world.send(signed(&format!("{fits}a"), body, CREDENTIAL)).await.is_error(404, "InvalidUriPathException");
}

#[tokio::test]
async fn net_5_key_ids_are_taken_literally() {
    let world = World::new();
    for key in ["a".repeat(128), "Ab_9.-".to_owned()] {
        world.call(&format!("keys/{key}/metadata"), &json!({ "requestMetadata": metadata() })).await.is_ok();
        assert_eq!(world.events.last().key_id, Some(key));
    }
    let long = "a".repeat(129);
    // The dot segments would vanish from the path that is signed.
    for key in [&*long, "f%6fo", "fo+o", "fo:o", "a%2Fb", ".", "..", "%2e%2e"] {
        let reply =
            world.call(&format!("keys/{key}/metadata"), &json!({ "requestMetadata": metadata() })).await;
        reply.is_error(404, "InvalidUriPathException");
    }
}

#[tokio::test]
async fn net_6_auth_7_key_stores_are_isolated() {
    let world = World::new();
    let body = json!({ "requestMetadata": metadata() }).to_string();
    world.send(signed(&uri("health"), body.clone(), CREDENTIAL)).await.is_ok();
    world.send(signed("/kms/xks/v1/health", body.clone(), OTHER_CREDENTIAL)).await.is_ok();
    assert_eq!(world.events.last().key_store.as_deref(), Some("other"));
    for request in [
        signed(&uri("health"), body.clone(), OTHER_CREDENTIAL),
        signed("/kms/xks/v1/health", body.clone(), CREDENTIAL),
    ] {
        world.send(request).await.is_error(401, "AuthenticationFailedException");
    }
}

#[tokio::test]
async fn net_7_arns_have_up_to_2048_characters() {
    let world = World::new();
    for field in ["awsPrincipalArn", "kmsKeyArn"] {
        for (length, status) in [(2_048, 200), (2_049, 400)] {
            let metadata = with(metadata(), field, json!("ä".repeat(length)));
            let body = with(encrypt(""), "requestMetadata", metadata);
            assert_eq!(world.call("keys/foo/encrypt", &body).await.status, status, "{field} {length}");
        }
    }
}

#[tokio::test]
async fn net_8_ping_says_whether_to_send_traffic() {
    let world = World::new();
    let ping = |method: &str| Request::builder().method(method).uri("/ping").body(Full::default()).unwrap();
    let reply = world.send(ping("GET")).await;
    assert_eq!(&reply.is_ok().body[..], br#"{"status":"ok"}"#);
    let refused = world.send(ping("POST")).await;
    assert_eq!(refused.is_error(405, "ValidationException").headers["allow"], "GET, HEAD");
    world.app.start_draining();
    assert_eq!(world.send(ping("GET")).await.status, 503);
    assert_eq!(world.send(ping("HEAD")).await.status, 503);
    assert!(world.events.all().is_empty(), "a health check is no request of the API");
    world.call("health", &json!({ "requestMetadata": metadata() })).await.is_ok();
}

// ---------------------------------------------------------------------------------------------- The body

/// A body in pieces, with no length stated; after the last it ends or hangs.
struct Pieces {
    pieces: VecDeque<Bytes>,
    hangs: bool,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.pieces.pop_front() {
            Some(piece) if piece.is_empty() => {
                Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())))
            }
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None if self.hangs => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

async fn send_pieces(world: &World, whole: &str, size: usize, hangs: bool, breaks: bool) -> Reply {
    let (head, _) = signed(&uri("health"), whole.to_owned(), CREDENTIAL).into_parts();
    let mut pieces: VecDeque<Bytes> = whole.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
    if breaks {
        pieces.push_back(Bytes::new());
    }
    let response = handle(&world.app, Request::from_parts(head, Pieces { pieces, hangs })).await;
    let (head, body) = response.into_parts();
    let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    Reply { status: head.status.as_u16(), headers: head.headers, body }
}

#[tokio::test]
async fn net_9_bodies_are_bounded_with_and_without_a_length() {
    let limits = Limits { body_bytes_max: 1_000, ..Limits::default() };
    let world = World::with(limits, |_| {});
    let health = json!({ "requestMetadata": metadata() }).to_string();
    let fits = format!("{health:<1000}");
    let too_large = format!("{health:<1001}");
    world.send(signed(&uri("health"), fits.clone(), CREDENTIAL)).await.is_ok();
    world
        .send(signed(&uri("health"), too_large.clone(), CREDENTIAL))
        .await
        .is_error(413, "ValidationException");
    for size in [1, 300, 2_000] {
        send_pieces(&world, &fits, size, false, false).await.is_ok();
        send_pieces(&world, &too_large, size, false, false).await.is_error(413, "ValidationException");
    }
    // Refused as soon as it is too large, not when it ends.
    send_pieces(&world, &too_large, 300, true, false).await.is_error(413, "ValidationException");
    send_pieces(&world, &health, 50, false, true).await.is_error(400, "ValidationException");
}

/// Over HTTP/2 an answer that does not wait for the body ends in RST_STREAM, and curl 7.88 then throws it away.
#[tokio::test]
async fn net_4_a_wrong_path_is_answered_after_the_body() {
    let world = World::new();
    let mut body = Pieces { pieces: ["{", "}"].map(Bytes::from).into(), hangs: false };
    let request = Request::post("//kms/xks/v1/health").body(&mut body).unwrap();
    assert_eq!(handle(&world.app, request).await.status(), 404);
    assert!(body.pieces.is_empty());
}

#[tokio::test(start_paused = true)]
async fn net_9_time_2_a_slow_body_is_answered_at_the_deadline() {
    let world = World::new();
    let start = Instant::now();
    let reply = send_pieces(&world, "{", 1, true, false).await;
    reply.is_error(503, "DependencyTimeoutException");
    assert_eq!(reply.text("errorMessage"), "The request did not arrive in time.");
    assert_eq!(start.elapsed(), world.app.limits.deadline);
    assert_eq!(world.events.last().stations.read, world.app.limits.deadline);
}

#[tokio::test]
async fn net_1_err_4_the_body_must_be_json_of_this_operation() {
    let world = World::new();
    for body in [
        "",
        "{",
        "[]",
        "null",
        "7",
        "{} {}",
        "{\"requestMetadata\":7}",
        "{\"requestMetadata\":[]}",
        "{\"requestMetadata\":{\"kmsRequestId\":7}}",
        "\u{feff}{}",
    ] {
        let reply = world.send(signed(&uri("keys/foo/encrypt"), body, CREDENTIAL)).await;
        reply.is_error(400, "ValidationException");
    }
    let array = json!([metadata()]).to_string();
    world.send(signed(&uri("health"), array, CREDENTIAL)).await.is_error(400, "ValidationException");
    // Without a guess at the order of the fields: serde_json's depends on features that other crates turn on.
    let twice = encrypt("aGk=").to_string().replacen('{', "{\"plaintext\":\"\",", 1);
    world
        .send(signed(&uri("keys/foo/encrypt"), twice, CREDENTIAL))
        .await
        .is_error(400, "ValidationException");
    let mut not_utf8 = encrypt("aGk=").to_string().into_bytes();
    not_utf8[3] = 0xff;
    world
        .send(signed(&uri("keys/foo/encrypt"), not_utf8, CREDENTIAL))
        .await
        .is_error(400, "ValidationException");
    assert!(world.hsm.calls().is_empty());
}

/// Found by `xks-sim fuzz`: within the text of an unknown field such bytes were read over, and the request served.
#[tokio::test]
async fn md_4_unknown_fields_are_utf_8_too() {
    let world = World::new();
    let body = encrypt("aGk=").to_string().replacen('{', "{\"unknown\":\"?\",", 1);
    let body = body.bytes().map(|byte| if byte == b'?' { 0xff } else { byte }).collect::<Vec<_>>();
    let reply = world.send(signed(&uri("keys/foo/encrypt"), body, CREDENTIAL)).await;
    reply.is_error(400, "ValidationException");
    assert!(world.hsm.calls().is_empty());
}

/// Found by `xks-sim fuzz`: hyper takes the chunks of `gzip, chunked` and `chunked, chunked` for the body, and both were
/// served, though a load balancer before the proxy may take something else for it.
#[tokio::test]
async fn net_9_chunked_is_the_only_transfer_coding() {
    let world = World::new();
    let body = json!({ "requestMetadata": metadata() }).to_string();
    for (codings, served) in [
        (&["chunked"][..], true),
        (&["Chunked"], true),
        (&["gzip, chunked"], false),
        (&["chunked, chunked"], false),
        (&["gzip", "chunked"], false),
    ] {
        let mut request = signed(&uri("health"), body.clone(), CREDENTIAL);
        for coding in codings {
            request.headers_mut().append("transfer-encoding", coding.parse().unwrap());
        }
        let reply = world.send(request).await;
        if served {
            reply.is_ok();
        } else {
            reply.is_error(501, "UnsupportedOperationException");
        }
    }
}

#[tokio::test]
async fn net_1_err_4_the_content_type_is_json() {
    let world = World::new();
    let body = json!({ "requestMetadata": metadata() }).to_string();
    for (content_type, served) in [
        (Some("application/json"), true),
        (Some("Application/JSON ; charset=utf-8"), true),
        (Some("application/x-amz-json-1.1"), false),
        (Some("text/plain"), false),
        (Some(""), false),
        (None, false),
    ] {
        // aws-sigv4 signs Content-Type, so another one would not authenticate either; the refusal comes before that.
        let mut request = signed(&uri("health"), body.clone(), CREDENTIAL);
        if !(served && content_type == Some("application/json")) {
            request.headers_mut().remove("content-type");
        }
        if let Some(content_type) = content_type {
            request.headers_mut().insert("content-type", content_type.parse().unwrap());
        }
        let reply = world.send(request).await;
        match (served, content_type) {
            (true, Some("application/json")) => drop(reply.is_ok()),
            (true, _) => drop(reply.is_error(401, "AuthenticationFailedException")),
            (false, _) => drop(reply.is_error(415, "ValidationException")),
        }
    }
}

// ---------------------------------------------------------------------------------------------- Request metadata

/// The four operations with a body that is served.
async fn bodies(world: &World) -> [(&'static str, Value); 4] {
    let sealed = world.call("keys/foo/encrypt", &encrypt("aGk=")).await;
    let bare = json!({ "requestMetadata": metadata() });
    [
        ("keys/foo/metadata", bare.clone()),
        ("keys/foo/encrypt", encrypt("aGk=")),
        ("keys/foo/decrypt", decrypt(&sealed)),
        ("health", bare),
    ]
}

#[tokio::test]
async fn md_1_err_3_request_metadata_is_required_in_every_request() {
    let world = World::new();
    for (operation, body) in bodies(&world).await {
        world.call(operation, &body).await.is_ok();
        // An array of the right values in the right order is no object either.
        let array = json!(["1", "Encrypt", "arn", "arn", null, null, null]);
        for bad in [json!({}), Value::Null, json!("x"), json!([]), array] {
            let body = with(body.clone(), "requestMetadata", bad);
            world.call(operation, &body).await.is_error(400, "ValidationException");
        }
        world.call(operation, &without(body, "requestMetadata")).await.is_error(400, "ValidationException");
    }
}

#[tokio::test]
async fn md_2_each_operation_requires_its_own_fields() {
    let world = World::new();
    for (operation, body) in bodies(&world).await {
        let key_arn = operation.ends_with("crypt");
        let principal = operation != "health";
        for (field, required) in [
            ("kmsRequestId", true),
            ("kmsOperation", true),
            ("awsPrincipalArn", principal),
            ("kmsKeyArn", key_arn),
            ("kmsViaService", false),
        ] {
            let status = if required { 400 } else { 200 };
            for metadata in [without(metadata(), field), with(metadata(), field, Value::Null)] {
                let body = with(body.clone(), "requestMetadata", metadata);
                assert_eq!(world.call(operation, &body).await.status, status, "{operation} without {field}");
            }
        }
        for field in ["awsSourceVpc", "awsSourceVpce"] {
            let metadata = with(metadata(), field, json!("vpc-1234"));
            world.call(operation, &with(body.clone(), "requestMetadata", metadata)).await.is_ok();
        }
    }
    let empty = with(metadata(), "awsPrincipalArn", json!(""));
    let reply = world.call("keys/foo/metadata", &json!({ "requestMetadata": empty })).await;
    reply.is_error(400, "ValidationException");
    assert_eq!(reply.text("errorMessage"), "requestMetadata.awsPrincipalArn is required.");
}

#[tokio::test]
async fn md_3_request_ids_and_operations_are_opaque() {
    let world = World::new();
    for (operation, body) in bodies(&world).await {
        for text in ["", "no uuid", "ü\"\n", &"x".repeat(5_000)] {
            let metadata = with(with(metadata(), "kmsRequestId", json!(text)), "kmsOperation", json!(text));
            world.call(operation, &with(body.clone(), "requestMetadata", metadata)).await.is_ok();
            assert_eq!(world.events.last().kms_request_id.as_deref(), Some(text));
        }
    }
}

#[tokio::test]
async fn md_4_unknown_fields_are_accepted_anywhere() {
    let world = World::new();
    for (operation, body) in bodies(&world).await {
        let metadata = with(metadata(), "newField", json!({ "a": [1, null] }));
        let body = with(with(body, "requestMetadata", metadata), "anotherNewField", json!([{}]));
        world.call(operation, &body).await.is_ok();
    }
}

#[tokio::test]
async fn md_5_each_request_leaves_one_event_that_tells_all() {
    let world = World::new();
    let metadata = with(with(metadata(), "awsSourceVpc", json!("vpc-1")), "awsSourceVpce", json!("vpce-2"));
    let reply = world.call("keys/foo/encrypt", &with(encrypt("aGk="), "requestMetadata", metadata)).await;
    let [event] = &world.events.all()[..] else { panic!("not one event") };
    assert_eq!(event.time, NOW);
    assert_eq!(reply.headers["x-request-id"], event.request_id.as_str());
    assert_eq!(event.request_id.len(), 16);
    assert_eq!(event.key_store.as_deref(), Some("one"));
    assert_eq!(event.operation, Some(Operation::Encrypt));
    assert_eq!(event.key_id.as_deref(), Some("foo"));
    assert_eq!(event.access_key_id.as_deref(), Some(CREDENTIAL.0));
    assert_eq!(event.kms_request_id.as_deref(), Some("4112f4d6-db54-4af4-ae30-c55a22a8dfae"));
    assert_eq!(event.kms_operation.as_deref(), Some("Encrypt"));
    assert_eq!(event.principal_arn.as_deref(), Some("arn:aws:iam::123456789012:user/Alice"));
    assert!(event.kms_key_arn.as_deref().unwrap().ends_with("7890ab"));
    assert_eq!(event.via_service.as_deref(), Some("ebs"));
    assert_eq!(event.source_vpc.as_deref(), Some("vpc-1"));
    assert_eq!(event.source_vpce.as_deref(), Some("vpce-2"));
    assert_eq!((event.status, event.error_name, &event.detail, event.ck_rv), (200, None, &None, None));
}

#[tokio::test]
async fn md_5_a_refused_request_is_logged_with_what_it_said_and_why() {
    let world = World::new();
    let reply = world.call("keys/foo/encrypt", &without(encrypt(""), "plaintext")).await;
    reply.is_error(400, "ValidationException");
    let event = world.events.last();
    assert_eq!(event.kms_request_id.as_deref(), Some("4112f4d6-db54-4af4-ae30-c55a22a8dfae"));
    assert_eq!((event.status, event.error_name), (400, Some(ErrorName::ValidationException)));
    assert_eq!(event.detail.as_deref(), Some("plaintext is required."));
}

#[tokio::test]
async fn md_5_every_kind_of_request_leaves_exactly_one_event() {
    let world = World::new();
    for (count, request) in (1..).zip([
        signed("/nowhere", "", CREDENTIAL),
        signed(&uri("health"), "{", CREDENTIAL),
        signed(&uri("health"), "{}", OTHER_CREDENTIAL),
        Request::get(uri("health")).body(Full::default()).unwrap(),
        signed(&uri("keys/foo/encrypt"), encrypt("").to_string(), CREDENTIAL),
        signed(&uri("keys/non_existing_key/encrypt"), encrypt("").to_string(), CREDENTIAL),
    ]) {
        let reply = world.send(request).await;
        assert_eq!(world.events.all().len(), count);
        assert_eq!(world.events.last().status, reply.status);
    }
}

#[tokio::test(start_paused = true)]
async fn md_5_a_caller_who_leaves_is_recorded_once_and_gives_its_place_back() {
    let limits = Limits { in_flight_max: 1, ..Limits::default() };
    let world = World::with(limits, |_| {});
    world.hsm.next([Misdeed::Hang]);
    let patience = Duration::from_millis(20);
    let gone = tokio::time::timeout(patience, world.call("keys/foo/encrypt", &encrypt("aGk="))).await;
    assert!(gone.is_err());
    let [event] = &world.events.all()[..] else { panic!("not one event") };
    assert_eq!((event.status, event.error_name), (STATUS_CALLER_GONE, None));
    assert_eq!(event.stations.total, patience);
    assert_eq!(event.kms_operation.as_deref(), Some("Encrypt"));
    world.call("keys/foo/encrypt", &encrypt("aGk=")).await.is_ok();
}

#[tokio::test(start_paused = true)]
async fn md_6_plaintext_reaches_no_event_and_no_error_message() {
    let world = World::new();
    let secret = base64(SECRET_TEXT);
    let sealed = world.call("keys/foo/encrypt", &with_integrity(&secret)).await;
    let opened = world.call("keys/foo/decrypt", &decrypt(&sealed)).await;
    assert_eq!(opened.text("plaintext"), secret);
    let mut said = String::new();
    for body in [
        with(encrypt(&secret), "encryptionAlgorithm", json!("ROT13")),
        with(encrypt(&secret), "encryptionAlgorithm", json!([secret])),
        with(encrypt(&secret), "plaintext", json!({ secret.as_str(): secret })),
        with(encrypt(""), "plaintext", json!(format!("{secret} "))),
        with(encrypt(&secret), "requestMetadata", json!({})),
    ] {
        let reply = world.call("keys/foo/encrypt", &body).await;
        reply.is_error(400, "ValidationException");
        said += std::str::from_utf8(&reply.body).unwrap();
    }
    for kind in KINDS {
        world.hsm.next([Misdeed::Fail(kind)]);
        let reply = world.call("keys/foo/encrypt", &encrypt(&secret)).await;
        said += std::str::from_utf8(&reply.body).unwrap();
    }
    world.hsm.next([Misdeed::Hang]);
    world.call("keys/foo/encrypt", &encrypt(&secret)).await;
    let logged = world.events.text() + &format!("{:?}", world.events.all());
    for hidden in [SECRET_TEXT, &secret, CREDENTIAL.1] {
        assert!(!logged.contains(hidden), "{hidden} is in the log");
        assert!(!said.contains(hidden), "{hidden} is in an answer");
    }
}

// ---------------------------------------------------------------------------------------------- GetKeyMetadata

#[tokio::test]
async fn meta_1_meta_2_answers_for_keys_of_all_kinds() {
    let world = World::new();
    for (key, expected) in [
        ("foo", r#"{"keySpec":"AES_256","keyUsage":["ENCRYPT","DECRYPT"],"keyStatus":"ENABLED"}"#),
        ("encrypt_only_key", r#"{"keySpec":"AES_256","keyUsage":["ENCRYPT"],"keyStatus":"ENABLED"}"#),
        ("decrypt_only_key", r#"{"keySpec":"AES_256","keyUsage":["DECRYPT"],"keyStatus":"ENABLED"}"#),
        ("impotent_key", r#"{"keySpec":"AES_256","keyUsage":["NONE"],"keyStatus":"ENABLED"}"#),
        ("disabled_key", r#"{"keySpec":"AES_256","keyUsage":["ENCRYPT","DECRYPT"],"keyStatus":"DISABLED"}"#),
    ] {
        let body = json!({ "requestMetadata": without(metadata(), "kmsKeyArn") });
        let reply = world.call(&format!("keys/{key}/metadata"), &body).await;
        assert_eq!(reply.is_ok().body, expected.as_bytes());
    }
}

#[tokio::test]
async fn meta_3_an_unknown_key_is_not_found() {
    let world = World::with(Limits::default(), |store| store.keys.others = OtherKeys::ByLabel);
    let metadata = json!({ "requestMetadata": metadata() });
    world.call("keys/non_existing_key/metadata", &metadata).await.is_error(404, "KeyNotFoundException");
    world.call("keys/non_existing_key/encrypt", &encrypt("")).await.is_error(404, "KeyNotFoundException");

    let listed = World::with(Limits::default(), |store| store.keys.others = OtherKeys::NotFound);
    let sealed = world.call("keys/foo/encrypt", &encrypt("")).await;
    for (operation, body) in [("metadata", metadata), ("encrypt", encrypt("")), ("decrypt", decrypt(&sealed))]
    {
        listed.call(&format!("keys/foo/{operation}"), &body).await.is_error(404, "KeyNotFoundException");
    }
    assert!(listed.hsm.calls().is_empty());
}

/// The story: whoever asked for the label of the HSM's health key encrypted with it, as with any customer's key.
#[tokio::test]
async fn meta_3_a_reserved_label_is_not_found() {
    let world = World::with(Limits::default(), |store| store.keys.others = OtherKeys::ByLabel);
    let sealed = world.call("keys/foo/encrypt", &encrypt("")).await;
    sealed.is_ok();
    let reserving = World::with(Limits::default(), |store| {
        store.keys.others = OtherKeys::ByLabel;
        store.keys.entries.clear();
        store.keys.reserved.insert("foo".to_owned());
    });
    let metadata = json!({ "requestMetadata": metadata() });
    for (operation, body) in [("metadata", metadata), ("encrypt", encrypt("")), ("decrypt", decrypt(&sealed))]
    {
        reserving.call(&format!("keys/foo/{operation}"), &body).await.is_error(404, "KeyNotFoundException");
    }
    assert!(reserving.hsm.calls().is_empty());
}

// ---------------------------------------------------------------------------------------------- Encrypt

#[tokio::test]
async fn enc_1_enc_5_dec_1_dec_3_sizes_round_trip() {
    let world = World::new();
    // 4,300 bytes are the spec's least; the proxy's own limit is 8,192. Empty is legal AES-GCM and accepted.
    for size in [0, 1, 2, 3, 16, 4_300, 8_192] {
        let plaintext = base64(vec![0xa5; size]);
        let sealed = world.call("keys/foo/encrypt", &encrypt(&plaintext)).await;
        assert_eq!(bytes(&sealed, "ciphertext").len(), size);
        assert_eq!(bytes(&sealed, "initializationVector").len(), 12);
        assert_eq!(bytes(&sealed, "authenticationTag").len(), 16);
        assert!(sealed.json().get("ciphertextDataIntegrityValue").is_none());
        let opened = world.call("keys/foo/decrypt", &decrypt(&sealed)).await;
        assert_eq!(opened.is_ok().json(), json!({ "plaintext": plaintext }));
    }
}

#[tokio::test]
async fn enc_1_plaintext_is_strict_base64_and_required() {
    let world = World::new();
    for bad in ["aGk", "aGk==", "aG k=", "aGk=\n", "a_-=", "%%%%"] {
        let reply = world.call("keys/foo/encrypt", &encrypt(bad)).await;
        assert_eq!(
            reply.is_error(400, "ValidationException").text("errorMessage"),
            "plaintext is not standard Base64."
        );
    }
    for bad in [without(encrypt(""), "plaintext"), with(encrypt(""), "plaintext", Value::Null)] {
        world.call("keys/foo/encrypt", &bad).await.is_error(400, "ValidationException");
    }
}

#[tokio::test]
async fn enc_2_the_algorithm_is_required_and_aes_gcm() {
    let world = World::new();
    let sealed = world.call("keys/foo/encrypt", &encrypt("aGk=")).await;
    for (operation, body) in [("encrypt", encrypt("aGk=")), ("decrypt", decrypt(&sealed))] {
        let operation = format!("keys/foo/{operation}");
        for bad in ["AES_CBC", "aes_gcm", ""] {
            let body = with(body.clone(), "encryptionAlgorithm", json!(bad));
            world.call(&operation, &body).await.is_error(400, "ValidationException");
        }
        let body = without(body, "encryptionAlgorithm");
        world.call(&operation, &body).await.is_error(400, "ValidationException");
    }
}

#[tokio::test]
async fn enc_3_aad_of_all_sizes_is_bound() {
    let world = World::new();
    for size in [0, 1, 8_192, 16_384] {
        let aad = json!(base64(vec![0x5a; size]));
        let body = with(encrypt("aGk="), "additionalAuthenticatedData", aad.clone());
        let sealed = world.call("keys/foo/encrypt", &body).await;
        let with_aad = with(decrypt(&sealed), "additionalAuthenticatedData", aad);
        world.call("keys/foo/decrypt", &with_aad).await.is_ok();
        // Absent and empty are the same; anything else is not.
        let without_aad = world.call("keys/foo/decrypt", &decrypt(&sealed)).await;
        assert_eq!(without_aad.status, if size == 0 { 200 } else { 400 });
    }
    let bad = with(encrypt("aGk="), "additionalAuthenticatedData", json!("a"));
    world.call("keys/foo/encrypt", &bad).await.is_error(400, "ValidationException");
}

#[tokio::test]
async fn enc_4_enc_9_an_integrity_value_covers_all_parts() {
    let world = World::new();
    for aad in [&b""[..], b"project=nile"] {
        let body = with(with_integrity("aGVsbG8="), "additionalAuthenticatedData", json!(base64(aad)));
        let sealed = world.call("keys/foo/encrypt", &body).await;
        let parts = Sealed {
            ciphertext: bytes(sealed.is_ok(), "ciphertext"),
            iv: Iv::from_slice(&bytes(&sealed, "initializationVector")).unwrap(),
            tag: bytes(&sealed, "authenticationTag").try_into().unwrap(),
        };
        let value = integrity_value(aad, &bytes(&sealed, "ciphertextMetadata"), &parts);
        assert_eq!(bytes(&sealed, "ciphertextDataIntegrityValue"), value);
    }
    for bad in ["SHA_512", "sha_256", ""] {
        let body = with(encrypt(""), "ciphertextDataIntegrityValueAlgorithm", json!(bad));
        world.call("keys/foo/encrypt", &body).await.is_error(400, "ValidationException");
    }
}

#[test]
fn enc_9_the_worked_example_of_the_spec() {
    let decode = |text: &str| STANDARD.decode(text).unwrap();
    let sealed = Sealed {
        ciphertext: decode("ghxkK1txeDNn3q8Y"),
        iv: Iv::from_slice(&decode("HMrlRw85cAJUd5Ax")).unwrap(),
        tag: decode("vBxN2ncH1oEkR8WVXpmyYQ==").try_into().unwrap(),
    };
    let aad = decode("cHJvamVjdD1uaWxlLGRlcGFydG1lbnQ9bWFya2V0aW5n");
    let metadata = decode("a2V5X3ZlcnNpb249MQ==");
    let value = integrity_value(&aad, &metadata, &sealed);
    assert_eq!(base64(value), "qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=");
}

#[tokio::test]
async fn enc_9_what_does_not_decrypt_is_made_again_once_and_never_answered() {
    // A ciphertext that is wrong, a decryption that is rejected, and one that is wrong.
    let bad_seal = [Misdeed::Corrupt];
    let rejected = [Misdeed::Slow(Duration::ZERO), Misdeed::Fail(HsmErrorKind::CiphertextRejected)];
    let bad_open = [Misdeed::Slow(Duration::ZERO), Misdeed::Corrupt];
    for first in [&bad_seal[..], &rejected, &bad_open] {
        let world = World::new();
        world.hsm.next(first.to_vec());
        let sealed = world.call("keys/foo/encrypt", &with_integrity("aGk=")).await;
        let opened = world.call("keys/foo/decrypt", &decrypt(&sealed)).await;
        assert_eq!(opened.text("plaintext"), "aGk=");
        let expected = ["encrypt", "decrypt", "encrypt", "decrypt", "decrypt"];
        assert_eq!(world.hsm.calls(), expected.map(|call| format!("{call} label \"foo\"")));
    }
    let world = World::new();
    let keep = || Misdeed::Slow(Duration::ZERO);
    world.hsm.next([Misdeed::Corrupt, keep(), Misdeed::Corrupt, keep()]);
    let reply = world.call("keys/foo/encrypt", &with_integrity("aGk=")).await;
    reply.is_error(500, "InternalException");
    assert_eq!(world.hsm.calls().len(), 4);
}

#[tokio::test]
async fn enc_9_an_encryption_costs_one_call_and_its_integrity_value_one_more() {
    let world = World::new();
    world.call("keys/foo/encrypt", &encrypt("aGk=")).await.is_ok();
    assert_eq!(world.hsm.calls(), ["encrypt label \"foo\""]);
    let world = World::new();
    world.call("keys/foo/encrypt", &with_integrity("aGk=")).await.is_ok();
    assert_eq!(world.hsm.calls(), ["encrypt label \"foo\"", "decrypt label \"foo\""]);
}

#[tokio::test]
async fn enc_5_dec_3_a_wrong_length_from_the_hsm_is_not_passed_on() {
    let world = World::new();
    let sealed = world.call("keys/foo/encrypt", &encrypt("aGk=")).await;
    world.hsm.next([Misdeed::Shorten]);
    world.call("keys/foo/encrypt", &encrypt("aGk=")).await.is_error(500, "InternalException");
    world.hsm.next([Misdeed::Shorten]);
    world.call("keys/foo/decrypt", &decrypt(&sealed)).await.is_error(500, "InternalException");
}

#[tokio::test]
async fn enc_6_metadata_is_a_format_and_a_key_version() {
    let world = World::new();
    let sealed = world.call("keys/foo/encrypt", &encrypt("aGk=")).await;
    assert_eq!(bytes(&sealed, "ciphertextMetadata"), [1, 1]);
}

#[tokio::test]
async fn enc_8_what_is_too_large_is_unsupported() {
    let world = World::new();
    let sealed = world.call("keys/foo/encrypt", &encrypt("aGk=")).await;
    let (text, aad) = (json!(base64(vec![0; 8_193])), json!(base64(vec![0; 16_385])));
    for (operation, body) in [
        ("encrypt", with(encrypt(""), "plaintext", text.clone())),
        ("encrypt", with(encrypt(""), "additionalAuthenticatedData", aad.clone())),
        ("decrypt", with(decrypt(&sealed), "ciphertext", text)),
        ("decrypt", with(decrypt(&sealed), "additionalAuthenticatedData", aad)),
    ] {
        let reply = world.call(&format!("keys/foo/{operation}"), &body).await;
        reply.is_error(501, "UnsupportedOperationException");
    }
    // The framing of XKS-ENC-7 ends at 65,535, whatever the configuration says.
    let limits = Limits { aad_bytes_max: 100_000, body_bytes_max: 200_000, ..Limits::default() };
    let world = World::with(limits, |_| {});
    for (size, status) in [(65_535, 200), (65_536, 501)] {
        let body = with(encrypt(""), "additionalAuthenticatedData", json!(base64(vec![0; size])));
        assert_eq!(world.call("keys/foo/encrypt", &body).await.status, status);
    }
}

#[tokio::test]
async fn enc_10_a_key_without_the_usage_that_is_needed_is_refused() {
    let world = World::new();
    for (key, plain, integrity) in [
        ("foo", 200, 200),
        ("encrypt_only_key", 200, 400),
        ("decrypt_only_key", 400, 400),
        ("impotent_key", 400, 400),
    ] {
        let operation = format!("keys/{key}/encrypt");
        for (body, status) in [(encrypt("aGk="), plain), (with_integrity("aGk="), integrity)] {
            let reply = world.call(&operation, &body).await;
            assert_eq!(reply.status, status, "{key}");
            if status == 400 {
                reply.is_error(400, "InvalidKeyUsageException");
            }
        }
    }
    let sealed = world.call("keys/encrypt_only_key/encrypt", &encrypt("aGk=")).await;
    let reply = world.call("keys/encrypt_only_key/decrypt", &decrypt(&sealed)).await;
    reply.is_error(400, "InvalidKeyUsageException");
}

#[tokio::test]
async fn err_2_a_disabled_key_is_an_invalid_state() {
    let world = World::new();
    for body in [encrypt("aGk="), with_integrity("aGk=")] {
        world.call("keys/disabled_key/encrypt", &body).await.is_error(400, "InvalidStateException");
    }
}

// ---------------------------------------------------------------------------------------------- Decrypt

#[tokio::test]
async fn dec_1_fields_are_required_and_of_the_right_size() {
    let world = World::new();
    let good = decrypt(&world.call("keys/foo/encrypt", &encrypt("aGk=")).await);
    for field in ["ciphertext", "initializationVector", "authenticationTag", "encryptionAlgorithm"] {
        let reply = world.call("keys/foo/decrypt", &without(good.clone(), field)).await;
        assert!(reply.is_error(400, "ValidationException").text("errorMessage").starts_with(field));
        let reply = world.call("keys/foo/decrypt", &with(good.clone(), field, json!("?"))).await;
        assert!(reply.is_error(400, "ValidationException").text("errorMessage").starts_with(field));
    }
    for (field, sizes) in
        [("initializationVector", &[0, 8, 11, 13, 15, 17][..]), ("authenticationTag", &[0, 12, 15, 17])]
    {
        for size in sizes {
            let body = with(good.clone(), field, json!(base64(vec![0; *size])));
            world.call("keys/foo/decrypt", &body).await.is_error(400, "ValidationException");
        }
    }
    // 16 bytes are legal, and here simply not the IV it was made with.
    let body = with(good, "initializationVector", json!(base64([0; 16])));
    world.call("keys/foo/decrypt", &body).await.is_error(400, "InvalidCiphertextException");
}

#[tokio::test]
async fn dec_2_dec_4_any_change_gets_one_and_the_same_answer() {
    let world = World::new();
    let aad = json!(base64("aad"));
    let body = with(encrypt("aGVsbG8="), "additionalAuthenticatedData", aad.clone());
    let sealed = world.call("keys/foo/encrypt", &body).await;
    let good = with(decrypt(&sealed), "additionalAuthenticatedData", aad);
    world.call("keys/foo/decrypt", &good).await.is_ok();
    let mut answers = Vec::new();
    for field in [
        "ciphertext",
        "initializationVector",
        "authenticationTag",
        "ciphertextMetadata",
        "additionalAuthenticatedData",
    ] {
        let was = STANDARD.decode(good[field].as_str().unwrap()).unwrap();
        for bit in 0..was.len() * 8 {
            let mut changed = was.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let body = with(good.clone(), field, json!(base64(changed)));
            answers.push(world.call("keys/foo/decrypt", &body).await);
        }
    }
    // Lengths, formats and versions that are not ours need no HSM to be refused.
    let calls = world.hsm.calls().len();
    for metadata in [&[][..], &[1], &[1, 1, 1], &[1; 20], &[0, 1], &[2, 1], &[1, 0], &[1, 2]] {
        let body = with(good.clone(), "ciphertextMetadata", json!(base64(metadata)));
        answers.push(world.call("keys/foo/decrypt", &body).await);
    }
    answers.push(world.call("keys/foo/decrypt", &without(good.clone(), "ciphertextMetadata")).await);
    assert_eq!(world.hsm.calls().len(), calls);
    answers.push(world.call("keys/foo/decrypt", &without(good.clone(), "additionalAuthenticatedData")).await);
    answers.push(world.call("keys/bar/decrypt", &good).await);
    for answer in &answers {
        answer.is_error(400, "InvalidCiphertextException");
        assert_eq!(answer.body, answers[0].body);
    }
    let long = with(good, "ciphertextMetadata", json!(base64([1; 21])));
    world.call("keys/foo/decrypt", &long).await.is_error(400, "ValidationException");
}

#[tokio::test]
async fn dec_2_a_rotated_key_decrypts_what_its_old_versions_made() {
    let entry =
        |current| KeyEntry { current: KeyVersion(current), versions: versions(&[(1, "old"), (2, "new")]) };
    let before = World::with(Limits::default(), |store| {
        store.keys.entries.insert(KeyId::parse("foo").unwrap(), entry(1));
    });
    let after = World::with(Limits::default(), |store| {
        store.keys.entries.insert(KeyId::parse("foo").unwrap(), entry(2));
    });
    let old = before.call("keys/foo/encrypt", &encrypt("aGk=")).await;
    let new = after.call("keys/foo/encrypt", &encrypt("aGk=")).await;
    assert_eq!(
        (bytes(&old, "ciphertextMetadata"), bytes(&new, "ciphertextMetadata")),
        (vec![1, 1], vec![1, 2])
    );
    for sealed in [&old, &new] {
        after.call("keys/foo/decrypt", &decrypt(sealed)).await.is_ok();
    }
    assert_eq!(after.hsm.calls()[1..], ["decrypt label \"old\"", "decrypt label \"new\""]);
    // The version is bound: a ciphertext of one does not pass as the other's.
    let swapped = with(decrypt(&old), "ciphertextMetadata", json!(base64([1, 2])));
    after.call("keys/foo/decrypt", &swapped).await.is_error(400, "InvalidCiphertextException");
}

// ---------------------------------------------------------------------------------------------- GetHealthStatus

#[tokio::test]
async fn hlt_1_hlt_2_hlt_3_health_asks_the_hsm_and_no_policy() {
    let world = World::with(Limits::default(), |store| store.access.rules = vec![nobody()]);
    let body = json!({ "requestMetadata": { "kmsRequestId": "1", "kmsOperation": "KmsHealthCheck" } });
    let reply = world.call("health", &body).await;
    assert_eq!(
        reply.is_ok().json(),
        json!({
            "xksProxyFleetSize": 1,
            "xksProxyVendor": "xks-proxy",
            "xksProxyModel": concat!("xks-proxy ", env!("CARGO_PKG_VERSION")),
            "ekmVendor": "PKCS#11",
            "ekmFleetDetails": [{ "id": "hsm-1", "model": "stub", "healthStatus": "ACTIVE" }]
        })
    );
    assert_eq!(world.hsm.calls().len(), 1);
    let device = |status| DeviceHealth { id: "a".into(), model: "b".into(), status };
    *world.hsm.devices.lock().unwrap() =
        vec![device(HealthStatus::Degraded), device(HealthStatus::Unavailable)];
    let devices = world.call("health", &body).await.is_ok().json()["ekmFleetDetails"].clone();
    assert_eq!(
        (&devices[0]["healthStatus"], &devices[1]["healthStatus"]),
        (&json!("DEGRADED"), &json!("UNAVAILABLE"))
    );
}

// ---------------------------------------------------------------------------------------------- Errors

const KINDS: [HsmErrorKind; 11] = [
    HsmErrorKind::KeyNotFound,
    HsmErrorKind::UsageRefused,
    HsmErrorKind::KeyDisabled,
    HsmErrorKind::CiphertextRejected,
    HsmErrorKind::TooLong,
    HsmErrorKind::Busy,
    HsmErrorKind::TimedOut,
    HsmErrorKind::SessionLost,
    HsmErrorKind::DeviceGone,
    HsmErrorKind::Failed,
    HsmErrorKind::Refused,
];

#[tokio::test]
async fn err_1_err_2_err_3_what_the_hsm_says_becomes_what_the_operation_may_say() {
    let world = World::new();
    let sealed = world.call("keys/foo/encrypt", &encrypt("aGk=")).await;
    let bodies = [json!({ "requestMetadata": metadata() }), encrypt("aGk="), decrypt(&sealed)];
    let internal = (500, "InternalException");
    for (kind, by_operation) in KINDS.into_iter().zip([
        [(404, "KeyNotFoundException"); 3],
        [internal, (400, "InvalidKeyUsageException"), (400, "InvalidKeyUsageException")],
        [internal, (400, "InvalidStateException"), (400, "InvalidStateException")],
        [internal, internal, (400, "InvalidCiphertextException")],
        [internal, (501, "UnsupportedOperationException"), (501, "UnsupportedOperationException")],
        [(429, "ThrottlingException"); 3],
        [(503, "DependencyTimeoutException"); 3],
        [internal; 3],
        [internal; 3],
        [internal; 3],
        [internal; 3],
    ]) {
        for ((operation, body), (status, name)) in
            ["metadata", "encrypt", "decrypt"].iter().zip(&bodies).zip(by_operation)
        {
            world.hsm.next([Misdeed::Fail(kind)]);
            let reply = world.call(&format!("keys/foo/{operation}"), body).await;
            reply.is_error(status, name);
            assert!(!reply.text("errorMessage").contains("scripted"), "the HSM's words stay in the log");
            let event = world.events.last();
            assert_eq!(event.ck_rv, Some(0x30));
            assert!(event.detail.unwrap().contains("as scripted"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn time_2_a_hung_hsm_is_answered_at_the_deadline() {
    let world = World::new();
    for (operation, body) in bodies(&world).await {
        world.hsm.next([Misdeed::Hang]);
        let start = Instant::now();
        world.call(operation, &body).await.is_error(503, "DependencyTimeoutException");
        assert_eq!(start.elapsed(), Duration::from_millis(150));
        assert_eq!(world.events.last().stations.hsm, Duration::from_millis(150));
    }
}

#[tokio::test(start_paused = true)]
async fn time_2_a_full_house_is_refused_at_once_and_before_the_signature_is_looked_at() {
    let limits = Limits { in_flight_max: 2, ..Limits::default() };
    let world = World::with(limits, |_| {});
    world.hsm.next([Misdeed::Hang, Misdeed::Hang]);
    let (start, body) = (Instant::now(), encrypt("aGk="));
    let (first, second, third) =
        tokio::join!(world.call("keys/foo/encrypt", &body), world.call("keys/foo/encrypt", &body), async {
            let reply = world.send(signed(&uri("health"), "{}", OTHER_CREDENTIAL)).await;
            assert_eq!(start.elapsed(), Duration::ZERO);
            reply
        },);
    third.is_error(429, "ThrottlingException");
    first.is_error(503, "DependencyTimeoutException");
    second.is_error(503, "DependencyTimeoutException");
    world.call("keys/foo/encrypt", &body).await.is_ok();
}

// ---------------------------------------------------------------------------------------------- Authentication

#[tokio::test]
async fn auth_1_auth_5_every_failure_to_authenticate_reads_the_same() {
    let world = World::new();
    let body = encrypt("aGk=").to_string();
    let path = uri("keys/foo/encrypt");
    let good = || signed(&path, body.clone(), CREDENTIAL);
    let mut unsigned = good();
    unsigned.headers_mut().remove("authorization");
    let mut garbled = good();
    garbled.headers_mut().insert("authorization", "AWS4-HMAC-SHA256 nonsense".parse().unwrap());
    let mut dateless = good();
    dateless.headers_mut().remove("x-amz-date");
    let (head, _) = good().into_parts();
    let other_body = Request::from_parts(head, Full::new(Bytes::from(encrypt("aGo=").to_string())));
    let (mut head, body_of_other_path) = good().into_parts();
    head.uri = uri("keys/bar/encrypt").parse().unwrap();
    let other_path = Request::from_parts(head, body_of_other_path);
    let wrong_secret = (CREDENTIAL.0, OTHER_CREDENTIAL.1);
    let wrong_id = (OTHER_CREDENTIAL.0, CREDENTIAL.1);
    let malformed_id = ("InvalidBETWEEN2TENAND3TENCHARACTERS", CREDENTIAL.1);
    let requests = [
        unsigned,
        garbled,
        dateless,
        other_body,
        other_path,
        signed(&path, body.clone(), wrong_secret),
        signed(&path, body.clone(), wrong_id),
        signed(&path, body.clone(), malformed_id),
    ];
    let mut answers = Vec::new();
    for request in requests {
        answers.push(world.send(request).await);
        assert_eq!(world.events.last().access_key_id, None);
    }
    for answer in &answers {
        answer.is_error(401, "AuthenticationFailedException");
        assert_eq!(answer.body, answers[0].body);
    }
    assert!(world.hsm.calls().is_empty(), "nothing unauthenticated reaches the HSM");
    world.send(good()).await.is_ok();
}

#[tokio::test]
async fn auth_2_five_minutes_of_skew_are_allowed() {
    let world = World::new();
    let body = json!({ "requestMetadata": metadata() }).to_string();
    for (seconds, status) in [(-301_i64, 401), (-300, 200), (300, 200), (301, 401)] {
        let time = UnixTime(Duration::from_secs(NOW.secs().saturating_add_signed(seconds)));
        let reply = world.send(signed_at(&uri("health"), body.clone(), CREDENTIAL, time)).await;
        assert_eq!(reply.status, status, "{seconds}");
    }
}

#[tokio::test]
async fn auth_1_works_with_authority_and_with_a_query() {
    let world = World::new();
    let body = json!({ "requestMetadata": metadata() }).to_string();
    let (mut head, whole) = signed(&uri("health?a=b&c=d"), body, CREDENTIAL).into_parts();
    head.headers.remove("host");
    head.uri = format!("https://xks.example.com{}", uri("health?a=b&c=d")).parse().unwrap();
    world.send(Request::from_parts(head, whole)).await.is_ok();
}

#[tokio::test]
async fn auth_1_a_region_can_be_demanded() {
    let world = World::with(Limits::default(), |store| store.region = Some("eu-central-1".into()));
    let body = json!({ "requestMetadata": metadata() });
    world.call("health", &body).await.is_error(401, "AuthenticationFailedException");
}

#[tokio::test]
async fn auth_4_credentials_change_between_two_requests() {
    let (world, next) = (World::new(), World::new());
    let body = json!({ "requestMetadata": metadata() }).to_string();
    let store = next.app.store(PREFIX).unwrap();
    let replaced = xks_proxy::app::KeyStore::new(
        "one",
        store.prefix.clone(),
        next.app.store("").unwrap().credentials.to_vec(),
        std::sync::Arc::clone(&store.hsm),
    );
    world.send(signed(&uri("health"), body.clone(), CREDENTIAL)).await.is_ok();
    world.app.replace_stores(vec![replaced]).unwrap();
    world.send(signed(&uri("health"), body.clone(), OTHER_CREDENTIAL)).await.is_ok();
    let old = world.send(signed(&uri("health"), body, CREDENTIAL)).await;
    old.is_error(401, "AuthenticationFailedException");
}

// ---------------------------------------------------------------------------------------------- Authorization

fn nobody() -> Rule {
    Rule {
        name: "only Bob".into(),
        principal_arns: vec![Pattern::new("arn:aws:iam::123456789012:user/Bob")],
        ..Rule::default()
    }
}

#[tokio::test]
async fn az_1_az_2_a_denied_request_does_not_reach_the_hsm_and_names_its_rule_in_the_log() {
    let world = World::with(Limits::default(), |store| store.access.rules = vec![nobody()]);
    let metadata_body = json!({ "requestMetadata": metadata() });
    for (operation, body) in [("metadata", metadata_body), ("encrypt", encrypt("aGk="))] {
        let reply = world.call(&format!("keys/foo/{operation}"), &body).await;
        reply.is_error(403, "AccessDeniedException");
        assert!(!reply.text("errorMessage").contains("Bob"));
        assert!(world.events.last().detail.unwrap().contains("only Bob"));
    }
    assert!(world.hsm.calls().is_empty());
    let bob = with(metadata(), "awsPrincipalArn", json!("arn:aws:iam::123456789012:user/Bob"));
    world.call("keys/foo/encrypt", &with(encrypt("aGk="), "requestMetadata", bob)).await.is_ok();
}

#[tokio::test]
async fn answers_carry_the_clocks_date() {
    let reply = World::new().call("health", &json!({ "requestMetadata": metadata() })).await;
    assert_eq!(reply.headers["date"], "Fri, 02 Jan 2026 03:04:05 GMT");
}

/// What a key store that holds ciphertexts of AWS's sample proxy makes of metadata and of new plaintexts, without an HSM
/// that has its keys; `sample_proxy.rs` has one.
#[tokio::test]
async fn mig_1_the_scheme_of_new_ciphertexts_is_the_configured_one_and_others_are_told_apart() {
    let sample = |encrypt| SampleProxy::new(b"v0.0.1".to_vec(), Vec::new(), encrypt).unwrap();
    let own = STANDARD.encode([1, 1]);
    for (encrypts, metadata) in [
        (None, own.clone()),
        (Some(Scheme::Own), own),
        (Some(Scheme::SampleProxy), STANDARD.encode("v0.0.1")),
    ] {
        let world = World::with(Limits::default(), |store| store.sample_proxy = encrypts.map(sample));
        let made = world.call("keys/foo/encrypt", &encrypt("aGk=")).await;
        assert_eq!(made.is_ok().text("ciphertextMetadata"), metadata, "{encrypts:?}");

        let stranger = with(decrypt(&made), "ciphertextMetadata", json!(STANDARD.encode("nobody's")));
        let reply = world.call("keys/foo/decrypt", &stranger).await;
        reply.is_error(400, "InvalidCiphertextException");
        let told = world.events.last().detail.unwrap();
        assert_eq!(told.contains("[key_store.compatibility]"), encrypts.is_some(), "{told}");

        let bare = world.call("keys/foo/decrypt", &without(decrypt(&made), "ciphertextMetadata")).await;
        bare.is_error(400, "InvalidCiphertextException");
        let told = world.events.last().detail.unwrap();
        assert_eq!(told.contains("there is no ciphertextMetadata"), encrypts.is_none(), "{told}");
    }
}
