//! EBS: attached volumes hold their plaintext key in the Nitro card and do not notice an outage; attaching needs KMS, and so
//! does the reattachment after maintenance of the server (downstream-services 2.1).
//!
//! The grant that an attachment needs is made by KMS itself and does not reach the proxy. Snapshots of attached volumes go on,
//! unless `snapshots_need_key` says otherwise (MA-D8).

use super::desk::{Aftermath, Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{Parameters, ROLES, settings};
use super::stats::{ServiceStats, WindowTally, join};
use super::words::{clock, plural};
use super::{Model, Service, SettingsError, Work};
use crate::kms::{Caller, KmsOperation};
use crate::trace::ServiceOutcome;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

settings! {
    /// `kind = "ebs"`. Most requests are reads and writes on attached volumes; some attach another volume (Decrypt), some
    /// create one. The volumes are created and attached at the start (GenerateDataKeyWithoutPlaintext, Decrypt).
    Ebs, "ebs", "EBS volumes";
    /// Reads and writes on volumes, attaches and creates, per second; above 0 to 100,000; default 50.
    rate_per_s = 50.0;
    /// Share of attaches among them; 0 to 1; default 0.02.
    attach_share: f64 = 0.02, share();
    /// Share of creates among them; 0 to 1, and at most 1 with `attach_share`; default 0.
    create_share: f64 = 0.0, share();
    /// Share of snapshots of attached volumes among them; 0 to 1; default 0.
    snapshot_share: f64 = 0.0, share();
    /// Whether such a snapshot needs KMS (a Decrypt), and not only the key that the host holds (MA-D8); default false.
    snapshots_need_key: bool = false, any();
    /// Volumes created at the start; 1 to 500; default 40. A key has 50,000 grants, so no more volumes can be attached.
    volumes: u32 = 40, count(1..=500);
    /// Seconds until a volume that could not be created changes to state `error`, at least (MA-D7); 1 to 86,400; default 5.
    error_after_min_s: u64 = 5, seconds();
    /// … and at most; default 30.
    error_after_max_s: u64 = 30, seconds();
    /// Seconds between two maintenances of the server under a volume, on average, each of which attaches it again; 3,600 to
    /// 31,536,000 (365 days); default 2,592,000 (30 days). Not published.
    reattach_every_s: u64 = 2_592_000, seconds_in(3_600..=31_536_000);
    /// Seconds until someone attaches a volume that maintenance has left detached, and between further attempts; 0 to
    /// 86,400; default 0: nobody does.
    operator_delay_s: u64 = 0, seconds_in(0..=86_400);
}

/// Creating and attaching end asynchronously: the failure arrives as an EventBridge event whose cause is KMS's message (MA-D6).
const CREATE_FAILED: &str = "EBS createVolume failed (volume state: error)";
const CREATE_VISIBLE: Visible = Visible::always(CREATE_FAILED);
const SNAPSHOT_VISIBLE: Visible = Visible::always("EBS createSnapshot failed");
const ATTACH_VISIBLE: Visible = Visible::always("EBS attachVolume failed");
/// What reads and writes meet on a volume that could not be attached again.
const DETACHED: &str = "I/O error: EBS reattachVolume failed";
pub(super) const VIA: &str = "ec2.us-east-1.amazonaws.com";
const REATTACH_FAILED: &str = "detached";
const NOT_DONE: &str = "not attached or created";
const TO_ATTACH: &str = "volumes to attach again";

impl Service for Ebs {
    // Users read and write blocks.
    fn users_call_it_by_sdk(&self) -> bool {
        false
    }

    fn check(&self) -> Result<(), SettingsError> {
        self.ranges()
            .together(["attach_share", "create_share"], [self.attach_share, self.create_share])
            .together(
                ["create_share", "snapshot_share"],
                [self.attach_share + self.create_share, self.snapshot_share],
            )
            .ordered(
                ["error_after_min_s", "error_after_max_s"],
                [self.error_after_min_s, self.error_after_max_s],
            )
            .done()
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        let fleet = Rc::new(Fleet {
            caller: desk.caller(ROLES[0], VIA),
            volumes: Objects::new(self.volumes as usize),
            detached: RefCell::default(),
            operator: Cell::new(false),
            delays: RefCell::new(draws.split()),
            settings: self.clone(),
            desk,
        });
        tokio::task::spawn_local(fleet.clone().maintain(draws.split()));
        fleet
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        join(&[
            during.in_general(),
            during.held_sentence(
                "reads and writes on attached volumes",
                "the volume key stays in the Nitro card's memory while a volume is attached",
            ),
        ])
    }

    fn lasting_damage(&self, stats: &ServiceStats, aftermath: &Aftermath) -> String {
        let reattached = match aftermath.became(REATTACH_FAILED) {
            None => String::new(),
            Some((n, first)) => format!(
                "{} could not be attached again after maintenance of the server, the first at {}.",
                plural(n, "volume", "volumes"),
                clock(first)
            ),
        };
        let failed = aftermath.became(NOT_DONE).map_or_else(String::new, |(n, _)| {
            format!(
                "{} failed; EBS does not repeat them: whoever asked (an operator, a Kubernetes CSI driver) must ask again.",
                plural(n * u64::from(self.represents), "attach or create", "attaches and creates")
            )
        });
        let data = match stats.failed {
            0 => String::new(),
            _ => "No data is damaged if the key comes back.".to_owned(),
        };
        join(&[reattached, failed, data])
    }

    fn assumptions(&self) -> Vec<String> {
        vec![
            "MA-D6: an attach that fails for KMS shows KMS's message as the cause in EventBridge".into(),
            format!(
                "MA-D7: a volume that cannot be created changes to state error after {} to {} s",
                self.error_after_min_s, self.error_after_max_s
            ),
            match self.snapshots_need_key {
                false => "MA-D8: snapshots of attached volumes go on".into(),
                true => "MA-D8: snapshots of attached volumes need KMS".into(),
            },
            format!(
                "EBS: maintenance attaches a volume again every {} s on average (not published)",
                self.reattach_every_s
            ),
        ]
    }
}

struct Fleet {
    settings: Ebs,
    desk: Rc<Desk>,
    caller: Caller,
    volumes: Objects,
    /// By number: volumes that maintenance could not attach again.
    detached: RefCell<BTreeSet<usize>>,
    /// Someone is at work on them.
    operator: Cell<bool>,
    delays: RefCell<Draws>,
}

impl Fleet {
    async fn create_and_attach(self: Rc<Self>, place: f64) -> ServiceOutcome {
        let operation = KmsOperation::GenerateDataKeyWithoutPlaintext;
        let made = self.desk.encrypt_and_decrypt(operation, &self.caller).await;
        if made.result.is_err() {
            // CreateVolume itself has succeeded; the volume's state tells.
            let Ebs { error_after_min_s, error_after_max_s, .. } = self.settings;
            let (low, high) =
                (Duration::from_secs(error_after_min_s), Duration::from_secs(error_after_max_s));
            let error_after = self.delays.borrow_mut().between(low, high);
            tokio::time::sleep(error_after).await;
            self.desk.record_damage(self.volumes.len(), NOT_DONE);
        }
        self.desk.outcome(&CREATE_VISIBLE, made.map(|key| self.volumes.keep(key, place)))
    }

    async fn attach(self: Rc<Self>, place: f64) -> ServiceOutcome {
        match self.volumes.pick(place) {
            Some((volume, key)) => {
                let attached = self.desk.decrypt(&key, &self.caller).await;
                if attached.result.is_err() {
                    self.desk.record_damage(volume, NOT_DONE);
                }
                self.desk.outcome(&ATTACH_VISIBLE, attached)
            }
            None => self.create_and_attach(place).await,
        }
    }

    async fn read_or_write(self: Rc<Self>, place: f64) -> ServiceOutcome {
        match self.volumes.pick(place) {
            Some((volume, _)) if self.detached.borrow().contains(&volume) => {
                ServiceOutcome::Failed { visible: DETACHED, kms: None, attempts: 0 }
            }
            Some(_) => ServiceOutcome::ServedByHeldKey,
            None => self.create_and_attach(place).await,
        }
    }

    async fn snapshot(self: Rc<Self>, place: f64) -> ServiceOutcome {
        match self.volumes.pick(place) {
            Some((_, key)) if self.settings.snapshots_need_key => {
                self.desk.outcome(&SNAPSHOT_VISIBLE, self.desk.decrypt(&key, &self.caller).await)
            }
            _ => self.read_or_write(place).await,
        }
    }

    /// One server after the other is maintained, and its volume attached again.
    async fn maintain(self: Rc<Self>, mut draws: Draws) {
        let mean = Duration::from_secs(self.settings.reattach_every_s) / self.settings.volumes;
        loop {
            tokio::time::sleep(mean.mul_f64(draws.exponential())).await;
            let place = draws.unit();
            if self.desk.closed() {
                return;
            }
            let Some((volume, key)) = self.volumes.pick(place) else { continue };
            if self.detached.borrow().contains(&volume)
                || self.desk.decrypt(&key, &self.caller).await.result.is_ok()
            {
                continue;
            }
            self.detached.borrow_mut().insert(volume);
            self.desk.record_damage(volume, REATTACH_FAILED);
            self.desk.leave_to_do(TO_ATTACH, 1);
            if self.settings.operator_delay_s > 0 && !self.operator.replace(true) {
                tokio::task::spawn_local(self.clone().operate());
            }
        }
    }

    /// Attaches what is detached, again and again until it works.
    async fn operate(self: Rc<Self>) {
        while !self.detached.borrow().is_empty() && !self.desk.closed() {
            tokio::time::sleep(Duration::from_secs(self.settings.operator_delay_s)).await;
            let detached: Vec<usize> = self.detached.borrow().iter().copied().collect();
            for volume in detached {
                let Some(key) = self.volumes.get(volume) else { continue };
                if self.desk.decrypt(&key, &self.caller).await.result.is_err() {
                    break;
                }
                self.detached.borrow_mut().remove(&volume);
                self.desk.done(TO_ATTACH, 1);
            }
        }
        self.operator.set(false);
    }
}

impl Model for Fleet {
    fn resources(&self) -> usize {
        self.settings.volumes as usize
    }

    fn create(self: Rc<Self>, number: usize) -> Work {
        let place = number as f64 / self.resources() as f64;
        Box::pin(self.create_and_attach(place))
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (kind, place) = (draws.unit(), draws.unit());
        let Ebs { attach_share, create_share, snapshot_share, .. } = self.settings;
        if kind < attach_share {
            Box::pin(self.attach(place))
        } else if kind < attach_share + create_share {
            Box::pin(self.create_and_attach(place))
        } else if kind < attach_share + create_share + snapshot_share {
            Box::pin(self.snapshot(place))
        } else {
            Box::pin(self.read_or_write(place))
        }
    }
}
