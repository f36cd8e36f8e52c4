//! SQS with SSE-KMS: a data key is reused for 60 s to 24 h for each queue and principal; after that sending and receiving
//! fail until the key store answers again, and messages that nobody can receive age out (downstream-services 4.1).

use super::backlog::Backlog;
use super::cache::{Keep, KeyCache, failures_in_words};
use super::cached_keys::{CachedKeys, WriteKey};
use super::dead_letters::{DeadLetterQueue, EVENTS_ROLE, GivenUp};
use super::desk::{Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{Parameters, settings};
use super::stats::{WindowTally, join};
use super::{Model, Service, SettingsError, Work};
use crate::trace::ServiceOutcome;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// Events that a rule could not deliver.
const EVENTS: GivenUp = GivenUp {
    lost: "events that EventBridge could not deliver (NO_RESOURCE)",
    kept: "events in dead-letter queues of EventBridge rules (NO_RESOURCE), to send again",
};

settings! {
    /// `kind = "sqs"`. Producers send one message at a time (GenerateDataKey and Decrypt, when their key has expired);
    /// consumers receive up to ten and delete them (Decrypt).
    Sqs, "sqs", "SQS queues";
    /// Messages sent, and receives, per second; above 0 to 100,000; default 50.
    rate_per_s = 50.0;
    /// Share of receives among them; 0 to 1; default 0.5.
    receive_share: f64 = 0.5, share();
    /// Queues; 1 to 500; default 5.
    queues: u32 = 5, count(1..=500);
    /// Roles that send to every queue; 1 to 15; default 4.
    producers: u32 = 4, count(1..=15);
    /// Roles that receive from every queue; 1 to 15, and at most 16 with `producers`; default 4.
    consumers: u32 = 4, count(1..=15);
    /// `KmsDataKeyReusePeriodSeconds`; 60 to 86,400; default 300.
    kms_data_key_reuse_period_s: u64 = 300, seconds_in(60..=86_400);
    /// Whether a key stays in use after its time while KMS answers with HTTP 500 (MA-D22), as it does while KMS cannot be
    /// reached; default true.
    sqs_extend_on_500: bool = true, any();
    /// `MessageRetentionPeriod`: seconds after which a message is deleted that nobody has received; 60 to 1,209,600 (14 days);
    /// default 345,600 (4 days).
    message_retention_s: u64 = 345_600, seconds_in(60..=1_209_600);
    /// Messages that wait in each queue at the start; 0 to 1,000,000; default 0.
    waiting_messages: u32 = 0, count(0..=1_000_000);
    /// Share of DeleteMessage, ChangeMessageVisibility and GetQueueAttributes among the requests, which need no key; 0 to 1, and at
    /// most 1 with the other shares; default 0.
    keyless_share: f64 = 0.0, share();
    /// Share of events that a rule of EventBridge sends to a queue among the requests; 0 to 1, and at most 1 with `receive_share`; default 0. The
    /// event itself is accepted in any case; one that cannot be delivered for KMS goes to the rule's dead-letter queue at once, with
    /// code `NO_RESOURCE` (measured for a disabled key).
    event_share: f64 = 0.0, share();
    /// Where such events go: `none`, `same-key` (fails with the key store) or `other-key`; default `none`.
    event_dead_letter_queue: DeadLetterQueue = DeadLetterQueue::None, any();
    /// Seconds a failure to get a key is kept, in which nobody asks KMS again (MA-D34); 0 to 86,400; default 0: the next request
    /// tries again.
    failures_cached_s: u64 = 0, seconds_in(0..=86_400);
}

const VISIBLE: Visible = Visible {
    invalid_state: "KMS.InvalidStateException (KmsInvalidState, 400)",
    internal: "InternalFailure (500)",
    throttled: "KMS.ThrottlingException (KmsThrottled, 400)",
    disabled: "KMS.DisabledException (KmsDisabled, 400)",
    not_found: "KMS.NotFoundException (KmsNotFound, 400)",
};
const VIA: &str = "sqs.us-east-1.amazonaws.com";
/// The most messages of one receive (`MaxNumberOfMessages`).
const BATCH: u64 = 10;
const TOO_OLD: &str = "messages past their retention";

impl Service for Sqs {
    fn check(&self) -> Result<(), SettingsError> {
        self.ranges()
            .roles(["producers", "consumers"], [self.producers, self.consumers])
            .together(["receive_share", "event_share"], [self.receive_share, self.event_share])
            .together(
                ["event_share", "keyless_share"],
                [self.receive_share + self.event_share, self.keyless_share],
            )
            .done()
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        let keep = if self.sqs_extend_on_500 { Keep::OnInternal } else { Keep::Never };
        let retention = Duration::from_secs(self.message_retention_s);
        let queues = (0..self.queues).map(|_| {
            let mut messages = Backlog::new(retention);
            messages.add(u64::from(self.waiting_messages), desk.now());
            messages
        });
        Rc::new(Queues {
            messages: RefCell::new(queues.collect()),
            keys: CachedKeys {
                principals: {
                    let mut principals = desk.callers(self.producers + self.consumers, VIA);
                    principals.push(desk.caller(EVENTS_ROLE, VIA));
                    principals
                },
                resources: Objects::new(self.queues as usize),
                cache: KeyCache::new().keeping_failures(self.failures_cached_s).keeping(keep).aged(draws),
                visible: &VISIBLE,
                ttl: Duration::from_secs(self.kms_data_key_reuse_period_s),
                desk,
            },
            settings: self.clone(),
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        let keyless =
            during.held_sentence("deletes, and events accepted by EventBridge,", "they need no key");
        let kept = format!(
            "SQS reuses a data key for {} s per queue and principal",
            self.kms_data_key_reuse_period_s
        );
        join(&[during.in_general(), during.cache_sentence("data keys in reuse", &kept), keyless])
    }

    fn assumptions(&self) -> Vec<String> {
        let beyond = if self.sqs_extend_on_500 { "stays in use" } else { "is not used" };
        vec![
            format!("MA-D22: an expired SQS data key {beyond} while KMS answers 500, and is not used on 400"),
            failures_in_words(self.failures_cached_s),
        ]
    }
}

struct Queues {
    settings: Sqs,
    keys: CachedKeys,
    /// By queue.
    messages: RefCell<Vec<Backlog>>,
}

impl Queues {
    async fn send(self: Rc<Self>, queue: usize, producer: usize) -> ServiceOutcome {
        let outcome = self.keys.write((queue, producer, 0), WriteKey::GenerateAndDecrypt).await;
        if !matches!(outcome, ServiceOutcome::Failed { .. })
            && let Some(messages) = self.messages.borrow_mut().get_mut(queue)
        {
            messages.add(1, self.keys.desk.now());
        }
        outcome
    }

    /// The rule has a principal of its own, behind the producers and consumers.
    async fn send_event(self: Rc<Self>, queue: usize) -> ServiceOutcome {
        let rule = self.keys.principals.len() - 1;
        if matches!(self.clone().send(queue, rule).await, ServiceOutcome::Failed { .. }) {
            let desk = &self.keys.desk;
            self.settings.event_dead_letter_queue.bury(desk, &EVENTS, 1, desk.now());
        }
        ServiceOutcome::ServedByHeldKey
    }

    async fn receive(self: Rc<Self>, queue: usize, consumer: usize) -> ServiceOutcome {
        let outcome = self.keys.read((queue, consumer, 1)).await;
        self.expire(queue);
        if !matches!(outcome, ServiceOutcome::Failed { .. })
            && let Some(messages) = self.messages.borrow_mut().get_mut(queue)
        {
            messages.take(BATCH);
        }
        outcome
    }

    fn expire(&self, queue: usize) {
        let desk = &self.keys.desk;
        let mut messages = self.messages.borrow_mut();
        if let Some((count, at)) =
            messages.get_mut(queue).and_then(|messages| messages.expire(desk.now().min(desk.until())))
        {
            desk.lose(TOO_OLD, desk.represented(count), at);
        }
    }
}

impl Model for Queues {
    fn resources(&self) -> usize {
        self.settings.queues as usize
    }

    fn create(self: Rc<Self>, _number: usize) -> Work {
        Box::pin(async move { self.keys.create(0).await })
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let queue = draws.below(self.resources());
        let (kind, principal) = (draws.unit(), draws.unit());
        let Sqs { receive_share, event_share, keyless_share, producers, consumers, .. } = self.settings;
        let (producers, consumers) = (producers as usize, consumers as usize);
        let among = |n: usize| ((principal * n as f64) as usize).min(n - 1);
        if kind < receive_share {
            Box::pin(self.receive(queue, producers + among(consumers)))
        } else if kind < receive_share + event_share {
            Box::pin(self.send_event(queue))
        } else if kind < receive_share + event_share + keyless_share {
            Box::pin(async { ServiceOutcome::ServedByHeldKey })
        } else {
            Box::pin(self.send(queue, among(producers)))
        }
    }

    fn settle(&self) {
        (0..self.settings.queues as usize).for_each(|queue| self.expire(queue));
    }
}
