//! What a sweep is to run, checked before anything runs.

use super::cliff::{Cliff, Verdict, verdict};
use super::crew::{Crew, Job};
use super::figures::Figures;
use super::find;
use super::outcome::{Axis, Sweep};
use super::point::Point;
use super::slo::Slo;
use super::vary::{Base, Setting, VALUES_MAX, Vary};
use crate::scenario::Scenario;

/// The most seeds of one point.
pub const SEEDS_MAX: u64 = 1_000;
/// The most runs of one sweep, bisection not counted.
pub const RUNS_MAX: usize = 20_000;
/// The most keys: one for each side of a sheet of paper.
pub const KEYS_MAX: usize = 2;

/// A sweep, ready to run.
pub struct Plan {
    base: Base,
    varies: Vec<Vary>,
    seeds: Vec<u64>,
    slo: Slo,
    /// Row by row: the first key runs along a row, the second from row to row.
    grid: Vec<Scenario>,
    command: String,
}

impl Plan {
    /// Checks every point. Without a key there is one point: the scenario as it is. `command` is what repeats the sweep.
    ///
    /// # Errors
    /// Too many keys, points or seeds; a key or value that the scenario refuses.
    pub fn new(
        base: Base,
        mut varies: Vec<Vary>,
        seeds: std::ops::Range<u64>,
        slo: Slo,
        command: String,
    ) -> Result<Self, String> {
        if varies.len() > KEYS_MAX {
            return Err(format!(
                "--vary can be given once, for a chart, or twice, for a heat map, and not {} times",
                varies.len()
            ));
        }
        if let [first, second] = varies.as_slice()
            && first.key == second.key
        {
            return Err(format!("--vary {} is there twice; give all its values in one", first.key));
        }
        let seeds: Vec<u64> = seeds.take(SEEDS_MAX as usize + 1).collect();
        if seeds.is_empty() || seeds.len() as u64 > SEEDS_MAX {
            return Err(format!("--seeds is between 1 and {SEEDS_MAX}"));
        }
        let points: usize = varies.iter().map(|vary| vary.settings.len()).product();
        if points * seeds.len() > RUNS_MAX {
            return Err(format!(
                "{points} points with {} seeds each are {} runs, and a sweep has at most {RUNS_MAX}: fewer steps or fewer \
                 --seeds",
                seeds.len(),
                points * seeds.len()
            ));
        }
        varies.iter_mut().for_each(|vary| base.settle(vary));
        let mut plan = Self { base, varies, seeds, slo, grid: Vec::with_capacity(points), command };
        plan.grid = (0..points).map(|point| plan.base.with(&plan.values(point))).collect::<Result<_, _>>()?;
        Ok(plan)
    }

    /// Runs of the grid, bisection not counted.
    pub fn runs(&self) -> usize {
        self.grid.len() * self.seeds.len()
    }

    /// Points of the grid.
    pub fn points(&self) -> usize {
        self.grid.len()
    }

    /// Whether bisection has something to work with.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn check_find(&self) -> Result<(), String> {
        match self.varies.first() {
            _ if self.slo == Slo::None => Err("--find looks for where an SLO stops to be met, and there is none: give --slo, such \
                                              as --slo failures=0.1%, or the scenario an [[expect]] with failures_max, \
                                              recovered_within_s or latency_p99_max_ms"
                .into()),
            None => Err("--find needs a --vary to look along".into()),
            Some(vary) if !vary.is_numeric() => {
                Err(format!("--find needs numbers to look between, and {} has words", vary.key))
            }
            Some(_) => Ok(()),
        }
    }

    fn columns(&self) -> usize {
        self.varies.first().map_or(1, |vary| vary.settings.len())
    }

    fn values(&self, point: usize) -> Vec<(&Vary, &Setting)> {
        let columns = self.columns();
        let at = [point % columns, point / columns];
        self.varies.iter().zip(at).filter_map(|(vary, at)| Some((vary, vary.settings.get(at)?))).collect()
    }

    /// Runs everything, and with `find` bisects each line of the first key.
    ///
    /// # Errors
    /// When a run cannot be made. An interruption is no error: what has run is in the result.
    pub fn sweep(&self, crew: &Crew<'_>, find: bool) -> Result<Sweep, String> {
        let wanted = self.wanted();
        let ran = crew.run(&self.jobs(&wanted))?;
        let mut sweep = self.gather(&wanted, ran);
        if find && sweep.complete {
            self.refine(crew, &mut sweep)?;
        }
        Ok(sweep)
    }

    /// Runs two sweeps at once, a run of each in turn, so that an interruption leaves as many of the one as of the other.
    ///
    /// # Errors
    /// When a run cannot be made.
    pub fn sweep_both(first: &Self, second: &Self, crew: &Crew<'_>) -> Result<(Sweep, Sweep), String> {
        let (first_wanted, second_wanted) = (first.wanted(), second.wanted());
        let (first_jobs, second_jobs) = (first.jobs(&first_wanted), second.jobs(&second_wanted));
        let mut jobs = Vec::with_capacity(first_jobs.len() + second_jobs.len());
        let mut of_first = Vec::with_capacity(jobs.capacity());
        for turn in 0..first_jobs.len().max(second_jobs.len()) {
            let first_job = first_jobs.get(turn).map(|job| (*job, true));
            let second_job = second_jobs.get(turn).map(|job| (*job, false));
            for (job, is_first) in first_job.into_iter().chain(second_job) {
                jobs.push(job);
                of_first.push(is_first);
            }
        }
        let (mut first_ran, mut second_ran) = (Vec::new(), Vec::new());
        for (figures, is_first) in crew.run(&jobs)?.into_iter().zip(of_first) {
            if is_first { first_ran.push(figures) } else { second_ran.push(figures) }
        }
        Ok((first.gather(&first_wanted, first_ran), second.gather(&second_wanted, second_ran)))
    }

    /// Every run, by point and seed. Seed by seed, so that an interruption leaves every point with something; both ends
    /// first, so that the time they take is a fair guess of the rest.
    fn wanted(&self) -> Vec<(usize, u64)> {
        let points = self.grid.len();
        let order: Vec<usize> = (0..points.min(1))
            .chain((points > 1).then(|| points - 1))
            .chain(1..points.saturating_sub(1))
            .collect();
        self.seeds.iter().flat_map(|seed| order.iter().map(move |point| (*point, *seed))).collect()
    }

    fn jobs(&self, wanted: &[(usize, u64)]) -> Vec<Job<'_>> {
        wanted
            .iter()
            .filter_map(|(point, seed)| Some(Job { scenario: self.grid.get(*point)?, seed: *seed }))
            .collect()
    }

    fn gather(&self, wanted: &[(usize, u64)], ran: Vec<Option<Figures>>) -> Sweep {
        let mut runs: Vec<Vec<Figures>> = vec![Vec::new(); self.grid.len()];
        let complete = ran.iter().all(Option::is_some);
        for ((point, _), figures) in wanted.iter().zip(ran) {
            if let (Some(slot), Some(figures)) = (runs.get_mut(*point), figures) {
                slot.push(figures);
            }
        }
        let points: Vec<Point> = runs
            .into_iter()
            .enumerate()
            .map(|(point, runs)| {
                let labels = self.values(point).iter().map(|(_, setting)| setting.label.clone()).collect();
                Point::new(labels, runs, &self.slo)
            })
            .collect();
        Sweep {
            format: 1,
            kind: "sweep".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            scenario: self.base.scenario.name.clone(),
            title: self.base.scenario.title.clone(),
            scenario_toml: self.base.scenario.text.clone(),
            command: self.command.clone(),
            slo: self.slo.in_words(),
            patience_ms: u64::try_from(self.base.scenario.kms.patience().as_millis()).unwrap_or(u64::MAX),
            axes: self.varies.iter().map(Axis::of).collect(),
            seeds: self.seeds.clone(),
            complete,
            cliffs: self.cliffs(&points),
            points,
            probes: Vec::new(),
        }
    }

    fn cliffs(&self, points: &[Point]) -> Vec<Cliff> {
        if self.slo == Slo::None || self.varies.is_empty() {
            return Vec::new();
        }
        points
            .chunks(self.columns())
            .map(|line| {
                let labelled: Vec<(String, Option<bool>)> = line
                    .iter()
                    .map(|point| (point.values.first().cloned().unwrap_or_default(), point.is_met()))
                    .collect();
                let at = line.first().and_then(|point| point.values.get(1).cloned());
                Cliff { at, verdict: verdict(&labelled), found: None }
            })
            .collect()
    }

    fn refine(&self, crew: &Crew<'_>, sweep: &mut Sweep) -> Result<(), String> {
        let Some(vary) = self.varies.first() else { return Ok(()) };
        for (row, cliff) in sweep.cliffs.iter_mut().enumerate() {
            let (Verdict::UpTo { met, missed } | Verdict::From { met, missed }) = &cliff.verdict else {
                continue;
            };
            let number = |label: &String| label.parse::<f64>().ok();
            let (Some(met), Some(missed)) = (number(met), number(missed)) else { continue };
            let other = self.varies.get(1).and_then(|second| Some((second, second.settings.get(row)?)));
            let probes = &mut sweep.probes;
            let mut whole = true;
            let found = find::bisect(met, missed, vary.is_whole(), |setting| {
                let values: Vec<(&Vary, &Setting)> = std::iter::once((vary, setting)).chain(other).collect();
                let scenario = self.base.with(&values)?;
                let jobs: Vec<Job<'_>> =
                    self.seeds.iter().map(|seed| Job { scenario: &scenario, seed: *seed }).collect();
                let runs = crew.run(&jobs)?;
                let Some(runs) = runs.into_iter().collect::<Option<Vec<Figures>>>() else {
                    whole = false;
                    return Ok(None);
                };
                let labels = values.iter().map(|(_, setting)| setting.label.clone()).collect();
                let point = Point::new(labels, runs, &self.slo);
                let met = point.is_met();
                probes.push(point);
                Ok(met)
            })?;
            cliff.found = Some(found);
            if !whole {
                sweep.complete = false;
                break;
            }
        }
        Ok(())
    }
}

const _: () = assert!(VALUES_MAX * VALUES_MAX <= RUNS_MAX, "a whole heat map fits with one seed");
