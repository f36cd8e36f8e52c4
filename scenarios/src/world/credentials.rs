//! The credential between KMS and the proxies: the one that a run begins with, and a fresh one for every rotation.
//!
//! Place on the map: changed by the [`stage`](super::stage), and known to whoever has to sign as KMS does.

use super::proxy_host::KeyPair;
use super::{ACCESS_KEY_ID, SECRET};
use std::cell::Cell;

/// The access key id that the first rotation changes to; the later ones go on from it.
const NEXT_ACCESS_KEY_ID: &str = "AKIAI44QH7DHBEXAMPLE";
/// What the secret access keys of all rotations begin with: a number follows. They guard nothing but the simulation.
pub(super) const NEXT_SECRETS: &str = "je7MtGbClwBF/2Zp9Utk/h3yCo8nvbEXAMPLEKEYEXAMPLE";
/// Of which access key ids consist (XKS-AUTH-3).
const BASE_32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Which credential is the newest that the proxies accept. It is numbered by the rotations so far, from 0.
#[derive(Default)]
pub(super) struct Credentials {
    newest: Cell<u32>,
}

impl Credentials {
    /// The number of the newest.
    pub(super) fn newest(&self) -> u32 {
        self.newest.get()
    }

    /// A rotation begins: the number of the credential that it changes to.
    pub(super) fn renew(&self) -> u32 {
        self.newest.update(|number| number + 1);
        self.newest()
    }
}

/// Credential number `number`.
pub(super) fn credential(number: u32) -> KeyPair {
    let Some(mut left) = number.checked_sub(1) else {
        return (ACCESS_KEY_ID.to_owned(), SECRET.to_owned());
    };
    let (mut id, secret) = (NEXT_ACCESS_KEY_ID.to_owned(), format!("{NEXT_SECRETS}{left}"));
    while left > 0 {
        let digit = BASE_32.get(left as usize % BASE_32.len()).copied().unwrap_or_default();
        id.push(char::from(digit));
        left /= 32;
    }
    (id, secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use xks_proxy::secret::Secret;
    use xks_proxy::sigv4::Credential;

    #[test]
    fn every_rotation_of_a_scenario_has_a_credential_of_its_own_that_a_proxy_takes() {
        let all: BTreeSet<KeyPair> = (0..=1_000).map(credential).collect();
        assert_eq!(all.len(), 1_001);
        for (id, secret) in all {
            assert!(Credential::new(&id, Secret::new(secret)).is_ok(), "{id}");
        }
    }
}
