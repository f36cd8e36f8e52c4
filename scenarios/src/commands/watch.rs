//! How long many runs will take, said early, and how far they are.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What takes longer is announced.
const WORTH_SAYING: Duration = Duration::from_secs(5);

/// Watches runs being made.
pub(crate) struct Watch {
    began: Instant,
    jobs: usize,
    expected: usize,
    announced: Mutex<bool>,
}

impl Watch {
    /// Begins to watch: so many runs are expected, so many at the same time.
    #[expect(clippy::disallowed_methods, reason = "how long a person waits is real time")]
    pub(crate) fn new(jobs: usize, expected: usize) -> Self {
        Self { began: Instant::now(), jobs, expected, announced: Mutex::new(false) }
    }

    /// To be called after each run. As soon as every core has made one, it says how long all of them will take, if that is
    /// some seconds; on a terminal it then keeps a line with the time left.
    pub(crate) fn told(&self, done: usize, of: usize) {
        let so_far = self.began.elapsed();
        let left = left(so_far, done, of);
        if let Ok(mut announced) = self.announced.lock()
            && !*announced
            && done >= self.jobs.min(of)
        {
            *announced = true;
            if left > WORTH_SAYING && of == self.expected {
                eprintln!(
                    "{of} runs, {} at a time: about {} to go; Ctrl-C ends early and keeps what has run",
                    self.jobs,
                    in_words(left)
                );
            }
        }
        if std::io::stderr().is_terminal() {
            let what = if of == self.expected { "runs" } else { "runs of this try" };
            let left =
                if of == self.expected { format!(", about {} left", in_words(left)) } else { String::new() };
            eprint!("\r{:70}\r{done} of {of} {what}{left}", "");
        }
    }
}

/// What is left, at the pace so far.
fn left(so_far: Duration, done: usize, of: usize) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "some thousand runs")]
    let ratio = of.saturating_sub(done) as f64 / done.max(1) as f64;
    so_far.mul_f64(ratio)
}

fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=90 => format!("{} s", seconds.max(1)),
        91..=5_400 => format!("{} min", (seconds + 30) / 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_what_was() {
        assert_eq!(left(Duration::from_secs(4), 2, 432), Duration::from_secs(860));
        assert_eq!(left(Duration::from_secs(4), 2, 2), Duration::ZERO);
        assert_eq!(in_words(Duration::from_secs(860)), "14 min");
        assert_eq!(in_words(Duration::from_millis(200)), "1 s");
        assert_eq!(in_words(Duration::from_secs(9_000)), "2 h 30 min");
    }
}
