//! Runs on all cores, one thread each.
//!
//! A run has its own runtime, its own clock and its own random streams, and knows of no other; so neither the number of
//! threads nor the order in which runs end changes any of them.

use super::figures::Figures;
use crate::run;
use crate::scenario::Scenario;
use crate::world::Options;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The most threads.
pub const JOBS_MAX: usize = 256;

/// Who runs what is to be run.
pub struct Crew<'a> {
    /// Threads, 1 to [`JOBS_MAX`].
    pub jobs: usize,
    /// Set by somebody who wants an end: runs in progress stop and are forgotten, and no more begin.
    pub interrupted: Arc<AtomicBool>,
    /// Told after each run how many of how many are done.
    pub told: &'a (dyn Fn(usize, usize) + Sync),
}

/// One run to be made.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// The seed.
    pub seed: u64,
}

impl Crew<'_> {
    /// Makes all runs and returns their figures in the order of the jobs; `None` for those that were interrupted.
    ///
    /// # Errors
    /// The first run that could not be made, in words.
    pub fn run(&self, jobs: &[Job<'_>]) -> Result<Vec<Option<Figures>>, String> {
        let next = AtomicUsize::new(0);
        let done = AtomicUsize::new(0);
        let failed: Mutex<Option<String>> = Mutex::new(None);
        let slots: Vec<Mutex<Option<Figures>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
        let work = || {
            while !self.interrupted.load(Ordering::Relaxed)
                && failed.lock().unwrap_or_else(PoisonError::into_inner).is_none()
            {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let (Some(job), Some(slot)) = (jobs.get(index), slots.get(index)) else { return };
                match self.one(*job) {
                    Ok(figures) => *slot.lock().unwrap_or_else(PoisonError::into_inner) = figures,
                    Err(error) => {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        return;
                    }
                }
                (self.told)(done.fetch_add(1, Ordering::Relaxed) + 1, jobs.len());
            }
        };
        let threads = self.jobs.clamp(1, JOBS_MAX).min(jobs.len());
        let panicked = std::thread::scope(|scope| {
            let crew: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            crew.into_iter().any(|thread| thread.join().is_err())
        });
        if panicked {
            return Err("a run ended in a defect of the simulator; its message is above".into());
        }
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        Ok(slots.into_iter().map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
    }

    fn one(&self, job: Job<'_>) -> Result<Option<Figures>, String> {
        let mut options = Options::new(job.seed);
        options.interrupted = Arc::clone(&self.interrupted);
        let ran = run::run(job.scenario, &options, "", "emulated HSM")?;
        Ok(ran.result.interrupted_at_ms.is_none().then(|| Figures::of(&ran.result)))
    }
}
