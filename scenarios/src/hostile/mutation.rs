//! What is changed about a valid request, and what must then come back.
//!
//! Place on the map: [`plan`] lists the mutations of the targets asked for; [`run`](super::run) goes through the list
//! again and again, each time with other random choices.

mod body;
mod bytes;
mod framing;
mod headers;
mod sigv4;
mod uri;

use super::case::{Case, Expected, Operation, Target};
use super::framing::Framing;
use super::seeds::Seeds;
use super::signing::Signing;
use rand_chacha::ChaCha20Rng;

/// `errorName` of a request that is not as the spec asks.
const VALIDATION: &str = "ValidationException";
const UNSUPPORTED: &str = "UnsupportedOperationException";
const INVALID_CIPHERTEXT: &str = "InvalidCiphertextException";
const AUTHENTICATION: &str = "AuthenticationFailedException";
const INVALID_PATH: &str = "InvalidUriPathException";
const KEY_NOT_FOUND: &str = "KeyNotFoundException";

type Make = Box<dyn Fn(&Seeds, &mut ChaCha20Rng) -> Case>;

/// One way to change a request.
pub struct Mutation {
    make: Make,
}

impl Mutation {
    fn new(make: impl Fn(&Seeds, &mut ChaCha20Rng) -> Case + 'static) -> Self {
        Self { make: Box::new(make) }
    }

    /// A case of it.
    pub fn case(&self, seeds: &Seeds, random: &mut ChaCha20Rng) -> Case {
        (self.make)(seeds, random)
    }
}

/// All mutations of these targets.
pub fn plan(targets: &[Target]) -> Vec<Mutation> {
    let mut plan = Vec::new();
    for target in targets {
        plan.extend(match target {
            Target::Uri => uri::mutations(),
            Target::Headers => headers::mutations(),
            Target::Sigv4 => sigv4::mutations(),
            Target::Encrypt => body::mutations(Operation::Encrypt),
            Target::Decrypt => body::mutations(Operation::Decrypt),
            Target::Metadata => body::mutations(Operation::GetKeyMetadata),
            Target::Health => body::mutations(Operation::GetHealthStatus),
            Target::Framing => framing::mutations(),
            Target::Corpus => bytes::corpus_mutations(),
        });
    }
    plan
}

/// The target whose mutations change the body of this operation.
fn body_target(operation: Operation) -> Target {
    match operation {
        Operation::GetHealthStatus => Target::Health,
        Operation::GetKeyMetadata => Target::Metadata,
        Operation::Encrypt => Target::Encrypt,
        Operation::Decrypt => Target::Decrypt,
    }
}

/// A valid request, validly signed and framed, before it is changed.
fn valid(
    seeds: &Seeds,
    random: &mut ChaCha20Rng,
    target: Target,
    operation: Operation,
    mutation: impl Into<String>,
    expected: Expected,
) -> Case {
    Case {
        target,
        mutation: mutation.into(),
        operation,
        request: seeds.request(operation, random),
        signing: Signing::Valid,
        framing: Framing::Sized,
        expected,
    }
}
