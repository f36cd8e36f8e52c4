//! The world of one run: proxies (the real core), HSMs, network, KMS and its callers, and the faults that befall them.
//!
//! Place on the map: built from a [`Scenario`] by [`live`], which runs it to its end in virtual time. The proxy cannot
//! tell that it is simulated: its four doors (listener, `tokio::time`, `Env`, `Hsm`) are all it has.

use crate::balancer::Balancer;
use crate::clock::Clock;
use crate::environment::SimulatedEnv;
use crate::fault::{Fault, FaultKind};
use crate::intruder::{Target, intrude};
use crate::invariants::{AuditWatch, X8, X9, check_hsm_limits};
use crate::kms::client::Dial;
use crate::kms::model::{Doors, KmsModel, RegisteredKey, RegisteredKeyStore};
use crate::kms::violations::Violations;
use crate::kms::{Caller, CiphertextBlob, KmsApi, KmsOperation};
use crate::net::fault::{LinkFault, LinkFaultId, Ways};
use crate::net::link::{Link, LinkSettings};
use crate::net::tcp::Network;
use crate::recording::{Finished, Recording};
use crate::scenario::{Scenario, TlsVersion};
use crate::services::{self, Narrative, ServiceContext};
use crate::simulated_tls::SimulatedTls;
use crate::streams::Streams;
use crate::trace::{Event, Recorder};
use sim_hsm::{
    Capacity, Configuration, Control, Engine, FaultPlan, IvLedger, KeySpecification, ServiceTime,
    ServiceTimes, SimHsm,
};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use xks_proxy::app::{App, KeyStore, Limits, Settings};
use xks_proxy::env::UnixTime;
use xks_proxy::events::Subscriber;
use xks_proxy::hsm::Hsm;
use xks_proxy::hsm::group::{GroupSettings, HsmGroup, Member};
use xks_proxy::hsm::monitored::{MonitorSettings, Monitored};
use xks_proxy::key::{API_ROOT, UriPrefix};
use xks_proxy::secret::Secret;
use xks_proxy::sigv4::Credential;

/// The external key of the simulated key store.
pub const KEY_ID: &str = "example-key";
const REGION: &str = "us-east-1";
const ENDPOINT: &str = "xks-proxy.example.com";
const PREFIX: &str = "/example";
const ACCESS_KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";
/// Known to everybody: it guards nothing but the simulation.
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEYEXAMPLE";
/// Blobs from all over the run that are decrypted at its end (X9).
const KEPT_BLOBS_MAX: u64 = 200;
/// How long after the end the last requests may take.
const AFTERMATH_MAX: Duration = Duration::from_secs(120);

/// Makes the cryptographic engine behind HSM `index`; `None` for the emulated one.
pub type EngineMaker = Box<dyn Fn(usize) -> Result<Box<dyn Engine>, String>>;

/// Puts something between a proxy and its HSM.
pub type HsmWrapper = Box<dyn Fn(Arc<dyn Hsm>) -> Arc<dyn Hsm>>;

/// Puts something between KMS and the endpoint it connects to.
pub type DialWrapper = Box<dyn Fn(Rc<dyn Dial>) -> Rc<dyn Dial>>;

/// How a run is to be made.
pub struct Options {
    /// The seed of every random stream.
    pub seed: u64,
    /// Keep the lines of the trace, for a determinism check.
    pub keep_lines: bool,
    /// A real PKCS#11 library behind each HSM.
    pub engine: Option<EngineMaker>,
    /// Told how much simulated time has passed, a hundred times a run.
    pub progress: Option<Box<dyn Fn(Duration)>>,
    /// Stands between each proxy and its HSM; a test plants its defects here.
    pub hsm_wrapper: Option<HsmWrapper>,
    /// Stands between KMS and the load balancer; a test plants its defects on the wire here.
    pub dial_wrapper: Option<DialWrapper>,
}

impl Options {
    /// A plain run.
    pub fn new(seed: u64) -> Self {
        Self { seed, keep_lines: false, engine: None, progress: None, hsm_wrapper: None, dial_wrapper: None }
    }
}

/// What is left of a world.
pub struct Remains {
    /// Figures and digest.
    pub finished: Finished,
    /// What each service's story says in words, and its modelling assumptions.
    pub narratives: Vec<Narrative>,
    /// The invariants.
    pub violations: Rc<Violations>,
}

/// Runs the scenario from the first second to the last answer.
///
/// # Errors
/// When the world cannot be built: a setting that the parts refuse, a PKCS#11 module that does not open.
pub async fn live(clock: Clock, scenario: &Scenario, options: &Options) -> Result<Remains, String> {
    let streams = Streams::new(options.seed);
    let violations = Rc::new(Violations::default());
    let fault_spans: Vec<(Duration, Duration)> =
        scenario.faults.iter().map(|fault| (fault.from, fault.to.unwrap_or(scenario.duration))).collect();
    let recording = Rc::new(
        Recording::new(
            clock.clone(),
            scenario.services.len(),
            scenario.duration,
            fault_spans,
            options.keep_lines,
        )
        .map_err(|error| error.to_string())?,
    );
    let network = Network::new(clock.clone());
    let ledger = IvLedger::new();
    let hsms = build_hsms(&clock, scenario, options, &ledger)?;
    let deadline = Duration::from_secs_f64(scenario.proxy.deadline_ms / 1_000.0);
    let watch = Arc::new(AuditWatch::new(clock.clone(), deadline, SECRET.to_owned()));
    let server_env = Arc::new(SimulatedEnv::new(clock.clone(), streams.stream("environment", 0)));
    let tls = match scenario.topology.tls {
        TlsVersion::Off => None,
        version => Some(SimulatedTls::new(ENDPOINT, version, &server_env)?),
    };
    let proxies: Vec<Rc<ProxyHost>> = (0..scenario.topology.proxies)
        .map(|index| {
            let members = (index..index + scenario.topology.hsms_per_proxy).map(|number| {
                let hsm: Arc<dyn Hsm> = Arc::new(hsms[number % hsms.len()].0.clone());
                options.hsm_wrapper.as_ref().map_or_else(|| Arc::clone(&hsm), |wrap| wrap(Arc::clone(&hsm)))
            });
            let index_stream = u64::try_from(index).unwrap_or(0) + 1;
            let host = Rc::new(ProxyHost {
                index,
                network: network.clone(),
                hsms: members.collect(),
                limits: Limits {
                    deadline,
                    in_flight_max: scenario.proxy.in_flight_max,
                    connections_max: scenario.proxy.connections_max,
                    ..Limits::default()
                },
                env: Arc::new(SimulatedEnv::new(clock.clone(), streams.stream("environment", index_stream))),
                subscriber: Arc::clone(&watch) as Arc<dyn Subscriber>,
                tls: tls.as_ref().map(|tls| Arc::clone(&tls.server)),
                running: RefCell::new(None),
                held_down: Cell::new(0),
            });
            host.start().map(|()| host)
        })
        .collect::<Result<_, _>>()?;
    let links = |name: &str, settings: &LinkSettings| -> Vec<Link> {
        (0..proxies.len())
            .map(|index| Link::new(settings.clone(), streams.stream(name, index as u64)))
            .collect()
    };
    let paths = links("network", &scenario.link.settings());
    // The load balancer stands beside its proxies.
    let check_paths = links("load-balancer", &LinkSettings::fixed(Duration::from_millis(1)));
    let balancer = Rc::new(Balancer::new(network.clone(), paths.clone(), check_paths.clone()));
    balancer.start_checks(&scenario.load_balancer);
    let dial: Rc<dyn Dial> = balancer;
    let dial = options.dial_wrapper.as_ref().map_or_else(|| Rc::clone(&dial), |wrap| wrap(Rc::clone(&dial)));

    let intruder = tokio::task::spawn_local(intrude(
        clock.clone(),
        Rc::clone(&dial),
        tls.as_ref().map(|tls| tls.client.clone()),
        Target {
            host: ENDPOINT,
            path: format!("{PREFIX}{API_ROOT}/keys/{KEY_ID}/encrypt"),
            region: REGION,
            access_key_id: ACCESS_KEY_ID,
            duration: scenario.duration,
        },
        Secret::new(SECRET.into()),
        Rc::clone(&violations),
        streams.stream("intruder", 0),
    ));
    let kms = KmsModel::new(
        scenario.kms.clone(),
        RegisteredKeyStore {
            endpoint_host: ENDPOINT.into(),
            uri_prefix: PREFIX.into(),
            region: REGION.into(),
            access_key_id: ACCESS_KEY_ID.into(),
            secret: Secret::new(SECRET.into()),
            keys: vec![RegisteredKey {
                external_key_id: KEY_ID.into(),
                kms_key_arn: "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
                    .into(),
            }],
        },
        Doors {
            dial,
            tls: tls.as_ref().map(|tls| tls.client.clone()),
            clock: Rc::new(|_host: usize, at: Duration| UnixTime(crate::environment::RUN_BEGINS + at)),
            recorder: Rc::clone(&recording) as Rc<dyn Recorder>,
            violations: Rc::clone(&violations),
        },
        streams.stream("kms", 0),
    )?;
    let health_poll = kms.spawn_health_poll();

    let mut handles: Vec<_> = scenario
        .services
        .iter()
        .enumerate()
        .map(|(index, settings)| {
            services::start(
                settings,
                ServiceContext {
                    index,
                    kms: Rc::clone(&kms) as Rc<dyn KmsApi>,
                    recorder: Rc::clone(&recording) as Rc<dyn Recorder>,
                    random: streams.stream("workload", index as u64),
                    until: scenario.duration,
                },
            )
        })
        .collect();

    let stage = Rc::new(Stage {
        hsms: hsms.iter().map(|(_, control)| control.clone()).collect(),
        proxies,
        paths,
        check_paths,
    });
    let mut faults = Vec::with_capacity(scenario.faults.len());
    for (index, fault) in scenario.faults.iter().enumerate() {
        let (clock, stage, fault) = (clock.clone(), Rc::clone(&stage), fault.clone());
        let (recording, figures_closed) = (Rc::clone(&recording), Rc::new(Notify::new()));
        let lift = Rc::clone(&figures_closed);
        let task = tokio::task::spawn_local(async move {
            clock.sleep_until(fault.from).await;
            recording.emit(Event::Fault { at: clock.now(), index, begins: true });
            let begun = stage.begin(&fault)?;
            match fault.to {
                Some(to) => {
                    clock.sleep_until(to).await;
                    recording.emit(Event::Fault { at: clock.now(), index, begins: false });
                }
                // It outlasts the figures, and is lifted only to see what can still be decrypted (X9).
                None => figures_closed.notified().await,
            }
            stage.end(begun)
        });
        faults.push((task, lift));
    }
    let keeper = tokio::task::spawn_local(keep_blobs(clock.clone(), Rc::clone(&kms), scenario.duration));

    for step in 1..=100_u32 {
        clock.sleep_until(scenario.duration * step / 100).await;
        if let Some(progress) = &options.progress {
            progress(clock.now());
        }
    }
    let answered = async {
        for handle in &mut handles {
            handle.finished().await;
        }
    };
    // Whatever is still open after that is open for ever; its requests are counted as never answered.
    let _ = tokio::time::timeout(AFTERMATH_MAX, answered).await;
    let finished = recording.finish(scenario.kms.patience());

    // X9: the figures are closed; now every fault is over, and everything gets time to heal.
    for (task, lift) in faults {
        lift.notify_one();
        task.await.map_err(|error| error.to_string())??;
    }
    clock.sleep(AFTERMATH_MAX).await;
    stage.paths.iter().for_each(Link::lose_nothing);
    let kept = keeper.await.map_err(|error| error.to_string())?;
    check_still_decryptable(&clock, &kms, kept, &violations).await;
    drop(health_poll);
    intruder.abort();
    watch.report(&violations);
    for (index, (_, control)) in hsms.iter().enumerate() {
        let limits = (scenario.hsm.parallel_max, scenario.hsm.sessions_max);
        check_hsm_limits(&violations, clock.now(), index, &control.counters(), limits);
    }
    let repeats = ledger.repeats();
    let violation =
        repeats.first().map(|(key, _)| format!("{} IVs used twice, first under {key}", repeats.len()));
    violations.check_many(X8, ledger.encryptions(), violation.map(|text| (clock.now(), text)));

    let narratives = handles
        .iter()
        .zip(&finished.services)
        .map(|(handle, figures)| handle.narrative(&figures.stats))
        .collect();
    Ok(Remains { finished, narratives, violations })
}

/// Not one of the scenario's services: its calls are in no figure.
const KEEPER: Caller = Caller {
    service: usize::MAX,
    principal_arn: "arn:aws:iam::111122223333:role/archive",
    via_service: None,
};

/// Encrypts something now and then, so that X9 has something from every phase of the run to look at.
async fn keep_blobs(clock: Clock, kms: Rc<KmsModel>, duration: Duration) -> Vec<(Duration, CiphertextBlob)> {
    let interval = (duration / u32::try_from(KEPT_BLOBS_MAX).unwrap_or(u32::MAX)).max(Duration::from_secs(1));
    let mut kept = Vec::new();
    let mut next = interval / 2;
    while next < duration {
        clock.sleep_until(next).await;
        if let Ok(blob) = kms.encrypt(KmsOperation::Encrypt, &KEEPER).await {
            kept.push((next, blob));
        }
        next = (next + interval).max(clock.now());
    }
    kept
}

/// Further attempts at decrypting in the check of X9, all blobs together.
const DECRYPT_AGAIN_MAX: u32 = 1_000;

/// X9. Every fault has ended, those without an end of their own with the run. A refusal of the ciphertext is a
/// violation at once; whatever else may go wrong on an ordinary day (an HSM too slow for the deadline, the quota) is
/// tried again, and only a world that does not come back breaks the promise.
async fn check_still_decryptable(
    clock: &Clock,
    kms: &KmsModel,
    kept: Vec<(Duration, CiphertextBlob)>,
    violations: &Violations,
) {
    let mut again = DECRYPT_AGAIN_MAX;
    for (made_at, blob) in kept {
        let violation = loop {
            let Err(failure) = kms.decrypt(&blob, &KEEPER).await else { break None };
            if again == 0 || REFUSED_DATA_ROWS.contains(&failure.row) {
                break Some(format!(
                    "what was encrypted at {:.3} s does not decrypt at the end: {} {}",
                    made_at.as_secs_f64(),
                    failure.exception.as_str(),
                    failure.message
                ));
            }
            again -= 1;
            clock.sleep(Duration::from_secs(1)).await;
        };
        violations.check(X9, clock.now(), violation);
    }
}

/// Rows 3, 4 and 17 of the failure table: the proxy or KMS's inner layer refuses the data, or the answer makes no sense.
const REFUSED_DATA_ROWS: [u8; 3] = [3, 4, 17];

fn build_hsms(
    clock: &Clock,
    scenario: &Scenario,
    options: &Options,
    ledger: &IvLedger,
) -> Result<Vec<(SimHsm, Control)>, String> {
    let timer: Arc<dyn sim_hsm::Timer> = Arc::new(clock.clone());
    let operation = ServiceTime::Lognormal {
        median: Duration::from_secs_f64(scenario.hsm.service_ms / 1_000.0),
        sigma: scenario.hsm.service_sigma,
    };
    (0..scenario.topology.hsms)
        .map(|index| {
            let configuration = Configuration {
                name: format!("hsm-{index}"),
                seed: options.seed,
                stream: index as u64,
                keys: vec![KeySpecification::aes_256(KEY_ID)],
                capacity: Capacity {
                    parallel_max: scenario.hsm.parallel_max,
                    sessions_max: scenario.hsm.sessions_max,
                    queue_max: scenario.hsm.sessions_max,
                    service_times: ServiceTimes {
                        // Attributes are read once and cached by a proxy over PKCS#11.
                        describe: ServiceTime::ZERO,
                        encrypt: operation,
                        decrypt: operation,
                    },
                    ..Capacity::default()
                },
                faults: FaultPlan::quiet(),
                ledger: Some(ledger.clone()),
                ..Configuration::default()
            };
            match &options.engine {
                None => Ok(SimHsm::new(configuration, Arc::clone(&timer))),
                Some(make) => Ok(SimHsm::with_engine(configuration, make(index)?, Arc::clone(&timer))),
            }
        })
        .collect()
}

/// A machine with the proxy on it.
struct ProxyHost {
    index: usize,
    network: Network,
    /// The HSMs it uses; a process that starts knows nothing yet of their health.
    hsms: Vec<Arc<dyn Hsm>>,
    limits: Limits,
    env: Arc<SimulatedEnv>,
    subscriber: Arc<dyn Subscriber>,
    tls: Option<Arc<rustls::ServerConfig>>,
    running: RefCell<Option<Process>>,
    /// Faults that keep the process down; it is started again when the last of them ends.
    held_down: Cell<u32>,
}

struct Process {
    task: JoinHandle<()>,
    /// The background checks of its HSMs; they end with it.
    _watches: JoinSet<()>,
    /// Taken when the process is asked to stop.
    terminate: Option<oneshot::Sender<()>>,
}

impl ProxyHost {
    /// Starts the process. One that is still draining is ended first, as a supervisor does.
    fn start(&self) -> Result<(), String> {
        self.kill();
        let credential =
            Credential::new(ACCESS_KEY_ID, Secret::new(SECRET.into())).map_err(|error| error.to_string())?;
        let prefix = UriPrefix::parse(PREFIX).map_err(|error| error.to_string())?;
        let (hsm, watches) = self.hsm()?;
        let mut store = KeyStore::new("example", prefix, vec![credential], hsm);
        store.region = Some(REGION.into());
        let settings = Settings { limits: self.limits.clone(), ..Settings::default() };
        let env: Arc<dyn xks_proxy::env::Env> = Arc::clone(&self.env) as _;
        let app = App::new(settings, vec![store], env, Arc::clone(&self.subscriber))
            .map_err(|error| error.to_string())?;
        let (terminate, terminated) = oneshot::channel::<()>();
        let serve = xks_proxy::server::serve(
            self.network.listen(self.index),
            Arc::new(app),
            self.tls.clone().map(xks_proxy::tls::ServerTls::new),
            async {
                // A dropped sender is a request to stop as well.
                let _ = terminated.await;
            },
        );
        let task = tokio::task::spawn_local(serve);
        *self.running.borrow_mut() = Some(Process { task, _watches: watches, terminate: Some(terminate) });
        Ok(())
    }

    /// Its only HSM as it is, or several as the daemon has them: each watched, all in one group.
    fn hsm(&self) -> Result<(Arc<dyn Hsm>, JoinSet<()>), String> {
        let mut watches = JoinSet::new();
        if let [only] = self.hsms.as_slice() {
            return Ok((Arc::clone(only), watches));
        }
        let settings = MonitorSettings { deadline: self.limits.deadline, ..MonitorSettings::default() };
        let mut members = Vec::with_capacity(self.hsms.len());
        for (index, hsm) in self.hsms.iter().enumerate() {
            let name = format!("member-{index}");
            let monitor = Arc::new(Monitored::new(name.clone(), Arc::clone(hsm), settings));
            members.push(Member::monitored(name, Arc::clone(&monitor)));
            watches.spawn_local(async move { monitor.watch().await });
        }
        let group = HsmGroup::new(members, GroupSettings::default()).map_err(|error| error.to_string())?;
        Ok((Arc::new(group), watches))
    }

    fn kill(&self) {
        if let Some(process) = self.running.borrow_mut().take() {
            process.task.abort();
        }
    }

    /// The process dies at once, even in the middle of draining; its kernel closes its sockets.
    fn crash(&self) {
        self.held_down.update(|faults| faults + 1);
        self.kill();
    }

    /// The process is asked to stop: it drains and ends.
    fn stop(&self) {
        self.held_down.update(|faults| faults + 1);
        if let Some(process) = self.running.borrow_mut().as_mut()
            && let Some(terminate) = process.terminate.take()
        {
            // It may have ended by itself.
            let _ = terminate.send(());
        }
    }

    /// A fault that kept the process down is over.
    fn release(&self) -> Result<(), String> {
        self.held_down.update(|faults| faults.saturating_sub(1));
        if self.held_down.get() == 0 { self.start() } else { Ok(()) }
    }
}

/// What faults act on.
struct Stage {
    hsms: Vec<Control>,
    proxies: Vec<Rc<ProxyHost>>,
    paths: Vec<Link>,
    check_paths: Vec<Link>,
}

/// A fault that has begun, and what has to be undone.
enum Begun {
    Hsms(Vec<(usize, sim_hsm::FaultId)>),
    Links(Vec<(Link, LinkFaultId)>),
    Stopped(Vec<usize>),
}

impl Begun {
    fn on_links(links: Vec<Link>, fault: LinkFault) -> Self {
        Self::Links(links.into_iter().map(|link| (link.clone(), link.begin(fault))).collect())
    }
}

impl Stage {
    fn begin(&self, fault: &Fault) -> Result<Begun, String> {
        let on_hsms = |which: &[usize], fault: sim_hsm::Fault| {
            let begun: Result<Vec<_>, String> = which
                .iter()
                .filter_map(|index| self.hsms.get(*index).map(|control| (*index, control)))
                .map(|(index, control)| {
                    control.begin(fault).map(|id| (index, id)).map_err(|error| error.to_string())
                })
                .collect();
            begun.map(Begun::Hsms)
        };
        match &fault.kind {
            FaultKind::HsmDown { hsms } => on_hsms(hsms, sim_hsm::Fault::Down),
            FaultKind::HsmSlow { hsms, factor } => on_hsms(hsms, sim_hsm::Fault::Slow { factor: *factor }),
            FaultKind::HsmError { hsms, ckr, rate, .. } => {
                on_hsms(hsms, sim_hsm::Fault::Error { ckr: *ckr, rate: *rate })
            }
            FaultKind::HsmHang { hsms } => on_hsms(hsms, sim_hsm::Fault::Hang),
            FaultKind::Partition { proxies } => {
                Ok(Begun::on_links(self.links(proxies), LinkFault::Cut(Ways::Both)))
            }
            FaultKind::Latency { proxies, extra } => {
                let links = proxies.iter().filter_map(|index| self.paths.get(*index).cloned()).collect();
                Ok(Begun::on_links(links, LinkFault::Delay { ways: Ways::Both, extra: *extra / 2 }))
            }
            FaultKind::ProxyCrash { proxies } => {
                self.proxies(proxies).for_each(|proxy| proxy.crash());
                Ok(Begun::Stopped(proxies.clone()))
            }
            FaultKind::KillSwitch => {
                self.proxies.iter().for_each(|proxy| proxy.stop());
                Ok(Begun::Stopped((0..self.proxies.len()).collect()))
            }
        }
    }

    fn end(&self, begun: Begun) -> Result<(), String> {
        match begun {
            Begun::Hsms(faults) => {
                for (index, id) in faults {
                    if let Some(control) = self.hsms.get(index) {
                        control.end(id);
                    }
                }
            }
            Begun::Links(faults) => faults.iter().for_each(|(link, id)| link.end(*id)),
            Begun::Stopped(proxies) => {
                for proxy in self.proxies(&proxies) {
                    proxy.release()?;
                }
            }
        }
        Ok(())
    }

    fn proxies<'a>(&'a self, which: &'a [usize]) -> impl Iterator<Item = &'a Rc<ProxyHost>> {
        which.iter().filter_map(|index| self.proxies.get(*index))
    }

    /// A partition from every proxy lies between KMS and the load balancer, which still reaches them; one from some
    /// of them lies behind it, so that its checks fail too.
    fn links(&self, proxies: &[usize]) -> Vec<Link> {
        let mut links: Vec<Link> =
            proxies.iter().filter_map(|index| self.paths.get(*index).cloned()).collect();
        if proxies.len() < self.paths.len() {
            links.extend(proxies.iter().filter_map(|index| self.check_paths.get(*index).cloned()));
        }
        links
    }
}
