//! This machine: the ports, and how many files a process may have open.
//!
//! Place on the map: part of `doctor`.

use super::report::Report;
use crate::daemon::open_files::{most, needed, sessions};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;
use xks_proxy::config::{Config, Placed};

/// How long another process may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn check(config: &Config, report: &mut Report) {
    config.listen.iter().for_each(|listen| port(listen, &|address| holder(config, address), report));
    config.ops.iter().for_each(|ops| port(ops, &ops_holder, report));
    open_files(config, report);
}

/// `holder` says who has the port when we cannot.
fn port(listen: &Placed<SocketAddr>, holder: &dyn Fn(SocketAddr) -> Holder, report: &mut Report) {
    let (address, line) = (listen.value, listen.line);
    #[expect(
        clippy::disallowed_methods,
        reason = "the doctor tries each of the daemon's sockets, and closes it at once"
    )]
    let tried = std::net::TcpListener::bind(address);
    let Err(error) = tried else {
        let says = if address.port() == 0 { "the system chooses a free one" } else { "free" };
        report.ok("port", format!("{address}: {says}"));
        return;
    };
    let starts_not = "The proxy does not start.";
    match error.kind() {
        ErrorKind::AddrInUse => match holder(address) {
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
    let known = connect(address).and_then(|stream| match &config.tls {
        Some(files) => super::peer::shows_certificate(stream, &files.certificate_file.value),
        None => answers_ping(stream, &config.settings.ping_path).map(|pong| pong.then_some(())),
    });
    known.map_or_else(silent, |known| match known {
        Some(()) => Holder::Proxy,
        None if config.tls.is_some() => {
            Holder::Unknown("it does not speak TLS with the configured certificate".to_owned())
        }
        None => Holder::Unknown(format!("it does not answer {} as one", config.settings.ping_path)),
    })
}

/// Who has the port of `[ops]`: a proxy says there that it lives.
fn ops_holder(address: SocketAddr) -> Holder {
    let answer = connect(address).and_then(|stream| get(stream, "/livez"));
    answer.map_or_else(silent, |answer| match answer.ends_with("livez check passed\n") {
        true => Holder::Proxy,
        false => Holder::Unknown("it does not answer /livez as one".to_owned()),
    })
}

fn silent(error: std::io::Error) -> Holder {
    Holder::Unknown(format!("it does not answer ({error})"))
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let stream = TcpStream::connect_timeout(&SocketAddr::new(ip, address.port()), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// 200 or, while draining, 503, with the proxy's body.
fn answers_ping(stream: TcpStream, path: &str) -> std::io::Result<bool> {
    let answer = get(stream, path)?;
    Ok(answer.starts_with("HTTP/1.1 ")
        && [r#"{"status":"ok"}"#, r#"{"status":"draining"}"#].iter().any(|body| answer.ends_with(body)))
}

fn get(mut stream: TcpStream, path: &str) -> std::io::Result<String> {
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: doctor\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(4_096).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn open_files(config: &Config, report: &mut Report) {
    let (needed, sessions) = (needed(config), sessions(config));
    let connections = config.settings.limits.connections_max;
    match most() {
        most if most < needed => report.warning(
            "open files",
            format!(
                "this process may have {most} open; {connections} connections, {sessions} sessions and the rest want \
                 {needed}"
            ),
            "At the limit, new connections of KMS are not accepted.",
            format!("Raise it for the daemon (LimitNOFILE={needed} in its systemd unit, `ulimit -n`), or lower connections_max."),
        ),
        most => report.ok("open files", format!("up to {most}, at most {needed} wanted")),
    }
}
