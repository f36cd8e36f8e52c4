//! What can be set about the model of KMS: each modelling assumption by name, with its default.
//!
//! Place on the map: the section `[kms]` of a scenario file; [`model`](super::model) obeys it.

use serde::Deserialize;
use std::time::Duration;

/// The settings of the KMS model. Numbers in brackets are those of the modelling assumptions.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KmsSettings {
    /// KMS hosts that call the proxy, each with its own pool of connections, 1 to 1,000. Default 9: three in each of
    /// three availability zones (MA-10).
    pub hosts: usize,
    /// How long KMS waits for one answer of the proxy, connection set-up included, in milliseconds, 1 to 60,000.
    /// Default 250, as documented.
    pub patience_ms: u64,
    /// How long an unused connection is kept open, in milliseconds. Default 60,000; 0 makes every call open its own
    /// (MA-10).
    pub idle_ms: u64,
    /// Whether a connection set-up that times out is tried once more with a fresh patience. Default true (MA-11).
    pub connect_retry: bool,
    /// Whether GenerateDataKey and GenerateDataKeyWithoutPlaintext ask for the integrity value. Default true (MA-6).
    pub cdiv: bool,
    /// From this share of reliable calls on, 0 to 1, a failing proxy is answered KMSInternalException (HTTP 500, which
    /// SDKs retry); below it KMSInvalidStateException (HTTP 400). Default 0.95; a window without calls is reliable
    /// (MA-17).
    pub reliability_threshold: f64,
    /// The window of that share, in seconds, 1 to 86,400. Default 300, as documented.
    pub reliability_window_s: u64,
    /// Requests per second that KMS lets through to the key store; excess is answered ThrottlingException. Default
    /// 1,800, as documented; 0 means no quota (MA-18).
    pub quota_per_s: u32,
    /// Seconds between two GetHealthStatus calls, ± 10 %. Default 300; 0 means none (MA-19).
    pub health_poll_s: u64,
    /// Share of calls, 0 to 1, whose `kmsOperation` is one that no proxy knows. XKS-MD-3 lets none be refused for it.
    /// Default 0.
    pub unknown_operation_share: f64,
    /// Share of calls, 0 to 1, whose body goes out chunked rather than sized; HTTP/1.1 allows either. Default 0.
    pub chunked_share: f64,
}

impl Default for KmsSettings {
    fn default() -> Self {
        Self {
            hosts: 9,
            patience_ms: 250,
            idle_ms: 60_000,
            connect_retry: true,
            cdiv: true,
            reliability_threshold: 0.95,
            reliability_window_s: 300,
            quota_per_s: 1_800,
            health_poll_s: 300,
            unknown_operation_share: 0.0,
            chunked_share: 0.0,
        }
    }
}

impl KmsSettings {
    /// Looks at every range.
    ///
    /// # Errors
    /// Names the setting that is out of its range, the value, and the range.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: f64, from: f64, to: f64| {
            if (from..=to).contains(&value) {
                Ok(())
            } else {
                Err(format!("{name} = {value} is out of range: give a value from {from} to {to}"))
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "only compared with small bounds")]
        {
            within("hosts", self.hosts as f64, 1.0, 1_000.0)?;
            within("patience_ms", self.patience_ms as f64, 1.0, 60_000.0)?;
            within("reliability_window_s", self.reliability_window_s as f64, 1.0, 86_400.0)?;
        }
        within("reliability_threshold", self.reliability_threshold, 0.0, 1.0)?;
        within("unknown_operation_share", self.unknown_operation_share, 0.0, 1.0)?;
        within("chunked_share", self.chunked_share, 0.0, 1.0)
    }

    /// The modelling assumptions in force, in words, for the report.
    pub fn assumptions(&self) -> Vec<String> {
        let idle_s = self.idle_ms / 1_000;
        let mut assumptions = vec![
            format!("MA-10: {} KMS hosts keep connections to the proxy open for {idle_s} s", self.hosts),
            format!(
                "MA-17: a proxy whose calls of the last {} s were at least {} reliable gets KMSInternalException \
                 (HTTP 500, retried by SDKs), a less reliable one KMSInvalidStateException (HTTP 400)",
                self.reliability_window_s, self.reliability_threshold
            ),
        ];
        if self.connect_retry {
            assumptions
                .push("MA-11: KMS retries a timed-out connection set-up once, and nothing else".into());
        }
        if self.cdiv {
            assumptions
                .push("MA-6: GenerateDataKey asks for the integrity value, so the HSM works twice".into());
        }
        if self.health_poll_s > 0 {
            assumptions.push(format!(
                "MA-19: KMS asks for the proxy's health every {} s ± 10 %",
                self.health_poll_s
            ));
        }
        assumptions
    }

    /// `patience_ms` as a duration.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }

    /// `idle_ms` as a duration.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_section_is_the_default() {
        let settings: KmsSettings = toml::from_str("").unwrap();
        assert_eq!(settings, KmsSettings::default());
        assert_eq!(settings.check(), Ok(()));
    }

    #[test]
    fn unknown_keys_and_bad_values_are_refused() {
        let error = toml::from_str::<KmsSettings>("hostz = 3").unwrap_err().to_string();
        assert!(error.contains("hostz") && error.contains("hosts"), "{error}");
        for (text, name) in [
            ("hosts = 0", "hosts"),
            ("patience_ms = 0", "patience_ms"),
            ("reliability_threshold = 95", "reliability_threshold"),
            ("reliability_threshold = nan", "reliability_threshold"),
            ("reliability_window_s = 0", "reliability_window_s"),
            ("chunked_share = -0.1", "chunked_share"),
            ("unknown_operation_share = 2", "unknown_operation_share"),
        ] {
            let error = toml::from_str::<KmsSettings>(text).unwrap().check().unwrap_err();
            assert!(error.starts_with(name), "{text}: {error}");
        }
    }
}
