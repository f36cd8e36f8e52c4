//! Loss in bursts: the model of Gilbert and Elliott, a chain with a good and a bad state.
//!
//! Place on the map: one per link and way, asked by [`link`](super::link) for every packet.

use super::random::unit;
use rand_chacha::ChaCha20Rng;

/// The chain's four numbers, each 0 to 1, as `tc-netem(8)` names them under `gemodel`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GilbertElliott {
    /// From one packet to the next, the chance to go from the good state to the bad one. 0 turns the model off.
    pub p: f64,
    /// The chance to go back to the good one; its reciprocal is the mean length of a burst, in packets.
    pub r: f64,
    /// Share of packets lost in the good state (netem's 1-k).
    pub loss_good: f64,
    /// Share of packets lost in the bad state (netem's 1-h).
    pub loss_bad: f64,
}

impl Default for GilbertElliott {
    fn default() -> Self {
        Self { p: 0.0, r: 0.5, loss_good: 0.0, loss_bad: 1.0 }
    }
}

/// The chain of one way.
pub(super) struct Chain {
    bad: bool,
    random: ChaCha20Rng,
}

impl Chain {
    pub(super) fn new(random: ChaCha20Rng) -> Self {
        Self { bad: false, random }
    }

    /// Whether the next packet is lost.
    pub(super) fn loses(&mut self, model: &GilbertElliott) -> bool {
        if model.p <= 0.0 && model.loss_good <= 0.0 {
            return false;
        }
        let (for_state, for_loss) = (unit(&mut self.random), unit(&mut self.random));
        let change = if self.bad { model.r } else { model.p };
        self.bad ^= for_state < change;
        for_loss < if self.bad { model.loss_bad } else { model.loss_good }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::Streams;

    #[test]
    fn share_and_length_of_bursts_are_those_of_the_chain() {
        let model = GilbertElliott { p: 0.01, r: 0.25, loss_good: 0.0, loss_bad: 1.0 };
        let mut chain = Chain::new(Streams::new(5).stream("network", 0));
        let lost: Vec<bool> = (0..200_000).map(|_| chain.loses(&model)).collect();
        // In the long run p / (p + r) of the packets meet the bad state, 1 / r in a row.
        let share = lost.iter().filter(|lost| **lost).count();
        assert!((7_200..8_200).contains(&share), "{share}");
        let bursts = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count();
        assert!((1_750..2_100).contains(&bursts), "{bursts}");
    }

    #[test]
    fn both_states_lose_their_own_share() {
        let mut chain = Chain::new(Streams::new(5).stream("network", 0));
        let model = GilbertElliott { p: 0.0, r: 1.0, loss_good: 0.1, loss_bad: 1.0 };
        let lost = (0..50_000).filter(|_| chain.loses(&model)).count();
        assert!((4_700..5_300).contains(&lost), "{lost}");
        let stuck = GilbertElliott { p: 1.0, r: 0.0, loss_good: 0.0, loss_bad: 0.4 };
        let lost = (0..50_000).filter(|_| chain.loses(&stuck)).count();
        assert!((19_500..20_500).contains(&lost), "{lost}");
    }
}
