//! The daemon under test: started, watched, told to reload, stopped.
//!
//! Place on the map: owned by `main`, used by `script`.

use crate::Options;
use crate::tally::Usage;
use crate::world::World;
use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

/// How long anything the daemon is told may take until its log says so.
const PATIENCE: Duration = Duration::from_secs(20);

/// Most lines of the daemon's own that are kept.
const LOG_MAX: usize = 10_000;

pub(crate) struct Daemon {
    child: Child,
    id: u32,
    address: SocketAddr,
    lines: UnboundedReceiver<String>,
    log: Vec<String>,
}

/// The daemon's words, without the audit events, of which there are millions.
fn is_own_word(line: &str) -> bool {
    !line.contains(r#""request_id""#)
}

impl Daemon {
    pub(crate) async fn start(options: &Options, world: &World) -> Result<Self, String> {
        let softhsm = world.path("softhsm2.conf");
        // SoftHSM2 finds its directory through the environment of its process, so the token is made in one of its own.
        let made = Command::new(&options.token_maker)
            .arg("make-token")
            .arg(&options.module)
            .env("SOFTHSM2_CONF", &softhsm)
            .status()
            .await
            .map_err(|error| format!("cannot start {}: {error}", options.token_maker.display()))?;
        if !made.success() {
            return Err("the token could not be made".into());
        }
        let mut child = Command::new(&options.daemon)
            .args(["serve", "--config"])
            .arg(world.config())
            .env("SOFTHSM2_CONF", &softhsm)
            .env("SIM_HSM_PKCS11_MODULE", &options.module)
            .env("SIM_HSM_PKCS11_FAULTS", world.path("faults.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", options.daemon.display()))?;
        let (Some(out), Some(id)) = (child.stdout.take(), child.id()) else {
            return Err("the daemon ended at once".into());
        };
        let (tell, lines) = unbounded_channel();
        tokio::spawn(async move {
            let mut out = BufReader::new(out).lines();
            while let Ok(Some(line)) = out.next_line().await {
                if is_own_word(&line) && tell.send(line).is_err() {
                    break;
                }
            }
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut daemon = Self { child, id, address: nowhere, lines, log: Vec::new() };
        let line = daemon.hear(r#""message":"listening""#).await?;
        let json: serde_json::Value =
            serde_json::from_str(&line).map_err(|error| format!("the daemon logs no JSON: {error}"))?;
        daemon.address = json["address"]
            .as_str()
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| format!("no address in {line}"))?;
        Ok(daemon)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the daemon's log has a line with `text`.
    pub(crate) async fn hear(&mut self, text: &str) -> Result<String, String> {
        let heard = async {
            while let Some(line) = self.lines.recv().await {
                let found = line.contains(text);
                if self.log.len() < LOG_MAX {
                    self.log.push(line.clone());
                }
                if found {
                    return Some(line);
                }
            }
            None
        };
        match timeout(PATIENCE, heard).await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => Err(format!("the daemon ended before it said {text}")),
            Err(_) => Err(format!("the daemon does not say {text}; its last line: {:?}", self.log.last())),
        }
    }

    /// Whatever has been said so far is kept, and no longer waited for.
    pub(crate) fn catch_up(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            if self.log.len() < LOG_MAX {
                self.log.push(line);
            }
        }
    }

    /// The way an operator does it who trusts no file watch.
    pub(crate) async fn send_hangup(&self) -> Result<(), String> {
        self.signal("HUP").await
    }

    async fn signal(&self, name: &str) -> Result<(), String> {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.id)]).status().await;
        match sent {
            Ok(status) if status.success() => Ok(()),
            _ => Err("the daemon is gone".into()),
        }
    }

    pub(crate) fn usage(&self) -> Option<Usage> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id)).ok()?;
        let figure = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.id)).ok()?.count() as u64;
        Some(Usage { memory_kib: figure("VmRSS:")?, threads: figure("Threads:")?, descriptors })
    }

    /// Ends it as systemd would, and gives its log.
    pub(crate) async fn stop(mut self) -> Result<Vec<String>, String> {
        self.signal("TERM").await?;
        let ended = timeout(PATIENCE, self.child.wait()).await;
        self.catch_up();
        match ended {
            Ok(Ok(status)) if status.success() => Ok(self.log),
            Ok(Ok(status)) => Err(format!("the daemon ended with {status}")),
            _ => Err("the daemon does not end".into()),
        }
    }
}
