//! How much is let in at once. One more is refused at once, before any cryptography, instead of waiting in a queue
//! whose end KMS would not live to see (XKS-TIME-2).
//!
//! Place on the map: after the body has been read, before the signature is verified.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the requests in flight against a limit.
#[derive(Debug)]
pub struct Admission {
    in_flight: AtomicUsize,
    in_flight_max: usize,
}

impl Admission {
    /// Lets in at most `in_flight_max` requests at once.
    pub fn new(in_flight_max: usize) -> Self {
        Self { in_flight: AtomicUsize::new(0), in_flight_max }
    }

    /// Lets one request in until its [`Permit`] is dropped; `None` when the house is full.
    pub fn enter(&self) -> Option<Permit<'_>> {
        // The order of memory does not matter: the counter protects no other data.
        if self.in_flight.fetch_add(1, Ordering::Relaxed) < self.in_flight_max {
            return Some(Permit(self));
        }
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// How many are in flight now, for metrics.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// One request's place; dropping it gives the place back.
#[derive(Debug)]
pub struct Permit<'a>(&'a Admission);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_house_refuses_and_a_free_place_is_given_again() {
        let admission = Admission::new(2);
        let first = admission.enter().unwrap();
        let _second = admission.enter().unwrap();
        assert!(admission.enter().is_none());
        assert_eq!(admission.in_flight(), 2);
        drop(first);
        assert!(admission.enter().is_some());
        assert_eq!(admission.in_flight(), 1);
    }
}
