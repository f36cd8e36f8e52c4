//! Every saved input runs through its target's body, so that what fuzzing once found stays found without a fuzzer. And no
//! target is forgotten anywhere.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "the helpers of tests may fail as loudly as tests"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Most bytes of all saved inputs together: they are in every clone, for ever.
const CORPUS_BYTES_MAX: u64 = 2 * 1_024 * 1_024;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(corpus().join(target)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn replay(target: &str) {
    let mut body = (fuzz::Target::find(target).unwrap().open)();
    let inputs = inputs(target);
    assert!(!inputs.is_empty(), "corpus/{target} is empty");
    for path in inputs {
        println!("{}", path.display());
        body(&std::fs::read(path).unwrap());
    }
}

/// One test per target, so that they run side by side and a failure names its own.
macro_rules! replay {
    ($($target:ident),* $(,)?) => {
        const REPLAYED: &[&str] = &[$(stringify!($target)),*];
        $(
            #[test]
            fn $target() {
                replay(stringify!($target));
            }
        )*
    };
}

replay!(
    sigv4_header,
    sigv4_request,
    signed_request,
    uri,
    request_body,
    authenticated_request,
    http_request,
    round_trip,
    wildcards,
    allow_list,
    policy,
    config,
    scenario,
);

#[test]
fn no_target_is_forgotten() {
    let names: Vec<&str> = fuzz::TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(REPLAYED, names, "the list in this file");
    let listed = include_str!("../targets.txt").lines().filter_map(|line| line.split_whitespace().next());
    assert_eq!(listed.collect::<Vec<_>>(), names, "targets.txt, which `cargo xtask fuzz` goes by");
    let directories = std::fs::read_dir(corpus()).unwrap();
    let directories: BTreeSet<String> =
        directories.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(directories, names.iter().map(ToString::to_string).collect(), "the directories of corpus/");
    for name in names {
        assert!(include_str!("../README.md").contains(&format!("| `{name}` |")), "README.md lacks {name}");
    }
}

#[test]
fn the_corpora_stay_small() {
    let inputs = fuzz::TARGETS.iter().flat_map(|target| inputs(target.name));
    let bytes: u64 = inputs.map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes < CORPUS_BYTES_MAX, "{bytes} bytes: `cargo xtask fuzz minimise TARGET`");
}
