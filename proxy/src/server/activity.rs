//! What a connection has been doing, and when it has done too little for too long.
//!
//! Place on the map: [`guarded_io`](super::guarded_io) tells of bytes, [`connection`](super::connection) of requests,
//! and the latter cuts the connection off at [`Activity::expiry`].

use crate::app::Limits;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// Bytes that open an HTTP/2 connection and no HTTP/1 request (RFC 9113, 3.4).
const HTTP2_OPENING: [u8; 4] = *b"PRI ";

/// Shared between a connection's stream of bytes and its requests.
pub(super) struct Activity(Mutex<State>);

struct State {
    /// Requests being worked on.
    in_flight: usize,
    /// When the connection was taken or its last request ended.
    quiet_since: Instant,
    /// When the first byte of a head arrived that is not complete yet.
    head_since: Option<Instant>,
    /// A request has been authenticated.
    proven: bool,
    /// The first bytes of the connection.
    opening: Vec<u8>,
}

/// Why and when a connection is cut off unless something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// The head of a request has begun and must be complete by then.
    Head(Instant),
    /// Nothing has been asked; by then something must.
    Idle(Instant),
    /// A request is being worked on, under its own deadline.
    Never,
}

impl Activity {
    pub(super) fn begin() -> Self {
        Self(Mutex::new(State {
            in_flight: 0,
            quiet_since: Instant::now(),
            head_since: None,
            proven: false,
            opening: Vec::new(),
        }))
    }

    pub(super) fn bytes_arrived(&self, bytes: &[u8]) {
        let mut state = self.state();
        let missing = HTTP2_OPENING.len() - state.opening.len();
        state.opening.extend(bytes.iter().take(missing));
        if state.in_flight == 0 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
        }
    }

    /// A head is complete; the request lasts until the guard is dropped.
    pub(super) fn request(&self) -> InFlight<'_> {
        let mut state = self.state();
        let head_since = state.head_since.take();
        state.in_flight += 1;
        // Of a request that was sent before the last one was answered, nothing but the end of its head is known.
        let began = head_since.filter(|_| !state.is_http2()).unwrap_or_else(Instant::now);
        InFlight { activity: self, began }
    }

    /// A request has been authenticated. True the first time.
    pub(super) fn prove(&self) -> bool {
        !std::mem::replace(&mut self.state().proven, true)
    }

    pub(super) fn expiry(&self, limits: &Limits) -> Expiry {
        let state = self.state();
        let idle = if state.proven {
            limits.idle_timeout
        } else {
            limits.first_request_timeout.min(limits.idle_timeout)
        };
        match state.head_since {
            _ if state.in_flight > 0 => Expiry::Never,
            Some(since) if !state.is_http2() => Expiry::Head(since + limits.head_timeout),
            _ => Expiry::Idle(state.quiet_since + idle),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Between HTTP/2 requests come frames that are no part of a head, so there bytes say nothing of when one began.
    fn is_http2(&self) -> bool {
        self.opening == HTTP2_OPENING
    }
}

/// One request being worked on.
pub(super) struct InFlight<'a> {
    activity: &'a Activity,
    /// When its first byte arrived, or, where that is not known, when its head was complete.
    pub(super) began: Instant,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.in_flight -= 1;
        state.quiet_since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_head_that_has_begun_must_end_soon_and_silence_may_last_longer() {
        let limits = Limits::default();
        let (activity, start) = (Activity::begin(), Instant::now());
        assert_eq!(activity.expiry(&limits), Expiry::Idle(start + limits.first_request_timeout));
        advance(Duration::from_secs(1)).await;
        activity.bytes_arrived(b"P");
        advance(Duration::from_secs(1)).await;
        activity.bytes_arrived(b"OST /");
        let head_since = start + Duration::from_secs(1);
        assert_eq!(activity.expiry(&limits), Expiry::Head(head_since + limits.head_timeout));
        let request = activity.request();
        assert_eq!(request.began, head_since);
        activity.bytes_arrived(b"a body");
        assert_eq!(activity.expiry(&limits), Expiry::Never);
        assert_eq!(activity.request().began, Instant::now(), "sent ahead of the answer");
        drop(request);
        assert_eq!(activity.expiry(&limits), Expiry::Idle(Instant::now() + limits.first_request_timeout));
        assert_eq!((activity.prove(), activity.prove()), (true, false));
        assert_eq!(activity.expiry(&limits), Expiry::Idle(Instant::now() + limits.idle_timeout));
    }

    #[tokio::test(start_paused = true)]
    async fn frames_between_http2_requests_are_no_head() {
        let (limits, activity) = (Limits::default(), Activity::begin());
        activity.bytes_arrived(b"PR");
        activity.bytes_arrived(b"I * HTTP/2.0");
        assert_eq!(activity.expiry(&limits), Expiry::Idle(Instant::now() + limits.first_request_timeout));
        advance(Duration::from_secs(1)).await;
        assert_eq!(activity.request().began, Instant::now());
    }
}
