//! Ranges of parameters, and what a user reads who leaves one.

use std::fmt;
use std::ops::RangeInclusive;

/// A parameter outside its range: which service, which key, what was written and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// The service's `kind`.
    pub kind: &'static str,
    /// The key in the scenario file.
    pub key: &'static str,
    /// What is wrong with it and what to write instead.
    pub problem: String,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service \"{}\": {} {}", self.kind, self.key, self.problem)
    }
}

impl std::error::Error for SettingsError {}

/// The parameters of one service, checked one after the other; the first problem is kept.
pub(super) struct Checks {
    kind: &'static str,
    first: Result<(), SettingsError>,
}

const DAY_S: u64 = 86_400;

impl Checks {
    pub(super) fn of(kind: &'static str) -> Self {
        Self { kind, first: Ok(()) }
    }

    fn require(mut self, holds: bool, key: &'static str, problem: impl FnOnce() -> String) -> Self {
        if !holds && self.first.is_ok() {
            self.first = Err(SettingsError { kind: self.kind, key, problem: problem() });
        }
        self
    }

    /// `rate_per_s` and `in_flight_max`, which every service has.
    pub(super) fn load(self, rate_per_s: f64, in_flight_max: u32) -> Self {
        self.require(rate_per_s > 0.0 && rate_per_s <= 100_000.0, "rate_per_s", || {
            format!("is {rate_per_s}; write a number above 0 and at most 100000 (user requests per second)")
        })
        .count("in_flight_max", in_flight_max, 1..=1_000_000)
    }

    pub(super) fn count(self, key: &'static str, n: u32, allowed: RangeInclusive<u32>) -> Self {
        let holds = allowed.contains(&n);
        self.require(holds, key, || {
            format!("is {n}; write a whole number from {} to {}", allowed.start(), allowed.end())
        })
    }

    pub(super) fn share(self, key: &'static str, share: f64) -> Self {
        self.require((0.0..=1.0).contains(&share), key, || {
            format!("is {share}; write a share from 0 to 1 (0.02 for 2 %)")
        })
    }

    /// Two shares of the same whole.
    pub(super) fn shares(self, keys: [&'static str; 2], shares: [f64; 2]) -> Self {
        let sum = shares[0] + shares[1];
        self.share(keys[0], shares[0]).share(keys[1], shares[1]).require(sum <= 1.0, keys[1], || {
            format!("and {} add up to {sum}; together they can be at most 1", keys[0])
        })
    }

    pub(super) fn seconds(self, key: &'static str, s: u64) -> Self {
        self.require((1..=DAY_S).contains(&s), key, || {
            format!("is {s}; write whole seconds from 1 to {DAY_S} (one day)")
        })
    }

    /// A range of durations given by two keys.
    pub(super) fn seconds_range(self, keys: [&'static str; 2], s: [u64; 2]) -> Self {
        self.seconds(keys[0], s[0]).seconds(keys[1], s[1]).require(s[0] <= s[1], keys[0], || {
            format!("is {}, above {} = {}; write the smaller one first", s[0], keys[1], s[1])
        })
    }

    pub(super) fn done(self) -> Result<(), SettingsError> {
        self.first
    }
}

/// Enough for any user who waits: reached only when KMS is slow for long under a high rate.
pub(super) const IN_FLIGHT_MAX: u32 = 10_000;

/// The roles that users and functions act as, in AWS's example account; as many as a service can have.
pub(super) const ROLES: [&str; 16] = [
    "arn:aws:iam::111122223333:role/orders",
    "arn:aws:iam::111122223333:role/payments",
    "arn:aws:iam::111122223333:role/invoices",
    "arn:aws:iam::111122223333:role/catalogue",
    "arn:aws:iam::111122223333:role/search",
    "arn:aws:iam::111122223333:role/shipping",
    "arn:aws:iam::111122223333:role/returns",
    "arn:aws:iam::111122223333:role/customers",
    "arn:aws:iam::111122223333:role/reports",
    "arn:aws:iam::111122223333:role/archive",
    "arn:aws:iam::111122223333:role/billing",
    "arn:aws:iam::111122223333:role/fraud",
    "arn:aws:iam::111122223333:role/pricing",
    "arn:aws:iam::111122223333:role/stock",
    "arn:aws:iam::111122223333:role/support",
    "arn:aws:iam::111122223333:role/audit",
];

/// The most principals a service can have.
pub(super) const ROLES_MAX: u32 = ROLES.len() as u32;
