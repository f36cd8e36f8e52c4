//! The proxy's configuration file.

use xks_proxy::config::Config;

/// The mistakes that are about a whole file, which is all that has no line.
const OF_THE_FILE: [&str; 3] = ["there is no [server]", "no HSM is named", "no key store is named"];

/// A text. A mistake is one line long and names a line that the text has; warnings are one line each; and what is accepted
/// has what the proxy cannot be without.
pub(crate) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse("config.toml", text) {
        Ok(config) => {
            assert!(!config.listen.is_empty() && !config.hsms.is_empty() && !config.key_stores.is_empty());
            for store in &config.key_stores {
                assert!((1..=10).contains(&store.hsms.len()) && !store.credentials.is_empty());
                assert!(store.hsms.iter().all(|index| *index < config.hsms.len()));
            }
            assert!(config.warnings.iter().all(|warning| is_one_line(warning)), "{:?}", config.warnings);
            assert!(config.files().contains(std::path::Path::new("config.toml")));
        }
        Err(error) => {
            assert!(is_one_line(&error.to_string()), "{error}");
            match error.line {
                Some(line) => assert!(has_line(text, line), "{error}"),
                None => assert!(OF_THE_FILE.iter().any(|start| error.message.starts_with(start)), "{error}"),
            }
        }
    }
}

/// Neither empty nor broken, and nothing in it that a terminal would obey.
pub(crate) fn is_one_line(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_control)
}

/// Lines count from 1, and the end of a text is on its last, even if that is empty.
pub(crate) fn has_line(text: &str, line: usize) -> bool {
    (1..=text.split('\n').count()).contains(&line)
}
