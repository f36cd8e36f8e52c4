//! What happened how often, as plots of counts, and the values of every plot for the page's script.
//!
//! Place on the map: used by `html`, which lays them out; `chart` draws them.

use super::chart::Axis;
use super::html::service_id;
use super::human::{count, counted};
use crate::result::{RunResult, ServiceResult};

/// What the script reads values from: numbers under the names of the plots.
pub(super) fn series(result: &RunResult) -> String {
    let mut plots = serde_json::Map::new();
    for (index, service) in result.services.iter().enumerate() {
        let id = service_id(index);
        plots.insert(id.clone(), serde_json::json!({ "ok": service.ok, "failed": service.failed }));
        plots.insert(
            format!("{id}-parts"),
            serde_json::json!({ "of": id, "cached": service.cached, "held": service.held }),
        );
        for (nth, plot) in service_counts(service).into_iter().enumerate() {
            plots.insert(format!("{id}-count-{nth}"), plot.json());
        }
    }
    let xks = &result.xks;
    let values = serde_json::json!({ "p50": xks.p50_ms, "p90": xks.p90_ms, "p99": xks.p99_ms });
    plots.insert("latency".to_owned(), values);
    let load = Axis::of(result).load_series(result);
    let values = serde_json::json!({ "calls": xks.per_bucket, "unit_ms": load.unit_ms, "unit": load.unit });
    plots.insert("load".to_owned(), values);
    for (nth, plot) in queues(result).iter().chain(&calls_of_all(result)).enumerate() {
        plots.insert(format!("count-{nth}"), plot.json());
    }
    let all = serde_json::json!({
        "duration_ms": result.duration_ms.max(1),
        "bucket_ms": result.bucket_ms.max(1),
        "plots": plots,
    });
    inert(&all.to_string())
}

/// A plot of counts: one or two lines, and what is said beside them.
pub(super) struct Counts {
    pub(super) name: String,
    /// Class, what one of them is called, and the series.
    pub(super) lines: Vec<(&'static str, &'static str, Vec<u64>)>,
    pub(super) note: String,
}

impl Counts {
    fn json(&self) -> serde_json::Value {
        let lines: Vec<_> =
            self.lines.iter().map(|(_, noun, values)| serde_json::json!([noun, values])).collect();
        serde_json::json!({ "lines": lines })
    }

    pub(super) fn most(&self) -> u64 {
        self.lines.iter().flat_map(|(_, _, values)| values).copied().max().unwrap_or(0)
    }
}

/// What a service met beside its users' success: exceptions by name, and retries.
pub(super) fn service_counts(service: &ServiceResult) -> Vec<Counts> {
    let mut plots: Vec<Counts> = service
        .exceptions
        .iter()
        .map(|series| exception_counts(&series.exception, series.per_bucket.clone()))
        .collect();
    plots.extend(retry_counts(service.retries.clone()));
    plots
}

fn exception_counts(exception: &str, per_bucket: Vec<u64>) -> Counts {
    let all = per_bucket.iter().sum();
    Counts {
        name: exception.to_owned(),
        note: format!("{} ended in it", counted(all, "KMS call")),
        lines: vec![("lost", "KMS calls", per_bucket)],
    }
}

/// None where nothing was repeated.
fn retry_counts(retries: Vec<u64>) -> Option<Counts> {
    let all: u64 = retries.iter().sum();
    (all > 0).then(|| Counts {
        name: "Retries".to_owned(),
        note: format!("{} by SDKs", counted(all, "repeated KMS call")),
        lines: vec![("calls", "repeated KMS calls", retries)],
    })
}

/// How full the proxies and the HSMs were.
pub(super) fn queues(result: &RunResult) -> Vec<Counts> {
    let queues = &result.queues;
    let most = |series: &[u64]| count(series.iter().copied().max().unwrap_or(0));
    if queues.in_flight.is_empty() {
        return Vec::new();
    }
    vec![
        Counts {
            name: "At the fullest proxy".to_owned(),
            note: format!(
                "up to {} in flight of {}, {} waiting for a core",
                most(&queues.in_flight),
                count(queues.in_flight_max),
                most(&queues.waiting)
            ),
            lines: vec![
                ("calls", "in flight", queues.in_flight.clone()),
                ("wait", "waiting for a core", queues.waiting.clone()),
            ],
        },
        Counts {
            name: "At the fullest HSM".to_owned(),
            note: format!(
                "up to {} sessions busy of {} that work, {} waiting; it has {}",
                most(&queues.hsm_running),
                count(queues.hsm_parallel_max),
                most(&queues.hsm_queued),
                counted(queues.hsm_sessions_max, "session")
            ),
            lines: vec![
                ("calls", "sessions busy", queues.hsm_running.clone()),
                ("wait", "sessions waiting", queues.hsm_queued.clone()),
            ],
        },
    ]
}

/// Retries and exceptions of all services together.
pub(super) fn calls_of_all(result: &RunResult) -> Vec<Counts> {
    let add = |sum: &mut Vec<u64>, series: &[u64]| {
        sum.resize(sum.len().max(series.len()), 0);
        sum.iter_mut().zip(series).for_each(|(sum, count)| *sum += count);
    };
    let mut retries = Vec::new();
    let mut by_name: Vec<(&str, Vec<u64>)> = Vec::new();
    for service in &result.services {
        add(&mut retries, &service.retries);
        for series in &service.exceptions {
            match by_name.iter_mut().find(|(name, _)| *name == series.exception) {
                Some((_, sum)) => add(sum, &series.per_bucket),
                None => by_name.push((&series.exception, series.per_bucket.clone())),
            }
        }
    }
    let mut plots: Vec<Counts> = retry_counts(retries).into_iter().collect();
    plots.extend(by_name.into_iter().map(|(name, sum)| exception_counts(name, sum)));
    plots
}

/// JSON that cannot end the element it stands in, should it ever hold text: the same values, escaped JSON's own way.
fn inert(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_json_cannot_end_its_element_and_means_the_same() {
        let value = serde_json::json!({ "title": "</script><!-- & -->" });
        let inert = inert(&value.to_string());
        assert!(!inert.contains(['<', '>', '&']), "{inert}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&inert).unwrap(), value);
    }
}
