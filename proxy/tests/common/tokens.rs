//! The tokens of `softhsm`, copied for a daemon of its own.

use crate::softhsm::SoftHsm;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Held while the tokens are copied, and by a test that logs in to them in this process. A login rewrites a token's file,
/// and a copy made meanwhile once had no token `xks`: the daemon said so, rightly, and the test failed.
pub(crate) static TOKENS: Mutex<()> = Mutex::new(());

/// All tokens, to a directory that is made.
pub(crate) fn copy_tokens(to: &Path) {
    let _untouched = TOKENS.lock().unwrap_or_else(PoisonError::into_inner);
    copy(&SoftHsm::get().directory.join("tokens"), to);
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}
