//! Which of several members is asked next: smooth weighted round robin, so that each gets its share evenly spread and
//! two runs choose alike.
//!
//! Place on the map: part of [`group`](crate::hsm::group); pure.

use std::cmp::Reverse;

/// A member in the rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) member: usize,
    /// Its share of the requests among the candidates, above 0.
    pub(super) weight: u32,
    /// Calls it is working on; decides between equals.
    pub(super) in_flight: usize,
}

/// What each member is owed.
#[derive(Debug)]
pub(super) struct Rotation {
    credits: Vec<i64>,
}

impl Rotation {
    pub(super) fn new(members: usize) -> Self {
        Self { credits: vec![0; members] }
    }

    /// Every candidate earns its weight; the richest is chosen and pays for all. A member that is no candidate now
    /// neither earns nor pays.
    pub(super) fn choose(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let total: i64 = candidates.iter().map(|candidate| i64::from(candidate.weight)).sum();
        for candidate in candidates {
            *self.credits.get_mut(candidate.member)? += i64::from(candidate.weight);
        }
        let richest = candidates.iter().max_by_key(|candidate| {
            let credit = self.credits.get(candidate.member).copied().unwrap_or_default();
            (credit, Reverse(candidate.in_flight), Reverse(candidate.member))
        })?;
        *self.credits.get_mut(richest.member)? -= total;
        Some(richest.member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(member: usize, weight: u32, in_flight: usize) -> Candidate {
        Candidate { member, weight, in_flight }
    }

    #[test]
    fn shares_follow_the_weights_and_are_spread_evenly() {
        let mut rotation = Rotation::new(3);
        let candidates = [candidate(0, 4, 0), candidate(1, 1, 0), candidate(2, 2, 0)];
        let chosen: Vec<usize> = (0..7).filter_map(|_| rotation.choose(&candidates)).collect();
        assert_eq!(chosen, [0, 2, 0, 1, 0, 2, 0]);
    }

    #[test]
    fn between_equals_the_less_busy_is_chosen_and_then_the_first() {
        assert_eq!(Rotation::new(2).choose(&[candidate(0, 1, 3), candidate(1, 1, 2)]), Some(1));
        assert_eq!(Rotation::new(2).choose(&[candidate(0, 1, 2), candidate(1, 1, 2)]), Some(0));
        assert_eq!(Rotation::new(2).choose(&[]), None);
    }

    #[test]
    fn a_member_that_comes_back_is_not_made_up_for_its_absence() {
        let mut rotation = Rotation::new(2);
        let both = [candidate(0, 1, 0), candidate(1, 1, 0)];
        for _ in 0..1_000 {
            assert_eq!(rotation.choose(&both[1..]), Some(1));
        }
        let after: Vec<usize> = (0..4).filter_map(|_| rotation.choose(&both)).collect();
        assert_eq!(after, [0, 1, 0, 1]);
    }
}
