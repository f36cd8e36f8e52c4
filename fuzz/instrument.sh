#!/bin/sh
# What cargo calls in the place of rustc for the crates of this workspace, and only these (RUSTC_WORKSPACE_WRAPPER): adds the
# coverage counters that libFuzzer reads. Every counter is read after every execution, so those of libraries would cost more
# than they tell.
exec "$@" \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks
