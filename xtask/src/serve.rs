//! `cargo xtask serve-softhsm`: the daemon over a throwaway SoftHSM2 token, with the key store that AWS's public test
//! client asks for when it is told nothing.

use crate::{Outcome, cargo, sample, softhsm};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The AWS test client's defaults. Public, so worth nothing.
pub(crate) const URI_PREFIX: &str = "example/uri/path/prefix";
pub(crate) const REGION: &str = "us-east-1";
pub(crate) const ACCESS_KEY_ID: &str = "BETWEEN2TENAND3TENCHARACTERS";
pub(crate) const SECRET: &str = "PleaseReplaceThisWithSomeSecretOfLength43To64";

/// Requests and connections there is room for with `--for-load`.
const ROOM_FOR_LOAD: u32 = 4_096;

/// How long a proxy may take until it listens.
const START_MAX: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The only name that is let in with `--mtls`.
const CLIENT_NAME: &str = "cks.kms.us-east-1.amazonaws.com";

/// What the user asked for.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) port: u16,
    pub(crate) tls: bool,
    /// Demands client certificates, over TLS.
    mtls: bool,
    /// As shipped, without a word, and with room for many requests.
    for_load: bool,
    /// How much longer each encryption and decryption in the HSM takes than SoftHSM2's own.
    hsm_latency_ms: Option<u32>,
    /// Whether every other call to the HSM takes as long, as over a network.
    every_call: bool,
    pub(crate) sessions: Option<u32>,
    /// The program of AWS's sample proxy, to serve in place of ours.
    sample: Option<PathBuf>,
    /// Where files go that others need too, such as the certificate; kept when all is over.
    directory: Option<PathBuf>,
}

impl Options {
    /// From the words after `serve-softhsm`.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let (mut options, mut port) = (Self::default(), None);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut number = |max: u32| {
                let number = words.next().and_then(|number| number.parse().ok());
                number
                    .filter(|number| (1..=max).contains(number))
                    .ok_or_else(|| format!("{word} wants a number from 1 to {max}"))
            };
            match *word {
                "--tls" => options.tls = true,
                "--mtls" => (options.tls, options.mtls) = (true, true),
                "--for-load" => options.for_load = true,
                "--every-call" => options.every_call = true,
                "--port" => port = u16::try_from(number(65_535)?).ok(),
                "--hsm-latency-ms" => options.hsm_latency_ms = Some(number(60_000)?),
                "--sessions" => options.sessions = Some(number(1_024)?),
                "--sample" => options.sample = Some(absolute(words.next(), "--sample PROGRAM")?),
                "--directory" => options.directory = Some(absolute(words.next(), "--directory DIR")?),
                other => {
                    return Err(format!(
                        "serve-softhsm does not know {other:?}: `cargo xtask help` lists its options"
                    ));
                }
            }
        }
        if options.every_call && options.hsm_latency_ms.is_none() {
            return Err("--every-call goes with --hsm-latency-ms N".into());
        }
        if options.mtls && options.sample.is_some() {
            return Err("--mtls does not go with --sample".into());
        }
        options.port = port.unwrap_or(if options.tls { 8443 } else { 8080 });
        Ok(options)
    }

    /// Whether nothing of the daemon's own output is wanted.
    fn is_quiet(&self) -> bool {
        self.for_load || self.sample.is_some()
    }
}

/// Serves until the daemon ends, by itself or by Ctrl-C.
pub(crate) fn run(options: &Options) -> Outcome {
    let module = softhsm::ensure()?;
    let built = build(options)?;
    let temporary =
        tempfile::Builder::new().prefix("xks-softhsm-").tempdir().map_err(wrong("make a directory"))?;
    let here = match &options.directory {
        None => temporary.path(),
        Some(directory) => {
            fs::create_dir_all(directory).map_err(wrong("make the directory"))?;
            directory.as_path()
        }
    };
    // The proxy loads the fault module, and that the real one, when the HSM is to be slower than SoftHSM2 is.
    let loaded =
        if options.hsm_latency_ms.is_some() { built.join("libsim_hsm_pkcs11.so") } else { module.clone() };
    let config = prepare(here, &loaded, options).map_err(wrong("write the configuration"))?;
    let itself = std::env::current_exe().map_err(wrong("find this program"))?;
    let softhsm_conf = here.join("softhsm2.conf");
    crate::run(Command::new(&itself).arg("make-token").arg(&module).env("SOFTHSM2_CONF", &softhsm_conf))?;

    // Registered before the daemon starts, so that Ctrl-C cannot leave it, or the directory, behind.
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(wrong("handle signals"))?;
    let mut command = match &options.sample {
        None => {
            let mut command = Command::new(built.join("xks-proxy"));
            command.args(["serve", "--config"]).arg(&config);
            command
        }
        Some(program) => {
            sample::command(program, here, &loaded, options).map_err(wrong("write its settings"))?
        }
    };
    let mut daemon = command
        .env("SOFTHSM2_CONF", &softhsm_conf)
        .env("SIM_HSM_PKCS11_MODULE", &module)
        .env("SIM_HSM_PKCS11_FAULTS", here.join("faults.toml"))
        .stdin(Stdio::null())
        .stdout(if options.is_quiet() { Stdio::null() } else { Stdio::piped() })
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
    if options.is_quiet() {
        wait_until_it_listens(&mut daemon, options.port)?;
        println!("process {id} listens on 127.0.0.1:{}; Ctrl-C ends it", options.port);
    } else if let Some(output) = daemon.stdout.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            println!("{line}");
            if line.contains(r#""message":"listening""#) {
                println!("{}", what_next(here, options));
            }
        }
    }
    let status = daemon.wait().map_err(wrong("wait for the daemon"))?;
    // The sample knows no signal, so that ends it the hard way.
    if status.success() || options.sample.is_some() {
        Ok(())
    } else {
        Err(format!("the daemon ended with {status}"))
    }
}

/// Builds what is needed; gives where it is.
fn build(options: &Options) -> Result<PathBuf, String> {
    if options.for_load {
        return crate::bench::build();
    }
    for package in ["xks-proxy", "sim-hsm-pkcs11"] {
        if package == "xks-proxy" || options.hsm_latency_ms.is_some() {
            crate::run(cargo().args(["build", "--package", package]))?;
        }
    }
    let itself = std::env::current_exe().map_err(wrong("find this program"))?;
    Ok(itself.parent().unwrap_or(Path::new(".")).to_owned())
}

/// A quiet daemon says nothing; that its port answers is what is left to go by.
#[expect(clippy::disallowed_methods, reason = "a blocking tool waits for another process to listen")]
fn wait_until_it_listens(daemon: &mut Child, port: u16) -> Outcome {
    let until = Instant::now() + START_MAX;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if let Some(status) = daemon.try_wait().map_err(wrong("wait for the daemon"))? {
            return Err(format!("the daemon ended with {status} before it listened"));
        }
        if Instant::now() > until {
            let _ = daemon.kill();
            return Err(format!("the daemon does not listen on port {port}"));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// A path that stays good in another directory.
fn absolute(word: Option<&&str>, usage: &str) -> Result<PathBuf, String> {
    let word = word.ok_or_else(|| format!("write {usage}"))?;
    std::path::absolute(word).map_err(wrong("find the current directory"))
}

fn wrong(doing: &'static str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("cannot {doing}: {error}")
}

/// Everything the daemon reads, in `here`; gives back the configuration's path.
fn prepare(here: &Path, module: &Path, options: &Options) -> std::io::Result<PathBuf> {
    let tokens = here.join("tokens");
    fs::create_dir(&tokens)?;
    let softhsm = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    private(&here.join("softhsm2.conf"), &softhsm)?;
    private(&here.join("pin"), softhsm::PIN)?;
    private(&here.join("secret"), SECRET)?;
    private(&here.join("faults.toml"), &slowness(options))?;
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
    let mut pool =
        options.sessions.map_or_else(String::new, |sessions| format!("sessions_max = {sessions}\n"));
    let mut limits = String::new();
    if options.for_load {
        limits = format!("[limits]\nin_flight_max = {ROOM_FOR_LOAD}\nconnections_max = {ROOM_FOR_LOAD}\n");
        pool += &format!("queue_max = {ROOM_FOR_LOAD}\n");
    }
    let text = format!(
        r#"[server]
listen = "127.0.0.1:{port}"
{tls}
{limits}
[[hsm]]
name = "softhsm"
module = "{module}"
token_label = "{label}"
pin_file = "pin"
health_key_label = "xks-health"
{pool}
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

/// The control file of the fault module that makes SoftHSM2 as slow as another HSM.
fn slowness(options: &Options) -> String {
    // There is one C_EncryptInit for an encryption, and two C_Encrypt: the first only asks how much room its output needs.
    let functions = if options.every_call { r#""*""# } else { r#"["C_EncryptInit", "C_DecryptInit"]"# };
    match options.hsm_latency_ms {
        None => String::new(),
        Some(ms) => format!("[[fault]]\nfunction = {functions}\naction = \"delay\"\nms = {ms}\n"),
    }
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
pub(crate) fn private(path: &Path, text: &str) -> std::io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

fn what_next(here: &Path, options: &Options) -> String {
    let Options { port, tls, mtls, .. } = options;
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
    // It shows certificates of its own, which must not be let in.
    let negative = if *mtls { format!("  {client} ./test_negative_mtls\n") } else { String::new() };
    let ca = if *tls { format!(" --ca {certificate}") } else { String::new() };
    // AWS KMS shows no certificate any more, and its model does not either.
    let kms = if *mtls {
        String::new()
    } else {
        format!(
            "\nor put the model of AWS KMS in front of it, for AWS SDKs and the AWS CLI:\n\n  \
             cargo run --release -- kms --proxy {scheme}://localhost:{port}{ca} --fast --key-id foo \\\n    \
             --uri-path-prefix /{URI_PREFIX} --access-key-id {ACCESS_KEY_ID} --secret-file {}/secret\n",
            here.display()
        )
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
{negative}{kms}
Ctrl-C ends it and removes {here}.
"#,
        here = here.display()
    )
}
