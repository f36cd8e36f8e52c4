//! The world of one run: proxies (the real core), HSMs, network, KMS and its callers, and the faults that befall them.
//!
//! Place on the map: built from a [`Scenario`] by [`live`], which runs it to its end in virtual time. The proxy cannot
//! tell that it is simulated: its four doors (listener, `tokio::time`, `Env`, `Hsm`) are all it has.

mod aftermath;
mod credentials;
mod door;
mod hsms;
mod proxy_host;
mod stage;

use crate::balancer::Balancer;
use crate::clock::Clock;
use crate::environment::SimulatedEnv;
use crate::fault::{Fault, FaultKind, HsmFault};
use crate::gauges::{self, Gate, Gauges};
use crate::hsm_link::{HsmDoors, HsmLinks};
use crate::intruder::{MARKED_PLAINTEXT, Target, intrude};
use crate::invariants::{AuditWatch, X8, check_hsm_limits};
use crate::kms::client::Dial;
use crate::kms::cloudwatch::CloudWatch;
use crate::kms::lifecycle::{ConnectionErrorCode, ConnectionState};
use crate::kms::model::{Doors, KmsModel, RegisteredKey, RegisteredKeyStore};
use crate::kms::violations::Violations;
use crate::kms::{KmsApi, KmsOperation};
use crate::net::capture::{Capture, CaptureFile, CaptureSettings, CaptureSummary};
use crate::net::link::{Link, LinkSettings};
use crate::net::tcp::Network;
use crate::observer::Observer;
use crate::processor::Processor;
use crate::recording::{Finished, Recording, bucket_for, buckets_in};
use crate::result::{QueueResult, SampleRequest};
use crate::samples::Sampler;
use crate::scenario::{Scenario, TlsVersion};
use crate::services::{self, Narrative, ServiceContext, ServiceHandle};
use crate::simulated_tls::{Serving, SimulatedTls};
use crate::stages::{StageBook, WatchedProxy, WatchedRecorder};
use crate::streams::Streams;
use crate::trace::{Event, Recorder};
use aftermath::{check_resumes, check_still_decryptable, keep_blobs};
use base64::Engine as _;
use credentials::Credentials;
use door::{Door, Watch};
use proxy_host::ProxyHost;
use sim_hsm::{Engine, IvLedger, SimHsm};
use stage::{Holds, Stage};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use xks_proxy::app::Limits;
use xks_proxy::env::UnixTime;
use xks_proxy::events::{Several, Subscriber};
use xks_proxy::hsm::Hsm;
use xks_proxy::key::API_ROOT;
use xks_proxy::secret::Secret;

/// The external key of the simulated key store.
pub const KEY_ID: &str = "example-key";
const REGION: &str = "us-east-1";
const ENDPOINT: &str = "xks-proxy.example.com";
const PREFIX: &str = "/example";
const ACCESS_KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";
/// Known to everybody: it guards nothing but the simulation.
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEYEXAMPLE";
/// Parts of a run between which progress is told and an interruption heeded.
const STEPS: u32 = 100;
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
    /// Look at every event; nothing depends on them.
    pub observers: Vec<Rc<RefCell<dyn Observer>>>,
    /// A real PKCS#11 library behind each HSM.
    pub engine: Option<EngineMaker>,
    /// Told how much simulated time has passed, a hundred times a run.
    pub progress: Option<Box<dyn Fn(Duration)>>,
    /// Set by somebody who wants the run to end early: it stops at the next hundredth, with the figures so far.
    pub interrupted: Arc<AtomicBool>,
    /// Told where each proxy call spends its time, beside the run.
    pub stages: Option<Arc<StageBook>>,
    /// Look at single requests from near, for the report.
    pub samples: bool,
    /// Stands between each proxy and its HSM, on the HSM's side of a network; a test plants its defects here.
    pub hsm_wrapper: Option<HsmWrapper>,
    /// What the proxies keep to instead of the scenario's `deadline_ms`; a test plants proxies here that are late.
    pub proxy_deadline: Option<Duration>,
    /// Stands between KMS and the load balancer; a test plants its defects on the wire here.
    pub dial_wrapper: Option<DialWrapper>,
    /// Where the packets of the simulated network are written down.
    pub capture: Option<CaptureFile>,
}

impl Options {
    /// A plain run.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            keep_lines: false,
            observers: Vec::new(),
            engine: None,
            progress: None,
            interrupted: Arc::default(),
            stages: None,
            samples: false,
            hsm_wrapper: None,
            proxy_deadline: None,
            dial_wrapper: None,
            capture: None,
        }
    }

    /// An HSM's data door with what is to stand between it and its callers.
    fn wrap(&self, hsm: &SimHsm, watch: &Arc<Watch>) -> Arc<dyn Hsm> {
        let hsm: Arc<dyn Hsm> = Arc::new(hsm.clone());
        let inner = self.hsm_wrapper.as_ref().map_or_else(|| Arc::clone(&hsm), |wrap| wrap(Arc::clone(&hsm)));
        Arc::new(Door { inner, watch: Arc::clone(watch) })
    }
}

/// What is left of a world.
pub struct Remains {
    /// Figures and digest.
    pub finished: Finished,
    /// How full the proxies and the HSMs were.
    pub queues: QueueResult,
    /// What each service's story says in words, and its modelling assumptions.
    pub narratives: Vec<Narrative>,
    /// When somebody ended the run early.
    pub interrupted_at: Option<Duration>,
    /// The invariants.
    pub violations: Rc<Violations>,
    /// What CloudWatch showed of the key store when the figures were closed.
    pub cloudwatch: CloudWatch,
    /// The key store's connection at that moment.
    pub connection: (ConnectionState, Option<ConnectionErrorCode>),
    /// What came of [`Options::capture`].
    pub capture: Option<CaptureSummary>,
    /// What came of [`Options::samples`], for each service.
    pub samples: Vec<Vec<SampleRequest>>,
}

/// Who is told of a proxy's audit events.
fn subscriber(
    watch: &Arc<AuditWatch>,
    book: Option<&Arc<StageBook>>,
    clock: &Clock,
    processor: Option<&Arc<Processor>>,
) -> Arc<dyn Subscriber> {
    let Some(book) = book else { return Arc::clone(watch) as Arc<dyn Subscriber> };
    if let Some(processor) = processor {
        processor.watch();
    }
    let (book, processor) = (Arc::clone(book), processor.cloned());
    Arc::new(Several(vec![
        Arc::clone(watch) as Arc<dyn Subscriber>,
        Arc::new(WatchedProxy { book, clock: clock.clone(), processor }),
    ]))
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
            scenario.settle,
            options.keep_lines,
        )
        .map_err(|error| error.to_string())?,
    );
    recording.show(&options.observers);
    let latest = || Arc::new(StageBook::latest_only());
    let book = options.stages.clone().or_else(|| options.samples.then(latest));
    let sampler = book.as_ref().filter(|_| options.samples).map(|book| {
        let sampler = Rc::new(RefCell::new(Sampler::new(Arc::clone(book), scenario.services.len())));
        recording.show(&[Rc::clone(&sampler) as _]);
        sampler
    });
    let samples = || sampler.as_ref().map_or_else(Vec::new, |sampler| sampler.borrow_mut().take());
    let capture = begin_capture(&clock, scenario, options)?;
    let network = match &capture {
        Some(capture) => Network::new(clock.clone()).captured_by(capture.clone()),
        None => Network::new(clock.clone()),
    };
    let ledger = IvLedger::new();
    let hsms = hsms::build(&clock, scenario, options, &ledger)?;
    let (sessions_max, faults) = (scenario.hsm.sessions_max, &scenario.faults);
    let door_watch = |hsm| Arc::new(Watch::new(clock.clone(), hsm, sessions_max, faults, scenario.duration));
    let doors: Vec<Arc<Watch>> = (0..hsms.len()).map(door_watch).collect();
    let deadline = Duration::from_secs_f64(scenario.proxy.deadline_ms / 1_000.0);
    let watch = Arc::new(AuditWatch::new(clock.clone(), deadline, secrets()));
    let server_env = Arc::new(SimulatedEnv::new(clock.clone(), streams.stream("environment", 0)));
    let tls = match scenario.topology.tls {
        TlsVersion::Off => None,
        version => {
            let days = scenario.proxy.certificate_days;
            let expires = |fault: &&Fault| matches!(fault.kind, FaultKind::CertificateExpired);
            let expiries = scenario.faults.iter().filter(expires).map(|fault| fault.from).collect();
            Some(Arc::new(SimulatedTls::new(ENDPOINT, version, days, &server_env)?.expiring_at(expiries)))
        }
    };
    let microseconds = |us: f64| Duration::from_secs_f64(us / 1e6);
    let hsm_links = scenario.hsm_link.as_ref().map(|settings| {
        let appliance =
            |((hsm, control), watch): (&(SimHsm, _), _)| (options.wrap(hsm, watch), Clone::clone(control));
        let appliances = hsms.iter().zip(&doors).map(appliance).collect();
        let proxies = scenario.topology.proxies;
        Rc::new(HsmLinks::new(&network, &streams, appliances, proxies, sessions_max, settings))
    });
    let processor = || {
        (scenario.proxy.cpu_request_us > 0.0).then(|| {
            Arc::new(Processor::new(
                clock.clone(),
                scenario.proxy.cores,
                microseconds(scenario.proxy.cpu_request_us),
                tls.as_ref().map(|_| microseconds(scenario.proxy.cpu_handshake_us)),
            ))
        })
    };
    let processors: Vec<_> = (0..scenario.topology.proxies).map(|_| processor()).collect();
    let bucket = bucket_for(scenario.duration);
    let gauges = Arc::new(Gauges::new(
        clock.clone(),
        (bucket, buckets_in(scenario.duration, bucket)),
        gauges::Limits {
            in_flight_max: scenario.proxy.in_flight_max,
            parallel_max: scenario.hsm.parallel_max,
            sessions_max: scenario.hsm.sessions_max,
        },
        processors.clone(),
        hsms.iter().map(|(_, control)| control.clone()).collect(),
    ));
    let proxies: Vec<Rc<ProxyHost>> = processors
        .into_iter()
        .enumerate()
        .map(|(index, processor)| {
            let numbers = (index..index + scenario.topology.hsms_per_proxy).map(|number| number % hsms.len());
            let doors = match &hsm_links {
                Some(links) => {
                    HsmDoors::Linked { links: Rc::clone(links), proxy: index, hsms: numbers.collect() }
                }
                None => HsmDoors::Inside(
                    numbers.map(|number| options.wrap(&hsms[number].0, &doors[number])).collect(),
                ),
            };
            let index_stream = u64::try_from(index).unwrap_or(0) + 1;
            let host = Rc::new(ProxyHost {
                index,
                network: network.clone(),
                hsms: doors,
                limits: Limits {
                    deadline: options.proxy_deadline.unwrap_or(deadline),
                    in_flight_max: scenario.proxy.in_flight_max,
                    connections_max: scenario.proxy.connections_max,
                    ..Limits::default()
                },
                env: Arc::new(SimulatedEnv::new(clock.clone(), streams.stream("environment", index_stream))),
                subscriber: Arc::new(Gate {
                    proxy: index,
                    gauges: Arc::clone(&gauges),
                    behind: subscriber(&watch, book.as_ref(), &clock, processor.as_ref()),
                }),
                gauges: Arc::clone(&gauges),
                tls: tls.as_ref().map(|tls| Arc::clone(&tls.server)),
                processor,
                credentials: RefCell::new(vec![credentials::credential(0)]),
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
    let zones = scenario.topology.zones;
    let balancer = Rc::new(Balancer::new(
        network.clone(),
        paths.clone(),
        check_paths.clone(),
        zones,
        scenario.load_balancer.clone(),
    ));
    balancer.start_checks();
    let dial: Rc<dyn Dial> = Rc::clone(&balancer) as _;
    let dial = options.dial_wrapper.as_ref().map_or_else(|| Rc::clone(&dial), |wrap| wrap(Rc::clone(&dial)));

    let credentials = Rc::new(Credentials::default());
    let newest = Rc::clone(&credentials);
    let intruder = tokio::task::spawn_local(intrude(
        clock.clone(),
        Rc::clone(&dial),
        tls.as_ref().map(|tls| tls.client.clone()),
        Target {
            host: ENDPOINT,
            path: format!("{PREFIX}{API_ROOT}/keys/{KEY_ID}/encrypt"),
            region: REGION,
            credential: Box::new(move || {
                let (id, secret) = credentials::credential(newest.newest());
                (id, Secret::new(secret))
            }),
            duration: scenario.duration,
        },
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
            recorder: match &book {
                None => Rc::clone(&recording) as Rc<dyn Recorder>,
                Some(book) => Rc::new(WatchedRecorder {
                    inner: Rc::clone(&recording) as Rc<dyn Recorder>,
                    book: Arc::clone(book),
                }),
            },
            violations: Rc::clone(&violations),
        },
        streams.stream("kms", 0),
    )?;
    if let Some(tls) = &tls {
        kms.set_certificate(Some(tls.not_after(Serving::Good, clock.now())));
    }
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
        clock: clock.clone(),
        streams,
        hsms: hsms.iter().map(|(_, control)| control.clone()).collect(),
        proxies,
        paths,
        check_paths,
        hsm_links: hsm_links.clone(),
        balancer,
        tls: tls.clone(),
        kms: Rc::clone(&kms),
        zones,
        volume_under_own_key: scenario.proxy.volume_under_own_key,
        volume_key: RefCell::new(None),
        key_destroyed: Cell::new(false),
        credentials: Rc::clone(&credentials),
        holds: Holds::default(),
        check_interval: Duration::from_secs_f64(scenario.load_balancer.check_interval_s),
    });
    if scenario.proxy.volume_under_own_key {
        stage.make_volume_key().await;
    }
    let mut faults = Vec::with_capacity(scenario.faults.len());
    for (index, fault) in scenario.faults.iter().enumerate() {
        let (recorder, figures_closed) = (Rc::clone(&recording), Rc::new(Notify::new()));
        let lift = Rc::clone(&figures_closed);
        let announce = move |begins: bool| recorder.emit(Event::Fault { at: recorder.now(), index, begins });
        let lifted = async move { figures_closed.notified().await };
        let acting = Rc::clone(&stage).act(fault.clone(), announce, lifted, index as u64, scenario.duration);
        faults.push((tokio::task::spawn_local(acting), lift));
    }
    // What is watched all through the run, whole or ended early.
    let report_watched = || {
        watch.report(&violations);
        doors.iter().for_each(|door| door.report(&violations));
        for (index, (_, control)) in hsms.iter().enumerate() {
            let limits = (scenario.hsm.parallel_max, scenario.hsm.sessions_max);
            check_hsm_limits(&violations, clock.now(), index, &control.counters(), limits);
        }
        let repeats = ledger.repeats();
        let violation =
            repeats.first().map(|(key, _)| format!("{} IVs used twice, first under {key}", repeats.len()));
        violations.check_many(X8, ledger.encryptions(), violation.map(|text| (clock.now(), text)));
    };
    let keeper = tokio::task::spawn_local(keep_blobs(
        clock.clone(),
        Rc::clone(&kms),
        kept_operation(scenario),
        scenario.duration,
    ));

    for step in 1..=STEPS {
        clock.sleep_until(scenario.duration * step / STEPS).await;
        if let Some(progress) = &options.progress {
            progress(clock.now());
        }
        if options.interrupted.load(Ordering::Relaxed) && step < STEPS {
            let finished = recording.finish(scenario.kms.patience());
            let (narratives, cloudwatch) = (narratives(&handles, &finished), kms.cloudwatch());
            let interrupted_at = Some(clock.now());
            let (queues, capture) = (gauges.finish(), end_capture(capture, options)?);
            report_watched();
            return Ok(Remains {
                finished,
                queues,
                narratives,
                interrupted_at,
                violations,
                cloudwatch,
                connection: kms.connection(),
                capture,
                samples: samples(),
            });
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
    let queues = gauges.finish();
    let (cloudwatch, connection) = (kms.cloudwatch(), kms.connection());
    let samples = samples();
    if let Some(book) = &book {
        book.close();
    }

    // X9: the figures are closed; now every fault is over, and everything gets time to heal.
    for (task, lift) in faults {
        lift.notify_one();
        task.await.map_err(|error| error.to_string())??;
    }
    clock.sleep(AFTERMATH_MAX).await;
    stage.restore_proxies()?;
    // A key store that no connect has connected again is no proxy's fault.
    if scenario.kms.connect_fault.is_some() {
        kms.set_connected(true);
    }
    stage.paths.iter().for_each(Link::lose_nothing);
    hsm_links.iter().flat_map(|links| links.links()).for_each(Link::lose_nothing);
    let kept = keeper.await.map_err(|error| error.to_string())?;
    if !stage.key_destroyed.get() {
        check_resumes(&clock, &kms, &violations).await;
        check_still_decryptable(&clock, &kms, kept, &violations).await;
    }
    drop(health_poll);
    intruder.abort();
    report_watched();

    let narratives = narratives(&handles, &finished);
    let capture = end_capture(capture, options)?;
    Ok(Remains {
        finished,
        queues,
        narratives,
        interrupted_at: None,
        violations,
        cloudwatch,
        connection,
        capture,
        samples,
    })
}

fn begin_capture(clock: &Clock, scenario: &Scenario, options: &Options) -> Result<Option<Capture>, String> {
    let Some(file) = &options.capture else { return Ok(None) };
    let settings = CaptureSettings {
        proxy_port: if scenario.topology.tls == TlsVersion::Off { 80 } else { 443 },
        until: scenario.duration,
        bytes_max: file.bytes_max,
    };
    let begun = (file.open)().and_then(|opened| Capture::new(clock.clone(), opened, settings));
    begun.map(Some).map_err(|error| capture_failed(file, &error))
}

fn end_capture(capture: Option<Capture>, options: &Options) -> Result<Option<CaptureSummary>, String> {
    let (Some(capture), Some(file)) = (capture, &options.capture) else { return Ok(None) };
    capture.finish().map(Some).map_err(|error| capture_failed(file, &error))
}

fn capture_failed(file: &CaptureFile, error: &std::io::Error) -> String {
    format!("cannot write the capture {}: {error}; choose another file with --pcap", file.name)
}

fn narratives(handles: &[ServiceHandle], finished: &Finished) -> Vec<Narrative> {
    handles.iter().zip(&finished.services).map(|(handle, figures)| handle.narrative(&figures.stats)).collect()
}

/// What no event may show: the secret access keys, and the plaintext that the intruder has encrypted.
fn secrets() -> Vec<(&'static str, String)> {
    let marked = MARKED_PLAINTEXT.to_owned();
    let encoded = base64::engine::general_purpose::STANDARD.encode(&marked);
    // Without its end, which depends on what follows in a longer text.
    let encoded = encoded.trim_end_matches('=').chars().rev().skip(1).collect::<Vec<_>>();
    vec![
        ("the secret access key", SECRET.to_owned()),
        ("a later secret access key", credentials::NEXT_SECRETS.to_owned()),
        ("a plaintext", marked),
        ("a plaintext in Base64", encoded.into_iter().rev().collect()),
    ]
}

/// How the keeper encrypts; see [`keep_blobs`].
fn kept_operation(scenario: &Scenario) -> KmsOperation {
    let flips =
        |fault: &Fault| matches!(&fault.kind, FaultKind::Hsm { fault: HsmFault::BitFlips { .. }, .. });
    if scenario.faults.iter().any(flips) { KmsOperation::GenerateDataKey } else { KmsOperation::Encrypt }
}
