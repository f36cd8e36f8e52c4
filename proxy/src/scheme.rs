//! How AAD and ciphertext metadata are bound into a ciphertext: our own scheme, and that of AWS's sample proxy, so that
//! its users keep their ciphertexts (XKS-MIG-1).
//!
//! Place on the map: between `api`, which knows the fields of a request, and `hsm`, which gets the framed bytes. Which
//! scheme made a ciphertext is read off its metadata and never tried out: ours starts with the format byte, the sample's
//! is absent or one of those configured.

use crate::api::{METADATA_BYTES_MAX, METADATA_FORMAT};
use crate::hsm::{Aad, AadTooLong};
use crate::key::KeyVersion;
use std::fmt;

/// The version whose key object AWS's sample proxy used. The sample knows no versions: its key is the object whose
/// `CKA_LABEL` is the external key id, and that is our version 1, or the one that `versions` names as 1.
pub const SAMPLE_KEY_VERSION: KeyVersion = KeyVersion(1);

/// Most entries of [`SampleProxy::former`].
pub const FORMER_METADATA_MAX: usize = 16;

/// How KMS's AAD and the ciphertext metadata become the AAD given to the HSM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// The framing of XKS-ENC-7, with metadata `[format, key version]`.
    #[default]
    Own,
    /// The framing of AWS's sample proxy, versions 2.0.0 to 3.1.2: the digest of the AAD in the place of the AAD.
    SampleProxy,
}

impl Scheme {
    /// Its name in the configuration and in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::SampleProxy => "sample",
        }
    }

    /// The AAD for the HSM. `additional` is `None` when the request has no such field: to our scheme that is the same as
    /// an empty one, to the sample's it is not.
    ///
    /// # Errors
    /// When a length is beyond what the framing can say.
    pub fn frame(self, additional: Option<&[u8]>, metadata: &[u8]) -> Result<Aad, AadTooLong> {
        match self {
            Self::Own => Aad::frame(additional.unwrap_or_default(), metadata),
            Self::SampleProxy => Aad::frame_digest(additional, metadata),
        }
    }
}

/// That a key store holds ciphertexts of AWS's sample proxy, and what they look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleProxy {
    metadata: Vec<u8>,
    former: Vec<Vec<u8>>,
    encrypt: Scheme,
}

/// Why bytes cannot be the metadata of a sample proxy whose ciphertexts we take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleMetadataError {
    /// More than 20 bytes (XKS-ENC-6), which the sample does not take either.
    TooLong,
    /// Of the shape of our own metadata, or able to make the framed AAD of the one scheme equal one of the other.
    LooksLikeOurs,
}

impl fmt::Display for SampleMetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "it has more than 20 bytes, which is more than the XKS API allows",
            Self::LooksLikeOurs => {
                "it looks like this proxy's own, so a ciphertext could be read as either's: give the sample proxy \
                 another one and re-encrypt what it made with this one, before moving"
            }
        })
    }
}

impl std::error::Error for SampleMetadataError {}

impl SampleProxy {
    /// `metadata` is what the sample is configured to add to its ciphertexts, empty for none; `former` what it added at
    /// other times. Ciphertexts without metadata are always taken for the sample's. `encrypt` is the scheme of new
    /// ciphertexts.
    ///
    /// # Errors
    /// When metadata is too long, or could be taken for our own.
    pub fn new(
        metadata: Vec<u8>,
        former: Vec<Vec<u8>>,
        encrypt: Scheme,
    ) -> Result<Self, SampleMetadataError> {
        for metadata in former.iter().chain([&metadata]) {
            Self::check(metadata)?;
        }
        Ok(Self { metadata, former, encrypt })
    }

    /// Whether these bytes can be the sample's metadata.
    ///
    /// # Errors
    /// When they are too long, or could be taken for our own.
    pub fn check(metadata: &[u8]) -> Result<(), SampleMetadataError> {
        if metadata.len() > METADATA_BYTES_MAX {
            return Err(SampleMetadataError::TooLong);
        }
        // Our framing under the sample's key ends in [2, format, 1]. Metadata of the sample with which its framing can end
        // so too would let a caller who chooses KMS's AAD have a ciphertext that both schemes accept, with different AAD.
        let our_end = [2, METADATA_FORMAT, SAMPLE_KEY_VERSION.0];
        let is_ours = matches!(metadata, [METADATA_FORMAT, _]);
        // Of one byte: the digest before its length can happen to end in the byte 2.
        let ends_alike = metadata.ends_with(&our_end) || metadata == [SAMPLE_KEY_VERSION.0];
        if is_ours || ends_alike { Err(SampleMetadataError::LooksLikeOurs) } else { Ok(()) }
    }

    /// What new ciphertexts in the sample's scheme carry; empty for none.
    pub fn metadata(&self) -> &[u8] {
        &self.metadata
    }

    /// What its ciphertexts carried at other times.
    pub fn former(&self) -> &[Vec<u8>] {
        &self.former
    }

    /// The scheme of new ciphertexts.
    pub fn encrypt(&self) -> Scheme {
        self.encrypt
    }

    /// Whether a ciphertext with this metadata (empty for none) is one of the sample's.
    fn made(&self, metadata: &[u8]) -> bool {
        metadata.is_empty()
            || metadata == self.metadata
            || self.former.iter().any(|former| metadata == former)
    }
}

/// What made a ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// How its AAD is framed.
    pub scheme: Scheme,
    /// The version of the key.
    pub version: KeyVersion,
}

impl Origin {
    /// Reads it off the ciphertext's metadata; `sample` when the key store holds ciphertexts of the sample proxy. `None`
    /// for metadata of nobody's making.
    pub fn of(metadata: &[u8], sample: Option<&SampleProxy>) -> Option<Self> {
        match metadata {
            &[METADATA_FORMAT, version] => Some(Self { scheme: Scheme::Own, version: KeyVersion(version) }),
            _ if sample.is_some_and(|sample| sample.made(metadata)) => {
                Some(Self { scheme: Scheme::SampleProxy, version: SAMPLE_KEY_VERSION })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mig_1_the_samples_framing_holds_the_digest_of_an_aad_that_is_there() {
        let frame = |additional, metadata: &[u8]| {
            Scheme::SampleProxy.frame(additional, metadata).unwrap().as_bytes().to_vec()
        };
        assert_eq!(frame(None, b""), [0, 0, 0]);
        assert_eq!(frame(None, b"m"), [0, 0, 1, b'm']);
        // SHA-256 of "abc" and of nothing (FIPS 180-4 examples).
        let abc = frame(Some(b"abc"), b"v0");
        assert_eq!((abc.len(), &abc[..2], &abc[34..]), (37, &[0, 3][..], &[2, b'v', b'0'][..]));
        assert_eq!(abc[2..6], [0xba, 0x78, 0x16, 0xbf]);
        let empty = frame(Some(b""), b"");
        assert_eq!((empty.len(), &empty[..6]), (35, &[0, 0, 0xe3, 0xb0, 0xc4, 0x42][..]));
        assert!(Scheme::SampleProxy.frame(Some(&vec![0; 65_535]), b"").is_ok());
        assert!(Scheme::SampleProxy.frame(Some(&vec![0; 65_536]), b"").is_err());
    }

    #[test]
    fn mig_1_the_scheme_is_read_off_the_metadata() {
        let sample = SampleProxy::new(b"v0.0.1".into(), vec![b"v0".into()], Scheme::Own).unwrap();
        let own = |version| Some(Origin { scheme: Scheme::Own, version: KeyVersion(version) });
        let samples = Some(Origin { scheme: Scheme::SampleProxy, version: KeyVersion(1) });
        for (metadata, with, without) in [
            (&[1, 7][..], own(7), own(7)),
            (b"", samples, None),
            (b"v0.0.1", samples, None),
            (b"v0", samples, None),
            (b"v0.0.2", None, None),
            (&[1], None, None),
            (&[1, 7, 0], None, None),
            (&[2, 7], None, None),
        ] {
            assert_eq!(Origin::of(metadata, Some(&sample)), with, "{metadata:?}");
            assert_eq!(Origin::of(metadata, None), without, "{metadata:?}");
        }
    }

    #[test]
    fn mig_1_metadata_that_could_be_ours_is_refused() {
        let refused = Err(SampleMetadataError::LooksLikeOurs);
        for ambiguous in [&[1, 0][..], &[1, 1], &[1, 255], &[1], &[2, 1, 1], &[9, 2, 1, 1]] {
            assert_eq!(SampleProxy::check(ambiguous), refused, "{ambiguous:?}");
            assert!(SampleProxy::new(ambiguous.to_vec(), vec![], Scheme::Own).is_err());
            assert!(SampleProxy::new(vec![], vec![ambiguous.to_vec()], Scheme::Own).is_err());
        }
        for plain in [&b""[..], b"v0.0.1", b"1", &[2], &[2, 1], &[1, 1, 1], &[0; 20]] {
            assert_eq!(SampleProxy::check(plain), Ok(()), "{plain:?}");
        }
        assert_eq!(SampleProxy::check(&[0; 21]), Err(SampleMetadataError::TooLong));
    }

    /// Why [`SampleProxy::check`] refuses what it refuses: with the AAD chosen for it, the framings of the two schemes
    /// are the same bytes. For metadata it lets through, no AAD makes them so.
    #[test]
    fn mig_1_refused_metadata_would_let_one_framing_pass_for_the_other() {
        let alike = |metadata: &[u8], chosen: &[u8]| {
            let theirs = Scheme::SampleProxy.frame(Some(chosen), metadata).unwrap();
            let bytes = theirs.as_bytes();
            let ours = Scheme::Own.frame(Some(&bytes[2..bytes.len() - 3]), &[METADATA_FORMAT, 1]).unwrap();
            ours == theirs
        };
        assert!(alike(&[1, 1], &[0; 32]));
        assert!(alike(&[2, 1, 1], &[0; 33]));
        assert!(alike(&[9, 2, 1, 1], &[0; 34]));
        assert!((0..=u16::MAX).any(|n| alike(&[1], &[&[0; 29][..], &n.to_be_bytes()].concat())));
        for plain in [&b""[..], b"v0.0.1", &[2], &[2, 1], &[1, 1, 1]] {
            assert!(
                (0..2_000u16)
                    .all(|n| !alike(plain, &[&vec![0; 28 + plain.len()][..], &n.to_be_bytes()].concat())),
                "{plain:?}"
            );
        }
    }
}
