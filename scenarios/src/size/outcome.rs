//! What a search for the smallest configuration has shown, and its form for programs: `size.json`.

use super::question::{Configuration, Question};
use super::{page, screen};
use crate::report::Style;
use crate::sweep::point::Point;
use crate::sweep::words::counted;
use serde::{Deserialize, Serialize};

/// A finished or interrupted search. Equal questions give equal answers, whatever the machine and its load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sizing {
    /// Version of this structure, for readers of `size.json`.
    pub format: u32,
    /// `size`.
    pub kind: String,
    /// Version of the harness.
    pub version: String,
    /// The command line that repeats the search.
    pub command: String,
    /// The load and the world, in words.
    pub world: Vec<String>,
    /// What must hold, in words.
    pub slo: String,
    /// HSMs that are down in the middle half of each run.
    pub down: usize,
    /// The most of each that was looked at.
    pub most: Configuration,
    /// The seeds of each configuration.
    pub seeds: Vec<u64>,
    /// Whether the search came to its end; false after Ctrl-C.
    pub complete: bool,
    /// What was tried, in order.
    pub tries: Vec<Try>,
    /// The smallest that holds; `None` if none does, or the search was interrupted.
    pub smallest: Option<Configuration>,
    /// Its scenario file; empty without one.
    pub smallest_toml: String,
}

/// One configuration that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Try {
    /// How much of each.
    pub configuration: Configuration,
    /// Whether every run met the SLO.
    pub holds: bool,
    /// What of the SLO the first run that missed it missed; empty if none did.
    pub why: Vec<String>,
    /// Its runs.
    pub point: Point,
}

impl Sizing {
    pub(super) fn new(question: &Question) -> Self {
        let world = question.scenario(question.most).map(|scenario| {
            let services = scenario
                .services
                .iter()
                .map(|service| format!("{}: {} requests per second", service.title(), service.rate_per_s()));
            let mut world: Vec<String> = services.collect();
            world.push(format!("{} ms round trip between KMS and the proxies", scenario.link.rtt_ms));
            world.push(format!(
                "an HSM takes {} ms for an operation, and does {} at once",
                scenario.hsm.service_ms, scenario.hsm.parallel_max
            ));
            world.push(format!(
                "{} s of it, {} down in the middle half, each proxy failing over between all HSMs",
                question.duration_s,
                counted(question.down, "HSM", "HSMs")
            ));
            world
        });
        Self {
            format: 1,
            kind: "size".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: question.command.clone(),
            world: world.unwrap_or_default(),
            slo: question.slo.in_words(),
            down: question.down,
            most: question.most,
            seeds: question.seeds.clone(),
            complete: true,
            tries: Vec::new(),
            smallest: None,
            smallest_toml: String::new(),
        }
    }

    /// Indented JSON.
    #[expect(
        clippy::expect_used,
        reason = "a Sizing has string keys only and no hand-written Serialize that could fail"
    )]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a Sizing serialises")
    }

    /// The page.
    pub fn html(&self) -> String {
        page::html(self)
    }

    /// The summary for a terminal.
    pub fn terminal(&self, style: Style) -> String {
        screen::terminal(self, style)
    }

    /// The answer in a sentence.
    pub(super) fn answer(&self) -> String {
        let named = |it: Configuration| {
            format!(
                "{} and {}, with {} for each HSM",
                counted(it.hsms, "HSM", "HSMs"),
                counted(it.proxies, "proxy", "proxies"),
                counted(it.sessions, "session", "sessions")
            )
        };
        match (self.smallest, self.complete) {
            (Some(smallest), _) => format!("Enough: {}", named(smallest)),
            (None, false) => "Interrupted: the smallest is not known yet".to_owned(),
            (None, true) => format!("Not even {} are enough", named(self.most)),
        }
    }

    /// Why one less of anything is too little, a sentence each.
    pub(super) fn reasons(&self) -> Vec<String> {
        let Some(smallest) = self.smallest else {
            let why = self.tries.iter().filter(|it| !it.holds).map(|it| it.why.join(", "));
            return why
                .take(1)
                .filter(|why| !why.is_empty())
                .map(|why| format!("with all of them {why}"))
                .collect();
        };
        let Configuration { hsms, proxies, sessions } = smallest;
        let mut reasons = Vec::new();
        let mut tried = |what: String, wanted: &dyn Fn(&Configuration) -> bool| {
            if let Some(found) = self.tries.iter().find(|it| wanted(&it.configuration) && !it.holds) {
                reasons.push(format!("with {what} {}", found.why.join(", ")));
            }
        };
        tried(counted(hsms - 1, "HSM", "HSMs"), &|it| it.hsms + 1 == hsms);
        tried(counted(proxies - 1, "proxy", "proxies"), &|it| it.hsms == hsms && it.proxies + 1 == proxies);
        tried(counted(sessions - 1, "session", "sessions"), &|it| {
            it.hsms == hsms && it.proxies == proxies && it.sessions + 1 == sessions
        });
        if hsms == self.down + 1 && self.down > 0 {
            let fewer = counted(hsms - 1, "HSM", "HSMs");
            reasons.push(format!("with {fewer} none is left when {} of them fail", self.down));
        }
        if proxies == 1 {
            reasons.push("one proxy bears the load, but nothing stands in for it: take two".to_owned());
        }
        reasons
    }
}
