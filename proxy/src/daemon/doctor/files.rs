//! The files that a configuration names: there, readable, and by whom.
//!
//! Place on the map: part of `doctor`.

use super::report::{Report, count};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use xks_proxy::config::{Config, SecretPlace};

/// What a file is, which decides who may read it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// The daemon's user only.
    Secret,
    /// Everybody.
    Open,
}

pub(super) fn check(config: &mut Config, report: &mut Report) {
    look(report, "configuration", "", Path::new(&config.file), Kept::Open);
    if let Some(files) = &config.tls {
        look(report, "certificate file", "", &files.certificate_file.value, Kept::Open);
        look(report, "private key file", "", &files.key_file.value, Kept::Secret);
    }
    for hsm in config.hsms.clone() {
        let whose = format!("HSM {}: ", hsm.name.value);
        let sound = match &hsm.pin.value {
            SecretPlace::File(path) => look(report, "PIN", &whose, path, Kept::Secret),
            _ => true,
        };
        // What is wrong with the file itself has been said.
        match config.hsm_settings(&hsm) {
            Ok(_) => {}
            Err(_) if !sound => {}
            Err(error) => report.failed(
                "PIN",
                error.message,
                "Without the PIN nobody can log in to the HSM.",
                format!("Put the PIN where line {} of the configuration says.", hsm.pin.line),
            ),
        }
        // A bare file name is the loader's to find.
        if hsm.module.value.components().count() > 1 {
            look(report, "module file", &whose, &hsm.module.value, Kept::Open);
        }
    }
    let stores: Vec<_> =
        config.key_stores.iter().map(|store| (store.name.clone(), store.credentials.clone())).collect();
    for (store, credentials) in stores {
        let mut good = 0;
        for credential in &credentials {
            let whose = format!("key store {store}: ");
            let sound = match &credential.secret.value {
                SecretPlace::File(path) => look(report, "secret", &whose, path, Kept::Secret),
                _ => true,
            };
            match config.secret_access_key(credential) {
                Ok(_) => good += 1,
                Err(_) if !sound => {}
                Err(error) => report.failed(
                    "secret",
                    error.message,
                    "KMS signs each request with this secret; the proxy cannot verify one without it.",
                    format!(
                        "Put the secret that KMS was given where line {} says, or make a new pair with \
                         `xks-proxy credentials new`.",
                        credential.secret.line
                    ),
                ),
            }
        }
        if good == credentials.len() {
            let says = format!("{} readable and of the right shape", count(good, "credential"));
            report.ok("credentials", format!("key store {store}: {says}"));
        }
    }
}

/// Looks at one file; false when it cannot be read.
pub(super) fn look(report: &mut Report, check: &str, whose: &str, path: &Path, kept: Kept) -> bool {
    let shown = path.display();
    if let Err(error) = std::fs::File::open(path)
        .and_then(|file| if file.metadata()?.is_dir() { Err(ErrorKind::IsADirectory.into()) } else { Ok(()) })
    {
        let (says, to_do) = match error.kind() {
            ErrorKind::NotFound => (
                format!("{whose}there is no file {shown}"),
                "Create it, or correct the path in the configuration.".to_owned(),
            ),
            ErrorKind::PermissionDenied => (
                format!("{whose}{shown} may not be read by this user"),
                "Give it to the daemon's user (chown, chmod 600), or run the doctor as that user.".to_owned(),
            ),
            _ => (
                format!("{whose}{shown} cannot be read ({error})"),
                "Put a readable file there, or correct the path in the configuration.".to_owned(),
            ),
        };
        report.failed(check, says, "The proxy does not start without it.", to_do);
        return false;
    }
    let mode = std::fs::metadata(path).map_or(0, |facts| facts.permissions().mode());
    if mode & 0o002 != 0 {
        report.failed(
            check,
            format!("{whose}every user of this machine can write to {shown}"),
            "Whoever has an account here can decide what the proxy does.",
            format!("chmod o-w {shown}"),
        );
    } else if kept == Kept::Secret && mode & 0o004 != 0 {
        report.warning(
            check,
            format!("{whose}every user of this machine can read {shown}"),
            "Whoever has an account here knows this secret.",
            format!("chmod 600 {shown}, and change the secret if others were here."),
        );
    } else if kept == Kept::Secret {
        report.ok(
            check,
            format!(
                "{whose}{shown}, readable for its owner{}",
                if mode & 0o040 == 0 { "" } else { " and group" }
            ),
        );
    } else {
        report.ok(check, format!("{whose}{shown}"));
    }
    true
}
