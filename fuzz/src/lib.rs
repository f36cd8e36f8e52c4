//! Bodies of the fuzz targets, one function each; `tests/replay.rs` runs the saved inputs under plain `cargo test`.
