//! `[server.tls]` and `[server.tls.client]`.
//!
//! Place on the map: part of `check`.

use super::super::raw::{RawTls, RawTlsClient};
use super::Place;
use crate::config::{ConfigError, TlsClientConfig, TlsFiles};
use crate::tls::SubjectName;
use toml::Spanned;

/// Names of a client; a list that is longer is not one that somebody has looked through.
const SUBJECT_NAMES_MAX: usize = 64;

impl Place<'_> {
    pub(super) fn tls(&self, tls: RawTls, warnings: &mut Vec<String>) -> Result<TlsFiles, ConfigError> {
        Ok(TlsFiles {
            certificate_file: self.path(tls.certificate_file),
            key_file: self.path(tls.key_file),
            client: tls.client.map(|client| self.tls_client(client, warnings)).transpose()?,
        })
    }

    fn tls_client(
        &self,
        client: Spanned<RawTlsClient>,
        warnings: &mut Vec<String>,
    ) -> Result<TlsClientConfig, ConfigError> {
        let line = self.line(&client);
        let client = client.into_inner();
        let names = client.subject_names.as_ref();
        if names.is_empty() || names.len() > SUBJECT_NAMES_MAX {
            return Err(self.error(
                &client.subject_names,
                format!("subject_names has {} entries: write 1 to {SUBJECT_NAMES_MAX}", names.len()),
            ));
        }
        let mut subject_names = Vec::new();
        for name in names {
            let parsed = SubjectName::parse(name.as_ref());
            subject_names.push(parsed.map_err(|error| self.error(name, format!("{error}: correct it")))?);
        }
        // AWS KMS Developer Guide, "Authorize the external key store proxy".
        warnings.push(format!(
            "{}:{line}: [server.tls.client] demands client certificates, which AWS KMS no longer presents: a key store \
             created after 2026-03-16 must not demand them, and from 2026-06-15 on KMS cannot connect to a proxy that \
             does, so that every use of its keys fails: remove [server.tls.client], unless only \
             clients of your own connect here",
            self.source.file
        ));
        Ok(TlsClientConfig { ca_file: self.path(client.ca_file), subject_names })
    }
}
