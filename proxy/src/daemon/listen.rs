//! Opens the sockets that the configuration names.

use rustix::net::sockopt::set_ipv6_v6only;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket};
use xks_proxy::config::{Config, ConfigError, Placed};
use xks_proxy::server::BACKLOG;

/// All of them, or the reason at its line.
pub(crate) fn bind(config: &Config) -> Result<Vec<TcpListener>, ConfigError> {
    config.listen.iter().map(|listen| bind_one(config, listen)).collect()
}

/// One of those, or that of `[ops]`; what is wrong is said at the line that names it.
pub(crate) fn bind_one(config: &Config, listen: &Placed<SocketAddr>) -> Result<TcpListener, ConfigError> {
    open(listen.value, &config.listen).map_err(|error| {
        let (why, advice) = explain(&error);
        let message = format!("cannot listen on {}: {why}: {advice}", listen.value);
        // Whoever has the port may end, and a machine may get its addresses late.
        ConfigError { retriable: true, ..config.error(listen.line, message) }
    })
}

fn open(address: SocketAddr, all: &[Placed<SocketAddr>]) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Whether [::] takes IPv4 too is the system's choice (Linux: yes). Beside an IPv4 address on the same port it must
    // not, or the port would be in use by ourselves.
    let ipv4_has_its_own = |other: &Placed<SocketAddr>| {
        other.value.is_ipv4() && other.value.port() == address.port() && address.port() != 0
    };
    if address.is_ipv6() && address.ip().is_unspecified() && all.iter().any(ipv4_has_its_own) {
        set_ipv6_v6only(&socket, true)?;
    }
    // A restart must not wait for the connections of the process before to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn explain(error: &io::Error) -> (String, &'static str) {
    match error.kind() {
        ErrorKind::AddrInUse => {
            ("the port is in use".to_owned(), "stop the process that has it, or change `listen`")
        }
        ErrorKind::PermissionDenied => (
            "permission denied".to_owned(),
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; grant it, or change `listen`",
        ),
        ErrorKind::AddrNotAvailable => ("this machine has no such address".to_owned(), "change `listen`"),
        _ => (error.to_string(), "change `listen`"),
    }
}
