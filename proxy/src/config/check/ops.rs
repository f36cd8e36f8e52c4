//! `[ops]`.
//!
//! Place on the map: part of `check`.

use super::super::raw::RawOps;
use super::Place;
use crate::config::{ConfigError, Placed};
use std::net::SocketAddr;
use toml::Spanned;

impl Place<'_> {
    pub(super) fn ops(
        &self,
        raw: Option<Spanned<RawOps>>,
        main: &[Placed<SocketAddr>],
        warnings: &mut Vec<String>,
    ) -> Result<Option<Placed<SocketAddr>>, ConfigError> {
        let Some(raw) = raw else { return Ok(None) };
        let RawOps { listen, public_reason } = raw.into_inner();
        let address: SocketAddr = listen.as_ref().trim().parse().map_err(|_| {
            self.error(
                &listen,
                format!(
                    "listen = {:?} is not an address and port: write one like \"127.0.0.1:9464\" or \"[::1]:9464\"",
                    listen.as_ref()
                ),
            )
        })?;
        if main.iter().any(|main| main.value == address) && address.port() != 0 {
            return Err(self.error(
                &listen,
                format!("listen = {address} is what [server] listens on already: choose another port"),
            ));
        }
        let reason = public_reason.map(|reason| self.not_empty(reason, "public_reason")).transpose()?;
        if !address.ip().is_loopback() && reason.is_none() {
            warnings.push(format!(
                "{}:{}: metrics and readiness are served without TLS or authentication on {address}, which others may \
                 reach: listen on 127.0.0.1 or [::1], or say in public_reason why not",
                self.source.file,
                self.line(&listen)
            ));
        }
        Ok(Some(Placed { line: self.line(&listen), value: address }))
    }
}
