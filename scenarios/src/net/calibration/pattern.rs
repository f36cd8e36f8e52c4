//! The request pattern: what KMS does to a proxy, as far as the network can tell.
//!
//! Place on the map: run by `cargo xtask calibrate-net` over real sockets, and by [`simulate`](super::simulate) over the
//! simulated ones; neither client nor server can tell which.

use super::{Figures, Point};
use crate::net::random::unit;
use crate::streams::Streams;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout_at};

/// Bytes of a request: an Encrypt call with its signature.
pub const REQUEST_BYTES: usize = 1_024;
/// Bytes of an answer.
pub const ANSWER_BYTES: usize = 600;
/// How long the server takes for a request.
pub const SERVICE: Duration = Duration::from_millis(5);
/// KMS's patience with one call, connection set-up included.
pub const PATIENCE: Duration = Duration::from_millis(250);
/// How long a client waits before its next call: this, and up to twice as much more.
const THINK_MIN: Duration = Duration::from_millis(50);
const THINK_SPREAD: Duration = Duration::from_millis(200);
/// The clients begin within this time, one after the other.
const RAMP: Duration = Duration::from_millis(400);
/// What begins earlier is not counted.
pub const WARM_UP: Duration = Duration::from_secs(1);

/// Opens connections to the server.
pub trait Dial {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin;

    /// Opens one.
    ///
    /// # Errors
    /// Whatever the network says.
    fn dial(&self) -> impl Future<Output = io::Result<Self::Io>>;
}

/// Answers every request on one connection, until it ends.
///
/// # Errors
/// Whatever the network says.
pub async fn serve(mut io: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let (mut request, answer) = ([0; REQUEST_BYTES], [0; ANSWER_BYTES]);
    loop {
        io.read_exact(&mut request).await?;
        sleep(SERVICE).await;
        io.write_all(&answer).await?;
    }
}

/// The latencies of one client's calls, in microseconds; those without an answer count as [`PATIENCE`].
#[derive(Debug, Default)]
pub struct Latencies {
    micros: Vec<u32>,
    over: u64,
}

impl Latencies {
    /// Takes in those of another client.
    pub fn add(&mut self, other: Self) {
        self.micros.extend(other.micros);
        self.over += other.over;
    }

    /// What they come to.
    #[expect(clippy::cast_precision_loss, reason = "counts of calls")]
    pub fn figures(mut self) -> Figures {
        self.micros.sort_unstable();
        let calls = self.micros.len();
        let quantile = |hundredths: usize| {
            let place = (calls * hundredths / 100).min(calls.saturating_sub(1));
            self.micros.get(place).map_or(0.0, |micros| f64::from(*micros) / 1_000.0)
        };
        Figures {
            calls: calls as u64,
            over: self.over as f64 / (calls as f64).max(1.0),
            p50_ms: quantile(50),
            p99_ms: quantile(99),
        }
    }
}

/// One client's calls until `until` after `begun`, each after a pause. `number` and `count` are its place among all, and
/// spread their phases.
pub async fn call_again_and_again(
    dial: impl Dial,
    point: Point,
    (number, count): (u32, u32),
    begun: Instant,
    until: Duration,
) -> Latencies {
    let mut random = Streams::new(u64::from(number)).stream("calibration", 0);
    let mut latencies = Latencies::default();
    let mut kept = None;
    sleep(RAMP * number / count.max(1)).await;
    loop {
        sleep(THINK_MIN + THINK_SPREAD.mul_f64(unit(&mut random))).await;
        let since = begun.elapsed();
        if since >= until {
            return latencies;
        }
        let (start, deadline) = (Instant::now(), Instant::now() + PATIENCE);
        // A timed-out call closes its connection, so that the next one is cold.
        let answered = timeout_at(deadline, call(&dial, kept.take())).await;
        let answered = answered.ok().and_then(Result::ok);
        if since >= WARM_UP {
            let took = if answered.is_some() { start.elapsed().min(PATIENCE) } else { PATIENCE };
            latencies.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
            latencies.over += u64::from(answered.is_none());
        }
        kept = answered.filter(|_| !point.cold);
    }
}

async fn call<D: Dial>(dial: &D, kept: Option<D::Io>) -> io::Result<D::Io> {
    let mut io = match kept {
        Some(io) => io,
        None => dial.dial().await?,
    };
    io.write_all(&[0; REQUEST_BYTES]).await?;
    io.read_exact(&mut [0; ANSWER_BYTES]).await?;
    Ok(io)
}
