//! `xks-sim kms` as its user meets it.

use crate::proxy::{ACCESS_KEY_ID, Proxy, SECRET};
use crate::site::{Answer, base64, read, really, request};
use crate::stub_hsm::Mood;
use serde_json::json;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xks-sim"));
    command.arg("kms").args(arguments).env("NO_COLOR", "1").env_remove("XKS_SECRET_ACCESS_KEY");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Off this thread, on which the proxy runs.
#[expect(clippy::disallowed_methods, reason = "the proxy under test runs on the thread that waits")]
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn ended(mut command: Command) -> Output {
    off_thread(move || command.output().unwrap()).await
}

#[test]
fn every_mistake_is_told_in_one_line_with_what_to_do() {
    really(async {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (empty, secret) = (file("empty.pem", ""), file("secret", SECRET));
        let (unknown, range) = (file("a.toml", "hosts = 3\npatienc_ms = 1\n"), file("b.toml", "hosts = 0\n"));
        let proxy = Proxy::start(None).await;
        let (_held, taken) = taken();
        let everywhere = taken.replace("127.0.0.1", "0.0.0.0");
        let url = proxy.url.as_str();
        let with_key = |prefix: &'static str, id: &'static str| {
            ["--proxy", url, "--key-id", "k", "--access-key-id", id, "--secret-file", &secret]
                .into_iter()
                .chain(["--listen", "127.0.0.1:0", "--uri-path-prefix", prefix])
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        for (arguments, reasons) in [
            (words(&[]), ["--proxy URL is missing", "https://localhost:8443"]),
            (words(&["--proxy", "localhost:8443"]), ["--proxy localhost:8443", "give a URL such as"]),
            (words(&["--proxy", "https://localhost:1"]), ["https needs --ca FILE", "PEM"]),
            (
                words(&["--proxy", "http://localhost:1/x/kms/xks/v1"]),
                ["scheme, host and port", "--uri-path-prefix"],
            ),
            (
                words(&["--proxy", "https://localhost:1", "--ca", "no/such"]),
                ["--ca: cannot read no/such", "o"],
            ),
            (
                words(&["--proxy", "https://localhost:1", "--ca", &empty]),
                ["no certificate", "give certificates in PEM"],
            ),
            (words(&["--proxy", url, "--tls-name", "a.example"]), ["--tls-name is for https", url]),
            (
                words(&["--proxy", url, "--listen", "localhost"]),
                ["--listen localhost", "such as 127.0.0.1:8181"],
            ),
            (
                words(&["--proxy", url, "--listen", &everywhere]),
                ["no caller's signature is verified", "--open-to-the-network"],
            ),
            (words(&["--proxy", url, "--listen", &taken]), ["cannot listen on 127.0.0.1", "--listen"]),
            (words(&["--proxy", url, "--account", "12"]), ["account 12", "twelve digits"]),
            (words(&["--proxy", url, "--region", "eu west"]), ["--region eu west", "such as eu-west-1"]),
            (words(&["--proxy", url, "--settings", &unknown]), ["a.toml:2", "did you mean `patience_ms`"]),
            (words(&["--proxy", url, "--settings", &range]), ["hosts = 0", "from 1 to 1000"]),
            (
                words(&["--proxy", url, "--secret-file", &secret]),
                ["--secret-file is for the key store", "--key-id"],
            ),
            (words(&["--proxy", url, "--key-id", "k"]), ["--access-key-id is missing", "sign"]),
            (
                words(&["--proxy", url, "--key-id", "k", "--access-key-id", ACCESS_KEY_ID]),
                ["--secret-file FILE", "XKS_SECRET_ACCESS_KEY"],
            ),
            (
                with_key("/none", ACCESS_KEY_ID),
                ["cannot make the key store at the proxy", "XksProxyInvalidConfigurationException"],
            ),
            (with_key("/one", "short"), ["cannot make the key store", "accessKeyId"]),
        ] {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let output = ended(command(&arguments)).await;
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
            assert!(output.stdout.is_empty(), "{arguments:?}");
            assert_eq!(stderr.trim_end().lines().count(), 1, "{arguments:?}: {stderr}");
            for reason in reasons {
                assert!(stderr.contains(reason), "{arguments:?}: {stderr}");
            }
        }
    });
}

/// A socket that somebody else listens on, and its address.
#[expect(clippy::disallowed_methods, reason = "a socket of the tests' own")]
fn taken() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// A running command: its first lines, and where it listens.
struct Running {
    child: Child,
    lines: Vec<String>,
    address: String,
    rest: BufReader<std::process::ChildStdout>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that has failed leaves none behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(mut command: Command) -> Running {
    let mut child = command.spawn().unwrap();
    let mut rest = BufReader::new(child.stdout.take().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert_ne!(rest.read_line(&mut line).unwrap(), 0, "{lines:?}");
        lines.push(line.trim_end().to_owned());
        if line.starts_with("Ctrl-C") {
            break;
        }
    }
    let (_, after) = lines.iter().find_map(|line| line.split_once("listening on http://")).unwrap();
    let address = after.split(',').next().unwrap().to_owned();
    Running { child, lines, address, rest }
}

#[expect(clippy::disallowed_methods, reason = "a client of the tests' own")]
async fn call(address: &str, operation: &str, members: serde_json::Value) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request(operation, &members.to_string()).as_bytes()).await.unwrap();
    read(&mut stream).await
}

#[test]
fn one_command_gives_a_key_to_encrypt_with_and_ctrl_c_ends_it() {
    really(async {
        let directory = tempfile::tempdir().unwrap();
        let settings = directory.path().join("kms.toml");
        // A busy machine makes no answer late.
        std::fs::write(&settings, "patience_ms = 60000\n").unwrap();
        for (signal, lies) in [("INT", false), ("TERM", true)] {
            let proxy = Proxy::start(None).await;
            let mut command = command(&["--proxy", &proxy.url, "--listen", "127.0.0.1:0", "--fast"]);
            command.args([
                "--key-id",
                "external-1",
                "--uri-path-prefix",
                "/one",
                "--access-key-id",
                ACCESS_KEY_ID,
            ]);
            let source = lies.then_some(["vpc-0123", "vpce-4567"]);
            if let Some([vpc, vpce]) = source {
                command.args(["--source-vpc", vpc, "--source-vpce", vpce]);
            }
            command.arg("--settings").arg(&settings).env("XKS_SECRET_ACCESS_KEY", SECRET);
            let mut running = off_thread(move || start(command)).await;
            let text = running.lines.join("\n");
            assert!(text.contains("Callers' signatures are NOT verified"), "{text}");
            let arn = running.lines.iter().find_map(|line| line.strip_prefix("key: ")).unwrap();
            let members = json!({ "KeyId": arn, "Plaintext": base64(b"x") });
            let encrypted = call(&running.address, "Encrypt", members).await;
            assert_eq!(encrypted.status, 200, "{encrypted:?}");
            let heard = proxy.log.last();
            assert_eq!(
                (heard.source_vpc, heard.source_vpce),
                source.map(|it| it.map(str::to_owned).into()).unzip()
            );
            let blob = encrypted.json()["CiphertextBlob"].clone();
            let decrypted = call(&running.address, "Decrypt", json!({ "CiphertextBlob": blob })).await;
            assert_eq!(decrypted.json()["Plaintext"], base64(b"x"));
            proxy.hsm.set_mood(if lies { Mood::Lies } else { Mood::Well });
            call(&running.address, "Decrypt", json!({ "CiphertextBlob": blob })).await;
            call(&running.address, "Decrypt", json!({ "CiphertextBlob": "AAAA" })).await;

            let ended = off_thread(move || {
                let kill = format!("kill -{signal} {}", running.child.id());
                assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
                let mut rest = String::new();
                running.rest.read_to_string(&mut rest).unwrap();
                (running.child.wait().unwrap().code(), rest)
            })
            .await;
            let (code, rest) = ended;
            assert_eq!(code, Some(i32::from(lies)), "{rest}");
            assert_eq!(rest.contains("X1 does not hold (1 of 2 times)"), lies, "{rest}");
            let lines: Vec<&str> = rest.lines().collect();
            assert!(
                lines[0].starts_with("  proxy: ok, ") && lines[1].starts_with("Encrypt: ok (200), "),
                "{rest}"
            );
            assert!(rest.contains("Decrypt: InvalidCiphertextException (400), "), "{rest}");
            let totals = if lies {
                "4 requests, 2 refused; 5 calls of the proxy, 1 without"
            } else {
                "4 requests, 1 refused; 5 calls of the proxy, 0 without"
            };
            assert!(rest.contains(totals), "{rest}");
        }
    });
}
