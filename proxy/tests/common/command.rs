//! The commands of the real binary over a real SoftHSM2: a directory with a configuration that works, the files it
//! names, and a copy of the tokens.

#[path = "tokens.rs"]
pub(crate) mod tokens;

use crate::softhsm::{PIN, SoftHsm, TOKEN, aes_key};
use cryptoki::object::Attribute;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokens::copy_tokens;

pub(crate) const SECRET: &str = "PleaseReplaceThisWithSomeSecretOfLength43To64";
pub(crate) const ACCESS_KEY_ID: &str = "BETWEEN2TENAND3TENCHARACTERS";
const DAY: Duration = Duration::from_secs(86_400);

pub(crate) struct Setup {
    directory: TempDir,
}

impl Setup {
    pub(crate) fn new() -> Self {
        static KEYS: OnceLock<()> = OnceLock::new();
        KEYS.get_or_init(more_keys);
        let this = Self { directory: tempfile::tempdir().unwrap() };
        copy_tokens(&this.path("tokens"));
        this.write("softhsm2.conf", &format!("directories.tokendir = {}\n", this.path("tokens").display()));
        this.write("pin", &format!("{PIN}\n"));
        this.write("secret", &format!("{SECRET}\n"));
        // Whether the machine's clock is kept right is not the tests' business.
        this.write("timedatectl", "#!/bin/sh\necho yes\n");
        fs::set_permissions(this.path("timedatectl"), fs::Permissions::from_mode(0o755)).unwrap();
        this.certify("xks.example.com", 90);
        this.configure(&this.config());
        this
    }

    /// All well with it.
    pub(crate) fn config(&self) -> String {
        format!(
            r#"[server]
listen = "127.0.0.1:0"
tls = {{ certificate_file = "certificate.pem", key_file = "key.pem" }}
[[hsm]]
name = "softhsm"
module = "{module}"
token_label = "{TOKEN}"
pin_file = "pin"
sessions_max = 2
health_key_label = "xks-health"
[[key_store]]
name = "main"
uri_prefix = "example/uri/path/prefix"
hsm = "softhsm"
find_keys_by = "entry"
[[key_store.credential]]
access_key_id = "{ACCESS_KEY_ID}"
secret_file = "secret"
[[key_store.key]]
id = "orders"
current_version = 1
versions = [{{ version = 1, label = "foo" }}]
"#,
            module = SoftHsm::get().module.display(),
        )
    }

    /// A chain for `host`, by a CA of ours, that ends in so many days.
    pub(crate) fn certify(&self, host: &str, days: i32) {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.distinguished_name.push(DnType::CommonName, "A test CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec![host.to_owned()]).unwrap();
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.distinguished_name.push(DnType::CommonName, host);
        let now = SystemTime::now();
        let end = now + Duration::from_secs(3_600);
        let far = DAY * days.unsigned_abs();
        leaf.not_before = (now - DAY * 1_000).into();
        leaf.not_after = if days < 0 { end - far } else { end + far }.into();
        let leaf = leaf.signed_by(&key, &ca).unwrap();
        self.write("certificate.pem", &(leaf.pem() + &ca.pem()));
        self.write("key.pem", &key.serialize_pem());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        self.chmod(name, 0o600);
    }

    pub(crate) fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn configure(&self, text: &str) {
        self.write("xks.toml", text);
    }

    /// Replaces one piece of the working configuration.
    #[track_caller]
    pub(crate) fn change(&self, piece: &str, instead: &str) {
        let config = self.config();
        assert!(config.contains(piece), "{piece}");
        self.configure(&config.replace(piece, instead));
    }

    /// Puts the module in between that shows a token in trouble; see `token_shim.c`.
    pub(crate) fn shim(&self) {
        let library = self.path("token_shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/token_shim.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
        let made = compiler.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.change(&SoftHsm::get().module.display().to_string(), &library.display().to_string());
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xks-proxy"));
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .args(words)
            .env_remove("XKS_PROXY_CONFIG")
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .env("SHIM_MODULE", &SoftHsm::get().module)
            .env("PATH", format!("{}:{path}", self.directory.path().display()))
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs in the setup's directory, so that names of files in what is said are short. No command says a secret unless
    /// `--show` asks for it.
    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) -> Said {
        self.finish(self.command(words), words.contains(&"--show"))
    }

    /// As [`run`](Self::run), with variables for the shim.
    #[track_caller]
    pub(crate) fn run_with(&self, words: &[&str], variables: &[(&str, &str)]) -> Said {
        let mut command = self.command(words);
        command.envs(variables.iter().copied());
        self.finish(command, false)
    }

    #[track_caller]
    fn finish(&self, mut command: Command, shows: bool) -> Said {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let said = Said {
            code: status.code().unwrap(),
            out: String::from_utf8(stdout).unwrap(),
            error: String::from_utf8(stderr).unwrap(),
        };
        for secret in [PIN, SECRET] {
            let quiet = shows || !(said.out.contains(secret) || said.error.contains(secret));
            assert!(quiet, "{said:?}");
        }
        said
    }
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) error: String,
}

impl Said {
    /// Of `doctor --json`: what is said in all checks of this name that ended so.
    #[track_caller]
    pub(crate) fn says(&self, status: &str, check: &str) -> Vec<String> {
        let all: Value = serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{self:?}"));
        let checks = all["checks"].as_array().unwrap().iter();
        let these = checks.filter(|one| one["status"] == status && one["check"] == check);
        these.map(|one| one["says"].as_str().unwrap().to_owned()).collect()
    }

    /// All that failed, by name.
    #[track_caller]
    pub(crate) fn failed(&self) -> Vec<String> {
        self.with_status("failed")
    }

    /// All checks that ended so, by name.
    #[track_caller]
    pub(crate) fn with_status(&self, status: &str) -> Vec<String> {
        let all: Value = serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{self:?}"));
        let checks = all["checks"].as_array().unwrap().iter();
        checks
            .filter(|one| one["status"] == status)
            .map(|one| one["check"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// Beside those of `softhsm`: a health key, and keys that can leave the token.
fn more_keys() {
    SoftHsm::get().administer(|session| {
        aes_key(session, "xks-health", b"\x10", 32, true, true);
        for (label, sensitive) in [("wrapped-out", true), ("readable", false)] {
            session
                .generate_key(
                    &cryptoki::mechanism::Mechanism::AesKeyGen,
                    &[
                        Attribute::Token(true),
                        Attribute::Sensitive(sensitive),
                        Attribute::Extractable(true),
                        Attribute::Label(label.into()),
                        Attribute::ValueLen(32.into()),
                        Attribute::Encrypt(true),
                        Attribute::Decrypt(true),
                    ],
                )
                .unwrap();
        }
    });
}
