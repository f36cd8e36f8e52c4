//! The request quota of the key store: excess is turned away before the proxy hears of it.
//!
//! Place on the map: the first thing [`model`](super::model) asks.

use std::time::Duration;

const NANOS: u64 = 1_000_000_000;

/// A token bucket that holds one second's worth (MA-18).
#[derive(Clone, Debug)]
pub struct Quota {
    per_second: u64,
    /// In tokens × 10⁻⁹, so that every refill is exact.
    level: u64,
    at: Duration,
}

impl Quota {
    /// A full bucket of `per_second` tokens; 0 means no quota.
    pub fn new(per_second: u32) -> Self {
        let per_second = u64::from(per_second);
        Self { per_second, level: per_second * NANOS, at: Duration::ZERO }
    }

    /// Takes one token, at simulated time `now`. False: the caller is to be throttled.
    pub fn take(&mut self, now: Duration) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let passed = now.saturating_sub(self.at).as_nanos();
        self.at = self.at.max(now);
        // A second refills everything, so no product here exceeds 2³² × 10⁹.
        let passed = u64::try_from(passed).unwrap_or(NANOS).min(NANOS);
        self.level = (self.level + passed * self.per_second).min(self.per_second * NANOS);
        match self.level.checked_sub(NANOS) {
            Some(rest) => {
                self.level = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(quota: &mut Quota, asked: usize, now_ms: u64) -> usize {
        (0..asked).filter(|_| quota.take(Duration::from_millis(now_ms))).count()
    }

    #[test]
    fn holds_and_refills_one_second_worth() {
        let mut quota = Quota::new(1_800);
        assert_eq!(taken(&mut quota, 5_000, 0), 1_800);
        assert_eq!(taken(&mut quota, 5_000, 500), 900);
        assert_eq!(taken(&mut quota, 5_000, 60_000), 1_800, "an idle minute saves up no more than a second");
        let mut full = Quota::new(1_800);
        assert_eq!(taken(&mut full, 5_000, 10_000), 1_800, "a full bucket takes no more");
    }

    #[test]
    fn a_steady_rate_at_the_quota_is_never_throttled() {
        let mut quota = Quota::new(1_800);
        taken(&mut quota, 1_800, 0);
        for tenth_second in 1..600 {
            assert_eq!(taken(&mut quota, 180, tenth_second * 100), 180);
        }
    }

    #[test]
    fn zero_is_no_quota() {
        assert_eq!(taken(&mut Quota::new(0), 10_000, 0), 10_000);
    }
}
