//! HTTP/1.1 in front of the [`Api`]: connections and their limits, the target, the principal, the answer's form.
//!
//! Place on the map: the command binds the listener and hands it in. Runs on the current `LocalSet`, on real time.

use super::api::{Api, Refusal, known};
use crate::kms::Requester;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const JSON: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.1");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
const TARGET: &str = "x-amz-target";
const TARGET_PREFIX: &str = "TrentService.";
/// Bytes of a request's head, at the most; signed requests of SDKs have one or two thousand.
const HEAD_BYTES_MAX: usize = 16_384;
const ACCESS_KEY_ID_CHARS_MAX: usize = 128;
/// After an `accept` that failed, as it does when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the server obeys.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. More wait until one is closed.
    pub connections_max: usize,
    /// How long a client may take for the head of a request, and leave a kept connection unused.
    pub head_timeout: Duration,
    /// How long it may take for the body.
    pub body_timeout: Duration,
    /// Bytes of a body. The largest request of the API has about 30,000.
    pub body_bytes_max: usize,
    /// How long requests at hand may take to finish once the server is to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 256,
            head_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(20),
            body_bytes_max: 256 << 10,
            drain: Duration::from_secs(5),
        }
    }
}

/// Serves until `stop` is ready; then finishes the requests at hand.
pub async fn serve(listener: TcpListener, api: Rc<Api>, limits: Limits, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let (closing, is_closing) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            // Fails only when the semaphore is closed, which nobody does.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = &mut stop => break,
            next = next => next,
        };
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (api, is_closing) = (Rc::clone(&api), is_closing.clone());
        connections.spawn_local(async move {
            connection(stream, &api, limits, is_closing).await;
            drop(place);
        });
    }
    drop(listener);
    closing.send_replace(true);
    let finished = async { while connections.join_next().await.is_some() {} };
    // What has not finished by then is cut off with the set.
    let _ = timeout(limits.drain, finished).await;
}

async fn connection(stream: TcpStream, api: &Api, limits: Limits, mut is_closing: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(answer(api, &limits, request).await)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    // A connection that ends in an error is the client's own affair.
    tokio::select! {
        _ = &mut serving => {}
        _ = is_closing.wait_for(|closing| *closing) => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
}

/// One request from its head to its answer.
async fn answer(api: &Api, limits: &Limits, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let began = Instant::now();
    let request_id = api.draw_request_id();
    let (head, body) = request.into_parts();
    let operation = operation(&head.method, head.uri.path(), &head.headers).and_then(known);
    let mut reply = match (operation, read_body(body, limits).await) {
        (_, Err(reply)) => reply,
        (None, Ok(_)) => Reply::of(Refusal::UnknownOperation),
        (Some(operation), Ok(body)) => {
            let principal_arn = api.principal_arn(access_key_id(&head.headers));
            let requester = Requester {
                principal_arn: &principal_arn,
                via_service: None,
                request_id: Some(&request_id),
                source_vpc: api.source_vpc(),
            };
            match api.perform(operation, &body, requester).await {
                Ok(members) => Reply::success(members),
                Err(refusal) => Reply::of(refusal),
            }
        }
    };
    let operation = operation.unwrap_or("unknown operation");
    api.journal().note_request(operation, reply.status, reply.exception, began.elapsed());
    reply.response(&request_id)
}

/// The operation that a request says it wants.
fn operation<'a>(method: &Method, path: &str, headers: &'a HeaderMap) -> Option<&'a str> {
    let target = headers.get(TARGET).and_then(|value| value.to_str().ok())?;
    let here = *method == Method::POST && path == "/";
    target.strip_prefix(TARGET_PREFIX).filter(|_| here)
}

/// The access key id in the `Authorization` header, by which the caller is called. Nobody has verified it.
fn access_key_id(headers: &HeaderMap) -> &str {
    headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once("Credential="))
        .and_then(|(_, rest)| rest.split('/').next())
        .filter(|id| (1..=ACCESS_KEY_ID_CHARS_MAX).contains(&id.len()))
        .filter(|id| id.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        .unwrap_or("anonymous")
}

async fn read_body(body: Incoming, limits: &Limits) -> Result<Bytes, Reply> {
    let too_large = || {
        let text = format!("A request has at most {} bytes.", limits.body_bytes_max);
        Reply::refused(413, "RequestEntityTooLargeException", &text)
    };
    // What is announced as too large is not read at all.
    if body.size_hint().lower() > limits.body_bytes_max as u64 {
        return Err(too_large().closing());
    }
    match timeout(limits.body_timeout, Limited::new(body, limits.body_bytes_max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large().closing()),
        Ok(Err(_)) => Err(Reply::refused(400, "SerializationException", "The body was cut off.").closing()),
        Err(_) => {
            Err(Reply::refused(408, "RequestTimeoutException", "The body did not come in time.").closing())
        }
    }
}

/// An answer, before it has its request id.
struct Reply {
    status: u16,
    exception: Option<&'static str>,
    body: String,
    /// The rest of the request is not read, so that the connection is of no use any more.
    closes: bool,
}

impl Reply {
    fn success(members: Option<serde_json::Value>) -> Self {
        let body = members.map(|members| members.to_string()).unwrap_or_default();
        Self { status: 200, exception: None, body, closes: false }
    }

    fn of(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownOperation => Self::refused(404, "UnknownOperationException", ""),
            Refusal::Serialization(text) => Self::refused(400, "SerializationException", &text),
            Refusal::Failure(failure) => {
                Self::refused(failure.exception.status(), failure.exception.as_str(), &failure.message)
            }
        }
    }

    fn refused(status: u16, exception: &'static str, message: &str) -> Self {
        let mut body = json!({ "__type": exception });
        // AWS says nothing where it has nothing to say.
        if !message.is_empty() {
            body["message"] = message.into();
        }
        Self { status, exception: Some(exception), body: body.to_string(), closes: false }
    }

    fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    fn response(&mut self, request_id: &str) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(std::mem::take(&mut self.body))));
        if let Ok(status) = http::StatusCode::from_u16(self.status) {
            *response.status_mut() = status;
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(exception) = self.exception {
            headers.insert(ERROR_TYPE, HeaderValue::from_static(exception));
        }
        if self.closes {
            headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[test]
    fn the_caller_is_called_by_its_access_key_id_or_not_at_all() {
        let called = |value| access_key_id(&headers("authorization", value)).to_owned();
        let scope = "/20260101/us-east-1/kms/aws4_request, SignedHeaders=host, Signature=00";
        let header: &'static str = format!("AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE{scope}").leak();
        assert_eq!(called(header), "AKIAEXAMPLE");
        for none in ["", "Bearer x", "AWS4-HMAC-SHA256 Credential=/x", "AWS4-HMAC-SHA256 Credential=a:b/x"] {
            assert_eq!(called(none), "anonymous", "{none}");
        }
        assert_eq!(access_key_id(&HeaderMap::new()), "anonymous");
    }

    #[test]
    fn only_a_post_to_the_root_with_the_right_target_is_an_operation() {
        let target = headers("x-amz-target", "TrentService.Encrypt");
        assert_eq!(operation(&Method::POST, "/", &target), Some("Encrypt"));
        assert_eq!(operation(&Method::GET, "/", &target), None);
        assert_eq!(operation(&Method::POST, "/x", &target), None);
        let other = headers("x-amz-target", "DynamoDB_20120810.Encrypt");
        assert_eq!(operation(&Method::POST, "/", &other), None);
    }
}
