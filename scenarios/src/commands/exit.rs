//! Exit codes, as documented in the README.

/// Every expectation and invariant held.
pub(crate) const HELD: u8 = 0;
/// One did not.
pub(crate) const VIOLATED: u8 = 1;
/// The command line, the scenario or the machine is not as it must be.
pub(crate) const USAGE: u8 = 2;
/// Two equal runs differed.
pub(crate) const NOT_DETERMINISTIC: u8 = 3;
/// Ended by Ctrl-C, as shells have it: 128 and the number of SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;
