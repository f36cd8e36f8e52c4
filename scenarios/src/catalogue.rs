//! The scenarios that come with the program, built into it.
//!
//! Place on the map: `main` looks a name up here before it looks for a file.

/// A scenario of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name: the file's without `.toml`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! entries {
    ($($name:literal),* $(,)?) => {
        [$(Entry { name: $name, text: include_str!(concat!("../catalogue/", $name, ".toml")) }),*]
    };
}

/// All of them; the first to try comes first.
pub const CATALOGUE: [Entry; 8] = entries![
    "hsm-outage",
    "hsm-failover",
    "hsm-slow",
    "hsm-reconnect",
    "partition",
    "proxy-crash",
    "kill-switch",
    "steady"
];

/// The entry of this name.
pub fn find(name: &str) -> Option<Entry> {
    CATALOGUE.into_iter().find(|entry| entry.name == name)
}
