//! Criterion benchmarks of the proxy core and the simulation; see README.md in this directory.
