//! Where the proxy under test is, and whether it may be aimed at.
//!
//! Place on the map: the command builds an [`Endpoint`] of its arguments; [`wire`](super::wire) connects to it. This is
//! the one module of the crate that opens real connections.

use crate::kms::client::Io;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A proxy's address, resolved.
pub struct Endpoint {
    /// Scheme and authority, such as `https://localhost:8443`.
    pub url: String,
    /// The authority, which is also the value of `Host`.
    pub authority: String,
    addresses: Vec<SocketAddr>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Endpoint {
    /// Reads and resolves a URL. `authorities_pem` holds the certificates to trust, for `https`. An address that is not
    /// this machine's is refused unless `owned`.
    ///
    /// # Errors
    /// One line: what is wrong with the URL, and what to do.
    pub async fn open(url: &str, authorities_pem: Option<&[u8]>, owned: bool) -> Result<Self, String> {
        let (uses_tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(format!("--endpoint {url}: give a URL such as http://localhost:8000")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(format!(
                "--endpoint {url}: give scheme, host and port only; the path goes into --uri-path-prefix"
            ));
        }
        let (host, port) = host_and_port(authority, if uses_tls { 443 } else { 80 })
            .ok_or_else(|| format!("--endpoint {url}: the host or the port is not one"))?;
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
            .await
            .map_err(|error| format!("--endpoint {url}: cannot resolve {host}: {error}"))?
            .collect();
        if addresses.is_empty() {
            return Err(format!("--endpoint {url}: {host} has no address"));
        }
        let strange = addresses.iter().map(SocketAddr::ip).find(|ip| !is_loopback(*ip));
        if let (Some(ip), false) = (strange, owned) {
            return Err(format!(
                "--endpoint {url}: {ip} is not this machine; hostile requests go to others' machines only with \
                 --i-own-this-endpoint"
            ));
        }
        let tls = match (uses_tls, authorities_pem) {
            (true, Some(pem)) => Some((connector(pem)?, server_name(host)?)),
            (true, None) => {
                return Err(format!(
                    "--endpoint {url}: https needs --ca FILE, the certificate (PEM) of the authority to trust"
                ));
            }
            (false, Some(_)) => return Err(format!("--endpoint {url}: --ca is for https endpoints")),
            (false, None) => None,
        };
        Ok(Self {
            url: format!("{}://{authority}", if uses_tls { "https" } else { "http" }),
            authority: authority.to_owned(),
            addresses,
            tls,
        })
    }

    /// Whether connections are encrypted.
    pub fn uses_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Opens a connection to the first address that takes one.
    ///
    /// # Errors
    /// Those of TCP and TLS.
    #[expect(clippy::disallowed_methods, reason = "the door to real proxies")]
    pub async fn connect(&self) -> std::io::Result<Box<dyn Io>> {
        let stream = TcpStream::connect(self.addresses.as_slice()).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), stream).await?)),
        }
    }
}

fn host_and_port(authority: &str, default: u16) -> Option<(&str, u16)> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match rest {
        "" => default,
        _ => rest.strip_prefix(':')?.parse().ok().filter(|port| *port != 0)?,
    };
    (!host.is_empty()).then_some((host, port))
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned()).map_err(|error| format!("--endpoint: {host}: {error}"))
}

fn connector(pem: &[u8]) -> Result<TlsConnector, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("--ca: {error}; give certificates in PEM");
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"there is no certificate in the file"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_taken_apart() {
        for (authority, expected) in [
            ("localhost", Some(("localhost", 80))),
            ("localhost:8000", Some(("localhost", 8_000))),
            ("[::1]:8000", Some(("::1", 8_000))),
            ("[::1]", Some(("::1", 80))),
            ("localhost:", None),
            ("localhost:0", None),
            ("localhost:x", None),
            (":80", None),
            ("[::1", None),
        ] {
            assert_eq!(host_and_port(authority, 80), expected, "{authority}");
        }
    }

    /// An IPv4 address in IPv6 clothes is what it is.
    #[test]
    fn only_this_machine_is_loopback() {
        for (ip, expected) in
            [("127.0.0.1", true), ("127.8.8.8", true), ("::1", true), ("::ffff:127.0.0.1", true)]
        {
            assert_eq!(is_loopback(ip.parse().unwrap()), expected, "{ip}");
        }
        for ip in ["192.0.2.1", "::ffff:192.0.2.1", "0.0.0.0", "::", "2001:db8::1"] {
            assert!(!is_loopback(ip.parse().unwrap()), "{ip}");
        }
    }
}
