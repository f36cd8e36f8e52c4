//! What the commands that talk to a real proxy are told in the same words: path prefix, secret, files.
//!
//! Place on the map: [`fuzz`](super::fuzz) and [`kms`](super::kms) read their options with it.

use std::path::Path;
use xks_proxy::secret::Secret;

/// The environment variable with the secret access key, where no file is named.
const SECRET_VARIABLE: &str = "XKS_SECRET_ACCESS_KEY";
const FILE_BYTES_MAX: u64 = 4 << 20;

/// `--uri-path-prefix`: what stands before `/kms/xks/v1` in the proxy's paths.
pub(crate) fn prefix(text: &str) -> Result<String, String> {
    let trimmed = text.trim_end_matches('/');
    let legal = trimmed.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_-".contains(&byte));
    if !legal || !(trimmed.is_empty() || trimmed.starts_with('/')) {
        return Err(format!(
            "--uri-path-prefix {text} must begin with a slash and hold [A-Za-z0-9/_-] only (XKS-NET-4)"
        ));
    }
    Ok(trimmed.to_owned())
}

/// `--secret-file`, or the environment variable.
#[expect(
    clippy::disallowed_methods,
    reason = "a secret may come from the environment, never from the command line"
)]
pub(crate) fn secret(file: Option<&Path>) -> Result<Secret, String> {
    let text = match file {
        Some(file) => String::from_utf8(read(file, "--secret-file")?)
            .map_err(|_| format!("--secret-file {} is not text", file.display()))?,
        None => std::env::var(SECRET_VARIABLE).map_err(|_| {
            format!("the secret access key is missing: give --secret-file FILE, or set {SECRET_VARIABLE}")
        })?,
    };
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err("the secret access key is empty".into());
    }
    Ok(Secret::new(trimmed.to_owned()))
}

/// A file named by `option`, whole.
pub(crate) fn read(file: &Path, option: &str) -> Result<Vec<u8>, String> {
    let wrong = |error: std::io::Error| format!("{option}: cannot read {}: {error}", file.display());
    let size = std::fs::metadata(file).map_err(wrong)?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!(
            "{option}: {} has {size} bytes; at most {FILE_BYTES_MAX} are read",
            file.display()
        ));
    }
    std::fs::read(file).map_err(wrong)
}
