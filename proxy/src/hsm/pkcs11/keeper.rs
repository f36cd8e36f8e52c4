//! One session, and another in its place when it is lost.
//!
//! Place on the map: between `session` (real calls) and those who use it: each thread of `pool`, and
//! `inline`. The two traits let the pool be tested with a scripted device.

use crate::hsm::{HsmError, HsmErrorKind};
use std::sync::Arc;

/// What a thread of the pool owns.
pub(super) trait Device {
    /// It can no longer be used and is to be replaced.
    fn is_lost(&self) -> bool;

    /// There are results that are not to be given out before [`settle`](Self::settle).
    fn has_to_settle(&self) -> bool {
        false
    }

    /// Whether the results since the last time may be given out. If it fails, none may.
    fn settle(&mut self) -> Result<(), HsmError> {
        Ok(())
    }

    /// Those results will not be given out.
    fn discard(&mut self) {}

    /// Tries it after it was not used for long: a firewall may have forgotten its connection. It is lost if that fails.
    fn probe(&mut self) -> Result<(), HsmError>;
}

/// Makes devices, on whichever thread asks.
pub(super) trait Open: Send + Sync + 'static {
    type Device: Device + Send;

    /// What logs call the HSM.
    fn name(&self) -> &str;

    fn open(self: &Arc<Self>) -> Result<Self::Device, HsmError>;
}

pub(super) struct Keeper<O: Open> {
    opener: Arc<O>,
    device: Option<O::Device>,
    /// A device was given up that had something to settle.
    left_unsettled: bool,
}

impl<O: Open> Keeper<O> {
    pub(super) fn new(opener: Arc<O>, device: Option<O::Device>) -> Self {
        Self { opener, device, left_unsettled: false }
    }

    /// There is a device, and it is not lost.
    pub(super) fn is_ready(&self) -> bool {
        self.device.as_ref().is_some_and(|device| !device.is_lost())
    }

    /// The device, opened if need be. A lost one is given up first.
    pub(super) fn device(&mut self) -> Result<&mut O::Device, HsmError> {
        if !self.is_ready() {
            self.give_up();
        }
        match &mut self.device {
            Some(device) => Ok(device),
            none => Ok(none.insert(self.opener.open()?)),
        }
    }

    /// Has the device, if there is one, tried; one that fails is given up.
    pub(super) fn probe(&mut self) -> Result<(), HsmError> {
        let outcome = self.device.as_mut().map_or(Ok(()), Device::probe);
        if outcome.is_err() {
            self.give_up();
        }
        outcome
    }

    /// Closes the device, whatever its state; the next use opens another.
    pub(super) fn give_up(&mut self) {
        self.left_unsettled |= self.device.take().is_some_and(|device| device.has_to_settle());
    }

    /// Whether the results since the last time may be given out. Not those of a device that is gone, or lost.
    pub(super) fn settle(&mut self) -> Result<(), HsmError> {
        let left = std::mem::take(&mut self.left_unsettled);
        match self.device.as_mut().filter(|device| device.has_to_settle()) {
            Some(device) if !left && !device.is_lost() => device.settle(),
            None if !left => Ok(()),
            _ => {
                let detail = "the session was lost before its results were sure";
                Err(HsmError::new(HsmErrorKind::SessionLost, detail))
            }
        }
    }

    /// Nobody will be given the results since the last time.
    pub(super) fn discard(&mut self) {
        self.left_unsettled = false;
        self.device.iter_mut().for_each(Device::discard);
    }

    /// Runs `call`, whose result needs no settling; once more, on a new session, when the first was lost and `may_repeat`
    /// allows.
    ///
    /// Repeating is safe: a repeated encrypt makes its own new IV and nobody has seen the first result, and a
    /// decrypt changes nothing.
    pub(super) fn run<T>(
        &mut self,
        call: impl Fn(&mut O::Device) -> Result<T, HsmError>,
        may_repeat: impl FnOnce() -> bool,
    ) -> Result<T, HsmError> {
        match call(self.device()?) {
            Err(error) if error.kind == HsmErrorKind::SessionLost && may_repeat() => call(self.device()?),
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Counter(AtomicUsize);

    struct Numbered {
        number: usize,
        lost: bool,
        unsettled: bool,
    }

    impl Device for Numbered {
        fn is_lost(&self) -> bool {
            self.lost
        }

        fn has_to_settle(&self) -> bool {
            self.unsettled
        }

        fn settle(&mut self) -> Result<(), HsmError> {
            self.unsettled = false;
            Ok(())
        }

        fn discard(&mut self) {
            self.unsettled = false;
        }

        fn probe(&mut self) -> Result<(), HsmError> {
            if self.lost { Err(HsmError::new(HsmErrorKind::SessionLost, "scripted")) } else { Ok(()) }
        }
    }

    impl Open for Counter {
        type Device = Numbered;

        fn name(&self) -> &str {
            "scripted"
        }

        fn open(self: &Arc<Self>) -> Result<Numbered, HsmError> {
            Ok(Numbered { number: self.0.fetch_add(1, Ordering::Relaxed), lost: false, unsettled: false })
        }
    }

    fn lose(kind: HsmErrorKind) -> impl Fn(&mut Numbered) -> Result<usize, HsmError> {
        move |device| {
            if device.number == 0 {
                device.lost = true;
                return Err(HsmError::new(kind, "scripted"));
            }
            Ok(device.number)
        }
    }

    #[test]
    fn a_lost_session_is_replaced_and_the_call_repeated() {
        let mut keeper = Keeper::new(Arc::new(Counter::default()), None);
        assert_eq!(keeper.run(lose(HsmErrorKind::SessionLost), || true), Ok(1));
    }

    #[test]
    fn a_call_is_not_repeated_without_leave_or_for_another_reason() {
        for (kind, leave) in [(HsmErrorKind::SessionLost, false), (HsmErrorKind::DeviceGone, true)] {
            let mut keeper = Keeper::new(Arc::new(Counter::default()), None);
            assert_eq!(keeper.run(lose(kind), || leave).map_err(|error| error.kind), Err(kind));
            assert_eq!(keeper.run(|device| Ok(device.number), || false), Ok(1), "the next has a new session");
        }
    }

    #[test]
    fn a_call_is_repeated_only_once() {
        let mut keeper = Keeper::new(Arc::new(Counter::default()), None);
        let calls = AtomicUsize::new(0);
        let outcome: Result<(), _> = keeper.run(
            |device| {
                calls.fetch_add(1, Ordering::Relaxed);
                device.lost = true;
                Err(HsmError::new(HsmErrorKind::SessionLost, "scripted"))
            },
            || true,
        );
        assert!(outcome.is_err());
        assert_eq!(calls.into_inner(), 2);
    }

    /// Between two calls of a batch the library may lose its sessions: the second gets a new one, and what that
    /// settles says nothing about the first's result.
    #[test]
    fn what_a_session_left_unsettled_is_not_settled_by_the_next() {
        let mut keeper = Keeper::new(Arc::new(Counter::default()), None);
        let device = keeper.device().unwrap();
        (device.unsettled, device.lost) = (true, true);
        keeper.device().unwrap().unsettled = true;
        assert_eq!(keeper.settle().unwrap_err().kind, HsmErrorKind::SessionLost);
        assert_eq!(keeper.settle(), Ok(()), "the results of the new one are another matter");
        keeper.device().unwrap().unsettled = true;
        keeper.give_up();
        assert_eq!(keeper.settle().unwrap_err().kind, HsmErrorKind::SessionLost, "nor by nobody");
        keeper.device().unwrap().unsettled = true;
        keeper.give_up();
        keeper.device().unwrap().unsettled = true;
        keeper.discard();
        assert!(!keeper.device().unwrap().unsettled);
        assert_eq!(keeper.settle(), Ok(()));
        let device = keeper.device().unwrap();
        (device.unsettled, device.lost) = (true, true);
        assert_eq!(
            keeper.settle().unwrap_err().kind,
            HsmErrorKind::SessionLost,
            "nor by one that is lost itself"
        );
    }
}
