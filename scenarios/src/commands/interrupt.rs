//! Ctrl-C: the first asks for an end with a report, the second ends.

use super::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The first Ctrl-C ends the run at the next opportunity, with a report of what there is; the second ends the program.
#[expect(
    clippy::disallowed_methods,
    reason = "the run has this thread to itself, and never waits for a signal"
)]
pub(crate) fn heed_ctrl_c(interrupted: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        // Without a runtime Ctrl-C ends the program at once, as it does by default.
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                interrupted.store(true, Ordering::Relaxed);
            }
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(i32::from(exit::INTERRUPTED));
            }
        });
    });
}
