//! What it takes to write a run down once it is over: the page, and all five forms, of two minutes, nine days, and thirteen hours with every service.

#![expect(clippy::expect_used, reason = "a benchmark may stop at a mistake of its own")]

use criterion::{Criterion, criterion_group, criterion_main};
use scenarios::catalogue;
use scenarios::result::RunResult;
use scenarios::scenario::Scenario;
use scenarios::world::Options;
use scenarios::{report, run};
use std::hint::black_box;

/// As the program `xks-sim` has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One run of a scenario of the catalogue, as `xks-sim run` makes it.
fn ran(name: &str) -> RunResult {
    let entry = catalogue::find(name).expect("the catalogue has it");
    let scenario = Scenario::parse(name, name, entry.text).expect("the catalogue is valid");
    let options = Options { samples: true, ..Options::new(1) };
    run::run(&scenario, &options, "", "emulated HSM").expect("the run succeeds").result
}

fn all_forms(result: &RunResult) -> usize {
    [report::html, report::json, report::markdown, report::csv, report::junit]
        .into_iter()
        .map(|form: fn(&RunResult) -> String| form(result).len())
        .sum()
}

fn reports(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("report");
    for name in ["hsm-slow", "eight-days", "every-service"] {
        let result = ran(name);
        group.bench_function(format!("page, {name}"), |bencher| {
            bencher.iter(|| black_box(report::html(&result)))
        });
        group.bench_function(format!("all forms, {name}"), |bencher| {
            bencher.iter(|| black_box(all_forms(&result)))
        });
    }
    group.finish();
}

criterion_group!(benches, reports);
criterion_main!(benches);
