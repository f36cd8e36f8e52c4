//! Object handles, and renumbering them.
//!
//! Place on the map: `shim` translates each object handle on its way in and out.

use cryptoki_sys::CK_OBJECT_HANDLE;
use std::collections::BTreeMap;

/// The objects the program has seen. An object that was never renumbered is shown under its real number.
#[derive(Default)]
pub(crate) struct Handles {
    shown: BTreeMap<CK_OBJECT_HANDLE, CK_OBJECT_HANDLE>,
}

impl Handles {
    /// The number under which the program is to see the object.
    pub(crate) fn show(&mut self, real: CK_OBJECT_HANDLE) -> CK_OBJECT_HANDLE {
        *self.shown.entry(real).or_insert(real)
    }

    /// The object that the program means.
    pub(crate) fn real(&self, shown: CK_OBJECT_HANDLE) -> CK_OBJECT_HANDLE {
        let found = self.shown.iter().find(|(_, known)| **known == shown);
        found.map_or(shown, |(real, _)| *real)
    }

    /// Gives each object the number that its neighbour had, so that an old number names another object.
    pub(crate) fn swap(&mut self) {
        let mut numbers: Vec<CK_OBJECT_HANDLE> = self.shown.values().copied().collect();
        if !numbers.is_empty() {
            numbers.rotate_left(1);
        }
        self.shown.values_mut().zip(numbers).for_each(|(shown, number)| *shown = number);
    }

    /// Forgets all: the library starts anew.
    pub(crate) fn clear(&mut self) {
        self.shown.clear();
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
}
