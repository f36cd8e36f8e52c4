//! What can go wrong: faults that a scenario begins and ends, and the rare ones that are always there.
//!
//! Place on the map: begun and ended through [`Control`](crate::Control), acted out by `device`. What each fault does
//! is told in the [crate's front page](crate).

use std::fmt;

/// A fault that holds from [`Control::begin`](crate::Control::begin) to [`Control::end`](crate::Control::end).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing is reachable: `CKR_DEVICE_REMOVED` at once, for operations in flight too.
    Down,
    /// Service that begins now takes this many times as long.
    Slow {
        /// More than 0, finite; 1 changes nothing, below 1 is faster.
        factor: f64,
    },
    /// Operations fail with this return code after their usual service time.
    Error {
        /// The `CK_RV`, such as 0x30 for `CKR_DEVICE_ERROR`. Not 0, which is success.
        ckr: u64,
        /// The part of operations that fail, 0 to 1.
        rate: f64,
    },
    /// Nothing is answered; sessions and servers stay taken until it ends or the device is restarted.
    Hang,
    /// Somebody else has taken sessions: so many are left. Operations beyond are refused with `CKR_SESSION_COUNT`.
    SessionLimit {
        /// Sessions left, 0 or more. Those in use are not taken away.
        sessions_max: usize,
    },
    /// One bit of what encrypt returns is wrong: the ciphertext's, or the tag's of an empty one. The device says nothing.
    BitFlips {
        /// The part of encryptions, 0 to 1.
        rate: f64,
    },
}

/// Names one fault that was begun. Never used twice by one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FaultId(pub(crate) u64);

/// A fault's parameter is out of range; the text says which, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultError(String);

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FaultError {}

impl Fault {
    /// Looks at the parameters.
    ///
    /// # Errors
    /// When one is out of the range its field's comment gives.
    pub fn check(&self) -> Result<(), FaultError> {
        match *self {
            Self::Slow { factor } if !(factor > 0.0 && factor.is_finite()) => {
                Err(FaultError(format!("slow: the factor is {factor}; give a number above 0, such as 20")))
            }
            Self::Error { ckr: 0, .. } => Err(FaultError(
                "error: return code 0 is CKR_OK, a success; give an error's, such as 0x30 (CKR_DEVICE_ERROR)"
                    .into(),
            )),
            Self::Error { rate, .. } if !(0.0..=1.0).contains(&rate) => {
                Err(FaultError(format!("error: the rate is {rate}; give a number from 0 to 1, such as 0.05")))
            }
            Self::BitFlips { rate } if !(0.0..=1.0).contains(&rate) => Err(FaultError(format!(
                "bit flips: the rate is {rate}; give a number from 0 to 1, such as 0.001"
            ))),
            _ => Ok(()),
        }
    }
}

/// The rare faults of every operation, each a rate from 0 to 1, drawn independently of one another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FaultPlan {
    /// Refused at once with `CKR_SESSION_COUNT`. Default 0.001.
    pub busy_rate: f64,
    /// Fails with `CKR_SESSION_HANDLE_INVALID` after its service time. Default 0.001.
    pub session_lost_rate: f64,
    /// Fails with `CKR_DEVICE_ERROR` after its service time. Default 0.0005.
    pub device_error_rate: f64,
    /// Takes [`FaultPlan::stall_factor`] times as long. Default 0.002.
    pub stall_rate: f64,
    /// How many times as long a stall takes. Default 10.
    pub stall_factor: f64,
}

impl FaultPlan {
    /// Nothing goes wrong by itself.
    pub fn quiet() -> Self {
        Self {
            busy_rate: 0.0,
            session_lost_rate: 0.0,
            device_error_rate: 0.0,
            stall_rate: 0.0,
            stall_factor: 1.0,
        }
    }
}

impl Default for FaultPlan {
    fn default() -> Self {
        Self {
            busy_rate: 0.001,
            session_lost_rate: 0.001,
            device_error_rate: 0.0005,
            stall_rate: 0.002,
            stall_factor: 10.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_out_of_range_are_named() {
        for fault in [
            Fault::Down,
            Fault::Hang,
            Fault::Slow { factor: 0.5 },
            Fault::Error { ckr: 0x30, rate: 0.0 },
            Fault::Error { ckr: 0x30, rate: 1.0 },
            Fault::SessionLimit { sessions_max: 0 },
            Fault::BitFlips { rate: 1.0 },
        ] {
            assert_eq!(fault.check(), Ok(()));
        }
        for (fault, says) in [
            (Fault::Slow { factor: 0.0 }, "factor is 0"),
            (Fault::Slow { factor: f64::NAN }, "factor is NaN"),
            (Fault::Slow { factor: f64::INFINITY }, "factor is inf"),
            (Fault::Error { ckr: 0, rate: 1.0 }, "CKR_OK"),
            (Fault::Error { ckr: 5, rate: 1.1 }, "rate is 1.1"),
            (Fault::Error { ckr: 5, rate: f64::NAN }, "rate is NaN"),
            (Fault::BitFlips { rate: -0.1 }, "rate is -0.1"),
        ] {
            let error = fault.check().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
