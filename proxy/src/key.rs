//! Names of keys and key stores, each built only by parsing, so that no handler checks a range again.
//!
//! Place on the map: used by `http` (routing), `api`, `authorise` and every `Hsm`.

use std::fmt;

/// An external key id as KMS sends it in the URI: 1 to 128 characters of `[A-Za-z0-9._-]` (XKS-NET-5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

/// Why a text is not a [`KeyId`], a [`UriPrefix`] or a [`KeyName`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError(pub String);

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NameError {}

impl KeyId {
    /// Parses an external key id.
    ///
    /// # Errors
    /// When it is empty, longer than 128 characters, or has a character outside `[A-Za-z0-9._-]` (XKS-NET-5); and for `.`
    /// and `..`: in a path these mean another path (RFC 3986, 3.3), which is what a caller would send and SigV4 sign.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > 128 {
            return Err(NameError(format!("a key id has 1 to 128 characters, this one has {}", text.len())));
        }
        if matches!(text, "." | "..") {
            return Err(NameError(format!("{text:?} is no key id: in a path it means another path")));
        }
        match text.bytes().find(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))) {
            Some(_) => Err(NameError("a key id holds only A-Z a-z 0-9 . _ -".into())),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The id as KMS sent it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The path before `/kms/xks/v1` that selects a key store: empty, or `/` and segments of `[A-Za-z0-9/_-]`
/// without a trailing slash. Prefix and `/kms/xks/v1` together have at most 128 characters (XKS-NET-4).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UriPrefix(String);

/// What follows every prefix (XKS-NET-4).
pub const API_ROOT: &str = "/kms/xks/v1";

impl UriPrefix {
    /// Parses a prefix. Leading and trailing slashes are optional: `example`, `/example` and `/example/` are one.
    ///
    /// # Errors
    /// When a character is outside `[A-Za-z0-9/_-]`, a segment is empty, or prefix and root exceed 128 characters.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let trimmed = text.trim_matches('/');
        if trimmed.is_empty() {
            return Ok(Self(String::new()));
        }
        if trimmed.bytes().any(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-'))) {
            return Err(NameError("a URI prefix holds only A-Z a-z 0-9 / _ -".into()));
        }
        if trimmed.contains("//") {
            return Err(NameError("a URI prefix has no empty segment (//)".into()));
        }
        let prefix = format!("/{trimmed}");
        if prefix.len() + API_ROOT.len() > 128 {
            return Err(NameError(format!(
                "a URI prefix has at most {} characters (128 with {API_ROOT}), this one has {}",
                128 - API_ROOT.len(),
                prefix.len()
            )));
        }
        Ok(Self(prefix))
    }

    /// Empty, or starting with a slash and not ending with one.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UriPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a key object is found in an HSM: by `CKA_LABEL` or by `CKA_ID` (PKCS#11 v3.0, 4.8).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyName {
    /// The object's `CKA_LABEL`.
    Label(String),
    /// The object's `CKA_ID`.
    Id(Vec<u8>),
}

impl KeyName {
    /// A name by label.
    pub fn label(text: impl Into<String>) -> Self {
        Self::Label(text.into())
    }

    /// A name by `CKA_ID`, given in hexadecimal.
    ///
    /// # Errors
    /// When the text is empty or not an even number of hexadecimal digits.
    pub fn id_from_hex(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError(format!("{text:?} is not an even number of hexadecimal digits"));
        if text.is_empty() || !text.len().is_multiple_of(2) || !text.is_ascii() {
            return Err(wrong());
        }
        let bytes: Result<Vec<u8>, _> = text
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(&String::from_utf8_lossy(pair), 16))
            .collect();
        bytes.map(Self::Id).map_err(|_| wrong())
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(label) => write!(f, "label {label:?}"),
            Self::Id(id) => {
                f.write_str("id ")?;
                id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// Which version of an external key made a ciphertext, 1 to 255. It travels in `ciphertextMetadata`, so that a key
/// can be rotated behind its fixed external id and old ciphertexts still decrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyVersion(pub u8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids_follow_net_5() {
        assert!(KeyId::parse("foo.Bar_9-").is_ok());
        assert!(KeyId::parse(&"a".repeat(128)).is_ok());
        assert!(KeyId::parse("...").is_ok());
        for bad in ["", ".", "..", "a b", "a/b", "ü", &"a".repeat(129)] {
            assert!(KeyId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn prefixes_follow_net_4() {
        for same in ["a/b", "/a/b", "a/b/", "/a/b/"] {
            assert_eq!(UriPrefix::parse(same).unwrap().as_str(), "/a/b");
        }
        assert_eq!(UriPrefix::parse("").unwrap().as_str(), "");
        assert!(UriPrefix::parse(&"a".repeat(116)).is_ok());
        for bad in ["a//b", "a.b", "ä", &"a".repeat(117)] {
            assert!(UriPrefix::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn key_names_by_id_are_hexadecimal() {
        assert_eq!(KeyName::id_from_hex("0aFF").unwrap(), KeyName::Id(vec![0x0a, 0xff]));
        assert_eq!(KeyName::id_from_hex("0aFF").unwrap().to_string(), "id 0aff");
        for bad in ["", "0", "zz", "é"] {
            assert!(KeyName::id_from_hex(bad).is_err(), "{bad:?}");
        }
    }
}
