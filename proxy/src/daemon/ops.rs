//! The ops listener of the daemon: its socket, and where its page is read.
//!
//! Place on the map: part of the daemon, started by `serve`.

use crate::daemon::log::Log;
use crate::daemon::{listen, process};
use std::sync::Arc;
use tokio::task::JoinHandle;
use xks_proxy::config::{ConfigError, Ready};
use xks_proxy::metrics::{HsmSource, Metrics, Page, Sources, SpanCounts};
use xks_proxy::ops;

/// Starts it when the configuration has one; it ends with the runtime, or when the task is aborted.
pub(crate) async fn start(
    ready: &Ready,
    metrics: Arc<Metrics>,
    log: &Log,
    spans: Option<Arc<SpanCounts>>,
) -> Result<Option<JoinHandle<()>>, ConfigError> {
    let Some(address) = &ready.config.ops else { return Ok(None) };
    let listener = listen::bind_one(&ready.config, address)?;
    let tls = ready.tls.clone();
    let hsms = ready.config.hsms.iter().zip(ready.hsms.iter()).zip(&ready.monitors);
    let sources = Sources {
        app: Arc::clone(&ready.app),
        hsms: hsms
            .map(|((config, hsm), monitor)| HsmSource {
                name: config.name.value.clone(),
                hsm: Arc::clone(hsm),
                monitor: Arc::clone(monitor),
            })
            .collect(),
        groups: ready.groups.clone(),
        // As it is now: a reload replaces it.
        certificate: Box::new(move || tls.as_ref().and_then(|tls| tls.current().certificate.clone())),
        log_lines_dropped: log.lines_dropped(),
        spans,
        process: Box::new(process::reader()),
    };
    let page = Arc::new(Page::new(metrics, sources));
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "ops: /livez, /readyz, /metrics");
    }
    Ok(Some(tokio::spawn(ops::serve(listener, page))))
}
