//! What the faults of the timeline act on, and how each is brought about and undone.

use super::KEY_ID;
use super::credentials::{Credentials, credential};
use super::proxy_host::ProxyHost;
use crate::balancer::Balancer;
use crate::clock::Clock;
use crate::fault::{Fault, FaultKind, HsmFault, LinkChange, RAMP_STEPS};
use crate::hsm_link::HsmLinks;
use crate::kms::key::PENDING_WINDOW_DAYS;
use crate::kms::lifecycle::ConnectionState;
use crate::kms::model::KmsModel;
use crate::kms::{Caller, CiphertextBlob, KmsApi, KmsFailure, KmsOperation};
use crate::net::fault::{LinkFaultId, Ways};
use crate::net::link::Link;
use crate::simulated_tls::{Serving, SimulatedTls};
use crate::streams::Streams;
use sim_hsm::Control;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use xks_proxy::key::KeyName;
use xks_proxy::secret::Secret;

/// What faults act on.
pub(super) struct Stage {
    pub(super) clock: Clock,
    pub(super) streams: Streams,
    pub(super) hsms: Vec<Control>,
    pub(super) proxies: Vec<Rc<ProxyHost>>,
    pub(super) paths: Vec<Link>,
    pub(super) check_paths: Vec<Link>,
    /// Between the proxies and the HSMs, where there is a network.
    pub(super) hsm_links: Option<Rc<HsmLinks>>,
    pub(super) balancer: Rc<Balancer>,
    pub(super) tls: Option<Arc<SimulatedTls>>,
    pub(super) kms: Rc<KmsModel>,
    pub(super) zones: usize,
    /// The volumes that the proxies run on are encrypted under a key of their own key store.
    pub(super) volume_under_own_key: bool,
    /// The encrypted key of those volumes, made at the beginning.
    pub(super) volume_key: RefCell<Option<CiphertextBlob>>,
    /// The external key has been destroyed: nothing that it encrypted will ever be readable.
    pub(super) key_destroyed: Cell<bool>,
    pub(super) credentials: Rc<Credentials>,
    pub(super) holds: Holds,
    /// From one check of the load balancer to the next.
    pub(super) check_interval: Duration,
}

/// How many faults hold each of the things that can be only one way or the other: the last that ends undoes it.
#[derive(Default)]
pub(super) struct Holds {
    external_key_disabled: Cell<u32>,
    kms_key_disabled: Cell<u32>,
    disconnected: Cell<u32>,
    certificate_expired: Cell<u32>,
    client_certificate_demanded: Cell<u32>,
}

fn hold(holds: &Cell<u32>) {
    holds.update(|faults| faults + 1);
}

/// True when no fault holds it any more.
fn release(holds: &Cell<u32>) -> bool {
    holds.update(|faults| faults.saturating_sub(1));
    holds.get() == 0
}

/// A fault that has begun, and what has to be undone.
pub(super) enum Begun {
    Hsms(Vec<(usize, sim_hsm::FaultId)>),
    Links(Vec<(Link, LinkFaultId)>),
    Dns,
    /// Proxies that are down.
    Stopped(Vec<usize>),
    Starved(Vec<usize>, f64),
    Skewed(Vec<usize>, i64),
    Tls(Serving),
    Task(JoinHandle<Result<(), String>>),
    /// A task to be ended with the fault.
    Load(JoinHandle<()>),
    Rotation {
        task: JoinHandle<Result<(), String>>,
        overlap: bool,
        /// Of the credential that it changes to.
        number: u32,
    },
    ExternalKey,
    KmsKey,
    PendingDeletion,
    Disconnected,
    Zone {
        zone: usize,
        hsms: Vec<(usize, sim_hsm::FaultId)>,
        proxies: Vec<usize>,
        cuts: Vec<(Link, LinkFaultId)>,
    },
    Nothing,
}

/// How long a host waits before it asks again for the key of its own volume.
const VOLUME_RETRY: Duration = Duration::from_secs(30);
/// Requests of a burst that may be open at once.
const BURST_IN_FLIGHT_MAX: u32 = 20_000;
/// From one attempt of an operator at KMS's management API to the next, and how many there are.
const OPERATOR_PAUSE: Duration = Duration::from_secs(10);
const OPERATOR_TRIES_MAX: u32 = 10_000;
/// How long a rolling deploy waits for a target to pass its checks before it goes on all the same.
const HEALTHY_CHECKS_MAX: u32 = 20;

/// Who asks for the keys of the proxies' own volumes.
const VOLUMES: Caller = Caller {
    service: usize::MAX,
    principal_arn: "arn:aws:iam::111122223333:role/proxy-host",
    via_service: Some("ec2.us-east-1.amazonaws.com"),
};
/// Another workload under the same key store.
const NEIGHBOUR: Caller = Caller {
    service: usize::MAX,
    principal_arn: "arn:aws:iam::111122223333:role/nightly-batch",
    via_service: None,
};

impl Stage {
    /// Acts out one fault from its beginning to its end, ramp and all; a fault without an end lasts until `lifted`.
    pub(super) async fn act(
        self: Rc<Self>,
        fault: Fault,
        announce: impl Fn(bool),
        lifted: impl Future<Output = ()>,
        number: u64,
        run_ends: Duration,
    ) -> Result<(), String> {
        self.clock.sleep_until(fault.from).await;
        announce(true);
        let length = fault.to.unwrap_or(run_ends).saturating_sub(fault.from);
        let mut begun = Begun::Nothing;
        let steps = if fault.ramp.is_zero() { 1 } else { RAMP_STEPS };
        for step in 1..=steps {
            self.clock.sleep_until(fault.from + fault.ramp * (step - 1) / steps).await;
            self.end(begun).await?;
            let kind = fault.kind.scaled(f64::from(step) / f64::from(steps));
            begun = self.begin(&kind, length, number)?;
        }
        match fault.to {
            Some(to) => {
                self.clock.sleep_until(to).await;
                announce(false);
            }
            // It outlasts the figures, and is lifted only to see what can still be decrypted (X9).
            None => lifted.await,
        }
        self.end(begun).await
    }

    fn begin(self: &Rc<Self>, kind: &FaultKind, length: Duration, number: u64) -> Result<Begun, String> {
        match kind {
            FaultKind::Hsm { hsms, fault } => self.begin_at_hsms(hsms, fault).map(Begun::Hsms),
            FaultKind::HsmLink { hsms, change } => {
                Ok(Begun::Links(begin_at_links(self.links_to_hsms(hsms), *change)))
            }
            FaultKind::Link { proxies, change } => {
                Ok(Begun::Links(begin_at_links(self.links(proxies, *change), *change)))
            }
            FaultKind::DnsFailure => {
                self.balancer.fail_dns();
                Ok(Begun::Dns)
            }
            FaultKind::ProxyCrash { proxies } => {
                self.proxies(proxies).for_each(|proxy| proxy.crash());
                Ok(Begun::Stopped(proxies.clone()))
            }
            FaultKind::ProxyRestart { proxies } => {
                self.proxies(proxies).for_each(|proxy| proxy.stop());
                Ok(Begun::Stopped(proxies.clone()))
            }
            FaultKind::KillSwitch => {
                self.proxies.iter().for_each(|proxy| proxy.stop());
                Ok(Begun::Stopped((0..self.proxies.len()).collect()))
            }
            FaultKind::RollingDeploy { restart, drain } => {
                let (stage, restart, drain) = (Rc::clone(self), *restart, *drain);
                Ok(Begun::Task(tokio::task::spawn_local(async move { stage.deploy(restart, drain).await })))
            }
            FaultKind::ProxyStarved { proxies, factor } => {
                self.processors(proxies, |processor| processor.starve(*factor));
                Ok(Begun::Starved(proxies.clone(), *factor))
            }
            FaultKind::ClockSkew { proxies, skew_s } => {
                #[expect(clippy::cast_possible_truncation, reason = "at most a day")]
                let skew_ns = (skew_s * 1e9) as i64;
                self.proxies(proxies).for_each(|proxy| proxy.env.skew(skew_ns));
                Ok(Begun::Skewed(proxies.clone(), skew_ns))
            }
            FaultKind::CertificateExpired => Ok(self.begin_to_serve(Serving::Expired)),
            FaultKind::ClientCertificateDemanded => {
                Ok(self.begin_to_serve(Serving::ClientCertificateDemanded))
            }
            FaultKind::CredentialRotation { overlap } => self.rotate(*overlap, length),
            FaultKind::ExternalKeyDisabled => {
                self.each_key(|hsm, key| hsm.set_enabled(key, false))?;
                hold(&self.holds.external_key_disabled);
                Ok(Begun::ExternalKey)
            }
            FaultKind::ExternalKeyDeleted => {
                self.each_key(Control::destroy_key)?;
                self.key_destroyed.set(true);
                Ok(Begun::Nothing)
            }
            FaultKind::KmsKeyDisabled => {
                self.kms.disable_key(0).map_err(|failure| failure.message.into_owned())?;
                hold(&self.holds.kms_key_disabled);
                Ok(Begun::KmsKey)
            }
            FaultKind::KmsKeyPendingDeletion => {
                let window_days = *PENDING_WINDOW_DAYS.end();
                self.kms
                    .schedule_key_deletion(0, window_days)
                    .map_err(|failure| failure.message.into_owned())?;
                Ok(Begun::PendingDeletion)
            }
            FaultKind::KeyStoreDisconnected => {
                hold(&self.holds.disconnected);
                // It may be so already: by another fault, or because it is not yet connected again after one.
                let (state, _) = self.kms.connection();
                if !matches!(state, ConnectionState::Disconnected | ConnectionState::Disconnecting) {
                    self.kms.disconnect().map_err(|failure| failure.message.into_owned())?;
                }
                Ok(Begun::Disconnected)
            }
            FaultKind::QuotaBurst { rate_per_s } => {
                let (stage, rate_per_s) = (Rc::clone(self), *rate_per_s);
                Ok(Begun::Load(tokio::task::spawn_local(
                    async move { stage.burst(rate_per_s, number).await },
                )))
            }
            FaultKind::ZoneLoss { zone } => {
                let in_zone = |count: usize| (0..count).filter(|index| index % self.zones == *zone).collect();
                let (hsms, proxies): (Vec<usize>, Vec<usize>) =
                    (in_zone(self.hsms.len()), in_zone(self.proxies.len()));
                self.balancer.lose_zone(*zone);
                // First of all, so that nobody hears the last words of what dies.
                let cuts = begin_at_links(self.links_of_zone(&proxies, &hsms), LinkChange::Cut(Ways::Both));
                self.proxies(&proxies).for_each(|proxy| proxy.crash());
                let hsms = self.begin_at_hsms(&hsms, &HsmFault::Down)?;
                Ok(Begun::Zone { zone: *zone, hsms, proxies, cuts })
            }
        }
    }

    async fn end(self: &Rc<Self>, begun: Begun) -> Result<(), String> {
        match begun {
            Begun::Nothing => {}
            Begun::Hsms(faults) => self.end_at_hsms(&faults),
            Begun::Links(faults) => end_at_links(&faults),
            Begun::Dns => self.balancer.restore_dns(),
            Begun::Stopped(proxies) => self.start_again(&proxies)?,
            Begun::Starved(proxies, factor) => self.processors(&proxies, |processor| processor.feed(factor)),
            Begun::Skewed(proxies, skew_ns) => {
                self.proxies(&proxies).for_each(|proxy| proxy.env.skew(-skew_ns));
            }
            Begun::Tls(serving) => {
                self.holds_of(serving).map(release);
                self.serve_tls();
            }
            Begun::Task(task) => task.await.map_err(|error| error.to_string())??,
            Begun::Load(task) => task.abort(),
            Begun::Rotation { task, overlap, number } => {
                task.await.map_err(|error| error.to_string())??;
                if !overlap {
                    self.tell_kms(number).await?;
                }
                if !self.is_superseded(number) {
                    self.accept(&[number])?;
                }
            }
            Begun::ExternalKey => {
                if release(&self.holds.external_key_disabled) && !self.key_destroyed.get() {
                    self.each_key(|hsm, key| hsm.set_enabled(key, true))?;
                }
            }
            Begun::KmsKey => {
                if release(&self.holds.kms_key_disabled) {
                    self.kms.enable_key(0).map_err(|failure| failure.message.into_owned())?;
                }
            }
            Begun::PendingDeletion => {
                // The deletion cancelled leaves the key disabled (kms-behaviour 5.3).
                let enabled = self.kms.cancel_key_deletion(0).and_then(|()| self.kms.enable_key(0));
                enabled.map_err(|failure| failure.message.into_owned())?;
            }
            Begun::Disconnected => {
                if release(&self.holds.disconnected) {
                    self.connect_again().await?;
                }
            }
            Begun::Zone { zone, hsms, proxies, cuts } => {
                end_at_links(&cuts);
                self.balancer.restore_zone(zone);
                self.end_at_hsms(&hsms);
                self.start_again(&proxies)?;
            }
        }
        Ok(())
    }

    fn begin_at_hsms(
        &self,
        which: &[usize],
        fault: &HsmFault,
    ) -> Result<Vec<(usize, sim_hsm::FaultId)>, String> {
        let controls = which.iter().filter_map(|index| Some((*index, self.hsms.get(*index)?)));
        controls
            .map(|(index, control)| {
                let id = control.begin(fault.of_device()).map_err(|error| error.to_string())?;
                Ok((index, id))
            })
            .collect()
    }

    fn end_at_hsms(&self, faults: &[(usize, sim_hsm::FaultId)]) {
        for (index, id) in faults {
            if let Some(control) = self.hsms.get(*index) {
                control.end(*id);
            }
        }
    }

    fn each_key(
        &self,
        change: impl Fn(&Control, &KeyName) -> Result<(), xks_proxy::hsm::HsmError>,
    ) -> Result<(), String> {
        let key = KeyName::label(KEY_ID);
        self.hsms.iter().try_for_each(|hsm| change(hsm, &key)).map_err(|error| error.to_string())
    }

    fn proxies<'a>(&'a self, which: &'a [usize]) -> impl Iterator<Item = &'a Rc<ProxyHost>> {
        which.iter().filter_map(|index| self.proxies.get(*index))
    }

    fn processors(&self, which: &[usize], change: impl Fn(&Arc<crate::processor::Processor>)) {
        self.proxies(which).filter_map(|proxy| proxy.processor.as_ref()).for_each(change);
    }

    /// A partition from every proxy lies between KMS and the load balancer, which still reaches them; one from some
    /// of them lies behind it, so that its checks fail too.
    fn links(&self, proxies: &[usize], change: LinkChange) -> Vec<Link> {
        let mut links: Vec<Link> =
            proxies.iter().filter_map(|index| self.paths.get(*index).cloned()).collect();
        let behind = proxies.len() < self.paths.len();
        if behind && matches!(change, LinkChange::Cut(_) | LinkChange::Refused | LinkChange::SynDrop) {
            links.extend(proxies.iter().filter_map(|index| self.check_paths.get(*index).cloned()));
        }
        links
    }

    fn links_to_hsms(&self, hsms: &[usize]) -> Vec<Link> {
        self.hsm_links_where(|_, hsm| hsms.contains(&hsm))
    }

    fn hsm_links_where(&self, wanted: impl Fn(usize, usize) -> bool) -> Vec<Link> {
        let Some(links) = &self.hsm_links else { return Vec::new() };
        let pairs =
            (0..self.proxies.len()).flat_map(|proxy| (0..self.hsms.len()).map(move |hsm| (proxy, hsm)));
        let wanted = pairs.filter(|(proxy, hsm)| wanted(*proxy, *hsm));
        wanted.filter_map(|(proxy, hsm)| links.link(proxy, hsm).cloned()).collect()
    }

    /// Every link with an end at these proxies or HSMs.
    fn links_of_zone(&self, proxies: &[usize], hsms: &[usize]) -> Vec<Link> {
        let at = |links: &[Link], index: &usize| links.get(*index).cloned();
        let fronts = proxies.iter().flat_map(|index| [at(&self.paths, index), at(&self.check_paths, index)]);
        let mut links: Vec<Link> = fronts.flatten().collect();
        links.extend(self.hsm_links_where(|proxy, hsm| proxies.contains(&proxy) || hsms.contains(&hsm)));
        links
    }

    /// What counts the faults that have the proxies serve so.
    fn holds_of(&self, serving: Serving) -> Option<&Cell<u32>> {
        match serving {
            Serving::Good => None,
            Serving::Expired => Some(&self.holds.certificate_expired),
            Serving::ClientCertificateDemanded => Some(&self.holds.client_certificate_demanded),
        }
    }

    fn begin_to_serve(&self, serving: Serving) -> Begun {
        self.holds_of(serving).into_iter().for_each(hold);
        self.serve_tls();
        Begun::Tls(serving)
    }

    /// Serves what the faults that hold say. A client looks at the server's certificate before it shows its own (RFC
    /// 8446, 4.4), so of both faults it meets the expired one.
    fn serve_tls(&self) {
        let Some(tls) = &self.tls else { return };
        let serving = [Serving::Expired, Serving::ClientCertificateDemanded]
            .into_iter()
            .find(|serving| self.holds_of(*serving).is_some_and(|holds| holds.get() > 0))
            .unwrap_or(Serving::Good);
        tls.serve(serving);
        self.kms.set_certificate(Some(tls.not_after(serving, self.clock.now())));
    }

    /// Starts what nothing else keeps down: at once, or as soon as the key of its volume can be had.
    fn start_again(self: &Rc<Self>, which: &[usize]) -> Result<(), String> {
        for proxy in self.proxies(which) {
            if !proxy.release() {
                continue;
            }
            if self.volume_under_own_key {
                let (stage, proxy) = (Rc::clone(self), Rc::clone(proxy));
                tokio::task::spawn_local(async move { stage.start_from_volume(&proxy).await });
            } else {
                proxy.start()?;
            }
        }
        Ok(())
    }

    /// Makes the key of the proxies' volumes, as when they were set up.
    pub(super) async fn make_volume_key(&self) {
        if let Ok(blob) = self.kms.encrypt(KmsOperation::GenerateDataKeyWithoutPlaintext, &VOLUMES).await {
            *self.volume_key.borrow_mut() = Some(blob);
        }
    }

    async fn start_from_volume(&self, proxy: &ProxyHost) {
        loop {
            let blob = self.volume_key.borrow().clone();
            if proxy.held_down.get() > 0 || proxy.running.borrow().is_some() {
                return;
            }
            if let Some(blob) = blob
                && self.kms.decrypt(&blob, &VOLUMES).await.is_ok()
            {
                // A start that fails leaves the host down, as it would.
                let _ = proxy.start();
                return;
            }
            self.clock.sleep(VOLUME_RETRY).await;
        }
    }

    /// Starts every proxy that is down though no fault holds it: somebody restores it from an image that needs no key.
    pub(super) fn restore_proxies(&self) -> Result<(), String> {
        let down = |proxy: &&Rc<ProxyHost>| proxy.held_down.get() == 0 && proxy.running.borrow().is_none();
        self.proxies.iter().filter(down).try_for_each(|proxy| proxy.start())
    }

    /// One proxy after another.
    async fn deploy(self: Rc<Self>, restart: Duration, drain: Duration) -> Result<(), String> {
        for (index, proxy) in self.proxies.iter().enumerate() {
            if !drain.is_zero() {
                self.balancer.deregister(index);
                self.clock.sleep(drain).await;
            }
            proxy.stop();
            self.clock.sleep(restart).await;
            self.start_again(&[index])?;
            if drain.is_zero() {
                continue;
            }
            self.balancer.register(index);
            for _ in 0..HEALTHY_CHECKS_MAX {
                if self.balancer.is_healthy(index) {
                    break;
                }
                self.clock.sleep(self.check_interval).await;
            }
        }
        Ok(())
    }

    /// The proxies accept the credentials of these numbers from now on, and no others.
    fn accept(&self, numbers: &[u32]) -> Result<(), String> {
        let credentials: Vec<_> = numbers.iter().map(|number| credential(*number)).collect();
        self.proxies.iter().try_for_each(|proxy| proxy.accept(&credentials))
    }

    /// Whether a newer rotation has begun.
    fn is_superseded(&self, number: u32) -> bool {
        self.credentials.newest() > number
    }

    /// UpdateCustomKeyStore with the credential of this number, again and again until KMS has checked it with a proxy,
    /// or until a newer rotation has begun: then that one tells KMS.
    async fn tell_kms(&self, number: u32) -> Result<(), String> {
        let (id, secret) = credential(number);
        self.insist(async || {
            if self.is_superseded(number) {
                return Ok(());
            }
            self.kms.update_credential(&id, Secret::new(secret.clone())).await
        })
        .await
    }

    /// ConnectCustomKeyStore, which is refused while the key store is still disconnecting, until it is connected or
    /// another fault disconnects it.
    async fn connect_again(&self) -> Result<(), String> {
        let settled = || self.kms.is_connected() || self.holds.disconnected.get() > 0;
        self.insist(async || if settled() { Ok(()) } else { self.kms.connect() }).await?;
        for _ in 0..OPERATOR_TRIES_MAX {
            if settled() {
                break;
            }
            self.clock.sleep(OPERATOR_PAUSE).await;
        }
        Ok(())
    }

    /// What an operator does whom KMS refuses: the same again a little later.
    async fn insist(&self, mut call: impl AsyncFnMut() -> Result<(), KmsFailure>) -> Result<(), String> {
        let mut tries = 0;
        loop {
            let Err(failure) = call().await else { return Ok(()) };
            tries += 1;
            if tries >= OPERATOR_TRIES_MAX {
                return Err(format!("{}: {}", failure.exception.as_str(), failure.message));
            }
            self.clock.sleep(OPERATOR_PAUSE).await;
        }
    }

    fn rotate(self: &Rc<Self>, overlap: bool, length: Duration) -> Result<Begun, String> {
        let (old, number) = (self.credentials.newest(), self.credentials.renew());
        if overlap {
            self.accept(&[old, number])?;
        } else {
            self.accept(&[number])?;
        }
        let (stage, halfway) = (Rc::clone(self), self.clock.now() + length / 2);
        let task = tokio::task::spawn_local(async move {
            if overlap {
                stage.clock.sleep_until(halfway).await;
                stage.tell_kms(number).await?;
            }
            Ok(())
        });
        Ok(Begun::Rotation { task, overlap, number })
    }

    /// Asks for data keys, whatever the answers, with exponentially distributed gaps.
    async fn burst(self: Rc<Self>, rate_per_s: f64, number: u64) {
        let mut random = self.streams.stream("burst", number);
        let in_flight = Rc::new(Cell::new(0_u32));
        let mut next = self.clock.now();
        loop {
            let unit = crate::net::random::unit(&mut random);
            next += Duration::from_secs_f64(-libm::log(1.0 - unit) / rate_per_s);
            self.clock.sleep_until(next).await;
            if in_flight.get() >= BURST_IN_FLIGHT_MAX {
                continue;
            }
            in_flight.update(|open| open + 1);
            let (kms, in_flight) = (Rc::clone(&self.kms), Rc::clone(&in_flight));
            tokio::task::spawn_local(async move {
                // Whoever sends it has no figures here.
                let _ = kms.encrypt(KmsOperation::GenerateDataKey, &NEIGHBOUR).await;
                in_flight.update(|open| open.saturating_sub(1));
            });
        }
    }
}

fn begin_at_links(links: Vec<Link>, change: LinkChange) -> Vec<(Link, LinkFaultId)> {
    links.into_iter().map(|link| (link.clone(), link.begin(change.of_link()))).collect()
}

fn end_at_links(faults: &[(Link, LinkFaultId)]) {
    faults.iter().for_each(|(link, id)| link.end(*id));
}
