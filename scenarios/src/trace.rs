//! The event trace of a run: what happened, when, in one order. Its digest is the run's fingerprint.
//!
//! Place on the map: every part of the world emits events here; [`result`](crate::result) is folded from them.
//! Nothing random that differs between equal runs (TLS bytes, a real HSM's IVs) may enter an event.

use crate::kms::{KmsFailure, KmsOperation};
use crate::request::RequestLabel;
use std::time::Duration;

/// One thing that happened. Times are simulated, since the start of the run.
#[derive(Clone, Debug)]
pub enum Event {
    /// A user of a downstream service asked for something and got an answer.
    Service(ServiceEvent),
    /// A service called KMS once (one attempt, before SDK retries).
    Kms(KmsEvent),
    /// KMS called the proxy once.
    Xks(XksEvent),
    /// A fault of the timeline began or ended.
    Fault {
        /// Simulated time.
        at: Duration,
        /// Index in the scenario's timeline.
        index: usize,
        /// True when it begins.
        begins: bool,
    },
}

/// One request of a service's user.
#[derive(Clone, Debug)]
pub struct ServiceEvent {
    /// Index in the run's list of services.
    pub service: usize,
    /// When the request came in.
    pub at: Duration,
    /// Until the service answered, its SDK retries included.
    pub took: Duration,
    /// How it ended.
    pub outcome: ServiceOutcome,
}

/// How a service's request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceOutcome {
    /// Served by calling KMS.
    ServedByKms,
    /// Served from a cached data key; KMS was not asked.
    ServedFromCache,
    /// Needed no key at all now: the plaintext key is held by a running resource (attached volume, warm environment).
    ServedByHeldKey,
    /// Failed.
    Failed {
        /// What the service's user sees: the service's own error code and status, such as `KMS.KMSInvalidStateException (400)`.
        visible: &'static str,
        /// What KMS said last; `None` when the failure has another cause.
        kms: Option<KmsFailure>,
        /// KMS calls made for this request (1 to 3 with SDK retries).
        attempts: u32,
    },
}

/// One KMS call.
#[derive(Clone, Debug)]
pub struct KmsEvent {
    /// Index of the calling service.
    pub service: usize,
    /// Which operation.
    pub operation: KmsOperation,
    /// When it came in.
    pub at: Duration,
    /// Until KMS answered.
    pub took: Duration,
    /// `None` for a success.
    pub failure: Option<KmsFailure>,
}

/// One call of the proxy.
#[derive(Clone, Debug)]
pub struct XksEvent {
    /// Which KMS host made it.
    pub kms_host: usize,
    /// When it began, connection set-up included.
    pub at: Duration,
    /// Until the answer was read or KMS gave up, uncensored on success.
    pub took: Duration,
    /// It needed a new connection (TCP, and TLS if configured).
    pub fresh_connection: bool,
    /// How it ended.
    pub outcome: XksOutcome,
    /// For who looks where the time went; no part of the trace.
    pub stages: XksStages,
}

/// What KMS knows of the way of one call of the proxy, beyond what the trace holds.
#[derive(Clone, Debug, Default)]
pub struct XksStages {
    /// `kmsRequestId`, which the proxy's audit event has too.
    pub kms_request_id: String,
    /// Until there was a TCP connection, tries that failed included; zero on a kept one.
    pub connecting: Duration,
    /// Until there was TLS on it.
    pub securing: Duration,
}

/// How a proxy call ended, as KMS saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum XksOutcome {
    /// HTTP 200 and a body KMS could use.
    Ok,
    /// A spec error; the index of its name in `xks_proxy::error::ErrorName::ALL` and the status received.
    Error {
        /// The name.
        name: xks_proxy::error::ErrorName,
        /// The HTTP status.
        status: u16,
    },
    /// No TCP connection: refused, reset, or no SYN-ACK in time; or lost before the first byte of the answer.
    NoConnection,
    /// TCP yes, TLS refused.
    NoTls,
    /// Sent, and no answer within 250 ms; or TCP yes, and TLS not finished within them.
    TimedOut,
    /// Connection closed in the middle of the answer, or an answer that is not the spec's.
    Malformed,
}

/// Where events go, and the simulated time they carry.
pub trait Recorder {
    /// Takes one event.
    fn emit(&self, event: Event);
    /// Takes note that the SDK of service number `service` repeats a KMS call now. No event: the call itself is one.
    fn retry(&self, _service: usize) {}
    /// Simulated time since the start of the run.
    fn now(&self) -> Duration;
    /// Which request events belong to; somebody who does not ask need not keep it.
    fn requests(&self) -> RequestLabel {
        RequestLabel::default()
    }
}
