//! A headless Chromium that does as it is told: the DevTools protocol over a pair of pipes, JSON messages that end in NUL.
//!
//! `--remote-debugging-pipe` reads commands from file descriptor 3 and writes answers to 4. A shell puts its own input and
//! output there, so that this needs neither a port, nor WebDriver, nor unsafe code.

use base64::Engine as _;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The browser is ended after so long, and whoever waits for it is told: a limit, not a wait.
const SECONDS_MAX: &str = "240";
/// Answers and events of one page load; more would be a page that never comes to rest.
const EVENTS_MAX: usize = 100_000;

const MISSING: &str = "Chromium is missing, in which the pages are looked at. `cargo xtask test` installs it, or: \
    sudo apt-get install -y --no-install-recommends chromium";

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    session: String,
    last_id: u64,
    events: VecDeque<Value>,
    /// Everything the page complained of: exceptions, errors in the console, what its policy refused.
    complaints: Vec<String>,
    /// Every address that was asked for.
    requested: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts it, with an empty page.
    pub(crate) fn start() -> Self {
        let there = Command::new("chromium").arg("--version").output().is_ok_and(|out| out.status.success());
        assert!(there, "{MISSING}");
        let profile = tempfile::tempdir().unwrap();
        let root = Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0");
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", SECONDS_MAX, "sh", "-c"])
            .arg("exec chromium \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1")
            .arg("sh")
            .args(["--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--hide-scrollbars"])
            .args(["--no-first-run", "--disable-extensions", "--disable-background-networking"])
            .args(["--disable-dev-shm-usage", "--disable-component-update", "--force-color-profile=srgb"])
            .arg(format!("--user-data-dir={}", profile.path().display()));
        if root {
            // Its sandbox refuses to work for root; the pages are our own.
            command.arg("--no-sandbox");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut browser = Self {
            child,
            commands,
            answers,
            session: String::new(),
            last_id: 0,
            events: VecDeque::new(),
            complaints: Vec::new(),
            requested: Vec::new(),
            _profile: profile,
        };
        let target = browser.command("Target.createTarget", json!({ "url": "about:blank" }));
        let attached = browser
            .command("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.command(&format!("{domain}.enable"), json!({}));
        }
        browser.size(1280, 900);
        browser
    }

    /// Sends a command and waits for its answer; events that come meanwhile are kept.
    pub(crate) fn command(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = Value::from(self.session.as_str());
        }
        let mut bytes = serde_json::to_vec(&message).unwrap();
        bytes.push(0);
        self.commands.write_all(&bytes).unwrap_or_else(|error| panic!("{method}: Chromium is gone: {error}"));
        loop {
            let message = self.receive(method);
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
        }
    }

    fn receive(&mut self, what: &str) -> Value {
        let mut bytes = Vec::new();
        self.answers.read_until(0, &mut bytes).unwrap();
        assert_eq!(bytes.pop(), Some(0), "{what}: Chromium ended, or took longer than {SECONDS_MAX} s");
        let message: Value = serde_json::from_slice(&bytes).unwrap();
        let parameters = &message["params"];
        match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => {
                self.complaints.push(parameters["exceptionDetails"].to_string())
            }
            Some("Runtime.consoleAPICalled") if parameters["type"] == "error" => {
                self.complaints.push(parameters["args"].to_string());
            }
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => {
                self.complaints.push(parameters["entry"].to_string());
            }
            Some("Network.requestWillBeSent") => {
                self.requested.push(parameters["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            _ => {}
        }
        if message["method"].is_string() {
            self.events.push_back(message.clone());
            assert!(self.events.len() < EVENTS_MAX, "{what}: the page never comes to rest");
        }
        message
    }

    /// Opens a file and waits until it is there in full.
    pub(crate) fn open(&mut self, page: &Path) {
        self.events.clear();
        let address = format!("file://{}", page.display());
        let opened = self.command("Page.navigate", json!({ "url": address }));
        assert!(opened["errorText"].is_null(), "{address}: {}", opened["errorText"]);
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            self.receive("loading");
        }
        self.rest();
    }

    /// Waits until what was asked for is drawn.
    pub(crate) fn rest(&mut self) {
        self.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))",
        );
    }

    /// What an expression of JavaScript comes to in the page; a promise is waited for.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let answer = self.command(
            "Runtime.evaluate",
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true }),
        );
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// As [`Browser::evaluate`], of an expression that gives text.
    pub(crate) fn text(&mut self, expression: &str) -> String {
        match self.evaluate(expression) {
            Value::String(text) => text.replace('\u{a0}', " "),
            other => panic!("{expression} is no text but {other}"),
        }
    }

    /// As [`Browser::evaluate`], of an expression that gives a number.
    pub(crate) fn number(&mut self, expression: &str) -> f64 {
        let value = self.evaluate(expression);
        value.as_f64().unwrap_or_else(|| panic!("{expression} is no number but {value}"))
    }

    /// The size of the window, in CSS pixels.
    pub(crate) fn size(&mut self, width: u32, height: u32) {
        self.command(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false }),
        );
    }

    /// `screen` or `print`, and the colours that the reader prefers: `light` or `dark`.
    pub(crate) fn media(&mut self, media: &str, colours: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": colours }]);
        self.command("Emulation.setEmulatedMedia", json!({ "media": media, "features": features }));
        self.rest();
    }

    /// The middle of the first element that a selector names, scrolled into sight.
    pub(crate) fn middle(&mut self, selector: &str) -> (f64, f64) {
        let found = self.evaluate(&format!(
            "(() => {{ const it = document.querySelector({selector:?}); it.scrollIntoView({{ block: 'center' }});
              const box = it.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2]; }})()"
        ));
        (found[0].as_f64().unwrap(), found[1].as_f64().unwrap())
    }

    /// A mouse event: `mouseMoved`, `mousePressed`, `mouseReleased` or `mouseWheel`.
    pub(crate) fn mouse(&mut self, kind: &str, (x, y): (f64, f64), wheel: f64, modifiers: u32) {
        let button = if kind == "mouseMoved" || kind == "mouseWheel" { "none" } else { "left" };
        self.command(
            "Input.dispatchMouseEvent",
            json!({
                "type": kind, "x": x, "y": y, "button": button, "clickCount": 1, "deltaX": 0, "deltaY": wheel,
                "buttons": u32::from(kind == "mousePressed"), "modifiers": modifiers,
            }),
        );
        self.rest();
    }

    /// Presses and releases a key, by its name in `KeyboardEvent.key`.
    pub(crate) fn key(&mut self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            " " => 32,
            "PageUp" => 33,
            "PageDown" => 34,
            "End" => 35,
            "Home" => 36,
            "ArrowLeft" => 37,
            "ArrowRight" => 39,
            "+" => 187,
            "-" => 189,
            "0" => 48,
            other => panic!("{other} is not among the keys that are pressed here"),
        };
        let text = match key {
            "Enter" => "\r",
            single if single.len() == 1 => single,
            _ => "",
        };
        let down = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        for kind in [down, "keyUp"] {
            let text = if kind == "keyUp" { "" } else { text };
            self.command(
                "Input.dispatchKeyEvent",
                json!({ "type": kind, "key": key, "windowsVirtualKeyCode": code, "text": text }),
            );
        }
        self.rest();
    }

    /// Writes a picture of the whole page, to be looked at.
    pub(crate) fn picture(&mut self, file: &Path) {
        let shot = self.command("Page.captureScreenshot", json!({ "captureBeyondViewport": true }));
        write_base64(file, &shot["data"]);
    }

    /// Prints the page on A4 and gives the PDF.
    pub(crate) fn print(&mut self, file: &Path) {
        let pdf = self.command(
            "Page.printToPDF",
            json!({ "preferCSSPageSize": true, "paperWidth": 8.27, "paperHeight": 11.69, "printBackground": false }),
        );
        write_base64(file, &pdf["data"]);
    }

    /// What the page complained of since it was asked last.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        self.rest();
        std::mem::take(&mut self.complaints)
    }

    /// Every address that was asked for since it was asked last.
    pub(crate) fn requested(&mut self) -> Vec<String> {
        std::mem::take(&mut self.requested)
    }
}

fn write_base64(file: &Path, data: &Value) {
    let bytes = base64::engine::general_purpose::STANDARD.decode(data.as_str().unwrap()).unwrap();
    std::fs::write(file, bytes).unwrap();
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends when its pipe does; if not, `timeout` ends it.
        let _ = self.commands.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let _ = self.child.wait();
    }
}
