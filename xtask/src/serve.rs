//! `cargo xtask serve-softhsm`: the daemon over a throwaway SoftHSM2 token, with the key store that AWS's public test
//! client asks for when it is told nothing.

use crate::{Outcome, cargo, softhsm};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The AWS test client's defaults. Public, so worth nothing.
const URI_PREFIX: &str = "example/uri/path/prefix";
const REGION: &str = "us-east-1";
const ACCESS_KEY_ID: &str = "BETWEEN2TENAND3TENCHARACTERS";
const SECRET: &str = "PleaseReplaceThisWithSomeSecretOfLength43To64";

/// The only name that is let in with `--mtls`.
const CLIENT_NAME: &str = "cks.kms.us-east-1.amazonaws.com";

/// What the user asked for.
pub(crate) struct Options {
    port: u16,
    tls: bool,
    /// Demands client certificates, over TLS.
    mtls: bool,
}

impl Options {
    /// From the words after `serve-softhsm`.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let (mut port, mut tls, mut mtls) = (None, false, false);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--tls" => tls = true,
                "--mtls" => (tls, mtls) = (true, true),
                "--port" => {
                    let number = words.next().and_then(|number| number.parse().ok());
                    port = Some(number.ok_or("--port wants a number from 1 to 65535")?);
                }
                other => {
                    return Err(format!(
                        "serve-softhsm does not know {other:?}: write --port N, --tls or --mtls"
                    ));
                }
            }
        }
        Ok(Self { port: port.unwrap_or(if tls { 8443 } else { 8080 }), tls, mtls })
    }
}

/// Serves until the daemon ends, by itself or by Ctrl-C.
pub(crate) fn run(options: &Options) -> Outcome {
    let module = softhsm::ensure()?;
    crate::run(cargo().args(["build", "--package", "xks-proxy"]))?;
    let here =
        tempfile::Builder::new().prefix("xks-softhsm-").tempdir().map_err(wrong("make a directory"))?;
    let config = prepare(here.path(), &module, options).map_err(wrong("write the configuration"))?;
    let itself = std::env::current_exe().map_err(wrong("find this program"))?;
    let softhsm_conf = here.path().join("softhsm2.conf");
    crate::run(Command::new(&itself).arg("make-token").arg(&module).env("SOFTHSM2_CONF", &softhsm_conf))?;

    // Registered before the daemon starts, so that Ctrl-C cannot leave it, or the directory, behind.
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(wrong("handle signals"))?;
    let mut daemon = Command::new(itself.with_file_name("xks-proxy"))
        .args(["serve", "--config"])
        .arg(&config)
        .env("SOFTHSM2_CONF", &softhsm_conf)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(wrong("start the daemon"))?;
    let id = daemon.id();
    #[expect(
        clippy::disallowed_methods,
        reason = "a blocking tool waits for a signal and for output at once"
    )]
    std::thread::spawn(move || {
        for _ in &mut signals {
            // The shell's own `kill` is always there.
            let _ =
                Command::new("sh").args(["-c", &format!("kill -TERM {id}")]).stderr(Stdio::null()).status();
        }
    });
    if let Some(output) = daemon.stdout.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            println!("{line}");
            if line.contains(r#""message":"listening""#) {
                println!("{}", what_next(here.path(), options));
            }
        }
    }
    let status = daemon.wait().map_err(wrong("wait for the daemon"))?;
    if status.success() { Ok(()) } else { Err(format!("the daemon ended with {status}")) }
}

fn wrong(doing: &'static str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("cannot {doing}: {error}")
}

/// Everything the daemon reads, in `here`; gives back the configuration's path.
fn prepare(here: &Path, module: &Path, options: &Options) -> std::io::Result<std::path::PathBuf> {
    let tokens = here.join("tokens");
    fs::create_dir(&tokens)?;
    let softhsm = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    private(&here.join("softhsm2.conf"), &softhsm)?;
    private(&here.join("pin"), softhsm::PIN)?;
    private(&here.join("secret"), SECRET)?;
    let mut tls = String::new();
    if options.tls {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).map_err(std::io::Error::other)?;
        private(&here.join("certificate.pem"), &made.cert.pem())?;
        private(&here.join("key.pem"), &made.signing_key.serialize_pem())?;
        tls += "[server.tls]\ncertificate_file = \"certificate.pem\"\nkey_file = \"key.pem\"\n";
    }
    if options.mtls {
        make_client(here).map_err(std::io::Error::other)?;
        tls += &format!(
            "[server.tls.client]\nca_file = \"client-ca.pem\"\nsubject_names = [\"{CLIENT_NAME}\"]\n"
        );
    }
    let config = here.join("xks-proxy.toml");
    let text = format!(
        r#"[server]
listen = "127.0.0.1:{port}"
{tls}
[[hsm]]
name = "softhsm"
module = "{module}"
token_label = "{label}"
pin_file = "pin"
health_key_label = "xks-health"

[[key_store]]
name = "try"
uri_prefix = "{URI_PREFIX}"
region = "{REGION}"
hsm = "softhsm"

[[key_store.credential]]
access_key_id = "{ACCESS_KEY_ID}"
secret_file = "secret"
"#,
        port = options.port,
        module = module.display(),
        label = softhsm::TOKEN_LABEL,
    );
    private(&config, &text)?;
    Ok(config)
}

/// An authority for clients, and one client with the name AWS KMS used to show.
fn make_client(here: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "clients of a try");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, CLIENT_NAME);
    params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &authority)?;
    private(&here.join("client-ca.pem"), &authority.pem())?;
    private(&here.join("client-certificate.pem"), &certificate.pem())?;
    private(&here.join("client-key.pem"), &key.serialize_pem())?;
    Ok(())
}

/// Writes a file that only its owner can read.
fn private(path: &Path, text: &str) -> std::io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

fn what_next(here: &Path, options: &Options) -> String {
    let Options { port, tls, mtls } = options;
    let certificate = here.join("certificate.pem");
    let certificate = certificate.display();
    let (scheme, curl_ca, client) = if *tls {
        (
            "https",
            format!(" --cacert {certificate}"),
            format!("SECURE='--cacert {certificate}' XKS_PROXY_HOST=localhost:{port}"),
        )
    } else {
        ("http", String::new(), format!("SCHEME= XKS_PROXY_HOST=localhost:{port}"))
    };
    let (curl_ca, client) = if *mtls {
        let shown = format!("--key {0}/client-key.pem --cert {0}/client-certificate.pem", here.display());
        (format!("{curl_ca} {shown}"), format!("MTLS='{shown}' {client}"))
    } else {
        (curl_ca, client)
    };
    format!(
        r#"
Ready. In another terminal, ask for the health of the key store:

  curl{curl_ca} {scheme}://localhost:{port}/{URI_PREFIX}/kms/xks/v1/health \
    --aws-sigv4 aws:amz:{REGION}:kms-xks-proxy --user {ACCESS_KEY_ID}:{SECRET} \
    -H 'Content-Type: application/json' \
    -d '{{"requestMetadata": {{"kmsRequestId": "try", "kmsOperation": "KmsHealthCheck"}}}}'

or run AWS's public test client (https://github.com/aws-samples/aws-kms-xksproxy-test-client), in its directory:

  {client} ./test-xks-proxy
  {client} ./test-xks-proxy -a

Ctrl-C ends it and removes {here}.
"#,
        here = here.display()
    )
}
