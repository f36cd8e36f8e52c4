//! One server as the client knows it: its connections, whether it is down, and one exchange with it.
//!
//! Place on the map: `client` chooses among members and says when a lost one is tried again; `wire` has the frames.

use super::wire::{Frame, Response, malformed, read_response};
use crate::codes::{CKR_DEVICE_ERROR, error};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout};
use xks_proxy::hsm::{DeviceHealth, HealthStatus, HsmError, HsmErrorKind};

/// A byte stream to a server.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection being set up.
pub type Opening<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Transport>>> + Send + 'a>>;

/// A way to one server.
pub trait Connect: Send + Sync {
    /// Sets up a connection. Dropping the future gives up.
    fn connect(&self) -> Opening<'_>;
}

/// One server of a client.
#[derive(Clone)]
pub struct Endpoint {
    /// Its name in errors, and in health reports until the server has told its own.
    pub name: String,
    /// The way there.
    pub connect: Arc<dyn Connect>,
}

/// Why an exchange came to nothing.
pub(super) enum Trouble {
    /// No connection, or it broke, or the answer did not come in time or was malformed.
    Link(String),
    /// The server refused the session.
    Refused(HsmError),
}

/// A connection with an open session on it.
pub(super) struct Connection {
    stream: Box<dyn Transport>,
    next_number: u32,
    /// The member's at its opening: a connection from before a failure is not used again.
    generation: u64,
    used: Instant,
}

pub(super) struct Member {
    pub(super) name: String,
    connect: Arc<dyn Connect>,
    state: Mutex<State>,
}

struct State {
    down: bool,
    /// Failures so far.
    generation: u64,
    /// Connections nobody uses, the one used last at the end. Calls take it first, so that those not needed grow old.
    idle: Vec<Connection>,
    /// The latest health report, for the names in it.
    devices: Vec<DeviceHealth>,
}

impl Member {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        let state = State { down: false, generation: 0, idle: Vec::new(), devices: Vec::new() };
        Self { name: endpoint.name, connect: endpoint.connect, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_up(&self) -> bool {
        !self.state().down
    }

    pub(super) fn generation(&self) -> u64 {
        self.state().generation
    }

    /// The server is down, found out on a connection of this generation. False when that was known already.
    pub(super) fn fail(&self, generation: u64) -> bool {
        let closed = {
            let mut state = self.state();
            if state.down || state.generation != generation {
                return false;
            }
            state.down = true;
            state.generation += 1;
            std::mem::take(&mut state.idle)
        };
        // Dropped outside the lock: each of them sends a FIN.
        drop(closed);
        true
    }

    /// The server answers again.
    pub(super) fn recover(&self, connection: Option<Connection>) {
        let mut state = self.state();
        state.down = false;
        state.idle.extend(connection);
    }

    /// Sets up a connection and opens a session on it.
    pub(super) async fn open(&self, patience: Duration) -> Result<Connection, Trouble> {
        let generation = self.generation();
        let opening = async {
            let stream = self.connect.connect().await?;
            let mut connection = Connection { stream, next_number: 0, generation, used: Instant::now() };
            let mut frame = Frame::open().map_err(|_| malformed("an opening too long"))?;
            let response = connection.exchange(&mut frame).await?;
            Ok::<_, io::Error>((connection, response))
        };
        match timeout(patience, opening).await {
            Ok(Ok((_, Response::Failed(error)))) => Err(Trouble::Refused(error)),
            Ok(Ok((connection, _))) => Ok(connection),
            Ok(Err(error)) => Err(Trouble::Link(format!("{}: no connection: {error}", self.name))),
            Err(_) => Err(Trouble::Link(format!("{}: no connection within {patience:?}", self.name))),
        }
    }

    /// A connection kept from an earlier call that still stands, as far as this side can know.
    pub(super) async fn kept(&self) -> Option<Connection> {
        loop {
            let mut connection = self.state().idle.pop()?;
            if connection.is_quiet().await {
                return Some(connection);
            }
        }
    }

    /// One of those kept that was not used for so long.
    pub(super) fn take_unused(&self, interval: Duration) -> Option<Connection> {
        let mut state = self.state();
        let place = state.idle.iter().position(|connection| connection.used.elapsed() >= interval)?;
        Some(state.idle.remove(place))
    }

    /// Keeps a connection for the next call, unless the server has failed since it was opened.
    fn keep(&self, mut connection: Connection) {
        connection.used = Instant::now();
        let mut state = self.state();
        if !state.down && state.generation == connection.generation {
            state.idle.push(connection);
        }
    }

    /// One exchange on this connection, which is kept if it went well.
    pub(super) async fn exchange(
        &self,
        mut connection: Connection,
        frame: &mut Frame,
        patience: Duration,
    ) -> Result<Response, Trouble> {
        match timeout(patience, connection.exchange(frame)).await {
            Ok(Ok(response)) => {
                // The session behind it is gone; the next call opens another.
                let lost = matches!(&response, Response::Failed(e) if e.kind == HsmErrorKind::SessionLost);
                if !lost {
                    self.keep(connection);
                }
                Ok(response)
            }
            Ok(Err(error)) => Err(Trouble::Link(format!("{}: connection lost: {error}", self.name))),
            Err(_) => Err(Trouble::Link(format!("{}: no answer within {patience:?}", self.name))),
        }
    }

    /// Notes a health report.
    pub(super) fn note(&self, devices: &[DeviceHealth]) {
        self.state().devices = devices.to_vec();
    }

    /// The health report of a server that gave none.
    pub(super) fn unavailable(&self) -> Vec<DeviceHealth> {
        let known = self.state().devices.clone();
        if known.is_empty() {
            let (id, model) = (self.name.clone(), "unknown".into());
            return vec![DeviceHealth { id, model, status: HealthStatus::Unavailable }];
        }
        known.into_iter().map(|device| DeviceHealth { status: HealthStatus::Unavailable, ..device }).collect()
    }
}

impl Trouble {
    /// What a library's caller is told of it.
    pub(super) fn into_error(self) -> HsmError {
        match self {
            Self::Link(detail) => error(CKR_DEVICE_ERROR, detail),
            Self::Refused(error) => error,
        }
    }
}

impl Connection {
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Sends a request and waits for its answer.
    async fn exchange(&mut self, frame: &mut Frame) -> io::Result<Response> {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        self.stream.write_all(frame.numbered(number)).await?;
        self.stream.flush().await?;
        let (answered, response) = read_response(&mut self.stream).await?;
        if answered != number || !frame.is_answered_by(&response) {
            return Err(malformed("the answer to another request"));
        }
        Ok(response)
    }

    /// Whether the server has sent nothing, not even its end, since the last answer.
    pub(super) async fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        std::future::poll_fn(|context| {
            let mut buffer = ReadBuf::new(&mut byte);
            let read = Pin::new(&mut self.stream).poll_read(context, &mut buffer);
            Poll::Ready(read.is_pending())
        })
        .await
    }
}
