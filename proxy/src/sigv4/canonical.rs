//! The canonical request of AWS Signature Version 4, hashed as it is written.
//!
//! Place on the map: [`verify`](super::verify) signs this hash. What KMS sends (a plain path, no query, header values
//! without runs of spaces) is hashed from where it lies; everything else is brought into canonical form first.

use super::{Received, SigV4Error, error};
use sha2::{Digest, Sha256};

/// Hashes the canonical request over the headers that `signed_headers` lists.
///
/// # Errors
/// When the list is not sorted lower-case names without duplicates, lacks `host` or `x-amz-date`, names a header the
/// request has not, or covers an `x-amz-content-sha256` other than `body_hash`.
pub(super) fn hash(
    request: &Received<'_>,
    signed_headers: &str,
    body_hash: &[u8; 64],
) -> Result<[u8; 32], SigV4Error> {
    let mut canonical = Sha256::new();
    canonical.update(request.method);
    canonical.update(b"\n");
    hash_path(&mut canonical, request.path);
    canonical.update(b"\n");
    if !request.query.is_empty() {
        canonical.update(canonical_query(request.query));
    }
    canonical.update(b"\n");

    let (mut host_signed, mut date_signed) = (false, false);
    let mut previous = "";
    for name in signed_headers.split(';') {
        if name <= previous || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(SigV4Error::AuthorizationMalformed(
                "has SignedHeaders that are not lower-case names in ascending order, each once",
            ));
        }
        previous = name;
        let values = request.headers.get_all(name);
        match name {
            "host" => host_signed = true,
            "x-amz-date" => date_signed = true,
            "x-amz-content-sha256" if values.iter().any(|value| value != body_hash.as_slice()) => {
                return Err(SigV4Error::ContentHashWrong);
            }
            _ => {}
        }
        canonical.update(name);
        canonical.update(b":");
        let mut values = values.iter();
        match (values.next(), request.authority) {
            (Some(first), _) => {
                hash_value(&mut canonical, first.as_bytes());
                for value in values {
                    canonical.update(b",");
                    hash_value(&mut canonical, value.as_bytes());
                }
            }
            (None, Some(authority)) if name == "host" => canonical.update(authority),
            (None, _) => return Err(SigV4Error::SignedHeaderAbsent(error::clip(name))),
        }
        canonical.update(b"\n");
    }
    if !host_signed {
        return Err(SigV4Error::NotSigned("host"));
    }
    if !date_signed {
        return Err(SigV4Error::NotSigned("x-amz-date"));
    }

    canonical.update(b"\n");
    canonical.update(signed_headers);
    canonical.update(b"\n");
    canonical.update(body_hash);
    Ok(canonical.finalize().into())
}

/// A header value without spaces at its ends, and with one space for each run of spaces inside.
fn hash_value(canonical: &mut Sha256, value: &[u8]) {
    let trimmed = value.trim_ascii();
    if !trimmed.windows(2).any(|pair| pair == b"  ") {
        canonical.update(trimmed);
        return;
    }
    let words = trimmed.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    for (index, word) in words.enumerate() {
        if index > 0 {
            canonical.update(b" ");
        }
        canonical.update(word);
    }
}

/// The path without dot segments and repeated slashes, encoded once more on top of how it was received, as every
/// service but S3 asks.
fn hash_path(canonical: &mut Sha256, path: &str) {
    let plain = path.starts_with('/')
        && path.bytes().all(|byte| byte == b'/' || is_unreserved(byte))
        && path[1..].split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    if plain {
        canonical.update(path);
    } else {
        canonical.update(canonical_path(path));
    }
}

fn canonical_path(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    let mut canonical = String::with_capacity(path.len() + 1);
    for segment in &segments {
        canonical.push('/');
        encode(&mut canonical, segment.bytes());
    }
    // RFC 3986, section 5.2.4: what a final dot segment leaves is a directory.
    if segments.is_empty() || matches!(path.rsplit('/').next(), Some("" | "." | "..")) {
        canonical.push('/');
    }
    canonical
}

/// The parameters, each name and value decoded and encoded again, in ascending order of the encoded names, then
/// values. A plus sign is itself, not a space.
fn canonical_query(query: &str) -> String {
    let encoded = |text: &str| {
        let mut canonical = String::with_capacity(text.len());
        encode(&mut canonical, Decoded(text.bytes()));
        canonical
    };
    let mut parameters: Vec<(String, String)> = query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (encoded(name), encoded(value))
        })
        .collect();
    parameters.sort();
    let parameters: Vec<String> =
        parameters.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    parameters.join("&")
}

/// Percent-encodes every byte that RFC 3986, section 2.3, does not call unreserved.
fn encode(canonical: &mut String, bytes: impl Iterator<Item = u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        if is_unreserved(byte) {
            canonical.push(char::from(byte));
        } else {
            canonical.push('%');
            canonical.push(char::from(DIGITS[usize::from(byte >> 4)]));
            canonical.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The bytes that a percent-encoded text stands for. A percent sign without two hexadecimal digits is itself.
struct Decoded<'a>(std::str::Bytes<'a>);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let byte = self.0.next()?;
        if byte != b'%' {
            return Some(byte);
        }
        let mut ahead = self.0.clone();
        let mut digit = || ahead.next().and_then(|byte| char::from(byte).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => {
                self.0 = ahead;
                u8::try_from(high << 4 | low).ok()
            }
            _ => Some(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_canonical() {
        for (path, wanted) in [
            ("", "/"),
            ("/", "/"),
            ("//", "/"),
            ("/..", "/"),
            ("/../a", "/a"),
            ("/a/./b/../c", "/a/c"),
            ("//a///b//", "/a/b/"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/a/...", "/a/..."),
            ("/a b", "/a%20b"),
            ("/a%20b", "/a%2520b"),
            ("/@:~", "/%40%3A~"),
            ("a", "/a"),
        ] {
            assert_eq!(canonical_path(path), wanted, "{path:?}");
            let mut hashed = Sha256::new();
            hash_path(&mut hashed, path);
            assert_eq!(hashed.finalize(), Sha256::digest(wanted), "{path:?}");
        }
    }

    #[test]
    fn queries_become_canonical() {
        for (query, wanted) in [
            ("b=2&a=1", "a=1&b=2"),
            ("a=2&a=1", "a=1&a=2"),
            ("a", "a="),
            ("a&&b=", "a=&b="),
            ("a=b=c", "a=b%3Dc"),
            ("%7e=%2F", "~=%2F"),
            ("a=+", "a=%2B"),
            ("a=%&b=%4", "a=%25&b=%254"),
            // Sorted as encoded: Z before the percent sign of é would be wrong.
            ("Z=1&é=2", "%C3%A9=2&Z=1"),
            ("a-b=1&a=2", "a=2&a-b=1"),
        ] {
            assert_eq!(canonical_query(query), wanted, "{query:?}");
        }
    }

    /// HTTP/2's `:authority` stands in for `Host` (RFC 9113, 8.3.1) and for no other header.
    #[test]
    fn the_authority_is_no_other_header() {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-amz-date", http::HeaderValue::from_static("20150830T123600Z"));
        let request = Received {
            method: "POST",
            path: "/",
            query: "",
            headers: &headers,
            authority: Some("example.com"),
            body: b"",
        };
        assert!(hash(&request, "host;x-amz-date", &[b'0'; 64]).is_ok());
        let absent = hash(&request, "host;origin;x-amz-date", &[b'0'; 64]);
        assert_eq!(absent, Err(SigV4Error::SignedHeaderAbsent("origin".to_owned())));
    }

    #[test]
    fn header_values_are_trimmed_and_collapsed() {
        for (value, wanted) in
            [("", ""), ("  ", ""), (" a ", "a"), ("a  b   c", "a b c"), ("a b", "a b"), ("\ta\t", "a")]
        {
            let mut hashed = Sha256::new();
            hash_value(&mut hashed, value.as_bytes());
            assert_eq!(hashed.finalize(), Sha256::digest(wanted), "{value:?}");
        }
    }
}
