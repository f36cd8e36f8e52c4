//! Reading a body no further than its limit (XKS-NET-9).
//!
//! Place on the map: after routing, before admission. Memory is taken as bytes arrive, never on the word of
//! `Content-Length`, for no longer than the request's deadline, and all bodies together are bounded too.

use crate::bodies::Held;
use crate::error::{ErrorName, XksError};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt;
use std::fmt::Display;
use std::pin::{Pin, pin};
use tokio::time::{Instant, timeout_at};

/// How far a refused body is read on and thrown away. A megabyte is far more than any client has under way that did not
/// mean to send it.
const DISCARD_BYTES_MAX: u64 = 1_048_576;

/// Reads one body.
pub(super) struct Reader {
    pub(super) bytes_max: usize,
    /// Until when, if at all, a body that is refused is read on, so that its sender has sent it when the answer comes.
    pub(super) discard_until: Option<Instant>,
}

impl Reader {
    /// Reads the whole body, of a stated length or not.
    ///
    /// # Errors
    /// 413 as soon as it is known to exceed `bytes_max`; 429 when all bodies together exceed what `held` may hold;
    /// ValidationException when the sender breaks off.
    pub(super) async fn read<B>(&self, body: B, held: &mut Held<'_>) -> Result<Bytes, XksError>
    where
        B: Body<Data = Bytes>,
        B::Error: Display,
    {
        let mut body = pin!(body);
        let read = self.take(&mut body, held).await;
        if let (Err(_), Some(deadline)) = (&read, self.discard_until) {
            let _ = timeout_at(deadline, discard(&mut body)).await;
        }
        read
    }

    async fn take<B>(&self, body: &mut Pin<&mut B>, held: &mut Held<'_>) -> Result<Bytes, XksError>
    where
        B: Body<Data = Bytes>,
        B::Error: Display,
    {
        let bytes_max = self.bytes_max;
        if body.size_hint().lower() > u64::try_from(bytes_max).unwrap_or(u64::MAX) {
            return Err(too_large(bytes_max));
        }
        // Nearly every body arrives in one piece, which is then passed on without copying it.
        let first = data(body).await?.unwrap_or_default();
        if first.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        hold(held, first.len())?;
        let mut rest = BytesMut::new();
        while let Some(more) = data(body).await? {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            if rest.len() + more.len() > bytes_max {
                return Err(too_large(bytes_max));
            }
            hold(held, more.len())?;
            rest.extend_from_slice(&more);
        }
        Ok(if rest.is_empty() { first } else { rest.freeze() })
    }
}

fn hold(held: &mut Held<'_>, more: usize) -> Result<(), XksError> {
    if held.grow(more) {
        return Ok(());
    }
    let detail = "the bodies of all requests together have reached limits.body_bytes_in_flight_max";
    Err(XksError::new(ErrorName::ThrottlingException, detail))
}

async fn discard<B>(body: &mut Pin<&mut B>)
where
    B: Body<Data = Bytes>,
    B::Error: Display,
{
    let mut left = DISCARD_BYTES_MAX;
    // Not begun when it is known that it would not be ended.
    if body.size_hint().lower() > left {
        return;
    }
    while let Ok(Some(more)) = data(body).await {
        match left.checked_sub(more.len() as u64) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// The next piece of data; trailers are passed over.
async fn data<B>(body: &mut Pin<&mut B>) -> Result<Option<Bytes>, XksError>
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
