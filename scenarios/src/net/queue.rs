//! The queue before a line of limited bandwidth: packets leave one after the other, and what finds it full is dropped.
//!
//! Place on the map: one per link and way, asked by [`link`](super::link) where bandwidth is limited.

use std::time::Duration;

/// A queue of bytes, as the time until which the line is busy with them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    busy_until: Duration,
}

impl Queue {
    /// How long a packet waits and is being sent, or `None` if the queue has no room for it (tail drop).
    #[expect(clippy::cast_precision_loss, reason = "only sizes of queues and packets")]
    pub(super) fn pass(
        &mut self,
        bytes: usize,
        bits_per_s: f64,
        limit_bytes: u64,
        now: Duration,
    ) -> Option<Duration> {
        let wait = self.busy_until.saturating_sub(now);
        let queued_bytes = wait.as_secs_f64() * bits_per_s / 8.0;
        // A packet that finds the line free is being sent, not queued.
        if !wait.is_zero() && queued_bytes + bytes as f64 > limit_bytes as f64 {
            return None;
        }
        let leaves = now + wait + Duration::from_secs_f64(bytes as f64 * 8.0 / bits_per_s);
        // An acknowledgement without data may be decided about ahead of its time; it must not keep the line waiting.
        if bytes > 0 {
            self.busy_until = leaves;
        }
        Some(leaves - now)
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
}
