//! The crate `fuzz` as a libFuzzer program.

use crate::{Outcome, apt, cargo, run, workspace};
use std::path::PathBuf;
use std::process::Command;

/// The program, built.
pub(super) struct Program(PathBuf);

impl Program {
    /// Builds it with coverage counters in the crates of this workspace, apart from every other build. Needs no nightly
    /// toolchain: the pass that puts the counters in is part of stable rustc's LLVM, and libFuzzer comes with its crate.
    pub(super) fn build() -> Result<Self, String> {
        ensure_compiler()?;
        let host = host()?;
        let directory = crate::release_directory().with_file_name("fuzz");
        // With a --target, what runs while building (build scripts and macros) is spared the flags.
        run(cargo()
            .args(["build", "--release", "--locked", "--package", "fuzz", "--bin", "fuzz", "--target", &host])
            // The variable takes the place of the flags in .cargo/config.toml, so those are said again.
            .env("RUSTFLAGS", "--cfg fuzzing --cfg tokio_unstable")
            .env("RUSTC_WORKSPACE_WRAPPER", workspace().join("fuzz/instrument.sh"))
            .env("CARGO_TARGET_DIR", &directory))?;
        Ok(Self(directory.join(host).join("release/fuzz")))
    }

    /// A run of one target; libFuzzer's own arguments are to follow.
    pub(super) fn command(&self, target: &str) -> Command {
        let mut command = Command::new(&self.0);
        command.env("FUZZ_TARGET", target).current_dir(workspace());
        command
    }
}

/// libFuzzer is C++.
fn ensure_compiler() -> Outcome {
    let is_there = || Command::new("c++").arg("--version").output().is_ok_and(|out| out.status.success());
    if is_there() {
        return Ok(());
    }
    let has_apt = apt::install("g++")?;
    match is_there() {
        true => Ok(()),
        false if has_apt => Err("there is no C++ compiler c++: apt-get install g++".to_owned()),
        false => Err("there is no C++ compiler c++: install one (g++ or clang++)".to_owned()),
    }
}

/// What this toolchain builds for by itself.
fn host() -> Result<String, String> {
    let out = Command::new("rustc").arg("-vV").current_dir(workspace()).output();
    let out = out.map_err(|error| format!("cannot start rustc: {error}"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| format!("rustc -vV names no host: {text:?}"))
}
