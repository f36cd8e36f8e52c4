//! What one operation of the emulated HSM costs in CPU time: the floor under every simulated request.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run is to stop")]

use criterion::{Criterion, criterion_group, criterion_main};
use sim_hsm::{
    Capacity, Configuration, IvLedger, KeySpecification, ServiceTime, ServiceTimes, SimHsm, TokioTimer,
};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use xks_proxy::hsm::{Aad, Hsm};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

fn operations(criterion: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _inside = runtime.enter();
    let plain = Configuration {
        keys: vec![KeySpecification::aes_256("key")],
        capacity: Capacity { service_times: ServiceTimes::all(ServiceTime::ZERO), ..Capacity::default() },
        ..Configuration::default()
    };
    let device = |configuration| SimHsm::new(configuration, Arc::new(TokioTimer::new())).0;
    let key = KeyName::label("key");
    let aad = Aad::frame(&[1; 100], &[1, 1]).unwrap();

    let hsm = device(plain.clone());
    for bytes in [32, 4_096] {
        let plaintext = Plaintext::new(vec![7; bytes]);
        let deadline = Instant::now() + Duration::from_secs(1);
        criterion.bench_function(&format!("encrypt {bytes} bytes"), |bench| {
            bench
                .iter(|| runtime.block_on(hsm.encrypt(&key, &aad, black_box(&plaintext), deadline)).unwrap());
        });
        let sealed = runtime.block_on(hsm.encrypt(&key, &aad, &plaintext, deadline)).unwrap();
        criterion.bench_function(&format!("decrypt {bytes} bytes"), |bench| {
            bench.iter(|| runtime.block_on(hsm.decrypt(&key, &aad, black_box(&sealed), deadline)).unwrap());
        });
    }
    let plaintext = Plaintext::new(vec![7; 32]);
    criterion.bench_function("an empty block_on, part of all of these", |bench| {
        bench.iter(|| runtime.block_on(async { black_box(&plaintext) }));
    });

    let noting = device(Configuration { ledger: Some(IvLedger::new()), ..plain.clone() });
    let deadline = Instant::now() + Duration::from_secs(1);
    criterion.bench_function("encrypt 32 bytes, IV noted", |bench| {
        bench.iter(|| runtime.block_on(noting.encrypt(&key, &aad, &plaintext, deadline)).unwrap());
    });

    // With a service time tokio's paused clock is advanced once per operation, which is most of the cost.
    let waiting = device(Configuration { capacity: Capacity::default(), ..plain });
    criterion.bench_function("encrypt 32 bytes, lognormal wait in virtual time", |bench| {
        bench.iter(|| {
            let deadline = Instant::now() + Duration::from_secs(1);
            runtime.block_on(waiting.encrypt(&key, &aad, &plaintext, deadline)).unwrap()
        });
    });
}

criterion_group!(benches, operations);
criterion_main!(benches);
