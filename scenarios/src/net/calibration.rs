//! Whether the simulated network agrees with a kernel's: one request pattern for both, and a judge.
//!
//! Place on the map: `cargo xtask calibrate-net` runs [`pattern`] over a real kernel's TCP, with [`link`](super::link)
//! in a relay between two network namespaces, and over [`tcp`](super::tcp) by [`simulate`]; it writes both into
//! `scenarios/CALIBRATION.md` ([`table`]). A test holds later changes of the model to what is recorded there.

pub mod pattern;
mod simulated;
pub mod table;

pub use simulated::{drive_partitions, link_settings, simulate};

use std::fmt;
use std::time::Duration;

/// The state of the network and of the connections at which both are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Round-trip time in milliseconds, 0 to 10,000.
    pub rtt_ms: u64,
    /// Share of packets lost in each direction, 0 to 1.
    pub loss: f64,
    /// How long each of the recurring partitions lasts, in milliseconds; 0 is none.
    pub partition_ms: u64,
    /// Whether every call opens its own connection.
    pub cold: bool,
}

impl Point {
    /// How often a partition begins: a tenth of a second every 2 s, half a second every 4 s, three seconds every 8 s.
    pub fn partition_every(&self) -> Duration {
        Duration::from_secs(match self.partition_ms {
            0..=200 => 2,
            201..=1_000 => 4,
            _ => 8,
        })
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = if self.cold { "cold" } else { "warm" };
        let (rtt, loss) = (self.rtt_ms, self.loss * 100.0);
        write!(f, "{rtt} ms, {loss} % loss, partitions of {} ms, {connections}", self.partition_ms)
    }
}

/// Every point of the grid; `quick` is a sample of it.
pub fn grid(quick: bool) -> Vec<Point> {
    let losses: &[f64] = if quick { &[0.0, 0.05] } else { &[0.0, 0.001, 0.01, 0.05] };
    let partitions: &[u64] = if quick { &[0, 500] } else { &[0, 100, 500, 3_000] };
    let mut points = Vec::new();
    for rtt_ms in [5, 35, 80] {
        for loss in losses {
            for partition_ms in partitions {
                for cold in [false, true] {
                    points.push(Point { rtt_ms, loss: *loss, partition_ms: *partition_ms, cold });
                }
            }
        }
    }
    points
}

/// What many calls came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Calls begun within the measured time.
    pub calls: u64,
    /// Share of them without an answer within KMS's patience.
    pub over: f64,
    /// Median, in milliseconds; a call without an answer counts as the whole patience.
    pub p50_ms: f64,
    /// 99th percentile, likewise.
    pub p99_ms: f64,
}

/// How far two shares may be apart: 20 % of the real one, or 0.3 percentage points where that is more.
pub fn tolerance(real: f64) -> f64 {
    (0.2 * real).max(0.003)
}

/// Whether the simulation is near enough to the kernel.
pub fn agrees(real: f64, simulated: f64) -> bool {
    (real - simulated).abs() <= tolerance(real)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_judge_allows_a_fifth_or_three_tenths_of_a_percentage_point() {
        for (real, simulated, expected) in [
            (0.0, 0.0, true),
            (0.0, 0.003, true),
            (0.0, 0.0031, false),
            (0.01, 0.0129, true),
            (0.01, 0.0131, false),
            (0.10, 0.119, true),
            (0.10, 0.081, true),
            (0.10, 0.121, false),
            (0.10, 0.079, false),
            (0.10, f64::NAN, false),
        ] {
            assert_eq!(agrees(real, simulated), expected, "{real} {simulated}");
        }
    }

    #[test]
    fn the_grid_has_every_combination() {
        let points = grid(false);
        assert_eq!(points.len(), 3 * 4 * 4 * 2);
        assert!(grid(true).iter().all(|point| points.contains(point)));
    }
}
