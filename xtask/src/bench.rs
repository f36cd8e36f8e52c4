//! `cargo xtask bench`: builds the load programs and what they measure as they are shipped, and runs one of them.

use crate::{Outcome, cargo, softhsm};
use std::path::PathBuf;
use std::process::Command;

/// `words`: the program's name and its options, which it checks itself.
pub(crate) fn run(words: &[&str]) -> Outcome {
    let (program, leading): (&str, &[&str]) = match words.first() {
        Some(&"load") => ("load", &["run"]),
        Some(&"side-by-side") => ("load", &["side-by-side"]),
        Some(&"floors") => ("load", &["floors"]),
        Some(&"bare") => ("bare", &[]),
        other => {
            let word = other.copied().unwrap_or_default();
            eprintln!("xtask: bench does not know {word:?}: write load, side-by-side, floors or bare");
            std::process::exit(2);
        }
    };
    let built = build()?;
    let mut command = Command::new(built.join(program));
    command.args(leading);
    if words.first() == Some(&"floors") {
        softhsm::ensure()?;
        let itself = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        command.arg("--server").arg(itself).arg("--bare").arg(built.join("bare"));
    }
    crate::hand_over(command.args(&words[1..]))
}

/// Everything at once, so that cargo settles on one set of features and builds nothing twice.
pub(crate) fn build() -> Result<PathBuf, String> {
    crate::run(cargo().args(["build", "--release", "--bins", "--lib"]).args([
        "--package",
        "xks-proxy",
        "--package",
        "sim-hsm-pkcs11",
        "--package",
        "benches",
    ]))?;
    Ok(crate::release_directory())
}
