//! The client: an [`Hsm`] over connections to one server, or to several that stand in for each other.
//!
//! Place on the map: where a vendor's PKCS#11 library stands in production, with its sessions. Calls wait here for a
//! session; `member` has the connections.

use super::member::{Endpoint, Member, Trouble};
use super::settings::{ClientSettings, HaMode, MEMBERS_MAX, SettingsError, WhileDisconnected};
use super::wire::{Frame, Response, TooLong};
use crate::codes::{
    CKR_DATA_LEN_RANGE, CKR_DEVICE_ERROR, CKR_ENCRYPTED_DATA_LEN_RANGE, CKR_SESSION_COUNT,
    CKR_TOKEN_NOT_PRESENT, error,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use xks_proxy::hsm::{Aad, Answer, DeviceHealth, Hsm, HsmError, HsmErrorKind, KeyFacts, Sealed};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

/// The emulated HSM from the other end of a network. Dropping it is the end of its process: every connection is closed.
///
/// A call that its caller drops, or whose deadline passes, goes on until the answer or the library's own time-out, and
/// its session stays taken until then. Only a call that still waits for a session is forgotten.
pub struct NetworkHsm {
    shared: Arc<Shared>,
}

struct Shared {
    members: Vec<Member>,
    settings: ClientSettings,
    /// A permit for each session.
    sessions: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    /// Calls that wait for a session.
    waiting: usize,
    /// Whose turn it is.
    turn: usize,
    /// Calls, probes and attempts to reconnect; `None` once the client is gone. They hold [`Shared`], which holds them.
    tasks: Option<JoinSet<()>>,
}

impl NetworkHsm {
    /// A client of one server, or of a group of up to [`MEMBERS_MAX`] with the same keys. Nothing is connected before the
    /// first call. Call it inside a tokio runtime, which runs its tasks.
    ///
    /// # Errors
    /// When a setting is out of range, or there are no servers or too many.
    pub fn new(servers: Vec<Endpoint>, settings: ClientSettings) -> Result<Self, SettingsError> {
        settings.check()?;
        if servers.is_empty() || servers.len() > MEMBERS_MAX {
            let given = servers.len();
            return Err(SettingsError(format!("servers: 1 to {MEMBERS_MAX} are needed, these are {given}")));
        }
        let shared = Arc::new(Shared {
            members: servers.into_iter().map(Member::new).collect(),
            settings,
            sessions: Arc::new(Semaphore::new(settings.sessions_max)),
            state: Mutex::new(State { waiting: 0, turn: 0, tasks: Some(JoinSet::new()) }),
        });
        if !settings.probe_interval.is_zero() {
            shared.spawn(Arc::clone(&shared).probe());
        }
        Ok(Self { shared })
    }
}

impl Drop for NetworkHsm {
    fn drop(&mut self) {
        let tasks = self.shared.state().tasks.take();
        // Dropped outside the lock, with the connections they hold.
        drop(tasks);
    }
}

/// A call that waits for a session.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared) -> Result<Self, HsmError> {
        let mut state = shared.state();
        if state.waiting >= shared.settings.queue_max {
            return Err(error(CKR_SESSION_COUNT, "all sessions are taken and the queue is full".into()));
        }
        state.waiting += 1;
        Ok(Self(shared))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.waiting = state.waiting.saturating_sub(1);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = &mut self.state().tasks {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(task);
        }
    }

    /// Whether there is somebody to go on to.
    fn is_group(&self) -> bool {
        self.members.len() > 1
    }

    fn disconnected(&self) -> HsmError {
        let ck_rv = match self.settings.while_disconnected {
            WhileDisconnected::DeviceError => CKR_DEVICE_ERROR,
            WhileDisconnected::TokenNotPresent => CKR_TOKEN_NOT_PRESENT,
        };
        error(ck_rv, "no server is connected".into())
    }

    /// A session, before the deadline.
    async fn session(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, HsmError> {
        if let Ok(session) = Arc::clone(&self.sessions).try_acquire_owned() {
            return Ok(session);
        }
        let _waiting = Waiting::begin(self)?;
        match timeout_at(deadline, Arc::clone(&self.sessions).acquire_owned()).await {
            Ok(Ok(session)) => Ok(session),
            // Nobody closes the semaphore.
            Ok(Err(_)) => Err(self.disconnected()),
            Err(_) => Err(timed_out("no session was free before the deadline")),
        }
    }

    /// One call from its arrival to its answer, or to its caller's deadline.
    async fn call(self: &Arc<Self>, frame: Frame, deadline: Instant) -> Result<Response, HsmError> {
        if deadline <= Instant::now() {
            return Err(timed_out("the deadline had passed on arrival"));
        }
        if !self.members.iter().any(Member::is_up) {
            return Err(self.disconnected());
        }
        let session = self.session(deadline).await?;
        let (sender, receiver) = oneshot::channel();
        let library = Arc::clone(self);
        self.spawn(async move {
            let answer = library.inside(frame).await;
            drop(session);
            // Its caller may have gone long since.
            let _ = sender.send(answer);
        });
        match timeout_at(deadline, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.disconnected()),
            Err(_) => Err(timed_out("not answered before the deadline")),
        }
    }

    /// What happens inside the library: one member after the other, until one answers.
    async fn inside(self: &Arc<Self>, mut frame: Frame) -> Result<Response, HsmError> {
        let mut last = None;
        for index in self.order() {
            match self.ask(index, &mut frame).await {
                Some(Ok(response)) => return Ok(response),
                Some(Err(trouble)) => last = Some(trouble),
                None => {}
            }
        }
        Err(last.unwrap_or_else(|| self.disconnected()))
    }

    /// The members in the order in which a call tries them.
    fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let count = self.members.len();
        let first = match self.settings.ha_mode {
            HaMode::ActiveStandby => 0,
            HaMode::RoundRobin => {
                let mut state = self.state();
                let up = (0..count).map(|step| (state.turn + step) % count);
                let first = up.clone().find(|index| self.members.get(*index).is_some_and(Member::is_up));
                let first = first.unwrap_or(state.turn);
                state.turn = (first + 1) % count;
                first
            }
        };
        (0..count).map(move |step| (first + step) % count)
    }

    /// One exchange with a member, over a connection kept or made. `None` when it is known to be down; an error is the
    /// member's own fault, and then it is.
    async fn ask(self: &Arc<Self>, index: usize, frame: &mut Frame) -> Option<Result<Response, HsmError>> {
        let member = self.members.get(index).filter(|member| member.is_up())?;
        let generation = member.generation();
        let connection = match member.kept().await {
            Some(connection) => Ok(connection),
            None => member.open(self.settings.connect_timeout).await,
        };
        let outcome = match connection {
            Ok(connection) => member.exchange(connection, frame, self.settings.request_timeout).await,
            Err(trouble) => Err(trouble),
        };
        let theirs = match outcome {
            // Another member may be better off.
            Ok(Response::Failed(error)) | Err(Trouble::Refused(error))
                if self.is_group() && error.kind == HsmErrorKind::DeviceGone =>
            {
                error
            }
            Ok(response) => return Some(Ok(response)),
            Err(Trouble::Refused(error)) => return Some(Ok(Response::Failed(error))),
            Err(trouble) => trouble.into_error(),
        };
        self.fail(index, generation);
        Some(Err(theirs))
    }

    /// A member has failed; it will be tried again.
    fn fail(self: &Arc<Self>, index: usize, generation: u64) {
        if self.members.get(index).is_some_and(|member| member.fail(generation)) {
            self.spawn(Arc::clone(self).reconnect(index));
        }
    }

    /// Tries to reach a member that is down until it answers.
    async fn reconnect(self: Arc<Self>, index: usize) {
        let Some(member) = self.members.get(index) else { return };
        let settings = &self.settings;
        let (mut pause, longest) = if self.is_group() {
            (settings.recovery_interval, settings.recovery_interval)
        } else {
            (settings.reconnect_initial, settings.reconnect_max)
        };
        loop {
            sleep(pause).await;
            match member.open(settings.connect_timeout).await {
                Ok(connection) => return member.recover(Some(connection)),
                // It has no session for us, but it answers.
                Err(Trouble::Refused(error)) if error.kind == HsmErrorKind::Busy => {
                    return member.recover(None);
                }
                Err(_) => pause = (pause * 2).min(longest),
            }
        }
    }

    /// Tries connections that were not used for a while, one after the other.
    async fn probe(self: Arc<Self>) {
        let interval = self.settings.probe_interval;
        loop {
            sleep(interval).await;
            for (index, member) in self.members.iter().enumerate() {
                // With every session taken there is no lack of news about the server.
                while let Ok(_session) = Arc::clone(&self.sessions).try_acquire_owned()
                    && let Some(mut connection) = member.take_unused(interval)
                    && let Ok(mut frame) = Frame::probe()
                {
                    let generation = connection.generation();
                    if connection.is_quiet().await
                        && member
                            .exchange(connection, &mut frame, self.settings.request_timeout)
                            .await
                            .is_err()
                    {
                        self.fail(index, generation);
                    }
                }
            }
        }
    }
}

fn timed_out(detail: &str) -> HsmError {
    HsmError::new(HsmErrorKind::TimedOut, detail)
}

/// A request too long for a frame is too long for the device.
fn too_long(ck_rv: u64) -> impl FnOnce(TooLong) -> HsmError {
    move |_| error(ck_rv, "the request is longer than a frame".into())
}

/// The answer that belongs to the request; any other has been taken for malformed.
fn expect<T>(
    answer: Result<Response, HsmError>,
    read: impl FnOnce(Response) -> Option<T>,
) -> Result<T, HsmError> {
    match answer? {
        Response::Failed(error) => Err(error),
        response => read(response)
            .ok_or_else(|| HsmError::new(HsmErrorKind::Failed, "the answer to another kind of request")),
    }
}

impl Hsm for NetworkHsm {
    fn describe<'a>(&'a self, key: &'a KeyName, deadline: Instant) -> Answer<'a, KeyFacts> {
        Box::pin(async move {
            let frame = Frame::describe(key).map_err(too_long(CKR_DATA_LEN_RANGE))?;
            expect(self.shared.call(frame, deadline).await, |response| match response {
                Response::Facts(facts) => Some(facts),
                _ => None,
            })
        })
    }

    fn encrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        plaintext: &'a Plaintext,
        deadline: Instant,
    ) -> Answer<'a, Sealed> {
        Box::pin(async move {
            let frame = Frame::encrypt(key, aad, plaintext).map_err(too_long(CKR_DATA_LEN_RANGE))?;
            expect(self.shared.call(frame, deadline).await, |response| match response {
                Response::Sealed(sealed) => Some(sealed),
                _ => None,
            })
        })
    }

    fn decrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        sealed: &'a Sealed,
        deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        Box::pin(async move {
            let frame = Frame::decrypt(key, aad, sealed).map_err(too_long(CKR_ENCRYPTED_DATA_LEN_RANGE))?;
            expect(self.shared.call(frame, deadline).await, |response| match response {
                Response::Plaintext(plaintext) => Some(plaintext),
                _ => None,
            })
        })
    }

    /// Asks every server at once, over a session each; one that does not answer before the deadline is unavailable.
    fn health<'a>(
        &'a self,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        Box::pin(async move {
            let shared = &self.shared;
            let mut asked = Vec::with_capacity(shared.members.len());
            for (index, member) in shared.members.iter().enumerate() {
                let (sender, receiver) = oneshot::channel();
                asked.push((member, receiver));
                let (true, Ok(mut frame)) = (member.is_up(), Frame::health()) else { continue };
                let Ok(session) = shared.session(deadline).await else { continue };
                let library = Arc::clone(shared);
                shared.spawn(async move {
                    let answer = library.ask(index, &mut frame).await;
                    drop(session);
                    if let Some(Ok(Response::Devices(devices))) = answer {
                        // Its caller may have gone long since.
                        let _ = sender.send(devices);
                    }
                });
            }
            let mut devices = Vec::with_capacity(asked.len());
            for (member, receiver) in asked {
                match timeout_at(deadline, receiver).await {
                    Ok(Ok(report)) => {
                        member.note(&report);
                        devices.extend(report);
                    }
                    _ => devices.extend(member.unavailable()),
                }
            }
            devices.truncate(MEMBERS_MAX);
            devices
        })
    }
}
