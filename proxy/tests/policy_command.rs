//! `xks-proxy policy test` and policy files in a configuration, by the real binary. No HSM and no secret is there to be
//! opened or read.

#![cfg(feature = "cedar")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail loudly")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/policy/example.cedar");
const ARN: &str = "arn:aws:kms:eu-west-1:111122223333:key/1";

/// A configuration whose HSM and secrets do not exist, and whose policies are on line 16.
struct Setup(TempDir);

impl Setup {
    fn new(policies: &str) -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        this.write("p.cedar", policies);
        this.configure("[key_store.cedar]\npolicy_file = \"p.cedar\"\n");
        this
    }

    fn configure(&self, access: &str) {
        let text = format!(
            r#"[server]
listen = "127.0.0.1:0"
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
secret_file = "secret"
{access}"#
        );
        self.write("xks.toml", &text);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_xks-proxy"))
            .args(["policy", "test", "--config"])
            .arg(self.path("xks.toml"))
            .args(arguments)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Exit code, standard output, standard error; the directory is written as `DIR`.
    fn says(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.run(arguments);
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes).replace(&format!("{}/", self.0.path().display()), "DIR/")
        };
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }
}

const ENCRYPT: &[&str] =
    &["--operation", "Encrypt", "--key", "orders", "--kms-key-arn", ARN, "--principal-arn"];

fn encrypt<'a>(principal: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [ENCRYPT, &[principal], more].concat()
}

const OURS: &str = "arn:aws:iam::111122223333:role/app";
const THEIRS: &str = "arn:aws:iam::999999999999:role/app";

/// Every policy of the example decides at least one of its cases, and all cases come out as they say.
#[test]
fn the_examples_cases_are_decided_as_they_expect() {
    let setup = Setup::new(&fs::read_to_string(EXAMPLE).unwrap());
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("policy/example.test.toml");
    let (code, out, err) = setup.says(&["--key-store", "main", "--cases", cases.to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.ends_with("19 cases, 0 wrong\n"), "{out}");
    let text = fs::read_to_string(cases).unwrap();
    for id in fs::read_to_string(EXAMPLE).unwrap().lines().filter_map(|line| line.strip_prefix("@id(")) {
        let id = id.trim_end_matches(')');
        assert!(text.contains(&format!("policy = {id}")), "no case is decided by {id}");
    }
}

/// The same file finds a policy that has been weakened, and says which case went wrong and what was expected.
#[test]
fn a_weakened_policy_is_found_by_its_cases() {
    let example = fs::read_to_string(EXAMPLE).unwrap();
    let cases = concat!(env!("CARGO_MANIFEST_DIR"), "/policy/example.test.toml");
    let weaker = example.replace(r#"resource.id like "vault-*""#, r#"resource.id like "Vault-*""#);
    assert_ne!(weaker, example);
    let (code, out, err) = Setup::new(&weaker).says(&["--cases", cases]);
    assert_eq!((code, err.as_str()), (Some(1), ""), "{out}");
    assert!(out.ends_with("19 cases, 3 wrong\n"), "{out}");
    let told = "WRONG a vault key from the internet: allow\n      cedar allows, by only-our-account\n      \
                expected deny\n      expected \"vault-keys-from-our-endpoint-only\" to decide\n";
    assert!(out.contains(told), "{out}");
}

#[test]
fn one_request_by_flags() {
    let setup = Setup::new(&fs::read_to_string(EXAMPLE).unwrap());
    let allowed = "allow\n      cedar allows, by only-our-account\n";
    let denied = "deny\n      cedar denies: no permit policy matches the request\n";
    let says = |arguments: Vec<&str>| {
        let (code, out, err) = setup.says(&arguments);
        assert_eq!(err, "");
        (code, out)
    };
    assert_eq!(says(encrypt(OURS, &[])), (Some(0), allowed.into()));
    assert_eq!(
        says(encrypt(OURS, &["--expect", "allow", "--policy", "only-our-account"])),
        (Some(0), allowed.into())
    );
    assert_eq!(says(encrypt(THEIRS, &[])), (Some(1), denied.into()));
    assert_eq!(says(encrypt(THEIRS, &["--expect", "deny"])), (Some(0), denied.into()));
    assert_eq!(
        says(encrypt(OURS, &["--expect", "deny"])),
        (Some(1), format!("{allowed}      expected deny\n"))
    );
    let other = says(encrypt(OURS, &["--policy", "break-glass-may-decrypt"]));
    assert_eq!(other, (Some(1), format!("{allowed}      expected \"break-glass-may-decrypt\" to decide\n")));
}

#[test]
fn the_allow_list_is_asked_too_and_a_shadow_is_judged_and_marked() {
    let setup = Setup::new("permit(principal, action, resource);");
    let rule = format!("[[key_store.allow]]\nname = \"theirs\"\nprincipal_arns = [\"{THEIRS}\"]\n");
    setup.configure(&format!("{rule}[key_store.cedar]\npolicy_file = \"p.cedar\"\n"));
    let text = fs::read_to_string(setup.path("xks.toml")).unwrap();
    setup.write("xks.toml", &text.replace("uri_prefix", "allow_mode = \"shadow\"\nuri_prefix"));
    let (code, out, _) = setup.says(&encrypt(OURS, &[]));
    let told = format!(
        "deny\n      allow-list denies (shadow mode: only logged): no rule admits the request; the closest, \
         \"theirs\", does not admit awsPrincipalArn \"{OURS}\"\n      cedar allows, by policy0\n"
    );
    assert_eq!((code, out), (Some(1), told));
    let (code, out, _) = setup.says(&encrypt(THEIRS, &["--policy", "theirs"]));
    let told = "allow\n      allow-list allows (shadow mode: only logged), by theirs\n      cedar allows, by policy0\n";
    assert_eq!((code, out.as_str()), (Some(0), told));
}

#[test]
fn cases_may_be_json() {
    let setup = Setup::new(&fs::read_to_string(EXAMPLE).unwrap());
    setup.write(
        "cases.json",
        &format!(
            r#"{{"case": [{{"operation": "Encrypt", "key": "k", "principal_arn": "{THEIRS}", "kms_key_arn": "{ARN}", "expect": "deny"}}]}}"#
        ),
    );
    let (code, out, _) = setup.says(&["--cases", "cases.json"]);
    let told =
        "ok    case 1: deny\n      cedar denies: no permit policy matches the request\n1 cases, 0 wrong\n";
    assert_eq!((code, out.as_str()), (Some(0), told));
}

#[test]
fn bad_usage_ends_with_2_and_one_line() {
    let setup = Setup::new("permit(principal, action, resource);");
    let long = "a".repeat(2_049);
    for (arguments, line) in [
        (vec![], "which operation? add `operation` (--operation Encrypt)"),
        (
            vec!["--operation", "Encypt"],
            "\"Encypt\" is not an operation: write one of GetKeyMetadata, Encrypt, Decrypt, GetHealthStatus",
        ),
        (vec!["--operation", "Encrypt"], "which key? add `key` (--key ID), an external key id"),
        (
            vec!["--operation", "Encrypt", "--key", "a/b"],
            "key \"a/b\": a key id holds only A-Z a-z 0-9 . _ -",
        ),
        (
            vec!["--operation", "Encrypt", "--key", "a"],
            "KMS always sends a principal_arn with this operation: add `principal_arn` (--principal-arn ARN)",
        ),
        (
            vec!["--operation", "Decrypt", "--key", "a", "--principal-arn", "b"],
            "KMS always sends a kms_key_arn with this operation: add `kms_key_arn` (--kms-key-arn ARN)",
        ),
        (
            vec!["--operation", "Decrypt", "--key", "a", "--principal-arn", &long],
            "principal_arn is longer than 2048 characters, which no policy gets to see",
        ),
        (
            vec!["--key-store", "mian"],
            "no key store is named \"mian\": name one of \"main\" after --key-store",
        ),
        (
            vec!["--cases", "none.toml"],
            "cannot read none.toml (No such file or directory (os error 2)): name an existing, readable file after --cases",
        ),
        (vec!["--cases", "empty.toml"], "empty.toml holds no case: add a [[case]] table"),
        (
            vec!["--cases", "typo.toml"],
            "typo.toml:2: unknown field `operatoin`, expected one of `name`, `operation`, `key`, `principal_arn`, \
             `kms_key_arn`, `kms_operation`, `via_service`, `source_vpc`, `source_vpce`, `access_key_id`, `expect`, \
             `policy`",
        ),
        (
            vec!["--cases", "no_key.toml"],
            "no_key.toml: the first: which key? add `key` (--key ID), an external key id",
        ),
    ] {
        setup.write("empty.toml", "");
        setup.write("typo.toml", "[[case]]\noperatoin = \"Encrypt\"\n");
        setup.write("no_key.toml", "[[case]]\nname = \"the first\"\noperation = \"Encrypt\"\n");
        assert_eq!(setup.says(&arguments), (Some(2), String::new(), format!("xks-proxy: {line}\n")));
    }
    let both = setup.says(&["--cases", "empty.toml", "--operation", "Encrypt"]);
    assert_eq!(both.0, Some(2), "{}", both.2);
}

/// A mistake in a policy file is told at the configuration's line that names the file, with its place in the file.
#[test]
fn az_4_a_mistake_in_a_policy_file_is_one_line_with_both_places() {
    let setup = Setup::new("permit(principal, action, resource)\nwhen { principal.nane == \"x\" };\n");
    let (code, out, err) = setup.says(&encrypt(OURS, &[]));
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert_eq!(
        err,
        "xks-proxy: DIR/xks.toml:16: DIR/p.cedar:2:8: for policy `policy0`, attribute `nane` on entity type \
         `Xks::Principal` not found (did you mean `arn`?)\n"
    );
    for (files, line) in [
        ("policy_file = \"none.cedar\"", "16: cannot read the policy file DIR/none.cedar (No such file"),
        ("policy_file = \"latin1.cedar\"", "16: the policy file DIR/latin1.cedar is not UTF-8"),
        ("policy_file = \"huge.cedar\"", "16: the policy file DIR/huge.cedar is larger than 1 MiB"),
        ("policy_file = \"empty.cedar\"", "16: DIR/empty.cedar: there is no policy"),
        (
            "policy_file = \"good.cedar\"\nschema_file = \"none.cedarschema\"",
            "17: cannot read the schema file DIR/none.cedarschema",
        ),
        ("policy_file = \"good.cedar\"\nschema_file = \"bad.cedarschema\"", "17: DIR/bad.cedarschema:1:8: "),
        (
            "policy_file = \"good.cedar\"\nschema_file = \"other.cedarschema\"",
            "17: DIR/other.cedarschema: the schema does not fit what the proxy says of a request",
        ),
        ("policy_fiel = \"p.cedar\"", "16: unknown key `policy_fiel`: did you mean `policy_file`?"),
        ("mode = \"enforce\"", "15: [key_store.cedar] lacks the key `policy_file`: add it"),
        (
            "policy_file = \"good.cedar\"\nmode = \"shaddow\"",
            "17: \"shaddow\" is not one of the choices here: write `enforce` or `shadow`",
        ),
    ] {
        setup.write("good.cedar", "permit(principal, action, resource);");
        fs::write(setup.path("latin1.cedar"), b"// \xfc\npermit(principal, action, resource);").unwrap();
        setup.write("huge.cedar", &"// nothing here\n".repeat(70_000));
        setup.write("empty.cedar", "// written in a moment\n");
        setup.write("bad.cedarschema", "entity {");
        setup.write("other.cedarschema", "entity User;");
        setup.configure(&format!("[key_store.cedar]\n{files}\n"));
        let (code, out, err) = setup.says(&encrypt(OURS, &[]));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{files}");
        assert!(err.starts_with(&format!("xks-proxy: DIR/xks.toml:{line}")), "{files}: {err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
}

#[test]
fn a_file_without_any_permit_is_warned_of() {
    let setup = Setup::new("forbid(principal, action, resource);");
    let (code, out, _) = setup.says(&encrypt(OURS, &["--expect", "deny"]));
    let told = "warning: DIR/xks.toml:16: DIR/p.cedar: no policy is a `permit`, so every request is denied\n\
                deny\n      cedar denies: the policy \"policy0\" forbids the request\n";
    assert_eq!((code, out.as_str()), (Some(0), told));
}
