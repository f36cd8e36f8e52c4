//! Why a command ended without having done its work.
//!
//! Place on the map: what `main` turns into the last line on standard error and the exit code.

use xks_proxy::config::ConfigError;

/// The line for the user, and whether the same command may succeed later.
pub(crate) struct Failure {
    /// One line.
    pub(crate) message: String,
    /// Whoever restarts the daemon may do so: nobody has to change anything first.
    pub(crate) retriable: bool,
}

impl Failure {
    /// The machine is short of something that it may have again later.
    pub(crate) fn of_machine(message: String) -> Self {
        Self { message, retriable: true }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self { message, retriable: false }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { message: error.to_string(), retriable: error.retriable }
    }
}
