//! The fault matrix: what a caller of the proxy sees of each fault of the HSM, and whether the proxy heals.
//!
//! `proxy/RELIABILITY.md` is made of it by `cargo xtask reliability`, which also holds the proxy to its deadline and to two
//! seconds. The ordinary test holds it to ten times as much, so that nothing depends on how fast the machine is, and the
//! committed document to both.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

#[path = "common/matrix.rs"]
mod matrix;
#[path = "common/shim.rs"]
mod shim;
#[path = "../../../proxy/tests/common/softhsm.rs"]
#[allow(dead_code, reason = "the proxy's tests use the rest")]
mod softhsm;
#[path = "common/stand.rs"]
mod stand;
#[path = "../../../proxy/tests/support/mod.rs"]
mod support;

use matrix::{CASES, document, late_rows, measure, prose_is_current, verdicts};
use std::path::Path;
use std::time::Duration;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proxy/RELIABILITY.md");

/// What waits for the HSM in vain waits so long here. The shipped 150 ms are too few on a busy machine.
const UNHURRIED: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_shows_the_caller_what_the_document_says_and_heals() {
    let written = std::fs::read_to_string(Path::new(DOCUMENT)).unwrap_or_default();
    let mut found = Vec::new();
    for case in CASES {
        found.extend(measure(case, UNHURRIED).await);
    }
    assert!(prose_is_current(&written), "proxy/RELIABILITY.md is out of date: run `cargo xtask reliability`");
    let late: Vec<String> = late_rows(&written);
    assert!(late.is_empty(), "proxy/RELIABILITY.md says that these are late:\n{}", late.join("\n"));
    let late: Vec<_> = found.iter().filter(|row| !row.is_roughly_in_time()).collect();
    assert!(late.is_empty(), "far beyond their bounds: {late:#?}");
    let (written, found) = (verdicts(&written), verdicts(&document(&found)));
    assert!(!found.is_empty());
    assert_eq!(written, found, "proxy/RELIABILITY.md is out of date: run `cargo xtask reliability`");
}

/// Run by `cargo xtask reliability`, on a machine that has nothing else to do.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures time, and writes proxy/RELIABILITY.md"]
async fn renew_the_document() {
    let mut found = Vec::new();
    for case in CASES {
        found.extend(measure(case, xks_proxy::app::Limits::default().deadline).await);
    }
    std::fs::write(DOCUMENT, document(&found)).unwrap();
    let late: Vec<String> =
        found.iter().filter(|row| !row.is_in_time()).map(|row| format!("{row:?}")).collect();
    assert!(late.is_empty(), "not within its bound:\n{}", late.join("\n"));
}
