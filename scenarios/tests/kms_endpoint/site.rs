//! KMS on a real socket in front of a proxy, and a client that speaks HTTP by hand.

use crate::proxy::{ACCESS_KEY_ID, PREFIXES, Proxy, SECRET};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use scenarios::kms::lifecycle::ConnectionState;
use scenarios::kms::settings::KmsSettings;
use scenarios::kms_endpoint::Api;
use scenarios::kms_endpoint::journal::Journal;
use scenarios::kms_endpoint::server::{Limits, serve};
use scenarios::real_endpoint::RealEndpoint;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// On a real runtime, with a `LocalSet`.
pub(crate) fn really<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

/// Nothing takes minutes, and a busy machine makes no answer late.
pub(crate) fn settings() -> KmsSettings {
    KmsSettings {
        patience_ms: 60_000,
        connect_s: 0,
        disconnect_s: 0,
        credential_spread_s: 0,
        propagation_ms: 0,
        health_poll_s: 0,
        ..KmsSettings::default()
    }
}

/// An answer, read to the end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).map_err(|error| format!("{error}: {self:?}")).unwrap()
    }

    /// Status and class of a failure, and its message.
    pub(crate) fn failure(&self) -> (u16, String, String) {
        let json = self.json();
        let class = json["__type"].as_str().unwrap_or_default().to_owned();
        assert_eq!(self.header("x-amzn-errortype"), Some(class.as_str()), "{self:?}");
        (self.status, class, json["message"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

pub(crate) struct Site {
    pub(crate) proxy: Proxy,
    pub(crate) api: Rc<Api>,
    pub(crate) address: SocketAddr,
    _server: Server,
}

/// Ends with the site.
struct Server(tokio::task::JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) async fn endpoint(proxy: &Proxy, tls_name: Option<&str>) -> Rc<RealEndpoint> {
    let pem = proxy.authority_pem.as_deref().map(str::as_bytes);
    Rc::new(RealEndpoint::open("--proxy", &proxy.url, pem, tls_name).await.unwrap())
}

impl Site {
    pub(crate) async fn new(settings: KmsSettings) -> Self {
        Self::with(Proxy::start(None).await, None, settings, Limits::default()).await
    }

    #[expect(clippy::disallowed_methods, reason = "the tests' own server")]
    pub(crate) async fn with(
        proxy: Proxy,
        tls_name: Option<&str>,
        settings: KmsSettings,
        limits: Limits,
    ) -> Self {
        let journal = Journal::new(Box::new(|_| ()));
        let door = endpoint(&proxy, tls_name).await;
        let api = Api::new("111122223333", "us-east-1", settings, door, [7; 32], journal).unwrap();
        let api = Rc::new(api);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = serve(listener, Rc::clone(&api), limits, std::future::pending());
        let _server = Server(tokio::task::spawn_local(serving));
        Self { proxy, api, address, _server }
    }

    #[expect(clippy::disallowed_methods, reason = "a client of the tests' own")]
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these bytes and reads until the server closes.
    pub(crate) async fn send(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect().await;
        // Who refuses early may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        read(&mut stream).await
    }

    /// One call as an SDK makes it; the signature is not looked at.
    pub(crate) async fn call(&self, operation: &str, members: Value) -> Answer {
        self.send(request(operation, &members.to_string()).as_bytes()).await
    }

    pub(crate) async fn ok(&self, operation: &str, members: Value) -> Value {
        let answer = self.call(operation, members).await;
        assert_eq!(answer.status, 200, "{operation}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/x-amz-json-1.1"));
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }

    pub(crate) async fn refused(&self, operation: &str, members: Value) -> (u16, String, String) {
        self.call(operation, members).await.failure()
    }

    /// A connected key store at the prefix number `number`; its id.
    pub(crate) async fn store(&self, number: usize) -> String {
        let created = self.ok("CreateCustomKeyStore", key_store(number)).await;
        let id = created["CustomKeyStoreId"].as_str().unwrap().to_owned();
        self.ok("ConnectCustomKeyStore", json!({ "CustomKeyStoreId": id })).await;
        self.settled(&id, ConnectionState::Connected).await;
        id
    }

    /// A key in it; its ARN.
    pub(crate) async fn key(&self, store: &str, external_key_id: &str) -> String {
        let members = json!({
            "Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": store, "XksKeyId": external_key_id,
        });
        let created = self.ok("CreateKey", members).await;
        created["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn settled(&self, id: &str, state: ConnectionState) {
        while self.api.account().key_store(id).unwrap().connection().0 != state {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

pub(crate) fn key_store(number: usize) -> Value {
    json!({
        "CustomKeyStoreName": format!("store {number}"),
        "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
        "XksProxyConnectivity": "PUBLIC_ENDPOINT",
        "XksProxyUriEndpoint": "https://xks-proxy.example.com",
        "XksProxyUriPath": format!("{}/kms/xks/v1", PREFIXES[number]),
        "XksProxyAuthenticationCredential": {
            "AccessKeyId": ACCESS_KEY_ID, "RawSecretAccessKey": SECRET,
        },
    })
}

pub(crate) fn request(operation: &str, body: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: kms.us-east-1.amazonaws.com\r\nContent-Type: application/x-amz-json-1.1\r\n\
         X-Amz-Target: TrentService.{operation}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=AKIAALICE/20260101/us-east-1/kms/aws4_request, SignedHeaders=host, \
         Signature=00\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One answer, until the server closes.
pub(crate) async fn read(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn bytes(member: &Value) -> Vec<u8> {
    STANDARD.decode(member.as_str().unwrap()).unwrap()
}
