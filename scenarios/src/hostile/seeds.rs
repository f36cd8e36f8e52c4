//! The valid requests that mutations begin with.
//!
//! Place on the map: [`run`](super::run) proves that they are served before anything hostile is sent.

use super::case::{Operation, Shape};
use super::request::Request;
use crate::kms::inner::Sealed;
use crate::kms::requests::{Ask, RequestMetadata};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use xks_proxy::key::API_ROOT;

/// The AWS account's user who is said to ask.
pub const PRINCIPAL_ARN: &str = "arn:aws:iam::123456789012:user/Alice";
/// The KMS key that is said to be used.
pub const KMS_KEY_ARN: &str = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";

/// The key store under test, and what is encrypted in it.
pub struct Seeds {
    /// The value of `Host`.
    pub host: String,
    /// What stands before `/kms/xks/v1`; empty or beginning with a slash.
    pub prefix: String,
    /// The external key.
    pub key_id: String,
    /// What is encrypted.
    pub plaintext: Vec<u8>,
    /// Its additional authenticated data.
    pub aad: Vec<u8>,
    /// What the proxy made of it.
    pub sealed: Sealed,
    /// Requests of a corpus, as they lie in its files.
    pub corpus: Vec<Vec<u8>>,
}

impl Seeds {
    /// The path of an operation.
    pub fn path(&self, operation: Operation) -> String {
        let end = match operation {
            Operation::GetHealthStatus => return format!("{}{API_ROOT}/health", self.prefix),
            Operation::GetKeyMetadata => "metadata",
            Operation::Encrypt => "encrypt",
            Operation::Decrypt => "decrypt",
        };
        format!("{}{API_ROOT}/keys/{}/{end}", self.prefix, self.key_id)
    }

    /// A valid request; `random` varies what the spec leaves open.
    pub fn request(&self, operation: Operation, random: &mut ChaCha20Rng) -> Request {
        self.with_sealed(operation, &self.sealed, random)
    }

    /// A valid decrypt of something else that the proxy made of the plaintext and its AAD.
    pub fn decrypt(&self, sealed: &Sealed, random: &mut ChaCha20Rng) -> Request {
        self.with_sealed(Operation::Decrypt, sealed, random)
    }

    fn with_sealed(&self, operation: Operation, sealed: &Sealed, random: &mut ChaCha20Rng) -> Request {
        let ask = match operation {
            Operation::GetHealthStatus => Ask::Health,
            Operation::GetKeyMetadata => Ask::KeyMetadata,
            Operation::Encrypt => Ask::Encrypt { plaintext: &self.plaintext, aad: &self.aad, cdiv: true },
            Operation::Decrypt => Ask::Decrypt { sealed, aad: &self.aad },
        };
        let kms_operation = match operation {
            Operation::GetHealthStatus => "KmsHealthCheck",
            Operation::GetKeyMetadata => "DescribeKey",
            Operation::Encrypt => "Encrypt",
            Operation::Decrypt => "Decrypt",
        };
        let id = format!("{:016x}", random.next_u64());
        let metadata = RequestMetadata {
            kms_request_id: &id,
            kms_operation,
            principal_arn: (operation != Operation::GetHealthStatus).then_some(PRINCIPAL_ARN),
            kms_key_arn: matches!(operation, Operation::Encrypt | Operation::Decrypt).then_some(KMS_KEY_ARN),
            via_service: None,
            source_vpc: None,
        };
        Request::post(&self.host, self.path(operation), ask.body(&metadata, random).into_bytes())
    }

    /// What a valid request of this operation brings.
    pub fn shape(&self, operation: Operation) -> Shape {
        match operation {
            Operation::GetHealthStatus => Shape::Health,
            Operation::GetKeyMetadata => Shape::Metadata,
            Operation::Encrypt => {
                Shape::Encrypt { plaintext_bytes: self.plaintext.len(), cdiv_aad: Some(self.aad.clone()) }
            }
            Operation::Decrypt => Shape::Decrypt(self.plaintext.clone()),
        }
    }

    /// A request of a corpus, made to fit this key store: its host, and its path where that is one of the API.
    pub fn adapted(&self, bytes: &[u8]) -> Option<Request> {
        let mut request = Request::read(bytes, &self.host)?;
        if let Some((_, rest)) = request.target.rsplit_once(API_ROOT) {
            let rest = match rest.strip_prefix("/keys/").and_then(|rest| rest.split_once('/')) {
                Some((_, operation)) => format!("/keys/{}/{operation}", self.key_id),
                None => rest.to_owned(),
            };
            request.target = format!("{}{API_ROOT}{rest}", self.prefix);
        }
        Some(request)
    }
}
