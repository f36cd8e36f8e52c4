//! Somebody who looks at every event of a run as it happens, and changes nothing by it.
//!
//! Place on the map: told by [`recording`](crate::recording), in the order of the digest; handed in by
//! [`Options::observers`](crate::world::Options::observers). The file of a run ([`replay`](crate::replay)), its trace
//! ([`trace_file`](crate::trace_file)) and its sample requests are made this way.

use crate::request::Request;
use crate::trace::Event;
use std::time::Duration;

/// One event, and what is known beside it.
pub struct Seen<'a> {
    /// Number of the event in its run, from 0.
    pub number: u64,
    /// Simulated time since the start of the run.
    pub now: Duration,
    /// The event.
    pub event: &'a Event,
    /// The event as the digest takes it, with its newline.
    pub line: &'a str,
    /// The request of a service's user that it belongs to; `None` for health checks, faults, and what a service does of
    /// itself.
    pub request: Option<Request>,
}

/// See the module.
pub trait Observer {
    /// Takes one event.
    fn observe(&mut self, seen: &Seen<'_>);
}
