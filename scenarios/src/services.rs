//! Downstream AWS services, each a small model with its data-key cache: who fails when KMS fails, and what they see.
//!
//! Place on the map: a scenario's workloads become [`ServiceSettings`]; [`start`] runs one model per entry on the
//! simulation's thread. Models call [`KmsApi`](crate::kms::KmsApi), retry as AWS SDKs do, and report each request of
//! their users as [`Event::Service`](crate::trace::Event::Service); KMS itself reports its calls. After the run
//! [`ServiceSettings::narrative`] says in words what kept working and what damage stays.
//!
//! Facts are those of AWS's documentation; where it is silent a modelling assumption (MA-Dn) stands in as a setting.
//! Every service draws from its own random stream, and splits it again into arrivals, retry jitter and resources, so
//! that neither another service nor a slow KMS reshuffles who asks for what and when.

mod cache;
mod desk;
mod draws;
mod dynamodb;
mod ebs;
mod ec2_launch;
mod lambda;
mod monitor;
mod objects;
mod rds;
mod retry;
mod s3;
mod s3_bucket_keys;
mod settings;
mod stats;
mod words;

pub use desk::{Damage, TOO_MANY_WAITING};
pub use dynamodb::DynamoDb;
pub use ebs::Ebs;
pub use ec2_launch::Ec2Launch;
pub use lambda::Lambda;
pub use rds::{INSTANCE_STOPPED, Rds};
pub use s3::S3;
pub use s3_bucket_keys::S3BucketKeys;
pub use settings::SettingsError;
pub use stats::{ServiceStats, WindowTally};

use crate::kms::{KmsApi, LocalFuture};
use crate::trace::{Recorder, ServiceOutcome};
use desk::Desk;
use draws::Draws;
use rand_chacha::ChaCha20Rng;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// Which service a workload models, and its parameters; all of them have defaults. In a scenario file `kind` chooses.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ServiceSettings {
    /// `kind = "s3"`: SSE-KMS without Bucket Keys.
    S3(S3),
    /// `kind = "s3-bucket-keys"`: SSE-KMS with Bucket Keys.
    S3BucketKeys(S3BucketKeys),
    /// `kind = "ebs"`: attached volumes, and attaching more.
    Ebs(Ebs),
    /// `kind = "ec2-launch"`: launching instances with encrypted volumes.
    Ec2Launch(Ec2Launch),
    /// `kind = "lambda"`: functions with encrypted environment variables.
    Lambda(Lambda),
    /// `kind = "dynamodb"`: tables under a customer managed key.
    #[serde(rename = "dynamodb")]
    DynamoDb(DynamoDb),
    /// `kind = "rds"`: encrypted database instances.
    Rds(Rds),
}

/// What a service model needs of the world.
pub struct ServiceContext {
    /// Index in the run's list of services; it marks this service's events.
    pub index: usize,
    /// KMS, which records its own calls as [`Event::Kms`](crate::trace::Event::Kms).
    pub kms: Rc<dyn KmsApi>,
    /// Where requests are reported, and the simulated time.
    pub recorder: Rc<dyn Recorder>,
    /// This service's own random stream.
    pub random: ChaCha20Rng,
    /// No new requests from this moment on (simulated time since the start of the run).
    pub until: Duration,
}

/// What a report says about a service besides numbers, in plain words. Empty where there is nothing to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrative {
    /// What went on working during the worst fault, and why.
    pub kept_working: String,
    /// What outlives the outage.
    pub lasting_damage: String,
}

/// A running service model.
pub struct ServiceHandle {
    settings: ServiceSettings,
    desk: Rc<Desk>,
    arrivals: JoinHandle<()>,
}

/// What distinguishes one kind of service from another.
trait Service {
    fn name(&self) -> &'static str;
    fn title(&self) -> &'static str;
    fn rate_per_s(&self) -> f64;
    fn in_flight_max(&self) -> u32;
    fn check(&self) -> Result<(), SettingsError>;
    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model>;
    fn kept_working(&self, worst: &WindowTally) -> String;
    fn lasting_damage(&self, stats: &ServiceStats, damage: &[Damage]) -> String;
    fn assumptions(&self) -> Vec<String>;
}

/// One user request, ready to be carried out.
type Work = LocalFuture<'static, ServiceOutcome>;

/// The state of a running service.
trait Model {
    /// How many resources (objects, volumes, tables) exist before the first fault.
    fn resources(&self) -> usize;
    /// The request that creates one of them.
    fn create(self: Rc<Self>, number: usize) -> Work;
    /// Some user's next request. It draws the same number of times whatever KMS does, so that faults do not reshuffle
    /// the requests after them.
    fn request(self: Rc<Self>, draws: &mut Draws) -> Work;
}

impl ServiceSettings {
    /// Every `kind` a scenario file can name.
    pub const KINDS: [&'static str; 7] =
        ["s3", "s3-bucket-keys", "ebs", "ec2-launch", "lambda", "dynamodb", "rds"];

    /// One of each kind with default parameters: a fleet that makes 100 to 150 KMS calls per second.
    pub fn default_fleet() -> Vec<Self> {
        vec![
            Self::S3(S3::default()),
            Self::S3BucketKeys(S3BucketKeys::default()),
            Self::Ebs(Ebs::default()),
            Self::Ec2Launch(Ec2Launch::default()),
            Self::Lambda(Lambda::default()),
            Self::DynamoDb(DynamoDb::default()),
            Self::Rds(Rds::default()),
        ]
    }

    /// Reads the parameters of a `kind` from a table without the key `kind`. Deriving `kind` from within the table, as
    /// [`Deserialize`] does, makes serde buffer it and forget where each key stood; this keeps the places for error messages.
    pub fn deserialize_kind<'de, D: Deserializer<'de>>(kind: &str, parameters: D) -> Result<Self, D::Error> {
        match kind {
            "s3" => S3::deserialize(parameters).map(Self::S3),
            "s3-bucket-keys" => S3BucketKeys::deserialize(parameters).map(Self::S3BucketKeys),
            "ebs" => Ebs::deserialize(parameters).map(Self::Ebs),
            "ec2-launch" => Ec2Launch::deserialize(parameters).map(Self::Ec2Launch),
            "lambda" => Lambda::deserialize(parameters).map(Self::Lambda),
            "dynamodb" => DynamoDb::deserialize(parameters).map(Self::DynamoDb),
            "rds" => Rds::deserialize(parameters).map(Self::Rds),
            other => Err(D::Error::unknown_variant(other, &Self::KINDS)),
        }
    }

    fn service(&self) -> &dyn Service {
        match self {
            Self::S3(service) => service,
            Self::S3BucketKeys(service) => service,
            Self::Ebs(service) => service,
            Self::Ec2Launch(service) => service,
            Self::Lambda(service) => service,
            Self::DynamoDb(service) => service,
            Self::Rds(service) => service,
        }
    }

    /// The `kind`: `s3-bucket-keys`.
    pub fn name(&self) -> &'static str {
        self.service().name()
    }

    /// In words: `S3 with Bucket Keys`.
    pub fn title(&self) -> &'static str {
        self.service().title()
    }

    /// Whether every parameter is in its range; the error says which is not, and what to write instead.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.service().check()
    }

    /// The modelling assumptions behind this service, such as `MA-D15: S3 keeps a bucket key for 300 s …`.
    pub fn assumptions(&self) -> Vec<String> {
        self.service().assumptions()
    }

    /// The story of a finished run, from what happened in it: `stats` folded from this service's events and the `damage`
    /// its handle tells of.
    pub fn narrative(&self, stats: &ServiceStats, damage: &[Damage]) -> Narrative {
        let service = self.service();
        Narrative {
            kept_working: stats.worst_window().map(|worst| service.kept_working(worst)).unwrap_or_default(),
            lasting_damage: service.lasting_damage(stats, damage),
        }
    }
}

impl ServiceHandle {
    /// In words: `S3 with Bucket Keys`.
    pub fn title(&self) -> &'static str {
        self.settings.title()
    }

    /// What the service itself has done so far that outlives the outage, in order of time.
    pub fn damage(&self) -> Vec<Damage> {
        self.desk.damage()
    }

    /// [`ServiceSettings::narrative`] with this run's damage.
    pub fn narrative(&self, stats: &ServiceStats) -> Narrative {
        self.settings.narrative(stats, &self.damage())
    }

    /// Waits until the last request has come in and every one is answered.
    pub async fn finished(&mut self) {
        // The only error is a cancelled or panicked task: there is no arrival to wait for then either.
        let _ = (&mut self.arrivals).await;
        self.desk.idle().await;
    }
}

/// How long the creator of a resource waits before trying again.
const CREATE_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Starts a service. Its resources are created in the first simulated second (as requests like any other), and its users
/// come from the first moment on, which warms its caches. Call it inside a `LocalSet`, as every simulated host has one.
pub fn start(settings: &ServiceSettings, context: ServiceContext) -> ServiceHandle {
    let service = settings.service();
    let mut draws = Draws::new(context.random);
    let arrivals = draws.split();
    let jitter = draws.split();
    let desk = Rc::new(Desk::new(
        context.index,
        context.kms,
        context.recorder,
        jitter,
        context.until,
        service.in_flight_max(),
    ));
    let model = service.model(desk.clone(), &mut draws);
    tokio::task::spawn_local(create_resources(desk.clone(), model.clone()));
    let arrivals = tokio::task::spawn_local(arrive(desk.clone(), model, service.rate_per_s(), arrivals));
    ServiceHandle { settings: settings.clone(), desk, arrivals }
}

async fn create_resources(desk: Rc<Desk>, model: Rc<dyn Model>) {
    let begun = Instant::now();
    let resources = model.resources();
    for number in 0..resources {
        sleep_until(begun + Duration::from_secs(1).mul_f64(number as f64 / resources as f64)).await;
        tokio::task::spawn_local(create_until_done(desk.clone(), model.clone(), number));
    }
}

async fn create_until_done(desk: Rc<Desk>, model: Rc<dyn Model>, number: usize) {
    while !desk.closed() && !desk.perform(model.clone().create(number)).await {
        sleep(CREATE_AGAIN_AFTER).await;
    }
}

/// Open loop: the next request comes when it comes, however slow the answers are.
async fn arrive(desk: Rc<Desk>, model: Rc<dyn Model>, rate_per_s: f64, mut draws: Draws) {
    let begun = Instant::now();
    let open_for = desk.open_for();
    let mut next = Duration::ZERO;
    loop {
        next += Duration::from_secs_f64(draws.exponential() / rate_per_s);
        if next >= open_for {
            return;
        }
        sleep_until(begun + next).await;
        let work = model.clone().request(&mut draws);
        let desk = desk.clone();
        tokio::task::spawn_local(async move { desk.perform(work).await });
    }
}
