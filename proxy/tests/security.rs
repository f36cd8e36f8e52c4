//! `SECURITY.md` names tests that exist, and `unsafe` stays where it is needed.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails loudly; clippy's leave for tests does not reach its helpers"
)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Whether a function of this name stands right after an attribute that makes it run as a test. Those of `proptest!` have
/// one, too.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let start = [format!("fn {name}("), format!("async fn {name}(")];
    let Some(at) = lines.iter().position(|line| start.iter().any(|start| line.starts_with(start))) else {
        return false;
    };
    let mut above =
        lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    above.any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
}

#[test]
fn each_test_that_the_threat_model_names_exists() {
    let model = fs::read_to_string(root().join("proxy/SECURITY.md")).unwrap();
    let named: Vec<(&str, &str)> =
        model.split('`').skip(1).step_by(2).filter_map(|text| text.split_once(".rs::")).collect();
    assert!(named.len() > 40, "{named:?}");
    let missing: Vec<String> = named
        .iter()
        .filter(|(file, test)| {
            let text = fs::read_to_string(root().join(format!("{file}.rs"))).unwrap_or_default();
            !has_test(&text, test)
        })
        .map(|(file, test)| format!("{file}.rs::{test}"))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn only_what_runs_counts_as_a_test() {
    assert!(has_test("#[test]\n// Why.\nfn a() {", "a"));
    assert!(has_test("#[tokio::test(start_paused = true)]\nasync fn a() {", "a"));
    assert!(!has_test("#[test]\nfn b() {}\nfn a() {", "a"));
    assert!(!has_test("#[test]\nfn ab() {", "a"));
}

/// The compiler sees to it wherever the crate's root forbids it; so this looks at the roots, and for new ones.
#[test]
fn unsafe_code_is_forbidden_where_it_is_not_needed() {
    for crate_root in [
        "proxy/src/lib.rs",
        "proxy/src/main.rs",
        "sim-hsm/src/lib.rs",
        "scenarios/src/lib.rs",
        "scenarios/src/main.rs",
        "fuzz/src/lib.rs",
        "xtask/src/main.rs",
    ] {
        let text = fs::read_to_string(root().join(crate_root)).unwrap();
        assert!(text.lines().any(|line| line == "#![forbid(unsafe_code)]"), "{crate_root}");
    }
    // Elsewhere it is denied, and each exception has its reason: a PKCS#11 module is a C library, on either side of its
    // functions, and SoftHSM2 reads its configuration from an environment variable.
    let exceptions = [
        "proxy/pkcs11/src/lib.rs",
        "proxy/tests/common/softhsm.rs",
        "scenarios/tests/hsm/token.rs",
        "sim-hsm/pkcs11/src/table.rs",
        "sim-hsm/pkcs11/tests/common/shim.rs",
    ];
    let mut found = Vec::new();
    for part in ["proxy", "sim-hsm", "scenarios", "benches", "fuzz", "xtask"] {
        visit(&root().join(part), &mut found);
    }
    found.sort();
    assert_eq!(found, exceptions.map(|file| root().join(file)));
}

/// Source files in which unsafe code is allowed.
fn visit(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                visit(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("tests/security.rs")
        {
            let text = fs::read_to_string(&path).unwrap();
            let allows = |line: &str| {
                line.contains("unsafe_code") && (line.contains("expect(") || line.contains("allow("))
            };
            if text.lines().any(allows) {
                found.push(path);
            }
        }
    }
}
