//! The daemon's one log: JSON lines on standard output, the audit events among them.
//!
//! Place on the map: part of the binary; a subscriber of `events` and the writer behind `tracing`.
//!
//! Standard output is often a pipe, and a pipe whose reader stalls would stall every request that writes to it. So a
//! thread of its own does the writing, fed by a bounded queue. When the queue is full, lines are dropped and counted,
//! and the count is written as soon as there is room: keys stay available to KMS, and the gap in the log is on record.
//!
//! Waking that thread costs a request more than writing its line, so it is woken once for all lines of two milliseconds.
//!
//! The audit events of authenticated requests are the record of who used which key. Half of the queue is theirs alone,
//! so that neither strangers nor the daemon's own lines, however many, cost one of them.

mod line;

use line::JsonLine;
use serde_json::Map;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, Thread};
use std::time::Duration;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use xks_proxy::config::LogLevel;
use xks_proxy::events::{self, AuditEvent, Subscriber};
use xks_proxy::metrics::LinesDropped;

/// Lines that may wait for the writer: some seconds at KMS's full default quota, a few MiB.
const LINES_MAX: usize = 8_192;

/// Of these, lines other than audit events of authenticated requests.
const OTHER_LINES_MAX: usize = LINES_MAX / 2;

/// How long lines are gathered after the first. A process that is killed loses as much of its log.
const GATHERED_FOR: Duration = Duration::from_millis(2);

/// How long `flush` waits for a reader that stalls.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The audit event of an authenticated request.
    Audit,
    /// The audit event of a stranger, or a line of the daemon's own.
    Other,
}

enum Message {
    Line(Kind, Vec<u8>),
    Flush(SyncSender<()>),
}

/// A handle to the log; clones write to the same one.
#[derive(Clone)]
pub(crate) struct Log {
    queue: SyncSender<Message>,
    writer: Thread,
    /// Lines of the kind `Other` in the queue.
    others: Arc<AtomicUsize>,
    dropped: Arc<LinesDropped>,
}

impl Log {
    /// Starts the writer over `out`.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, messages) = mpsc::sync_channel(LINES_MAX);
        let (others, dropped) = (Arc::<AtomicUsize>::default(), Arc::<LinesDropped>::default());
        let (waiting, count) = (Arc::clone(&others), Arc::clone(&dropped));
        #[expect(
            clippy::disallowed_methods,
            reason = "writing to standard output blocks; the daemon's log is outside the core"
        )]
        let writer = thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(&messages, &waiting, &count, out))?;
        Ok(Self { queue, writer: writer.thread().clone(), others, dropped })
    }

    fn line(&self, kind: Kind, line: Vec<u8>) {
        match kind {
            Kind::Audit => {
                if self.queue.try_send(Message::Line(kind, line)).is_err() {
                    self.dropped.audit();
                }
            }
            Kind::Other => {
                let has_place = self.others.fetch_add(1, Ordering::Relaxed) < OTHER_LINES_MAX;
                if !has_place || self.queue.try_send(Message::Line(kind, line)).is_err() {
                    self.others.fetch_sub(1, Ordering::Relaxed);
                    self.dropped.other();
                }
            }
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
    pub(crate) fn lines_dropped(&self) -> Arc<LinesDropped> {
        Arc::clone(&self.dropped)
    }

    /// Returns once everything written so far has reached standard output, or after two seconds.
    pub(crate) fn flush(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        // A full queue means a stalled reader: there is nothing to wait for then.
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            self.writer.unpark();
            let _ = wait.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

fn write_all(messages: &Receiver<Message>, others: &AtomicUsize, dropped: &LinesDropped, out: impl Write) {
    let mut out = io::BufWriter::new(out);
    // Lines may have been dropped before this thread began.
    let mut told = LinesDropped::default().all();
    // Errors are ignored: a daemon whose standard output is closed goes on serving.
    while let Ok(first) = messages.recv() {
        // Whoever sends a line meanwhile wakes nobody; whoever flushes does.
        if matches!(first, Message::Line(..)) {
            thread::park_timeout(GATHERED_FOR);
        }
        let mut next = Some(first);
        // Everything at hand is written in one go.
        while let Some(message) = next {
            match message {
                Message::Line(kind, line) => {
                    if kind == Kind::Other {
                        others.fetch_sub(1, Ordering::Relaxed);
                    }
                    let _ = out.write_all(&line);
                }
                Message::Flush(done) => {
                    let _ = out.flush();
                    let _ = done.send(());
                }
            }
            next = messages.try_recv().ok();
        }
        let all = dropped.all();
        if all != told {
            let missing = all
                .iter()
                .zip(&told)
                .map(|((kind, all), (_, told))| ((*kind).to_owned(), all.saturating_sub(*told).into()));
            let _ =
                writeln!(out, "{}", line::line("ERROR", "log lines dropped", missing.collect::<Map<_, _>>()));
            told = all;
        }
        let _ = out.flush();
    }
}

impl Subscriber for Log {
    fn audit(&self, event: &AuditEvent) {
        let mut line = events::json_line(event).into_bytes();
        line.push(b'\n');
        let kind = if event.access_key_id.is_some() { Kind::Audit } else { Kind::Other };
        self.line(kind, line);
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
            self.log.line(Kind::Other, std::mem::take(&mut self.text));
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
    use xks_proxy::env::{Env, SystemEnv};

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

    fn event(access_key_id: Option<&str>) -> AuditEvent {
        let mut event = AuditEvent::new(SystemEnv.now(), String::new());
        event.access_key_id = access_key_id.map(str::to_owned);
        event
    }

    /// All lines shared one queue, and a stranger who filled it cost events of those who had used a key.
    #[test]
    fn a_stalled_reader_costs_lines_that_are_counted_and_never_the_writer_and_strangers_cost_no_audit_event()
    {
        let (release, go_on) = mpsc::channel();
        let read = Arc::new(Mutex::new(Vec::new()));
        let log = Log::start(Stalled { go_on: Some(go_on), read: Arc::clone(&read) }).unwrap();
        for _ in 0..LINES_MAX {
            log.line(Kind::Other, b"line\n".to_vec());
            log.audit(&event(None));
        }
        let [_, (_, other)] = log.lines_dropped().all();
        // The writer may have taken some out before it stalled.
        assert!(other >= LINES_MAX as u64, "{other}");
        for _ in 0..LINES_MAX - OTHER_LINES_MAX {
            log.audit(&event(Some("KMS")));
        }
        assert_eq!(
            log.lines_dropped().all(),
            [("audit", 0), ("other", other)],
            "half of the queue is theirs"
        );
        for _ in 0..LINES_MAX {
            log.audit(&event(Some("KMS")));
        }
        let [(_, audit), _] = log.lines_dropped().all();
        assert!(audit > 0, "everything has a limit");
        release.send(()).unwrap();
        let text = || String::from_utf8(read.lock().unwrap().clone()).unwrap();
        let count = format!(
            r#","kind":"daemon","level":"ERROR","message":"log lines dropped","audit":{audit},"other":{other}}}"#
        );
        for _ in 0..100_000 {
            if text().contains(&count) {
                break;
            }
            log.flush();
            thread::yield_now();
        }
        assert!(text().contains(&count), "{count}");
        let text = text();
        let is_kms = |line: &&str| line.contains(r#""access_key_id":"KMS""#);
        let written = text.lines().filter(is_kms).count() as u64;
        assert_eq!(written + audit, (2 * LINES_MAX - OTHER_LINES_MAX) as u64);
        assert_eq!(text.lines().count() as u64 + audit + other, (4 * LINES_MAX - OTHER_LINES_MAX) as u64 + 1);
        // Once there is room again, there is room for all.
        log.line(Kind::Other, b"later\n".to_vec());
        log.flush();
        assert!(read.lock().unwrap().ends_with(b"\nlater\n"));
        assert_eq!(log.others.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_flush_waits_for_everything_before_it() {
        let read = Arc::new(Mutex::new(Vec::new()));
        let log = Log::start(Stalled { go_on: None, read: Arc::clone(&read) }).unwrap();
        log.line(Kind::Other, b"one\n".to_vec());
        log.line(Kind::Audit, b"two\n".to_vec());
        log.flush();
        assert_eq!(*read.lock().unwrap(), b"one\ntwo\n");
    }
}
