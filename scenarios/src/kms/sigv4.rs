//! KMS's own SigV4 signer, written from AWS's description of the algorithm and not from the proxy's verifier, so that
//! one misreading cannot cancel another.
//!
//! Place on the map: [`model`](super::model) signs every request to the proxy with it, service `kms-xks-proxy`
//! (XKS-AUTH-1).

use crate::sha256;
use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use std::cell::RefCell;
use xks_proxy::env::UnixTime;
use xks_proxy::secret::Secret;

/// The service name in every credential scope (XKS-AUTH-1).
pub const SERVICE: &str = "kms-xks-proxy";

/// The credential that the key store's owner gave to KMS, with the signing key of the current day.
pub struct Signer {
    access_key_id: String,
    secret: Secret,
    region: String,
    service: String,
    /// The signing key changes once a day; deriving it costs four HMACs, so it is kept ready keyed.
    today: RefCell<Option<(u64, Key)>>,
}

/// What a signature adds to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// `x-amz-date`, such as `20260307T120000Z`.
    pub date: String,
    /// The value of the `authorization` header.
    pub authorization: String,
}

impl Signer {
    /// For service [`SERVICE`].
    pub fn new(access_key_id: &str, secret: Secret, region: &str) -> Self {
        Self::for_service(access_key_id, secret, region, SERVICE)
    }

    /// For any service: what KMS never asks for, and a proxy must refuse.
    pub fn for_service(access_key_id: &str, secret: Secret, region: &str, service: &str) -> Self {
        Self {
            access_key_id: access_key_id.to_owned(),
            secret,
            region: region.to_owned(),
            service: service.to_owned(),
            today: RefCell::new(None),
        }
    }

    /// Signs a request without a query string. `path` must need no percent-encoding, which holds for every URI of the
    /// XKS API (XKS-NET-4, XKS-NET-5). `headers` are the headers to sign besides `x-amz-date`: lower-case names in
    /// alphabetical order, values without runs of spaces; `host` must be among them.
    pub fn sign(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        now: UnixTime,
    ) -> Signature {
        self.sign_with_query(method, path, "", headers, body, now)
    }

    /// As [`Signer::sign`], for any path and query string, given in canonical form.
    pub fn sign_with_query(
        &self,
        method: &str,
        canonical_path: &str,
        canonical_query: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        now: UnixTime,
    ) -> Signature {
        let date = amz_date(now);
        let day = &date[..8];
        let mut canonical = String::with_capacity(512);
        let mut names = String::with_capacity(64);
        canonical.extend([method, "\n", canonical_path, "\n", canonical_query, "\n"]);
        let (before, after) = headers.split_at(headers.partition_point(|(name, _)| *name < "x-amz-date"));
        for (name, value) in before.iter().chain([&("x-amz-date", date.as_str())]).chain(after) {
            canonical.extend([*name, ":", value.trim(), "\n"]);
            if !names.is_empty() {
                names.push(';');
            }
            names.push_str(name);
        }
        canonical.extend(["\n", &names, "\n"]);
        push_hex(&mut canonical, &sha256::of(&[body]));

        let scope = [day, "/", &self.region, "/", &self.service, "/aws4_request"].concat();
        let mut to_sign = ["AWS4-HMAC-SHA256\n", &date, "\n", &scope, "\n"].concat();
        push_hex(&mut to_sign, &sha256::of(&[canonical.as_bytes()]));

        let signature = hmac::sign(&self.signing_key(now.secs() / 86_400, day), to_sign.as_bytes());
        let mut authorization = [
            "AWS4-HMAC-SHA256 Credential=",
            &self.access_key_id,
            "/",
            &scope,
            ", SignedHeaders=",
            &names,
            ", Signature=",
        ]
        .concat();
        push_hex(&mut authorization, signature.as_ref());
        Signature { date, authorization }
    }

    fn signing_key(&self, day_number: u64, day: &str) -> Key {
        let mut today = self.today.borrow_mut();
        if let Some((number, key)) = today.as_ref()
            && *number == day_number
        {
            return key.clone();
        }
        let mut key = Key::new(HMAC_SHA256, ["AWS4", self.secret.expose()].concat().as_bytes());
        for part in [day, &self.region, &self.service, "aws4_request"] {
            key = Key::new(HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        *today = Some((day_number, key.clone()));
        key
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// `YYYYMMDDTHHMMSSZ` in the Gregorian calendar.
fn amz_date(now: UnixTime) -> String {
    let secs = now.secs();
    let (mut days, second) = (secs / 86_400, secs % 86_400);
    let mut year = 1970;
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while days >= if leap(year) { 366 } else { 365 } {
        days -= if leap(year) { 366 } else { 365 };
        year += 1;
    }
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{:02}T{hour:02}{minute:02}{second:02}Z", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(secs: u64) -> UnixTime {
        UnixTime(Duration::from_secs(secs))
    }

    #[test]
    fn dates_follow_the_calendar() {
        // Each pair as `date -u -d @N +%Y%m%dT%H%M%SZ` prints it.
        for (secs, date) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (951_868_799, "20000229T235959Z"),
            (951_868_800, "20000301T000000Z"),
            (1_440_938_160, "20150830T123600Z"),
            (4_107_542_399, "21000228T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
            (1_798_761_599, "20261231T235959Z"),
        ] {
            assert_eq!(amz_date(at(secs)), date);
        }
    }

    /// `get-vanilla` and `post-vanilla` of AWS's published Signature Version 4 test suite.
    #[test]
    fn signatures_are_those_of_the_published_suite() {
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into());
        let signer = Signer::for_service("AKIDEXAMPLE", secret, "us-east-1", "service");
        for (method, signature) in [
            ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ] {
            let signed =
                signer.sign(method, "/", &[("host", "example.amazonaws.com")], b"", at(1_440_938_160));
            assert_eq!(
                signed.authorization,
                format!(
                    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                     SignedHeaders=host;x-amz-date, Signature={signature}"
                )
            );
        }
    }

    #[test]
    fn the_cached_key_follows_the_day() {
        let signer = |()| Signer::new("AKIAIOSFODNN7EXAMPLE", Secret::new("x".repeat(43)), "eu-west-1");
        let kept = signer(());
        for secs in [0, 86_399, 86_400, 3] {
            let headers = [("content-type", "application/json"), ("host", "proxy.example")];
            let once = signer(()).sign("POST", "/kms/xks/v1/health", &headers, b"{}", at(secs));
            let again = kept.sign("POST", "/kms/xks/v1/health", &headers, b"{}", at(secs));
            assert_eq!(once, again);
            assert!(once.authorization.contains("SignedHeaders=content-type;host;x-amz-date,"));
        }
    }
}
