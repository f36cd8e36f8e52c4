//! AWS's published test vectors, in sigv4_vectors.txt, against our verification (XKS-AUTH-1).

#![expect(clippy::unwrap_used, reason = "the helpers of tests may fail as loudly as tests")]

use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;
use xks_proxy::env::UnixTime;
use xks_proxy::secret::Secret;
use xks_proxy::sigv4::{Credential, Received, SigV4Error, verify_for_service};

/// 2015-08-30T12:36:00Z, when all vectors were signed.
const NOW: UnixTime = UnixTime(Duration::from_secs(1_440_938_160));

struct Vector<'a> {
    name: &'a str,
    method: &'a str,
    target: &'a str,
    headers: HeaderMap,
    body: &'a [u8],
}

fn parse(block: &str) -> Vector<'_> {
    let mut lines = block.lines();
    let name = lines.next().unwrap();
    let (method, target) = lines.next().unwrap().split_once(' ').unwrap();
    let mut vector = Vector { name, method, target, headers: HeaderMap::new(), body: b"" };
    vector.headers.insert("x-amz-date", HeaderValue::from_static("20150830T123600Z"));
    for line in lines {
        if line.starts_with("Credential=") {
            let value = format!("AWS4-HMAC-SHA256 {line}");
            vector.headers.append("authorization", value.parse().unwrap());
        } else if let Some(body) = line.strip_prefix("body=") {
            vector.body = body.as_bytes();
        } else {
            let (header, value) = line.split_once(':').unwrap();
            let header = HeaderName::from_bytes(header.as_bytes()).unwrap();
            vector.headers.append(header, value.parse().unwrap());
        }
    }
    if !vector.headers.contains_key("host") {
        vector.headers.insert("host", HeaderValue::from_static("example.amazonaws.com"));
    }
    vector
}

fn vectors() -> impl Iterator<Item = Vector<'static>> {
    include_str!("sigv4_vectors.txt").split("\n\n").filter(|block| !block.starts_with('#')).map(parse)
}

fn verify(vector: &Vector<'_>, credentials: &[Credential]) -> Result<String, SigV4Error> {
    let (path, query) = vector.target.split_once('?').unwrap_or((vector.target, ""));
    let received = Received {
        method: vector.method,
        path,
        query,
        headers: &vector.headers,
        authority: None,
        body: vector.body,
    };
    verify_for_service(&received, credentials, "service", Some("us-east-1"), NOW)
        .map(|access_key_id| access_key_id.to_string())
}

fn credentials() -> [Credential; 2] {
    [
        ("ANOTREAL", "notrealrnrELgWzOk3IfjzDKtFBhDby"),
        ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
    ]
    .map(|(id, secret)| Credential::unchecked(id, Secret::new(secret.into())))
}

#[test]
fn aws_vectors_verify() {
    let credentials = credentials();
    let mut verified = 0;
    for vector in vectors().filter(|vector| !is_for_s3(vector)) {
        let id = verify(&vector, &credentials).unwrap_or_else(|error| panic!("{}: {error}", vector.name));
        assert_eq!(id, if vector.name == "double-encode-path" { "ANOTREAL" } else { "AKIDEXAMPLE" });
        verified += 1;
    }
    assert_eq!(verified, 33);
}

/// S3 signs the path as it is. No other service does, so these signatures are wrong for us.
#[test]
fn aws_vectors_for_s3_do_not_verify() {
    let credentials = credentials();
    let mut refused = 0;
    for vector in vectors().filter(is_for_s3) {
        let error = verify(&vector, &credentials).expect_err(vector.name);
        assert!(matches!(error, SigV4Error::SignatureWrong(_)), "{}: {error}", vector.name);
        refused += 1;
    }
    assert_eq!(refused, 6);
}

/// A space in the path needs no normalisation, so that vector holds for every service.
fn is_for_s3(vector: &Vector<'_>) -> bool {
    vector.name.ends_with("-unnormalized") && vector.name != "get-space-unnormalized"
}
