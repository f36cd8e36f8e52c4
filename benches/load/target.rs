//! Which proxy: where it is, who signs, and which process it is.
//!
//! Place on the map: part of the command line; `connection` connects to it.

use crate::process;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use xks_proxy::secret::Secret;

/// What the public test client of AWS, and so `cargo xtask serve-softhsm`, agree on. It protects nothing.
const URI_PREFIX: &str = "example/uri/path/prefix";
const KEY: &str = "foo";
const REGION: &str = "us-east-1";
const ACCESS_KEY_ID: &str = "BETWEEN2TENAND3TENCHARACTERS";
const TEST_CLIENT_SECRET: &str = "PleaseReplaceThisWithSomeSecretOfLength43To64";

/// How long connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The command line's words on a proxy. What is left out is as `cargo xtask serve-softhsm` has it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TargetArguments {
    /// The proxy's address, such as http://127.0.0.1:8080 or https://localhost:8443.
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: String,
    /// The path before /kms/xks/v1; "" for none.
    #[arg(long, value_name = "PATH", default_value = URI_PREFIX)]
    pub(crate) uri_prefix: String,
    /// The external key's id.
    #[arg(long, value_name = "ID", default_value = KEY)]
    pub(crate) key: String,
    /// The region to sign for.
    #[arg(long, value_name = "REGION", default_value = REGION)]
    pub(crate) region: String,
    /// Who signs.
    #[arg(long, value_name = "ID", default_value = ACCESS_KEY_ID)]
    pub(crate) access_key_id: String,
    /// File with the secret access key. Left out, it is the public one of AWS's test client.
    #[arg(long, value_name = "FILE", conflicts_with = "secret_env")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Environment variable with the secret access key.
    #[arg(long, value_name = "NAME")]
    pub(crate) secret_env: Option<String>,
    /// PEM file with the certificate authority, or the self-signed certificate, that an https endpoint shows.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The proxy's process, for its CPU time and memory. Found by the listening port when left out.
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Load an endpoint that is not on this machine. Only do so to one that is yours.
    #[arg(long)]
    pub(crate) i_own_this_endpoint: bool,
}

impl TargetArguments {
    /// All defaults but for the address.
    pub(crate) fn new(endpoint: String) -> Self {
        Self {
            endpoint,
            uri_prefix: URI_PREFIX.into(),
            key: KEY.into(),
            region: REGION.into(),
            access_key_id: ACCESS_KEY_ID.into(),
            secret_file: None,
            secret_env: None,
            ca: None,
            pid: None,
            i_own_this_endpoint: false,
        }
    }
}

/// A proxy that can be loaded.
pub(crate) struct Target {
    pub(crate) endpoint: String,
    pub(crate) address: SocketAddr,
    /// The host header, as the URL has it.
    pub(crate) host: String,
    /// Set for https.
    pub(crate) tls: Option<Tls>,
    /// Empty, or a slash and the prefix.
    pub(crate) base_path: String,
    pub(crate) key: String,
    pub(crate) region: String,
    pub(crate) access_key_id: String,
    pub(crate) secret: Secret,
    /// Unknown for a proxy on another machine, or of another user.
    pub(crate) pid: Option<u32>,
}

/// How to speak TLS with it.
pub(crate) struct Tls {
    pub(crate) config: Arc<rustls::ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

impl Target {
    /// Everything that can be known before connecting.
    ///
    /// # Errors
    /// One line that says what is wrong and what to do.
    pub(crate) fn find(arguments: &TargetArguments) -> Result<Self, String> {
        let endpoint = arguments.endpoint.trim_end_matches('/').to_owned();
        let uri: http::Uri = endpoint
            .parse()
            .map_err(|_| format!("{endpoint:?} is no URL: write one such as http://127.0.0.1:8080"))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("{endpoint:?}: write http:// or https:// before the host")),
        };
        if uri.path() != "/" || uri.query().is_some() {
            return Err(format!("{endpoint}: leave the path out, and name it with --uri-prefix"));
        }
        let (Some(host), Some(authority)) = (uri.host(), uri.authority()) else {
            return Err(format!("{endpoint}: there is no host in it"));
        };
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = (bare, port)
            .to_socket_addrs()
            .map_err(|error| format!("{endpoint}: {error}"))?
            // The daemon of serve-softhsm listens on IPv4, while localhost is often IPv6 first.
            .min_by_key(SocketAddr::is_ipv6)
            .ok_or_else(|| format!("{endpoint}: {host} has no address"))?;
        if !address.ip().is_loopback() && !arguments.i_own_this_endpoint {
            return Err(format!(
                "{endpoint} is not on this machine: add --i-own-this-endpoint if it is yours to load"
            ));
        }
        let tls = match (is_tls, &arguments.ca) {
            (false, None) => None,
            (false, Some(_)) => return Err(format!("{endpoint} is not https, so it needs no --ca")),
            (true, None) => {
                return Err(format!("{endpoint} needs --ca FILE, the authority of its certificate"));
            }
            (true, Some(file)) => {
                let name = ServerName::try_from(bare.to_owned())
                    .map_err(|_| format!("{endpoint}: {bare} is no name a certificate can have"))?;
                Some(Tls { config: Arc::new(client_config(file)?), name })
            }
        };
        let prefix = arguments.uri_prefix.trim_matches('/');
        Ok(Self {
            address,
            host: authority.as_str().to_owned(),
            tls,
            base_path: if prefix.is_empty() { String::new() } else { format!("/{prefix}") },
            key: arguments.key.clone(),
            region: arguments.region.clone(),
            access_key_id: arguments.access_key_id.clone(),
            secret: secret(arguments)?,
            pid: arguments
                .pid
                .or_else(|| address.ip().is_loopback().then(|| process::listening_on(port)).flatten()),
            endpoint,
        })
    }
}

impl Target {
    /// Whether anybody listens there.
    ///
    /// # Errors
    /// One line that says that nobody does.
    pub(crate) async fn answers(&self) -> Result<(), String> {
        let connecting = tokio::net::TcpStream::connect(self.address);
        match tokio::time::timeout(CONNECT_MAX, connecting).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("nobody serves {}: {error}; start the proxy first", self.endpoint)),
            Err(_) => Err(format!("nobody serves {}: no connection in five seconds", self.endpoint)),
        }
    }
}

fn secret(arguments: &TargetArguments) -> Result<Secret, String> {
    let text = match (&arguments.secret_file, &arguments.secret_env) {
        (Some(file), _) => std::fs::read_to_string(file)
            .map_err(|error| format!("cannot read {}: {error}", file.display()))?,
        (None, Some(name)) => {
            std::env::var(name).map_err(|_| format!("the environment variable {name} holds no secret"))?
        }
        (None, None) => TEST_CLIENT_SECRET.to_owned(),
    };
    Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

fn client_config(ca: &Path) -> Result<rustls::ClientConfig, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", ca.display());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| wrong(&error))? {
        roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"no certificate in it"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        target: TargetArguments,
    }

    fn find(words: &[&str]) -> Result<Target, String> {
        let words = [&["load", "--endpoint"], words].concat();
        Target::find(&Line::try_parse_from(words).unwrap().target)
    }

    #[test]
    fn a_target_is_found_with_the_defaults_of_serve_softhsm() {
        let target = find(&["http://127.0.0.1:8080/"]).ok().unwrap();
        assert_eq!((target.host.as_str(), target.address.port()), ("127.0.0.1:8080", 8080));
        assert_eq!(target.base_path, "/example/uri/path/prefix");
        assert_eq!(find(&["http://127.0.0.1", "--uri-prefix", ""]).ok().unwrap().base_path, "");
    }

    #[test]
    fn mistakes_are_told_in_one_line() {
        for (words, part) in [
            (&["127.0.0.1:8080"][..], "write http:// or https://"),
            (&["http://127.0.0.1:8080/example"], "--uri-prefix"),
            (&["http://192.0.2.1:8080"], "--i-own-this-endpoint"),
            (&["https://127.0.0.1"], "--ca FILE"),
            (&["http://127.0.0.1", "--ca", "x"], "needs no --ca"),
            (&["https://127.0.0.1", "--ca", "/nowhere"], "/nowhere"),
            (&["http://127.0.0.1", "--secret-file", "/nowhere"], "cannot read /nowhere"),
            (&["http://127.0.0.1", "--secret-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE holds no secret"),
        ] {
            let message = find(words).err().unwrap();
            assert!(message.contains(part) && !message.contains('\n'), "{words:?}: {message}");
        }
    }
}
