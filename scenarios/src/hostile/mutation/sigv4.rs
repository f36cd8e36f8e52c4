//! Signatures that are missing, forged, out of date or over something else (XKS-AUTH-1 to XKS-AUTH-3).

use super::super::case::{Case, Expected, Operation, Target};
use super::super::finding::FindingKind;
use super::super::signing::{Forgery, Signing};
use super::{AUTHENTICATION, INVALID_PATH, KEY_NOT_FOUND, Mutation, VALIDATION, valid};

const OPERATIONS: [Operation; 4] =
    [Operation::GetHealthStatus, Operation::GetKeyMetadata, Operation::Encrypt, Operation::Decrypt];

pub(super) fn mutations() -> Vec<Mutation> {
    let refused = |id: &str| Expected::error(id, &[AUTHENTICATION]).never(FindingKind::AuthenticationBypass);
    let mut mutations = Vec::new();
    let mut add = |operation, name: String, signing: Signing, expected: Expected| {
        mutations.push(Mutation::new(move |seeds, random| Case {
            signing: signing.clone(),
            ..valid(seeds, random, Target::Sigv4, operation, name.clone(), expected.clone())
        }));
    };
    for operation in OPERATIONS {
        add(operation, "unsigned".into(), Signing::None, refused("XKS-AUTH-1"));
        add(operation, "signed with another secret".into(), Signing::WrongSecret, refused("XKS-AUTH-1"));
        add(operation, "signed for another service".into(), Signing::OtherService, refused("XKS-AUTH-1"));
    }
    // Some key stores accept any region.
    add(
        Operation::Encrypt,
        "signed for another region".into(),
        Signing::OtherRegion,
        Expected::error("XKS-AUTH-1", &[AUTHENTICATION]).or_success(),
    );
    for (offset, name) in [(-3_600, "an hour"), (-86_400, "a day"), (-400, "400 s")] {
        add(
            Operation::Encrypt,
            format!("signed {name} ago"),
            Signing::SkewedS(offset),
            refused("XKS-AUTH-2"),
        );
        let ahead = format!("signed {name} ahead");
        add(Operation::Encrypt, ahead, Signing::SkewedS(-offset), refused("XKS-AUTH-2"));
    }
    for offset in [-200, 200] {
        let name = format!("signed {offset} s from now, within the five minutes");
        let expected = Expected::error("XKS-AUTH-2", &[]).or_success();
        add(Operation::Encrypt, name, Signing::SkewedS(offset), expected);
    }
    for forgery in Forgery::ALL {
        let name = format!("{forgery:?}");
        let mut expected = refused("XKS-AUTH-1");
        match forgery {
            // Whoever takes one of two equal dates lets nobody in who does not know the secret.
            Forgery::DateTwice => expected = expected.or_success(),
            Forgery::AuthorizationVeryLong => expected = expected.http(&[400, 431]),
            _ => {}
        }
        if matches!(forgery, Forgery::DateMissing | Forgery::DateEmpty | Forgery::DateMalformed) {
            expected.errors.push(VALIDATION.into());
        }
        for operation in [Operation::Encrypt, Operation::GetHealthStatus] {
            add(operation, name.clone(), Signing::Forged(forgery), expected.clone());
        }
    }
    mutations.extend(tampered());
    for name in ["host", "x-amz-date"] {
        if name == "host" {
            mutations.push(Mutation::new(move |seeds, random| {
                let expected = refused("XKS-AUTH-1");
                let mut case =
                    valid(seeds, random, Target::Sigv4, Operation::Encrypt, "host is not signed", expected);
                case.request.signed.retain(|signed| signed != name);
                case
            }));
        }
    }
    mutations
}

/// Signed, and then changed on the way.
fn tampered() -> Vec<Mutation> {
    type Change = fn(&mut super::super::request::Request);
    let changes: [(&str, Change, &[&str]); 7] = [
        ("the body gained a space after it was signed", |request| request.body.push(b' '), &[]),
        (
            "a character of the body changed after it was signed",
            |request| {
                let text = String::from_utf8_lossy(&request.body).replace("user/Alice", "user/Malice");
                request.body = text.into_bytes();
            },
            &[],
        ),
        ("the body was taken away after it was signed", |request| request.body.clear(), &[VALIDATION]),
        (
            "the path was changed to another key's after it was signed",
            |request| request.target = request.target.replacen("/keys/", "/keys/x", 1),
            &[INVALID_PATH, KEY_NOT_FOUND],
        ),
        (
            "a query was added after it was signed",
            |request| request.target.push_str("?action=decrypt"),
            &[INVALID_PATH, VALIDATION],
        ),
        (
            "the host was changed after it was signed",
            |request| request.set("host", "xks-proxy.example.com"),
            &[INVALID_PATH, VALIDATION],
        ),
        (
            "the content type gained a parameter after it was signed",
            |request| request.set("content-type", "application/json; charset=utf-8"),
            &[VALIDATION],
        ),
    ];
    let tampered = changes.into_iter().map(|(name, change, others)| {
        Mutation::new(move |seeds, random| {
            let expected = Expected::error("XKS-AUTH-1", &[&[AUTHENTICATION], others].concat())
                .never(FindingKind::AuthenticationBypass)
                .http(&[415, 421]);
            let mut case = valid(seeds, random, Target::Sigv4, Operation::Encrypt, name, expected);
            case.signing = Signing::Over(Box::new(case.request.clone()));
            change(&mut case.request);
            case
        })
    });
    tampered.collect()
}
