//! Two network namespaces with a TUN device each, and the processes in them. Dropping a site removes it.
//!
//! Place on the map: one for each point that is being measured.

use crate::relay::Relay;
use scenarios::net::calibration::{Figures, Point};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tun_rs::{DeviceBuilder, SyncDevice};

/// What this machine lacks, in one line for the user.
pub(super) struct Missing(pub(super) String);

/// Beyond the measured time, for everything to start and end.
const GRACE: Duration = Duration::from_secs(30);
pub(super) const CLIENT_ADDRESS: &str = "10.99.0.1";
pub(super) const SERVER_ADDRESS: &str = "10.99.0.2";

/// What a container lacks in which TUN devices cannot be made.
const NOT_GIVEN: &str =
    "the container was not given them (--device /dev/net/tun --cap-add NET_ADMIN --cap-add SYS_ADMIN)";

/// Looks for everything that a calibration needs, and puts this process before others.
pub(super) fn check() -> Result<(), Missing> {
    if !rustix::process::geteuid().is_root() {
        return Err(Missing(
            "network namespaces and TUN devices need root: run `sudo -E cargo xtask calibrate-net`".into(),
        ));
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return Err(Missing(format!(
            "there is no /dev/net/tun: this kernel has no TUN devices, or {NOT_GIVEN}"
        )));
    }
    // It may be there, and forbidden.
    if let Err(error) =
        DeviceBuilder::new().name(format!("xkc{}t", std::process::id() % 100_000)).build_sync()
    {
        return Err(Missing(format!(
            "cannot make a TUN device with /dev/net/tun: {error}: perhaps {NOT_GIVEN}"
        )));
    }
    let ip = std::process::Command::new("ip").arg("-Version").stdout(Stdio::null()).status();
    if ip.is_err() {
        return Err(Missing("the command `ip` is missing: install the package iproute2".into()));
    }
    let name = format!("xks-calibrate-{}-test", std::process::id());
    let run = |verb: &str| std::process::Command::new("ip").args(["netns", verb, &name]).output();
    match run("add") {
        Ok(output) if output.status.success() => {
            let _ = run("delete");
        }
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Missing(format!(
                "cannot make a network namespace (CAP_SYS_ADMIN and CAP_NET_ADMIN are needed): {why}"
            )));
        }
        Err(error) => return Err(Missing(format!("cannot run `ip`: {error}"))),
    }
    // A relay that waits for a processor delays every packet. Without the right to it, the report shows what came of it.
    let _ = rustix::process::setpriority_process(None, -20);
    // Where the kernel shares processors among sessions first (sched(7), "The autogroup feature"), that alone does little.
    let _ = std::fs::write("/proc/self/autogroup", "-20");
    Ok(())
}

/// See the module.
pub(super) struct Site {
    clients: Namespace,
    server: Namespace,
}

/// A namespace, deleted when dropped, and the device that leads out of it.
struct Namespace {
    name: String,
    device: Arc<SyncDevice>,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The device goes with its last handle, the namespace with its last process.
        let _ = std::process::Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

async fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().await;
    let output = output.map_err(|error| format!("cannot run ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

impl Namespace {
    async fn new(place: usize, role: &str, address: &str, peer: &str) -> Result<Self, String> {
        let name = format!("xks-calibrate-{}-{place}-{role}", std::process::id());
        let device_name = format!("xkc{}{place}{}", std::process::id() % 100_000, &role[..1]);
        let device = DeviceBuilder::new()
            .name(&device_name)
            .build_sync()
            .map_err(|error| format!("cannot make the TUN device {device_name}: {error}"))?;
        ip(&["netns", "add", &name]).await?;
        let namespace = Self { name: name.clone(), device: Arc::new(device) };
        ip(&["link", "set", &device_name, "netns", &name]).await?;
        ip(&["-n", &name, "address", "add", address, "peer", peer, "dev", &device_name]).await?;
        ip(&["-n", &name, "link", "set", &device_name, "mtu", "1500", "txqueuelen", "10000", "up"]).await?;
        ip(&["-n", &name, "link", "set", "lo", "up"]).await?;
        // Whatever this machine is set to; every namespace may choose Reno, and requests of a packet do not tell it from CUBIC.
        for (setting, value) in [("tcp_congestion_control", "reno"), ("ip_local_port_range", "2000 65000")] {
            let write = format!("echo {value} > /proc/sys/net/ipv4/{setting}");
            ip(&["netns", "exec", &name, "sh", "-c", &write]).await?;
        }
        Ok(namespace)
    }

    /// This program again, inside.
    fn program(&self, arguments: &[String]) -> Result<Command, String> {
        let itself = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(itself).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        Ok(command)
    }
}

impl Site {
    /// `place` tells apart the sites that exist at the same time.
    pub(super) async fn new(place: usize) -> Result<Self, String> {
        Ok(Self {
            clients: Namespace::new(place, "clients", CLIENT_ADDRESS, SERVER_ADDRESS).await?,
            server: Namespace::new(place, "server", SERVER_ADDRESS, CLIENT_ADDRESS).await?,
        })
    }

    pub(super) async fn start_server(&self) -> Result<Process, String> {
        Process::start(self.server.program(&["server".into()])?).await
    }

    pub(super) async fn start_client(
        &self,
        point: &Point,
        clients: u32,
        until: Duration,
    ) -> Result<Process, String> {
        let mut arguments = vec![
            "client".to_owned(),
            format!("--clients={clients}"),
            format!("--until-ms={}", until.as_millis()),
        ];
        if point.cold {
            arguments.push("--cold".into());
        }
        let mut process = Process::start(self.clients.program(&arguments)?).await?;
        process.limit = until + GRACE;
        Ok(process)
    }

    /// Packets pass from now on.
    pub(super) fn relay(&self, point: Point) -> Relay {
        Relay::start(Arc::clone(&self.clients.device), Arc::clone(&self.server.device), point)
    }
}

/// A process inside, which says `ready` and waits for a word.
pub(super) struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    limit: Duration,
}

impl Process {
    async fn start(mut command: Command) -> Result<Self, String> {
        let mut child = command.spawn().map_err(|error| format!("cannot start {command:?}: {error}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (input, output) = input.zip(output).ok_or("a process without its pipes")?;
        let mut process = Self { child, input, output: BufReader::new(output), limit: GRACE };
        let mut word = String::new();
        process.read(async |output| output.read_line(&mut word).await).await?;
        if word.trim() == "ready" { Ok(process) } else { Err(format!("{command:?} said {word:?}")) }
    }

    async fn read(
        &mut self,
        read: impl AsyncFnOnce(&mut BufReader<ChildStdout>) -> std::io::Result<usize>,
    ) -> Result<(), String> {
        match tokio::time::timeout(self.limit, read(&mut self.output)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("a process in a namespace: {error}")),
            Err(_) => Err("a process in a namespace did not end in time".into()),
        }
    }

    /// Begin.
    pub(super) async fn go(&mut self) -> Result<(), String> {
        self.input.write_all(b"go\n").await.map_err(|error| format!("a process in a namespace: {error}"))
    }

    /// Waits for the end, and what came of it.
    pub(super) async fn figures(&mut self) -> Result<Figures, String> {
        let mut text = String::new();
        self.read(async |output| output.read_to_string(&mut text).await).await?;
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [calls, over, p50_ms, p99_ms] = numbers.as_slice() else {
            return Err(format!("the clients said {text:?}"));
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of calls")]
        let calls = *calls as u64;
        Ok(Figures { calls, over: *over, p50_ms: *p50_ms, p99_ms: *p99_ms })
    }

    pub(super) async fn stop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill().await;
    }
}
