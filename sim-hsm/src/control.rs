//! The control door: faults, restarts and key changes for whoever arranges the world, and what was asked of the device.
//!
//! Place on the map: a handle apart from [`SimHsm`](crate::SimHsm), so that arranging the world and using it cannot be
//! mistaken for one another. Every change takes effect at once.

use crate::backend::Shared;
use crate::device::Device;
use crate::faults::{Fault, FaultError, FaultId};
use crate::token::Token;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use xks_proxy::hsm::{HsmError, HsmErrorKind};
use xks_proxy::key::KeyName;

/// What a device is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named as the methods of Hsm")]
pub enum Operation {
    Describe,
    Encrypt,
    Decrypt,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Describe => "describe",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
        })
    }
}

/// One operation of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What was asked.
    pub operation: Operation,
    /// Of which key.
    pub key: KeyName,
    /// When it arrived, on the [`Timer`](crate::Timer)'s clock.
    pub arrived: Duration,
    /// When its caller was answered or gave up.
    pub left: Duration,
    /// How it ended for its caller.
    pub outcome: Outcome,
}

/// How an operation ended for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It got what it asked for.
    Answered,
    /// It got an error.
    Failed(HsmErrorKind),
    /// It went away without waiting for the answer.
    Abandoned,
}

/// What was asked since the device was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Descriptions asked for. Requests whose deadline had passed on arrival are in no counter.
    pub describe: u64,
    /// Encryptions asked for.
    pub encrypt: u64,
    /// Decryptions asked for.
    pub decrypt: u64,
    /// Health checks asked for.
    pub health: u64,
    /// Operations answered with success.
    pub answered: u64,
    /// Operations answered with an error, by kind; refusals are `Busy`.
    pub failed: BTreeMap<HsmErrorKind, u64>,
    /// Operations whose caller went away.
    pub abandoned: u64,
    /// Operations that failed only because an error fault or the background said so.
    pub injected: u64,
    /// Most operations worked on at once; never above `parallel_max`.
    pub running_high_water: usize,
    /// Most operations waiting for a server at once; never above `queue_max`.
    pub queued_high_water: usize,
    /// Most sessions taken at once; never above `sessions_max`.
    pub sessions_high_water: usize,
}

/// What the device is busy with at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Operations being worked on.
    pub running: usize,
    /// Operations waiting for a server.
    pub queued: usize,
    /// Sessions taken: the sum of both.
    pub sessions: usize,
}

impl Occupancy {
    /// The larger of each.
    pub(crate) fn most(self, other: Self) -> Self {
        Self {
            running: self.running.max(other.running),
            queued: self.queued.max(other.queued),
            sessions: self.sessions.max(other.sessions),
        }
    }
}

impl Counters {
    pub(crate) fn count(&mut self, operation: Operation) {
        match operation {
            Operation::Describe => self.describe += 1,
            Operation::Encrypt => self.encrypt += 1,
            Operation::Decrypt => self.decrypt += 1,
        }
    }

    pub(crate) fn high_water(&mut self, occupancy: Occupancy) {
        self.running_high_water = self.running_high_water.max(occupancy.running);
        self.queued_high_water = self.queued_high_water.max(occupancy.queued);
        self.sessions_high_water = self.sessions_high_water.max(occupancy.sessions);
    }
}

/// The handle that arranges the world. Clones control the same device.
#[derive(Clone)]
pub struct Control {
    pub(crate) shared: Arc<Shared>,
}

impl Control {
    /// Begins a fault, which holds until [`Control::end`].
    ///
    /// # Errors
    /// When a parameter is out of range; see [`Fault::check`].
    pub fn begin(&self, fault: Fault) -> Result<FaultId, FaultError> {
        self.change(|device| device.begin(fault))
    }

    /// Ends a fault and restores service as far as no other fault stands in the way. False when it does not hold.
    pub fn end(&self, id: FaultId) -> bool {
        self.change(|device| device.end(id))
    }

    /// The faults that hold, in the order they were begun.
    pub fn faults(&self) -> Vec<(FaultId, Fault)> {
        self.shared.device().faults()
    }

    /// Turns the device off and on: everything in flight fails with `CKR_DEVICE_REMOVED`, sessions and queue are empty.
    /// Keys survive, and so does every fault that holds.
    pub fn restart(&self) {
        self.change(Device::restart);
    }

    /// Closes every session: everything in flight fails with `CKR_SESSION_HANDLE_INVALID`.
    pub fn close_sessions(&self) {
        self.change(Device::close_sessions);
    }

    /// Enables or disables a key from the next operation on.
    ///
    /// # Errors
    /// `KeyNotFound`; `Failed` when another [`Engine`](crate::Engine) stands in for the token.
    pub fn set_enabled(&self, key: &KeyName, enabled: bool) -> Result<(), HsmError> {
        self.with_token(|token| token.set_enabled(key, enabled))
    }

    /// Destroys a key for good.
    ///
    /// # Errors
    /// `KeyNotFound`; `Failed` when another [`Engine`](crate::Engine) stands in for the token.
    pub fn destroy_key(&self, key: &KeyName) -> Result<(), HsmError> {
        self.with_token(|token| token.destroy(key))
    }

    /// What was asked so far.
    pub fn counters(&self) -> Counters {
        self.shared.device().counters.clone()
    }

    /// Every operation in the order its caller left, if [`Configuration::history`](crate::Configuration::history) is on.
    pub fn history(&self) -> Vec<Asked> {
        self.shared.device().history()
    }

    /// What the device is busy with now.
    pub fn occupancy(&self) -> Occupancy {
        self.shared.device().occupancy()
    }

    /// The most of each at once since the last call of this, or since the device was made. Read by one observer only.
    pub fn take_peak(&self) -> Occupancy {
        self.shared.device().take_peak()
    }

    /// Changes the device and lets everyone who waits look again.
    fn change<T>(&self, change: impl FnOnce(&mut Device) -> T) -> T {
        let changed = change(&mut self.shared.device());
        self.shared.changed.notify_waiters();
        changed
    }

    fn with_token(&self, change: impl FnOnce(&mut Token) -> Result<(), HsmError>) -> Result<(), HsmError> {
        match self.shared.device().engine.token() {
            Some(token) => change(token),
            None => Err(HsmError::new(
                HsmErrorKind::Failed,
                "keys of an external engine cannot be changed through the control door; use the engine's own tools",
            )),
        }
    }
}
