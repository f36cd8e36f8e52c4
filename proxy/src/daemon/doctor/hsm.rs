//! An HSM: its module, its token, the PIN, the login, what it can do and how fast.
//!
//! Place on the map: part of `doctor`. A PIN is tried once, and not at all when one more wrong one would lock the token.

use super::budget::Speed;
use super::report::Report;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use xks_proxy::config::{Config, HsmConfig};
use xks_proxy::hsm::pkcs11::survey::{
    self, IvManners, PinState, RoundTrips, Survey, SurveyError, TokenFacts, Trial,
};
use xks_proxy::hsm::pkcs11::{IvSource, Module, OpenError, Pkcs11Settings, TokenSeen};
use xks_proxy::key::KeyName;

/// How long a call may take before the doctor goes on without its answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many calls of each kind are timed.
const ROUND_TRIPS: usize = 200;

/// HSMs looked at so far, and what is shared among them.
#[derive(Default)]
pub(super) struct Hsms {
    modules: BTreeMap<PathBuf, Arc<Module>>,
    /// Tokens that refused a PIN: module and serial number. They are not asked again.
    refused: BTreeSet<(PathBuf, String)>,
}

impl Hsms {
    /// Looks at one HSM; gives back the logged-in survey for a look at its keys, and its speed.
    pub(super) fn check(
        &mut self,
        config: &mut Config,
        hsm: &HsmConfig,
        report: &mut Report,
    ) -> (Option<Survey>, Option<Speed>) {
        let rest = "the checks before it come first";
        // A file that cannot be read has been reported among the files.
        let Ok(settings) = config.hsm_settings(hsm) else {
            report.skipped("module and token", "the PIN cannot be read");
            return (None, None);
        };
        let Some(survey) = self.module(hsm, &settings, report) else {
            report.skipped("token and login", rest);
            return (None, None);
        };
        let token = match survey.token() {
            Ok(token) => token,
            Err(error) => {
                say(report, "token", hsm, &error);
                report.skipped("login", rest);
                return (None, None);
            }
        };
        let on =
            if token.firmware == "0.0" { String::new() } else { format!(", firmware {}", token.firmware) };
        report.ok(
            "token",
            format!(
                "label {:?}, serial {}, slot {}, {}{on}",
                token.label, token.serial, token.slot, token.model
            ),
        );
        mechanism(&survey, hsm, &token, report);
        sessions(&settings, hsm, &token, report);
        if !self.login(&survey, hsm, &token, report) {
            report.skipped("encryption, speed", "nobody is logged in");
            return (None, None);
        }
        let key = hsm.health_key.clone();
        match &key {
            Some(name) => trial(&survey, name, "health key", settings.iv_source, report),
            None => report.warning(
                "health key",
                "none is configured",
                "Neither the doctor nor GetHealthStatus can try an encryption without using a customer's key.",
                "Make an AES-256 key of your own in the HSM, and name it by health_key_label.",
            ),
        }
        let speed = speed(&survey, key.as_ref(), report);
        (Some(survey), speed)
    }

    fn module(&mut self, hsm: &HsmConfig, settings: &Pkcs11Settings, report: &mut Report) -> Option<Survey> {
        let path = &hsm.module.value;
        let loaded = match self.modules.get(path) {
            Some(module) => Ok(Arc::clone(module)),
            None => survey::load(path, PATIENCE),
        };
        let looked = loaded.and_then(|module| {
            self.modules.insert(path.clone(), Arc::clone(&module));
            let survey = Survey::start(module, settings.clone(), PATIENCE)?;
            survey.module().map(|facts| (survey, facts))
        });
        match looked {
            Ok((survey, facts)) => {
                report.ok(
                    "module",
                    format!(
                        "{} by {}, version {}, speaks PKCS#11 {}",
                        facts.description, facts.manufacturer, facts.version, facts.cryptoki
                    ),
                );
                Some(survey)
            }
            Err(error) => {
                say(report, "module", hsm, &error);
                None
            }
        }
    }

    /// One try, if there is more than one left.
    fn login(&mut self, survey: &Survey, hsm: &HsmConfig, token: &TokenFacts, report: &mut Report) -> bool {
        match token.pin {
            PinState::Good | PinState::NotSet | PinState::ToBeChanged => {}
            PinState::CountLow => report.warning(
                "PIN",
                "a wrong PIN was tried since the last right one (CKF_USER_PIN_COUNT_LOW)",
                "Tokens lock themselves after a few wrong PINs in a row. A right one sets the count back.",
                "Find out which program has a wrong PIN.",
            ),
            PinState::FinalTry => {
                report.failed(
                    "PIN",
                    "one more wrong PIN locks the token (CKF_USER_PIN_FINAL_TRY); the doctor does not try it",
                    "Wrong PINs were tried, by whomever. If the configured one is wrong too, the HSM is lost to \
                     everybody until its security officer unlocks it. `serve` would try it.",
                    "Log in once with the vendor's own tool and a PIN you are sure of; that sets the count back. Then \
                     run the doctor again.",
                );
                report.skipped("login", "the last try is not for the doctor to use up");
                return false;
            }
            PinState::Locked => {
                report.failed(
                    "PIN",
                    "the user PIN is locked (CKF_USER_PIN_LOCKED)",
                    "Too many wrong PINs were tried. Nobody can use the keys.",
                    "Have the HSM's security officer unlock it and set a new PIN (C_InitPIN), and put that into the \
                     place the configuration names.",
                );
                report.skipped("login", "the PIN is locked");
                return false;
            }
        }
        let who = (hsm.module.value.clone(), token.serial.clone());
        if self.refused.contains(&who) {
            report.skipped("login", "this token has refused a PIN above, and a few wrong ones lock it");
            return false;
        }
        match survey.login() {
            Ok(()) => {
                report.ok("login", "the token takes the PIN");
                true
            }
            Err(error) => {
                self.refused.insert(who);
                say(report, "login", hsm, &error);
                false
            }
        }
    }
}

fn mechanism(survey: &Survey, hsm: &HsmConfig, token: &TokenFacts, report: &mut Report) {
    match survey.gcm() {
        Ok(Some(gcm)) if gcm.encrypt && gcm.decrypt && gcm.keys_of_256_bits => {
            report.ok("AES-GCM", "encrypts and decrypts with keys of 256 bits");
        }
        Ok(facts) => report.failed(
            "AES-GCM",
            match facts {
                None => "the token does not know it (CKM_AES_GCM)".to_owned(),
                Some(gcm) if !gcm.keys_of_256_bits => "the token has it, but not for keys of 256 bits".to_owned(),
                Some(gcm) => {
                    let lacking = if gcm.encrypt { "decrypt" } else { "encrypt" };
                    format!("the token has it, but cannot {lacking} with it")
                }
            },
            "It is the one algorithm of external key stores; this token cannot serve them.",
            "Allow it in the HSM's policy (FIPS settings hide it in some), update the firmware, or use another HSM.",
        ),
        Err(error) => say(report, "AES-GCM", hsm, &error),
    }
    if hsm.iv_source == IvSource::Random && !token.random {
        report.failed(
            "random generator",
            "the token says it has none (CKF_RNG), and iv_source = \"random\" needs it",
            "Each encryption needs 12 random bytes that are never used again. The proxy has the HSM make them.",
            "If the HSM makes IVs by itself when it encrypts, set iv_source = \"encryption\".",
        );
    }
}

fn sessions(settings: &Pkcs11Settings, hsm: &HsmConfig, token: &TokenFacts, report: &mut Report) {
    let (usual, spare) = (settings.sessions_max, settings.set_aside_max);
    let needed = u64::try_from(usual + spare).unwrap_or(u64::MAX);
    let open = match token.sessions_open {
        Some(open) => format!(", {open} open now"),
        None => String::new(),
    };
    match token.sessions_max {
        Some(most) if most < needed => report.failed(
            "sessions",
            format!("the token bears {most}, the proxy may want {needed} (sessions_max {usual} + set_aside_max {spare})"),
            "When calls hang, the proxy opens further sessions in their place, and the token will refuse them.",
            format!(
                "Raise the limit in the HSM, or set sessions_max + set_aside_max of {:?} to {most} or less.",
                hsm.name.value
            ),
        ),
        Some(most) => report.ok("sessions", format!("the token bears {most}{open}; the proxy may want {needed}")),
        None => report.ok("sessions", format!("the token names no limit{open}; the proxy may want {needed}")),
    }
}

/// Tries a key; says what that showed.
pub(super) fn trial(survey: &Survey, name: &KeyName, check: &str, source: IvSource, report: &mut Report) {
    let stays = "The proxy would answer errors, or worse, hand out wrong data.";
    let vendor = "Show this line to the HSM's vendor, and do not serve with it.";
    let Trial { iv, ivs_differ, came_back, aad_is_bound, tag_is_checked } = match survey.trial(name) {
        Ok(trial) => trial,
        Err(error) => {
            let (means, to_do) = match &error {
                SurveyError::Hung(_) => {
                    ("Requests would be answered with errors.", "See why the HSM does not answer.")
                }
                _ => (
                    "What the proxy does for KMS all day does not work with this key.",
                    "The key has to exist once, be AES with 256 bits, and may encrypt and decrypt (CKA_ENCRYPT, \
                     CKA_DECRYPT). Otherwise see the HSM's log.",
                ),
            };
            report.failed(check, format!("{name}: {error}"), means, to_do);
            return;
        }
    };
    let wrong = [
        (!came_back, "what was encrypted does not come back"),
        (!ivs_differ, "two encryptions used the same IV, which gives the key away"),
        (!aad_is_bound, "a ciphertext decrypts with another AAD"),
        (!tag_is_checked, "a ciphertext with a wrong tag decrypts"),
    ];
    for (_, what) in wrong.iter().filter(|(wrong, _)| *wrong) {
        report.failed(check, format!("{name}: {what}"), stays, vendor);
    }
    if wrong.iter().any(|(wrong, _)| *wrong) {
        return;
    }
    report.ok(check, format!("{name} encrypts and decrypts; a wrong AAD and a wrong tag are refused"));
    match (iv, source) {
        (IvManners::Replaced, IvSource::Random) => report.warning(
            "IV",
            "the HSM puts an IV of its own in place of the one it is given",
            "That is safe, but the proxy asks for 12 random bytes in vain, a whole call for each encryption.",
            "Set iv_source = \"encryption\".",
        ),
        (IvManners::Refused, IvSource::Random) => report.warning(
            "IV",
            "the HSM did not take an IV that was made for it",
            "It did for the trial before, so it may fail at times.",
            "See the HSM's log; some HSMs want iv_source = \"encryption\".",
        ),
        (_, IvSource::Random) => {
            report.ok("IV", "12 bytes of the HSM's random generator, another for each encryption")
        }
        (_, IvSource::Encryption) => report.ok("IV", "made by the HSM's encryption, another for each"),
    }
}

fn speed(survey: &Survey, key: Option<&KeyName>, report: &mut Report) -> Option<Speed> {
    let times = survey.round_trips(key, ROUND_TRIPS);
    let RoundTrips { encrypt, decrypt, random } = match times {
        Ok(times) => times,
        Err(error) => {
            report.skipped("speed", format!("a call failed ({error})"));
            return None;
        }
    };
    if key.is_some() {
        let count = encrypt.len();
        let speed = Speed::measured(encrypt, decrypt)?;
        report.ok("speed", format!("{count} encryptions: {}", speed.encrypt));
        report.ok("speed", format!("{count} decryptions: {}", speed.decrypt));
        Some(speed)
    } else {
        let count = random.len();
        let speed = Speed::at_least(random)?;
        report.ok("speed", format!("{count} calls of the random generator: {}", speed.decrypt));
        Some(speed)
    }
}

/// Puts what went wrong with module, token or login into plain words.
fn say(report: &mut Report, check: &str, hsm: &HsmConfig, error: &SurveyError) {
    let SurveyError::Open(open) = error else {
        report.failed(
            check,
            error.to_string(),
            "The HSM's library was asked and did not do what it should.",
            "See whether the HSM can be reached from here, and its log.",
        );
        return;
    };
    let tokens = |seen: &[TokenSeen]| match seen {
        [] => "none".to_owned(),
        seen => seen.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    };
    let (module, token, pin) = (hsm.module.line, hsm.token.line, hsm.pin.line);
    let (says, means, to_do) = match open {
        OpenError::ModuleAbsent(path) => (
            format!("there is no file {}", path.display()),
            "The HSM's client software is not installed, or lies elsewhere.",
            format!("Install it, or correct `module` (line {module})."),
        ),
        OpenError::ModuleNotLoadable(path, why) => (
            format!("{} cannot be loaded: {why}", path.display()),
            "The file is there, but the system's loader refuses it.",
            format!(
                "Check its architecture, its permissions and, with ldd, the libraries it needs (line {module})."
            ),
        ),
        OpenError::NotPkcs11(path) => (
            format!("{} is a library, but no PKCS#11 module", path.display()),
            "PKCS#11 is how programs talk to HSMs; this library does not offer it (C_GetFunctionList).",
            format!("Name the vendor's PKCS#11 library as `module` (line {module})."),
        ),
        OpenError::NoSuchToken { wanted, seen } => (
            format!("there is no token with {wanted}; the module shows: {}", tokens(seen)),
            "A token is an HSM, or a partition of one. This one is not connected, or has another name.",
            format!("Correct the token's name (line {token}), or see why the HSM is not connected."),
        ),
        OpenError::AmbiguousToken { wanted, seen } => (
            format!("there are several tokens with {wanted}: {}", tokens(seen)),
            "The proxy cannot know which of them holds the keys.",
            format!("Choose one by token_serial (line {token})."),
        ),
        OpenError::PinIncorrect(_) => (
            "the token refuses the PIN; it was tried once".to_owned(),
            "A few wrong PINs in a row lock the token, so nothing here tries again.",
            format!("Put the right PIN into the place that line {pin} names, before you start the proxy."),
        ),
        OpenError::PinLocked(_) => (
            "the token says that its user PIN is locked".to_owned(),
            "Too many wrong PINs were tried. Nobody can use the keys.",
            "Have the HSM's security officer unlock it and set a new PIN (C_InitPIN).".to_owned(),
        ),
        OpenError::PinFinalTry(_) => (
            "one more wrong PIN locks the token; it was not tried".to_owned(),
            "Several wrong PINs were tried in a row.",
            "Log in once by the vendor's tool with the right PIN, which resets the count.".to_owned(),
        ),
        OpenError::PinExpired(_) => (
            "the user PIN has expired".to_owned(),
            "The HSM wants it changed before anybody logs in.",
            format!("Change it with the vendor's tool, and put the new one where line {pin} says."),
        ),
        OpenError::PinNotSet(_) => (
            "the token has no user PIN yet".to_owned(),
            "The token was set up, but its user was not.",
            "Have the HSM's security officer set a user PIN (C_InitPIN).".to_owned(),
        ),
        OpenError::SessionLimit(_) => (
            "the token gives no further session".to_owned(),
            "All sessions it bears are taken, perhaps by a running proxy.",
            "Raise the limit in the HSM, lower sessions_max, or end other programs that use it.".to_owned(),
        ),
        other => (
            other.to_string(),
            "The HSM's library was asked and did not do what it should.",
            "See whether the HSM can be reached from here, and its log.".to_owned(),
        ),
    };
    report.failed(check, says, means, to_do);
}
