//! `cargo xtask calibrate-net`: builds the program that compares the simulated TCP with this kernel's, and runs it.

use crate::{Outcome, cargo};
use std::process::Command;

/// `options` go to the program, which checks them; it ends with 1 when a point disagrees, with 2 when the machine lacks
/// something.
pub(crate) fn run(options: &[&str]) -> Outcome {
    if let Some(missing) = missing(rustix::process::geteuid().is_root(), options) {
        eprintln!("calibrate-net: {missing}");
        std::process::exit(2);
    }
    crate::run(cargo().args(["build", "--release", "--package", "benches", "--bin", "calibrate"]).args([
        "--no-default-features",
        "--features",
        "calibrate",
    ]))?;
    crate::hand_over(
        Command::new(crate::release_directory().join("calibrate"))
            .args(["run", "--document"])
            .arg(crate::workspace().join("scenarios/CALIBRATION.md"))
            .args(options),
    )
}

/// What makes it useless to build the program, which looks for the rest itself.
fn missing(is_root: bool, options: &[&str]) -> Option<&'static str> {
    let only_asks = options.iter().any(|option| ["--help", "-h"].contains(option));
    (!is_root && !only_asks)
        .then_some("network namespaces and TUN devices need root: run `sudo -E cargo xtask calibrate-net`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_root_hears_of_it_before_anything_is_built() {
        assert!(missing(false, &["--quick"]).is_some_and(|says| says.contains("sudo -E")));
        assert_eq!((missing(true, &["--quick"]), missing(false, &["--help"])), (None, None));
    }
}
