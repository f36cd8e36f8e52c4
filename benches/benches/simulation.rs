//! Simulated XKS calls per second, the whole stack: service model, KMS model with its signer and inner encryption,
//! simulated TCP, the real proxy core with hyper and SigV4 verification, the emulated HSM's AES-GCM, and the trace with
//! its digest. And what an idle simulated day costs.

#![expect(clippy::expect_used, reason = "a benchmark may stop at a mistake of its own")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use scenarios::run;
use scenarios::scenario::Scenario;
use scenarios::world::Options;
use std::hint::black_box;

/// As the program `xks-sim` has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Near KMS's default quota of 1,800 calls per second.
fn load(tls: &str) -> Scenario {
    let text = format!(
        "title = \"Load\"\nduration_s = 5\n[topology]\ntls = \"{tls}\"\n[[service]]\nkind = \"s3\"\nrate_per_s = 1500\n"
    );
    Scenario::parse("load", "load.toml", &text).expect("the scenario is valid")
}

/// A service that asks once in a hundred seconds, for a day.
fn idle() -> Scenario {
    let text = "title = \"Idle\"\nduration_s = 86400\n[kms]\nhealth_poll_s = 0\n\
                [[service]]\nkind = \"s3\"\nrate_per_s = 0.01\nobjects = 1\n";
    Scenario::parse("idle", "idle.toml", text).expect("the scenario is valid")
}

fn once(scenario: &Scenario) -> u64 {
    run::run(scenario, &Options::new(1), "", "").expect("the run succeeds").result.xks.calls
}

fn simulation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("simulated calls");
    group.sample_size(10);
    for tls in ["off", "1.3"] {
        let scenario = load(tls);
        group.throughput(Throughput::Elements(once(&scenario)));
        group.bench_function(format!("TLS {tls}"), |bencher| bencher.iter(|| black_box(once(&scenario))));
    }
    let scenario = idle();
    group.throughput(Throughput::Elements(86_400));
    group.bench_function("idle day, in simulated seconds", |bencher| {
        bencher.iter(|| black_box(once(&scenario)))
    });
    group.finish();
}

criterion_group!(benches, simulation);
criterion_main!(benches);
