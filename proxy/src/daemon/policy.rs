//! `xks-proxy policy test`: what the rules and policies of a key store say of a request, without an HSM, a secret or a
//! network.
//!
//! Place on the map: part of the binary; the deciding is `authorise`'s.

use clap::{Args, Subcommand, ValueEnum};
use serde::Deserialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use xks_proxy::authorise::{Access, Asked, Mode, Opinion, Verdict};
use xks_proxy::config::Config;
use xks_proxy::events::Operation;
use xks_proxy::key::KeyId;

/// Most bytes of a file of cases.
const CASES_BYTES_MAX: u64 = 16 << 20;

/// Longest ARN that reaches the policies (XKS-NET-7), in characters.
const ARN_CHARS_MAX: usize = 2_048;

#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say what a key store's rules and policies decide on a request, or on a file of them, and which one decided.
    ///
    /// Judges as if everything were enforced; what is in shadow mode is marked. Opens no HSM and reads no secret. Ends
    /// with 0 when every decision is as expected (or allowed, where nothing is expected), 1 when not, 2 for bad usage.
    Test(Box<Test>),
}

#[derive(Args)]
pub(crate) struct Test {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The key store. May be left out when there is only one.
    #[arg(long, value_name = "NAME")]
    key_store: Option<String>,
    /// Requests with the decision expected of each: [[case]] tables in TOML, or {"case": [...]} when the name ends in
    /// .json. The keys are the flags below with _ for -, and `name`.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "operation", "key", "principal_arn", "kms_key_arn", "kms_operation", "via_service", "source_vpc",
            "source_vpce", "access_key_id", "expect", "policy",
        ]
    )]
    cases: Option<PathBuf>,
    #[command(flatten)]
    request: Request,
}

/// One request, and what is expected of it.
#[derive(Args, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// What the case is called.
    #[arg(skip)]
    name: Option<String>,
    /// GetKeyMetadata, Encrypt, Decrypt or GetHealthStatus.
    #[arg(long, value_name = "NAME")]
    operation: Option<String>,
    /// The external key id.
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Who asked KMS (awsPrincipalArn).
    #[arg(long, value_name = "ARN")]
    principal_arn: Option<String>,
    /// The KMS key (kmsKeyArn). KMS always sends it with Encrypt and Decrypt.
    #[arg(long, value_name = "ARN")]
    kms_key_arn: Option<String>,
    /// What KMS was asked to do (kmsOperation). Left out: the operation's name, CreateKey for GetKeyMetadata.
    #[arg(long, value_name = "NAME")]
    kms_operation: Option<String>,
    /// The AWS service that asked on the principal's behalf (kmsViaService).
    #[arg(long, value_name = "SERVICE")]
    via_service: Option<String>,
    /// The VPC the caller of KMS came from (awsSourceVpc).
    #[arg(long, value_name = "ID")]
    source_vpc: Option<String>,
    /// The VPC endpoint it came through (awsSourceVpce).
    #[arg(long, value_name = "ID")]
    source_vpce: Option<String>,
    /// Who signed. Left out: the key store's first credential.
    #[arg(long, value_name = "ID")]
    access_key_id: Option<String>,
    /// The decision that is expected.
    #[arg(long)]
    expect: Option<Expected>,
    /// The name of the rule or policy that is expected to decide.
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    #[serde(default)]
    case: Vec<Request>,
}

/// Runs it. The error is one line for the user.
pub(crate) fn run(command: PolicyCommand) -> Result<ExitCode, String> {
    let PolicyCommand::Test(test) = command;
    let mut config = Config::load(&test.config).map_err(|error| error.to_string())?;
    let index = find(&config, test.key_store.as_deref())?;
    let access = config.access(index).map_err(|error| error.to_string())?;
    let signer = config.key_stores.get(index).and_then(|store| store.credentials.first());
    let signer = signer.map(|credential| &*credential.access_key_id.value).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    // A closed standard output is the reader's choice; the exit code still tells.
    for warning in &config.warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    let right = match &test.cases {
        None => {
            let judged = judge(&access, &test.request, signer)?;
            let _ = write!(out, "{}", judged.text);
            judged.as_expected
        }
        Some(file) => {
            let cases = read(file)?;
            let mut judged = Vec::new();
            for (number, case) in (1..).zip(&cases) {
                let name = case.name.clone().unwrap_or_else(|| format!("case {number}"));
                let one = judge(&access, case, signer)
                    .map_err(|why| format!("{}: {name}: {why}", file.display()))?;
                judged.push((name, one));
            }
            for (name, one) in &judged {
                let _ =
                    write!(out, "{} {name}: {}", if one.as_expected { "ok   " } else { "WRONG" }, one.text);
            }
            let wrong = judged.iter().filter(|(_, one)| !one.as_expected).count();
            let _ = writeln!(out, "{} cases, {wrong} wrong", judged.len());
            wrong == 0
        }
    };
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn find(config: &Config, name: Option<&str>) -> Result<usize, String> {
    let stores = &config.key_stores;
    let found = match name {
        None if stores.len() == 1 => Some(0),
        name => stores.iter().position(|store| Some(&*store.name) == name),
    };
    found.ok_or_else(|| {
        let known: Vec<String> = stores.iter().map(|store| format!("{:?}", store.name)).collect();
        let what = match name {
            None => "there are several key stores".to_owned(),
            Some(name) => format!("no key store is named {name:?}"),
        };
        format!("{what}: name one of {} after --key-store", known.join(", "))
    })
}

fn read(file: &Path) -> Result<Vec<Request>, String> {
    let name = file.display();
    let unreadable = |error: std::io::Error| {
        format!("cannot read {name} ({error}): name an existing, readable file after --cases")
    };
    if std::fs::metadata(file).map_err(unreadable)?.len() > CASES_BYTES_MAX {
        return Err(format!("{name} is larger than 16 MiB: split it"));
    }
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    let cases: Cases = if file.extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))?
    } else {
        toml::from_str(&text).map_err(|error| {
            let line =
                1 + text.bytes().take(error.span().unwrap_or_default().start).filter(|b| *b == b'\n').count();
            format!("{name}:{line}: {}", error.message().replace('\n', " "))
        })?
    };
    if cases.case.is_empty() {
        return Err(format!("{name} holds no case: add a [[case]] table"));
    }
    Ok(cases.case)
}

/// What came out, and whether it should have.
struct Judged {
    as_expected: bool,
    text: String,
}

fn judge(access: &Access, request: &Request, signer: &str) -> Result<Judged, String> {
    let operation =
        request.operation.as_deref().ok_or("which operation? add `operation` (--operation Encrypt)")?;
    let operation =
        Operation::ALL.into_iter().find(|known| known.as_str() == operation).ok_or_else(|| {
            let known: Vec<&str> = Operation::ALL.iter().map(|operation| operation.as_str()).collect();
            format!("{operation:?} is not an operation: write one of {}", known.join(", "))
        })?;
    let about_a_key = operation != Operation::GetHealthStatus;
    let key = match &request.key {
        Some(key) => KeyId::parse(key).map_err(|error| format!("key {key:?}: {error}"))?,
        None if about_a_key => return Err("which key? add `key` (--key ID), an external key id".to_owned()),
        None => KeyId::parse("none").map_err(|error| error.to_string())?,
    };
    let principal_arn = arn(request.principal_arn.as_deref(), "principal_arn", about_a_key)?;
    let with_key_arn = matches!(operation, Operation::Encrypt | Operation::Decrypt);
    let kms_key_arn = arn(request.kms_key_arn.as_deref(), "kms_key_arn", with_key_arn)?;
    let kms_operation = match operation {
        Operation::GetKeyMetadata => "CreateKey",
        other => other.as_str(),
    };
    let verdict = access.decide(&Asked {
        key: &key,
        operation,
        principal_arn: principal_arn.unwrap_or_default(),
        kms_key_arn,
        kms_operation: request.kms_operation.as_deref().unwrap_or(kms_operation),
        via_service: sent(request.via_service.as_deref()),
        source_vpc: sent(request.source_vpc.as_deref()),
        source_vpce: sent(request.source_vpce.as_deref()),
        access_key_id: request.access_key_id.as_deref().unwrap_or(signer),
    });
    Ok(compare(&verdict, request))
}

/// Empty counts as absent, as in the proxy.
fn sent(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

/// As the proxy asks for it before the policies are asked (XKS-MD-2): a test that leaves it out would test nothing.
fn arn<'a>(arn: Option<&'a str>, name: &str, required: bool) -> Result<Option<&'a str>, String> {
    let arn = sent(arn);
    if required && arn.is_none() {
        let flag = name.replace('_', "-");
        return Err(format!("KMS always sends a {name} with this operation: add `{name}` (--{flag} ARN)"));
    }
    if arn.is_some_and(|arn| arn.chars().count() > ARN_CHARS_MAX) {
        return Err(format!("{name} is longer than {ARN_CHARS_MAX} characters, which no policy gets to see"));
    }
    Ok(arn)
}

fn compare(verdict: &Verdict<'_>, request: &Request) -> Judged {
    let voices = [("allow-list", &verdict.rules), ("cedar", &verdict.policies)];
    let asked = || voices.iter().filter_map(|(voice, opinion)| Some((*voice, opinion.as_ref()?)));
    let decision =
        if asked().any(|(_, opinion)| opinion.denied.is_some()) { Expected::Deny } else { Expected::Allow };
    let mut text = String::from(if decision == Expected::Allow { "allow\n" } else { "deny\n" });
    for (voice, opinion) in asked() {
        text.push_str(&line(voice, opinion));
    }
    if asked().next().is_none() {
        text.push_str("      nobody is asked: no rules or policies apply\n");
    }
    // Whoever is for the losing side has decided nothing.
    let decided = |name: &str| {
        asked().any(|(_, opinion)| {
            opinion.denied.is_some() == (decision == Expected::Deny) && opinion.decided_by.contains(&name)
        })
    };
    let mut as_expected = request.expect.unwrap_or(Expected::Allow) == decision;
    if let Some(expected) = request.expect.filter(|expected| *expected != decision) {
        text.push_str(if expected == Expected::Allow {
            "      expected allow\n"
        } else {
            "      expected deny\n"
        });
    }
    if let Some(policy) = request.policy.as_deref().filter(|policy| !decided(policy)) {
        as_expected = false;
        text.push_str(&format!("      expected {policy:?} to decide\n"));
    }
    Judged { as_expected, text }
}

fn line(voice: &str, opinion: &Opinion<'_>) -> String {
    let shadow = if opinion.mode == Mode::Shadow { " (shadow mode: only logged)" } else { "" };
    match &opinion.denied {
        Some(why) => format!("      {voice} denies{shadow}: {why}\n"),
        None => format!("      {voice} allows{shadow}, by {}\n", opinion.decided_by.join(", ")),
    }
}
