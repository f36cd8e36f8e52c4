//! The scenario file: TOML text to a checked [`Scenario`], with an error that names the line and the nearest word.
//!
//! Place on the map: read by `main`, run by [`run`](crate::run). Every setting has a default, so that the smallest
//! useful scenario is ten lines; unknown keys are refused.
//!
//! | part of the file | module |
//! |---|---|
//! | what there is | [`sections`] |
//! | what goes wrong, `[[fault]]` | `faults` |
//! | what must hold, `[[expect]]` | [`expectation`] |
//! | all of it, checked | `checker` |
//! | where a mistake is | `place` |

mod checker;
pub mod expectation;
mod faults;
mod place;
pub mod sections;

pub use expectation::Expectation;
pub use place::nearest;
pub use sections::{HsmFile, LoadBalancerFile, ProxyFile, TlsVersion, Topology};

use crate::fault::Fault;
use crate::hsm_link::HsmLinkFile;
use crate::kms::settings::KmsSettings;
use crate::net::settings::LinkFile;
use crate::services::ServiceSettings;
use checker::{Checker, Raw};
use place::Place;
use serde::Deserialize;
use std::fmt;
use std::time::Duration;
use toml::de::DeTable;

/// Reads the settings of the KMS model from a file of their own: `text`, written as in the section `[kms]`, from the file
/// `origin`. Ranges are not yet checked.
///
/// # Errors
/// File, line, what is wrong, and the nearest known key.
pub fn read_kms_settings(origin: &str, text: &str) -> Result<KmsSettings, ScenarioError> {
    toml::from_str(text).map_err(|error| Place { origin, text }.toml_error(&error, 0))
}

/// A checked scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The file's name without `.toml`.
    pub name: String,
    /// The text it was read from.
    pub text: String,
    /// What happens, in one line.
    pub title: String,
    /// When it strikes in real life and what to do about it.
    pub about: String,
    /// Length of the run, simulated.
    pub duration: Duration,
    /// How long after the last fault everything should be well again: what comes later is told apart.
    pub settle: Duration,
    /// What there is.
    pub topology: Topology,
    /// The link between KMS and each proxy.
    pub link: LinkFile,
    /// The endpoint that KMS connects to.
    pub load_balancer: LoadBalancerFile,
    /// The proxies' limits.
    pub proxy: ProxyFile,
    /// The HSMs.
    pub hsm: HsmFile,
    /// The network between proxies and HSMs; without it calls take no way.
    pub hsm_link: Option<HsmLinkFile>,
    /// The KMS model.
    pub kms: KmsSettings,
    /// Who calls KMS.
    pub services: Vec<ServiceSettings>,
    /// What goes wrong, by time.
    pub faults: Vec<Fault>,
    /// What must hold.
    pub expectations: Vec<Expectation>,
}

/// What is wrong with a scenario file, in one line.
#[derive(Debug)]
pub struct ScenarioError(pub String);

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ScenarioError {}

/// The JSON Schema (draft 2020-12) of scenario files, for editors.
pub const SCHEMA: &str = include_str!("../scenario.schema.json");

/// The largest scenario file.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;

impl Scenario {
    /// Parses and checks a scenario. `origin` is the file's path, for messages; `name` for the report.
    ///
    /// # Errors
    /// One line: file, line, what is wrong and what would be right.
    pub fn parse(name: &str, origin: &str, text: &str) -> Result<Self, ScenarioError> {
        let place = Place { origin, text };
        let document = DeTable::parse(text).map_err(|error| place.toml_error(&error, 0))?;
        let raw = Raw::deserialize(toml::Deserializer::from(document.clone()))
            .map_err(|error| place.toml_error(&error, 0))?;
        Checker { place, document: document.get_ref() }.check(name, raw)
    }

    /// When the first fault begins and the last one ends, within the run.
    pub fn fault_span(&self) -> Option<(Duration, Duration)> {
        let first = self.faults.iter().map(|fault| fault.from).min()?;
        let last = self.faults.iter().map(|fault| fault.to.unwrap_or(self.duration)).max()?;
        Some((first, last))
    }

    /// Whether any fault is on at this time.
    pub fn in_fault(&self, at: Duration) -> bool {
        self.faults.iter().any(|fault| fault.from <= at && at < fault.to.unwrap_or(self.duration))
    }
}
