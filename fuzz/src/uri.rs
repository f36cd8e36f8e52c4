//! From a request's URI to key store, operation and key, against the grammar of the spec (XKS-NET-4, XKS-NET-5).

use crate::world::{PREFIX, World};
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use xks_proxy::error::ErrorName;
use xks_proxy::events::Operation;

/// A request target as it stands in a request line, POSTed without a signature: it finds its key store exactly when the
/// grammar says so, and the audit event names the same key store, operation and key; nothing is decoded on the way.
pub(crate) fn open() -> impl FnMut(&[u8]) {
    let world = World::new();
    move |data| {
        let Ok(uri) = Uri::try_from(data) else { return };
        if uri.path() == world.app.ping_path {
            return;
        }
        let expected = by_grammar(&uri);
        let request = Request::post(uri.clone()).header("content-type", "application/json");
        let Ok(request) = request.body(Full::<Bytes>::default()) else { return };
        world.send(request);
        let events = world.events();
        let [event] = &events[..] else { panic!("{} audit events for {uri}", events.len()) };
        let found = event.key_store.as_deref().zip(event.operation);
        assert_eq!(
            found.map(|(store, operation)| (store, operation, event.key_id.as_deref())),
            expected,
            "{uri}"
        );
        let name = match expected {
            Some(_) => ErrorName::AuthenticationFailedException,
            None => ErrorName::InvalidUriPathException,
        };
        assert_eq!(event.error_name, Some(name), "{uri}");
        assert!(world.calls().is_empty(), "{uri} reached the HSM");
    }
}

/// The grammar, read from the left, where the proxy reads from the right.
fn by_grammar(uri: &Uri) -> Option<(&'static str, Operation, Option<&str>)> {
    if uri.path_and_query().map_or(0, |text| text.as_str().len()) > 256 {
        return None;
    }
    let (store, path) = match uri.path().strip_prefix(PREFIX) {
        Some(path) => ("one", path),
        None => ("other", uri.path()),
    };
    let segments: Vec<&str> = path.split('/').collect();
    match segments[..] {
        ["", "kms", "xks", "v1", "health"] => Some((store, Operation::GetHealthStatus, None)),
        ["", "kms", "xks", "v1", "keys", key, operation] => {
            let operation = match operation {
                "metadata" => Operation::GetKeyMetadata,
                "encrypt" => Operation::Encrypt,
                "decrypt" => Operation::Decrypt,
                _ => return None,
            };
            let letters = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            let is_key = letters && (1..=128).contains(&key.len()) && key != "." && key != "..";
            is_key.then_some((store, operation, Some(key)))
        }
        _ => None,
    }
}
