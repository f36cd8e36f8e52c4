//! A throwaway SoftHSM2 with tokens and keys, one for each test process.

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use xks_proxy::hsm::pkcs11::{Pkcs11Settings, TokenChoice};
use xks_proxy::secret::Secret;

/// The user PIN of every token; no random serial or slot number contains it by chance.
pub(crate) const PIN: &str = "user-pin";
/// The token that holds the keys.
pub(crate) const TOKEN: &str = "xks";
/// Two empty tokens have this label.
pub(crate) const TWINS: &str = "twin";
/// An empty token for tests of the PIN.
pub(crate) const SPARE: &str = "spare";
/// The value of the key `known`.
pub(crate) const KNOWN_KEY: [u8; 32] = *b"a key that everybody knows of!!!";

/// The module and the directory of its tokens.
pub(crate) struct SoftHsm {
    pub(crate) module: PathBuf,
    pub(crate) directory: PathBuf,
}

impl SoftHsm {
    /// The process's SoftHSM2, made at the first call. The library is not initialised afterwards.
    pub(crate) fn get() -> &'static Self {
        static SHARED: OnceLock<SoftHsm> = OnceLock::new();
        SHARED.get_or_init(Self::create)
    }

    /// Settings to use the token with the keys.
    pub(crate) fn settings(&self) -> Pkcs11Settings {
        self.settings_for(TokenChoice::Label(TOKEN.into()), PIN)
    }

    /// Settings to use another token, or another PIN.
    pub(crate) fn settings_for(&self, token: TokenChoice, pin: &str) -> Pkcs11Settings {
        Pkcs11Settings::new(&self.module, token, Secret::new(pin.into()))
    }

    fn create() -> Self {
        let module = find_module();
        let directory = fresh_directory();
        let tokens = directory.join("tokens");
        let conf = directory.join("softhsm2.conf");
        std::fs::create_dir_all(&tokens).unwrap();
        std::fs::write(&conf, format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display()))
            .unwrap();
        // SAFETY: the first test to come here does it before the library is loaded, and Rust's own readers of
        // the environment are locked out by `set_var`.
        #[expect(unsafe_code, reason = "SoftHSM2 reads its configuration from this variable only")]
        unsafe {
            std::env::set_var("SOFTHSM2_CONF", &conf);
        }
        for label in [TOKEN, TWINS, TWINS, SPARE] {
            let made = Command::new("softhsm2-util")
                .args(["--init-token", "--free", "--label", label, "--so-pin", "4321", "--pin", PIN])
                .output()
                .unwrap_or_else(|error| {
                    panic!("softhsm2-util does not start ({error}): apt-get install softhsm2")
                });
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        let this = Self { module, directory };
        this.administer(make_keys);
        this
    }

    /// Runs `task` with a read-write session; the library must not be initialised, and is not afterwards.
    pub(crate) fn administer(&self, task: impl FnOnce(&Session)) {
        let pkcs11 = Pkcs11::new(&self.module).unwrap();
        pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        let session = user_session(&pkcs11, TOKEN, PIN);
        task(&session);
        drop(session);
        pkcs11.finalize().unwrap();
    }
}

/// A logged-in read-write session with the token of this label, on a library that is initialised.
pub(crate) fn user_session(pkcs11: &Pkcs11, token: &str, pin: &str) -> Session {
    let session = pkcs11.open_rw_session(slot(pkcs11, token)).unwrap();
    match session.login(UserType::User, Some(&AuthPin::new(pin.into()))) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => session,
        Err(error) => panic!("{error}"),
    }
}

/// The slot of the token of this label.
pub(crate) fn slot(pkcs11: &Pkcs11, token: &str) -> Slot {
    let slots = pkcs11.get_slots_with_token().unwrap();
    slots.into_iter().find(|slot| pkcs11.get_token_info(*slot).unwrap().label() == token).unwrap()
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
    found.expect("SoftHSM2 is missing, and these tests need it: apt-get install softhsm2").to_owned()
}

/// An empty directory under the build directory; those of test processes that are gone are removed.
fn fresh_directory() -> PathBuf {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("softhsm");
    std::fs::create_dir_all(&parent).unwrap();
    for entry in std::fs::read_dir(&parent).unwrap().flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let directory = parent.join(std::process::id().to_string());
    let _ = std::fs::remove_dir_all(&directory);
    directory
}

fn make_keys(session: &Session) {
    aes_key(session, "foo", b"\x01", 32, true, true);
    aes_key(session, "encrypt_only_key", b"\x02", 32, true, false);
    aes_key(session, "decrypt_only_key", b"\x03", 32, false, true);
    aes_key(session, "impotent_key", b"\x04", 32, false, false);
    aes_key(session, "short_key", b"\x05", 16, true, true);
    aes_key(session, "double", b"\x06", 32, true, true);
    aes_key(session, "double", b"\x07", 32, true, true);
    for (label, encrypt) in [("known", true), ("known_decrypt_only", false)] {
        session
            .create_object(&[
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::Value(KNOWN_KEY.to_vec()),
                Attribute::Token(true),
                Attribute::Label(label.into()),
                Attribute::Encrypt(encrypt),
                Attribute::Decrypt(true),
            ])
            .unwrap();
    }
    let named =
        |encrypt: Attribute| vec![Attribute::Token(true), Attribute::Label(b"rsa_key".to_vec()), encrypt];
    let mut public = named(Attribute::Encrypt(true));
    public.extend([Attribute::ModulusBits(2048.into()), Attribute::PublicExponent(vec![1, 0, 1])]);
    let private = named(Attribute::Decrypt(true));
    session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private).unwrap();
}

/// Makes an AES key of `bytes` bytes, not extractable.
pub(crate) fn aes_key(session: &Session, label: &str, id: &[u8], bytes: u64, encrypt: bool, decrypt: bool) {
    session
        .generate_key(
            &Mechanism::AesKeyGen,
            &[
                Attribute::Token(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Label(label.into()),
                Attribute::Id(id.to_vec()),
                Attribute::ValueLen(bytes.into()),
                Attribute::Encrypt(encrypt),
                Attribute::Decrypt(decrypt),
            ],
        )
        .unwrap();
}
