//! The parameters of a service as a table, their ranges, and what a user reads who leaves one.

use super::ShownAs;
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

pub(super) const DAY_S: u64 = 86_400;

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

    /// What every service has.
    pub(super) fn load(self, load: &Load) -> Self {
        let Load {
            rate_per_s,
            in_flight_max,
            represents,
            caller_attempts,
            caller_pause_ms,
            ramp_up_s,
            kms_attempts_max,
            sdk_attempts_max,
            ..
        } = *load;
        self.require(rate_per_s > 0.0 && rate_per_s <= 100_000.0, "rate_per_s", || {
            format!("is {rate_per_s}; write a number above 0 and at most 100000 (user requests per second)")
        })
        .count("in_flight_max", in_flight_max, 1..=1_000_000)
        .count("represents", represents, 1..=1_000_000)
        .count("caller_attempts", caller_attempts, 1..=100)
        .count("caller_pause_ms", caller_pause_ms, 1..=600_000)
        .count("ramp_up_s", ramp_up_s, 0..=86_400)
        .count("kms_attempts_max", kms_attempts_max, 1..=10)
        .count("sdk_attempts_max", sdk_attempts_max, 1..=10)
    }

    /// A switch or a word: whatever could be read is right.
    pub(super) fn any<T>(self, _key: &'static str, _value: T) -> Self {
        self
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
    pub(super) fn together(self, keys: [&'static str; 2], shares: [f64; 2]) -> Self {
        let sum = shares[0] + shares[1];
        self.require(sum <= 1.0, keys[1], || {
            format!("and {} add up to {sum}; together they can be at most 1", keys[0])
        })
    }

    pub(super) fn seconds(self, key: &'static str, s: u64) -> Self {
        self.seconds_in(key, s, 1..=DAY_S)
    }

    pub(super) fn seconds_in(self, key: &'static str, s: u64, allowed: RangeInclusive<u64>) -> Self {
        let (least, most) = (allowed.start(), allowed.end());
        self.require(allowed.contains(&s), key, || {
            let in_words = match most / DAY_S {
                _ if most % DAY_S != 0 => String::new(),
                1 => " (one day)".to_owned(),
                days => format!(" ({days} days)"),
            };
            format!("is {s}; write whole seconds from {least} to {most}{in_words}")
        })
    }

    /// Two durations of which one is not above the other.
    pub(super) fn ordered(self, keys: [&'static str; 2], s: [u64; 2]) -> Self {
        self.require(s[0] <= s[1], keys[0], || {
            format!("is {}, above {} = {}; write the smaller one first", s[0], keys[1], s[1])
        })
    }

    /// A part of a whole, both counted.
    pub(super) fn part(self, keys: [&'static str; 2], n: [u32; 2]) -> Self {
        self.require(n[0] <= n[1], keys[0], || {
            format!("is {}, more than there are: {} = {}", n[0], keys[1], n[1])
        })
    }

    /// Two kinds of principals, all of them different.
    pub(super) fn roles(self, keys: [&'static str; 2], n: [u32; 2]) -> Self {
        let sum = u64::from(n[0]) + u64::from(n[1]);
        self.require(sum <= u64::from(ROLES_MAX), keys[1], || {
            format!("and {} add up to {sum}; together they can be at most {ROLES_MAX}", keys[0])
        })
    }

    pub(super) fn done(self) -> Result<(), SettingsError> {
        self.first
    }
}

/// What every service has: how much is asked of it, and how it takes KMS's failures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) rate_per_s: f64,
    pub(super) in_flight_max: u32,
    pub(super) represents: u32,
    pub(super) caller_attempts: u32,
    pub(super) caller_pause_ms: u32,
    pub(super) ramp_up_s: u32,
    pub(super) kms_attempts_max: u32,
    pub(super) sdk_attempts_max: u32,
    pub(super) on_400: ShownAs,
    pub(super) on_500: ShownAs,
    pub(super) on_throttle: ShownAs,
}

/// A service's parameters, as [`settings!`] makes them.
pub(super) trait Parameters {
    fn name(&self) -> &'static str;
    fn title(&self) -> &'static str;
    fn load(&self) -> Load;
    /// The checks of each parameter by itself, to be followed by those of several together.
    fn ranges(&self) -> Checks;
}

/// The parameters of one service as a table: after its doc, kind, title and rate, each line has a key with type, default
/// and check. A check is a method of [`Checks`] that takes key, value and what stands in the parentheses.
macro_rules! settings {
    (
        $(#[$about:meta])* $Name:ident, $kind:literal, $title:literal;
        $(#[$rate_doc:meta])* rate_per_s = $rate:literal;
        $($(#[$doc:meta])* $key:ident: $type:ty = $default:expr, $check:ident($($argument:expr)?);)*
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $Name {
            $(#[$rate_doc])*
            pub rate_per_s: f64,
            $($(#[$doc])* pub $key: $type,)*
            /// Requests that wait for an answer at most; one more fails at once; 1 to 1,000,000; default 10,000.
            pub in_flight_max: u32,
            /// How many callers one simulated caller stands for; 1 to 1,000,000; default 1. Requests, failures and what
            /// they carried count as so many in the report; calls of KMS, and resources such as tables, as they are.
            pub represents: u32,
            /// How often its callers' own software tries a failed request in all, whatever the error; 1 to 100; default 1.
            /// The tries of AWS's services at KMS come on top.
            pub caller_attempts: u32,
            /// How long that software waits before it tries again, in milliseconds, give or take half of it; 1 to 600,000;
            /// default 1,000.
            pub caller_pause_ms: u32,
            /// Seconds in which its users come in growing numbers at the start of the run, so that caches fill gently; 0 to
            /// 86,400; default 0.
            pub ramp_up_s: u32,
            /// How often the service tries a KMS call in all that ends in HTTP 500 or throttling (MA-D3); 1 to 10; default 3, as
            /// AWS SDKs do in standard mode.
            pub kms_attempts_max: u32,
            /// How often the AWS SDK of its users tries a request in all that ends in HTTP 5xx or throttling (MA-D13); 1 to 10; default
            /// 1: not again. SDKs in standard mode try three times, on top of what the service itself tries at KMS; the tries of
            /// one request count as one, what each leaves to do by hand counts by itself. Only 1 where users come by no SDK (files,
            /// blocks, queries, the Kubernetes API), bring a buffer of their own (Kinesis, CloudWatch Logs) or call KMS itself.
            pub sdk_attempts_max: u32,
            /// Which of the service's codes its users see when KMS answers 400 because of the key store (MA-D1, MA-D17, MA-D26):
            /// `invalid-state`, `disabled`, `internal` or `throttled`; default `invalid-state`.
            pub on_400: $crate::services::ShownAs,
            /// … when KMS answers 500 to the last attempt (MA-D4, MA-D13, MA-D26); default `internal`.
            pub on_500: $crate::services::ShownAs,
            /// … when KMS throttles the last attempt (MA-D4, MA-D26); default `throttled`, which is the service's generic code
            /// where it has none of its own.
            pub on_throttle: $crate::services::ShownAs,
        }

        impl Default for $Name {
            fn default() -> Self {
                Self {
                    rate_per_s: $rate,
                    $($key: $default,)*
                    in_flight_max: $crate::services::settings::IN_FLIGHT_MAX,
                    represents: 1,
                    caller_attempts: 1,
                    caller_pause_ms: 1_000,
                    ramp_up_s: 0,
                    kms_attempts_max: 3,
                    sdk_attempts_max: 1,
                    on_400: $crate::services::ShownAs::InvalidState,
                    on_500: $crate::services::ShownAs::Internal,
                    on_throttle: $crate::services::ShownAs::Throttled,
                }
            }
        }

        impl $crate::services::settings::Parameters for $Name {
            fn name(&self) -> &'static str {
                $kind
            }

            fn title(&self) -> &'static str {
                $title
            }

            fn load(&self) -> $crate::services::settings::Load {
                $crate::services::settings::Load {
                    rate_per_s: self.rate_per_s,
                    in_flight_max: self.in_flight_max,
                    represents: self.represents,
                    caller_attempts: self.caller_attempts,
                    caller_pause_ms: self.caller_pause_ms,
                    ramp_up_s: self.ramp_up_s,
                    kms_attempts_max: self.kms_attempts_max,
                    sdk_attempts_max: self.sdk_attempts_max,
                    on_400: self.on_400,
                    on_500: self.on_500,
                    on_throttle: self.on_throttle,
                }
            }

            fn ranges(&self) -> $crate::services::settings::Checks {
                $crate::services::settings::Checks::of($kind)
                    .load(&self.load())
                    $(.$check(stringify!($key), self.$key $(, $argument)?))*
            }
        }
    };
}
pub(super) use settings;

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
