//! EC2 launches with encrypted volumes: each volume costs a GenerateDataKeyWithoutPlaintext and a Decrypt, and one failure
//! ends the launch (downstream-services 2.2). Auto Scaling terminates the instance to be replaced first, so that failed launches
//! eat up a group, and tries again with a growing pause (MA-D10).

use super::desk::{Aftermath, Desk, Visible};
use super::draws::Draws;
use super::ebs::VIA;
use super::objects::Objects;
use super::retry::Tried;
use super::settings::{Parameters, settings};
use super::stats::{ServiceStats, WindowTally, join};
use super::words::{clock, plural};
use super::{Model, Service, SettingsError, Work};
use crate::kms::{Caller, KmsOperation};
use crate::trace::ServiceOutcome;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

settings! {
    /// `kind = "ec2-launch"`. Launches of instances, as Auto Scaling makes them to replace others. Its further attempts are
    /// calls of KMS, and no requests of users.
    Ec2Launch, "ec2-launch", "EC2 launches";
    /// Launches, starts and reboots per second; above 0 to 100,000; default 0.5.
    rate_per_s = 0.5;
    /// Share of starts of stopped instances among them; 0 to 1; default 0. A start moves the instance to another host and
    /// decrypts the key of each volume; one that fails leaves it stopped.
    start_share: f64 = 0.0, share();
    /// Share of reboots among them; 0 to 1, and at most 1 with `start_share`; default 0.
    reboot_share: f64 = 0.0, share();
    /// Whether a reboot needs KMS as a start does, and not only the key that the host holds (MA-D9); default false.
    reboots_need_key: bool = false, any();
    /// Share of failures whose reason names the key, `Client.InvalidKMSKey.InvalidState`, as reports from the field have it; 0
    /// to 1; default 0: all of them read `Client.InternalError`, as documented.
    key_named_share: f64 = 0.0, share();
    /// Encrypted volumes of an instance; 1 to 20; default 2.
    volumes_per_launch: u32 = 2, count(1..=20);
    /// Seconds until Auto Scaling tries again after a failure (MA-D10); 1 to 86,400; default 60. Each further pause is twice
    /// as long.
    retry_min_s: u64 = 60, seconds();
    /// … and at most so long; default 900.
    retry_max_s: u64 = 900, seconds();
}

/// The termination reason is the same for every cause.
const VISIBLE: Visible = Visible::always("Client.InternalError: Client error on launch");
const KEY_NAMED: Visible =
    Visible::always("Client.InvalidKMSKey.InvalidState: The KMS key provided is in an incorrect state");
const ROLE: &str = "arn:aws:iam::111122223333:role/aws-service-role/autoscaling.amazonaws.com/\
                    AWSServiceRoleForAutoScaling";
const TO_START: &str = "instances that went back to stopped, to start again";
const MISSING: &str = "missing";
const ALL_REPLACED: &str = "all replaced";

impl Service for Ec2Launch {
    fn check(&self) -> Result<(), SettingsError> {
        self.ranges()
            .together(["start_share", "reboot_share"], [self.start_share, self.reboot_share])
            .ordered(["retry_min_s", "retry_max_s"], [self.retry_min_s, self.retry_max_s])
            .done()
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        Rc::new(Launches {
            kinds: RefCell::new(draws.split()),
            volumes: Objects::new(self.volumes_per_launch as usize),
            caller: desk.caller(ROLE, VIA),
            settings: self.clone(),
            missing: Cell::new(0),
            desk,
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        let running = match during.failed {
            0 => "",
            _ if self.reboots_need_key => {
                "Instances that already run need no key while their volumes stay attached."
            }
            _ => {
                "Instances that already run need no key while their volumes stay attached, nor does a reboot (MA-D9)."
            }
        };
        join(&[
            during.in_general(),
            during.held_sentence("reboots", "they keep the host"),
            running.to_owned(),
        ])
    }

    fn lasting_damage(&self, _stats: &ServiceStats, aftermath: &Aftermath) -> String {
        let Some(missing) = aftermath.happened(MISSING) else { return String::new() };
        let replaced = match (Some(missing.last_at), aftermath.happened(ALL_REPLACED).map(|it| it.last_at)) {
            (Some(missing), Some(replaced)) if replaced >= missing => {
                format!("it had replaced all of them by {}", clock(replaced))
            }
            _ => "it had not replaced all of them when the run ended".to_owned(),
        };
        format!(
            "{} ended in \"terminated\". Auto Scaling had terminated the instances they were to replace; trying again after \
             {} to {} s (MA-D10), {replaced}. Other callers must ask again.",
            plural(missing.count * u64::from(self.represents), "launch", "launches"),
            self.retry_min_s,
            self.retry_max_s,
        )
    }

    fn assumptions(&self) -> Vec<String> {
        vec![
            match self.reboots_need_key {
                false => "MA-D9: a reboot keeps the host and needs no KMS call".into(),
                true => "MA-D9: a reboot needs KMS as a start does".into(),
            },
            format!(
                "MA-D10: Auto Scaling tries a failed launch again after {} s, doubling to {} s",
                self.retry_min_s, self.retry_max_s
            ),
        ]
    }
}

struct Launches {
    desk: Rc<Desk>,
    caller: Caller,
    settings: Ec2Launch,
    /// Draws what a request is beyond a launch, and the words of its failure.
    kinds: RefCell<Draws>,
    /// Those of a stopped instance.
    volumes: Objects,
    /// Instances terminated and not replaced yet.
    missing: Cell<usize>,
}

impl Launches {
    async fn launch(&self) -> Tried<()> {
        let mut launch = Tried { result: Ok(()), attempts: 0 };
        for _ in 0..self.settings.volumes_per_launch {
            let operation = KmsOperation::GenerateDataKeyWithoutPlaintext;
            let volume = self.desk.encrypt_and_decrypt(operation, &self.caller).await;
            let attempts = launch.attempts + volume.attempts;
            let made = volume.result.map(|key| {
                if !self.volumes.is_full() {
                    self.volumes.keep(key, 0.0);
                }
            });
            launch = Tried { result: made, attempts };
            if launch.result.is_err() {
                break;
            }
        }
        launch
    }

    /// Attaches the volumes of an instance that stands on a host not its own.
    async fn attach(&self) -> Tried<()> {
        let mut attached = Tried { result: Ok(()), attempts: 0 };
        for number in 0..self.volumes.len() {
            let Some(key) = self.volumes.get(number) else { break };
            let opened = self.desk.decrypt(&key, &self.caller).await;
            attached = Tried { result: opened.result, attempts: attached.attempts + opened.attempts };
            if attached.result.is_err() {
                break;
            }
        }
        attached
    }

    async fn start_or_reboot(self: Rc<Self>, starts: bool, visible: &Visible) -> ServiceOutcome {
        if !starts && !self.settings.reboots_need_key {
            return ServiceOutcome::ServedByHeldKey;
        }
        if self.volumes.len() == 0 {
            // There is no instance yet.
            return self.replace_one(visible).await;
        }
        let attached = self.attach().await;
        if starts && attached.result.is_err() {
            self.desk.leave_to_do(TO_START, self.desk.represented(1));
        }
        self.desk.outcome(visible, attached)
    }

    async fn replace_one(self: Rc<Self>, visible: &Visible) -> ServiceOutcome {
        let launch = self.launch().await;
        if launch.result.is_err() {
            let missing = self.missing.get();
            self.desk.record_damage(missing, MISSING);
            self.missing.set(missing + 1);
            if missing == 0 {
                tokio::task::spawn_local(self.clone().try_again());
            }
        }
        self.desk.outcome(visible, launch)
    }

    /// Launches what is missing one after the other, with a pause after each failure.
    async fn try_again(self: Rc<Self>) {
        let most = Duration::from_secs(self.settings.retry_max_s);
        let mut pause = Duration::from_secs(self.settings.retry_min_s);
        while self.missing.get() > 0 {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(most);
            while self.missing.get() > 0 && !self.desk.closed() && self.launch().await.result.is_ok() {
                self.missing.set(self.missing.get() - 1);
            }
            if self.desk.closed() {
                return;
            }
        }
        self.desk.record_damage(0, ALL_REPLACED);
    }
}

impl Model for Launches {
    fn resources(&self) -> usize {
        0
    }

    fn create(self: Rc<Self>, _number: usize) -> Work {
        Box::pin(self.replace_one(&VISIBLE))
    }

    fn request(self: Rc<Self>, _draws: &mut Draws) -> Work {
        let Ec2Launch { start_share, reboot_share, key_named_share, .. } = self.settings;
        let (kind, named) = {
            let mut kinds = self.kinds.borrow_mut();
            (kinds.unit(), kinds.unit() < key_named_share)
        };
        let visible = if named { &KEY_NAMED } else { &VISIBLE };
        if kind < start_share + reboot_share {
            Box::pin(self.start_or_reboot(kind < start_share, visible))
        } else {
            Box::pin(self.replace_one(visible))
        }
    }
}
