//! The turns at a PKCS#11 library (`hsm/pkcs11/turn.rs`) under shuttle, which puts the threads in thousands of orders. A
//! wake-up that gets lost shows as a deadlock, and two threads in one turn as a failed assertion; either prints the
//! schedule that `shuttle::replay` repeats.
//!
//! It is the same source file, with shuttle's locks in the place of the standard library's. This program has a `main` of
//! its own (`harness = false`): under the usual one the file's own tests would come along, and they need real time.

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::thread::{self, JoinHandle};
use std::time::Duration;

#[expect(
    unused_imports,
    reason = "without a harness the file's own tests are left out, and what they import is not"
)]
#[path = "../src/hsm/pkcs11/turn.rs"]
mod turn;

use turn::{Turn, Turns};

/// What `turn.rs` takes from `hsm/pkcs11/locks.rs` in the proxy.
mod locks {
    use super::*;
    pub(super) use shuttle::sync::{Mutex, MutexGuard, PoisonError};

    /// shuttle's, and for a thread named [`IMPATIENT`] the patience may be over at any moment; for others it never is.
    pub(super) struct Condvar(Arc<shuttle::sync::Condvar>);

    impl Condvar {
        pub(super) fn new() -> Self {
            Self(Arc::default())
        }

        pub(super) fn notify_all(&self) {
            self.0.notify_all();
        }

        pub(super) fn wait_timeout_while<'a, T>(
            &self,
            mut guard: MutexGuard<'a, T>,
            _patience: Duration,
            mut condition: impl FnMut(&mut T) -> bool,
        ) -> shuttle::sync::LockResult<(MutexGuard<'a, T>, ())> {
            let is_over = Arc::new(AtomicBool::new(false));
            let has_returned = Arc::new(AtomicBool::new(false));
            if thread::current().name() == Some(IMPATIENT) {
                let (condvar, is_over, has_returned) =
                    (Arc::clone(&self.0), Arc::clone(&is_over), Arc::clone(&has_returned));
                // Again and again, since one call may fall between the waiter's look at the flag and its wait.
                thread::spawn(move || {
                    while !has_returned.load(Ordering::SeqCst) {
                        is_over.store(true, Ordering::SeqCst);
                        condvar.notify_all();
                        thread::yield_now();
                    }
                });
            }
            while condition(&mut guard) && !is_over.load(Ordering::SeqCst) {
                guard = self.0.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            has_returned.store(true, Ordering::SeqCst);
            Ok((guard, ()))
        }
    }
}

/// The name of threads whose patience may be over.
const IMPATIENT: &str = "impatient";

/// Orders tried per scene, and as many again by another scheduler.
const ORDERS: usize = 2_000;

/// Most changes of thread that the second scheduler forces upon an order, anywhere in it.
const FORCED_CHANGES: usize = 3;

fn main() {
    for scene in [
        everyone_has_a_turn_alone,
        a_turn_is_shared_by_those_who_share_only,
        a_stuck_turn_is_taken_over_and_its_late_end_ends_nothing,
        a_stuck_shared_turn_is_taken_over,
    ] {
        shuttle::check_random(scene, ORDERS);
        shuttle::check_pct(scene, ORDERS, FORCED_CHANGES);
    }
}

fn turns() -> Arc<Turns> {
    // How long does not matter: no time passes here.
    Arc::new(Turns::new(Duration::ZERO))
}

/// Counts who is inside.
#[derive(Clone, Default)]
struct Room {
    alone: Arc<AtomicUsize>,
    sharing: Arc<AtomicUsize>,
}

impl Room {
    fn alone(&self, turn: Turn<'_>) {
        assert_eq!(self.alone.fetch_add(1, Ordering::SeqCst), 0, "two have a turn of their own");
        assert_eq!(self.sharing.load(Ordering::SeqCst), 0, "one shares what is another's own");
        thread::yield_now();
        self.alone.fetch_sub(1, Ordering::SeqCst);
        drop(turn);
    }

    fn shared(&self, turn: Turn<'_>) {
        self.sharing.fetch_add(1, Ordering::SeqCst);
        assert_eq!(self.alone.load(Ordering::SeqCst), 0, "one shares what is another's own");
        thread::yield_now();
        self.sharing.fetch_sub(1, Ordering::SeqCst);
        drop(turn);
    }
}

fn taker(turns: &Arc<Turns>, room: &Room) -> JoinHandle<()> {
    let (turns, room) = (Arc::clone(turns), room.clone());
    thread::spawn(move || room.alone(turns.take()))
}

fn sharer(turns: &Arc<Turns>, room: &Room) -> JoinHandle<()> {
    let (turns, room) = (Arc::clone(turns), room.clone());
    thread::spawn(move || room.shared(turns.share()))
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| assert!(thread.join().is_ok()));
}

fn everyone_has_a_turn_alone() {
    let (turns, room) = (turns(), Room::default());
    let takers = [(); 3].map(|()| taker(&turns, &room));
    join(takers);
}

fn a_turn_is_shared_by_those_who_share_only() {
    let (turns, room) = (turns(), Room::default());
    let sharers = [(); 2].map(|()| sharer(&turns, &room));
    let takers = [(); 2].map(|()| taker(&turns, &room));
    let late = sharer(&turns, &room);
    join(sharers.into_iter().chain(takers).chain([late]));
}

/// Lets an impatient thread take over from `stuck`, with others who wait without limit beside it; then ends `stuck`, at
/// any moment of all that.
fn take_over(turns: &Arc<Turns>, stuck: Turn<'_>) {
    let room = Room::default();
    let impatient = {
        let (turns, room) = (Arc::clone(turns), room.clone());
        thread::Builder::new().name(IMPATIENT.to_owned()).spawn(move || room.alone(turns.take()))
    };
    // Whoever is impatient may take over from these too if they come first, so they come after.
    let Ok(impatient) = impatient else { return };
    let is_late = thread_rng().gen_bool(0.5);
    if is_late {
        assert!(impatient.join().is_ok());
        let others = [taker(turns, &room), sharer(turns, &room), taker(turns, &room)];
        drop(stuck);
        join(others);
    } else {
        drop(stuck);
        assert!(impatient.join().is_ok());
        join([taker(turns, &room), sharer(turns, &room)]);
    }
}

fn a_stuck_turn_is_taken_over_and_its_late_end_ends_nothing() {
    let turns = turns();
    let stuck = turns.take();
    take_over(&turns, stuck);
}

fn a_stuck_shared_turn_is_taken_over() {
    let turns = turns();
    let stuck = turns.share();
    take_over(&turns, stuck);
}
