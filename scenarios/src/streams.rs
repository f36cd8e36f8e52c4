//! One seed, one named stream of randomness per part, so that one more draw in one part never reshuffles another.
//!
//! Place on the map: `world` hands a stream to each part of a run.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// The source of every random stream of a run.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    seed: u64,
}

impl Streams {
    /// All streams follow from this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// 32 bytes for a part that takes a seed of its own. `name` says which part: `network`, `hsm`, `workload`,
    /// `faults`, `environment`, `runtime`, `kms`; `index` which of several alike.
    pub fn seed(&self, name: &str, index: u64) -> [u8; 32] {
        crate::sha256::of(&[&self.seed.to_le_bytes(), &index.to_le_bytes(), name.as_bytes()])
    }

    /// A stream of its own for one part.
    pub fn stream(&self, name: &str, index: u64) -> ChaCha20Rng {
        ChaCha20Rng::from_seed(self.seed(name, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::Rng;

    #[test]
    fn streams_differ_by_seed_name_and_index_and_by_nothing_else() {
        let first = |seed, name, index| Streams::new(seed).stream(name, index).next_u64();
        assert_eq!(first(1, "hsm", 0), first(1, "hsm", 0));
        assert_ne!(first(1, "hsm", 0), first(2, "hsm", 0));
        assert_ne!(first(1, "hsm", 0), first(1, "network", 0));
        assert_ne!(first(1, "hsm", 0), first(1, "hsm", 1));
    }
}
