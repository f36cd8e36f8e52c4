//! Somebody who can reach the proxies but has no credential, or one but no business there, so that X3 and X11 are put to
//! the test in every run; and a genuine caller with a plaintext that everybody would recognise, for X6.
//!
//! Place on the map: started by [`world`](crate::world) beside KMS, on the same network. Its calls are in no figure and
//! no event; it draws from a stream of its own. It sends what KMS would, but for the signature.

use crate::clock::Clock;
use crate::invariants::{X3, X11};
use crate::kms::client::{ClientLimits, ClientTls, Dial, XksClient};
use crate::kms::http1::write_post;
use crate::kms::requests::{Ask, RequestMetadata};
use crate::kms::sigv4::Signer;
use crate::kms::violations::Violations;
use rand_chacha::ChaCha20Rng;
use std::rc::Rc;
use std::time::Duration;
use xks_proxy::env::UnixTime;
use xks_proxy::secret::Secret;

/// Shortest time between two attempts. A long run has longer ones, for each costs a connection and a handshake.
const INTERVAL_MIN: Duration = Duration::from_secs(10);
/// Attempts in a run, at the most.
const ATTEMPTS_MAX: u32 = 100;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the intruder knows of the key store it attacks.
pub struct Target {
    /// The host header.
    pub host: &'static str,
    /// The URI of an encrypt call.
    pub path: String,
    /// The region in the scope of its signatures.
    pub region: &'static str,
    /// The credential in force: the newest access key id that the proxies accept (ids are no secrets), and its secret
    /// access key, of which only signatures are used that KMS itself would make.
    pub credential: Box<dyn Fn() -> (String, Secret)>,
    /// Length of the run, over which the attempts are spread.
    pub duration: Duration,
}

/// What every fifth of its requests has encrypted. No event may show it, raw or in Base64.
pub const MARKED_PLAINTEXT: &str = "a plaintext that no log may ever show";

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgery {
    Unsigned,
    WrongSecret,
    ChangedBody,
    /// KMS's own signature, for a principal that the allow-list does not admit.
    Unauthorised,
    /// Nothing: it carries the marked plaintext.
    None,
}

const FORGERIES: [Forgery; 5] =
    [Forgery::Unsigned, Forgery::WrongSecret, Forgery::ChangedBody, Forgery::Unauthorised, Forgery::None];

/// Tries for ever.
pub async fn intrude(
    clock: Clock,
    dial: Rc<dyn Dial>,
    tls: Option<ClientTls>,
    target: Target,
    violations: Rc<Violations>,
    mut random: ChaCha20Rng,
) {
    // Its connections are never kept, so that each attempt meets whichever proxy is next.
    let limits = ClientLimits {
        hosts: 1,
        patience: PATIENCE,
        idle: Duration::ZERO,
        lifetime: None,
        connect_retry: false,
    };
    let client = XksClient::new(dial, tls, limits);
    let interval = (target.duration / ATTEMPTS_MAX).max(INTERVAL_MIN);
    for forgery in FORGERIES.into_iter().cycle() {
        clock.sleep(interval).await;
        let (access_key_id, secret) = (target.credential)();
        let genuine = Signer::new(&access_key_id, secret, target.region);
        let not_its_own = Secret::new("NotTheSecretOfThisCredentialButAsLongAsOneIs".into());
        let wrong = Signer::new(&access_key_id, not_its_own, target.region);
        let metadata = RequestMetadata {
            kms_request_id: "intruder",
            kms_operation: "Encrypt",
            principal_arn: Some(match forgery {
                Forgery::None => "arn:aws:iam::111122223333:role/example-probe",
                _ => "arn:aws:iam::444455556666:user/MaryMajor",
            }),
            kms_key_arn: Some("arn:aws:kms:us-east-1:444455556666:key/0987dcba-09fe-87dc-65ba-ab0987654321"),
            via_service: None,
            source_vpc: None,
        };
        let body = |plaintext: &[u8], random: &mut ChaCha20Rng| {
            Ask::Encrypt { plaintext, aad: b"", cdiv: true }.body(&metadata, random)
        };
        let sent = match forgery {
            Forgery::None => body(MARKED_PLAINTEXT.as_bytes(), &mut random),
            _ => body(b"let me in", &mut random),
        };
        let now = UnixTime(crate::environment::RUN_BEGINS + clock.now());
        let signed = [("content-type", "application/json"), ("host", target.host)];
        let sign =
            |signer: &Signer, body: &str| signer.sign("POST", &target.path, &signed, body.as_bytes(), now);
        let signature = match forgery {
            Forgery::Unsigned => None,
            Forgery::WrongSecret => Some(sign(&wrong, &sent)),
            Forgery::ChangedBody => Some(sign(&genuine, &body(b"an old request", &mut random))),
            Forgery::Unauthorised | Forgery::None => Some(sign(&genuine, &sent)),
        };
        let mut headers = vec![("Host", target.host), ("Content-Type", "application/json")];
        if let Some(signature) = &signature {
            headers.push(("X-Amz-Date", &signature.date));
            headers.push(("Authorization", &signature.authorization));
        }
        let request = write_post(&target.path, &headers, sent.as_bytes(), false);
        // Without an answer (a fault is on) there is nothing to judge.
        if let Ok(response) = client.call(0, &request).await.result {
            let violation =
                (response.status == 200).then(|| format!("a request was served though {forgery:?}"));
            match forgery {
                Forgery::None => {}
                // Refused before its caller mattered (a clock that is wrong, no room): the allow-list was not asked.
                Forgery::Unauthorised if !matches!(response.status, 200 | 403) => {}
                Forgery::Unauthorised => violations.check(X11, clock.now(), violation),
                _ => violations.check(X3, clock.now(), violation),
            }
        }
    }
}
