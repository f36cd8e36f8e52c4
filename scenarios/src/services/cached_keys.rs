//! The shape most services share: resources (queues, topics, streams) that principals use, each with a plaintext data key
//! that the service keeps for a time for one resource and one principal.

use super::cache::KeyCache;
use super::desk::{Desk, Visible};
use super::objects::Objects;
use super::retry::Tried;
use crate::kms::{Caller, CiphertextBlob, KmsOperation};
use crate::trace::ServiceOutcome;
use std::rc::Rc;
use std::time::Duration;

/// What a cached key serves: a resource, a principal, and which of the several keys the service keeps for both.
pub(super) type Slot = (usize, usize, u8);

pub(super) struct CachedKeys {
    pub(super) desk: Rc<Desk>,
    pub(super) principals: Vec<Caller>,
    pub(super) resources: Objects,
    pub(super) cache: KeyCache<Slot>,
    pub(super) visible: &'static Visible,
    pub(super) ttl: Duration,
}

/// How a service gets a key to write with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteKey {
    /// GenerateDataKey.
    Generate,
    /// GenerateDataKey, and Decrypt of what came back.
    GenerateAndDecrypt,
}

impl CachedKeys {
    /// Makes a resource and its first data key.
    pub(super) async fn create(&self, principal: usize) -> ServiceOutcome {
        let made = self.desk.encrypt(KmsOperation::GenerateDataKey, &self.principals[principal]).await;
        self.desk.outcome(
            self.visible,
            made.map(|key| {
                if !self.resources.is_full() {
                    self.resources.keep(key, 0.0);
                }
            }),
        )
    }

    /// Writes to a resource, which is created if it does not exist yet.
    pub(super) async fn write(&self, slot: Slot, with: WriteKey) -> ServiceOutcome {
        let (resource, principal, _) = slot;
        if self.resources.get(resource).is_none() {
            return self.create(principal).await;
        }
        let caller = &self.principals[principal];
        let new_key = async {
            let made = match with {
                WriteKey::Generate => self.desk.encrypt(KmsOperation::GenerateDataKey, caller).await,
                WriteKey::GenerateAndDecrypt => {
                    self.desk.encrypt_and_decrypt(KmsOperation::GenerateDataKey, caller).await
                }
            };
            self.new_data_key(resource, made)
        };
        self.cache.serve(&self.desk, slot, self.visible, new_key).await
    }

    /// What is written from now on lies under this key.
    fn new_data_key(&self, resource: usize, made: Tried<CiphertextBlob>) -> Tried<Duration> {
        made.map(|key| {
            self.resources.replace(resource, key);
            self.ttl
        })
    }

    /// Reads from a resource (Decrypt).
    pub(super) async fn read(&self, slot: Slot) -> ServiceOutcome {
        let (resource, principal, _) = slot;
        let Some(key) = self.resources.get(resource) else { return self.create(principal).await };
        let open = async { self.desk.decrypt(&key, &self.principals[principal]).await.map(|()| self.ttl) };
        self.cache.serve(&self.desk, slot, self.visible, open).await
    }
}
