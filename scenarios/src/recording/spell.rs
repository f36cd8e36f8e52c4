//! When a service that has failed is well again, told from chance.
//!
//! Place on the map: [`recording`](super) feeds each service's requests in, and asks at the end.

use super::ratio;

/// A time in which a service fails, and what came after it, in the order in which requests end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spell {
    /// How many faults had begun by its beginning.
    faults: usize,
    /// Requests from the first that failed to the last.
    requests: u64,
    /// Those of them that failed.
    failures: u64,
    /// Requests since the last that failed, of those that count; before the first, all.
    good: u64,
}

/// How likely it may be at most that a service which has not recovered looks as if it had.
const BY_CHANCE: f64 = 0.001;

impl Spell {
    /// So many in a row do not succeed by chance where such a share fails: one volume in fifty that cannot be attached makes
    /// a second without a failure no recovery.
    pub(super) fn is_over(&self) -> bool {
        if self.failures == 0 {
            return true;
        }
        let failing = ratio(self.failures, self.requests);
        #[expect(clippy::cast_precision_loss, reason = "counts of requests fit a double")]
        let good = self.good as f64;
        // No power of zero: a service that failed with every request has recovered with the first that succeeds.
        self.good > 0 && (failing >= 1.0 || good * (1.0 - failing).ln() <= BY_CHANCE.ln())
    }

    /// A request has ended that came in when so many faults had begun.
    pub(super) fn take(&mut self, faults: usize, failed: bool) {
        // Another fault has a share of its own, unless the one before is not over yet.
        if faults > self.faults && self.is_over() {
            *self = Self { faults, ..Self::default() };
        }
        if failed {
            self.requests += if self.failures == 0 { 1 } else { self.good + 1 };
            self.failures += 1;
            self.good = 0;
        } else {
            self.good += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_after_a_recovery_begins_anew_and_one_before_it_does_not() {
        let mut spell = Spell::default();
        (0..10).for_each(|_| spell.take(1, true));
        spell.take(1, false);
        assert!(spell.is_over());
        spell.take(2, false);
        assert!(spell.is_over(), "well before and well since");
        (0..100).for_each(|n| spell.take(2, n % 10 == 0));
        assert!(!spell.is_over());
        spell.take(3, false);
        assert!(!spell.is_over(), "the next fault finds it ill");
        (0..60).for_each(|_| spell.take(3, false));
        assert!(spell.is_over());
    }
}
