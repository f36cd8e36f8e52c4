//! One at a time, but not for ever: the lock around opening, closing and searching.
//!
//! Place on the map: part of `module`. Some libraries race there (SoftHSM 2.6.1 in `C_Login`,
//! softhsm/SoftHSMv2#509), so those calls take turns; searches may share theirs. An ordinary lock would let one call
//! that never returns stop all others for ever; here whoever has waited for the patience goes ahead, and the stuck one
//! no longer counts.
//!
//! Its locks come through one line, so that `tests/turns_interleaved.rs` can put others in their place, under which a
//! scheduler tries the orders in which threads can come here.

use super::locks::{Condvar, Mutex, MutexGuard, PoisonError};
use std::collections::BTreeSet;
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
    /// Those who share a turn.
    sharers: BTreeSet<u64>,
    /// Those who wait for a turn of their own: no more come to share before them.
    waiting: usize,
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

    /// Waits for a turn of one's own, at most for the patience.
    pub(super) fn take(&self) -> Turn<'_> {
        let mut state = self.state();
        state.waiting += 1;
        let taken = |state: &mut State| state.holder.is_some() || !state.sharers.is_empty();
        let waited = self.free.wait_timeout_while(state, self.patience, taken);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.waiting -= 1;
        state.last += 1;
        state.holder = Some(state.last);
        state.sharers.clear();
        Turn { turns: self, number: state.last }
    }

    /// Waits for a turn that others may share, at most for the patience.
    pub(super) fn share(&self) -> Turn<'_> {
        let taken = |state: &mut State| state.holder.is_some() || state.waiting > 0;
        let waited = self.free.wait_timeout_while(self.state(), self.patience, taken);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.last += 1;
        let number = state.last;
        state.holder = None;
        state.sharers.insert(number);
        Turn { turns: self, number }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        let held = state.holder == Some(self.number);
        if held {
            state.holder = None;
        }
        if state.sharers.remove(&self.number) || held {
            drop(state);
            self.turns.free.notify_all();
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

    #[test]
    fn a_turn_is_shared_by_those_who_share_only() {
        let turns = Turns::new(Duration::from_secs(60));
        let (first, second) = (turns.share(), turns.share());
        std::thread::scope(|scope| {
            let alone = scope.spawn(|| turns.take().number);
            while turns.state().waiting == 0 {
                std::thread::yield_now();
            }
            let late = scope.spawn(|| turns.share().number);
            drop(first);
            assert_eq!(turns.state().holder, None, "the second still counts");
            drop(second);
            assert!(alone.join().unwrap() < late.join().unwrap(), "no more came to share before it");
        });
        assert!(turns.state().holder.is_none() && turns.state().sharers.is_empty());
    }

    #[test]
    fn a_shared_turn_that_never_ends_is_taken_over_and_takes_over() {
        let turns = Turns::new(Duration::from_millis(1));
        let stuck = turns.share();
        let second = turns.take();
        let third = turns.share();
        drop((stuck, second));
        assert_eq!(turns.state().sharers.len(), 1, "a late return must not end another's turn");
        drop(third);
        assert!(turns.state().holder.is_none() && turns.state().sharers.is_empty());
    }
}
