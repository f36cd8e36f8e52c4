//! The names a client's certificate may bear.
//!
//! Place on the map: part of `tls`; `config` reads them, `client` compares with them.

use super::CertificateFacts;
use crate::authorise::Pattern;
use std::fmt;

/// Longest name, as DNS has it (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// A subject name with wildcards, such as `cks.kms.us-east-1.amazonaws.com` or `cks.kms.*.amazonaws.com`.
///
/// `*` stands for any characters of one label and `?` for exactly one, never for a dot: a name that is one label longer
/// is another name. Upper and lower case are the same, as in DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectName {
    text: String,
    labels: Vec<Pattern>,
}

impl SubjectName {
    /// Reads a name as the configuration has it.
    ///
    /// # Errors
    /// With one sentence, when it is empty, longer than 253 bytes, or holds anything but printable ASCII.
    pub fn parse(text: &str) -> Result<Self, String> {
        let printable = text.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
        if text.trim().is_empty() || text.len() > NAME_BYTES_MAX || !printable {
            return Err(format!(
                "a subject name has 1 to {NAME_BYTES_MAX} printable ASCII characters, like \
                 \"cks.kms.us-east-1.amazonaws.com\""
            ));
        }
        let labels = text.to_ascii_lowercase().split('.').map(Pattern::new).collect();
        Ok(Self { text: text.to_owned(), labels })
    }

    /// Whether the certificate bears this name, as its common name or as one of its DNS names (XKS-AUTH-6).
    pub fn is_of(&self, certificate: &CertificateFacts) -> bool {
        certificate.common_name.iter().chain(&certificate.dns_names).any(|name| self.matches(name))
    }

    fn matches(&self, name: &str) -> bool {
        // A name longer than any that is legal is not worth the work.
        if name.len() > NAME_BYTES_MAX {
            return false;
        }
        let name = name.to_ascii_lowercase();
        let labels: Vec<&str> = name.split('.').collect();
        labels.len() == self.labels.len()
            && self.labels.iter().zip(labels).all(|(pattern, label)| pattern.matches(label))
    }
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_never_stands_for_a_dot() {
        for (pattern, name, expected) in [
            ("cks.kms.us-east-1.amazonaws.com", "cks.kms.us-east-1.amazonaws.com", true),
            ("cks.kms.us-east-1.amazonaws.com", "CKS.kms.us-east-1.AmazonAWS.com", true),
            ("cks.kms.us-east-1.amazonaws.com", "cks.kms.us-east-2.amazonaws.com", false),
            ("cks.kms.us-east-1.amazonaws.com", "cks.kms.us-east-1.amazonaws.com.example.org", false),
            ("cks.kms.us-east-1.amazonaws.com", "x.cks.kms.us-east-1.amazonaws.com", false),
            ("cks.kms.us-east-1.amazonaws.com", "cks.kms.us-east-1.amazonaws.com\0", false),
            ("cks.kms.*.amazonaws.com", "cks.kms.eu-west-1.amazonaws.com", true),
            ("cks.kms.*.amazonaws.com", "cks.kms.a.b.amazonaws.com", false),
            ("cks.kms.eu-*.amazonaws.com", "cks.kms.eu-west-1.amazonaws.com", true),
            ("cks.kms.eu-*.amazonaws.com", "cks.kms.us-west-1.amazonaws.com", false),
            ("*", "client", true),
            ("*", "client.example", false),
        ] {
            assert_eq!(SubjectName::parse(pattern).unwrap().matches(name), expected, "{pattern} {name:?}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "  ", "a\nb", "é", &"a".repeat(254)] {
            assert!(SubjectName::parse(text).is_err(), "{text:?}");
        }
    }
}
