//! The KMS model against a scripted proxy on in-memory pipes and paused time: what each misbehaviour looks like to
//! KMS's caller, how long it takes, and which alarm rings.

use crate::support::{CALLER, Connect, OTHER_CALLER, Pipes, World, simulate, world};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use scenarios::kms::client::ClientTls;
use scenarios::kms::failure::Cause;
use scenarios::kms::settings::KmsSettings;
use scenarios::kms::violations::{X1, X2, X5};
use scenarios::kms::{CiphertextBlob, KmsApi, KmsException, KmsFailure, KmsOperation};
use scenarios::trace::XksOutcome;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use xks_proxy::error::ErrorName;

/// One request as the scripted proxy saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) head: String,
    pub(crate) body: Value,
}

/// What the scripted proxy does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Answers properly.
    Serve,
    /// This status and body.
    Answer(u16, String),
    /// These bytes as they are, and stays open.
    Raw(&'static str),
    /// These bytes, and closes.
    RawThenClose(&'static str),
    /// Nothing, ever.
    Silence,
    /// Answers properly and closes the connection after this time.
    ServeThenClose(Duration),
    /// Answers properly, and closes its own direction only, as TCP does: what the client writes still gets away.
    ServeThenFin,
    /// Answers properly after this time.
    ServeLate(Duration),
    /// Encrypts, with a wrong integrity value.
    WrongIntegrityValue,
    /// Decrypts and changes one bit.
    FlipPlaintext,
    /// Decrypts something else: what the blob before this one held.
    SwapPlaintext,
}

#[derive(Default)]
pub(crate) struct Proxy {
    reply: RefCell<Option<Reply>>,
    /// Replies to the next requests, last first; then `reply` holds.
    script: RefCell<Vec<Reply>>,
    seen: RefCell<Vec<Seen>>,
    /// Connections that the client has closed.
    closed_by_client: Cell<u32>,
    last_plaintext: RefCell<Vec<u8>>,
    /// The one access key id that is let in, if it matters.
    accepted: Cell<Option<&'static str>>,
}

impl Proxy {
    pub(crate) fn always(&self, reply: Reply) {
        *self.reply.borrow_mut() = Some(reply);
    }

    /// From now on requests signed with another access key id are answered with row 6.
    pub(crate) fn accept_only(&self, access_key_id: &'static str) {
        self.accepted.set(Some(access_key_id));
    }

    pub(crate) fn last(&self) -> Seen {
        self.seen.borrow().last().unwrap().clone()
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }

    /// How many requests there were.
    pub(crate) fn heard(&self) -> usize {
        self.seen.borrow().len()
    }

    /// Not AES: a ciphertext that only this proxy can make sense of, and a tag that knows the AAD.
    fn serve(&self, seen: &Seen) -> (u16, Value) {
        if self.accepted.get().is_some_and(|id| !seen.head.contains(id)) {
            return (401, json!({"errorName": "AuthenticationFailedException"}));
        }
        let field = |name: &str| STANDARD.decode(seen.body[name].as_str().unwrap_or_default()).unwrap();
        let aad = field("additionalAuthenticatedData");
        let tag = |ciphertext: &[u8]| -> Vec<u8> {
            let hash = Sha256::new().chain_update(&aad).chain_update(ciphertext).finalize();
            hash[..16].to_vec()
        };
        if seen.path.ends_with("/encrypt") {
            let ciphertext: Vec<u8> = field("plaintext").iter().map(|byte| byte ^ 0x5a).collect();
            let tag = tag(&ciphertext);
            let mut answer = json!({
                "ciphertext": STANDARD.encode(&ciphertext), "initializationVector": STANDARD.encode([7; 12]),
                "authenticationTag": STANDARD.encode(&tag), "ciphertextMetadata": STANDARD.encode(b"v1"),
            });
            if !seen.body["ciphertextDataIntegrityValueAlgorithm"].is_null() {
                let value = Sha256::digest([&aad, &b"v1"[..], &[7; 12], &ciphertext, &tag].concat());
                answer["ciphertextDataIntegrityValue"] = STANDARD.encode(value).into();
            }
            (200, answer)
        } else if seen.path.ends_with("/decrypt") {
            let ciphertext = field("ciphertext");
            if field("authenticationTag") != tag(&ciphertext) || field("ciphertextMetadata") != b"v1" {
                return (400, json!({"errorName": "InvalidCiphertextException"}));
            }
            let plaintext: Vec<u8> = ciphertext.iter().map(|byte| byte ^ 0x5a).collect();
            (200, json!({"plaintext": STANDARD.encode(plaintext)}))
        } else if seen.path.ends_with("/metadata") {
            let usage = ["ENCRYPT", "DECRYPT"];
            (200, json!({"keySpec": "AES_256", "keyUsage": usage, "keyStatus": "ENABLED"}))
        } else {
            (200, health("ACTIVE"))
        }
    }

    pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) {
        let mut bytes = Vec::new();
        loop {
            let head_end = loop {
                if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                    break end + 4;
                }
                if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                    self.closed_by_client.set(self.closed_by_client.get() + 1);
                    return;
                }
            };
            let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
            let body = if head.contains("transfer-encoding: chunked") {
                while !bytes.ends_with(b"0\r\n\r\n") {
                    stream.read_buf(&mut bytes).await.unwrap();
                }
                let text = String::from_utf8(bytes.split_off(head_end)).unwrap();
                let chunks: Vec<_> = text.split("\r\n").collect();
                [chunks[1], chunks[3]].concat()
            } else {
                let length = head.split("content-length: ").nth(1).unwrap();
                let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
                while bytes.len() < head_end + length {
                    stream.read_buf(&mut bytes).await.unwrap();
                }
                String::from_utf8(bytes[head_end..head_end + length].to_vec()).unwrap()
            };
            bytes.clear();
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let seen = Seen { path, head, body: serde_json::from_str(&body).unwrap() };
            self.seen.borrow_mut().push(seen.clone());
            let scripted = self.script.borrow_mut().pop();
            let reply = scripted.or_else(|| self.reply.borrow().clone()).unwrap_or(Reply::Serve);
            if let Reply::ServeLate(delay) = &reply {
                tokio::time::sleep(*delay).await;
            }
            let (status, mut answer) = self.serve(&seen);
            match &reply {
                Reply::WrongIntegrityValue => {
                    answer["ciphertextDataIntegrityValue"] = STANDARD.encode([0; 32]).into();
                }
                Reply::FlipPlaintext | Reply::SwapPlaintext => {
                    let mut plaintext = STANDARD.decode(answer["plaintext"].as_str().unwrap()).unwrap();
                    if matches!(reply, Reply::FlipPlaintext) {
                        plaintext[40] ^= 1;
                    } else {
                        plaintext = self.last_plaintext.borrow().clone();
                    }
                    answer["plaintext"] = STANDARD.encode(plaintext).into();
                }
                _ => {}
            }
            if let Some(plaintext) = answer["plaintext"].as_str() {
                *self.last_plaintext.borrow_mut() = STANDARD.decode(plaintext).unwrap();
            }
            let whole = match &reply {
                Reply::Silence => std::future::pending().await,
                Reply::Raw(bytes) | Reply::RawThenClose(bytes) => (*bytes).to_owned(),
                Reply::Answer(status, body) => http(*status, body),
                _ => http(status, &answer.to_string()),
            };
            if stream.write_all(whole.as_bytes()).await.is_err() {
                self.closed_by_client.set(self.closed_by_client.get() + 1);
                return;
            }
            match reply {
                Reply::RawThenClose(_) => return,
                Reply::ServeThenClose(delay) => return tokio::time::sleep(delay).await,
                Reply::ServeThenFin => stream.shutdown().await.unwrap(),
                _ => {}
            }
        }
    }
}

fn http(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

pub(crate) fn health(state: &str) -> Value {
    json!({"xksProxyFleetSize": 1, "xksProxyVendor": "v", "xksProxyModel": "m", "ekmVendor": "e",
        "ekmFleetDetails": [{"id": "hsm", "model": "m", "healthStatus": state}]})
}

pub(crate) fn error(status: u16, name: &str) -> Reply {
    Reply::Answer(status, json!({"errorName": name, "errorMessage": "no"}).to_string())
}

/// One KMS host, so that every call meets the same pool.
pub(crate) fn one_host() -> KmsSettings {
    KmsSettings { hosts: 1, health_poll_s: 0, ..KmsSettings::default() }
}

pub(crate) fn scripted(settings: KmsSettings) -> (World, Rc<Proxy>) {
    let proxy = Rc::new(Proxy::default());
    let server = Rc::clone(&proxy);
    let pipes = Pipes::new(move |stream| {
        let proxy = Rc::clone(&server);
        tokio::task::spawn_local(async move { proxy.run(stream).await });
    });
    (world(settings, pipes, None, 1), proxy)
}

async fn generate(world: &World) -> Result<CiphertextBlob, KmsFailure> {
    world.kms.encrypt(KmsOperation::GenerateDataKey, &CALLER).await
}

/// Row, class and time of a GenerateDataKey that fails.
async fn failing(world: &World) -> (u8, KmsException, u64) {
    let failure = generate(world).await.unwrap_err();
    let took = world.tape.kms().last().unwrap().took;
    assert_eq!(world.tape.kms().last().unwrap().failure.as_ref(), Some(&failure));
    (failure.row, failure.exception, took.as_millis() as u64)
}

const STATE: KmsException = KmsException::KmsInvalidState;
const INTERNAL: KmsException = KmsException::KmsInternal;

#[test]
fn a_data_key_survives_the_round_trip() {
    simulate(async {
        let (world, proxy) = scripted(KmsSettings::default());
        for caller in [&CALLER, &OTHER_CALLER] {
            let blob = world.kms.encrypt(KmsOperation::GenerateDataKey, caller).await.unwrap();
            let seen = proxy.last();
            assert_eq!(seen.path, format!("/example/kms/xks/v1/keys/key-{}/encrypt", caller.service));
            let metadata = &seen.body["requestMetadata"];
            assert_eq!(metadata["kmsOperation"], "GenerateDataKey");
            assert_eq!(metadata["awsPrincipalArn"], caller.principal_arn);
            assert_eq!(metadata["kmsViaService"].as_str(), caller.via_service);
            assert!(metadata["kmsKeyArn"].as_str().unwrap().ends_with(&format!("key/{}", caller.service)));
            assert_eq!(metadata["kmsRequestId"].as_str().unwrap().len(), 36);
            world.kms.decrypt(&blob, caller).await.unwrap();
            assert!(proxy.last().path.ends_with("/decrypt"));
        }
        for verdict in world.violations.verdicts() {
            assert_eq!((verdict.checked, verdict.violated), (2, 0), "{verdict:?}");
        }
        let counters = world.kms.counters();
        assert_eq!((counters.kms_calls, counters.xks_ok, counters.kms_failures), (4, 4, 0));
    });
}

#[test]
fn only_data_keys_ask_for_the_integrity_value() {
    simulate(async {
        for (cdiv, operation, asked) in [
            (true, KmsOperation::GenerateDataKey, true),
            (true, KmsOperation::GenerateDataKeyWithoutPlaintext, true),
            (true, KmsOperation::Encrypt, false),
            (false, KmsOperation::GenerateDataKey, false),
        ] {
            let (world, proxy) = scripted(KmsSettings { cdiv, ..one_host() });
            world.kms.encrypt(operation, &CALLER).await.unwrap();
            let field = &proxy.last().body["ciphertextDataIntegrityValueAlgorithm"];
            assert_eq!(!field.is_null(), asked, "{operation:?}");
        }
    });
}

#[test]
fn every_error_name_has_its_row_and_class() {
    simulate(async {
        // kms-behaviour 7.1, while the proxy is reliable.
        for (status, name, row, class) in [
            (400, "ValidationException", 1, STATE),
            (400, "InvalidStateException", 2, STATE),
            (400, "InvalidCiphertextException", 3, STATE),
            (400, "InvalidKeyUsageException", 5, STATE),
            (401, "AuthenticationFailedException", 6, STATE),
            (403, "AccessDeniedException", 7, STATE),
            (404, "KeyNotFoundException", 8, STATE),
            (404, "InvalidUriPathException", 9, STATE),
            (501, "UnsupportedOperationException", 10, STATE),
            (503, "DependencyTimeoutException", 11, INTERNAL),
            (429, "ThrottlingException", 12, STATE),
            (500, "InternalException", 13, INTERNAL),
        ] {
            let (world, proxy) = scripted(one_host());
            proxy.always(error(status, name));
            assert_eq!(failing(&world).await, (row, class, 0), "{name}");
            let events = world.tape.xks();
            assert!(
                matches!(events[0].outcome, XksOutcome::Error { name: n, status: s } if n.as_str() == name && s == status),
                "{events:?}"
            );
            assert_eq!(events.len(), 1, "no retry of an error the proxy answers");
            assert_eq!(world.violations.verdict(X5).unwrap().violated, 0);
            // An error leaves the connection usable.
            proxy.always(Reply::Serve);
            generate(&world).await.unwrap();
            assert_eq!(world.pipes.connects.get(), 1);
        }
    });
}

#[test]
fn what_is_not_an_answer_is_row_17() {
    simulate(async {
        for reply in [
            Reply::Raw("SSH-2.0-OpenSSH_9.6\r\n"),
            Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"),
            Reply::Raw("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 6\r\n\r\n<html>"),
            Reply::Raw("HTTP/1.1 500 x\r\ncontent-length: 20\r\n\r\n{\"errorName\":\"Oops\"}"),
            Reply::Answer(201, json!({"ciphertext": ""}).to_string()),
            Reply::RawThenClose("HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n{\"ciphertext\":"),
            Reply::RawThenClose("H"),
        ] {
            let (world, proxy) = scripted(one_host());
            proxy.always(reply.clone());
            assert_eq!(failing(&world).await, (17, STATE, 0), "{reply:?}");
            assert_eq!(world.tape.xks()[0].outcome, XksOutcome::Malformed);
        }
    });
}

#[test]
fn silence_costs_the_patience_and_the_connection() {
    simulate(async {
        let (world, proxy) = scripted(one_host());
        generate(&world).await.unwrap();
        proxy.script.borrow_mut().push(Reply::Silence);
        assert_eq!(failing(&world).await, (16, INTERNAL, 250));
        let events = world.tape.xks();
        assert_eq!((events[1].outcome, events[1].fresh_connection), (XksOutcome::TimedOut, false));
        // Sent, so not retried; and the next call needs a connection of its own.
        assert_eq!(proxy.seen.borrow().len(), 2);
        generate(&world).await.unwrap();
        assert_eq!(world.pipes.connects.get(), 2);
        assert!(world.tape.xks()[2].fresh_connection);
    });
}

#[test]
fn the_patience_is_exact() {
    simulate(async {
        let (world, proxy) = scripted(KmsSettings { reliability_threshold: 0.0, ..one_host() });
        proxy.always(Reply::ServeLate(Duration::from_millis(249)));
        generate(&world).await.unwrap();
        assert_eq!(world.tape.xks()[0].took, Duration::from_millis(249));
        proxy.always(Reply::ServeLate(Duration::from_millis(251)));
        assert_eq!(failing(&world).await, (16, INTERNAL, 250));
        // Connection set-up is inside the budget, and a set-up that ends in time is no reason to retry.
        world.pipes.delay.set(Duration::from_millis(200));
        proxy.always(Reply::ServeLate(Duration::from_millis(60)));
        assert_eq!(failing(&world).await, (16, INTERNAL, 250));
        assert_eq!(world.kms.counters().connect_retries, 0);
    });
}

#[test]
fn only_a_connection_set_up_that_times_out_is_retried_once() {
    simulate(async {
        // Refused: at once, and once.
        let (world, _proxy) = scripted(one_host());
        world.pipes.behaviour.set(Connect::Refuse);
        assert_eq!(failing(&world).await, (14, INTERNAL, 0));
        assert_eq!((world.pipes.connects.get(), world.kms.counters().connect_retries), (1, 0));
        assert_eq!(world.tape.xks()[0].outcome, XksOutcome::NoConnection);

        // No SYN-ACK: twice the patience.
        let (world, _proxy) = scripted(one_host());
        world.pipes.behaviour.set(Connect::Silence);
        assert_eq!(failing(&world).await, (14, INTERNAL, 500));
        assert_eq!((world.pipes.connects.get(), world.kms.counters().connect_retries), (2, 1));
        assert_eq!(world.tape.xks().len(), 1, "one call, however many attempts");

        // The second attempt has a fresh patience, and may succeed.
        let (world, proxy) = scripted(one_host());
        world.pipes.script.borrow_mut().push(Connect::Silence);
        proxy.always(Reply::ServeLate(Duration::from_millis(249)));
        generate(&world).await.unwrap();
        assert_eq!(world.tape.xks()[0].took, Duration::from_millis(499));

        // MA-11 switched off.
        let (world, _proxy) = scripted(KmsSettings { connect_retry: false, ..one_host() });
        world.pipes.behaviour.set(Connect::Silence);
        assert_eq!(failing(&world).await, (14, INTERNAL, 250));
    });
}

#[test]
fn connections_are_kept_and_used_again() {
    simulate(async {
        let (world, proxy) = scripted(one_host());
        for _ in 0..10 {
            generate(&world).await.unwrap();
        }
        assert_eq!(world.pipes.connects.get(), 1);
        let fresh: Vec<_> = world.tape.xks().iter().map(|event| event.fresh_connection).collect();
        assert_eq!(fresh.iter().position(|fresh| !fresh), Some(1));

        // Ten at once need ten connections, and keep them.
        proxy.always(Reply::ServeLate(Duration::from_millis(5)));
        for expected in [10, 10] {
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..10 {
                let kms = Rc::clone(&world.kms);
                calls.spawn_local(async move { kms.encrypt(KmsOperation::Encrypt, &CALLER).await.unwrap() });
            }
            calls.join_all().await;
            assert_eq!(world.pipes.connects.get(), expected);
        }
        // A minute unused is too long.
        proxy.always(Reply::Serve);
        tokio::time::sleep(Duration::from_secs(59)).await;
        generate(&world).await.unwrap();
        assert_eq!(world.pipes.connects.get(), 10);
        tokio::time::sleep(Duration::from_secs(60)).await;
        generate(&world).await.unwrap();
        assert_eq!(world.pipes.connects.get(), 11);
        tokio::task::yield_now().await;
        assert_eq!(proxy.closed_by_client.get(), 10);
    });
}

#[test]
fn hosts_share_no_connections() {
    simulate(async {
        let (world, _proxy) = scripted(KmsSettings::default());
        for _ in 0..200 {
            generate(&world).await.unwrap();
        }
        assert_eq!(world.pipes.connects.get(), 9);
        for host in 0..9 {
            let calls = world.tape.xks().iter().filter(|event| event.kms_host == host).count();
            assert!((8..40).contains(&calls), "host {host}: {calls}");
        }
    });
}

#[test]
fn a_kept_connection_that_the_proxy_closed_is_replaced_unnoticed() {
    simulate(async {
        for reply in [Reply::ServeThenClose(Duration::from_secs(1)), Reply::ServeThenFin] {
            let (world, proxy) = scripted(one_host());
            proxy.always(reply);
            generate(&world).await.unwrap();
            tokio::time::sleep(Duration::from_secs(2)).await;
            generate(&world).await.unwrap();
            let counters = world.kms.counters();
            assert_eq!((counters.found_closed, counters.fresh_connections, counters.kms_failures), (1, 2, 0));
        }
    });
}

#[test]
fn a_kept_connection_that_breaks_while_the_request_is_written_is_replaced_within_the_patience() {
    simulate(async {
        for (broken_after_ms, outcome) in [(200, XksOutcome::Ok), (251, XksOutcome::TimedOut)] {
            let (world, proxy) = scripted(one_host());
            world.pipes.buffer.set(64);
            proxy.script.borrow_mut().push(Reply::ServeThenClose(Duration::from_millis(broken_after_ms)));
            generate(&world).await.unwrap();
            // Nobody reads, so the request fills the pipe and waits.
            let _result = generate(&world).await;
            let last = world.tape.xks().pop().unwrap();
            assert_eq!(
                (last.outcome, last.took.as_millis()),
                (outcome, u128::from(broken_after_ms).min(250))
            );
            assert_eq!(last.fresh_connection, outcome == XksOutcome::Ok);
            assert_eq!(world.kms.counters().found_closed, u64::from(last.fresh_connection));
        }
    });
}

#[test]
fn a_connection_lost_after_the_request_was_written_is_row_14_and_not_retried() {
    simulate(async {
        let (world, proxy) = scripted(one_host());
        generate(&world).await.unwrap();
        proxy.script.borrow_mut().push(Reply::RawThenClose(""));
        assert_eq!(failing(&world).await, (14, INTERNAL, 0));
        assert_eq!(proxy.seen.borrow().len(), 2);
    });
}

#[test]
fn an_answer_that_forbids_reuse_is_obeyed() {
    simulate(async {
        let (world, proxy) = scripted(one_host());
        let body = "HTTP/1.1 429 x\r\nconnection: close\r\ncontent-length: 35\r\n\r\n{\"errorName\":\"ThrottlingException\"} ";
        proxy.always(Reply::Raw(body));
        assert_eq!(failing(&world).await.0, 12);
        assert_eq!(failing(&world).await.0, 12);
        assert_eq!(world.pipes.connects.get(), 2);
    });
}

#[test]
fn enough_failures_turn_500_into_400() {
    simulate(async {
        let (world, proxy) = scripted(one_host());
        for _ in 0..38 {
            generate(&world).await.unwrap();
        }
        // A proxy that throttles is not reliable, though callers see 400 for that in any case.
        proxy.always(error(429, "ThrottlingException"));
        assert_eq!(failing(&world).await.1, STATE);
        proxy.always(error(500, "InternalException"));
        // 38 of 39, then 38 of 40 (0.95): still high. 38 of 41: low.
        assert_eq!(failing(&world).await.1, INTERNAL);
        assert_eq!(failing(&world).await.1, INTERNAL);
        assert_eq!(failing(&world).await.1, STATE);
        for (reply, row) in [(error(503, "DependencyTimeoutException"), 11), (Reply::Silence, 16)] {
            proxy.always(reply);
            let (found, class, _) = failing(&world).await;
            assert_eq!((found, class), (row, STATE));
        }
        // Five quiet minutes later nothing is held against it.
        tokio::time::sleep(Duration::from_secs(306)).await;
        proxy.always(error(500, "InternalException"));
        assert_eq!(failing(&world).await.1, INTERNAL);
    });
}

#[test]
fn refusals_do_not_make_a_proxy_unreliable() {
    simulate(async {
        let (world, proxy) = scripted(one_host());
        proxy.always(error(401, "AuthenticationFailedException"));
        for _ in 0..50 {
            assert_eq!(failing(&world).await.0, 6);
        }
        proxy.always(error(500, "InternalException"));
        assert_eq!(failing(&world).await.1, INTERNAL, "the trap of kms-behaviour 7.2");
    });
}

#[test]
fn a_wrong_integrity_value_fails_the_call_and_rings_x2() {
    simulate(async {
        let (world, proxy) = scripted(one_host());
        generate(&world).await.unwrap();
        proxy.always(Reply::WrongIntegrityValue);
        assert_eq!(failing(&world).await, (17, STATE, 0));
        let verdict = world.violations.verdict(X2).unwrap();
        assert_eq!((verdict.checked, verdict.violated), (2, 1));
        assert!(verdict.first.unwrap().1.contains("encryption 1: the integrity value is not"));
        // Not asked for, not looked at.
        world.kms.encrypt(KmsOperation::Encrypt, &CALLER).await.unwrap();
    });
}

#[test]
fn a_wrong_plaintext_rings_x1() {
    simulate(async {
        let (world, proxy) = scripted(one_host());
        let (one, two) = (generate(&world).await.unwrap(), generate(&world).await.unwrap());
        world.kms.decrypt(&one, &CALLER).await.unwrap();
        assert_eq!(world.violations.verdict(X1).unwrap().violated, 0);

        // The inner layer catches a flipped bit.
        proxy.always(Reply::FlipPlaintext);
        let failure = world.kms.decrypt(&two, &CALLER).await.unwrap_err();
        assert_eq!((failure.row, failure.exception), (4, STATE));
        assert_eq!(world.violations.verdict(X1).unwrap().violated, 1);
        assert_eq!(world.kms.counters().own_blobs_refused, 1);

        // Nothing but X1 can catch the plaintext of another blob.
        proxy.always(Reply::Serve);
        world.kms.decrypt(&one, &CALLER).await.unwrap();
        proxy.always(Reply::SwapPlaintext);
        world.kms.decrypt(&two, &CALLER).await.unwrap();
        let verdict = world.violations.verdict(X1).unwrap();
        assert_eq!((verdict.checked, verdict.violated), (4, 2));
        assert!(verdict.first.unwrap().1.contains("decrypt of encryption 1 with 60 bytes"));

        // A plaintext of another length is no answer to begin with.
        proxy.always(Reply::Answer(200, "{\"plaintext\":\"aGVsbG8=\"}".into()));
        assert_eq!(world.kms.decrypt(&two, &CALLER).await.unwrap_err().row, 17);
        assert_eq!(world.violations.verdict(X1).unwrap().violated, 3);
    });
}

#[test]
fn a_status_that_does_not_match_the_name_rings_x5() {
    simulate(async {
        for (status, name, text) in [
            (500, "ValidationException", "ValidationException came with status 500, not 400"),
            (200, "InternalException", "InternalException came with status 200, not 500"),
        ] {
            let (world, proxy) = scripted(one_host());
            proxy.always(error(status, name));
            generate(&world).await.unwrap_err();
            assert_eq!(world.violations.verdict(X5).unwrap().first.unwrap().1, text);
        }
    });
}

#[test]
fn another_encryption_context_is_refused_by_the_proxy() {
    simulate(async {
        let (world, _proxy) = scripted(one_host());
        let blob = generate(&world).await.unwrap();
        assert_eq!(world.kms.decrypt(&blob, &OTHER_CALLER).await.unwrap_err().row, 3);
        assert_eq!(world.kms.counters().own_blobs_refused, 0, "not its own service's");
        let foreign = CiphertextBlob(Rc::from(&b"not a blob"[..]));
        let failure = world.kms.decrypt(&foreign, &CALLER).await.unwrap_err();
        assert_eq!((failure.exception, failure.row), (KmsException::InvalidCiphertext, 0));
        assert_eq!(world.kms.counters().xks_calls, 2, "a foreign blob never reaches the proxy");
    });
}

#[test]
fn the_quota_turns_calls_away_before_the_proxy() {
    simulate(async {
        let (world, proxy) = scripted(KmsSettings { quota_per_s: 100, ..one_host() });
        for _ in 0..100 {
            generate(&world).await.unwrap();
        }
        assert_eq!(failing(&world).await, (20, KmsException::Throttling, 0));
        assert_eq!((proxy.seen.borrow().len(), world.kms.counters().throttled), (100, 1));
        tokio::time::sleep(Duration::from_millis(10)).await;
        generate(&world).await.unwrap();
        assert_eq!(failing(&world).await.0, 20);
    });
}

#[test]
fn a_disconnected_key_store_sends_nothing() {
    simulate(async {
        let (world, proxy) = scripted(KmsSettings { health_poll_s: 10, ..one_host() });
        let _poll = world.kms.spawn_health_poll();
        world.kms.disconnect().unwrap();
        assert_eq!(failing(&world).await, (18, STATE, 0));
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(proxy.seen.borrow().len(), 0);
        tokio::time::sleep(Duration::from_secs(200)).await;
        world.kms.connect().unwrap();
        assert_eq!(failing(&world).await, (18, STATE, 0), "MA-24: connecting is not connected");
        tokio::time::sleep(Duration::from_secs(301)).await;
        generate(&world).await.unwrap();
    });
}

#[test]
fn health_is_checked_every_five_minutes() {
    simulate(async {
        let (world, proxy) = scripted(KmsSettings { hosts: 1, ..KmsSettings::default() });
        let poll = world.kms.spawn_health_poll();
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        let checks = world.tape.xks();
        assert!((11..=13).contains(&checks.len()), "{}", checks.len());
        for pair in checks.windows(2) {
            let gap = (pair[1].at - pair[0].at).as_secs();
            assert!((270..=330).contains(&gap), "{gap} s");
        }
        let seen = proxy.last();
        assert_eq!(seen.path, "/example/kms/xks/v1/health");
        let metadata = seen.body["requestMetadata"].as_object().unwrap();
        assert_eq!((metadata.len(), &metadata["kmsOperation"]), (2, &json!("KmsHealthCheck")));
        let counters = world.kms.counters();
        assert_eq!((counters.health_checks_bad, counters.manager_states.unwrap().active), (0, 1));
        assert_eq!(world.tape.kms().len(), 0, "nobody called KMS");

        proxy.always(Reply::Answer(200, health("UNAVAILABLE").to_string()));
        assert_eq!(world.kms.check_health("ConnectCustomKeyStore").await, Err(Cause::Unhealthy));
        proxy.always(Reply::Answer(200, health("DEGRADED").to_string()));
        assert!(world.kms.check_health("ConnectCustomKeyStore").await.is_ok());
        proxy.always(Reply::Answer(200, "{}".into()));
        assert_eq!(world.kms.check_health("ConnectCustomKeyStore").await, Err(Cause::Malformed));
        assert_eq!(world.kms.counters().health_checks_bad, 2);

        drop(poll);
        let before = world.kms.counters().health_checks;
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(world.kms.counters().health_checks, before);
    });
}

#[test]
fn key_metadata_is_read_as_create_key_does() {
    simulate(async {
        let (world, proxy) = scripted(one_host());
        let metadata = world.kms.key_metadata(1, &CALLER).await.unwrap();
        assert_eq!((metadata.key_spec.as_str(), metadata.key_status.as_str()), ("AES_256", "ENABLED"));
        let seen = proxy.last();
        assert_eq!(seen.path, "/example/kms/xks/v1/keys/key-1/metadata");
        assert_eq!(seen.body["requestMetadata"]["kmsOperation"], "CreateKey");
        assert!(seen.body["requestMetadata"]["kmsKeyArn"].is_null());
        let unknown = Cause::Error(ErrorName::KeyNotFoundException);
        assert_eq!(world.kms.key_metadata(2, &CALLER).await, Err(unknown));
    });
}

#[test]
fn requests_vary_where_http_allows_it() {
    simulate(async {
        let settings =
            KmsSettings { unknown_operation_share: 0.3, chunked_share: 0.3, ..KmsSettings::default() };
        let (world, proxy) = scripted(settings);
        for _ in 0..200 {
            generate(&world).await.unwrap();
        }
        let seen = proxy.seen.borrow();
        let share = |what: &dyn Fn(&Seen) -> bool| seen.iter().filter(|seen| what(seen)).count();
        let operation = |seen: &Seen| seen.body["requestMetadata"]["kmsOperation"].clone();
        for (name, hits) in [
            ("unknown operation", share(&|seen| operation(seen) == "OperationOfTheFuture")),
            ("chunked", share(&|seen| seen.head.contains("\r\ntransfer-encoding: chunked\r\n"))),
            ("header case", share(&|seen| seen.head.contains("\r\nX-Amz-Date: "))),
            ("signed content type", share(&|seen| seen.head.contains("=content-type;host;x-amz-date,"))),
            (
                "host first",
                share(&|seen| seen.head.to_lowercase().contains("1.1\r\nhost: proxy.example\r\n")),
            ),
            ("source VPC", share(&|seen| seen.body["requestMetadata"]["awsSourceVpc"].is_string())),
        ] {
            assert!((30..140).contains(&hits), "{name}: {hits} of {}", seen.len());
        }
    });
}

#[test]
fn a_source_vpc_is_named_as_often_as_told_and_never_for_a_service() {
    simulate(async {
        for (source_vpc_share, expected) in [(0.0, 0), (1.0, 20)] {
            let (world, proxy) = scripted(KmsSettings { source_vpc_share, ..one_host() });
            for _ in 0..20 {
                generate(&world).await.unwrap();
                world.kms.encrypt(KmsOperation::Encrypt, &OTHER_CALLER).await.unwrap();
            }
            let named = |name: &str, seen: &&Seen| seen.body["requestMetadata"][name].is_string();
            let seen = proxy.seen();
            assert!(seen.iter().all(|it| named("awsSourceVpc", &it) == named("awsSourceVpce", &it)));
            let (of_service, own): (Vec<_>, Vec<_>) = seen.iter().partition(|it| named("kmsViaService", it));
            assert_eq!(own.iter().filter(|it| named("awsSourceVpc", it)).count(), expected);
            assert_eq!(of_service.iter().filter(|it| named("awsSourceVpc", it)).count(), 0);
        }
    });
}

#[test]
fn one_seed_gives_one_story() {
    let story = |seed: u8| {
        simulate(async move {
            let proxy = Rc::new(Proxy::default());
            let server = Rc::clone(&proxy);
            let pipes = Pipes::new(move |stream| {
                let proxy = Rc::clone(&server);
                tokio::task::spawn_local(async move { proxy.run(stream).await });
            });
            let settings = KmsSettings { health_poll_s: 1, chunked_share: 0.5, ..KmsSettings::default() };
            let world = world(settings, pipes, None, seed);
            let _poll = world.kms.spawn_health_poll();
            let mut blobs = Vec::new();
            for n in 0..50 {
                proxy.always(if n % 7 == 3 { Reply::Silence } else { Reply::Serve });
                blobs.extend(generate(&world).await);
                tokio::time::sleep(Duration::from_millis(137)).await;
            }
            format!("{}{blobs:?}{:?}", world.tape.text(), proxy.seen.borrow())
        })
    };
    assert_eq!(story(1), story(1));
    assert_ne!(story(1), story(2));
}

pub(crate) mod tls {
    use super::*;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    fn provider() -> Arc<rustls::crypto::CryptoProvider> {
        Arc::new(rustls::crypto::aws_lc_rs::default_provider())
    }

    /// A KMS that wants TLS with a certificate for `name`, and a proxy that has one for proxy.example.
    pub(crate) fn over_tls(name: &'static str, plain_server: bool) -> (World, Rc<Proxy>) {
        over_tls_with(one_host(), name, plain_server)
    }

    /// The same with these settings.
    pub(crate) fn over_tls_with(
        settings: KmsSettings,
        name: &'static str,
        plain_server: bool,
    ) -> (World, Rc<Proxy>) {
        let (pipes, tls, proxy) = network(name, plain_server);
        (world(settings, pipes, Some(tls), 1), proxy)
    }

    /// The network and the TLS of such a KMS alone, and the proxy.
    pub(crate) fn network(name: &'static str, plain_server: bool) -> (Rc<Pipes>, ClientTls, Rc<Proxy>) {
        let made = rcgen::generate_simple_self_signed(["proxy.example".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = ClientTls {
            connector: TlsConnector::from(Arc::new(client)),
            server_name: ServerName::try_from(name).unwrap(),
        };
        let proxy = Rc::new(Proxy::default());
        let kept = Rc::clone(&proxy);
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let pipes = Pipes::new(move |mut stream| {
            let (proxy, acceptor) = (Rc::clone(&kept), acceptor.clone());
            tokio::task::spawn_local(async move {
                if plain_server {
                    let _gone = stream.write_all(b"HTTP/1.1 400 x\r\n\r\n").await;
                } else if let Ok(stream) = acceptor.accept(stream).await {
                    proxy.run(stream).await;
                }
            });
        });
        (pipes, tls, proxy)
    }

    #[test]
    fn connections_over_tls_are_kept_too() {
        simulate(async {
            let (world, proxy) = over_tls("proxy.example", false);
            for _ in 0..5 {
                let blob = generate(&world).await.unwrap();
                world.kms.decrypt(&blob, &CALLER).await.unwrap();
            }
            assert_eq!(world.pipes.connects.get(), 1);
            // The proxy's close is found over TLS as well.
            proxy.always(Reply::ServeThenClose(Duration::ZERO));
            generate(&world).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
            proxy.always(Reply::Serve);
            generate(&world).await.unwrap();
            assert_eq!(world.kms.counters().found_closed, 1);
        });
    }

    #[test]
    fn refused_tls_is_row_15_and_stalled_tls_row_16() {
        simulate(async {
            for (name, plain_server) in [("other.example", false), ("proxy.example", true)] {
                let (world, _proxy) = over_tls(name, plain_server);
                assert_eq!(failing(&world).await, (15, STATE, 0), "{name}");
                assert_eq!(world.tape.xks()[0].outcome, XksOutcome::NoTls);
                assert_eq!(world.pipes.connects.get(), 1);
            }
            let (world, _proxy) = over_tls("proxy.example", false);
            world.pipes.behaviour.set(Connect::Stall);
            assert_eq!(failing(&world).await, (16, INTERNAL, 500));
            assert_eq!(world.tape.xks()[0].outcome, XksOutcome::TimedOut);
            assert_eq!((world.pipes.connects.get(), world.kms.counters().connect_retries), (2, 1));
        });
    }
}
