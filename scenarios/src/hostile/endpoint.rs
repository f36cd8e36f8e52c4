//! Where the proxy under test is, and whether it may be aimed at.
//!
//! Place on the map: the command builds an [`Endpoint`] of its arguments; [`wire`](super::wire) connects to it.

use crate::kms::client::Io;
use crate::real_endpoint::RealEndpoint;
use std::net::{IpAddr, SocketAddr};

/// A proxy that hostile requests may go to.
pub struct Endpoint {
    /// Scheme and authority, such as `https://localhost:8443`.
    pub url: String,
    /// The authority, which is also the value of `Host`.
    pub authority: String,
    real: RealEndpoint,
}

impl Endpoint {
    /// Reads and resolves a URL; see [`RealEndpoint::open`]. An address that is not this machine's is refused unless
    /// `owned`.
    ///
    /// # Errors
    /// One line: what is wrong with the URL, and what to do.
    pub async fn open(url: &str, authorities_pem: Option<&[u8]>, owned: bool) -> Result<Self, String> {
        let real = RealEndpoint::open("--endpoint", url, authorities_pem, None).await?;
        let strange = real.addresses.iter().map(SocketAddr::ip).find(|ip| !is_loopback(*ip));
        if let (Some(ip), false) = (strange, owned) {
            return Err(format!(
                "--endpoint {url}: {ip} is not this machine; hostile requests go to others' machines only with \
                 --i-own-this-endpoint"
            ));
        }
        Ok(Self { url: real.url.clone(), authority: real.authority.clone(), real })
    }

    /// Whether connections are encrypted.
    pub fn uses_tls(&self) -> bool {
        self.real.tls.is_some()
    }

    /// Opens a connection to the first address that takes one.
    ///
    /// # Errors
    /// Those of TCP and TLS.
    pub async fn connect(&self) -> std::io::Result<Box<dyn Io>> {
        let stream = self.real.connect().await?;
        match &self.real.tls {
            None => Ok(Box::new(stream)),
            Some(tls) => Ok(Box::new(tls.connector.connect(tls.server_name.clone(), stream).await?)),
        }
    }
}

/// Whether an address is this machine's own, which no other machine reaches.
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

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
