//! A client that does nothing wrong and must be answered rightly, whatever others do meanwhile.

use crate::messages::{Answer, Pieces};
use crate::support::{metadata, with};
use crate::target::{HUNG, Io, Target};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Calls one after the other until it is told to stop, on a connection that is never closed on it and on new ones.
pub(crate) struct Healthy {
    stop: oneshot::Sender<()>,
    calling: JoinHandle<u32>,
}

impl Healthy {
    pub(crate) fn start(target: &Target) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let target = target.clone();
        let calling = tokio::spawn(async move {
            let mut kept = target.connect().await;
            let mut rounds = 0;
            while stopped.try_recv().is_err() {
                round_trip(&mut *kept).await;
                round_trip(&mut *target.connect().await).await;
                rounds += 1;
            }
            rounds
        });
        Self { stop, calling }
    }

    /// Fails when a single answer was wrong, and when there were none.
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        assert!(self.calling.await.unwrap() > 0);
    }
}

/// An Encrypt, and a Decrypt of what it gave.
pub(crate) async fn round_trip(io: &mut dyn Io) {
    let plaintext = "SGVsbG8gV29ybGQh";
    let asked = with(crate::support::encrypt(plaintext), "requestMetadata", metadata());
    let sealed = call(io, "keys/foo/encrypt", &asked).await;
    let asked = json!({
        "requestMetadata": metadata(),
        "ciphertext": sealed["ciphertext"],
        "ciphertextMetadata": sealed["ciphertextMetadata"],
        "initializationVector": sealed["initializationVector"],
        "authenticationTag": sealed["authenticationTag"],
        "encryptionAlgorithm": "AES_GCM"
    });
    let opened = call(io, "keys/foo/decrypt", &asked).await;
    assert_eq!(opened, json!({ "plaintext": plaintext }));
}

async fn call(io: &mut dyn Io, operation: &str, body: &Value) -> Value {
    io.write_all(&Pieces::new(operation, &body.to_string()).with_length("")).await.unwrap();
    io.flush().await.unwrap();
    let answer = timeout(HUNG, Answer::read(io)).await.unwrap_or_else(|_| panic!("no answer to {operation}"));
    let answer = answer.unwrap_or_else(|| panic!("closed on a client that did nothing wrong"));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}
