//! `docs/failure-catalogue.md`: each kind of outage, and what each AWS service then shows, written from the results of
//! `cargo xtask catalogue` and never by hand.
//!
//! Place on the map: [`catalogue`](crate::catalogue) hands over the `report.json` of every scenario with seed 1; with
//! `--renew` it writes the page, without it holds the committed page against the runs.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What the page needs of a `report.json` (`scenarios/report.schema.json`).
#[derive(Deserialize)]
pub(crate) struct Run {
    scenario: String,
    title: String,
    about: String,
    duration_ms: u64,
    faults: Vec<Fault>,
    services: Vec<Service>,
}

#[derive(Deserialize)]
struct Fault {
    label: String,
    from_ms: u64,
    to_ms: u64,
}

#[derive(Deserialize)]
struct Service {
    title: String,
    requests: u64,
    failures: u64,
    failed_after_fault_ms: Option<u64>,
    recovered_after_fault_ms: Option<u64>,
    errors: Vec<Error>,
    lasting_damage: String,
    lost: Vec<Counted>,
    manual: Vec<Counted>,
}

#[derive(Deserialize)]
struct Error {
    visible: String,
    kms_exception: String,
    kms_message: String,
    count: u64,
}

#[derive(Deserialize)]
struct Counted {
    what: String,
    count: u64,
}

/// A failure share below this is left out of a list of who is hit: of 100,000 requests one may always fail.
const HIT_SHARE_MIN: f64 = 0.000_05;
/// Different messages of KMS shown for one outage, the most frequent first.
const MESSAGES_SHOWN: usize = 4;
/// What users see, for one service, the most frequent first.
const ERRORS_SHOWN: usize = 3;

/// Reads one result.
pub(crate) fn parse(text: &str) -> Result<Run, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// The page, its outages in the order of the catalogue.
pub(crate) fn page(runs: &[Run]) -> String {
    let mut page = String::from(INTRODUCTION);
    line(&mut page, "| Outage | Requests that fail | Services hit | Over, after its end |");
    line(&mut page, "|---|---|---|---|");
    for run in runs {
        let (failures, requests) = run
            .services
            .iter()
            .fold((0, 0), |(failures, requests), it| (failures + it.failures, requests + it.requests));
        let hit = run.services.iter().filter(|service| service.hit()).count();
        line(
            &mut page,
            &format!(
                "| [{}](#{}) | {} | {hit} of {} | {} |",
                cell(&run.title),
                run.scenario,
                percent(failures, requests),
                run.services.len(),
                over(run),
            ),
        );
    }
    line(&mut page, "\n## Outage by outage\n");
    for run in runs {
        outage(&mut page, run);
    }
    by_service(&mut page, runs);
    page
}

impl Service {
    fn hit(&self) -> bool {
        share(self.failures, self.requests) >= HIT_SHARE_MIN
    }
}

fn outage(page: &mut String, run: &Run) {
    line(page, &format!("<a id=\"{}\"></a>\n\n### {}\n", run.scenario, run.title));
    line(page, &format!("{}\n", run.about));
    line(page, &format!("`cargo run --release -- run {}`", run.scenario));
    if run.faults.is_empty() {
        line(page, "\nNo fault for as long as it runs.");
    }
    if run.faults.len() > FAULTS_SHOWN {
        line(page, &format!("\n{} faults, the first of them:", run.faults.len()));
    }
    for fault in run.faults.iter().take(FAULTS_SHOWN) {
        let until = match fault.to_ms >= run.duration_ms {
            true => "to the end".to_owned(),
            false => format!("for {}", duration(fault.to_ms - fault.from_ms)),
        };
        line(page, &format!("\n- {}, {until}", fault.label));
    }
    line(page, "");
    let (hit, spared): (Vec<_>, Vec<_>) = run.services.iter().partition(|service| service.hit());
    if !hit.is_empty() {
        line(page, "| Service | Fail | Begins | Over | What users see |");
        line(page, "|---|---|---|---|---|");
        for service in &hit {
            let begins = match (run.faults.is_empty(), service.failed_after_fault_ms) {
                (false, Some(ms)) => format!("after {}", duration(ms)),
                (false, None) => "before".to_owned(),
                (true, _) => "from time to time".to_owned(),
            };
            let over = match service.recovered_after_fault_ms {
                _ if run.faults.is_empty() => String::new(),
                Some(0) => "at once".to_owned(),
                Some(ms) => format!("after {}", duration(ms)),
                None => "not by the end".to_owned(),
            };
            line(
                page,
                &format!(
                    "| {} | {} | {begins} | {over} | {} |",
                    cell(&service.title),
                    percent(service.failures, service.requests),
                    seen(service).join("<br>"),
                ),
            );
        }
    }
    if !spared.is_empty() {
        let names: Vec<&str> = spared.iter().map(|service| service.title.as_str()).collect();
        line(page, &format!("\nNot hit: {}.", names.join(", ")));
    }
    damage(page, &hit);
    messages(page, &hit);
    line(page, "");
}

/// Faults of a timeline that are listed; further ones repeat them.
const FAULTS_SHOWN: usize = 4;

fn seen(service: &Service) -> Vec<String> {
    // The same words may have several causes.
    let mut seen: Vec<(&str, u64)> = Vec::new();
    for error in &service.errors {
        match seen.iter_mut().find(|(visible, _)| *visible == error.visible) {
            Some((_, count)) => *count += error.count,
            None => seen.push((&error.visible, error.count)),
        }
    }
    seen.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    seen.into_iter().take(ERRORS_SHOWN).map(|(visible, _)| format!("`{}`", cell(visible))).collect()
}

/// What is lost for good, and what somebody must do by hand.
fn damage(page: &mut String, hit: &[&Service]) {
    for service in hit {
        if !service.lasting_damage.is_empty() {
            line(page, &format!("\n**{}**: {}", service.title, service.lasting_damage));
        }
        for (counted, ends) in [(&service.lost, "lost for good"), (&service.manual, "to do by hand")] {
            for Counted { what, count } in counted {
                // A plural noun, which a number behind it leaves right.
                line(page, &format!("\n**{}**, {ends}: {what} ({})", service.title, thousands(*count)));
            }
        }
    }
}

/// What KMS itself said, word for word.
fn messages(page: &mut String, hit: &[&Service]) {
    let mut said: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for error in hit.iter().flat_map(|service| &service.errors).filter(|it| !it.kms_exception.is_empty()) {
        *said.entry((&error.kms_exception, &error.kms_message)).or_insert(0) += error.count;
    }
    let mut said: Vec<_> = said.into_iter().collect();
    said.sort_by_key(|(words, count)| (std::cmp::Reverse(*count), *words));
    if said.is_empty() {
        return;
    }
    line(page, "\nWhat KMS answers:\n");
    for ((exception, message), _) in said.into_iter().take(MESSAGES_SHOWN) {
        line(page, &format!("- `{exception}`: {message}"));
    }
}

/// The same the other way round: where a message that somebody has in front of him can come from.
fn by_service(page: &mut String, runs: &[Run]) {
    let mut services: BTreeMap<&str, BTreeMap<&str, Vec<&Run>>> = BTreeMap::new();
    for run in runs {
        for service in &run.services {
            let errors = services.entry(&service.title).or_default();
            for error in &service.errors {
                let places = errors.entry(&error.visible).or_default();
                if places.last().is_none_or(|last| last.scenario != run.scenario) {
                    places.push(run);
                }
            }
        }
    }
    line(page, "## Service by service: where an error can come from\n");
    for (title, errors) in services {
        line(page, &format!("### {title}\n"));
        if errors.is_empty() {
            line(page, "Not hit by any of these outages.\n");
            continue;
        }
        line(page, "| What users see | Outages |");
        line(page, "|---|---|");
        for (visible, places) in errors {
            let links: Vec<String> = places.iter().map(|run| format!("[{0}](#{0})", run.scenario)).collect();
            line(page, &format!("| `{}` | {} |", cell(visible), links.join(", ")));
        }
        line(page, "");
    }
}

/// When the last service was well again, counted from the end of its fault.
fn over(run: &Run) -> String {
    if run.faults.is_empty() || !run.services.iter().any(Service::hit) {
        return "—".to_owned();
    }
    let hit = run.services.iter().filter(|service| service.hit());
    let times: Option<Vec<u64>> = hit.map(|service| service.recovered_after_fault_ms).collect();
    match times.and_then(|times| times.into_iter().max()) {
        Some(0) => "at once".to_owned(),
        Some(ms) => duration(ms),
        None => "not by the end of the run".to_owned(),
    }
}

fn line(page: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(page, "{text}");
}

/// A pipe would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests fit a double")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn percent(part: u64, whole: u64) -> String {
    let percent = share(part, whole) * 100.0;
    match part {
        0 => "none".to_owned(),
        _ if percent < 0.01 => "below 0.01 %".to_owned(),
        _ if percent < 1.0 => format!("{percent:.2} %"),
        _ => format!("{percent:.1} %"),
    }
}

fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `40 ms`, `3.2 s`, `5 min 2 s`, `20 h 4 min`, `7 days 12 h`.
fn duration(ms: u64) -> String {
    let two = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    };
    match ms {
        0..=99 => format!("{ms} ms"),
        100..=59_949 if ((ms + 50) / 100).is_multiple_of(10) => format!("{} s", (ms + 50) / 1_000),
        100..=59_949 => format!("{}.{} s", (ms + 50) / 1_000, (ms + 50) / 100 % 10),
        59_950..=3_599_499 => two((ms + 500) / 60_000, "min", (ms + 500) / 1_000 % 60, "s"),
        3_599_500..=86_369_999 => two((ms + 30_000) / 3_600_000, "h", (ms + 30_000) / 60_000 % 60, "min"),
        86_370_000..=171_000_000 => two(1, "day", (ms + 1_800_000) / 3_600_000 - 24, "h"),
        _ => two((ms + 1_800_000) / 86_400_000, "days", (ms + 1_800_000) / 3_600_000 % 24, "h"),
    }
}

const INTRODUCTION: &str = "\
# The failure catalogue

Each kind of outage between AWS KMS and the company's HSM, and what each AWS service then shows: when it begins, the exact
words, when it is over, what is lost for good and what to do. Written by `cargo xtask catalogue --renew` from one run of
every scenario of the catalogue (seed 1, emulated HSM); `cargo xtask catalogue` holds this page against the runs.

Times under *Begins* count from the beginning of the fault and depend on the request rates of the scenario; times under
*Over* count from its end. What AWS does not publish is an assumption (MA-n), listed with its number at the end of each
run's report; run the scenario with your own rates before you rely on a figure.

## All outages

";

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = r#"{"scenario": "x", "title": "An outage", "about": "Why. What to do.", "duration_ms": 60000,
        "faults": [{"label": "a | b", "from_ms": 10000, "to_ms": 40000}], "services": [
        {"title": "S3", "requests": 1000, "failures": 250, "failed_after_fault_ms": 12, "recovered_after_fault_ms": 1500,
         "errors": [{"visible": "E|1", "kms_exception": "K", "kms_message": "why", "count": 249},
                    {"visible": "E2", "kms_exception": "", "kms_message": "", "count": 1}],
         "lasting_damage": "", "lost": [{"what": "records", "count": 1234}], "manual": []},
        {"title": "RDS", "requests": 10, "failures": 0, "failed_after_fault_ms": null, "recovered_after_fault_ms": null,
         "errors": [], "lasting_damage": "", "lost": [], "manual": []}]}"#;

    #[test]
    fn a_page_names_who_is_hit_when_and_with_which_words() {
        let page = page(&[parse(RUN).unwrap()]);
        for expected in [
            "| [An outage](#x) | 24.8 % | 1 of 2 | 1.5 s |",
            "- a | b, for 30 s",
            "| S3 | 25.0 % | after 12 ms | after 1.5 s | `E\\|1`<br>`E2` |",
            "Not hit: RDS.",
            "**S3**, lost for good: records (1,234)",
            "- `K`: why",
            "| `E2` | [x](#x) |",
            "Not hit by any of these outages.",
        ] {
            assert!(page.contains(expected), "{expected} is not in\n{page}");
        }
    }

    #[test]
    fn times_change_their_unit_where_they_are_rounded_up_to_it() {
        let cases = [
            (0, "0 ms"),
            (99, "99 ms"),
            (100, "0.1 s"),
            (59_949, "59.9 s"),
            (59_950, "1 min"),
            (3_599_499, "59 min 59 s"),
            (3_599_500, "1 h"),
            (86_369_999, "23 h 59 min"),
            (86_370_000, "1 day"),
            (691_200_000, "8 days"),
        ];
        for (ms, text) in cases {
            assert_eq!(duration(ms), text, "{ms}");
        }
    }
}
