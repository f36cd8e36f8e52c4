//! `doctor --use-keys` and `check` over a key store with two HSMs: two real tokens, where one key is the same in both and
//! another was made anew.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests fail loudly; these tests stand outside of the daemon"
)]

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "common/command.rs"]
mod command;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "common/softhsm.rs"]
mod softhsm;

use command::Setup;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use softhsm::{KNOWN_KEY, PIN, SPARE, SoftHsm, aes_key, user_session};

/// The second token: a clone of `known`, and a `foo` of its own.
fn fill_the_second_token() {
    let pkcs11 = Pkcs11::new(&SoftHsm::get().module).unwrap();
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let session = user_session(&pkcs11, SPARE, PIN);
    aes_key(&session, "foo", b"\x01", 32, true, true);
    session
        .create_object(&[
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Value(KNOWN_KEY.to_vec()),
            Attribute::Token(true),
            Attribute::Label("known".into()),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
        ])
        .unwrap();
    drop(session);
    pkcs11.finalize().unwrap();
}

/// Both tokens have all names with all attributes; only the bytes of one differ, which no look at the keys could show.
#[test]
fn keys_that_only_have_their_name_in_common_are_found_out() {
    fill_the_second_token();
    let setup = Setup::new();
    let config = setup.config();
    let (head, rest) = config.split_once("[[hsm]]").unwrap();
    let (hsm, rest) = rest.split_once("[[key_store]]").unwrap();
    let primary = hsm.replace("\"softhsm\"", "\"primary\"");
    let standby = hsm.replace("\"softhsm\"", "\"standby\"").replace("\"xks\"", &format!("\"{SPARE}\""));
    let standby = standby.replace("xks-health", "known");
    let rest = rest.replace("hsm = \"softhsm\"", "hsms = [\"primary\", \"standby\"]").replace(
        "current_version = 1\nversions = [{ version = 1, label = \"foo\" }]",
        "current_version = 2\nversions = [{ version = 1, label = \"known\" }, { version = 2, label = \"foo\" }]",
    );
    setup.configure(&format!("{head}[[hsm]]{primary}[[hsm]]{standby}[[key_store]]{rest}"));

    let said = setup.run(&["doctor", "--config", "xks.toml", "--json", "--use-keys"]);
    let differ =
        "what primary encrypts, standby cannot decrypt: they hold different keys under label \"foo\"";
    assert_eq!(said.says("failed", "orders v2"), [differ], "{}", said.out);
    assert_eq!((said.failed(), said.code), (vec!["orders v2".to_owned()], 1));
    let same = "what primary encrypts, every other HSM decrypts".to_owned();
    assert!(said.says("ok", "orders v1").contains(&same), "{}", said.out);

    // Customers' keys are used only when that is asked for.
    let said = setup.run(&["doctor", "--config", "xks.toml", "--json"]);
    let untried = "not checked: it takes an encryption with each key: run the doctor with --use-keys";
    assert_eq!((said.says("skipped", "same keys"), said.code), (vec![untried.to_owned()], 0), "{}", said.out);
    let said = setup.run(&["check", "--config", "xks.toml"]);
    let untried =
        "main: whether its hsms hold the same keys is not tried: `xks-proxy doctor --use-keys` does\n";
    assert!(said.out.contains(untried), "{said:?}");
}
