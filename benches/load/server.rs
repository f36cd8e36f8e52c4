//! A server that `floors` has started, and ends when it is done with it, whatever happens.
//!
//! Place on the map: `floors` measures it.

use crate::target::{Target, TargetArguments};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a server may take until it listens (the first time it may have to be built), and until it ends.
const START_MAX: Duration = Duration::from_secs(900);
const STOP_MAX: Duration = Duration::from_secs(20);

/// Which proxy.
pub(crate) enum Kind<'a> {
    Ours,
    /// AWS's sample proxy, this program.
    Sample(&'a Path),
}

pub(crate) struct Server {
    child: Process,
    pub(crate) target: Arc<Target>,
    // Its certificate lies here.
    _directory: tempfile::TempDir,
}

impl Server {
    /// A proxy over a SoftHSM2 token of its own. `options` are those of `serve-softhsm`.
    ///
    /// # Errors
    /// When it does not come to listen.
    pub(crate) async fn start(
        kind: &Kind<'_>,
        program: &Path,
        port: u16,
        options: &[&str],
    ) -> Result<Self, String> {
        let mut command = Command::new(program);
        command.args(["serve-softhsm", "--for-load", "--port", &port.to_string()]).args(options);
        if let Kind::Sample(sample) = kind {
            command.arg("--sample").arg(sample);
        }
        let is_tls = options.contains(&"--tls");
        let scheme = if is_tls { "https" } else { "http" };
        let directory = directory()?;
        command.arg("--directory").arg(directory.path());
        let mut target = TargetArguments::new(format!("{scheme}://127.0.0.1:{port}"));
        target.ca = is_tls.then(|| directory.path().join("certificate.pem"));
        Self::spawn(command, &target, directory).await
    }

    /// The server that does next to nothing.
    ///
    /// # Errors
    /// When it does not come to listen.
    pub(crate) async fn start_bare(program: &Path, port: u16) -> Result<Self, String> {
        let mut command = Command::new(program);
        command.args(["--port", &port.to_string()]);
        let target = TargetArguments::new(format!("http://127.0.0.1:{port}"));
        Self::spawn(command, &target, directory()?).await
    }

    async fn spawn(
        mut command: Command,
        target: &TargetArguments,
        directory: tempfile::TempDir,
    ) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {command:?}: {error}"))?;
        let out = child.stdout.take();
        let listens = async {
            let mut lines = BufReader::new(out?).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("listen") {
                    return Some(());
                }
            }
            None
        };
        // Made before anything can go wrong, so that the process is ended with it.
        let child = Process(child);
        if timeout(START_MAX, listens).await.ok().flatten().is_none() {
            return Err(format!("{} does not come to listen", target.endpoint));
        }
        Ok(Self { child, target: Arc::new(Target::find(target)?), _directory: directory })
    }

    /// Ends it, and waits until it has.
    ///
    /// # Errors
    /// When it does not end.
    pub(crate) async fn stop(mut self) -> Result<(), String> {
        self.child.terminate();
        match timeout(STOP_MAX, self.child.0.wait()).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(format!("the server of {} does not end", self.target.endpoint)),
        }
    }
}

/// A process that is told to end when nobody holds it any more. It has a child of its own, so killing it would not do.
struct Process(Child);

impl Process {
    fn terminate(&self) {
        let id = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // It may just have ended by itself.
            let _ = kill_process(id, Signal::TERM);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.terminate();
    }
}

fn directory() -> Result<tempfile::TempDir, String> {
    tempfile::Builder::new()
        .prefix("xks-floors-")
        .tempdir()
        .map_err(|error| format!("cannot make a directory: {error}"))
}
