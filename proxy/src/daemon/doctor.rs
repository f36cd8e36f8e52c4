//! `xks-proxy doctor`: looks at everything a proxy needs, in order, never stops at the first problem, and says in plain
//! words what each means and what to do.
//!
//! Place on the map: part of the binary; a file per field of checks, all writing into `report`.

mod access;
mod budget;
mod certificate;
mod clock;
mod files;
mod hsm;
mod keys;
mod machine;
mod peer;
mod report;
mod same_keys;

use clap::Args;
pub(crate) use keys::unfit;
pub(crate) use report::cut;
use report::{Report, count};
use std::path::Path;
use std::process::ExitCode;
use xks_proxy::config::{Config, KeyStoreConfig};
use xks_proxy::hsm::pkcs11::IvSource;

/// What a doctor may do, and what it is told.
#[derive(Args)]
pub(crate) struct Options {
    /// The network's round trip between your AWS region and this proxy, in ms; 35 when left out, the most AWS advises.
    #[arg(long, value_name = "N", value_parser = milliseconds)]
    rtt_ms: Option<f64>,
    /// The host name that KMS connects to (XksProxyUriEndpoint), to compare with the certificate.
    #[arg(long, value_name = "HOST", value_parser = host)]
    endpoint: Option<String>,
    /// Try an encryption and a decryption with each key that is named, too; without this only with health keys.
    #[arg(long)]
    use_keys: bool,
    /// For programs: one JSON document in place of the lines.
    #[arg(long)]
    json: bool,
}

fn milliseconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=10_000.0).contains(&number) => Ok(number),
        _ => Err("write milliseconds, 0 to 10000".to_owned()),
    }
}

/// `xks.example.com`, or a whole XksProxyUriEndpoint.
fn host(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
    let host = host.split_once(':').map_or(host, |(host, _)| host);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    if host.is_empty() || !host.bytes().all(plain) {
        return Err("write a host name such as xks.example.com".to_owned());
    }
    Ok(host.to_owned())
}

/// Goes through all checks. 0: nothing stands in the way of serving; 1: problems. The error is one line for the user.
pub(crate) fn run(file: &Path, options: &Options) -> Result<ExitCode, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start ({error})"))?;
    // Without a configuration there is nothing to look at.
    let mut config = Config::load(file).map_err(|error| error.to_string())?;
    let mut report = Report::new(options.json);
    report.print(&format!("xks-proxy {} looks at {}\n", env!("CARGO_PKG_VERSION"), config.file));

    report.section("Configuration and files");
    configuration(&config, &mut report);
    files::check(&mut config, &mut report);
    access::check(&mut config, &mut report);

    let mut hsms = hsm::Hsms::default();
    let (mut speeds, mut surveys) = (Vec::new(), Vec::new());
    for (index, hsm) in config.hsms.clone().iter().enumerate() {
        report.section(format!("HSM {}", hsm.name.value));
        let (survey, speed) = hsms.check(&mut config, hsm, &mut report);
        if let Some(speed) = speed {
            speeds.push((hsm.name.value.clone(), speed));
        }
        for store in config.key_stores.iter().filter(|store| hsms_of(store).contains(&index)) {
            report.section(format!("Keys of key store {} in HSM {}", store.name, hsm.name.value));
            match &survey {
                Some(survey) => {
                    let use_keys: Option<IvSource> = options.use_keys.then_some(hsm.iv_source);
                    keys::check(survey, store, use_keys, &mut report);
                }
                None => report.skipped("keys", "nobody is logged in to the HSM"),
            }
        }
        surveys.push(survey);
    }
    for store in config.key_stores.iter().filter(|store| store.hsms.len() > 1) {
        report.section(format!("The same keys in every HSM of key store {}", store.name));
        same_keys::check(&config, store, &surveys, options.use_keys, &mut report);
    }
    drop(surveys);

    report.section("Certificate and clock");
    certificate::check(&mut config, options.endpoint.as_deref(), &mut report);
    runtime.block_on(clock::check(&config, &mut report));

    report.section("This machine");
    machine::check(&config, &mut report);

    report.section("Share of KMS's 250 ms");
    budget::check_network(options.rtt_ms, &mut report);
    for (name, speed) in &speeds {
        budget::check(&config, name, speed, options.rtt_ms, &mut report);
    }
    if speeds.is_empty() {
        report.skipped("250 ms", "no HSM could be timed");
    }

    let outcome = if report.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    report.end();
    Ok(outcome)
}

/// The HSMs behind a key store, as indices into the configuration's.
pub(crate) fn hsms_of(store: &KeyStoreConfig) -> Vec<usize> {
    store.hsms.clone()
}

fn configuration(config: &Config, report: &mut Report) {
    report.ok(
        "configuration",
        format!(
            "{}, {}, {}",
            count(config.hsms.len(), "HSM"),
            count(config.key_stores.len(), "key store"),
            count(config.key_stores.iter().map(|store| store.credentials.len()).sum(), "credential"),
        ),
    );
    for warning in &config.warnings {
        // A warning ends with what to do.
        let (says, to_do) = warning.rsplit_once(": ").unwrap_or((warning, "see proxy/config.example.toml"));
        let means = "The proxy serves with it, but it is probably not meant so.";
        report.warning("configuration", says, means, to_do);
    }
}
