//! The encrypted things a service holds (objects, volumes, tables): their wrapped data keys, bounded in number.

use crate::kms::CiphertextBlob;
use std::cell::RefCell;

pub(super) struct Objects {
    keys: RefCell<Vec<CiphertextBlob>>,
    capacity: usize,
}

impl Objects {
    pub(super) fn new(capacity: usize) -> Self {
        Self { keys: RefCell::default(), capacity }
    }

    /// One of those that exist, with its number; `place` in [0, 1) chooses. `None` while there are none.
    pub(super) fn pick(&self, place: f64) -> Option<(usize, CiphertextBlob)> {
        let keys = self.keys.borrow();
        let number = (place * keys.len() as f64) as usize;
        keys.get(number).map(|key| (number, key.clone()))
    }

    /// The one with this number, if it exists.
    pub(super) fn get(&self, number: usize) -> Option<CiphertextBlob> {
        self.keys.borrow().get(number).cloned()
    }

    /// Gives the one with this number another key.
    pub(super) fn replace(&self, number: usize, key: CiphertextBlob) {
        if let Some(old) = self.keys.borrow_mut().get_mut(number) {
            *old = key;
        }
    }

    /// Adds one, in the place of the one at `place` when full. Returns its number.
    pub(super) fn keep(&self, key: CiphertextBlob, place: f64) -> usize {
        let mut keys = self.keys.borrow_mut();
        if keys.len() < self.capacity {
            keys.push(key);
            return keys.len() - 1;
        }
        let number = (place * keys.len() as f64) as usize;
        if let Some(old) = keys.get_mut(number) {
            *old = key;
        }
        number
    }

    pub(super) fn len(&self) -> usize {
        self.keys.borrow().len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.keys.borrow().len() >= self.capacity
    }
}
