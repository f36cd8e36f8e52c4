//! Reading a body no further than its limit (XKS-NET-9).
//!
//! Place on the map: after routing, before admission. Memory is taken as bytes arrive, never on the word of
//! `Content-Length`, and for no longer than the request's deadline: what all callers together can make the proxy hold
//! is what they can send within one deadline.

use crate::error::{ErrorName, XksError};
use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt;
use std::fmt::Display;
use std::pin::pin;

/// Reads the whole body, of a stated length or not.
///
/// # Errors
/// 413 as soon as it is known to exceed `bytes_max`; ValidationException when the sender breaks off.
pub(super) async fn read<B>(body: B, bytes_max: usize) -> Result<Bytes, XksError>
where
    B: Body<Data = Bytes>,
    B::Error: Display,
{
    if body.size_hint().lower() > u64::try_from(bytes_max).unwrap_or(u64::MAX) {
        return Err(too_large(bytes_max));
    }
    let mut body = pin!(body);
    // Nearly every body arrives in one piece, which is then passed on without copying it.
    let first = data(&mut body).await?.unwrap_or_default();
    let mut rest = BytesMut::new();
    while let Some(more) = data(&mut body).await? {
        if rest.is_empty() {
            rest.extend_from_slice(&first);
        }
        rest.extend_from_slice(&more);
        if rest.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
    }
    let whole = if rest.is_empty() { first } else { rest.freeze() };
    if whole.remaining() > bytes_max { Err(too_large(bytes_max)) } else { Ok(whole) }
}

/// The next piece of data; trailers are passed over.
async fn data<B>(body: &mut std::pin::Pin<&mut B>) -> Result<Option<Bytes>, XksError>
where
    B: Body<Data = Bytes>,
    B::Error: Display,
{
    while !body.is_end_stream() {
        match body.frame().await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                Err(_trailers) => continue,
            },
            Some(Err(error)) => {
                let error =
                    XksError::new(ErrorName::ValidationException, format!("reading the body: {error}"));
                return Err(error.with_sentence("The body could not be read to its end."));
            }
            None => break,
        }
    }
    Ok(None)
}

fn too_large(bytes_max: usize) -> XksError {
    let detail = format!("the body has more than limits.body_bytes_max = {bytes_max} bytes");
    XksError::new(ErrorName::ValidationException, detail)
        .with_status(StatusCode::PAYLOAD_TOO_LARGE)
        .with_sentence("The body is too large.")
}
