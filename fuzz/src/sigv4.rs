//! Signature Version 4: the header alone, and a whole request.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;
use xks_proxy::env::UnixTime;
use xks_proxy::secret::Secret;
use xks_proxy::sigv4::{AccessKeyId, Authorization, Credential, Received, SigV4Error, verify};

/// The value of an `Authorization` header. What is read must be what stands there.
pub(crate) fn sigv4_header(data: &[u8]) {
    if let Ok(read) = Authorization::parse(data) {
        let written = format!(
            "AWS4-HMAC-SHA256 Credential={}/{}/{}/{}/aws4_request, SignedHeaders={}, Signature={}",
            read.access_key_id,
            read.date,
            read.region,
            read.service,
            read.signed_headers,
            read.signature.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        );
        assert_eq!(Authorization::parse(written.as_bytes()).as_ref(), Ok(&read));
    }
}

/// The seconds since 1970 at which [`sigv4_request`] verifies: 2026-05-28T20:26:40Z.
const NOW_SECS: u64 = 1_780_000_000;

/// The credential [`sigv4_request`] knows.
const ACCESS_KEY_ID: &str = "BETWEEN2AND7ABCDEFGHIJ";

/// The secret of [`ACCESS_KEY_ID`].
const SECRET: &str = "PR2Esecretsecretsecretsecretsecretsecret+/=";

/// A request as HTTP/1.1 writes it, with plain line feeds: method and target, header lines, an empty line, the body.
/// Whether it is accepted must not depend on whether the signing key has been remembered.
pub(crate) fn sigv4_request(data: &[u8]) {
    let credentials = [Credential::unchecked(ACCESS_KEY_ID, Secret::new(SECRET.to_owned()))];
    let cold = answer(data, &credentials);
    let warm = answer(data, &credentials);
    assert_eq!(cold, warm);
}

fn answer(data: &[u8], credentials: &[Credential]) -> Result<AccessKeyId, SigV4Error> {
    let (head, body) = match data.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, &data[..0]),
    };
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split('\n');
    let (method, target) = lines.next().and_then(|line| line.split_once(' ')).unwrap_or(("POST", "/"));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.trim().as_bytes()))
        {
            headers.append(name, value);
        }
    }
    let received = Received { method, path, query, headers: &headers, authority: None, body };
    verify(&received, credentials, None, UnixTime(Duration::from_secs(NOW_SECS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a fuzzer would never see the far side of the signature.
    #[test]
    fn the_signed_seeds_are_accepted() {
        let credentials = [Credential::unchecked(ACCESS_KEY_ID, Secret::new(SECRET.to_owned()))];
        for seed in [
            &include_bytes!("../corpus/sigv4_request/signed_encrypt")[..],
            &include_bytes!("../corpus/sigv4_request/signed_slow_paths")[..],
        ] {
            assert_eq!(answer(seed, &credentials).map(|id| id.to_string()).as_deref(), Ok(ACCESS_KEY_ID));
        }
    }
}
