//! A network in memory: connections that take no time and lose nothing.
//!
//! Place on the map: for tests of the emulated HSM behind a network, here and in `scenarios/tests`.

use sim_hsm::network::{Connect, Opening, Transport};
use std::io;
use std::sync::{Arc, Mutex};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use xks_proxy::server::Listen;

/// One address. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    listener: Arc<Mutex<Option<mpsc::UnboundedSender<DuplexStream>>>>,
}

impl Memory {
    /// Listens; a second listener replaces the first.
    pub(crate) fn listen(&self) -> MemoryListener {
        let (sender, incoming) = mpsc::unbounded_channel();
        *self.listener.lock().unwrap() = Some(sender);
        MemoryListener { incoming }
    }

    /// A connection, refused where nobody listens.
    pub(crate) fn dial(&self) -> io::Result<DuplexStream> {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let listener = self.listener.lock().unwrap();
        let sent = listener.as_ref().map(|listener| listener.send(server));
        match sent {
            Some(Ok(())) => Ok(client),
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

impl Connect for Memory {
    fn connect(&self) -> Opening<'_> {
        Box::pin(async { Ok(Box::new(self.dial()?) as Box<dyn Transport>) })
    }
}

pub(crate) struct MemoryListener {
    incoming: mpsc::UnboundedReceiver<DuplexStream>,
}

impl Listen for MemoryListener {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<DuplexStream> {
        match self.incoming.recv().await {
            Some(stream) => Ok(stream),
            None => std::future::pending().await,
        }
    }
}
