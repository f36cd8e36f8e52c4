//! `[limits]`.
//!
//! Place on the map: part of `check`.

use super::super::raw::RawLimits;
use super::Place;
use crate::app::Limits;
use crate::config::ConfigError;

/// KMS gives up on a request after this time (XKS-TIME-1).
const KMS_PATIENCE_MS: u128 = 250;

/// What a request body holds besides plaintext and AAD: names, ARNs and punctuation, generously.
const METADATA_BYTES: usize = 4_096;

impl Place<'_> {
    pub(super) fn limits(&self, raw: &RawLimits, warnings: &mut Vec<String>) -> Result<Limits, ConfigError> {
        let mut limits = Limits::default();
        for (value, key, range, limit) in [
            (&raw.deadline_ms, "deadline_ms", 10..=60_000, &mut limits.deadline),
            (&raw.handshake_timeout_ms, "handshake_timeout_ms", 10..=60_000, &mut limits.handshake_timeout),
            (&raw.head_timeout_ms, "head_timeout_ms", 10..=60_000, &mut limits.head_timeout),
            (
                &raw.first_request_timeout_ms,
                "first_request_timeout_ms",
                100..=3_600_000,
                &mut limits.first_request_timeout,
            ),
            (&raw.idle_timeout_ms, "idle_timeout_ms", 1_000..=3_600_000, &mut limits.idle_timeout),
            (&raw.drain_timeout_ms, "drain_timeout_ms", 0..=600_000, &mut limits.drain_timeout),
        ] {
            *limit = self.duration_ms(value, key, range)?.unwrap_or(*limit);
        }
        for (value, key, range, limit) in [
            (&raw.in_flight_max, "in_flight_max", 1..=65_536, &mut limits.in_flight_max),
            (&raw.connections_max, "connections_max", 1..=1_000_000, &mut limits.connections_max),
            (&raw.body_bytes_max, "body_bytes_max", 1_024..=16_777_216, &mut limits.body_bytes_max),
            (
                &raw.body_bytes_in_flight_max,
                "body_bytes_in_flight_max",
                1_024..=17_179_869_184,
                &mut limits.body_bytes_in_flight_max,
            ),
            (&raw.header_bytes_max, "header_bytes_max", 8_192..=1_048_576, &mut limits.header_bytes_max),
            (&raw.headers_max, "headers_max", 16..=1_000, &mut limits.headers_max),
            (
                &raw.plaintext_bytes_max,
                "plaintext_bytes_max",
                4_300..=1_048_576,
                &mut limits.plaintext_bytes_max,
            ),
            (&raw.aad_bytes_max, "aad_bytes_max", 8_192..=65_535, &mut limits.aad_bytes_max),
        ] {
            *limit = self.number(value, key, range)?.unwrap_or(*limit);
        }
        // A legal request must fit: plaintext and AAD travel as base64, four bytes for three.
        let needed = limits.plaintext_bytes_max.div_ceil(3) * 4
            + limits.aad_bytes_max.div_ceil(3) * 4
            + METADATA_BYTES;
        if limits.body_bytes_max < needed {
            let named = [&raw.body_bytes_max, &raw.plaintext_bytes_max, &raw.aad_bytes_max];
            let at = named.into_iter().flatten().next().map_or(0, |value| value.span().start);
            return Err(self.error_at(
                at,
                format!(
                    "body_bytes_max = {} cannot hold a request with plaintext_bytes_max = {} and aad_bytes_max = {} \
                     in base64: raise it to {needed} or more",
                    limits.body_bytes_max, limits.plaintext_bytes_max, limits.aad_bytes_max
                ),
            ));
        }
        if limits.body_bytes_in_flight_max < limits.body_bytes_max {
            let named = [&raw.body_bytes_in_flight_max, &raw.body_bytes_max];
            let at = named.into_iter().flatten().next().map_or(0, |value| value.span().start);
            return Err(self.error_at(
                at,
                format!(
                    "body_bytes_in_flight_max = {} cannot hold one body of body_bytes_max = {}: raise the one, or lower \
                     the other",
                    limits.body_bytes_in_flight_max, limits.body_bytes_max
                ),
            ));
        }
        if let Some(value) = &raw.deadline_ms
            && limits.deadline.as_millis() >= KMS_PATIENCE_MS
        {
            warnings.push(format!(
                "{}:{}: deadline_ms = {} is no use to AWS KMS, which gives up after {KMS_PATIENCE_MS} ms, the \
                 network included: write 150",
                self.source.file,
                self.line(value),
                limits.deadline.as_millis()
            ));
        }
        Ok(limits)
    }
}
