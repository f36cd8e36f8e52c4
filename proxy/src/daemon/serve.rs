//! `xks-proxy serve`: bind, serve, drain on SIGTERM or SIGINT; `reload` runs beside it.

use crate::daemon::failure::Failure;
use crate::daemon::listen::bind;
use crate::daemon::log::Log;
use crate::daemon::open_files;
use crate::daemon::ops;
use crate::daemon::reload;
use crate::daemon::traces::Traces;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::timeout;
use xks_proxy::env::{Env, SystemEnv};
use xks_proxy::events::{Several, Subscriber};
use xks_proxy::metrics::Metrics;
use xks_proxy::server::{self, Listeners};

/// How long a reload at hand may hold up the end: a little more than a helper command may take.
const RELOAD_PATIENCE: Duration = Duration::from_secs(11);

/// How long a start at hand may hold up the end: libraries do not bear to be torn down under a running call.
const BUILD_PATIENCE: Duration = Duration::from_secs(1);

/// Serves until told to stop.
pub(crate) fn run(file: &Path) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        let message = format!("cannot start the worker threads ({error}): raise the limit on threads");
        Failure::of_machine(message)
    })?;
    let served = runtime.block_on(serve(file));
    // An HSM call that hangs must not keep the process alive.
    runtime.shutdown_background();
    served
}

async fn serve(file: &Path) -> Result<(), Failure> {
    let system = |error: io::Error| {
        let message = format!("the system refuses a signal handler or a thread ({error}): raise its limits");
        Failure::of_machine(message)
    };
    // Handlers first: from here on a signal never kills a half-started daemon the hard way.
    let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
    let hangup = signal(SignalKind::hangup()).map_err(system)?;

    let log = Log::start(io::stdout()).map_err(system)?;
    let (config, taken) = reload::load(file)?;
    log.install(config.log_level);
    let metrics = Arc::<Metrics>::default();
    let traces = Traces::start(config.otel.as_ref())?;
    let mut subscribers: Vec<Arc<dyn Subscriber>> =
        vec![Arc::new(log.clone()), Arc::<Metrics>::clone(&metrics)];
    subscribers.extend(traces.subscriber());
    // A helper command or an HSM that hangs holds up the start for a while, and nobody should have to wait for it. The
    // other tasks of the build's thread go on elsewhere meanwhile.
    let build = || config.build(Arc::new(SystemEnv), Arc::new(Several(subscribers)));
    let mut building = tokio::spawn(async { block_in_place(build) });
    let signal = tokio::select! {
        built = &mut building => Ok(built),
        _ = terminate.recv() => Err("SIGTERM"),
        _ = interrupt.recv() => Err("SIGINT"),
    };
    let ready = match signal {
        Ok(built) => {
            // As after any other crash, starting again is right.
            built.map_err(|error| Failure::of_machine(format!("the start has crashed: {error}")))??
        }
        Err(signal) => {
            tracing::info!(signal, "stopped before it served");
            // What can be closed in this time is closed.
            let _ = timeout(BUILD_PATIENCE, building).await;
            log.flush();
            return Ok(());
        }
    };
    metrics.configured(SystemEnv.now());
    ready.config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    open_files::provide(&ready.config).iter().for_each(|warning| tracing::warn!("{warning}"));

    let ops = ops::start(&ready, Arc::clone(&metrics), &log, traces.counts());
    let ops = ops.await?;
    let sockets = bind(&ready.config)?;
    let (app, tls) = (Arc::clone(&ready.app), ready.tls.clone());
    let mut watches = JoinSet::new();
    for monitor in ready.monitors.iter().map(Arc::clone) {
        watches.spawn(async move { monitor.watch().await });
    }
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
    let reloads = tokio::spawn(reload::run(hangup, file.to_owned(), ready, taken, metrics));
    let shutdown = async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "draining");
    };
    server::serve(Listeners::new(sockets), app, tls, shutdown).await;
    watches.shutdown().await;
    reloads.abort();
    // What the task held is dropped then, and so the HSMs are closed.
    if timeout(RELOAD_PATIENCE, reloads).await.is_err() {
        tracing::warn!("a reload does not end; it is left behind, and the HSMs are not closed");
    }
    ops.inspect(|task| task.abort());
    traces.finish().await;
    tracing::info!("stopped");
    log.flush();
    Ok(())
}
