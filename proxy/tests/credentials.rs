//! `xks-proxy credentials new` and `console-json`, as processes: what they make, where, and that the proxy takes it.

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

use command::{ACCESS_KEY_ID, SECRET, Setup};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use xks_proxy::calendar::rfc3339;
use xks_proxy::env::{Env, SystemEnv};

const CONSOLE: &[&str] = &["console-json", "--config", "xks.toml", "--key-store", "main"];

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn files(setup: &Setup) -> usize {
    fs::read_dir(setup.path("")).unwrap().count()
}

#[test]
fn a_new_pair_pasted_into_the_configuration_is_taken() {
    let setup = Setup::new();
    let said = setup.run(&[
        "credentials",
        "new",
        "--config",
        "xks.toml",
        "--key-store",
        "main",
        "--out",
        "new \"one\"",
    ]);
    assert_eq!((said.code, said.error.as_str()), (0, ""));
    let secret = fs::read_to_string(setup.path("new \"one\"")).unwrap();
    assert!(!said.out.contains(secret.trim_end()), "{}", said.out);
    assert_eq!((mode(&setup.path("new \"one\"")), secret.len()), (0o600, 44));
    assert!(said.out.contains("XksProxyUriPath: /example/uri/path/prefix/kms/xks/v1\n"), "{}", said.out);

    let start = said.out.find("[[key_store.credential]]").unwrap();
    let block = &said.out[start..start + said.out[start..].find("\n\n").unwrap()];
    // So that its age is known wherever the secret is kept later.
    let created = block.lines().find_map(|line| line.strip_prefix("created = ")).unwrap();
    let today = || rfc3339(SystemEnv.now())[..10].to_owned();
    assert!(created == today() || created < today().as_str() && created.len() == 10, "{created}");
    let config = setup.config();
    setup.configure(&config.replacen(
        "[[key_store.credential]]",
        &format!("{block}\n[[key_store.credential]]"),
        1,
    ));
    let checked = setup.run(&["check", "--config", "xks.toml"]);
    assert!(checked.out.contains("credentials: 2"), "{checked:?}");
}

#[test]
fn without_names_the_secret_goes_to_a_file_named_after_the_id() {
    let setup = Setup::new();
    let made = |words: &[&str]| {
        let said = setup.run(words);
        let id = said.out.split("access_key_id = \"").nth(1).unwrap()[..28].to_owned();
        let secret = fs::read_to_string(setup.path(&format!("{id}.secret"))).unwrap();
        (id, secret.trim_end().to_owned(), said.out)
    };
    let (first, secret, quiet) = made(&["credentials", "new"]);
    let (second, other, loud) = made(&["credentials", "new", "--show"]);
    assert!(first != second && secret != other);
    assert!(!quiet.contains(&secret));
    assert!(loud.ends_with(&format!("\nRawSecretAccessKey: {other}\n")), "{loud}");
}

#[test]
fn nothing_is_ever_overwritten_and_a_failure_leaves_nothing_behind() {
    let setup = Setup::new();
    let before = files(&setup);
    for words in [["credentials", "new"].as_slice(), CONSOLE] {
        let said = setup.run(&[words, &["--out", "secret"]].concat());
        let line = "xks-proxy: secret is there already, and is never overwritten: name another file\n";
        assert_eq!((said.code, said.out.as_str(), said.error.as_str()), (2, "", line));
        let said = setup.run(&[words, &["--out", "absent/file"]].concat());
        assert!(
            said.code == 2 && said.error.starts_with("xks-proxy: cannot write absent/file ("),
            "{said:?}"
        );
    }
    assert_eq!(fs::read_to_string(setup.path("secret")).unwrap().trim_end(), SECRET);
    assert_eq!(files(&setup), before);
}

#[test]
fn the_console_gets_path_and_pair() {
    let setup = Setup::new();
    let expected = json!({
        "XksProxyUriPath": "/example/uri/path/prefix/kms/xks/v1",
        "XksProxyAuthenticationCredential": { "AccessKeyId": ACCESS_KEY_ID, "RawSecretAccessKey": SECRET },
    });
    let said = setup.run(&[CONSOLE, &["--out", "console.json"]].concat());
    assert_eq!(said.code, 0, "{said:?}");
    let written: Value =
        serde_json::from_str(&fs::read_to_string(setup.path("console.json")).unwrap()).unwrap();
    assert_eq!((written, mode(&setup.path("console.json"))), (expected.clone(), 0o600));
    let shown: Value = serde_json::from_str(&setup.run(&[CONSOLE, &["--show"]].concat()).out).unwrap();
    assert_eq!(shown, expected);
    assert_eq!(setup.run(CONSOLE).code, 2, "where to is to be said");
}

#[test]
fn which_of_several_credentials_is_to_be_said() {
    let setup = Setup::new();
    let second = "access_key_id = \"ANOTHER2TENAND3TENCHARACTERS\"\nsecret_file = \"secret\"\n[[key_store.credential]]";
    setup.change("[[key_store.credential]]", &format!("[[key_store.credential]]\n{second}"));
    let with = |words: &[&str]| setup.run(&[CONSOLE, &["--show"], words].concat());
    let both = format!("ANOTHER2TENAND3TENCHARACTERS, {ACCESS_KEY_ID}");
    let line = format!("xks-proxy: main has several credentials: name one by --access-key-id, of {both}\n");
    assert_eq!(with(&[]).error, line);
    let line = format!("xks-proxy: main has no credential of that id: write one of {both}\n");
    assert_eq!(with(&["--access-key-id", "THIRD"]).error, line);
    let shown: Value = serde_json::from_str(&with(&["--access-key-id", ACCESS_KEY_ID]).out).unwrap();
    assert_eq!(shown["XksProxyAuthenticationCredential"]["AccessKeyId"], ACCESS_KEY_ID);
}

#[test]
fn unknown_key_stores_are_refused_with_those_there_are() {
    let setup = Setup::new();
    let line = "xks-proxy: xks.toml has no key store \"other\": write one of main\n";
    for words in [
        ["credentials", "new", "--config", "xks.toml", "--key-store", "other"].as_slice(),
        &["console-json", "--config", "xks.toml", "--key-store", "other", "--show"],
    ] {
        let said = setup.run(words);
        assert_eq!((said.code, said.error.as_str()), (2, line));
    }
    let said = setup.run(&["credentials", "new", "--key-store", "main"]);
    let line = "xks-proxy: --key-store needs --config FILE, which names the key stores\n";
    assert_eq!((said.code, said.error.as_str()), (2, line));
}
