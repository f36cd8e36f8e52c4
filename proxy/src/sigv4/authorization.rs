//! The `Authorization` header of AWS Signature Version 4.
//!
//! Place on the map: the first thing [`verify`](super::verify) reads of a request. It borrows from the header.

use super::SigV4Error;

/// What the header claims:
/// `AWS4-HMAC-SHA256 Credential=<id>/<date>/<region>/<service>/aws4_request, SignedHeaders=<names>, Signature=<hex>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization<'a> {
    /// Who claims to have signed.
    pub access_key_id: &'a str,
    /// The credential scope: `date/region/service/aws4_request`.
    pub scope: &'a str,
    /// The scope's day, `YYYYMMDD` when it is right; not checked here.
    pub date: &'a str,
    /// The scope's region.
    pub region: &'a str,
    /// The scope's service.
    pub service: &'a str,
    /// The names of the signed headers, joined by semicolons; not checked here.
    pub signed_headers: &'a str,
    /// The signature, out of 64 lower-case hexadecimal digits.
    pub signature: [u8; 32],
}

impl<'a> Authorization<'a> {
    /// Reads the header's value. The three fields may come in any order; around the commas there may be spaces or
    /// none, as signers differ there.
    ///
    /// # Errors
    /// [`SigV4Error::AuthorizationMalformed`], saying what is wrong.
    pub fn parse(value: &'a [u8]) -> Result<Self, SigV4Error> {
        let malformed = SigV4Error::AuthorizationMalformed;
        let text = std::str::from_utf8(value)
            .ok()
            .filter(|text| text.is_ascii())
            .ok_or(malformed("has a character outside ASCII"))?;
        let fields = text
            .strip_prefix("AWS4-HMAC-SHA256")
            .filter(|rest| rest.starts_with(SPACES))
            .ok_or(malformed("does not begin with the algorithm AWS4-HMAC-SHA256"))?;

        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for field in fields.split(',') {
            let (name, value) = field
                .trim_matches(SPACES)
                .split_once('=')
                .ok_or(malformed("has a field without an equals sign"))?;
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => return Err(malformed("has a field other than Credential, SignedHeaders, Signature")),
            };
            if place.replace(value).is_some() {
                return Err(malformed("has a field twice"));
            }
        }

        let (access_key_id, scope) = credential
            .ok_or(malformed("has no Credential"))?
            .split_once('/')
            .ok_or(malformed("has a Credential without a scope"))?;
        let mut parts = scope.split('/');
        let (Some(date), Some(region), Some(service), Some("aws4_request"), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed(
                "has a Credential that is not <id>/<date>/<region>/<service>/aws4_request",
            ));
        };
        Ok(Self {
            access_key_id,
            scope,
            date,
            region,
            service,
            signed_headers: signed_headers.ok_or(malformed("has no SignedHeaders"))?,
            signature: signature.ok_or(malformed("has no Signature")).and_then(|text| {
                unhex(text).ok_or(malformed("has a Signature that is not 64 digits of 0-9 a-f"))
            })?,
        })
    }
}

const SPACES: [char; 2] = [' ', '\t'];

fn unhex(text: &str) -> Option<[u8; 32]> {
    fn digit(byte: u8) -> Option<u8> {
        match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        }
    }
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "Credential=AKID/20150830/us-east-1/service/aws4_request";
    const SIGNATURE: &str = "Signature=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn spacing_and_order_vary_between_signers() {
        let wanted = Authorization {
            access_key_id: "AKID",
            scope: "20150830/us-east-1/service/aws4_request",
            date: "20150830",
            region: "us-east-1",
            service: "service",
            signed_headers: "host;x-amz-date",
            signature: std::array::from_fn(|i| 0x11 * u8::try_from(i % 16).unwrap()),
        };
        for text in [
            format!("AWS4-HMAC-SHA256 {ID}, SignedHeaders=host;x-amz-date, {SIGNATURE}"),
            format!("AWS4-HMAC-SHA256 {ID},SignedHeaders=host;x-amz-date,{SIGNATURE}"),
            format!("AWS4-HMAC-SHA256\t {ID} ,  SignedHeaders=host;x-amz-date\t, {SIGNATURE}  "),
            format!("AWS4-HMAC-SHA256 {SIGNATURE}, {ID}, SignedHeaders=host;x-amz-date"),
        ] {
            assert_eq!(Authorization::parse(text.as_bytes()).as_ref(), Ok(&wanted), "{text}");
        }
    }

    #[test]
    fn every_other_form_is_refused_with_its_reason() {
        let signature = |text: &str| format!("AWS4-HMAC-SHA256 {ID}, SignedHeaders=host, Signature={text}");
        let credential =
            |text: &str| format!("AWS4-HMAC-SHA256 Credential={text}, SignedHeaders=host, {SIGNATURE}");
        for (text, reason) in [
            (String::new(), "algorithm"),
            ("Bearer abc".into(), "algorithm"),
            (format!("AWS4-HMAC-SHA256{ID}"), "algorithm"),
            (format!("AWS4-ECDSA-P256-SHA256 {ID}, SignedHeaders=host, {SIGNATURE}"), "algorithm"),
            ("AWS4-HMAC-SHA256 é".into(), "ASCII"),
            ("AWS4-HMAC-SHA256 ".into(), "equals"),
            (format!("AWS4-HMAC-SHA256 {ID}, SignedHeaders=host, {SIGNATURE},"), "equals"),
            (format!("AWS4-HMAC-SHA256 {ID}, signedheaders=host, {SIGNATURE}"), "other than"),
            (format!("AWS4-HMAC-SHA256 {ID}, {ID}, SignedHeaders=host, {SIGNATURE}"), "twice"),
            (format!("AWS4-HMAC-SHA256 SignedHeaders=host, {SIGNATURE}"), "no Credential"),
            (format!("AWS4-HMAC-SHA256 {ID}, {SIGNATURE}"), "no SignedHeaders"),
            (format!("AWS4-HMAC-SHA256 {ID}, SignedHeaders=host"), "no Signature"),
            (credential("AKID"), "without a scope"),
            (credential("AKID/20150830/us-east-1/service"), "is not <id>"),
            (credential("AKID/20150830/us-east-1/service/aws5_request"), "is not <id>"),
            (credential("AKID/20150830/us-east-1/service/aws4_request/"), "is not <id>"),
            (signature(&"0".repeat(63)), "64 digits"),
            (signature(&"0".repeat(65)), "64 digits"),
            (signature(&"A".repeat(64)), "64 digits"),
            (signature(&"g".repeat(64)), "64 digits"),
        ] {
            match Authorization::parse(text.as_bytes()) {
                Err(SigV4Error::AuthorizationMalformed(found)) => {
                    assert!(found.contains(reason), "{text:?}: {found:?} does not say {reason:?}");
                }
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }
}
