//! How many bytes of request bodies are held at once, all senders together (XKS-NET-9).
//!
//! Place on the map: counted while `http` reads a body, which is before anyone is authenticated. The limit on one body
//! alone would let 1,024 connections with 64 streams each pile up 4 GiB.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts bytes against a limit.
#[derive(Debug)]
pub(crate) struct Bodies {
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl Bodies {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), bytes_max }
    }

    /// A body of which nothing has arrived yet.
    pub(crate) fn begin(&self) -> Held<'_> {
        Held { bodies: self, bytes: 0 }
    }
}

/// The bytes of one body; dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    bodies: &'a Bodies,
    bytes: usize,
}

impl Held<'_> {
    /// Holds `more` bytes too; false, and nothing changed, when there is no room for them.
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        let max = self.bodies.bytes_max;
        let grown = |held: usize| held.checked_add(more).filter(|held| *held <= max);
        // The order of memory does not matter: the counter protects no other data.
        let fits = self.bodies.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        if fits {
            self.bytes += more;
        }
        fits
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.bodies.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_makes_room() {
        let bodies = Bodies::new(10);
        let (mut first, mut second) = (bodies.begin(), bodies.begin());
        assert!(first.grow(4) && first.grow(3) && second.grow(3));
        assert!(!second.grow(1) && second.grow(0));
        drop(first);
        assert!(second.grow(7) && !second.grow(usize::MAX));
        drop(second);
        assert!(bodies.begin().grow(10));
    }
}
