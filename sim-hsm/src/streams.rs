//! Named sub-streams of randomness and the keys that follow from a seed.
//!
//! Place on the map: below everything else in this crate; the only place where a generator is made.

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// A ChaCha20 stream for one purpose of one device, independent of every other.
///
/// `purpose` counts by its first 16 bytes; `index` tells streams of one purpose apart.
pub(crate) fn stream(seed: u64, device: u64, purpose: &str, index: u64) -> ChaCha20Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&device.to_le_bytes());
    for (to, from) in key[16..].iter_mut().zip(purpose.bytes()) {
        *to = from;
    }
    let mut rng = ChaCha20Rng::from_seed(key);
    rng.set_stream(index);
    rng
}

/// The 32 bytes of the AES-256 key `label` under `seed`, the same in every device with that seed. Public, so that the
/// same key can be put into another HSM.
///
/// ChaCha20 is run once per 16 bytes of label, each time keyed with half of the previous output and those bytes. The
/// label's length goes in first, so that no label's derivation is the beginning of another's.
pub fn key_bytes(seed: u64, label: &str) -> [u8; 32] {
    let mut key = [0; 32];
    let mut length = [0; 16];
    length[..8].copy_from_slice(&(label.len() as u64).to_le_bytes());
    length[8..].copy_from_slice(&seed.to_le_bytes());
    for block in std::iter::once(&length[..]).chain(label.as_bytes().chunks(16)) {
        key[16..].fill(0);
        key[16..16 + block.len()].copy_from_slice(block);
        ChaCha20Rng::from_seed(key).fill_bytes(&mut key);
    }
    key
}

/// A number in [0, 1), all 53 bits of it from one draw, the same on every machine.
pub(crate) fn unit(rng: &mut ChaCha20Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_from_seed_and_label_alone() {
        let long = "a".repeat(40);
        let labels = ["", "a", "aa", "aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaa", &long, "\0", "\0\0"];
        let mut seen = std::collections::BTreeSet::new();
        for seed in [0, 1, u64::MAX] {
            for label in labels {
                assert_eq!(key_bytes(seed, label), key_bytes(seed, label));
                assert!(seen.insert(key_bytes(seed, label)), "{seed} {label:?}");
            }
        }
    }

    #[test]
    fn streams_differ_in_every_part_of_their_name() {
        let mut seen = std::collections::BTreeSet::new();
        for (seed, device, purpose, index) in
            [(1, 1, "iv", 0), (2, 1, "iv", 0), (1, 2, "iv", 0), (1, 1, "service", 0), (1, 1, "iv", 1)]
        {
            assert!(seen.insert(stream(seed, device, purpose, index).next_u64()), "{purpose} {index}");
        }
    }

    #[test]
    fn unit_stays_below_one() {
        let mut rng = stream(1, 1, "unit", 0);
        for _ in 0..10_000 {
            let drawn = unit(&mut rng);
            assert!((0.0..1.0).contains(&drawn), "{drawn}");
        }
    }
}
