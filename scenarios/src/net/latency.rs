//! How long a packet takes over a link, one way: a distribution, and its draws.
//!
//! Place on the map: drawn from by [`link`](super::link) for every packet; written by
//! [`settings`](super::settings) out of a scenario file.

use super::histogram::Histogram;
use super::random::unit;
use rand_chacha::ChaCha20Rng;
use std::sync::Arc;
use std::time::Duration;

/// The distribution of the latency of one packet, given half the round-trip time of the link.
#[derive(Clone, Debug, PartialEq)]
pub enum Latency {
    /// Always half the round-trip time.
    Fixed,
    /// Half the round-trip time and an exponentially distributed extra of this mean, cut off at ten times the mean.
    Exponential(Duration),
    /// Half the round-trip time, give or take up to this; never below 0.
    Uniform(Duration),
    /// Normal about half the round-trip time with this standard deviation; what falls below 0 takes no time.
    Normal(Duration),
    /// Lognormal with half the round-trip time as its median and this standard deviation of its logarithm; cut off at
    /// a thousand times the median.
    Lognormal(f64),
    /// Half of a measured round-trip time, drawn anew for every packet. The round-trip time of the link is not used.
    Measured(Arc<Histogram>),
}

impl Latency {
    /// The latency of one packet. The number of draws does not depend on what is drawn.
    pub(super) fn draw(&self, half_rtt: Duration, random: &mut ChaCha20Rng) -> Duration {
        match self {
            Self::Fixed => half_rtt,
            // The same bits on every machine: libm's logarithm, not the platform's.
            Self::Exponential(mean) => half_rtt + mean.mul_f64((-libm::log(1.0 - unit(random))).min(10.0)),
            Self::Uniform(spread) => (half_rtt + spread.mul_f64(2.0 * unit(random))).saturating_sub(*spread),
            Self::Normal(deviation) => {
                let off = standard_normal(random);
                if off < 0.0 {
                    half_rtt.saturating_sub(deviation.mul_f64(-off))
                } else {
                    half_rtt + deviation.mul_f64(off)
                }
            }
            Self::Lognormal(sigma) => {
                half_rtt.mul_f64(libm::exp(sigma * standard_normal(random)).min(1_000.0))
            }
            Self::Measured(histogram) => histogram.draw(random) / 2,
        }
    }

    /// A round trip as it mostly is, without a draw; `rtt` is the link's.
    pub(super) fn typical(&self, rtt: Duration) -> Duration {
        match self {
            Self::Measured(histogram) => histogram.middle(),
            _ => rtt,
        }
    }
}

/// Box and Muller's transform of two draws.
fn standard_normal(random: &mut ChaCha20Rng) -> f64 {
    let (radius, angle) = (1.0 - unit(random), unit(random));
    libm::sqrt(-2.0 * libm::log(radius)) * libm::cos(std::f64::consts::TAU * angle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::Streams;

    const HALF: Duration = Duration::from_millis(10);

    /// 20,000 draws in order of size, in milliseconds.
    fn sorted(latency: &Latency, half: Duration) -> Vec<f64> {
        let mut random = Streams::new(3).stream("network", 0);
        let mut drawn: Vec<f64> =
            (0..20_000).map(|_| latency.draw(half, &mut random).as_secs_f64() * 1_000.0).collect();
        drawn.sort_by(f64::total_cmp);
        drawn
    }

    /// The quantiles 0.16, 0.5 and 0.84 are within a hundredth of what they should be.
    fn assert_quantiles(latency: &Latency, expected: [f64; 3]) {
        let drawn = sorted(latency, HALF);
        for (share, expected) in [3_200, 10_000, 16_800].into_iter().zip(expected) {
            let off = (drawn[share] - expected).abs();
            assert!(off <= expected / 100.0, "{latency:?} at {share}: {} not {expected}", drawn[share]);
        }
    }

    #[test]
    fn draws_have_the_shape_of_their_distribution() {
        let ms = Duration::from_millis;
        assert_quantiles(&Latency::Fixed, [10.0; 3]);
        assert_quantiles(&Latency::Uniform(ms(4)), [7.28, 10.0, 12.72]);
        // -ln(0.84) = 0.174, ln 2 = 0.693, -ln(0.16) = 1.833.
        assert_quantiles(&Latency::Exponential(ms(2)), [10.35, 11.39, 13.67]);
        assert_quantiles(&Latency::Normal(ms(2)), [8.01, 10.0, 11.99]);
        let lognormal = sorted(&Latency::Lognormal(0.5), HALF);
        assert!((lognormal[10_000] - 10.0).abs() < 0.2, "{}", lognormal[10_000]);
        assert!((lognormal[16_800] - 16.44).abs() < 0.5, "{}", lognormal[16_800]);
        assert!((lognormal[3_200] - 6.08).abs() < 0.2, "{}", lognormal[3_200]);
    }

    #[test]
    fn a_normal_latency_is_never_below_nothing() {
        let drawn = sorted(&Latency::Normal(HALF * 10), HALF);
        assert_eq!(drawn[0], 0.0);
        assert!(drawn[5_000] == 0.0 && drawn[10_000] > 5.0);
    }

    #[test]
    fn measured_round_trips_are_drawn_in_their_shares_and_halved() {
        let histogram = Histogram::parse("10 3\n50 1\n").unwrap();
        let drawn = sorted(&Latency::Measured(Arc::new(histogram)), Duration::ZERO);
        let short = drawn.iter().filter(|ms| **ms == 5.0).count();
        assert!((14_700..15_300).contains(&short), "{short}");
        assert_eq!(drawn[19_999], 25.0);
    }
}
