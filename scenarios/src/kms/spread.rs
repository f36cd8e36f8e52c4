//! A change that KMS's hosts take over one after another.
//!
//! Place on the map: [`model`](super::model) keeps the key store's credential in one and every key's state in another.
//! KMS is eventually consistent, and after a new credential "some time" passes until every host signs with it
//! (kms-behaviour 3).

use std::time::Duration;

/// A value, and the one before it for the hosts that have not heard yet.
#[derive(Clone, Debug)]
pub(super) struct Spread<T> {
    current: T,
    previous: Option<T>,
    changed_at: Duration,
    over: Duration,
}

impl<T> Spread<T> {
    pub(super) fn new(value: T) -> Self {
        Self { current: value, previous: None, changed_at: Duration::ZERO, over: Duration::ZERO }
    }

    /// Changes the value at simulated time `now`. Host *h* of *n* takes it over after (*h* + 1) / *n* of `over`, so
    /// that the share of calls with the old value falls evenly. Hosts still waiting for the change before this one get
    /// it at once.
    pub(super) fn set(&mut self, value: T, now: Duration, over: Duration) {
        self.previous = Some(std::mem::replace(&mut self.current, value));
        (self.changed_at, self.over) = (now, over);
    }

    /// What host `host` of `hosts` goes by.
    pub(super) fn seen_by(&self, host: usize, hosts: usize, now: Duration) -> &T {
        match &self.previous {
            Some(previous) if now < self.changed_at + self.over && now < self.heard_at(host, hosts) => {
                previous
            }
            _ => &self.current,
        }
    }

    /// What was set last.
    pub(super) fn current(&self) -> &T {
        &self.current
    }

    fn heard_at(&self, host: usize, hosts: usize) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "at most 1,000 hosts")]
        let share = (host + 1) as f64 / hosts.max(1) as f64;
        self.changed_at + self.over.mul_f64(share.min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_hear_of_it_one_after_another() {
        let s = Duration::from_secs;
        let mut value = Spread::new("old");
        assert_eq!(*value.seen_by(2, 3, s(0)), "old");
        value.set("new", s(100), s(60));
        for (at, seen) in [
            (s(100), ["old", "old", "old"]),
            (s(119), ["old", "old", "old"]),
            (s(120), ["new", "old", "old"]),
            (s(140), ["new", "new", "old"]),
            (s(160), ["new", "new", "new"]),
        ] {
            assert_eq!([0, 1, 2].map(|host| *value.seen_by(host, 3, at)), seen, "{at:?}");
        }
        assert_eq!(*value.current(), "new");
        // A second change in the middle of the first: whoever waits skips the oldest value.
        value.set("newer", s(121), s(60));
        assert_eq!([0, 1, 2].map(|host| *value.seen_by(host, 3, s(122))), ["new", "new", "new"]);
        value.set("newest", s(125), s(0));
        assert_eq!(*value.seen_by(2, 3, s(125)), "newest");
    }
}
