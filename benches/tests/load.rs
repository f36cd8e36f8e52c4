//! The load program against the bare server: figures when answers are right, a failure when they are not, one line when
//! there is nothing to load.

#![expect(clippy::unwrap_used, reason = "a test ends when something is not as it must be")]

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

/// The bare server on a port of its own; ended when dropped.
struct Bare {
    child: Child,
    url: String,
}

impl Bare {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bare"))
            .args(["--port", "0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on ").unwrap().split(';').next().unwrap();
        Self { url: format!("http://{address}"), child }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn load(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_load")).args(words).output().unwrap()
}

const SHORT: [&str; 4] = ["--seconds", "1", "--warm-up-seconds", "0"];

/// Runs against a bare server and gives the figures.
fn figures(words: &[&str]) -> (Output, Value) {
    let (bare, directory) = (Bare::start(), tempfile::tempdir().unwrap());
    let json = directory.path().join("figures.json");
    let fixed = ["run", "--endpoint", &bare.url, "--json", json.to_str().unwrap()];
    let output = load(&[&fixed[..], &SHORT, words].concat());
    let figures = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    (output, figures)
}

#[test]
fn right_answers_make_figures() {
    for words in [
        &["--connections", "3", "--threads", "2"][..],
        &["--http2"],
        &["--pre-signed"],
        &["--rate", "200", "--connections", "2"],
    ] {
        let (output, figures) = figures(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        let count = |name: &str| figures["answers"][name].as_u64().unwrap();
        assert!(count("200") > 0, "{words:?}: {figures}");
        assert!(
            figures["wrong"].as_object().unwrap().is_empty()
                && figures["lost"].as_object().unwrap().is_empty()
        );
        assert!(figures["proxy"]["pid"].as_u64().is_some(), "the process is found by its port: {figures}");
        if words[0] == "--rate" {
            // However slow the machine: all of the second's requests are sent, or are said not to have been.
            assert_eq!(count("200") + figures["unsent"].as_u64().unwrap(), 200);
        }
    }
}

/// The bare server answers whatever it is asked as if it had been asked to encrypt.
#[test]
fn wrong_answers_fail() {
    for words in [&["--cdiv"][..], &["--operation", "decrypt"], &["--operation", "encrypt,health"]] {
        let (output, figures) = figures(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(!figures["wrong"].as_object().unwrap().is_empty(), "{words:?}: {figures}");
    }
}

#[test]
fn what_cannot_be_loaded_is_told_in_one_line() {
    // Bound and not listening any more: nobody else gets the port meanwhile, most likely.
    let free = {
        #[expect(clippy::disallowed_methods, reason = "a port that nobody serves")]
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for (words, part) in [
        (&["run", "--endpoint", &free][..], "nobody serves"),
        (&["run", "--endpoint", "http://192.0.2.1"], "--i-own-this-endpoint"),
        (&["side-by-side", "--a", &free, "--b", &free], "nobody serves"),
        (&["side-by-side", "--a", "http://192.0.2.1", "--b", &free], "--i-own-this-endpoint"),
        (&["run", "--endpoint", &free, "--threads", "2", "--connections", "1"], "2 threads"),
        (&["run"], "--endpoint <URL>"),
        (&["side-by-side", "--a", &free], "--b <PROXY>"),
        (&["run", "--endpoint", &free, "--operation", "raze"], "no operation \"raze\""),
        (&["raze"], "raze"),
    ] {
        let output = load(words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains(part) && said.lines().count() == 1, "{words:?}: {said}");
    }
}
