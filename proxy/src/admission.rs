//! How much is let in at once. One more is refused at once, before any cryptography, instead of waiting in a queue
//! whose end KMS would not live to see (XKS-TIME-2).
//!
//! Place on the map: after the body has been read, before the signature is verified.
//!
//! Half of the places is dealt out in equal shares, one per key store, that nobody else can take; the other half is
//! for whoever comes first. So a lone busy key store has more than half of the house, and the others still get in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the requests in flight against a limit.
#[derive(Debug)]
pub struct Admission {
    /// All requests, whatever place they took. Refuses only while a reload changes the shares.
    house: Places,
    /// The places that belong to no key store.
    common: Places,
}

/// The places of one key store that nobody else can take, set by `App`. Clones are the same places.
#[derive(Clone, Debug, Default)]
pub struct Share(Arc<Places>);

impl Admission {
    /// Lets in at most `in_flight_max` requests at once.
    pub fn new(in_flight_max: usize) -> Self {
        Self { house: Places::new(in_flight_max), common: Places::new(in_flight_max) }
    }

    /// Deals half of the house out to these key stores, anew at each reload.
    pub(crate) fn deal<'a>(&self, shares: impl ExactSizeIterator<Item = &'a Share>) {
        let (all, stores) = (self.house.max.load(Ordering::Relaxed), shares.len());
        let each = (all / 2).checked_div(stores).unwrap_or(0);
        shares.for_each(|share| share.0.max.store(each, Ordering::Relaxed));
        self.common.max.store(all - each * stores, Ordering::Relaxed);
    }

    /// Lets one request of this key store in until its [`Permit`] is dropped; `None` when its share and the common
    /// places are taken.
    pub fn enter<'a>(&'a self, share: &'a Share) -> Option<Permit<'a>> {
        let place = share.0.take().or_else(|| self.common.take())?;
        Some(Permit { _place: place, _of_house: self.house.take()? })
    }

    /// How many are in flight now, for metrics.
    pub fn in_flight(&self) -> usize {
        self.house.taken.load(Ordering::Relaxed)
    }
}

/// One request's place; dropping it gives the place back.
#[derive(Debug)]
pub struct Permit<'a> {
    _place: Place<'a>,
    _of_house: Place<'a>,
}

/// The order of memory does not matter in here: the counters protect no other data.
#[derive(Debug, Default)]
struct Places {
    taken: AtomicUsize,
    max: AtomicUsize,
}

impl Places {
    fn new(max: usize) -> Self {
        Self { taken: AtomicUsize::new(0), max: AtomicUsize::new(max) }
    }

    fn take(&self) -> Option<Place<'_>> {
        let max = self.max.load(Ordering::Relaxed);
        // Never above the maximum, not even for a moment, so that those refused cannot make others be refused.
        let one_more = |taken| (taken < max).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.ok().map(|_| Place(self))
    }
}

#[derive(Debug)]
struct Place<'a>(&'a Places);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_house_refuses_and_a_free_place_is_given_again() {
        let (admission, share) = (Admission::new(2), Share::default());
        let first = admission.enter(&share).unwrap();
        let _second = admission.enter(&share).unwrap();
        assert!(admission.enter(&share).is_none());
        assert_eq!(admission.in_flight(), 2);
        drop(first);
        assert!(admission.enter(&share).is_some());
        assert_eq!(admission.in_flight(), 1);
    }

    #[test]
    fn a_flood_takes_its_share_and_the_common_places_and_no_more() {
        let (admission, shares) = (Admission::new(9), [Share::default(), Share::default()]);
        admission.deal(shares.iter());
        let [flooded, other] = &shares;
        let flood: Vec<_> = (0..20).filter_map(|_| admission.enter(flooded)).collect();
        assert_eq!(flood.len(), 7);
        let _guaranteed = [admission.enter(other).unwrap(), admission.enter(other).unwrap()];
        assert!(admission.enter(other).is_none());
        assert_eq!(admission.in_flight(), 9);
        drop(flood);
        let alone: Vec<_> = (0..20).filter_map(|_| admission.enter(other)).collect();
        assert_eq!(alone.len(), 5);
    }

    #[test]
    fn more_key_stores_than_places_share_all_of_them() {
        let (admission, shares) = (Admission::new(2), [(); 3].map(|()| Share::default()));
        admission.deal(shares.iter());
        let _both = [admission.enter(&shares[0]).unwrap(), admission.enter(&shares[2]).unwrap()];
        assert!(admission.enter(&shares[1]).is_none());
    }

    #[test]
    fn dealing_anew_never_overfills_the_house() {
        let (admission, shares) = (Admission::new(8), [Share::default(), Share::default()]);
        admission.deal(shares[..1].iter());
        let first: Vec<_> = (0..20).filter_map(|_| admission.enter(&shares[0])).collect();
        assert_eq!(first.len(), 8);
        admission.deal(shares.iter());
        assert!(admission.enter(&shares[1]).is_none(), "not before the others have left");
        drop(first);
        assert!(admission.enter(&shares[1]).is_some());
        assert_eq!(admission.in_flight(), 0);
    }
}
