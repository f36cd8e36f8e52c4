//! How many requests per second a key store may make (XKS-NET-6): a token bucket, filled by passing time alone.
//!
//! Place on the map: asked after the signature has been verified, so that a stranger who knows a path cannot use up
//! what belongs to its owner, and before anything is parsed. GetHealthStatus is exempt: KMS asks for it once every few
//! minutes and outside its own quota, and a key store that is merely busy must not look ill.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A billionth of a request: what one nanosecond brings at 1 request/s. So the arithmetic is exact in whole numbers.
const NANO: u128 = 1_000_000_000;

/// What a key store is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests per second in the long run, 1 to 1,000,000.
    pub requests_per_s: u32,
    /// Requests that may come at once after a quiet time, 1 to 1,000,000.
    pub burst: u32,
}

/// One key store's grant, and how much of it is left. What is left is shared with every `Quota` that
/// [inherits](Quota::inherit) from this one.
#[derive(Debug)]
pub struct Quota {
    rate: Rate,
    bucket: Arc<Mutex<Bucket>>,
}

impl Quota {
    /// Begins with the whole burst at hand.
    pub fn new(rate: Rate) -> Self {
        let bucket = Bucket { level: rate.burst_nanos(), at: Instant::now() };
        Self { rate, bucket: Arc::new(Mutex::new(bucket)) }
    }

    /// What is granted.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes one request out; false when there is none to be had now.
    pub fn take(&self) -> bool {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(self.rate, Instant::now())
    }

    /// From now on what is left is what is left of `old`: a reload changes the numbers and hands out no fresh burst.
    pub(crate) fn inherit(&mut self, old: &Self) {
        self.bucket = Arc::clone(&old.bucket);
    }
}

impl Rate {
    fn burst_nanos(self) -> u128 {
        u128::from(self.burst) * NANO
    }

    fn gain_nanos(self, time: Duration) -> u128 {
        time.as_nanos().saturating_mul(u128::from(self.requests_per_s))
    }
}

#[derive(Debug)]
struct Bucket {
    /// In billionths of a request, as of `at`.
    level: u128,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        // Threads may come here in another order than they looked at the clock; time never runs backwards.
        let gain = rate.gain_nanos(now.saturating_duration_since(self.at));
        self.at = self.at.max(now);
        // A burst that a reload has made smaller cuts off what is above it here.
        self.level = self.level.saturating_add(gain).min(rate.burst_nanos());
        match self.level.checked_sub(NANO) {
            Some(left) => {
                self.level = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn the_burst_is_there_at_once_and_the_rate_fills_it_again() {
        let quota = Quota::new(Rate { requests_per_s: 10, burst: 3 });
        assert_eq!([(); 4].map(|()| quota.take()), [true, true, true, false]);
        advance(Duration::from_millis(99)).await;
        assert!(!quota.take());
        advance(Duration::from_millis(1)).await;
        assert_eq!([(); 2].map(|()| quota.take()), [true, false]);
        advance(Duration::from_secs(3_600)).await;
        assert_eq!([(); 4].map(|()| quota.take()), [true, true, true, false], "an hour saves up no more");
    }

    #[tokio::test(start_paused = true)]
    async fn an_heir_has_what_is_left_and_its_own_numbers() {
        let old = Quota::new(Rate { requests_per_s: 1, burst: 2 });
        assert!(old.take());
        let mut heir = Quota::new(Rate { requests_per_s: 100, burst: 50 });
        heir.inherit(&old);
        assert_eq!([(); 2].map(|()| heir.take()), [true, false], "no fresh burst");
        advance(Duration::from_millis(20)).await;
        assert_eq!([(); 3].map(|()| heir.take()), [true, true, false], "the new rate");
        advance(Duration::from_secs(10)).await;
        let mut small = Quota::new(Rate { requests_per_s: 1, burst: 1 });
        small.inherit(&heir);
        assert_eq!([(); 2].map(|()| small.take()), [true, false], "the new burst");
    }

    proptest! {
        /// In any span of time at most the burst and what the rate brings in that span; and never refused while the
        /// exact bucket, counted anew from all that was taken, holds a request.
        #[test]
        fn exactly_what_is_granted(
            requests_per_s in 1_u32..=1_000_000,
            burst in 1_u32..=50,
            pauses_ns in prop::collection::vec(prop_oneof![Just(0), 0_u64..2_000, 0_u64..2_000_000_000], 1..200),
        ) {
            let rate = Rate { requests_per_s, burst };
            let start = Instant::now();
            let mut bucket = Bucket { level: rate.burst_nanos(), at: start };
            let (mut now_ns, mut level) = (0, rate.burst_nanos());
            let mut taken: Vec<u64> = Vec::new();
            for pause_ns in pauses_ns {
                now_ns += pause_ns;
                level = (level + u128::from(pause_ns) * u128::from(requests_per_s)).min(rate.burst_nanos());
                let got = bucket.take(rate, start + Duration::from_nanos(now_ns));
                prop_assert_eq!(got, level >= NANO);
                if got {
                    level -= NANO;
                    taken.push(now_ns);
                }
            }
            for (index, from) in taken.iter().enumerate() {
                for (count, to) in (1_u128..).zip(&taken[index..]) {
                    let granted = rate.burst_nanos() + u128::from(to - from) * u128::from(requests_per_s);
                    prop_assert!(count * NANO <= granted, "{} in {} ns", count, to - from);
                }
            }
        }

        /// No rate, burst or length of time is too much for the arithmetic, and nobody starves: whoever is refused and
        /// waits for as long as one request takes at this rate is served.
        #[test]
        fn nobody_starves_at_any_rate(
            requests_per_s in 1_u32..,
            burst in 1_u32..,
            pauses_s in prop::collection::vec(prop_oneof![Just(0), 0..10_u32, any::<u32>()], 1..20),
        ) {
            let rate = Rate { requests_per_s, burst };
            let mut now = Instant::now();
            let mut bucket = Bucket { level: 0, at: now };
            let one_request = Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(requests_per_s)));
            for pause_s in pauses_s {
                now += Duration::from_secs(pause_s.into());
                if !bucket.take(rate, now) {
                    now += one_request;
                    prop_assert!(bucket.take(rate, now), "{:?} later", one_request);
                }
                prop_assert!(bucket.level < rate.burst_nanos());
                if u64::from(pause_s) * u64::from(requests_per_s) >= u64::from(burst) {
                    prop_assert_eq!(bucket.level, rate.burst_nanos() - NANO, "it is full after so long");
                }
            }
        }

        /// A late thread with an early clock neither fills the bucket twice nor breaks anything.
        #[test]
        fn a_clock_read_out_of_order_brings_nothing(order_ms in prop::collection::vec(0_u64..100, 1..100)) {
            let rate = Rate { requests_per_s: 100, burst: 1 };
            let start = Instant::now();
            let mut bucket = Bucket { level: 0, at: start };
            let taken = order_ms.iter().filter(|ms| bucket.take(rate, start + Duration::from_millis(**ms))).count();
            let latest = order_ms.iter().max().copied().unwrap_or_default();
            prop_assert!(taken as u64 <= latest / 10, "{} in {} ms", taken, latest);
        }
    }
}
