//! When a change of the files is worth a reload.
//!
//! Place on the map: part of the daemon, used by `reload`. Pure.

use xks_proxy::config::Fingerprint;

/// Compares what the files hold with what they held.
///
/// Somebody who replaces a certificate writes two files, one after the other. So a change is taken once it has been
/// seen twice in a row; what lies between is nobody's intention.
pub(crate) struct Watch {
    /// What has been taken, or refused, already.
    settled: Fingerprint,
    /// What was there at the last look.
    last: Fingerprint,
}

impl Watch {
    /// Begins with files that have been taken.
    pub(crate) fn new(taken: Fingerprint) -> Self {
        Self { settled: taken.clone(), last: taken }
    }

    /// One look; whether it is time for a reload. A reload is not asked for again until something changes, so what is
    /// broken is refused once.
    pub(crate) fn look(&mut self, now: Fingerprint) -> bool {
        let taken = now == self.last && now != self.settled;
        if taken {
            self.settled = now.clone();
        }
        self.last = now;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Different names, different fingerprints: of files that are not there.
    fn print(name: &str) -> Fingerprint {
        Fingerprint::of(&BTreeSet::from([format!("/no/such/{name}").into()]))
    }

    #[test]
    fn a_change_is_taken_once_when_it_has_been_seen_twice() {
        let mut watch = Watch::new(print("a"));
        let looks = ["a", "b", "b", "b", "c", "d", "d", "d", "a", "a"];
        let taken: Vec<bool> = looks.iter().map(|name| watch.look(print(name))).collect();
        assert_eq!(taken, [false, false, true, false, false, false, true, false, false, true]);
    }

    #[test]
    fn a_change_that_is_undone_at_once_is_none() {
        let mut watch = Watch::new(print("a"));
        assert!(!["b", "a", "a", "b", "a", "a"].iter().any(|name| watch.look(print(name))));
    }
}
