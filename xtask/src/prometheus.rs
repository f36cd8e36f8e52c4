//! Prometheus and its promtool, which try the metrics, the alerts and the dashboard.

use crate::{Outcome, apt};
use std::process::Command;

fn is_there() -> bool {
    let answers =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    answers("promtool") && answers("prometheus")
}

/// Installs Prometheus when it is missing, we are root, and there is apt.
pub(crate) fn ensure() -> Outcome {
    if is_there() {
        return Ok(());
    }
    let has_apt = apt::install("prometheus")?;
    if is_there() {
        return Ok(());
    }
    let how = if has_apt {
        "sudo apt-get update && sudo apt-get install -y prometheus"
    } else {
        "a package of your system, or https://prometheus.io/download (prometheus and promtool in PATH)"
    };
    Err(format!("Prometheus is missing; install it with: {how}"))
}
