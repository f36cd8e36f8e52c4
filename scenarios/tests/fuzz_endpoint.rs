//! `xks-sim fuzz` over real sockets: nothing to find in the real proxy core, and every planted defect is found.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

#[path = "support/stub_hsm.rs"]
mod stub_hsm;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use scenarios::hostile::case::Target;
use scenarios::hostile::endpoint::Endpoint;
use scenarios::hostile::finding::FindingKind;
use scenarios::hostile::run::{Amount, Options, run};
use scenarios::hostile::signing::Credential;
use scenarios::hostile::summary::Summary;
use std::path::Path;
use std::process::{Command, Output};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use stub_hsm::{Mood, StubHsm};
use tokio::net::{TcpListener, TcpStream};
use xks_proxy::app::{App, KeyStore, Settings};
use xks_proxy::env::SystemEnv;
use xks_proxy::events::{AuditEvent, Subscriber};
use xks_proxy::key::UriPrefix;
use xks_proxy::secret::Secret;
use xks_proxy::server::{Listen, serve};

const ACCESS_KEY_ID: &str = "BETAWXOPQLAGCMTVZNNA";
const SECRET: &str = "PdfLZGqRK4c7GoHFwdjBcGrO0MYWr2pVZg7a0dKAr5k";
const PREFIX: &str = "/example";
/// So long that a busy machine makes no answer late.
const AMPLE: Duration = Duration::from_secs(60);

/// What is wrong with the proxy under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    None,
    ServesUnsigned,
    ServesForgedTags,
    ConstantIv,
    QuotesPlaintext,
    HtmlErrors,
    OtherStatus,
    OtherName,
    LongMessages,
    NoContentType,
    ClosesInstead,
    HangsInstead,
    LeavesOutFields,
    LeavesOutKeyUsage,
    ServesUnknownFields,
}

struct Silent;

impl Subscriber for Silent {
    fn audit(&self, _event: &AuditEvent) {}
}

struct Door(TcpListener);

impl Listen for Door {
    type Io = TcpStream;

    async fn accept(&mut self) -> std::io::Result<TcpStream> {
        Ok(self.0.accept().await?.0)
    }
}

#[expect(clippy::disallowed_methods, reason = "the tests' own server")]
async fn start(defect: Defect) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let hsm = StubHsm::new(|label| label.contains("example-key"));
    if defect == Defect::ConstantIv {
        hsm.set_mood(Mood::Repeats);
    }
    let credential = xks_proxy::sigv4::Credential::new(ACCESS_KEY_ID, Secret::new(SECRET.into())).unwrap();
    let store = KeyStore {
        region: Some("us-east-1".into()),
        ..KeyStore::new("test", UriPrefix::parse(PREFIX).unwrap(), vec![credential], Arc::new(hsm))
    };
    let mut settings = Settings::default();
    // A busy machine must not make the proxy answer 503 instead of what is tested.
    settings.limits.deadline = Duration::from_secs(2);
    let app = Arc::new(App::new(settings, vec![store], Arc::new(SystemEnv), Arc::new(Silent)).unwrap());
    if defect == Defect::None {
        tokio::spawn(serve(Door(listener), app, None, std::future::pending()));
    } else {
        tokio::spawn(serve_badly(listener, app, defect));
    }
    url
}

async fn serve_badly(listener: TcpListener, app: Arc<App>, defect: Defect) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| misbehave(&app, defect, request));
            let io = TokioIo::new(stream);
            // A connection that ends in an error is one of the defects.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        });
    }
}

/// The real core's answer, spoiled.
async fn misbehave(
    app: &App,
    defect: Defect,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let asked = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let target = head.uri.path().to_owned();
    let mut response =
        xks_proxy::http::handle(app, Request::from_parts(head, Full::new(asked.clone()))).await;
    let failed = !response.status().is_success();
    let answer = |status: StatusCode, body: String| {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        response
    };
    let body = response.body_mut().collect().await.unwrap().to_bytes();
    *response.body_mut() = Full::new(body.clone());
    let text = String::from_utf8(body.to_vec()).unwrap();
    let status = response.status();
    Ok(match defect {
        Defect::ServesUnsigned if status == StatusCode::UNAUTHORIZED => answer(StatusCode::OK, "{}".into()),
        Defect::ServesForgedTags if text.contains("InvalidCiphertext") => {
            answer(StatusCode::OK, r#"{"plaintext":"QWxpY2U="}"#.into())
        }
        Defect::QuotesPlaintext if failed => {
            let asked: serde_json::Value = serde_json::from_slice(&asked).unwrap_or_default();
            let plaintext = asked["plaintext"].as_str().unwrap_or_default();
            answer(status, text.replace("\"errorMessage\":\"", &format!("\"errorMessage\":\"{plaintext} ")))
        }
        Defect::HtmlErrors if failed => answer(status, "<html>Bad Request</html>".into()),
        Defect::OtherStatus if status == StatusCode::BAD_REQUEST => {
            answer(StatusCode::UNPROCESSABLE_ENTITY, text)
        }
        Defect::OtherName if text.contains("ValidationException") => answer(
            StatusCode::INTERNAL_SERVER_ERROR,
            r#"{"errorName":"InternalException","errorMessage":"x"}"#.into(),
        ),
        Defect::LongMessages if failed => {
            let long = "x".repeat(512);
            answer(status, text.replace("\"errorMessage\":\"", &format!("\"errorMessage\":\"{long}")))
        }
        Defect::NoContentType if failed => {
            response.headers_mut().remove("content-type");
            response
        }
        Defect::ClosesInstead if failed => return Err(std::io::ErrorKind::ConnectionReset.into()),
        Defect::HangsInstead if status == StatusCode::UNSUPPORTED_MEDIA_TYPE => std::future::pending().await,
        Defect::LeavesOutFields
            if target.ends_with("/encrypt") && asked.windows(6).any(|w| w == b"Future") =>
        {
            answer(StatusCode::OK, r#"{"ciphertext":"QWxpY2U="}"#.into())
        }
        Defect::LeavesOutKeyUsage if target.ends_with("/metadata") && !failed => {
            answer(status, r#"{"keySpec":"AES_256","keyUsage":[],"keyStatus":"ENABLED"}"#.into())
        }
        Defect::ServesUnknownFields if text.contains("ValidationException") => {
            answer(StatusCode::OK, "{}".into())
        }
        _ => response,
    })
}

fn options(targets: &[Target], requests: u64) -> Options {
    Options {
        prefix: PREFIX.into(),
        key_id: "example-key".into(),
        credential: Credential {
            access_key_id: ACCESS_KEY_ID.into(),
            secret: Secret::new(SECRET.into()),
            region: "us-east-1".into(),
        },
        targets: targets.to_vec(),
        corpus: Vec::new(),
        seed: 1,
        amount: Amount::Requests(requests),
        rate_per_s: 100_000,
        connections: 4,
        budget: AMPLE,
    }
}

/// On a real runtime, with a `LocalSet`.
fn really<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

async fn fuzz(defect: Defect, options: Options) -> Summary {
    let url = start(defect).await;
    let endpoint = Endpoint::open(&url, None, false).await.unwrap();
    run(endpoint, options, Rc::new(|_| ()), std::future::pending()).await.unwrap()
}

#[test]
fn there_is_nothing_to_find_in_the_real_proxy() {
    really(async {
        let mut options = options(&[&Target::ALL[..], &[Target::Corpus]].concat(), 3_000);
        options.corpus =
            vec![b"POST /kms/xks/v1/keys/k/encrypt HTTP/1.1\r\nHost: h\r\n\r\n{\"plaintext\":1}".to_vec()];
        let summary = fuzz(Defect::None, options).await;
        assert!(summary.findings.is_empty(), "{}", summary.text());
        assert_eq!((summary.requests, &summary.ended_early), (3_000, &None));
        for answer in ["200", "ValidationException", "AuthenticationFailedException", "KeyNotFoundException"]
        {
            assert!(summary.answers.get(answer).is_some_and(|times| *times > 10), "{}", summary.text());
        }
    });
}

#[test]
fn every_planted_defect_is_found_and_named() {
    really(async {
        let all = &Target::ALL[..];
        for (defect, targets, requests, kind) in [
            (Defect::ServesUnsigned, &[Target::Sigv4][..], 90, FindingKind::AuthenticationBypass),
            (Defect::ServesForgedTags, &[Target::Decrypt], 160, FindingKind::ForgedCiphertextDecrypted),
            (Defect::ConstantIv, &[Target::Metadata], 1, FindingKind::IvReused),
            (Defect::QuotesPlaintext, &[Target::Encrypt], 120, FindingKind::PlaintextInError),
            (Defect::HtmlErrors, &[Target::Health], 40, FindingKind::NotASpecError),
            (Defect::OtherStatus, &[Target::Metadata], 40, FindingKind::WrongStatus),
            (Defect::OtherName, &[Target::Metadata], 40, FindingKind::WrongErrorName),
            (Defect::LongMessages, all, 100, FindingKind::BadErrorMessage),
            (Defect::NoContentType, &[Target::Uri], 40, FindingKind::WrongContentType),
            (Defect::ClosesInstead, &[Target::Metadata], 40, FindingKind::NoAnswer),
            (Defect::LeavesOutFields, &[Target::Encrypt], 160, FindingKind::MalformedSuccess),
            (Defect::ServesUnknownFields, &[Target::Encrypt], 160, FindingKind::InvalidRequestServed),
        ] {
            let summary = fuzz(defect, options(targets, requests)).await;
            let found: Vec<FindingKind> = summary.findings.iter().map(|finding| finding.fault.kind).collect();
            assert!(found.contains(&kind), "{defect:?}: {}", summary.text());
        }
    });
}

/// There are proxies in use that say so. It is a finding, and no reason to send nothing.
#[test]
fn a_proxy_that_answers_valid_requests_out_of_form_is_fuzzed_all_the_same() {
    really(async {
        let summary = fuzz(Defect::LeavesOutKeyUsage, options(&[Target::Health], 40)).await;
        let found: Vec<FindingKind> = summary.findings.iter().map(|finding| finding.fault.kind).collect();
        assert_eq!(found, [FindingKind::MalformedSuccess], "{}", summary.text());
        assert_eq!(summary.requests, 40, "{}", summary.text());
    });
}

#[test]
fn a_proxy_that_is_late_or_silent_is_found() {
    really(async {
        // No answer comes within a nanosecond.
        let late = Options { budget: Duration::from_nanos(1), ..options(&[Target::Health], 5) };
        let summary = fuzz(Defect::None, late).await;
        assert_eq!(summary.findings[0].fault.kind, FindingKind::SlowAnswer, "{}", summary.text());
        assert_eq!(summary.findings[0].count, 5);
        let silent = Options { budget: Duration::from_nanos(1), ..options(&[Target::Headers], 30) };
        let summary = fuzz(Defect::HangsInstead, silent).await;
        assert!(
            summary.findings.iter().any(|finding| finding.fault.kind == FindingKind::Hang),
            "{}",
            summary.text()
        );
    });
}

#[test]
fn equal_seeds_make_equal_mutations() {
    really(async {
        let once = fuzz(Defect::HtmlErrors, options(&Target::ALL, 300)).await;
        let again = fuzz(Defect::HtmlErrors, options(&Target::ALL, 300)).await;
        assert_eq!(once.answers, again.answers);
    });
}

async fn xks_sim(arguments: Vec<String>, directory: &Path) -> Output {
    command(Command::new(env!("CARGO_BIN_EXE_xks-sim")).arg("fuzz").args(arguments), directory).await
}

#[expect(clippy::disallowed_methods, reason = "the server under test runs on the thread that waits")]
async fn command(command: &mut Command, directory: &Path) -> Output {
    command.current_dir(directory).env("XKS_SECRET_ACCESS_KEY", SECRET);
    let child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
}

fn arguments(url: &str, more: &[&str]) -> Vec<String> {
    let fixed =
        ["--endpoint", url, "--uri-path-prefix", PREFIX, "--key-id", "example-key", "--access-key-id"];
    let budget = [ACCESS_KEY_ID, "--budget-ms", "60000", "--rate", "100000"];
    fixed.iter().chain(&budget).chain(more).map(|&word| word.to_owned()).collect()
}

#[test]
fn a_finding_is_saved_and_its_curl_line_shows_it_again() {
    really(async {
        let directory = tempfile::tempdir().unwrap();
        let url = start(Defect::HtmlErrors).await;
        let output =
            xks_sim(arguments(&url, &["--target", "metadata", "--requests", "60"]), directory.path()).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("not-a-spec-error") && text.contains("XKS-ERR-1"), "{text}");
        let stem = "xks-fuzz-findings/not-a-spec-error-metadata";
        let saved = std::fs::read_to_string(directory.path().join(format!("{stem}.txt"))).unwrap();
        for file in std::fs::read_dir(directory.path().join("xks-fuzz-findings")).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains(SECRET));
        }
        let curl = saved.lines().find(|line| line.starts_with("curl ")).unwrap();
        let shown = command(Command::new("sh").arg("-c").arg(curl), directory.path()).await;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.starts_with("HTTP/1.1 400") && shown.contains("<html>"), "{curl}\n{shown}");
        let again = xks_sim(arguments(&url, &["--replay", &format!("{stem}.json")]), directory.path()).await;
        let text = String::from_utf8_lossy(&again.stdout).into_owned();
        assert_eq!(again.status.code(), Some(1), "{text}");
        assert!(text.contains("not-a-spec-error"), "{text}");
        // Against a proxy that does it right, the same request has nothing to show.
        let right = start(Defect::None).await;
        let again =
            xks_sim(arguments(&right, &["--replay", &format!("{stem}.json")]), directory.path()).await;
        assert_eq!(again.status.code(), Some(0), "{}", String::from_utf8_lossy(&again.stdout));
    });
}

#[test]
fn without_findings_the_exit_code_is_0_and_no_directory_is_made() {
    really(async {
        let directory = tempfile::tempdir().unwrap();
        let url = start(Defect::None).await;
        let more = ["--requests", "50", "--target", "health,sigv4", "--json"];
        let output = xks_sim(arguments(&url, &more), directory.path()).await;
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&json["requests"], &json["format"]), (&50.into(), &1.into()));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    });
}

#[test]
fn mistakes_end_with_2_and_one_line() {
    really(async {
        let directory = tempfile::tempdir().unwrap();
        let url = start(Defect::None).await;
        let with = |more: &[&str]| arguments(&url, more);
        let at = |url: &str| arguments(url, &[]);
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        for (arguments, reason) in [
            (words(&[]), "--endpoint URL is missing"),
            (words(&["--endpoint", &url]), "--access-key-id is missing"),
            (with(&["--target", "boddy"]), "no target is called `boddy`"),
            (with(&["--target", "sigv5"]), "did you mean `sigv4`?"),
            (at("http://192.0.2.1:8000"), "only with --i-own-this-endpoint"),
            (at("localhost:8000"), "give a URL such as http://localhost:8000"),
            (at("http://localhost:8000/example"), "the path goes into --uri-path-prefix"),
            (at("https://localhost:8000"), "https needs --ca FILE"),
            (with(&["--secret-file", "no/such/file"]), "cannot read no/such/file"),
            (with(&["--corpus", "no/such"]), "--corpus: cannot read no/such"),
            (with(&["--replay", "no/such"]), "--replay: cannot read no/such"),
            (at("http://127.0.0.1:1"), "does not serve valid requests"),
        ] {
            let output = xks_sim(arguments.clone(), directory.path()).await;
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
            assert!(stderr.contains(reason), "{arguments:?}: {stderr}");
            assert_eq!(stderr.trim_end().lines().count(), 1, "{arguments:?}: {stderr}");
        }
        let mut other = options(&[Target::Health], 1);
        other.key_id = "other-key".into();
        let endpoint = Endpoint::open(&url, None, false).await.unwrap();
        let error = run(endpoint, other, Rc::new(|_| ()), std::future::pending()).await.unwrap_err();
        assert!(error.contains("KeyNotFoundException") && error.contains("check --key-id"), "{error}");
    });
}
