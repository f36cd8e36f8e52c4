//! From the head of a request to key store, operation and key (XKS-NET-3 to XKS-NET-6).
//!
//! Place on the map: the first thing [`http::handle`](crate::http::handle) does, before the body is read.

use crate::app::{App, KeyStore};
use crate::error::{ErrorName, XksError};
use crate::events::Operation;
use crate::key::{API_ROOT, KeyId};
use http::header::{CONTENT_TYPE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, StatusCode};
use std::sync::Arc;

/// Longest URI: path and query together (XKS-NET-4).
const URI_CHARS_MAX: usize = 256;

/// Where a request goes.
pub(super) struct Route {
    pub(super) store: Arc<KeyStore>,
    pub(super) operation: Operation,
    /// `None` for GetHealthStatus only.
    pub(super) key: Option<KeyId>,
}

impl Route {
    /// Matches the path exactly as it was sent: nothing is decoded, nothing normalised, so one resource has one path.
    /// A query selects nothing; it is part of what is signed.
    pub(super) fn find(app: &App, head: &Parts) -> Result<Self, XksError> {
        fits(app, head)?;
        let route = Self::of_path(app, head)?;
        if head.method != Method::POST {
            let detail = format!("the method is {:.32}", head.method.as_str());
            let error = XksError::new(ErrorName::ValidationException, detail);
            return Err(error
                .with_status(StatusCode::METHOD_NOT_ALLOWED)
                .with_sentence("The operations of this API are asked for with POST."));
        }
        if !is_chunked_at_most(head) {
            let detail = "Transfer-Encoding is not chunked alone";
            return Err(XksError::new(ErrorName::UnsupportedOperationException, detail)
                .with_sentence("The only transfer coding is chunked."));
        }
        if !is_json(head) {
            let error = XksError::new(ErrorName::ValidationException, "Content-Type is not application/json");
            return Err(error
                .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
                .with_sentence("Content-Type must be application/json."));
        }
        Ok(route)
    }

    fn of_path(app: &App, head: &Parts) -> Result<Self, XksError> {
        let path = head.uri.path();
        let unknown = |detail: String| XksError::new(ErrorName::InvalidUriPathException, detail);
        let uri_chars = head.uri.path_and_query().map_or(0, |uri| uri.as_str().len());
        if uri_chars > URI_CHARS_MAX {
            return Err(unknown(format!("the URI has {uri_chars} characters; {URI_CHARS_MAX} are allowed"))
                .with_sentence("The URI is longer than 256 characters."));
        }
        // A prefix may itself hold the root's text, and a key id cannot hold a slash: so the last one counts.
        let (prefix, rest) = path
            .rsplit_once(API_ROOT)
            .ok_or_else(|| unknown(format!("no {API_ROOT} in the path {path:?}")))?;
        let (operation, key) = match rest.strip_prefix("/keys/").and_then(|rest| rest.split_once('/')) {
            Some((key, operation)) => {
                let operation = match operation {
                    "metadata" => Operation::GetKeyMetadata,
                    "encrypt" => Operation::Encrypt,
                    "decrypt" => Operation::Decrypt,
                    _ => return Err(unknown(format!("no operation at the end of the path {path:?}"))),
                };
                let key = KeyId::parse(key).map_err(|error| unknown(format!("path {path:?}: {error}")))?;
                (operation, Some(key))
            }
            None if rest == "/health" => (Operation::GetHealthStatus, None),
            None => {
                return Err(unknown(format!(
                    "neither a key nor health after {API_ROOT} in the path {path:?}"
                )));
            }
        };
        let store =
            app.store(prefix).ok_or_else(|| unknown(format!("no key store has the prefix {prefix:?}")))?;
        Ok(Self { store, operation, key })
    }
}

/// HTTP/1.1 counts the fields of a head before it is a request; HTTP/2 limits their bytes only, so here they are counted
/// (XKS-NET-9).
fn fits(app: &App, head: &Parts) -> Result<(), XksError> {
    let (fields, max) = (head.headers.len(), app.limits.headers_max);
    if fields <= max {
        return Ok(());
    }
    let detail = format!("the head has {fields} fields; limits.headers_max = {max}");
    let error = XksError::new(ErrorName::ValidationException, detail);
    Err(error
        .with_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
        .with_sentence("The head of the request is too large."))
}

/// Whether the body came without a transfer coding, or in chunks and nothing else. hyper reads the chunks of any list
/// that ends in `chunked`, and leaves the rest of the list alone; whoever forwarded the request may have read it
/// otherwise, and then disagrees about where it ends (RFC 9112, 6.1 and 11.2).
fn is_chunked_at_most(head: &Parts) -> bool {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Whether `Content-Type` is `application/json`, whatever its parameters (RFC 9110, 8.3.1).
fn is_json(head: &Parts) -> bool {
    let content_type =
        head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}
