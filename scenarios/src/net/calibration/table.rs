//! The table of a calibration, as text that people read and a test reads back.
//!
//! Place on the map: written into `scenarios/CALIBRATION.md` by `cargo xtask calibrate-net`.

use super::{Figures, Point, agrees};
use std::fmt::Write;

/// One compared point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Where.
    pub point: Point,
    /// Over the kernel's TCP.
    pub real: Figures,
    /// Over the simulated one.
    pub simulated: Figures,
}

impl Row {
    /// Whether both agree on the share of calls without an answer in time.
    pub fn agrees(&self) -> bool {
        agrees(self.real.over, self.simulated.over)
    }
}

/// The heading of the table.
pub const HEADING: &str = "\
| RTT ms | loss % | partition s | connections | calls | >250 ms real % | >250 ms simulated % | p50 real ms | p50 simulated ms | p99 real ms | p99 simulated ms | agrees |
|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---|";

/// One line of the table, without its line break.
pub fn line(row: &Row) -> String {
    let Row { point, real, simulated } = row;
    let connections = if point.cold { "cold" } else { "warm" };
    #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
    let partition_s = point.partition_ms as f64 / 1_000.0;
    format!(
        "| {} | {} | {partition_s} | {connections} | {} | {:.2} | {:.2} | {:.1} | {:.1} | {:.1} | {:.1} | {} |",
        point.rtt_ms,
        (point.loss * 100_000.0).round() / 1_000.0,
        real.calls,
        real.over * 100.0,
        simulated.over * 100.0,
        real.p50_ms,
        simulated.p50_ms,
        real.p99_ms,
        simulated.p99_ms,
        if row.agrees() { "yes" } else { "**no**" },
    )
}

/// The whole table.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!("{HEADING}\n");
    for row in rows {
        let _ = writeln!(text, "{}", line(row));
    }
    text
}

/// Reads the rows out of a text that holds such a table. Lines that are none are skipped.
pub fn parse(text: &str) -> Vec<Row> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Row> {
    let cells: Vec<&str> = line.trim().strip_prefix('|')?.split('|').map(str::trim).collect();
    let number = |place: usize| cells.get(place)?.parse::<f64>().ok();
    let connections = *cells.get(3)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "written by `line`")]
    let whole = |value: f64| value.round() as u64;
    let figures = |over, p50, p99| {
        Some(Figures {
            calls: whole(number(4)?),
            over: number(over)? / 100.0,
            p50_ms: number(p50)?,
            p99_ms: number(p99)?,
        })
    };
    Some(Row {
        point: Point {
            rtt_ms: whole(number(0)?),
            loss: number(1)? / 100.0,
            partition_ms: whole(number(2)? * 1_000.0),
            cold: match connections {
                "cold" => true,
                "warm" => false,
                _ => return None,
            },
        },
        real: figures(5, 7, 9)?,
        simulated: figures(6, 8, 10)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let figures = |over| Figures { calls: 12_345, over, p50_ms: 40.1, p99_ms: 250.0 };
        let point = Point { rtt_ms: 35, loss: 0.01, partition_ms: 100, cold: true };
        let near = Row { point, real: figures(0.1), simulated: figures(0.11) };
        let apart = Row {
            point: Point { loss: 0.001, partition_ms: 0, cold: false, ..point },
            real: figures(0.1),
            simulated: figures(0.15),
        };
        let text = table(&[near, apart]);
        assert!(text.contains("| 35 | 0.1 | 0 | warm |") && text.contains("**no**"), "{text}");
        let back = parse(&format!("# Calibration\n\n{text}\nafter | it\n"));
        assert_eq!(back.len(), 2);
        for (back, written) in back.iter().zip([near, apart]) {
            assert!((back.point.loss - written.point.loss).abs() < 1e-12, "{back:?}");
            assert_eq!(Point { loss: written.point.loss, ..back.point }, written.point);
            assert!((back.real.over - written.real.over).abs() < 1e-9);
            assert_eq!(back.agrees(), written.agrees());
        }
        assert!(near.agrees() && !apart.agrees());
    }
}
