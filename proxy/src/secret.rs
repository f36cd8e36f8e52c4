//! Secrets and plaintext: types that cannot print and are wiped on drop (XKS-MD-6).
//!
//! Place on the map: used wherever a plaintext, a PIN or a SigV4 secret passes by.

use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The plaintext of an encrypt request or a decrypt response. At most `limits.plaintext_bytes_max` bytes.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Plaintext(Vec<u8>);

impl Plaintext {
    /// Takes the bytes over; they are wiped when this value is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes themselves. Whoever calls this must not log them (XKS-MD-6).
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plaintext({} bytes, hidden)", self.0.len())
    }
}

/// A PIN or a SigV4 secret access key.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Takes the text over; it is wiped when this value is dropped.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself. Whoever calls this must not log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", Plaintext::new(vec![42; 3])), "Plaintext(3 bytes, hidden)");
        assert_eq!(format!("{:?}", Secret::new("1234".into())), "Secret(hidden)");
    }
}
