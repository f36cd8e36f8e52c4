//! The forms of a report for other programs: Markdown, CSV and JUnit XML. Whole, well formed, and closed to hostile text.

use crate::sample::{all, sample, violated};
use scenarios::report::{Style, csv, html, junit, markdown, terminal};

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing from:\n{text}");
    }
}

#[test]
fn the_markdown_tells_the_whole_story() {
    has(
        &markdown(&sample()),
        &[
            "# Both HSMs go down for five minutes\n",
            "**6 of 7 services were hit, S3 first, 0.4 s after the fault began.",
            "- **Who is hit.**",
            "- both HSMs down: from 1 min, for 5 min",
            "| S3 with Bucket Keys | ",
            "| KMSInvalidStateException | The external key store proxy did not respond",
            "| outside faults | 9.2 ms | 15 ms | 31 ms | 88 ms | 144 ms |",
            "rang 1 min 1 s after the first fault began",
            "- **held**: An IV never repeats under a key (`unique-iv`)",
            "- **nothing to check**: After healing",
            "```sh\nxks-sim run hsm-outage --seed 7\n```",
            "- MA-17: reliability threshold 0.95",
            "```toml\ntitle = ",
        ],
    );
    has(
        &markdown(&violated()),
        &[
            "- **violated**: An IV never repeats under a key (`unique-iv`); at 1 min 12.4 s",
            "- **not met**: ",
        ],
    );
}

#[test]
fn no_text_makes_markup_in_the_markdown() {
    for (name, result) in all() {
        let text = markdown(&result);
        // What stands in a fenced block is text in any case.
        let mut fence = None;
        for line in text.lines() {
            match fence {
                Some(end) if line == end => fence = None,
                Some(_) => {}
                None if line.starts_with("```") => fence = Some(line.trim_end_matches(char::is_alphabetic)),
                None => {
                    assert!(!line.contains(['\u{1b}', '\u{202e}', '\u{2028}']), "{name}: {line:?}");
                    // Every second piece is code, in which nothing makes mark-up.
                    let quoted = line.replace("\\`", "");
                    let prose: String = quoted.split('`').step_by(2).collect();
                    assert!(!prose.contains('<'), "{name}: {line:?}");
                    if line.starts_with('|') {
                        // Every row has the columns of its heading: no text adds one.
                        assert!(line.ends_with('|'), "{name}: {line}");
                    }
                }
            }
        }
        assert_eq!(fence, None, "{name}: a block is not closed");
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        let rows: Vec<&str> = text.lines().collect();
        for pair in rows.windows(2).filter(|pair| pair.iter().all(|line| line.starts_with('|'))) {
            assert_eq!(columns(pair[0]), columns(pair[1]), "{name}: {pair:?}");
        }
    }
}

#[test]
fn the_csv_has_a_row_for_each_bucket_and_every_series() {
    for (name, result) in all() {
        let rows = parse_csv(&csv(&result));
        let (head, rows) = rows.split_first().unwrap();
        let buckets = result.services.iter().map(|service| service.ok.len()).max().unwrap_or(0);
        assert_eq!(rows.len(), buckets.max(result.xks.per_bucket.len()), "{name}");
        for row in rows {
            assert_eq!(row.len(), head.len(), "{name}: {row:?}");
        }
        let sum = |column: &str| -> u64 {
            let at =
                head.iter().position(|name| name == column).unwrap_or_else(|| panic!("{name}: {column}"));
            rows.iter().map(|row| row[at].parse::<u64>().unwrap()).sum()
        };
        if name == "sample" {
            for service in &result.services {
                assert_eq!(sum(&format!("{}.failed", service.name)), service.failures);
                assert_eq!(sum(&format!("{}.ok", service.name)), service.requests - service.failures);
            }
            assert_eq!(sum("xks.calls"), result.xks.calls);
            // The fault lasts from 1 min to 6 min, the alarm rings a minute and a second later.
            let first = |at: usize| rows.iter().find(|row| !row[at].is_empty()).unwrap();
            assert_eq!(first(2)[..3], ["60000", "61000", "both HSMs down"]);
            assert_eq!((first(3)[0].as_str(), first(3)[3].as_str()), ("121000", "retryable-errors"));
            assert_eq!(rows.iter().filter(|row| row[2] == "both HSMs down").count(), 300);
        }
    }
}

#[test]
fn no_cell_of_the_csv_is_a_formula() {
    let mut result = sample();
    result.faults[0].label = "=cmd|' /C calc'!A0".into();
    result.services[0].name = "@SUM(1,1)".into();
    let text = csv(&result);
    has(&text, &["\"'@SUM(1,1).ok\"", ",'=cmd|' /C calc'!A0,"]);
}

#[test]
fn two_services_of_one_name_keep_their_columns_apart() {
    let mut result = sample();
    result.services[2].name = "s3".into();
    has(&csv(&result), &[",s3.failed,", ",s3#2.failed,"]);
}

/// RFC 4180, to its letter.
fn parse_csv(text: &str) -> Vec<Vec<String>> {
    let mut rows = vec![vec![String::new()]];
    let mut characters = text.chars().peekable();
    let mut quoted = false;
    while let Some(character) = characters.next() {
        let cell = rows.last_mut().unwrap().last_mut().unwrap();
        match (quoted, character) {
            (true, '"') if characters.peek() == Some(&'"') => cell.push(characters.next().unwrap()),
            (true, '"') => quoted = false,
            (true, other) => cell.push(other),
            (false, '"') if cell.is_empty() => quoted = true,
            (false, ',') => rows.last_mut().unwrap().push(String::new()),
            (false, '\r') => {
                assert_eq!(characters.next(), Some('\n'));
                rows.push(vec![String::new()]);
            }
            (false, other) => {
                assert!(!"\"\n".contains(other), "{other:?} outside quotes");
                cell.push(other);
            }
        }
    }
    assert_eq!(rows.pop().unwrap(), [""], "the last line ends too");
    rows
}

#[test]
fn the_junit_file_counts_every_check_and_tells_what_broke() {
    let text = junit(&violated());
    has(
        &text,
        &[
            "<testsuites name=\"xks-sim hsm-outage\" tests=\"11\" failures=\"2\" errors=\"0\">",
            "<testsuite name=\"invariants\" tests=\"9\" failures=\"1\" errors=\"0\" skipped=\"1\">",
            "<testsuite name=\"expectations\" tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"0\">",
            "<property name=\"seed\" value=\"7\"/>",
            "<failure type=\"invariants\" message=\"at 1 min 12.4 s: IV 5f0c",
            "expected: An IV never repeats under a key\nactual:   at 1 min 12.4 s",
            "<skipped message=\"nothing to check in this run\"/>",
        ],
    );
    let mut interrupted = sample();
    interrupted.interrupted_at_ms = Some(1_234);
    let unjudged = interrupted.expectations.last_mut().unwrap();
    (unjudged.judged, unjudged.checked, unjudged.held, unjudged.violation) = (false, 0, true, None);
    has(&junit(&interrupted), &["errors=\"1\"", "message=\"interrupted at 1234 ms of 600000 ms\""]);
    has(&junit(&interrupted), &["<skipped message=\"not judged: the run was ended before\"/>"]);
    has(&markdown(&interrupted), &["- **not judged**: "]);
    has(&html(&interrupted), &["<span class=\"idle\">not judged</span>"]);
    has(
        &terminal(&interrupted, Style::default()),
        &["not judged: ", "1 not judged, since the run was ended"],
    );
}

#[test]
fn the_junit_file_is_well_formed_whatever_its_texts_hold() {
    for (name, result) in all() {
        let text = junit(&result);
        let allowed = |character: char| matches!(character, '\n' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
        assert!(text.chars().all(allowed), "{name}: a character that XML has no form for");
        let body = text.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").unwrap();
        let mut open: Vec<&str> = Vec::new();
        for piece in body.split('<').skip(1) {
            let (tag, after) = piece.split_once('>').unwrap_or_else(|| panic!("{name}: <{piece}"));
            assert!(!after.contains('>'), "{name}: a bare > in {after:?}");
            assert!(tag.matches('"').count() % 2 == 0, "{name}: <{tag}>");
            for reference in tag.split('&').skip(1).chain(after.split('&').skip(1)) {
                let entity = reference.split_once(';').unwrap_or_else(|| panic!("{name}: &{reference}")).0;
                assert!(
                    ["amp", "lt", "gt", "quot", "#10", "#13", "#9"].contains(&entity),
                    "{name}: &{entity};"
                );
            }
            match tag.strip_prefix('/') {
                Some(closed) => assert_eq!(open.pop(), Some(closed), "{name}"),
                None if tag.ends_with('/') => {}
                None => open.push(tag.split(' ').next().unwrap()),
            }
        }
        assert!(open.is_empty(), "{name}: {open:?} stay open");
    }
}
