//! How long the device takes for one operation.
//!
//! Place on the map: a part of [`Capacity`](crate::Capacity). All arithmetic gives the same bits on every machine:
//! only IEEE basic operations and `libm`'s portable functions, never the platform's own `ln` or `exp`.

use crate::streams::unit;
use rand_chacha::ChaCha20Rng;
use std::time::Duration;

/// A distribution of service times. Every draw is cut to 0 … 1 hour.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum ServiceTime {
    /// Always the same; draws nothing.
    Fixed(Duration),
    /// Anything from `min` to `max`, all equally likely.
    Uniform {
        /// The shortest.
        min: Duration,
        /// The longest; below `min` it counts as `min`.
        max: Duration,
    },
    /// Memoryless: most are short, a few are long.
    Exponential {
        /// The average.
        mean: Duration,
    },
    /// What measurements of network HSMs look like: a hump with a tail to the right.
    Lognormal {
        /// Half of all draws are below it.
        median: Duration,
        /// Standard deviation of the logarithm: 0 is fixed, 0.3 is tight (p99 = 2 × median), 1.0 is wild (p99 = 10 ×).
        sigma: f64,
    },
}

/// No draw is longer.
const LONGEST: Duration = Duration::from_secs(3_600);

impl ServiceTime {
    /// No time at all.
    pub const ZERO: Self = Self::Fixed(Duration::ZERO);

    /// One draw.
    pub(crate) fn draw(&self, rng: &mut ChaCha20Rng) -> Duration {
        match *self {
            Self::Fixed(time) => time.min(LONGEST),
            Self::Uniform { min, max } => {
                let span = nanoseconds(max) - nanoseconds(min);
                from_nanoseconds(nanoseconds(min) + span.max(0.0) * unit(rng))
            }
            Self::Exponential { mean } => from_nanoseconds(nanoseconds(mean) * -libm::log(1.0 - unit(rng))),
            Self::Lognormal { median, sigma } => {
                from_nanoseconds(nanoseconds(median) * libm::exp(sigma * normal(rng)))
            }
        }
    }
}

/// A [`ServiceTime`] per kind of operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServiceTimes {
    /// Looking a key up and reading its attributes.
    pub describe: ServiceTime,
    /// One AES-GCM encryption.
    pub encrypt: ServiceTime,
    /// One AES-GCM decryption.
    pub decrypt: ServiceTime,
}

impl ServiceTimes {
    /// The same for every kind.
    pub fn all(time: ServiceTime) -> Self {
        Self { describe: time, encrypt: time, decrypt: time }
    }
}

/// `time` × `factor`, cut to 0 … 1 hour; exact for factor 1.
pub(crate) fn scale(time: Duration, factor: f64) -> Duration {
    if factor == 1.0 { time } else { from_nanoseconds(nanoseconds(time) * factor) }
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_nanos() as f64
}

/// Whole nanoseconds; not-a-number and negative become zero.
fn from_nanoseconds(nanoseconds: f64) -> Duration {
    Duration::from_nanos(nanoseconds as u64).min(LONGEST)
}

/// A draw from the standard normal distribution (Marsaglia's polar method; the second value is thrown away, so that
/// no state is left between draws).
fn normal(rng: &mut ChaCha20Rng) -> f64 {
    loop {
        let x = 2.0 * unit(rng) - 1.0;
        let y = 2.0 * unit(rng) - 1.0;
        let square = x * x + y * y;
        if square > 0.0 && square < 1.0 {
            return x * libm::sqrt(-2.0 * libm::log(square) / square);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::stream;

    fn sorted(time: ServiceTime) -> Vec<f64> {
        let mut rng = stream(7, 0, "service", 0);
        let mut drawn: Vec<f64> = (0..20_000).map(|_| time.draw(&mut rng).as_secs_f64() * 1e3).collect();
        drawn.sort_by(f64::total_cmp);
        drawn
    }

    fn assert_near(got: f64, wanted: f64, part: f64) {
        assert!((got - wanted).abs() <= wanted * part, "{got} is not within {part} of {wanted}");
    }

    #[test]
    fn distributions_have_the_shape_their_parameters_say() {
        let ms = Duration::from_millis;
        let fixed = sorted(ServiceTime::Fixed(ms(5)));
        assert_eq!((fixed[0], fixed[19_999]), (5.0, 5.0));

        let uniform = sorted(ServiceTime::Uniform { min: ms(2), max: ms(4) });
        assert!(uniform[0] >= 2.0 && uniform[19_999] <= 4.0);
        assert_near(uniform[10_000], 3.0, 0.02);

        let exponential = sorted(ServiceTime::Exponential { mean: ms(10) });
        assert_near(exponential.iter().sum::<f64>() / 20_000.0, 10.0, 0.03);
        assert_near(exponential[10_000], 10.0 * std::f64::consts::LN_2, 0.04);

        let lognormal = sorted(ServiceTime::Lognormal { median: ms(2), sigma: 0.5 });
        assert_near(lognormal[10_000], 2.0, 0.03);
        // The 99th percentile of the standard normal distribution is 2.326.
        assert_near(lognormal[19_800], 2.0 * (0.5_f64 * 2.326).exp(), 0.06);
    }

    #[test]
    fn draws_are_the_same_bits_on_every_machine() {
        // Written down once on x86-64 Linux. A difference here means that traces differ between machines.
        let mut rng = stream(1, 2, "service", 3);
        let lognormal = ServiceTime::Lognormal { median: Duration::from_millis(2), sigma: 0.4 };
        let exponential = ServiceTime::Exponential { mean: Duration::from_millis(2) };
        let drawn: Vec<u128> =
            [lognormal, exponential, lognormal].iter().map(|time| time.draw(&mut rng).as_nanos()).collect();
        assert_eq!(drawn, [3_606_120, 3_261_391, 891_045]);
    }

    #[test]
    fn absurd_parameters_stay_within_bounds() {
        let mut rng = stream(1, 0, "service", 0);
        for sigma in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
            for _ in 0..100 {
                let time = ServiceTime::Lognormal { median: Duration::MAX, sigma }.draw(&mut rng);
                assert!(time <= LONGEST, "{sigma} {time:?}");
            }
        }
        let reversed = ServiceTime::Uniform { min: Duration::from_secs(2), max: Duration::from_secs(1) };
        assert_eq!(reversed.draw(&mut rng), Duration::from_secs(2));
        assert_eq!(scale(Duration::from_secs(1), f64::INFINITY), LONGEST);
        assert_eq!(scale(Duration::from_secs(1), -1.0), Duration::ZERO);
        assert_eq!(scale(Duration::from_nanos(123_456_789), 1.0), Duration::from_nanos(123_456_789));
    }
}
