//! `[server] listen`.
//!
//! Place on the map: part of `check`.

use super::super::raw::RawListen;
use super::Place;
use crate::config::{ConfigError, Placed};
use std::net::SocketAddr;
use toml::Spanned;

impl Place<'_> {
    pub(super) fn listen(&self, raw: Spanned<RawListen>) -> Result<Vec<Placed<SocketAddr>>, ConfigError> {
        let span = raw.span();
        let texts = match raw.into_inner() {
            RawListen::One(text) => vec![Spanned::new(span.clone(), text)],
            RawListen::Several(texts) => texts,
        };
        let mut addresses: Vec<Placed<SocketAddr>> = Vec::new();
        for text in texts {
            let value: SocketAddr = text.as_ref().trim().parse().map_err(|_| {
                self.error(
                    &text,
                    format!(
                        "listen = {:?} is not an address and port: write one like \"0.0.0.0:8443\" or \"[::]:8443\"",
                        text.as_ref()
                    ),
                )
            })?;
            let line = self.line(&text);
            // Where the system chooses the port, the same address gives another socket each time.
            let same = addresses.iter().find(|other| other.value == value && value.port() != 0);
            if let Some(first) = same {
                return Err(self.twice(line, "listen", &value.to_string(), first.line));
            }
            addresses.push(Placed { line, value });
        }
        if addresses.is_empty() {
            return Err(self.error_at(
                span.start,
                "listen is an empty list, so nobody could connect: write an address like \"0.0.0.0:8443\"",
            ));
        }
        Ok(addresses)
    }
}
