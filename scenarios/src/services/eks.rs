//! EKS, envelope encryption of Kubernetes secrets (KMS v2): API servers hold the seed of the data keys, so secrets can be read
//! as long as a server runs; they may be written only while the health probe has succeeded in the last three minutes, and a
//! server that restarts does not come up without KMS (downstream-services 5.5; MA-D31).

use super::desk::{Aftermath, Desk};
use super::draws::Draws;
use super::settings::{ROLES, settings};
use super::stats::{ServiceStats, WindowTally, join};
use super::words::clock;
use super::{Model, Service, Work};
use crate::kms::{Caller, CiphertextBlob, KmsException, KmsFailure, KmsOperation};
use crate::trace::ServiceOutcome;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

settings! {
    /// `kind = "eks"`. Clients read and write secrets at one of the cluster's API servers. Each server's KMS plug-in probes the key
    /// (Encrypt and Decrypt), which is all the traffic of a healthy cluster.
    Eks, "eks", "EKS secrets";
    /// Reads and writes of secrets per second; above 0 to 100,000; default 20.
    rate_per_s = 20.0;
    /// Share of writes among them; 0 to 1; default 0.1.
    write_share: f64 = 0.1, share();
    /// API servers of the cluster; 1 to 16; default 2.
    api_servers: u32 = 2, count(1..=16);
    /// Seconds between two probes of a server's plug-in; 1 to 86,400; default 30.
    probe_every_s: u64 = 30, seconds();
    /// Seconds between the API server's looks at the probe while it is healthy; 1 to 86,400; default 60.
    status_poll_s: u64 = 60, seconds();
    /// Seconds a server may write with its seed after the last healthy status; 1 to 86,400; default 180.
    write_seed_valid_s: u64 = 180, seconds();
    /// Seconds between two restarts of an API server, on average; 3,600 to 31,536,000 (365 days); default 2,592,000 (30 days).
    /// Not published.
    restart_every_s: u64 = 2_592_000, seconds_in(3_600..=31_536_000);
    /// Whether EKS raises the health issue `KmsKeyDisabled` for a key store outage as it does for a disabled key (MA-D31);
    /// default false.
    raise_health_issue: bool = false, any();
    /// Seconds of an unusable key after which the control plane may not come back; 1 to 2,678,400; default 2,592,000 (30
    /// days, documented).
    recoverable_s: u64 = 2_592_000, seconds_in(1..=2_678_400);
}

/// What a write sees while the seed is stale: the API server's own error, with the plug-in's cause.
const STALE_SEED: &str = "Internal error (500): secrets: KMS plug-in is not healthy";
const NO_SERVER: &str = "connection refused: API server cannot start";
const HEALTH_ISSUE: &str = "health issue KmsKeyDisabled";
const DOWN: &str = "API server cannot start";
const UNRECOVERABLE: &str = "clusters whose key stayed away too long and that may not come back";
const VIA: &str = "eks.us-east-1.amazonaws.com";

impl Service for Eks {
    // Users talk to the API server, not to AWS.
    fn users_call_it_by_sdk(&self) -> bool {
        false
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        let probe_every = Duration::from_secs(self.probe_every_s);
        let servers = (0..self.api_servers).map(|_| ApiServer::default());
        let cluster = Rc::new(Cluster {
            caller: desk.caller(ROLES[0], VIA),
            servers: servers.collect(),
            lost_since: Cell::new(None),
            issue_raised: Cell::new(false),
            unrecoverable: Cell::new(false),
            settings: self.clone(),
            desk,
        });
        for number in 0..cluster.servers.len() {
            // The servers do not probe in the same second.
            let first = probe_every.mul_f64(draws.unit());
            tokio::task::spawn_local(cluster.clone().probe(number, first));
            tokio::task::spawn_local(cluster.clone().restart_now_and_then(number, draws.split()));
        }
        cluster
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        let why = format!(
            "an API server keeps the seed of its data keys while it runs, and writes with it for {} s after the last healthy \
             probe",
            self.write_seed_valid_s
        );
        join(&[during.in_general(), during.held_sentence("reads and writes of secrets", &why)])
    }

    fn lasting_damage(&self, _stats: &ServiceStats, aftermath: &Aftermath) -> String {
        let down = aftermath.became(DOWN).map_or_else(String::new, |(_, first)| {
            format!(
                "An API server that restarted at {} could not start until KMS answered again.",
                clock(first)
            )
        });
        let issue = aftermath.became(HEALTH_ISSUE).map_or_else(String::new, |(_, first)| {
            format!("The cluster had the health issue KmsKeyDisabled from {} on.", clock(first))
        });
        join(&[down, issue])
    }

    fn assumptions(&self) -> Vec<String> {
        let raised = if self.raise_health_issue { "KmsKeyDisabled" } else { "no health issue" };
        vec![
            format!("MA-D31: EKS raises {raised} for an outage of the key store"),
            format!(
                "EKS: an API server restarts every {} s on average (not published)",
                self.restart_every_s
            ),
        ]
    }
}

struct Cluster {
    settings: Eks,
    desk: Rc<Desk>,
    caller: Caller,
    servers: Vec<ApiServer>,
    /// Since when probes have failed, without one success.
    lost_since: Cell<Option<Duration>>,
    /// EKS has raised a health issue since then.
    issue_raised: Cell<bool>,
    unrecoverable: Cell<bool>,
}

#[derive(Default)]
struct ApiServer {
    /// The encrypted seed; the server has started.
    seed: RefCell<Option<CiphertextBlob>>,
    /// When it last saw a healthy status.
    healthy_at: Cell<Duration>,
    healthy: Cell<bool>,
    /// What the latest probe met.
    failure: RefCell<Option<KmsFailure>>,
    /// It has been restarted and cannot start.
    down: Cell<bool>,
}

impl Cluster {
    /// The server's plug-in: Encrypt and Decrypt. The server sees a healthy status at its next poll, which is late by up to one
    /// period; after an unhealthy one it looks every 10 s and so sees each probe.
    async fn probe(self: Rc<Self>, number: usize, first: Duration) {
        let every = Duration::from_secs(self.settings.probe_every_s);
        let poll = Duration::from_secs(self.settings.status_poll_s);
        tokio::time::sleep(first).await;
        while !self.desk.closed() {
            let probed = self.desk.encrypt_and_decrypt(KmsOperation::Encrypt, &self.caller).await.result;
            let now = self.desk.now();
            let server = &self.servers[number];
            match probed {
                Ok(seed) => {
                    self.lost_since.set(None);
                    self.issue_raised.set(false);
                    server.failure.replace(None);
                    let due = !server.healthy.get() || now >= server.healthy_at.get() + poll;
                    if due {
                        server.healthy_at.set(now);
                        server.healthy.set(true);
                    }
                    server.down.set(false);
                    if server.seed.borrow().is_none() {
                        server.seed.replace(Some(seed));
                    }
                }
                Err(failure) => {
                    server.healthy.set(false);
                    self.count_days(now, failure.exception);
                    server.failure.replace(Some(failure));
                }
            }
            tokio::time::sleep(every).await;
        }
    }

    /// A probe has failed: how long has the key been away?
    fn count_days(&self, now: Duration, exception: KmsException) {
        let since = self.lost_since.get().unwrap_or(now);
        self.lost_since.set(Some(since));
        // An outage shows as HTTP 500 first (kms-behaviour 7.2), which says nothing of the key.
        let tells_of_the_key = exception == KmsException::Disabled
            || self.settings.raise_health_issue && exception == KmsException::KmsInvalidState;
        if tells_of_the_key && !self.issue_raised.replace(true) {
            self.desk.record_damage(0, HEALTH_ISSUE);
        }
        if now >= since + Duration::from_secs(self.settings.recoverable_s)
            && !self.unrecoverable.replace(true)
        {
            self.desk.lose(UNRECOVERABLE, 1, now);
        }
    }

    async fn restart_now_and_then(self: Rc<Self>, number: usize, mut draws: Draws) {
        let mean = Duration::from_secs(self.settings.restart_every_s);
        loop {
            tokio::time::sleep(mean.mul_f64(draws.exponential())).await;
            if self.desk.closed() {
                return;
            }
            let server = &self.servers[number];
            let Some(seed) = server.seed.borrow().clone() else { continue };
            if self.desk.decrypt(&seed, &self.caller).await.result.is_err() {
                // It comes up with the first probe that succeeds.
                server.down.set(true);
                self.desk.record_damage(number, DOWN);
            }
        }
    }

    fn serve(&self, number: usize, writes: bool) -> ServiceOutcome {
        let server = &self.servers[number];
        let kms = || server.failure.borrow().clone();
        let valid = Duration::from_secs(self.settings.write_seed_valid_s);
        if server.down.get() {
            ServiceOutcome::Failed { visible: NO_SERVER, kms: kms(), attempts: 0 }
        } else if writes && self.desk.now() > server.healthy_at.get() + valid {
            ServiceOutcome::Failed { visible: STALE_SEED, kms: kms(), attempts: 0 }
        } else {
            ServiceOutcome::ServedByHeldKey
        }
    }
}

impl Model for Cluster {
    fn resources(&self) -> usize {
        0
    }

    fn create(self: Rc<Self>, number: usize) -> Work {
        Box::pin(async move { self.serve(number, false) })
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let number = draws.below(self.servers.len());
        let writes = draws.unit() < self.settings.write_share;
        Box::pin(async move { self.serve(number, writes) })
    }
}
