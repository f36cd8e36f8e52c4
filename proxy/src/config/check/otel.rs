//! `[otel]`.
//!
//! Place on the map: part of `check`.

use super::super::raw::RawOtel;
use super::Place;
use crate::config::{ConfigError, OtelConfig, Placed};
use toml::Spanned;

impl Place<'_> {
    pub(super) fn otel(&self, raw: Option<Spanned<RawOtel>>) -> Result<Option<OtelConfig>, ConfigError> {
        let Some(raw) = raw else { return Ok(None) };
        let RawOtel { endpoint, service_name, sample_ratio } = raw.into_inner();
        let service_name = match service_name {
            None => "xks-proxy".to_owned(),
            Some(name) => self.not_empty(name, "service_name")?,
        };
        let ratio = sample_ratio.as_ref().map_or(1.0, |ratio| *ratio.as_ref());
        if let Some(value) = &sample_ratio
            && !(0.0..=1.0).contains(&ratio)
        {
            return Err(
                self.error(value, format!("sample_ratio = {ratio} is out of range: write 0.0 to 1.0"))
            );
        }
        let Some(endpoint) = endpoint else { return Ok(None) };
        if !cfg!(feature = "otel") {
            return Err(self.error(
                &endpoint,
                "this build cannot send traces: build with `--features otel`, or remove endpoint",
            ));
        }
        let uri = endpoint.as_ref().parse::<http::Uri>().ok();
        let is_plain = uri.as_ref().is_some_and(|uri| {
            uri.scheme_str() == Some("http") && uri.authority().is_some() && matches!(uri.path(), "" | "/")
        });
        if !is_plain {
            return Err(self.error(
                &endpoint,
                format!(
                    "endpoint = {:?} is not the address of an OTLP/gRPC collector: write one like \
                     \"http://127.0.0.1:4317\"; TLS is a matter for a collector on this machine",
                    endpoint.as_ref()
                ),
            ));
        }
        let endpoint = Placed { line: self.line(&endpoint), value: endpoint.into_inner() };
        Ok(Some(OtelConfig { endpoint, service_name, sample_ratio: ratio }))
    }
}
