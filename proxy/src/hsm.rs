//! The `Hsm` capability in XKS words, not PKCS#11 words. Implementations depend on this crate, never the reverse.
//!
//! Place on the map: the last station before the reply. `pkcs11` is the production implementation, `group` makes one of
//! several, `monitored` watches the health of each; the emulated HSM lives in a crate above this one.

pub mod group;
pub mod monitored;
pub mod pkcs11;

use crate::key::KeyName;
use crate::secret::Plaintext;
use sha2::{Digest, Sha256};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use tokio::time::Instant;

/// What an [`Hsm`] method gives back: a boxed future, so that configuration can choose the implementation.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, HsmError>> + Send + 'a>>;

/// A hardware security module, or something that acts as one, holding AES-256 keys.
///
/// Every method takes the request's `deadline`. An implementation must resolve by then, with
/// [`HsmErrorKind::TimedOut`] if need be, and must stay usable when a returned future is dropped early.
pub trait Hsm: Send + Sync {
    /// Type, size, usage and state of a key (GetKeyMetadata, XKS-META-1).
    fn describe<'a>(&'a self, key: &'a KeyName, deadline: Instant) -> Answer<'a, KeyFacts>;

    /// AES-256-GCM with a fresh random 12-byte IV that the HSM itself makes when it can; a 16-byte tag.
    fn encrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        plaintext: &'a Plaintext,
        deadline: Instant,
    ) -> Answer<'a, Sealed>;

    /// The reverse; fails with [`HsmErrorKind::CiphertextRejected`] when anything was changed since (XKS-DEC-4).
    fn decrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        sealed: &'a Sealed,
        deadline: Instant,
    ) -> Answer<'a, Plaintext>;

    /// One entry per device for GetHealthStatus, 1 to 10 of them (XKS-HLT-1). Never fails: a device that cannot be
    /// reached is `Unavailable`.
    fn health<'a>(
        &'a self,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>>;
}

/// Additional authenticated data exactly as given to the HSM: a framing around KMS's AAD and the ciphertext metadata,
/// that of XKS-ENC-7 or that of AWS's sample proxy (`crate::scheme` says which).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aad(Vec<u8>);

/// KMS's AAD or the metadata is longer than the framing of XKS-ENC-7 can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AadTooLong;

impl Aad {
    /// Frames as XKS-ENC-7 asks: 2-byte big-endian length ‖ AAD ‖ 1-byte length ‖ metadata; absent is length 0.
    ///
    /// # Errors
    /// When `additional` exceeds 65,535 bytes or `metadata` 255 bytes.
    pub fn frame(additional: &[u8], metadata: &[u8]) -> Result<Self, AadTooLong> {
        let additional_len = u16::try_from(additional.len()).map_err(|_| AadTooLong)?;
        let metadata_len = u8::try_from(metadata.len()).map_err(|_| AadTooLong)?;
        let mut framed = Vec::with_capacity(3 + additional.len() + metadata.len());
        framed.extend_from_slice(&additional_len.to_be_bytes());
        framed.extend_from_slice(additional);
        framed.push(metadata_len);
        framed.extend_from_slice(metadata);
        Ok(Self(framed))
    }

    /// Frames as AWS's sample proxy does (XKS-MIG-1): 2-byte big-endian length ‖ SHA-256(AAD) ‖ 1-byte length ‖ metadata;
    /// without an AAD the length is 0 and there is no digest, while an empty AAD has one.
    ///
    /// # Errors
    /// When `additional` exceeds 65,535 bytes or `metadata` 255 bytes.
    pub fn frame_digest(additional: Option<&[u8]>, metadata: &[u8]) -> Result<Self, AadTooLong> {
        let additional_len = u16::try_from(additional.map_or(0, <[u8]>::len)).map_err(|_| AadTooLong)?;
        let metadata_len = u8::try_from(metadata.len()).map_err(|_| AadTooLong)?;
        let mut framed = Vec::with_capacity(35 + metadata.len());
        framed.extend_from_slice(&additional_len.to_be_bytes());
        if let Some(additional) = additional {
            framed.extend_from_slice(&Sha256::digest(additional));
        }
        framed.push(metadata_len);
        framed.extend_from_slice(metadata);
        Ok(Self(framed))
    }

    /// Bytes that one of the framings above has made, as whatever stands behind a network has them. Nothing is framed
    /// or checked here: for the far side of an [`Hsm`], never for what a caller sends.
    pub fn already_framed(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The framed bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The initialization vector of AES-GCM: 12 or 16 bytes (XKS-ENC-5). We make 12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Iv {
    /// 96 bits, what SP 800-38D recommends and what this proxy makes.
    Twelve([u8; 12]),
    /// 128 bits, accepted on decrypt.
    Sixteen([u8; 16]),
}

impl Iv {
    /// 12 or 16 bytes; `None` for any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        if let Ok(twelve) = <[u8; 12]>::try_from(bytes) {
            return Some(Self::Twelve(twelve));
        }
        <[u8; 16]>::try_from(bytes).ok().map(Self::Sixteen)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Twelve(bytes) => bytes,
            Self::Sixteen(bytes) => bytes,
        }
    }
}

/// What AES-GCM makes of a plaintext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// As long as the plaintext.
    pub ciphertext: Vec<u8>,
    /// The IV it was made with.
    pub iv: Iv,
    /// The authentication tag, 128 bits.
    pub tag: [u8; 16],
}

/// What GetKeyMetadata needs to know of a key (XKS-META-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// Type and size.
    pub spec: KeySpec,
    /// May encrypt (`CKA_ENCRYPT`).
    pub encrypt: bool,
    /// May decrypt (`CKA_DECRYPT`).
    pub decrypt: bool,
    /// Enabled; always true where the HSM cannot disable a key (XKS-META-2).
    pub enabled: bool,
}

/// Type and size of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySpec {
    /// AES with this many bits: 128, 192 or 256. Only 256 is a legal external key.
    Aes(u16),
    /// Anything else, by its PKCS#11 `CK_KEY_TYPE` number.
    Other(u64),
}

/// State of one device as GetHealthStatus words it (XKS-HLT-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthStatus {
    /// Serves requests.
    Active,
    /// Serves, but slower or with errors.
    Degraded,
    /// Serves nothing.
    Unavailable,
}

/// One entry of `ekmFleetDetails`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceHealth {
    /// Which device: a serial number or configured name.
    pub id: String,
    /// Its model.
    pub model: String,
    /// Its state.
    pub status: HealthStatus,
}

/// What the proxy does next decides the kind; the detail is for the log only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HsmError {
    /// What to do about it.
    pub kind: HsmErrorKind,
    /// The PKCS#11 return value behind it, if one is (PKCS#11 v3.0, 5.1.6).
    pub ck_rv: Option<u64>,
    /// For the log: what was being done. Never plaintext, never a PIN.
    pub detail: String,
}

/// The kinds of [`HsmError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HsmErrorKind {
    /// No such key object.
    KeyNotFound,
    /// The key may not do this (`CKA_ENCRYPT` / `CKA_DECRYPT` false).
    UsageRefused,
    /// The key exists and is disabled.
    KeyDisabled,
    /// Tag, IV, AAD or ciphertext wrong.
    CiphertextRejected,
    /// Longer than the device takes.
    TooLong,
    /// The device works, and does not take this request, or cannot tell which key is meant: an IV of 16 bytes, several
    /// keys of one label.
    Refused,
    /// No room: the queue or the session limit is full. Asking again later can help.
    Busy,
    /// Not answered before the deadline.
    TimedOut,
    /// The session, its login or a handle is gone; a new session will do.
    SessionLost,
    /// The device or token cannot be reached.
    DeviceGone,
    /// Anything else the device says.
    Failed,
}

impl HsmError {
    /// An error that no PKCS#11 return value stands behind.
    pub fn new(kind: HsmErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, ck_rv: None, detail: detail.into() }
    }
}

impl fmt::Display for HsmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.detail)?;
        match self.ck_rv {
            Some(rv) => write!(f, " (CK_RV {rv:#x})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for HsmError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aad_is_framed_as_enc_7_asks() {
        assert_eq!(Aad::frame(&[], &[]).unwrap().as_bytes(), [0, 0, 0]);
        assert_eq!(Aad::frame(b"ab", &[7]).unwrap().as_bytes(), [0, 2, b'a', b'b', 1, 7]);
        assert!(Aad::frame(&vec![0; 65_535], &[0; 255]).is_ok());
        assert!(Aad::frame(&vec![0; 65_536], &[]).is_err());
        assert!(Aad::frame(&[], &[0; 256]).is_err());
    }

    #[test]
    fn ivs_have_twelve_or_sixteen_bytes() {
        for len in 0..20 {
            assert_eq!(Iv::from_slice(&vec![1; len]).is_some(), len == 12 || len == 16, "{len}");
        }
    }
}
