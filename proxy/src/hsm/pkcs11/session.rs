//! One logged-in session: finding keys, AES-GCM, and learning from every return value whether it may go on.
//!
//! Place on the map: above `module`, below `keeper`. All PKCS#11 calls of a request are made here, by one
//! thread.

use super::codes::{After, judge};
use super::keeper::{Device, Open};
use super::login::Logins;
use super::module::{LibraryEpoch, Mark, Module};
use super::settings::{IvSource, OpenError, Pkcs11Settings, TokenChoice, TokenSeen};
use super::stats::ReturnValues;
use crate::hsm::{Aad, HsmError, HsmErrorKind, Iv, KeyFacts, KeySpec, Sealed};
use crate::key::KeyName;
use crate::secret::Plaintext;
use cryptoki::context::{Function, Pkcs11};
use cryptoki::error::{Error, Result as CallResult, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use xks_proxy_pkcs11::OneCall;

const TAG_BYTES: usize = 16;
const TAG_BITS: u64 = 128;

/// Key handles kept per session. More distinct keys than this are looked up again, which costs time, not
/// correctness.
const CACHED_KEYS_MAX: usize = 1024;

/// So many new sessions in a row may have numbers that are held: as many as one library can have lost.
const SAME_NUMBERS_MAX: usize = 2 * 1024;

/// Which state of the library and which presence of the token a session belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Epoch {
    library: LibraryEpoch,
    removal: u64,
}

/// Opens logged-in sessions with one token.
pub(super) struct Opener {
    module: Arc<Module>,
    settings: Pkcs11Settings,
    /// The slot found last, and when; slots are not searched again before something changed.
    slot: Mutex<Option<(Epoch, Slot)>>,
    logins: Logins,
    /// How often the token has gone. Its neighbours on the same library keep their sessions.
    removals: AtomicU64,
    /// What the library has answered, errors only.
    pub(super) return_values: ReturnValues,
    /// The end has come: what is open is to be closed now.
    pub(super) closing: AtomicBool,
}

/// What identifies a token in GetHealthStatus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenIdentity {
    pub(super) serial: String,
    pub(super) model: String,
}

impl Opener {
    pub(super) fn new(module: Arc<Module>, settings: Pkcs11Settings) -> Self {
        Self {
            module,
            settings,
            slot: Mutex::new(None),
            logins: Logins::default(),
            removals: AtomicU64::new(0),
            return_values: ReturnValues::default(),
            closing: AtomicBool::new(false),
        }
    }

    /// A new session, logged in. Blocks for as long as the library does.
    pub(super) fn session(self: &Arc<Self>) -> Result<TokenSession, OpenError> {
        // A login that is under way is no reason to give up: it is waited for, as a turn is.
        match self.logins.may_begin() {
            Ok(()) | Err(OpenError::LoginUnderWay) => {}
            Err(error) => return Err(error),
        }
        let _turn = self.module.turns.take();
        self.logins.may_begin()?;
        let mut outcome = self.try_session();
        if matches!(outcome, Err(OpenError::SessionLimit(_))) && self.module.close_lost() {
            outcome = self.try_session();
        }
        if let Err(error) = &outcome {
            match self.module.cure(error) {
                Ok(false) => {}
                Ok(true) => outcome = self.try_session(),
                Err(error) => outcome = Err(error),
            }
        }
        let (raw, epoch, superseded) = outcome?;
        self.module.session_opened();
        Ok(TokenSession {
            raw: Some(raw),
            opener: Arc::clone(self),
            epoch,
            superseded,
            keys: BTreeMap::new(),
            unconfirmed: Vec::new(),
            lost: false,
        })
    }

    fn epoch(&self) -> Epoch {
        Epoch { library: self.module.epoch(), removal: self.removals.load(Ordering::Acquire) }
    }

    /// A session of `epoch` was told that the token is gone. Those who hear it later change nothing.
    fn token_gone(&self, epoch: Epoch) {
        let next = epoch.removal + 1;
        let _ = self.removals.compare_exchange(epoch.removal, next, Ordering::AcqRel, Ordering::Acquire);
    }

    fn try_session(&self) -> Result<(Session, Epoch, Mark), OpenError> {
        self.module.begin()?;
        let (pkcs11, _inside) = self.module.enter();
        // Inside, where nobody initialises the library anew: a session that counted as from before would never be closed.
        let epoch = self.epoch();
        let slot = self.slot(pkcs11, epoch)?;
        let forget = |error: OpenError| {
            *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
            error
        };
        let (raw, superseded) = self.session_of_its_own(pkcs11, slot).map_err(forget)?;
        match self.log_in(pkcs11, slot, &raw) {
            Ok(()) => Ok((raw, epoch, superseded)),
            Err(error) => {
                let error = forget(error);
                self.module.session_ended(epoch.library, raw, false);
                Err(error)
            }
        }
    }

    /// Tries the PIN, unless that could lock the token.
    fn log_in(&self, pkcs11: &Pkcs11, slot: Slot, raw: &Session) -> Result<(), OpenError> {
        let login = self.logins.begin()?;
        let outcome = self.may_try_pin(pkcs11, slot, raw).and_then(|()| {
            let pin = AuthPin::new(self.settings.pin.expose().into());
            match raw.login(UserType::User, Some(&pin)) {
                // Login belongs to the process and the token, not to the session: another session has done it.
                Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
                Err(error) => Err(self.explain(&error)),
            }
        });
        match &outcome {
            Ok(()) => login.accepted(),
            Err(error) => {
                if error.is_final() {
                    tracing::error!(
                        hsm = self.settings.name,
                        %error,
                        "no login, and none is tried again before a restart"
                    );
                }
                login.failed(error);
            }
        }
        outcome
    }

    /// Others may have tried wrong PINs, and who starts this process over and over may have. The last try is a human's.
    fn may_try_pin(&self, pkcs11: &Pkcs11, slot: Slot, raw: &Session) -> Result<(), OpenError> {
        let info = pkcs11.get_token_info(slot).map_err(|error| self.explain(&error))?;
        let refused = if info.user_pin_locked() {
            OpenError::PinLocked(self.settings.token.clone())
        } else if info.user_pin_final_try() {
            OpenError::PinFinalTry(self.settings.token.clone())
        } else {
            return Ok(());
        };
        // Where another session of ours has logged in, no PIN is looked at.
        let state = raw.get_session_info().map_err(|error| self.explain(&error))?.session_state();
        if matches!(state, SessionState::RoUser | SessionState::RwUser) { Ok(()) } else { Err(refused) }
    }

    /// A session whose number no other session of ours has. A library that lost its sessions begins to give out their
    /// numbers again; one that is still held is left to its holder, who is told, and another is opened.
    fn session_of_its_own(&self, pkcs11: &Pkcs11, slot: Slot) -> Result<(Session, Mark), OpenError> {
        for _ in 0..SAME_NUMBERS_MAX {
            // Not closed on drop: after the library was initialised again its number may be another session's.
            let raw = pkcs11.open_ro_session_no_drop(slot).map_err(|error| self.explain(&error))?;
            if let Some(mark) = self.module.hold(raw.handle()) {
                return Ok((raw, mark));
            }
        }
        Err(OpenError::Call {
            doing: "C_OpenSession".into(),
            verdict: None,
            why: "the library gives the numbers of sessions that are not closed to new ones".into(),
        })
    }

    /// Closes what was lost and not closed since.
    pub(super) fn close_lost(&self) {
        let _turn = self.module.turns.take();
        self.module.close_lost();
    }

    fn explain(&self, error: &Error) -> OpenError {
        self.note(error);
        OpenError::opening(error, &self.settings.token)
    }

    /// Counts what the library answered.
    fn note(&self, error: &Error) {
        if let Error::Pkcs11(rv, _) = error {
            self.return_values.count(judge(*rv).ck_rv);
        }
    }

    fn slot(&self, pkcs11: &Pkcs11, epoch: Epoch) -> Result<Slot, OpenError> {
        let mut known = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((found_in, slot)) = *known
            && found_in == epoch
        {
            return Ok(slot);
        }
        let slot = find_slot(pkcs11, &self.settings.token)?;
        *known = Some((epoch, slot));
        Ok(slot)
    }

    /// Serial number and model of the token.
    pub(super) fn identity(&self) -> Result<TokenIdentity, OpenError> {
        let epoch = self.epoch();
        let (pkcs11, _inside) = self.module.enter();
        let slot = self.slot(pkcs11, epoch)?;
        let info = pkcs11.get_token_info(slot).map_err(|error| OpenError::call(&error))?;
        Ok(TokenIdentity { serial: info.serial_number().to_owned(), model: info.model().to_owned() })
    }
}

impl Open for Opener {
    type Device = TokenSession;

    fn name(&self) -> &str {
        &self.settings.name
    }

    fn open(self: &Arc<Self>) -> Result<TokenSession, HsmError> {
        Ok(self.session()?)
    }
}

pub(super) fn find_slot(pkcs11: &Pkcs11, wanted: &TokenChoice) -> Result<Slot, OpenError> {
    let failed = |error: Error| OpenError::call(&error);
    let mut seen = Vec::new();
    let mut matching = Vec::new();
    for slot in pkcs11.get_slots_with_token().map_err(failed)? {
        // One slot that fails (a reader whose card is being pulled) does not hide the others.
        let Ok(info) = pkcs11.get_token_info(slot) else { continue };
        let token = TokenSeen {
            label: info.label().to_owned(),
            serial: info.serial_number().to_owned(),
            slot: slot.id(),
        };
        let fits = match wanted {
            TokenChoice::Label(label) => token.label == *label,
            TokenChoice::Serial(serial) => token.serial == *serial,
            TokenChoice::Slot(id) => token.slot == *id,
        };
        if fits {
            matching.push((slot, token.clone()));
        }
        if info.token_initialized() {
            seen.push(token);
        }
    }
    match matching.as_slice() {
        [(slot, _)] => Ok(*slot),
        [] => Err(OpenError::NoSuchToken { wanted: wanted.clone(), seen }),
        several => {
            let seen = several.iter().map(|(_, token)| token.clone()).collect();
            Err(OpenError::AmbiguousToken { wanted: wanted.clone(), seen })
        }
    }
}

/// A logged-in session. Dropping it closes it.
pub(super) struct TokenSession {
    /// `None` only while it is dropped.
    raw: Option<Session>,
    opener: Arc<Opener>,
    epoch: Epoch,
    /// The library has given this session's number to another.
    superseded: Mark,
    keys: BTreeMap<KeyName, Key>,
    /// The keys that were used to encrypt, and whose handles are still to be confirmed.
    unconfirmed: Vec<(KeyName, ObjectHandle)>,
    lost: bool,
}

#[derive(Clone)]
struct Key {
    handle: ObjectHandle,
    facts: KeyFacts,
}

impl Device for TokenSession {
    fn is_lost(&self) -> bool {
        self.lost || self.superseded.load(Ordering::Acquire) || self.opener.epoch() != self.epoch
    }

    fn has_to_settle(&self) -> bool {
        !self.unconfirmed.is_empty()
    }

    fn settle(&mut self) -> Result<(), HsmError> {
        let unconfirmed = std::mem::take(&mut self.unconfirmed);
        unconfirmed.iter().try_for_each(|(name, handle)| self.confirm(name, *handle))
    }

    fn discard(&mut self) {
        self.unconfirmed.clear();
    }

    fn probe(&mut self) -> Result<(), HsmError> {
        self.check_login()?;
        // The session's state is often known on this side of the network; random bytes are not.
        let mut random = [0; 8];
        self.call(|raw, _| raw.generate_random_slice(&mut random))
    }
}

impl Drop for TokenSession {
    fn drop(&mut self) {
        let may_wait = self.is_lost() && !self.opener.closing.load(Ordering::Acquire);
        let module = &self.opener.module;
        let _turn = module.turns.take();
        if let Some(raw) = self.raw.take() {
            module.session_ended(self.epoch.library, raw, may_wait);
        }
    }
}

impl TokenSession {
    /// Looks the key up anew, so that a key that was deleted or changed in the HSM is seen as it is.
    pub(super) fn describe(&mut self, name: &KeyName) -> Result<KeyFacts, HsmError> {
        self.keys.remove(name);
        Ok(self.key(name)?.facts)
    }

    pub(super) fn encrypt(
        &mut self,
        name: &KeyName,
        aad: &Aad,
        plaintext: &Plaintext,
    ) -> Result<Sealed, HsmError> {
        let (key, sealed) = self.seal_with(name, aad, plaintext)?;
        self.confirm(name, key.handle)?;
        Ok(sealed)
    }

    fn seal_with(
        &mut self,
        name: &KeyName,
        aad: &Aad,
        plaintext: &Plaintext,
    ) -> Result<(Key, Sealed), HsmError> {
        let key = self.key_that(name, |facts| usable(name, facts, facts.encrypt, "encrypt"))?;
        let sealed = self.seal(key.handle, aad.as_bytes(), plaintext.expose())?;
        Ok((key, sealed))
    }

    /// As [`encrypt`](Self::encrypt), but whether it was this key is still to be asked: the result is not to be given out
    /// before [`settle`](Device::settle).
    pub(super) fn encrypt_unsettled(
        &mut self,
        name: &KeyName,
        aad: &Aad,
        plaintext: &Plaintext,
    ) -> Result<Sealed, HsmError> {
        let (key, sealed) = self.seal_with(name, aad, plaintext)?;
        let used = |(known, handle): &(KeyName, ObjectHandle)| *handle == key.handle && known == name;
        if !self.unconfirmed.iter().any(used) {
            self.unconfirmed.push((name.clone(), key.handle));
        }
        Ok(sealed)
    }

    pub(super) fn decrypt(
        &mut self,
        name: &KeyName,
        aad: &Aad,
        sealed: &Sealed,
    ) -> Result<Plaintext, HsmError> {
        let key = self.key_that(name, |facts| usable(name, facts, facts.decrypt, "decrypt"))?;
        let error = match self.open(key.handle, aad.as_bytes(), sealed) {
            Ok(plaintext) => return Ok(plaintext),
            Err(error) => error,
        };
        // SoftHSM and others answer a wrong tag with a code that says nothing (CKR_GENERAL_ERROR). Then the device has
        // to show that it works, and to say the same once more: a fault that passes must not make a right ciphertext
        // look wrong, for KMS takes that answer as final. If it does, the ciphertext is at fault, and the session is not.
        let Some(rv) = says_nothing(&error) else {
            let error = self.failed(&error);
            if error.kind == HsmErrorKind::CiphertextRejected {
                self.confirm(name, key.handle)?;
            }
            return Err(error);
        };
        if !self.shows_that_it_works(&key) {
            return Err(self.failed(&error));
        }
        let error = match self.open(key.handle, aad.as_bytes(), sealed) {
            Ok(plaintext) => return Ok(plaintext),
            Err(error) => error,
        };
        if says_nothing(&error).is_some() {
            self.confirm(name, key.handle)?;
            return Err(HsmError {
                kind: HsmErrorKind::CiphertextRejected,
                ck_rv: Some(judge(rv).ck_rv),
                detail: format!(
                    "C_Decrypt with key {name}: {rv:?}, and the device works: the ciphertext is wrong"
                ),
            });
        }
        Err(self.failed(&error))
    }

    /// The session, its login and the token are there, and, with a key to try it on, so is AES-GCM.
    pub(super) fn check(&mut self, health_key: Option<&KeyName>) -> Result<TokenIdentity, HsmError> {
        self.check_login()?;
        if let Some(name) = health_key {
            let too_long = |_| HsmError::new(HsmErrorKind::Failed, "the AAD of the health check is too long");
            let aad = Aad::frame(b"health", &[]).map_err(too_long)?;
            let probe = Plaintext::new(vec![0x5a; 32]);
            let sealed = self.encrypt(name, &aad, &probe)?;
            if self.decrypt(name, &aad, &sealed)? != probe {
                return Err(HsmError::new(HsmErrorKind::Failed, "the health key decrypts to something else"));
            }
        }
        Ok(self.opener.identity()?)
    }

    fn check_login(&mut self) -> Result<(), HsmError> {
        let state = self.call(|raw, _| Ok(raw.get_session_info()?.session_state()))?;
        if matches!(state, SessionState::RoUser | SessionState::RwUser) {
            return Ok(());
        }
        self.lost = true;
        Err(HsmError::new(HsmErrorKind::SessionLost, "the session is no longer logged in"))
    }

    /// The key, if its facts are fit. A refusal is never given from memory: the key may be allowed more by now.
    fn key_that(
        &mut self,
        name: &KeyName,
        fit: impl Fn(&KeyFacts) -> Result<(), HsmError>,
    ) -> Result<Key, HsmError> {
        let mut key = self.key(name)?;
        if fit(&key.facts).is_err() {
            self.keys.remove(name);
            key = self.key(name)?;
        }
        fit(&key.facts).map(|()| key)
    }

    fn key(&mut self, name: &KeyName) -> Result<Key, HsmError> {
        if let Some(key) = self.keys.get(name) {
            return Ok(key.clone());
        }
        let key = self.find(name)?;
        if self.keys.len() >= CACHED_KEYS_MAX {
            self.keys.clear();
        }
        self.keys.insert(name.clone(), key.clone());
        Ok(key)
    }

    /// The handle still names the key it was found for; asked after the key was used and before the result is given
    /// out. A handle may be given to another object once its own is destroyed, and there are libraries that renumber
    /// objects when they connect anew: without this a ciphertext would be made with another key, and later fail to
    /// decrypt. For a decrypt the tag says it, so there it is asked only when that is wrong.
    ///
    /// Only the attribute that names the key is asked: SoftHSM2 opens the token's file and decrypts for each one. Whatever
    /// bears that name now is the key that a decrypt will find by it.
    fn confirm(&mut self, name: &KeyName, handle: ObjectHandle) -> Result<(), HsmError> {
        let (attribute, value) = naming(name);
        if self.call(|raw, library| library.attribute_is(raw, handle, attribute, value))? {
            return Ok(());
        }
        self.lost = true;
        Err(HsmError::new(
            HsmErrorKind::SessionLost,
            format!("the handle of the key with {name} now names another object"),
        ))
    }

    /// A secret key with this name; failing that a private key, only so that its facts can say what it is.
    fn find(&mut self, name: &KeyName) -> Result<Key, HsmError> {
        let opener = Arc::clone(&self.opener);
        // Searches race with logins, not with each other.
        let _turn = opener.module.turns.share();
        let named = match name {
            KeyName::Label(label) => Attribute::Label(label.as_bytes().to_vec()),
            KeyName::Id(id) => Attribute::Id(id.clone()),
        };
        for class in [ObjectClass::SECRET_KEY, ObjectClass::PRIVATE_KEY] {
            let template = [Attribute::Class(class), named.clone()];
            let found = self.call(|raw, _| raw.find_objects(&template))?;
            match found.as_slice() {
                [] => {}
                [handle] => {
                    let facts = self.facts(name, *handle)?;
                    // Last, so that it vouches for the facts too: since the search the handle may have been given to
                    // another object.
                    self.confirm(name, *handle)?;
                    return Ok(Key { handle: *handle, facts });
                }
                several => {
                    return Err(HsmError::new(
                        HsmErrorKind::Refused,
                        format!(
                            "{} keys with {name}: rename all but one, or name the key by its CKA_ID",
                            several.len()
                        ),
                    ));
                }
            }
        }
        // Without a login private keys are invisible, and a healthy key would be reported missing. All logins
        // take turns with this search, so the login that is seen here was there during the search.
        self.check_login()?;
        Err(HsmError::new(HsmErrorKind::KeyNotFound, format!("no key with {name} that this user can see")))
    }

    fn facts(&mut self, name: &KeyName, handle: ObjectHandle) -> Result<KeyFacts, HsmError> {
        let asked =
            [AttributeType::KeyType, AttributeType::ValueLen, AttributeType::Encrypt, AttributeType::Decrypt];
        let mut key_type = None;
        let mut value_bytes = None;
        // An object without CKA_ENCRYPT or CKA_DECRYPT may not do it.
        let mut encrypt = false;
        let mut decrypt = false;
        for attribute in self.call(|raw, _| raw.get_attributes(handle, &asked))? {
            match attribute {
                Attribute::KeyType(value) => key_type = Some(value),
                Attribute::ValueLen(value) => value_bytes = Some(usize::from(value)),
                Attribute::Encrypt(value) => encrypt = value,
                Attribute::Decrypt(value) => decrypt = value,
                _ => {}
            }
        }
        let unsaid = |what: &str| {
            HsmError::new(
                HsmErrorKind::Failed,
                format!("the HSM does not tell {what} of the key with {name}"),
            )
        };
        let spec = match key_type.ok_or_else(|| unsaid("CKA_KEY_TYPE"))? {
            KeyType::AES => {
                let bytes = value_bytes.ok_or_else(|| unsaid("CKA_VALUE_LEN"))?;
                KeySpec::Aes(u16::try_from(bytes * 8).map_err(|_| unsaid("a sensible CKA_VALUE_LEN"))?)
            }
            other => KeySpec::Other(*other),
        };
        Ok(KeyFacts { spec, encrypt, decrypt, enabled: true })
    }

    fn seal(&mut self, key: ObjectHandle, aad: &[u8], plaintext: &[u8]) -> Result<Sealed, HsmError> {
        let mut iv = [0; 12];
        let source = self.opener.settings.iv_source;
        if source == IvSource::Random {
            self.call(|raw, _| raw.generate_random_slice(&mut iv))?;
        }
        let mut output = self.call(|raw, library| {
            let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, aad, TAG_BITS.into())?);
            library.encrypt(raw, &mechanism, key, plaintext, plaintext.len() + TAG_BYTES)
        })?;
        // An IV of zeros was never made by anyone: using it twice under one key would give the key away.
        if iv == [0; 12] {
            return Err(HsmError::new(
                HsmErrorKind::Failed,
                "the HSM made no IV: set the IV source to random",
            ));
        }
        let tag = output.len().checked_sub(TAG_BYTES).filter(|len| *len == plaintext.len());
        let tag = tag.map(|len| output.split_off(len)).and_then(|tag| <[u8; TAG_BYTES]>::try_from(tag).ok());
        let Some(tag) = tag else {
            return Err(HsmError::new(
                HsmErrorKind::Failed,
                format!(
                    "C_Encrypt made {} bytes of {}; expected are 16 more (the tag)",
                    output.len(),
                    plaintext.len()
                ),
            ));
        };
        Ok(Sealed { ciphertext: output, iv: Iv::Twelve(iv), tag })
    }

    fn open(&mut self, key: ObjectHandle, aad: &[u8], sealed: &Sealed) -> CallResult<Plaintext> {
        let mut input = Vec::with_capacity(sealed.ciphertext.len() + TAG_BYTES);
        input.extend_from_slice(&sealed.ciphertext);
        input.extend_from_slice(&sealed.tag);
        let mut iv = [0; 16];
        let iv = &mut iv[..sealed.iv.as_bytes().len()];
        iv.copy_from_slice(sealed.iv.as_bytes());
        self.inside(|raw, library| {
            let mechanism = Mechanism::AesGcm(GcmParams::new(iv, aad, TAG_BITS.into())?);
            let mut plaintext = library.decrypt(raw, &mechanism, key, &input)?;
            Ok(Plaintext::new(std::mem::take(&mut *plaintext)))
        })
    }

    /// The same key decrypts what it has just encrypted; a key that may not encrypt leaves only the random
    /// generator to show that the device answers.
    fn shows_that_it_works(&mut self, key: &Key) -> bool {
        let aad = [0; 3];
        if !key.facts.encrypt {
            let mut random = [0; 12];
            return self.inside(|raw, _| raw.generate_random_slice(&mut random)).is_ok();
        }
        let Ok(sealed) = self.seal(key.handle, &aad, &[0x5a]) else { return false };
        self.open(key.handle, &aad, &sealed).is_ok_and(|plaintext| plaintext.expose() == [0x5a])
    }

    /// Calls into the library, and learns from the return value.
    pub(super) fn call<T>(
        &mut self,
        call: impl FnOnce(&Session, &OneCall) -> CallResult<T>,
    ) -> Result<T, HsmError> {
        self.inside(call).map_err(|error| self.failed(&error))
    }

    /// Calls into the library, unless the library's state that this session belongs to has ended.
    fn inside<T>(&self, call: impl FnOnce(&Session, &OneCall) -> CallResult<T>) -> CallResult<T> {
        let (library, _inside) = self.opener.module.enter_request();
        let ended = || Err(Error::Pkcs11(RvError::SessionHandleInvalid, Function::GetSessionInfo));
        let Some(raw) = self.raw.as_ref().filter(|_| !self.is_lost()) else { return ended() };
        let outcome = call(raw, library).inspect_err(|error| self.opener.note(error));
        // If it was lost meanwhile, its number and the key's handle may have meant something else to the library.
        if self.is_lost() { ended() } else { outcome }
    }

    fn failed(&mut self, error: &Error) -> HsmError {
        let Error::Pkcs11(rv, function) = error else {
            return HsmError::new(HsmErrorKind::Failed, format!("calling the PKCS#11 module: {error}"));
        };
        let verdict = judge(*rv);
        match verdict.after {
            After::Keep => {}
            After::ReplaceSession => self.lost = true,
            After::ReplaceToken => {
                self.lost = true;
                self.opener.token_gone(self.epoch);
            }
            After::ReplaceAll => {
                self.lost = true;
                self.opener.module.lost(self.epoch.library);
            }
        }
        HsmError { kind: verdict.kind, ck_rv: Some(verdict.ck_rv), detail: format!("C_{function:?}: {rv:?}") }
    }
}

/// The attribute that a key is found and recognised by.
fn naming(name: &KeyName) -> (AttributeType, &[u8]) {
    match name {
        KeyName::Label(label) => (AttributeType::Label, label.as_bytes()),
        KeyName::Id(id) => (AttributeType::Id, id),
    }
}

/// The code with which `C_Decrypt` may mean a wrong tag or anything else.
fn says_nothing(error: &Error) -> Option<RvError> {
    match error {
        Error::Pkcs11(rv @ (RvError::GeneralError | RvError::FunctionFailed), Function::Decrypt) => Some(*rv),
        _ => None,
    }
}

/// Refuses before the HSM is asked: a key that is not AES-256 is no external key, whatever its attributes say.
fn usable(name: &KeyName, facts: &KeyFacts, allowed: bool, verb: &str) -> Result<(), HsmError> {
    if facts.spec != KeySpec::Aes(256) {
        return Err(HsmError::new(
            HsmErrorKind::UsageRefused,
            format!("the key with {name} is not AES-256 but {:?}", facts.spec),
        ));
    }
    if !allowed {
        return Err(HsmError::new(
            HsmErrorKind::UsageRefused,
            format!("the key with {name} may not {verb} (CKA_{} is false)", verb.to_uppercase()),
        ));
    }
    Ok(())
}
