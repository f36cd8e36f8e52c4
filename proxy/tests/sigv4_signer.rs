//! Our verification against an independent signer, the `aws-sigv4` crate, and every reason to refuse (XKS-AUTH-1 to
//! XKS-AUTH-5).

#![expect(clippy::unwrap_used, reason = "the helpers of tests may fail as loudly as tests")]

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use std::time::{Duration, UNIX_EPOCH};
use xks_proxy::env::UnixTime;
use xks_proxy::secret::Secret;
use xks_proxy::sigv4::{Credential, Received, SigV4Error, verify};

const ID: &str = "BETWEEN2AND7ABCDEFGHIJ";
const SECRET: &str = "PR2Esecretsecretsecretsecretsecretsecret+/=";
const REGION: &str = "eu-west-1";
const PATH: &str = "/example/kms/xks/v1/keys/a-key.1/encrypt";
const NOW_SECS: u64 = 1_780_000_000;

/// A request to sign, and then to change.
#[derive(Clone, Debug)]
struct Request {
    method: String,
    path: String,
    query: String,
    headers: HeaderMap,
    authority: Option<String>,
    body: Vec<u8>,
}

impl Request {
    /// What KMS sends, unsigned.
    fn encrypt() -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("xks.example.com:8443"));
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let body = br#"{"requestMetadata":{},"plaintext":"","encryptionAlgorithm":"AES_GCM"}"#.to_vec();
        Self {
            method: "POST".into(),
            path: PATH.into(),
            query: String::new(),
            headers,
            authority: None,
            body,
        }
    }

    fn signed(self) -> Self {
        self.signed_by(ID, SECRET, REGION, "kms-xks-proxy", NOW_SECS, PayloadChecksumKind::NoHeader)
    }

    fn signed_by(
        mut self,
        id: &str,
        secret: &str,
        region: &str,
        service: &str,
        secs: u64,
        checksum: PayloadChecksumKind,
    ) -> Self {
        let identity = Credentials::from_keys(id, secret, None).into();
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = checksum;
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(service)
            .time(UNIX_EPOCH + Duration::from_secs(secs))
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let authority = self.authority.clone();
        let host =
            authority.or_else(|| Some(self.headers.get("host")?.to_str().unwrap().to_owned())).unwrap();
        let question = if self.query.is_empty() { "" } else { "?" };
        let uri = format!("https://{host}{}{question}{}", self.path, self.query);
        let headers: Vec<(String, String)> = self
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        let signable = SignableRequest::new(
            &self.method,
            uri,
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str())),
            SignableBody::Bytes(&self.body),
        )
        .unwrap();
        let (instructions, _) = sign(signable, &params).unwrap().into_parts();
        for (name, value) in instructions.headers() {
            self.headers.insert(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        self
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, HeaderValue::from_str(value).unwrap());
        self
    }

    /// Changes the `Authorization` header.
    fn authorization(self, from: &str, to: &str) -> Self {
        let before = self.headers["authorization"].to_str().unwrap();
        assert!(before.contains(from), "{from:?} is not in {before:?}");
        let after = before.replacen(from, to, 1);
        self.header("authorization", &after)
    }

    fn verify_at(&self, credentials: &[Credential], now_secs: u64) -> Result<String, SigV4Error> {
        let received = Received {
            method: &self.method,
            path: &self.path,
            query: &self.query,
            headers: &self.headers,
            authority: self.authority.as_deref(),
            body: &self.body,
        };
        let now = UnixTime(Duration::from_secs(now_secs));
        verify(&received, credentials, Some(REGION), now).map(|id| id.to_string())
    }

    fn verify(&self) -> Result<String, SigV4Error> {
        self.verify_at(&[credential(ID, SECRET)], NOW_SECS)
    }
}

fn credential(id: &str, secret: &str) -> Credential {
    Credential::new(id, Secret::new(secret.into())).unwrap()
}

#[test]
fn what_kms_sends_is_accepted() {
    assert_eq!(Request::encrypt().signed().verify().as_deref(), Ok(ID));
}

#[test]
fn the_authority_of_http2_stands_in_for_host() {
    let mut request = Request::encrypt();
    request.headers.remove("host");
    request.authority = Some("xks.example.com:8443".into());
    let mut request = request.signed();
    assert_eq!(request.verify().as_deref(), Ok(ID));
    request.authority = Some("xks.example.com".into());
    assert_eq!(request.verify(), Err(SigV4Error::SignatureWrong(ID.into())));
    request.authority = None;
    assert_eq!(request.verify(), Err(SigV4Error::SignedHeaderAbsent("host".into())));
}

#[test]
fn a_signed_content_hash_must_be_the_bodys() {
    let sign = |request: Request| {
        request.signed_by(ID, SECRET, REGION, "kms-xks-proxy", NOW_SECS, PayloadChecksumKind::XAmzSha256)
    };
    let request = sign(Request::encrypt());
    assert!(request.headers.contains_key("x-amz-content-sha256"));
    assert_eq!(request.verify().as_deref(), Ok(ID));
    let mut changed = request.clone();
    changed.body.push(b' ');
    assert_eq!(changed.verify(), Err(SigV4Error::ContentHashWrong));
    let unsigned_payload = request.header("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
    assert_eq!(unsigned_payload.verify(), Err(SigV4Error::ContentHashWrong));
    // Not signed, it says nothing.
    let stranger = Request::encrypt().signed().header("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
    assert_eq!(stranger.verify().as_deref(), Ok(ID));
}

#[test]
fn five_minutes_of_skew_are_allowed_either_way() {
    let request = Request::encrypt().signed();
    let at = |now_secs| request.verify_at(&[credential(ID, SECRET)], now_secs);
    for skew in [0, 1, 299, 300] {
        assert_eq!(at(NOW_SECS + skew).as_deref(), Ok(ID), "{skew}");
        assert_eq!(at(NOW_SECS - skew).as_deref(), Ok(ID), "-{skew}");
    }
    assert_eq!(at(NOW_SECS + 301), Err(SigV4Error::Skewed { ahead_secs: -301 }));
    assert_eq!(at(NOW_SECS - 301), Err(SigV4Error::Skewed { ahead_secs: 301 }));
    assert_eq!(at(0), Err(SigV4Error::Skewed { ahead_secs: 1_780_000_000 }));
    assert!(at(u64::MAX).is_err());
}

#[test]
fn the_authorization_header_stands_once() {
    let request = Request::encrypt();
    assert_eq!(request.verify(), Err(SigV4Error::AuthorizationAbsent));
    let mut twice = request.signed();
    let value = twice.headers["authorization"].clone();
    twice.headers.append("authorization", value);
    assert_eq!(twice.verify(), Err(SigV4Error::AuthorizationRepeated));
}

#[test]
fn host_and_date_must_be_signed_and_the_list_in_order() {
    let names = "content-type;host;x-amz-date";
    let with = |list| Request::encrypt().signed().authorization(names, list).verify();
    assert_eq!(with("content-type;x-amz-date"), Err(SigV4Error::NotSigned("host")));
    assert_eq!(with("content-type;host"), Err(SigV4Error::NotSigned("x-amz-date")));
    for list in
        ["", "host;content-type;x-amz-date", "host;host;x-amz-date", "Host;x-amz-date", "host;x-amz-date;"]
    {
        assert!(matches!(with(list), Err(SigV4Error::AuthorizationMalformed(_))), "{list:?}");
    }
    assert_eq!(with("host;x-absent;x-amz-date"), Err(SigV4Error::SignedHeaderAbsent("x-absent".into())));
    assert_eq!(with("host;not a name;x-amz-date"), Err(SigV4Error::SignedHeaderAbsent("not a name".into())));
    assert_eq!(with("host;x-amz-date"), Err(SigV4Error::SignatureWrong(ID.into())));
}

#[test]
fn the_date_stands_once_and_is_the_scopes() {
    let request = Request::encrypt().signed();
    assert_eq!(
        request.clone().authorization("/20260528/", "/20260529/").verify(),
        Err(SigV4Error::ScopeDateWrong("20260529".into()))
    );
    assert_eq!(request.clone().header("x-amz-date", "2026-05-28").verify(), Err(SigV4Error::DateMalformed));
    let mut twice = request.clone();
    twice.headers.append("x-amz-date", request.headers["x-amz-date"].clone());
    assert_eq!(twice.verify(), Err(SigV4Error::DateMalformed));
    let mut absent = request;
    absent.headers.remove("x-amz-date");
    assert_eq!(absent.verify(), Err(SigV4Error::DateMalformed));
}

#[test]
fn region_and_service_are_the_configured_ones() {
    let signed = |region, service| {
        Request::encrypt().signed_by(ID, SECRET, region, service, NOW_SECS, PayloadChecksumKind::NoHeader)
    };
    let elsewhere = signed("us-east-1", "kms-xks-proxy");
    assert_eq!(elsewhere.verify(), Err(SigV4Error::RegionWrong("us-east-1".into())));
    let received = Received {
        method: &elsewhere.method,
        path: &elsewhere.path,
        query: "",
        headers: &elsewhere.headers,
        authority: None,
        body: &elsewhere.body,
    };
    let now = UnixTime(Duration::from_secs(NOW_SECS));
    assert_eq!(verify(&received, &[credential(ID, SECRET)], None, now).unwrap().as_str(), ID);
    assert_eq!(signed(REGION, "kms").verify(), Err(SigV4Error::ServiceWrong("kms".into())));
}

#[test]
fn every_credential_of_the_store_works_and_no_other() {
    let other_id = "K2ANOTHERID3XXXXXXXX";
    let other_secret = "another".repeat(7);
    let both = [credential(other_id, &other_secret), credential(ID, SECRET)];
    let signed = |id, secret| {
        Request::encrypt().signed_by(
            id,
            secret,
            REGION,
            "kms-xks-proxy",
            NOW_SECS,
            PayloadChecksumKind::NoHeader,
        )
    };
    let wrong = |id: &str| Err(SigV4Error::SignatureWrong(id.into()));
    // Twice, so that the second round meets the remembered signing keys.
    for _ in 0..2 {
        assert_eq!(signed(ID, SECRET).verify_at(&both, NOW_SECS).as_deref(), Ok(ID));
        assert_eq!(signed(other_id, &other_secret).verify_at(&both, NOW_SECS).as_deref(), Ok(other_id));
        // Each id with the other's secret.
        assert_eq!(signed(other_id, SECRET).verify_at(&both, NOW_SECS), wrong(other_id));
        assert_eq!(signed(ID, &other_secret).verify_at(&both, NOW_SECS), wrong(ID));
        // An unknown id with the secret its HMAC is made with: the first credential's.
        let unknown = "UNKNOWNUNKNOWNUNKNOWN";
        assert_eq!(
            signed(unknown, &other_secret).verify_at(&both, NOW_SECS),
            Err(SigV4Error::UnknownAccessKey(unknown.into()))
        );
    }
    assert_eq!(signed(ID, SECRET).verify_at(&[], NOW_SECS), Err(SigV4Error::UnknownAccessKey(ID.into())));
    // A request of the next day, after the first day's signing key has been remembered.
    let tomorrow = NOW_SECS + 86_400;
    let request = Request::encrypt().signed_by(
        ID,
        SECRET,
        REGION,
        "kms-xks-proxy",
        tomorrow,
        PayloadChecksumKind::NoHeader,
    );
    assert_eq!(request.verify_at(&both, tomorrow).as_deref(), Ok(ID));
}

#[test]
fn errors_hold_no_secret_and_are_short() {
    let long = "x".repeat(5_000);
    let request = Request::encrypt().signed();
    for error in [
        request.clone().authorization(ID, &long).verify().unwrap_err(),
        request.clone().authorization(REGION, &long).verify().unwrap_err(),
        request.authorization("content-type;host", &format!("host;{long}")).verify().unwrap_err(),
        Request::encrypt()
            .signed_by(
                ID,
                &"wrong".repeat(9),
                REGION,
                "kms-xks-proxy",
                NOW_SECS,
                PayloadChecksumKind::NoHeader,
            )
            .verify()
            .unwrap_err(),
    ] {
        let text = format!("{error} {error:?}");
        assert!(text.len() < 500 && !text.contains(SECRET), "{text}");
    }
    let printed = format!("{:?}", credential(ID, SECRET));
    assert!(printed.contains(ID) && !printed.contains(SECRET), "{printed}");
}

#[test]
fn credentials_follow_auth_3() {
    let new = |id: &str, secret: &str| Credential::new(id, Secret::new(secret.into()));
    assert!(new(&"A".repeat(20), &"b".repeat(43)).is_ok());
    assert!(new(&"7".repeat(30), &"+/=".repeat(21)).is_ok());
    for id in ["", &"A".repeat(19), &"A".repeat(31), &"a".repeat(20), &"1".repeat(20), &"É".repeat(10)] {
        let error = new(id, SECRET).unwrap_err().to_string();
        assert!(error.contains("access key id"), "{error}");
    }
    let swapped = new(SECRET, ID).unwrap_err().to_string();
    assert!(!swapped.contains(SECRET), "{swapped}");
    for secret in [String::new(), "b".repeat(42), "b".repeat(65), "-".repeat(43), "é".repeat(22)] {
        let error = new(ID, &secret).unwrap_err().to_string();
        assert!(error.contains("secret access key") && error.contains(ID), "{error}");
        assert!(secret.is_empty() || !error.contains(&secret), "{error}");
    }
}

/// One change to one signed part of a request.
#[derive(Clone, Debug)]
enum Change {
    Method,
    Body(usize, u8),
    BodyLonger,
    Path(usize),
    PathLonger,
    Query,
    Header(usize),
    HeaderAgain(usize),
    HeaderGone(usize),
    Second,
    Day,
    Region,
    Signature(usize, u8),
    Secret,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::Method),
        (any::<usize>(), 1..=255_u8).prop_map(|(at, by)| Change::Body(at, by)),
        Just(Change::BodyLonger),
        any::<usize>().prop_map(Change::Path),
        Just(Change::PathLonger),
        Just(Change::Query),
        any::<usize>().prop_map(Change::Header),
        any::<usize>().prop_map(Change::HeaderAgain),
        any::<usize>().prop_map(Change::HeaderGone),
        Just(Change::Second),
        Just(Change::Day),
        Just(Change::Region),
        (any::<usize>(), 1..=15_u8).prop_map(|(at, by)| Change::Signature(at, by)),
        Just(Change::Secret),
    ]
}

/// Paths, queries and header values in the forms a signer and an HTTP stack both leave alone.
fn request() -> impl Strategy<Value = Request> {
    let name = "x-[a-z]{1,8}";
    let value = "[!-~]{1,10}( {1,3}[!-~]{1,10}){0,3}";
    (
        prop_oneof![Just("GET"), Just("POST"), Just("PUT")],
        "(/[A-Za-z0-9_~-]{1,12}){0,6}(/(\\.|\\.\\.)/[a-z@:%]{0,2}%2[0-9A-F])?/?",
        prop::option::of(
            "[A-Za-z0-9_.~-]{1,6}=[A-Za-z0-9_.~-]{0,6}(&[A-Za-z0-9_.~-]{1,6}=(%2F|%E1%88%B4)?){0,3}",
        ),
        prop::collection::vec((name, value), 0..6),
        any::<bool>(),
        prop::collection::vec(any::<u8>(), 0..300),
    )
        .prop_map(|(method, path, query, extra, http2, body)| {
            let mut headers = HeaderMap::new();
            for (name, value) in extra {
                headers.append(
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(&value).unwrap(),
                );
            }
            let host = "proxy.example.org:9443".to_owned();
            if !http2 {
                headers.insert("host", HeaderValue::from_str(&host).unwrap());
            }
            let path = if path.is_empty() { "/".to_owned() } else { path };
            Request {
                method: method.into(),
                path,
                query: query.unwrap_or_default(),
                headers,
                authority: http2.then_some(host),
                body,
            }
        })
}

/// Years 1970 to 2100.
const SECS: std::ops::Range<u64> = 0..4_102_444_800;

proptest! {
    #[test]
    fn what_the_signer_signs_is_accepted(
        request in request(),
        id in "[A-Z2-7]{20,30}",
        secret in "[A-Za-z0-9/+=]{43,64}",
        secs in SECS,
        skew in -300_i64..=300,
        hashed in any::<bool>(),
    ) {
        let checksum = if hashed { PayloadChecksumKind::XAmzSha256 } else { PayloadChecksumKind::NoHeader };
        let signed = request.signed_by(&id, &secret, REGION, "kms-xks-proxy", secs, checksum);
        let now = secs.saturating_add_signed(skew);
        let credentials = [credential(ID, SECRET), credential(&id, &secret)];
        // The second answer comes from the remembered signing key.
        prop_assert_eq!(signed.verify_at(&credentials, now), Ok(id.clone()));
        prop_assert_eq!(signed.verify_at(&credentials, now), Ok(id));
    }

    #[test]
    fn a_change_of_any_signed_part_is_refused(
        request in request(),
        change in change(),
        secs in SECS,
        warm in any::<bool>(),
    ) {
        let sign = |request: Request, secs| {
            request.signed_by(ID, SECRET, REGION, "kms-xks-proxy", secs, PayloadChecksumKind::NoHeader)
        };
        let signed = sign(request.clone(), secs);
        let right = [credential(ID, SECRET)];
        if warm {
            prop_assert_eq!(signed.verify_at(&right, secs), Ok(ID.to_owned()));
        }
        let authorization = signed.headers["authorization"].to_str().unwrap().to_owned();
        let (unsigned, signature) = authorization.rsplit_once('=').unwrap();
        let extra: Vec<HeaderName> = request.headers.keys().cloned().collect();
        let pick = |at: usize| (!extra.is_empty()).then(|| extra[at % extra.len()].clone());

        let mut changed = signed.clone();
        let mut credentials = right;
        match change {
            Change::Method => changed.method.push('X'),
            Change::Body(at, by) => {
                let len = changed.body.len();
                prop_assume!(len > 0);
                changed.body[at % len] ^= by;
            }
            Change::BodyLonger => changed.body.push(0),
            Change::Path(at) => {
                // Any letter, so that no dot segment arises.
                let letters: Vec<usize> =
                    changed.path.bytes().enumerate().filter(|(_, b)| b.is_ascii_alphanumeric()).map(|(i, _)| i).collect();
                // What stands before a `..` does not count.
                prop_assume!(!letters.is_empty() && !changed.path.contains("/../"));
                let at = letters[at % letters.len()];
                let other = if changed.path.as_bytes()[at] == b'a' { "b" } else { "a" };
                changed.path.replace_range(at..=at, other);
            }
            Change::PathLonger => changed.path.push('x'),
            Change::Query => changed.query.push_str("&extra=1"),
            Change::Header(at) => {
                let Some(name) = pick(at) else { return Err(TestCaseError::reject("no header")) };
                let before = changed.headers[&name].to_str().unwrap().to_owned();
                let value = HeaderValue::from_str(&format!("{before}x")).unwrap();
                *changed.headers.get_mut(&name).unwrap() = value;
            }
            Change::HeaderAgain(at) => {
                let Some(name) = pick(at) else { return Err(TestCaseError::reject("no header")) };
                let value = changed.headers[&name].clone();
                changed.headers.append(name, value);
            }
            Change::HeaderGone(at) => {
                let Some(name) = pick(at) else { return Err(TestCaseError::reject("no header")) };
                changed.headers.remove(name);
            }
            Change::Second => {
                let date = sign(request, secs ^ 1).headers["x-amz-date"].clone();
                changed.headers.insert("x-amz-date", date);
            }
            Change::Day => {
                // The next day in both places, as a replay would have it.
                let next = sign(request, secs + 86_400);
                let scope = next.headers["authorization"].to_str().unwrap().rsplit_once('=').unwrap().0;
                let value = format!("{scope}={signature}");
                changed.headers.insert("x-amz-date", next.headers["x-amz-date"].clone());
                changed = changed.header("authorization", &value);
                prop_assert_eq!(
                    changed.verify_at(&credentials, secs + 86_400),
                    Err(SigV4Error::SignatureWrong(ID.into()))
                );
            }
            Change::Region => changed = changed.authorization(REGION, "eu-west-2"),
            Change::Signature(at, by) => {
                let at = at % 64;
                let digit = u8::from_str_radix(&signature[at..=at], 16).unwrap() ^ by;
                let value = format!("{unsigned}={}{digit:x}{}", &signature[..at], &signature[at + 1..]);
                changed = changed.header("authorization", &value);
            }
            Change::Secret => credentials = [credential(ID, &SECRET.replace("PR2E", "PR2F"))],
        }
        prop_assert!(changed.verify_at(&credentials, secs).is_err());
        prop_assert_eq!(signed.verify_at(&[credential(ID, SECRET)], secs), Ok(ID.to_owned()));
    }
}
