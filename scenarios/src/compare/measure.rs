//! What is compared: the figures of a run that have a better and a worse, or at least a more and a less.

use crate::sweep::figures::{Figures, ServiceFigures};
use serde::{Deserialize, Serialize};

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// A share, 0 to 1; shown in per cent.
    Share,
    /// Milliseconds.
    Ms,
    /// A number of things.
    Count,
}

/// One figure of a run.
pub struct Measure {
    /// For programs: `failed_share`, `s3.failed_share`.
    pub name: String,
    /// For people: `requests that failed`.
    pub title: String,
    /// Its unit.
    pub unit: Unit,
    /// Whether more of it is worse, or else neither good nor bad.
    pub more_is_worse: bool,
    of: Reading,
}

/// Reads a measure off the figures of a run.
type Reading = Box<dyn Fn(&Figures) -> Option<f64>>;

impl Measure {
    fn new(
        name: &str,
        title: &str,
        unit: Unit,
        more_is_worse: bool,
        of: impl Fn(&Figures) -> Option<f64> + 'static,
    ) -> Self {
        Self { name: name.to_owned(), title: title.to_owned(), unit, more_is_worse, of: Box::new(of) }
    }

    /// The figure of a run; `None` where that run has none.
    pub fn of(&self, figures: &Figures) -> Option<f64> {
        (self.of)(figures)
    }

    /// Those that tell one point of a sweep from another.
    pub fn few() -> Vec<Self> {
        let worse = true;
        vec![
            Self::new("failed_share", "requests that failed", Unit::Share, worse, |run| {
                Some(run.failed_share())
            }),
            Self::new("p99_ms", "p99 of proxy calls", Unit::Ms, worse, |run| Some(run.p99_ms)),
            Self::new("p999_ms", "p99.9 of proxy calls", Unit::Ms, worse, |run| Some(run.p999_ms)),
        ]
    }

    /// Everything that is kept of a run; the services are those that both `first` and `second` have.
    pub fn all(first: &Figures, second: &Figures) -> Vec<Self> {
        let worse = true;
        let mut all = Self::few();
        all.insert(1, Self::new("p50_ms", "p50 of proxy calls", Unit::Ms, worse, |run| Some(run.p50_ms)));
        all.extend([
            Self::new("xks_failed_share", "proxy calls that failed", Unit::Share, worse, |run| {
                Some(run.xks_failed_share())
            }),
            Self::new("timed_out", "proxy calls that KMS gave up", Unit::Count, worse, |run| {
                Some(double(run.timed_out))
            }),
            Self::new("xks_calls", "proxy calls", Unit::Count, false, |run| Some(double(run.xks_calls))),
            Self::new("kms_calls", "KMS calls of the services", Unit::Count, false, |run| {
                Some(double(run.services.iter().map(|service| service.kms_calls).sum()))
            }),
            Self::new("recovered_after_fault_ms", "time to recover", Unit::Ms, worse, |run| {
                // What never came back has no time; the next figure counts it.
                (run.unrecovered == 0).then_some(run.recovered_after_fault_ms)
            }),
            Self::new("unrecovered", "services not back at the end", Unit::Count, worse, |run| {
                Some(double(run.unrecovered))
            }),
        ]);
        for (at, service) in first.services.iter().enumerate() {
            let before = first.services.iter().take(at).filter(|other| other.name == service.name).count();
            let Some(_) = find(&second.services, &service.name, before) else { continue };
            let number = if before == 0 { String::new() } else { format!(" {}", before + 1) };
            let name = service.name.clone();
            all.push(Self::new(
                &format!("{name}{number}.failed_share"),
                &format!("{name}{number}: requests that failed"),
                Unit::Share,
                worse,
                move |run| Some(find(&run.services, &name, before)?.failed_share()),
            ));
        }
        all
    }
}

/// The services that only one of two runs has: those of the first, then those of the second.
pub fn only_in_one(first: &Figures, second: &Figures) -> (Vec<String>, Vec<String>) {
    let lacking = |of: &Figures, other: &Figures| {
        let absent = |service: &&ServiceFigures| find(&other.services, &service.name, 0).is_none();
        of.services.iter().filter(absent).map(|service| service.name.clone()).collect()
    };
    (lacking(first, second), lacking(second, first))
}

/// The service of this name, after so many others of it.
fn find<'a>(services: &'a [ServiceFigures], name: &str, before: usize) -> Option<&'a ServiceFigures> {
    services.iter().filter(|service| service.name == name).nth(before)
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests fit a double")]
fn double(count: u64) -> f64 {
    count as f64
}
