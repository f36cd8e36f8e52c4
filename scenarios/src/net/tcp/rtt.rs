//! Round-trip time measurements and the retransmission time-out that follows from them: RFC 6298 as Linux computes it.
//!
//! Place on the map: one per side of a connection, fed by [`sender`](super::sender).

use std::time::Duration;

/// Linux's `TCP_RTO_MIN`: the least that the variance adds to the smoothed round-trip time, where RFC 6298 bounds
/// their sum.
pub(super) const RTO_MIN: Duration = Duration::from_millis(200);
/// Linux's `TCP_RTO_MAX`.
pub(super) const RTO_MAX: Duration = Duration::from_secs(120);
/// Linux's `TCP_TIMEOUT_INIT`, RFC 6298, 2.1: before the first measurement.
pub(super) const RTO_INITIAL: Duration = Duration::from_secs(1);

/// Smoothed round-trip time and its variance.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    /// `None` before the first measurement.
    smoothed: Option<Duration>,
    deviation: Duration,
    /// The largest deviation within the current round trip, and at least [`RTO_MIN`].
    deviation_max: Duration,
    /// What the time-out adds to `smoothed`: rises at once with `deviation_max`, falls by a quarter a round trip.
    variance: Duration,
    /// The round trip in which `deviation_max` is gathered ends when this segment is acknowledged.
    round_ends: u64,
    least: Duration,
}

impl RoundTrip {
    pub(super) fn new(first: Duration) -> Self {
        let mut round_trip = Self {
            smoothed: None,
            deviation: Duration::ZERO,
            deviation_max: RTO_MIN,
            variance: RTO_MIN,
            round_ends: 0,
            least: first,
        };
        round_trip.measure(first, 0, 0);
        round_trip
    }

    /// One measurement. `acknowledged` is the first segment not acknowledged, `next` the next to be sent.
    pub(super) fn measure(&mut self, measured: Duration, acknowledged: u64, next: u64) {
        self.least = self.least.min(measured);
        let Some(smoothed) = self.smoothed else {
            self.smoothed = Some(measured);
            self.deviation = measured / 2;
            self.variance = (measured * 2).max(RTO_MIN);
            self.deviation_max = self.variance;
            self.round_ends = next;
            return;
        };
        self.smoothed = Some((smoothed * 7 + measured) / 8);
        let error = measured.abs_diff(smoothed);
        // A measurement below the mean by more than the deviation counts an eighth as much: less time is no danger.
        let share = if measured < smoothed && error > self.deviation { 32 } else { 4 };
        self.deviation = if error > self.deviation {
            self.deviation + (error - self.deviation) / share
        } else {
            self.deviation - (self.deviation - error) / 4
        };
        // Kept as four times the mean deviation, as the time-out needs it.
        let fourfold = self.deviation * 4;
        if fourfold > self.deviation_max {
            self.deviation_max = fourfold;
            self.variance = self.variance.max(fourfold);
        }
        if acknowledged > self.round_ends {
            if self.deviation_max < self.variance {
                self.variance -= (self.variance - self.deviation_max) / 4;
            }
            self.round_ends = next;
            self.deviation_max = RTO_MIN;
        }
    }

    /// The smoothed round-trip time.
    pub(super) fn smoothed(&self) -> Duration {
        self.smoothed.unwrap_or(RTO_INITIAL)
    }

    /// The shortest round trip seen.
    pub(super) fn least(&self) -> Duration {
        self.least
    }

    /// The retransmission time-out after `doublings` in vain.
    pub(super) fn time_out(&self, doublings: u32) -> Duration {
        let first = self.smoothed() + self.variance;
        first.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(RTO_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_first_measurement_sets_everything() {
        assert_eq!(RoundTrip::new(ms(10)).time_out(0), ms(210));
        assert_eq!(RoundTrip::new(ms(300)).time_out(0), ms(900));
        assert_eq!(RoundTrip::new(ms(10)).time_out(3), ms(1_680));
        assert_eq!(RoundTrip::new(ms(10)).time_out(40), RTO_MAX);
    }

    #[test]
    fn steady_measurements_bring_the_variance_down_to_its_floor() {
        let mut round_trip = RoundTrip::new(ms(300));
        for segment in 1..60 {
            round_trip.measure(ms(300), segment, segment);
        }
        let time_out = round_trip.time_out(0);
        assert!((ms(500)..ms(501)).contains(&time_out), "{time_out:?}");
    }

    #[test]
    fn one_long_round_trip_raises_the_time_out_at_once_and_a_short_one_hardly_moves_it() {
        let mut round_trip = RoundTrip::new(ms(100));
        for segment in 1..60 {
            round_trip.measure(ms(100), segment, segment);
        }
        let steady = round_trip;
        // SRTT 100 + 400 / 8; deviation (0 + 400 / 4) × 4.
        round_trip.measure(ms(500), 60, 60);
        assert!((ms(549)..ms(551)).contains(&round_trip.time_out(0)), "{:?}", round_trip.time_out(0));
        let mut quick = steady;
        quick.measure(ms(1), 60, 60);
        assert!(quick.time_out(0) < steady.time_out(0));
    }
}
