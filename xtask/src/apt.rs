//! Installing what the tests need, where it can be done without asking.

use crate::{Outcome, run};
use std::process::Command;

/// apt is there, and, when we are root, has been asked to install the package.
pub(crate) fn install(package: &str) -> Result<bool, String> {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0");
    let has_apt = Command::new("apt-get").arg("--version").output().is_ok_and(|out| out.status.success());
    if is_root && has_apt {
        eprintln!("installing the package {package}, which is missing");
        let apt = |arguments: &[&str]| -> Outcome {
            run(Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
        };
        apt(&["update"])?;
        apt(&["install", "-y", "--no-install-recommends", package])?;
    }
    Ok(has_apt)
}

/// Installs the program that a test calls, from the package of its name, when it is missing, we are root, and there is apt.
pub(crate) fn ensure(program: &str) -> Outcome {
    let is_there = || Command::new(program).arg("--version").output().is_ok();
    if is_there() || (install(program)? && is_there()) {
        return Ok(());
    }
    Err(format!("{program} is missing, which tests call: install it with your system's packages"))
}
