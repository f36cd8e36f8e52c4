//! What is to be opened, and every way in which opening can fail, each in one line that says what to do.
//!
//! Place on the map: `config` fills [`Pkcs11Settings`]; `main` prints an [`OpenError`] and ends.

use super::codes::{Verdict, judge};
use crate::hsm::{HsmError, HsmErrorKind};
use crate::key::KeyName;
use crate::secret::Secret;
use cryptoki::error::RvError;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of one PKCS#11 token. [`Pkcs11Settings::new`] fills in the defaults.
#[derive(Clone, Debug)]
pub struct Pkcs11Settings {
    /// What logs call it. The configuration's name of the HSM; by default how the token is recognised.
    pub name: String,
    /// The vendor's shared library, such as `/usr/lib/softhsm/libsofthsm2.so`.
    pub module: PathBuf,
    /// Which of the module's tokens.
    pub token: TokenChoice,
    /// The user PIN (`CKU_USER`). Tried once; a PIN that was refused is never tried again.
    pub pin: Secret,
    /// Sessions, each with its own thread: at most so many requests are inside the HSM at once. 1 to 1024, default
    /// 16.
    pub sessions_max: usize,
    /// Requests that may wait for a session; one more is answered `Busy` at once. 1 to 65,536, default 64.
    pub queue_max: usize,
    /// Threads that may be left behind in a call that does not return, each replaced by a new thread with a
    /// new session: the token must bear `sessions_max + set_aside_max` sessions. 0 to 1024, default
    /// 16.
    pub set_aside_max: usize,
    /// How long after its deadline a call is taken for hung, and its thread set aside. Default 100 ms.
    pub set_aside_after: Duration,
    /// A session that was not used for so long is tried by its own thread, and replaced if it is dead, so that no
    /// request finds out that a firewall has forgotten its connection. 100 ms to 24 h, default 60 s.
    pub session_idle_max: Duration,
    /// Who makes the IVs of encrypt.
    pub iv_source: IvSource,
    /// An AES-256 key of our own, not a customer's, that [`health`](crate::hsm::Hsm::health) encrypts and
    /// decrypts with (XKS-HLT-2). Without it health looks at the session and the token only.
    pub health_key: Option<KeyName>,
}

/// How a token is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenChoice {
    /// By its label, given when it was initialised.
    Label(String),
    /// By its serial number, which no two tokens share.
    Serial(String),
    /// By the number of its slot, which some modules change when tokens come and go.
    Slot(u64),
}

/// Who makes the IVs of encrypt. Never the proxy itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IvSource {
    /// The token's random generator (`C_GenerateRandom`), 12 bytes for each encryption. If the token writes
    /// another IV back, that one counts.
    #[default]
    Random,
    /// The token's encryption itself: it is given 12 zero bytes and must write the IV it used back over them
    /// (AWS CloudHSM).
    Encryption,
}

impl Pkcs11Settings {
    /// The three settings that have no default, and the defaults of all others.
    pub fn new(module: impl Into<PathBuf>, token: TokenChoice, pin: Secret) -> Self {
        Self {
            name: token.to_string(),
            module: module.into(),
            token,
            pin,
            sessions_max: 16,
            queue_max: 64,
            set_aside_max: 16,
            set_aside_after: Duration::from_millis(100),
            session_idle_max: Duration::from_secs(60),
            iv_source: IvSource::default(),
            health_key: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let within = |name: &'static str, value: usize, min: usize, max: usize| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(OpenError::Setting { name, value, min, max })
            }
        };
        within("sessions_max", self.sessions_max, 1, 1024)?;
        within("queue_max", self.queue_max, 1, 65_536)?;
        within("set_aside_max", self.set_aside_max, 0, 1024)?;
        let idle_ms = usize::try_from(self.session_idle_max.as_millis()).unwrap_or(usize::MAX);
        within("session_idle_max_ms", idle_ms, 100, 86_400_000)
    }
}

impl fmt::Display for TokenChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(label) => write!(f, "label {label:?}"),
            Self::Serial(serial) => write!(f, "serial {serial:?}"),
            Self::Slot(id) => write!(f, "slot {id}"),
        }
    }
}

/// A token that the module shows, for the error that says which there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSeen {
    /// `CK_TOKEN_INFO.label`, without its padding.
    pub label: String,
    /// `CK_TOKEN_INFO.serialNumber`, without its padding.
    pub serial: String,
    /// The number of its slot.
    pub slot: u64,
}

impl fmt::Display for TokenSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "label {:?} serial {:?} slot {}", self.label, self.serial, self.slot)
    }
}

/// Why a token cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// A number outside its range.
    Setting {
        /// Which setting.
        name: &'static str,
        /// Its value.
        value: usize,
        /// The least allowed.
        min: usize,
        /// The most allowed.
        max: usize,
    },
    /// There is no file at the module's path.
    ModuleAbsent(PathBuf),
    /// The system's loader refuses the file.
    ModuleNotLoadable(PathBuf, String),
    /// A shared library, but without PKCS#11 in it.
    NotPkcs11(PathBuf),
    /// No token is what was asked for.
    NoSuchToken {
        /// What was asked for.
        wanted: TokenChoice,
        /// What there is.
        seen: Vec<TokenSeen>,
    },
    /// More than one token is what was asked for.
    AmbiguousToken {
        /// What was asked for.
        wanted: TokenChoice,
        /// Those that match.
        seen: Vec<TokenSeen>,
    },
    /// The token refuses the PIN (`CKR_PIN_INCORRECT`, `CKR_PIN_LEN_RANGE`, `CKR_PIN_INVALID`).
    PinIncorrect(TokenChoice),
    /// Too many wrong PINs (`CKR_PIN_LOCKED`, or `CKF_USER_PIN_LOCKED`, and then it was not tried).
    PinLocked(TokenChoice),
    /// The PIN has to be changed first (`CKR_PIN_EXPIRED`).
    PinExpired(TokenChoice),
    /// One more wrong PIN would lock the token (`CKF_USER_PIN_FINAL_TRY`); it was not tried.
    PinFinalTry(TokenChoice),
    /// The token has no user PIN yet (`CKR_USER_PIN_NOT_INITIALIZED`).
    PinNotSet(TokenChoice),
    /// The token gives no further session (`CKR_SESSION_COUNT`).
    SessionLimit(TokenChoice),
    /// Another thread is logging in, and a PIN is not tried twice at once. It passes by itself.
    LoginUnderWay,
    /// Another call failed.
    Call {
        /// The PKCS#11 function, or what was being done.
        doing: String,
        /// The return value, judged; `None` when it failed on this side of the library.
        verdict: Option<Verdict>,
        /// The return value's name or the reason.
        why: String,
    },
    /// The system gives no further thread.
    NoThread(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |seen: &[TokenSeen]| {
            let seen: Vec<String> = seen.iter().map(TokenSeen::to_string).collect();
            if seen.is_empty() { "none".to_owned() } else { seen.join("; ") }
        };
        match self {
            Self::Setting { name, value, min, max } => {
                write!(f, "{name} = {value} is out of range: set it to {min} … {max}")
            }
            Self::ModuleAbsent(path) => write!(
                f,
                "no PKCS#11 module at {}: install the HSM's client software or correct the path",
                path.display()
            ),
            Self::ModuleNotLoadable(path, why) => write!(
                f,
                "the PKCS#11 module {} cannot be loaded ({why}): check its architecture, its permissions and, with \
                 ldd, the libraries it needs",
                path.display()
            ),
            Self::NotPkcs11(path) => write!(
                f,
                "{} is a library but not a PKCS#11 module (it has no C_GetFunctionList): correct the path",
                path.display()
            ),
            Self::NoSuchToken { wanted, seen } => {
                write!(
                    f,
                    "no token with {wanted}; there are: {}. Correct the setting, or see why the HSM or \
                           partition is not connected",
                    list(seen)
                )
            }
            Self::AmbiguousToken { wanted, seen } => {
                write!(f, "several tokens with {wanted}: {}. Choose one by its serial", list(seen))
            }
            Self::PinIncorrect(token) => write!(
                f,
                "the token with {token} refuses the PIN: correct it and start again. It is not tried a second time, \
                 because a few wrong PINs lock the token"
            ),
            Self::PinLocked(token) => write!(
                f,
                "the user PIN of the token with {token} is locked: the security officer has to unlock it (C_InitPIN)"
            ),
            Self::PinExpired(token) => {
                write!(
                    f,
                    "the user PIN of the token with {token} has expired: change it, then correct the setting"
                )
            }
            Self::PinFinalTry(token) => write!(
                f,
                "the PIN of the token with {token} is not tried: one more wrong PIN would lock the token: log in by \
                 the vendor's tool once, which resets the count, and start again"
            ),
            Self::PinNotSet(token) => write!(
                f,
                "the token with {token} has no user PIN yet: the security officer has to set one (C_InitPIN)"
            ),
            Self::SessionLimit(token) => write!(
                f,
                "the token with {token} gives no further session: lower sessions_max, raise the limit in the HSM, \
                 or end other programs that use it"
            ),
            Self::LoginUnderWay => f.write_str("another thread's login has not returned yet"),
            Self::Call { doing, why, verdict: Some(verdict) } => {
                write!(f, "{doing}: {why} (CK_RV {:#x}): see the HSM's log", verdict.ck_rv)
            }
            Self::Call { doing, why, verdict: None } => write!(f, "{doing}: {why}"),
            Self::NoThread(why) => {
                write!(
                    f,
                    "no further thread ({why}): lower sessions_max or raise the process limit (ulimit -u)"
                )
            }
        }
    }
}

impl std::error::Error for OpenError {}

impl OpenError {
    pub(super) fn call(error: &cryptoki::error::Error) -> Self {
        match error {
            cryptoki::error::Error::Pkcs11(rv, function) => Self::Call {
                doing: format!("C_{function:?}"),
                verdict: Some(judge(*rv)),
                why: format!("{rv:?}"),
            },
            other => Self::Call {
                doing: "calling the PKCS#11 module".into(),
                verdict: None,
                why: other.to_string(),
            },
        }
    }

    /// As [`call`](Self::call), for a call that opens a session with `token` or logs in: what its return value says of the
    /// PIN or of the token's limit has words of its own.
    pub(super) fn opening(error: &cryptoki::error::Error, token: &TokenChoice) -> Self {
        let token = || token.clone();
        let cryptoki::error::Error::Pkcs11(rv, _) = error else { return Self::call(error) };
        match rv {
            RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange => Self::PinIncorrect(token()),
            RvError::PinLocked => Self::PinLocked(token()),
            RvError::PinExpired => Self::PinExpired(token()),
            RvError::UserPinNotInitialized => Self::PinNotSet(token()),
            RvError::SessionCount => Self::SessionLimit(token()),
            _ => Self::call(error),
        }
    }

    /// Nothing could be served with these settings, so a start ends here. Anything else may pass by itself (a token that
    /// is not there, even where others are: a partition in maintenance), or must outlive this process: whoever ended at
    /// a refused PIN would be started again, and try it again until the token is locked.
    pub(super) fn is_mistake(&self) -> bool {
        match self {
            Self::NoSuchToken { .. } | Self::SessionLimit(_) | Self::LoginUnderWay | Self::Call { .. } => {
                false
            }
            error => !error.is_final(),
        }
    }

    /// The token said no to the PIN, or may not be asked: asking with the same PIN can only make it worse.
    pub(super) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::PinIncorrect(_)
                | Self::PinLocked(_)
                | Self::PinExpired(_)
                | Self::PinFinalTry(_)
                | Self::PinNotSet(_)
        )
    }
}

impl From<OpenError> for HsmError {
    fn from(error: OpenError) -> Self {
        let (kind, ck_rv) = match &error {
            OpenError::Call { verdict: Some(verdict), .. } => (verdict.kind, Some(verdict.ck_rv)),
            OpenError::SessionLimit(_) => (HsmErrorKind::Busy, Some(0xb1)),
            OpenError::NoSuchToken { .. } => (HsmErrorKind::DeviceGone, None),
            OpenError::LoginUnderWay => (HsmErrorKind::TimedOut, None),
            _ => (HsmErrorKind::Failed, None),
        };
        Self { kind, ck_rv, detail: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::context::Function;
    use cryptoki::error::{Error, Rv};

    fn told(ck_rv: u64, token: &TokenChoice) -> OpenError {
        let Rv::Error(rv) = Rv::from(ck_rv) else { panic!("CKR_OK is no error") };
        OpenError::opening(&Error::Pkcs11(rv, Function::Login), token)
    }

    /// By the numbers in the standard's header. A code that is missing here may be tried again after a second: each of these
    /// would lock the token, or never be taken.
    #[test]
    fn what_a_login_may_say_for_good_is_told_from_all_else() {
        let token = TokenChoice::Label("xks".into());
        let of = |make: fn(TokenChoice) -> OpenError| make(token.clone());
        let for_good = [
            (0xa0, of(OpenError::PinIncorrect)), // CKR_PIN_INCORRECT
            (0xa1, of(OpenError::PinIncorrect)), // CKR_PIN_INVALID
            (0xa2, of(OpenError::PinIncorrect)), // CKR_PIN_LEN_RANGE
            (0xa3, of(OpenError::PinExpired)),   // CKR_PIN_EXPIRED
            (0xa4, of(OpenError::PinLocked)),    // CKR_PIN_LOCKED
            (0x102, of(OpenError::PinNotSet)),   // CKR_USER_PIN_NOT_INITIALIZED
        ];
        for ck_rv in (1..=0x400).chain([0x8000_0001, u64::MAX]) {
            let error = told(ck_rv, &token);
            let expected = for_good.iter().find(|(number, _)| *number == ck_rv);
            assert_eq!(error.is_final(), expected.is_some(), "{ck_rv:#x}");
            assert!(!error.is_mistake(), "{ck_rv:#x}: the daemon would end, and be started to try again");
            match expected {
                Some((_, expected)) => assert_eq!(error, *expected, "{ck_rv:#x}"),
                None if ck_rv == 0xb1 => assert_eq!(error, of(OpenError::SessionLimit)),
                None => assert!(matches!(error, OpenError::Call { .. }), "{ck_rv:#x}: {error:?}"),
            }
        }
        assert!(of(OpenError::PinFinalTry).is_final(), "the token's word before any login");
    }
}
