//! Runs one of the proxy's hot paths a number of times and does nothing else, for `cargo xtask bench instructions`, which
//! counts the instructions and allocations of two such runs under callgrind: their difference belongs to the path, and
//! what it took to set it up cancels out. Everything that goes in is the same in each run.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its user")]

use benches::{DECRYPT_PATH, ID, NOW, PATH, REGION, SECRET, proxy_core, requests, signed_headers};
use sim_hsm::{Capacity, Configuration, KeySpecification, ServiceTime, ServiceTimes, SimHsm, TokioTimer};
use std::error::Error;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use xks_proxy::api::Request;
use xks_proxy::app::Limits;
use xks_proxy::env::UnixTime;
use xks_proxy::events::{AuditEvent, Operation, json_line};
use xks_proxy::hsm::{Aad, Hsm};
use xks_proxy::http::handle;
use xks_proxy::key::KeyName;
use xks_proxy::secret::{Plaintext, Secret};
use xks_proxy::sigv4::{Credential, Received, verify};

const USAGE: &str = "Usage: instructions [PATH TIMES]; without arguments it lists the paths";

type Outcome = Result<(), Box<dyn Error>>;

/// A name, and what runs the path so many times.
type Path = (&'static str, fn(u64) -> Outcome);

const PATHS: [Path; 10] = [
    ("sigv4 verify", sigv4_verify),
    ("parse encrypt", |times| parse(times, Operation::Encrypt, &requests::encrypt(false))),
    ("parse decrypt", |times| parse(times, Operation::Decrypt, &requests::decrypt())),
    ("parse get key metadata", |times| {
        parse(times, Operation::GetKeyMetadata, &requests::get_key_metadata())
    }),
    ("parse get health status", |times| {
        parse(times, Operation::GetHealthStatus, &requests::get_health_status())
    }),
    ("request encrypt", |times| request(times, PATH, &requests::encrypt(false))),
    ("request encrypt with integrity value", |times| request(times, PATH, &requests::encrypt(true))),
    ("request decrypt", |times| request(times, DECRYPT_PATH, &requests::decrypt())),
    ("audit line", audit_line),
    ("emulated HSM encrypt", emulated_hsm_encrypt),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let run = match arguments.as_slice() {
        [] => {
            PATHS.iter().for_each(|(name, _)| println!("{name}"));
            return ExitCode::SUCCESS;
        }
        [name, times] => PATHS.iter().find(|(known, _)| known == name).zip(times.parse().ok()),
        _ => None,
    };
    let Some(((name, path), times)) = run else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match path(times) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Time stands still unless somebody waits, so that no timer depends on how fast this machine is.
fn runtime() -> Result<Runtime, Box<dyn Error>> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?)
}

fn sigv4_verify(times: u64) -> Outcome {
    let body = [b'x'; 600];
    let headers = signed_headers(PATH, &body)?;
    let received =
        Received { method: "POST", path: PATH, query: "", headers: &headers, authority: None, body: &body };
    let credentials =
        ["K2ANOTHERID3XXXXXXXX", ID].map(|id| Credential::unchecked(id, Secret::new(SECRET.to_owned())));
    for _ in 0..times {
        black_box(verify(black_box(&received), &credentials, Some(REGION), UnixTime(NOW))?);
    }
    Ok(())
}

fn parse(times: u64, operation: Operation, body: &str) -> Outcome {
    let limits = Limits::default();
    for _ in 0..times {
        let mut event = AuditEvent::new(UnixTime(NOW), String::new());
        let parsed = Request::parse(operation, black_box(body.as_bytes()), &limits, &mut event);
        black_box((parsed.map_err(|error| error.detail)?, event));
    }
    Ok(())
}

fn request(times: u64, path: &str, body: &str) -> Outcome {
    let (app, served) = proxy_core::app()?;
    let request = requests::signed(path, body)?;
    runtime()?.block_on(async {
        for _ in 0..times {
            black_box(handle(&app, request.clone()).await);
        }
    });
    if served.count() == times { Ok(()) } else { Err("a request was refused".into()) }
}

fn audit_line(times: u64) -> Outcome {
    let mut event = AuditEvent::new(UnixTime(NOW), "0123456789abcdef".to_owned());
    let body = requests::encrypt(false);
    Request::parse(Operation::Encrypt, body.as_bytes(), &Limits::default(), &mut event)
        .map_err(|error| error.detail)?;
    event.status = 200;
    for _ in 0..times {
        black_box(json_line(black_box(&event)));
    }
    Ok(())
}

fn emulated_hsm_encrypt(times: u64) -> Outcome {
    let configuration = Configuration {
        keys: vec![KeySpecification::aes_256("key")],
        capacity: Capacity { service_times: ServiceTimes::all(ServiceTime::ZERO), ..Capacity::default() },
        ..Configuration::default()
    };
    let runtime = runtime()?;
    let _inside = runtime.enter();
    let (hsm, _control) = SimHsm::new(configuration, Arc::new(TokioTimer::new()));
    let (key, plaintext) = (KeyName::label("key"), Plaintext::new(vec![7; 32]));
    let aad = Aad::frame(&[1; 100], &[1, 1]).map_err(|_| "the AAD is too long")?;
    let deadline = Instant::now() + Duration::from_secs(1);
    runtime.block_on(async {
        for _ in 0..times {
            black_box(hsm.encrypt(&key, &aad, black_box(&plaintext), deadline).await?);
        }
        Ok(())
    })
}
