//! A real PKCS#11 library behind the simulated HSMs (`--hsm pkcs11:MODULE`), called inline.
//!
//! Place on the map: `main` opens it; [`world`](crate::world) puts it behind each emulated HSM's capacity and faults
//! in place of the emulated token. What it answers is real, when it answers is modelled: timing and outcomes stay
//! deterministic, and its IVs and ciphertexts enter no event.

use crate::world::{EngineMaker, KEY_ID};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use sim_hsm::Engine;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xks_proxy::hsm::pkcs11::{Module, Pkcs11Inline, Pkcs11Settings, TokenChoice};
use xks_proxy::hsm::{Aad, HsmError, KeyFacts, Sealed};
use xks_proxy::key::KeyName;
use xks_proxy::secret::{Plaintext, Secret};

/// What the command line asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The library.
    pub module: PathBuf,
    /// The token to use; without it SoftHSM2 gets a throwaway one.
    pub token_label: Option<String>,
    /// File with its user PIN.
    pub pin_file: Option<PathBuf>,
}

const THROWAWAY_LABEL: &str = "xks-sim throwaway";
/// Of a token that lives for one run and holds nothing of value.
const THROWAWAY_PIN: &str = "throwaway-1234";
/// SoftHSM2 reads its configuration file's path from here, when it is initialised.
const SOFTHSM2_CONF: &str = "SOFTHSM2_CONF";
/// Set for the second process, so that it does not start a third.
const SECOND_PROCESS: &str = "XKS_SIM_THROWAWAY_TOKEN";

/// A library that is open, logged in and has the key.
pub struct Opened {
    engine: Arc<Pkcs11Inline>,
}

impl Opened {
    /// For [`Options::engine`](crate::world::Options::engine). Every simulated HSM uses the same token: they are
    /// replicas of one another.
    pub fn maker(&self) -> EngineMaker {
        let engine = Arc::clone(&self.engine);
        Box::new(move |_index| Ok(Box::new(Inline(Arc::clone(&engine))) as Box<dyn Engine>))
    }
}

struct Inline(Arc<Pkcs11Inline>);

impl Engine for Inline {
    fn describe(&mut self, key: &KeyName) -> Result<KeyFacts, HsmError> {
        self.0.describe(key)
    }

    fn encrypt(&mut self, key: &KeyName, aad: &Aad, plaintext: &Plaintext) -> Result<Sealed, HsmError> {
        self.0.encrypt(key, aad, plaintext)
    }

    fn decrypt(&mut self, key: &KeyName, aad: &Aad, sealed: &Sealed) -> Result<Plaintext, HsmError> {
        self.0.decrypt(key, aad, sealed)
    }
}

/// SoftHSM2 finds its tokens through an environment variable that it reads once. For a throwaway token the program
/// therefore runs itself again with that variable set, and removes the token afterwards. `None` when this process can
/// go on itself: a token was named, or it is the second process already.
///
/// # Errors
/// In words, when the directory or the process cannot be made, or the module is not SoftHSM2 and no token was named.
#[expect(clippy::disallowed_methods, reason = "the way to tell SoftHSM2 where its tokens are")]
pub fn run_again_with_throwaway_token(request: &Request) -> Result<Option<u8>, String> {
    if request.token_label.is_some() || std::env::var_os(SECOND_PROCESS).is_some() {
        return Ok(None);
    }
    let module = request.module.display();
    if !request.module.exists() {
        return Err(format!(
            "there is no PKCS#11 module {module}; SoftHSM2 is installed by `apt-get install softhsm2`"
        ));
    }
    if !is_softhsm(&request.module) {
        return Err(format!(
            "{module} is not SoftHSM2: name the token to use with --token-label and --pin-file \
             (it must hold an AES-256 key labelled {KEY_ID})"
        ));
    }
    let directory = tempfile::tempdir()
        .map_err(|error| format!("cannot make a directory for the throwaway token: {error}"))?;
    let tokens = directory.path().join("tokens");
    let configuration = directory.path().join("softhsm2.conf");
    std::fs::create_dir(&tokens)
        .and_then(|()| {
            let text = format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
                tokens.display()
            );
            std::fs::write(&configuration, text)
        })
        .map_err(|error| format!("cannot write {}: {error}", configuration.display()))?;
    let program =
        std::env::current_exe().map_err(|error| format!("cannot find this program's own file: {error}"))?;
    let status = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(SOFTHSM2_CONF, &configuration)
        .env(SECOND_PROCESS, "1")
        .status()
        .map_err(|error| format!("cannot run this program again: {error}"))?;
    let code =
        status.code().ok_or_else(|| format!("the run over {module} was ended by a signal ({status})"))?;
    Ok(Some(u8::try_from(code).unwrap_or(2)))
}

fn is_softhsm(module: &Path) -> bool {
    module.file_name().is_some_and(|name| name.to_string_lossy().contains("softhsm"))
}

/// Opens the library and checks that the key is there.
///
/// # Errors
/// In one line that says what to do.
pub fn open(request: &Request) -> Result<Opened, String> {
    let (label, pin) = match (&request.token_label, &request.pin_file) {
        (Some(label), Some(file)) => {
            let pin = std::fs::read_to_string(file)
                .map_err(|error| format!("cannot read the PIN file {}: {error}", file.display()))?;
            (label.clone(), Secret::new(pin.trim_end_matches(['\r', '\n']).to_owned()))
        }
        _ => {
            make_throwaway_token(&request.module).map_err(|error| {
                format!("cannot make a throwaway token in {}: {error}", request.module.display())
            })?;
            (THROWAWAY_LABEL.to_owned(), Secret::new(THROWAWAY_PIN.to_owned()))
        }
    };
    let module = Module::load(&request.module).map_err(|error| error.to_string())?;
    let settings = Pkcs11Settings::new(&request.module, TokenChoice::Label(label.clone()), pin);
    let engine = Pkcs11Inline::open_on(module, settings).map_err(|error| error.to_string())?;
    engine.describe(&KeyName::label(KEY_ID)).map_err(|error| {
        format!("token {label:?} has no usable key labelled {KEY_ID} ({error}); make an AES-256 key with that label")
    })?;
    Ok(Opened { engine: Arc::new(engine) })
}

fn make_throwaway_token(module: &Path) -> Result<(), cryptoki::error::Error> {
    let pkcs11 = Pkcs11::new(module)?;
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let slot = pkcs11.get_all_slots()?.into_iter().next().ok_or(cryptoki::error::Error::InvalidValue)?;
    let pin = AuthPin::new(THROWAWAY_PIN.into());
    pkcs11.init_token(slot, &pin, THROWAWAY_LABEL)?;
    let session = pkcs11.open_rw_session(slot)?;
    session.login(UserType::So, Some(&pin))?;
    session.init_pin(&pin)?;
    session.logout()?;
    session.login(UserType::User, Some(&pin))?;
    session.generate_key(
        &Mechanism::AesKeyGen,
        &[
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Label(KEY_ID.as_bytes().to_vec()),
            Attribute::ValueLen(32.into()),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
        ],
    )?;
    session.close()?;
    pkcs11.finalize()
}
