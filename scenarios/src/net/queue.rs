//! The queue before a line of limited bandwidth: packets leave one after the other, and what finds it full is dropped.
//!
//! Place on the map: one per link and way, asked by [`link`](super::link) where bandwidth is limited.

use std::time::Duration;

/// A queue of bytes, as the time until which the line is busy with them at the rate of the last one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    busy_until: Duration,
    bits_per_s: f64,
}

impl Queue {
    /// How long a packet waits and is being sent, or `None` if the queue has no room for it (tail drop). After a change of
    /// the rate the bytes that still wait take their time at the new one, from the first packet on that meets it.
    #[expect(clippy::cast_precision_loss, reason = "only sizes of queues and packets")]
    pub(super) fn pass(
        &mut self,
        bytes: usize,
        bits_per_s: f64,
        limit_bytes: u64,
        now: Duration,
    ) -> Option<Duration> {
        let queued_bytes = self.busy_until.saturating_sub(now).as_secs_f64() * self.bits_per_s / 8.0;
        // A packet that finds the line free is being sent, not queued.
        if queued_bytes > 0.0 && queued_bytes + bytes as f64 > limit_bytes as f64 {
            return None;
        }
        let takes = |bytes: f64| Duration::from_secs_f64(bytes * 8.0 / bits_per_s);
        let leaves =
            if self.is_of_rate(bits_per_s) { self.busy_until.max(now) } else { now + takes(queued_bytes) }
                + takes(bytes as f64);
        // An acknowledgement without data may be decided about ahead of its time; it must not keep the line waiting.
        if bytes > 0 {
            (self.busy_until, self.bits_per_s) = (leaves, bits_per_s);
        }
        Some(leaves - now)
    }

    /// Unchanged rates keep the line's times exact to the nanosecond.
    fn is_of_rate(&self, bits_per_s: f64) -> bool {
        self.bits_per_s.total_cmp(&bits_per_s).is_eq()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_leave_one_after_the_other_until_the_queue_is_full() {
        let mut queue = Queue::default();
        let ms = Duration::from_millis;
        // 1,000 bytes at 1 Mbit/s take 8 ms.
        let mut pass = |now| queue.pass(1_000, 1e6, 2_500, now);
        assert_eq!(pass(ms(0)), Some(ms(8)));
        assert_eq!(pass(ms(0)), Some(ms(16)));
        // 2,000 bytes are waiting or being sent, and 2,500 may.
        assert_eq!(pass(ms(0)), None);
        // 4 ms later 1,500 are.
        assert_eq!(pass(ms(4)), Some(ms(20)));
        assert_eq!(pass(ms(1_000)), Some(ms(8)));
    }

    #[test]
    fn a_full_queue_drains_at_the_rate_of_the_day() {
        let ms = Duration::from_millis;
        let full = || {
            let mut queue = Queue::default();
            // 64 packets at 0.5 Mbit/s: each takes 16 ms of the line, which is busy for a second.
            (0..64).for_each(|_| assert!(queue.pass(1_000, 5e5, 64_000, ms(0)).is_some()));
            assert_eq!(queue.pass(1_000, 5e5, 64_000, ms(0)), None);
            queue
        };
        // At a hundred times the rate 62,000 bytes are gone in 10 ms; there is room for a packet that follows them at once.
        let mut queue = full();
        assert_eq!(queue.pass(0, 5e7, 64_000, ms(32)), Some(Duration::from_micros(9_920)));
        assert_eq!(queue.pass(1_000, 5e7, 64_000, ms(32)), Some(Duration::from_micros(10_080)));
        assert_eq!(queue.pass(1_000, 5e7, 64_000, ms(43)), Some(Duration::from_micros(160)));
        // And at half the rate they take twice as long.
        assert_eq!(full().pass(1_000, 2.5e5, 64_000, ms(512)), Some(ms(1_024 + 32)));
    }
}
