//! The published JSON Schema of scenario files says what the loader does: the same keys, ranges and defaults.

use scenarios::catalogue::CATALOGUE;
use scenarios::scenario::Scenario;
use scenarios::services::ServiceSettings;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

const HEAD: &str = "title = \"x\"\nduration_s = 1000\n";

fn schema() -> Value {
    serde_json::from_str(include_str!("../../scenario.schema.json")).unwrap()
}

/// One table of the file: where it stands in the schema, and the text that opens it.
struct Table {
    schema: Value,
    open: String,
}

impl Table {
    fn properties(&self) -> &Map<String, Value> {
        self.schema["properties"].as_object().unwrap()
    }

    /// A file with these lines in the table.
    fn with(&self, lines: &str) -> Result<Scenario, String> {
        let text = format!("{}{lines}\n", self.open);
        Scenario::parse("x", "x.toml", &text).map_err(|error| format!("{error}\nin\n{text}"))
    }
}

fn sections(schema: &Value) -> Vec<Table> {
    let properties = schema["properties"].as_object().unwrap();
    let sections = properties.iter().filter(|(_, value)| value["type"] == "object");
    sections.map(|(name, value)| Table { schema: value.clone(), open: format!("{HEAD}[{name}]\n") }).collect()
}

fn services(schema: &Value) -> Vec<Table> {
    let kinds = schema["properties"]["service"]["items"]["oneOf"].as_array().unwrap();
    kinds
        .iter()
        .map(|value| {
            let kind = &value["properties"]["kind"]["const"];
            Table { schema: value.clone(), open: format!("{HEAD}[[service]]\nkind = {kind}\n") }
        })
        .collect()
}

fn fault(schema: &Value, kind: &str) -> Table {
    let open = format!("{HEAD}[[fault]]\nkind = \"{kind}\"\n");
    Table { schema: schema["properties"]["fault"]["items"].clone(), open }
}

fn expectation(schema: &Value) -> Table {
    let open = format!("{HEAD}[[fault]]\nkind = \"hsm-down\"\nfrom_s = 1\nto_s = 2\n[[expect]]\n");
    Table { schema: schema["properties"]["expect"]["items"].clone(), open }
}

/// The keys the loader knows, as it lists them for one that it does not.
fn known_keys(table: &Table) -> BTreeSet<String> {
    let error = table.with("zzz = 1").unwrap_err();
    let line = error.lines().next().unwrap();
    let (_, list) = line.split_once("unknown key `zzz`; known here are ").expect(&error);
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_schema_has_the_keys_of_the_loader_and_closes_every_table() {
    let schema = schema();
    let top = Table { schema: schema.clone(), open: HEAD.into() };
    let kinds: Vec<Value> =
        services(&schema).iter().map(|it| it.properties()["kind"]["const"].clone()).collect();
    assert_eq!(kinds, ServiceSettings::KINDS);
    let mut tables = sections(&schema);
    assert_eq!(tables.len(), 7);
    tables.extend([top, fault(&schema, "hsm-down"), expectation(&schema)]);
    let services = services(&schema);
    for table in tables.iter().chain(&services) {
        let mut keys: BTreeSet<String> = table.properties().keys().cloned().collect();
        if table.open.contains("[[service]]") {
            assert!(keys.remove("kind"));
        }
        assert_eq!(keys, known_keys(table), "{}", table.open);
        assert_eq!(table.schema["additionalProperties"], false, "{}", table.open);
        for (key, value) in table.properties() {
            assert!(
                value["description"].as_str().is_some_and(|text| text.len() > 5),
                "{key} lacks a description"
            );
        }
    }
}

/// Other keys of the table that a value at the end of a range needs beside it.
fn companions(key: &str, table: &Table) -> String {
    let end = |other: &str, end: &str| {
        let value = &table.properties().get(other)?[end];
        Some(format!("{other} = {value}\n"))
    };
    let of_pair = match key.rsplit_once('_').and_then(|(start, unit)| Some((start.rsplit_once('_')?, unit))) {
        Some(((name, "min"), unit)) => end(&format!("{name}_max_{unit}"), "maximum"),
        Some(((name, "max"), unit)) => end(&format!("{name}_min_{unit}"), "minimum"),
        _ => None,
    };
    let others: &[&str] = match key {
        "hsms_per_proxy" => &["hsms = 16\n"],
        "zones" => &["proxies = 16\n"],
        "rtt_ms" | "extra_there_ms" | "extra_back_ms" | "deadline_ms" => &["[kms]\npatience_ms = 60000\n"],
        "latency_sigma" => &["distribution = \"lognormal\"\n"],
        "burst_r" | "burst_loss_bad" => &["burst_p = 0.1\n"],
        "reordering_extra_ms" => &["reordering = 0.1\n"],
        "queue_bytes" => &["bandwidth_there_mbps = 1\n"],
        "check_timeout_s" => &["check_interval_s = 300\n"],
        "reconnect_initial_ms" => &["reconnect_max_ms = 600000\n"],
        "reconnect_max_ms" => &["reconnect_initial_ms = 1\n"],
        "write_share" => &["old_read_share = 0\n", "task_start_share = 0\n"],
        "old_read_share" | "task_start_share" => &["write_share = 0\n"],
        "attach_share" => &["create_share = 0\n", "snapshot_share = 0\n"],
        "create_share" => &["attach_share = 0\n"],
        "snapshot_share" => &["attach_share = 0\n", "create_share = 0\n"],
        "start_share" => &["reboot_share = 0\n"],
        "reboot_share" => &["start_share = 0\n"],
        "async_share" => &["update_share = 0\n"],
        "update_share" => &["async_share = 0\n"],
        "global_tables" => &["tables = 500\n"],
        "streams" => &["tables = 500\n"],
        "get_share" => &["firehose_share = 0\n"],
        "firehose_share" => &["get_share = 0\n"],
        "receive_share" => &["event_share = 0\n"],
        "event_share" | "keyless_share" => &["receive_share = 0\n"],
        "associate_share" => &["read_share = 0\n"],
        "unstoppable" | "without_backups" | "multi_az" => &["instances = 500\n"],
        "producers" => &["consumers = 1\n"],
        "consumers" => &["producers = 1\n"],
        _ => &[],
    };
    let known = |line: &&&str| {
        let mut words = line.split(' ');
        words.next().is_some_and(|other| other.starts_with('[') || table.properties().contains_key(other))
    };
    of_pair.into_iter().chain(others.iter().filter(known).map(|line| (*line).to_owned())).collect()
}

/// The ends of each number's range are taken, and what lies beyond is refused.
fn check_ranges(table: &Table, key: &str, value: &Value, beside: &str) {
    let step = if value["type"] == "integer" { 1.0 } else { 0.000_1 };
    let written = |number: f64| {
        if value["type"] == "integer" {
            format!("{key} = {number:.0}\n{beside}")
        } else {
            format!("{key} = {number:?}\n{beside}")
        }
    };
    let beyond = [
        value["minimum"].as_f64().map(|end| end - step),
        value["exclusiveMinimum"].as_f64(),
        value["maximum"].as_f64().map(|end| end + step),
    ];
    for number in beyond.into_iter().flatten() {
        let error = table.with(&written(number)).expect_err(&written(number));
        assert!(error.contains(key) || error.contains("expected a whole number"), "{error}");
    }
    let ends = [
        value["minimum"].as_f64(),
        value["exclusiveMinimum"].as_f64().map(|end| end + step),
        // No run is long enough for the longest delay after its fault.
        value["maximum"].as_f64().filter(|_| key != "recovered_after_s_min"),
    ];
    for number in ends.into_iter().flatten() {
        table.with(&written(number)).unwrap();
    }
}

#[test]
fn numbers_have_the_ranges_of_the_loader() {
    let schema = schema();
    for table in sections(&schema).iter().chain(&services(&schema)) {
        for (key, value) in table.properties() {
            check_ranges(table, key, value, &companions(key, table));
        }
    }
    for (kind, key, beside) in [
        ("hsm-down", "from_s", ""),
        ("hsm-down", "to_s", "from_s = 0"),
        ("hsm-slow", "factor", "from_s = 1"),
        ("hsm-error", "rate", "from_s = 1"),
        ("latency", "extra_ms", "from_s = 1"),
        ("hsm-slow", "ramp_s", "from_s = 1\nfactor = 2"),
        ("hsm-down", "repeats", "from_s = 1\nto_s = 1.5\nrepeat_every_s = 0.6"),
        ("loss", "loss", "from_s = 1"),
        ("duplication", "share", "from_s = 1"),
        ("bandwidth", "bandwidth_kbit_per_s", "from_s = 1"),
        ("idle-drop", "idle_s", "from_s = 1"),
        ("hsm-sessions", "sessions_max", "from_s = 1"),
        ("hsm-bit-flips", "rate", "from_s = 1"),
        ("rolling-deploy", "restart_s", "from_s = 1"),
        ("rolling-deploy", "drain_s", "from_s = 1"),
        ("clock-skew", "skew_s", "from_s = 1"),
        ("quota-burst", "rate_per_s", "from_s = 1"),
    ] {
        let mut table = fault(&schema, kind);
        if kind == "rolling-deploy" {
            // It has to fit into its run.
            table.open = table.open.replace("duration_s = 1000\n", "duration_s = 1000000\n");
        }
        check_ranges(&table, key, &table.properties()[key], beside);
    }
    let table = expectation(&schema);
    for (key, value) in table.properties() {
        check_ranges(&table, key, value, "");
    }
    let duration = Table { schema: schema.clone(), open: "title = \"x\"\n".into() };
    check_ranges(&duration, "duration_s", &schema["properties"]["duration_s"], "");
}

/// All of a scenario but its text.
fn settings(mut scenario: Scenario) -> String {
    scenario.text.clear();
    format!("{scenario:?}")
}

#[test]
fn defaults_are_those_of_the_loader() {
    let schema = schema();
    let faults = [
        ("hsm-error", "rate"),
        ("hsm-error", "ckr"),
        ("hsm-down", "target"),
        ("partition", "target"),
        ("partition", "way"),
        ("rolling-deploy", "restart_s"),
        ("rolling-deploy", "drain_s"),
        ("credential-rotation", "overlap"),
    ];
    let mut looked_at = 0;
    let mut same = |table: &Table, key: &str, beside: &str| {
        let value = &table.properties()[key];
        let Some(default) = value.get("default") else {
            assert!(
                ["const", "kind"].iter().any(|it| key == *it || value.get(*it).is_some()),
                "{key} has no default"
            );
            return;
        };
        let written = settings(table.with(&format!("{key} = {default}\n{beside}")).unwrap());
        assert_eq!(written, settings(table.with(beside).unwrap()), "{key}");
        looked_at += 1;
    };
    for table in sections(&schema).iter().chain(&services(&schema)) {
        table.properties().keys().for_each(|key| same(table, key, &companions(key, table)));
    }
    for (kind, key) in faults {
        same(&fault(&schema, kind), key, "from_s = 1");
    }
    same(&Table { schema, open: HEAD.into() }, "about", "");
    assert!(looked_at > 60, "{looked_at}");
}

#[test]
fn words_are_those_of_the_loader() {
    let schema = schema();
    for tls in schema["properties"]["topology"]["properties"]["tls"]["enum"].as_array().unwrap() {
        sections(&schema)
            .iter()
            .find(|it| it.open.contains("topology"))
            .unwrap()
            .with(&format!("tls = {tls}"))
            .unwrap();
    }
    let table = fault(&schema, "hsm-error");
    let names = table.properties()["ckr"]["enum"].as_array().unwrap();
    assert_eq!(*names, scenarios::fault::CKR_NAMES.map(|(name, _)| name));
    let kinds = table.properties()["kind"]["oneOf"].as_array().unwrap();
    let kinds: BTreeSet<&str> = kinds.iter().map(|kind| kind["const"].as_str().unwrap()).collect();
    let error = fault(&schema, "zzz").with("from_s = 1").unwrap_err();
    let (_, list) = error.lines().next().unwrap().split_once("unknown value `zzz`; known here are ").unwrap();
    assert_eq!(kinds, list.split('`').skip(1).step_by(2).collect());
    let services = expectation(&schema).properties()["service"]["enum"].as_array().unwrap().clone();
    assert_eq!(services, ServiceSettings::KINDS);
}

/// Every key of `value` stands in the schema, and every key that must be there is.
fn conforms(value: &Value, schema: &Value, origin: &str) {
    if let Some(kinds) = schema["oneOf"].as_array().filter(|_| value.is_object()) {
        let of_kind = |it: &&Value| it["properties"]["kind"]["const"] == value["kind"];
        return conforms(value, kinds.iter().find(of_kind).unwrap(), origin);
    }
    if let (Some(table), Some(properties)) = (value.as_object(), schema["properties"].as_object()) {
        for (key, inner) in table {
            let known = properties.get(key).unwrap_or_else(|| panic!("{origin}: {key} is not in the schema"));
            conforms(inner, known, origin);
        }
        for key in schema["required"].as_array().into_iter().flatten() {
            assert!(table.contains_key(key.as_str().unwrap()), "{origin}: {key} is missing");
        }
    }
    for inner in value.as_array().into_iter().flatten() {
        conforms(inner, &schema["items"], origin);
    }
}

#[test]
fn the_catalogue_conforms() {
    for entry in CATALOGUE {
        conforms(&toml::from_str(entry.text).unwrap(), &schema(), entry.name);
    }
}
