//! Where broken promises are noted, by name.
//!
//! Place on the map: [`model`](super::model) reports what it can see of the proxy; other parts of a world may report
//! theirs into the same sink. A run's result shows every invariant, held or not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

/// Something that must hold in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Invariant {
    /// Short id: `X1`.
    pub id: &'static str,
    /// Name in reports: `plaintext-or-error`.
    pub name: &'static str,
    /// What it says.
    pub text: &'static str,
}

/// A decrypt gives the original plaintext or an error.
pub const X1: Invariant = Invariant {
    id: "X1",
    name: "plaintext-or-error",
    text: "a decrypt gives the original plaintext or an error",
};

/// No success carries a wrong integrity value.
pub const X2: Invariant = Invariant {
    id: "X2",
    name: "integrity-value",
    text: "an encrypt that was asked for an integrity value (CDIV) succeeds only with the right one",
};

/// The status matches the error name.
pub const X5: Invariant = Invariant {
    id: "X5",
    name: "status-matches-name",
    text: "the HTTP status of an error is the one that belongs to its error name",
};

/// How one invariant fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which.
    pub invariant: Invariant,
    /// How many times it was looked at.
    pub checked: u64,
    /// How many times it did not hold.
    pub violated: u64,
    /// When it first did not hold, and how.
    pub first: Option<(Duration, String)>,
}

/// The sink: one per run, shared.
#[derive(Debug, Default)]
pub struct Violations {
    verdicts: RefCell<BTreeMap<Invariant, Verdict>>,
}

impl Violations {
    /// Notes that an invariant was looked at, at simulated time `at`; `violation` says in words how it was broken, if
    /// it was. It must hold no plaintext.
    pub fn check(&self, invariant: Invariant, at: Duration, violation: Option<String>) {
        self.check_many(invariant, 1, violation.map(|text| (at, text)));
    }

    /// The same for `checked` looks at once, of which the first that failed, if any did, is given with its time.
    pub fn check_many(&self, invariant: Invariant, checked: u64, violation: Option<(Duration, String)>) {
        let mut verdicts = self.verdicts.borrow_mut();
        let verdict =
            verdicts.entry(invariant).or_insert(Verdict { invariant, checked: 0, violated: 0, first: None });
        verdict.checked += checked;
        if let Some(first) = violation {
            verdict.violated += 1;
            verdict.first.get_or_insert(first);
        }
    }

    /// Every invariant looked at so far, in the order of their ids.
    pub fn verdicts(&self) -> Vec<Verdict> {
        self.verdicts.borrow().values().cloned().collect()
    }

    /// The verdict on one invariant; `None` if it was never looked at.
    pub fn verdict(&self, invariant: Invariant) -> Option<Verdict> {
        self.verdicts.borrow().get(&invariant).cloned()
    }
}
