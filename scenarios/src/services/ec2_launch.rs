//! EC2 launches with encrypted volumes: each volume costs a GenerateDataKeyWithoutPlaintext and a Decrypt, and one failure
//! ends the launch (downstream-services 2.2).

use super::desk::{Damage, Desk, Visible};
use super::draws::Draws;
use super::ebs::VIA;
use super::retry::Tried;
use super::settings::{Checks, IN_FLIGHT_MAX};
use super::stats::{ServiceStats, WindowTally, join};
use super::words::plural;
use super::{Model, Service, SettingsError, Work};
use crate::kms::Caller;
use crate::trace::ServiceOutcome;
use serde::Deserialize;
use std::rc::Rc;

/// `kind = "ec2-launch"`. Launches of instances, as Auto Scaling makes them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ec2Launch {
    /// Launches per second; above 0 to 100,000; default 0.5.
    pub rate_per_s: f64,
    /// Encrypted volumes of an instance; 1 to 20; default 2.
    pub volumes_per_launch: u32,
    /// Requests that wait for an answer at most; default 10,000.
    pub in_flight_max: u32,
}

impl Default for Ec2Launch {
    fn default() -> Self {
        Self { rate_per_s: 0.5, volumes_per_launch: 2, in_flight_max: IN_FLIGHT_MAX }
    }
}

const LAUNCH_FAILED: &str = "Client.InternalError: Client error on launch";
/// The termination reason is the same for every cause.
const VISIBLE: Visible = Visible {
    invalid_state: LAUNCH_FAILED,
    internal: LAUNCH_FAILED,
    throttled: LAUNCH_FAILED,
    disabled: LAUNCH_FAILED,
};
const ROLE: &str = "arn:aws:iam::111122223333:role/aws-service-role/autoscaling.amazonaws.com/\
                    AWSServiceRoleForAutoScaling";

impl Service for Ec2Launch {
    fn name(&self) -> &'static str {
        "ec2-launch"
    }

    fn title(&self) -> &'static str {
        "EC2 launches"
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
            .count("volumes_per_launch", self.volumes_per_launch, 1..=20)
            .done()
    }

    fn model(&self, desk: Rc<Desk>, _draws: &mut Draws) -> Rc<dyn Model> {
        Rc::new(Launches { caller: desk.caller(ROLE, VIA), volumes: self.volumes_per_launch, desk })
    }

    fn kept_working(&self, worst: &WindowTally) -> String {
        let running = match worst.failed {
            0 => "",
            _ => {
                "Instances that already run need no key while their volumes stay attached, nor does a reboot (MA-D9)."
            }
        };
        join(&[worst.in_general(), running.to_owned()])
    }

    fn lasting_damage(&self, stats: &ServiceStats, _damage: &[Damage]) -> String {
        match stats.failed {
            0 => String::new(),
            n => format!(
                "{} ended in \"terminated\" and must be made again: Auto Scaling does so by itself (MA-D10: after 1 \
                 to 15 min), other callers must.",
                plural(n, "launch", "launches")
            ),
        }
    }

    fn assumptions(&self) -> Vec<String> {
        vec!["MA-D9: a reboot keeps the host and needs no KMS call".into()]
    }
}

struct Launches {
    desk: Rc<Desk>,
    caller: Caller,
    volumes: u32,
}

impl Launches {
    async fn launch(self: Rc<Self>) -> ServiceOutcome {
        let mut launch = Tried { result: Ok(()), attempts: 0 };
        for _ in 0..self.volumes {
            let volume = self.desk.encrypt_and_decrypt(&self.caller).await;
            launch = Tried { result: volume.result.map(drop), attempts: launch.attempts + volume.attempts };
            if launch.result.is_err() {
                break;
            }
        }
        VISIBLE.outcome(launch)
    }
}

impl Model for Launches {
    fn resources(&self) -> usize {
        0
    }

    fn create(self: Rc<Self>, _number: usize) -> Work {
        Box::pin(self.launch())
    }

    fn request(self: Rc<Self>, _draws: &mut Draws) -> Work {
        Box::pin(self.launch())
    }
}
