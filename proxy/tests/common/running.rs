//! A running daemon over a copy of the throwaway SoftHSM2, with its ops listener.

#![allow(dead_code, reason = "each test program uses its own part of this")]

#[path = "tokens.rs"]
pub(crate) mod tokens;

use super::softhsm::{PIN, SoftHsm, TOKEN};
use super::support::{self, CREDENTIAL, uri};
use serde_json::Value;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tokens::copy_tokens;
use xks_proxy::env::{Env, SystemEnv};

/// Ends with the daemon, which is killed when a test fails.
pub(crate) struct Running {
    pub(crate) child: Child,
    lines: Box<dyn BufRead + Send>,
    /// Where KMS connects.
    pub(crate) address: SocketAddr,
    /// The ops listener.
    pub(crate) ops: SocketAddr,
    directory: TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came back.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Running {
    /// Starts the daemon with these tables beside `[server]`, `[ops]`, `[[hsm]]` and `[[key_store]]`.
    pub(crate) fn start(tables: &str) -> Self {
        Self::start_with(tables, Stdio::inherit())
    }

    /// The same, with another place for its standard error, where a panic would be told.
    pub(crate) fn start_with(tables: &str, standard_error: Stdio) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        copy_tokens(&path("tokens"));
        let write = |name: &str, text: &str| {
            fs::write(path(name), text).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
        };
        write("softhsm2.conf", &format!("directories.tokendir = {}\n", path("tokens").display()));
        write("pin", PIN);
        write("secret", CREDENTIAL.1);
        write("xks.toml", &config(tables));
        let mut child = Command::new(env!("CARGO_BIN_EXE_xks-proxy"))
            .args(["serve", "--config"])
            .arg(path("xks.toml"))
            .env("SOFTHSM2_CONF", path("softhsm2.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(standard_error)
            .spawn()
            .unwrap();
        let lines = Box::new(BufReader::new(child.stdout.take().unwrap()));
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut this = Self { child, lines, address: nowhere, ops: nowhere, directory };
        this.ops = this.wait_for("ops: ")["address"].as_str().unwrap().parse().unwrap();
        this.address = this.wait_for("listening")["address"].as_str().unwrap().parse().unwrap();
        // As a load balancer does: nothing is sent before the proxy says that it is ready, after its first check of the HSM.
        while !this.is_ready() {
            std::thread::yield_now();
        }
        this
    }

    fn is_ready(&self) -> bool {
        let mut stream = TcpStream::connect(self.ops).unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: ops\r\n\r\n").unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text.starts_with("HTTP/1.1 200 ")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Reads the log up to the line whose message starts so.
    pub(crate) fn wait_for(&mut self, message: &str) -> Value {
        self.line(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message)))
    }

    /// Reads the log up to the line that is meant.
    pub(crate) fn line(&mut self, is_meant: impl Fn(&Value) -> bool) -> Value {
        let mut text = String::new();
        while self.lines.read_line(&mut text).unwrap() > 0 {
            let line: Value = serde_json::from_str(&text).unwrap();
            if is_meant(&line) {
                return line;
            }
            text.clear();
        }
        panic!("the log ends");
    }

    /// The log from here on, for a test that reads along while it does other things.
    pub(crate) fn take_log(&mut self) -> Box<dyn BufRead + Send> {
        std::mem::replace(&mut self.lines, Box::new(io::empty()))
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Asks the API.
    pub(crate) fn ask(&self, operation: &str, body: &Value, credential: (&str, &str)) -> Reply {
        self.ask_with(operation, body, credential, "")
    }

    /// The same with further header lines, each with its line break.
    pub(crate) fn ask_with(
        &self,
        operation: &str,
        body: &Value,
        credential: (&str, &str),
        headers: &str,
    ) -> Reply {
        let body = body.to_string();
        let request = support::signed_at(&uri(operation), body.clone(), credential, SystemEnv.now());
        let mut text = format!("POST {} HTTP/1.1\r\nconnection: close\r\n{headers}", request.uri());
        text += &format!("content-length: {}\r\n", body.len());
        for (name, value) in request.headers() {
            text += &format!("{name}: {}\r\n", value.to_str().unwrap());
        }
        exchange(self.address, &format!("{text}\r\n{body}"))
    }

    /// Asks the ops listener, with further header lines, each with its line break.
    pub(crate) fn ops(&self, method: &str, path: &str, headers: &str) -> Reply {
        exchange(self.ops, &format!("{method} {path} HTTP/1.1\r\nhost: ops\r\n{headers}\r\n"))
    }

    /// The value of one series on the page, its labels in the order of the page.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let page = self.ops("GET", "/metrics", "").body;
        page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }
}

fn config(tables: &str) -> String {
    format!(
        r#"[server]
listen = "127.0.0.1:0"
[ops]
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
{tables}
"#,
        module = SoftHsm::get().module.display(),
        id = CREDENTIAL.0,
    )
}

/// One request, and everything up to the end of the connection.
fn exchange(address: SocketAddr, request: &str) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_lowercase(), body: body.to_owned() }
}
