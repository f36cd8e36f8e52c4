//! The connections of the KMS hosts to the proxy, and KMS's patience with them.
//!
//! Place on the map: [`model`](super::model) hands a signed request in and gets an answer or a [`Cause`]; the world
//! supplies the connections through [`Dial`], load balancer included.
//!
//! What is retried, once, and nothing else:
//! - a connection set-up that timed out, with a fresh patience (MA-11);
//! - a kept connection that the proxy had closed before the request was written: the request goes out on a new
//!   connection, within the same patience, because no part of it can have been served.
//!
//! A connection lost after the request was written is not retried: the proxy may have served it, and MA-11 excludes
//! resets. Without a byte of the answer it counts as no connection (row 14), after the first byte as a malformed
//! answer (row 17). A set-up that stalls in TLS is a socket timeout (row 16), one that TLS refuses is row 15.

use super::LocalFuture;
use super::failure::Cause;
use super::http1::{Malformed, Response, parse_response};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls_pki_types::ServerName;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

/// A byte stream to the proxy.
pub trait Io: AsyncRead + AsyncWrite + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Io for T {}

/// How a KMS host reaches the proxy: TCP, through whatever stands in between.
pub trait Dial {
    /// Opens a connection. It may stay pending for ever; the client stops waiting by itself.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when the network gave up waiting for an answer, which is then retried as MA-11
    /// says; any other error (refused, reset, unreachable) ends the call.
    fn connect<'a>(&'a self, kms_host: usize) -> LocalFuture<'a, io::Result<Box<dyn Io>>>;
}

/// TLS of the client: the configuration, and the name that the proxy's certificate must carry.
#[derive(Clone)]
pub struct ClientTls {
    /// Built from a `rustls::ClientConfig` with [`crypto_provider`], whose clock should be the simulation's.
    pub connector: TlsConnector,
    /// The host of the key store's endpoint.
    pub server_name: ServerName<'static>,
}

/// What a `rustls::ClientConfig` of KMS is built with: aws-lc-rs, with the cipher suites that KMS offers and no others
/// (SPEC, API content type; kms-behaviour 6.4). A proxy that has none of them cannot be told from one without TLS
/// (row 15). Listed here a second time, so that a mistake in the proxy's own list does not cancel itself out.
pub fn crypto_provider() -> CryptoProvider {
    use aws_lc_rs::cipher_suite as suite;
    CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// What to obey; see [`KmsSettings`](super::settings::KmsSettings).
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// Hosts, each with a pool.
    pub hosts: usize,
    /// For one call, connection set-up included.
    pub patience: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
    /// How long a connection is used at most; `None` for as long as it works.
    pub lifetime: Option<Duration>,
    /// MA-11.
    pub connect_retry: bool,
}

/// The XKS client of all KMS hosts.
pub struct XksClient {
    dial: Rc<dyn Dial>,
    tls: Option<ClientTls>,
    limits: ClientLimits,
    pools: Vec<RefCell<VecDeque<Idle>>>,
}

struct Idle {
    open: Open,
    since: Instant,
}

/// An open connection.
struct Open {
    io: Box<dyn Io>,
    /// When it was opened.
    born: Instant,
}

/// One proxy call, as the network let it happen.
#[derive(Debug)]
pub struct Exchange {
    /// The answer, or why there is none.
    pub result: Result<Response, Cause>,
    /// A new connection was opened, or tried.
    pub fresh_connection: bool,
    /// Kept connections found closed by the proxy.
    pub found_closed: u32,
    /// The connection set-up timed out and was tried again.
    pub retried: bool,
    /// Time that went into TCP's connection set-up.
    pub connecting: Duration,
    /// Time that went into TLS's.
    pub securing: Duration,
}

impl XksClient {
    /// Without a connection yet.
    pub fn new(dial: Rc<dyn Dial>, tls: Option<ClientTls>, limits: ClientLimits) -> Self {
        let pools = (0..limits.hosts).map(|_| RefCell::default()).collect();
        Self { dial, tls, limits, pools }
    }

    /// How many unused connections all hosts keep.
    pub fn idle_connections(&self) -> usize {
        self.pools.iter().map(|pool| pool.borrow().len()).sum()
    }

    /// Sends one request from `kms_host`, below `hosts`. Whatever goes wrong closes the connection.
    pub async fn call(&self, kms_host: usize, request: &[u8]) -> Exchange {
        let mut exchange = Exchange {
            result: Err(Cause::NoConnection),
            fresh_connection: false,
            found_closed: 0,
            retried: false,
            connecting: Duration::ZERO,
            securing: Duration::ZERO,
        };
        exchange.result = self.attempt(kms_host, request, &mut exchange).await;
        exchange
    }

    async fn attempt(
        &self,
        kms_host: usize,
        request: &[u8],
        exchange: &mut Exchange,
    ) -> Result<Response, Cause> {
        let mut deadline = Instant::now() + self.limits.patience;
        if let Some(open) = self.take(kms_host, &mut exchange.found_closed) {
            match self.send(kms_host, open, request, deadline).await {
                Err(Lost::NotWritten) => exchange.found_closed += 1,
                Err(Lost::Because(cause)) => return Err(cause),
                Ok(response) => return Ok(response),
            }
        }
        exchange.fresh_connection = true;
        let mut opened = self.open(kms_host, deadline, exchange).await;
        if self.limits.connect_retry && matches!(opened, Err(NotOpened { timed_out: true, .. })) {
            exchange.retried = true;
            deadline = Instant::now() + self.limits.patience;
            opened = self.open(kms_host, deadline, exchange).await;
        }
        let open = Open { io: opened.map_err(|not| not.cause)?, born: Instant::now() };
        self.send(kms_host, open, request, deadline).await.map_err(|lost| match lost {
            Lost::NotWritten => Cause::NoConnection,
            Lost::Because(cause) => cause,
        })
    }

    async fn open(
        &self,
        kms_host: usize,
        deadline: Instant,
        exchange: &mut Exchange,
    ) -> Result<Box<dyn Io>, NotOpened> {
        let not = |cause, timed_out| NotOpened { cause, timed_out };
        let began = Instant::now();
        let connected = timeout_at(deadline, self.dial.connect(kms_host)).await;
        exchange.connecting += began.elapsed();
        let tcp = match connected {
            Ok(Ok(tcp)) => tcp,
            Ok(Err(error)) => {
                return Err(not(Cause::NoConnection, error.kind() == io::ErrorKind::TimedOut));
            }
            Err(_) => return Err(not(Cause::NoConnection, true)),
        };
        let Some(tls) = &self.tls else { return Ok(tcp) };
        let began = Instant::now();
        let secured = timeout_at(deadline, tls.connector.connect(tls.server_name.clone(), tcp)).await;
        exchange.securing += began.elapsed();
        match secured {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(_)) => Err(not(Cause::NoTls, false)),
            Err(_) => Err(not(Cause::TimedOut, true)),
        }
    }

    /// One request and its answer on one connection, which goes back to the pool if it can be used again.
    async fn send(
        &self,
        kms_host: usize,
        mut open: Open,
        request: &[u8],
        deadline: Instant,
    ) -> Result<Response, Lost> {
        let response = match timeout_at(deadline, exchange_bytes(&mut open.io, request)).await {
            Ok(result) => result?,
            Err(_) => return Err(Lost::Because(Cause::TimedOut)),
        };
        let outlived = self.limits.lifetime.is_some_and(|lifetime| open.born.elapsed() >= lifetime);
        if response.reusable && !outlived && !self.limits.idle.is_zero() {
            self.put_back(kms_host, open);
        }
        Ok(response)
    }

    /// The connection used last, if it is not too old and the proxy has not closed it.
    fn take(&self, kms_host: usize, found_closed: &mut u32) -> Option<Open> {
        let mut pool = self.pools[kms_host].borrow_mut();
        drop_expired(&mut pool, self.limits.idle);
        while let Some(mut idle) = pool.pop_back() {
            if is_quiet(&mut *idle.open.io) {
                return Some(idle.open);
            }
            *found_closed += 1;
        }
        None
    }

    fn put_back(&self, kms_host: usize, open: Open) {
        let mut pool = self.pools[kms_host].borrow_mut();
        drop_expired(&mut pool, self.limits.idle);
        pool.push_back(Idle { open, since: Instant::now() });
    }
}

/// The connections at the front have been idle for longest.
fn drop_expired(pool: &mut VecDeque<Idle>, idle: Duration) {
    while pool.front().is_some_and(|front| front.since.elapsed() >= idle) {
        pool.pop_front();
    }
}

struct NotOpened {
    cause: Cause,
    /// MA-11 retries this, and nothing else.
    timed_out: bool,
}

enum Lost {
    /// The connection was closed before the whole request was written.
    NotWritten,
    Because(Cause),
}

/// Open, and without unasked-for bytes. One look, without waiting: nothing wakes for it.
fn is_quiet(io: &mut dyn Io) -> bool {
    let mut byte = [0];
    let mut context = Context::from_waker(Waker::noop());
    matches!(Pin::new(io).poll_read(&mut context, &mut ReadBuf::new(&mut byte)), Poll::Pending)
}

async fn exchange_bytes(io: &mut Box<dyn Io>, request: &[u8]) -> Result<Response, Lost> {
    let written = async {
        io.write_all(request).await?;
        io.flush().await
    };
    written.await.map_err(|_| Lost::NotWritten)?;
    let mut bytes = Vec::with_capacity(1_024);
    loop {
        let ended = match io.read_buf(&mut bytes).await {
            Ok(read) => read == 0,
            Err(_) if bytes.is_empty() => return Err(Lost::Because(Cause::NoConnection)),
            Err(_) => return Err(Lost::Because(Cause::Malformed)),
        };
        if ended && bytes.is_empty() {
            return Err(Lost::Because(Cause::NoConnection));
        }
        match parse_response(&bytes, ended) {
            Ok(Some(response)) => return Ok(response),
            Ok(None) => {}
            Err(Malformed(_)) => return Err(Lost::Because(Cause::Malformed)),
        }
    }
}
