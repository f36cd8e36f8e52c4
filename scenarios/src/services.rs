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
//!
//! | shape | modules | who has it |
//! |---|---|---|
//! | parameters as a table, their ranges | `settings` | all |
//! | requests, calls of KMS, what is lost or left to do | `desk`, `retry` | all |
//! | a key for each request | `objects` | S3, Secrets Manager, SSM, ECR, Encryption SDK, S3 Encryption Client |
//! | a key cached for a resource and a principal | `cached_keys`, `cache` | S3 Express, SQS, SNS, Kinesis, CloudWatch Logs |
//! | a key held in memory, and a slow eye on it | `watch` | DynamoDB, RDS, EFS, Redshift |
//! | what waits and grows too old | `backlog`, `dead_letters` | SQS, SNS, Kinesis, Lambda |

mod backlog;
mod cache;
mod cached_keys;
mod cloudwatch_logs;
mod dead_letters;
mod desk;
mod draws;
mod dynamodb;
mod ebs;
mod ec2_launch;
mod ecr;
mod efs;
mod eks;
mod encryption_sdk;
mod hierarchical_keyring;
mod kinesis;
mod lambda;
mod objects;
mod rds;
mod redshift;
mod retry;
mod s3;
mod s3_bucket_keys;
mod s3_encryption_client;
mod s3_express;
mod secrets_manager;
mod settings;
mod sns;
mod sqs;
mod ssm;
mod stats;
mod watch;
mod words;

pub use cloudwatch_logs::CloudwatchLogs;
pub use dead_letters::DeadLetterQueue;
pub use desk::{Aftermath, Counted, DAMAGE_MAX, Damage, Happened, ShownAs, TOO_MANY_WAITING};
pub use dynamodb::DynamoDb;
pub use ebs::Ebs;
pub use ec2_launch::Ec2Launch;
pub use ecr::{Ecr, PullError};
pub use efs::Efs;
pub use eks::Eks;
pub use encryption_sdk::EncryptionSdk;
pub use hierarchical_keyring::HierarchicalKeyring;
pub use kinesis::Kinesis;
pub use lambda::Lambda;
pub use rds::{INSTANCE_STOPPED, Rds};
pub use redshift::Redshift;
pub use s3::S3;
pub use s3_bucket_keys::S3BucketKeys;
pub use s3_encryption_client::S3EncryptionClient;
pub use s3_express::S3Express;
pub use secrets_manager::{SecretsClient, SecretsManager};
pub use settings::SettingsError;
pub use sns::Sns;
pub use sqs::Sqs;
pub use ssm::{Ssm, TaskError, Tier};
pub use stats::{ServiceStats, WindowTally};

use crate::kms::{KmsApi, LocalFuture};
use crate::trace::{Recorder, ServiceOutcome};
use desk::Desk;
use draws::Draws;
use rand_chacha::ChaCha20Rng;
use retry::{AT_FIRST, Retry, price_of_visible};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use settings::{Load, Parameters};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// The kinds of services: each by its word in a scenario file and the structure that holds its parameters.
macro_rules! kinds {
    ($($(#[$about:meta])* $kind:literal => $Kind:ident,)*) => {
        /// Which service a workload models, and its parameters; all of them have defaults. In a scenario file `kind`
        /// chooses.
        #[derive(Clone, Debug, PartialEq, Deserialize)]
        #[serde(tag = "kind")]
        pub enum ServiceSettings {
            $($(#[$about])* #[serde(rename = $kind)] $Kind($Kind),)*
        }

        impl ServiceSettings {
            /// Every `kind` a scenario file can name.
            pub const KINDS: [&'static str; [$($kind),*].len()] = [$($kind),*];

            /// Reads the parameters of a `kind` from a table without the key `kind`. Deriving `kind` from within the
            /// table, as [`Deserialize`] does, makes serde buffer it and forget where each key stood; this keeps the places
            /// for error messages.
            pub fn deserialize_kind<'de, D: Deserializer<'de>>(kind: &str, parameters: D) -> Result<Self, D::Error> {
                match kind {
                    $($kind => $Kind::deserialize(parameters).map(Self::$Kind),)*
                    other => Err(D::Error::unknown_variant(other, &Self::KINDS)),
                }
            }

            fn service(&self) -> &dyn Service {
                match self {
                    $(Self::$Kind(service) => service,)*
                }
            }
        }
    };
}

kinds! {
    /// S3 with SSE-KMS, without Bucket Keys.
    "s3" => S3,
    /// S3 with SSE-KMS, with Bucket Keys.
    "s3-bucket-keys" => S3BucketKeys,
    /// Attached EBS volumes, and attaching more.
    "ebs" => Ebs,
    /// EC2 launches of instances with encrypted volumes.
    "ec2-launch" => Ec2Launch,
    /// Lambda functions with encrypted environment variables.
    "lambda" => Lambda,
    /// DynamoDB tables under a customer managed key.
    "dynamodb" => DynamoDb,
    /// Encrypted RDS instances.
    "rds" => Rds,
    /// EFS file systems.
    "efs" => Efs,
    /// S3 Express directory buckets.
    "s3-express" => S3Express,
    /// Redshift warehouses.
    "redshift" => Redshift,
    /// SQS queues with SSE-KMS.
    "sqs" => Sqs,
    /// SNS topics with SSE-KMS.
    "sns" => Sns,
    /// Kinesis data streams with SSE-KMS.
    "kinesis" => Kinesis,
    /// Secrets Manager, with or without a caching client.
    "secrets-manager" => SecretsManager,
    /// Secure strings in the SSM Parameter Store.
    "ssm" => Ssm,
    /// Images in encrypted ECR repositories.
    "ecr" => Ecr,
    /// Kubernetes secrets in EKS.
    "eks" => Eks,
    /// Encrypted CloudWatch log groups.
    "cloudwatch-logs" => CloudwatchLogs,
    /// An application with the AWS Encryption SDK.
    "encryption-sdk" => EncryptionSdk,
    /// … and with its hierarchical keyring.
    "hierarchical-keyring" => HierarchicalKeyring,
    /// An application with the S3 Encryption Client.
    "s3-encryption-client" => S3EncryptionClient,

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

/// What a report says about a service besides its requests. Empty where there is nothing to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrative {
    /// What went on working during the faults, and why.
    pub kept_working: String,
    /// What outlives the outage.
    pub lasting_damage: String,
    /// What is lost for good.
    pub lost: Vec<Counted>,
    /// What waits for a human at the end of the run.
    pub manual: Vec<Counted>,
}

/// A running service model.
pub struct ServiceHandle {
    settings: ServiceSettings,
    desk: Rc<Desk>,
    model: Rc<dyn Model>,
    arrivals: JoinHandle<()>,
}

/// What distinguishes one kind of service from another, besides its parameters.
trait Service: Parameters {
    fn check(&self) -> Result<(), SettingsError> {
        self.ranges().done()
    }
    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model>;
    fn kept_working(&self, during: &WindowTally) -> String;
    /// What outlives the outage, besides what is counted as lost or left to do.
    fn lasting_damage(&self, _stats: &ServiceStats, _aftermath: &Aftermath) -> String {
        String::new()
    }
    fn assumptions(&self) -> Vec<String>;
    /// Whether what its users see comes to them through an AWS SDK, which may try again.
    fn users_call_it_by_sdk(&self) -> bool {
        true
    }
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
    /// Counts what is lost by now, for models that reckon it up only when they look.
    fn settle(&self) {}
}

impl ServiceSettings {
    /// What calls KMS in a scenario that names no service: one of each of seven kinds with default parameters, which make
    /// 100 to 150 KMS calls per second.
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
        let service = self.service();
        service.check()?;
        if service.load().sdk_attempts_max > 1 && !service.users_call_it_by_sdk() {
            let problem =
                "has no effect: its users come by no AWS SDK that would try again; remove it".into();
            return Err(SettingsError { kind: self.name(), key: "sdk_attempts_max", problem });
        }
        Ok(())
    }

    /// The modelling assumptions behind this service, such as `MA-D15: S3 keeps a bucket key for 300 s …`.
    pub fn assumptions(&self) -> Vec<String> {
        let mut assumptions = self.service().assumptions();
        let load = self.service().load();
        assumptions.push(match load.kms_attempts_max {
            3 => {
                "MA-D3: services try a KMS call that ends in 500 or throttling 3 times in all, as AWS SDKs do"
                    .into()
            }
            n => format!(
                "MA-D3: {}: a KMS call that ends in 500 or throttling is tried {n} times in all",
                self.title()
            ),
        });
        if self.service().users_call_it_by_sdk() {
            assumptions.push(match load.sdk_attempts_max {
                1 => "MA-D13: users' SDKs do not try a request again that a service has failed".into(),
                n => format!(
                    "MA-D13: {}: its users' SDKs try a request {n} times in all that ends in HTTP 5xx or throttling",
                    self.title()
                ),
            });
        }
        for (answer, shown, usual) in [
            ("400 for the key store (MA-D1)", load.on_400, ShownAs::InvalidState),
            ("500 (MA-D4)", load.on_500, ShownAs::Internal),
            ("throttling (MA-D4)", load.on_throttle, ShownAs::Throttled),
        ] {
            if shown != usual {
                assumptions.push(format!("{}: KMS's {answer} shows as {}", self.title(), shown.in_words()));
            }
        }
        if self.represents() > 1 {
            assumptions.push(format!(
                "{}: each simulated request stands for {}; caches meet the simulated ones alone, and so hold fewer keys when a \
                 fault begins than they would under the whole load",
                self.title(),
                words::count(u64::from(self.represents()))
            ));
        }
        assumptions
    }

    /// Requests of its users per second.
    pub fn rate_per_s(&self) -> f64 {
        self.service().load().rate_per_s
    }

    /// How many callers one simulated caller stands for.
    pub fn represents(&self) -> u32 {
        self.service().load().represents
    }

    /// The story of a finished run, from what happened in it: `stats` folded from this service's events and the
    /// `aftermath` its handle tells of.
    pub fn narrative(&self, stats: &ServiceStats, aftermath: Aftermath) -> Narrative {
        let service = self.service();
        let stats = stats.times(u64::from(self.represents()));
        Narrative {
            kept_working: stats.during_faults().map(|tally| service.kept_working(&tally)).unwrap_or_default(),
            lasting_damage: service.lasting_damage(&stats, &aftermath),
            lost: aftermath.lost,
            manual: aftermath.manual,
        }
    }
}

impl ServiceHandle {
    /// In words: `S3 with Bucket Keys`.
    pub fn title(&self) -> &'static str {
        self.settings.title()
    }

    /// What the run has left behind at this service so far.
    pub fn aftermath(&self) -> Aftermath {
        self.model.settle();
        self.desk.aftermath()
    }

    /// [`ServiceSettings::narrative`] with this run's aftermath.
    pub fn narrative(&self, stats: &ServiceStats) -> Narrative {
        self.settings.narrative(stats, self.aftermath())
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
    let load = service.load();
    let again = Rc::new(RefCell::new(draws.split()));
    let desk = Rc::new(Desk::new(
        context.index,
        context.kms,
        context.recorder,
        jitter,
        context.until,
        service.load(),
    ));
    let model = service.model(desk.clone(), &mut draws);
    let sdk = (load.sdk_attempts_max > 1 && service.users_call_it_by_sdk())
        .then(|| Rc::new(Retry::new(draws.split(), load.sdk_attempts_max)));
    tokio::task::spawn_local(create_resources(desk.clone(), model.clone()));
    let arrivals = tokio::task::spawn_local(arrive(desk.clone(), model.clone(), load, arrivals, sdk, again));
    ServiceHandle { settings: settings.clone(), desk, model, arrivals }
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
async fn arrive(
    desk: Rc<Desk>,
    model: Rc<dyn Model>,
    load: Load,
    mut draws: Draws,
    sdk: Option<Rc<Retry>>,
    again: Rc<RefCell<Draws>>,
) {
    let begun = Instant::now();
    let open_for = desk.open_for();
    // Arrivals expected until the next one: it is linear in time at full rate, quadratic while the rate grows.
    let mut expected = 0.0;
    let ramp_up_s = f64::from(load.ramp_up_s);
    loop {
        expected += draws.exponential() / load.rate_per_s;
        let next_s = if expected < ramp_up_s / 2.0 {
            (2.0 * ramp_up_s * expected).sqrt()
        } else {
            expected + ramp_up_s / 2.0
        };
        let next = Duration::from_secs_f64(next_s);
        if next >= open_for {
            return;
        }
        sleep_until(begun + next).await;
        let first = model.clone().request(&mut draws);
        let first = match &sdk {
            None => first,
            Some(sdk) => Box::pin(by_sdk(model.clone(), sdk.clone(), first, again.clone())),
        };
        let work = match load.caller_attempts {
            1 => first,
            _ => Box::pin(insist(model.clone(), load, first, sdk.clone(), again.clone())),
        };
        let desk = desk.clone();
        tokio::task::spawn_local(async move { desk.perform(work).await });
    }
}

/// A request whose caller's own software tries again, each time with one like it: what the object or table is does not
/// matter to the outcome, and drawing it anew keeps the model small.
async fn insist(
    model: Rc<dyn Model>,
    load: Load,
    first: Work,
    sdk: Option<Rc<Retry>>,
    again: Rc<RefCell<Draws>>,
) -> ServiceOutcome {
    let pause = Duration::from_millis(u64::from(load.caller_pause_ms));
    let mut work = first;
    let mut made = 1;
    loop {
        let outcome = work.await;
        if made >= load.caller_attempts || !matches!(outcome, ServiceOutcome::Failed { .. }) {
            return outcome;
        }
        made += 1;
        let wait = pause.mul_f64(0.5 + again.borrow_mut().unit());
        sleep(wait).await;
        work = model.clone().request(&mut again.borrow_mut());
        if let Some(sdk) = &sdk {
            work = Box::pin(by_sdk(model.clone(), sdk.clone(), work, again.clone()));
        }
    }
}

/// A request that its caller's AWS SDK tries again where the service's error says that it may succeed, each time with one like it.
async fn by_sdk(
    model: Rc<dyn Model>,
    sdk: Rc<Retry>,
    first: Work,
    again: Rc<RefCell<Draws>>,
) -> ServiceOutcome {
    let (mut work, mut made, mut give_back, mut kms_attempts) = (first, 1, AT_FIRST, 0);
    loop {
        let (visible, kms) = match work.await {
            ServiceOutcome::Failed { visible, kms, attempts } => {
                kms_attempts += attempts;
                (visible, kms)
            }
            served => {
                sdk.succeeded(give_back);
                return served;
            }
        };
        let Some(cost) = sdk.pause(made, price_of_visible(visible)).await else {
            return ServiceOutcome::Failed { visible, kms, attempts: kms_attempts };
        };
        (made, give_back) = (made + 1, cost);
        work = model.clone().request(&mut again.borrow_mut());
    }
}
