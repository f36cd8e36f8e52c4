//! `xks-sim run --pcap`: tshark reads what it wrote, finds HTTP in it, and sees the losses as losses.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const LOSSY: &str = r#"
title = "Losses and a gap"
duration_s = 6

[topology]
tls = "off"

[link]
loss = 0.02

[hsm_link]

[[service]]
kind = "s3"
rate_per_s = 30

[[fault]]
kind = "partition"
from_s = 3
to_s = 3.5
"#;

/// Runs a scenario with these further words; gives what the terminal showed.
fn run(directory: &Path, scenario: &str, words: &[&str]) -> String {
    let file = directory.join("scenario.toml");
    std::fs::write(&file, scenario).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_xks-sim"))
        .args(["run", "scenario.toml", "--out", "out"])
        .args(words)
        .current_dir(directory)
        .output()
        .unwrap();
    let (told, mistakes) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(mistakes.is_empty(), "{mistakes}");
    told
}

fn digest(told: &str) -> &str {
    told.lines().find_map(|line| line.strip_prefix("digest: ")).unwrap()
}

/// One field of the packets that a filter leaves.
fn packets(directory: &Path, filter: &str, field: &str) -> Vec<String> {
    let output = Command::new("tshark")
        .args(["-r", "x.pcapng", "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"])
        .args(["-Y", filter, "-T", "fields", "-e", field])
        .current_dir(directory)
        .output()
        .expect("tshark must be installed: `cargo xtask test` does it, or apt-get install tshark");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn count(directory: &Path, filter: &str) -> usize {
    packets(directory, filter, "frame.number").len()
}

#[test]
fn tshark_sees_requests_losses_and_what_was_sent_again_and_the_digest_stays() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let without = run(directory, LOSSY, &[]);
    let with = run(directory, LOSSY, &["--pcap", "x.pcapng"]);
    assert_eq!(digest(&with), digest(&without));
    let line = with.lines().find(|line| line.starts_with("capture: ")).unwrap();
    let all = count(directory, "tcp");
    assert_eq!(line, format!("capture: x.pcapng, {all} packets"));

    // A few of 6 s × 30 requests fail in the gap before they are sent.
    let requests = count(directory, "http.request.uri contains \"/kms/xks/v1/keys/example-key/\"");
    assert!((150..400).contains(&requests), "{requests}");
    assert!(count(directory, "http.response.code == 200") > requests * 8 / 10);
    assert!(count(directory, "tcp.port == 1792 && tcp.len > 0") > requests, "the HSMs' link");

    // Wireshark's own judgement of what is sent again.
    let lost = count(directory, "frame.comment contains \"lost\"");
    assert!((all / 100..all / 8).contains(&lost), "{lost} of {all}");
    assert!(count(directory, "tcp.analysis.retransmission") > 10);
    // Nothing is acknowledged that was never sent, nothing is missing, every checksum is right, time runs forward.
    assert_eq!(count(directory, "tcp.analysis.ack_lost_segment || tcp.analysis.lost_segment"), 0);
    assert_eq!(count(directory, "tcp.checksum.status == 0 || ip.checksum.status == 0"), 0);
    assert_eq!(count(directory, "frame.time_delta < 0"), 0);

    let servers: BTreeSet<String> =
        packets(directory, "tcp.flags.syn == 1 && tcp.flags.ack == 0", "ip.dst").into_iter().collect();
    assert_eq!(servers, ["10.0.1.1", "10.0.1.2", "10.0.2.1", "10.0.2.2"].map(str::to_owned).into());
    let clients: BTreeSet<String> = packets(directory, "tcp.dstport == 1792", "ip.src").into_iter().collect();
    assert_eq!(clients, ["10.0.1.1", "10.0.1.2"].map(str::to_owned).into());
}

#[test]
fn tls_shows_as_tls() {
    let directory = tempfile::tempdir().unwrap();
    let scenario = LOSSY.replace("tls = \"off\"", "tls = \"1.3\"").replace("loss = 0.02", "loss = 0");
    run(directory.path(), &scenario, &["--pcap", "x.pcapng"]);
    let names = packets(
        directory.path(),
        "tls.handshake.extensions_server_name",
        "tls.handshake.extensions_server_name",
    );
    assert!(names.len() > 3 && names.iter().all(|name| name == "xks-proxy.example.com"), "{names:?}");
    assert!(count(directory.path(), "tls.app_data") > 100);
}

#[test]
fn a_capture_ends_at_its_limit_and_says_where() {
    let directory = tempfile::tempdir().unwrap();
    let told = run(directory.path(), LOSSY, &["--pcap", "x.pcapng", "--pcap-bytes-max", "20000"]);
    let line = told.lines().find(|line| line.starts_with("capture: ")).unwrap();
    assert!(line.contains("where the next packet would exceed 20000 bytes (--pcap-bytes-max)"), "{line}");
    let length = std::fs::metadata(directory.path().join("x.pcapng")).unwrap().len();
    assert!((15_000..=20_000).contains(&length), "{length}");
    assert!(line.contains(&format!(" {} packets;", count(directory.path(), "tcp"))), "{line}");
}

#[test]
fn a_capture_that_cannot_be_written_says_which_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_xks-sim"))
        .args(["run", "short-blip", "--out", "out", "--pcap", "no/such/x.pcapng"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let mistake = String::from_utf8(output.stderr).unwrap();
    assert!(mistake.contains("cannot write the capture no/such/x.pcapng: No such file"), "{mistake}");
    assert!(mistake.contains("choose another file with --pcap"), "{mistake}");
}
