//! `xks-sim fuzz`: arguments, files and exit codes around [`scenarios::hostile`].

use super::exit;
use super::files::write_whole;
use super::proxy_options::{prefix, read, secret};
use super::run::parse_seed;
use super::terminal::{clear_progress, say};
use scenarios::hostile::case::{Case, Target};
use scenarios::hostile::endpoint::Endpoint;
use scenarios::hostile::finding::Finding;
use scenarios::hostile::run::{self, Amount, Options};
use scenarios::hostile::signing::Credential;
use scenarios::scenario::nearest;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

const DEFAULT_REQUESTS: u64 = 2_000;
const CORPUS_FILES_MAX: usize = 10_000;

#[derive(clap::Args)]
pub(crate) struct FuzzArguments {
    /// Where the proxy is: scheme, host and port, such as http://localhost:8000.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// What stands before /kms/xks/v1 in its paths, such as /example/uri/path/prefix.
    #[arg(long, value_name = "PATH", default_value = "")]
    uri_path_prefix: String,
    /// An external key that encrypts and decrypts.
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
    /// The access key id that requests are signed with.
    #[arg(long, value_name = "ID")]
    access_key_id: Option<String>,
    /// File with the secret access key. [default: the environment variable XKS_SECRET_ACCESS_KEY]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The region in the scope of signatures.
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    region: String,
    /// For https: the certificates (PEM) of the authorities to trust.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// What to mutate, more than one by commas: uri, headers, sigv4, encrypt, decrypt, metadata, health, framing, all.
    #[arg(long, value_name = "NAMES", default_value = "all")]
    target: String,
    /// Directory of more requests to begin with, one HTTP/1.1 request a file.
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    /// Hostile requests to send. [default: 2000]
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Send for so many seconds instead.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    seconds: Option<u64>,
    /// Requests per second, at the most.
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Connections at once.
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// How long an answer may take, connection set-up included; KMS waits 250 ms.
    #[arg(long, value_name = "MS", default_value = "250", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    budget_ms: u64,
    /// Seed of every random choice; the same seed makes the same mutations.
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_seed)]
    seed: u64,
    /// Where findings go; made when there is one.
    #[arg(long, value_name = "DIR", default_value = "xks-fuzz-findings")]
    out: PathBuf,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
    /// Sign the request of a finding (its .json file) anew, send it, and say what comes; nothing else is sent.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Yes, this endpoint is mine, although it is not on this machine.
    #[arg(long)]
    i_own_this_endpoint: bool,
}

pub(crate) fn perform(arguments: &FuzzArguments) -> Result<u8, String> {
    let url = arguments
        .endpoint
        .as_deref()
        .ok_or("--endpoint URL is missing: where is the proxy, such as http://localhost:8000?")?;
    let targets = targets(&arguments.target)?;
    let prefix = prefix(&arguments.uri_path_prefix)?;
    let needed = |value: &Option<String>, name: &str| {
        let usable = |text: &&String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        value.as_ref().filter(usable).cloned().ok_or_else(|| format!("{name} is missing or holds a space"))
    };
    let access_key_id = needed(&arguments.access_key_id, "--access-key-id")?;
    let region = needed(&Some(arguments.region.clone()), "--region")?;
    let secret = secret(arguments.secret_file.as_deref())?;
    let credential = Credential { access_key_id, secret, region };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let authorities = arguments.ca.as_deref().map(|file| read(file, "--ca")).transpose()?;
    let endpoint =
        runtime.block_on(Endpoint::open(url, authorities.as_deref(), arguments.i_own_this_endpoint))?;
    let budget = Duration::from_millis(arguments.budget_ms);
    if let Some(file) = &arguments.replay {
        return runtime.block_on(replay(&endpoint, &credential, file, budget));
    }
    let key_id = needed(&arguments.key_id, "--key-id")?;
    if key_id.contains('/') {
        return Err("--key-id holds a slash; an external key id is [A-Za-z0-9._-]".into());
    }
    let corpus = arguments.corpus.as_deref().map(corpus).transpose()?.unwrap_or_default();
    let mut targets = targets;
    if !corpus.is_empty() {
        targets.push(Target::Corpus);
    }
    let amount = match arguments.seconds {
        Some(seconds) => Amount::Time(Duration::from_secs(seconds)),
        None => Amount::Requests(arguments.requests.unwrap_or(DEFAULT_REQUESTS)),
    };
    let options = Options {
        prefix,
        key_id,
        credential,
        targets,
        corpus,
        seed: arguments.seed,
        amount,
        rate_per_s: arguments.rate,
        connections: arguments.connections,
        budget,
    };
    // The endpoint is used up by the run; the curl lines need it too.
    let for_findings =
        runtime.block_on(Endpoint::open(url, authorities.as_deref(), arguments.i_own_this_endpoint))?;
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let local = tokio::task::LocalSet::new();
    let ran = local.block_on(&runtime, run::run(endpoint, options, progress(amount), interrupted));
    clear_progress();
    let summary = ran?;
    for finding in &summary.findings {
        save(finding, &for_findings, arguments)?;
    }
    let mut text = if arguments.json { format!("{:#}\n", summary.json()) } else { summary.text() };
    if !arguments.json && !summary.findings.is_empty() {
        text.push_str(&format!("\neach with its curl line in {}\n", arguments.out.display()));
    }
    say(&text)?;
    Ok(if summary.findings.is_empty() { exit::HELD } else { exit::VIOLATED })
}

fn targets(names: &str) -> Result<Vec<Target>, String> {
    let known = || Target::ALL.map(Target::name).into_iter().chain(["all"]);
    let mut targets = Vec::new();
    for name in names.split(',') {
        if name == "all" {
            return Ok(Target::ALL.to_vec());
        }
        let Some(target) = Target::ALL.into_iter().find(|target| target.name() == name) else {
            let hint =
                nearest(name, known()).map(|near| format!(" did you mean `{near}`?")).unwrap_or_default();
            return Err(format!(
                "no target is called `{name}`;{hint} there are: {}",
                known().collect::<Vec<_>>().join(", ")
            ));
        };
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    Ok(targets)
}

/// In the order of the names, so that equal seeds make equal mutations.
fn corpus(directory: &Path) -> Result<Vec<Vec<u8>>, String> {
    let wrong = |error: std::io::Error| format!("--corpus: cannot read {}: {error}", directory.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        if path.is_file() {
            files.push(path);
        }
        if files.len() > CORPUS_FILES_MAX {
            return Err(format!("--corpus: more than {CORPUS_FILES_MAX} files in {}", directory.display()));
        }
    }
    if files.is_empty() {
        return Err(format!("--corpus: there is no file in {}", directory.display()));
    }
    files.sort();
    let mut requests = files.iter().map(|file| read(file, "--corpus")).collect::<Result<Vec<_>, _>>()?;
    // Answers in HTTP/2's frames, or of a length that does not follow, cannot be told from wrong ones here.
    requests.retain(|request| !request.starts_with(b"PRI * ") && !request.starts_with(b"HEAD "));
    Ok(requests)
}

/// A line that is overwritten, on a terminal; nothing in a pipe.
fn progress(amount: Amount) -> Rc<dyn Fn(u64)> {
    if !std::io::stderr().is_terminal() {
        return Rc::new(|_| {});
    }
    let goal = match amount {
        Amount::Requests(requests) => format!("of {requests} requests"),
        Amount::Time(time) => format!("requests; {} s in all", time.as_secs()),
    };
    Rc::new(move |sent| {
        if sent % 10 == 0 {
            eprint!("\rsent {sent} {goal}");
        }
    })
}

/// Writes a finding as text, as a case to replay, and as the bytes that were sent.
fn save(finding: &Finding, endpoint: &Endpoint, arguments: &FuzzArguments) -> Result<(), String> {
    let out = &arguments.out;
    let cannot = |error: std::io::Error| {
        format!("cannot write to {}: {error}; choose another directory with --out", out.display())
    };
    std::fs::create_dir_all(out).map_err(cannot)?;
    let file = |extension: &str| out.join(format!("{}.{extension}", finding.stem()));
    let (body, request, case) = (file("body"), file("request"), file("json"));
    let ca = arguments.ca.as_ref().map(|path| path.display().to_string());
    let curl =
        finding.curl(endpoint, &body.display().to_string(), &request.display().to_string(), ca.as_deref());
    let mut again = format!(
        "xks-sim fuzz --endpoint {} --access-key-id {} --region {}",
        endpoint.url,
        arguments.access_key_id.as_deref().unwrap_or_default(),
        arguments.region
    );
    if let Some(file) = &arguments.secret_file {
        again.push_str(&format!(" --secret-file {}", file.display()));
    }
    if let Some(file) = &ca {
        again.push_str(&format!(" --ca {file}"));
    }
    if arguments.i_own_this_endpoint {
        again.push_str(" --i-own-this-endpoint");
    }
    again.push_str(&format!(" --replay {}", case.display()));
    let fault = &finding.fault;
    let text = format!(
        "{} ({}), {} times\n\n\
         breaks:    {}\n\
         target:    {}\n\
         mutation:  {}\n\
         seen:      {}\n\n\
         To send the same bytes again, within five minutes, as long as a signature is good:\n\n{curl}\n\n\
         Later, to have it signed anew and judged:\n\n{again}\n",
        fault.kind.name(),
        fault.kind.severity().name(),
        finding.count,
        fault.requirement,
        finding.case.target.name(),
        finding.case.mutation,
        fault.detail,
    );
    std::fs::write(&body, &finding.case.request.body).map_err(cannot)?;
    std::fs::write(&request, &finding.sent).map_err(cannot)?;
    let kept = json!({ "finding": fault.kind, "requirement": fault.requirement, "case": finding.case });
    write_whole(&case, &format!("{kept:#}\n"))?;
    write_whole(&file("txt"), &text)
}

async fn replay(
    endpoint: &Endpoint,
    credential: &Credential,
    file: &Path,
    budget: Duration,
) -> Result<u8, String> {
    let wrong = || format!("--replay: {} is not the .json file of a finding", file.display());
    let kept: Value = serde_json::from_slice(&read(file, "--replay")?).map_err(|_| wrong())?;
    let case: Case =
        serde_json::from_value(kept.get("case").cloned().unwrap_or_default()).map_err(|_| wrong())?;
    let (answer, faults) = run::replay(endpoint, credential, &case, budget).await;
    let mut text = format!("{}: answered {answer}\n", case.mutation);
    for fault in &faults {
        text.push_str(&format!(
            "{} ({}): {}, {}\n",
            fault.kind.name(),
            fault.kind.severity().name(),
            fault.requirement,
            fault.detail
        ));
    }
    if faults.is_empty() {
        text.push_str("nothing is wrong with that\n");
    }
    say(&text)?;
    Ok(if faults.is_empty() { exit::HELD } else { exit::VIOLATED })
}
