//! One request over HTTP, from its head to its answer. [`handle`] shows all stations in order.
//!
//! Place on the map: `server` calls [`handle`] once per request; tests, benchmarks and fuzz targets call it without a
//! socket. Every refusal, also one that HTTP makes, is JSON with an `errorName` (XKS-ERR-4).

mod body;
mod record;
mod route;
mod visit;

use crate::api;
use crate::app::App;
use crate::authorise::Asked;
use crate::calendar::imf_fixdate;
use crate::error::{ErrorName, XksError};
use crate::events::{AuditEvent, Operation};
use crate::sigv4::{self, Received};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, DATE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::Full;
use record::Record;
use route::Route;
use std::fmt::Display;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
pub(crate) use visit::Visit;

/// The id of the request in the audit log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Serves one request: always an answer, under the deadline, and always exactly one audit event, also when the caller
/// goes away and this future is dropped. The load balancer's health check is no request of the API and leaves none.
pub async fn handle<B>(app: &App, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: Display,
{
    visit(app, request, &Visit { began: Instant::now(), authenticated: &|| () }).await
}

/// As [`handle`], for a connection that knows when the request began, and wants to know when it is authenticated.
pub(crate) async fn visit<B>(app: &App, request: Request<B>, visit: &Visit<'_>) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: Display,
{
    let (head, body) = request.into_parts();
    if head.uri.path() == app.ping_path {
        return ping(app, &head.method);
    }
    let mut record = Record::open(app, visit.began);
    let deadline = record.began() + app.limits.deadline;
    match timeout_at(deadline, stations(app, head, body, visit, &mut record)).await {
        Ok(outcome) => record.close(outcome),
        Err(_) => {
            let late = record.late();
            record.close(Err(late))
        }
    }
}

/// The stations between head and answer. Each takes values and gives a value or the error to answer with.
async fn stations<B>(
    app: &App,
    head: Parts,
    body: B,
    visit: &Visit<'_>,
    record: &mut Record<'_>,
) -> Result<Vec<u8>, XksError>
where
    B: Body<Data = Bytes>,
    B::Error: Display,
{
    let route = Route::find(app, &head);
    if let Ok(route) = &route {
        record.routed(route);
    }
    // Read to its end even for a path that leads nowhere. Over HTTP/2 an answer that does not wait for the body ends in
    // RST_STREAM(NO_ERROR), and some clients (curl 7.88) then throw the answer away; over HTTP/1.1 it ends the connection.
    let mut held = app.bodies.begin();
    let reader = body::Reader {
        bytes_max: app.limits.body_bytes_max,
        // What is refused is read on as well, and thrown away; only over HTTP/1.1 nothing is lost by answering at once.
        discard_until: (head.version == Version::HTTP_2).then(|| shorter_deadline(app, record)),
    };
    let body = reader.read(body, &mut held).await?;
    let route = route?;
    record.lap(|stations| &mut stations.read);
    let _permit = app.admission.enter(&route.store.share).ok_or_else(full_house)?;
    record.event.access_key_id = Some(authenticate(app, &route, &head, &body)?);
    // Its header fields are slices of the connection's buffer, which else stays for as long as the HSM takes.
    drop(head);
    (visit.authenticated)();
    record.lap(|stations| &mut stations.sigv4);
    grant(&route)?;
    let request = api::Request::parse(route.operation, &body, &app.limits, &mut record.event)?;
    drop((body, held));
    authorise(&route, &mut record.event)?;
    record.lap(|stations| &mut stations.parse);
    let answer = request.perform(app, &route.store, route.key.as_ref(), shorter_deadline(app, record)).await;
    record.lap(|stations| &mut stations.hsm);
    answer
}

/// The HSM, and a body that is refused, get a little less than the request has, so that their failure to come to an end
/// can still be answered in time.
fn shorter_deadline(app: &App, record: &Record<'_>) -> Instant {
    record.began() + (app.limits.deadline - app.limits.deadline / 32)
}

fn full_house() -> XksError {
    let detail = "limits.in_flight_max: the key store's share and the places for everyone are taken";
    XksError::new(ErrorName::ThrottlingException, detail)
}

/// Takes the request out of its key store's quota, whatever then becomes of it (XKS-NET-6).
fn grant(route: &Route) -> Result<(), XksError> {
    match &route.store.quota {
        Some(quota) if route.operation != Operation::GetHealthStatus && !quota.take() => {
            let rate = quota.rate();
            let detail = format!(
                "quota.requests_per_s = {} with burst = {} is used up",
                rate.requests_per_s, rate.burst
            );
            Err(XksError::new(ErrorName::ThrottlingException, detail))
        }
        _ => Ok(()),
    }
}

/// Verifies the signature against the credentials of the key store that the path selected, and of no other
/// (XKS-AUTH-7). Whatever is wrong, the caller reads the same (XKS-AUTH-5).
fn authenticate(app: &App, route: &Route, head: &Parts, body: &[u8]) -> Result<String, XksError> {
    let received = Received {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        headers: &head.headers,
        authority: head.uri.authority().map(http::uri::Authority::as_str),
        body,
    };
    let store = &route.store;
    match sigv4::verify(&received, &store.credentials, store.region.as_deref(), app.env.now()) {
        Ok(signer) => Ok(signer.to_string()),
        Err(error) => Err(XksError::new(ErrorName::AuthenticationFailedException, error.to_string())),
    }
}

/// Asks the key store's rules and policies. GetHealthStatus names no key and is exempt (XKS-HLT-3).
fn authorise(route: &Route, event: &mut AuditEvent) -> Result<(), XksError> {
    let Some(key) = &route.key else { return Ok(()) };
    let asked = Asked {
        key,
        operation: route.operation,
        principal_arn: event.principal_arn.as_deref().unwrap_or_default(),
        kms_key_arn: sent(&event.kms_key_arn),
        kms_operation: event.kms_operation.as_deref().unwrap_or_default(),
        via_service: sent(&event.via_service),
        source_vpc: sent(&event.source_vpc),
        source_vpce: sent(&event.source_vpce),
        access_key_id: event.access_key_id.as_deref().unwrap_or_default(),
    };
    let verdict = route.store.access.decide(&asked);
    event.shadow_denied = verdict.shadow_denied();
    match verdict.denied() {
        None => Ok(()),
        Some(detail) => Err(XksError::new(ErrorName::AccessDeniedException, detail)),
    }
}

/// Empty counts as absent, as it does where a field is required.
fn sent(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|text| !text.is_empty())
}

/// The load balancer's health check (XKS-NET-8): 200 while able to serve, 503 while draining. It asks no HSM, so that
/// an HSM outage does not take every proxy out of service at once; GetHealthStatus tells of the HSM.
fn ping(app: &App, method: &Method) -> Response<Full<Bytes>> {
    const ALLOWED: &str = "GET, HEAD";
    let (status, body) = match (*method == Method::GET || *method == Method::HEAD, app.is_draining()) {
        (false, _) => {
            let error = XksError::new(ErrorName::ValidationException, "");
            (StatusCode::METHOD_NOT_ALLOWED, error_json(error.name, "The health check answers GET and HEAD."))
        }
        (true, false) => (StatusCode::OK, br#"{"status":"ok"}"#.to_vec()),
        (true, true) => (StatusCode::SERVICE_UNAVAILABLE, br#"{"status":"draining"}"#.to_vec()),
    };
    let mut response = json_response(status, body, app.env.now());
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(ALLOWED));
    }
    response
}

/// Answers and records a request whose head HTTP itself refused, so that it never became a request: 400 for what is
/// not HTTP, 414 and 431 for a URI or head too large. `server` asks for this when hyper refuses one.
pub(crate) fn refuse_head(app: &App, status: StatusCode) -> Response<Full<Bytes>> {
    let sentence = match status {
        StatusCode::URI_TOO_LONG => "The URI is too long.",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "The head of the request is too large.",
        _ => "This is not an HTTP request.",
    };
    let error = XksError::new(ErrorName::ValidationException, sentence).with_sentence(sentence);
    Record::open(app, Instant::now()).close(Err(error.with_status(status)))
}

/// An answer of any kind; `Date` comes from the same clock as everything else.
fn json_response(status: StatusCode, body: Vec<u8>, now: crate::env::UnixTime) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(date) = HeaderValue::try_from(imf_fixdate(now)) {
        headers.insert(DATE, date);
    }
    response
}

/// The answer to a request of the API, with the headers HTTP asks for beside some statuses.
fn answer(outcome: Result<Vec<u8>, &XksError>, event: &AuditEvent) -> Response<Full<Bytes>> {
    let mut response = match outcome {
        Ok(json) => json_response(StatusCode::OK, json, event.time),
        Err(error) => json_response(error.status, error_json(error.name, error.sentence), event.time),
    };
    let status = response.status();
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&event.request_id) {
        headers.insert(REQUEST_ID, id);
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("POST"));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("AWS4-HMAC-SHA256"));
    }
    response
}

/// The body of every error (XKS-ERR-1). Sentences are fixed texts of this crate and need no escaping.
fn error_json(name: ErrorName, sentence: &str) -> Vec<u8> {
    format!(r#"{{"errorName":"{}","errorMessage":"{sentence}"}}"#, name.as_str()).into_bytes()
}

/// The time since the last lap, for [`Record::lap`].
fn since(last: &mut Instant) -> Duration {
    let now = Instant::now();
    let lap = now - *last;
    *last = now;
    lap
}
