//! Files, read up to a limit.
//!
//! Place on the map: part of `build`; the door to the file system.

use super::super::{Config, ConfigError, Placed};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// More than any certificate bundle, and no more than a slip of the hand (`/dev/zero`) may cost.
const FILE_BYTES_MAX: u64 = 4_194_304;

/// The whole file. What it held stands nowhere else in memory when there is no error: the buffer never grows.
pub(in crate::config) fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let expected = file.metadata()?.len().min(FILE_BYTES_MAX);
    // One byte more, for the read that finds the end.
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or_default() + 1);
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

impl Config {
    pub(super) fn read(&self, file: &Placed<impl AsRef<Path>>, what: &str) -> Result<Vec<u8>, ConfigError> {
        let path = file.value.as_ref();
        read_limited(path).map_err(|error| {
            self.error(
                file.line,
                format!(
                    "cannot read the {what} {} ({error}): create it, or correct the path and its permissions",
                    path.display()
                ),
            )
        })
    }

    pub(super) fn warn_if_readable(&mut self, file: &Placed<impl AsRef<Path>>, what: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = file.value.as_ref();
        if std::fs::metadata(path).is_ok_and(|facts| facts.permissions().mode() & 0o004 != 0) {
            self.warnings.push(format!(
                "{}:{}: every user of this machine can read the {what} in {}: chmod 600 it",
                self.file,
                file.line,
                path.display()
            ));
        }
    }
}
