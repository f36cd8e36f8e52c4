//! The appliance's side: connections in front of a device.
//!
//! Place on the map: reads and writes `wire`, asks the device through its data door, and watches its control door to
//! learn when it is down.

use super::settings::{ServerSettings, WhenDown};
use super::wire::{Request, Response, VERSION, read_request};
use crate::codes::{CKR_DEVICE_ERROR, CKR_DEVICE_REMOVED, CKR_SESSION_COUNT, error};
use crate::control::Control;
use crate::faults::Fault;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use xks_proxy::hsm::Hsm;
use xks_proxy::server::Listen;

/// Connections beyond those with a session: being opened, being refused, or left over from a client that gave up. One
/// more is closed as soon as it is accepted.
const CONNECTIONS_BEYOND_SESSIONS_MAX: usize = 64;

/// Serves a device until the future is dropped, which closes every connection. `hsm` is its data door, or something
/// around it; `control` tells when it is down.
///
/// `bind` begins to listen; it is called at the beginning and, with [`WhenDown::Refuse`], whenever the device returns.
pub async fn serve<L: Listen>(
    bind: impl Fn() -> L,
    hsm: Arc<dyn Hsm>,
    control: Control,
    settings: ServerSettings,
) {
    let desk = Arc::new(Desk {
        hsm,
        control,
        settings,
        sessions: Arc::new(Semaphore::new(settings.sessions_max.clamp(1, Semaphore::MAX_PERMITS))),
    });
    let connections_max = settings.sessions_max.saturating_add(CONNECTIONS_BEYOND_SESSIONS_MAX);
    let mut connections = JoinSet::new();
    let mut listener = None;
    let mut was_down = false;
    loop {
        // Made before the look, so that no change between look and wait is missed.
        let changed = desk.control.shared.changed.notified();
        let down = desk.is_down();
        match (settings.when_down, down) {
            (WhenDown::Refuse, true) => {
                listener = None;
                connections.abort_all();
            }
            (WhenDown::Silent, false) if was_down => connections.abort_all(),
            _ => {}
        }
        was_down = down;
        if listener.is_none() && !(down && settings.when_down == WhenDown::Refuse) {
            listener = Some(bind());
        }
        tokio::select! {
            biased;
            () = changed => {}
            Some(_) = connections.join_next() => {}
            accepted = accept(listener.as_mut()) => {
                // A connection that failed before it was accepted is its client's affair.
                if let Ok(stream) = accepted && connections.len() < connections_max {
                    connections.spawn(connection(stream, Arc::clone(&desk)));
                }
            }
        }
    }
}

async fn accept<L: Listen>(listener: Option<&mut L>) -> io::Result<L::Io> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// What all connections share.
struct Desk {
    hsm: Arc<dyn Hsm>,
    control: Control,
    settings: ServerSettings,
    /// A permit for each session.
    sessions: Arc<Semaphore>,
}

impl Desk {
    fn is_down(&self) -> bool {
        self.control.faults().iter().any(|(_, fault)| *fault == Fault::Down)
    }

    /// Whether there is still somebody to answer. A service that hangs takes what comes and keeps silent.
    async fn is_alive(&self, stream: &mut (impl AsyncRead + Unpin)) -> bool {
        match (self.is_down(), self.settings.when_down) {
            (false, _) | (true, WhenDown::Answer) => true,
            (true, WhenDown::Refuse) => false,
            (true, WhenDown::Silent) => {
                let mut thrown_away = [0; 1_024];
                while matches!(stream.read(&mut thrown_away).await, Ok(read) if read > 0) {}
                false
            }
        }
    }

    async fn perform(&self, request: Request) -> Response {
        let deadline = Instant::now() + self.settings.operation_timeout;
        let answer = match request {
            // Both are answered before anybody asks the device; here they would be a second opening.
            Request::Open(_) => Err(error(CKR_DEVICE_ERROR, "the session is open already".into())),
            Request::Probe => Ok(Response::Alive),
            Request::Describe(key) => self.hsm.describe(&key, deadline).await.map(Response::Facts),
            Request::Encrypt(key, aad, plaintext) => {
                self.hsm.encrypt(&key, &aad, &plaintext, deadline).await.map(Response::Sealed)
            }
            Request::Decrypt(key, aad, sealed) => {
                self.hsm.decrypt(&key, &aad, &sealed, deadline).await.map(Response::Plaintext)
            }
            Request::Health => Ok(Response::Devices(self.hsm.health(deadline).await)),
        };
        answer.unwrap_or_else(Response::Failed)
    }
}

/// One connection from its first byte to its last. It ends without a word when the client does what it must not.
async fn connection(mut stream: impl AsyncRead + AsyncWrite + Unpin, desk: Arc<Desk>) {
    let patience = desk.settings.idle_timeout;
    let Ok(Ok(Some((number, Request::Open(VERSION))))) = timeout(patience, read_request(&mut stream)).await
    else {
        return;
    };
    if !desk.is_alive(&mut stream).await {
        return;
    }
    let session = Arc::clone(&desk.sessions).try_acquire_owned();
    let refusal = match &session {
        _ if desk.is_down() => Some(error(CKR_DEVICE_REMOVED, "the device is gone".into())),
        Err(_) => Some(error(CKR_SESSION_COUNT, "all sessions of the server are taken".into())),
        Ok(_) => None,
    };
    let refused = refusal.is_some();
    let opening = refusal.map_or(Response::Opened, Response::Failed);
    if answer(&mut stream, number, &opening).await.is_err() || refused {
        return;
    }
    loop {
        let Ok(Ok(Some((number, request)))) = timeout(patience, read_request(&mut stream)).await else {
            return;
        };
        if matches!(request, Request::Open(_)) || !desk.is_alive(&mut stream).await {
            return;
        }
        let mut early = [0; 1];
        let response = tokio::select! {
            biased;
            response = desk.perform(request) => response,
            // The client has gone, or has sent what it may send only after the answer. The device works on.
            _ = stream.read(&mut early) => return,
        };
        if !desk.is_alive(&mut stream).await || answer(&mut stream, number, &response).await.is_err() {
            return;
        }
    }
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), number: u32, response: &Response) -> io::Result<()> {
    let mut frame = match response.frame() {
        Ok(frame) => frame,
        Err(_) => {
            let too_long = error(CKR_DEVICE_ERROR, "the answer is longer than a frame".into());
            Response::Failed(too_long).frame().map_err(|_| io::ErrorKind::InvalidData)?
        }
    };
    stream.write_all(frame.numbered(number)).await?;
    stream.flush().await
}
