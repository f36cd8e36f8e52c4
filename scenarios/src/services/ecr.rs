//! ECR: a push makes a data key for each layer and the manifest, a pull decrypts one for each layer, and nothing is cached
//! (downstream-services 5.4). Orchestrators repeat a failed pull with a growing pause, and together when the key is back.

use super::desk::{Aftermath, Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::retry::Tried;
use super::settings::{Parameters, ROLES, settings};
use super::stats::{ServiceStats, WindowTally, join};
use super::{Model, Service, SettingsError, Work};
use crate::kms::{Caller, KmsOperation};
use crate::trace::ServiceOutcome;
use serde::Deserialize;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Whose error a failed pull shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullError {
    /// That of S3, met on the URL of the layer.
    S3,
    /// That of ECR, as a push does.
    Ecr,
}

settings! {
    /// `kind = "ecr"`. Nodes pull images (a Decrypt for each layer) when a pod starts whose image they do not have; builds push
    /// them (a GenerateDataKey for each layer and the manifest). A pod whose pull failed waits for the orchestrator's next one.
    Ecr, "ecr", "ECR images";
    /// Starts of pods, and pushes, per second; above 0 to 100,000; default 1.
    rate_per_s = 1.0;
    /// Share of pushes among them; 0 to 1; default 0.02.
    push_share: f64 = 0.02, share();
    /// Share of starts whose image the node has already; 0 to 1; default 0.5.
    local_share: f64 = 0.5, share();
    /// Layers of an image; 1 to 127; default 15.
    layers: u32 = 15, count(1..=127);
    /// Images; 1 to 500; default 20.
    images: u32 = 20, count(1..=500);
    /// Seconds until the orchestrator pulls again, at first; 1 to 86,400; default 10 (Kubernetes). Each further pause is twice as
    /// long.
    pull_retry_min_s: u64 = 10, seconds();
    /// … and at most so long; default 300 (Kubernetes).
    pull_retry_max_s: u64 = 300, seconds();
    /// Whose error a failed pull shows (MA-D30): `s3` or `ecr`; default `s3`.
    pull_error: PullError = PullError::S3, any();
    /// Pods that wait for their image at most; one more is not pulled for again; 0 to 10,000; default 500.
    waiting_pods_max: u32 = 500, count(0..=10_000);
}

const PUSH_VISIBLE: Visible = Visible {
    invalid_state: "KmsException (400), kmsError KMSInvalidStateException",
    internal: "ServerException (500)",
    throttled: "KmsException (400), kmsError ThrottlingException",
    disabled: "KmsException (400), kmsError DisabledException",
    not_found: "KmsException (400), kmsError NotFoundException",
};
/// S3's errors on the layer's URL (MA-D30), behind what the container runtime shows.
const PULL_VISIBLE: Visible = Visible {
    invalid_state: "CannotPullContainerError: KMS.KMSInvalidStateException (400)",
    internal: "CannotPullContainerError: ServiceUnavailable (503)",
    throttled: "CannotPullContainerError: SlowDown (503)",
    disabled: "CannotPullContainerError: KMS.DisabledException (400)",
    not_found: "CannotPullContainerError: KMS.NotFoundException (400)",
};
/// … and ECR's own.
const PULL_VISIBLE_ECR: Visible = Visible {
    invalid_state: "CannotPullContainerError: KmsException (400), kmsError KMSInvalidStateException",
    internal: "CannotPullContainerError: ServerException (500)",
    throttled: "CannotPullContainerError: KmsException (400), kmsError ThrottlingException",
    disabled: "CannotPullContainerError: KmsException (400), kmsError DisabledException",
    not_found: "CannotPullContainerError: KmsException (400), kmsError NotFoundException",
};
const VIA: &str = "ecr.us-east-1.amazonaws.com";

impl Service for Ecr {
    fn check(&self) -> Result<(), SettingsError> {
        self.ranges()
            .ordered(["pull_retry_min_s", "pull_retry_max_s"], [self.pull_retry_min_s, self.pull_retry_max_s])
            .done()
    }

    fn model(&self, desk: Rc<Desk>, _draws: &mut Draws) -> Rc<dyn Model> {
        Rc::new(Registry {
            caller: desk.caller(ROLES[0], VIA),
            images: Objects::new(self.images as usize),
            waiting: Cell::new(0),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        join(&[
            during.in_general(),
            during.held_sentence("starts of pods", "their node had the image already"),
        ])
    }

    fn lasting_damage(&self, stats: &ServiceStats, _aftermath: &Aftermath) -> String {
        match stats.failed {
            0 => String::new(),
            _ => format!(
                "Pods whose pull failed start up to {} s after the key is back, when their orchestrator tries next; builds \
                 whose push failed run again only if someone asks.",
                self.pull_retry_max_s
            ),
        }
    }

    fn assumptions(&self) -> Vec<String> {
        vec![
            match self.pull_error {
                PullError::S3 => {
                    "MA-D30: a pull that fails for KMS shows S3's error on the layer's URL".into()
                }
                PullError::Ecr => {
                    "MA-D30: a pull that fails for KMS shows ECR's error, as a push does".into()
                }
            },
            format!(
                "ECR: the orchestrator pulls again after {} s, doubling to {} s",
                self.pull_retry_min_s, self.pull_retry_max_s
            ),
        ]
    }
}

struct Registry {
    settings: Ecr,
    desk: Rc<Desk>,
    caller: Caller,
    images: Objects,
    /// Pods whose pull has failed and is to be repeated.
    waiting: Cell<u32>,
}

impl Registry {
    /// A data key for each layer and the manifest; the first failure ends it.
    async fn push(self: Rc<Self>, place: f64) -> ServiceOutcome {
        let mut push = self.desk.encrypt(KmsOperation::GenerateDataKey, &self.caller).await;
        for _ in 0..self.settings.layers {
            if push.result.is_err() {
                break;
            }
            let made = self.desk.encrypt(KmsOperation::GenerateDataKey, &self.caller).await;
            push = Tried { result: made.result, attempts: push.attempts + made.attempts };
        }
        self.desk.outcome(&PUSH_VISIBLE, push.map(|key| self.images.keep(key, place)))
    }

    async fn pull(self: Rc<Self>, place: f64) -> ServiceOutcome {
        let Some((_, key)) = self.images.pick(place) else { return self.push(place).await };
        let mut pull = Tried { result: Ok(()), attempts: 0 };
        for _ in 0..self.settings.layers {
            let opened = self.desk.decrypt(&key, &self.caller).await;
            pull = Tried { result: opened.result, attempts: pull.attempts + opened.attempts };
            if pull.result.is_err() {
                break;
            }
        }
        let visible = match self.settings.pull_error {
            PullError::S3 => &PULL_VISIBLE,
            PullError::Ecr => &PULL_VISIBLE_ECR,
        };
        self.desk.outcome(visible, pull)
    }

    /// The pull for a pod that starts, and if it fails all further ones until one succeeds.
    async fn pull_for_pod(self: Rc<Self>, place: f64) -> ServiceOutcome {
        let outcome = self.clone().pull(place).await;
        if matches!(outcome, ServiceOutcome::Failed { .. })
            && self.waiting.get() < self.settings.waiting_pods_max
        {
            self.waiting.set(self.waiting.get() + 1);
            tokio::task::spawn_local(self.pull_again(place));
        }
        outcome
    }

    async fn pull_again(self: Rc<Self>, place: f64) {
        let most = Duration::from_secs(self.settings.pull_retry_max_s);
        let mut pause = Duration::from_secs(self.settings.pull_retry_min_s);
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(most);
            if self.desk.closed() || self.desk.perform(Box::pin(self.clone().pull(place))).await {
                break;
            }
        }
        self.waiting.set(self.waiting.get() - 1);
    }
}

impl Model for Registry {
    fn resources(&self) -> usize {
        self.settings.images as usize
    }

    fn create(self: Rc<Self>, number: usize) -> Work {
        let place = number as f64 / self.resources() as f64;
        Box::pin(self.push(place))
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (kind, place, local) = (draws.unit(), draws.unit(), draws.unit());
        let Ecr { push_share, local_share, .. } = self.settings;
        if kind < push_share {
            Box::pin(self.push(place))
        } else if local < local_share {
            Box::pin(async { ServiceOutcome::ServedByHeldKey })
        } else {
            Box::pin(self.pull_for_pod(place))
        }
    }
}
