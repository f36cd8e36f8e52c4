//! Whether the HSM's calls are short.
//!
//! Place on the map: inside [`pool`](super::pool), which wakes fewer threads while they are, and answers several calls
//! together.

use std::time::Duration;

/// Shorter is what takes this machine's processor time; a call over a network, or to a device, takes longer.
const SHORT: Duration = Duration::from_micros(250);

/// The shortest of the last calls. Not their mean: on a busy machine a call is interrupted for longer than it takes.
#[derive(Default)]
pub(super) struct Pace {
    /// `None` before the first call, when nothing is known.
    shortest: Option<Duration>,
}

impl Pace {
    /// A call that succeeded took so long; one that failed says nothing. What was shorter before is forgotten by and by: it
    /// counts a sixteenth more with each call.
    pub(super) fn note(&mut self, took: Option<Duration>) {
        let Some(took) = took else { return };
        let before = self.shortest.map(|shortest| shortest + shortest / 16 + Duration::from_nanos(1));
        self.shortest = Some(before.map_or(took, |before| before.min(took)));
    }

    /// One of the last calls took less than a quarter of a millisecond.
    pub(super) fn calls_are_short(&self) -> bool {
        self.shortest.is_some_and(|shortest| shortest < SHORT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_short_before_it_was_seen() {
        let mut pace = Pace::default();
        assert!(!pace.calls_are_short());
        pace.note(None);
        assert!(!pace.calls_are_short(), "a failure is no call");
    }

    #[test]
    fn interruptions_do_not_make_short_calls_long() {
        let mut pace = Pace::default();
        for call in 0..1_000 {
            pace.note(Some(Duration::from_micros(if call % 16 == 0 { 60 } else { 5_000 })));
            assert!(pace.calls_are_short(), "call {call}");
        }
    }

    #[test]
    fn an_hsm_that_slows_down_is_seen_within_a_hundred_calls() {
        let mut pace = Pace::default();
        pace.note(Some(Duration::from_micros(1)));
        let calls = (0..)
            .take_while(|_| {
                pace.note(Some(Duration::from_millis(1)));
                pace.calls_are_short()
            })
            .count();
        assert!((80..100).contains(&calls), "{calls}");
        pace.note(Some(Duration::from_micros(60)));
        assert!(pace.calls_are_short(), "and one that is fast again at once");
    }
}
