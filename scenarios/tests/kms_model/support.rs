//! What the tests of the KMS model share: a recorder, a network of in-memory pipes, and a KMS that uses them.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use scenarios::kms::client::{ClientTls, Dial, Io};
use scenarios::kms::model::{Doors, KmsModel, RegisteredKey, RegisteredKeyStore};
use scenarios::kms::settings::KmsSettings;
use scenarios::kms::violations::Violations;
use scenarios::kms::{Caller, LocalFuture};
use scenarios::trace::{Event, KmsEvent, Recorder, XksEvent};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::time::Instant;
use xks_proxy::env::UnixTime;
use xks_proxy::secret::Secret;

pub(crate) const ACCESS_KEY_ID: &str = "BETAWXOPQLAGCMTVZNNA";
pub(crate) const SECRET: &str = "PdfLZGqRK4c7GoHFwdjBcGrO0MYWr2pVZg7a0dKAr5k";
pub(crate) const CALLER: Caller =
    Caller { service: 0, principal_arn: "arn:aws:iam::123456789012:user/Alice", via_service: None };
pub(crate) const OTHER_CALLER: Caller = Caller {
    service: 1,
    principal_arn: "arn:aws:iam::123456789012:user/Bob",
    via_service: Some("s3.us-east-1.amazonaws.com"),
};
/// 2026-03-07T12:00:00Z, the wall time at the beginning of every test.
pub(crate) const BEGIN_SECS: u64 = 1_772_884_800;

/// Runs on paused time, with a `LocalSet`.
pub(crate) fn simulate<F: Future>(test: F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

/// Keeps every event.
pub(crate) struct Tape {
    begin: Instant,
    events: RefCell<Vec<Event>>,
}

impl Tape {
    pub(crate) fn new() -> Self {
        Self { begin: Instant::now(), events: RefCell::default() }
    }

    pub(crate) fn xks(&self) -> Vec<XksEvent> {
        let only = |event: &Event| if let Event::Xks(xks) = event { Some(xks.clone()) } else { None };
        self.events.borrow().iter().filter_map(only).collect()
    }

    pub(crate) fn kms(&self) -> Vec<KmsEvent> {
        let only = |event: &Event| if let Event::Kms(kms) = event { Some(kms.clone()) } else { None };
        self.events.borrow().iter().filter_map(only).collect()
    }

    /// Everything, as text, for comparisons.
    pub(crate) fn text(&self) -> String {
        format!("{:?}", self.events.borrow())
    }
}

impl Recorder for Tape {
    fn emit(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }
}

/// What becomes of one connection set-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connect {
    Accept,
    Refuse,
    /// No SYN-ACK, ever.
    Silence,
    /// TCP is established and nobody reads.
    Stall,
}

type Acceptor = Box<dyn Fn(DuplexStream)>;

/// A network of in-memory pipes.
pub(crate) struct Pipes {
    pub(crate) behaviour: Cell<Connect>,
    /// What the next connections do, last first; then `behaviour` holds.
    pub(crate) script: RefCell<Vec<Connect>>,
    pub(crate) connects: Cell<u32>,
    /// How long a connection takes.
    pub(crate) delay: Cell<Duration>,
    /// Bytes in flight per direction.
    pub(crate) buffer: Cell<usize>,
    accept: Acceptor,
    stalled: RefCell<Vec<DuplexStream>>,
}

impl Pipes {
    pub(crate) fn new(accept: impl Fn(DuplexStream) + 'static) -> Rc<Self> {
        Rc::new(Self {
            behaviour: Cell::new(Connect::Accept),
            script: RefCell::default(),
            connects: Cell::new(0),
            delay: Cell::new(Duration::ZERO),
            buffer: Cell::new(65_536),
            accept: Box::new(accept),
            stalled: RefCell::default(),
        })
    }
}

impl Dial for Pipes {
    fn connect<'a>(&'a self, _kms_host: usize) -> LocalFuture<'a, std::io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            self.connects.set(self.connects.get() + 1);
            if !self.delay.get().is_zero() {
                tokio::time::sleep(self.delay.get()).await;
            }
            let next = self.script.borrow_mut().pop();
            let (near, far) = tokio::io::duplex(self.buffer.get());
            match next.unwrap_or(self.behaviour.get()) {
                Connect::Accept => (self.accept)(far),
                Connect::Refuse => return Err(std::io::ErrorKind::ConnectionRefused.into()),
                Connect::Silence => std::future::pending().await,
                Connect::Stall => self.stalled.borrow_mut().push(far),
            }
            Ok(Box::new(near) as Box<dyn Io>)
        })
    }
}

/// A KMS with its surroundings.
pub(crate) struct World {
    pub(crate) kms: Rc<KmsModel>,
    pub(crate) pipes: Rc<Pipes>,
    pub(crate) tape: Rc<Tape>,
    pub(crate) violations: Rc<Violations>,
    /// Added to the wall clock of every KMS host, in seconds.
    pub(crate) skew_secs: Rc<Cell<i64>>,
}

/// A key store with two keys, in a KMS that reaches it through `pipes`.
pub(crate) fn world(settings: KmsSettings, pipes: Rc<Pipes>, tls: Option<ClientTls>, seed: u8) -> World {
    let tape = Rc::new(Tape::new());
    let violations = Rc::new(Violations::default());
    let skew_secs = Rc::new(Cell::new(0));
    let key = |n: u32| RegisteredKey {
        external_key_id: format!("key-{n}"),
        kms_key_arn: format!("arn:aws:kms:us-east-1:123456789012:key/{n}"),
    };
    let store = RegisteredKeyStore {
        endpoint_host: "proxy.example".into(),
        uri_prefix: "/example".into(),
        region: "us-east-1".into(),
        access_key_id: ACCESS_KEY_ID.into(),
        secret: Secret::new(SECRET.into()),
        keys: vec![key(0), key(1)],
    };
    let skew = Rc::clone(&skew_secs);
    let doors = Doors {
        dial: Rc::clone(&pipes) as Rc<dyn Dial>,
        tls,
        clock: Rc::new(move |_host: usize, at: Duration| {
            UnixTime(Duration::from_secs(BEGIN_SECS.saturating_add_signed(skew.get())) + at)
        }),
        recorder: Rc::clone(&tape) as Rc<dyn Recorder>,
        violations: Rc::clone(&violations),
    };
    let kms = KmsModel::new(settings, store, doors, ChaCha20Rng::from_seed([seed; 32])).unwrap();
    World { kms, pipes, tape, violations, skew_secs }
}
