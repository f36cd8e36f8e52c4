//! One request over a real connection, and what is seen of the answer.
//!
//! Place on the map: used by [`run`](super::run); [`verdict`](super::verdict) judges what it sees.

use super::endpoint::Endpoint;
use crate::kms::client::Io;
use crate::kms::http1::{Malformed, Response, parse_response};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A complete HTTP answer.
    Answer(Response),
    /// The connection was closed or reset without a complete answer; true when a part of one had come.
    Closed(bool),
    /// Bytes that are not an HTTP/1.1 answer, and why not.
    NotHttp(String),
    /// Nothing complete within the patience.
    Silence,
    /// No connection.
    Unreachable(String),
}

/// What came back, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What.
    pub seen: Seen,
    /// From the beginning, a connection's set-up included if there was one, to the last byte of the answer.
    pub took: Duration,
}

/// A connection that is kept while it can be.
pub struct Line<'a> {
    endpoint: &'a Endpoint,
    patience: Duration,
    kept: Option<Box<dyn Io>>,
}

impl<'a> Line<'a> {
    /// Not yet connected; waits `patience` for each answer.
    pub fn new(endpoint: &'a Endpoint, patience: Duration) -> Self {
        Self { endpoint, patience, kept: None }
    }

    /// Sends `request`, and waits for the answer. `alone`: on a connection of its own, which is then closed.
    pub async fn ask(&mut self, request: &[u8], alone: bool) -> Observation {
        let kept = self.kept.take().filter(|_| !alone);
        let was_kept = kept.is_some();
        let mut observation = self.attempt(kept, request, alone).await;
        // A kept connection may have been closed meanwhile: nothing is to be concluded from that.
        if was_kept && observation.seen == Seen::Closed(false) {
            observation = self.attempt(None, request, alone).await;
        }
        observation
    }

    async fn attempt(&mut self, kept: Option<Box<dyn Io>>, request: &[u8], alone: bool) -> Observation {
        let began = Instant::now();
        let exchange = async {
            let mut io = match kept {
                Some(io) => io,
                None => match self.endpoint.connect().await {
                    Ok(io) => io,
                    Err(error) => return (Seen::Unreachable(error.to_string()), None),
                },
            };
            let seen = exchange(&mut io, request).await;
            (seen, Some(io))
        };
        let (seen, io) = timeout_at(began + self.patience, exchange).await.unwrap_or((Seen::Silence, None));
        if let (Seen::Answer(Response { reusable: true, .. }), false) = (&seen, alone) {
            self.kept = io;
        }
        Observation { seen, took: began.elapsed() }
    }
}

async fn exchange(io: &mut Box<dyn Io>, request: &[u8]) -> Seen {
    let written = async {
        io.write_all(request).await?;
        io.flush().await
    };
    // Whoever refuses a request early may close before it has read all of it: the answer can be there nevertheless.
    let _ = written.await;
    let mut bytes = Vec::with_capacity(1_024);
    loop {
        let ended = match io.read_buf(&mut bytes).await {
            Ok(read) => read == 0,
            Err(_) => return Seen::Closed(!bytes.is_empty()),
        };
        match parse_response(&bytes, ended) {
            Ok(Some(response)) => return Seen::Answer(response),
            Err(_) if ended => return Seen::Closed(!bytes.is_empty()),
            Ok(None) => {}
            Err(Malformed(why)) => return Seen::NotHttp(why),
        }
    }
}
