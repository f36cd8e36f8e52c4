//! Ctrl-C: the first asks for an end with a report, the second ends.

use super::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use tokio::signal::unix::{SignalKind, signal};

/// From when this returns the first Ctrl-C ends the run at the next opportunity, with a report of what there is; the second
/// ends the program.
#[expect(
    clippy::disallowed_methods,
    reason = "the run has this thread to itself, and never waits for a signal"
)]
pub(crate) fn heed_ctrl_c(interrupted: Arc<AtomicBool>) {
    let (ready, heeded) = mpsc::channel();
    std::thread::spawn(move || {
        // Without a runtime Ctrl-C ends the program at once, as it does by default.
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(async {
            let Ok(mut pressed) = signal(SignalKind::interrupt()) else { return };
            // Nobody has gone away: who waits is told once.
            let _ = ready.send(());
            if pressed.recv().await.is_some() {
                interrupted.store(true, Ordering::Relaxed);
            }
            if pressed.recv().await.is_some() {
                std::process::exit(i32::from(exit::INTERRUPTED));
            }
        });
    });
    // What is said next may name Ctrl-C. An error means that it stays as it is by default.
    let _ = heeded.recv();
}
