//! How a group fails over.
//!
//! Place on the map: part of [`group`](crate::hsm::group).

use std::time::Duration;

/// The numbers of an [`HsmGroup`](super::HsmGroup); `[key_store.failover]` in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// Failures of a member in a row, of the kinds that are its own fault, that open its breaker. At least 1. Default 5.
    pub breaker_failures: u32,
    /// How long an opened breaker waits before it lets one request through as a probe. Default 1 s.
    pub breaker_pause: Duration,
    /// Each failed probe doubles the pause, up to this. Default 30 s.
    pub breaker_pause_max: Duration,
    /// The share of the time left, in percent, that a member gets to itself while another usable one has not been asked
    /// yet. 1 to 99. Default 50.
    pub attempt_share_percent: u32,
    /// The largest share of requests, in percent, that may be hedged. 0, the default, hedges none; at most 50.
    pub hedge_share_percent: u32,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            breaker_failures: 5,
            breaker_pause: Duration::from_secs(1),
            breaker_pause_max: Duration::from_secs(30),
            attempt_share_percent: 50,
            hedge_share_percent: 0,
        }
    }
}
