//! What is asked: the load, the way, the HSMs and the SLO, and up to how much there may be.

use super::outcome::{Sizing, Try};
use super::search::{Edge, edge, steps};
use crate::scenario::Scenario;
use crate::sweep::crew::{Crew, Job};
use crate::sweep::figures::Figures;
use crate::sweep::point::Point;
use crate::sweep::slo::Slo;
use crate::sweep::vary::Setting;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// The most proxies and HSMs of a scenario.
pub const EACH_MAX: usize = 16;
/// The most sessions of an HSM that are looked at.
pub const SESSIONS_MAX: usize = 4_096;
/// HSMs between which one proxy fails over, at the most.
const HSMS_PER_PROXY_MAX: usize = 10;
/// The default length of a run, in seconds: long enough for some thousand calls with the HSM down.
pub const DURATION_S: u64 = 60;

/// So much of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// HSMs.
    pub hsms: usize,
    /// Proxies.
    pub proxies: usize,
    /// PKCS#11 sessions of each HSM, which all proxies share.
    pub sessions: usize,
}

/// What is asked.
pub struct Question {
    /// The scenario without its faults and expectations.
    table: Table,
    /// Its name.
    pub name: String,
    /// HSMs that are down in the middle half of each run, 0 or more.
    pub down: usize,
    /// Length of a run in seconds.
    pub duration_s: u64,
    /// The most of each.
    pub most: Configuration,
    /// What must hold.
    pub slo: Slo,
    /// The seeds of each configuration.
    pub seeds: Vec<u64>,
    /// The command line that repeats the search.
    pub command: String,
}

/// What a question is made of besides its scenario.
pub struct Terms {
    /// HSMs that are down in the middle half of each run.
    pub down: usize,
    /// Length of a run in seconds.
    pub duration_s: u64,
    /// The most of each.
    pub most: Configuration,
    /// `--slo`; at most 0.1 % of requests fail and p99 is 200 ms where nothing is given.
    pub slo: Vec<String>,
    /// The seeds of each configuration.
    pub seeds: std::ops::Range<u64>,
    /// The command line that repeats the search.
    pub command: String,
}

/// The SLO where none is given; AWS's own alarm on slow answers rings above 200 ms.
const SLO_DEFAULT: [&str; 2] = ["failures=0.1%", "p99_ms=200"];

impl Question {
    /// About the world of a scenario; of its faults and expectations nothing is left.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn new(scenario: &Scenario, terms: Terms) -> Result<Self, String> {
        let Terms { down, duration_s, most, slo, seeds, command } = terms;
        if down >= most.hsms {
            return Err(format!(
                "with {down} HSMs down and at most {} of them none is left: give more with --hsms-max, or fewer with --down",
                most.hsms
            ));
        }
        let slo = if slo.is_empty() { SLO_DEFAULT.map(str::to_owned).to_vec() } else { slo };
        let slo = Slo::choose(&slo, scenario)?;
        let mut table: Table = scenario.text.parse().map_err(|error: toml::de::Error| error.to_string())?;
        for key in ["fault", "expect"] {
            table.remove(key);
        }
        // What only a fault made use of goes with it.
        if let Some(link) = table.get_mut("link").and_then(Value::as_table_mut) {
            if !link.contains_key("bandwidth_there_mbps") && !link.contains_key("bandwidth_back_mbps") {
                link.remove("queue_bytes");
            }
            if !link.contains_key("reordering") {
                link.remove("reordering_extra_ms");
            }
        }
        let seeds: Vec<u64> = seeds.collect();
        let question =
            Self { table, name: scenario.name.clone(), down, duration_s, most, slo, seeds, command };
        question.scenario(most)?;
        Ok(question)
    }

    /// Sets a key of a section of the scenario, such as `link.rtt_ms`.
    ///
    /// # Errors
    /// When the scenario refuses the value.
    pub fn set(&mut self, section: &str, key: &str, value: f64) -> Result<(), String> {
        put(&mut self.table, section, key, Setting::number(value).value);
        self.scenario(self.most).map(|_| ())
    }

    /// The fewest HSMs of which one is left.
    fn hsms_least(&self) -> usize {
        self.down + 1
    }

    /// Runs that the search makes at the most.
    pub fn runs_max(&self) -> usize {
        let tries = 1
            + steps(self.hsms_least(), self.most.hsms)
            + steps(1, self.most.proxies)
            + steps(1, self.most.sessions);
        tries * self.seeds.len()
    }

    /// The text of the scenario file of one configuration.
    ///
    /// # Errors
    /// When the scenario refuses it.
    pub fn text(&self, configuration: Configuration) -> Result<String, String> {
        let Configuration { hsms, proxies, sessions } = configuration;
        let mut table = self.table.clone();
        let whole = |number: usize| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        put(&mut table, "topology", "hsms", whole(hsms));
        put(&mut table, "topology", "proxies", whole(proxies));
        // No zone without a proxy.
        let zones = table.get("topology").and_then(|it| it.get("zones")).and_then(Value::as_integer);
        if zones.and_then(|zones| usize::try_from(zones).ok()).is_some_and(|zones| zones > proxies) {
            put(&mut table, "topology", "zones", whole(proxies));
        }
        // A proxy that cannot fail over is lost with its HSM.
        put(&mut table, "topology", "hsms_per_proxy", whole(hsms.min(HSMS_PER_PROXY_MAX)));
        put(&mut table, "hsm", "sessions_max", whole(sessions));
        let seconds = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        table.insert("duration_s".into(), seconds(self.duration_s));
        if self.down > 0 {
            let fault = Table::from_iter([
                ("kind".to_owned(), Value::String("hsm-down".into())),
                ("target".to_owned(), Value::Array((0..self.down).map(whole).collect())),
                ("from_s".to_owned(), seconds(self.duration_s / 4)),
                ("to_s".to_owned(), seconds(self.duration_s * 3 / 4)),
            ]);
            table.insert("fault".into(), Value::Array(vec![Value::Table(fault)]));
        }
        toml::to_string(&table).map_err(|error| error.to_string())
    }

    /// The scenario of one configuration.
    ///
    /// # Errors
    /// When it refuses it.
    pub fn scenario(&self, configuration: Configuration) -> Result<Scenario, String> {
        let text = self.text(configuration)?;
        Scenario::parse(&self.name, "", &text).map_err(|error| {
            // The line is one of a text that the user has never seen.
            let message = error.to_string();
            message
                .trim_start_matches(|letter: char| letter == ':' || letter.is_ascii_digit())
                .trim()
                .to_owned()
        })
    }

    /// Tries configurations until the smallest that holds is known, or somebody wants an end.
    ///
    /// # Errors
    /// When a run cannot be made.
    pub fn search(&self, crew: &Crew<'_>) -> Result<Sizing, String> {
        let mut sizing = Sizing::new(self);
        let Some(true) = self.attempt(crew, self.most, &mut sizing)? else { return Ok(sizing) };
        let mut smallest = self.most;
        type With = fn(Configuration, usize) -> Configuration;
        let dimensions: [(usize, usize, With); 3] = [
            (self.hsms_least(), self.most.hsms, |it, hsms| Configuration { hsms, ..it }),
            (1, self.most.proxies, |it, proxies| Configuration { proxies, ..it }),
            (1, self.most.sessions, |it, sessions| Configuration { sessions, ..it }),
        ];
        for (least, most, with) in dimensions {
            match edge(least, most, |number| self.attempt(crew, with(smallest, number), &mut sizing))? {
                Edge::At(number) => smallest = with(smallest, number),
                Edge::Interrupted => return Ok(sizing),
            }
        }
        sizing.smallest = Some(smallest);
        sizing.smallest_toml = self.text(smallest)?;
        Ok(sizing)
    }

    /// Whether a configuration holds; `None` when it was interrupted.
    fn attempt(
        &self,
        crew: &Crew<'_>,
        configuration: Configuration,
        sizing: &mut Sizing,
    ) -> Result<Option<bool>, String> {
        let scenario = self.scenario(configuration)?;
        let jobs: Vec<Job<'_>> =
            self.seeds.iter().map(|seed| Job { scenario: &scenario, seed: *seed }).collect();
        let Some(runs) = crew.run(&jobs)?.into_iter().collect::<Option<Vec<Figures>>>() else {
            sizing.complete = false;
            return Ok(None);
        };
        let why = runs.iter().map(|run| self.slo.missed_in_words(run)).find(|words| !words.is_empty());
        let point = Point::new(Vec::new(), runs, &self.slo);
        let holds = point.is_met();
        sizing.tries.push(Try {
            configuration,
            holds: holds == Some(true),
            why: why.unwrap_or_default(),
            point,
        });
        Ok(holds)
    }
}

fn put(table: &mut Table, section: &str, key: &str, value: Value) {
    let entry = table.entry(section.to_owned()).or_insert_with(|| Value::Table(Table::new()));
    if let Some(section) = entry.as_table_mut() {
        section.insert(key.to_owned(), value);
    }
}

/// The scenario where none is named: S3 without Bucket Keys, of whose requests each is a KMS call.
///
/// # Errors
/// A rate out of its range, or above what KMS lets through.
pub fn load(rate_per_s: f64) -> Result<Scenario, String> {
    let text = format!(
        "title = \"{rate_per_s} KMS calls per second\"\nduration_s = {DURATION_S}\n[[service]]\nkind = \"s3\"\nrate_per_s = \
         {rate_per_s:?}\n"
    );
    let quota = crate::kms::settings::KmsSettings::default().quota_per_s as f64;
    if rate_per_s > quota {
        return Err(format!(
            "--rate {rate_per_s}: KMS turns away what goes beyond {quota} requests per second of a key store, whatever is \
             behind it; give at most that, or a scenario with a larger kms.quota_per_s"
        ));
    }
    Scenario::parse("size", "", &text)
        .map_err(|_| format!("--rate {rate_per_s}: it is above 0 and at most {quota}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_smaller_world_without_faults_does_not_know_is_left_out() {
        let text = "title = \"x\"\nduration_s = 100\n[topology]\nzones = 2\n[link]\nqueue_bytes = 9000\n\
                    reordering_extra_ms = 3\n[[fault]]\nkind = \"bandwidth\"\nbandwidth_kbit_per_s = 9\nfrom_s = 1\n\
                    [[fault]]\nkind = \"reordering\"\nshare = 0.1\nfrom_s = 1\n";
        let scenario = Scenario::parse("x", "x.toml", text).unwrap();
        let most = Configuration { hsms: 2, proxies: 2, sessions: 4 };
        let terms =
            Terms { down: 1, duration_s: 40, most, slo: Vec::new(), seeds: 1..2, command: String::new() };
        let question = Question::new(&scenario, terms).unwrap();
        let zones = |proxies| question.scenario(Configuration { proxies, ..most }).unwrap().topology.zones;
        assert_eq!((zones(1), zones(2)), (1, 2));
    }
}
