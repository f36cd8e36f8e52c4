//! Reloads: on SIGHUP at once, and when a file has changed.
//!
//! Place on the map: part of the daemon; a task beside `server::serve`. What can be taken over, `Ready::reload` knows.

use crate::daemon::watch::Watch;
use std::collections::BTreeSet;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::Signal;
use tokio::task::block_in_place;
use tokio::time::sleep;
use xks_proxy::config::{Config, ConfigError, Fingerprint, Ready};
use xks_proxy::metrics::Metrics;

/// The configuration to start with, and what its files hold before anything else reads them: a change from here on is
/// one to reload for.
pub(crate) fn load(file: &Path) -> Result<(Config, Fingerprint), ConfigError> {
    let before = Fingerprint::of(&BTreeSet::from([file.to_owned()]));
    let config = Config::load(file)?;
    let before = before.for_files(&config.files());
    Ok((config, before))
}

/// Reloads for ever. Credentials, keys, rules and certificates change without a restart (XKS-AUTH-4, XKS-AZ-4); what is
/// broken is refused, and the old ones stay.
pub(crate) async fn run(
    mut hangup: Signal,
    file: PathBuf,
    ready: Ready,
    taken: Fingerprint,
    metrics: Arc<Metrics>,
) {
    let files = ready.config.files();
    let mut reload = Reload { file, ready, metrics, watch: Watch::new(taken), files };
    loop {
        let interval = reload.ready.config.watch_interval;
        let look = async {
            match interval {
                Some(interval) => sleep(interval).await,
                None => pending().await,
            }
        };
        let asked = tokio::select! {
            hangup = hangup.recv() => match hangup {
                Some(()) => true,
                None => return,
            },
            () = look => false,
        };
        // Files and helper commands block; the other tasks of this thread go on elsewhere meanwhile.
        block_in_place(|| if asked { reload.now("SIGHUP") } else { reload.look() });
    }
}

struct Reload {
    file: PathBuf,
    ready: Ready,
    metrics: Arc<Metrics>,
    watch: Watch,
    /// The files of the configuration in force, and of the one last seen: a broken one may only lack a file, which then
    /// comes to be.
    files: BTreeSet<PathBuf>,
}

impl Reload {
    fn look(&mut self) {
        if self.watch.look(Fingerprint::of(&self.files)) {
            self.now("a file has changed");
        }
    }

    fn now(&mut self, cause: &'static str) {
        // What the files hold before they are read: a change while they are read is a change to come.
        let mut before = Fingerprint::of(&self.files);
        let outcome = Config::load(&self.file).and_then(|config| {
            self.files = self.ready.config.files().union(&config.files()).cloned().collect();
            before = before.clone().for_files(&self.files);
            self.ready.reload(config)
        });
        self.metrics.reloaded(outcome.is_ok(), self.ready.app.env.now());
        if outcome.is_ok() {
            self.files = self.ready.config.files();
        }
        self.watch = Watch::new(before.for_files(&self.files));
        match outcome {
            Ok(()) => {
                let config = &self.ready.config;
                config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                let served = self.ready.tls.as_ref().map(|tls| tls.current());
                let certificate = served.as_ref().and_then(|served| served.certificate.as_ref());
                let now = self.ready.app.env.now();
                tracing::info!(
                    cause,
                    key_stores = config.key_stores.len(),
                    certificate = certificate.map(|facts| facts.subject.as_str()),
                    certificate_days_left = certificate.map(|facts| facts.days_left(now)),
                    "reloaded"
                );
            }
            Err(error) => tracing::error!(cause, "not reloaded, the old configuration stays: {error}"),
        }
    }
}
