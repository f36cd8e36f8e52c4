//! `xks-proxy serve`: bind, serve, reload on SIGHUP, drain on SIGTERM or SIGINT.

use crate::daemon::listen::bind;
use crate::daemon::log::Log;
use crate::daemon::open_files;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use xks_proxy::config::{Config, Ready};
use xks_proxy::env::SystemEnv;
use xks_proxy::server::{self, Listeners};

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

    let config = Config::load(file).map_err(|error| error.to_string())?;
    let ready =
        config.build(Arc::new(SystemEnv), Arc::new(log.clone())).map_err(|error| error.to_string())?;
    ready.config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    open_files::provide(&ready.config).iter().for_each(|warning| tracing::warn!("{warning}"));

    let sockets = bind(&ready.config).map_err(|error| error.to_string())?;
    let (app, tls) = (Arc::clone(&ready.app), ready.tls.clone());
    for socket in &sockets {
        let address =
            socket.local_addr().map_err(|error| format!("the listening socket has no address ({error})"))?;
        tracing::info!(
            %address,
            tls = tls.is_some(),
            key_stores = ready.config.key_stores.len(),
            hsms = ready.hsms.len(),
            version = env!("CARGO_PKG_VERSION"),
            "listening"
        );
    }
    let reloads = tokio::spawn(reload(hangup, file.to_owned(), ready));
    let shutdown = async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "draining");
    };
    server::serve(Listeners::new(sockets), app, tls, shutdown).await;
    reloads.abort();
    // What the task held is dropped by now, and so the HSMs are closed.
    let _ = reloads.await;
    tracing::info!("stopped");
    log.flush();
    Ok(())
}

/// Credentials, keys and rules change without a restart (XKS-AUTH-4, XKS-AZ-4); what is broken is refused, and the
/// old ones stay.
async fn reload(mut hangup: Signal, file: PathBuf, mut ready: Ready) {
    while hangup.recv().await.is_some() {
        match Config::load(&file).and_then(|config| ready.reload(config)) {
            Ok(()) => {
                ready.config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                tracing::info!(key_stores = ready.config.key_stores.len(), "reloaded");
            }
            Err(error) => tracing::error!("not reloaded, the old configuration stays: {error}"),
        }
    }
}
