//! How full the proxies and the HSMs are over time: requests in flight and waiting, sessions busy and waiting.
//!
//! Place on the map: [`world`](crate::world) puts a [`Gate`] between each proxy and the watcher of its audit events. The
//! gauges are read whenever a proxy has ended a request; they change nothing, draw nothing, and emit no event. Requests in
//! flight only become fewer when one ends, so what is read there is the most there has been; the HSMs keep their own peak
//! between two readings.

use crate::clock::Clock;
use crate::processor::Processor;
use crate::result::QueueResult;
use sim_hsm::Control;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use xks_proxy::app::App;
use xks_proxy::events::{AuditEvent, Subscriber};

/// The gauges of one run. Every series has one entry per bucket: the most at any one proxy, or at any one HSM.
pub struct Gauges {
    clock: Clock,
    bucket: Duration,
    limits: Limits,
    state: Mutex<State>,
}

/// What the queues can hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests in flight at one proxy.
    pub in_flight_max: usize,
    /// Operations that one HSM works on at once.
    pub parallel_max: usize,
    /// Sessions of one HSM.
    pub sessions_max: usize,
}

struct State {
    /// The process that runs on each host.
    proxies: Vec<Weak<App>>,
    processors: Vec<Option<Arc<Processor>>>,
    hsms: Vec<Control>,
    in_flight: Vec<u64>,
    waiting: Vec<u64>,
    hsm_running: Vec<u64>,
    hsm_queued: Vec<u64>,
}

impl Gauges {
    /// Gauges at all zero for a run of so many buckets. `processors` has one entry for each proxy host.
    pub fn new(
        clock: Clock,
        (bucket, buckets): (Duration, usize),
        limits: Limits,
        processors: Vec<Option<Arc<Processor>>>,
        hsms: Vec<Control>,
    ) -> Self {
        let zeros = || vec![0; buckets];
        let state = State {
            proxies: processors.iter().map(|_| Weak::new()).collect(),
            processors,
            hsms,
            in_flight: zeros(),
            waiting: zeros(),
            hsm_running: zeros(),
            hsm_queued: zeros(),
        };
        Self { clock, bucket, limits, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process runs on host `proxy` from now on.
    pub fn runs(&self, proxy: usize, app: &Arc<App>) {
        if let Some(place) = self.state().proxies.get_mut(proxy) {
            *place = Arc::downgrade(app);
        }
    }

    /// Reads everything. `leaving` is the proxy at which an authenticated request has just ended and is counted still.
    fn read(&self, leaving: Option<usize>) {
        let bucket = crate::recording::index(self.clock.now(), self.bucket);
        let mut state = self.state();
        let state = &mut *state;
        let most = |series: &mut Vec<u64>, value: usize| {
            if let Some(slot) = series.get_mut(bucket) {
                *slot = (*slot).max(value as u64);
            }
        };
        for (index, proxy) in state.proxies.iter().enumerate() {
            if let Some(app) = proxy.upgrade() {
                let own = usize::from(leaving == Some(index));
                most(&mut state.in_flight, app.admission.in_flight() + own);
            }
        }
        for processor in state.processors.iter().flatten() {
            most(&mut state.waiting, processor.waiting());
        }
        for hsm in &state.hsms {
            let peak = hsm.take_peak();
            most(&mut state.hsm_running, peak.running);
            most(&mut state.hsm_queued, peak.queued);
        }
    }

    /// The series, which begin anew.
    pub fn finish(&self) -> QueueResult {
        let mut state = self.state();
        QueueResult {
            in_flight_max: self.limits.in_flight_max as u64,
            hsm_parallel_max: self.limits.parallel_max as u64,
            hsm_sessions_max: self.limits.sessions_max as u64,
            in_flight: std::mem::take(&mut state.in_flight),
            waiting: std::mem::take(&mut state.waiting),
            hsm_running: std::mem::take(&mut state.hsm_running),
            hsm_queued: std::mem::take(&mut state.hsm_queued),
        }
    }
}

/// Stands between one proxy and whoever reads its audit events, and reads the gauges at each.
pub struct Gate {
    /// Number of the proxy, from 0.
    pub proxy: usize,
    /// What it reads.
    pub gauges: Arc<Gauges>,
    /// Who gets the event.
    pub behind: Arc<dyn Subscriber>,
}

impl Subscriber for Gate {
    fn audit(&self, event: &AuditEvent) {
        // What is authenticated has been let in, and has just given its place back.
        self.gauges.read(event.access_key_id.is_some().then_some(self.proxy));
        self.behind.audit(event);
    }
}
