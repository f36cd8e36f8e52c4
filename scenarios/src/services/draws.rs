//! Random draws of a service model. Only integers and the four IEEE operations are used, whose results are the same on
//! every machine: a logarithm from the system's mathematics library need not be.

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::time::Duration;

pub(super) struct Draws(ChaCha20Rng);

impl Draws {
    pub(super) fn new(random: ChaCha20Rng) -> Self {
        Self(random)
    }

    /// An independent stream, seeded from this one.
    pub(super) fn split(&mut self) -> Self {
        Self(ChaCha20Rng::from_rng(&mut self.0))
    }

    /// Uniform in [0, 1).
    pub(super) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0..n, and 0 for n = 0. Always one draw, whatever n is.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// Uniform between two durations.
    pub(super) fn between(&mut self, low: Duration, high: Duration) -> Duration {
        low + high.saturating_sub(low).mul_f64(self.unit())
    }

    /// Log-uniform between two durations, by rejection: a uniform x is kept with probability low/x.
    pub(super) fn log_between(&mut self, low: Duration, high: Duration) -> Duration {
        loop {
            let candidate = self.between(low, high);
            if self.unit() * candidate.as_secs_f64() <= low.as_secs_f64() {
                return candidate;
            }
        }
    }

    /// Exponential with mean 1, by von Neumann's method, which needs comparisons only: the length of the first falling
    /// run of uniforms is odd with probability exp(-x), given that it starts with x.
    pub(super) fn exponential(&mut self) -> f64 {
        let mut whole = 0.0;
        loop {
            let first = self.unit();
            let mut last = first;
            let mut length = 1;
            loop {
                let next = self.unit();
                if next >= last {
                    break;
                }
                last = next;
                length += 1;
            }
            if length % 2 == 1 {
                return whole + first;
            }
            whole += 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws() -> Draws {
        Draws::new(ChaCha20Rng::seed_from_u64(1))
    }

    #[test]
    fn exponential_has_mean_and_variance_one() {
        let mut draws = draws();
        let n = 200_000;
        let values: Vec<f64> = (0..n).map(|_| draws.exponential()).collect();
        let mean = values.iter().sum::<f64>() / f64::from(n);
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / f64::from(n);
        // Standard errors are 0.0022 and about 0.0063; the seed is fixed.
        assert!((mean - 1.0).abs() < 0.01, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.03, "variance {variance}");
        let beyond_two = values.iter().filter(|v| **v > 2.0).count() as f64 / f64::from(n);
        assert!((beyond_two - (-2.0f64).exp()).abs() < 0.003, "P(x > 2) = {beyond_two}");
    }

    #[test]
    fn log_uniform_has_its_median_at_the_geometric_mean() {
        let mut draws = draws();
        let (low, high) = (Duration::from_secs(720), Duration::from_secs(4500));
        let mut values: Vec<Duration> = (0..20_001).map(|_| draws.log_between(low, high)).collect();
        values.sort();
        assert!(low <= values[0] && values[20_000] <= high);
        let median = values[10_000].as_secs_f64();
        assert!((median / 1800.0 - 1.0).abs() < 0.03, "median {median}, geometric mean 1800");
    }

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let mut draws = draws();
        assert_eq!(draws.below(0), 0);
        let mut seen = [0u32; 7];
        (0..7_000).for_each(|_| seen[draws.below(7)] += 1);
        assert!(seen.iter().all(|n| (850..1150).contains(n)), "{seen:?}");
    }
}
