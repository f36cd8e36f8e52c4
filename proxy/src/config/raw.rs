//! The configuration file as it is written, before anything is checked. Every key here stands in
//! `config.example.toml`, with its default, unit and reason; a test sees to it.
//!
//! Place on the map: `config` reads text into [`Raw`], `check` makes a `Config` of it.

use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use std::fmt;
use toml::Spanned;

/// A value and where it stands.
pub(super) type At<T> = Option<Spanned<T>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) server: Spanned<RawServer>,
    pub(super) ops: At<RawOps>,
    #[serde(default)]
    pub(super) log: RawLog,
    pub(super) otel: At<RawOtel>,
    #[serde(default)]
    pub(super) reload: RawReload,
    #[serde(default)]
    pub(super) limits: RawLimits,
    #[serde(default)]
    pub(super) identity: RawIdentity,
    #[serde(default)]
    pub(super) hsm: Vec<Spanned<RawHsm>>,
    #[serde(default)]
    pub(super) key_store: Vec<Spanned<RawKeyStore>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServer {
    pub(super) listen: Spanned<RawListen>,
    pub(super) ping_path: At<String>,
    pub(super) tls: At<RawTls>,
}

pub(super) enum RawListen {
    One(String),
    Several(Vec<Spanned<String>>),
}

/// By hand, because an untagged enum knows no lines.
impl<'de> Deserialize<'de> for RawListen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;

        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = RawListen;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawListen, E> {
                Ok(RawListen::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<RawListen, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(RawListen::Several)
            }
        }

        deserializer.deserialize_any(OneOrSeveral)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) certificate_file: Spanned<String>,
    pub(super) key_file: Spanned<String>,
    pub(super) client: At<RawTlsClient>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTlsClient {
    pub(super) ca_file: Spanned<String>,
    pub(super) subject_names: Spanned<Vec<Spanned<String>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawReload {
    pub(super) watch_interval_ms: At<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOps {
    pub(super) listen: Spanned<String>,
    pub(super) public_reason: At<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) level: Option<RawLevel>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOtel {
    pub(super) endpoint: At<String>,
    pub(super) service_name: At<String>,
    pub(super) sample_ratio: At<f64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) deadline_ms: At<u64>,
    pub(super) in_flight_max: At<u64>,
    pub(super) connections_max: At<u64>,
    pub(super) body_bytes_max: At<u64>,
    pub(super) body_bytes_in_flight_max: At<u64>,
    pub(super) header_bytes_max: At<u64>,
    pub(super) headers_max: At<u64>,
    pub(super) handshake_timeout_ms: At<u64>,
    pub(super) head_timeout_ms: At<u64>,
    pub(super) first_request_timeout_ms: At<u64>,
    pub(super) idle_timeout_ms: At<u64>,
    pub(super) drain_timeout_ms: At<u64>,
    pub(super) plaintext_bytes_max: At<u64>,
    pub(super) aad_bytes_max: At<u64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIdentity {
    pub(super) fleet_size: At<u64>,
    pub(super) vendor: At<String>,
    pub(super) model: At<String>,
    pub(super) ekm_vendor: At<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHsm {
    pub(super) name: Spanned<String>,
    pub(super) module: Spanned<String>,
    pub(super) token_label: At<String>,
    pub(super) token_serial: At<String>,
    pub(super) slot: At<u64>,
    pub(super) pin_file: At<String>,
    pub(super) pin_env: At<String>,
    pub(super) pin_command: At<Vec<Spanned<String>>>,
    pub(super) sessions_max: At<u64>,
    pub(super) queue_max: At<u64>,
    pub(super) set_aside_max: At<u64>,
    pub(super) set_aside_after_ms: At<u64>,
    pub(super) session_idle_max_ms: At<u64>,
    pub(super) iv_source: Option<RawIvSource>,
    pub(super) health_key_label: At<String>,
    pub(super) health_interval_ms: At<u64>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawIvSource {
    Random,
    Encryption,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKeyStore {
    pub(super) name: Spanned<String>,
    pub(super) uri_prefix: Spanned<String>,
    pub(super) region: At<String>,
    pub(super) hsm: At<String>,
    pub(super) hsms: At<Vec<Spanned<String>>>,
    pub(super) find_keys_by: Option<RawFindKeysBy>,
    pub(super) quota: At<RawQuota>,
    pub(super) failover: At<RawFailover>,
    pub(super) allow_mode: Option<RawMode>,
    #[serde(default)]
    pub(super) credential: Vec<Spanned<RawCredential>>,
    #[serde(default)]
    pub(super) key: Vec<Spanned<RawKey>>,
    pub(super) compatibility: Option<RawCompatibility>,
    #[serde(default)]
    pub(super) allow: Vec<RawAllow>,
    pub(super) cedar: Option<RawCedar>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuota {
    pub(super) requests_per_s: Spanned<u64>,
    pub(super) burst: At<u64>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawFindKeysBy {
    Label,
    Entry,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawMode {
    Enforce,
    Shadow,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFailover {
    pub(super) attempt_share_percent: At<u64>,
    pub(super) breaker_failures: At<u64>,
    pub(super) breaker_pause_ms: At<u64>,
    pub(super) breaker_pause_max_ms: At<u64>,
    pub(super) hedge: Option<bool>,
    pub(super) hedge_share_percent: At<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCredential {
    pub(super) access_key_id: Spanned<String>,
    pub(super) secret_file: At<String>,
    pub(super) secret_env: At<String>,
    pub(super) secret_command: At<Vec<Spanned<String>>>,
    pub(super) created: At<toml::value::Datetime>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKey {
    pub(super) id: Spanned<String>,
    pub(super) current_version: Spanned<u64>,
    pub(super) versions: Spanned<Vec<Spanned<RawVersion>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVersion {
    pub(super) version: Spanned<u64>,
    pub(super) label: At<String>,
    pub(super) id: At<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCompatibility {
    pub(super) aws_sample_proxy: Spanned<bool>,
    pub(super) ciphertext_metadata: At<String>,
    pub(super) former_ciphertext_metadata: At<Vec<Spanned<String>>>,
    pub(super) encrypt: At<RawScheme>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawScheme {
    Own,
    Sample,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAllow {
    pub(super) name: At<String>,
    pub(super) keys: At<Vec<Spanned<String>>>,
    pub(super) operations: At<Vec<Spanned<String>>>,
    pub(super) principal_arns: At<Vec<Spanned<String>>>,
    pub(super) kms_key_arns: At<Vec<Spanned<String>>>,
    pub(super) kms_operations: At<Vec<Spanned<String>>>,
    pub(super) via_services: At<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCedar {
    pub(super) policy_file: Spanned<String>,
    pub(super) schema_file: At<String>,
    pub(super) mode: Option<RawMode>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::Error as _;
    use serde::de::value::Error;

    /// Answers the question which fields a struct has, and nothing else.
    struct AskFields<'a>(&'a mut Vec<&'static str>);

    impl<'de> Deserializer<'de> for AskFields<'_> {
        type Error = Error;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            _visitor: V,
        ) -> Result<V::Value, Error> {
            self.0.extend(fields);
            Err(Error::custom("asked"))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
            Err(Error::custom("not a struct"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    fn fields<'de, T: Deserialize<'de>>() -> Vec<&'static str> {
        let mut fields = Vec::new();
        let _ = T::deserialize(AskFields(&mut fields));
        assert!(!fields.is_empty());
        fields
    }

    #[test]
    fn the_example_shows_every_key_in_its_table() {
        let example = include_str!("../../config.example.toml");
        let tables = [
            ("[server]", fields::<RawServer>()),
            ("[server.tls]", fields::<RawTls>()),
            ("# [server.tls.client]", fields::<RawTlsClient>()),
            ("[reload]", fields::<RawReload>()),
            ("[ops]", fields::<RawOps>()),
            ("[log]", fields::<RawLog>()),
            ("[otel]", fields::<RawOtel>()),
            ("[limits]", fields::<RawLimits>()),
            ("[identity]", fields::<RawIdentity>()),
            ("[[hsm]]", fields::<RawHsm>()),
            ("[[key_store]]", fields::<RawKeyStore>()),
            ("[key_store.quota]", fields::<RawQuota>()),
            ("[key_store.failover]", fields::<RawFailover>()),
            ("[[key_store.credential]]", fields::<RawCredential>()),
            ("[[key_store.key]]", fields::<RawKey>()),
            ("[[key_store.key]]", fields::<RawVersion>()),
            ("[key_store.compatibility]", fields::<RawCompatibility>()),
            ("[[key_store.allow]]", fields::<RawAllow>()),
            ("[key_store.cedar]", fields::<RawCedar>()),
        ];
        for (header, keys) in tables {
            let (_, rest) = example.split_once(&format!("\n{header}\n")).expect(header);
            let table = rest.split("\n[").next().unwrap_or_default();
            for key in keys {
                let shown =
                    table.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} = ")))
                        || table.contains(&format!("{{ {key} = "))
                        || table.contains(&format!(", {key} = "))
                        || tables_named(example).any(|name| name == format!("{}{key}", parent(header)));
                assert!(shown, "{header} lacks {key}");
            }
        }
        for table in fields::<Raw>() {
            assert!(tables_named(example).any(|name| name == table), "{table}");
        }
    }

    fn tables_named(example: &str) -> impl Iterator<Item = &str> {
        let headers = example.lines().map(|line| line.trim_start_matches("# "));
        headers.filter(|line| line.starts_with('[')).map(|line| line.trim_matches(['[', ']']))
    }

    fn parent(header: &str) -> String {
        format!("{}.", header.trim_matches(['[', ']']))
    }
}
