//! A measured latency histogram: a text file with one `latency_ms count` per line.
//!
//! Place on the map: named by `latency_file` in the section `[link]`; drawn from by [`latency`](super::latency).
//!
//! The latencies are round-trip times, as `ping` measures them. Empty lines and what follows a `#` are skipped:
//!
//! ```text
//! # ping from eu-central-1, 2,000 packets
//! 11.2  1840
//! 12.0   120
//! 48.5    40
//! ```

use super::random::unit;
use rand_chacha::ChaCha20Rng;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// The largest file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The most lines that say something.
const ENTRIES_MAX: usize = 10_000;
/// The longest latency, in milliseconds.
const LATENCY_MAX_MS: f64 = 60_000.0;
/// The largest count of one line: a sum of 10,000 of them stays exact in a double.
const COUNT_MAX: u64 = 1_000_000_000;

/// Round-trip times and how often each was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Each latency with the number of measurements up to and with it. Never empty.
    cumulative: Vec<(Duration, u64)>,
}

impl Histogram {
    /// Reads a file.
    ///
    /// # Errors
    /// In one line: the file, the line and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let cannot = |error: std::io::Error| format!("cannot read the latency file {name}: {error}");
        // Looked at before it is opened: opening a FIFO waits for its other end.
        if !std::fs::metadata(path).map_err(cannot)?.is_file() {
            return Err(format!("the latency file {name} is no regular file; name a text file"));
        }
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(cannot)?;
        // One byte more than is taken, whatever length the file claims to have.
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("the latency file {name} has more than {FILE_BYTES_MAX} bytes"));
        }
        let text =
            String::from_utf8(bytes).map_err(|_| format!("the latency file {name} is not UTF-8 text"))?;
        Self::parse(&text).map_err(|message| format!("{name}:{message}"))
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// The number of the line and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut cumulative = Vec::new();
        let mut total = 0_u64;
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.is_empty() {
                continue;
            }
            let number = index + 1;
            let entry = match words.as_slice() {
                [latency, count] => latency.parse::<f64>().ok().zip(count.parse::<u64>().ok()),
                _ => None,
            };
            let Some((latency_ms, count)) = entry else {
                return Err(format!(
                    "{number}: a line is a latency in milliseconds and a count, such as `11.2 1840`"
                ));
            };
            if !(0.0..=LATENCY_MAX_MS).contains(&latency_ms) {
                return Err(format!(
                    "{number}: a latency is between 0 and {LATENCY_MAX_MS} ms, not {latency_ms}"
                ));
            }
            if count > COUNT_MAX {
                return Err(format!("{number}: a count is at most {COUNT_MAX}, not {count}"));
            }
            if cumulative.len() == ENTRIES_MAX {
                return Err(format!("{number}: at most {ENTRIES_MAX} latencies; merge neighbours"));
            }
            total += count;
            cumulative.push((Duration::from_secs_f64(latency_ms / 1_000.0), total));
        }
        if total == 0 {
            return Err("1: no measurement in the file; write lines such as `11.2 1840`".into());
        }
        Ok(Self { cumulative })
    }

    /// The round-trip time in the middle of the measurements as they stand in the file.
    pub(super) fn middle(&self) -> Duration {
        self.at(self.total() / 2)
    }

    /// One of the round-trip times, each as often as it was seen.
    pub(super) fn draw(&self, random: &mut ChaCha20Rng) -> Duration {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most 10^13 measurements, and a product below them"
        )]
        let place = (unit(random) * self.total() as f64) as u64;
        self.at(place)
    }

    fn total(&self) -> u64 {
        self.cumulative.last().map_or(0, |(_, total)| *total)
    }

    /// That of the measurement of this number, counted from 0.
    fn at(&self, place: u64) -> Duration {
        let index = self.cumulative.partition_point(|(_, up_to)| *up_to <= place);
        self.cumulative.get(index).map_or(Duration::ZERO, |(latency, _)| *latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, message) in [
            ("", "1: no measurement"),
            ("# nothing\n10 0\n", "1: no measurement"),
            ("10 1\n\neleven 1", "3: a line is a latency"),
            ("10 1 2", "1: a line is a latency"),
            ("10", "1: a line is a latency"),
            ("10 -1", "1: a line is a latency"),
            ("-1 1", "1: a latency is between 0 and 60000"),
            ("nan 1", "1: a latency is between"),
            ("60001 1", "1: a latency is between"),
            ("1 1000000001", "1: a count is at most"),
        ] {
            let error = Histogram::parse(text).unwrap_err();
            assert!(error.starts_with(message), "{text:?}: {error}");
        }
        let long = "1 1\n".repeat(10_001);
        assert!(Histogram::parse(&long).unwrap_err().starts_with("10001: at most 10000"));
    }

    #[test]
    fn a_missing_or_huge_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wan.txt");
        assert!(Histogram::read(&path).unwrap_err().contains("wan.txt: No such file"));
        std::fs::write(&path, "#".repeat(1024 * 1024 + 1)).unwrap();
        assert!(Histogram::read(&path).unwrap_err().contains("more than 1048576"));
        for special in [Path::new("/dev/zero"), Path::new("/dev/null"), directory.path()] {
            let error = Histogram::read(special).unwrap_err();
            assert!(error.contains("is no regular file"), "{error}");
        }
        std::fs::write(&path, [0xff]).unwrap();
        assert!(Histogram::read(&path).unwrap_err().contains("is not UTF-8 text"));
        std::fs::write(&path, "# ping\n11.2  1840 # most\n 48.5 40\n").unwrap();
        assert_eq!(Histogram::read(&path).unwrap().cumulative.last().unwrap().1, 1_880);
    }
}
