//! Uniform numbers from a ChaCha stream, and the sub-streams of one link.
//!
//! Place on the map: below everything in `net` that draws.

use super::packet::Way;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;

/// Uniform in [0, 1) with 53 random bits.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
pub(crate) fn unit(random: &mut ChaCha20Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// What a link draws for, each from a stream of its own: changing one setting leaves the others' draws where they were.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Latency,
    Loss,
    Burst,
    Duplication,
    Reordering,
    FaultLoss,
    FaultReset,
}

/// The stream for one purpose and way, out of the link's.
pub(super) fn sub_stream(random: &ChaCha20Rng, purpose: Purpose, way: Way) -> ChaCha20Rng {
    let mut own = random.clone();
    own.set_stream(1 + 2 * purpose as u64 + way as u64);
    own
}
