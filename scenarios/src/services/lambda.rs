//! Lambda with environment variables under a customer managed key: decrypted when an execution environment starts, and held
//! while it is warm (downstream-services 5.3; MA-D28, MA-D29).

use super::backlog::Backlog;
use super::cache::WARM_UP;
use super::dead_letters::{DeadLetterQueue, GivenUp};
use super::desk::{Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{Parameters, ROLES, ROLES_MAX, settings};
use super::stats::{WindowTally, join};
use super::words::span;
use super::{Model, Service, SettingsError, Work};
use crate::kms::{Caller, CiphertextBlob, KmsOperation};
use crate::trace::ServiceOutcome;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

settings! {
    /// `kind = "lambda"`. An invocation takes the environment of its function that became idle last; without one, it starts
    /// another (a cold start: one Decrypt). An asynchronous one is accepted in any case, and its event waits in Lambda's queue
    /// while environments cannot start: one attempt for all events of a function, after 1 s at first and 5 min in the end.
    Lambda, "lambda", "Lambda functions";
    /// Invocations and updates per second of all functions; above 0 to 100,000; default 100.
    rate_per_s = 100.0;
    /// Functions, each with a role of its own; 1 to 16; default 10.
    functions: u32 = 10, count(1..=ROLES_MAX);
    /// Milliseconds an invocation keeps its environment busy; 1 to 900,000; default 100.
    duration_ms: u32 = 100, count(1..=900_000);
    /// Share of invocations that meet a new environment although one is idle, because of a deployment or a
    /// scale-out elsewhere; 0 to 1; default 0.01.
    fresh_share: f64 = 0.01, share();
    /// Seconds after which an idle environment goes, at least (MA-D29); 1 to 86,400; default 300.
    idle_expiry_min_s: u64 = 300, seconds();
    /// … and at most; default 2,700. Each environment draws its own.
    idle_expiry_max_s: u64 = 2_700, seconds();
    /// Seconds an environment lives even if busy (MA-D29); 1 to 86,400; default 28,800, which is 8 h.
    life_s: u64 = 28_800, seconds();
    /// Share of asynchronous invocations; 0 to 1; default 0.
    async_share: f64 = 0.0, share();
    /// `MaximumEventAgeInSeconds`: how long an asynchronous event is tried; 60 to 21,600; default 21,600 (6 h).
    maximum_event_age_s: u64 = 21_600, seconds_in(60..=21_600);
    /// Where events go that are too old: `none`, `same-key` (fails with the key store) or `other-key`; default `none`.
    dead_letter_queue: DeadLetterQueue = DeadLetterQueue::None, any();
    /// Share of updates of a function's configuration (Encrypt); 0 to 1, and at most 1 with `async_share`; default 0.
    update_share: f64 = 0.0, share();
}

/// Lambda has no throttling code for KMS, so both of KMS's retryable answers end in its generic code (MA-D4).
const VISIBLE: Visible = Visible {
    invalid_state: "KMSInvalidStateException (502)",
    internal: "ServiceException (500)",
    throttled: "ServiceException (500)",
    disabled: "KMSDisabledException (502)",
    not_found: "KMSNotFoundException (502)",
};
/// `LastUpdateStatusReasonCode` of a function whose update failed.
const UPDATE_VISIBLE: Visible = Visible {
    invalid_state: "update failed: InvalidStateKMSKey",
    internal: "ServiceException (500)",
    throttled: "ServiceException (500)",
    disabled: "update failed: DisabledKMSKey",
    not_found: "update failed: KMSKeyNotFound",
};
const VIA: &str = "lambda.us-east-1.amazonaws.com";
const TO_UPDATE: &str = "updates of functions to make again";
const TOO_OLD: GivenUp = GivenUp {
    lost: "asynchronous events past their maximum age",
    kept: "asynchronous events in dead-letter queues, to invoke again",
};
/// The queue's pauses between attempts.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(300);

impl Service for Lambda {
    fn check(&self) -> Result<(), SettingsError> {
        self.ranges()
            .ordered(
                ["idle_expiry_min_s", "idle_expiry_max_s"],
                [self.idle_expiry_min_s, self.idle_expiry_max_s],
            )
            .together(["async_share", "update_share"], [self.async_share, self.update_share])
            .done()
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        let functions = ROLES.iter().take(self.functions as usize).map(|role| Function {
            caller: desk.caller(role, VIA),
            variables: Objects::new(1),
            idle: RefCell::new(Idle { environments: Vec::new(), sweep_at: SWEEP_AT_LEAST }),
            events: RefCell::new(Backlog::new(Duration::from_secs(self.maximum_event_age_s))),
            trying: Cell::new(false),
        });
        Rc::new(Functions {
            functions: functions.collect(),
            kinds: RefCell::new(draws.split()),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        join(&[
            during.in_general(),
            during.held_sentence(
                "invocations in warm environments",
                &format!(
                    "an environment keeps its decrypted variables until it is idle for too long or {} old (MA-D28, \
                     MA-D29)",
                    span(Duration::from_secs(self.life_s))
                ),
            ),
        ])
    }

    fn assumptions(&self) -> Vec<String> {
        let mut assumptions = vec![
            "MA-D28: Lambda decrypts environment variables at cold starts only".to_owned(),
            format!(
                "MA-D29: an environment goes after {} to {} s idle, or {} s after its start",
                self.idle_expiry_min_s, self.idle_expiry_max_s, self.life_s
            ),
        ];
        if self.async_share > 0.0 {
            assumptions.push(format!(
                "Lambda: a KMS failure counts as a system error, after which an asynchronous event is tried for up to {} s",
                self.maximum_event_age_s
            ));
        }
        assumptions
    }
}

struct Functions {
    settings: Lambda,
    desk: Rc<Desk>,
    functions: Vec<Function>,
    /// Draws what a request is beyond an invocation.
    kinds: RefCell<Draws>,
}

struct Function {
    caller: Caller,
    /// Its encrypted environment variables.
    variables: Objects,
    idle: RefCell<Idle>,
    /// Asynchronous events that wait for an environment.
    events: RefCell<Backlog>,
    /// Lambda is trying to process them.
    trying: Cell<bool>,
}

/// The life of an environment, should a request need a new one.
#[derive(Clone, Copy)]
struct Life {
    whole: Duration,
    idle_for_at_most: Duration,
}

/// Warm environments without work; the one that became idle last is at the end.
struct Idle {
    environments: Vec<Environment>,
    sweep_at: usize,
}

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
        self.desk.outcome(&VISIBLE, made.map(|blob| variables.keep(blob, 0.0)))
    }

    async fn update(self: Rc<Self>, number: usize) -> ServiceOutcome {
        let Function { caller, variables, .. } = &self.functions[number];
        let made = self.desk.encrypt(KmsOperation::Encrypt, caller).await;
        if made.result.is_err() {
            self.desk.leave_to_do(TO_UPDATE, self.desk.represented(1));
        }
        self.desk.outcome(&UPDATE_VISIBLE, made.map(|blob| variables.keep(blob, 0.0)))
    }

    async fn invoke(self: Rc<Self>, number: usize, fresh: bool, life: Life) -> ServiceOutcome {
        let Function { caller, variables, idle, .. } = &self.functions[number];
        let Some((_, blob)) = variables.pick(0.0) else { return self.deploy(number).await };
        let warm = if fresh { None } else { idle.borrow_mut().take(self.desk.now()) };
        let (environment, outcome) = match warm {
            Some(environment) => (environment, ServiceOutcome::ServedByHeldKey),
            None => {
                let tried = self.desk.decrypt(&blob, caller).await;
                if tried.result.is_err() {
                    return self.desk.outcome(&VISIBLE, tried);
                }
                let dies_at = self.desk.now() + life.whole;
                let idle_for_at_most = life.idle_for_at_most;
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

    /// The event is accepted before anything needs a key; behind others that wait, it waits too.
    async fn invoke_later(self: Rc<Self>, number: usize, fresh: bool, life: Life) -> ServiceOutcome {
        let Function { events, variables, .. } = &self.functions[number];
        let Some((_, blob)) = variables.pick(0.0) else { return self.deploy(number).await };
        let waits = events.borrow().len() > 0;
        if waits || matches!(self.clone().invoke(number, fresh, life).await, ServiceOutcome::Failed { .. }) {
            let function = &self.functions[number];
            function.events.borrow_mut().add(1, self.desk.now());
            if !function.trying.replace(true) {
                tokio::task::spawn_local(self.clone().process(number, blob));
            }
        }
        ServiceOutcome::ServedByHeldKey
    }

    /// Tries to start an environment for the waiting events, until one starts or all are too old.
    async fn process(self: Rc<Self>, number: usize, blob: CiphertextBlob) {
        let Function { caller, events, trying, .. } = &self.functions[number];
        let mut pause = RETRY_FIRST;
        while events.borrow().len() > 0 && !self.desk.closed() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MOST);
            self.give_up(number);
            if self.desk.decrypt(&blob, caller).await.result.is_ok() {
                let mut events = events.borrow_mut();
                let all = events.len();
                events.take(all);
            }
        }
        trying.set(false);
    }

    /// Events too old by now.
    fn give_up(&self, number: usize) {
        let now = self.desk.now().min(self.desk.until());
        if let Some((count, at)) = self.functions[number].events.borrow_mut().expire(now) {
            self.settings.dead_letter_queue.bury(&self.desk, &TOO_OLD, count, at);
        }
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
        let whole = if self.desk.now() < WARM_UP { rest_of_life } else { whole_life };
        let idle_for_at_most = draws.between(
            Duration::from_secs(self.settings.idle_expiry_min_s),
            Duration::from_secs(self.settings.idle_expiry_max_s),
        );
        let life = Life { whole, idle_for_at_most };
        let kind = self.kinds.borrow_mut().unit();
        let Lambda { async_share, update_share, .. } = self.settings;
        if kind < async_share {
            Box::pin(self.invoke_later(number, fresh, life))
        } else if kind < async_share + update_share {
            Box::pin(self.update(number))
        } else {
            Box::pin(self.invoke(number, fresh, life))
        }
    }

    fn settle(&self) {
        (0..self.functions.len()).for_each(|number| self.give_up(number));
    }
}
