//! `xks-sim show`: a scenario in words and pictures, and its file.

use super::exit;
use super::files::load;
use super::terminal::{say, style};
use scenarios::explain::explain;

/// Performs `xks-sim show`.
///
/// # Errors
/// When there is no such scenario, or it cannot be read.
pub(crate) fn perform(name: &str) -> Result<u8, String> {
    let scenario = load(name)?;
    say(&explain(&scenario, name, style()))?;
    Ok(exit::HELD)
}
