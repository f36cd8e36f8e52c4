//! A bounded queue with a lane per key store, served in turn, so that no key store waits behind another's crowd.
//!
//! Place on the map: inside [`pool`](super::pool), under its lock.
//!
//! Each lane is sure of `places / lanes` places (rounded down), whatever the others do: when the queue is full, the
//! newest of the longest lane makes room for one of a lane that is shorter by two or more. By one would only exchange
//! their lengths. Lanes that nobody uses any more are given again, so their number is bounded by what is in use.

use std::collections::VecDeque;

pub(super) struct Lanes<T> {
    lanes: Vec<Lane<T>>,
    /// The lane to be served next.
    next: usize,
    len: usize,
}

struct Lane<T> {
    waiting: VecDeque<T>,
    is_open: bool,
}

/// A lane's number, for as long as it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneId(usize);

impl<T> Lanes<T> {
    pub(super) fn new() -> Self {
        Self { lanes: Vec::new(), next: 0, len: 0 }
    }

    pub(super) fn open(&mut self) -> LaneId {
        let unused = |lane: &Lane<T>| !lane.is_open && lane.waiting.is_empty();
        let index = self.lanes.iter().position(unused).unwrap_or(self.lanes.len());
        match self.lanes.get_mut(index) {
            Some(lane) => lane.is_open = true,
            None => self.lanes.push(Lane { waiting: VecDeque::new(), is_open: true }),
        }
        LaneId(index)
    }

    /// Nobody will push to this lane again; what waits in it is served. False when it was the last one open.
    pub(super) fn close(&mut self, lane: LaneId) -> bool {
        if let Some(lane) = self.lanes.get_mut(lane.0) {
            lane.is_open = false;
        }
        self.lanes.iter().any(|lane| lane.is_open)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The longest waiting of the lane whose turn it is.
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.len == 0 {
            return None;
        }
        for _ in 0..self.lanes.len() {
            let index = self.next;
            self.next = if index + 1 < self.lanes.len() { index + 1 } else { 0 };
            if let Some(first) = self.lanes.get_mut(index).and_then(|lane| lane.waiting.pop_front()) {
                self.len -= 1;
                return Some(first);
            }
        }
        None
    }

    /// Adds to the end of a lane, of all lanes together at most `len_max`; gives back who had to make room.
    ///
    /// # Errors
    /// `item` itself, when the queue is full and nobody has to.
    pub(super) fn push(&mut self, lane: LaneId, item: T, len_max: usize) -> Result<Option<T>, T> {
        let mut made_room = None;
        if self.len >= len_max {
            let own = self.lanes.get(lane.0).map_or(0, |lane| lane.waiting.len());
            let longest = self.lanes.iter_mut().max_by_key(|lane| lane.waiting.len());
            made_room =
                longest.filter(|lane| lane.waiting.len() > own + 1).and_then(|lane| lane.waiting.pop_back());
            if made_room.is_none() {
                return Err(item);
            }
            self.len -= 1;
        }
        let Some(lane) = self.lanes.get_mut(lane.0) else { return Err(item) };
        lane.waiting.push_back(item);
        self.len += 1;
        Ok(made_room)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.lanes.iter_mut().for_each(|lane| lane.waiting.retain(&mut keep));
        self.len = self.lanes.iter().map(|lane| lane.waiting.len()).sum();
    }

    /// Takes all that wait, in no particular order among lanes.
    pub(super) fn take_all(&mut self) -> Vec<T> {
        self.len = 0;
        self.lanes.iter_mut().flat_map(|lane| std::mem::take(&mut lane.waiting)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lanes_are_served_in_turn_and_each_in_order() {
        let mut lanes = Lanes::new();
        let [a, b, c] = [(); 3].map(|()| lanes.open());
        for (lane, item) in [(a, "a1"), (a, "a2"), (a, "a3"), (c, "c1"), (b, "b1"), (c, "c2")] {
            lanes.push(lane, item, 10).unwrap();
        }
        let served: Vec<_> = std::iter::from_fn(|| lanes.pop()).collect();
        assert_eq!(served, ["a1", "b1", "c1", "a2", "c2", "a3"]);
    }

    #[test]
    fn in_a_full_queue_the_newest_of_the_longest_lane_makes_room_for_a_shorter_one() {
        let mut lanes = Lanes::new();
        let (a, b) = (lanes.open(), lanes.open());
        for item in 1..=4 {
            lanes.push(a, item, 4).unwrap();
        }
        assert_eq!(lanes.push(a, 5, 4), Err(5));
        assert_eq!(lanes.push(b, 6, 4), Ok(Some(4)));
        assert_eq!(lanes.push(b, 7, 4), Ok(Some(3)));
        assert_eq!(lanes.push(b, 8, 4), Err(8), "they are equal now");
        assert_eq!(lanes.push(a, 9, 4), Err(9));
        assert_eq!(lanes.len(), 4);
        let served: Vec<_> = std::iter::from_fn(|| lanes.pop()).collect();
        assert_eq!(served, [1, 6, 2, 7]);
    }

    #[test]
    fn a_closed_lane_is_served_out_and_given_again() {
        let mut lanes = Lanes::new();
        let (a, b) = (lanes.open(), lanes.open());
        lanes.push(a, 1, 9).unwrap();
        assert!(lanes.close(a));
        let c = lanes.open();
        assert!(c != a && c != b, "somebody still waits in the first");
        assert_eq!(lanes.pop(), Some(1));
        assert_eq!(lanes.open(), a);
        assert!(lanes.close(a) && lanes.close(b));
        assert!(!lanes.close(c), "the last");
        for _ in 0..100 {
            let lane = lanes.open();
            lanes.close(lane);
        }
        assert_eq!(lanes.lanes.len(), 3);
    }

    proptest! {
        /// Whatever happens: the queue keeps its bound and loses nobody, and a lane below its guaranteed places gets in.
        #[test]
        fn the_guarantee_holds(
            places in 1_usize..20,
            count in 1_usize..6,
            steps in prop::collection::vec((0_usize..6, 0_u8..4), 1..300),
        ) {
            let mut lanes = Lanes::new();
            let ids: Vec<LaneId> = (0..count).map(|_| lanes.open()).collect();
            let mut waiting = vec![0_usize; count];
            for (step, (lane, kind)) in steps.into_iter().enumerate() {
                let lane = lane % count;
                if kind == 0 {
                    if let Some((lane, _)) = lanes.pop() {
                        waiting[lane] -= 1;
                    }
                } else {
                    let own = waiting[lane];
                    waiting[lane] += 1;
                    match lanes.push(ids[lane], (lane, step), places) {
                        Ok(made_room) => made_room.iter().for_each(|(lane, _)| waiting[*lane] -= 1),
                        Err(refused) => {
                            prop_assert_eq!(refused, (lane, step));
                            waiting[lane] -= 1;
                            prop_assert!(own >= places / count, "{} of {} / {}", own, places, count);
                        }
                    }
                }
                prop_assert_eq!(lanes.len(), waiting.iter().sum::<usize>());
                prop_assert!(lanes.len() <= places);
            }
            prop_assert_eq!(lanes.take_all().len(), waiting.iter().sum::<usize>());
            prop_assert!(lanes.pop().is_none());
        }
    }
}
