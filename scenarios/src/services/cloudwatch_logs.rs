//! CloudWatch Logs: what is ingested is encrypted, what is read is decrypted, both with keys cached for a time (MA-D32). Agents
//! buffer what is not accepted and drop what their buffer does not hold: those log events are lost, just when they are wanted
//! (downstream-services 5.6).

use super::cache::{KeyCache, failures_in_words};
use super::cached_keys::{CachedKeys, WriteKey};
use super::desk::{Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{Parameters, ROLES_MAX, settings};
use super::stats::{WindowTally, join};
use super::{Model, Service, SettingsError, Work};
use crate::kms::KmsOperation;
use crate::trace::ServiceOutcome;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

settings! {
    /// `kind = "cloudwatch-logs"`. Agents put batches of log events (PutLogEvents, a GenerateDataKey when the key has expired);
    /// people and alarms read (GetLogEvents, FilterLogEvents, StartQuery, a Decrypt then).
    CloudwatchLogs, "cloudwatch-logs", "CloudWatch Logs";
    /// Batches put, and reads, per second; above 0 to 100,000; default 50.
    rate_per_s = 50.0;
    /// Share of reads among them; 0 to 1; default 0.05.
    read_share: f64 = 0.05, share();
    /// Share of AssociateKmsKey among the requests (GenerateDataKey), which a bad key ends at once; 0 to 1, and at most 1 with
    /// `read_share`; default 0.
    associate_share: f64 = 0.0, share();
    /// Log groups; 1 to 500; default 10.
    log_groups: u32 = 10, count(1..=500);
    /// Roles that agents and readers act as, for every group; 1 to 16; default 4.
    principals: u32 = 4, count(1..=ROLES_MAX);
    /// Seconds CloudWatch Logs keeps a key for a group and a role (MA-D32); 1 to 86,400; default 300.
    ttl_s: u64 = 300, seconds();
    /// Log events of one batch; 1 to 10,000; default 50.
    events_per_batch: u32 = 50, count(1..=10_000);
    /// Log events that the agents of one group and role buffer together; 0 to 100,000,000; default 50,000.
    agent_buffer_events: u32 = 50_000, count(0..=100_000_000);
    /// Seconds a failure to get a key is kept, in which nobody asks KMS again (MA-D34); 0 to 86,400; default 0: the next request
    /// tries again.
    failures_cached_s: u64 = 0, seconds_in(0..=86_400);
}

/// MA-D32: not documented.
const VISIBLE: Visible = Visible::always("ServiceUnavailableException (500)");
/// AssociateKmsKey, as documented for a disabled or missing key.
const ASSOCIATE_VISIBLE: Visible = Visible {
    invalid_state: "InvalidParameterException (400)",
    internal: "ServiceUnavailableException (500)",
    throttled: "ServiceUnavailableException (500)",
    disabled: "InvalidParameterException (400)",
    not_found: "InvalidParameterException (400)",
};
const VIA: &str = "logs.us-east-1.amazonaws.com";
const DROPPED: &str = "log events dropped by agents with a full buffer";

impl Service for CloudwatchLogs {
    // An agent that tries again is one with a buffer, `agent_buffer_events`.
    fn users_call_it_by_sdk(&self) -> bool {
        false
    }

    fn check(&self) -> Result<(), SettingsError> {
        self.ranges()
            .together(["read_share", "associate_share"], [self.read_share, self.associate_share])
            .done()
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        Rc::new(Logs {
            keys: CachedKeys {
                principals: desk.callers(self.principals, VIA),
                resources: Objects::new(self.log_groups as usize),
                cache: KeyCache::new().keeping_failures(self.failures_cached_s).aged(draws),
                visible: &VISIBLE,
                ttl: Duration::from_secs(self.ttl_s),
                desk,
            },
            buffered: RefCell::default(),
            settings: self.clone(),
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        let kept = format!("CloudWatch Logs keeps a key for {} s per log group and role, MA-D32", self.ttl_s);
        join(&[during.in_general(), during.cache_sentence("cached keys", &kept)])
    }

    fn assumptions(&self) -> Vec<String> {
        vec![
            format!(
                "MA-D32: CloudWatch Logs reads and ingests for {} s after the onset, then answers ServiceUnavailableException",
                self.ttl_s
            ),
            failures_in_words(self.failures_cached_s),
        ]
    }
}

struct Logs {
    settings: CloudwatchLogs,
    keys: CachedKeys,
    /// Log events that agents hold, by group and role; of those that requests stand for, all.
    buffered: RefCell<BTreeMap<(usize, usize), u64>>,
}

impl Logs {
    async fn associate(self: Rc<Self>, principal: usize) -> ServiceOutcome {
        let CachedKeys { desk, principals, .. } = &self.keys;
        let made = desk.encrypt(KmsOperation::GenerateDataKey, &principals[principal]).await;
        desk.outcome(&ASSOCIATE_VISIBLE, made)
    }

    async fn put(self: Rc<Self>, group: usize, principal: usize) -> ServiceOutcome {
        let outcome = self.keys.write((group, principal, 0), WriteKey::Generate).await;
        if matches!(outcome, ServiceOutcome::Failed { .. }) {
            let desk = &self.keys.desk;
            // The agents' buffers are as large however many requests one simulated one stands for.
            let batch = desk.represented(u64::from(self.settings.events_per_batch));
            let mut buffers = self.buffered.borrow_mut();
            let buffered = buffers.entry((group, principal)).or_insert(0);
            let room = u64::from(self.settings.agent_buffer_events).saturating_sub(*buffered);
            *buffered += batch.min(room);
            desk.lose(DROPPED, batch.saturating_sub(room), desk.now());
        } else {
            // What was buffered goes out with it.
            self.buffered.borrow_mut().remove(&(group, principal));
        }
        outcome
    }
}

impl Model for Logs {
    fn resources(&self) -> usize {
        self.settings.log_groups as usize
    }

    fn create(self: Rc<Self>, _number: usize) -> Work {
        Box::pin(async move { self.keys.create(0).await })
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (group, principal) = (draws.below(self.resources()), draws.below(self.keys.principals.len()));
        let kind = draws.unit();
        let CloudwatchLogs { read_share, associate_share, .. } = self.settings;
        if kind < read_share {
            Box::pin(async move { self.keys.read((group, principal, 1)).await })
        } else if kind < read_share + associate_share {
            Box::pin(self.associate(principal))
        } else {
            Box::pin(self.put(group, principal))
        }
    }
}
