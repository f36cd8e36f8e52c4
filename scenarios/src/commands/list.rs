//! `xks-sim list`: the catalogue, a line each.

use super::exit;
use super::files::load;
use super::terminal::say;
use scenarios::catalogue;

/// Performs `xks-sim list`.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn perform() -> Result<u8, String> {
    let mut text = String::new();
    let widest = catalogue::CATALOGUE.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    for entry in catalogue::CATALOGUE {
        let scenario = load(entry.name)?;
        text.push_str(&format!("{:<widest$}  {}\n", entry.name, scenario.title));
    }
    text.push_str("\nxks-sim show NAME explains one, xks-sim run NAME runs it.\n");
    say(&text)?;
    Ok(exit::HELD)
}
