//! Where a real proxy is: its URL, its addresses, and TLS to it.
//!
//! Place on the map: [`hostile`](crate::hostile) aims at one, [`kms_endpoint`](crate::kms_endpoint) has one behind it.
//! This is the one module of the crate that opens real connections.

use crate::kms::LocalFuture;
use crate::kms::client::{ClientTls, Dial, Io, crypto_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A proxy's address, resolved.
pub struct RealEndpoint {
    /// Scheme and authority, such as `https://localhost:8443`.
    pub url: String,
    /// Host and port as in the URL, such as `localhost:8443`.
    pub authority: String,
    /// The host alone, without the brackets of an IPv6 address.
    pub host: String,
    /// At least one.
    pub addresses: Vec<SocketAddr>,
    /// For `https`.
    pub tls: Option<ClientTls>,
}

impl RealEndpoint {
    /// Reads and resolves the URL that the command line option `option` gives. `authorities_pem` holds the certificates
    /// to trust, for `https`; `tls_name` is the name that the proxy's certificate must carry, the URL's host otherwise.
    ///
    /// # Errors
    /// One line: what is wrong with the URL, and what to do.
    pub async fn open(
        option: &str,
        url: &str,
        authorities_pem: Option<&[u8]>,
        tls_name: Option<&str>,
    ) -> Result<Self, String> {
        let (uses_tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(format!("{option} {url}: give a URL such as http://localhost:8000")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(format!(
                "{option} {url}: give scheme, host and port only; the path goes into --uri-path-prefix"
            ));
        }
        let (host, port) = host_and_port(authority, if uses_tls { 443 } else { 80 })
            .ok_or_else(|| format!("{option} {url}: the host or the port is not one"))?;
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
            .await
            .map_err(|error| format!("{option} {url}: cannot resolve {host}: {error}"))?
            .collect();
        if addresses.is_empty() {
            return Err(format!("{option} {url}: {host} has no address"));
        }
        let tls = match (uses_tls, authorities_pem) {
            (true, Some(pem)) => {
                let server_name = match tls_name {
                    Some(name) => server_name("--tls-name", name)?,
                    None => server_name(option, host)?,
                };
                Some(ClientTls { connector: connector(pem)?, server_name })
            }
            (true, None) => {
                return Err(format!(
                    "{option} {url}: https needs --ca FILE, the certificate (PEM) of the authority to trust"
                ));
            }
            (false, Some(_)) => return Err(format!("{option} {url}: --ca is for https endpoints")),
            (false, None) if tls_name.is_some() => {
                return Err(format!("{option} {url}: --tls-name is for https endpoints"));
            }
            (false, None) => None,
        };
        Ok(Self {
            url: format!("{}://{authority}", if uses_tls { "https" } else { "http" }),
            authority: authority.to_owned(),
            host: host.to_owned(),
            addresses,
            tls,
        })
    }

    /// Opens a TCP connection to the first address that takes one.
    ///
    /// # Errors
    /// Those of TCP.
    #[expect(clippy::disallowed_methods, reason = "the door to real proxies")]
    pub async fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(self.addresses.as_slice()).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Dial for RealEndpoint {
    fn connect<'a>(&'a self, _kms_host: usize) -> LocalFuture<'a, std::io::Result<Box<dyn Io>>> {
        Box::pin(async move { Ok(Box::new(self.connect().await?) as Box<dyn Io>) })
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

fn server_name(option: &str, host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned()).map_err(|error| format!("{option}: {host}: {error}"))
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
    let provider = Arc::new(crypto_provider());
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
}
