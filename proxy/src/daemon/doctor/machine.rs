//! This machine: the port, and how many files a process may have open.
//!
//! Place on the map: part of `doctor`.

use super::report::Report;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;
use xks_proxy::config::Config;

/// How long another process may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Files beside connections and sessions: log, libraries, configuration.
const OTHER_FILES: u64 = 64;

pub(super) fn check(config: &Config, report: &mut Report) {
    port(config, report);
    open_files(config, report);
}

fn port(config: &Config, report: &mut Report) {
    let address = config.listen.value;
    #[expect(
        clippy::disallowed_methods,
        reason = "the doctor tries the daemon's one socket, and closes it at once"
    )]
    let tried = std::net::TcpListener::bind(address);
    let line = config.listen.line;
    let Err(error) = tried else {
        let says = if address.port() == 0 { "the system chooses a free one" } else { "free" };
        report.ok("port", format!("{address}: {says}"));
        return;
    };
    let starts_not = "The proxy does not start.";
    match error.kind() {
        ErrorKind::AddrInUse => match holder(config, address) {
            Holder::Proxy => report.ok("port", format!("{address}: in use by a proxy that is running")),
            Holder::Unknown(why) => report.failed(
                "port",
                format!("{address} is in use, and not by a proxy with this configuration: {why}"),
                starts_not,
                format!("Stop the process that has it (`ss -ltnp`), or change `listen` (line {line})."),
            ),
        },
        ErrorKind::PermissionDenied => report.failed(
            "port",
            format!("this user may not listen on {address}"),
            "Ports below 1024 are for root and for those with CAP_NET_BIND_SERVICE.",
            format!("Run the doctor as the daemon's user, grant it that capability, or change `listen` (line {line})."),
        ),
        ErrorKind::AddrNotAvailable => report.failed(
            "port",
            format!("this machine has no address {}", address.ip()),
            starts_not,
            format!("Write an address of this machine, or 0.0.0.0 for all (line {line})."),
        ),
        _ => report.failed(
            "port",
            format!("cannot listen on {address}: {error}"),
            starts_not,
            format!("Change `listen` (line {line})."),
        ),
    }
}

enum Holder {
    Proxy,
    Unknown(String),
}

/// Who has the port: with TLS whoever shows our certificate, without it whoever answers the ping as we do.
fn holder(config: &Config, address: SocketAddr) -> Holder {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let silent = |error: std::io::Error| Holder::Unknown(format!("it does not answer ({error})"));
    let stream = match TcpStream::connect_timeout(&SocketAddr::new(ip, address.port()), PATIENCE) {
        Ok(stream) => stream,
        Err(error) => return silent(error),
    };
    if let Err(error) =
        stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
    {
        return silent(error);
    }
    match &config.tls {
        Some(files) => super::peer::shows_certificate(stream, &files.certificate_file.value),
        None => answers_ping(stream, &config.settings.ping_path).map(|pong| pong.then_some(())),
    }
    .map_or_else(silent, |known| match known {
        Some(()) => Holder::Proxy,
        None if config.tls.is_some() => {
            Holder::Unknown("it does not speak TLS with the configured certificate".to_owned())
        }
        None => Holder::Unknown(format!("it does not answer {} as one", config.settings.ping_path)),
    })
}

/// 200 or, while draining, 503, with the proxy's body.
fn answers_ping(mut stream: TcpStream, path: &str) -> std::io::Result<bool> {
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: doctor\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(4_096).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    Ok(answer.starts_with("HTTP/1.1 ")
        && [r#"{"status":"ok"}"#, r#"{"status":"draining"}"#].iter().any(|body| answer.ends_with(body)))
}

fn open_files(config: &Config, report: &mut Report) {
    // A session of a network HSM has a connection of its own.
    let default = 16;
    let sessions: usize = config
        .hsms
        .iter()
        .map(|hsm| hsm.sessions_max.unwrap_or(default) + hsm.set_aside_max.unwrap_or(default))
        .sum();
    let connections = config.settings.limits.connections_max;
    let needed = u64::try_from(connections + sessions).unwrap_or(u64::MAX).saturating_add(OTHER_FILES);
    match open_files_max() {
        None => report.skipped("open files", "this system does not say how many a process may have open"),
        Some(most) if most < needed => report.warning(
            "open files",
            format!(
                "this process may have {most} open; {connections} connections, {sessions} sessions and the rest want \
                 {needed}"
            ),
            "At the limit, new connections of KMS are not accepted.",
            format!("Raise it for the daemon (LimitNOFILE={needed} in its systemd unit, `ulimit -n`), or lower connections_max."),
        ),
        Some(most) => report.ok("open files", format!("up to {most}, at most {needed} wanted")),
    }
}

/// The soft limit of this process, which the daemon shares when it is started in the same way.
fn open_files_max() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}
