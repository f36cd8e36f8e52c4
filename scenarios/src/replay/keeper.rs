//! What is kept of a run's events: little, and enough to find the first that another run does not share.
//!
//! Place on the map: an [`Observer`] of the run that is saved; what it has kept goes into
//! [`saved`](super::saved), and [`comparison`](super::comparison) computes the same of another run.

use crate::observer::{Observer, Seen};
use crate::sha256;
use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Checkpoints of a run, at the most. Beyond, every second one is left out, and new ones come half as often.
pub const CHECKPOINTS_MAX: usize = 4_096;
/// Events whose fingerprints are kept: the first so many.
pub const FINGERPRINTS_MAX: usize = 131_072;
/// Bytes of a running digest that a checkpoint keeps.
const DIGEST_BYTES: usize = 8;

/// The state of the running digest after so many events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// How many events it covers.
    pub events: u64,
    /// The first eight bytes of the SHA-256 over their lines, hexadecimal.
    pub digest: String,
    /// The last of them, as a line.
    pub line: String,
}

/// Sixteen bits of a line (FNV-1a, folded). Two different lines share them once in 65,536 times, and then a checkpoint
/// still tells.
pub(super) fn fingerprint(line: &str) -> u16 {
    let hash = line.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [a, b, c, d, e, f, g, h] = hash.to_be_bytes();
    u16::from_be_bytes([a ^ c ^ e ^ g, b ^ d ^ f ^ h])
}

/// A running digest as a checkpoint keeps it.
pub(super) fn brief(running: &Context) -> String {
    hexadecimal(&sha256::finish(running.clone())[..DIGEST_BYTES])
}

/// Bytes in hexadecimal.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// See the module.
pub struct Keeper {
    running: Context,
    every: u64,
    checkpoints: Vec<Checkpoint>,
    fingerprints: Vec<u16>,
}

impl Default for Keeper {
    fn default() -> Self {
        Self { running: Context::new(&SHA256), every: 1, checkpoints: Vec::new(), fingerprints: Vec::new() }
    }
}

impl Keeper {
    /// The checkpoints, by events.
    pub fn checkpoints(&self) -> &[Checkpoint] {
        &self.checkpoints
    }

    /// The fingerprints of the first events.
    pub fn fingerprints(&self) -> &[u16] {
        &self.fingerprints
    }
}

impl Observer for Keeper {
    fn observe(&mut self, seen: &Seen<'_>) {
        self.running.update(seen.line.as_bytes());
        if self.fingerprints.len() < FINGERPRINTS_MAX {
            self.fingerprints.push(fingerprint(seen.line));
        }
        let events = seen.number + 1;
        if !events.is_multiple_of(self.every) {
            return;
        }
        if self.checkpoints.len() >= CHECKPOINTS_MAX {
            self.every *= 2;
            let every = self.every;
            self.checkpoints.retain(|checkpoint| checkpoint.events.is_multiple_of(every));
            if !events.is_multiple_of(every) {
                return;
            }
        }
        let line = seen.line.trim_end().to_owned();
        self.checkpoints.push(Checkpoint { events, digest: brief(&self.running), line });
    }
}
