//! `xks-proxy serve`: bind, serve, drain on SIGTERM or SIGINT; `reload` runs beside it.

use crate::daemon::log::Log;
use crate::daemon::reload;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use xks_proxy::config::{ConfigError, Ready};
use xks_proxy::env::SystemEnv;
use xks_proxy::server;

/// How long a reload at hand may hold up the end: a little more than a helper command may take.
const RELOAD_PATIENCE: Duration = Duration::from_secs(11);

/// Serves until told to stop. The error is one line for the user.
pub(crate) fn run(file: &Path) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the worker threads ({error}): raise the limit on threads"))?;
    let served = runtime.block_on(serve(file));
    // An HSM call that hangs must not keep the process alive.
    runtime.shutdown_background();
    served
}

async fn serve(file: &Path) -> Result<(), String> {
    let system = |error: io::Error| {
        format!("the system refuses a signal handler or a thread ({error}): raise its limits")
    };
    // Handlers first: from here on a signal never kills a half-started daemon the hard way.
    let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
    let hangup = signal(SignalKind::hangup()).map_err(system)?;

    let log = Log::start(io::stdout()).map_err(system)?;
    tracing_subscriber::fmt().json().flatten_event(true).with_target(false).with_writer(log.clone()).init();

    let (config, taken) = reload::load(file).map_err(|error| error.to_string())?;
    let ready =
        config.build(Arc::new(SystemEnv), Arc::new(log.clone())).map_err(|error| error.to_string())?;
    ready.config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));

    let listener = bind(&ready).await.map_err(|error| error.to_string())?;
    let address =
        listener.local_addr().map_err(|error| format!("the listening socket has no address ({error})"))?;
    let (app, tls) = (Arc::clone(&ready.app), ready.tls.clone());
    tracing::info!(
        %address,
        tls = tls.is_some(),
        key_stores = ready.config.key_stores.len(),
        hsms = ready.hsms.len(),
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    let reloads = tokio::spawn(reload::run(hangup, file.to_owned(), ready, taken));
    let shutdown = async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "draining");
    };
    server::serve(listener, app, tls, shutdown).await;
    reloads.abort();
    // What the task held is dropped then, and so the HSMs are closed.
    if timeout(RELOAD_PATIENCE, reloads).await.is_err() {
        tracing::warn!("a reload does not end; it is left behind, and the HSMs are not closed");
    }
    tracing::info!("stopped");
    log.flush();
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the daemon opens its one socket here")]
async fn bind(ready: &Ready) -> Result<TcpListener, ConfigError> {
    let listen = &ready.config.listen;
    TcpListener::bind(listen.value).await.map_err(|error| {
        let (why, advice) = match error.kind() {
            ErrorKind::AddrInUse => {
                ("the port is in use".to_owned(), "stop the process that has it, or change `listen`")
            }
            ErrorKind::PermissionDenied => (
                "permission denied".to_owned(),
                "ports below 1024 need root or CAP_NET_BIND_SERVICE; grant it, or change `listen`",
            ),
            ErrorKind::AddrNotAvailable => ("this machine has no such address".to_owned(), "change `listen`"),
            _ => (error.to_string(), "change `listen`"),
        };
        ready.config.error(listen.line, format!("cannot listen on {}: {why}: {advice}", listen.value))
    })
}
