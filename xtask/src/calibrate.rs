//! `cargo xtask calibrate-net`: builds the program that compares the simulated TCP with this kernel's, and runs it.

use crate::{Outcome, cargo};
use std::process::Command;

/// `options` go to the program, which checks them; it ends with 1 when a point disagrees, with 2 when the machine lacks
/// something.
pub(crate) fn run(options: &[&str]) -> Outcome {
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
