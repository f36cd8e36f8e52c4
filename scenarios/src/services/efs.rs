//! EFS: a file system works on for a time that is not published when its key is gone, then its clients get I/O errors or
//! hang; it comes back by itself with the key (downstream-services 2.3; MA-D11).

use super::desk::{Aftermath, Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{Parameters, ROLES, settings};
use super::stats::{ServiceStats, WindowTally, join};
use super::watch::watch_key;
use super::words::{clock, count};
use super::{Model, Service, SettingsError, Work};
use crate::kms::{Caller, CiphertextBlob, KmsOperation};
use crate::trace::ServiceOutcome;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

settings! {
    /// `kind = "efs"`. Most requests are reads and writes of files; some create a file system
    /// (GenerateDataKeyWithoutPlaintext). EFS polls the key (Decrypt); how often is not published.
    Efs, "efs", "EFS file systems";
    /// Reads, writes and creates per second; above 0 to 100,000; default 50.
    rate_per_s = 50.0;
    /// Share of creates among them; 0 to 1; default 0.001.
    create_share: f64 = 0.001, share();
    /// File systems; 1 to 500; default 10.
    file_systems: u32 = 10, count(1..=500);
    /// Seconds between EFS's polls of the key, one for all file systems (MA-D2); 1 to 86,400; default 60. What follows from a
    /// poll is late by up to as much.
    check_every_s: u64 = 60, seconds();
    /// Seconds of an unusable key after which a file system stops, at least (MA-D11); 1 to 86,400; default 300.
    onset_min_s: u64 = 300, seconds();
    /// … and at most; default 3,600. Each file system draws its own.
    onset_max_s: u64 = 3_600, seconds();
    /// Seconds of a usable key after which it works again, at most (MA-D11); 1 to 86,400; default 300.
    recovery_max_s: u64 = 300, seconds();
    /// Whether clients hang until the file system is back, as NFS does with hard mounts, instead of getting `EIO`; default
    /// false.
    hard_mounts: bool = false, any();
}

const CREATE_VISIBLE: Visible = Visible {
    invalid_state: "CreateFileSystem: BadRequest (400)",
    internal: "CreateFileSystem: InternalServerError (500)",
    throttled: "CreateFileSystem: InternalServerError (500)",
    disabled: "CreateFileSystem: BadRequest (400)",
    not_found: "CreateFileSystem: BadRequest (400)",
};
const IO_ERROR: &str = "EIO: input/output error";
/// What a client has seen that hung until the end of the run.
const HUNG: &str = "hung: NFS hard mount";
const VIA: &str = "elasticfilesystem.us-east-1.amazonaws.com";
const STOPPED: &str = "stopped";

impl Service for Efs {
    // Users read and write files.
    fn users_call_it_by_sdk(&self) -> bool {
        false
    }

    fn check(&self) -> Result<(), SettingsError> {
        self.ranges().ordered(["onset_min_s", "onset_max_s"], [self.onset_min_s, self.onset_max_s]).done()
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        let seconds = Duration::from_secs;
        let file_systems = (0..self.file_systems).map(|_| FileSystem {
            works: true,
            onset: draws.between(seconds(self.onset_min_s), seconds(self.onset_max_s)),
            recovery: draws.between(Duration::ZERO, seconds(self.recovery_max_s)),
        });
        Rc::new(FileSystems {
            caller: desk.caller(ROLES[0], VIA),
            keys: Objects::new(self.file_systems as usize),
            file_systems: RefCell::new(file_systems.collect()),
            back: Notify::new(),
            watched: Cell::new(false),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        let why = format!(
            "a file system stops only {} to {} min after its key is gone (MA-D11)",
            self.onset_min_s / 60,
            self.onset_max_s / 60
        );
        join(&[during.in_general(), during.held_sentence("reads and writes", &why)])
    }

    fn lasting_damage(&self, _stats: &ServiceStats, aftermath: &Aftermath) -> String {
        aftermath.became(STOPPED).map_or_else(String::new, |(n, first)| {
            format!(
                "{} of {} file systems stopped, the first at {}; they come back by themselves within {} s of the key.",
                count(n.min(u64::from(self.file_systems))),
                count(u64::from(self.file_systems)),
                clock(first),
                self.recovery_max_s
            )
        })
    }

    fn assumptions(&self) -> Vec<String> {
        vec![
            format!("MA-D2: EFS polls the key of its file systems every {} s", self.check_every_s),
            format!(
                "MA-D11: an EFS file system stops {} to {} s after its key is gone, its clients {}, and it is back within {} \
                 s of the key",
                self.onset_min_s,
                self.onset_max_s,
                if self.hard_mounts { "hang" } else { "get EIO" },
                self.recovery_max_s
            ),
        ]
    }
}

struct FileSystems {
    settings: Efs,
    desk: Rc<Desk>,
    caller: Caller,
    keys: Objects,
    file_systems: RefCell<Vec<FileSystem>>,
    /// One of them works again.
    back: Notify,
    /// EFS polls the key.
    watched: Cell<bool>,
}

struct FileSystem {
    works: bool,
    onset: Duration,
    recovery: Duration,
}

impl FileSystems {
    async fn create_file_system(self: Rc<Self>) -> ServiceOutcome {
        let operation = KmsOperation::GenerateDataKeyWithoutPlaintext;
        let made = self.desk.encrypt(operation, &self.caller).await;
        self.desk.outcome(
            &CREATE_VISIBLE,
            made.map(|key| {
                if !self.keys.is_full() {
                    self.keys.keep(key.clone(), 0.0);
                    if !self.watched.replace(true) {
                        tokio::task::spawn_local(self.clone().watch(key));
                    }
                }
            }),
        )
    }

    async fn watch(self: Rc<Self>, key: CiphertextBlob) {
        let every = Duration::from_secs(self.settings.check_every_s);
        watch_key(&self.desk, &key, &self.caller, every, |now, key| {
            for (number, file_system) in self.file_systems.borrow_mut().iter_mut().enumerate() {
                if file_system.works && key.lost_for(file_system.onset, now) {
                    file_system.works = false;
                    self.desk.record_damage(number, STOPPED);
                } else if !file_system.works && key.usable_for(file_system.recovery, now) {
                    file_system.works = true;
                    self.back.notify_waiters();
                }
            }
        })
        .await;
    }

    fn works(&self, number: usize) -> bool {
        self.file_systems.borrow().get(number).is_none_or(|file_system| file_system.works)
    }

    async fn read_or_write(self: Rc<Self>, place: f64) -> ServiceOutcome {
        let Some((number, _)) = self.keys.pick(place) else { return self.create_file_system().await };
        let failed = |visible| ServiceOutcome::Failed { visible, kms: None, attempts: 0 };
        while !self.works(number) {
            if !self.settings.hard_mounts {
                return failed(IO_ERROR);
            }
            let until_the_end = tokio::time::sleep(self.desk.open_for());
            tokio::select! {
                biased;
                () = self.back.notified() => {}
                () = until_the_end => return failed(HUNG),
            }
        }
        ServiceOutcome::ServedByHeldKey
    }
}

impl Model for FileSystems {
    fn resources(&self) -> usize {
        self.settings.file_systems as usize
    }

    fn create(self: Rc<Self>, _number: usize) -> Work {
        Box::pin(self.create_file_system())
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (kind, place) = (draws.unit(), draws.unit());
        if kind < self.settings.create_share {
            Box::pin(self.create_file_system())
        } else {
            Box::pin(self.read_or_write(place))
        }
    }
}
