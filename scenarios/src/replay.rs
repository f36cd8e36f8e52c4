//! A run kept in one file, and done again: the same to the last event, or where the two part.
//!
//! Place on the map: `xks-sim run NAME --save FILE` looks at a run through a [`Keeper`] and writes a [`SavedRun`];
//! `xks-sim replay FILE` runs its scenario again under the eyes of a [`Comparison`].
//!
//! | part | module |
//! |---|---|
//! | the file | [`saved`] |
//! | what is kept while a run goes on | [`keeper`] |
//! | where a second run parts from it | [`comparison`] |

pub mod comparison;
pub mod keeper;
pub mod saved;

pub use comparison::{Comparison, Parting};
pub use keeper::Keeper;
pub use saved::{Provenance, SavedRun};
