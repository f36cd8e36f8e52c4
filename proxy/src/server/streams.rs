//! Where hyper's HTTP/2 streams run: in tasks that end with their connection.
//!
//! Place on the map: used by [`connection`](super::connection).

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::task::JoinSet;

/// Owns the tasks of one connection's streams; dropping it aborts them.
#[derive(Default)]
pub(super) struct Streams(Arc<Mutex<JoinSet<()>>>);

/// Spawns into a [`Streams`] without keeping it alive, because hyper keeps this inside those very tasks' connection.
#[derive(Clone)]
pub(super) struct Spawner(Weak<Mutex<JoinSet<()>>>);

impl Streams {
    pub(super) fn spawner(&self) -> Spawner {
        Spawner(Arc::downgrade(&self.0))
    }
}

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // Without an owner the connection is gone, and its streams have nobody to answer to.
        let Some(tasks) = self.0.upgrade() else { return };
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::Executor;

    #[tokio::test]
    async fn streams_end_with_their_owner_and_none_begins_after_it() {
        let (streams, alive) = (Streams::default(), Arc::new(()));
        let spawner = streams.spawner();
        let stream = |held: Arc<()>| async move {
            std::future::pending::<()>().await;
            drop(held);
        };
        spawner.execute(stream(Arc::clone(&alive)));
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(streams);
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&alive), 1);
        spawner.execute(stream(Arc::clone(&alive)));
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
