//! `xks-proxy doctor`, as a process over a real SoftHSM2: each check made to fail once, with what it says.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests fail loudly; these tests stand outside of the daemon, with sockets of their own"
)]

#[path = "common/command.rs"]
mod command;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "common/softhsm.rs"]
mod softhsm;

use command::{Said, Setup};
use softhsm::SoftHsm;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Stdio;

const DOCTOR: &[&str] = &["doctor", "--config", "xks.toml", "--json"];

fn doctor(setup: &Setup) -> Said {
    setup.run(DOCTOR)
}

/// One check failed, in these words, and no other did.
#[track_caller]
fn fails(said: &Said, check: &str, says: &str) {
    assert_eq!(said.says("failed", check), [says]);
    assert_eq!((said.failed(), said.code), (vec![check.to_owned()], 1));
}

/// This check warned, in these words, and nothing failed.
#[track_caller]
fn warns(said: &Said, check: &str, says: &str) {
    assert_eq!(said.says("warning", check), [says]);
    assert_eq!((said.failed(), said.code), (Vec::<String>::new(), 0), "{}", said.out);
}

#[test]
fn all_well_says_so_for_people_within_a_hundred_columns() {
    let setup = Setup::new();
    let said =
        setup.run(&["doctor", "--config", "xks.toml", "--endpoint", "https://xks.example.com", "--use-keys"]);
    assert_eq!((said.code, said.error.as_str()), (0, ""), "{}", said.out);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.last(), Some(&"All well."), "{}", said.out);
    assert!(lines.iter().all(|line| line.chars().count() <= 100), "{}", said.out);
    assert!(!said.out.contains('\x1b'), "colour is for terminals");
    for line in [
        "ok       configuration     1 HSM, 1 key store, 1 credential",
        "ok       rules             key store main: none, every signed request is allowed",
        "ok       AES-GCM           encrypts and decrypts with keys of 256 bits",
        "ok       login             the token takes the PIN",
        "ok       IV                12 bytes of the HSM's random generator, another for each encryption",
        "ok       orders v1         label \"foo\", AES-256, encrypts and decrypts, cannot leave the HSM, made",
        "                           in the HSM",
        "ok       certificate, key  belong together",
        "ok       certificate name  xks.example.com is among xks.example.com",
        "ok       certificate key   EC with 256 bits",
        "ok       network           round trip taken as 35 ms, the most AWS advises; give yours with --rtt-ms",
        "         network                               1 × 35 = 35 ms   3 × 35 = 105 ms   4 × 35 = 140 ms",
    ] {
        assert!(lines.contains(&line), "{line}\n{}", said.out);
    }
}

#[test]
fn a_problem_is_told_with_what_it_means_and_what_to_do() {
    let setup = Setup::new();
    setup.change("label = \"foo\"", "label = \"nowhere\"");
    let said = setup.run(&["doctor", "--config", "xks.toml"]);
    let expected = "\
failed   orders v1         the HSM has no key with label \"nowhere\"
                           means:  Either it was never made here or was deleted, or this user may
                                   not see it. What it has encrypted cannot be decrypted.
                           to do:  Make the key, restore it from a backup, or correct its name (line
                                   20).
";
    assert!(said.out.contains(expected), "{}", said.out);
    assert!(said.out.ends_with("\n1 problem: see \"to do\" above.\n"), "{}", said.out);
    assert_eq!((said.code, said.error.as_str()), (1, ""));
}

#[test]
fn without_a_configuration_it_cannot_start() {
    let setup = Setup::new();
    setup.change("listen =", "lisen =");
    let said = doctor(&setup);
    let expected = "xks-proxy: xks.toml:2: unknown key `lisen`: did you mean `listen`?\n";
    assert_eq!((said.code, said.out.as_str(), said.error.as_str()), (2, "", expected));
}

#[test]
fn the_configuration_comes_from_the_environment_when_no_flag_names_it() {
    let setup = Setup::new();
    assert_eq!(setup.run_with(&["doctor"], &[("XKS_PROXY_CONFIG", "xks.toml")]).code, 0);
    let said = setup.run_with(&["doctor", "--config", "absent.toml"], &[("XKS_PROXY_CONFIG", "xks.toml")]);
    assert!(said.code == 2 && said.error.starts_with("xks-proxy: absent.toml: "), "{said:?}");
}

#[test]
fn warnings_of_the_configuration_are_told_and_are_no_failure() {
    let setup = Setup::new();
    setup.configure(&(setup.config() + "[limits]\ndeadline_ms = 300\n"));
    let says = "xks.toml:24: deadline_ms = 300 is no use to AWS KMS, which gives up after 250 ms, the network included";
    warns(&doctor(&setup), "configuration", says);
}

#[test]
fn files_that_are_missing_unreadable_or_open_to_all_are_told() {
    let setup = Setup::new();
    fs::remove_file(setup.path("pin")).unwrap();
    let said = doctor(&setup);
    fails(&said, "PIN", "HSM softhsm: there is no file pin");
    assert_eq!(said.says("skipped", "module and token"), ["not checked: the PIN cannot be read"]);
    assert_eq!(said.says("skipped", "keys"), ["not checked: nobody is logged in to the HSM"]);

    let setup = Setup::new();
    fs::remove_file(setup.path("secret")).unwrap();
    fs::create_dir(setup.path("secret")).unwrap();
    fails(&doctor(&setup), "secret", "key store main: secret cannot be read (is a directory)");

    let setup = Setup::new();
    setup.chmod("pin", 0o644);
    warns(&doctor(&setup), "PIN", "HSM softhsm: every user of this machine can read pin");
    setup.chmod("pin", 0o602);
    fails(&doctor(&setup), "PIN", "HSM softhsm: every user of this machine can write to pin");
}

#[test]
fn a_secret_of_the_wrong_shape_is_told_and_not_repeated() {
    let setup = Setup::new();
    setup.write("secret", "hunter2hunter2hunter2");
    let said = doctor(&setup);
    let says = format!(
        "a secret access key has 43 to 64 characters, the one of {} has 21: correct it",
        command::ACCESS_KEY_ID
    );
    fails(&said, "secret", &says);
    assert!(!said.out.contains("hunter2"));
}

#[test]
fn a_module_that_is_missing_or_no_module_is_told() {
    let setup = Setup::new();
    let module = SoftHsm::get().module.display().to_string();
    setup.change(&module, "./absent.so");
    let said = doctor(&setup);
    assert_eq!(said.says("failed", "module"), ["there is no file ./absent.so"]);
    assert_eq!(said.failed(), ["module file", "module"]);

    setup.write("text.so", "no library");
    setup.change(&module, "./text.so");
    let said = doctor(&setup);
    assert!(said.says("failed", "module")[0].starts_with("./text.so cannot be loaded: "), "{}", said.out);
    assert_eq!((said.failed(), said.code), (vec!["module".to_owned()], 1));
}

#[test]
fn a_token_that_is_absent_or_not_the_only_one_is_told() {
    let setup = Setup::new();
    setup.change("token_label = \"xks\"", "token_label = \"elsewhere\"");
    let said = doctor(&setup);
    let says = said.says("failed", "token");
    assert!(
        says[0].starts_with("there is no token with label \"elsewhere\"; the module shows: label ")
            && says[0].contains("label \"xks\" serial "),
        "{says:?}"
    );
    setup.change("token_label = \"xks\"", "token_label = \"twin\"");
    let says = doctor(&setup).says("failed", "token");
    assert!(
        says[0].starts_with("there are several tokens with label \"twin\": label \"twin\" serial "),
        "{says:?}"
    );
}

#[test]
fn a_wrong_pin_is_tried_exactly_once_even_for_two_hsms_on_one_token() {
    let setup = Setup::new();
    setup.shim();
    let config = fs::read_to_string(setup.path("xks.toml")).unwrap();
    let start = config.find("[[hsm]]").unwrap();
    let end = config.find("[[key_store]]").unwrap();
    let second = config[start..end].replace("\"softhsm\"", "\"again\"");
    setup.configure(&config.replacen("[[hsm]]", &format!("{second}[[hsm]]"), 1));
    setup.write("pin", "4711\n");
    let said = setup.run_with(DOCTOR, &[("SHIM_LOGINS", "logins")]);
    fails(&said, "login", "the token refuses the PIN; it was tried once");
    let once = "not checked: this token has refused a PIN above, and a few wrong ones lock it";
    assert_eq!(said.says("skipped", "login"), [once]);
    assert_eq!(fs::read_to_string(setup.path("logins")).unwrap(), "x", "one C_Login");
}

#[test]
fn the_last_try_of_a_pin_and_a_locked_one_are_left_alone() {
    let setup = Setup::new();
    setup.shim();
    let logins = ("SHIM_LOGINS", "logins");
    // CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED.
    let said = setup.run_with(DOCTOR, &[logins, ("SHIM_FLAGS", "20000")]);
    fails(
        &said,
        "PIN",
        "one more wrong PIN locks the token (CKF_USER_PIN_FINAL_TRY); the doctor does not try it",
    );
    fails(
        &setup.run_with(DOCTOR, &[logins, ("SHIM_FLAGS", "40000")]),
        "PIN",
        "the user PIN is locked (CKF_USER_PIN_LOCKED)",
    );
    let listed =
        setup.run_with(&["keys", "list", "--config", "xks.toml"], &[logins, ("SHIM_FLAGS", "20000")]);
    let line =
        "xks-proxy: hsm \"softhsm\": one more wrong PIN locks the token; not tried: see `xks-proxy doctor`\n";
    assert_eq!((listed.code, listed.error.as_str()), (2, line));
    // Nor does the proxy itself try it.
    for (flags, says) in [
        ("20000", "log in by the vendor's tool once, which resets the count, and start again\n"),
        ("40000", "is locked: the security officer has to unlock it (C_InitPIN)\n"),
    ] {
        let checked = setup.run_with(&["check", "--config", "xks.toml"], &[logins, ("SHIM_FLAGS", flags)]);
        assert!(checked.error.ends_with(says), "{}", checked.error);
        assert_eq!(checked.code, 2);
    }
    assert!(!setup.path("logins").exists(), "no C_Login");
    // CKF_USER_PIN_COUNT_LOW.
    let said = setup.run_with(DOCTOR, &[logins, ("SHIM_FLAGS", "10000")]);
    warns(&said, "PIN", "a wrong PIN was tried since the last right one (CKF_USER_PIN_COUNT_LOW)");
    assert_eq!(said.says("ok", "login"), ["the token takes the PIN"]);
}

#[test]
fn a_token_that_lacks_something_is_told() {
    let setup = Setup::new();
    setup.shim();
    let with = |variables: &[(&str, &str)]| setup.run_with(DOCTOR, variables);
    fails(&with(&[("SHIM_NO_GCM", "1")]), "AES-GCM", "the token does not know it (CKM_AES_GCM)");
    // CKF_RNG.
    fails(
        &with(&[("SHIM_FLAGS_OFF", "1")]),
        "random generator",
        "the token says it has none (CKF_RNG), and iv_source = \"random\" needs it",
    );
    fails(
        &with(&[("SHIM_SESSIONS_MAX", "17")]),
        "sessions",
        "the token bears 17, the proxy may want 18 (sessions_max 2 + set_aside_max 16)",
    );
    let enough = with(&[("SHIM_SESSIONS_MAX", "18")]);
    assert_eq!(enough.failed(), Vec::<String>::new());
}

#[test]
fn encryption_that_only_looks_right_is_found_out() {
    let setup = Setup::new();
    setup.shim();
    let said = setup.run_with(DOCTOR, &[("SHIM_NO_AAD", "1")]);
    fails(&said, "health key", "label \"xks-health\": a ciphertext decrypts with another AAD");
    let said = setup.run_with(DOCTOR, &[("SHIM_SAME_RANDOM", "1")]);
    fails(
        &said,
        "health key",
        "label \"xks-health\": two encryptions used the same IV, which gives the key away",
    );
}

#[test]
fn a_health_key_that_is_missing_unfit_or_not_configured_is_told() {
    let setup = Setup::new();
    setup.change("\"xks-health\"", "\"short_key\"");
    let said = doctor(&setup);
    let says =
        "label \"short_key\": UsageRefused: the key with label \"short_key\" is not AES-256 but Aes(128)";
    fails(&said, "health key", says);
    setup.change("health_key_label = \"xks-health\"\n", "");
    warns(&doctor(&setup), "health key", "none is configured");
}

#[test]
fn keys_that_are_no_external_keys_are_told() {
    let setup = Setup::new();
    for (label, says) in [
        ("nowhere", "the HSM has no key with label \"nowhere\""),
        ("short_key", "label \"short_key\" is AES with 128 bits, not 256"),
        ("encrypt_only_key", "label \"encrypt_only_key\" may not decrypt (CKA_DECRYPT)"),
        ("decrypt_only_key", "label \"decrypt_only_key\" may not encrypt (CKA_ENCRYPT)"),
        ("impotent_key", "label \"impotent_key\" may neither encrypt nor decrypt (CKA_ENCRYPT, CKA_DECRYPT)"),
        ("double", "the HSM has 2 keys with label \"double\""),
    ] {
        setup.change("label = \"foo\"", &format!("label = \"{label}\""));
        fails(&doctor(&setup), "orders v1", says);
    }
    setup.change("label = \"foo\"", "label = \"rsa_key\"");
    let said = doctor(&setup);
    assert!(
        said.says("failed", "orders v1")[0]
            .starts_with("the object with label \"rsa_key\" is no secret key but a p")
    );
    for (label, says) in [
        (
            "wrapped-out",
            "label \"wrapped-out\" can be taken out of the HSM, wrapped (CKA_EXTRACTABLE is true)",
        ),
        (
            "readable",
            "label \"readable\" can be read in the clear (CKA_SENSITIVE is false, CKA_EXTRACTABLE true)",
        ),
    ] {
        setup.change("label = \"foo\"", &format!("label = \"{label}\""));
        warns(&doctor(&setup), "orders v1", says);
    }
    // An old version only decrypts.
    setup.change(
        "current_version = 1\nversions = [",
        "current_version = 2\nversions = [{ version = 2, label = \"known\" }, ",
    );
    let config = fs::read_to_string(setup.path("xks.toml")).unwrap();
    setup.configure(&config.replace("label = \"foo\"", "label = \"decrypt_only_key\""));
    let said = doctor(&setup);
    let says = "label \"decrypt_only_key\", AES-256, decrypts what it has encrypted, cannot leave the HSM, made in the HSM";
    assert_eq!(said.says("ok", "orders v1"), [says]);
}

#[test]
fn keys_found_by_their_label_are_counted_and_the_doubtful_named() {
    let setup = Setup::new();
    setup.change("find_keys_by = \"entry\"\n", "");
    let said = doctor(&setup);
    assert_eq!(said.failed(), Vec::<String>::new());
    let warned = said.says("warning", "keys by label");
    let named = |text: &str| warned.iter().any(|says| says == text);
    assert!(named("2 keys have the label \"double\""), "{warned:?}");
    assert!(
        named(
            "the key with label \"wrapped-out\" can be taken out of the HSM, wrapped (CKA_EXTRACTABLE is true)"
        ),
        "{warned:?}"
    );
    let counted = said.says("ok", "keys by label");
    assert!(counted[0].ends_with("; 5 others are not fit to be external keys"), "{counted:?}");
}

#[test]
fn certificates_that_kms_refuses_are_told() {
    let setup = Setup::new();
    setup.certify("xks.example.com", -1);
    let said = doctor(&setup);
    let says = said.says("failed", "certificate days");
    assert!(says[0].starts_with("CN=xks.example.com has expired on 20"), "{says:?}");
    assert_eq!(said.failed(), ["certificate days"]);

    setup.certify("xks.example.com", 9);
    let says = doctor(&setup).says("failed", "certificate days");
    assert!(says[0].starts_with("CN=xks.example.com expires in 9 days, on 20"), "{says:?}");
    setup.certify("xks.example.com", 29);
    let said = doctor(&setup);
    assert!(
        said.says("warning", "certificate days")[0]
            .starts_with("CN=xks.example.com expires in 29 days, on 20")
    );
    assert_eq!(said.code, 0);

    setup.certify("xks.example.com", 90);
    let said = setup.run(&["doctor", "--config", "xks.toml", "--json", "--endpoint", "kms.example.com"]);
    fails(&said, "certificate name", "kms.example.com is not among xks.example.com");

    let chain = fs::read_to_string(setup.path("certificate.pem")).unwrap();
    let (leaf, ca) = chain.split_at(chain.rfind("-----BEGIN").unwrap());
    setup.write("certificate.pem", leaf);
    let says = "the server's certificate alone; CN=A test CA issued it";
    assert!(doctor(&setup).says("warning", "certificate chain")[0].starts_with(says));
    setup.write("certificate.pem", &format!("{leaf}{leaf}{ca}"));
    fails(
        &doctor(&setup),
        "certificate chain",
        "CN=xks.example.com follows CN=xks.example.com, but did not issue it: CN=A test CA did",
    );
    setup.write("certificate.pem", ca);
    let said = doctor(&setup);
    assert_eq!(said.says("failed", "certificate chain"), ["CN=A test CA has signed itself"]);
    assert!(
        said.says("failed", "certificate, key")[0]
            .starts_with("the private key does not belong to the first")
    );
    assert_eq!(said.says("failed", "certificate name"), ["no DNS name (subjectAltName)"]);

    setup.write("certificate.pem", "nothing");
    let says = "certificate.pem holds no readable certificate";
    assert_eq!(doctor(&setup).says("failed", "certificate"), [says]);
}

#[test]
fn a_port_in_use_is_told_unless_a_proxy_of_this_configuration_has_it() {
    let setup = Setup::new();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = stranger.local_addr().unwrap();
    setup.change("127.0.0.1:0", &address.to_string());
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = stranger.accept().unwrap();
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    });
    let said = doctor(&setup);
    answers.join().unwrap();
    let why = "it does not speak TLS with the configured certificate";
    fails(&said, "port", &format!("{address} is in use, and not by a proxy with this configuration: {why}"));

    let free = |address: String| format!("{address}: in use by a proxy that is running");
    for tls in [true, false] {
        let mut config = setup.config();
        if !tls {
            config = config
                .lines()
                .filter(|line| !line.starts_with("tls"))
                .map(|line| format!("{line}\n"))
                .collect();
        }
        setup.configure(&config);
        let mut daemon =
            setup.command(&["serve", "--config", "xks.toml"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
        let listening = lines.find(|line| line.as_ref().unwrap().contains("listening")).unwrap().unwrap();
        let listening: serde_json::Value = serde_json::from_str(&listening).unwrap();
        let address = listening["address"].as_str().unwrap().to_owned();
        setup.configure(&config.replace("127.0.0.1:0", &address));
        let said = doctor(&setup);
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        assert_eq!(said.says("ok", "port"), [free(address)], "{}", said.out);
    }
}

/// The story: the doctor found all well, and the daemon did not start, for its second listener had no free port.
#[test]
fn the_port_of_ops_is_tried_too() {
    let setup = Setup::new();
    let ops = |address: &str| setup.configure(&format!("{}[ops]\nlisten = \"{address}\"\n", setup.config()));
    ops("192.0.2.1:9000");
    fails(&doctor(&setup), "port", "this machine has no address 192.0.2.1");

    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = stranger.local_addr().unwrap().to_string();
    ops(&address);
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = stranger.accept().unwrap();
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    });
    let said = doctor(&setup);
    answers.join().unwrap();
    let why = "it does not answer /livez as one";
    fails(&said, "port", &format!("{address} is in use, and not by a proxy with this configuration: {why}"));

    ops("127.0.0.1:0");
    let mut daemon =
        setup.command(&["serve", "--config", "xks.toml"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
    let line = lines.find(|line| line.as_ref().unwrap().contains("ops: /livez")).unwrap().unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = line["address"].as_str().unwrap().to_owned();
    ops(&address);
    let said = doctor(&setup);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let running = format!("{address}: in use by a proxy that is running");
    assert!(said.says("ok", "port").contains(&running), "{}", said.out);
}

/// The story: the doctor said that every signed request is allowed, of a key store whose policies denied all of them, and
/// of one whose policies could not be read.
#[test]
#[cfg(feature = "cedar")]
fn policies_are_read_as_the_daemon_reads_them() {
    let setup = Setup::new();
    let cedar = |mode: &str| {
        setup.change(
            "[[key_store.key]]",
            &format!("[key_store.cedar]\npolicy_file = \"p\"\n{mode}[[key_store.key]]"),
        );
    };
    cedar("");
    fails(&doctor(&setup), "policy file", "key store main: there is no file p");
    setup.write("p", "permit(principal, action, resource)");
    let said = doctor(&setup);
    let says = said.says("failed", "policies");
    assert!(says[0].starts_with("key store main: p:1:36: unexpected end of input"), "{says:?}");
    assert_eq!((said.failed(), said.code), (vec!["policies".to_owned()], 1));
    assert_eq!(said.says("ok", "rules"), [""; 0]);

    setup.write("p", "permit(principal, action, resource);");
    let said = doctor(&setup);
    assert_eq!((said.says("ok", "rules"), said.code), (vec!["key store main: Cedar policies".to_owned()], 0));
    cedar("mode = \"shadow\"\n");
    let shadow = "key store main: Cedar policies (shadow mode: only logged)";
    assert_eq!(doctor(&setup).says("ok", "rules"), [shadow]);
    setup.write("p", "forbid(principal, action, resource);");
    let said = doctor(&setup);
    assert!(said.says("warning", "policies")[0].contains("p: "), "{}", said.out);
}

#[test]
fn plain_http_an_address_of_elsewhere_and_a_clock_nobody_keeps_are_told() {
    let setup = Setup::new();
    setup.change("tls = { certificate_file = \"certificate.pem\", key_file = \"key.pem\" }\n", "");
    warns(&doctor(&setup), "certificate", "none: this proxy serves plain HTTP");
    setup.change("127.0.0.1:0", "192.0.2.1:8443");
    fails(&doctor(&setup), "port", "this machine has no address 192.0.2.1");
    setup.configure(&setup.config());
    setup.write("timedatectl", "#!/bin/sh\necho no\n");
    setup.chmod("timedatectl", 0o755);
    assert!(doctor(&setup).says("warning", "clock")[0].ends_with("Z, and nobody keeps it right"));
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(600);
    fs::File::options().write(true).open(setup.path("pin")).unwrap().set_modified(later).unwrap();
    let said = doctor(&setup);
    let says = said.says("failed", "clock");
    assert!(says[0].contains(" here, but pin was written at 20"), "{says:?}");
}

#[test]
fn few_open_files_are_told() {
    let setup = Setup::new();
    let mut command = setup.command(&[]);
    let binary = command.get_program().to_owned();
    command = {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "ulimit -n 256 && exec \"$0\" doctor --config xks.toml --json"]).arg(binary);
        shell
            .current_dir(setup.path(""))
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell
    };
    let output = command.output().unwrap();
    let said = Said { code: 0, out: String::from_utf8(output.stdout).unwrap(), error: String::new() };
    let says = "this process may have 256 open; 1024 connections, 18 sessions and the rest want 1106";
    warns(&said, "open files", says);
}

#[test]
fn an_hsm_too_slow_for_kms_and_a_network_too_long_are_told() {
    let setup = Setup::new();
    setup.shim();
    let said = setup.run_with(DOCTOR, &[("SHIM_SLOW_MS", "400")]);
    let says = said.says("failed", "250 ms");
    assert!(
        says[0].starts_with("softhsm: the HSM needs 4")
            && says[0].ends_with(" ms for an Encrypt, deadline_ms is 150"),
        "{says:?}"
    );
    let with = |rtt| setup.run(&["doctor", "--config", "xks.toml", "--json", "--rtt-ms", rtt]);
    let said = with("90");
    let says = "the round trip of 90 ms is longer than the 35 ms that AWS advises at most";
    assert_eq!(said.says("warning", "network"), [says]);
    assert_eq!(said.says("warning", "250 ms").len(), 1);
    assert_eq!(with("300").says("failed", "250 ms").len(), 1);
    assert_eq!(with("-1").code, 2);
}
