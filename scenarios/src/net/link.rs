//! One direction-less link between two places: decides for each segment when it arrives, or that it is lost.
//!
//! Place on the map: asked by [`tcp`](super::tcp) for every segment; faults change it while a run goes on.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a link is like when nothing is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkSettings {
    /// Round-trip time without jitter. Half of it each way.
    pub rtt: Duration,
    /// Mean of the extra delay of each segment, exponentially distributed and cut off at ten times the mean.
    pub jitter: Duration,
    /// Share of segments lost, 0 to 1, independent of each other.
    pub loss: f64,
}

/// What happens to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It arrives after this time.
    After(Duration),
    /// It never arrives.
    Lost,
}

/// A link in use. Clones are the same link.
#[derive(Clone)]
pub struct Link {
    state: Arc<Mutex<State>>,
}

struct State {
    settings: LinkSettings,
    random: ChaCha20Rng,
    /// Partitions in force; the link passes nothing while there is one.
    cuts: u32,
    /// Sum of the extra one-way delays in force.
    extra: Duration,
}

impl Link {
    /// A link with its own stream of randomness.
    pub fn new(settings: LinkSettings, random: ChaCha20Rng) -> Self {
        Self { state: Arc::new(Mutex::new(State { settings, random, cuts: 0, extra: Duration::ZERO })) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides about one segment sent now.
    pub fn send(&self) -> Verdict {
        let mut state = self.state();
        // The same bits on every machine: libm's logarithm, not the platform's.
        // Two draws a segment, whatever the settings: changing one setting leaves the others' draws where they were.
        let (for_loss, for_jitter) = (unit(&mut state.random), unit(&mut state.random));
        if state.cuts > 0 || for_loss < state.settings.loss {
            return Verdict::Lost;
        }
        let jitter = state.settings.jitter.mul_f64((-libm::log(1.0 - for_jitter)).min(10.0));
        Verdict::After(state.settings.rtt / 2 + state.extra + jitter)
    }

    /// From now on no segment is lost by chance.
    pub fn lose_nothing(&self) {
        self.state().settings.loss = 0.0;
    }

    /// Begins a partition: segments are dropped silently, in both directions. Partitions add up.
    pub fn cut(&self) {
        self.state().cuts += 1;
    }

    /// Ends one partition.
    pub fn heal(&self) {
        let mut state = self.state();
        state.cuts = state.cuts.saturating_sub(1);
    }

    /// Adds one-way delay to every segment. Delays add up.
    pub fn add_delay(&self, one_way: Duration) {
        self.state().extra += one_way;
    }

    /// Takes a delay back.
    pub fn remove_delay(&self, one_way: Duration) {
        let mut state = self.state();
        state.extra = state.extra.saturating_sub(one_way);
    }
}

/// Uniform in [0, 1) with 53 random bits.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
pub fn unit(random: &mut ChaCha20Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::Streams;

    fn link(loss: f64) -> Link {
        let settings =
            LinkSettings { rtt: Duration::from_millis(10), jitter: Duration::from_millis(1), loss };
        Link::new(settings, Streams::new(3).stream("network", 0))
    }

    #[test]
    fn delay_is_half_the_round_trip_and_jitter_of_the_given_mean() {
        let link = link(0.0);
        let delays: Vec<Duration> = (0..10_000)
            .map(|_| match link.send() {
                Verdict::After(delay) => delay,
                Verdict::Lost => panic!("nothing is lost here"),
            })
            .collect();
        assert!(delays.iter().all(|delay| (5..=15).contains(&delay.as_millis())));
        let mean = delays.iter().sum::<Duration>() / 10_000;
        assert!((5_900..6_100).contains(&mean.as_micros()), "{mean:?}");
    }

    #[test]
    fn the_configured_share_is_lost() {
        let link = link(0.05);
        let lost = (0..100_000).filter(|_| link.send() == Verdict::Lost).count();
        assert!((4_700..5_300).contains(&lost), "{lost}");
    }

    #[test]
    fn cuts_and_delays_add_up_and_heal() {
        let link = link(0.0);
        link.cut();
        link.cut();
        link.heal();
        assert_eq!(link.send(), Verdict::Lost);
        link.heal();
        link.add_delay(Duration::from_millis(100));
        assert!(matches!(link.send(), Verdict::After(delay) if delay >= Duration::from_millis(105)));
        link.remove_delay(Duration::from_millis(100));
        assert!(matches!(link.send(), Verdict::After(delay) if delay < Duration::from_millis(16)));
    }
}
