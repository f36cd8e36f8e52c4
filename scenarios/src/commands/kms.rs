//! `xks-sim kms`: arguments, the socket and the exit code around [`scenarios::kms_endpoint`].

use super::exit;
use super::proxy_options::{prefix, read, secret};
use super::terminal::say;
use rustls::crypto::aws_lc_rs;
use scenarios::hostile::endpoint::is_loopback;
use scenarios::kms::Requester;
use scenarios::kms::account::{Connectivity, ProxyConfiguration};
use scenarios::kms::settings::KmsSettings;
use scenarios::kms_endpoint::Api;
use scenarios::kms_endpoint::journal::Journal;
use scenarios::kms_endpoint::server::{Limits, serve};
use scenarios::real_endpoint::RealEndpoint;
use scenarios::scenario::read_kms_settings;
use std::cell::Cell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use xks_proxy::secret::Secret;

/// The host of the key store made at the start, where that of `--proxy` is none that KMS would take.
const EXAMPLE_HOST: &str = "xks-proxy.example.com";
const KEY_STORE_NAME: &str = "xks-sim";

#[derive(clap::Args)]
pub(crate) struct KmsArguments {
    /// Where the proxy is: scheme, host and port, such as https://localhost:8443. Every key store's endpoint leads there.
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// For https: the certificates (PEM) of the authorities to trust.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// For https: the name that the proxy's certificate must carry. [default: the host of --proxy]
    #[arg(long, value_name = "NAME")]
    tls_name: Option<String>,
    /// The address to listen on; port 0 lets the system choose.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8181")]
    listen: String,
    /// Yes, listen on an address that other machines can reach, although no caller's signature is verified.
    #[arg(long)]
    open_to_the_network: bool,
    /// The Region of the ARNs, and of the signatures to the proxy.
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    region: String,
    /// The account of the ARNs, twelve digits.
    #[arg(long, value_name = "NUMBER", default_value = "111122223333")]
    account: String,
    /// Make a key store and a KMS key of this external key at the start, and print the key's ARN.
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
    /// For that key store: what stands before /kms/xks/v1 in the proxy's paths, such as /example/uri/path/prefix.
    #[arg(long, value_name = "PATH", default_value = "")]
    uri_path_prefix: String,
    /// For that key store: the access key id that requests are signed with.
    #[arg(long, value_name = "ID")]
    access_key_id: Option<String>,
    /// For that key store: file with the secret access key. [default: the environment variable XKS_SECRET_ACCESS_KEY]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Connect, disconnect and spread changes at once, not within minutes as AWS KMS does.
    #[arg(long)]
    fast: bool,
    /// File with other settings of the model, written as in the section [kms] of a scenario: patience_ms = 500.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// The VPC that callers come from, as the proxy is told: awsSourceVpc. [default: callers come through no VPC endpoint]
    #[arg(long, value_name = "ID", requires = "source_vpce")]
    source_vpc: Option<String>,
    /// The VPC endpoint that they come through: awsSourceVpce.
    #[arg(long, value_name = "ID", requires = "source_vpc")]
    source_vpce: Option<String>,
    /// Print no line for each call.
    #[arg(long)]
    quiet: bool,
}

/// The key store to make at the start, and its one key.
struct First {
    external_key_id: String,
    uri_path: String,
    access_key_id: String,
    secret: Secret,
}

pub(crate) fn perform(arguments: &KmsArguments) -> Result<u8, String> {
    let url = arguments
        .proxy
        .as_deref()
        .ok_or("--proxy URL is missing: where is the XKS proxy, such as https://localhost:8443?")?;
    let address = listen_address(&arguments.listen, arguments.open_to_the_network)?;
    let region = &arguments.region;
    if region.is_empty() || !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(format!("--region {region}: give the name of a Region, such as eu-west-1"));
    }
    let settings = settings(arguments.settings.as_deref(), arguments.fast)?;
    let first = first(arguments)?;
    let authorities = arguments.ca.as_deref().map(|file| read(file, "--ca")).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let proxy =
            RealEndpoint::open("--proxy", url, authorities.as_deref(), arguments.tls_name.as_deref()).await?;
        let proxy = Rc::new(proxy);
        // Not before the greeting, which is the first that scripts read.
        let greeted = Rc::new(Cell::new(false));
        let (quiet, may_tell) = (arguments.quiet, Rc::clone(&greeted));
        let journal = Journal::new(Box::new(move |line| {
            if may_tell.get() && !quiet {
                // Whoever does not read the lines any more is served all the same.
                let _ = say(&format!("{line}\n"));
            }
        }));
        let api = Api::new(&arguments.account, region, settings, Rc::clone(&proxy), seed()?, journal);
        let mut api = api.map_err(|error| format!("cannot start: {error}"))?;
        if let (Some(vpc), Some(vpce)) = (&arguments.source_vpc, &arguments.source_vpce) {
            api.set_source_vpc(vpc, vpce);
        }
        let api = Rc::new(api);
        let listener = listen(address).await?;
        let here = listener.local_addr().map_err(|error| format!("cannot listen: {error}"))?;
        let key_arn = match first {
            None => None,
            Some(first) => Some(make_first(&api, &proxy, first).await?),
        };
        let end = asked_to_end()?;
        say(&greeting(arguments, here, &proxy, key_arn.as_deref()))?;
        greeted.set(true);
        serve(listener, Rc::clone(&api), Limits::default(), end).await;
        conclude(&api)
    })
}

fn listen_address(text: &str, open_to_the_network: bool) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| format!("--listen {text}: give an IP address and a port, such as 127.0.0.1:8181"))?;
    if is_loopback(address.ip()) || open_to_the_network {
        return Ok(address);
    }
    Err(format!(
        "--listen {text}: other machines can reach {}, and no caller's signature is verified; listen on 127.0.0.1, or say \
         --open-to-the-network",
        address.ip()
    ))
}

#[expect(clippy::disallowed_methods, reason = "the one socket that this command serves")]
async fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}; choose another address with --listen"))
}

fn settings(file: Option<&Path>, fast: bool) -> Result<KmsSettings, String> {
    let text = match file {
        None => String::new(),
        Some(file) => String::from_utf8(read(file, "--settings")?)
            .map_err(|_| format!("--settings: {} is not text", file.display()))?,
    };
    let origin = file.map(|file| file.display().to_string()).unwrap_or_default();
    let mut settings = read_kms_settings(&origin, &text).map_err(|error| error.to_string())?;
    // A scenario tries both forms on the proxy; real callers come from where they come from, and a policy of the proxy's
    // may go by it.
    if !toml::from_str::<toml::Table>(&text).is_ok_and(|table| table.contains_key("source_vpc_share")) {
        settings.source_vpc_share = 0.0;
    }
    settings.check().map_err(|error| format!("--settings: {error}"))?;
    if fast {
        settings.connect_s = 0;
        settings.disconnect_s = 0;
        settings.credential_spread_s = 0;
        settings.propagation_ms = 0;
        settings.connection_propagation_ms = 0;
        settings.new_key_propagation_ms = 0;
    }
    Ok(settings)
}

fn first(arguments: &KmsArguments) -> Result<Option<First>, String> {
    let Some(external_key_id) = arguments.key_id.clone() else {
        let useless = [
            ("--access-key-id", arguments.access_key_id.is_some()),
            ("--secret-file", arguments.secret_file.is_some()),
            ("--uri-path-prefix", !arguments.uri_path_prefix.is_empty()),
        ];
        return match useless.into_iter().find(|(_, given)| *given) {
            None => Ok(None),
            Some((name, _)) => Err(format!(
                "{name} is for the key store made at the start: name its external key with --key-id, or leave {name} out"
            )),
        };
    };
    let access_key_id =
        arguments.access_key_id.clone().ok_or("--access-key-id is missing: what does KMS sign with?")?;
    Ok(Some(First {
        external_key_id,
        uri_path: format!("{}/kms/xks/v1", prefix(&arguments.uri_path_prefix)?),
        access_key_id,
        secret: secret(arguments.secret_file.as_deref())?,
    }))
}

/// 32 bytes that nobody can guess: data keys follow from them.
fn seed() -> Result<[u8; 32], String> {
    let mut seed = [0; 32];
    aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut seed)
        .map_err(|_| "cannot start: the system gives no random bytes")?;
    Ok(seed)
}

/// Creates and connects a key store and creates one key, as if long before: without the minutes that connecting takes.
async fn make_first(api: &Api, proxy: &RealEndpoint, first: First) -> Result<String, String> {
    let refused = |what: &str, exception: &str, message: &str| {
        format!("cannot make the {what} at the proxy {}: {exception}: {message}", proxy.url)
    };
    let name = proxy.tls.as_ref().map_or(proxy.host.clone(), |tls| tls.server_name.to_str().into_owned());
    let is_domain = name.contains('.') && name.parse::<std::net::IpAddr>().is_err();
    let configuration = ProxyConfiguration {
        connectivity: Connectivity::PublicEndpoint,
        uri_endpoint: format!("https://{}", if is_domain { &name } else { EXAMPLE_HOST }),
        uri_path: first.uri_path,
        access_key_id: first.access_key_id,
    };
    let account = api.account();
    let failed = |what, failure: scenarios::kms::KmsFailure| {
        refused(what, failure.exception.as_str(), &failure.message)
    };
    let id = account
        .create_custom_key_store(KEY_STORE_NAME, configuration, first.secret)
        .await
        .map_err(|failure| failed("key store", failure))?;
    let model = account.key_store(&id).map_err(|failure| failed("key store", failure))?;
    model.set_connected(true);
    let requester = Requester {
        principal_arn: "arn:aws:iam::111122223333:root",
        via_service: None,
        request_id: None,
        source_vpc: None,
    };
    let kind = ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", false);
    let key = account
        .create_key(&id, &first.external_key_id, kind, requester)
        .await
        .map_err(|failure| failed("key", failure))?;
    Ok(key.arn)
}

fn greeting(
    arguments: &KmsArguments,
    here: SocketAddr,
    proxy: &RealEndpoint,
    key_arn: Option<&str>,
) -> String {
    let KmsArguments { account, region, .. } = arguments;
    let aws = format!("aws --endpoint-url http://{here} --region {region} kms");
    let next = match key_arn {
        Some(arn) => format!("key: {arn}\n  {aws} generate-data-key --key-spec AES_256 --key-id {arn}\n"),
        None => format!("  {aws} describe-custom-key-stores\n"),
    };
    format!(
        "AWS KMS of account {account} in {region}, a model: listening on http://{here}, its XKS proxy at {}\n\
         Callers' signatures are NOT verified, and keys end with this process: for tests only.\n{next}Ctrl-C ends it.\n",
        proxy.url
    )
}

/// Ready at the first SIGINT or SIGTERM.
fn asked_to_end() -> Result<impl Future<Output = ()>, String> {
    let cannot = |error: std::io::Error| format!("cannot wait for signals: {error}");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// The last words: how many calls there were, and what the proxy promised and did not keep.
fn conclude(api: &Api) -> Result<u8, String> {
    let totals = api.journal().totals();
    let mut text = format!(
        "\n{} requests, {} refused; {} calls of the proxy, {} without a usable answer\n",
        totals.requests, totals.refused, totals.proxy_calls, totals.proxy_failures
    );
    let mut code = exit::HELD;
    for verdict in api.verdicts().into_iter().filter(|verdict| verdict.violated > 0) {
        code = exit::VIOLATED;
        let first = verdict.first.map(|(_, text)| text).unwrap_or_default();
        text.push_str(&format!(
            "{} does not hold ({} of {} times): {}; first: {first}\n",
            verdict.invariant.id, verdict.violated, verdict.checked, verdict.invariant.text
        ));
    }
    say(&text)?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_caller_comes_through_a_vpc_endpoint_unless_told() {
        assert_eq!(settings(None, false).unwrap().source_vpc_share, 0.0);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kms.toml");
        for (text, share) in [("hosts = 3\n", 0.0), ("source_vpc_share = 0.25\n", 0.25)] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(settings(Some(&file), false).unwrap().source_vpc_share, share, "{text}");
        }
    }
}
