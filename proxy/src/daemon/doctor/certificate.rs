//! The server's certificate: chain, days, names, key.
//!
//! Place on the map: part of `doctor`. Which public CAs KMS trusts cannot be known here; what it will surely refuse can.

use super::report::{Report, count};
use std::sync::Arc;
use xks_proxy::calendar::rfc3339;
use xks_proxy::config::{Config, TlsFiles};
use xks_proxy::env::{Env, SystemEnv};
use xks_proxy::tls::{CertificateFacts, KeyKind, certificates_from_pem};

/// Below this, AWS advises an alarm (`XksProxyCertificateDaysToExpire`).
const DAYS_FEW: i64 = 10;
/// Below this, it is time to think of it.
const DAYS_SOME: i64 = 30;

const KMS_REFUSES: &str =
    "KMS refuses the connection: every operation with every key of the key store fails.";

pub(super) fn check(config: &mut Config, endpoint: Option<&str>, report: &mut Report) {
    let Some(files) = config.tls.clone() else {
        report.warning(
            "certificate",
            "none: this proxy serves plain HTTP",
            "KMS itself speaks HTTPS only.",
            "Right behind a load balancer that ends TLS inside your own network; otherwise add [server.tls].",
        );
        return;
    };
    let chain = chain(&files);
    match config.check_tls(Arc::new(SystemEnv)) {
        Ok(()) => report.ok("certificate, key", "belong together"),
        // Its dates, which stand below, are reason enough to refuse it.
        Err(_)
            if chain
                .iter()
                .flatten()
                .next()
                .is_some_and(|leaf| leaf.invalid_at(SystemEnv.now()).is_some()) => {}
        Err(error) if chain.is_some() => report.failed(
            "certificate, key",
            error.message,
            "The proxy does not start with them.",
            format!(
                "Name the pair that was issued together (lines {} and {}).",
                files.certificate_file.line, files.key_file.line
            ),
        ),
        Err(_) => {}
    }
    match chain.as_deref() {
        Some([leaf, issuers @ ..]) => {
            dates(leaf, issuers, report);
            names(leaf, endpoint, report);
            order(leaf, issuers, report);
            key(leaf, report);
        }
        _ => report.failed(
            "certificate",
            format!("{} holds no readable certificate", files.certificate_file.value.display()),
            "The proxy does not start without it.",
            format!(
                "Put the chain there in PEM, the server's own first (line {}).",
                files.certificate_file.line
            ),
        ),
    }
}

fn chain(files: &TlsFiles) -> Option<Vec<CertificateFacts>> {
    let path = &files.certificate_file.value;
    let pem = std::fs::read(path).ok()?;
    let chain = certificates_from_pem(&pem, &path.display().to_string()).ok()?;
    chain.iter().map(|der| CertificateFacts::from_der(der).ok()).collect()
}

fn dates(leaf: &CertificateFacts, issuers: &[CertificateFacts], report: &mut Report) {
    let now = SystemEnv.now();
    let renew = "Renew it, put the new chain and key in place, and have the proxy take them over.";
    for (index, certificate) in std::iter::once(leaf).chain(issuers).enumerate() {
        let check = if index == 0 { "certificate days" } else { "issuer days" };
        let days = certificate.days_left(now);
        let until = rfc3339(certificate.not_after);
        let subject = &certificate.subject;
        if let Some(why) = certificate.invalid_at(now) {
            report.failed(
                check,
                format!("{subject} {why}"),
                KMS_REFUSES,
                format!("{renew} See the clock below, too."),
            );
        } else if days < DAYS_FEW {
            let left = count(usize::try_from(days).unwrap_or(0), "day");
            report.failed(
                check,
                format!("{subject} expires in {left}, on {until}"),
                format!("From then on: {KMS_REFUSES}"),
                renew,
            );
        } else if days < DAYS_SOME {
            report.warning(
                check,
                format!("{subject} expires in {days} days, on {until}"),
                format!("From then on: {KMS_REFUSES}"),
                renew,
            );
        } else {
            report.ok(check, format!("{days} days left, until {until}: {subject}"));
        }
    }
}

fn names(leaf: &CertificateFacts, endpoint: Option<&str>, report: &mut Report) {
    let says = match leaf.dns_names.as_slice() {
        [] => "no DNS name (subjectAltName)".to_owned(),
        names => names.join(", "),
    };
    let issue = "Have one issued for the host name of the key store's endpoint (XksProxyUriEndpoint).";
    match endpoint {
        _ if leaf.dns_names.is_empty() => report.failed("certificate name", says, KMS_REFUSES, issue),
        Some(host) if leaf.dns_names.iter().any(|name| matches(name, host)) => {
            report.ok("certificate name", format!("{host} is among {says}"));
        }
        Some(host) => report.failed(
            "certificate name",
            format!("{host} is not among {says}"),
            KMS_REFUSES,
            format!("{issue} Or correct --endpoint."),
        ),
        None => {
            report.ok("certificate name", format!("{says}; --endpoint HOST compares it with your endpoint"))
        }
    }
}

/// A name of a certificate, whose first label may be `*`, against a host name (RFC 6125, 6.4).
fn matches(name: &str, host: &str) -> bool {
    let (name, host) = (name.trim_end_matches('.'), host.trim_end_matches('.'));
    match name.strip_prefix("*.") {
        Some(domain) => host
            .split_once('.')
            .is_some_and(|(first, rest)| !first.is_empty() && rest.eq_ignore_ascii_case(domain)),
        None => name.eq_ignore_ascii_case(host),
    }
}

fn order(leaf: &CertificateFacts, issuers: &[CertificateFacts], report: &mut Report) {
    let public = "KMS wants a chain to a public CA (for a VPC endpoint too), and cannot be given another CA.";
    if leaf.subject == leaf.issuer {
        report.failed(
            "certificate chain",
            format!("{} has signed itself", leaf.subject),
            format!("{public} {KMS_REFUSES}"),
            "Have a certificate issued by a public CA, such as Let's Encrypt or DigiCert. For trials without KMS it will do.",
        );
        return;
    }
    let mut below = leaf;
    for issuer in issuers {
        if below.issuer != issuer.subject {
            report.failed(
                "certificate chain",
                format!(
                    "{} follows {}, but did not issue it: {} did",
                    issuer.subject, below.subject, below.issuer
                ),
                format!("Clients cannot follow the chain. {KMS_REFUSES}"),
                "Put the server's certificate first in the file, then the one that issued it, and so on.",
            );
            return;
        }
        below = issuer;
    }
    let root = below.subject == below.issuer;
    match (issuers, root) {
        ([], _) => report.warning(
            "certificate chain",
            format!("the server's certificate alone; {} issued it", leaf.issuer),
            "Unless that is a root CA, KMS cannot follow the chain, for it fetches no missing parts.",
            "Add the intermediate certificates after it; CAs give out a \"full chain\" file.",
        ),
        (_, true) => report.ok(
            "certificate chain",
            format!(
                "{} with the root {}, which need not be sent; whether KMS trusts it cannot be seen from here",
                count(issuers.len() + 1, "certificate"),
                below.subject
            ),
        ),
        (_, false) => report.ok(
            "certificate chain",
            format!(
                "{} in order up to {}; whether KMS trusts that one's issuer cannot be seen from here",
                count(issuers.len() + 1, "certificate"),
                below.subject
            ),
        ),
    }
}

fn key(leaf: &CertificateFacts, report: &mut Report) {
    let bits = leaf.key_bits.map_or_else(String::new, |bits| format!(" with {bits} bits"));
    let says = format!("{}{bits}", leaf.key_kind);
    match leaf.key_kind {
        KeyKind::Rsa if leaf.key_bits.is_some_and(|bits| bits >= 2_048) => report.ok("certificate key", says),
        KeyKind::Ec => report.ok("certificate key", says),
        _ => report.warning(
            "certificate key",
            says,
            "KMS's cipher suites are for RSA and ECDSA keys; public CAs issue for RSA from 2,048 bits, P-256 and P-384.",
            "Have a certificate issued for such a key.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_label() {
        for (name, host, fits) in [
            ("xks.example.com", "XKS.example.com.", true),
            ("*.example.com", "xks.example.com", true),
            ("*.example.com", "a.xks.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("xks.example.com", "xks.example.org", false),
        ] {
            assert_eq!(matches(name, host), fits, "{name} {host}");
        }
    }
}
