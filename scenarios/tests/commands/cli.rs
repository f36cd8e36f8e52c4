//! The command line as its user meets it: output, exit codes, and one clear line for every mistake.

use crate::program::{self, interrupted, stdout, write};
use std::path::Path;
use std::process::Output;

/// Whatever it leaves, it is told where.
fn xks_sim(arguments: &[&str]) -> Output {
    program::xks_sim(Path::new("."), arguments)
}

fn mistake(arguments: &[&str]) -> String {
    program::mistake(Path::new("."), arguments)
}

const HEAD: &str = "title = \"x\"\nduration_s = 10\n";
const SHORT: &str = "title = \"Ten seconds\"\nduration_s = 10\n[[service]]\nkind = \"s3\"\n";

#[test]
fn a_run_ends_with_its_report_and_its_digest_and_leaves_its_files_whole() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "short.toml", SHORT);
    let out = directory.path().join("results");
    let output = xks_sim(&["run", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let [.., report, digest] = lines.as_slice() else { panic!("{text}") };
    assert_eq!(*report, format!("report: {}", out.join("report.html").display()));
    assert!(digest.starts_with("digest: ") && digest.len() == 8 + 64, "{digest}");
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.trim_end().ends_with("</html>"));
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(json["digest"], digest.trim_start_matches("digest: "));
    assert_eq!(json["services"][0]["failures"], 0);
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert!(read("report.md").starts_with("# Ten seconds\n"));
    assert_eq!(
        read("report.csv").lines().count(),
        1 + 100,
        "a heading, and a row for each tenth of a second"
    );
    assert!(read("junit.xml").trim_end().ends_with("</testsuites>"));
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 5);
}

#[test]
fn a_violated_expectation_ends_with_1_and_the_line_to_paste() {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "{SHORT}[[fault]]\nkind = \"hsm-down\"\nfrom_s = 2\nto_s = 4\n[[expect]]\nservice = \"s3\"\nfailures_max = 0.0\n"
    );
    let file = write(directory.path(), "broken.toml", &text);
    let output = xks_sim(&[
        "run",
        file.to_str().unwrap(),
        "--seed",
        "0x2a",
        "--out",
        directory.path().to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    let line = format!("to see this again: cargo run --release -- run {} --seed 42", file.display());
    assert!(stdout(&output).contains(&line), "{}", stdout(&output));
}

#[test]
fn a_determinism_check_says_that_it_ran_twice() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "short.toml", SHORT);
    let out = directory.path().to_str().unwrap();
    let output = xks_sim(&["run", file.to_str().unwrap(), "--check-determinism", "--out", out]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("determinism: two runs, the same "), "{}", stdout(&output));
}

#[test]
fn a_real_pkcs11_library_gives_the_same_events_every_time() {
    let module = "/usr/lib/softhsm/libsofthsm2.so";
    assert!(Path::new(module).exists(), "SoftHSM2 is missing: apt-get install softhsm2");
    let directory = tempfile::tempdir().unwrap();
    let text = format!("{SHORT}[[fault]]\nkind = \"hsm-error\"\nrate = 0.5\nfrom_s = 3\nto_s = 5\n");
    let file = write(directory.path(), "short.toml", &text);
    let (path, out) = (file.to_str().unwrap(), directory.path().to_str().unwrap());
    let run = |hsm: &str| {
        let output = xks_sim(&["run", path, "--hsm", hsm, "--out", out]);
        let text = stdout(&output);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}{errors}");
        text.lines().last().unwrap_or_default().to_owned()
    };
    let real = run(&format!("pkcs11:{module}"));
    assert_eq!(real, run(&format!("pkcs11:{module}")));
    // The emulated HSM draws its IVs from a stream of their own, so even it gives the same events.
    assert_eq!(real, run("emulated"));
    let json = std::fs::read_to_string(directory.path().join("report.json")).unwrap();
    assert!(json.contains("\"emulated HSM\""));
}

#[test]
fn list_and_show_explain_the_catalogue() {
    let listed = stdout(&xks_sim(&["list"]));
    assert!(listed.lines().next().unwrap_or_default().starts_with("hsm-outage "), "{listed}");
    for entry in scenarios::catalogue::CATALOGUE {
        let name = format!("{}  ", entry.name);
        assert!(listed.lines().any(|line| line.starts_with(&name)), "{}: {listed}", entry.name);
    }
    for name in
        ["hsm-outage", "hsm-failover", "hsm-slow", "partition", "proxy-crash", "kill-switch", "steady"]
    {
        assert!(listed.lines().any(|line| line.starts_with(name)), "{listed}");
        let shown = stdout(&xks_sim(&["show", name]));
        for part in ["World ", "Services ", "Timeline ", "The file:", "duration_s"] {
            assert!(shown.contains(part), "{name}: {part}: {shown}");
        }
    }
}

/// Fuzzing found that a message quotes the file's words as they are meant, escapes of TOML resolved: a line break in one
/// broke the line, and a terminal would obey others.
#[test]
fn a_quoted_word_breaks_no_line_and_commands_no_terminal() {
    let text = "title = \"x\"\nduration_s = 9\n[[fault]]\nkind = \"hsm\\n-\\u001b[2J\\rdown\"\nfrom_s = 1\n";
    let error = scenarios::scenario::Scenario::parse("x", "x.toml", text).unwrap_err().to_string();
    assert!(error.starts_with("x.toml:4: ") && !error.contains(char::is_control), "{error:?}");
}

#[test]
fn an_unknown_scenario_gets_the_nearest_name() {
    let line = mistake(&["run", "hsm-outtage"]);
    assert!(line.contains("no scenario is called `hsm-outtage`; did you mean `hsm-outage`?"), "{line}");
    let line = mistake(&["show", "zzz"]);
    assert!(line.contains("there are: hsm-outage, "), "{line}");
    let line = mistake(&["run", "no/such/file.toml"]);
    assert!(line.contains("cannot read the scenario file no/such/file.toml"), "{line}");
}

#[test]
fn a_wrong_scenario_file_gets_its_line_and_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let cases = [
        (
            "title = \"x\"\nduratoin_s = 10\n",
            ":2: ",
            "unknown key `duratoin_s`: did you mean `duration_s`? Known here are ",
        ),
        ("title = \"x\"\n", ":1: ", "missing field `duration_s`"),
        ("title = \"x\"\nduration_s = -1\n", ":2: ", "duration_s is above 0"),
        ("title = \"x\"\nduration_s = nan\n", ":2: ", "duration_s is above 0"),
        ("title = \"x\nduration_s = 10\n", ":1: ", "string"),
        ("title = \"x\"\nduration_s = 10\n[topology]\nproxies = 0\n", ":4: ", "proxies is between 1 and 16"),
        ("title = \"x\"\nduration_s = 10\n[link]\nloss = 2.0\n", ":4: ", "loss is between 0 and 1"),
        (
            "title = \"x\"\nduration_s = 10\n[[fault]]\nkind = \"hsm-dwn\"\nfrom_s = 1\n",
            ":4: ",
            "`hsm-down`?",
        ),
        (
            "title = \"x\"\nduration_s = 10\n[[fault]]\nkind = \"hsm-down\"\nfrom_s = 11\n",
            ":5: ",
            "from_s is between",
        ),
        (
            "title = \"x\"\nduration_s = 10\n[[fault]]\nkind = \"hsm-down\"\nfrom_s = 5\nto_s = 4\n",
            ":6: ",
            "to_s is after from_s",
        ),
        (
            "title = \"x\"\nduration_s = 10\n[[fault]]\nkind = \"hsm-down\"\nfrom_s = 5\nfactor = 3.0\n",
            ":6: ",
            "factor is no key of kind hsm-down, which takes target",
        ),
        (
            "title = \"x\"\nduration_s = 10\n[[fault]]\nkind = \"hsm-slow\"\nfrom_s = 5\n",
            ":4: ",
            "needs factor",
        ),
        (
            "title = \"x\"\nduration_s = 10\n[[fault]]\nkind = \"hsm-down\"\nfrom_s = 5\ntarget = [2]\n",
            ":6: ",
            "there is no HSM 2: they are numbered 0 to 1",
        ),
        (
            "title = \"x\"\nduration_s = 10\n[[fault]]\nkind = \"hsm-error\"\nckr = \"CKR_DEVICE_EROR\"\nfrom_s = 5\n",
            ":5: ",
            "did you mean CKR_DEVICE_ERROR?",
        ),
        ("title = \"x\"\nduration_s = 10\n[[service]]\nkind = \"s4\"\n", ":4: ", "did you mean `s3`?"),
        (
            "title = \"x\"\nduration_s = 10\n[[service]]\nkind = \"s3\"\nrate_per_sec = 3\n",
            ":5: ",
            "`rate_per_s`?",
        ),
        (
            "title = \"x\"\nduration_s = 10\n[[service]]\nkind = \"s3\"\nrate_per_s = 0\n",
            ":5: ",
            "rate_per_s is 0",
        ),
        ("title = \"x\"\nduration_s = 10\n[kms]\nhosts = 0\n", ":4: ", "hosts = 0 is out of range"),
        ("title = \"x\"\nduration_s = 10\n[[expect]]\nservice = \"s3\"\n", ":3: ", "without a bound"),
        (
            "title = \"x\"\nduration_s = 10\n[[expect]]\nservice = \"s4\"\nfailures_max = 0.0\n",
            ":4: ",
            "did you mean \"s3\"?",
        ),
        ("title = \"x\"\nduration_s = 10\n[[expect]]\nrecovered_within_s = 3\n", ":4: ", "needs a [[fault]]"),
    ];
    let services = [
        (
            "kind = \"s3\"\nrate_per_s = \"fast\"\n",
            ":5: ",
            "invalid type: string \"fast\", expected a number",
        ),
        (
            "objects = -1\nkind = \"s3\"\n",
            ":4: ",
            "invalid value: integer `-1`, expected a whole number, 0 or more",
        ),
        (
            "kind = \"lambda\"\nidle_expiry_min_s = 500\nidle_expiry_max_s = 400\n",
            ":5: ",
            "idle_expiry_min_s",
        ),
        ("rate_per_s = 3\n", ":3: ", "a [[service]] needs its kind, one of `s3`, "),
        ("rate_per_s = 3\nkind = 7\n", ":5: ", "kind is text in quotation marks, one of `s3`, "),
        ("rate_per_s = 3\nkind = \"lamda\"\n", ":5: ", "did you mean `lambda`?"),
        (
            "kind = \"ebs\"\n[[service]]\nkind = \"s3\"\n# objcts\nobjcts = 3\n",
            ":8: ",
            "did you mean `objects`?",
        ),
    ];
    let services = services.map(|(text, line, reason)| (format!("{HEAD}[[service]]\n{text}"), line, reason));
    let others = [
        ("about = \"half\n", ":3: ", "the value of about: text stands in double quotes"),
        ("[[service]]\nkind = s3\n", ":4: ", "such as kind = \"…\""),
        ("service = 3\n", ":3: ", "expected a sequence"),
        ("[link]\nrtt_ms = 10000\n", ":4: ", "as long as the run or longer"),
        ("[hsm]\nservice_ms = 10000\n", ":4: ", "as long as the run or longer"),
        ("[link]\nextra_back_ms = 10000\n", ":4: ", "as long as the run or longer"),
        ("[link]\njitter_ms = 10000\n", ":4: ", "as long as the run or longer"),
        ("[hsm_link]\nrtt_ms = 10000\n", ":4: ", "as long as the run or longer"),
        ("[link]\nrtt_ms = 250\n", ":4: ", "rtt_ms makes a round trip of 250 ms, and KMS waits 250"),
        ("[link]\nextra_there_ms = 245\n", ":4: ", "no call would ever be answered in time"),
        ("[proxy]\ndeadline_ms = 251\n", ":4: ", "deadline_ms is at most what KMS waits, patience_ms = 250"),
        (
            "[link]\ndistribution = \"lognormal\"\njitter_ms = 1\n",
            ":5: ",
            "jitter_ms has no effect with this",
        ),
        ("[link]\nlatency_sigma = 1\n", ":4: ", "has no effect without distribution = \"lognormal\""),
        ("[link]\nloss = 0.1\nburst_r = 0.5\n", ":5: ", "burst_r has no effect without burst_p"),
        ("[link]\nburst_p = 0.1\nburst_r = 0\n", ":5: ", "the first burst would never end"),
        ("[link]\nqueue_bytes = 9000\n", ":4: ", "queue_bytes has no effect without bandwidth_there_mbps"),
        (
            "[hsm_link]\nqueue_bytes = 9000\n",
            ":4: ",
            "queue_bytes has no effect without bandwidth_there_mbps",
        ),
        ("[hsm_link]\nloss_back = 2\n", ":4: ", "loss_back is between 0 and 1, not 2"),
        ("[hsm_link]\nreconnect_initial_ms = 60000\n", ":4: ", "by default 30000, not 60000: give both"),
        ("[topology]\nzones = 3\n", ":4: ", "zones = 3 is more than proxies = 2"),
        (
            "[load_balancer]\ncheck_interval_s = 5\ncheck_timeout_s = 6\n",
            ":5: ",
            "at most check_interval_s = 5",
        ),
        ("[link]\nloss = 0.1\nloss = 0.2\n", ":5: ", "the key loss is there twice: remove one of the two"),
        (
            "[topology]\nhsms = 99999999999999999999\n",
            ":4: ",
            "integer `99999999999999999999`, expected a whole",
        ),
        (
            "[[fault]]\nkind = \"latency\"\nfrom_s = 1\nextra_ms = 20000\n",
            ":6: ",
            "as long as the run or longer",
        ),
        ("[[fault]]\nkind = \"hsm-down\"\nfrom_s = 5\nto_s = 4\n", ":6: ", "to_s is after from_s = 5"),
        ("[[fault]]\nkind = \"zone-loss\"\nfrom_s = 5\nzone = 1\n", ":6: ", "zones = 2 or more"),
        ("[[fault]]\nkind = \"kill-switch\"\nfrom_s = 1\nramp_s = 2\n", ":6: ", "is there or it is not"),
        (
            "[[fault]]\nkind = \"hsm-down\"\nfrom_s = 1\nto_s = 2\nrepeat_every_s = 3\nrepeats = 9\n",
            ":8: ",
            "the last would end at 26 s",
        ),
        ("[[fault]]\nkind = \"hsm-loss\"\nfrom_s = 1\nloss = 0.1\n", ":4: ", "add a section [hsm_link]"),
        (
            "[proxy]\ncpu_request_us = 0\n[[fault]]\nkind = \"proxy-starved\"\nfactor = 20\nfrom_s = 1\n",
            ":6: ",
            "which [proxy] cpu_request_us = 0 turns off",
        ),
        (
            "[[fault]]\nkind = \"rolling-deploy\"\nfrom_s = 1\nto_s = 6\nrestart_s = 4\ndrain_s = 0\n",
            ":6: ",
            "2 proxies take 8 s to be deployed one after the other, and the fault lasts 5 s: let it end at 9 s or later",
        ),
        (
            "[[fault]]\nkind = \"rolling-deploy\"\nfrom_s = 1\n",
            ":5: ",
            "2 proxies take 120 s to be deployed one after the other, until each passes its checks again, and the fault \
             lasts 9 s: let it end at 121 s or later, and the run too",
        ),
        ("[[fault]]\nkind = \"hsm-reset\"\nfrom_s = 1\n", ":4: ", "add a section [hsm_link]"),
        (
            "[[fault]]\nkind = \"hsm-down\"\nfrom_s = 1\nto_s = 2\n[[expect]]\nservice = \"s3\"\ncalls_failed_during_faults_min = 0.1\n",
            ":9: ",
            "all services together: remove service",
        ),
        (
            "[[fault]]\nkind = \"hsm-down\"\nfrom_s = 1\nto_s = 2\n[[expect]]\nrecovered_after_s_min = 20\n",
            ":8: ",
            "recovered_after_s_min = 20 is more than the 8 s that are left",
        ),
        (
            "[[fault]]\nkind = \"hsm-down\"\nfrom_s = 1\nto_s = 2\n[[expect]]\nrecovered_after_s_min = 5\nrecovered_within_s = 4\n",
            ":8: ",
            "nothing can be both",
        ),
        ("[[expect]]\nlost_min = 0\n", ":4: ", "lost_min is between 1 and 1000000000000, not 0"),
        ("service = [3]\n", ":3: ", "a service is a table"),
        ("link = { rtt_ms = 1.0, loss = 2.0 }\n", ":3: ", "loss is between 0 and 1"),
        ("about = \"see [link]\"\nlink.rtt_ms = 5\nlink.loss = 2.0\n", ":5: ", "loss is between 0 and 1"),
        (
            "[[fault]]\nkind = \"hsm-down\"\nfrom_s = 1\n[[fault]]\nfrom_s = 1\ntarget = [1, 0]\nkind = \"hsm-down\"\n",
            ":6: ",
            "the same as the one in line 3",
        ),
        (
            "[[fault]]\nkind = \"external-key-deleted\"\nfrom_s = 5\n[[fault]]\nkind = \"external-key-disabled\"\n\
             from_s = 1\nto_s = 6\n",
            ":9: ",
            "the fault in line 3 destroys it; end this by 5 s",
        ),
        (
            "[[fault]]\nkind = \"external-key-disabled\"\nfrom_s = 6\n[[fault]]\nkind = \"external-key-deleted\"\n\
             from_s = 5\n",
            ":6: ",
            "the fault in line 3 disables it; end that by 5 s, or remove it",
        ),
        (
            "[[fault]]\nkind = \"external-key-deleted\"\nfrom_s = 6\n[[fault]]\nkind = \"external-key-deleted\"\n\
             from_s = 5\n",
            ":6: ",
            "cannot be destroyed again, as the fault in line 3 does",
        ),
        (
            "[[fault]]\nkind = \"kms-key-disabled\"\nfrom_s = 1\nto_s = 5\n[[fault]]\n\
             kind = \"kms-key-pending-deletion\"\nfrom_s = 5\nto_s = 8\n",
            ":7: ",
            "the fault in line 3 is on at the same time: let one begin after",
        ),
        (
            "[[fault]]\nkind = \"kms-key-pending-deletion\"\nfrom_s = 1\n[[fault]]\n\
             kind = \"kms-key-pending-deletion\"\nfrom_s = 5\nto_s = 8\n",
            ":6: ",
            "the fault in line 3 is on at the same time",
        ),
        (
            "[[fault]]\nkind = \"credential-rotation\"\nfrom_s = 1\nto_s = 5\n[[fault]]\n\
             kind = \"credential-rotation\"\nfrom_s = 4\nto_s = 8\n",
            ":7: ",
            "a rotation ends before the next one begins, and the fault in line 3",
        ),
        (
            "[[fault]]\nkind = \"hsm-down\"\nfrom_s = 1\n[[expect]]\nrecovered_within_s = 3\n",
            ":7: ",
            "needs every fault to end",
        ),
        (
            "[[fault]]\nkind = \"hsm-down\"\nfrom_s = 1\nto_s = 2\n[[expect]]\nrecovered_within_s = 1e300\n",
            ":8: ",
            "recovered_within_s is between 0 and",
        ),
    ];
    let others = others.map(|(text, line, reason)| (format!("{HEAD}{text}"), line, reason));
    let cases = cases.map(|(text, line, reason)| (text.to_owned(), line, reason));
    for (text, line, reason) in cases.into_iter().chain(services).chain(others) {
        let file = write(directory.path(), "wrong.toml", &text);
        let message = mistake(&["run", file.to_str().unwrap(), "--out", directory.path().to_str().unwrap()]);
        let place = format!("wrong.toml{line}");
        assert!(
            message.contains(&place) && message.contains(reason),
            "{text}\ngave: {message}\nwanted: {place} … {reason}"
        );
    }
    std::fs::write(directory.path().join("wrong.toml"), [0xff, 0xfe]).unwrap();
    let message = mistake(&["run", directory.path().join("wrong.toml").to_str().unwrap()]);
    assert!(message.contains("not UTF-8"), "{message}");
}

#[test]
fn a_pkcs11_module_that_cannot_be_used_is_named() {
    let line = mistake(&["run", "steady", "--hsm", "pkcs11:/no/such/module.so"]);
    assert!(line.contains("there is no PKCS#11 module /no/such/module.so"), "{line}");
    let line = mistake(&["run", "steady", "--hsm", "pkcs12:x"]);
    assert!(line.contains("--hsm is `emulated` or `pkcs11:MODULE`"), "{line}");
    let directory = tempfile::tempdir().unwrap();
    let other = write(directory.path(), "vendor.so", "not a library");
    let line = mistake(&["run", "steady", "--hsm", &format!("pkcs11:{}", other.display())]);
    assert!(line.contains("--token-label and --pin-file"), "{line}");
    let pin = write(directory.path(), "pin", "1234\n");
    let named = ["--token-label", "x", "--pin-file", pin.to_str().unwrap()];
    let hsm = format!("pkcs11:{}", other.display());
    let mut arguments = vec!["run", "steady", "--hsm", &hsm];
    arguments.extend(named);
    let line = mistake(&arguments);
    assert!(line.contains("vendor.so"), "{line}");
}

#[test]
fn an_output_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "short.toml", SHORT);
    let blocked = file.join("below-a-file");
    let line = mistake(&["run", file.to_str().unwrap(), "--out", blocked.to_str().unwrap()]);
    assert!(line.contains("cannot make the directory") && line.contains("--out"), "{line}");
}

#[test]
fn ctrl_c_leaves_a_report_of_what_has_run() {
    let directory = tempfile::tempdir().unwrap();
    // Far longer than this test has patience.
    let file = write(
        directory.path(),
        "long.toml",
        "title = \"Long\"\nduration_s = 2000000\n[[service]]\nkind = \"s3\"\nrate_per_s = 1\n[[expect]]\nfailures_max = 1\n",
    );
    let arguments = ["run", file.to_str().unwrap(), "--out", "."];
    let output = interrupted(directory.path(), &arguments, None);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("Interrupted at "), "{text}");
    let report = std::fs::read_to_string(directory.path().join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let at_ms = report["interrupted_at_ms"].as_u64().unwrap();
    assert!(at_ms > 0 && at_ms < 2_000_000_000 && at_ms.is_multiple_of(20_000_000), "{at_ms}");
    assert_eq!(report["expectations"][0]["judged"], false);
    assert!(text.contains("0 of 1 expectation met; 1 not judged"), "{text}");
    assert!(directory.path().join("report.html").exists());
}

#[test]
fn show_draws_what_there_is_and_when_it_breaks() {
    let shown = stdout(&xks_sim(&["show", "hsm-half-lost"]));
    for part in [
        "| Callers",
        "-->| AWS KMS",
        "| proxy 0 to HSM ",
        "| HSM 0 !",
        "! a fault of the timeline",
        "####",
        "+---",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // No line is wider than a terminal of 100 columns, the file apart.
    let drawn = shown.split("The file:").next().unwrap();
    let widest = drawn.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(110), "{shown}");
}

/// `show` once told the owner of a file to run its name without path and ending, which nothing has.
#[test]
fn show_says_how_to_run_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "own.toml", "title = \"x\"\nduration_s = 10\n");
    let shown = stdout(&xks_sim(&["show", file.to_str().unwrap()]));
    assert!(shown.contains(&format!("Run it with: xks-sim run {}\n", file.display())), "{shown}");
}

#[test]
fn every_scenario_can_be_drawn_in_any_terminal() {
    for entry in scenarios::catalogue::CATALOGUE {
        let scenario = scenarios::scenario::Scenario::parse(entry.name, entry.name, entry.text).unwrap();
        for (width, unicode) in [(40, true), (80, false), (120, true)] {
            let style = scenarios::report::Style { colour: false, unicode, width };
            let shown = scenarios::explain::explain(&scenario, entry.name, style);
            let bars: Vec<&str> =
                shown.lines().filter(|line| line.contains(if unicode { '█' } else { '#' })).collect();
            let drawn = |line: &&&str| !line.starts_with("    ");
            assert_eq!(bars.iter().filter(drawn).count() > 0, !scenario.faults.is_empty(), "{shown}");
            for line in shown
                .lines()
                .filter(|line| line.contains(['┌', '┴', '+']))
                .filter(|it| !it.starts_with("    "))
            {
                assert!(line.chars().count() <= width, "{} at {width}: {line}", entry.name);
            }
        }
    }
}
