//! Lambda with environment variables under a customer managed key: decrypted when an execution environment starts, and held
//! while it is warm (downstream-services 5.3; MA-D28, MA-D29).

use super::desk::{Damage, Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{Checks, IN_FLIGHT_MAX, ROLES, ROLES_MAX};
use super::stats::{ServiceStats, WindowTally, join};
use super::words::span;
use super::{Model, Service, SettingsError, Work};
use crate::kms::{Caller, KmsOperation};
use crate::trace::ServiceOutcome;
use serde::Deserialize;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// `kind = "lambda"`. An invocation takes the environment of its function that became idle last; without one, it starts
/// another (a cold start: one Decrypt).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lambda {
    /// Invocations per second of all functions; above 0 to 100,000; default 100.
    pub rate_per_s: f64,
    /// Functions, each with a role of its own; 1 to 16; default 10.
    pub functions: u32,
    /// Milliseconds an invocation keeps its environment busy; 1 to 900,000; default 100.
    pub duration_ms: u32,
    /// Share of invocations that meet a new environment although one is idle, because of a deployment or a
    /// scale-out elsewhere; 0 to 1; default 0.01.
    pub fresh_share: f64,
    /// Seconds after which an idle environment goes, at least (MA-D29); 1 to 86,400; default 300.
    pub idle_expiry_min_s: u64,
    /// … and at most; default 2,700. Each environment draws its own.
    pub idle_expiry_max_s: u64,
    /// Seconds an environment lives even if busy (MA-D29); 1 to 86,400; default 28,800, which is 8 h.
    pub life_s: u64,
    /// Requests that wait for an answer at most; default 10,000.
    pub in_flight_max: u32,
}

impl Default for Lambda {
    fn default() -> Self {
        Self {
            rate_per_s: 100.0,
            functions: 10,
            duration_ms: 100,
            fresh_share: 0.01,
            idle_expiry_min_s: 300,
            idle_expiry_max_s: 2_700,
            life_s: 28_800,
            in_flight_max: IN_FLIGHT_MAX,
        }
    }
}

/// Lambda has no throttling code for KMS, so both of KMS's retryable answers end in its generic code (MA-D4).
const VISIBLE: Visible = Visible {
    invalid_state: "KMSInvalidStateException (502)",
    internal: "ServiceException (500)",
    throttled: "ServiceException (500)",
    disabled: "KMSDisabledException (502)",
};
const VIA: &str = "lambda.us-east-1.amazonaws.com";

impl Service for Lambda {
    fn name(&self) -> &'static str {
        "lambda"
    }

    fn title(&self) -> &'static str {
        "Lambda functions"
    }

    fn rate_per_s(&self) -> f64 {
        self.rate_per_s
    }

    fn in_flight_max(&self) -> u32 {
        self.in_flight_max
    }

    fn check(&self) -> Result<(), SettingsError> {
        Checks::of(self.name())
            .load(self.rate_per_s, self.in_flight_max)
            .count("functions", self.functions, 1..=ROLES_MAX)
            .count("duration_ms", self.duration_ms, 1..=900_000)
            .share("fresh_share", self.fresh_share)
            .seconds_range(
                ["idle_expiry_min_s", "idle_expiry_max_s"],
                [self.idle_expiry_min_s, self.idle_expiry_max_s],
            )
            .seconds("life_s", self.life_s)
            .done()
    }

    fn model(&self, desk: Rc<Desk>, _draws: &mut Draws) -> Rc<dyn Model> {
        let functions = ROLES.iter().take(self.functions as usize).map(|role| Function {
            caller: desk.caller(role, VIA),
            variables: Objects::new(1),
            idle: RefCell::new(Idle { environments: Vec::new(), sweep_at: SWEEP_AT_LEAST }),
        });
        Rc::new(Functions { functions: functions.collect(), settings: self.clone(), desk })
    }

    fn kept_working(&self, worst: &WindowTally) -> String {
        join(&[
            worst.in_general(),
            worst.held_sentence(
                "invocations in warm environments",
                &format!(
                    "an environment keeps its decrypted variables until it is idle for too long or {} old (MA-D28, \
                     MA-D29)",
                    span(Duration::from_secs(self.life_s))
                ),
            ),
        ])
    }

    fn lasting_damage(&self, _stats: &ServiceStats, _damage: &[Damage]) -> String {
        String::new()
    }

    fn assumptions(&self) -> Vec<String> {
        vec![
            "MA-D28: Lambda decrypts environment variables at cold starts only".into(),
            format!(
                "MA-D29: an environment goes after {} to {} s idle, or {} s after its start",
                self.idle_expiry_min_s, self.idle_expiry_max_s, self.life_s
            ),
        ]
    }
}

struct Functions {
    settings: Lambda,
    desk: Rc<Desk>,
    functions: Vec<Function>,
}

struct Function {
    caller: Caller,
    /// Its encrypted environment variables.
    variables: Objects,
    idle: RefCell<Idle>,
}

/// Warm environments without work; the one that became idle last is at the end.
struct Idle {
    environments: Vec<Environment>,
    sweep_at: usize,
}

const WARM_UP: Duration = Duration::from_secs(10);
const SWEEP_AT_LEAST: usize = 256;

#[derive(Clone, Copy)]
struct Environment {
    dies_at: Duration,
    idle_for_at_most: Duration,
    /// Idle since then plus at most `idle_for_at_most`.
    expires_at: Duration,
}

impl Functions {
    async fn deploy(self: Rc<Self>, number: usize) -> ServiceOutcome {
        let Function { caller, variables, .. } = &self.functions[number];
        let made = self.desk.encrypt(KmsOperation::Encrypt, caller).await;
        VISIBLE.outcome(made.map(|blob| variables.keep(blob, 0.0)))
    }

    async fn invoke(
        self: Rc<Self>,
        number: usize,
        fresh: bool,
        life: Duration,
        idle_for_at_most: Duration,
    ) -> ServiceOutcome {
        let Function { caller, variables, idle } = &self.functions[number];
        let Some((_, blob)) = variables.pick(0.0) else { return self.deploy(number).await };
        let warm = if fresh { None } else { idle.borrow_mut().take(self.desk.now()) };
        let (environment, outcome) = match warm {
            Some(environment) => (environment, ServiceOutcome::ServedByHeldKey),
            None => {
                let tried = self.desk.decrypt(&blob, caller).await;
                if tried.result.is_err() {
                    return VISIBLE.outcome(tried);
                }
                let dies_at = self.desk.now() + life;
                let environment = Environment { dies_at, idle_for_at_most, expires_at: dies_at };
                (environment, ServiceOutcome::ServedByKms)
            }
        };
        tokio::time::sleep(Duration::from_millis(u64::from(self.settings.duration_ms))).await;
        let now = self.desk.now();
        let expires_at = environment.dies_at.min(now + environment.idle_for_at_most);
        idle.borrow_mut().put(Environment { expires_at, ..environment }, now);
        outcome
    }
}

impl Idle {
    /// The environment that became idle last; those met on the way whose time is over go.
    fn take(&mut self, now: Duration) -> Option<Environment> {
        while let Some(environment) = self.environments.pop() {
            if environment.expires_at > now {
                return Some(environment);
            }
        }
        None
    }

    fn put(&mut self, environment: Environment, now: Duration) {
        self.environments.push(environment);
        // Those at the bottom may never be met again, so a sweep now and then keeps memory bounded.
        if self.environments.len() >= self.sweep_at {
            self.environments.retain(|environment| environment.expires_at > now);
            self.sweep_at = SWEEP_AT_LEAST.max(self.environments.len() * 2);
        }
    }
}

impl Model for Functions {
    fn resources(&self) -> usize {
        self.functions.len()
    }

    fn create(self: Rc<Self>, number: usize) -> Work {
        Box::pin(self.deploy(number))
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let number = draws.below(self.functions.len());
        let fresh = draws.unit() < self.settings.fresh_share;
        // Environments of the first seconds stand for those of a fleet that has run for long: any age is as likely.
        let whole_life = Duration::from_secs(self.settings.life_s);
        let rest_of_life = draws.between(Duration::ZERO, whole_life);
        let life = if self.desk.now() < WARM_UP { rest_of_life } else { whole_life };
        let idle_for_at_most = draws.between(
            Duration::from_secs(self.settings.idle_expiry_min_s),
            Duration::from_secs(self.settings.idle_expiry_max_s),
        );
        Box::pin(self.invoke(number, fresh, life, idle_for_at_most))
    }
}
