//! What the clients saw and what the daemon used, and whether that is good enough.
//!
//! Place on the map: filled by `client` and `script`, printed by `main` at the end.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How much more memory than after the warm-up the daemon may hold at the end.
const MEMORY_GROWTH_MAX_KIB: u64 = 8 * 1_024;

/// How many threads or descriptors more than after the warm-up it may have at the end: a connection or two may just be
/// opening.
const COUNT_GROWTH_MAX: u64 = 4;

/// KMS gives up on a request after this time (XKS-TIME-1).
const KMS_PATIENCE: Duration = Duration::from_millis(250);

/// So many answers in a thousand may come later than that. A few do whatever the proxy does, since it shares the processors
/// with the clients, and a pause of either counts.
const LATE_MAX_PER_MILLE: u64 = 10;

/// What one request came to.
pub(crate) enum Seen {
    /// A 200; its contents are judged apart.
    Right(Duration),
    /// An error that means "not now", during a fault.
    Excused(String, Duration),
    /// Anything that must not be.
    Wrong(String),
    /// No well-formed answer.
    Lost(String),
}

/// What the daemon uses at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) memory_kib: u64,
    pub(crate) threads: u64,
    pub(crate) descriptors: u64,
}

/// One fault and what became of it.
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) excused: u64,
    pub(crate) recovered_after: Option<Duration>,
}

#[derive(Default)]
pub(crate) struct Tally(Mutex<Counts>);

struct Counts {
    right: u64,
    late: u64,
    connections: u64,
    excused: BTreeMap<String, u64>,
    wrong: BTreeMap<String, u64>,
    lost: BTreeMap<String, u64>,
    latency_us: Histogram<u64>,
    usage: Vec<Usage>,
    faults: Vec<Fault>,
    credentials: u64,
    certificates: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            right: 0,
            late: 0,
            connections: 0,
            excused: BTreeMap::new(),
            wrong: BTreeMap::new(),
            lost: BTreeMap::new(),
            // Three significant digits, from a microsecond up, growing as it must.
            latency_us: Histogram::new(3).unwrap_or_else(|_| unreachable!("3 is a legal precision")),
            usage: Vec::new(),
            faults: Vec::new(),
            credentials: 0,
            certificates: 0,
        }
    }
}

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self, seen: Seen) {
        let mut counts = self.counts();
        let mut timed = |took: Duration| {
            counts.late += u64::from(took > KMS_PATIENCE);
            let _ = counts.latency_us.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        };
        match seen {
            Seen::Right(took) => {
                timed(took);
                counts.right += 1;
            }
            Seen::Excused(name, took) => {
                timed(took);
                *counts.excused.entry(name).or_default() += 1;
            }
            Seen::Wrong(what) => *counts.wrong.entry(what).or_default() += 1,
            Seen::Lost(why) => *counts.lost.entry(why).or_default() += 1,
        }
    }

    pub(crate) fn connected(&self) {
        self.counts().connections += 1;
    }

    pub(crate) fn used(&self, usage: Usage) {
        self.counts().usage.push(usage);
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.counts().faults.push(fault);
    }

    pub(crate) fn credential_changed(&self) {
        self.counts().credentials += 1;
    }

    pub(crate) fn certificate_changed(&self) {
        self.counts().certificates += 1;
    }

    /// Answers that were right, and answers excused.
    pub(crate) fn answers(&self) -> (u64, u64) {
        let counts = self.counts();
        (counts.right, counts.excused.values().sum())
    }

    /// One line for the moment.
    pub(crate) fn progress(&self) -> String {
        let counts = self.counts();
        let sum = |map: &BTreeMap<String, u64>| map.values().sum::<u64>();
        let usage = counts.usage.last().copied().unwrap_or_default();
        format!(
            "right {}, not now {}, wrong {}, lost {}; {} MiB, {} threads, {} descriptors",
            counts.right,
            sum(&counts.excused),
            sum(&counts.wrong),
            sum(&counts.lost),
            usage.memory_kib / 1_024,
            usage.threads,
            usage.descriptors
        )
    }

    /// Prints everything; true if all held.
    pub(crate) fn report(&self, undecryptable: usize, log: &[String]) -> bool {
        let counts = self.counts();
        let mut failures = Vec::new();
        let list = |map: &BTreeMap<String, u64>| -> String {
            map.iter().map(|(what, count)| format!("{count} × {what}")).collect::<Vec<_>>().join("; ")
        };
        println!("\nanswers        {} right, over {} connections", counts.right, counts.connections);
        println!(
            "not now        {}",
            if counts.excused.is_empty() { "none".into() } else { list(&counts.excused) }
        );
        for (what, map) in [("wrong", &counts.wrong), ("lost", &counts.lost)] {
            println!("{what:<14} {}", if map.is_empty() { "0".into() } else { list(map) });
            if !map.is_empty() {
                failures.push(format!("{what} answers"));
            }
        }
        println!("undecryptable  {undecryptable}");
        if undecryptable > 0 {
            failures.push("ciphertexts that no longer decrypt".into());
        }
        let ms = |quantile: f64| counts.latency_us.value_at_quantile(quantile) as f64 / 1_000.0;
        println!(
            "latency        p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, longest {:.0} ms; {} later than 250 ms",
            ms(0.5),
            ms(0.99),
            ms(0.999),
            counts.latency_us.max() as f64 / 1_000.0,
            counts.late
        );
        println!(
            "changes        {} of the credential, {} of the certificate",
            counts.credentials, counts.certificates
        );
        failures.extend(counts.shortcomings());
        println!(
            "\n| fault | times | answers \"not now\" | first right answer after its end |\n|---|---|---|---|"
        );
        let mut by_name: BTreeMap<&str, Vec<&Fault>> = BTreeMap::new();
        counts.faults.iter().for_each(|fault| by_name.entry(fault.name).or_default().push(fault));
        for (name, faults) in &by_name {
            let excused: u64 = faults.iter().map(|fault| fault.excused).sum();
            let slowest = faults
                .iter()
                .map(|fault| fault.recovered_after)
                .max_by_key(|after| after.unwrap_or(Duration::MAX));
            let recovered = match slowest.flatten() {
                Some(after) if faults.iter().all(|fault| fault.recovered_after.is_some()) => {
                    format!("{:.2} s at most", after.as_secs_f64())
                }
                _ => {
                    failures.push(format!("no recovery after {name}"));
                    "never".into()
                }
            };
            println!("| {name} | {} | {excused} | {recovered} |", faults.len());
        }
        // The first fifth is warm-up: caches, thread stacks, the allocator's arenas.
        let warm = counts.usage.len() / 5;
        if let (Some(before), Some(after)) = (
            median(counts.usage.iter().skip(warm).take(warm.max(1))),
            median(counts.usage.iter().rev().take(warm.max(1))),
        ) {
            println!(
                "\nmemory         {} KiB after the warm-up, {} KiB at the end\nthreads        {} and {}\ndescriptors    {} and {}",
                before.memory_kib,
                after.memory_kib,
                before.threads,
                after.threads,
                before.descriptors,
                after.descriptors
            );
            if after.memory_kib > before.memory_kib + MEMORY_GROWTH_MAX_KIB {
                failures.push("memory grew".into());
            }
            if after.threads > before.threads + COUNT_GROWTH_MAX {
                failures.push("threads grew".into());
            }
            if after.descriptors > before.descriptors + COUNT_GROWTH_MAX {
                failures.push("descriptors grew".into());
            }
        }
        for line in log.iter().filter(|line| line.contains("panic")) {
            println!("{line}");
            failures.push("a panic in the log".into());
        }
        match failures.is_empty() {
            true => println!("\nsoak: everything held"),
            false => println!("\nsoak: FAILED: {}", failures.join(", ")),
        }
        failures.is_empty()
    }
}

impl Counts {
    /// What kept the run from showing what it is for, and answers that came too late for KMS.
    fn shortcomings(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.right == 0 {
            found.push("nothing was ever answered".into());
        }
        if self.credentials == 0 {
            found.push("no credential was changed".into());
        }
        if self.certificates == 0 {
            found.push("no certificate was changed".into());
        }
        let answers = self.latency_us.len();
        if self.late * 1_000 > answers * LATE_MAX_PER_MILLE {
            found.push(format!(
                "{} of {answers} answers later than 250 ms, which is more than {LATE_MAX_PER_MILLE} in a thousand",
                self.late
            ));
        }
        found
    }
}

/// Of each figure on its own.
fn median<'a>(usage: impl Iterator<Item = &'a Usage>) -> Option<Usage> {
    let usage: Vec<&Usage> = usage.collect();
    let middle = |figure: fn(&Usage) -> u64| {
        let mut figures: Vec<u64> = usage.iter().map(|usage| figure(usage)).collect();
        figures.sort_unstable();
        figures.get(figures.len() / 2).copied()
    };
    Some(Usage {
        memory_kib: middle(|usage| usage.memory_kib)?,
        threads: middle(|usage| usage.threads)?,
        descriptors: middle(|usage| usage.descriptors)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_changed_nothing_or_was_late_has_failed() {
        let tally = Tally::default();
        let short = || tally.counts().shortcomings();
        assert_eq!(
            short(),
            ["nothing was ever answered", "no credential was changed", "no certificate was changed"]
        );
        (0..990).for_each(|_| tally.count(Seen::Right(KMS_PATIENCE)));
        tally.credential_changed();
        tally.certificate_changed();
        let late = KMS_PATIENCE + Duration::from_millis(1);
        (0..10).for_each(|_| tally.count(Seen::Excused("DependencyTimeoutException".into(), late)));
        assert_eq!(short(), [""; 0], "ten in a thousand");
        tally.count(Seen::Right(late));
        assert!(short().iter().any(|line| line.starts_with("11 of 1001 answers")), "{:?}", short());
    }
}
