//! What must hold at a point of a sweep: the service level objective.

use super::figures::Figures;
use super::words::percent;
use crate::scenario::{Expectation, Scenario, nearest};

/// One bound on one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Largest share of requests that fail over the whole run, all services together, 0 to 1.
    Failures(f64),
    /// Largest 99th percentile of all proxy calls, in milliseconds.
    P99Ms(f64),
    /// Largest 99.9th percentile of all proxy calls, in milliseconds.
    P999Ms(f64),
    /// Longest time from the end of the last fault until every service that was hit is served again, in seconds.
    RecoveredS(f64),
}

/// The names of the bounds, as a user writes them.
const NAMES: [&str; 4] = ["failures", "p99_ms", "p999_ms", "recovered_s"];

/// What must hold. A violated invariant breaks every SLO.
#[derive(Clone, Debug, PartialEq)]
pub enum Slo {
    /// Nothing is asked.
    None,
    /// The scenario's `[[expect]]`, as far as they are promises: those that say how much must fail (`…_min`) describe the
    /// outage, not the service.
    Expectations,
    /// Bounds given with `--slo`.
    Bounds(Vec<Bound>),
}

impl Slo {
    /// From `--slo NAME=VALUE`, several of which must all hold; without one from the scenario's expectations.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn choose(given: &[String], scenario: &Scenario) -> Result<Self, String> {
        if !given.is_empty() {
            let bounds =
                given.iter().flat_map(|text| text.split(',')).map(bound).collect::<Result<_, _>>()?;
            return Ok(Self::Bounds(bounds));
        }
        let promises = scenario.expectations.iter().any(|expectation| {
            let Expectation {
                failures_max,
                failures_after_faults_max,
                recovered_within_s,
                latency_p99_max_ms,
                ..
            } = expectation;
            [failures_max, failures_after_faults_max, recovered_within_s, latency_p99_max_ms]
                .into_iter()
                .any(Option::is_some)
        });
        Ok(if promises { Self::Expectations } else { Self::None })
    }

    /// Whether a run meets it; `None` when nothing is asked.
    pub fn is_met(&self, figures: &Figures) -> Option<bool> {
        let holds = |bound: &Bound| match bound {
            Bound::Failures(most) => figures.failed_share() <= *most,
            Bound::P99Ms(most) => figures.p99_ms <= *most,
            Bound::P999Ms(most) => figures.p999_ms <= *most,
            Bound::RecoveredS(most) => {
                figures.unrecovered == 0 && figures.recovered_after_fault_ms <= *most * 1_000.0
            }
        };
        let met = match self {
            Self::None => return None,
            Self::Expectations => !figures.expectations_missed.iter().any(|name| !name.ends_with("_min")),
            Self::Bounds(bounds) => bounds.iter().all(holds),
        };
        Some(met && figures.invariants_violated.is_empty())
    }

    /// What of it a run misses, in words: `p99 of proxy calls is 231 ms`. Empty when it meets all of it.
    pub fn missed_in_words(&self, figures: &Figures) -> Vec<String> {
        let mut words = Vec::new();
        match self {
            Self::None => {}
            Self::Expectations => {
                words.extend(
                    figures.expectations_missed.iter().filter(|name| !name.ends_with("_min")).cloned(),
                );
            }
            Self::Bounds(bounds) => {
                let missed =
                    bounds.iter().filter(|bound| Self::Bounds(vec![**bound]).is_met(figures) == Some(false));
                words.extend(missed.map(|bound| match bound {
                    Bound::Failures(_) => format!("{} % of requests fail", percent(figures.failed_share())),
                    Bound::P99Ms(_) => format!("p99 of proxy calls is {:.0} ms", figures.p99_ms),
                    Bound::P999Ms(_) => format!("p99.9 of proxy calls is {:.0} ms", figures.p999_ms),
                    Bound::RecoveredS(_) if figures.unrecovered > 0 => {
                        "not every service comes back".to_owned()
                    }
                    Bound::RecoveredS(_) => {
                        format!("it takes {:.1} s to recover", figures.recovered_after_fault_ms / 1_000.0)
                    }
                }));
            }
        }
        words.extend(figures.invariants_violated.iter().map(|name| format!("invariant {name} is violated")));
        words
    }

    /// In words, after "the SLO is: "; empty when nothing is asked.
    pub fn in_words(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::Expectations => "the scenario's own expectations hold".to_owned(),
            Self::Bounds(bounds) => {
                let words = |bound: &Bound| match bound {
                    Bound::Failures(most) => format!("at most {} % of requests fail", plain(most * 100.0)),
                    Bound::P99Ms(most) => format!("p99 of proxy calls at most {} ms", plain(*most)),
                    Bound::P999Ms(most) => format!("p99.9 of proxy calls at most {} ms", plain(*most)),
                    Bound::RecoveredS(most) => {
                        format!("every service is back {} s after the last fault", plain(*most))
                    }
                };
                bounds.iter().map(words).collect::<Vec<_>>().join(", ")
            }
        }
    }
}

/// A number without the noise of binary fractions.
fn plain(number: f64) -> String {
    super::vary::Setting::number(number).label
}

fn bound(text: &str) -> Result<Bound, String> {
    let usage = "write failures=0.1%, p99_ms=100, p999_ms=200 or recovered_s=15";
    let Some((name, value)) = text.trim().split_once('=') else {
        return Err(format!("--slo {text}: there is no `=`; {usage}"));
    };
    let (name, value) = (name.trim(), value.trim());
    let (number, scale) = match value.strip_suffix('%') {
        Some(number) => (number.trim(), 0.01),
        None => (value, 1.0),
    };
    let parsed = number.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    let number = parsed.ok_or_else(|| format!("--slo {text}: `{value}` is no number from 0 on; {usage}"))?;
    let percent_meant = scale < 1.0;
    let bound = match name {
        "failures" if number * scale > 1.0 => {
            return Err(format!(
                "--slo {text}: a share is between 0 and 1, or 0% and 100%; for {value} in a hundred write failures={value}%"
            ));
        }
        "failures" => return Ok(Bound::Failures(number * scale)),
        "p99_ms" => Bound::P99Ms(number),
        "p999_ms" => Bound::P999Ms(number),
        "recovered_s" => Bound::RecoveredS(number),
        other => {
            let hint = nearest(other, NAMES.into_iter()).map(|near| format!(" did you mean `{near}`?"));
            let hint = hint.unwrap_or_default();
            return Err(format!("--slo {text}: no bound is called `{other}`;{hint} {usage}"));
        }
    };
    if percent_meant { Err(format!("--slo {text}: only failures takes a share; {usage}")) } else { Ok(bound) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(given: &str) -> Result<Slo, String> {
        let scenario = Scenario::parse("x", "x.toml", "title = \"x\"\nduration_s = 9").unwrap();
        Slo::choose(&[given.to_owned()], &scenario)
    }

    #[test]
    fn bounds_are_read_as_people_write_them() {
        assert_eq!(choose("failures=0.1%").unwrap(), Slo::Bounds(vec![Bound::Failures(0.001)]));
        let both = choose("failures=0.02, p99_ms=100").unwrap();
        assert_eq!(both, Slo::Bounds(vec![Bound::Failures(0.02), Bound::P99Ms(100.0)]));
        assert_eq!(both.in_words(), "at most 2 % of requests fail, p99 of proxy calls at most 100 ms");
        for (text, message) in [
            ("failures", "there is no `=`"),
            ("failures=5", "for 5 in a hundred write failures=5%"),
            ("failures=x", "is no number"),
            ("failures=-1", "is no number from 0 on"),
            ("p99=1", "did you mean `p99_ms`?"),
            ("p99_ms=1%", "only failures takes a share"),
        ] {
            let error = choose(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn what_an_outage_must_show_is_no_promise_of_the_service() {
        let of = |expect: &str| {
            let text = format!(
                "title = \"x\"\nduration_s = 9\n[[fault]]\nkind = \"hsm-down\"\nfrom_s = 1\nto_s = 2\n[[expect]]\n{expect}"
            );
            Slo::choose(&[], &Scenario::parse("x", "x.toml", &text).unwrap()).unwrap()
        };
        assert_eq!(of("failures_during_faults_min = 0.5"), Slo::None);
        assert_eq!(of("recovered_within_s = 5"), Slo::Expectations);
        let mut figures = Figures::default();
        assert_eq!(Slo::None.is_met(&figures), None);
        figures.expectations_missed = vec!["failures_during_faults_min".into()];
        assert_eq!(Slo::Expectations.is_met(&figures), Some(true));
        figures.expectations_missed.push("recovered_within_s".into());
        assert_eq!(Slo::Expectations.is_met(&figures), Some(false));
        figures.expectations_missed.clear();
        figures.invariants_violated.push("X1".into());
        assert_eq!(Slo::Expectations.is_met(&figures), Some(false));
    }

    #[test]
    fn each_bound_holds_up_to_its_value_and_not_beyond() {
        let figures = Figures {
            requests: 1_000,
            failures: 10,
            p99_ms: 100.0,
            p999_ms: 200.0,
            recovered_after_fault_ms: 5_000.0,
            ..Figures::default()
        };
        for (bound, beyond) in [
            (Bound::Failures(0.01), Bound::Failures(0.0099)),
            (Bound::P99Ms(100.0), Bound::P99Ms(99.9)),
            (Bound::P999Ms(200.0), Bound::P999Ms(199.0)),
            (Bound::RecoveredS(5.0), Bound::RecoveredS(4.9)),
        ] {
            assert_eq!(Slo::Bounds(vec![bound]).is_met(&figures), Some(true));
            assert_eq!(Slo::Bounds(vec![bound, beyond]).is_met(&figures), Some(false));
            assert_eq!(Slo::Bounds(vec![bound, beyond]).missed_in_words(&figures).len(), 1);
        }
        let never = Figures { unrecovered: 1, ..figures };
        assert_eq!(Slo::Bounds(vec![Bound::RecoveredS(99.0)]).is_met(&never), Some(false));
    }
}
