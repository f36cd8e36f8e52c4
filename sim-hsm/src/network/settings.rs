//! The manners of both sides, as numbers.
//!
//! Place on the map: given to `server` and `client` by whoever builds the world.

use std::fmt;
use std::time::Duration;

/// Most servers in an HA group: as many as GetHealthStatus can tell of (XKS-HLT-1).
pub const MEMBERS_MAX: usize = 10;

/// The most that any of the times may be.
const TIME_MAX: Duration = Duration::from_secs(86_400);

/// What the server does while the device behind it is down ([`Fault::Down`](crate::Fault::Down)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenDown {
    /// The appliance lives, its cryptographic module does not: every request is answered `CKR_DEVICE_REMOVED`, and
    /// service resumes with the module.
    Answer,
    /// The service has died and its kernel lives: connections are closed, new ones refused.
    #[default]
    Refuse,
    /// The service hangs: connections are taken and nothing is answered. When it returns it has been restarted, and
    /// connections from before are closed.
    Silent,
}

/// The server's manners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Sessions open at once, each on a connection of its own; one more is answered `CKR_SESSION_COUNT`. 1 to 65,536,
    /// default 256.
    pub sessions_max: usize,
    /// A connection without a request for so long is closed, and its session is free again: the only way to be rid of a
    /// client that has vanished. Default 10 minutes.
    pub idle_timeout: Duration,
    /// How long the device may take for one operation before it is answered as timed out. Default 60 s: above the
    /// patience of any client, for PKCS#11 has no deadlines to carry.
    pub operation_timeout: Duration,
    /// What a dead appliance looks like.
    pub when_down: WhenDown,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            sessions_max: 256,
            idle_timeout: Duration::from_secs(600),
            operation_timeout: Duration::from_secs(60),
            when_down: WhenDown::default(),
        }
    }
}

/// How the members of an HA group take turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HaMode {
    /// The first member that works does everything.
    #[default]
    ActiveStandby,
    /// Each call goes to the next member that works.
    RoundRobin,
}

/// What calls are answered while no server is connected. To the proxy both are a device that is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhileDisconnected {
    /// `CKR_DEVICE_ERROR`.
    #[default]
    DeviceError,
    /// `CKR_TOKEN_NOT_PRESENT`.
    TokenNotPresent,
}

/// The client's manners: what the libraries of network HSMs do, as far as their handbooks and years of running them tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// Sessions, each on a connection of its own to each server: at most so many calls are inside the library at once.
    /// Opened when first needed and kept. 1 to 1,024, default 16.
    pub sessions_max: usize,
    /// Calls that may wait for a session; one more is answered `Busy` at once. 1 to 65,536, default 64.
    pub queue_max: usize,
    /// How long setting up a connection may take, its session included. Default 5 s.
    pub connect_timeout: Duration,
    /// How long the library waits for one answer, whatever its caller's deadline. Default 10 s, far above the 250 ms of
    /// KMS: the proxy's own deadline must cut it short, and the session stays taken meanwhile.
    pub request_timeout: Duration,
    /// From a failure to the first attempt to reconnect to the only server. Default 1 s.
    pub reconnect_initial: Duration,
    /// The time between attempts doubles up to this. Default 30 s.
    pub reconnect_max: Duration,
    /// A connection that was not used for so long is tried, and counts as failed if nothing comes back. Default 60 s; zero
    /// tries none, and a call finds out.
    pub probe_interval: Duration,
    /// How the members of a group take turns. Means nothing to a single server.
    pub ha_mode: HaMode,
    /// From the failure of a group's member to the next attempt to reach it, and between attempts. Default 60 s.
    pub recovery_interval: Duration,
    /// What calls are answered while no server is connected.
    pub while_disconnected: WhileDisconnected,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            sessions_max: 16,
            queue_max: 64,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            reconnect_initial: Duration::from_secs(1),
            reconnect_max: Duration::from_secs(30),
            probe_interval: Duration::from_secs(60),
            ha_mode: HaMode::default(),
            recovery_interval: Duration::from_secs(60),
            while_disconnected: WhileDisconnected::default(),
        }
    }
}

/// A setting is out of its range; the text begins with its name and says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError(pub String);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SettingsError {}

fn count(name: &str, value: usize, most: usize) -> Result<(), SettingsError> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(SettingsError(format!("{name} is {value}; give a number from 1 to {most}")))
}

fn time(name: &str, value: Duration) -> Result<(), SettingsError> {
    if (Duration::from_millis(1)..=TIME_MAX).contains(&value) {
        return Ok(());
    }
    Err(SettingsError(format!("{name} is {value:?}; give a time from 1 ms to 24 h")))
}

impl ServerSettings {
    /// Looks at every range.
    ///
    /// # Errors
    /// When one is out of the range its field's comment gives; times are 1 ms to 24 h.
    pub fn check(&self) -> Result<(), SettingsError> {
        count("sessions_max", self.sessions_max, 65_536)?;
        time("idle_timeout", self.idle_timeout)?;
        time("operation_timeout", self.operation_timeout)
    }
}

impl ClientSettings {
    /// Looks at every range.
    ///
    /// # Errors
    /// When one is out of the range its field's comment gives; times are 1 ms to 24 h.
    pub fn check(&self) -> Result<(), SettingsError> {
        count("sessions_max", self.sessions_max, 1_024)?;
        count("queue_max", self.queue_max, 65_536)?;
        time("connect_timeout", self.connect_timeout)?;
        time("request_timeout", self.request_timeout)?;
        time("reconnect_initial", self.reconnect_initial)?;
        time("reconnect_max", self.reconnect_max)?;
        time("recovery_interval", self.recovery_interval)?;
        if !self.probe_interval.is_zero() {
            time("probe_interval", self.probe_interval)?;
        }
        if self.reconnect_max < self.reconnect_initial {
            return Err(SettingsError(format!(
                "reconnect_max is {:?}, below reconnect_initial, which is {:?}; give at least that",
                self.reconnect_max, self.reconnect_initial
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        assert_eq!(ClientSettings::default().check(), Ok(()));
        assert_eq!(ServerSettings::default().check(), Ok(()));
        type Change = fn(&mut ClientSettings);
        let client = |change: Change| {
            let mut settings = ClientSettings::default();
            change(&mut settings);
            settings.check().map_err(|error| error.to_string())
        };
        assert_eq!(client(|it| it.probe_interval = Duration::ZERO), Ok(()));
        let changes: [(Change, &str); 10] = [
            (|it| it.sessions_max = 0, "sessions_max is 0"),
            (|it| it.sessions_max = 1_025, "from 1 to 1024"),
            (|it| it.queue_max = 0, "queue_max is 0"),
            (|it| it.connect_timeout = Duration::ZERO, "connect_timeout is 0ns"),
            (|it| it.request_timeout = Duration::MAX, "request_timeout"),
            (|it| it.reconnect_initial = Duration::ZERO, "reconnect_initial"),
            (|it| it.reconnect_max = TIME_MAX * 2, "reconnect_max"),
            (|it| it.reconnect_max = Duration::from_millis(999), "below reconnect_initial, which is 1s"),
            (|it| it.recovery_interval = Duration::ZERO, "recovery_interval"),
            (|it| it.probe_interval = Duration::from_micros(1), "probe_interval"),
        ];
        for (change, says) in changes {
            let error = client(change).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let server = |change: fn(&mut ServerSettings)| {
            let mut settings = ServerSettings::default();
            change(&mut settings);
            settings.check().unwrap_err().to_string()
        };
        assert!(server(|it| it.sessions_max = 0).contains("sessions_max is 0"));
        assert!(server(|it| it.idle_timeout = Duration::ZERO).contains("idle_timeout"));
        assert!(server(|it| it.operation_timeout = Duration::MAX).contains("operation_timeout"));
    }
}
