//! A daemon under attack: how to reach it, and all it says meanwhile.

use crate::authority::{Authority, client};
use crate::running::Running;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::fs::{self, File};
use std::io::BufRead;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Longer than any limit of the daemon; what takes longer has hung.
pub(crate) const HUNG: Duration = Duration::from_secs(100);

/// Requests have a deadline that a loaded machine can keep, connections the default limits but for a shorter idle time,
/// and there is room for 5,000 idle ones beside the attacks.
const LIMITS: &str = "[limits]\ndeadline_ms = 3000\nconnections_max = 6000\nin_flight_max = 2048\n\
                      first_request_timeout_ms = 20000\nidle_timeout_ms = 20000\n[reload]\nwatch_interval_ms = 0\n";

/// A connection of any kind.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Where to connect, and how. Clones are the same place.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Target {
    pub(crate) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Ready for HTTP, after the TLS handshake if there is one.
    pub(crate) async fn connect(&self) -> Box<dyn Io> {
        let tcp = self.tcp().await;
        tcp.set_nodelay(true).unwrap();
        let Some(tls) = &self.tls else { return Box::new(tcp) };
        let name = ServerName::try_from("localhost").unwrap();
        Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await.unwrap())
    }
}

/// Everything up to the end of the connection. However that ends: a server that closes with unread bytes before it
/// resets the connection, and what it sent before is read nevertheless.
pub(crate) async fn until_closed(io: &mut (impl AsyncRead + Unpin + ?Sized)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = timeout(HUNG, io.read_to_end(&mut bytes)).await.unwrap_or_else(|_| panic!("never closed"));
    bytes
}

/// A daemon, its log and its standard error.
pub(crate) struct Victim {
    pub(crate) daemon: Running,
    pub(crate) target: Target,
    log: JoinHandle<Vec<Value>>,
    directory: TempDir,
}

impl Victim {
    pub(crate) fn plain() -> Self {
        Self::start(tempfile::tempdir().unwrap(), "", None)
    }

    /// With a certificate for `localhost`.
    pub(crate) fn tls() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let authority = Authority::new("A test CA");
        let server = authority.server("localhost");
        for (name, text) in
            [("certificate.pem", server.certificate.pem()), ("key.pem", server.key.serialize_pem())]
        {
            fs::write(path(name), text).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let table = format!(
            "[server.tls]\ncertificate_file = {:?}\nkey_file = {:?}\n",
            path("certificate.pem"),
            path("key.pem")
        );
        let trusting = client(&rustls::version::TLS13, &authority, None);
        Self::start(directory, &table, Some(trusting))
    }

    fn start(directory: TempDir, table: &str, tls: Option<Arc<ClientConfig>>) -> Self {
        let standard_error = File::create(directory.path().join("stderr")).unwrap();
        let mut daemon = Running::start_with(&format!("{table}{LIMITS}"), standard_error.into());
        let lines = daemon.take_log().lines();
        // It must be read all the time, or lines are lost.
        let log = std::thread::spawn(move || {
            lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
        });
        let target = Target { address: daemon.address, tls };
        Self { daemon, target, log, directory }
    }

    /// Stops it, as an operator does, and gives back all it has logged. There was no panic.
    pub(crate) fn stop(mut self) -> Vec<Value> {
        self.daemon.signal("TERM");
        assert_eq!(self.daemon.child.wait().unwrap().code(), Some(0));
        assert_eq!(fs::read_to_string(self.directory.path().join("stderr")).unwrap(), "");
        let log = self.log.join().unwrap();
        for line in &log {
            let text = line.to_string();
            assert!(!text.contains("panic") && line["level"] != "ERROR", "{text}");
            assert!(!text.contains("log lines dropped"), "{text}");
        }
        log
    }
}
