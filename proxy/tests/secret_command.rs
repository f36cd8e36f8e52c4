//! Helper commands that tell a secret, as a configuration is built: what is taken over, and what is said of a command
//! that fails. That a daemon logs in and serves with what commands tell is shown in `reload.rs`.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test's helper fails loudly")]

use std::sync::Arc;
use xks_proxy::config::Config;
use xks_proxy::env::SystemEnv;
use xks_proxy::events::{AuditEvent, Subscriber};

struct Nobody;

impl Subscriber for Nobody {
    fn audit(&self, _: &AuditEvent) {}
}

/// What is said when a shell runs `script` as the command for the secret access key. Secrets are read before HSMs are
/// opened, and there is no HSM here, so with a good secret it is about that.
fn told(script: &str) -> String {
    told_by(&["/bin/sh", "-c", script])
}

fn told_by(words: &[&str]) -> String {
    let text = format!(
        r#"[server]
listen = "127.0.0.1:0"
[[hsm]]
name = "one"
module = "/no/such/module.so"
slot = 1
pin_command = ["/bin/echo", "1234"]
[[key_store]]
name = "main"
uri_prefix = "a"
hsm = "one"
[[key_store.credential]]
access_key_id = "BETWEEN2TENAND3TENCHARACTERS"
secret_command = {words:?}
"#
    );
    let config = Config::parse("xks.toml", &text).unwrap();
    match config.build(Arc::new(SystemEnv), Arc::new(Nobody)) {
        Ok(_) => panic!("there is no such module"),
        Err(error) => error.to_string(),
    }
}

const GOOD: &str = "xks.toml:5: hsm \"one\": no PKCS#11 module at /no/such/module.so: install the HSM's client software or \
                    correct the path";
const SECRET: &str = "PleaseReplaceThisWithSomeSecretOfLength43To64";

/// What is said of the command in the configuration above.
fn complaint(rest: &str) -> String {
    format!("xks.toml:14: the command /bin/sh, which should tell the secret access key, {rest}")
}

#[test]
fn its_output_is_the_secret_without_the_last_line_break() {
    for script in [
        format!("echo {SECRET}"),
        format!("printf {SECRET}"),
        format!("printf '{SECRET}\\r\\n'"),
        // Slow writers, and complaints beside a success, do no harm.
        format!("printf Please; echo a warning >&2; printf {}", SECRET.strip_prefix("Please").unwrap()),
    ] {
        assert_eq!(told(&script), GOOD, "{script}");
    }
    assert_eq!(told_by(&["/bin/echo", SECRET]), GOOD);
    let two = told(&format!("echo {SECRET}; echo"));
    assert!(two.ends_with("has something else: correct it"), "only one line break is dropped: {two}");
}

#[test]
fn it_has_no_shell_and_no_input() {
    let told = told_by(&["/bin/echo", "$HOME;`id`;$(id)"]);
    assert!(told.contains("the one of BETWEEN2TENAND3TENCHARACTERS has 16"), "the words as they are: {told}");
    // `read` at the end of its input fails at once.
    assert_eq!(
        self::told("read line; exit 7"),
        complaint("ended with exit status: 7: run it by hand as this user")
    );
}

#[test]
fn a_failure_says_how_it_ended_and_its_first_words() {
    assert_eq!(
        told("echo 'vault: sealed' >&2; echo more >&2; exit 3"),
        complaint("ended with exit status: 3 and says \"vault: sealed\": run it by hand as this user")
    );
    assert_eq!(told("kill -9 $$"), complaint("ended with signal: 9 (SIGKILL): run it by hand as this user"));
    let loud = told("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1");
    assert!(loud.contains(&format!("and says \"{}\"", "x".repeat(200))) && loud.len() < 500, "{loud}");
    assert_eq!(
        told("printf 'a\\033[31mb' >&2; exit 1"),
        complaint("ended with exit status: 1 and says \"a [31mb\": run it by hand as this user")
    );
    assert_eq!(
        told_by(&["/no/such/helper"]),
        "xks.toml:14: the command /no/such/helper, which should tell the secret access key, does not start (No such \
         file or directory (os error 2)): correct its path and permissions"
    );
}

#[test]
fn what_it_tells_is_never_repeated() {
    for script in [
        format!("echo {SECRET}; exit 1"),
        format!("echo {SECRET}; echo 'cannot use {SECRET}' >&2; exit 1"),
        format!("echo {SECRET}-and-more"),
        format!("printf '{SECRET}\\377'"),
        format!("while echo {SECRET}; do :; done"),
    ] {
        let told = told(&script);
        assert!(!told.contains("PleaseReplace") && told.starts_with("xks.toml:14: "), "{script}: {told}");
        assert_eq!(told.lines().count(), 1);
    }
}

#[test]
fn too_much_nothing_and_nonsense_are_refused() {
    assert_eq!(
        told("head -c 4097 /dev/zero"),
        complaint("writes more than 4096 bytes: it must write the secret and nothing else")
    );
    assert_eq!(
        told("yes"),
        complaint("writes more than 4096 bytes: it must write the secret and nothing else")
    );
    assert_eq!(
        told("exit 0"),
        "xks.toml:14: the command /bin/sh is empty: write the secret access key there"
    );
    assert_eq!(
        told("printf '\\377'"),
        "xks.toml:14: the command /bin/sh holds no text: put the secret access key there"
    );
}

/// A helper may leave an agent behind that keeps its standard error open; that is no reason to wait for ever.
#[test]
fn a_process_left_behind_does_not_hold_it_up() {
    assert_eq!(told(&format!("echo {SECRET}; sleep 20 >/dev/null &")), GOOD);
}
