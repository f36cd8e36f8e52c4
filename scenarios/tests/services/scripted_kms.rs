//! A scripted KMS on a paused clock, and one or more services that call it.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use scenarios::kms::{Caller, CiphertextBlob, KmsApi, KmsException, KmsFailure, KmsOperation, LocalFuture};
use scenarios::services::{
    Counted, Damage, Narrative, ServiceContext, ServiceHandle, ServiceSettings, ServiceStats, start,
};
use scenarios::trace::{Event, KmsEvent, Recorder, ServiceEvent, ServiceOutcome};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::Instant;

/// What KMS does to calls that come in during a fault.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    Fails(KmsException),
    /// Every so-many-th call fails.
    FailsEvery(u64, KmsException),
    Slow(Duration),
}

/// From one second of the run up to another.
pub(crate) type Script = [(Range<u64>, Fault)];

pub(crate) const DOWN: Fault = Fault::Fails(KmsException::KmsInvalidState);

struct World {
    begun: Instant,
    events: RefCell<Vec<Event>>,
}

impl Recorder for World {
    fn emit(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }
}

struct ScriptedKms {
    world: Rc<World>,
    script: Vec<(Range<u64>, Fault)>,
    calls: Cell<u64>,
}

/// How long a KMS call takes without a fault.
pub(crate) const CALL_TAKES: Duration = Duration::from_millis(5);

impl ScriptedKms {
    async fn answer(&self, operation: KmsOperation, caller: &Caller) -> Result<(), KmsFailure> {
        let at = self.world.now();
        self.calls.set(self.calls.get() + 1);
        let fault = self.script.iter().find(|(during, _)| during.contains(&at.as_secs()));
        let failure = |exception| Some(KmsFailure { exception, message: "as scripted".into(), row: 14 });
        let (takes, failure) = match fault.map(|(_, fault)| *fault) {
            Some(Fault::Fails(exception)) => (CALL_TAKES, failure(exception)),
            Some(Fault::FailsEvery(n, exception)) if self.calls.get().is_multiple_of(n) => {
                (CALL_TAKES, failure(exception))
            }
            Some(Fault::FailsEvery(..)) | None => (CALL_TAKES, None),
            Some(Fault::Slow(takes)) => (takes, None),
        };
        tokio::time::sleep(takes).await;
        let took = self.world.now() - at;
        let service = caller.service;
        self.world.emit(Event::Kms(KmsEvent { service, operation, at, took, failure: failure.clone() }));
        failure.map_or(Ok(()), Err)
    }
}

const BLOB: &[u8] = b"wrapped data key";

impl KmsApi for ScriptedKms {
    fn encrypt<'a>(
        &'a self,
        operation: KmsOperation,
        caller: &'a Caller,
    ) -> LocalFuture<'a, Result<CiphertextBlob, KmsFailure>> {
        Box::pin(async move {
            assert_ne!(operation, KmsOperation::Decrypt);
            self.answer(operation, caller).await?;
            Ok(CiphertextBlob(BLOB.into()))
        })
    }

    fn decrypt<'a>(
        &'a self,
        blob: &'a CiphertextBlob,
        caller: &'a Caller,
    ) -> LocalFuture<'a, Result<(), KmsFailure>> {
        Box::pin(async move {
            assert_eq!(&*blob.0, BLOB);
            self.answer(KmsOperation::Decrypt, caller).await
        })
    }
}

/// A finished run of one service.
pub(crate) struct Run {
    pub(crate) requests: Vec<ServiceEvent>,
    pub(crate) calls: Vec<KmsEvent>,
    pub(crate) damage: Vec<Damage>,
    pub(crate) narrative: Narrative,
}

pub(crate) fn run(settings: ServiceSettings, seed: u64, until_s: u64, script: &Script) -> Run {
    run_fleet(&[settings], seed, until_s, script).remove(0)
}

pub(crate) fn run_fleet(fleet: &[ServiceSettings], seed: u64, until_s: u64, script: &Script) -> Vec<Run> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let world = Rc::new(World { begun: Instant::now(), events: RefCell::default() });
        let kms: Rc<dyn KmsApi> =
            Rc::new(ScriptedKms { world: world.clone(), script: script.to_vec(), calls: Cell::new(0) });
        let mut handles = Vec::new();
        for (index, settings) in fleet.iter().enumerate() {
            settings.check().unwrap();
            let mut random = ChaCha20Rng::seed_from_u64(seed);
            random.set_stream(index as u64);
            let (kms, recorder) = (kms.clone(), world.clone());
            let until = Duration::from_secs(until_s);
            handles.push(start(settings, ServiceContext { index, kms, recorder, random, until }));
        }
        for handle in &mut handles {
            handle.finished().await;
        }
        handles.iter().enumerate().map(|(index, handle)| collect(&world, index, script, handle)).collect()
    })
}

fn collect(world: &World, index: usize, script: &Script, handle: &ServiceHandle) -> Run {
    let windows: Vec<_> =
        script.iter().map(|(f, _)| (Duration::from_secs(f.start), Duration::from_secs(f.end))).collect();
    let mut stats = ServiceStats::new(&windows);
    let (mut requests, mut calls) = (Vec::new(), Vec::new());
    for event in world.events.borrow().iter() {
        match event {
            Event::Service(event) if event.service == index => {
                stats.record(event);
                requests.push(event.clone());
            }
            Event::Kms(event) if event.service == index => calls.push(event.clone()),
            _ => {}
        }
    }
    Run { requests, calls, damage: handle.aftermath().damage, narrative: handle.narrative(&stats) }
}

impl Run {
    pub(crate) fn during(&self, s: Range<u64>) -> impl Iterator<Item = &ServiceEvent> {
        self.requests.iter().filter(move |request| s.contains(&request.at.as_secs()))
    }

    pub(crate) fn count(&self, s: Range<u64>, outcome: impl Fn(&ServiceOutcome) -> bool) -> usize {
        self.during(s).filter(|request| outcome(&request.outcome)).count()
    }

    /// What users saw who came during these seconds, and the KMS calls made for each.
    pub(crate) fn failures(&self, s: Range<u64>) -> Vec<(&'static str, u32)> {
        self.during(s).filter_map(|request| visible(&request.outcome)).collect()
    }

    pub(crate) fn failed(&self, s: Range<u64>) -> usize {
        self.failures(s).len()
    }

    pub(crate) fn first_failure(&self) -> Duration {
        self.requests.iter().filter(|r| visible(&r.outcome).is_some()).map(|r| r.at).min().unwrap()
    }

    /// What became of resources in this way, and when.
    pub(crate) fn became(&self, what: &str) -> Vec<Duration> {
        self.damage.iter().filter(|damage| damage.what == what).map(|damage| damage.at).collect()
    }

    /// How much of what contains these words is lost for good, and when the first of it.
    pub(crate) fn lost(&self, words: &str) -> Option<(u64, Duration)> {
        find(&self.narrative.lost, words)
    }

    /// How much of what contains these words waits for a human.
    pub(crate) fn manual(&self, words: &str) -> u64 {
        find(&self.narrative.manual, words).map_or(0, |(count, _)| count)
    }

    pub(crate) fn calls_during(&self, s: Range<u64>) -> usize {
        self.calls.iter().filter(|call| s.contains(&call.at.as_secs())).count()
    }
}

fn find(counted: &[Counted], words: &str) -> Option<(u64, Duration)> {
    counted.iter().find(|it| it.what.contains(words)).map(|it| (it.count, it.first_at))
}

pub(crate) fn visible(outcome: &ServiceOutcome) -> Option<(&'static str, u32)> {
    match outcome {
        ServiceOutcome::Failed { visible, attempts, .. } => Some((visible, *attempts)),
        _ => None,
    }
}

pub(crate) fn cached(outcome: &ServiceOutcome) -> bool {
    *outcome == ServiceOutcome::ServedFromCache
}

pub(crate) fn held(outcome: &ServiceOutcome) -> bool {
    *outcome == ServiceOutcome::ServedByHeldKey
}

pub(crate) fn by_kms(outcome: &ServiceOutcome) -> bool {
    *outcome == ServiceOutcome::ServedByKms
}
