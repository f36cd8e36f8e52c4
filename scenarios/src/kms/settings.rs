//! What can be set about the model of KMS: each modelling assumption by name, with its default.
//!
//! Place on the map: the section `[kms]` of a scenario file; [`model`](super::model) obeys it.

use super::lifecycle::ConnectionErrorCode;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
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
    /// How long a connection is used at most, in seconds, 0 to 86,400; 0 means as long as it works. Default 300: no document
    /// tells, and without a bound an expired certificate would never be met by a busy host (MA-10).
    pub connection_lifetime_s: u64,
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
    /// Cryptographic requests per second that KMS takes from the account, with keys of every kind; excess is answered
    /// ThrottlingException. Default 100,000, as documented for us-east-1, us-west-2 and eu-west-1; six Regions have
    /// 20,000 and the others 10,000. 0 means no quota.
    pub account_quota_per_s: u32,
    /// Seconds between two GetHealthStatus calls, ± 10 %. Default 300; 0 means none (MA-19).
    pub health_poll_s: u64,
    /// Whether KMS answers cryptographic calls at once with row 19 while the last health check found every external key
    /// manager UNAVAILABLE. Default false: no document describes such a circuit breaker (MA-20).
    pub fail_fast: bool,
    /// How long ConnectCustomKeyStore takes, in seconds, at most 86,400. Default 300: "about five minutes" (MA-23).
    pub connect_s: u64,
    /// The `ConnectionErrorCode` that every connect ends with, whatever the proxy says, such as
    /// `XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND`: what no proxy brings about must be told (kms-behaviour 4). The two of VPC
    /// endpoint services concern no key store with a public endpoint. Default `none`.
    #[serde(deserialize_with = "connect_fault")]
    pub connect_fault: Option<ConnectionErrorCode>,
    /// What KMS finds of every VPC endpoint service that Create- and UpdateCustomKeyStore name: `not-found`,
    /// `invalid-configuration`, or by default `none`, that it is as it must be (kms-behaviour 3). No scenario makes such
    /// calls; the callers of `xks-sim kms` do.
    pub vpc_service_fault: VpcServiceFault,
    /// How long DisconnectCustomKeyStore takes, in seconds, at most 86,400. Default 300 (MA-23). Calls fail from its
    /// beginning.
    pub disconnect_s: u64,
    /// How long after a new credential was accepted the last of KMS's hosts still signs with the old one, in seconds,
    /// at most 86,400. Default 60; documented is "some time".
    pub credential_spread_s: u64,
    /// How long a change of a key's state takes to reach the last of KMS's hosts, in milliseconds, at most 3,600,000.
    /// Default 3,000; documented is "a few seconds", sometimes minutes.
    pub propagation_ms: u64,
    /// How long a connect or a disconnect that is complete takes to reach the last of KMS's hosts, in milliseconds, at
    /// most 3,600,000; a host that has not heard of it goes by the state before. Default 0, all at once: documented is
    /// "a few seconds", sometimes minutes, of changes in general, and nothing of the connection in particular (MA-25).
    pub connection_propagation_ms: u64,
    /// How long a key that CreateKey has answered takes to become known to the last of KMS's hosts, in milliseconds, at
    /// most 3,600,000; the others answer cryptographic calls with NotFoundException meanwhile, and management calls are
    /// served by one that knows. Default 0, all at once; documented is as above (MA-26).
    pub new_key_propagation_ms: u64,
    /// Whether a caller's encryption context is part of what the proxy authenticates. Default true: another context is
    /// then refused by the proxy, which is row 3 of the failure table. If false, KMS compares the context itself and
    /// answers InvalidCiphertextException without asking the proxy (MA-8).
    pub context_in_aad: bool,
    /// Whether UpdateCustomKeyStore asks for the proxy's health when only the name changes. Default false (MA-1).
    pub check_on_rename: bool,
    /// Age of the credential at the beginning of the run, in days, 0 to 36,500. Default 0.
    pub credential_age_days: f64,
    /// The alarm on the proxy's certificate rings below so many days to its expiry, 0 to 36,500. Default 10, as AWS
    /// recommends; so are the next three.
    pub alarm_certificate_days: f64,
    /// The alarm on slow answers rings above this average of five minutes, in milliseconds, 0 to 60,000. Default 200.
    pub alarm_latency_ms: f64,
    /// The alarm on retryable errors rings above so many in a minute, 0 to 1,000,000. Default 5.
    pub alarm_retryable_errors: f64,
    /// The alarm on non-retryable errors rings above so many in a minute, 0 to 1,000,000. Default 5.
    pub alarm_non_retryable_errors: f64,
    /// The alarm on DEGRADED key managers rings above so many, 0 to 10. Default 0; AWS suggests an alarm and no number,
    /// as for the next two.
    pub alarm_degraded_managers: f64,
    /// The alarm on UNAVAILABLE key managers rings above so many, 0 to 10. Default 0.
    pub alarm_unavailable_managers: f64,
    /// The alarm on the credential's age rings above so many days, 0 to 36,500. Default 365.
    pub alarm_credential_age_days: f64,
    /// Share of calls, 0 to 1, whose `kmsOperation` is one that no proxy knows. XKS-MD-3 lets none be refused for it.
    /// Default 0.
    pub unknown_operation_share: f64,
    /// Share of calls, 0 to 1, that name a VPC endpoint in `awsSourceVpc` and `awsSourceVpce`, of those that a caller makes
    /// by itself and no AWS service on its behalf: whoever comes through one has both (kms-behaviour 6.3). Default 0.5, so
    /// that a proxy meets either form.
    pub source_vpc_share: f64,
    /// Share of calls, 0 to 1, whose body goes out chunked rather than sized; HTTP/1.1 allows either. Default 0.
    pub chunked_share: f64,
}

/// What a run met, as far as modelling assumptions turn on it. MA-1 never does: no scenario renames a key store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    /// A call ended in KMSInternalException.
    pub internal: bool,
    /// The key store was disconnected.
    pub disconnected: bool,
}

/// What is wrong with VPC endpoint services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VpcServiceFault {
    /// Nothing.
    #[default]
    None,
    /// There is no such service, or KMS may not use it.
    NotFound,
    /// A load balancer in one availability zone alone, acceptance required, or no verified private DNS name.
    InvalidConfiguration,
}

/// What `connect_fault` can be.
const CONNECT_FAULTS: [&str; 11] = [
    "none",
    "INVALID_CREDENTIALS",
    "XKS_PROXY_ACCESS_DENIED",
    "XKS_PROXY_INVALID_CONFIGURATION",
    "XKS_PROXY_INVALID_RESPONSE",
    "XKS_PROXY_INVALID_TLS_CONFIGURATION",
    "XKS_PROXY_NOT_REACHABLE",
    "XKS_PROXY_TIMED_OUT",
    "XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND",
    "XKS_VPC_ENDPOINT_SERVICE_INVALID_CONFIGURATION",
    "INTERNAL_ERROR",
];

fn connect_fault<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ConnectionErrorCode>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let code = ConnectionErrorCode::ALL.into_iter().find(|code| code.as_str() == text);
    if code.is_none() && text != "none" {
        return Err(D::Error::unknown_variant(&text, &CONNECT_FAULTS));
    }
    Ok(code)
}

impl Default for KmsSettings {
    fn default() -> Self {
        Self {
            hosts: 9,
            patience_ms: 250,
            idle_ms: 60_000,
            connection_lifetime_s: 300,
            connect_retry: true,
            cdiv: true,
            reliability_threshold: 0.95,
            reliability_window_s: 300,
            quota_per_s: 1_800,
            account_quota_per_s: 100_000,
            health_poll_s: 300,
            fail_fast: false,
            connect_s: 300,
            connect_fault: None,
            vpc_service_fault: VpcServiceFault::None,
            disconnect_s: 300,
            credential_spread_s: 60,
            propagation_ms: 3_000,
            connection_propagation_ms: 0,
            new_key_propagation_ms: 0,
            context_in_aad: true,
            check_on_rename: false,
            credential_age_days: 0.0,
            alarm_certificate_days: 10.0,
            alarm_latency_ms: 200.0,
            alarm_retryable_errors: 5.0,
            alarm_non_retryable_errors: 5.0,
            alarm_degraded_managers: 0.0,
            alarm_unavailable_managers: 0.0,
            alarm_credential_age_days: 365.0,
            unknown_operation_share: 0.0,
            source_vpc_share: 0.5,
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
            within("connection_lifetime_s", self.connection_lifetime_s as f64, 0.0, 86_400.0)?;
            within("connect_s", self.connect_s as f64, 0.0, 86_400.0)?;
            within("disconnect_s", self.disconnect_s as f64, 0.0, 86_400.0)?;
            within("credential_spread_s", self.credential_spread_s as f64, 0.0, 86_400.0)?;
            within("propagation_ms", self.propagation_ms as f64, 0.0, 3_600_000.0)?;
            let connection_ms = self.connection_propagation_ms as f64;
            within("connection_propagation_ms", connection_ms, 0.0, 3_600_000.0)?;
            within("new_key_propagation_ms", self.new_key_propagation_ms as f64, 0.0, 3_600_000.0)?;
        }
        within("reliability_threshold", self.reliability_threshold, 0.0, 1.0)?;
        for (name, value, most) in [
            ("credential_age_days", self.credential_age_days, 36_500.0),
            ("alarm_certificate_days", self.alarm_certificate_days, 36_500.0),
            ("alarm_latency_ms", self.alarm_latency_ms, 60_000.0),
            ("alarm_retryable_errors", self.alarm_retryable_errors, 1_000_000.0),
            ("alarm_non_retryable_errors", self.alarm_non_retryable_errors, 1_000_000.0),
            ("alarm_degraded_managers", self.alarm_degraded_managers, 10.0),
            ("alarm_unavailable_managers", self.alarm_unavailable_managers, 10.0),
            ("alarm_credential_age_days", self.alarm_credential_age_days, 36_500.0),
        ] {
            within(name, value, 0.0, most)?;
        }
        within("unknown_operation_share", self.unknown_operation_share, 0.0, 1.0)?;
        within("source_vpc_share", self.source_vpc_share, 0.0, 1.0)?;
        within("chunked_share", self.chunked_share, 0.0, 1.0)
    }

    /// The modelling assumptions in force, in words, for the report.
    pub fn assumptions(&self) -> Vec<String> {
        let idle_s = self.idle_ms / 1_000;
        let mut assumptions = vec![
            match self.connection_lifetime_s {
                0 => format!(
                    "MA-10: {} KMS hosts keep unused connections to the proxy for {idle_s} s",
                    self.hosts
                ),
                lifetime_s => format!(
                    "MA-10: {} KMS hosts keep unused connections to the proxy for {idle_s} s, and use one for {lifetime_s} s \
                     at most",
                    self.hosts
                ),
            },
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
        if self.quota_per_s > 0 {
            assumptions.push(format!(
                "MA-18: the key store's quota of {} requests per second is a bucket that holds one second's worth",
                self.quota_per_s
            ));
        }
        if self.connection_propagation_ms > 0 {
            assumptions.push(format!(
                "MA-25: the last of KMS's hosts hears of a connect or disconnect {} ms after it is complete",
                self.connection_propagation_ms
            ));
        }
        if self.new_key_propagation_ms > 0 {
            assumptions.push(format!(
                "MA-26: the last of KMS's hosts knows a new key {} ms after CreateKey has answered",
                self.new_key_propagation_ms
            ));
        }
        if !self.context_in_aad {
            assumptions.push(
                "MA-8: KMS compares the encryption context itself, and the proxy does not authenticate it"
                    .into(),
            );
        }
        if self.fail_fast {
            assumptions.push(
                "MA-20: KMS asks the proxy nothing while its last health check found every key manager unavailable"
                    .into(),
            );
        }
        assumptions
    }

    /// Those that mattered only because of what a run met.
    pub fn assumptions_met(&self, met: Met) -> Vec<String> {
        let mut assumptions = Vec::new();
        if met.internal {
            assumptions.push(
                "MA-12: nobody but the callers' SDKs tries a call again that ended in KMSInternalException"
                    .into(),
            );
        }
        if met.disconnected {
            assumptions.push(
                "MA-15: a key whose key store is not connected is said to be in one, and not to be unavailable (row 18)"
                    .into(),
            );
            assumptions.push(format!(
                "MA-23: a disconnect takes {} s and a connect {} s",
                self.disconnect_s, self.connect_s
            ));
            assumptions.push(
                "MA-24: cryptographic calls fail in every connection state but CONNECTED, and DescribeKey shows the keys as \
                 Unavailable"
                    .into(),
            );
        }
        if met.disconnected
            && let Some(code) = self.connect_fault
        {
            assumptions.push(format!("connect_fault: every connect ends with {}", code.as_str()));
        }
        assumptions
    }

    /// `additionalAuthenticatedData` for the proxy: the head of the blob and, if it is to know of it, the caller's
    /// encryption context (MA-8).
    pub(super) fn aad(&self, head: &[u8], context: &[u8]) -> Vec<u8> {
        if self.context_in_aad { [head, context].concat() } else { head.to_vec() }
    }

    /// `patience_ms` as a duration.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }

    /// `propagation_ms` as a duration.
    pub fn propagation(&self) -> Duration {
        Duration::from_millis(self.propagation_ms)
    }

    /// `connection_propagation_ms` as a duration.
    pub fn connection_propagation(&self) -> Duration {
        Duration::from_millis(self.connection_propagation_ms)
    }

    /// `new_key_propagation_ms` as a duration.
    pub fn new_key_propagation(&self) -> Duration {
        Duration::from_millis(self.new_key_propagation_ms)
    }

    /// `connection_lifetime_s` as a duration, where there is a bound.
    pub fn connection_lifetime(&self) -> Option<Duration> {
        (self.connection_lifetime_s > 0).then(|| Duration::from_secs(self.connection_lifetime_s))
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
    fn assumptions_are_named_where_they_mattered() {
        let settings = KmsSettings { connect_s: 7, ..KmsSettings::default() };
        let names = |met| {
            let told = settings.assumptions_met(met);
            told.iter().map(|it| it.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert!(names(Met::default()).is_empty());
        assert_eq!(names(Met { internal: true, ..Met::default() }), ["MA-12"]);
        let met = Met { disconnected: true, ..Met::default() };
        assert_eq!(names(met), ["MA-15", "MA-23", "MA-24"]);
        assert!(settings.assumptions_met(met)[1].ends_with("a connect 7 s"));
        let settings =
            KmsSettings { connect_fault: Some(ConnectionErrorCode::InternalError), ..KmsSettings::default() };
        assert!(settings.assumptions_met(met)[3].ends_with("INTERNAL_ERROR"));
        assert!(settings.assumptions_met(Met::default()).is_empty());
    }

    #[test]
    fn a_connect_fault_is_any_code_of_the_api() {
        let read = |word: &str| {
            toml::from_str::<KmsSettings>(&format!("connect_fault = \"{word}\"")).map(|it| it.connect_fault)
        };
        assert_eq!(read("none"), Ok(None));
        let (none, codes) = CONNECT_FAULTS.split_first().unwrap();
        assert_eq!(*none, "none");
        assert_eq!(codes, ConnectionErrorCode::ALL.map(ConnectionErrorCode::as_str));
        for code in ConnectionErrorCode::ALL {
            assert_eq!(read(code.as_str()), Ok(Some(code)));
        }
        let error = read("internal_error").unwrap_err().to_string();
        assert!(error.contains("INTERNAL_ERROR") && error.contains("none"), "{error}");
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
            ("connect_s = 86401", "connect_s"),
            ("disconnect_s = 86401", "disconnect_s"),
            ("credential_spread_s = 86401", "credential_spread_s"),
            ("propagation_ms = 3600001", "propagation_ms"),
            ("connection_propagation_ms = 3600001", "connection_propagation_ms"),
            ("new_key_propagation_ms = 3600001", "new_key_propagation_ms"),
            ("alarm_latency_ms = -1", "alarm_latency_ms"),
            ("alarm_degraded_managers = 11", "alarm_degraded_managers"),
            ("credential_age_days = nan", "credential_age_days"),
            ("chunked_share = -0.1", "chunked_share"),
            ("unknown_operation_share = 2", "unknown_operation_share"),
            ("source_vpc_share = 1.1", "source_vpc_share"),
        ] {
            let error = toml::from_str::<KmsSettings>(text).unwrap().check().unwrap_err();
            assert!(error.starts_with(name), "{text}: {error}");
        }
    }
}
