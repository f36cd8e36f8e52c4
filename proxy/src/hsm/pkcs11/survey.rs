//! A token looked at, read-only: what it says of itself, its mechanism, its keys, and how it does on trial.
//!
//! Place on the map: beside the pool, over the same session code, for the commands `doctor` and `keys list`. It
//! changes nothing in the token and asks for the same module once only. A library can hang in any call, so all of
//! them are made by a thread of its own, and whoever asks waits for a limited time.

use super::module::Module;
use super::session::{Opener, TokenSession, find_slot};
use super::settings::{IvSource, OpenError, Pkcs11Settings};
use crate::hsm::{Aad, HsmError, HsmErrorKind, Sealed};
use crate::key::KeyName;
use crate::secret::Plaintext;
use cryptoki::error::Error;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::Limit;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;
use tokio::time::Instant;

/// A request's worth of plaintext: KMS sends data keys of 32 bytes most of all.
const PROBE: [u8; 32] = [0x5a; 32];

/// Why a look at a token failed. `Display` is one line for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SurveyError {
    /// The library has not come back within this time; what is asked after it fails in the same way.
    Hung(Duration),
    /// The module, the token or the login.
    Open(OpenError),
    /// A call on an open session.
    Call(HsmError),
}

impl fmt::Display for SurveyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hung(patience) => write!(f, "no answer within {} s", patience.as_secs()),
            Self::Open(error) => error.fmt(f),
            Self::Call(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SurveyError {}

impl From<OpenError> for SurveyError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<HsmError> for SurveyError {
    fn from(error: HsmError) -> Self {
        Self::Call(error)
    }
}

/// What a library says of itself (`CK_INFO`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleFacts {
    /// Who made it.
    pub manufacturer: String,
    /// What it is.
    pub description: String,
    /// Its own version, such as "2.6".
    pub version: String,
    /// The version of PKCS#11 it speaks, such as "2.40".
    pub cryptoki: String,
}

/// What a token says of itself before any login (`CK_TOKEN_INFO`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFacts {
    /// Its label, without padding.
    pub label: String,
    /// Its serial number, without padding.
    pub serial: String,
    /// Its model, without padding.
    pub model: String,
    /// The number of its slot.
    pub slot: u64,
    /// The version of its firmware.
    pub firmware: String,
    /// It has a random generator (`CKF_RNG`).
    pub random: bool,
    /// How the user PIN stands.
    pub pin: PinState,
    /// Most sessions at once (`ulMaxSessionCount`); `None` when unlimited or unsaid.
    pub sessions_max: Option<u64>,
    /// Sessions open now, of all programs the token counts together; `None` when unsaid.
    pub sessions_open: Option<u64>,
}

/// How the user PIN stands, worst first: the flags of `CK_TOKEN_INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinState {
    /// Locked: no login is possible (`CKF_USER_PIN_LOCKED`).
    Locked,
    /// One more wrong PIN locks it (`CKF_USER_PIN_FINAL_TRY`).
    FinalTry,
    /// Nobody has set one (`CKF_USER_PIN_INITIALIZED` is absent).
    NotSet,
    /// It has to be changed first (`CKF_USER_PIN_TO_BE_CHANGED`).
    ToBeChanged,
    /// A wrong one was tried since the last right one (`CKF_USER_PIN_COUNT_LOW`).
    CountLow,
    /// Nothing to say.
    Good,
}

/// What a token's AES-GCM can do (`CK_MECHANISM_INFO` of `CKM_AES_GCM`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcmFacts {
    /// It encrypts (`CKF_ENCRYPT`).
    pub encrypt: bool,
    /// It decrypts (`CKF_DECRYPT`).
    pub decrypt: bool,
    /// Keys of 256 bits lie within its range, which modules give in bytes (PKCS#11 v3.0, 2.13) or in bits.
    pub keys_of_256_bits: bool,
}

/// A key object and the attributes that matter here. What the token does not tell is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyObject {
    /// Secret, private, public, or something else.
    pub class: KeyClass,
    /// `CKA_LABEL`; bytes that are not UTF-8 are replaced.
    pub label: String,
    /// `CKA_ID`.
    pub id: Vec<u8>,
    /// `CKA_KEY_TYPE`, by its name in the standard without `CKK_`.
    pub key_type: Option<String>,
    /// `CKA_VALUE_LEN`, in bits.
    pub bits: Option<u64>,
    /// `CKA_ENCRYPT`.
    pub encrypt: bool,
    /// `CKA_DECRYPT`.
    pub decrypt: bool,
    /// `CKA_SENSITIVE`: its value cannot be read in the clear.
    pub sensitive: Option<bool>,
    /// `CKA_EXTRACTABLE`: it can leave the token, wrapped or not.
    pub extractable: Option<bool>,
    /// `CKA_LOCAL`: the token made it, and nobody imported it.
    pub local: Option<bool>,
}

/// The class of an object (`CKA_CLASS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyClass {
    /// `CKO_SECRET_KEY`, what an external key has to be.
    Secret,
    /// `CKO_PRIVATE_KEY`.
    Private,
    /// `CKO_PUBLIC_KEY`.
    Public,
    /// Anything else, such as a certificate.
    Other,
}

/// What became of an IV that was chosen outside the encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IvManners {
    /// It was used as given.
    Taken,
    /// The token used one of its own and wrote it back.
    Replaced,
    /// The token refused it, or has no random generator to make one.
    Refused,
}

/// What a key did when it was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The token's manners with IVs.
    pub iv: IvManners,
    /// Two encryptions of the same had different IVs.
    pub ivs_differ: bool,
    /// What was encrypted came back.
    pub came_back: bool,
    /// Decrypting with another AAD was refused as a wrong ciphertext.
    pub aad_is_bound: bool,
    /// Decrypting with a changed tag was refused as a wrong ciphertext.
    pub tag_is_checked: bool,
}

/// How long calls took, one entry per call, in the order made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoundTrips {
    /// An IV from the random generator and an AES-GCM encryption, as the proxy does it; empty without a key.
    pub encrypt: Vec<Duration>,
    /// An AES-GCM decryption; empty without a key.
    pub decrypt: Vec<Duration>,
    /// 12 bytes of the random generator, the shortest call there is.
    pub random: Vec<Duration>,
}

type Job = Box<dyn FnOnce(&mut Desk) + Send>;

/// A module that is being looked at, from a thread of its own.
pub struct Survey {
    patience: Duration,
    jobs: Option<Sender<Job>>,
    /// Ends when the thread does.
    ended: Receiver<()>,
}

struct Desk {
    opener: Arc<Opener>,
    module: Arc<Module>,
    settings: Pkcs11Settings,
    session: Option<TokenSession>,
}

/// Loads a module as [`Module::load`] does, waiting no longer than `patience`.
///
/// # Errors
/// Whatever is wrong with the module, or [`SurveyError::Hung`].
pub fn load(path: &Path, patience: Duration) -> Result<Arc<Module>, SurveyError> {
    let (tell, told) = mpsc::channel();
    let path = path.to_owned();
    start("survey-load", move || {
        let loaded = Module::load(&path).and_then(|module| module.begin().map(|()| module));
        let _ = tell.send(loaded);
    })?;
    Ok(told.recv_timeout(patience).map_err(|_| SurveyError::Hung(patience))??)
}

fn start(name: &str, task: impl FnOnce() + Send + 'static) -> Result<(), SurveyError> {
    #[expect(clippy::disallowed_methods, reason = "a call that hangs must not hang those who ask")]
    let started = std::thread::Builder::new().name(name.into()).spawn(task);
    started.map(drop).map_err(|error| SurveyError::Open(OpenError::NoThread(error.to_string())))
}

impl Survey {
    /// Begins to look at the token that `settings` name, on a module that is loaded. Logs in only when
    /// [`login`](Self::login) says so. Of `settings`, the numbers of sessions and of the queue do not apply.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(
        module: Arc<Module>,
        settings: Pkcs11Settings,
        patience: Duration,
    ) -> Result<Self, SurveyError> {
        let (jobs, work) = mpsc::channel::<Job>();
        let (end, ended) = mpsc::channel::<()>();
        let opener = Arc::new(Opener::new(Arc::clone(&module), settings.clone()));
        let mut desk = Desk { opener, module, settings, session: None };
        start("survey", move || {
            while let Ok(job) = work.recv() {
                job(&mut desk);
            }
            drop(desk);
            drop(end);
        })?;
        Ok(Self { patience, jobs: Some(jobs), ended })
    }

    /// What the library says of itself.
    ///
    /// # Errors
    /// When the call fails or hangs.
    pub fn module(&self) -> Result<ModuleFacts, SurveyError> {
        self.ask(Desk::module)
    }

    /// What the token says of itself; needs no login.
    ///
    /// # Errors
    /// When the token is absent or not the only one of its name, or the call fails or hangs.
    pub fn token(&self) -> Result<TokenFacts, SurveyError> {
        self.ask(Desk::token)
    }

    /// The token's AES-GCM; `None` when it has none. Needs no login.
    ///
    /// # Errors
    /// As [`token`](Self::token).
    pub fn gcm(&self) -> Result<Option<GcmFacts>, SurveyError> {
        self.ask(Desk::gcm)
    }

    /// Opens a session and logs in, with one try of the PIN. A PIN that was refused is not tried again, however often
    /// this is called.
    ///
    /// # Errors
    /// Whatever is wrong with token or PIN, in words for the operator.
    pub fn login(&self) -> Result<(), SurveyError> {
        self.ask(|desk| {
            desk.session = Some(desk.opener.session()?);
            Ok(())
        })
    }

    /// The token's secret keys, at most `max`, and whether there are more. Needs a login.
    ///
    /// # Errors
    /// When not logged in, or a call fails or hangs.
    pub fn secret_keys(&self, max: usize) -> Result<(Vec<KeyObject>, bool), SurveyError> {
        self.ask(move |desk| {
            let template = [Attribute::Class(ObjectClass::SECRET_KEY)];
            let mut keys = desk.objects(&template, max.saturating_add(1))?;
            let more = keys.len() > max;
            keys.truncate(max);
            Ok((keys, more))
        })
    }

    /// All objects of this name, of whatever class, at most 100. Needs a login.
    ///
    /// # Errors
    /// As [`secret_keys`](Self::secret_keys).
    pub fn named(&self, name: &KeyName) -> Result<Vec<KeyObject>, SurveyError> {
        let name = name.clone();
        self.ask(move |desk| desk.objects(&[attribute(&name)], 100))
    }

    /// Encrypts and decrypts with a key, as the proxy does, and tries what has to be refused. Needs a login.
    ///
    /// # Errors
    /// When a call fails that should not, or hangs.
    pub fn trial(&self, name: &KeyName) -> Result<Trial, SurveyError> {
        let name = name.clone();
        self.ask(move |desk| desk.trial(&name))
    }

    /// Encrypts a test text with a key, for another HSM to open. Needs a login.
    ///
    /// # Errors
    /// When the key cannot encrypt, or a call fails or hangs.
    pub fn seal(&self, name: &KeyName) -> Result<Sealed, SurveyError> {
        let name = name.clone();
        self.ask(move |desk| {
            Ok(desk.session()?.encrypt(&name, &frame(b"same key")?, &Plaintext::new(PROBE.to_vec()))?)
        })
    }

    /// Whether this HSM's key of that name opens what [`seal`](Self::seal) has made elsewhere. Needs a login.
    ///
    /// # Errors
    /// When the key cannot decrypt, or a call fails or hangs.
    pub fn opens(&self, name: &KeyName, sealed: &Sealed) -> Result<bool, SurveyError> {
        let (name, sealed) = (name.clone(), sealed.clone());
        self.ask(move |desk| Ok(!refused(desk.session()?.decrypt(&name, &frame(b"same key")?, &sealed))?))
    }

    /// Times `count` calls, or as many as fit into a quarter of the patience: encryptions and decryptions with a key,
    /// without one the random generator. Needs a login.
    ///
    /// # Errors
    /// When a call fails or hangs.
    pub fn round_trips(&self, name: Option<&KeyName>, count: usize) -> Result<RoundTrips, SurveyError> {
        let name = name.cloned();
        let end = Instant::now() + self.patience / 4;
        self.ask(move |desk| desk.round_trips(name.as_ref(), count, end))
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Desk) -> Result<T, SurveyError> + Send + 'static,
    ) -> Result<T, SurveyError> {
        let (tell, told) = mpsc::channel();
        let job: Job = Box::new(move |desk| {
            let _ = tell.send(question(desk));
        });
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
        told.recv_timeout(self.patience).map_err(|_| SurveyError::Hung(self.patience))?
    }
}

/// Closes the session and waits for it, for libraries do not bear to be torn down under a running call.
impl Drop for Survey {
    fn drop(&mut self) {
        self.jobs = None;
        if self.ended.recv_timeout(self.patience) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("an HSM call has not returned; it is left behind");
        }
    }
}

impl Desk {
    fn module(&mut self) -> Result<ModuleFacts, SurveyError> {
        let (pkcs11, _inside) = self.module.enter();
        let info = pkcs11.get_library_info().map_err(|error| OpenError::call(&error))?;
        Ok(ModuleFacts {
            manufacturer: info.manufacturer_id().to_owned(),
            description: info.library_description().to_owned(),
            version: info.library_version().to_string(),
            cryptoki: info.cryptoki_version().to_string(),
        })
    }

    fn token(&mut self) -> Result<TokenFacts, SurveyError> {
        let (pkcs11, _inside) = self.module.enter();
        let slot = find_slot(pkcs11, &self.settings.token)?;
        let info = pkcs11.get_token_info(slot).map_err(|error| OpenError::call(&error))?;
        let pin = if info.user_pin_locked() {
            PinState::Locked
        } else if info.user_pin_final_try() {
            PinState::FinalTry
        } else if !info.user_pin_initialized() {
            PinState::NotSet
        } else if info.user_pin_to_be_changed() {
            PinState::ToBeChanged
        } else if info.user_pin_count_low() {
            PinState::CountLow
        } else {
            PinState::Good
        };
        Ok(TokenFacts {
            label: info.label().to_owned(),
            serial: info.serial_number().to_owned(),
            model: info.model().to_owned(),
            slot: slot.id(),
            firmware: info.firmware_version().to_string(),
            random: info.rng(),
            pin,
            sessions_max: match info.max_session_count() {
                Limit::Max(most) => Some(most),
                Limit::Unavailable | Limit::Infinite => None,
            },
            sessions_open: info.session_count(),
        })
    }

    fn gcm(&mut self) -> Result<Option<GcmFacts>, SurveyError> {
        let (pkcs11, _inside) = self.module.enter();
        let slot = find_slot(pkcs11, &self.settings.token)?;
        let failed = |error: Error| OpenError::call(&error);
        if !pkcs11.get_mechanism_list(slot).map_err(failed)?.contains(&MechanismType::AES_GCM) {
            return Ok(None);
        }
        let info = pkcs11.get_mechanism_info(slot, MechanismType::AES_GCM).map_err(failed)?;
        let sizes = info.min_key_size()..=info.max_key_size();
        Ok(Some(GcmFacts {
            encrypt: info.encrypt(),
            decrypt: info.decrypt(),
            keys_of_256_bits: sizes.contains(&32) || sizes.contains(&256),
        }))
    }

    fn session(&mut self) -> Result<&mut TokenSession, HsmError> {
        let absent = || HsmError::new(HsmErrorKind::SessionLost, "not logged in");
        self.session.as_mut().ok_or_else(absent)
    }

    fn objects(&mut self, template: &[Attribute], max: usize) -> Result<Vec<KeyObject>, SurveyError> {
        let session = self.session()?;
        let handles: Vec<ObjectHandle> =
            session.call(|raw, _| raw.iter_objects(template)?.take(max).collect())?;
        let mut objects = Vec::new();
        for handle in handles {
            objects.push(object(&session.call(|raw, _| raw.get_attributes(handle, &ASKED))?));
        }
        Ok(objects)
    }

    fn trial(&mut self, name: &KeyName) -> Result<Trial, SurveyError> {
        let chosen = self.settings.iv_source == IvSource::Random;
        let session = self.session()?;
        let aad = frame(b"trial")?;
        let probe = Plaintext::new(PROBE.to_vec());
        let first = session.encrypt(name, &aad, &probe)?;
        let second = session.encrypt(name, &aad, &probe)?;
        let came_back = session.decrypt(name, &aad, &first)? == probe;
        let aad_is_bound = refused(session.decrypt(name, &frame(b"another")?, &first))?;
        let mut tag = first.tag;
        tag[0] ^= 1;
        let tag_is_checked = refused(session.decrypt(name, &aad, &Sealed { tag, ..first.clone() }))?;
        // Last, for a token that refuses the IV may take the session with it.
        let template = [Attribute::Class(ObjectClass::SECRET_KEY), attribute(name)];
        let handles = session.call(|raw, _| raw.find_objects(&template))?;
        let iv = match handles.first() {
            Some(key) if chosen => iv_manners(session, *key),
            _ => IvManners::Replaced,
        };
        Ok(Trial { iv, ivs_differ: first.iv != second.iv, came_back, aad_is_bound, tag_is_checked })
    }

    fn round_trips(
        &mut self,
        name: Option<&KeyName>,
        count: usize,
        end: Instant,
    ) -> Result<RoundTrips, SurveyError> {
        let session = self.session()?;
        let aad = frame(&[0x61; 100])?;
        let probe = Plaintext::new(PROBE.to_vec());
        let mut times = RoundTrips::default();
        // The first call of each kind pays for what the others have ready, such as the key's handle.
        for round in 0..=count {
            let took = |since: Instant, times: &mut Vec<Duration>| {
                if round > 0 {
                    times.push(since.elapsed());
                }
            };
            let begun = Instant::now();
            if round > 1 && begun >= end {
                break;
            }
            match name {
                Some(name) => {
                    let sealed = session.encrypt(name, &aad, &probe)?;
                    took(begun, &mut times.encrypt);
                    let begun = Instant::now();
                    session.decrypt(name, &aad, &sealed)?;
                    took(begun, &mut times.decrypt);
                }
                None => {
                    session.call(|raw, _| raw.generate_random_slice(&mut [0; 12]))?;
                    took(begun, &mut times.random);
                }
            }
        }
        Ok(times)
    }
}

const ASKED: [AttributeType; 10] = [
    AttributeType::Class,
    AttributeType::Label,
    AttributeType::Id,
    AttributeType::KeyType,
    AttributeType::ValueLen,
    AttributeType::Encrypt,
    AttributeType::Decrypt,
    AttributeType::Sensitive,
    AttributeType::Extractable,
    AttributeType::Local,
];

fn object(attributes: &[Attribute]) -> KeyObject {
    let mut object = KeyObject {
        class: KeyClass::Other,
        label: String::new(),
        id: Vec::new(),
        key_type: None,
        bits: None,
        encrypt: false,
        decrypt: false,
        sensitive: None,
        extractable: None,
        local: None,
    };
    for attribute in attributes {
        match attribute {
            Attribute::Class(class) => {
                object.class = match *class {
                    ObjectClass::SECRET_KEY => KeyClass::Secret,
                    ObjectClass::PRIVATE_KEY => KeyClass::Private,
                    ObjectClass::PUBLIC_KEY => KeyClass::Public,
                    _ => KeyClass::Other,
                }
            }
            Attribute::Label(label) => object.label = String::from_utf8_lossy(label).into_owned(),
            Attribute::Id(id) => object.id.clone_from(id),
            Attribute::KeyType(kind) => object.key_type = Some(type_name(*kind)),
            Attribute::ValueLen(bytes) => {
                object.bits = u64::try_from(usize::from(*bytes)).ok().and_then(|bytes| bytes.checked_mul(8));
            }
            Attribute::Encrypt(value) => object.encrypt = *value,
            Attribute::Decrypt(value) => object.decrypt = *value,
            Attribute::Sensitive(value) => object.sensitive = Some(*value),
            Attribute::Extractable(value) => object.extractable = Some(*value),
            Attribute::Local(value) => object.local = Some(*value),
            _ => {}
        }
    }
    object
}

fn type_name(kind: KeyType) -> String {
    let name = kind.to_string();
    name.strip_prefix("CKK_").map_or_else(|| name.clone(), str::to_owned)
}

fn attribute(name: &KeyName) -> Attribute {
    match name {
        KeyName::Label(label) => Attribute::Label(label.as_bytes().to_vec()),
        KeyName::Id(id) => Attribute::Id(id.clone()),
    }
}

fn frame(additional: &[u8]) -> Result<Aad, HsmError> {
    Aad::frame(additional, &[]).map_err(|_| HsmError::new(HsmErrorKind::Failed, "the AAD is too long"))
}

/// True when a decryption was refused for what it was given; another failure is a failure.
fn refused(outcome: Result<Plaintext, HsmError>) -> Result<bool, HsmError> {
    match outcome {
        Ok(_) => Ok(false),
        Err(error) if error.kind == HsmErrorKind::CiphertextRejected => Ok(true),
        Err(error) => Err(error),
    }
}

/// Encrypts with an IV of the token's own random generator, and looks whether it was taken. The ciphertext is dropped.
fn iv_manners(session: &mut TokenSession, key: ObjectHandle) -> IvManners {
    let tried = session.call(|raw: &Session, _| {
        let mut iv = [0; 12];
        raw.generate_random_slice(&mut iv)?;
        let chosen = iv;
        let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, b"trial", 128.into())?);
        raw.encrypt(&mechanism, key, &PROBE)?;
        Ok(iv == chosen)
    });
    match tried {
        Ok(true) => IvManners::Taken,
        Ok(false) => IvManners::Replaced,
        Err(_) => IvManners::Refused,
    }
}
