//! Object handles, and renumbering them.
//!
//! Place on the map: `shim` translates each object handle on its way in and out.

use cryptoki_sys::{CK_INVALID_HANDLE, CK_OBJECT_HANDLE};
use std::collections::BTreeMap;

/// Numbers that no real module's objects have had start here.
const FRESH_FROM: CK_OBJECT_HANDLE = 1 << 30;

/// The objects the program has seen. An object that was never renumbered is shown under its real number.
#[derive(Default)]
pub(crate) struct Handles {
    shown: BTreeMap<CK_OBJECT_HANDLE, CK_OBJECT_HANDLE>,
    /// How often the present numbers have moved on, and after how many moves they are back.
    moves: usize,
    round: usize,
    /// How many fresh numbers were given out.
    fresh: CK_OBJECT_HANDLE,
}

impl Handles {
    /// The number under which the program is to see the object.
    pub(crate) fn show(&mut self, real: CK_OBJECT_HANDLE) -> CK_OBJECT_HANDLE {
        *self.shown.entry(real).or_insert(real)
    }

    /// The object that the program means.
    pub(crate) fn real(&self, shown: CK_OBJECT_HANDLE) -> CK_OBJECT_HANDLE {
        let found = self.shown.iter().find(|(_, known)| **known == shown);
        match found {
            Some((real, _)) => *real,
            // The program knows that object under another number.
            None if self.shown.contains_key(&shown) => CK_INVALID_HANDLE,
            None => shown,
        }
    }

    /// Gives each object the number that its neighbour had, so that an old number names another object. Before a number
    /// comes round to an object that has had it, all numbers are fresh: a library that gave one back within a request
    /// could not be told from one that never took it away, and no program is asked to.
    pub(crate) fn swap(&mut self) {
        if self.moves == 0 {
            // Objects that are seen later only make the way round longer.
            self.round = self.shown.len();
        }
        self.moves += 1;
        if self.moves >= self.round {
            self.moves = 0;
            for shown in self.shown.values_mut() {
                *shown = FRESH_FROM + self.fresh;
                self.fresh += 1;
            }
            return;
        }
        let mut numbers: Vec<CK_OBJECT_HANDLE> = self.shown.values().copied().collect();
        numbers.rotate_left(1);
        self.shown.values_mut().zip(numbers).for_each(|(shown, number)| *shown = number);
    }

    /// Forgets all: the library starts anew.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_swap_an_old_number_names_another_object() {
        let mut handles = Handles::default();
        assert_eq!([handles.show(10), handles.show(20), handles.show(30)], [10, 20, 30]);
        handles.swap();
        for real in [10, 20, 30] {
            assert_ne!(handles.real(real), real);
            let shown = handles.show(real);
            assert_eq!(handles.real(shown), real, "a fresh look-up gives the right number");
        }
        handles.clear();
        assert_eq!(handles.real(20), 20);
        handles.swap();
    }

    /// A test of the proxy failed once in a while on a loaded machine: between a key's use and the look at its label
    /// the numbers had gone once round, so that the label was right again, but the key had been another.
    #[test]
    fn a_number_never_comes_back_to_its_object() {
        let mut handles = Handles::default();
        let mut had: BTreeMap<CK_OBJECT_HANDLE, Vec<CK_OBJECT_HANDLE>> = BTreeMap::new();
        for turn in 0..100 {
            // An object is seen for the first time now and then.
            let seen = 2 + turn / 10;
            for real in (0..seen).map(|n| [50 - n, 50 + n][usize::from(n % 2 == 0)]) {
                let shown = handles.show(real);
                assert_eq!(handles.real(shown), real);
                let had = had.entry(real).or_default();
                assert!(had.last() == Some(&shown) || !had.contains(&shown), "{real} is {shown} again");
                had.push(shown);
            }
            handles.swap();
        }
    }
}
