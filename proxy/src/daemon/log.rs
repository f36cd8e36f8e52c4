//! The daemon's one log: JSON lines on standard output, the audit events among them.
//!
//! Place on the map: part of the binary; a subscriber of `events` and the writer behind `tracing`.
//!
//! Standard output is often a pipe, and a pipe whose reader stalls would stall every request that writes to it. So a
//! thread of its own does the writing, fed by a bounded queue. When the queue is full, lines are dropped and counted,
//! and the count is written as soon as there is room: keys stay available to KMS, and the gap in the log is on record.

mod line;

use line::JsonLine;
use serde_json::Map;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use xks_proxy::config::LogLevel;
use xks_proxy::events::{self, AuditEvent, Subscriber};

/// Lines that may wait for the writer: some seconds at KMS's full default quota, a few MiB.
const LINES_MAX: usize = 8_192;

/// How long `flush` waits for a reader that stalls.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// A handle to the log; clones write to the same one.
#[derive(Clone)]
pub(crate) struct Log {
    queue: SyncSender<Message>,
    /// Since the count was last written.
    dropped: Arc<AtomicU64>,
    /// Since the start.
    dropped_ever: Arc<AtomicU64>,
}

impl Log {
    /// Starts the writer over `out`.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, messages) = mpsc::sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&dropped);
        #[expect(
            clippy::disallowed_methods,
            reason = "writing to standard output blocks; the daemon's log is outside the core"
        )]
        std::thread::Builder::new().name("log".into()).spawn(move || write_all(&messages, &count, out))?;
        Ok(Self { queue, dropped, dropped_ever: Arc::default() })
    }

    fn line(&self, line: Vec<u8>) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.dropped_ever.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes this the log of all of this process' `tracing`. What other crates have to say is worth a line only when it
    /// is a warning.
    pub(crate) fn install(&self, level: LogLevel) {
        let level = match level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        };
        let targets =
            Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("xks_proxy", level);
        let lines = tracing_subscriber::fmt::layer().event_format(JsonLine).with_writer(self.clone());
        tracing_subscriber::registry().with(lines.with_filter(targets)).init();
    }

    /// How many lines have been dropped since the start, for metrics.
    pub(crate) fn lines_dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped_ever)
    }

    /// Returns once everything written so far has reached standard output, or after two seconds.
    pub(crate) fn flush(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        // A full queue means a stalled reader: there is nothing to wait for then.
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

fn write_all(messages: &Receiver<Message>, dropped: &AtomicU64, out: impl Write) {
    let mut out = io::BufWriter::new(out);
    // Errors are ignored: a daemon whose standard output is closed goes on serving.
    while let Ok(first) = messages.recv() {
        let mut next = Some(first);
        // Everything at hand is written in one go.
        while let Some(message) = next {
            match message {
                Message::Line(line) => {
                    let _ = out.write_all(&line);
                }
                Message::Flush(done) => {
                    let _ = out.flush();
                    let _ = done.send(());
                }
            }
            next = messages.try_recv().ok();
        }
        let missing = dropped.swap(0, Ordering::Relaxed);
        if missing > 0 {
            let count = Map::from_iter([("count".to_owned(), missing.into())]);
            let _ = writeln!(out, "{}", line::line("ERROR", "log lines dropped", count));
        }
        let _ = out.flush();
    }
}

impl Subscriber for Log {
    fn audit(&self, event: &AuditEvent) {
        let mut line = events::json_line(event).into_bytes();
        line.push(b'\n');
        self.line(line);
    }
}

/// One event of `tracing` on its way into the log: its writer gets the line in pieces.
pub(crate) struct Line {
    log: Log,
    text: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            self.log.line(std::mem::take(&mut self.text));
        }
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Log {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line { log: self.clone(), text: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A pipe whose reader does nothing until it is told to.
    struct Stalled {
        go_on: Option<Receiver<()>>,
        read: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stalled {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            if let Some(go_on) = self.go_on.take() {
                go_on.recv().unwrap();
            }
            self.read.lock().unwrap().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stalled_reader_costs_lines_that_are_counted_and_never_the_writer() {
        let (release, go_on) = mpsc::channel();
        let read = Arc::new(Mutex::new(Vec::new()));
        let log = Log::start(Stalled { go_on: Some(go_on), read: Arc::clone(&read) }).unwrap();
        let sent = 3 * LINES_MAX;
        for _ in 0..sent {
            log.line(b"line\n".to_vec());
        }
        let dropped = log.dropped.load(Ordering::Relaxed);
        assert!(dropped >= LINES_MAX as u64, "{dropped}");
        release.send(()).unwrap();
        // Room is there once the writer has taken a line; then the count follows.
        while log.dropped.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        log.flush();

        let text = String::from_utf8(read.lock().unwrap().clone()).unwrap();
        let written = text.lines().filter(|line| *line == "line").count();
        let count =
            format!(r#","kind":"daemon","level":"ERROR","message":"log lines dropped","count":{dropped}}}"#);
        assert_eq!(written as u64 + dropped, sent as u64);
        assert_eq!(text.lines().filter(|line| line.ends_with(&count)).count(), 1, "{count}");
        assert_eq!(log.lines_dropped().load(Ordering::Relaxed), dropped, "the metric only rises");
    }

    #[test]
    fn a_flush_waits_for_everything_before_it() {
        let read = Arc::new(Mutex::new(Vec::new()));
        let log = Log::start(Stalled { go_on: None, read: Arc::clone(&read) }).unwrap();
        log.line(b"one\n".to_vec());
        log.line(b"two\n".to_vec());
        log.flush();
        assert_eq!(*read.lock().unwrap(), b"one\ntwo\n");
    }
}
