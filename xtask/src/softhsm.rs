//! SoftHSM2: finding it, installing it, and making a token for a try.

use crate::{Outcome, apt};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where distributions put the module.
const USUAL_PLACES: [&str; 9] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/usr/local/opt/softhsm/lib/softhsm/libsofthsm2.so",
];

/// The label of the token that [`make_token`] makes.
pub(crate) const TOKEN_LABEL: &str = "xks-try";

/// Its user PIN. The token lives in a temporary directory and protects nothing.
pub(crate) const PIN: &str = "1234";

/// The keys the AWS test client asks for, and one for health checks: label, may encrypt, may decrypt.
pub(crate) const KEYS: [(&str, bool, bool); 5] = [
    ("foo", true, true),
    ("encrypt_only_key", true, false),
    ("decrypt_only_key", false, true),
    ("impotent_key", false, false),
    ("xks-health", true, true),
];

/// The module, if SoftHSM2 is installed in full.
fn find() -> Option<PathBuf> {
    let has_tool =
        Command::new("softhsm2-util").arg("--version").output().is_ok_and(|out| out.status.success());
    let module = USUAL_PLACES.iter().map(PathBuf::from).find(|path| path.is_file());
    module.filter(|_| has_tool)
}

/// The module; installs SoftHSM2 when it is missing, we are root, and there is apt.
pub(crate) fn ensure() -> Result<PathBuf, String> {
    if let Some(module) = find() {
        return Ok(module);
    }
    let has_apt = apt::install("softhsm2")?;
    find().ok_or_else(|| {
        let how = if has_apt {
            "sudo apt-get update && sudo apt-get install -y softhsm2"
        } else {
            "dnf install softhsm, apk add softhsm, or brew install softhsm"
        };
        format!("SoftHSM2 is missing; install it with: {how}")
    })
}

/// Makes a token with [`KEYS`] in the directory that `SOFTHSM2_CONF` names.
pub(crate) fn make_token(module: &Path) -> Outcome {
    make(module).map_err(|error| format!("cannot make a SoftHSM2 token: {error}"))
}

fn make(module: &Path) -> Result<(), cryptoki::error::Error> {
    let pkcs11 = Pkcs11::new(module)?;
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let pin = AuthPin::from(PIN.to_owned());
    for slot in pkcs11.get_slots_with_token()? {
        pkcs11.init_token(slot, &pin, TOKEN_LABEL)?;
    }
    // An initialised token moves to a slot with another number.
    for slot in pkcs11.get_slots_with_initialized_token()? {
        let session = pkcs11.open_rw_session(slot)?;
        session.login(UserType::So, Some(&pin))?;
        session.init_pin(&pin)?;
        session.logout()?;
        session.login(UserType::User, Some(&pin))?;
        for (label, encrypt, decrypt) in KEYS {
            session.generate_key(
                &Mechanism::AesKeyGen,
                &[
                    Attribute::Class(ObjectClass::SECRET_KEY),
                    Attribute::KeyType(KeyType::AES),
                    Attribute::ValueLen(32.into()),
                    Attribute::Token(true),
                    Attribute::Private(true),
                    Attribute::Sensitive(true),
                    Attribute::Extractable(false),
                    Attribute::Encrypt(encrypt),
                    Attribute::Decrypt(decrypt),
                    Attribute::Label(label.into()),
                ],
            )?;
        }
    }
    Ok(())
}
