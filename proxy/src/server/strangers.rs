//! The connections that have not carried an authenticated request yet, in the order they came, so that whoever only
//! holds a place can be shown the door when somebody else needs it (XKS-NET-9).
//!
//! Place on the map: [`serve`](super::serve) keeps the list, each connection its own entry until it has proven itself.
//!
//! The one that has been a stranger longest goes first, and none before it has had the time in which KMS authenticates:
//! else a crowd of honest newcomers would drive out one another. There is no limit per address: behind a load balancer
//! all connections come from the same few.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

/// A connection's place in the house, given back when it is dropped. An error only if the semaphore were closed, which it
/// never is.
pub(super) type Place = Result<OwnedSemaphorePermit, AcquireError>;

/// The list. Clones are the same list.
#[derive(Clone, Default)]
pub(super) struct Strangers(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    last_id: u64,
    /// In the order they came.
    entries: BTreeMap<u64, Entry>,
}

struct Entry {
    since: Instant,
    /// `None` while its task is just being started.
    task: Option<AbortHandle>,
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
        state.entries.insert(id, Entry { since: Instant::now(), task: None });
        Stranger { id, strangers: self.clone() }
    }

    /// Says which task a stranger is, so that it can be ended.
    pub(super) fn introduce(&self, id: u64, task: AbortHandle) {
        // It may have ended, or proven itself, already.
        if let Some(entry) = self.state().entries.get_mut(&id) {
            entry.task = Some(task);
        }
    }

    /// Waits for a place. In a full house a stranger has to give up its own once it has had `grace`.
    ///
    /// # Errors
    /// Never: the semaphore is not closed.
    pub(super) async fn make_room(&self, places: &Arc<Semaphore>, grace: Duration) -> Place {
        let mut place = pin!(Arc::clone(places).acquire_owned());
        while places.available_permits() == 0
            && let Some(since) = self.longest()
        {
            // One for each who comes; then its place is on its way.
            if since + grace <= Instant::now() {
                self.evict();
                break;
            }
            if let Ok(place) = timeout_at(since + grace, &mut place).await {
                return place;
            }
        }
        place.await
    }

    fn longest(&self) -> Option<Instant> {
        self.state().entries.values().next().map(|entry| entry.since)
    }

    fn evict(&self) {
        let first = self.state().entries.pop_first();
        if let Some((_, Entry { task: Some(task), .. })) = first {
            tracing::debug!("all connections taken: one without an authenticated request is closed");
            task.abort();
        }
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
        self.strangers.state().entries.remove(&self.id);
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
        strangers.evict();
        assert!(second.await.unwrap_err().is_cancelled() && !third.is_finished());
        strangers.evict();
        assert!(third.await.unwrap_err().is_cancelled());
        strangers.introduce(proven.id(), tokio::spawn(pending::<()>()).abort_handle());
        assert_eq!(strangers.longest(), None, "who has proven itself is no stranger again");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_goes_before_its_time_or_while_there_is_room() {
        let (strangers, places) = (Strangers::default(), Arc::new(Semaphore::new(1)));
        let (_stranger, task) = come(&strangers);
        let (start, grace) = (Instant::now(), Duration::from_millis(150));
        let place = strangers.make_room(&places, grace).await.unwrap();
        assert!(!task.is_finished());
        let waiting = strangers.make_room(&places, grace);
        let leave = async {
            assert!(task.await.unwrap_err().is_cancelled());
            assert_eq!(start.elapsed(), grace);
            drop(place);
        };
        assert!(tokio::join!(waiting, leave).0.is_ok());
    }
}
