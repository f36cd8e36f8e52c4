//! A throwaway SoftHSM2 token with the keys of an emulated HSM: same labels, ids, values and attributes.

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use sim_hsm::{KeySpecification, key_bytes};
use std::path::{Path, PathBuf};
use std::process::Command;
use xks_proxy::hsm::pkcs11::{Pkcs11Settings, TokenChoice};
use xks_proxy::hsm::{Aad, Iv, Sealed};
use xks_proxy::secret::Secret;

const PIN: &str = "1234";
const LABEL: &str = "conformance";

/// The token, and what was encrypted with it by hand.
pub(crate) struct SoftHsmToken {
    module: PathBuf,
    /// Made with C_Encrypt, the first key and a 16-byte IV, which no `Hsm` makes but every one must decrypt.
    pub(crate) sixteen_byte_iv: Vec<Sealed>,
}

impl SoftHsmToken {
    /// Makes the token. It changes the environment, so call it before anything that has threads; once per process.
    pub(crate) fn make(seed: u64, keys: &[KeySpecification], aad: &Aad, plaintexts: &[&[u8]]) -> Self {
        let module = find_module();
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hsm_conformance");
        let _ = std::fs::remove_dir_all(&directory);
        let tokens = directory.join("tokens");
        std::fs::create_dir_all(&tokens).unwrap();
        let conf = directory.join("softhsm2.conf");
        let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
        std::fs::write(&conf, text).unwrap();
        // SAFETY: called once, before the library is loaded, and Rust's own readers are locked out by `set_var`.
        #[expect(unsafe_code, reason = "SoftHSM2 reads its configuration from this variable only")]
        unsafe {
            std::env::set_var("SOFTHSM2_CONF", &conf);
        }
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", LABEL, "--so-pin", "4321", "--pin", PIN])
            .output()
            .unwrap_or_else(|error| {
                panic!("softhsm2-util does not start ({error}): apt-get install softhsm2")
            });
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

        let pkcs11 = Pkcs11::new(&module).unwrap();
        pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        let slots = pkcs11.get_slots_with_token().unwrap();
        let labelled = |slot: &_| pkcs11.get_token_info(*slot).unwrap().label() == LABEL;
        let slot = slots.into_iter().find(labelled).unwrap();
        let session = pkcs11.open_rw_session(slot).unwrap();
        session.login(UserType::User, Some(&AuthPin::new(PIN.into()))).unwrap();
        let handles: Vec<_> = keys.iter().map(|key| create(&session, seed, key)).collect();
        let sixteen_byte_iv =
            plaintexts.iter().map(|plaintext| seal(&session, handles[0], aad, plaintext)).collect();
        drop(session);
        pkcs11.finalize().unwrap();
        Self { module, sixteen_byte_iv }
    }

    /// Settings to open it with.
    pub(crate) fn settings(&self) -> Pkcs11Settings {
        Pkcs11Settings::new(&self.module, TokenChoice::Label(LABEL.into()), Secret::new(PIN.into()))
    }
}

fn create(session: &Session, seed: u64, key: &KeySpecification) -> ObjectHandle {
    let value = key_bytes(seed, &key.label)[..usize::from(key.bits / 8)].to_vec();
    let label = key.label.as_bytes().to_vec();
    session
        .create_object(&[
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
            Attribute::Id(label.clone()),
            Attribute::Label(label),
            Attribute::Value(value),
            Attribute::Encrypt(key.encrypt),
            Attribute::Decrypt(key.decrypt),
        ])
        .unwrap()
}

fn seal(session: &Session, key: ObjectHandle, aad: &Aad, plaintext: &[u8]) -> Sealed {
    let iv = [0xa5; 16];
    let mut written = iv;
    let parameters = GcmParams::new(&mut written, aad.as_bytes(), 128.into()).unwrap();
    let mut ciphertext = session.encrypt(&Mechanism::AesGcm(parameters), key, plaintext).unwrap();
    let tag = ciphertext.split_off(plaintext.len()).try_into().unwrap();
    Sealed { ciphertext, iv: Iv::Sixteen(iv), tag }
}

fn find_module() -> PathBuf {
    let places = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib64/softhsm/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
        "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    ];
    let found = places.iter().map(Path::new).find(|path| path.exists());
    found.expect("SoftHSM2 is missing, and this test needs it: apt-get install softhsm2").to_owned()
}
