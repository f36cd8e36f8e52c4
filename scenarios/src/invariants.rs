//! What must hold in every run, whatever goes wrong in it. Each has a name, and a planted defect that proves its alarm.
//!
//! Place on the map: the KMS model reports X1, X2 and X5 into [`Violations`]; the audit subscriber here and the end of
//! a run in [`world`](crate::world) report the others.

use crate::kms::violations::{Invariant, Violations, X1, X2, X5};
use crate::result::Check;
use memchr::memmem::Finder;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use xks_proxy::events::{AuditEvent, Operation, Subscriber};

/// Nothing unauthenticated reaches the HSM.
pub const X3: Invariant = Invariant {
    id: "X3",
    name: "authenticated-only",
    text: "no request reaches an HSM before its signature has been verified",
};

/// Every request is answered in time. What lies before, on the network or in the socket of a process that gets no
/// processor time, the proxy cannot know of, and KMS's patience does not wait for it.
pub const X4: Invariant = Invariant {
    id: "X4",
    name: "answered-in-time",
    text: "the proxy answers every request inside its deadline, which begins when it reads the request: KMS may have given \
           up before",
};

/// No plaintext or secret in an event.
pub const X6: Invariant = Invariant {
    id: "X6",
    name: "no-secret-in-events",
    text: "no audit event shows a secret access key or a plaintext",
};

/// The HSM's limits are never exceeded.
pub const X7: Invariant = Invariant {
    id: "X7",
    name: "hsm-limits",
    text: "no HSM is given more parallel operations or sessions than it has, or than a fault leaves it",
};

/// An IV never repeats.
pub const X8: Invariant =
    Invariant { id: "X8", name: "iv-unique", text: "no initialization vector is used twice under a key" };

/// What was encrypted stays decryptable.
pub const X9: Invariant = Invariant {
    id: "X9",
    name: "still-decryptable",
    text: "what was encrypted during the run decrypts once every fault is over, those that last to its end too",
};

/// Service resumes once everything is healed.
pub const X10: Invariant = Invariant {
    id: "X10",
    name: "service-resumes",
    text: "two and a half minutes after every fault is over KMS encrypts and decrypts again",
};

/// Nothing unauthorised reaches the HSM.
pub const X11: Invariant = Invariant {
    id: "X11",
    name: "authorised-only",
    text: "no request reaches an HSM whose caller the allow-list does not admit",
};

/// All of them, in the order of their ids.
pub const ALL: [Invariant; 11] = [X1, X2, X3, X4, X5, X6, X7, X8, X9, X10, X11];

/// The beginning of every principal that the proxies' allow-list admits: AWS's example account.
pub const ADMITTED_PRINCIPALS: &str = "arn:aws:iam::111122223333:";

/// How late an answer may be: tokio's timers end on the next millisecond.
const ANSWER_SLACK: Duration = Duration::from_millis(2);

/// Watches the audit events of all proxies.
pub struct AuditWatch {
    deadline: Duration,
    /// What no event may show: each with what it is.
    secrets: Vec<(&'static str, Finder<'static>)>,
    clock: crate::clock::Clock,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    requests: u64,
    unauthenticated: Option<(Duration, String)>,
    unauthorised: Option<(Duration, String)>,
    late: Option<(Duration, String)>,
    leaked: Option<(Duration, String)>,
}

/// Whether a field that holds text shows `secret`. The fields themselves, not the JSON of them: escaping could hide it.
fn shows(event: &AuditEvent, secret: &Finder<'_>) -> bool {
    let AuditEvent {
        time: _,
        request_id,
        key_store,
        operation: _,
        key_id,
        access_key_id,
        kms_request_id,
        kms_operation,
        principal_arn,
        kms_key_arn,
        via_service,
        source_vpc,
        source_vpce,
        status: _,
        error_name: _,
        detail,
        shadow_denied,
        ck_rv: _,
        stations: _,
    } = event;
    let optional = [
        key_store,
        key_id,
        access_key_id,
        kms_request_id,
        kms_operation,
        principal_arn,
        kms_key_arn,
        via_service,
        source_vpc,
        source_vpce,
        detail,
        shadow_denied,
    ];
    optional.into_iter().flatten().chain([request_id]).any(|text| secret.find(text.as_bytes()).is_some())
}

impl AuditWatch {
    /// Expects answers within `deadline`, and nowhere one of the secrets, which come with what each is.
    pub fn new(clock: crate::clock::Clock, deadline: Duration, secrets: Vec<(&'static str, String)>) -> Self {
        let finder = |secret: String| Finder::new(secret.as_bytes()).into_owned();
        let secrets = secrets.into_iter().map(|(what, secret)| (what, finder(secret))).collect();
        Self { deadline, secrets, clock, seen: Mutex::default() }
    }

    /// Requests the proxies have answered.
    pub fn requests(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).requests
    }

    /// Moves what was seen into the sink.
    pub fn report(&self, violations: &Violations) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (invariant, checked, violation) in [
            (X3, seen.requests, &seen.unauthenticated),
            (X4, seen.requests, &seen.late),
            (X6, seen.requests, &seen.leaked),
            (X11, seen.requests, &seen.unauthorised),
        ] {
            violations.check_many(invariant, checked, violation.clone());
        }
    }
}

impl Subscriber for AuditWatch {
    fn audit(&self, event: &AuditEvent) {
        let now = self.clock.now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.requests += 1;
        // Error or success, what a request cost at the HSM shows in its event.
        let reached_hsm =
            !event.stations.hsm.is_zero() || (event.error_name.is_none() && event.operation.is_some());
        if reached_hsm && event.access_key_id.is_none() {
            let what = event.operation.map_or("a request", Operation::as_str);
            seen.unauthenticated.get_or_insert_with(|| {
                (now, format!("{what} {} reached the HSM unsigned", event.request_id))
            });
        }
        let stranger =
            event.principal_arn.as_deref().filter(|principal| !principal.starts_with(ADMITTED_PRINCIPALS));
        if reached_hsm && let Some(principal) = stranger {
            let what = event.operation.map_or("a request", Operation::as_str);
            seen.unauthorised.get_or_insert_with(|| {
                (now, format!("{what} {} of {principal} reached the HSM", event.request_id))
            });
        }
        if event.stations.total > self.deadline + ANSWER_SLACK {
            let took = event.stations.total;
            seen.late.get_or_insert_with(|| (now, format!("request {} took {took:?}", event.request_id)));
        }
        if let Some((what, _)) = self.secrets.iter().find(|(_, secret)| shows(event, secret)) {
            seen.leaked.get_or_insert_with(|| (now, format!("request {} shows {what}", event.request_id)));
        }
    }
}

/// X7: holds what HSM number `index` itself says that it was given at most against its limits, `(parallel operations,
/// sessions)`. What its callers see of its sessions is counted at its data door, by the [`world`](crate::world).
pub fn check_hsm_limits(
    violations: &Violations,
    at: Duration,
    index: usize,
    counters: &sim_hsm::Counters,
    limits: (usize, usize),
) {
    for (what, most, limit) in [
        ("parallel operations", counters.running_high_water, limits.0),
        ("sessions", counters.sessions_high_water, limits.1),
    ] {
        let violation =
            (most > limit).then(|| format!("HSM {index} had {most} {what} at once and has only {limit}"));
        violations.check(X7, at, violation);
    }
}

/// Every invariant as the result shows it. What was never looked at in a run that is not `whole` is not judged: the end
/// might have put it to the test.
pub fn checks(violations: &Violations, whole: bool) -> Vec<Check> {
    ALL.into_iter()
        .map(|invariant| {
            let verdict = violations.verdict(invariant);
            let checked = verdict.as_ref().map_or(0, |verdict| verdict.checked);
            Check {
                name: invariant.name.to_owned(),
                text: invariant.text.to_owned(),
                checked,
                judged: whole || checked > 0,
                held: verdict.as_ref().is_none_or(|verdict| verdict.violated == 0),
                violation: verdict
                    .and_then(|verdict| verdict.first)
                    .map(|(at, text)| format!("at {:.3} s: {text}", at.as_secs_f64())),
            }
        })
        .collect()
}
