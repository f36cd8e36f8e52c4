//! The daemon itself, as a process over a real SoftHSM2: what it serves, how it ends, and what it says when it cannot
//! start.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests fail loudly; these tests stand outside of the daemon, with sockets of their own"
)]

#[expect(dead_code, reason = "the tests of the PKCS#11 implementation use the rest")]
#[path = "common/softhsm.rs"]
mod softhsm;
mod support;
#[path = "common/tokens.rs"]
mod tokens;

use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use softhsm::{PIN, SoftHsm, TOKEN};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use support::{CREDENTIAL, OTHER_CREDENTIAL, encrypt, metadata, uri};
use tempfile::TempDir;
use tokens::copy_tokens;
use xks_proxy::env::{Env, SystemEnv};

/// A directory with a configuration that works, the files it names, and a copy of the tokens: SoftHSM2's files do not
/// bear that one process notes a wrong PIN in them while another reads.
struct Setup {
    directory: TempDir,
}

impl Setup {
    fn new() -> Self {
        let this = Self { directory: tempfile::tempdir().unwrap() };
        copy_tokens(&this.path("tokens"));
        this.write("softhsm2.conf", &format!("directories.tokendir = {}\n", this.path("tokens").display()));
        this.write("pin", &format!("{PIN}\n"));
        this.write("secret", &format!("{}\n", CREDENTIAL.1));
        this.configure(&this.config());
        this
    }

    /// Line 2 is `listen`, line 6 the module, 7 the token, 8 the PIN, 15 the secret.
    fn config(&self) -> String {
        format!(
            r#"[server]
listen = "127.0.0.1:0"

[[hsm]]
name = "softhsm"
module = "{module}"
token_label = "{TOKEN}"
pin_file = "pin"
sessions_max = 2
[[key_store]]
name = "main"
uri_prefix = "example/uri/path/prefix"
hsm = "softhsm"
credential = [
    {{ access_key_id = "{id}", secret_file = "secret" }},
]
"#,
            module = SoftHsm::get().module.display(),
            id = CREDENTIAL.0,
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn configure(&self, text: &str) {
        // SIGHUP alone reloads here, so that a test knows which reload an answer is to; tests/reload.rs watches.
        self.write("xks.toml", &format!("{text}[reload]\nwatch_interval_ms = 0\n"));
    }

    /// Replaces one piece of the working configuration.
    #[track_caller]
    fn change(&self, piece: &str, instead: &str) {
        let config = self.config();
        assert!(config.contains(piece), "{piece}");
        self.configure(&config.replace(piece, instead));
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xks-proxy"));
        command.arg(subcommand).arg("--config").arg(self.path("xks.toml")).stdin(Stdio::null());
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        command
    }

    fn run(&self, subcommand: &str) -> Output {
        self.command(subcommand).output().unwrap()
    }

    /// `serve` and `check` both end at once with exit code 2 and this line about the configuration.
    #[track_caller]
    fn is_refused(&self, line: &str) {
        let expected = format!("xks-proxy: {}{line}\n", self.path("xks.toml").display());
        for subcommand in ["serve", "check"] {
            let output = self.run(subcommand);
            assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
            assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), b"".as_slice()));
        }
    }
}

/// A running daemon; killed when a test fails.
struct Daemon {
    child: Child,
    lines: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn start(setup: &Setup) -> Self {
        let mut this = Self::of(setup.command("serve").stdout(Stdio::piped()).spawn().unwrap());
        this.listens();
        this
    }

    fn of(mut child: Child) -> Self {
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines, address: ([0, 0, 0, 0], 0).into() }
    }

    /// Reads the log up to the line that says where it listens.
    fn listens(&mut self) {
        let listening = self.wait_for("listening");
        self.address = listening["address"].as_str().unwrap().parse().unwrap();
    }

    /// The next line of the log.
    fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        let length = self.lines.read_line(&mut line).unwrap();
        (length > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    /// Reads the log up to the line whose message starts so.
    fn wait_for(&mut self, message: &str) -> Value {
        while let Some(line) = self.line() {
            if line["message"].as_str().is_some_and(|text| text.starts_with(message)) {
                return line;
            }
        }
        panic!("the log ends without {message:?}");
    }

    /// SIGHUP, and what the daemon says to it.
    fn reload(&mut self) -> String {
        self.signal("HUP");
        while let Some(line) = self.line() {
            if let Some(message) = line["message"].as_str() {
                return message.to_owned();
            }
        }
        panic!("the log ends after SIGHUP");
    }

    /// The next audit event.
    fn event(&mut self) -> Value {
        while let Some(line) = self.line() {
            if line.get("request_id").is_some() {
                return line;
            }
        }
        panic!("the log ends without an audit event");
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Waits for the end; gives back the exit code.
    fn end(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }

    fn ask(&self, operation: &str, body: &Value, credential: (&str, &str)) -> (u16, Value) {
        ask(self.connect(), operation, body, credential)
    }
}

fn signed_now(operation: &str, body: &Value, credential: (&str, &str)) -> Request<Full<bytes::Bytes>> {
    support::signed_at(&uri(operation), body.to_string(), credential, SystemEnv.now())
}

/// The head of the request as HTTP/1.1 writes it.
fn head(request: &Request<Full<bytes::Bytes>>, length: usize) -> String {
    let mut head =
        format!("POST {} HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n", request.uri());
    for (name, value) in request.headers() {
        head += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    head + "\r\n"
}

/// Reads to the end of the connection.
fn reply(mut stream: impl Read) -> (u16, Value) {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

fn ask(
    mut stream: impl Read + Write,
    operation: &str,
    body: &Value,
    credential: (&str, &str),
) -> (u16, Value) {
    let request = signed_now(operation, body, credential);
    let body = body.to_string();
    stream.write_all((head(&request, body.len()) + &body).as_bytes()).unwrap();
    reply(stream)
}

/// Asks from any thread.
fn ask_at(address: SocketAddr, operation: &str, body: &Value) -> (u16, Value) {
    ask(TcpStream::connect(address).unwrap(), operation, body, CREDENTIAL)
}

#[test]
fn it_serves_logs_one_event_per_request_and_ends_with_0_on_sigterm() {
    let setup = Setup::new();
    let mut daemon = Daemon::start(&setup);

    let (status, health) = daemon.ask("health", &json!({ "requestMetadata": metadata() }), CREDENTIAL);
    assert_eq!((status, &health["ekmFleetDetails"][0]["healthStatus"]), (200, &json!("ACTIVE")), "{health}");
    assert_eq!(daemon.event()["operation"], "GetHealthStatus");

    let (status, sealed) = daemon.ask("keys/foo/encrypt", &encrypt("aGVsbG8="), CREDENTIAL);
    assert_eq!(status, 200, "{sealed}");
    let event = daemon.event();
    assert_eq!(
        (&event["key_id"], &event["key_store"], &event["status"]),
        (&json!("foo"), &json!("main"), &json!(200))
    );

    let mut sealed = sealed;
    sealed["requestMetadata"] = metadata();
    sealed["encryptionAlgorithm"] = json!("AES_GCM");
    let (status, opened) = daemon.ask("keys/foo/decrypt", &sealed, CREDENTIAL);
    assert_eq!((status, &opened["plaintext"]), (200, &json!("aGVsbG8=")), "{opened}");

    let (status, refused) = daemon.ask("keys/foo/encrypt", &encrypt("aGVsbG8="), OTHER_CREDENTIAL);
    assert_eq!((status, &refused["errorName"]), (401, &json!("AuthenticationFailedException")));

    daemon.signal("TERM");
    assert_eq!(daemon.wait_for("draining")["signal"], "SIGTERM");
    daemon.wait_for("stopped");
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn a_request_that_has_begun_is_answered_before_it_ends() {
    let setup = Setup::new();
    setup.change("[[hsm]]", "[limits]\ndeadline_ms = 60000\ndrain_timeout_ms = 60000\n[[hsm]]");
    let mut daemon = Daemon::start(&setup);
    daemon.ask("health", &json!({ "requestMetadata": metadata() }), CREDENTIAL);

    let body = json!({ "requestMetadata": metadata() });
    let request = signed_now("health", &body, CREDENTIAL);
    let body = body.to_string();
    let mut stream = daemon.connect();
    // `Expect` makes the daemon say when the request has begun.
    let head = head(&request, body.len()).replacen("\r\n", "\r\nexpect: 100-continue\r\n", 1);
    stream.write_all(head.as_bytes()).unwrap();
    let mut go_on = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut go_on).unwrap();
    daemon.signal("INT");
    assert_eq!(daemon.wait_for("draining")["signal"], "SIGINT");
    stream.write_all(body.as_bytes()).unwrap();
    assert_eq!(reply(stream).0, 200);
    daemon.wait_for("stopped");
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn sighup_takes_over_credentials_and_refuses_what_is_broken() {
    let setup = Setup::new();
    let mut daemon = Daemon::start(&setup);
    let health = json!({ "requestMetadata": metadata() });
    assert_eq!(daemon.ask("health", &health, OTHER_CREDENTIAL).0, 401);

    setup.write("second", OTHER_CREDENTIAL.1);
    let second = format!(
        "credential = [\n{{ access_key_id = \"{}\", secret_file = \"second\" }},",
        OTHER_CREDENTIAL.0
    );
    setup.change("credential = [", &second);
    assert_eq!(daemon.reload(), "reloaded");
    assert_eq!(daemon.ask("health", &health, OTHER_CREDENTIAL).0, 200);

    setup.change("credential = [", "credentials = [");
    let told = daemon.reload();
    let file = setup.path("xks.toml");
    let unknown = "unknown key `credentials`: did you mean `credential`?";
    assert_eq!(told, format!("not reloaded, the old configuration stays: {}:14: {unknown}", file.display()));
    setup.change("sessions_max = 2", "sessions_max = 3");
    let told = daemon.reload();
    let restart = "[[hsm]] has changed, which a reload cannot take over: restart, or undo that change";
    assert_eq!(told, format!("not reloaded, the old configuration stays: {}: {restart}", file.display()));
    assert_eq!(daemon.ask("health", &health, OTHER_CREDENTIAL).0, 200);
}

/// The story of a bank's Friday: a policy that is changed, then broken, then emptied by an editor that is saving it.
#[test]
#[cfg(feature = "cedar")]
fn az_4_sighup_takes_over_policies_and_keeps_the_old_ones_when_the_new_are_broken() {
    let setup = Setup::new();
    setup.write("p.cedar", "permit(principal, action, resource);");
    let cedar = "[key_store.cedar]\npolicy_file = \"p.cedar\"\n";
    setup.configure(&format!("{}{cedar}", setup.config()));
    let mut daemon = Daemon::start(&setup);
    let ask = |daemon: &Daemon| daemon.ask("keys/no-such-key/encrypt", &encrypt("aGk="), CREDENTIAL).0;
    assert_eq!(ask(&daemon), 404, "allowed, and then not found");

    let nobody = "@id(\"nobody\") forbid(principal, action, resource);";
    setup.write("p.cedar", &format!("permit(principal, action, resource); {nobody}"));
    assert_eq!(daemon.reload(), "reloaded");
    assert_eq!(ask(&daemon), 403);
    assert_eq!(daemon.event()["detail"], "cedar: the policy \"nobody\" forbids the request");

    let (file, policies) = (setup.path("xks.toml"), setup.path("p.cedar"));
    for (text, place, why) in [
        ("permit(principal, action, resource)", ":1:36", "unexpected end of input"),
        ("", "", "there is no policy, which would deny every request"),
    ] {
        setup.write("p.cedar", text);
        let told = daemon.reload();
        let line = format!("{}:18: {}{place}: {why}", file.display(), policies.display());
        assert!(told.starts_with(&format!("not reloaded, the old configuration stays: {line}")), "{told}");
        assert_eq!(ask(&daemon), 403, "the old policies stay");
    }
    setup.write("p.cedar", "permit(principal, action, resource);");
    assert_eq!(daemon.reload(), "reloaded");
    assert_eq!(ask(&daemon), 404);
}

/// The Decrypt request for what an Encrypt answered.
fn decrypt_of(made: &Value) -> Value {
    let mut body = json!({ "requestMetadata": metadata(), "encryptionAlgorithm": "AES_GCM" });
    for field in ["ciphertext", "ciphertextMetadata", "initializationVector", "authenticationTag"] {
        body[field] = made[field].clone();
    }
    body
}

#[test]
fn sighup_rotates_a_key_under_load_and_takes_a_version_away() {
    let setup = Setup::new();
    let key = |current: u8, versions: &str| {
        let key = format!(
            "[[key_store.key]]\nid = \"orders\"\ncurrent_version = {current}\nversions = [{versions}]\n"
        );
        setup.configure(&(setup.config() + &key));
    };
    let (one, two) = ("{ version = 1, label = \"foo\" }", "{ version = 2, label = \"known\" }");
    // The metadata of a ciphertext in Base64: format 1, then the version.
    let (made_by_1, made_by_2) = (json!("AQE="), json!("AQI="));
    key(1, one);
    let mut daemon = Daemon::start(&setup);
    let (status, old) = ask_at(daemon.address, "keys/orders/encrypt", &encrypt("b2xk"));
    assert_eq!((status, &old["ciphertextMetadata"]), (200, &made_by_1));

    // Callers who encrypt, decrypt what they got and decrypt the old ciphertext, again and again. What waits in the
    // channel is bounded, and with it the log that nobody reads meanwhile.
    let (address, stop) = (daemon.address, AtomicBool::new(false));
    let (rounds, finished) = mpsc::sync_channel(32);
    std::thread::scope(|scope| {
        for _caller in 0..4 {
            let (rounds, old, stop) = (rounds.clone(), &old, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let (status, made) = ask_at(address, "keys/orders/encrypt", &encrypt("bmV3"));
                    let (opened, plain) = ask_at(address, "keys/orders/decrypt", &decrypt_of(&made));
                    let (old_opened, old_plain) = ask_at(address, "keys/orders/decrypt", &decrypt_of(old));
                    let right = (status, opened, old_opened) == (200, 200, 200)
                        && plain["plaintext"] == "bmV3"
                        && old_plain["plaintext"] == "b2xk";
                    if rounds.send((right, made["ciphertextMetadata"].clone())).is_err() {
                        break;
                    }
                }
            });
        }
        drop(rounds);
        // Owned in here, so that a failure below hangs up on the callers instead of leaving them waiting.
        let finished = finished;
        let next = || {
            let (right, version) = finished.recv().unwrap();
            assert!(right, "a caller noticed the rotation");
            version
        };
        (0..8).for_each(|_| assert_eq!(next(), made_by_1));
        key(2, &format!("{one}, {two}"));
        let told = daemon.reload();
        assert_eq!(told, "reloaded");
        while next() != made_by_2 {}
        // Each caller has at most one round under way that began before, and the channel holds 32.
        (0..40).for_each(|_| drop(next()));
        (0..8).for_each(|_| assert_eq!(next(), made_by_2));
        stop.store(true, Ordering::Relaxed);
    });

    // Metadata that names the other version is a change like any other (XKS-DEC-2).
    let mut altered = decrypt_of(&old);
    altered["ciphertextMetadata"] = made_by_2.clone();
    let (status, answer) = ask_at(address, "keys/orders/decrypt", &altered);
    assert_eq!((status, &answer["errorName"]), (400, &json!("InvalidCiphertextException")));

    key(2, two);
    assert_eq!(daemon.reload(), "reloaded");
    let (status, answer) = ask_at(address, "keys/orders/decrypt", &decrypt_of(&old));
    assert_eq!((status, &answer["errorName"]), (400, &json!("InvalidCiphertextException")));
    let told = "the ciphertext was made with version 1 of the key, which is not configured";
    while daemon.event()["detail"] != told {}

    // Putting the version back gives its ciphertexts back.
    key(2, &format!("{one}, {two}"));
    assert_eq!(daemon.reload(), "reloaded");
    assert_eq!(ask_at(address, "keys/orders/decrypt", &decrypt_of(&old)).1["plaintext"], "b2xk");
}

/// The proxies of a fleet that moves go over to our own scheme one SIGHUP each (XKS-MIG-1).
#[test]
fn sighup_changes_the_scheme_of_new_ciphertexts() {
    let setup = Setup::new();
    let compatible = |encrypt: &str| {
        let table = format!("[key_store.compatibility]\naws_sample_proxy = true\nencrypt = \"{encrypt}\"\n");
        setup.configure(&(setup.config() + &table));
    };
    compatible("sample");
    let mut daemon = Daemon::start(&setup);
    let (status, mut theirs) = ask_at(daemon.address, "keys/foo/encrypt", &encrypt("b2xk"));
    assert_eq!((status, theirs.get("ciphertextMetadata")), (200, None));
    theirs["ciphertextMetadata"] = json!("");

    compatible("own");
    assert_eq!(daemon.reload(), "reloaded");
    let (status, ours) = ask_at(daemon.address, "keys/foo/encrypt", &encrypt("bmV3"));
    assert_eq!((status, &ours["ciphertextMetadata"]), (200, &json!("AQE=")));
    for (made, plaintext) in [(theirs, "b2xk"), (ours, "bmV3")] {
        let (status, opened) = ask_at(daemon.address, "keys/foo/decrypt", &decrypt_of(&made));
        assert_eq!((status, &opened["plaintext"]), (200, &json!(plaintext)));
    }
}

#[test]
fn pin_and_secret_may_stand_in_the_environment() {
    let setup = Setup::new();
    let config = setup.config().replace("pin_file = \"pin\"", "pin_env = \"XKS_PIN\"");
    setup.configure(&config.replace("secret_file = \"secret\"", "secret_env = \"XKS_SECRET\""));
    // Nothing else could tell them.
    ["pin", "secret"].iter().for_each(|name| fs::remove_file(setup.path(name)).unwrap());
    let mut command = setup.command("serve");
    command.env("XKS_PIN", PIN).env("XKS_SECRET", CREDENTIAL.1).stdout(Stdio::piped());
    let mut daemon = Daemon::of(command.spawn().unwrap());
    daemon.listens();
    // Answered by the HSM, to which only the PIN gives access.
    assert_eq!(daemon.ask("keys/foo/encrypt", &encrypt("aGVsbG8="), CREDENTIAL).0, 200);
}

#[test]
fn it_serves_tls_with_the_configured_certificate() {
    let setup = Setup::new();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    setup.write("certificate.pem", &made.cert.pem());
    setup.write("key.pem", &made.signing_key.serialize_pem());
    setup.change(
        "[[hsm]]",
        "[server.tls]\ncertificate_file = \"certificate.pem\"\nkey_file = \"key.pem\"\n[[hsm]]",
    );
    let daemon = Daemon::start(&setup);

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let session = rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let stream = rustls::StreamOwned::new(session, daemon.connect());
    assert_eq!(ask(stream, "health", &json!({ "requestMetadata": metadata() }), CREDENTIAL).0, 200);
}

#[test]
fn check_says_what_it_found_and_ends_with_0() {
    let setup = Setup::new();
    let key = "[[key_store.key]]\nid = \"orders\"\ncurrent_version = 1\nversions = [{ version = 1, label = \"foo\" }]\n";
    setup.configure(&(setup.config() + key));
    let output = setup.run("check");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    let found = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!(lines[1], "listen      127.0.0.1:0, plain HTTP");
    assert!(lines[2].starts_with("hsm         softhsm: logged in; SoftHSM v2 "), "{found}");
    assert_eq!(
        lines[3],
        "key store   main: /example/uri/path/prefix/kms/xks/v1 on hsm softhsm; credentials: 1, keys named: 1, rules: \
         none, every signed request is allowed"
    );
    assert_eq!(lines[4..], ["Nothing wrong found."]);
}

#[test]
fn check_warns_of_secrets_that_everybody_can_read() {
    let setup = Setup::new();
    fs::set_permissions(setup.path("pin"), fs::Permissions::from_mode(0o644)).unwrap();
    let output = setup.run("check");
    let found = String::from_utf8(output.stdout).unwrap();
    let warning = format!(
        "warning     {}:8: every user of this machine can read the PIN in {}: chmod 600 it\n",
        setup.path("xks.toml").display(),
        setup.path("pin").display()
    );
    assert!(
        found.ends_with(&format!("{warning}Nothing wrong found, 1 warning.\n")),
        "{found} {:?}",
        output.status
    );
}

#[test]
fn check_misses_keys_that_the_hsm_does_not_have_or_that_are_too_short() {
    let setup = Setup::new();
    for (label, line) in [
        (
            "nowhere",
            "key orders, version 1, label \"nowhere\": KeyNotFound: no key with label \"nowhere\" that this user can see: make the key in the \
             HSM, or correct its name",
        ),
        (
            "short_key",
            "key orders, version 1, label \"short_key\" is AES with 128 bits: an external key must be AES with 256 bits",
        ),
    ] {
        let key = format!(
            "[[key_store.key]]\nid = \"orders\"\ncurrent_version = 1\nversions = [{{ version = 1, label = \"{label}\" }}]\n"
        );
        setup.configure(&(setup.config() + &key));
        let output = setup.run("check");
        let expected = format!("xks-proxy: {}:18: {line}\n", setup.path("xks.toml").display());
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stderr)),
            (Some(2), expected.into())
        );
    }
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_one() {
    let setup = Setup::new();
    setup.change("listen =", "lisen =");
    setup.is_refused(":2: unknown key `lisen`: did you mean `listen`?");
}

#[test]
fn an_absent_module_is_refused() {
    let setup = Setup::new();
    setup.change(&SoftHsm::get().module.display().to_string(), "/no/such/module.so");
    setup.is_refused(
        ":6: hsm \"softhsm\": no PKCS#11 module at /no/such/module.so: install the HSM's client software or correct the \
         path",
    );
}

#[test]
fn an_absent_token_is_refused_with_those_there_are() {
    let setup = Setup::new();
    setup.change("token_label = \"xks\"", "token_label = \"elsewhere\"");
    let output = setup.run("check");
    let told = String::from_utf8(output.stderr).unwrap();
    let start = format!(
        "xks-proxy: {}:7: hsm \"softhsm\": no token with label \"elsewhere\"; there are: label ",
        setup.path("xks.toml").display()
    );
    assert!(
        told.starts_with(&start) && told.contains("label \"xks\" serial ") && told.lines().count() == 1,
        "{told}"
    );
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), b"".as_slice()));
}

/// The story: the HSM was away, and all that `check` said of it was that it does not answer.
#[test]
fn check_says_why_an_hsm_is_away() {
    let setup = Setup::new();
    let config = setup.path("xks.toml");
    fs::remove_dir_all(setup.path("tokens")).unwrap();
    for (there, line, reason) in [(false, 5, "C_Initialize: "), (true, 7, "no token with label \"xks\"")] {
        if there {
            fs::create_dir(setup.path("tokens")).unwrap();
        }
        let output = setup.run("check");
        let told = String::from_utf8(output.stderr).unwrap();
        let start = format!("xks-proxy: {}:{line}: hsm \"softhsm\": {reason}", config.display());
        assert!(told.starts_with(&start) && told.lines().count() == 1, "{told}");
        assert_eq!(output.status.code(), Some(2));
    }
}

/// The story: with several HSMs that hung, a start took ten seconds for each. Here each of two modules hangs until the
/// other one is being opened, too.
#[test]
fn hsms_of_different_modules_are_opened_side_by_side() {
    let setup = Setup::new();
    let library = setup.path("first.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/meeting_shim.c");
    let mut compiler = Command::new("cc");
    let made =
        compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::copy(&library, setup.path("second.so")).unwrap();
    for real in ["first.so.real", "second.so.real"] {
        fs::copy(&SoftHsm::get().module, setup.path(real)).unwrap();
    }
    let meeting = setup.path("meeting");
    assert!(Command::new("mkfifo").arg(&meeting).status().unwrap().success());

    let module = SoftHsm::get().module.display().to_string();
    let second = STANDBY.replace("{module}", &setup.path("second.so").display().to_string());
    let config = setup.config().replace(&module, &library.display().to_string());
    setup.configure(&config.replace("[[key_store]]", &second));
    let output = setup.command("check").env("MEETING", &meeting).output().unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    for hsm in ["hsm         softhsm: logged in", "hsm         standby: logged in"] {
        assert!(found.contains(hsm), "{found}{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(output.status.code(), Some(0));
}

/// The story: an HSM hung, and a start that hung with it did not hear that it was to stop.
#[test]
fn a_start_that_hangs_is_stopped_at_once() {
    let setup = Setup::new();
    // It says that it runs, and then waits for what never comes.
    setup.write("helper", "#!/bin/sh\necho > \"$1\"\nexec sleep 20\n");
    fs::set_permissions(setup.path("helper"), fs::Permissions::from_mode(0o700)).unwrap();
    let pipe = setup.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let command = format!("pin_command = [\"{}\", \"{}\"]", setup.path("helper").display(), pipe.display());
    setup.change("pin_file = \"pin\"", &command);
    for name in ["TERM", "INT"] {
        let child = setup.command("serve").stdout(Stdio::piped()).spawn().unwrap();
        let mut daemon = Daemon::of(child);
        assert_eq!(fs::read(&pipe).unwrap(), b"\n");
        daemon.signal(name);
        assert_eq!(daemon.wait_for("stopped before it served")["signal"], format!("SIG{name}"));
        assert_eq!(daemon.end(), Some(0));
    }
}

/// A partition in maintenance must not keep another HSM of the group from serving.
#[test]
fn an_absent_token_does_not_end_the_daemon() {
    let setup = Setup::new();
    setup.change("token_label = \"xks\"", "token_label = \"elsewhere\"");
    let mut daemon = Daemon::of(setup.command("serve").stdout(Stdio::piped()).spawn().unwrap());
    let told = daemon.wait_for("no HSM session yet; it is tried again until there is one");
    assert_eq!((&told["level"], &told["hsm"]), (&json!("ERROR"), &json!("softhsm")));
    let error = told["error"].as_str().unwrap();
    assert!(
        error.starts_with("no token with label \"elsewhere\"; there are: ")
            && error.contains("label \"xks\"")
    );
    daemon.listens();
    daemon.signal("TERM");
    assert_eq!(daemon.end(), Some(0));
}

/// A daemon that ended would be started again, and its next tries of the PIN would lock the token.
#[test]
fn a_wrong_pin_ends_a_check_but_not_the_daemon() {
    let setup = Setup::new();
    setup.write("pin", "4711\n");
    let error = "the token with label \"xks\" refuses the PIN: correct it and start again. It is not tried a second time, \
                 because a few wrong PINs lock the token";
    let output = setup.run("check");
    let expected = format!("xks-proxy: {}:8: hsm \"softhsm\": {error}\n", setup.path("xks.toml").display());
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr)), (Some(2), expected.into()));

    setup.configure(&(setup.config() + "[ops]\nlisten = \"127.0.0.1:0\"\n"));
    let child = setup.command("serve").stdout(Stdio::piped()).spawn().unwrap();
    let mut daemon = Daemon::of(child);
    let told = daemon.wait_for("no login, and none is tried again before a restart");
    assert_eq!(
        (&told["level"], &told["hsm"], &told["error"]),
        (&json!("ERROR"), &json!("softhsm"), &json!(error))
    );
    let ops: SocketAddr = daemon.wait_for("ops: ")["address"].as_str().unwrap().parse().unwrap();
    daemon.listens();
    let (status, answer) = daemon.ask("keys/foo/encrypt", &encrypt("cGxhaW50ZXh0"), CREDENTIAL);
    assert_eq!((status, &answer["errorName"]), (500, &json!("InternalException")));
    for (path, status) in [("livez", "200"), ("readyz", "503")] {
        let mut stream = TcpStream::connect(ops).unwrap();
        stream.write_all(format!("GET /{path} HTTP/1.1\r\nhost: ops\r\n\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {text}");
    }
    daemon.signal("TERM");
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn files_that_are_missing_or_empty_are_refused() {
    let setup = Setup::new();
    setup.change("pin_file = \"pin\"", "pin_file = \"absent\"");
    setup.is_refused(&format!(
        ":8: cannot read the PIN file {} (No such file or directory (os error 2)): create it, or correct the path and \
         its permissions",
        setup.path("absent").display()
    ));
    setup.change("pin_file = \"pin\"", "pin_env = \"XKS_NO_SUCH_VARIABLE\"");
    setup.is_refused(
        ":8: the environment variable XKS_NO_SUCH_VARIABLE is not set (or not UTF-8): put the PIN into it",
    );
    setup.configure(&setup.config());
    setup.write("pin", "\n");
    setup.is_refused(&format!(":8: {} is empty: write the PIN there", setup.path("pin").display()));
    setup.change("[[hsm]]", "[server.tls]\ncertificate_file = \"absent\"\nkey_file = \"pin\"\n[[hsm]]");
    setup.is_refused(&format!(
        ":5: cannot read the certificate file {} (No such file or directory (os error 2)): create it, or correct the \
         path and its permissions",
        setup.path("absent").display()
    ));
}

#[test]
fn a_secret_of_the_wrong_shape_is_refused_and_not_repeated() {
    let setup = Setup::new();
    let secret = "hunter2hunter2hunter2";
    setup.write("secret", secret);
    let told = String::from_utf8(setup.run("serve").stderr).unwrap();
    assert!(!told.contains("hunter2"), "{told}");
    setup.is_refused(&format!(
        ":15: a secret access key has 43 to 64 characters, the one of {} has 21: correct it",
        CREDENTIAL.0
    ));
}

#[test]
fn a_port_in_use_is_refused() {
    let setup = Setup::new();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    setup.change("127.0.0.1:0", &address.to_string());
    let output = setup.run("serve");
    let expected = format!(
        "xks-proxy: {}:2: cannot listen on {address}: the port is in use: stop the process that has it, or change \
         `listen`\n",
        setup.path("xks.toml").display()
    );
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr)), (Some(3), expected.into()));
}

/// The story: a vault that was down for a minute ended the daemon with the code after which nothing starts it again.
#[test]
fn what_may_pass_by_itself_ends_with_3_and_what_must_be_corrected_with_2() {
    let setup = Setup::new();
    let code = || setup.run("serve").status.code();
    setup.change("pin_file = \"pin\"", "pin_command = [\"/bin/false\"]");
    assert_eq!(code(), Some(3), "the PIN's command fails");
    assert_eq!(setup.run("check").status.code(), Some(2), "nobody restarts a check");
    setup.change("secret_file = \"secret\"", "secret_command = [\"/bin/false\"]");
    assert_eq!(code(), Some(3), "the secret's command fails");
    setup.change("pin_file = \"pin\"", "pin_command = [\"/bin/true\"]");
    assert_eq!(code(), Some(2), "the command succeeds and tells nothing");
    setup.change("127.0.0.1:0", "192.0.2.1:0");
    assert_eq!(code(), Some(3), "the machine has no such address yet");
    setup.change("[[hsm]]", "[ops]\nlisten = \"192.0.2.1:0\"\n[[hsm]]");
    assert_eq!(code(), Some(3), "nor that of [ops]");

    setup.change("[[hsm]]", "[server.tls]\ncertificate_file = \"c.pem\"\nkey_file = \"k.pem\"\n[[hsm]]");
    let day = std::time::Duration::from_secs(86_400);
    let now = std::time::SystemTime::now();
    for (from, to, expected) in [(now + day, now + day * 2, 3), (now - day * 2, now - day, 2)] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut certificate = rcgen::CertificateParams::new(vec!["xks.example.com".to_owned()]).unwrap();
        (certificate.not_before, certificate.not_after) = (from.into(), to.into());
        setup.write("c.pem", &certificate.self_signed(&key).unwrap().pem());
        setup.write("k.pem", &key.serialize_pem());
        assert_eq!(code(), Some(expected), "a certificate of another time");
    }
}

/// `[::]` beside an IPv4 address on the same port takes IPv6 only; else the second bind would find the port in use.
#[test]
fn it_listens_on_ipv4_and_ipv6_side_by_side() {
    let port = TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
    let setup = Setup::new();
    setup.change("\"127.0.0.1:0\"", &format!("[\"0.0.0.0:{port}\", \"[::]:{port}\"]"));
    let mut daemon = Daemon::start(&setup);
    assert_eq!(daemon.wait_for("listening")["address"], format!("[::]:{port}"));
    for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        let body = json!({ "requestMetadata": metadata() });
        let (status, _) = ask(TcpStream::connect(address).unwrap(), "health", &body, CREDENTIAL);
        assert_eq!(status, 200);
    }
    daemon.signal("TERM");
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn a_reload_takes_over_a_quota() {
    let setup = Setup::new();
    let with_quota = |burst: u32| {
        let quota = format!("quota = {{ requests_per_s = 1, burst = {burst} }}\ncredential = [");
        setup.change("credential = [", &quota);
    };
    let mut daemon = Daemon::start(&setup);
    let ask = |daemon: &Daemon| daemon.ask("keys/known/encrypt", &encrypt("aGk="), CREDENTIAL).0;
    assert_eq!(ask(&daemon), 200);
    with_quota(1_000);
    assert_eq!(daemon.reload(), "reloaded");
    let statuses: Vec<u16> = (0..3).map(|_| ask(&daemon)).collect();
    assert_eq!(statuses, [200; 3]);
    with_quota(1);
    assert_eq!(daemon.reload(), "reloaded");
    // However slow this machine is: one request per second, so of many that take less than that some are refused.
    let mut statuses = Vec::new();
    while !statuses.contains(&429) {
        assert!(statuses.len() < 1_000, "never refused");
        statuses.push(ask(&daemon));
    }
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
}

#[test]
fn too_few_open_files_are_made_more_or_warned_of() {
    let setup = Setup::new();
    setup.change("[[hsm]]", "[limits]\nconnections_max = 300\n[[hsm]]");
    // 300 connections, 2 sessions, 16 that may be set aside, 64 other files.
    for (limits, warns) in [("ulimit -Hn 382; ulimit -Sn 100", false), ("ulimit -n 381", true)] {
        let serve = setup.command("serve");
        let mut words = vec![serve.get_program().to_string_lossy().into_owned()];
        words.extend(serve.get_args().map(|word| word.to_string_lossy().into_owned()));
        let script = format!("{limits}; exec {}", words.join(" "));
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env("SOFTHSM2_CONF", setup.path("softhsm2.conf"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut daemon = Daemon { child, lines, address: ([0, 0, 0, 0], 0).into() };
        let first = daemon.line().unwrap()["message"].as_str().unwrap().to_owned();
        if warns {
            assert_eq!(
                first,
                "the process may open 381 files and may need 382, for limits.connections_max = 300 and one for each \
                 HSM session: raise its limit (systemd: LimitNOFILE=382; shell: ulimit -n 382), or lower \
                 connections_max"
            );
            continue;
        }
        assert_eq!(first, "listening");
        let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.child.id())).unwrap();
        let open_files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(open_files.split_whitespace().nth(3), Some("382"));
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    let output = Command::new(env!("CARGO_BIN_EXE_xks-proxy")).arg("serve").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// Another token of the same module, which holds no key.
const STANDBY: &str = "[[hsm]]\nname = \"standby\"\nmodule = \"{module}\"\ntoken_label = \"spare\"\npin_file = \"pin\"\n\
    sessions_max = 1\nhealth_interval_ms = 1000\n[[key_store]]";

fn with_standby(setup: &Setup) -> String {
    let module = SoftHsm::get().module.display().to_string();
    setup.config().replace("[[key_store]]", &STANDBY.replace("{module}", &module))
}

#[test]
fn sighup_changes_which_hsms_a_key_store_uses() {
    let setup = Setup::new();
    let config = with_standby(&setup);
    setup.configure(&config);
    let mut daemon = Daemon::start(&setup);
    let devices = |daemon: &Daemon| {
        let (status, health) = daemon.ask("health", &json!({ "requestMetadata": metadata() }), CREDENTIAL);
        assert_eq!(status, 200);
        health["ekmFleetDetails"].as_array().unwrap().len()
    };
    assert_eq!(devices(&daemon), 1);
    setup.configure(&config.replace("hsm = \"softhsm\"", "hsms = [\"softhsm\", \"standby\"]"));
    assert_eq!(daemon.reload(), "reloaded");
    assert_eq!(devices(&daemon), 2);
    // The standby has no key: whoever is asked first, the key is found.
    let body = json!({ "requestMetadata": metadata() });
    for _ in 0..4 {
        assert_eq!(daemon.ask("keys/foo/metadata", &body, CREDENTIAL).0, 200);
    }
    assert_eq!(daemon.ask("keys/nowhere/metadata", &body, CREDENTIAL).0, 404);
}

#[test]
fn check_looks_for_keys_in_every_hsm_of_the_store() {
    let setup = Setup::new();
    let key = "[[key_store.key]]\nid = \"orders\"\ncurrent_version = 1\nversions = [{ version = 1, label = \"foo\" }]\n";
    let config = with_standby(&setup) + key;
    setup.configure(&config.replace("hsm = \"softhsm\"", "hsms = [\"softhsm\", \"standby\"]"));
    let output = setup.run("check");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = "key orders, version 1, label \"foo\", in hsm \"standby\": KeyNotFound";
    assert!(output.status.code() == Some(2) && told.contains(line), "{told}");
    setup.configure(&config.replace("hsm = \"softhsm\"", "hsms = [\"softhsm\"]"));
    assert_eq!(setup.run("check").status.code(), Some(0));
}
