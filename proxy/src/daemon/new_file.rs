//! A new file for a secret: for its owner only, whole or not at all, and never over another.
//!
//! Place on the map: part of the binary; `credentials new` and `console-json` write with it.

use std::io::{ErrorKind, Write};
use std::path::Path;

/// Writes `text` to a new file of mode 0600 and waits until it is on the disk. The error is one line for the user.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), String> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => {
            format!("{} is there already, and is never overwritten: name another file", path.display())
        }
        _ => format!(
            "cannot write {} ({error}): name a file in a directory that exists and that you may write to",
            path.display()
        ),
    };
    // tempfile makes it with mode 0600, under another name until it is whole.
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist_noclobber(path).map_err(|error| failed(error.error))?;
    // The name, too, has to outlive a power cut.
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}
