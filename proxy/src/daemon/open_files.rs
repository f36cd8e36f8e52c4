//! Too few file descriptors would show as connections that are not taken, in the hour of greatest load. So they are
//! counted at the start.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use xks_proxy::config::Config;
use xks_proxy::hsm::pkcs11::{Pkcs11Settings, TokenChoice};
use xks_proxy::secret::Secret;

/// What the process needs besides connections and sessions: log, sockets, the runtime, files of a reload, what vendors'
/// libraries keep open.
const OTHER_FILES: u64 = 64;

/// Raises the process's limit if it is too low for the configuration. Gives a warning if it stays too low.
///
/// Raised no further than needed: some vendors' libraries still use `select`, which breaks on descriptors above 1,023.
pub(crate) fn provide(config: &Config) -> Option<String> {
    let needed = needed(config);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let (soft, hard) = (current.unwrap_or(u64::MAX), maximum.unwrap_or(u64::MAX));
    if soft >= needed {
        return None;
    }
    let wanted = needed.min(hard);
    let got = match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        Ok(()) => wanted,
        Err(_) => soft,
    };
    (got < needed).then(|| {
        format!(
            "the process may open {got} files and may need {needed}, for limits.connections_max = {} and one for each \
             HSM session: raise its limit (systemd: LimitNOFILE={needed}; shell: ulimit -n {needed}), or lower \
             connections_max",
            config.settings.limits.connections_max
        )
    })
}

/// How many files a process started like this one may have open, once it has asked for them.
pub(crate) fn most() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// How many the configuration may need. A session of a network HSM has a connection of its own.
pub(crate) fn needed(config: &Config) -> u64 {
    (config.settings.limits.connections_max + sessions(config)) as u64 + OTHER_FILES
}

/// Sessions at most, those set aside included.
pub(crate) fn sessions(config: &Config) -> usize {
    let default = Pkcs11Settings::new("", TokenChoice::Slot(0), Secret::new(String::new()));
    let sessions = config.hsms.iter().map(|hsm| {
        hsm.sessions_max.unwrap_or(default.sessions_max) + hsm.set_aside_max.unwrap_or(default.set_aside_max)
    });
    sessions.sum()
}
