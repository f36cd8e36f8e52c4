//! One thread full of connections.
//!
//! Place on the map: `run` starts as many as asked for, tells them when to begin, and gets a `tally` from each.

use crate::connection::Connection;
use crate::pace::Pace;
use crate::request::{Author, Operation, Request};
use crate::shape::Shape;
use crate::tally::Tally;
use crate::target::Target;
use scenarios::kms::answers;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

/// A request without an answer after this time is lost. KMS gives up after 250 ms; what comes later is worth seeing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pause of a connection that could not be opened again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Handshakes under way at once while the connections are opened, so that no proxy's listen queue overflows.
const HANDSHAKES_MAX: usize = 64;

/// When to load and when to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) from: Instant,
    /// What was due before this is warm-up.
    pub(crate) measure_from: Instant,
    pub(crate) until: Instant,
}

/// What a worker has to tell.
pub(crate) enum News {
    /// All connections are open.
    Ready,
    /// Why they are not.
    Failed(String),
    /// All is over.
    Done(Box<Tally>),
}

pub(crate) struct Worker {
    pub(crate) number: u32,
    pub(crate) target: Arc<Target>,
    pub(crate) shape: Arc<Shape>,
    /// Answers read so far by all workers, warm-up included.
    pub(crate) answered: Arc<AtomicU64>,
    pub(crate) times: watch::Receiver<Option<Times>>,
    pub(crate) news: mpsc::UnboundedSender<News>,
}

impl Worker {
    /// The thread's whole life. Ends at once when whoever holds the other end of `times` has gone.
    pub(crate) fn live(self) {
        let news = self.news.clone();
        let outcome = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start a thread: {error}"))
            .and_then(|runtime| LocalSet::new().block_on(&runtime, self.work()));
        // Nobody listens any more after Ctrl-C.
        let _ = news.send(match outcome {
            Ok(tally) => News::Done(Box::new(tally)),
            Err(message) => News::Failed(message),
        });
    }

    async fn work(mut self) -> Result<Tally, String> {
        let mut connections = self.connect().await?;
        let mut author = Author::new(&self.target, &self.shape, self.number);
        if self.shape.operation.holds(Operation::Decrypt)
            && let Some(connection) = connections.first_mut()
        {
            prepare_decrypts(&mut author, connection).await?;
        }
        if self.shape.pre_signed {
            author.sign_beforehand();
        }
        let _ = self.news.send(News::Ready);
        let gone = "ended before the load began";
        let times = self.times.wait_for(Option::is_some).await.map_err(|_| gone)?.ok_or(gone)?;
        let pace = match self.shape.interval() {
            None => None,
            Some(interval) => {
                // The threads take turns, so that together they send evenly.
                let shift = interval * self.number / self.shape.threads;
                Some(Pace::new(interval, times.from + shift, times.until)?)
            }
        };
        let desk = Rc::new(Desk {
            author,
            pace,
            times,
            written: Cell::new(0),
            tally: RefCell::default(),
            answered: self.answered,
            target: self.target,
            shape: self.shape,
        });
        let mut clients = JoinSet::new();
        for connection in connections {
            clients.spawn_local(Rc::clone(&desk).serve(connection));
        }
        tokio::select! {
            // Whoever started the threads has gone.
            _ = self.times.changed() => return Err(gone.into()),
            ended = async {
                while let Some(ended) = clients.join_next().await {
                    ended.map_err(|error| format!("a client failed: {error}"))??;
                }
                Ok::<(), String>(())
            } => ended?,
        }
        if let Some(pace) = &desk.pace {
            desk.tally.borrow_mut().unsent = pace.overdue(desk.times.until).await;
        }
        Ok(desk.tally.take())
    }

    /// Opens all connections of this thread.
    async fn connect(&self) -> Result<Vec<Connection>, String> {
        let count = self.shape.connections_of(self.number) as usize;
        let (mut opening, mut open) = (JoinSet::new(), Vec::with_capacity(count));
        for _ in 0..count {
            if opening.len() == HANDSHAKES_MAX
                && let Some(opened) = opening.join_next().await
            {
                open.push(opened.map_err(|error| error.to_string())??);
            }
            let (target, is_http2) = (Arc::clone(&self.target), self.shape.http2);
            opening.spawn(async move {
                timeout(PATIENCE, Connection::open(&target, is_http2))
                    .await
                    .unwrap_or_else(|_| Err(format!("no connection to {} in five seconds", target.address)))
            });
        }
        while let Some(opened) = opening.join_next().await {
            open.push(opened.map_err(|error| error.to_string())??);
        }
        Ok(open)
    }
}

/// There is nothing to decrypt until something was encrypted.
async fn prepare_decrypts(author: &mut Author, connection: &mut Connection) -> Result<(), String> {
    for number in 0..author.encrypts_to_prepare() {
        let request = author.write(Operation::Encrypt, number as u64);
        let answer =
            timeout(PATIENCE, connection.ask(&request)).await.unwrap_or_else(|_| Err("no answer".into()));
        let answer = answer.map_err(|why| format!("cannot encrypt what is to be decrypted: {why}"))?;
        if answer.status != 200 {
            let name = answers::read_error(&answer.body).map_or("no error name", |name| name.as_str());
            return Err(format!("cannot encrypt what is to be decrypted: {} {name}", answer.status));
        }
        if let Some(sealed) = author.judge(&request, &answer.body)? {
            author.add_decrypt(&request, &sealed);
        }
    }
    Ok(())
}

/// What the connections of a thread share.
struct Desk {
    author: Author,
    pace: Option<Pace>,
    times: Times,
    written: Cell<u64>,
    tally: RefCell<Tally>,
    answered: Arc<AtomicU64>,
    target: Arc<Target>,
    shape: Arc<Shape>,
}

impl Desk {
    /// One client's life.
    async fn serve(self: Rc<Self>, connection: Connection) -> Result<(), String> {
        let mut connection = Some(connection);
        while let Some(due) = self.next().await? {
            let number = self.written.replace(self.written.get() + 1);
            let request = self.author.write(self.shape.operation.at(number), number);
            let answer = timeout(PATIENCE, self.ask(&mut connection, &request))
                .await
                .unwrap_or_else(|_| Err("no answer in five seconds".into()));
            let read_at = Instant::now();
            if answer.is_ok() {
                self.answered.fetch_add(1, Ordering::Relaxed);
            } else {
                connection = None;
            }
            if due >= self.times.measure_from {
                self.record(&request, answer, read_at - due);
            }
        }
        Ok(())
    }

    /// When the next request is due.
    async fn next(&self) -> Result<Option<Instant>, String> {
        match &self.pace {
            Some(pace) => pace.next().await,
            None => {
                let now = Instant::now();
                Ok((now < self.times.until).then_some(now))
            }
        }
    }

    async fn ask(
        &self,
        connection: &mut Option<Connection>,
        request: &Request,
    ) -> Result<(u16, Vec<u8>), String> {
        let open = match connection {
            Some(open) => open,
            None => match Connection::open(&self.target, self.shape.http2).await {
                Ok(opened) => connection.insert(opened),
                Err(why) => {
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                    return Err(why);
                }
            },
        };
        let answer = open.ask(request).await?;
        if !answer.reusable {
            *connection = None;
        }
        Ok((answer.status, answer.body))
    }

    fn record(&self, request: &Request, answer: Result<(u16, Vec<u8>), String>, latency: Duration) {
        let mut tally = self.tally.borrow_mut();
        let (status, body) = match answer {
            Ok(answer) => answer,
            Err(why) => return Tally::count(&mut tally.lost, why),
        };
        tally.took(latency);
        if status == 200 {
            match self.author.judge(request, &body) {
                Ok(_) => tally.right += 1,
                Err(what) => {
                    Tally::count(&mut tally.wrong, format!("{}: {what}", request.operation.as_str()));
                }
            }
            return;
        }
        match answers::read_error(&body) {
            Ok(name) => Tally::count(&mut tally.answers, format!("{status} {}", name.as_str())),
            Err(_) => Tally::count(&mut tally.wrong, format!("{status} without the name of an error")),
        }
    }
}
