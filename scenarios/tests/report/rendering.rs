//! The three renderings of a run: complete, closed to the network and to hostile text, and never wider than asked.
//!
//! No snapshots: wording and looks may change, these promises may not. A copy of every page is left in the target
//! directory's `tmp/`, to be looked at.

use crate::sample::{all, eight_days, empty, hostile, no_faults, sample, violated};
use scenarios::report::{SCHEMA, Style, html, json, markdown, terminal};
use scenarios::result::{ErrorCount, RunResult, Toll};
use serde_json::Value;

const PLAIN: Style = Style { colour: false, unicode: true, width: 100 };

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing from:\n{text}");
    }
}

/// As a reader sees it: U+00A0 is a space.
fn page(result: &RunResult) -> String {
    html(result).replace('\u{a0}', " ")
}

#[test]
fn the_summary_tells_the_whole_story() {
    let text = terminal(&sample(), PLAIN);
    has(
        &text,
        &[
            "Both HSMs go down for five minutes",
            // When it strikes in real life and what to do about it, wrapped.
            "takes the whole HSM pair away at once.\nHave a way to bring",
            "from 1 min, for 5 min   both HSMs down",
            "6 of 7 services were hit, S3 first, 0.4 s after the fault began.",
            "12,639 50.2 %  after 0.4 s      after 1.2 s",
            "users saw KMS.KMSInvalidStateException (400)",
            " 0    0 %  never            –",
            "What kept working",
            "warm environments went on",
            "Lasting damage",
            "must be started by hand",
            "KMSInvalidStateException\n",
            "did not respond to the request in the time allotted",
            "it gives up after 250 ms",
            "  retryable-errors  rang 1 min 1 s after the first fault began, for 5 min",
            "  silent: slow-proxy",
            "an average latency of 96 ms and a reliability of 61.0 %",
            "8 invariants held over 412,854 checks; 1 had nothing to check",
            "2 of 2 expectations met",
        ],
    );
    let s3 = text.lines().find(|line| line.starts_with("  S3 ")).unwrap();
    assert!(s3.contains("█") && s3.contains("××"), "no success line: {s3}");
}

#[test]
fn an_alarm_that_was_never_evaluated_is_not_called_silent() {
    let mut result = sample();
    let name = result.alarms[1].name.clone();
    result.alarms[1].evaluated = 0;
    for (period_ms, why) in [
        (result.duration_ms + 1, "the run is shorter than the period"),
        (result.duration_ms, "no period ended with a value of the metric"),
    ] {
        result.alarms[1].period_ms = period_ms;
        has(&terminal(&result, PLAIN), &[&format!("  not evaluated: {name} ({why})")]);
        has(&markdown(&result), &[&format!("not evaluated ({why})")]);
        has(&page(&result), &["not evaluated", why]);
        for text in [terminal(&result, PLAIN), markdown(&result), page(&result)] {
            assert!(!text.contains("silent"), "{text}");
        }
    }
}

#[test]
fn what_is_lost_and_what_is_left_to_do_is_counted_in_both_reports() {
    let mut result = sample();
    let toll = |what: &str, count: u64| Toll { what: what.into(), count, first_ms: 90_000 };
    result.services[0].lost.push(toll("messages past their retention", 12_345));
    result.services[1].manual.push(toll("DB instances to start", 1));
    for text in [terminal(&result, PLAIN), page(&result)] {
        has(
            &text,
            &["Lost for good", "messages past their retention: 12,345, the first 1 min 30 s into the run."],
        );
        has(&text, &["Left to do by hand", "DB instances to start: 1, 1 min 30 s into the run."]);
    }
    for text in [terminal(&sample(), PLAIN), page(&sample())] {
        has(&text, &["Nothing that was counted in this run."]);
        assert!(!text.contains("Left to do by hand"));
    }
}

#[test]
fn a_latency_beyond_the_patience_of_kms_is_explained() {
    let mut result = sample();
    let why = "KMS tries a connection set-up that timed out once more";
    let forms = |result: &RunResult| [terminal(result, PLAIN), page(result), markdown(result)];
    assert!(forms(&result).iter().all(|text| !text.contains(why)));
    result.xks.latency.max_ms = 500.2;
    for text in forms(&result) {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        has(&text, &[why, "another 250 ms (MA-11): such calls take up to 500 ms."]);
    }
}

#[test]
fn an_error_that_was_seen_once_was_seen_one_time() {
    let mut result = sample();
    let error = result.services[0].errors[0].clone();
    result.services[0].errors.push(ErrorCount { visible: "503 Slow Down".into(), count: 1, ..error });
    has(&terminal(&result, PLAIN), &["503 Slow Down (1 time)\n"]);
}

#[test]
fn the_summary_shouts_what_broke() {
    let text = terminal(&violated(), PLAIN);
    has(
        &text,
        &[
            "1 of 9 invariants violated",
            "✗  unique-iv: An IV never repeats under a key",
            "IV 5f0c… was used twice",
            "1 of 2 expectations met",
            "not by the end",
            "14 times",
            "and 1 other error",
        ],
    );
    let text = terminal(&violated(), Style { colour: true, unicode: false, width: 100 });
    has(&text, &["\u{1b}[1;31m1 of 9 invariants violated", "NO \u{1b}[1;31munique-iv"]);
}

#[test]
fn the_summary_keeps_to_its_width_alphabet_and_colours() {
    for (name, result) in all() {
        for width in [0, 60, 80, 100, 500] {
            for unicode in [true, false] {
                let text = terminal(&result, Style { colour: false, unicode, width });
                for line in text.lines() {
                    let columns = line.chars().count();
                    assert!(columns <= width.clamp(80, 100), "{name} at {width}: {columns} columns: {line}");
                    assert!(unicode || line.is_ascii(), "{name}: not ASCII: {line}");
                    assert!(!line.contains(['\u{1b}', '\u{202e}', '\u{2028}', '\u{a0}']), "{name}: {line:?}");
                }
                // Colour is paint only: without the codes it is the same text.
                let painted = terminal(&result, Style { colour: true, unicode, width });
                assert_eq!(without_colours(&painted), text, "{name} at {width}");
            }
        }
    }
}

fn without_colours(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        let (code, after) = after.split_once('m').unwrap();
        assert!(code.chars().all(|c| c.is_ascii_digit() || c == ';'), "{code}");
        rest = after;
    }
    plain + rest
}

#[test]
fn the_page_has_every_section() {
    has(
        &page(&sample()),
        &[
            "<h1>Both HSMs go down for five minutes</h1>",
            "6 of 7 services were hit, S3 first, 0.4 s after the fault began.",
            ">Who is hit<",
            ">How soon<",
            ">How hard<",
            ">Until when<",
            ">What kept working<",
            ">Lasting damage<",
            "What happened when",
            "from 1 min, for 5 min",
            "KMS gives up: 250 ms",
            "S3 with Bucket Keys: share of requests served over time",
            "The exact errors",
            "did not respond to the request in the time allotted",
            "1 min 0.4 s",
            "The proxy as KMS saw it",
            "p99.9",
            "rang 1 min 1 s after the first fault began, for 5 min",
            "Average above 200 in 5 min",
            "its slowest five minutes averaged 188 ms",
            "8 invariants held over 412,854 checks",
            "nothing to check",
            "recovered_within",
            "xks-sim run hsm-outage --seed 7",
            "9f2c64c1b7f0d1e53ad1f6b09de7c3aa1b52f0c4c8a3f5f2d7e9b0a1c3d5e7f9",
            "MA-D16: DynamoDB refreshes table keys every 300 s",
            "hsm = [&quot;hsm-a&quot;, &quot;hsm-b&quot;]",
        ],
    );
    has(
        &page(&violated()),
        &["Invariant violated: An IV never repeats under a key", "Expectation not met: "],
    );
    has(&page(&no_faults()), &["No service was hit: all 5 went on working.", "No faults"]);
    has(&page(&empty()), &["No service made a request in this run.", "KMS never called the proxy."]);
}

#[test]
fn the_page_is_closed_to_the_network() {
    for (name, result) in all() {
        let page = html(&result);
        has(&page, &["http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "]);
        for forbidden in
            ["http://", "https://", "src=\"", "href=", "url(", "@import", "unsafe-inline", " style=\""]
        {
            assert!(!page.contains(forbidden), "{name} holds {forbidden}");
        }
    }
}

#[test]
fn the_policy_admits_exactly_the_two_sources_in_the_page() {
    use base64::Engine as _;
    use sha2::Digest as _;
    let page = html(&sample());
    for (open, close) in [("<style>", "</style>"), ("<script>", "</script>")] {
        let source = page.split(open).nth(1).unwrap().split(close).next().unwrap();
        let hash = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(source.as_bytes()));
        assert!(page.contains(&format!("sha256-{hash}")), "{open} is not in the policy");
    }
    assert_eq!(page.matches("sha256-").count(), 2);
}

#[test]
fn hostile_text_stays_text() {
    let page = html(&hostile());
    let lower = page.to_ascii_lowercase();
    assert!(!lower.contains("<img"), "an element was smuggled in");
    assert_eq!(lower.matches("<script").count(), 2, "the series and the page's own script");
    assert_eq!(lower.matches("</script").count(), 2);
    has(&page, &["&lt;/script&gt;&lt;script&gt;alert(1)"]);
}

#[test]
fn the_series_in_the_page_are_the_result() {
    for (name, result) in all() {
        let page = html(&result);
        let series = page.split("id=\"series\">").nth(1).unwrap().split("</script>").next().unwrap();
        let series: Value = serde_json::from_str(series).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (index, service) in result.services.iter().enumerate() {
            assert_eq!(
                series["plots"][format!("service-{index}")]["ok"],
                serde_json::json!(service.ok),
                "{name}"
            );
        }
        assert_eq!(series["plots"]["load"]["calls"], serde_json::json!(result.xks.per_bucket), "{name}");
    }
}

#[test]
fn drawings_hold_finite_numbers_only_and_say_what_they_show() {
    for (name, result) in all() {
        let page = html(&result);
        for svg in page.split("<svg").skip(1).map(|rest| rest.split("</svg>").next().unwrap()) {
            for tag in svg.split('<') {
                let tag = tag.split('>').next().unwrap();
                for word in ["NaN", "inf", "null", "undefined"] {
                    assert!(!tag.contains(word) || tag.contains("url"), "{name}: <{tag}>");
                }
            }
            if svg.contains("role=\"img\"") {
                has(svg, &["<title id=", "<desc id=", "aria-labelledby="]);
            }
        }
        let ids: Vec<_> = page.split(" id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        let mut unique = ids.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(ids.len(), unique.len(), "{name}: an id stands twice");
    }
}

#[test]
fn paths_stay_inside_their_drawing() {
    for (name, result) in all() {
        let page = html(&result);
        for path in page.split("<path").skip(1) {
            let path = path.split(" d=\"").nth(1).unwrap().split('"').next().unwrap();
            let horizontal = path.split('H').skip(1).map(|rest| rest.split(['V', 'M', 'Z']).next().unwrap());
            for x in horizontal {
                let x: f64 = x.parse().unwrap_or_else(|_| panic!("{name}: {x} in {path}"));
                assert!((0.0..=2_001.0).contains(&x), "{name}: {x}");
            }
            let vertical = path.split('V').skip(1).map(|rest| rest.split(['H', 'M', 'Z']).next().unwrap());
            for y in vertical {
                let y: f64 = y.parse().unwrap_or_else(|_| panic!("{name}: {y} in {path}"));
                assert!((0.0..=100.0).contains(&y), "{name}: {y}");
            }
        }
    }
}

#[test]
fn the_page_is_small_enough_to_mail() {
    let size = html(&eight_days()).len();
    assert!(size < 3_000_000, "{size} bytes");
}

#[test]
fn tables_name_themselves_and_their_columns() {
    let page = html(&violated());
    let tables = page.matches("<table").count();
    assert!(tables >= 5);
    assert_eq!(page.matches("<caption").count(), tables);
    for cell in page.split("<th").skip(1).filter(|rest| rest.starts_with([' ', '.'])) {
        assert!(cell.split('>').next().unwrap().contains("scope="), "<th{}", &cell[..60]);
    }
}

#[test]
fn rendering_is_deterministic_and_leaves_a_page_to_look_at() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    for (name, result) in all() {
        let page = html(&result);
        assert_eq!(page, html(&result));
        assert_eq!(terminal(&result, PLAIN), terminal(&result, PLAIN));
        std::fs::write(folder.join(format!("report-{name}.html")), page).unwrap();
        std::fs::write(folder.join(format!("report-{name}.txt")), terminal(&result, PLAIN)).unwrap();
    }
}

#[test]
fn the_json_is_what_its_schema_says() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    for (name, result) in all() {
        // Hostile text spoils the digest, and infinity has no form in JSON: neither comes out of a run.
        if name == "hostile" || name == "one-bucket" {
            continue;
        }
        let value: Value = serde_json::from_str(&json(&result)).unwrap();
        let mut complaints = Vec::new();
        check(&schema, &schema, &value, "$", &mut complaints);
        assert!(complaints.is_empty(), "{name}: {complaints:#?}");
    }
}

#[test]
fn the_schema_refuses_what_is_wrong() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let good: Value = serde_json::from_str(&json(&sample())).unwrap();
    type Spoil = fn(&mut Value);
    let spoils: [(&str, Spoil); 9] = [
        ("$.seed", |value| value["seed"] = "7".into()),
        ("$.digest", |value| value["digest"] = "9F".into()),
        ("$.format", |value| value["format"] = 2.into()),
        ("$.services[0].ok[3]", |value| value["services"][0]["ok"][3] = (-1).into()),
        ("$.services[0].samples[0].kind", |value| value["services"][0]["samples"][0]["kind"] = "fast".into()),
        ("$.services[0].samples[0].spans[1].station", |value| {
            value["services"][0]["samples"][0]["spans"][1]["station"] = "Hsm".into();
        }),
        ("$.xks.outcomes[0][1]", |value| value["xks"]["outcomes"][0][1] = "many".into()),
        ("$.xks.latency", |value| drop(value["xks"]["latency"].as_object_mut().unwrap().remove("p99_ms"))),
        ("$.invariants[0]", |value| value["invariants"][0]["new"] = 1.into()),
    ];
    for (at, spoil) in spoils {
        let mut bad = good.clone();
        spoil(&mut bad);
        let mut complaints = Vec::new();
        check(&schema, &schema, &bad, "$", &mut complaints);
        assert!(complaints.iter().any(|complaint| complaint.starts_with(at)), "{at}: {complaints:?}");
    }
}

/// The part of JSON Schema that the schema uses; a keyword it does not know is a complaint.
fn check(root: &Value, schema: &Value, value: &Value, at: &str, complaints: &mut Vec<String>) {
    for (keyword, rule) in schema.as_object().unwrap() {
        let good = match keyword.as_str() {
            "$schema" | "title" | "description" | "$defs" => true,
            "$ref" => {
                let target = root.pointer(rule.as_str().unwrap().strip_prefix('#').unwrap()).unwrap();
                check(root, target, value, at, complaints);
                true
            }
            "type" => match rule {
                Value::Array(types) => types.iter().any(|name| is(value, name)),
                name => is(value, name),
            },
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= rule.as_u64().unwrap()),
            "pattern" => {
                assert_eq!(rule, "^[0-9a-f]{64}$", "the only pattern this check knows");
                let text = value.as_str().unwrap_or_default();
                text.len() == 64 && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
            }
            "required" => value.as_object().is_none_or(|object| {
                rule.as_array().unwrap().iter().all(|name| object.contains_key(name.as_str().unwrap()))
            }),
            "additionalProperties" => {
                assert_eq!(rule, &Value::Bool(false));
                let known = &schema["properties"];
                value.as_object().is_none_or(|object| object.keys().all(|name| !known[name].is_null()))
            }
            "properties" => {
                for (name, inner) in rule.as_object().unwrap() {
                    if let Some(child) = value.get(name) {
                        check(root, inner, child, &format!("{at}.{name}"), complaints);
                    }
                }
                true
            }
            "items" => {
                for (index, child) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, child, &format!("{at}[{index}]"), complaints);
                }
                true
            }
            "prefixItems" => {
                for (index, inner) in rule.as_array().unwrap().iter().enumerate() {
                    if let Some(child) = value.get(index) {
                        check(root, inner, child, &format!("{at}[{index}]"), complaints);
                    }
                }
                true
            }
            _ => false,
        };
        if !good {
            complaints.push(format!("{at}: {keyword} {rule}"));
        }
    }
}

fn is(value: &Value, name: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no such type: {other}"),
    }
}
