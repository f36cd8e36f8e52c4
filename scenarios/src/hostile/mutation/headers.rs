//! Methods and header fields, signed as they should be (XKS-NET-1, XKS-NET-3, XKS-AUTH-1).

use super::super::case::{Expected, Operation, Target};
use super::super::finding::FindingKind;
use super::super::request::Request;
use super::super::signing::Signing;
use super::{AUTHENTICATION, INVALID_PATH, Mutation, UNSUPPORTED, VALIDATION, valid};

type Change = fn(&mut Request);

pub(super) fn mutations() -> Vec<Mutation> {
    let mut mutations = Vec::new();
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "post"] {
        mutations.push(Mutation::new(move |seeds, random| {
            let errors = [VALIDATION, INVALID_PATH, UNSUPPORTED, AUTHENTICATION];
            let expected = Expected::error("XKS-NET-3", &errors).http(&[400, 403, 405, 501]);
            let name = format!("the method is {method}");
            let mut case = valid(seeds, random, Target::Headers, Operation::Encrypt, name, expected);
            case.request.method = method.into();
            case
        }));
    }
    // Changed before it was signed, so that the signature holds: must be served.
    let harmless: [(&str, Change); 7] = [
        ("an unknown field, unsigned", |request| request.set("X-Unknown", "1")),
        ("an unknown field, signed", |request| {
            request.set("X-Unknown", "1");
            request.signed.push("x-unknown".into());
        }),
        ("a signed field with runs of spaces", |request| {
            request.set("X-Unknown", "a   b    c");
            request.signed.push("x-unknown".into());
        }),
        ("field names in capitals", |request| {
            for (name, _) in &mut request.headers {
                name.make_ascii_uppercase();
            }
        }),
        ("a user agent and X-Forwarded-For", |request| {
            request.set("User-Agent", "aws-kms");
            request.set("X-Forwarded-For", "192.0.2.1");
        }),
        ("Connection: close", |request| request.set("Connection", "close")),
        ("twenty more fields", |request| {
            for number in 0..20 {
                request.set(&format!("X-More-{number}"), "1");
            }
        }),
    ];
    for (name, change) in harmless {
        mutations.push(Mutation::new(move |seeds, random| {
            let operation = Operation::Encrypt;
            let expected = Expected::success("XKS-AUTH-1", seeds.shape(operation));
            let mut case = valid(seeds, random, Target::Headers, operation, name, expected);
            change(&mut case.request);
            case
        }));
    }
    let doubtful: [(&str, Change); 19] = [
        ("Content-Type missing", |request| request.remove("content-type")),
        ("Content-Type text/html", |request| request.set("content-type", "text/html")),
        ("Content-Type of a form", |request| {
            request.set("content-type", "application/x-www-form-urlencoded");
        }),
        ("Content-Type empty", |request| request.set("content-type", "")),
        ("Content-Type with a parameter", |request| {
            request.set("content-type", "application/json; charset=utf-8");
        }),
        ("Content-Type twice", |request| {
            request.headers.push(("Content-Type".into(), "text/html".into()));
        }),
        ("Host missing", |request| request.remove("host")),
        ("Host twice", |request| request.headers.push(("Host".into(), "xks-proxy.example.com".into()))),
        ("Host of somebody else", |request| request.set("host", "xks-proxy.example.com")),
        ("Host empty", |request| request.set("host", "")),
        ("Host with a path", |request| request.set("host", "xks-proxy.example.com/x")),
        ("Content-Encoding gzip over plain JSON", |request| request.set("Content-Encoding", "gzip")),
        ("Upgrade to a web socket", |request| {
            request.set("Connection", "Upgrade");
            request.set("Upgrade", "websocket");
        }),
        ("X-HTTP-Method-Override", |request| request.set("X-HTTP-Method-Override", "DELETE")),
        ("Accept: text/html", |request| request.set("Accept", "text/html")),
        ("Expect of something unknown", |request| request.set("Expect", "200-ok")),
        ("a field of 9,000 bytes", |request| request.set("X-Long", &"a".repeat(9_000))),
        ("200 more fields", |request| {
            for number in 0..200 {
                request.headers.push((format!("X-More-{number}"), "1".into()));
            }
        }),
        ("a field with bytes above 0x7f", |request| request.set("X-Bytes", "\u{e9}\u{20ac}")),
    ];
    for (name, change) in doubtful {
        mutations.push(Mutation::new(move |seeds, random| {
            let operation = Operation::Encrypt;
            let errors = [VALIDATION, AUTHENTICATION, INVALID_PATH, UNSUPPORTED];
            let expected =
                Expected { shape: seeds.shape(operation), ..Expected::error("XKS-NET-1", &errors) }
                    .or_success()
                    .http(&[400, 406, 413, 415, 417, 421, 426, 431]);
            let mut case = valid(seeds, random, Target::Headers, operation, name, expected);
            change(&mut case.request);
            case
        }));
    }
    // Signed first, changed afterwards.
    let tampered: [(&str, Change); 3] = [
        ("a signed field was changed", |request| request.set("X-Signed", "two")),
        ("a signed field was doubled", |request| request.headers.push(("X-Signed".into(), "two".into()))),
        ("a signed field was taken away", |request| request.remove("x-signed")),
    ];
    for (name, change) in tampered {
        mutations.push(Mutation::new(move |seeds, random| {
            let expected =
                Expected::error("XKS-AUTH-1", &[AUTHENTICATION]).never(FindingKind::AuthenticationBypass);
            let mut case = valid(seeds, random, Target::Headers, Operation::Encrypt, name, expected);
            case.request.set("X-Signed", "one");
            case.request.signed.push("x-signed".into());
            case.signing = Signing::Over(Box::new(case.request.clone()));
            change(&mut case.request);
            case
        }));
    }
    mutations
}
