//! SNS with SSE-KMS: publishing needs a data key reused for five minutes per topic and publisher; delivering an accepted message
//! needs one of its own, which lasts about ten minutes as measured. Deliveries that fail follow the subscription's retry policy
//! and then go to its dead-letter queue or are lost (downstream-services 4.2; MA-D23).

use super::backlog::Backlog;
use super::cache::{KeyCache, failures_in_words};
use super::cached_keys::{CachedKeys, Slot, WriteKey};
use super::dead_letters::{DeadLetterQueue, EVENTS_ROLE, GivenUp};
use super::desk::{Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{ROLES_MAX, settings};
use super::stats::{WindowTally, join};
use super::{Model, Service, Work};
use crate::trace::ServiceOutcome;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Events that a rule could not deliver.
const EVENTS: GivenUp = GivenUp {
    lost: "events that EventBridge could not deliver (NO_PERMISSIONS)",
    kept: "events in dead-letter queues of EventBridge rules (NO_PERMISSIONS), to send again",
};

settings! {
    /// `kind = "sns"`. A request publishes one message (GenerateDataKey and Decrypt, when the publisher's key has expired). SNS
    /// then delivers it (Decrypt, when the key for deliveries has expired), and tries again for all that wait together.
    Sns, "sns", "SNS topics";
    /// Messages published per second; above 0 to 100,000; default 50.
    rate_per_s = 50.0;
    /// Topics; 1 to 500; default 5.
    topics: u32 = 5, count(1..=500);
    /// Roles that publish to every topic; 1 to 16; default 8.
    publishers: u32 = 8, count(1..=ROLES_MAX);
    /// Seconds SNS reuses a data key for a topic and a publisher (MA-D23); 1 to 86,400; default 300 (documented as up to).
    publish_ttl_s: u64 = 300, seconds();
    /// Seconds it keeps the key with which it delivers (MA-D23); 1 to 86,400; default 600 (measured: about 10 min).
    delivery_ttl_s: u64 = 600, seconds();
    /// `numRetries` of the subscription's delivery policy; 0 to 100,015; default 3, as for HTTP/S. To SQS and Lambda SNS
    /// makes 100,015 attempts in 23 days.
    delivery_retries: u32 = 3, count(0..=100_015);
    /// `minDelayTarget` and `maxDelayTarget`: seconds between these attempts; 1 to 3,600; default 20, as for HTTP/S.
    delivery_delay_s: u64 = 20, seconds_in(1..=3_600);
    /// Where messages go whose attempts are exhausted: `none`, `same-key` (fails with the key store) or `other-key`;
    /// default `none`.
    dead_letter_queue: DeadLetterQueue = DeadLetterQueue::None, any();
    /// Share of events that a rule of EventBridge sends to a topic among the requests; 0 to 1; default 0. The
    /// event itself is accepted in any case; one that cannot be delivered for KMS goes to the rule's dead-letter queue at once, with
    /// code `NO_PERMISSIONS` (measured for a disabled key).
    event_share: f64 = 0.0, share();
    /// Where such events go: `none`, `same-key` (fails with the key store) or `other-key`; default `none`.
    event_dead_letter_queue: DeadLetterQueue = DeadLetterQueue::None, any();
    /// Seconds a failure to get a key is kept, in which nobody asks KMS again (MA-D34); 0 to 86,400; default 0: the next request
    /// tries again.
    failures_cached_s: u64 = 0, seconds_in(0..=86_400);
}

const VISIBLE: Visible = Visible {
    invalid_state: "KMSInvalidState (400)",
    internal: "InternalError (500)",
    throttled: "KMSThrottling (400)",
    disabled: "KMSDisabled (400)",
    not_found: "KMSNotFound (400)",
};
const VIA: &str = "sns.us-east-1.amazonaws.com";
const UNDELIVERED: GivenUp = GivenUp {
    lost: "messages whose delivery attempts were exhausted",
    kept: "messages in dead-letter queues, to deliver again",
};

impl Service for Sns {
    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        let keys = |ttl_s, draws: &mut Draws| CachedKeys {
            principals: {
                let mut principals = desk.callers(self.publishers, VIA);
                principals.push(desk.caller(EVENTS_ROLE, VIA));
                principals
            },
            resources: Objects::new(self.topics as usize),
            cache: KeyCache::new().keeping_failures(self.failures_cached_s).aged(draws),
            visible: &VISIBLE,
            ttl: Duration::from_secs(ttl_s),
            desk: desk.clone(),
        };
        Rc::new(Topics {
            publishing: keys(self.publish_ttl_s, draws),
            delivering: keys(self.delivery_ttl_s, draws),
            undelivered: RefCell::default(),
            kinds: RefCell::new(draws.split()),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        let kept = format!("SNS reuses a data key for {} s per topic and publisher", self.publish_ttl_s);
        join(&[
            during.in_general(),
            during.cache_sentence("data keys in reuse", &kept),
            during.held_sentence("events accepted by EventBridge", "that needs no key"),
        ])
    }

    fn assumptions(&self) -> Vec<String> {
        vec![
            format!(
                "MA-D23: SNS publishes with a cached key for {} s and delivers with one for {} s; a delivery that fails for KMS \
                 is tried {} times more, {} s apart, then goes to the dead-letter queue or is lost",
                self.publish_ttl_s, self.delivery_ttl_s, self.delivery_retries, self.delivery_delay_s
            ),
            failures_in_words(self.failures_cached_s),
        ]
    }
}

struct Topics {
    settings: Sns,
    desk: Rc<Desk>,
    publishing: CachedKeys,
    delivering: CachedKeys,
    /// Accepted and not delivered yet, by topic and publisher, under whose identity SNS decrypts.
    undelivered: RefCell<BTreeMap<Slot, Backlog>>,
    /// Draws what a request is beyond a message.
    kinds: RefCell<Draws>,
}

impl Topics {
    async fn create_topic(self: Rc<Self>) -> ServiceOutcome {
        let outcome = self.publishing.create(0).await;
        // The same topic, seen from the side of deliveries.
        if let Some(key) = self.publishing.resources.get(self.delivering.resources.len())
            && !self.delivering.resources.is_full()
        {
            self.delivering.resources.keep(key, 0.0);
        }
        outcome
    }

    async fn publish(self: Rc<Self>, topic: usize, publisher: usize) -> ServiceOutcome {
        if self.delivering.resources.get(topic).is_none() {
            return self.create_topic().await;
        }
        let slot = (topic, publisher, 0);
        let outcome = self.publishing.write(slot, WriteKey::GenerateAndDecrypt).await;
        if !matches!(outcome, ServiceOutcome::Failed { .. }) {
            let waits = self.undelivered.borrow().contains_key(&slot);
            if waits {
                self.wait(slot);
            } else {
                tokio::task::spawn_local(self.clone().deliver(slot));
            }
        }
        outcome
    }

    /// A rule of EventBridge publishes the event that it has accepted, with a principal of its own.
    async fn send_event(self: Rc<Self>, topic: usize) -> ServiceOutcome {
        let rule = self.settings.publishers as usize;
        if matches!(self.clone().publish(topic, rule).await, ServiceOutcome::Failed { .. }) {
            self.settings.event_dead_letter_queue.bury(&self.desk, &EVENTS, 1, self.desk.now());
        }
        ServiceOutcome::ServedByHeldKey
    }

    /// One more message waits for the next attempt. True for the first.
    fn wait(&self, slot: Slot) -> bool {
        let Sns { delivery_retries, delivery_delay_s, .. } = self.settings;
        let patience = Duration::from_secs(u64::from(delivery_retries) * delivery_delay_s);
        let mut undelivered = self.undelivered.borrow_mut();
        let first = !undelivered.contains_key(&slot);
        undelivered.entry(slot).or_insert_with(|| Backlog::new(patience)).add(1, self.desk.now());
        first
    }

    /// The first attempt of one message; the further ones are for all that wait with it.
    async fn deliver(self: Rc<Self>, slot: Slot) {
        let delivered = |outcome| !matches!(outcome, ServiceOutcome::Failed { .. });
        if delivered(self.delivering.read(slot).await) || !self.wait(slot) {
            return;
        }
        while !self.desk.closed() {
            self.give_up(slot, self.desk.now());
            let waits = |topics: &Self| topics.undelivered.borrow().get(&slot).is_some_and(|it| it.len() > 0);
            if waits(&self) {
                tokio::time::sleep(Duration::from_secs(self.settings.delivery_delay_s)).await;
            }
            if !waits(&self) || delivered(self.delivering.read(slot).await) {
                self.undelivered.borrow_mut().remove(&slot);
                return;
            }
        }
    }

    /// Messages whose attempts are exhausted by now.
    fn give_up(&self, slot: Slot, now: Duration) {
        let expired = self.undelivered.borrow_mut().get_mut(&slot).and_then(|it| it.expire(now));
        if let Some((count, at)) = expired {
            self.settings.dead_letter_queue.bury(&self.desk, &UNDELIVERED, count, at);
        }
    }
}

impl Model for Topics {
    fn resources(&self) -> usize {
        self.settings.topics as usize
    }

    fn create(self: Rc<Self>, _number: usize) -> Work {
        Box::pin(self.create_topic())
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (topic, publisher) =
            (draws.below(self.resources()), draws.below(self.settings.publishers as usize));
        if self.kinds.borrow_mut().unit() < self.settings.event_share {
            Box::pin(self.send_event(topic))
        } else {
            Box::pin(self.publish(topic, publisher))
        }
    }

    fn settle(&self) {
        let slots: Vec<Slot> = self.undelivered.borrow().keys().copied().collect();
        let now = self.desk.now().min(self.desk.until());
        slots.into_iter().for_each(|slot| self.give_up(slot, now));
    }
}
