//! The clock: KMS's signatures are good for five minutes, certificates until their day.
//!
//! Place on the map: part of `doctor`. Without a network there is no time to compare with, so it asks the system whether
//! somebody keeps the clock right, and whether files are older than now.

use super::report::Report;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};
use xks_proxy::calendar::rfc3339;
use xks_proxy::config::{Config, SecretPlace};
use xks_proxy::env::{Env, SystemEnv, UnixTime};

/// How far two clocks may differ, and how long `timedatectl` may take.
const SKEW: Duration = Duration::from_secs(5 * 60);
const PATIENCE: Duration = Duration::from_secs(3);

const MEANS: &str = "Requests of KMS whose time differs by more than 5 minutes from this clock are refused (401), all of \
                     them.";

pub(super) async fn check(config: &Config, report: &mut Report) {
    let now = SystemEnv.now();
    if let Some((file, time)) = files(config).into_iter().find(|(_, time)| time.0 > now.0 + SKEW) {
        report.failed(
            "clock",
            format!("it is {} here, but {} was written at {}", rfc3339(now), file.display(), rfc3339(time)),
            MEANS,
            "Set the clock, and let chrony or systemd-timesyncd keep it right.",
        );
        return;
    }
    match synchronised().await {
        Some(true) => report.ok("clock", format!("{}, kept right over the network (NTP)", rfc3339(now))),
        Some(false) => report.warning(
            "clock",
            format!("{}, and nobody keeps it right", rfc3339(now)),
            MEANS,
            "Start chrony or systemd-timesyncd; `timedatectl` says whether they do their work.",
        ),
        None => report.warning(
            "clock",
            format!("{}; the system does not say whether anybody keeps it right", rfc3339(now)),
            MEANS,
            "Compare it with another clock. In a container the host keeps the time: look there.",
        ),
    }
}

/// What the kernel was told of its clock, by way of systemd; `None` where there is no systemd.
async fn synchronised() -> Option<bool> {
    let asked = tokio::process::Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?;
    match output.stdout.trim_ascii() {
        b"yes" => Some(true),
        b"no" => Some(false),
        _ => None,
    }
}

/// The files of the configuration, and when they were written.
fn files(config: &Config) -> Vec<(PathBuf, UnixTime)> {
    let mut paths = vec![PathBuf::from(&config.file)];
    let mut secret = |place: &SecretPlace| {
        if let SecretPlace::File(path) = place {
            paths.push(path.clone());
        }
    };
    config.hsms.iter().for_each(|hsm| secret(&hsm.pin.value));
    config.key_stores.iter().flat_map(|store| &store.credentials).for_each(|one| secret(&one.secret.value));
    if let Some(tls) = &config.tls {
        paths.push(tls.certificate_file.value.clone());
    }
    paths.into_iter().filter_map(|path| written(&path).map(|time| (path, time))).collect()
}

fn written(path: &Path) -> Option<UnixTime> {
    let time = std::fs::metadata(path).ok()?.modified().ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(UnixTime)
}
