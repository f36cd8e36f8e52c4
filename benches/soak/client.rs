//! One client: encrypt, check, decrypt, check, over and over, on a connection that is sometimes a new one.
//!
//! Place on the map: `main` starts as many as asked for; what they see goes to `tally`.

use crate::tally::{Seen, Tally};
use crate::world::{KEY, PREFIX, REGION, Signer, World};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// A request that has no answer after this time is lost. KMS itself gives up after 250 ms; how many answers came later than
/// that is counted apart, since client and proxy share the processors here.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests on one connection before it is given up for a new one.
const REQUESTS_PER_CONNECTION: u32 = 2_000;

/// Every so many rounds a ciphertext is kept, to be decrypted at the end.
const KEEP_EVERY: u64 = 500;

/// Most ciphertexts a client keeps.
const KEPT_MAX: usize = 1_000;

type Failure = Box<dyn Error + Send + Sync>;

/// A ciphertext and what it must decrypt to.
pub(crate) struct Kept {
    plaintext: Vec<u8>,
    additional: Vec<u8>,
    sealed: Value,
}

pub(crate) struct Worker {
    number: usize,
    world: Arc<World>,
    tally: Arc<Tally>,
    connection: Option<Connection>,
}

struct Connection {
    sender: Sender,
    requests: u32,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// What a request came to.
enum Outcome {
    /// 200, with its JSON.
    Done(Value),
    /// Anything else; it has been counted.
    Refused,
}

impl Worker {
    pub(crate) fn new(number: usize, world: Arc<World>, tally: Arc<Tally>) -> Self {
        Self { number, world, tally, connection: None }
    }

    /// Until the world stops; gives the ciphertexts to decrypt again.
    pub(crate) async fn run(mut self) -> Vec<Kept> {
        let mut kept = Vec::new();
        for round in 0_u64.. {
            if self.world.is_stopped() {
                break;
            }
            let plaintext = self.text("plaintext", round, 1 + usize::try_from(round * 37 % 300).unwrap_or(0));
            let additional = self.text("aad", round, usize::try_from(round * 53 % 120).unwrap_or(0));
            let Some(sealed) = self.encrypt(&plaintext, &additional).await else { continue };
            self.decrypt(&plaintext, &additional, &sealed).await;
            if round % KEEP_EVERY == 0 && kept.len() < KEPT_MAX {
                kept.push(Kept { plaintext, additional, sealed });
            }
        }
        kept
    }

    /// Bytes that no other client or round has.
    fn text(&self, what: &str, round: u64, len: usize) -> Vec<u8> {
        let seed = Sha256::digest(format!("{what} {} {round}", self.number));
        seed.iter().copied().cycle().take(len).collect()
    }

    async fn encrypt(&mut self, plaintext: &[u8], additional: &[u8]) -> Option<Value> {
        let body = format!(
            r#"{{"requestMetadata":{METADATA},"plaintext":"{}","encryptionAlgorithm":"AES_GCM","additionalAuthenticatedData":"{}","ciphertextDataIntegrityValueAlgorithm":"SHA_256"}}"#,
            STANDARD.encode(plaintext),
            STANDARD.encode(additional),
        );
        let Outcome::Done(sealed) = self.ask("encrypt", body).await else { return None };
        match integrity_value(additional, &sealed) {
            Some(value) if Some(&*value) == sealed["ciphertextDataIntegrityValue"].as_str() => Some(sealed),
            _ => {
                self.tally.count(Seen::Wrong("an integrity value that does not fit".into()));
                None
            }
        }
    }

    async fn decrypt(&mut self, plaintext: &[u8], additional: &[u8], sealed: &Value) -> bool {
        let body = decrypt_body(additional, sealed);
        let Outcome::Done(opened) = self.ask("decrypt", body).await else { return false };
        let right = opened["plaintext"].as_str() == Some(&STANDARD.encode(plaintext));
        if !right {
            self.tally.count(Seen::Wrong("a plaintext that was never encrypted".into()));
        }
        right
    }

    /// One request and its judgement.
    async fn ask(&mut self, operation: &str, body: String) -> Outcome {
        let (began, signer) = (Instant::now(), self.world.signer());
        let answer = match timeout(PATIENCE, self.send(operation, &signer, body)).await {
            Ok(answer) => answer,
            Err(_) => Err("no answer in five seconds".into()),
        };
        let took = began.elapsed();
        let (status, json) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.connection = None;
                self.tally.count(Seen::Lost(error.to_string()));
                return Outcome::Refused;
            }
        };
        if status == 200 {
            self.tally.count(Seen::Right(took));
            return Outcome::Done(json);
        }
        let name = json["errorName"].as_str().unwrap_or("no errorName").to_owned();
        let means_later =
            matches!(&*name, "InternalException" | "DependencyTimeoutException" | "ThrottlingException");
        self.tally.count(match means_later && self.world.excuses(began) {
            true => Seen::Excused(name, took),
            false => Seen::Wrong(format!("{operation}: {status} {name}")),
        });
        Outcome::Refused
    }

    async fn send(
        &mut self,
        operation: &str,
        signer: &Signer,
        body: String,
    ) -> Result<(u16, Value), Failure> {
        if self.connection.as_ref().is_none_or(|connection| connection.requests >= REQUESTS_PER_CONNECTION) {
            self.connection = Some(self.connect().await?);
        }
        let request = signed(&self.world, signer, operation, body)?;
        let Some(connection) = &mut self.connection else { return Err("no connection".into()) };
        connection.requests += 1;
        let response = match &mut connection.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        read(response).await
    }

    /// Every fourth client speaks HTTP/2.
    async fn connect(&self) -> Result<Connection, Failure> {
        let tcp = TcpStream::connect(self.world.address()).await?;
        tcp.set_nodelay(true)?;
        let mut tls = rustls::ClientConfig::clone(&self.world.client_tls());
        let two = self.number % 4 == 3;
        tls.alpn_protocols = vec![if two { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let name = ServerName::try_from("localhost")?;
        let stream = TokioIo::new(TlsConnector::from(Arc::new(tls)).connect(name, tcp).await?);
        let sender = if two {
            let (sender, driver) = http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(driver);
            Sender::Http2(sender)
        } else {
            let (sender, driver) = http1::handshake(stream).await?;
            tokio::spawn(driver);
            Sender::Http1(sender)
        };
        self.tally.connected();
        Ok(Connection { sender, requests: 0 })
    }
}

const METADATA: &str = r#"{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsOperation":"Encrypt","kmsRequestId":"soak","kmsKeyArn":"arn:aws:kms:us-east-1:123456789012:key/soak"}"#;

fn decrypt_body(additional: &[u8], sealed: &Value) -> String {
    let field = |name: &str| sealed[name].as_str().unwrap_or_default().to_owned();
    format!(
        r#"{{"requestMetadata":{METADATA},"encryptionAlgorithm":"AES_GCM","additionalAuthenticatedData":"{}","ciphertext":"{}","initializationVector":"{}","authenticationTag":"{}","ciphertextMetadata":"{}"}}"#,
        STANDARD.encode(additional),
        field("ciphertext"),
        field("initializationVector"),
        field("authenticationTag"),
        field("ciphertextMetadata"),
    )
}

/// SHA-256 over AAD, metadata, IV, ciphertext and tag (XKS-ENC-9), reckoned anew.
fn integrity_value(additional: &[u8], sealed: &Value) -> Option<String> {
    let mut hash = Sha256::new();
    hash.update(additional);
    for name in ["ciphertextMetadata", "initializationVector", "ciphertext", "authenticationTag"] {
        hash.update(STANDARD.decode(sealed[name].as_str()?).ok()?);
    }
    Some(STANDARD.encode(hash.finalize()))
}

fn signed(
    world: &World,
    signer: &Signer,
    operation: &str,
    body: String,
) -> Result<Request<Full<Bytes>>, Failure> {
    let uri = format!("https://{}/{PREFIX}/kms/xks/v1/keys/{KEY}/{operation}", world.address());
    let host = world.address().to_string();
    let identity = Credentials::from_keys(&signer.id, &signer.secret, None).into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(REGION)
        .name("kms-xks-proxy")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()?
        .into();
    let unsigned = [("content-type", "application/json"), ("host", &*host)];
    let signable =
        SignableRequest::new("POST", &uri, unsigned.into_iter(), SignableBody::Bytes(body.as_bytes()))?;
    let (instructions, _) = sign(signable, &params)?.into_parts();
    let mut request = Request::post(&uri);
    for (name, value) in unsigned.into_iter().chain(instructions.headers()) {
        request = request.header(name, value);
    }
    Ok(request.body(Full::new(Bytes::from(body)))?)
}

async fn read(response: Response<Incoming>) -> Result<(u16, Value), Failure> {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    let json =
        serde_json::from_slice(&body).map_err(|_| format!("status {status} with a body that is not JSON"))?;
    Ok((status, json))
}

/// How many of the ciphertexts made along the way no longer decrypt to what they were made of.
pub(crate) async fn decrypt_again(
    world: &Arc<World>,
    tally: &Arc<Tally>,
    kept: Vec<Kept>,
) -> Result<usize, String> {
    // The last fault has ended; the proxy has its two seconds.
    while world.excuses(Instant::now()) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut worker = Worker::new(0, Arc::clone(world), Arc::clone(tally));
    println!("decrypting {} ciphertexts once more", kept.len());
    let mut lost = 0;
    for Kept { plaintext, additional, sealed } in kept {
        if !worker.decrypt(&plaintext, &additional, &sealed).await {
            lost += 1;
        }
    }
    Ok(lost)
}
