//! SSM Parameter Store, `SecureString`: one KMS call for each write and for each parameter read with decryption, no cache
//! (downstream-services 5.2). What resolves parameters when it starts, such as an ECS task, does not start (MA-D27).

use super::desk::{Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::retry::Tried;
use super::settings::{Parameters, ROLES, settings};
use super::stats::{WindowTally, join};
use super::{Model, Service, SettingsError, Work};
use crate::kms::{Caller, KmsOperation};
use crate::trace::ServiceOutcome;
use serde::Deserialize;
use std::rc::Rc;

/// The tier of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// A write is an Encrypt.
    Standard,
    /// A write is a GenerateDataKey.
    Advanced,
}

/// What a task shows whose parameters cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskError {
    /// `ResourceInitializationError`: ECS has stopped it.
    ResourceInitialization,
    /// The error of Parameter Store, as for software that reads its parameters itself.
    ParameterStore,
}

settings! {
    /// `kind = "ssm"`. Reads with decryption (Decrypt for each parameter), writes (Encrypt, GenerateDataKey in the advanced
    /// tier), reads without decryption (no call), and ECS tasks that read their parameters when they start.
    Ssm, "ssm", "SSM Parameter Store";
    /// Reads, writes and starts of tasks per second; above 0 to 100,000; default 20.
    rate_per_s = 20.0;
    /// Share of writes among them; 0 to 1; default 0.02.
    write_share: f64 = 0.02, share();
    /// Share of starts of ECS tasks among them (MA-D27); 0 to 1, and at most 1 with `write_share`; default 0.05.
    task_start_share: f64 = 0.05, share();
    /// What such a task shows that cannot read its parameters (MA-D27): `resource-initialization` or `parameter-store`;
    /// default `resource-initialization`.
    task_error: TaskError = TaskError::ResourceInitialization, any();
    /// Share of reads that ask for no decryption; 0 to 1; default 0.
    plain_read_share: f64 = 0.0, share();
    /// Secure strings of one read (`GetParametersByPath`), each a Decrypt; 1 to 1,000; default 1.
    parameters_per_read: u32 = 1, count(1..=1_000);
    /// Parameters that exist; 1 to 500; default 50.
    parameters: u32 = 50, count(1..=500);
    /// `standard` or `advanced`; default `standard`.
    tier: Tier = Tier::Standard, any();
}

const VISIBLE: Visible = Visible {
    invalid_state: "InvalidKeyId (400)",
    internal: "InternalServerError (500)",
    throttled: "InternalServerError (500)",
    disabled: "InvalidKeyId (400)",
    not_found: "InvalidKeyId (400)",
};
const TASK_VISIBLE: Visible = Visible::always("ResourceInitializationError (ECS task stopped)");
const VIA: &str = "ssm.us-east-1.amazonaws.com";

impl Service for Ssm {
    fn check(&self) -> Result<(), SettingsError> {
        self.ranges()
            .together(["write_share", "task_start_share"], [self.write_share, self.task_start_share])
            .done()
    }

    fn model(&self, desk: Rc<Desk>, _draws: &mut Draws) -> Rc<dyn Model> {
        Rc::new(Store {
            caller: desk.caller(ROLES[0], VIA),
            parameters: Objects::new(self.parameters as usize),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        join(&[during.in_general(), during.held_sentence("reads without decryption", "they need no key")])
    }

    fn assumptions(&self) -> Vec<String> {
        vec![
            "MA-D4: Parameter Store answers InternalServerError when KMS answers 500 or throttles".into(),
            match self.task_error {
                TaskError::ResourceInitialization => {
                    "MA-D27: an ECS task that cannot read its parameters stops with ResourceInitializationError".into()
                }
                TaskError::ParameterStore => {
                    "MA-D27: a task that cannot read its parameters shows Parameter Store's error".into()
                }
            },
        ]
    }
}

struct Store {
    settings: Ssm,
    desk: Rc<Desk>,
    caller: Caller,
    parameters: Objects,
}

impl Store {
    async fn put(self: Rc<Self>, place: f64) -> ServiceOutcome {
        let operation = match self.settings.tier {
            Tier::Standard => KmsOperation::Encrypt,
            Tier::Advanced => KmsOperation::GenerateDataKey,
        };
        let made = self.desk.encrypt(operation, &self.caller).await;
        self.desk.outcome(&VISIBLE, made.map(|blob| self.parameters.keep(blob, place)))
    }

    async fn get(self: Rc<Self>, place: f64, visible: &Visible) -> ServiceOutcome {
        let Some((_, blob)) = self.parameters.pick(place) else { return self.put(place).await };
        let mut read = Tried { result: Ok(()), attempts: 0 };
        for _ in 0..self.settings.parameters_per_read {
            let opened = self.desk.decrypt(&blob, &self.caller).await;
            read = Tried { result: opened.result, attempts: read.attempts + opened.attempts };
            if read.result.is_err() {
                break;
            }
        }
        self.desk.outcome(visible, read)
    }
}

impl Model for Store {
    fn resources(&self) -> usize {
        self.settings.parameters as usize
    }

    fn create(self: Rc<Self>, number: usize) -> Work {
        let place = number as f64 / self.resources() as f64;
        Box::pin(self.put(place))
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (kind, place, plain) = (draws.unit(), draws.unit(), draws.unit());
        let Ssm { write_share, task_start_share, plain_read_share, .. } = self.settings;
        if kind < write_share {
            Box::pin(self.put(place))
        } else if kind < write_share + task_start_share {
            let visible = match self.settings.task_error {
                TaskError::ResourceInitialization => &TASK_VISIBLE,
                TaskError::ParameterStore => &VISIBLE,
            };
            Box::pin(self.get(place, visible))
        } else if plain < plain_read_share {
            Box::pin(async { ServiceOutcome::ServedByHeldKey })
        } else {
            Box::pin(self.get(place, &VISIBLE))
        }
    }
}
