//! `corpus/http_request` holds the seeds of `src/seeds.rs`, byte for byte, so that other programs can read them.

use std::path::PathBuf;

fn file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus", "http_request", name].iter().collect()
}

#[test]
fn the_committed_seeds_are_these() {
    for seed in fuzz::http_requests() {
        let found = std::fs::read(file(seed.name)).ok();
        assert!(
            found == Some(seed.bytes),
            "corpus/http_request/{} is another one: run `cargo test -p fuzz --test seeds -- --ignored`",
            seed.name
        );
    }
}

#[test]
#[ignore = "writes into the repository"]
fn renew_the_seeds() {
    std::fs::create_dir_all(file("")).unwrap();
    for seed in fuzz::http_requests() {
        std::fs::write(file(seed.name), seed.bytes).unwrap();
    }
}
