//! Traces in builds that have them, and nothing in those that have not.
//!
//! Place on the map: part of the daemon, made by `serve`; the work is done by `xks_proxy::traces`.

use std::sync::Arc;
use xks_proxy::config::OtelConfig;
use xks_proxy::events::Subscriber;
use xks_proxy::metrics::SpanCounts;

/// What runs when the configuration asks for traces.
#[derive(Default)]
pub(crate) struct Traces {
    #[cfg(feature = "otel")]
    running: Option<(Arc<xks_proxy::traces::Traces>, xks_proxy::traces::Sending)>,
}

#[cfg(feature = "otel")]
impl Traces {
    pub(crate) fn start(config: Option<&OtelConfig>) -> Result<Self, String> {
        let Some(config) = config else { return Ok(Self::default()) };
        let env = Arc::new(xks_proxy::env::SystemEnv);
        let (traces, sending) = xks_proxy::traces::Traces::start(config, env)?;
        Ok(Self { running: Some((Arc::new(traces), sending)) })
    }

    pub(crate) fn subscriber(&self) -> Option<Arc<dyn Subscriber>> {
        self.running.as_ref().map(|(traces, _)| Arc::<xks_proxy::traces::Traces>::clone(traces) as _)
    }

    pub(crate) fn counts(&self) -> Option<Arc<SpanCounts>> {
        self.running.as_ref().map(|(traces, _)| traces.counts())
    }

    /// Sends what has not been sent yet, for a moment.
    pub(crate) async fn finish(self) {
        if let Some((_, sending)) = self.running {
            sending.finish().await;
        }
    }
}

/// `config` refuses an endpoint in such a build.
#[cfg(not(feature = "otel"))]
impl Traces {
    pub(crate) fn start(_: Option<&OtelConfig>) -> Result<Self, String> {
        Ok(Self::default())
    }

    pub(crate) fn subscriber(&self) -> Option<Arc<dyn Subscriber>> {
        None
    }

    pub(crate) fn counts(&self) -> Option<Arc<SpanCounts>> {
        None
    }

    pub(crate) async fn finish(self) {}
}
