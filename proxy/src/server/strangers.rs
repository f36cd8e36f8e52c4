//! The connections that have not carried an authenticated request yet, in the order they came, so that whoever only
//! holds a place can be shown the door when somebody else needs it (XKS-NET-9).
//!
//! Place on the map: [`serve`](super::serve) keeps the list, each connection its own entry until it has proven itself.
//!
//! The one that has been a stranger longest goes first. KMS sends its first request as soon as it is connected, so to
//! be that one it would have to be overtaken by `connections_max` others within its handshake and that request. There is no limit per
//! address: behind a load balancer all connections come from the same few.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::AbortHandle;

/// The list. Clones are the same list.
#[derive(Clone, Default)]
pub(super) struct Strangers(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    last_id: u64,
    /// By order of arrival; `None` for one whose task is just being started.
    tasks: BTreeMap<u64, Option<AbortHandle>>,
}

/// One connection's entry, gone when it is dropped.
pub(super) struct Stranger {
    id: u64,
    strangers: Strangers,
}

impl Strangers {
    pub(super) fn enter(&self) -> Stranger {
        let mut state = self.state();
        state.last_id += 1;
        let id = state.last_id;
        state.tasks.insert(id, None);
        Stranger { id, strangers: self.clone() }
    }

    /// Says which task a stranger is, so that it can be ended.
    pub(super) fn introduce(&self, id: u64, task: AbortHandle) {
        // It may have ended, or proven itself, already.
        if let Some(entry) = self.state().tasks.get_mut(&id) {
            *entry = Some(task);
        }
    }

    /// Ends the connection that has been a stranger longest; false if there is none.
    pub(super) fn evict(&self) -> bool {
        let mut state = self.state();
        let first = state.tasks.first_entry().and_then(|entry| entry.remove());
        drop(state);
        first.inspect(AbortHandle::abort).is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stranger {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// It has carried an authenticated request and may stay.
    pub(super) fn prove(&self) {
        self.strangers.state().tasks.remove(&self.id);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.prove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::task::JoinHandle;

    fn come(strangers: &Strangers) -> (Stranger, JoinHandle<()>) {
        let stranger = strangers.enter();
        let task = tokio::spawn(pending());
        strangers.introduce(stranger.id(), task.abort_handle());
        (stranger, task)
    }

    #[tokio::test]
    async fn who_has_been_a_stranger_longest_goes_first() {
        let strangers = Strangers::default();
        let (left, _task) = come(&strangers);
        let (proven, _task) = come(&strangers);
        let (_second, second) = come(&strangers);
        let (_third, third) = come(&strangers);
        drop(left);
        proven.prove();
        assert!(strangers.evict());
        assert!(second.await.unwrap_err().is_cancelled() && !third.is_finished());
        assert!(strangers.evict());
        assert!(third.await.unwrap_err().is_cancelled());
        assert!(!strangers.evict());
        strangers.introduce(proven.id(), tokio::spawn(pending::<()>()).abort_handle());
        assert!(!strangers.evict(), "who has proven itself is no stranger again");
    }
}
