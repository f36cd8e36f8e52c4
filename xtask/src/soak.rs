//! `cargo xtask soak`: builds the daemon, the fault-injecting PKCS#11 module and the load program as they are shipped, and
//! runs them together.

use crate::{Outcome, cargo, softhsm};
use std::process::Command;

/// `options` go to the load program, which checks them.
pub(crate) fn run(options: &[&str]) -> Outcome {
    let module = softhsm::ensure()?;
    for (package, kind) in [("xks-proxy", "--bins"), ("sim-hsm-pkcs11", "--lib"), ("benches", "--bins")] {
        crate::run(cargo().args(["build", "--release", "--package", package, kind]))?;
    }
    let itself = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let here = crate::release_directory();
    let program = |name: &str| here.join(name);
    crate::run(
        Command::new(program("soak"))
            .arg("--daemon")
            .arg(program("xks-proxy"))
            .arg("--faults")
            .arg(program("libsim_hsm_pkcs11.so"))
            .arg("--module")
            .arg(module)
            .arg("--token-maker")
            .arg(itself)
            .args(options),
    )
}
