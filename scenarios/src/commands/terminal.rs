//! The terminal: what it can show, and writing to it.

use scenarios::report::Style;
use std::io::{IsTerminal, Write};

/// What standard output can show: colour and more than ASCII only on a terminal that wants them.
pub(crate) fn style() -> Style {
    let terminal = std::io::stdout().is_terminal();
    Style { colour: terminal && colour_wished(), unicode: terminal && unicode_wished(), width: columns() }
}

/// Prints to stdout. A reader that has gone away (`xks-sim list | head`) is no error.
///
/// # Errors
/// When standard output cannot be written, say because the disk is full.
pub(crate) fn say(text: &str) -> Result<(), String> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}"))
        }
        _ => Ok(()),
    }
}

/// A line that is overwritten, on a terminal; nothing in a pipe.
pub(crate) fn progress(
    what: &str,
    duration: std::time::Duration,
) -> Option<Box<dyn Fn(std::time::Duration)>> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let what = what.to_owned();
    Some(Box::new(move |now| {
        let percent = 100.0 * now.as_secs_f64() / duration.as_secs_f64();
        eprint!("\r{what} {:.0} s of {:.0} s ({percent:.0} %)", now.as_secs_f64(), duration.as_secs_f64());
    }))
}

/// Wipes the line of [`progress`].
pub(crate) fn clear_progress() {
    if std::io::stderr().is_terminal() {
        eprint!("\r{:60}\r", "");
    }
}

#[expect(clippy::disallowed_methods, reason = "how the terminal is set up stands in the environment")]
fn colour_wished() -> bool {
    // https://no-color.org
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

#[expect(clippy::disallowed_methods, reason = "how the terminal is set up stands in the environment")]
fn unicode_wished() -> bool {
    // As the C library decides: the first of these that is set and not empty.
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .is_some_and(|locale| locale.to_uppercase().replace('-', "").contains("UTF8"))
}

/// Of the terminal behind standard output; 100 where there is none.
fn columns() -> usize {
    terminal_size::terminal_size().map_or(100, |(width, _)| usize::from(width.0))
}
