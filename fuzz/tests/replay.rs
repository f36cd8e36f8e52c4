//! Every saved input runs through its target's body, so that what fuzzing once found stays found without a fuzzer.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "the helpers of tests may fail as loudly as tests"
)]

use std::path::Path;

fn replay(target: &str, body: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut paths: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", directory.display());
    for path in paths {
        println!("{}", path.display());
        body(&std::fs::read(path).unwrap());
    }
}

#[test]
fn sigv4_header() {
    replay("sigv4_header", fuzz::sigv4_header);
}

#[test]
fn sigv4_request() {
    replay("sigv4_request", fuzz::sigv4_request);
}

#[test]
fn wildcards() {
    replay("wildcards", fuzz::wildcards);
}
