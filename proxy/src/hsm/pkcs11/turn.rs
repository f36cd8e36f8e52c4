//! One at a time, but not for ever: the lock around opening, closing and searching.
//!
//! Place on the map: part of `module`. Some libraries race there (SoftHSM 2.6.1 in `C_Login`,
//! softhsm/SoftHSMv2#509), so those calls take turns. An ordinary mutex would let one call that never returns
//! stop all others for ever; here whoever has waited for the patience goes ahead, and the stuck one no longer
//! counts.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// See the module's head.
pub(super) struct Turns {
    patience: Duration,
    state: Mutex<State>,
    free: Condvar,
}

#[derive(Default)]
struct State {
    holder: Option<u64>,
    last: u64,
}

/// Held while it is one's turn; dropping it ends the turn, unless it was taken over meanwhile.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    number: u64,
}

impl Turns {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, state: Mutex::default(), free: Condvar::new() }
    }

    /// Waits for a turn, at most for the patience.
    pub(super) fn take(&self) -> Turn<'_> {
        let waited =
            self.free.wait_timeout_while(self.state(), self.patience, |state| state.holder.is_some());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.last += 1;
        state.holder = Some(state.last);
        Turn { turns: self, number: state.last }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        if state.holder == Some(self.number) {
            state.holder = None;
            drop(state);
            self.turns.free.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_never_ends_is_taken_over() {
        let turns = Turns::new(Duration::from_millis(1));
        let stuck = turns.take();
        let second = turns.take();
        drop(stuck);
        assert_eq!(turns.state().holder, Some(second.number), "a late return must not end another's turn");
        drop(second);
        assert_eq!(turns.state().holder, None);
    }
}
