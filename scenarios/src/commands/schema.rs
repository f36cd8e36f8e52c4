//! `xks-sim schema`: the JSON Schema of scenario files, for editors.

use super::exit;
use super::terminal::say;
use scenarios::scenario::SCHEMA;

/// Performs `xks-sim schema`.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn perform() -> Result<u8, String> {
    say(SCHEMA)?;
    Ok(exit::HELD)
}
