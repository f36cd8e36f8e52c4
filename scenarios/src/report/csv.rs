//! The run's time series for a spreadsheet: one row per bucket (RFC 4180).
//!
//! Place on the map: one of the renderers of [`report`](crate::report). A text that a spreadsheet would take for a
//! formula begins with an apostrophe, which it shows as text.

use crate::result::RunResult;
use std::fmt::Write;

/// The whole file. Times are simulated milliseconds since the start of the run; a cell is empty where there is nothing to
/// say, as the latency of no call.
pub fn csv(result: &RunResult) -> String {
    let columns = columns(result);
    let mut text = String::from("from_ms,to_ms,faults,alarms");
    for column in &columns {
        text.push(',');
        text.push_str(&quoted(&column.name));
    }
    text.push_str("\r\n");
    let bucket_ms = result.bucket_ms.max(1);
    let rows = columns.iter().map(|column| column.values.len()).max().unwrap_or(0);
    for row in 0..rows {
        let from_ms = (row as u64).saturating_mul(bucket_ms);
        let to_ms = from_ms.saturating_add(bucket_ms).min(result.duration_ms.max(from_ms));
        // An instant belongs to the bucket in which it lies.
        let here = |from: u64, to: u64| from < to_ms && (to > from_ms || (from == to && from >= from_ms));
        let mut faults: Vec<&str> = result
            .faults
            .iter()
            .filter(|band| here(band.from_ms, band.to_ms))
            .map(|band| band.label.as_str())
            .collect();
        faults.dedup();
        let rings = |alarm: &&crate::result::AlarmResult| {
            alarm.rang.iter().any(|span| here(span.from_ms, span.to_ms.unwrap_or(u64::MAX)))
        };
        let alarms: Vec<&str> = result.alarms.iter().filter(rings).map(|alarm| alarm.name.as_str()).collect();
        // Writing to a String cannot fail.
        let _ =
            write!(text, "{from_ms},{to_ms},{},{}", quoted(&faults.join("; ")), quoted(&alarms.join("; ")));
        for column in &columns {
            text.push(',');
            text.push_str(column.values.get(row).map_or("", String::as_str));
        }
        text.push_str("\r\n");
    }
    text
}

/// One series under its name.
struct Column {
    name: String,
    values: Vec<String>,
}

fn columns(result: &RunResult) -> Vec<Column> {
    let counts =
        |name: String, values: &[u64]| Column { name, values: values.iter().map(u64::to_string).collect() };
    let times = |name: &str, values: &[Option<f64>]| Column {
        name: name.to_owned(),
        values: values
            .iter()
            .map(|value| {
                value.filter(|value| value.is_finite()).map_or(String::new(), |value| value.to_string())
            })
            .collect(),
    };
    let mut columns = Vec::new();
    for (index, service) in result.services.iter().enumerate() {
        // Two services of one kind have one name: the second is `s3#2`.
        let earlier = result.services.iter().take(index).filter(|other| other.name == service.name).count();
        let name =
            if earlier == 0 { service.name.clone() } else { format!("{}#{}", service.name, earlier + 1) };
        columns.push(counts(format!("{name}.ok"), &service.ok));
        columns.push(counts(format!("{name}.failed"), &service.failed));
        columns.push(counts(format!("{name}.cached"), &service.cached));
        columns.push(counts(format!("{name}.held"), &service.held));
        columns.push(counts(format!("{name}.retries"), &service.retries));
        for series in &service.exceptions {
            columns.push(counts(format!("{name}.{}", series.exception), &series.per_bucket));
        }
    }
    columns.push(counts("xks.calls".to_owned(), &result.xks.per_bucket));
    columns.push(times("xks.p50_ms", &result.xks.p50_ms));
    columns.push(times("xks.p90_ms", &result.xks.p90_ms));
    columns.push(times("xks.p99_ms", &result.xks.p99_ms));
    for (name, series) in [
        ("proxy.in_flight", &result.queues.in_flight),
        ("proxy.waiting", &result.queues.waiting),
        ("hsm.running", &result.queues.hsm_running),
        ("hsm.queued", &result.queues.hsm_queued),
    ] {
        columns.push(counts(name.to_owned(), series));
    }
    columns
}

fn quoted(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}
