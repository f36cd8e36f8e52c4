//! The requests: bodies as KMS writes them, each with a number of its own, signed by KMS's signer.
//!
//! Place on the map: `worker` has one [`Author`] per thread; `connection` puts what it writes on the wire.

use crate::shape::Shape;
use crate::target::Target;
use rand_chacha::ChaCha20Rng;
use scenarios::kms::answers::{self, Wrong};
use scenarios::kms::inner::Sealed;
use scenarios::kms::requests::{Ask, RequestMetadata};
use scenarios::kms::sigv4::{Signature, Signer};
use scenarios::streams::Streams;
use std::rc::Rc;
use xks_proxy::env::{Env, SystemEnv};
use xks_proxy::secret::Secret;

/// An operation of the XKS proxy API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Encrypt,
    Decrypt,
    Metadata,
    Health,
}

impl Operation {
    pub(crate) const ALL: [Self; 4] = [Self::Encrypt, Self::Decrypt, Self::Metadata, Self::Health];

    /// As on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Metadata => "metadata",
            Self::Health => "health",
        }
    }

    fn kms_operation(self) -> &'static str {
        match self {
            Self::Encrypt => "Encrypt",
            Self::Decrypt => "Decrypt",
            Self::Metadata => "DescribeKey",
            Self::Health => "KmsHealthCheck",
        }
    }
}

/// Bodies of one operation: the order of the fields differs from one to the next, as in KMS's requests.
const TEMPLATES_PER_OPERATION: usize = 16;

/// Requests of one operation that are signed beforehand, with `--pre-signed`.
const PRE_SIGNED_PER_OPERATION: usize = 64;

/// Stands in a template where each request has its number.
const ID: &str = "00000000-0000-4000-8000-000000000000";

/// A body but for its request's number.
struct Template {
    body: Vec<u8>,
    /// Where the number stands.
    id_at: usize,
    /// What a decrypt must give.
    plaintext: Rc<[u8]>,
}

/// A signed request, without its framing.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) operation: Operation,
    pub(crate) path: Rc<str>,
    pub(crate) signature: Signature,
    pub(crate) body: Vec<u8>,
    plaintext: Rc<[u8]>,
}

/// Writes the requests of one thread.
pub(crate) struct Author {
    signer: Signer,
    host: Rc<str>,
    /// In the order of [`Operation::ALL`].
    paths: [Rc<str>; 4],
    templates: [Vec<Template>; 4],
    pre_signed: Option<[Vec<Request>; 4]>,
    aad: Vec<u8>,
    cdiv: bool,
    plaintext_bytes: usize,
    variation: ChaCha20Rng,
    thread: u32,
}

impl Author {
    pub(crate) fn new(target: &Target, shape: &Shape, thread: u32) -> Self {
        let (base, key) = (&target.base_path, &target.key);
        let mut author = Self {
            signer: Signer::new(
                &target.access_key_id,
                Secret::new(target.secret.expose().to_owned()),
                &target.region,
            ),
            host: target.host.as_str().into(),
            paths: Operation::ALL.map(|operation| match operation {
                Operation::Health => format!("{base}/kms/xks/v1/health").into(),
                other => format!("{base}/kms/xks/v1/keys/{key}/{}", other.as_str()).into(),
            }),
            templates: Default::default(),
            pre_signed: None,
            aad: vec![0xa5; shape.aad_bytes as usize],
            cdiv: shape.cdiv,
            plaintext_bytes: shape.plaintext_bytes as usize,
            variation: Streams::new(1).stream("load", u64::from(thread)),
            thread,
        };
        for variant in 0..TEMPLATES_PER_OPERATION {
            // Every one different, so that a proxy that confuses two is found out.
            let plaintext: Vec<u8> =
                (0..author.plaintext_bytes).map(|n| (n + 31 * variant + thread as usize) as u8).collect();
            let ask = Ask::Encrypt { plaintext: &plaintext, aad: &author.aad.clone(), cdiv: shape.cdiv };
            author.add(Operation::Encrypt, &ask, plaintext.as_slice().into());
            author.add(Operation::Metadata, &Ask::KeyMetadata, Rc::default());
            author.add(Operation::Health, &Ask::Health, Rc::default());
        }
        author
    }

    fn add(&mut self, operation: Operation, ask: &Ask<'_>, plaintext: Rc<[u8]>) {
        let is_cryptographic = matches!(operation, Operation::Encrypt | Operation::Decrypt);
        let metadata = RequestMetadata {
            kms_request_id: ID,
            kms_operation: operation.kms_operation(),
            principal_arn: (operation != Operation::Health).then_some("arn:aws:iam::123456789012:user/Alice"),
            kms_key_arn: is_cryptographic
                .then_some("arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
            via_service: None,
            source_vpc: None,
        };
        let body = ask.body(&metadata, &mut self.variation);
        let id_at = body.find(ID).unwrap_or_else(|| unreachable!("the number is part of every body"));
        self.templates[operation as usize].push(Template { body: body.into_bytes(), id_at, plaintext });
    }

    /// How many encrypts there must be before there can be a decrypt.
    pub(crate) fn encrypts_to_prepare(&self) -> usize {
        TEMPLATES_PER_OPERATION
    }

    /// From now on decrypts ask for this ciphertext too.
    pub(crate) fn add_decrypt(&mut self, request: &Request, sealed: &Sealed) {
        let aad = self.aad.clone();
        self.add(Operation::Decrypt, &Ask::Decrypt { sealed, aad: &aad }, Rc::clone(&request.plaintext));
    }

    /// Signs a few requests of every operation that has a body, to be repeated.
    pub(crate) fn sign_beforehand(&mut self) {
        let pre_signed =
            Operation::ALL.map(|operation| match self.templates[operation as usize].is_empty() {
                true => Vec::new(),
                false => (0..PRE_SIGNED_PER_OPERATION).map(|n| self.sign(operation, n as u64)).collect(),
            });
        self.pre_signed = Some(pre_signed);
    }

    /// The thread's request with this number.
    pub(crate) fn write(&self, operation: Operation, number: u64) -> Request {
        match &self.pre_signed {
            None => self.sign(operation, number),
            Some(pre_signed) => {
                let choice = &pre_signed[operation as usize];
                choice[(number % choice.len() as u64) as usize].clone()
            }
        }
    }

    fn sign(&self, operation: Operation, number: u64) -> Request {
        let choice = &self.templates[operation as usize];
        let template = &choice[(number % choice.len() as u64) as usize];
        let mut body = template.body.clone();
        // A UUID of version 4 in form: the thread's number in its first group, the request's in its last.
        put_hex(&mut body[template.id_at..template.id_at + 8], u64::from(self.thread));
        put_hex(&mut body[template.id_at + 24..template.id_at + 36], number);
        let path = Rc::clone(&self.paths[operation as usize]);
        let headers = [("content-type", "application/json"), ("host", &*self.host)];
        let signature = self.signer.sign("POST", &path, &headers, &body, SystemEnv.now());
        Request { operation, path, signature, body, plaintext: Rc::clone(&template.plaintext) }
    }

    /// Whether a 200 is what was asked for. Gives what an encrypt made.
    ///
    /// # Errors
    /// What is wrong with it, quoting nothing of it.
    pub(crate) fn judge(&self, request: &Request, body: &[u8]) -> Result<Option<Sealed>, String> {
        let words = |wrong: Wrong| match wrong {
            Wrong::Form(text) | Wrong::IntegrityValue(text) => text,
        };
        match request.operation {
            Operation::Encrypt => {
                let cdiv_aad = self.cdiv.then_some(self.aad.as_slice());
                answers::read_encrypt(body, self.plaintext_bytes, cdiv_aad).map(Some).map_err(words)
            }
            Operation::Decrypt => match answers::read_decrypt(body).map_err(words)? {
                plaintext if *plaintext == *request.plaintext => Ok(None),
                _ => Err("a plaintext that was never encrypted".into()),
            },
            Operation::Metadata => answers::read_key_metadata(body).map(|_| None).map_err(words),
            Operation::Health => answers::read_health(body).map(|_| None).map_err(words),
        }
    }
}

/// The lowest digits of `number`, as many as there is room for.
fn put_hex(room: &mut [u8], mut number: u64) {
    for digit in room.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}
