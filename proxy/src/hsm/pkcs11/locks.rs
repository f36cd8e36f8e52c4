//! Where the locks of `turn` come from: the standard library.
//!
//! Place on the map: a line of its own, so that a test can compile `turn` over locks whose scheduling it decides.

pub(super) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
