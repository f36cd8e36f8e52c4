//! The body of each operation as KMS sends it, from JSON to a typed request.

use benches::requests;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use xks_proxy::api::Request;
use xks_proxy::app::Limits;
use xks_proxy::env::UnixTime;
use xks_proxy::events::{AuditEvent, Operation};

fn parse(criterion: &mut Criterion) {
    let limits = Limits::default();
    let mut group = criterion.benchmark_group("parse");
    for (name, operation, body) in [
        ("encrypt", Operation::Encrypt, requests::encrypt(false)),
        ("decrypt", Operation::Decrypt, requests::decrypt()),
        ("get key metadata", Operation::GetKeyMetadata, requests::get_key_metadata()),
        ("get health status", Operation::GetHealthStatus, requests::get_health_status()),
    ] {
        let parse = || {
            let mut event = AuditEvent::new(UnixTime(benches::NOW), String::new());
            let request = Request::parse(operation, black_box(body.as_bytes()), &limits, &mut event);
            (request, event)
        };
        assert!(parse().0.is_ok(), "the benchmark's own {name} request is refused");
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(parse));
    }
    group.finish();
}

criterion_group!(benches, parse);
criterion_main!(benches);
