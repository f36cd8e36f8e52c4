//! The one proxy behind every key store, whatever its `XksProxyUriEndpoint` says.
//!
//! Place on the map: what [`account`](crate::kms::account) opens its connections with. AWS KMS resolves the endpoint's
//! name and dials port 443; on a test bench the proxy listens elsewhere, so that name and port are replaced here. The
//! endpoint's host still stands in the `Host` header, and is signed.

use crate::kms::account::Endpoints;
use crate::kms::client::{ClientTls, Dial};
use crate::real_endpoint::RealEndpoint;
use std::rc::Rc;

/// Answers every name with the same proxy.
pub struct ProxyDoor(pub Rc<RealEndpoint>);

impl Endpoints for ProxyDoor {
    fn open(&self, _host: &str) -> Option<(Rc<dyn Dial>, Option<ClientTls>)> {
        Some((Rc::clone(&self.0) as Rc<dyn Dial>, self.0.tls.clone()))
    }
}
