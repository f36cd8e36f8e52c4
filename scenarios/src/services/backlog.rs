//! What waits to be processed and grows old: messages of a queue, records of a stream, events, deliveries. Counted in slots of
//! time and not one by one, so that days of them take no more memory than minutes.

use std::collections::VecDeque;
use std::time::Duration;

/// Slots in which a whole `max_age` is counted; something is found too old by at most one of them too late.
const SLOTS: u32 = 256;

pub(super) struct Backlog {
    slots: VecDeque<Slot>,
    waiting: u64,
    width: Duration,
    max_age: Duration,
}

struct Slot {
    begun: Duration,
    /// When the latest came.
    latest: Duration,
    count: u64,
}

impl Backlog {
    /// Nothing waits yet; whatever waits for `max_age` is too old.
    pub(super) fn new(max_age: Duration) -> Self {
        Self { slots: VecDeque::new(), waiting: 0, width: max_age / SLOTS, max_age }
    }

    pub(super) fn len(&self) -> u64 {
        self.waiting
    }

    pub(super) fn add(&mut self, count: u64, now: Duration) {
        self.waiting += count;
        match self.slots.back_mut() {
            Some(slot) if now < slot.begun + self.width => {
                slot.count += count;
                slot.latest = now;
            }
            _ => self.slots.push_back(Slot { begun: now, latest: now, count }),
        }
    }

    /// Takes up to `most` of the oldest; how many.
    pub(super) fn take(&mut self, most: u64) -> u64 {
        let mut left = most;
        while left > 0
            && let Some(slot) = self.slots.front_mut()
        {
            let taken = slot.count.min(left);
            slot.count -= taken;
            left -= taken;
            if slot.count == 0 {
                self.slots.pop_front();
            }
        }
        self.waiting -= most - left;
        most - left
    }

    /// Drops what has become too old, slot by slot: how many, and when the first of them did.
    pub(super) fn expire(&mut self, now: Duration) -> Option<(u64, Duration)> {
        let mut expired = None;
        while let Some(slot) = self.slots.pop_front_if(|slot| slot.latest + self.max_age <= now) {
            self.waiting -= slot.count;
            let (count, _) = expired.get_or_insert((0, slot.begun + self.max_age));
            *count += slot.count;
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_oldest_go_first_and_age_counts_from_their_own_time() {
        let mut backlog = Backlog::new(256 * S);
        backlog.add(5, 10 * S);
        backlog.add(7, 100 * S);
        assert_eq!((backlog.take(2), backlog.len()), (2, 10));
        assert_eq!(backlog.expire(265 * S), None);
        assert_eq!(backlog.expire(266 * S), Some((3, 266 * S)));
        assert_eq!(backlog.expire(355 * S), None);
        assert_eq!((backlog.take(100), backlog.len()), (7, 0));
        assert_eq!(backlog.expire(1_000 * S), None);
    }

    #[test]
    fn a_week_of_messages_takes_the_memory_of_a_minute() {
        let mut backlog = Backlog::new(256 * S);
        for s in 0..600_000 {
            backlog.add(1, s * S);
            backlog.expire(s * S);
            assert!(backlog.slots.len() <= 258, "{}", backlog.slots.len());
        }
        assert!((255..=258).contains(&backlog.len()), "{}", backlog.len());
    }
}
