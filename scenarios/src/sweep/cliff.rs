//! Where along a key the SLO stops to be met.

use serde::{Deserialize, Serialize};

/// What a line of points says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing is asked, or nothing has run.
    Unknown,
    /// Met everywhere.
    Everywhere,
    /// Met nowhere.
    Nowhere,
    /// Met up to a value and no further.
    UpTo {
        /// The last value that meets it.
        met: String,
        /// The first that does not.
        missed: String,
    },
    /// Met from a value on.
    From {
        /// The last value that does not meet it.
        missed: String,
        /// The first that does.
        met: String,
    },
    /// Met, missed and met again: no cliff but an island, or too few seeds to tell.
    Mixed {
        /// The values that meet it.
        met: Vec<String>,
    },
}

/// The values of one line in order, each with whether it meets the SLO; those not known are passed over.
pub fn verdict(line: &[(String, Option<bool>)]) -> Verdict {
    let known: Vec<(&String, bool)> =
        line.iter().filter_map(|(label, met)| met.map(|met| (label, met))).collect();
    let changes: Vec<usize> = known
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| matches!(pair, [left, right] if left.1 != right.1))
        .map(|(at, _)| at)
        .collect();
    match (known.first(), changes.as_slice()) {
        (None, _) => Verdict::Unknown,
        (Some((_, true)), []) => Verdict::Everywhere,
        (Some((_, false)), []) => Verdict::Nowhere,
        (Some((_, starts_met)), [at]) => match known.get(*at..=*at + 1) {
            Some([(before, _), (after, _)]) if *starts_met => {
                Verdict::UpTo { met: (*before).clone(), missed: (*after).clone() }
            }
            Some([(before, _), (after, _)]) => {
                Verdict::From { missed: (*before).clone(), met: (*after).clone() }
            }
            _ => Verdict::Unknown,
        },
        _ => Verdict::Mixed {
            met: known.iter().filter(|(_, met)| *met).map(|(label, _)| (*label).clone()).collect(),
        },
    }
}

/// The cliff of one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cliff {
    /// The value of the second key on this line; `None` when only one is varied.
    pub at: Option<String>,
    /// What the points say.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What bisection has found between them.
    pub found: Option<Found>,
}

/// Closer than the steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The outermost value that met the SLO.
    pub met: f64,
    /// The nearest one tried that did not.
    pub missed: f64,
}

impl Cliff {
    /// In a sentence, `key` being what is varied along the line.
    pub fn in_words(&self, key: &str) -> String {
        let words = match (&self.verdict, &self.found) {
            (Verdict::Unknown, _) => "nothing is known".to_owned(),
            (Verdict::Everywhere, _) => "every value meets the SLO".to_owned(),
            (Verdict::Nowhere, _) => "no value meets the SLO".to_owned(),
            (Verdict::UpTo { .. }, Some(Found { met, missed })) => format!(
                "the SLO is met up to {key} = {}; it is missed at {}",
                super::vary::Setting::number(*met).label,
                super::vary::Setting::number(*missed).label
            ),
            (Verdict::From { .. }, Some(Found { met, missed })) => format!(
                "the SLO is met from {key} = {} on; it is missed at {}",
                super::vary::Setting::number(*met).label,
                super::vary::Setting::number(*missed).label
            ),
            (Verdict::UpTo { met, missed }, None) => {
                format!("the SLO is met up to {key} = {met}; the next step, {missed}, misses it")
            }
            (Verdict::From { missed, met }, None) => {
                format!("the SLO is met from {key} = {met} on; the step before, {missed}, misses it")
            }
            (Verdict::Mixed { met }, _) => format!(
                "the SLO is met at {}, and missed between: no single limit; more --seeds would tell whether that is luck",
                met.join(", ")
            ),
        };
        match &self.at {
            Some(at) => format!("{at}: {words}"),
            None => words,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pattern: &str) -> Verdict {
        let met = |letter| match letter {
            'y' => Some(true),
            'n' => Some(false),
            _ => None,
        };
        let line: Vec<_> =
            pattern.chars().enumerate().map(|(at, letter)| (at.to_string(), met(letter))).collect();
        verdict(&line)
    }

    #[test]
    fn a_cliff_is_found_from_either_side_and_an_island_is_called_one() {
        let word = str::to_owned;
        assert_eq!(of("???"), Verdict::Unknown);
        assert_eq!(of("yyy"), Verdict::Everywhere);
        assert_eq!(of("n?n"), Verdict::Nowhere);
        assert_eq!(of("yynn"), Verdict::UpTo { met: word("1"), missed: word("2") });
        assert_eq!(of("yy?n"), Verdict::UpTo { met: word("1"), missed: word("3") });
        assert_eq!(of("nny"), Verdict::From { missed: word("1"), met: word("2") });
        assert_eq!(of("yny"), Verdict::Mixed { met: vec![word("0"), word("2")] });
    }
}
