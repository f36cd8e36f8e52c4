//! Every alarm rings: one planted defect per invariant, and the run must object to it by name.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use scenarios::clock;
use scenarios::intruder::MARKED_PLAINTEXT;
use scenarios::invariants::{AuditWatch, X3, X4, X6, X7, X11, check_hsm_limits};
use scenarios::kms::LocalFuture;
use scenarios::kms::client::{Dial, Io};
use scenarios::kms::violations::{Invariant, Violations};
use scenarios::run;
use scenarios::scenario::Scenario;
use scenarios::world::Options;
use sim_hsm::{Counters, Engine};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use xks_proxy::error::ErrorName;
use xks_proxy::events::{AuditEvent, Operation, Subscriber};
use xks_proxy::hsm::{Aad, Answer, DeviceHealth, Hsm, HsmError, HsmErrorKind, Iv, KeyFacts, Sealed};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

/// The secret access key of every run: AWS's example.
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEYEXAMPLE";

const CALM: &str = "title = \"Calm\"\nduration_s = 20\n[[service]]\nkind = \"s3\"\n";

/// What the HSM does wrong.
#[derive(Clone, Copy, PartialEq)]
enum Lie {
    /// Decrypts one in a hundred to something else.
    Plaintext,
    /// Never answers one encrypt in a hundred, whatever the deadline.
    Late,
    /// Makes a wrong tag, always: nobody will ever decrypt that.
    Undecryptable,
    /// Fails one encrypt in a hundred and says the secret access key in the reason.
    Secret,
    /// Has died by its hundredth encrypt and never comes back.
    Dead,
    /// Fails one encrypt in a hundred and says the plaintext in the reason.
    Tells,
    /// Fails every second decrypt, as an overloaded device may at any time.
    Flaky,
    /// Lets everybody in, however few sessions it has, and has them wait.
    Boundless,
}

struct Liar {
    inner: Arc<dyn Hsm>,
    lie: Lie,
    calls: AtomicU64,
}

impl Liar {
    fn lies_now(&self, lie: Lie) -> bool {
        self.lie == lie && self.calls.fetch_add(1, Ordering::Relaxed) % 100 == 99
    }
}

impl Hsm for Liar {
    fn describe<'a>(&'a self, key: &'a KeyName, deadline: Instant) -> Answer<'a, KeyFacts> {
        self.inner.describe(key, deadline)
    }

    fn encrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        plaintext: &'a Plaintext,
        deadline: Instant,
    ) -> Answer<'a, Sealed> {
        Box::pin(async move {
            let mut answer = self.inner.encrypt(key, aad, plaintext, deadline).await;
            while self.lie == Lie::Boundless
                && matches!(&answer, Err(error) if error.kind == HsmErrorKind::Busy)
                && Instant::now() < deadline
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
                answer = self.inner.encrypt(key, aad, plaintext, deadline).await;
            }
            let mut sealed = answer?;
            if self.lie == Lie::Undecryptable {
                sealed.tag[0] ^= 1;
            }
            if self.lie == Lie::Dead && self.calls.fetch_add(1, Ordering::Relaxed) > 100 {
                return Err(HsmError::new(HsmErrorKind::Failed, "out of order"));
            }
            if self.lie == Lie::Tells && plaintext.expose() == MARKED_PLAINTEXT.as_bytes() {
                let plaintext = String::from_utf8_lossy(plaintext.expose()).into_owned();
                return Err(HsmError::new(HsmErrorKind::Failed, format!("cannot encrypt {plaintext}")));
            }
            if self.lies_now(Lie::Secret) {
                return Err(HsmError::new(HsmErrorKind::Failed, format!("bad login for {SECRET}")));
            }
            if self.lies_now(Lie::Late) {
                // Ignores its deadline: what a backend without a time limit of its own would do.
                std::future::pending::<()>().await;
            }
            Ok(sealed)
        })
    }

    fn decrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        sealed: &'a Sealed,
        deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        Box::pin(async move {
            let plaintext = self.inner.decrypt(key, aad, sealed, deadline).await?;
            if self.lie == Lie::Flaky && self.calls.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
                return Err(HsmError::new(HsmErrorKind::Failed, "one of two"));
            }
            if self.lies_now(Lie::Plaintext) {
                let mut wrong = plaintext.expose().to_vec();
                if let Some(byte) = wrong.first_mut() {
                    *byte ^= 1;
                }
                return Ok(Plaintext::new(wrong));
            }
            Ok(plaintext)
        })
    }

    fn health<'a>(
        &'a self,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        self.inner.health(deadline)
    }
}

fn plain(_: &mut Options) {}

/// Names of the invariants that did not hold.
fn broken_by(toml: &str, plant: impl FnOnce(&mut Options)) -> Vec<String> {
    let scenario = Scenario::parse("canary", "canary.toml", toml).unwrap();
    let mut options = Options::new(3);
    plant(&mut options);
    let result = run::run(&scenario, &options, "", "").unwrap().result;
    result.invariants.into_iter().filter(|check| !check.held).map(|check| check.name).collect()
}

fn lying(lie: Lie) -> impl FnOnce(&mut Options) {
    move |options| {
        options.hsm_wrapper =
            Some(Box::new(move |inner| Arc::new(Liar { inner, lie, calls: AtomicU64::new(0) })));
    }
}

#[test]
fn a_calm_run_breaks_nothing() {
    assert_eq!(broken_by(CALM, plain), [""; 0]);
}

#[test]
fn a_wrong_plaintext_is_seen() {
    // It may strike the check at the end of the run as well.
    let broken = broken_by(CALM, lying(Lie::Plaintext));
    assert!(broken.iter().any(|name| name == "plaintext-or-error"), "{broken:?}");
}

#[test]
fn a_ciphertext_that_nobody_can_decrypt_is_seen_where_nothing_verifies_it() {
    // Encrypt carries no integrity value (MA-6), so the proxy does not decrypt to verify; the end of the run does. Data keys
    // carry one, and there are none any more.
    assert_eq!(broken_by(CALM, lying(Lie::Undecryptable)), ["still-decryptable", "service-resumes"]);
}

#[test]
fn the_proxy_is_in_time_even_if_its_hsm_never_answers() {
    assert_eq!(broken_by(CALM, lying(Lie::Late)), [""; 0]);
}

#[test]
fn proxies_that_are_late_are_seen() {
    // They would be in time for KMS, which waits for 250 ms.
    let late = |options: &mut Options| {
        lying(Lie::Late)(options);
        options.proxy_deadline = Some(Duration::from_millis(200));
    };
    assert_eq!(broken_by(CALM, late), ["answered-in-time"]);
}

#[test]
fn an_hsm_that_lets_in_more_than_it_has_sessions_is_seen_and_one_that_refuses_is_not() {
    let busy = format!("{CALM}rate_per_s = 300\n");
    let few = format!("{busy}[hsm]\nservice_ms = 20\nparallel_max = 2\nsessions_max = 2\n");
    assert_eq!(broken_by(&few, plain), [""; 0]);
    assert_eq!(broken_by(&few, lying(Lie::Boundless)), ["hsm-limits"]);
    // As many as it has, and a fault leaves it fewer.
    let taken = format!(
        "{busy}[hsm]\nservice_ms = 20\n[[fault]]\nkind = \"hsm-sessions\"\nsessions_max = 2\nfrom_s = 5\nto_s = 15\n"
    );
    assert_eq!(broken_by(&taken, plain), [""; 0]);
    assert_eq!(broken_by(&taken, lying(Lie::Boundless)), ["hsm-limits"]);
    let linked = format!("{taken}[hsm_link]\n");
    assert_eq!(broken_by(&linked, plain), [""; 0]);
    assert_eq!(broken_by(&linked, lying(Lie::Boundless)), ["hsm-limits"]);
}

#[test]
fn a_run_that_is_ended_early_tells_what_was_seen_and_judges_what_has_come() {
    let ended_at = |second: u64| {
        let toml = format!(
            "{CALM}[[fault]]\nkind = \"hsm-down\"\nfrom_s = 5\nto_s = 8\n[[expect]]\nfailures_max = 0.01\n\
             failures_during_faults_min = 0.5\nrecovered_within_s = 3\nlatency_p99_max_ms = 0.1\n"
        );
        let scenario = Scenario::parse("canary", "canary.toml", &toml).unwrap();
        let mut options = Options::new(3);
        lying(Lie::Secret)(&mut options);
        let interrupted = Arc::clone(&options.interrupted);
        options.progress = Some(Box::new(move |now| {
            interrupted.store(now >= Duration::from_secs(second), Ordering::Relaxed);
        }));
        run::run(&scenario, &options, "", "").unwrap().result
    };
    for (second, judged) in [(4, false), (7, false), (8, true), (18, true)] {
        let result = ended_at(second);
        assert_eq!(result.interrupted_at_ms, Some(second * 1_000));
        for check in &result.expectations {
            let expected = judged && check.name == "failures_during_faults_min";
            assert_eq!((check.judged, check.held), (expected, true), "{second}: {check:?}");
        }
    }
    let result = ended_at(8);
    for check in &result.invariants {
        // Only X9 and X10 look at the end.
        let at_the_end = ["still-decryptable", "service-resumes"].contains(&check.name.as_str());
        assert_eq!(check.judged, !at_the_end && check.checked > 0, "{check:?}");
        assert_eq!(check.held, check.name != "no-secret-in-events", "{check:?}");
    }
    for name in ["authenticated-only", "answered-in-time", "no-secret-in-events", "hsm-limits", "iv-unique"] {
        assert!(result.invariants.iter().any(|check| check.name == name && check.checked > 0), "{name}");
    }
}

/// What rings when a run is ended early has rung until then. Once the report had it ring to the end that the run never came to.
#[test]
fn an_alarm_of_a_run_that_is_ended_early_rings_no_longer_than_the_run() {
    let toml = format!("{CALM}[topology]\ntls = \"1.3\"\n[proxy]\ncertificate_days = 5\n");
    let scenario = Scenario::parse("canary", "canary.toml", &toml).unwrap();
    let mut options = Options::new(3);
    let interrupted = Arc::clone(&options.interrupted);
    options.progress = Some(Box::new(move |now| {
        interrupted.store(now >= Duration::from_secs(7), Ordering::Relaxed);
    }));
    let result = run::run(&scenario, &options, "", "").unwrap().result;
    assert_eq!(result.interrupted_at_ms, Some(7_000));
    let alarm = result.alarms.iter().find(|alarm| alarm.name == "certificate-expiry").unwrap();
    assert_eq!((alarm.rang_at_ms, alarm.rang_for_ms), (Some(0), 7_000));
}

#[test]
fn a_client_that_is_refused_behind_its_handshake_has_lost_its_connection() {
    let demanded = |tls: &str| {
        let toml = format!(
            "{CALM}[topology]\ntls = \"{tls}\"\n[kms]\nidle_ms = 0\n[[fault]]\n\
             kind = \"client-certificate-demanded\"\nfrom_s = 5\n"
        );
        let scenario = Scenario::parse("canary", "canary.toml", &toml).unwrap();
        let outcomes = run::run(&scenario, &Options::new(3), "", "").unwrap().result.xks.outcomes;
        outcomes.into_iter().map(|(words, _)| words).collect::<Vec<_>>()
    };
    assert_eq!(demanded("1.3"), ["connection lost before an answer"]);
    // In TLS 1.2 the server has the last word.
    assert_eq!(demanded("1.2"), ["no TLS connection"]);
}

#[test]
fn expectations_fail_when_their_bound_is_crossed() {
    let toml = format!(
        "{CALM}[[fault]]\nkind = \"hsm-down\"\nfrom_s = 5\n[[expect]]\nfailures_max = 0.01\n\
         [[expect]]\nservice = \"s3\"\nfailures_during_faults_min = 0.5\n"
    );
    let scenario = Scenario::parse("canary", "canary.toml", &toml).unwrap();
    let result = run::run(&scenario, &Options::new(3), "", "").unwrap().result;
    let held: Vec<bool> = result.expectations.iter().map(|check| check.held).collect();
    assert_eq!(held, [false, true]);
    assert_eq!(Duration::from_millis(result.services[0].first_failure_ms.unwrap()).as_secs(), 5);
}

#[test]
fn a_refused_decrypt_at_the_end_is_tried_again_unless_the_data_is_at_fault() {
    assert_eq!(broken_by(CALM, lying(Lie::Flaky)), [""; 0]);
    // Half of all segments are lost: hardly a call gets through, and what did is decryptable.
    let lossy = format!("{CALM}[link]\nloss = 0.5\n");
    assert!(!broken_by(&lossy, plain).contains(&"still-decryptable".to_owned()));
}

#[test]
fn the_secret_access_key_in_an_event_is_seen() {
    assert_eq!(broken_by(CALM, lying(Lie::Secret)), ["no-secret-in-events"]);
}

#[test]
fn a_plaintext_in_an_event_is_seen() {
    let longer = CALM.replace("duration_s = 20", "duration_s = 70");
    assert_eq!(broken_by(&longer, lying(Lie::Tells)), ["no-secret-in-events"]);
}

#[test]
fn an_hsm_that_never_comes_back_is_seen() {
    assert_eq!(broken_by(CALM, lying(Lie::Dead)), ["service-resumes"]);
}

/// Changes the proxy's answers on their way to KMS.
struct Tampering {
    inner: Rc<dyn Dial>,
    change: fn(&mut [u8]),
}

impl Dial for Tampering {
    fn connect<'a>(&'a self, kms_host: usize) -> LocalFuture<'a, std::io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let inner = self.inner.connect(kms_host).await?;
            Ok(Box::new(TamperedIo { inner, change: self.change }) as Box<dyn Io>)
        })
    }
}

struct TamperedIo {
    inner: Box<dyn Io>,
    change: fn(&mut [u8]),
}

impl AsyncRead for TamperedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(context, buffer);
        (self.change)(&mut buffer.filled_mut()[before..]);
        result
    }
}

impl AsyncWrite for TamperedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

fn tampering(change: fn(&mut [u8])) -> impl FnOnce(&mut Options) {
    move |options| {
        options.dial_wrapper = Some(Box::new(move |inner| Rc::new(Tampering { inner, change })));
    }
}

/// Another character of base64 right behind `marker`.
fn change_after(marker: &str, bytes: &mut [u8]) {
    if let Some(at) = bytes.windows(marker.len()).position(|window| window == marker.as_bytes())
        && let Some(byte) = bytes.get_mut(at + marker.len())
    {
        *byte = if *byte == b'A' { b'B' } else { b'A' };
    }
}

#[test]
fn a_wrong_integrity_value_and_one_of_another_ciphertext_are_seen() {
    let plain_http = format!("{CALM}[topology]\ntls = \"off\"\n");
    let wrong = tampering(|bytes| change_after("\"ciphertextDataIntegrityValue\":\"", bytes));
    assert_eq!(broken_by(&plain_http, wrong), ["integrity-value", "service-resumes"]);
    // What carries no such value, as X9's own encryptions, is found out at the end.
    let of_another = tampering(|bytes| change_after("\"authenticationTag\":\"", bytes));
    assert_eq!(
        broken_by(&plain_http, of_another),
        ["integrity-value", "still-decryptable", "service-resumes"]
    );
}

#[test]
fn an_intruder_who_is_served_is_seen() {
    let plain_http = format!("{CALM}[topology]\ntls = \"off\"\n");
    // On the wire, for the proxy itself refuses: only the intruder ever gets a 401.
    let served = tampering(|bytes| {
        let refusal = b"HTTP/1.1 401 ";
        if bytes.starts_with(refusal) {
            bytes[..refusal.len()].copy_from_slice(b"HTTP/1.1 200 ");
        }
    });
    assert_eq!(broken_by(&plain_http, served), ["authenticated-only"]);
}

#[test]
fn a_caller_of_another_account_who_is_served_is_seen() {
    let plain_http =
        format!("{CALM}[topology]\ntls = \"off\"\n").replace("duration_s = 20", "duration_s = 60");
    // On the wire, for the proxy itself refuses: only the unauthorised caller ever gets a 403.
    let served = tampering(|bytes| {
        let refusal = b"HTTP/1.1 403 ";
        if bytes.starts_with(refusal) {
            bytes[..refusal.len()].copy_from_slice(b"HTTP/1.1 200 ");
        }
    });
    assert_eq!(broken_by(&plain_http, served), ["authorised-only"]);
    let stranger =
        AuditEvent { principal_arn: Some("arn:aws:iam::444455556666:user/MaryMajor".into()), ..signed() };
    assert!(watched(X11, &[signed(), stranger.clone()]).unwrap().contains("MaryMajor reached the HSM"));
    // Refused before the HSM: that is as it should be.
    let mut refused = AuditEvent { error_name: Some(ErrorName::AccessDeniedException), ..stranger };
    refused.stations.hsm = Duration::ZERO;
    assert_eq!(watched(X11, &[refused]), None);
}

#[test]
fn a_caller_of_another_account_who_is_served_is_seen_after_a_rotation_too() {
    let rotated = format!(
        "{CALM}[topology]\ntls = \"off\"\n[[fault]]\nkind = \"credential-rotation\"\nfrom_s = 2\nto_s = 8\n"
    );
    let rotated = rotated.replace("duration_s = 20", "duration_s = 60");
    let served = tampering(|bytes| {
        let refusal = b"HTTP/1.1 403 ";
        if bytes.starts_with(refusal) {
            bytes[..refusal.len()].copy_from_slice(b"HTTP/1.1 200 ");
        }
    });
    assert_eq!(broken_by(&rotated, served), ["authorised-only"]);
}

#[test]
fn an_error_with_the_status_of_another_is_seen() {
    let failing = format!(
        "{CALM}[topology]\ntls = \"off\"\n[[fault]]\nkind = \"hsm-error\"\nrate = 0.5\nfrom_s = 5\nto_s = 6\n"
    );
    assert_eq!(broken_by(&failing, plain), [""; 0]);
    let misstated = tampering(|bytes| {
        if bytes.starts_with(b"HTTP/1.1 500") {
            bytes[9] = b'4';
        }
    });
    assert_eq!(broken_by(&failing, misstated), ["status-matches-name"]);
}

/// A real AES-GCM device that counts its IVs from the same number as its neighbour.
struct Counting {
    cipher: Aes256Gcm,
    next: u32,
}

impl Engine for Counting {
    fn describe(&mut self, _: &KeyName) -> Result<KeyFacts, HsmError> {
        Ok(KeyFacts { spec: xks_proxy::hsm::KeySpec::Aes(256), encrypt: true, decrypt: true, enabled: true })
    }

    fn encrypt(&mut self, _: &KeyName, aad: &Aad, plaintext: &Plaintext) -> Result<Sealed, HsmError> {
        let mut iv = [0; 12];
        iv[..4].copy_from_slice(&self.next.to_be_bytes());
        self.next += 1;
        let mut ciphertext = plaintext.expose().to_vec();
        let tag = self
            .cipher
            .encrypt_inout_detached(&iv.into(), aad.as_bytes(), ciphertext.as_mut_slice().into())
            .unwrap();
        Ok(Sealed { iv: Iv::Twelve(iv), ciphertext, tag: tag.into() })
    }

    fn decrypt(&mut self, _: &KeyName, aad: &Aad, sealed: &Sealed) -> Result<Plaintext, HsmError> {
        let Iv::Twelve(iv) = sealed.iv else {
            return Err(HsmError::new(HsmErrorKind::Failed, "this device makes IVs of 12 bytes"));
        };
        let mut plaintext = sealed.ciphertext.clone();
        self.cipher
            .decrypt_inout_detached(
                &iv.into(),
                aad.as_bytes(),
                plaintext.as_mut_slice().into(),
                &sealed.tag.into(),
            )
            .unwrap();
        Ok(Plaintext::new(plaintext))
    }
}

#[test]
fn two_devices_that_make_the_same_ivs_under_one_key_are_seen() {
    let plant = |first: [u32; 2]| {
        move |options: &mut Options| {
            options.engine = Some(Box::new(move |index| {
                Ok(Box::new(Counting { cipher: Aes256Gcm::new(&[7; 32].into()), next: first[index] }))
            }));
        }
    };
    assert_eq!(broken_by(CALM, plant([0, 1 << 31])), [""; 0]);
    assert_eq!(broken_by(CALM, plant([0, 0])), ["iv-unique"]);
}

/// What the watch says of one invariant after these events, with a deadline of 150 ms.
fn watched(invariant: Invariant, events: &[AuditEvent]) -> Option<String> {
    let violations = Violations::default();
    clock::run([0; 32], |clock| async {
        let watch = AuditWatch::new(
            clock,
            Duration::from_millis(150),
            vec![("the secret access key", SECRET.into())],
        );
        events.iter().for_each(|event| watch.audit(event));
        watch.report(&violations);
    })
    .unwrap();
    let verdict = violations.verdict(invariant).unwrap();
    assert_eq!(verdict.checked, events.len() as u64);
    verdict.first.map(|(_, text)| text)
}

fn signed() -> AuditEvent {
    let mut event = AuditEvent::new(xks_proxy::env::UnixTime(Duration::ZERO), "00ff".into());
    event.operation = Some(Operation::Decrypt);
    event.status = 200;
    event.access_key_id = Some("AKIAIOSFODNN7EXAMPLE".into());
    event.stations.hsm = Duration::from_millis(3);
    event.stations.total = Duration::from_millis(150);
    event
}

#[test]
fn an_unsigned_request_that_reached_the_hsm_is_seen() {
    let unsigned = AuditEvent { access_key_id: None, ..signed() };
    assert_eq!(watched(X3, &[signed()]), None);
    assert_eq!(watched(X3, &[signed(), unsigned.clone()]).unwrap(), "Decrypt 00ff reached the HSM unsigned");
    // It counts whether or not it ended well: by the time it took there, or by its success.
    let failed =
        AuditEvent { error_name: Some(ErrorName::InternalException), status: 500, ..unsigned.clone() };
    assert!(watched(X3, &[failed]).is_some());
    let mut at_once = unsigned.clone();
    at_once.stations.hsm = Duration::ZERO;
    assert!(watched(X3, &[at_once.clone()]).is_some());
    // Refused at the signature: that is as it should be.
    let refused =
        AuditEvent { error_name: Some(ErrorName::AuthenticationFailedException), status: 401, ..at_once };
    assert_eq!(watched(X3, &[refused]), None);
}

#[test]
fn a_late_answer_is_seen() {
    let mut late = signed();
    late.stations.total = Duration::from_millis(153);
    assert_eq!(watched(X4, &[signed()]), None);
    assert!(watched(X4, &[signed(), late]).unwrap().contains("took 153ms"));
}

#[test]
fn the_secret_is_found_in_every_field_that_holds_text() {
    let places: [fn(&mut AuditEvent, String); 4] = [
        |event, text| event.detail = Some(text),
        |event, text| event.request_id = text,
        |event, text| event.key_id = Some(text),
        |event, text| event.source_vpce = Some(text),
    ];
    for put in places {
        let mut event = signed();
        put(&mut event, format!("<{SECRET}>"));
        assert!(watched(X6, &[signed(), event]).unwrap().ends_with("shows the secret access key"));
    }
    assert_eq!(watched(X6, &[signed()]), None);
}

#[test]
fn an_hsm_that_was_given_more_than_it_has_is_seen() {
    // The emulated HSM refuses what is above its limits, so the figures of one that does not are made up.
    let counters = |running_high_water, sessions_high_water| Counters {
        running_high_water,
        sessions_high_water,
        ..Counters::default()
    };
    let first = |counters: Counters| {
        let violations = Violations::default();
        check_hsm_limits(&violations, Duration::ZERO, 1, &counters, (4, 8));
        violations.verdict(X7).unwrap().first.map(|(_, text)| text)
    };
    assert_eq!(first(counters(4, 8)), None);
    assert_eq!(first(counters(5, 8)).unwrap(), "HSM 1 had 5 parallel operations at once and has only 4");
    assert_eq!(first(counters(4, 9)).unwrap(), "HSM 1 had 9 sessions at once and has only 8");
}

/// In how many seconds of the run S3 served something, one entry a second: `-` nothing came, `x` all failed, `o` all was
/// served, `?` some of each.
fn seconds_of_s3(duration_s: u32, more: &str) -> String {
    let calm = CALM.replace("duration_s = 20", &format!("duration_s = {duration_s}"));
    let scenario = Scenario::parse("canary", "canary.toml", &format!("{calm}{more}")).unwrap();
    let result = run::run(&scenario, &Options::new(3), "", "").unwrap().result;
    let service = result.services.first().unwrap();
    let second = usize::try_from(1_000 / result.bucket_ms).unwrap();
    let sums = |of: &[u64]| of.chunks(second).map(|second| second.iter().sum()).collect::<Vec<u64>>();
    let (ok, failed) = (sums(&service.ok), sums(&service.failed));
    let letter = |(ok, failed): (&u64, &u64)| match (ok, failed) {
        (0, 0) => '-',
        (0, _) => 'x',
        (_, 0) => 'o',
        _ => '?',
    };
    ok.iter().zip(&failed).map(letter).collect()
}

fn two_faults(first: (&str, u32, u32), second: (&str, u32, u32)) -> String {
    let fault = |(kind, from, to): (&str, u32, u32)| {
        format!("[[fault]]\nkind = \"{kind}\"\nfrom_s = {from}\nto_s = {to}\n")
    };
    fault(first) + &fault(second)
}

#[test]
fn a_proxy_stays_down_until_the_last_fault_that_holds_it_down_is_over() {
    let faults = two_faults(("kill-switch", 4, 12), ("proxy-crash", 6, 8));
    let seconds = seconds_of_s3(20, &format!("[topology]\nproxies = 1\n{faults}"));
    assert_eq!(&seconds[5..11], "xxxxxx", "{seconds}");
    assert_eq!(&seconds[14..], "oooooo", "{seconds}");
}

#[test]
fn what_two_faults_hold_heals_when_the_last_of_them_is_over() {
    // Hosts of KMS hear at once, so that the seconds are whole.
    let kms = "[kms]\npropagation_ms = 0\nconnection_propagation_ms = 0\n";
    for (first, second) in [
        ("external-key-disabled", "external-key-disabled"),
        ("kms-key-disabled", "kms-key-disabled"),
        ("certificate-expired", "client-certificate-demanded"),
        ("client-certificate-demanded", "certificate-expired"),
    ] {
        // Connections that are open go on; without any, every request needs a new one.
        let idle = "idle_ms = 0\n";
        let faults = two_faults((first, 4, 8), (second, 6, 14));
        let seconds = seconds_of_s3(20, &format!("{kms}{idle}{faults}"));
        assert_eq!(&seconds[5..13], "xxxxxxxx", "{first}, {second}: {seconds}");
        assert_eq!(&seconds[16..], "oooo", "{first}, {second}: {seconds}");
    }
}

#[test]
fn a_key_store_is_connected_again_when_the_last_fault_that_disconnects_it_is_over() {
    let kms = "[kms]\nconnection_propagation_ms = 0\nconnect_s = 1\ndisconnect_s = 5\n";
    let of = |first: (u32, u32), second: (u32, u32)| {
        let named = |(from, to): (u32, u32)| ("key-store-disconnected", from, to);
        seconds_of_s3(60, &format!("{kms}{}", two_faults(named(first), named(second))))
    };
    // The second begins while the first is on, while its disconnecting takes its time, and while it connects again.
    for (first, second) in [((4, 8), (6, 30)), ((4, 5), (7, 30)), ((4, 10), (10, 30))] {
        let seconds = of(first, second);
        assert!(!seconds[5..30].contains(['o', '?']), "{seconds}");
        assert_eq!(&seconds[45..], "o".repeat(15), "{seconds}");
    }
}

#[test]
fn every_rotation_changes_to_a_credential_of_its_own() {
    let rotation = "[[fault]]\nkind = \"credential-rotation\"\nfrom_s = 5\nto_s = 15\n\
                    repeat_every_s = 20\nrepeats = 2\n";
    let kms = "[kms]\ncredential_spread_s = 0\n";
    let seconds = seconds_of_s3(45, &format!("{kms}{rotation}overlap = false\n"));
    assert_eq!((&seconds[6..15], &seconds[26..35]), ("xxxxxxxxx", "xxxxxxxxx"), "{seconds}");
    assert_eq!((&seconds[17..25], &seconds[37..45]), ("oooooooo", "oooooooo"), "{seconds}");
    assert_eq!(seconds_of_s3(45, &format!("{kms}{rotation}")), "o".repeat(45));
}
