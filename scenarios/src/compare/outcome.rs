//! The judgement of two sides: what each shows, by how much they differ, and whether that is beyond chance.

use super::change::{Change, changes};
use super::measure::{Measure, Unit, only_in_one};
use super::{page, screen};
use crate::report::Style;
use crate::statistics::CONFIDENCE;
use crate::statistics::difference::{Difference, Method, beyond_chance, paired, welch};
use crate::statistics::interval::{Interval, mean_of_runs};
use crate::sweep::Sweep;
use crate::sweep::figures::Figures;
use crate::sweep::point::Point;
use crate::sweep::words::counted;
use serde::{Deserialize, Serialize};

/// One of the two.
pub struct Side {
    /// What the user called it: a scenario, with what was set in it, or a file.
    pub name: String,
    /// Its runs.
    pub sweep: Sweep,
}

/// A finished comparison. Equal sides give equal comparisons, whatever the machine and its load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Version of this structure, for readers of `compare.json`.
    pub format: u32,
    /// `compare`.
    pub kind: String,
    /// Version of the harness that compared.
    pub version: String,
    /// The command line that repeats the comparison.
    pub command: String,
    /// The first side.
    pub a: Summary,
    /// The second side.
    pub b: Summary,
    /// Settings that differ.
    pub changes: Vec<Change>,
    /// How many more than those there are.
    pub changes_more: usize,
    /// What could not be compared, in words.
    pub left_out: Vec<String>,
    /// The risk of calling any of all the differences beyond chance that is none.
    pub risk: f64,
    /// How many figures were tested, all together.
    pub tests: usize,
    /// The keys that both sides varied: none, one or two.
    pub axes: Vec<String>,
    /// Each point that both sides have.
    pub points: Vec<PointComparison>,
}

/// What one side is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// What the user called it.
    pub name: String,
    /// Name of its scenario.
    pub scenario: String,
    /// One line: what happens in it.
    pub title: String,
    /// Version of the harness that ran it.
    pub version: String,
    /// Its seeds.
    pub seeds: Vec<u64>,
    /// Its runs, at all points.
    pub runs: usize,
    /// Whether all of it ran.
    pub complete: bool,
    /// The command line that repeats it.
    pub command: String,
}

/// One point of both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PointComparison {
    /// The value of each key, as it reads; empty for single runs.
    pub values: Vec<String>,
    /// How the runs were compared.
    pub method: Method,
    /// Runs of each side that were compared.
    pub runs: [usize; 2],
    /// Whether both sides ran the same, event for event, with every seed.
    pub same_events: bool,
    /// The figures.
    pub rows: Vec<Row>,
}

/// One figure of both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// For programs: `failed_share`.
    pub name: String,
    /// For people: `requests that failed`.
    pub title: String,
    /// The unit of all its numbers.
    pub unit: Unit,
    /// Whether more of it is worse, or else neither good nor bad.
    pub more_is_worse: bool,
    /// The first side's mean over its runs, with its interval; `None` where no run has the figure.
    pub a: Option<Interval>,
    /// The second side's.
    pub b: Option<Interval>,
    /// The first side's runs.
    pub a_runs: Vec<f64>,
    /// The second side's; where they are compared in pairs, in the same order.
    pub b_runs: Vec<f64>,
    /// Second less first; `None` with fewer than two runs of either.
    pub difference: Option<Difference>,
    /// What follows.
    pub verdict: Verdict,
}

/// What a difference is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Beyond chance, and the second side is the better one.
    Better,
    /// Beyond chance, and the second side is the worse one.
    Worse,
    /// Beyond chance: the second side has more, which is neither good nor bad.
    More,
    /// Beyond chance: the second side has less.
    Less,
    /// It may be chance.
    WithinChance,
    /// There is none.
    Same,
    /// Too few runs to tell.
    Unknown,
}

impl Verdict {
    /// Whether the difference is beyond chance.
    pub fn is_beyond_chance(self) -> bool {
        matches!(self, Self::Better | Self::Worse | Self::More | Self::Less)
    }

    /// In a word or two, of the second side.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::More => "more",
            Self::Less => "less",
            Self::WithinChance => "within chance",
            Self::Same => "the same",
            Self::Unknown => "too few runs",
        }
    }
}

impl Comparison {
    /// Compares two sides; `command` is what repeats it.
    ///
    /// # Errors
    /// When there is nothing that both have.
    pub fn of(a: &Side, b: &Side, command: String) -> Result<Self, String> {
        let axes = |sweep: &Sweep| sweep.axes.iter().map(|axis| axis.key.clone()).collect::<Vec<_>>();
        let in_words =
            |keys: Vec<String>| if keys.is_empty() { "nothing".to_owned() } else { keys.join(" and ") };
        let (a_axes, b_axes) = (axes(&a.sweep), axes(&b.sweep));
        if a_axes != b_axes {
            return Err(format!(
                "A varies {} and B varies {}: sweep the same keys in both, in the same order",
                in_words(a_axes),
                in_words(b_axes)
            ));
        }
        let mut left_out = Vec::new();
        let mut points = Vec::new();
        for point in &a.sweep.points {
            match b.sweep.points.iter().find(|other| other.values == point.values) {
                Some(other) if !point.runs.is_empty() && !other.runs.is_empty() => {
                    points.push(compare_point(point, other, a_axes.is_empty(), &mut left_out));
                }
                Some(_) => left_out.push(format!("{}: it has not run on both sides", label(&point.values))),
                None => left_out.push(format!("{}: only A has it", label(&point.values))),
            }
        }
        let only_b =
            b.sweep.points.iter().filter(|it| a.sweep.points.iter().all(|other| other.values != it.values));
        left_out.extend(only_b.map(|point| format!("{}: only B has it", label(&point.values))));
        if points.is_empty() {
            return Err(format!(
                "A and B have no point in common that has run: {}",
                if left_out.is_empty() { "neither has any".to_owned() } else { left_out.join("; ") }
            ));
        }
        let (changes, changes_more) = changes(&a.sweep.scenario_toml, &b.sweep.scenario_toml);
        let mut comparison = Self {
            format: 1,
            kind: "compare".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command,
            a: summary(a),
            b: summary(b),
            changes,
            changes_more,
            left_out,
            risk: 1.0 - CONFIDENCE,
            tests: 0,
            axes: a_axes,
            points,
        };
        comparison.judge();
        Ok(comparison)
    }

    /// Decides which differences are beyond chance, all of them at the same risk together.
    fn judge(&mut self) {
        let rows = || self.points.iter().flat_map(|point| &point.rows);
        let chances: Vec<f64> = rows().filter_map(|row| Some(row.difference?.chance)).collect();
        self.tests = chances.len();
        let mut beyond = beyond_chance(&chances, self.risk).into_iter();
        for row in self.points.iter_mut().flat_map(|point| &mut point.rows) {
            let Some(difference) = row.difference else { continue };
            let is_beyond = beyond.next().unwrap_or(false);
            row.verdict = match (row.more_is_worse, difference.by > 0.0) {
                _ if row.a_runs == row.b_runs => Verdict::Same,
                _ if !is_beyond => Verdict::WithinChance,
                (true, true) => Verdict::Worse,
                (true, false) => Verdict::Better,
                (false, true) => Verdict::More,
                (false, false) => Verdict::Less,
            };
        }
    }

    /// Indented JSON.
    #[expect(
        clippy::expect_used,
        reason = "a Comparison has string keys only and no hand-written Serialize that could fail"
    )]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a Comparison serialises")
    }

    /// The page.
    pub fn html(&self) -> String {
        page::html(self)
    }

    /// The summary for a terminal.
    pub fn terminal(&self, style: Style) -> String {
        screen::terminal(self, style)
    }

    /// The one thing to take home, in one or two sentences.
    pub(super) fn headline(&self) -> String {
        let rows: Vec<&Row> = self.points.iter().flat_map(|point| &point.rows).collect();
        if self.points.iter().all(|point| point.same_events) {
            return "Both sides are the same, event for event.".to_owned();
        }
        if rows.iter().all(|row| row.difference.is_none()) {
            return "One run on a side tells nothing of chance: the differences below may be luck. Give both sides at least two seeds."
                .to_owned();
        }
        let count = |verdict: Verdict| rows.iter().filter(|row| row.verdict == verdict).count();
        if !rows.iter().any(|row| row.verdict.is_beyond_chance()) {
            return "No difference is beyond chance.".to_owned();
        }
        let [single] = self.points.as_slice() else {
            return format!(
                "Of {} figures at {} points, B is better in {} and worse in {}; the others may be chance.",
                rows.len(),
                self.points.len(),
                count(Verdict::Better),
                count(Verdict::Worse)
            );
        };
        let named = |verdict: Verdict| {
            let titles =
                single.rows.iter().filter(|row| row.verdict == verdict).map(|row| row.title.as_str());
            titles.collect::<Vec<_>>()
        };
        let mut parts = Vec::new();
        for (verdict, what) in [
            (Verdict::Better, "B is better"),
            (Verdict::Worse, "B is worse"),
            (Verdict::Less, "B has less"),
            (Verdict::More, "B has more"),
        ] {
            let titles = named(verdict);
            if !titles.is_empty() {
                parts.push(format!("{what}: {}", few(&titles)));
            }
        }
        format!("{}. Everything else is the same or may be chance.", parts.join("; "))
    }

    /// How it was judged, in a sentence or two.
    pub(super) fn method(&self) -> String {
        let all = |method: Method| self.points.iter().all(|point| point.method == method);
        let how = if all(Method::Paired) {
            "Runs are compared in pairs of the same seed (paired t-test)"
        } else if all(Method::Welch) {
            "The sides have no seeds in common, so their runs are compared as independent samples (Welch's t-test)"
        } else {
            "Runs of the same seed are compared in pairs, the others as independent samples (Welch's t-test)"
        };
        format!(
            "{how}. The {} figures share a risk of {:.0} % that any of them is called beyond chance wrongly (Holm). In brackets \
             where a difference lies with 95 % confidence, looked at by itself.",
            self.tests,
            self.risk * 100.0
        )
    }
}

/// At most four of them, and how many more.
fn few(titles: &[&str]) -> String {
    match titles {
        [first, second, third, _, _, ..] => {
            format!("{first}, {second}, {third} and {} more", titles.len() - 3)
        }
        _ => titles.join(", "),
    }
}

fn label(values: &[String]) -> String {
    if values.is_empty() { "the scenario as it is".to_owned() } else { values.join(", ") }
}

fn summary(side: &Side) -> Summary {
    let Sweep { scenario, title, version, seeds, points, complete, command, .. } = &side.sweep;
    Summary {
        name: side.name.clone(),
        scenario: scenario.clone(),
        title: title.clone(),
        version: version.clone(),
        seeds: seeds.clone(),
        runs: points.iter().map(|point| point.runs.len()).sum(),
        complete: *complete,
        command: command.clone(),
    }
}

fn compare_point(a: &Point, b: &Point, every_figure: bool, left_out: &mut Vec<String>) -> PointComparison {
    let pairs: Vec<(&Figures, &Figures)> = a
        .runs
        .iter()
        .filter_map(|run| Some((run, b.runs.iter().find(|other| other.seed == run.seed)?)))
        .collect();
    // A single pair among several runs is no basis, and too little to depend on.
    let in_pairs = pairs.len() > 1 || (pairs.len() == 1 && a.runs.len().min(b.runs.len()) == 1);
    let (first, second): (Vec<&Figures>, Vec<&Figures>) =
        if in_pairs { pairs.into_iter().unzip() } else { (a.runs.iter().collect(), b.runs.iter().collect()) };
    let alone = a.runs.len() + b.runs.len() - first.len() - second.len();
    if alone > 0 {
        left_out.push(format!(
            "{}: {} whose seed only one side has",
            label(&a.values),
            counted(alone, "run", "runs")
        ));
    }
    let measures = match (first.first(), second.first()) {
        (Some(first), Some(second)) if every_figure => {
            let (only_a, only_b) = only_in_one(first, second);
            left_out.extend(only_a.iter().map(|name| format!("service {name}: only A has it")));
            left_out.extend(only_b.iter().map(|name| format!("service {name}: only B has it")));
            Measure::all(first, second)
        }
        _ => Measure::few(),
    };
    let rows = measures.iter().map(|measure| row(measure, &first, &second, in_pairs)).collect();
    PointComparison {
        values: a.values.clone(),
        method: if in_pairs { Method::Paired } else { Method::Welch },
        runs: [first.len(), second.len()],
        same_events: in_pairs
            && first.iter().zip(&second).all(|(first, second)| first.digest == second.digest),
        rows,
    }
}

fn row(measure: &Measure, first: &[&Figures], second: &[&Figures], in_pairs: bool) -> Row {
    let of = |runs: &[&Figures]| runs.iter().map(|run| measure.of(run)).collect::<Vec<Option<f64>>>();
    let (first, second) = (of(first), of(second));
    let (a_runs, b_runs): (Vec<f64>, Vec<f64>) = if in_pairs {
        first.into_iter().zip(second).filter_map(|(first, second)| Some((first?, second?))).unzip()
    } else {
        (first.into_iter().flatten().collect(), second.into_iter().flatten().collect())
    };
    let difference = if in_pairs { paired(&a_runs, &b_runs) } else { welch(&a_runs, &b_runs) };
    // None of these figures can be below zero.
    let mean = |runs: &[f64]| mean_of_runs(runs).map(|it| Interval { low: it.low.max(0.0), ..it });
    Row {
        name: measure.name.clone(),
        title: measure.title.clone(),
        unit: measure.unit,
        more_is_worse: measure.more_is_worse,
        a: mean(&a_runs),
        b: mean(&b_runs),
        a_runs,
        b_runs,
        difference,
        // Until all figures of the comparison are judged together.
        verdict: Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::slo::Slo;

    fn side(name: &str, runs: &[(u64, u64, f64)]) -> Side {
        let figures = |(seed, failures, p99_ms): &(u64, u64, f64)| Figures {
            seed: *seed,
            digest: format!("{name}{seed}"),
            requests: 1_000,
            failures: *failures,
            xks_calls: 1_000,
            p99_ms: *p99_ms,
            ..Figures::default()
        };
        let runs: Vec<Figures> = runs.iter().map(figures).collect();
        let sweep = Sweep {
            format: 1,
            kind: "sweep".into(),
            version: "0".into(),
            scenario: name.into(),
            title: name.into(),
            scenario_toml: String::new(),
            command: String::new(),
            slo: String::new(),
            patience_ms: 250,
            axes: Vec::new(),
            seeds: runs.iter().map(|run| run.seed).collect(),
            complete: true,
            cliffs: Vec::new(),
            points: vec![Point::new(Vec::new(), runs, &Slo::None)],
            probes: Vec::new(),
        };
        Side { name: name.into(), sweep }
    }

    fn verdict(comparison: &Comparison, name: &str) -> Verdict {
        comparison.points[0].rows.iter().find(|row| row.name == name).unwrap().verdict
    }

    /// The runs of a seed share its luck: what the pairs show is far less than what the seeds differ by.
    #[test]
    fn equal_seeds_are_compared_in_pairs_and_others_are_not() {
        let runs = [(1, 100, 50.0), (2, 300, 90.0), (3, 200, 70.0), (4, 250, 60.0), (5, 150, 80.0)];
        let shifted = |by: u64| {
            let each = |at: usize| (runs[at].0 + by, runs[at].1 - 10 - at as u64 % 2, runs[at].2);
            (0..runs.len()).map(each).collect::<Vec<_>>()
        };
        let paired = Comparison::of(&side("a", &runs), &side("b", &shifted(0)), String::new()).unwrap();
        assert_eq!(paired.points[0].method, Method::Paired);
        assert_eq!(verdict(&paired, "failed_share"), Verdict::Better);
        assert_eq!(verdict(&paired, "p99_ms"), Verdict::Same);
        assert!(
            paired.headline().starts_with("B is better: requests that failed. "),
            "{}",
            paired.headline()
        );
        let apart = Comparison::of(&side("a", &runs), &side("b", &shifted(100)), String::new()).unwrap();
        assert_eq!(apart.points[0].method, Method::Welch);
        assert_eq!(verdict(&apart, "failed_share"), Verdict::WithinChance);
        assert_eq!(apart.headline(), "No difference is beyond chance.");
    }

    #[test]
    fn runs_whose_seed_one_side_lacks_are_left_out_and_said_to_be() {
        let a = side("a", &[(1, 1, 1.0), (2, 2, 1.0), (3, 3, 1.0)]);
        let b = side("b", &[(2, 5, 2.0), (3, 5, 2.0), (4, 5, 2.0)]);
        let comparison = Comparison::of(&a, &b, String::new()).unwrap();
        assert_eq!(comparison.points[0].runs, [2, 2]);
        assert_eq!(comparison.points[0].rows[0].a_runs, [0.002, 0.003]);
        assert_eq!(comparison.left_out, ["the scenario as it is: 2 runs whose seed only one side has"]);
    }

    #[test]
    fn a_single_run_says_nothing_of_chance() {
        let comparison =
            Comparison::of(&side("a", &[(1, 1, 1.0)]), &side("b", &[(1, 900, 250.0)]), String::new())
                .unwrap();
        assert_eq!(verdict(&comparison, "failed_share"), Verdict::Unknown);
        assert!(comparison.headline().starts_with("One run on a side"), "{}", comparison.headline());
    }

    #[test]
    fn sweeps_of_different_keys_cannot_be_compared() {
        let (a, mut b) = (side("a", &[(1, 1, 1.0)]), side("b", &[(1, 1, 1.0)]));
        let axis = |key: &str| crate::sweep::outcome::Axis { key: key.into(), labels: vec![], numbers: None };
        b.sweep.axes = vec![axis("link.rtt_ms")];
        let error = Comparison::of(&a, &b, String::new()).unwrap_err();
        assert_eq!(
            error,
            "A varies nothing and B varies link.rtt_ms: sweep the same keys in both, in the same order"
        );
    }
}
