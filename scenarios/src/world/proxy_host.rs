//! A machine with the proxy on it: the process, and how it is started, stopped, starved and told of new credentials.

use crate::environment::SimulatedEnv;
use crate::gauges::Gauges;
use crate::hsm_link::HsmDoors;
use crate::invariants::ADMITTED_PRINCIPALS;
use crate::net::tcp::Network;
use crate::processor::{BusyListener, Processor};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use xks_proxy::app::{App, KeyStore, Limits, Settings};
use xks_proxy::authorise::{Pattern, Rule};
use xks_proxy::events::Subscriber;
use xks_proxy::hsm::Hsm;
use xks_proxy::hsm::group::{GroupSettings, HsmGroup, Member};
use xks_proxy::hsm::monitored::{MonitorSettings, Monitored};
use xks_proxy::key::UriPrefix;
use xks_proxy::secret::Secret;
use xks_proxy::sigv4::Credential;
use xks_proxy::tls::ServerTls;

/// An access key id with its secret access key. They guard nothing but the simulation.
pub(super) type KeyPair = (String, String);

/// A machine with the proxy on it.
pub(super) struct ProxyHost {
    pub(super) index: usize,
    pub(super) network: Network,
    /// The HSMs it uses; a process that starts knows nothing yet of their health.
    pub(super) hsms: HsmDoors,
    pub(super) limits: Limits,
    pub(super) env: Arc<SimulatedEnv>,
    pub(super) subscriber: Arc<dyn Subscriber>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) tls: Option<Arc<ServerTls>>,
    /// `None` models no processor.
    pub(super) processor: Option<Arc<Processor>>,
    /// What its configuration file says: the credentials it accepts.
    pub(super) credentials: RefCell<Vec<KeyPair>>,
    pub(super) running: RefCell<Option<Process>>,
    /// Faults that keep the process down; it is started again when the last of them ends.
    pub(super) held_down: Cell<u32>,
}

/// The running process.
pub(super) struct Process {
    task: JoinHandle<()>,
    app: Arc<App>,
    hsm: Arc<dyn Hsm>,
    /// The background checks of its HSMs; they end with it.
    _watches: JoinSet<()>,
    /// Taken when the process is asked to stop.
    terminate: Option<oneshot::Sender<()>>,
}

impl ProxyHost {
    /// Starts the process. One that is still draining is ended first, as a supervisor does.
    pub(super) fn start(&self) -> Result<(), String> {
        self.kill();
        let (hsm, watches) = self.hsm()?;
        let settings = Settings { limits: self.limits.clone(), ..Settings::default() };
        let env: Arc<dyn xks_proxy::env::Env> = Arc::clone(&self.env) as _;
        let stores = vec![self.key_store(Arc::clone(&hsm))?];
        let app = App::new(settings, stores, env, Arc::clone(&self.subscriber))
            .map_err(|error| error.to_string())?;
        let app = Arc::new(app);
        self.gauges.runs(self.index, &app);
        let (terminate, terminated) = oneshot::channel::<()>();
        let stop = async {
            // A dropped sender is a request to stop as well.
            let _ = terminated.await;
        };
        let (listener, serving, tls) = (self.network.listen(self.index), Arc::clone(&app), self.tls.clone());
        let task = match &self.processor {
            Some(processor) => {
                let listener = BusyListener { listener, processor: Arc::clone(processor) };
                tokio::task::spawn_local(xks_proxy::server::serve(listener, serving, tls, stop))
            }
            None => tokio::task::spawn_local(xks_proxy::server::serve(listener, serving, tls, stop)),
        };
        let terminate = Some(terminate);
        *self.running.borrow_mut() = Some(Process { task, app, hsm, _watches: watches, terminate });
        Ok(())
    }

    fn key_store(&self, hsm: Arc<dyn Hsm>) -> Result<KeyStore, String> {
        let credential = |(id, secret): &KeyPair| {
            Credential::new(id, Secret::new(secret.clone())).map_err(|error| error.to_string())
        };
        let credentials = self.credentials.borrow().iter().map(credential).collect::<Result<_, _>>()?;
        let prefix = UriPrefix::parse(super::PREFIX).map_err(|error| error.to_string())?;
        let mut store = KeyStore::new("example", prefix, credentials, hsm);
        store.region = Some(super::REGION.into());
        store.access.rules = vec![Rule {
            name: "example-account".into(),
            principal_arns: vec![Pattern::new(format!("{ADMITTED_PRINCIPALS}*"))],
            ..Rule::default()
        }];
        Ok(store)
    }

    /// Its configuration names other credentials, and a running process reads it anew, as on SIGHUP.
    pub(super) fn accept(&self, credentials: &[KeyPair]) -> Result<(), String> {
        *self.credentials.borrow_mut() = credentials.to_vec();
        let running = self.running.borrow();
        let Some(process) = running.as_ref() else { return Ok(()) };
        let store = self.key_store(Arc::clone(&process.hsm))?;
        process.app.replace_stores(vec![store]).map_err(|error| error.to_string())
    }

    /// Its only HSM as it is, or several as the daemon has them: each watched, all in one group.
    fn hsm(&self) -> Result<(Arc<dyn Hsm>, JoinSet<()>), String> {
        let mut watches = JoinSet::new();
        let hsms = self.hsms.open()?;
        if let [only] = hsms.as_slice() {
            return Ok((Arc::clone(only), watches));
        }
        let settings = MonitorSettings { deadline: self.limits.deadline, ..MonitorSettings::default() };
        let mut members = Vec::with_capacity(hsms.len());
        for (index, hsm) in hsms.iter().enumerate() {
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
    pub(super) fn crash(&self) {
        self.held_down.update(|faults| faults + 1);
        self.kill();
    }

    /// The process is asked to stop: it drains and ends.
    pub(super) fn stop(&self) {
        self.held_down.update(|faults| faults + 1);
        if let Some(process) = self.running.borrow_mut().as_mut()
            && let Some(terminate) = process.terminate.take()
        {
            // It may have ended by itself.
            let _ = terminate.send(());
        }
    }

    /// A fault that kept the process down is over. True when no other does, so that it can be started.
    pub(super) fn release(&self) -> bool {
        self.held_down.update(|faults| faults.saturating_sub(1));
        self.held_down.get() == 0
    }
}
