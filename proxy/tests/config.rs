//! Configurations: the example, and the exact line for every mistake.

#![expect(clippy::expect_used, reason = "a test's helper fails loudly")]

use std::path::Path;
use xks_proxy::app::{OtherKeys, Settings};
use xks_proxy::config::Config;
use xks_proxy::hsm::pkcs11::{Pkcs11Settings, TokenChoice};
use xks_proxy::secret::Secret;

const EXAMPLE: &str = include_str!("../config.example.toml");

/// The smallest useful configuration and a little more; mistakes are made by replacing a piece of it.
const SMALL: &str = r#"[server]
listen = "127.0.0.1:8080"
[limits]
[[hsm]]
name = "one"
module = "/no/such/module.so"
token_label = "xks"
pin_file = "pin"
[[key_store]]
name = "main"
uri_prefix = "a/b"
hsm = "one"
[[key_store.credential]]
access_key_id = "BETWEEN2TENAND3TENCHARACTERS"
secret_env = "XKS_SECRET"
[[key_store.key]]
id = "foo"
current_version = 2
versions = [{ version = 1, label = "foo-1" }, { version = 2, id = "0a" }]
[[key_store.allow]]
keys = ["foo"]
"#;

fn refusal(text: &str) -> String {
    Config::parse("xks.toml", text).expect_err(text).to_string()
}

#[test]
fn the_example_is_right_as_it_is() {
    let config = Config::parse("/etc/xks/xks.toml", EXAMPLE).unwrap();
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.settings, Settings::default());
    assert_eq!(config.listen[0].value.to_string(), "0.0.0.0:8443");
    let tls = config.tls.unwrap();
    assert_eq!(tls.key_file.value, Path::new("/etc/xks/tls/key.pem"), "relative to the configuration");
    let store = &config.key_stores[0];
    assert_eq!((store.prefix.as_str(), store.credentials.len()), ("/example/uri/path/prefix", 1));
    assert_eq!(store.access.rules[0].name, "orders-of-our-account");
}

/// Values shown after `#` are the defaults, as the example's head promises: writing them out changes nothing.
#[test]
fn the_defaults_in_the_example_are_the_real_ones() {
    const NO_DEFAULT: &[&str] = &[
        "public_reason",
        "endpoint",
        "token_serial",
        "slot",
        "ca_file",
        "subject_names",
        "pin_env",
        "pin_command",
        "secret_env",
        "created",
        "secret_command",
        "health_key_label",
        "hsms",
        "kms_key_arns",
        "kms_operations",
        "via_services",
        "schema_file",
    ];
    let written_out = |line: &'static str| {
        let rest = line.strip_prefix("# ")?;
        let (key, _) = rest.split_once(" = ")?;
        let is_key = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        (is_key && !NO_DEFAULT.contains(&key)).then_some(rest)
    };
    let lines: Vec<&str> = EXAMPLE.lines().map(|line| written_out(line).unwrap_or(line)).collect();
    let text = lines.join("\n");
    assert!(text.contains("\ndeadline_ms = 150\n") && text.contains("\nsessions_max = 16\n"));

    let config = Config::parse("xks.toml", &text).unwrap();
    assert_eq!(config.settings, Settings::default());
    assert_eq!(config.key_stores[0].keys.others, OtherKeys::ByLabel);
    let quota = config.key_stores[0].quota;
    assert_eq!(quota.map(|rate| rate.burst), quota.map(|rate| rate.requests_per_s));
    let hsm = &config.hsms[0];
    let default = Pkcs11Settings::new("m", TokenChoice::Slot(0), Secret::new(String::new()));
    assert_eq!(hsm.sessions_max, Some(default.sessions_max));
    assert_eq!(hsm.queue_max, Some(default.queue_max));
    assert_eq!(hsm.set_aside_max, Some(default.set_aside_max));
    assert_eq!(hsm.set_aside_after, Some(default.set_aside_after));
    assert_eq!(hsm.session_idle_max, Some(default.session_idle_max));
    assert_eq!(hsm.iv_source, default.iv_source);
}

#[test]
fn two_key_stores_share_an_hsm_and_what_is_left_out_has_its_default() {
    let second = SMALL.split_once("[[key_store]]").unwrap().1.replace("main", "second").replace("a/b", "c");
    let config = Config::parse("xks.toml", &format!("{SMALL}[[key_store]]{second}")).unwrap();
    assert_eq!((config.hsms.len(), config.key_stores.len()), (1, 2));
    assert!(config.tls.is_none());
    assert_eq!(config.settings, Settings::default());
}

/// Each row: a piece of [`SMALL`], what stands there instead, and the one line the user reads.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("[limits]", "[limit]", "xks.toml:3: unknown key `limit`: did you mean `limits`?"),
    ("listen =", "lisen =", "xks.toml:2: unknown key `lisen`: did you mean `listen`?"),
    (
        "listen =",
        "colour =",
        "xks.toml:2: unknown key `colour`: remove it, or write `listen`, `ping_path` or `tls`",
    ),
    (
        "pin_file = \"pin\"",
        "pin = \"4711\"",
        "xks.toml:8: a PIN never stands in this file: name its place with `pin_file`, `pin_env` or `pin_command`",
    ),
    (
        "secret_env = \"XKS_SECRET\"",
        "secret = \"hunter2\"",
        "xks.toml:15: a secret never stands in this file: name its place with `secret_file`, `secret_env` or \
         `secret_command`",
    ),
    ("pin_file = \"pin\"", "pin_file = 4711", "xks.toml:8: this value is of the wrong kind: write a string"),
    (
        "[limits]",
        "[limits]\ndeadline_ms = \"150\"",
        "xks.toml:4: this value is of the wrong kind: write a whole number without quotes, zero or more",
    ),
    ("module = \"/no/such/module.so\"\n", "", "xks.toml:4: [[hsm]] lacks the key `module`: add it"),
    ("[[hsm]]\nname = \"one\"", "[[hsm]]", "xks.toml:4: [[hsm]] lacks the key `name`: add it"),
    ("{ version = 1, ", "{ ", "xks.toml:19: this table lacks the key `version`: add it"),
    (
        "[server]\nlisten = \"127.0.0.1:8080\"",
        "",
        "xks.toml: there is no [server] table: add one with at least `listen`",
    ),
    (
        "name = \"one\"",
        "name = \"one\"\nname = \"one\"",
        "xks.toml:6: this key stands here for the second time: remove one of the two",
    ),
    (
        "127.0.0.1:8080",
        "localhost",
        "xks.toml:2: listen = \"localhost\" is not an address and port: write one like \"0.0.0.0:8443\" or \
         \"[::]:8443\"",
    ),
    (
        "[limits]",
        "ping_path = \"ping\"",
        "xks.toml:3: ping_path is not a plain path: write one like \"/ping\", of A-Z a-z 0-9 / - _ . ~",
    ),
    (
        "[limits]",
        "ping_path = \"/kms/xks/v1/ping\"",
        "xks.toml:3: ping_path lies inside the API (/kms/xks/v1): choose another",
    ),
    (
        "[limits]",
        "[limits]\ndeadline_ms = 5",
        "xks.toml:4: deadline_ms = 5 is out of range: write 10 to 60000",
    ),
    (
        "[limits]",
        "[limits]\naad_bytes_max = 65536",
        "xks.toml:4: aad_bytes_max = 65536 is out of range: write 8192 to 65535",
    ),
    (
        "[limits]",
        "[limits]\nbody_bytes_max = 20000",
        "xks.toml:4: body_bytes_max = 20000 cannot hold a request with plaintext_bytes_max = 8192 and \
         aad_bytes_max = 16384 in base64: raise it to 36868 or more",
    ),
    (
        "[limits]",
        "[limits]\naad_bytes_max = 65535",
        "xks.toml:4: body_bytes_max = 65536 cannot hold a request with plaintext_bytes_max = 8192 and \
         aad_bytes_max = 65535 in base64: raise it to 102400 or more",
    ),
    ("[limits]", "[identity]\nvendor = \" \"", "xks.toml:4: vendor is empty: write one, or remove the key"),
    (
        "name = \"one\"",
        "name = \"o n e\"",
        "xks.toml:5: the name \"o n e\" does not suit logs: write 1 to 64 characters of A-Z a-z 0-9 . _ -",
    ),
    (
        "token_label = \"xks\"",
        "token_label = \"xks\"\nslot = 3",
        "xks.toml:4: hsm \"one\": name the token by one of token_label, token_serial or slot",
    ),
    (
        "pin_file = \"pin\"\n",
        "",
        "xks.toml:4: the PIN is missing: add one of pin_file, pin_env or pin_command",
    ),
    (
        "pin_file = \"pin\"",
        "pin_file = \"pin\"\npin_env = \"PIN\"",
        "xks.toml:9: the PIN has more than one place, pin_file and pin_env: keep one of them",
    ),
    (
        "[[key_store]]",
        "[[hsm]]\nname = \"one\"\nmodule = \"m\"\nslot = 1\npin_env = \"P\"\n[[key_store]]",
        "xks.toml:10: hsm name \"one\" stands already on line 5: each must be different",
    ),
    (
        "uri_prefix = \"a/b\"",
        "uri_prefix = \"a b\"",
        "xks.toml:11: uri_prefix: a URI prefix holds only A-Z a-z 0-9 / _ -: correct it",
    ),
    ("hsm = \"one\"", "hsm = \"two\"", "xks.toml:12: no [[hsm]] is named \"two\": name one of \"one\""),
    (
        "[[key_store.credential]]\naccess_key_id = \"BETWEEN2TENAND3TENCHARACTERS\"\nsecret_env = \"XKS_SECRET\"\n",
        "",
        "xks.toml:9: key store \"main\" has no credential, so nobody could use it: add a [[key_store.credential]] \
         table",
    ),
    (
        "BETWEEN2TENAND3TENCHARACTERS",
        "BETWEEN2TENAND3TENCHARACTER1",
        "xks.toml:14: an access key id has 20 to 30 characters of A-Z 2-7; this one has something else: correct \
         access_key_id",
    ),
    (
        "BETWEEN2TENAND3TENCHARACTERS",
        "SHORT",
        "xks.toml:14: an access key id has 20 to 30 characters of A-Z 2-7; this one has 5 characters: correct \
         access_key_id",
    ),
    (
        "current_version = 2",
        "current_version = 3",
        "xks.toml:18: current_version = 3 is not among the versions: add it to them, or name another",
    ),
    (
        "current_version = 2",
        "current_version = 0",
        "xks.toml:18: current_version = 0 is out of range: write 1 to 255",
    ),
    (
        "{ version = 2, id",
        "{ version = 1, id",
        "xks.toml:19: version \"1\" stands already on line 19: each must be different",
    ),
    (
        "id = \"0a\"",
        "id = \"0\"",
        "xks.toml:19: id: \"0\" is not an even number of hexadecimal digits: write the CKA_ID in hexadecimal",
    ),
    (
        "id = \"0a\"",
        "id = \"0a\", label = \"x\"",
        "xks.toml:19: version 2: name its key object by one of label or id",
    ),
    ("id = \"foo\"", "id = \"f/o\"", "xks.toml:17: a key id holds only A-Z a-z 0-9 . _ -: correct the id"),
    (
        "keys = [\"foo\"]",
        "operations = [\"encrypt\"]",
        "xks.toml:21: \"encrypt\" is not an operation: write one of GetKeyMetadata, Encrypt, Decrypt, \
         GetHealthStatus",
    ),
    (
        "keys = [\"foo\"]",
        "keys = []",
        "xks.toml:21: keys is an empty list, which could mean all or none: fill it, or remove it to allow all",
    ),
    (
        "hsm = \"one\"",
        "hsm = \"one\"\nfind_keys_by = \"lable\"",
        "xks.toml:13: \"lable\" is not one of the choices here: write `label` or `entry`",
    ),
    (
        "[limits]",
        "[limits",
        "xks.toml:3: this is not TOML (unclosed table, expected `]`): correct the syntax",
    ),
];

#[test]
fn every_mistake_has_its_line() {
    for (piece, instead, line) in MISTAKES {
        assert!(SMALL.contains(piece), "{piece:?} is not in the small configuration");
        assert_eq!(refusal(&SMALL.replacen(piece, instead, 1)), *line);
    }
}

#[test]
fn a_value_is_never_repeated_where_a_secret_could_stand() {
    for line in ["pin = \"4711-0815\"", "pin_env = 47110815", "pin_file = [\"4711-0815\"]"] {
        let told = refusal(&SMALL.replace("pin_file = \"pin\"", line));
        assert!(!told.contains("0815"), "{told}");
    }
}

/// Fuzzing found that an unknown key is quoted as it is meant, escapes of TOML resolved: a terminal would obey it.
#[test]
fn a_quoted_key_commands_no_terminal() {
    let told = refusal("[server]\n\"\\u001b[2Jlis\\rten\" = 1\n");
    assert!(told.starts_with("xks.toml:2: unknown key") && !told.contains(char::is_control), "{told:?}");
}

#[test]
fn names_and_prefixes_and_access_key_ids_stand_once() {
    let second = SMALL.split_once("[[key_store]]").unwrap().1;
    let same_name = format!("{SMALL}[[key_store]]{}", second.replace("a/b", "c"));
    assert_eq!(
        refusal(&same_name),
        "xks.toml:23: key store name \"main\" stands already on line 10: each must be different"
    );
    let same_prefix =
        format!("{SMALL}[[key_store]]{}", second.replace("main", "second").replace("a/b", "/a/b/"));
    assert_eq!(
        refusal(&same_prefix),
        "xks.toml:24: uri_prefix \"/a/b\" stands already on line 11: each must be different"
    );
    let credential =
        "[[key_store.credential]]\naccess_key_id = \"BETWEEN2TENAND3TENCHARACTERS\"\nsecret_env = \"B\"\n";
    let same_id = SMALL.replace("[[key_store.key]]", &format!("{credential}[[key_store.key]]"));
    assert_eq!(
        refusal(&same_id),
        "xks.toml:17: access_key_id \"BETWEEN2TENAND3TENCHARACTERS\" stands already on line 14: each must be different"
    );
    let key =
        "[[key_store.key]]\nid = \"foo\"\ncurrent_version = 1\nversions = [{ version = 1, label = \"f\" }]\n";
    let same_key = SMALL.replace("[[key_store.allow]]", &format!("{key}[[key_store.allow]]"));
    assert_eq!(
        refusal(&same_key),
        "xks.toml:21: key id \"foo\" stands already on line 17: each must be different"
    );
}

#[test]
fn missing_tables_are_named() {
    let no_hsm = "[server]\nlisten = \"[::1]:8080\"\n";
    assert_eq!(refusal(no_hsm), "xks.toml: no HSM is named: add an [[hsm]] table (see config.example.toml)");
    let no_store = SMALL.split_once("[[key_store]]").unwrap().0;
    assert_eq!(
        refusal(no_store),
        "xks.toml: no key store is named: add a [[key_store]] table (see config.example.toml)"
    );
}

#[test]
fn the_legal_and_odd_is_warned_of() {
    let idle =
        "[limits]\ndeadline_ms = 250\n[[hsm]]\nname = \"idle\"\nmodule = \"m\"\nslot = 1\npin_env = \"P\"";
    let config = Config::parse("xks.toml", &SMALL.replace("[limits]", idle)).unwrap();
    assert_eq!(
        config.warnings,
        [
            "xks.toml:4: deadline_ms = 250 is no use to AWS KMS, which gives up after 250 ms, the network included: \
             write 150",
            "xks.toml:6: no key store uses the HSM \"idle\": remove it, or name it in a [[key_store]]",
        ]
    );
}

#[test]
fn net_6_key_stores_that_share_an_hsm_by_label_are_warned_of() {
    let second = "[[key_store]]\nname = \"second\"\nuri_prefix = \"second\"\nhsm = \"one\"\nfind_keys_by = \"entry\"\n\
        [[key_store.credential]]\naccess_key_id = \"ANOTHER2TENAND3TENCHARACTERS\"\nsecret_env = \"XKS_OTHER\"\n";
    let both = format!("{SMALL}{second}");
    assert_eq!(
        Config::parse("xks.toml", &both).unwrap().warnings,
        [
            "xks.toml:5: 2 key stores share the HSM \"one\", and \"main\" reaches the keys of all of them by their \
          labels: give it find_keys_by = \"entry\" and a [[key_store.key]] for each key"
        ]
    );
    let apart = both.replace("uri_prefix = \"a/b\"", "uri_prefix = \"a/b\"\nfind_keys_by = \"entry\"");
    assert_eq!(Config::parse("xks.toml", &apart).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn an_absent_file_is_one_line() {
    let here = tempfile::tempdir().unwrap();
    let file = here.path().join("none.toml");
    assert_eq!(
        Config::load(&file).unwrap_err().to_string(),
        format!(
            "{}: cannot read the configuration (No such file or directory (os error 2)): name an existing, readable \
             file after --config",
            file.display()
        )
    );
}
