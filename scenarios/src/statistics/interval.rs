//! Confidence intervals around a share and around a mean.

use super::{CONFIDENCE, student};
use serde::{Deserialize, Serialize};

/// An estimate, and from where to where the truth may lie; all three in the unit of what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate.
    pub estimate: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The normal distribution's value for [`CONFIDENCE`].
const Z: f64 = 1.959_963_984_540_054;

/// Wilson's interval of a share (E. B. Wilson, *Journal of the American Statistical Association* 22, 1927), with `of`
/// independent trials, above 0. Unlike the textbook's `p ± 1.96 s` it neither leaves 0 to 1 nor shrinks to nothing where
/// nothing failed.
pub fn wilson(share: f64, of: f64) -> Interval {
    let z2 = Z * Z;
    let centre = (share + z2 / (2.0 * of)) / (1.0 + z2 / of);
    let half = Z * libm::sqrt(share * (1.0 - share) / of + z2 / (4.0 * of * of)) / (1.0 + z2 / of);
    // Exact at the ends, where rounding would miss them.
    let low = if share <= 0.0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if share >= 1.0 { 1.0 } else { (centre + half).min(1.0) };
    Interval { estimate: share, low, high }
}

/// Interval of the share of requests that fail, from `(failures, requests)` of each run; `None` without a request.
///
/// Wilson's, with as many trials as the requests are worth: the variance between the runs, as a multiple of what
/// independent requests would show, is the design effect (L. Kish, *Survey Sampling*, 1965), by which their number is
/// divided; and since that variance is itself known from few runs only, the number shrinks once more by Student's factor
/// (E. Korn and B. Graubard, *Survey Methodology* 24, 1998). One run tells nothing of others: its interval is that of its
/// requests.
pub fn share_of_runs(runs: &[(u64, u64)]) -> Option<Interval> {
    let runs: Vec<(f64, f64)> = runs
        .iter()
        .filter(|(_, requests)| *requests > 0)
        .map(|(failures, requests)| (double(*failures), double(*requests)))
        .collect();
    let requests: f64 = runs.iter().map(|(_, requests)| requests).sum();
    if runs.is_empty() {
        return None;
    }
    let share = runs.iter().map(|(failures, _)| failures).sum::<f64>() / requests;
    let count = double(runs.len() as u64);
    let independent = share * (1.0 - share) / requests;
    if runs.len() < 2 || independent <= 0.0 {
        return Some(wilson(share, requests));
    }
    // The variance of a ratio of two sums over the runs.
    let between: f64 = runs.iter().map(|(failures, requests)| square(failures - share * requests)).sum();
    let variance = between * count / (count - 1.0) / square(requests);
    let effect = (variance / independent).max(1.0);
    let factor = square(Z / student::critical(1.0 - CONFIDENCE, count - 1.0));
    Some(wilson(share, (requests / effect * factor).max(1.0)))
}

/// Interval of a mean over the runs, by Student's t; `None` without a run. One run gives no interval: both its ends are
/// the estimate.
pub fn mean_of_runs(values: &[f64]) -> Option<Interval> {
    let (mean, deviation) = moments(values)?;
    if values.len() < 2 {
        return Some(Interval { estimate: mean, low: mean, high: mean });
    }
    let count = double(values.len() as u64);
    let half = student::critical(1.0 - CONFIDENCE, count - 1.0) * deviation / libm::sqrt(count);
    Some(Interval { estimate: mean, low: mean - half, high: mean + half })
}

/// Mean, and standard deviation of the sample (0 for a single value).
pub(super) fn moments(values: &[f64]) -> Option<(f64, f64)> {
    if values.is_empty() {
        return None;
    }
    let count = double(values.len() as u64);
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| square(value - mean)).sum();
    Some((mean, if values.len() < 2 { 0.0 } else { libm::sqrt(squares / (count - 1.0)) }))
}

fn square(value: f64) -> f64 {
    value * value
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests and runs fit a double")]
pub(super) fn double(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R. G. Newcombe, *Statistics in Medicine* 17, 1998, table I, method 3.
    #[test]
    fn wilsons_intervals_are_the_published_ones() {
        for (failures, of, low, high) in [
            (81.0, 263.0, 0.2553, 0.3662),
            (15.0, 148.0, 0.0624, 0.1605),
            (0.0, 20.0, 0.0, 0.1611),
            (1.0, 29.0, 0.0061, 0.1718),
        ] {
            let found = wilson(failures / of, of);
            assert!((found.low - low).abs() < 5e-5 && (found.high - high).abs() < 5e-5, "{found:?}");
        }
    }

    #[test]
    fn runs_that_differ_widen_the_interval_and_runs_that_agree_do_not_narrow_it() {
        let width = |interval: Interval| interval.high - interval.low;
        let agree = share_of_runs(&[(100, 1_000); 5]).unwrap();
        let differ =
            share_of_runs(&[(0, 1_000), (200, 1_000), (50, 1_000), (150, 1_000), (100, 1_000)]).unwrap();
        assert!((agree.estimate - 0.1).abs() < 1e-12 && (differ.estimate - 0.1).abs() < 1e-12);
        assert!(width(agree) >= width(wilson(0.1, 5_000.0)));
        assert!(width(differ) > 5.0 * width(agree), "{differ:?} {agree:?}");
        // Nothing failed in three runs: it is not said that nothing ever will.
        let none = share_of_runs(&[(0, 1_000); 3]).unwrap();
        assert!(none.low == 0.0 && none.high > 0.001, "{none:?}");
        assert_eq!(share_of_runs(&[(0, 0)]), None);
        assert_eq!(share_of_runs(&[(3, 10)]), Some(wilson(0.3, 10.0)));
    }

    /// Nine in ten or more, of a thousand experiments, hold the truth: 95 % of the runs differ as much as they do here.
    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        use rand_chacha::ChaCha20Rng;
        use rand_chacha::rand_core::{Rng, SeedableRng};
        let mut random = ChaCha20Rng::from_seed([7; 32]);
        let mut uniform = move || f64::from(random.next_u32()) / f64::from(u32::MAX);
        let (mut shares_held, mut means_held) = (0, 0);
        for _ in 0..1_000 {
            // Each run has a share of its own between 0.1 and 0.5: requests of a run go together.
            let shares: Vec<f64> = (0..5).map(|_| 0.1 + 0.4 * uniform()).collect();
            let runs: Vec<(u64, u64)> =
                shares.iter().map(|share| ((share * 2_000.0).round() as u64, 2_000)).collect();
            let holds = |interval: Interval| u32::from((interval.low..=interval.high).contains(&0.3));
            shares_held += holds(share_of_runs(&runs).unwrap());
            means_held += holds(mean_of_runs(&shares).unwrap());
        }
        assert!((920..=975).contains(&shares_held), "{shares_held}");
        assert!((920..=975).contains(&means_held), "{means_held}");
    }

    #[test]
    fn a_single_run_has_no_interval_around_its_mean() {
        assert_eq!(mean_of_runs(&[]), None);
        assert_eq!(mean_of_runs(&[4.0]), Some(Interval { estimate: 4.0, low: 4.0, high: 4.0 }));
    }
}
