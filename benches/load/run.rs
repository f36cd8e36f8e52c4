//! One measurement: connect, warm up, measure.
//!
//! Place on the map: called by `main`; starts the `worker`s and reads the proxy's `process` beside them.

use crate::figures::Figures;
use crate::process::Usage;
use crate::shape::Shape;
use crate::tally::Tally;
use crate::target::Target;
use crate::worker::{News, Times, Worker};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// The state of things at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) at: Instant,
    pub(crate) answered: u64,
    /// This program.
    pub(crate) load: Usage,
    /// The proxy, if its process is known.
    pub(crate) proxy: Option<Usage>,
}

/// Loads `target` as `shape` says. Dropping the future ends it at once, threads included.
///
/// # Errors
/// When the proxy cannot be connected to, or what is to be decrypted cannot be encrypted.
pub(crate) async fn measure(target: &Arc<Target>, shape: &Shape) -> Result<Figures, String> {
    let answered = Arc::new(AtomicU64::new(0));
    let shape = Arc::new(shape.clone());
    let (begin, times) = watch::channel(None);
    let (tell, mut news) = mpsc::unbounded_channel();
    for number in 0..shape.threads {
        let worker = Worker {
            number,
            target: Arc::clone(target),
            shape: Arc::clone(&shape),
            answered: Arc::clone(&answered),
            times: times.clone(),
            news: tell.clone(),
        };
        std::thread::Builder::new()
            .name(format!("load-{number}"))
            .spawn(move || worker.live())
            .map_err(|error| format!("cannot start a thread: {error}"))?;
    }
    drop(tell);
    for _ in 0..shape.threads {
        match news.recv().await {
            Some(News::Ready) => {}
            Some(News::Failed(message)) => return Err(message),
            Some(News::Done(_)) | None => return Err("a thread ended before it began".into()),
        }
    }
    let from = Instant::now();
    let measure_from = from + Duration::from_secs(shape.warm_up_seconds);
    let until = measure_from + Duration::from_secs(shape.seconds);
    let _ = begin.send(Some(Times { from, measure_from, until }));

    let moment = || Moment {
        at: Instant::now(),
        answered: answered.load(Ordering::Relaxed),
        load: Usage::of(std::process::id()).unwrap_or_default(),
        proxy: target.pid.and_then(Usage::of),
    };
    tokio::time::sleep_until(measure_from.into()).await;
    let before = moment();
    show_progress(&answered, until).await;
    let after = moment();
    let mut tally = Tally::default();
    for _ in 0..shape.threads {
        match news.recv().await {
            Some(News::Done(part)) => tally.add(&part),
            Some(News::Failed(message)) => return Err(message),
            Some(News::Ready) | None => return Err("a thread ended without its figures".into()),
        }
    }
    Ok(Figures::new(target, &shape, &tally, &before, &after))
}

/// Waits until `until`; on a terminal, with a line that says how far it is.
async fn show_progress(answered: &AtomicU64, until: Instant) {
    let mut line = std::io::stderr();
    let is_terminal = line.is_terminal();
    let mut earlier = answered.load(Ordering::Relaxed);
    while Instant::now() < until {
        let next = (Instant::now() + Duration::from_secs(1)).min(until);
        tokio::time::sleep_until(next.into()).await;
        let now = answered.load(Ordering::Relaxed);
        if is_terminal {
            let left = until.saturating_duration_since(Instant::now()).as_secs();
            let _ = write!(line, "\r{} requests/s, {left} s left \x1b[K", now - earlier);
        }
        earlier = now;
    }
    if is_terminal {
        let _ = write!(line, "\r\x1b[K");
    }
}
