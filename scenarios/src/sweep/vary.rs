//! `--vary KEY=VALUES`: a key of the scenario file and the values it takes, and putting one into the file.
//!
//! A value is put into the parsed TOML, and the whole is written out and read anew as a [`Scenario`], so that every range
//! and every message is the scenario's own.

use crate::scenario::{Scenario, nearest};
use crate::services::ServiceSettings;
use toml::{Table, Value};

/// The most values of one key.
pub const VALUES_MAX: usize = 100;

/// One value of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// As it goes into the file.
    pub value: Value,
    /// As it reads.
    pub label: String,
    /// As a place on an axis; `None` for words and switches.
    pub number: Option<f64>,
}

impl Setting {
    /// A number, whole where it is whole: a count must not read `2.0`. Rounded to six digits, so that what is shown is what
    /// was run.
    pub fn number(number: f64) -> Self {
        let number = to_six_digits(number);
        #[expect(clippy::cast_possible_truncation, reason = "whole and below 10^15")]
        let value = if number.fract() == 0.0 && number.abs() < 1e15 {
            Value::Integer(number as i64)
        } else {
            Value::Float(number)
        };
        Self { label: value.to_string(), value, number: Some(number) }
    }

    fn word(text: &str) -> Self {
        let value = match text {
            "true" => Value::Boolean(true),
            "false" => Value::Boolean(false),
            word => Value::String(word.trim_matches('"').to_owned()),
        };
        Self { value, label: text.trim_matches('"').to_owned(), number: None }
    }
}

fn to_six_digits(number: f64) -> f64 {
    format!("{number:.5e}").parse().unwrap_or(number)
}

/// A key and the values it takes.
#[derive(Clone, Debug)]
pub struct Vary {
    /// The key as the file has it: `link.rtt_ms`, `fault.0.to_s`.
    pub key: String,
    path: Vec<String>,
    /// Its values, in the order given.
    pub settings: Vec<Setting>,
}

/// What can stand at the beginning of a key.
const ROOTS: [&str; 11] = [
    "duration_s",
    "settle_s",
    "topology",
    "link",
    "load_balancer",
    "proxy",
    "hsm",
    "hsm_link",
    "kms",
    "service",
    "fault",
];
/// Links by what they connect, for who thinks of the way rather than the section.
const LINKS: [(&str, &str); 2] = [("kms-proxy", "link"), ("proxy-hsm", "hsm_link")];

impl Vary {
    /// Reads `KEY=FROM..TO:STEPS` or `KEY=a,b,c`.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |problem: &str| {
            format!(
                "--vary {text}: {problem}; write KEY=FROM..TO:STEPS, such as link.rtt_ms=5..120:12, or KEY=a,b,c, such as \
                 topology.hsms=1,2,4"
            )
        };
        let (key, values) = text.split_once('=').ok_or_else(|| wrong("there is no `=`"))?;
        let path = path_of(key.trim()).map_err(|problem| format!("--vary {text}: {problem}"))?;
        let values = values.trim();
        let settings = match values.split_once("..") {
            Some((from, rest)) => {
                let (to, steps) = rest.split_once(':').ok_or_else(|| wrong("after FROM..TO comes :STEPS"))?;
                range(from, to, steps).map_err(|problem| wrong(&problem))?
            }
            None => list(values).map_err(|problem| wrong(&problem))?,
        };
        if let Some(twin) = (1..settings.len()).find(|at| {
            let (before, rest) = settings.split_at(*at);
            rest.first().is_some_and(|setting| before.iter().any(|other| other.label == setting.label))
        }) {
            let label = settings.get(twin).map_or("", |setting| setting.label.as_str());
            return Err(wrong(&format!("{label} is there twice")));
        }
        Ok(Self { key: path.join("."), path, settings })
    }

    /// Reads `KEY=VALUE`: a key that is set to one value.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn one(text: &str) -> Result<Self, String> {
        let value = text.split_once('=').map(|(_, value)| value.trim());
        let problem = match value {
            None => "there is no `=`",
            Some("") => "the value is missing",
            Some(value) if value.contains("..") || value.contains(',') => "it takes one value",
            Some(_) => return Self::parse(text).map_err(|message| message.replacen("--vary", "--set", 1)),
        };
        Err(format!("--set {text}: {problem}; write KEY=VALUE, such as topology.hsms=1"))
    }

    /// Whether every value is a number, so that there is something between two of them.
    pub fn is_numeric(&self) -> bool {
        self.settings.iter().all(|setting| setting.number.is_some())
    }

    /// Whether every value is a whole number.
    pub fn is_whole(&self) -> bool {
        self.settings.iter().all(|setting| matches!(setting.value, Value::Integer(_)))
    }
}

fn path_of(key: &str) -> Result<Vec<String>, String> {
    let mut path: Vec<String> = key.split('.').map(str::to_owned).collect();
    if path.first().is_some_and(|root| root == "links") {
        let name = path.get(1).map_or("", String::as_str);
        let Some((_, section)) = LINKS.iter().find(|(link, _)| *link == name) else {
            return Err(format!("no link is called `{name}`; there are links.kms-proxy and links.proxy-hsm"));
        };
        path.splice(0..2, [(*section).to_owned()]);
    }
    let root = path.first().map_or("", String::as_str);
    if !ROOTS.contains(&root) {
        let hint = nearest(root, ROOTS.into_iter()).map(|near| format!(" did you mean `{near}`?"));
        return Err(format!(
            "no part of a scenario is called `{root}`;{} there are {}",
            hint.unwrap_or_default(),
            ROOTS.join(", ")
        ));
    }
    let (parts, example) = match root {
        "duration_s" | "settle_s" => (1, ""),
        "service" => (3, "service.s3.rate_per_s"),
        "fault" => (3, "fault.0.to_s, or by its kind fault.hsm-slow.factor"),
        "topology" => (2, "topology.hsms"),
        "load_balancer" => (2, "load_balancer.check_interval_s"),
        "proxy" => (2, "proxy.deadline_ms"),
        "hsm" => (2, "hsm.service_ms"),
        "kms" => (2, "kms.quota_per_s"),
        _ => (2, "link.rtt_ms"),
    };
    match path.len() == parts && path.iter().all(|part| !part.is_empty()) {
        true => Ok(path),
        false if parts == 1 => Err(format!("`{root}` has nothing inside; write {root} alone")),
        false => Err(format!("`{key}` is no key; write it as in {example}")),
    }
}

fn range(from: &str, to: &str, steps: &str) -> Result<Vec<Setting>, String> {
    let number = |text: &str| {
        let parsed = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        parsed.ok_or_else(|| format!("`{}` is no number", text.trim()))
    };
    let (from, to) = (number(from)?, number(to)?);
    let steps: u32 = steps.trim().parse().unwrap_or(0);
    if !(2..=VALUES_MAX as u32).contains(&steps) {
        return Err(format!("STEPS is a whole number from 2 to {VALUES_MAX}"));
    }
    let gaps = f64::from(steps - 1);
    Ok((0..steps).map(|step| Setting::number(from + (to - from) * f64::from(step) / gaps)).collect())
}

fn list(values: &str) -> Result<Vec<Setting>, String> {
    let items: Vec<&str> = values.split(',').map(str::trim).collect();
    if items.iter().any(|item| item.is_empty()) {
        return Err("a value is missing".into());
    }
    if items.len() > VALUES_MAX {
        return Err(format!("at most {VALUES_MAX} values, not {}", items.len()));
    }
    let setting = |item: &&str| match item.parse::<f64>() {
        Ok(number) if number.is_finite() => Setting::number(number),
        _ => Setting::word(item),
    };
    Ok(items.iter().map(setting).collect())
}

/// A scenario file as it is before anything is varied.
#[derive(Clone, Debug)]
pub struct Base {
    /// The scenario as it is.
    pub scenario: Scenario,
    /// Its path, for files named beside it.
    origin: String,
    table: Table,
}

impl Base {
    /// Of a scenario that was read from `origin`.
    ///
    /// # Errors
    /// When its text is no TOML, which a parsed scenario's is.
    pub fn new(scenario: Scenario, origin: &str) -> Result<Self, String> {
        let table = scenario.text.parse().map_err(|error: toml::de::Error| error.to_string())?;
        Ok(Self { scenario, origin: origin.to_owned(), table })
    }

    /// The scenario with one value for each key.
    ///
    /// # Errors
    /// The scenario's own message about the value, after which key and value it was.
    pub fn with(&self, values: &[(&Vary, &Setting)]) -> Result<Scenario, String> {
        let mut table = self.table.clone();
        let what = || {
            let parts: Vec<String> =
                values.iter().map(|(vary, setting)| format!("{}={}", vary.key, setting.label)).collect();
            parts.join(" ")
        };
        for (vary, setting) in values {
            put(&mut table, &vary.path, setting.value.clone())
                .map_err(|problem| format!("--vary {}: {problem}", vary.key))?;
        }
        let given = |key: &str| values.iter().any(|(vary, _)| vary.key == key);
        if given("topology.hsms") && !given("topology.hsms_per_proxy") {
            fit_failover(&mut table);
        }
        let text = toml::to_string(&table).map_err(|error| format!("--vary {}: {error}", what()))?;
        Scenario::parse(&self.scenario.name, &self.origin, &text).map_err(|error| {
            let message = error.to_string();
            // The line is one of a text that the user has never seen.
            let message = message.strip_prefix(&self.origin).unwrap_or(&message);
            let message = message.trim_start_matches(|letter: char| letter == ':' || letter.is_ascii_digit());
            format!("--vary {}: {}", what(), message.trim_start())
        })
    }

    /// The scenario file with each of these keys set to its first value, as another base.
    ///
    /// # Errors
    /// The scenario's own message about a value, after which key and value it was.
    pub fn set(&self, mut varies: Vec<Vary>) -> Result<Self, String> {
        varies.iter_mut().for_each(|vary| self.settle(vary));
        let values: Vec<(&Vary, &Setting)> =
            varies.iter().filter_map(|vary| Some((vary, vary.settings.first()?))).collect();
        let scenario = self.with(&values).map_err(|message| message.replacen("--vary", "--set", 1))?;
        Self::new(scenario, &self.origin)
    }

    /// Reads numbers in a list as words where the scenario wants words: `topology.tls=1.2,1.3`.
    pub fn settle(&self, vary: &mut Vary) {
        let of = vary.clone();
        for setting in &mut vary.settings {
            let word = Setting {
                value: Value::String(setting.label.clone()),
                label: setting.label.clone(),
                number: None,
            };
            if setting.number.is_some()
                && self.with(&[(&of, setting)]).is_err()
                && self.with(&[(&of, &word)]).is_ok()
            {
                *setting = word;
            }
        }
    }
}

/// A proxy that fails over between more HSMs than are left fails over between those that are.
fn fit_failover(table: &mut Table) {
    let Some(topology) = table.get_mut("topology").and_then(Value::as_table_mut) else { return };
    let number = |key: &str| topology.get(key).and_then(Value::as_integer);
    if let (Some(hsms), Some(per_proxy)) = (number("hsms"), number("hsms_per_proxy"))
        && per_proxy > hsms
    {
        topology.insert("hsms_per_proxy".to_owned(), Value::Integer(hsms));
    }
}

fn put(table: &mut Table, path: &[String], value: Value) -> Result<(), String> {
    match path {
        [key] => {
            table.insert(key.clone(), value);
            Ok(())
        }
        [section, key] => {
            let entry = table.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
            let section_table = entry.as_table_mut().ok_or_else(|| format!("`{section}` is no section"))?;
            section_table.insert(key.clone(), value);
            Ok(())
        }
        [list, which, key] => {
            if list == "service" && !table.contains_key("service") {
                table.insert("service".into(), Value::Array(default_fleet()));
            }
            let entries = table.get_mut(list).and_then(Value::as_array_mut).map(Vec::as_mut_slice);
            let entries = entries.unwrap_or_default();
            let at = find(entries, list, which)?;
            let entry = entries.get_mut(at).and_then(Value::as_table_mut);
            entry.ok_or_else(|| format!("`{list}` {which} is no table"))?.insert(key.clone(), value);
            Ok(())
        }
        _ => Err("a key has one to three parts".into()),
    }
}

/// What a scenario without services has, written out.
fn default_fleet() -> Vec<Value> {
    let entry = |service: ServiceSettings| {
        let kind = Value::String(service.name().to_owned());
        Value::Table(Table::from_iter([("kind".to_owned(), kind)]))
    };
    ServiceSettings::default_fleet().into_iter().map(entry).collect()
}

/// Number of the entry of a list that is meant by its number or its kind.
fn find(entries: &[Value], list: &str, which: &str) -> Result<usize, String> {
    let kinds: Vec<&str> =
        entries.iter().map(|entry| entry.get("kind").and_then(Value::as_str).unwrap_or("?")).collect();
    if kinds.is_empty() {
        return Err(format!("the scenario has no [[{list}]]"));
    }
    if let Ok(number) = which.parse::<usize>() {
        return if number < kinds.len() {
            Ok(number)
        } else {
            Err(format!("there is no {list} {number}: they are numbered 0 to {}", kinds.len() - 1))
        };
    }
    let of_kind: Vec<usize> =
        kinds.iter().enumerate().filter(|(_, kind)| **kind == which).map(|(at, _)| at).collect();
    match of_kind.as_slice() {
        [only] => Ok(*only),
        [] => {
            let hint = nearest(which, kinds.iter().copied()).map(|near| format!(" did you mean `{near}`?"));
            Err(format!(
                "no {list} is called `{which}`;{} there are {}",
                hint.unwrap_or_default(),
                kinds.join(", ")
            ))
        }
        several => {
            let numbers: Vec<String> = several.iter().map(|at| format!("{list}.{at}")).collect();
            Err(format!(
                "there are {} of kind {which}: name one by its number, {}",
                several.len(),
                numbers.join(" or ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "title = \"x\"\nduration_s = 100\n[[fault]]\nkind = \"hsm-slow\"\nfactor = 4\nfrom_s = 10\nto_s = 20\n\
                        [[fault]]\nkind = \"loss\"\nloss = 0.1\nfrom_s = 30\n[[fault]]\nkind = \"loss\"\nloss = 0.2\nfrom_s = 40\n";

    fn base() -> Base {
        Base::new(Scenario::parse("x", "x.toml", FILE).unwrap(), "x.toml").unwrap()
    }

    fn with(text: &str) -> Result<Scenario, String> {
        let mut vary = Vary::parse(text)?;
        let base = base();
        base.settle(&mut vary);
        base.with(&[(&vary, &vary.settings[0])])
    }

    #[test]
    fn a_range_has_both_its_ends_and_even_steps() {
        let labels = |text: &str| {
            let vary = Vary::parse(text).unwrap();
            vary.settings.iter().map(|setting| setting.label.clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(labels("link.rtt_ms=5..120:12").split(' ').next_back(), Some("120"));
        assert_eq!(labels("link.rtt_ms=5..120:12").split(' ').nth(1), Some("15.4545"));
        assert_eq!(labels("topology.hsms=1..4:4"), "1 2 3 4");
        assert_eq!(labels("link.loss=0.3..0:4"), "0.3 0.2 0.1 0");
        assert_eq!(labels("kms.cdiv=true,false"), "true false");
    }

    #[test]
    fn every_part_of_a_scenario_can_be_varied() {
        assert_eq!(with("links.kms-proxy.rtt_ms=7").unwrap().link.rtt_ms, 7.0);
        assert_eq!(with("links.proxy-hsm.rtt_ms=7").unwrap().hsm_link.unwrap().rtt_ms, 7.0);
        assert_eq!(with("duration_s=90").unwrap().duration.as_secs(), 90);
        assert_eq!(with("settle_s=9").unwrap().settle.as_secs(), 9);
        assert_eq!(with("topology.hsms=3").unwrap().topology.hsms, 3);
        assert_eq!(with("topology.tls=1.2").unwrap().topology.tls, crate::scenario::TlsVersion::V12);
        assert_eq!(with("load_balancer.check_interval_s=3").unwrap().load_balancer.check_interval_s, 3.0);
        assert_eq!(with("proxy.cores=3").unwrap().proxy.cores, 3);
        assert_eq!(with("hsm.service_ms=2.5").unwrap().hsm.service_ms, 2.5);
        assert!(!with("kms.cdiv=false").unwrap().kms.cdiv);
        assert_eq!(with("fault.0.to_s=15").unwrap().faults[0].to.unwrap().as_secs(), 15);
        let slow = crate::fault::HsmFault::Slow { factor: 9.0 };
        assert!(matches!(
            &with("fault.hsm-slow.factor=9").unwrap().faults[0].kind,
            crate::fault::FaultKind::Hsm { fault, .. } if *fault == slow
        ));
        let varied = with("service.ebs.rate_per_s=3").unwrap();
        assert_eq!(varied.services.len(), ServiceSettings::default_fleet().len());
        assert_ne!(varied.services, ServiceSettings::default_fleet());
    }

    #[test]
    fn the_default_fleet_written_out_is_the_default_fleet() {
        let unchanged = with("service.s3.rate_per_s=100").unwrap();
        assert_eq!(unchanged.services, ServiceSettings::default_fleet());
    }

    #[test]
    fn fewer_hsms_leave_less_to_fail_over_to() {
        let text = "title = \"x\"\nduration_s = 9\n[topology]\nhsms = 3\nhsms_per_proxy = 3\n";
        let base = Base::new(Scenario::parse("x", "x.toml", text).unwrap(), "x.toml").unwrap();
        let with = |settings: &[&str]| {
            let varies = settings.iter().map(|text| Vary::one(text).unwrap()).collect();
            base.set(varies).map(|base| base.scenario.topology.hsms_per_proxy)
        };
        assert_eq!((with(&["topology.hsms=1"]), with(&["topology.hsms=4"])), (Ok(1), Ok(3)));
        // Who asks for both gets both, or is told why not.
        assert!(
            with(&["topology.hsms=1", "topology.hsms_per_proxy=2"])
                .unwrap_err()
                .contains("more than there are")
        );
    }

    #[test]
    fn mistakes_offer_what_would_be_right() {
        for (text, message) in [
            ("link.rtt_ms", "there is no `=`; write KEY=FROM..TO:STEPS"),
            ("lnik.rtt_ms=1,2", "no part of a scenario is called `lnik`; did you mean `link`?"),
            ("links.kms.rtt_ms=1,2", "there are links.kms-proxy and links.proxy-hsm"),
            ("link=1,2", "`link` is no key; write it as in link.rtt_ms"),
            ("duration_s.x=1,2", "write duration_s alone"),
            ("link.rtt_mss=1,2", "did you mean `rtt_ms`?"),
            ("link.rtt_ms=20000,2", "--vary link.rtt_ms=20000: rtt_ms is between 0 and 10000, not 20000"),
            ("link.rtt_ms=1..2", "after FROM..TO comes :STEPS"),
            ("link.rtt_ms=1..x:3", "`x` is no number"),
            ("link.rtt_ms=1..2:1", "STEPS is a whole number from 2 to 100"),
            ("link.rtt_ms=1..2:101", "STEPS is a whole number from 2 to 100"),
            ("link.rtt_ms=1,,2", "a value is missing"),
            ("link.rtt_ms=1,2,1", "1 is there twice"),
            ("topology.hsms=1.5,2", "expected a whole number"),
            ("topology.tls=ssl", "unknown value `ssl`"),
            ("fault.3.to_s=1", "there is no fault 3: they are numbered 0 to 2"),
            ("fault.los.loss=1", "no fault is called `los`; did you mean `loss`?"),
            ("fault.loss.loss=1", "there are 2 of kind loss: name one by its number, fault.1 or fault.2"),
            ("fault.0.loss=0.5", "loss is no key of kind hsm-slow"),
            ("service.s4.rate_per_s=1", "did you mean `s3`?"),
            ("service.s3.rate=1", "did you mean `rate_per_s`?"),
        ] {
            let error = with(text).unwrap_err();
            assert!(error.contains(message) && error.starts_with("--vary "), "{text}: {error}");
        }
    }
}
