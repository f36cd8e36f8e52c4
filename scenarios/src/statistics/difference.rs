//! Whether two samples of runs differ beyond chance.
//!
//! Where both sides ran with the same seeds, their runs are compared in pairs: the same seed gives both the same arrivals
//! and the same luck on the network, so what differs within a pair is the change under test, and the two sides are not
//! independent, as a test of two samples would need (A. M. Law, *Simulation Modeling and Analysis*, 10.2). Otherwise the
//! test is Welch's, which does not suppose that both sides vary alike (B. L. Welch, *Biometrika* 34, 1947). Both look at
//! means of runs, which need be only roughly normal; both work from two or three runs on, where a test of ranks cannot
//! speak at all. A proportion test over single requests would find every difference significant; why it would be wrong,
//! the [module above](super) says.

use super::interval::{double, moments};
use super::{CONFIDENCE, student};
use serde::{Deserialize, Serialize};

/// How two samples were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Run by run, by the differences within each pair.
    Paired,
    /// Welch's test of two independent samples.
    Welch,
}

/// The outcome of a test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Mean of the second less mean of the first.
    pub by: f64,
    /// The lower end of where the true difference lies with [`CONFIDENCE`], this one looked at by itself.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// The chance of a difference at least as large if there were none in truth.
    pub chance: f64,
}

/// Compares pairs, `first[i]` with `second[i]`; `None` with fewer than two pairs.
pub fn paired(first: &[f64], second: &[f64]) -> Option<Difference> {
    let differences: Vec<f64> = first.iter().zip(second).map(|(first, second)| second - first).collect();
    if differences.len() < 2 {
        return None;
    }
    let (mean, deviation) = moments(&differences)?;
    let count = double(differences.len() as u64);
    Some(difference(mean, deviation / libm::sqrt(count), count - 1.0, &[first, second]))
}

/// Compares two independent samples; `None` with fewer than two values in either.
pub fn welch(first: &[f64], second: &[f64]) -> Option<Difference> {
    if first.len() < 2 || second.len() < 2 {
        return None;
    }
    let ((first_mean, first_deviation), (second_mean, second_deviation)) =
        (moments(first)?, moments(second)?);
    let (first_count, second_count) = (double(first.len() as u64), double(second.len() as u64));
    let first_part = first_deviation * first_deviation / first_count;
    let second_part = second_deviation * second_deviation / second_count;
    let variance = first_part + second_part;
    // Welch and Satterthwaite.
    let freedom = variance * variance
        / (first_part * first_part / (first_count - 1.0) + second_part * second_part / (second_count - 1.0));
    let by = second_mean - first_mean;
    Some(difference(by, libm::sqrt(variance), freedom, &[first, second]))
}

/// Of a mean difference with this standard error. Figures that do not vary at all, such as counts, differ or they do not;
/// rounding in the last digit is no difference.
fn difference(by: f64, error: f64, freedom: f64, samples: &[&[f64]]) -> Difference {
    let largest = samples.iter().copied().flatten().fold(0.0_f64, |most, value| most.max(value.abs()));
    let negligible = largest * 1e-12;
    if error <= negligible || !freedom.is_finite() {
        let chance = if by.abs() <= negligible { 1.0 } else { 0.0 };
        return Difference { by, low: by, high: by, chance };
    }
    let half = student::critical(1.0 - CONFIDENCE, freedom) * error;
    Difference { by, low: by - half, high: by + half, chance: student::two_sided(by / error, freedom) }
}

/// Which of several tests are beyond chance, all of them together at the given risk: Holm's step-down procedure (S. Holm,
/// *Scandinavian Journal of Statistics* 6, 1979). Of twenty figures one would differ by chance alone at 5 %.
pub fn beyond_chance(chances: &[f64], risk: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..chances.len()).collect();
    let of = |index: usize| chances.get(index).copied().unwrap_or(1.0);
    order.sort_by(|left, right| of(*left).total_cmp(&of(*right)));
    let mut beyond = vec![false; chances.len()];
    for (rank, index) in order.into_iter().enumerate() {
        if of(index) > risk / double((chances.len() - rank) as u64) {
            break;
        }
        if let Some(slot) = beyond.get_mut(index) {
            *slot = true;
        }
    }
    beyond
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Student's own data (*Biometrika* 6, 1908): hours of sleep gained by ten patients with two drugs.
    const FIRST: [f64; 10] = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
    const SECOND: [f64; 10] = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];

    #[test]
    fn students_sleep_data_give_the_published_chances() {
        let found = paired(&FIRST, &SECOND).unwrap();
        assert!((found.by - 1.58).abs() < 1e-9 && (found.chance - 0.002_833).abs() < 5e-7, "{found:?}");
        assert!((found.low - 0.700_114).abs() < 5e-6 && (found.high - 2.459_886).abs() < 5e-6, "{found:?}");
        let found = welch(&FIRST, &SECOND).unwrap();
        assert!((found.by - 1.58).abs() < 1e-9 && (found.chance - 0.079_39).abs() < 5e-6, "{found:?}");
        assert!((found.low + 0.205_483).abs() < 5e-6 && (found.high - 3.365_483).abs() < 5e-6, "{found:?}");
    }

    #[test]
    fn figures_that_do_not_vary_differ_or_they_do_not() {
        assert_eq!(welch(&[3.0; 4], &[3.0; 4]).unwrap().chance, 1.0);
        assert_eq!(welch(&[3.0; 4], &[3.5; 4]).unwrap().chance, 0.0);
        assert_eq!(paired(&[1.0, 2.0, 3.0], &[2.0, 3.0, 4.0]).unwrap().chance, 0.0);
        assert_eq!(paired(&[0.1 + 0.2; 3], &[0.3; 3]).unwrap().chance, 1.0);
        assert_eq!((paired(&[1.0], &[2.0]), welch(&[1.0], &[2.0, 3.0])), (None, None));
    }

    /// Holm's procedure by hand: 0.01 ≤ 0.05/4, 0.013 ≤ 0.05/3, 0.03 > 0.05/2, and there it ends.
    #[test]
    fn many_figures_share_one_risk() {
        assert_eq!(beyond_chance(&[0.03, 0.01, 0.04, 0.013], 0.05), [false, true, false, true]);
        assert_eq!(beyond_chance(&[], 0.05), [] as [bool; 0]);
    }

    /// Two equal worlds are told apart no more often than the risk says, and two that differ are.
    #[test]
    fn equal_worlds_seldom_differ_and_different_ones_do() {
        use rand_chacha::ChaCha20Rng;
        use rand_chacha::rand_core::{Rng, SeedableRng};
        let mut random = ChaCha20Rng::from_seed([3; 32]);
        // The sum of four uniform draws is nearly normal.
        let mut draw =
            move || (0..4).map(|_| f64::from(random.next_u32()) / f64::from(u32::MAX)).sum::<f64>();
        let (mut wrong, mut right) = ((0, 0), 0);
        for _ in 0..1_000 {
            let first: Vec<f64> = (0..5).map(|_| draw()).collect();
            let second: Vec<f64> = (0..5).map(|_| draw()).collect();
            wrong.0 += u32::from(welch(&first, &second).unwrap().chance < 0.05);
            wrong.1 += u32::from(paired(&first, &second).unwrap().chance < 0.05);
            let shifted: Vec<f64> = second.iter().map(|value| value + 2.0).collect();
            right += u32::from(welch(&first, &shifted).unwrap().chance < 0.05);
        }
        assert!((25..=75).contains(&wrong.0) && (25..=75).contains(&wrong.1), "{wrong:?}");
        assert!(right > 950, "{right}");
    }
}
