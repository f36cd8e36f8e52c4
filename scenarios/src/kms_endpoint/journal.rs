//! What is told of the calls, one line each, and their number.
//!
//! Place on the map: [`server`](super::server) notes every request, and the model of KMS every call of the proxy. No
//! line holds anything a request brought along but the name of its operation, and that only when it is a known one.

use crate::trace::{Event, Recorder, XksEvent, XksOutcome};
use std::cell::Cell;
use std::time::Duration;
use tokio::time::Instant;

/// How many calls there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests answered.
    pub requests: u64,
    /// Those answered with an exception.
    pub refused: u64,
    /// Calls of the proxy, health checks included.
    pub proxy_calls: u64,
    /// Those without a usable answer.
    pub proxy_failures: u64,
}

/// Takes the lines.
pub type Listener = Box<dyn Fn(&str)>;

/// Time since the start, and where lines go.
pub struct Journal {
    began: Instant,
    totals: Cell<Totals>,
    listener: Listener,
}

impl Journal {
    /// Begins now; every line goes to `listener`.
    pub fn new(listener: Listener) -> Self {
        Self { began: Instant::now(), totals: Cell::default(), listener }
    }

    /// How many calls there have been.
    pub fn totals(&self) -> Totals {
        self.totals.get()
    }

    /// One request, answered.
    pub(super) fn note_request(&self, operation: &str, status: u16, exception: Option<&str>, took: Duration) {
        let mut totals = self.totals.get();
        totals.requests += 1;
        totals.refused += u64::from(exception.is_some());
        self.totals.set(totals);
        let outcome = exception.unwrap_or("ok");
        (self.listener)(&format!("{operation}: {outcome} ({status}), {} ms", took.as_millis()));
    }

    fn note_proxy_call(&self, call: &XksEvent) {
        let mut totals = self.totals.get();
        totals.proxy_calls += 1;
        totals.proxy_failures += u64::from(call.outcome != XksOutcome::Ok);
        self.totals.set(totals);
        let outcome = match call.outcome {
            XksOutcome::Ok => "ok".to_owned(),
            XksOutcome::Error { name, status } => format!("{} ({status})", name.as_str()),
            XksOutcome::NoConnection => "no connection".to_owned(),
            XksOutcome::NoTls => "no TLS".to_owned(),
            XksOutcome::TimedOut => "no answer in time".to_owned(),
            XksOutcome::Malformed => "an answer that is not the spec's".to_owned(),
        };
        let connection = if call.fresh_connection { ", new connection" } else { "" };
        (self.listener)(&format!("  proxy: {outcome}, {} ms{connection}", call.took.as_millis()));
    }
}

impl Recorder for Journal {
    fn emit(&self, event: Event) {
        if let Event::Xks(call) = event {
            self.note_proxy_call(&call);
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}
