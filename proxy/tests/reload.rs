//! What changes without a restart, in the daemon itself, over a real SoftHSM2, real sockets and real TLS: credentials,
//! certificates, known clients and helper commands, by SIGHUP and by the watch, and not one request fails of it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests fail loudly; these tests stand outside of the daemon, with sockets and threads of their own"
)]

#[path = "common/authority.rs"]
mod authority;
#[expect(dead_code, reason = "the tests of the PKCS#11 implementation use the rest")]
#[path = "common/softhsm.rs"]
mod softhsm;
mod support;
#[path = "common/tokens.rs"]
mod tokens;

use authority::{Authority, Identity, client};
use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};
use softhsm::{PIN, SoftHsm, TOKEN};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use support::{CREDENTIAL, OTHER_CREDENTIAL, encrypt, metadata, signed_at, uri};
use tempfile::TempDir;
use tokens::copy_tokens;
use xks_proxy::env::{Env, SystemEnv};
use xks_proxy::tls::CertificateFacts;

/// Far more than anything here takes: what has not come by then never comes.
const PATIENCE: Duration = Duration::from_secs(120);

const KMS: &str = "cks.kms.us-east-1.amazonaws.com";

/// A directory with everything a daemon reads, and a copy of the tokens.
struct Site {
    directory: TempDir,
}

impl Site {
    fn new() -> Self {
        let this = Self { directory: tempfile::tempdir().unwrap() };
        copy_tokens(&this.path("tokens"));
        this.write("softhsm2.conf", &format!("directories.tokendir = {}\n", this.path("tokens").display()));
        this.write("pin", PIN);
        this.write("a", CREDENTIAL.1);
        this.write("b", OTHER_CREDENTIAL.1);
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// As certificate tools do: a new file, then its name.
    fn write(&self, name: &str, text: &str) {
        let fresh = self.path("fresh");
        fs::write(&fresh, text).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(fresh, self.path(name)).unwrap();
    }

    fn serve_with(&self, identity: &Identity) {
        self.write("certificate.pem", &identity.certificate.pem());
        self.write("key.pem", &identity.key.serialize_pem());
    }

    /// With these credentials, `id = place` each, more keys for `[server.tls]`, and a watch or none. Nothing here is
    /// ever late, however busy the machine is.
    fn configure(&self, credentials: &[(&str, &str)], tls: &str, watch_interval_ms: u32) {
        let mut text = format!(
            r#"[server]
listen = "127.0.0.1:0"
[server.tls]
certificate_file = "certificate.pem"
key_file = "key.pem"
{tls}
[reload]
watch_interval_ms = {watch_interval_ms}
[limits]
deadline_ms = 60000
handshake_timeout_ms = 60000
head_timeout_ms = 60000
[[hsm]]
name = "softhsm"
module = "{module}"
token_label = "{TOKEN}"
pin_command = ["/bin/cat", "{pin}"]
sessions_max = 2
[[key_store]]
name = "main"
uri_prefix = "example/uri/path/prefix"
hsm = "softhsm"
"#,
            module = SoftHsm::get().module.display(),
            pin = self.path("pin").display(),
        );
        for (id, place) in credentials {
            text += &format!("[[key_store.credential]]\naccess_key_id = \"{id}\"\n{place}\n");
        }
        self.write("xks.toml", &text);
    }
}

/// A running daemon; killed when a test fails.
struct Daemon {
    child: Child,
    messages: Receiver<Value>,
    address: SocketAddr,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn start(site: &Site) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_xks-proxy"))
            .arg("serve")
            .arg("--config")
            .arg(site.path("xks.toml"))
            .env("SOFTHSM2_CONF", site.path("softhsm2.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let (sender, messages) = mpsc::channel();
        // Read on and on, so that the daemon never has to drop a line.
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).unwrap();
                // The rest are audit events.
                if line.get("message").is_some() && sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut this = Self { child, messages, address: ([0, 0, 0, 0], 0).into() };
        let address = this.said("listening")["address"].as_str().unwrap().parse();
        this.address = address.unwrap();
        this
    }

    /// The next message, which must begin so, warnings aside.
    #[track_caller]
    fn says(&self, message: &str) -> Value {
        loop {
            let line = self.messages.recv_timeout(PATIENCE).unwrap();
            if line["level"] != "WARN" {
                assert!(line["message"].as_str().unwrap().starts_with(message), "{line}");
                return line;
            }
        }
    }

    /// Reads on to a message that begins so.
    #[track_caller]
    fn said(&self, message: &str) -> Value {
        loop {
            let line = self.messages.recv_timeout(PATIENCE).expect(message);
            if line["message"].as_str().unwrap().starts_with(message) {
                return line;
            }
        }
    }

    fn hang_up(&self) {
        let kill = format!("kill -HUP {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    fn connect(&self, client: &Arc<ClientConfig>) -> Connection {
        Connection::open(self.address, client)
    }
}

/// A connection that is kept.
struct Connection(StreamOwned<ClientConnection, TcpStream>);

impl Connection {
    fn open(address: SocketAddr, client: &Arc<ClientConfig>) -> Self {
        let session = ClientConnection::new(Arc::clone(client), "localhost".try_into().unwrap()).unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(StreamOwned::new(session, stream))
    }

    /// One signed request; the status of the answer.
    fn ask(&mut self, operation: &str, body: &Value, credential: (&str, &str)) -> io::Result<u16> {
        let request = signed_at(&uri(operation), body.to_string(), credential, SystemEnv.now());
        let body = body.to_string();
        let mut text = format!("POST {} HTTP/1.1\r\ncontent-length: {}\r\n", request.uri(), body.len());
        for (name, value) in request.headers() {
            text += &format!("{name}: {}\r\n", value.to_str().unwrap());
        }
        self.0.write_all((text + "\r\n" + &body).as_bytes())?;
        self.0.flush()?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
        self.0.read_exact(&mut vec![0; length.parse().unwrap()])?;
        Ok(head.split(' ').nth(1).unwrap().parse().unwrap())
    }

    fn health(&mut self, credential: (&str, &str)) -> io::Result<u16> {
        self.ask("health", &json!({ "requestMetadata": metadata() }), credential)
    }

    /// The common name of the certificate the daemon has shown, once something was asked.
    fn shown(&self) -> String {
        let chain = self.0.conn.peer_certificates().unwrap();
        CertificateFacts::from_der(&chain[0]).unwrap().common_name.unwrap()
    }
}

/// An access key id, and its secret or where that is.
type Pair = (&'static str, &'static str);

/// The credentials that are known at each step, and the one a client then signs with, as XKS-AUTH-4 has it.
const ROTATION: [(&[Pair], Pair); 3] = [
    (&[(CREDENTIAL.0, r#"secret_file = "a""#)], CREDENTIAL),
    (
        &[(CREDENTIAL.0, r#"secret_file = "a""#), (OTHER_CREDENTIAL.0, r#"secret_file = "b""#)],
        OTHER_CREDENTIAL,
    ),
    (&[(OTHER_CREDENTIAL.0, r#"secret_file = "b""#)], OTHER_CREDENTIAL),
];

#[test]
fn auth_4_credentials_and_certificates_change_under_load_without_one_failed_request() {
    rotate_under_load(Told::ByTheWatch);
}

#[test]
fn auth_4_they_change_by_sighup_likewise() {
    rotate_under_load(Told::BySighup);
}

/// How the daemon learns of a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    ByTheWatch,
    BySighup,
}

fn rotate_under_load(told_of_it: Told) {
    let watch_interval_ms = if told_of_it == Told::ByTheWatch { 100 } else { 0 };
    let own = Authority::new("servers");
    let site = Site::new();
    site.serve_with(&own.server("certificate 0"));
    site.configure(ROTATION[0].0, "", watch_interval_ms);
    let daemon = Daemon::start(&site);
    let (address, asking) = (daemon.address, client(&TLS13, &own, None));
    let signing_with = RwLock::new(ROTATION[0].1);
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    // Asks once; the lock is held meanwhile, so whoever changes the credential knows that no request with the old one
    // is on its way any more.
    let ask = |connection: &mut Connection| {
        let credential = signing_with.read().unwrap();
        let status = connection.ask("keys/foo/encrypt", &encrypt("aGVsbG8="), *credential);
        assert_eq!(status.unwrap(), 200);
        answered.fetch_add(1, Ordering::SeqCst);
    };
    let more_are_answered = || {
        let before = answered.load(Ordering::SeqCst);
        while answered.load(Ordering::SeqCst) < before + 50 {
            assert!(!stop.load(Ordering::SeqCst), "a request has failed");
            std::thread::yield_now();
        }
    };
    /// Sets a flag however its thread ends, so that a failed request ends the test and does not hang it.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    std::thread::scope(|threads| {
        // Two that keep their connection all the time, and two that make one for each request.
        let kept: Vec<_> = (0..2)
            .map(|_| {
                threads.spawn(|| {
                    let _stop = Stop(&stop);
                    let mut connection = Connection::open(address, &asking);
                    while !stop.load(Ordering::SeqCst) {
                        ask(&mut connection);
                    }
                    connection.shown()
                })
            })
            .collect();
        for _ in 0..2 {
            threads.spawn(|| {
                let _stop = Stop(&stop);
                while !stop.load(Ordering::SeqCst) {
                    ask(&mut Connection::open(address, &asking));
                }
            });
        }
        let _stop = Stop(&stop);
        more_are_answered();
        let mut certificate = 0;
        for (known, sign_with) in &ROTATION[1..] {
            // The watch sees two files change one after the other.
            certificate += 1;
            let name = format!("certificate {certificate}");
            site.serve_with(&own.server(&name));
            if told_of_it == Told::ByTheWatch {
                // On a machine that is busy enough it may be seen half-done, and refused, first.
                let told = daemon.said("reloaded");
                assert_eq!(
                    (&told["cause"], &told["certificate"]),
                    (&json!("a file has changed"), &json!(format!("CN={name}")))
                );
                more_are_answered();
            }
            // The credentials, too.
            site.configure(known, "", watch_interval_ms);
            if told_of_it == Told::BySighup {
                daemon.hang_up();
                let told = daemon.says("reloaded");
                assert_eq!(
                    (&told["cause"], &told["certificate"]),
                    (&json!("SIGHUP"), &json!(format!("CN={name}")))
                );
            } else {
                assert_eq!(daemon.says("reloaded")["cause"], "a file has changed");
            }
            more_are_answered();
            *signing_with.write().unwrap() = *sign_with;
            more_are_answered();
            let mut fresh = daemon.connect(&asking);
            ask(&mut fresh);
            assert_eq!(fresh.shown(), name);
        }
        stop.store(true, Ordering::SeqCst);
        for thread in kept {
            assert_eq!(thread.join().unwrap(), "certificate 0", "the first connection is still the one");
        }
    });
    assert_eq!(daemon.connect(&asking).health(CREDENTIAL).unwrap(), 401, "the old credential is gone");
    assert_eq!(daemon.connect(&asking).health(OTHER_CREDENTIAL).unwrap(), 200);
}

#[test]
fn a_certificate_that_cannot_be_served_is_refused_and_the_old_one_stays() {
    let own = Authority::new("servers");
    let site = Site::new();
    site.serve_with(&own.server("good"));
    site.configure(ROTATION[0].0, "", 100);
    let daemon = Daemon::start(&site);
    let asking = client(&TLS13, &own, None);
    let still = |name: &str| {
        let mut connection = daemon.connect(&asking);
        assert_eq!(connection.health(CREDENTIAL).unwrap(), 200);
        assert_eq!(connection.shown(), name);
    };
    let refused = |line: usize, rest: &str| {
        let told = daemon.says("not reloaded, the old configuration stays: ");
        assert_eq!((&told["level"], &told["cause"]), (&json!("ERROR"), &json!("a file has changed")));
        let told = told["message"].as_str().unwrap();
        let start = format!(
            "not reloaded, the old configuration stays: {}:{line}: ",
            site.path("xks.toml").display()
        );
        assert!(told.starts_with(&start) && told.contains(rest), "{told}");
        still("good");
    };

    let expired = own.issue("expired", &["localhost"], ExtendedKeyUsagePurpose::ServerAuth, |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 2, 1);
    });
    // At once after the start: the watch once began after "listening", and took what it then saw for what was served.
    site.write("certificate.pem", &expired.certificate.pem());
    refused(4, "has expired on 2020-02-01T00:00:00.000Z, and this machine's clock says 2");
    // Half of a new pair, and nobody brings the other half.
    site.write("certificate.pem", &own.server("half").certificate.pem());
    refused(4, "the private key does not belong to the first certificate of the chain");
    site.write("certificate.pem", "nonsense");
    refused(4, "holds no certificate");
    fs::remove_file(site.path("key.pem")).unwrap();
    site.write("certificate.pem", &own.server("keyless").certificate.pem());
    refused(5, "cannot read the private key file");
    // Refusals stand in the log once each: the next message is about the next change.
    let better = own.server("better");
    site.write("key.pem", &better.key.serialize_pem());
    refused(4, "the private key does not belong to the first certificate of the chain");
    site.write("certificate.pem", &better.certificate.pem());
    assert_eq!(daemon.says("reloaded")["certificate"], "CN=better");
    still("better");

    // A configuration that is broken only because a file is missing heals when the file comes.
    site.configure(&[(OTHER_CREDENTIAL.0, r#"secret_file = "late""#)], "", 100);
    daemon.says("not reloaded, the old configuration stays: ");
    still("better");
    site.write("late", OTHER_CREDENTIAL.1);
    daemon.says("reloaded");
    assert_eq!(daemon.connect(&asking).health(OTHER_CREDENTIAL).unwrap(), 200);
}

#[test]
fn auth_6_known_clients_change_while_the_old_ones_stay_connected() {
    let (own, old, new) = (Authority::new("servers"), Authority::new("old"), Authority::new("new"));
    let site = Site::new();
    site.serve_with(&own.server("server"));
    // As Kubernetes mounts a secret.
    for (name, authority) in [("..old", &old), ("..new", &new)] {
        fs::create_dir(site.path(name)).unwrap();
        fs::write(site.path(name).join("ca.pem"), authority.certificate().pem()).unwrap();
    }
    symlink("..old", site.path("..data")).unwrap();
    symlink("..data/ca.pem", site.path("ca.pem")).unwrap();
    let known = format!("[server.tls.client]\nca_file = \"ca.pem\"\nsubject_names = [\"{KMS}\"]");
    site.configure(ROTATION[0].0, &known, 100);
    let daemon = Daemon::start(&site);
    let (old_client, new_client) = (
        client(&TLS13, &own, Some(&old.client(KMS, &[]))),
        client(&TLS13, &own, Some(&new.client(KMS, &[]))),
    );

    let mut kept = daemon.connect(&old_client);
    assert_eq!(kept.health(CREDENTIAL).unwrap(), 200);
    daemon.connect(&new_client).health(CREDENTIAL).unwrap_err();
    daemon.connect(&client(&TLS13, &own, None)).health(CREDENTIAL).unwrap_err();
    // A load balancer's TCP check: it connects, and that is all.
    drop(TcpStream::connect(daemon.address).unwrap());

    symlink("..new", site.path("..fresh")).unwrap();
    fs::rename(site.path("..fresh"), site.path("..data")).unwrap();
    daemon.said("reloaded");
    assert_eq!(daemon.connect(&new_client).health(CREDENTIAL).unwrap(), 200);
    daemon.connect(&old_client).health(CREDENTIAL).unwrap_err();
    assert_eq!(kept.health(CREDENTIAL).unwrap(), 200, "an open connection goes on");

    // Names alone, by SIGHUP; and the warning comes with every reload.
    site.configure(ROTATION[0].0, &known.replace(KMS, "somebody"), 0);
    daemon.hang_up();
    let warning = daemon.said(&format!("{}:6: [server.tls.client] demands", site.path("xks.toml").display()));
    assert_eq!(warning["level"], "WARN");
    daemon.said("reloaded");
    daemon.connect(&new_client).health(CREDENTIAL).unwrap_err();
    assert_eq!(daemon.said("client certificate refused")["subject"], format!("CN={KMS}"));
}

/// A client that sends its request with the certificate that is refused, as curl over HTTP/2 does, once saw a reset in
/// place of the alert, because the daemon closed the connection with the request unread.
#[test]
fn auth_6_the_alert_arrives_although_the_client_has_sent_more() {
    let (own, clients) = (Authority::new("servers"), Authority::new("clients"));
    let site = Site::new();
    site.serve_with(&own.server("server"));
    site.write("ca.pem", &clients.certificate().pem());
    let known = format!("[server.tls.client]\nca_file = \"ca.pem\"\nsubject_names = [\"{KMS}\"]");
    site.configure(ROTATION[0].0, &known, 0);
    let daemon = Daemon::start(&site);
    let stranger = client(&TLS13, &own, Some(&Authority::new("strangers").client(KMS, &[])));
    for _ in 0..50 {
        let mut connection = daemon.connect(&stranger);
        let stream = &mut connection.0;
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        for _ in 0..3 {
            stream.write_all(&[b'x'; 8_192]).unwrap();
        }
        let error = stream.read(&mut [0]).unwrap_err();
        assert!(error.to_string().contains("HandshakeFailure"), "{error}");
    }
}

#[test]
fn a_helper_command_is_asked_again_at_each_reload() {
    let own = Authority::new("servers");
    let site = Site::new();
    site.serve_with(&own.server("server"));
    let command = format!("secret_command = [\"/bin/cat\", \"{}\"]", site.path("told").display());
    site.write("told", CREDENTIAL.1);
    site.configure(&[(CREDENTIAL.0, &command)], "", 0);
    let daemon = Daemon::start(&site);
    let asking = client(&TLS13, &own, None);
    let changed = (CREDENTIAL.0, OTHER_CREDENTIAL.1);
    assert_eq!(daemon.connect(&asking).health(CREDENTIAL).unwrap(), 200);
    assert_eq!(daemon.connect(&asking).health(changed).unwrap(), 401);

    site.write("told", OTHER_CREDENTIAL.1);
    daemon.hang_up();
    assert_eq!(daemon.says("reloaded")["cause"], "SIGHUP");
    assert_eq!(daemon.connect(&asking).health(changed).unwrap(), 200);
    assert_eq!(daemon.connect(&asking).health(CREDENTIAL).unwrap(), 401);

    fs::remove_file(site.path("told")).unwrap();
    daemon.hang_up();
    let told = daemon.says("not reloaded")["message"].as_str().unwrap().to_owned();
    assert!(told.contains(
        "the command /bin/cat, which should tell the secret access key, ended with exit status: 1"
    ));
    assert_eq!(daemon.connect(&asking).health(changed).unwrap(), 200);
}

#[test]
fn what_needs_a_restart_is_refused_by_name() {
    let own = Authority::new("servers");
    let site = Site::new();
    site.serve_with(&own.server("server"));
    site.configure(ROTATION[0].0, "", 0);
    let daemon = Daemon::start(&site);
    let text = fs::read_to_string(site.path("xks.toml")).unwrap();
    let tls = "[server.tls]\ncertificate_file = \"certificate.pem\"\nkey_file = \"key.pem\"\n";
    for (piece, instead, what) in [
        ("127.0.0.1:0", "127.0.0.1:1", "`listen`"),
        (tls, "", "whether there is a [server.tls]"),
        ("deadline_ms = 60000", "deadline_ms = 59999", "[limits], [identity] or ping_path"),
        ("sessions_max = 2", "sessions_max = 3", "[[hsm]]"),
    ] {
        assert!(text.contains(piece), "{piece}");
        site.write("xks.toml", &text.replace(piece, instead));
        daemon.hang_up();
        let told = daemon.says("not reloaded");
        let expected = format!(
            "not reloaded, the old configuration stays: {}: {what} has changed, which a reload cannot take over: \
             restart, or undo that change",
            site.path("xks.toml").display()
        );
        assert_eq!(told["message"], expected);
    }
}
