//! Requests and answers as bytes.
//!
//! Place on the map: written and read by `client` (through `member`) and `server`; knows nothing of time or streams'
//! kinds.
//!
//! Vendors' protocols are their own; this one has the same exchanges: one connection is one session, one request goes
//! out, one answer comes back, in order. A frame, all numbers big-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of what follows, 5 to [`FRAME_BYTES_MAX`] |
//! | 4 | number of the request on its connection; the answer repeats it |
//! | 1 | code: which request or answer |
//! | rest | its fields in order; bytes and text with 4 bytes of length before them |
//!
//! | request | fields | answer | fields |
//! |---|---|---|---|
//! | 1 open | version (1) | 129 opened | |
//! | 2 probe | | 130 alive | |
//! | 3 describe | key | 131 facts | type, size, three flags |
//! | 4 encrypt | key, AAD, plaintext | 132 sealed | ciphertext, IV, tag |
//! | 5 decrypt | key, AAD, ciphertext, IV, tag | 133 plaintext | plaintext |
//! | 6 health | | 134 devices | for each: id, model, status |
//! | | | 255 failed | kind, `CK_RV` if there is one, detail |
//!
//! Whatever does not follow this to the letter is malformed, and its reader closes the connection.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};
use xks_proxy::hsm::{
    Aad, DeviceHealth, HealthStatus, HsmError, HsmErrorKind, Iv, KeyFacts, KeySpec, Sealed,
};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

/// Longest frame, in bytes after its length. A longer request is refused by the client as the device would refuse it.
pub const FRAME_BYTES_MAX: usize = 256 * 1024;
/// Number and code.
const FRAME_BYTES_MIN: usize = 5;
/// What [`Request::Open`] says.
pub(super) const VERSION: u8 = 1;
/// Longest detail of an error, in bytes; more is cut off.
const DETAIL_BYTES_MAX: usize = 1_024;
/// Most devices in one answer, as many as GetHealthStatus can tell of (XKS-HLT-1).
const DEVICES_MAX: usize = 10;

/// What a client asks.
#[derive(Debug, PartialEq)]
pub(super) enum Request {
    /// A session, with the protocol's version; the first request of a connection and no other.
    Open(u8),
    /// Are you there; answered without the device.
    Probe,
    Describe(KeyName),
    Encrypt(KeyName, Aad, Plaintext),
    Decrypt(KeyName, Aad, Sealed),
    Health,
}

/// What a server answers.
#[derive(Debug, PartialEq)]
pub(super) enum Response {
    Opened,
    Alive,
    Facts(KeyFacts),
    Sealed(Sealed),
    Plaintext(Plaintext),
    Devices(Vec<DeviceHealth>),
    Failed(HsmError),
}

/// The frame would be longer than [`FRAME_BYTES_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// A frame ready to be sent.
#[derive(Debug)]
pub(super) struct Frame(Vec<u8>);

impl Frame {
    /// The frame of a message with this code, its fields as `fill` appends them.
    fn new(code: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Result<Self, TooLong> {
        let mut bytes = vec![0; 8];
        bytes.push(code);
        fill(&mut bytes);
        let length = bytes.len() - 4;
        if length > FRAME_BYTES_MAX {
            return Err(TooLong);
        }
        overwrite(&mut bytes, 0, u32::try_from(length).map_err(|_| TooLong)?);
        Ok(Self(bytes))
    }

    pub(super) fn open() -> Result<Self, TooLong> {
        Self::new(1, |out| out.push(VERSION))
    }

    pub(super) fn probe() -> Result<Self, TooLong> {
        Self::new(2, |_| {})
    }

    pub(super) fn describe(key: &KeyName) -> Result<Self, TooLong> {
        Self::new(3, |out| put_key(out, key))
    }

    pub(super) fn encrypt(key: &KeyName, aad: &Aad, plaintext: &Plaintext) -> Result<Self, TooLong> {
        Self::new(4, |out| {
            put_key(out, key);
            put_bytes(out, aad.as_bytes());
            put_bytes(out, plaintext.expose());
        })
    }

    pub(super) fn decrypt(key: &KeyName, aad: &Aad, sealed: &Sealed) -> Result<Self, TooLong> {
        Self::new(5, |out| {
            put_key(out, key);
            put_bytes(out, aad.as_bytes());
            put_sealed(out, sealed);
        })
    }

    pub(super) fn health() -> Result<Self, TooLong> {
        Self::new(6, |_| {})
    }

    /// The frame with the number of its request.
    pub(super) fn numbered(&mut self, number: u32) -> &[u8] {
        overwrite(&mut self.0, 4, number);
        &self.0
    }

    /// Whether this answer belongs to this request.
    pub(super) fn is_answered_by(&self, response: &Response) -> bool {
        let code = self.0.get(8).copied().unwrap_or_default();
        matches!(response, Response::Failed(_)) || response.code() == code | 0x80
    }
}

fn overwrite(bytes: &mut [u8], at: usize, number: u32) {
    for (byte, value) in bytes.iter_mut().skip(at).zip(number.to_be_bytes()) {
        *byte = value;
    }
}

impl Response {
    fn code(&self) -> u8 {
        match self {
            Self::Opened => 129,
            Self::Alive => 130,
            Self::Facts(_) => 131,
            Self::Sealed(_) => 132,
            Self::Plaintext(_) => 133,
            Self::Devices(_) => 134,
            Self::Failed(_) => 255,
        }
    }

    pub(super) fn frame(&self) -> Result<Frame, TooLong> {
        Frame::new(self.code(), |out| match self {
            Self::Opened | Self::Alive => {}
            Self::Facts(facts) => {
                match facts.spec {
                    KeySpec::Aes(bits) => {
                        out.push(0);
                        out.extend_from_slice(&u64::from(bits).to_be_bytes());
                    }
                    KeySpec::Other(number) => {
                        out.push(1);
                        out.extend_from_slice(&number.to_be_bytes());
                    }
                }
                out.extend([facts.encrypt, facts.decrypt, facts.enabled].map(u8::from));
            }
            Self::Sealed(sealed) => put_sealed(out, sealed),
            Self::Plaintext(plaintext) => put_bytes(out, plaintext.expose()),
            Self::Devices(devices) => {
                let devices = devices.get(..DEVICES_MAX).unwrap_or(devices);
                out.push(u8::try_from(devices.len()).unwrap_or_default());
                for device in devices {
                    put_bytes(out, device.id.as_bytes());
                    put_bytes(out, device.model.as_bytes());
                    out.push(match device.status {
                        HealthStatus::Active => 0,
                        HealthStatus::Degraded => 1,
                        HealthStatus::Unavailable => 2,
                    });
                }
            }
            Self::Failed(error) => {
                out.push(kind_code(error.kind));
                out.push(u8::from(error.ck_rv.is_some()));
                out.extend_from_slice(&error.ck_rv.unwrap_or_default().to_be_bytes());
                let cut = error.detail.floor_char_boundary(DETAIL_BYTES_MAX);
                put_bytes(out, error.detail.get(..cut).unwrap_or_default().as_bytes());
            }
        })
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // A length that four bytes cannot say is too long for a frame too, which is what its maker looks at.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_key(out: &mut Vec<u8>, key: &KeyName) {
    match key {
        KeyName::Label(label) => {
            out.push(0);
            put_bytes(out, label.as_bytes());
        }
        KeyName::Id(id) => {
            out.push(1);
            put_bytes(out, id);
        }
    }
}

fn put_sealed(out: &mut Vec<u8>, sealed: &Sealed) {
    put_bytes(out, &sealed.ciphertext);
    put_bytes(out, sealed.iv.as_bytes());
    out.extend_from_slice(&sealed.tag);
}

fn kind_code(kind: HsmErrorKind) -> u8 {
    match kind {
        HsmErrorKind::KeyNotFound => 0,
        HsmErrorKind::UsageRefused => 1,
        HsmErrorKind::KeyDisabled => 2,
        HsmErrorKind::CiphertextRejected => 3,
        HsmErrorKind::TooLong => 4,
        HsmErrorKind::Refused => 5,
        HsmErrorKind::Busy => 6,
        HsmErrorKind::TimedOut => 7,
        HsmErrorKind::SessionLost => 8,
        HsmErrorKind::DeviceGone => 9,
        HsmErrorKind::Failed => 10,
    }
}

/// The kinds by their codes.
const KINDS: [HsmErrorKind; 11] = [
    HsmErrorKind::KeyNotFound,
    HsmErrorKind::UsageRefused,
    HsmErrorKind::KeyDisabled,
    HsmErrorKind::CiphertextRejected,
    HsmErrorKind::TooLong,
    HsmErrorKind::Refused,
    HsmErrorKind::Busy,
    HsmErrorKind::TimedOut,
    HsmErrorKind::SessionLost,
    HsmErrorKind::DeviceGone,
    HsmErrorKind::Failed,
];

/// Reads the fields of a message. `None` is malformed.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_be_bytes(self.array()?);
        self.take(usize::try_from(length).ok()?)
    }

    fn text(&mut self) -> Option<String> {
        std::str::from_utf8(self.bytes()?).ok().map(str::to_owned)
    }

    fn key(&mut self) -> Option<KeyName> {
        match self.byte()? {
            0 => self.text().map(KeyName::Label),
            1 => self.bytes().map(|id| KeyName::Id(id.to_vec())),
            _ => None,
        }
    }

    fn aad(&mut self) -> Option<Aad> {
        self.bytes().map(|bytes| Aad::already_framed(bytes.to_vec()))
    }

    fn plaintext(&mut self) -> Option<Plaintext> {
        self.bytes().map(|bytes| Plaintext::new(bytes.to_vec()))
    }

    fn sealed(&mut self) -> Option<Sealed> {
        let ciphertext = self.bytes()?.to_vec();
        let iv = Iv::from_slice(self.bytes()?)?;
        Some(Sealed { ciphertext, iv, tag: self.array()? })
    }

    fn facts(&mut self) -> Option<KeyFacts> {
        let spec = match (self.byte()?, self.number()?) {
            (0, bits) => KeySpec::Aes(u16::try_from(bits).ok()?),
            (1, number) => KeySpec::Other(number),
            _ => return None,
        };
        Some(KeyFacts { spec, encrypt: self.flag()?, decrypt: self.flag()?, enabled: self.flag()? })
    }

    fn device(&mut self) -> Option<DeviceHealth> {
        let (id, model) = (self.text()?, self.text()?);
        let status = match self.byte()? {
            0 => HealthStatus::Active,
            1 => HealthStatus::Degraded,
            2 => HealthStatus::Unavailable,
            _ => return None,
        };
        Some(DeviceHealth { id, model, status })
    }

    fn error(&mut self) -> Option<HsmError> {
        let kind = *KINDS.get(usize::from(self.byte()?))?;
        let (has, ck_rv) = (self.flag()?, self.number()?);
        Some(HsmError { kind, ck_rv: has.then_some(ck_rv), detail: self.text()? })
    }

    fn request(&mut self, code: u8) -> Option<Request> {
        Some(match code {
            1 => Request::Open(self.byte()?),
            2 => Request::Probe,
            3 => Request::Describe(self.key()?),
            4 => Request::Encrypt(self.key()?, self.aad()?, self.plaintext()?),
            5 => Request::Decrypt(self.key()?, self.aad()?, self.sealed()?),
            6 => Request::Health,
            _ => return None,
        })
    }

    fn response(&mut self, code: u8) -> Option<Response> {
        Some(match code {
            129 => Response::Opened,
            130 => Response::Alive,
            131 => Response::Facts(self.facts()?),
            132 => Response::Sealed(self.sealed()?),
            133 => Response::Plaintext(self.plaintext()?),
            134 => {
                let count = usize::from(self.byte()?);
                let devices: Option<Vec<_>> = (0..count.min(DEVICES_MAX)).map(|_| self.device()).collect();
                Response::Devices(devices.filter(|_| count <= DEVICES_MAX)?)
            }
            255 => Response::Failed(self.error()?),
            _ => return None,
        })
    }
}

/// A message from the bytes after a frame's length, with its number.
fn message<'a, T>(bytes: &'a [u8], read: impl FnOnce(&mut Fields<'a>, u8) -> Option<T>) -> Option<(u32, T)> {
    let mut fields = Fields(bytes);
    let (number, code) = (fields.array().map(u32::from_be_bytes)?, fields.byte()?);
    let message = read(&mut fields, code)?;
    fields.0.is_empty().then_some((number, message))
}

/// One frame's bytes after its length; `None` when the stream ends before it.
async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    let begun = stream.read(&mut length).await?;
    if begun == 0 {
        return Ok(None);
    }
    stream.read_exact(length.get_mut(begun..).unwrap_or_default()).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&length) {
        return Err(malformed("a frame of no allowed length"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

pub(super) fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The next request and its number; `None` when the client has closed.
///
/// # Errors
/// `InvalidData` for what is malformed; the stream's own otherwise.
pub(super) async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<(u32, Request)>> {
    let Some(bytes) = frame(stream).await? else { return Ok(None) };
    message(&bytes, Fields::request).ok_or_else(|| malformed("a malformed request")).map(Some)
}

/// The next answer and its number.
///
/// # Errors
/// `UnexpectedEof` when the server has closed, `InvalidData` for what is malformed; the stream's own otherwise.
pub(super) async fn read_response(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u32, Response)> {
    let Some(bytes) = frame(stream).await? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
    message(&bytes, Fields::response).ok_or_else(|| malformed("a malformed answer"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(mut frame: Frame) -> Option<(u32, Request)> {
        message(&frame.numbered(7)[4..], Fields::request)
    }

    fn response(response: &Response) -> Option<(u32, Response)> {
        message(&response.frame().unwrap().numbered(7)[4..], Fields::response)
    }

    fn keys() -> impl Strategy<Value = KeyName> {
        prop_oneof![
            ".{0,40}".prop_map(KeyName::Label),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(KeyName::Id)
        ]
    }

    fn sealeds() -> impl Strategy<Value = Sealed> {
        let iv = prop_oneof![any::<[u8; 12]>().prop_map(Iv::Twelve), any::<[u8; 16]>().prop_map(Iv::Sixteen)];
        (prop::collection::vec(any::<u8>(), 0..300), iv, any::<[u8; 16]>())
            .prop_map(|(ciphertext, iv, tag)| Sealed { ciphertext, iv, tag })
    }

    fn responses() -> impl Strategy<Value = Response> {
        let spec = prop_oneof![any::<u16>().prop_map(KeySpec::Aes), any::<u64>().prop_map(KeySpec::Other),];
        let facts = (spec, any::<[bool; 3]>()).prop_map(|(spec, [encrypt, decrypt, enabled])| {
            Response::Facts(KeyFacts { spec, encrypt, decrypt, enabled })
        });
        let status = prop::sample::select(vec![
            HealthStatus::Active,
            HealthStatus::Degraded,
            HealthStatus::Unavailable,
        ]);
        let device =
            (".{0,20}", ".{0,20}", status).prop_map(|(id, model, status)| DeviceHealth { id, model, status });
        let error = (prop::sample::select(KINDS.to_vec()), any::<Option<u64>>(), ".{0,100}")
            .prop_map(|(kind, ck_rv, detail)| Response::Failed(HsmError { kind, ck_rv, detail }));
        prop_oneof![
            any::<bool>().prop_map(|alive| if alive { Response::Alive } else { Response::Opened }),
            facts,
            sealeds().prop_map(Response::Sealed),
            prop::collection::vec(any::<u8>(), 0..300)
                .prop_map(|bytes| Response::Plaintext(Plaintext::new(bytes))),
            prop::collection::vec(device, 0..=DEVICES_MAX).prop_map(Response::Devices),
            error,
        ]
    }

    proptest! {
        #[test]
        fn requests_come_through_unchanged(
            key in keys(),
            aad in prop::collection::vec(any::<u8>(), 0..300),
            plaintext in prop::collection::vec(any::<u8>(), 0..300),
            sealed in sealeds(),
        ) {
            let (aad, plaintext) = (Aad::already_framed(aad), Plaintext::new(plaintext));
            prop_assert_eq!(request(Frame::open().unwrap()), Some((7, Request::Open(VERSION))));
            prop_assert_eq!(request(Frame::probe().unwrap()), Some((7, Request::Probe)));
            prop_assert_eq!(request(Frame::health().unwrap()), Some((7, Request::Health)));
            prop_assert_eq!(
                request(Frame::describe(&key).unwrap()),
                Some((7, Request::Describe(key.clone())))
            );
            prop_assert_eq!(
                request(Frame::encrypt(&key, &aad, &plaintext).unwrap()),
                Some((7, Request::Encrypt(key.clone(), aad.clone(), plaintext)))
            );
            prop_assert_eq!(
                request(Frame::decrypt(&key, &aad, &sealed).unwrap()),
                Some((7, Request::Decrypt(key, aad, sealed)))
            );
        }

        #[test]
        fn answers_come_through_unchanged(answer in responses()) {
            let read = response(&answer);
            prop_assert_eq!(read, Some((7, answer)));
        }

        #[test]
        fn a_frame_cut_short_or_lengthened_is_malformed(answer in responses(), cut in 0_usize..64) {
            let mut frame = answer.frame().unwrap();
            let bytes = frame.numbered(7)[4..].to_vec();
            let shorter = &bytes[..bytes.len().saturating_sub(1 + cut)];
            prop_assert_eq!(message(shorter, Fields::response), None);
            let longer = [bytes.as_slice(), &[0]].concat();
            prop_assert_eq!(message(&longer, Fields::response), None);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), code in 0_u8..=255) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.get_mut(4) {
                *byte = code;
            }
            let _ = message(&bytes, Fields::request);
            let _ = message(&bytes, Fields::response);
        }
    }

    #[test]
    fn every_kind_of_error_has_the_code_of_its_place() {
        for (code, kind) in KINDS.iter().enumerate() {
            assert_eq!(usize::from(kind_code(*kind)), code);
        }
    }

    #[test]
    fn the_first_byte_after_the_number_says_what_it_is() {
        // The bytes of the table, written out by hand.
        let mut frame =
            Frame::encrypt(&KeyName::label("k"), &Aad::already_framed(vec![9]), &Plaintext::new(vec![8, 8]))
                .unwrap();
        let expected = [0, 0, 0, 22, 0, 0, 1, 2, 4, 0, 0, 0, 0, 1, b'k', 0, 0, 0, 1, 9, 0, 0, 0, 2, 8, 8];
        assert_eq!(frame.numbered(0x102), expected);
    }

    #[test]
    fn lengths_are_bounded() {
        let long = |len| {
            Frame::encrypt(&KeyName::label(""), &Aad::already_framed(vec![]), &Plaintext::new(vec![0; len]))
        };
        // Number, code, kind of key, and three lengths.
        let most = FRAME_BYTES_MAX - 18;
        assert!(long(most).is_ok());
        assert_eq!(long(most + 1).unwrap_err(), TooLong);
        let failed = HsmError::new(HsmErrorKind::Failed, "ü".repeat(2_000));
        let Some((_, Response::Failed(read))) = response(&Response::Failed(failed)) else {
            panic!("not read")
        };
        assert_eq!(read.detail, "ü".repeat(512));
    }

    #[tokio::test]
    async fn frames_of_no_allowed_length_are_refused_before_they_are_read() {
        for length in [0_u32, 4, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
            let bytes = length.to_be_bytes();
            let error = read_request(&mut bytes.as_slice()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{length}");
        }
        assert_eq!(read_request(&mut [].as_slice()).await.unwrap(), None);
        let error = read_request(&mut [0, 0].as_slice()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn an_answer_belongs_to_its_request() {
        let failed = Response::Failed(HsmError::new(HsmErrorKind::Busy, ""));
        let frames = [Frame::open(), Frame::probe(), Frame::describe(&KeyName::label("")), Frame::health()];
        for (index, frame) in frames.into_iter().enumerate() {
            let frame = frame.unwrap();
            assert!(frame.is_answered_by(&failed));
            assert_eq!(frame.is_answered_by(&Response::Opened), index == 0);
            assert_eq!(frame.is_answered_by(&Response::Alive), index == 1);
            assert_eq!(frame.is_answered_by(&Response::Devices(Vec::new())), index == 3);
        }
    }
}
