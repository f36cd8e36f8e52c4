//! The file of a run: what it takes to do it again, and to see whether that is the same.
//!
//! Place on the map: written by `xks-sim run --save`, read by `xks-sim replay`. JSON; at most a megabyte or two, however
//! long the run.

use super::keeper::{CHECKPOINTS_MAX, Checkpoint, FINGERPRINTS_MAX, Keeper, hexadecimal};
use crate::scenario::{FILE_BYTES_MAX, Scenario};
use crate::sha256;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Of the files that this program writes and reads.
const FORMAT: u32 = 1;
/// Of the largest file that is read: the largest scenario, and ample room for checkpoints and fingerprints.
pub const SAVED_BYTES_MAX: u64 = 4 * FILE_BYTES_MAX as u64;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedRun {
    /// Version of this structure.
    pub format: u32,
    /// Version of the harness that made the run.
    pub version: String,
    /// Name of the scenario.
    pub scenario: String,
    /// The path of its file, beside which the scenario's own files are looked for.
    pub origin: String,
    /// The scenario file as it ran.
    pub scenario_toml: String,
    /// The seed.
    pub seed: u64,
    /// How many events the run had.
    pub events: u64,
    /// SHA-256 over all of them, hexadecimal.
    pub digest: String,
    /// Digests in between, by events.
    pub checkpoints: Vec<Checkpoint>,
    /// Sixteen bits of each of the first events, big-endian, in Base64.
    pub fingerprints: String,
    /// SHA-256 over this structure as compact JSON with an empty checksum, hexadecimal.
    pub checksum: String,
}

/// Where a run came from.
pub struct Provenance<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// See [`SavedRun::origin`].
    pub origin: &'a str,
    /// The seed.
    pub seed: u64,
}

impl SavedRun {
    /// A run that has come to its end with so many events and this digest.
    pub fn new(from: &Provenance<'_>, events: u64, digest: &str, keeper: &Keeper) -> Self {
        let fingerprints: Vec<u8> = keeper.fingerprints().iter().flat_map(|it| it.to_be_bytes()).collect();
        let mut saved = Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            scenario: from.scenario.name.clone(),
            origin: from.origin.to_owned(),
            scenario_toml: from.scenario.text.clone(),
            seed: from.seed,
            events,
            digest: digest.to_owned(),
            checkpoints: keeper.checkpoints().to_vec(),
            fingerprints: STANDARD.encode(fingerprints),
            checksum: String::new(),
        };
        saved.checksum = saved.compute_checksum();
        saved
    }

    /// The file's text.
    ///
    /// # Panics
    /// Never: the structure serialises.
    #[expect(clippy::expect_used, reason = "a structure of strings and numbers serialises")]
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a SavedRun serialises");
        text.push('\n');
        text
    }

    /// Reads a file's text. `origin` is its path, for messages; `any_version` takes a run of another version too.
    ///
    /// # Errors
    /// One line: a file that is damaged, that is none of these, or that another version has written, and what to do.
    pub fn parse(origin: &str, text: &str, any_version: bool) -> Result<Self, String> {
        let damaged = |what: &str| {
            format!("{origin} is damaged: {what}; save the run again with `xks-sim run NAME --save FILE`")
        };
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| {
            damaged(&format!("it is no JSON text that `run --save` has written whole ({error})"))
        })?;
        let told = |key: &str| value.get(key).and_then(serde_json::Value::as_u64);
        let version = value.get("version").and_then(serde_json::Value::as_str);
        let (Some(format), Some(version), Some(_)) = (told("format"), version, value.get("scenario_toml"))
        else {
            return Err(damaged("`format`, `version` or `scenario_toml` is missing"));
        };
        let own = env!("CARGO_PKG_VERSION");
        if format != u64::from(FORMAT) {
            return Err(format!(
                "{origin} has the format {format}, of xks-sim {version}; this is {own}, which reads format {FORMAT}: \
                 replay it with xks-sim {version}, or save the run again with this one"
            ));
        }
        if version != own && !any_version {
            return Err(format!(
                "{origin} was saved by xks-sim {version}, and this is {own}, which may run the same scenario otherwise: \
                 replay it with xks-sim {version}, or with --any-version to see where the two part"
            ));
        }
        let saved: Self = serde_json::from_value(value).map_err(|error| damaged(&error.to_string()))?;
        if saved.checksum != saved.compute_checksum() {
            return Err(damaged("its content does not have its checksum"));
        }
        let within = saved.checkpoints.len() <= CHECKPOINTS_MAX
            && saved.checkpoints.windows(2).all(|pair| pair[0].events < pair[1].events)
            && saved.checkpoints.iter().all(|checkpoint| (1..=saved.events).contains(&checkpoint.events));
        let marks = saved.fingerprints().map_or(0, |marks| marks.len() as u64);
        if !within || marks != saved.events.min(FINGERPRINTS_MAX as u64) {
            return Err(damaged("its checkpoints or fingerprints are not those of its events"));
        }
        Ok(saved)
    }

    /// The scenario, checked.
    ///
    /// # Errors
    /// In words, where it is none, or a file that it names is missing.
    pub fn scenario(&self) -> Result<Scenario, String> {
        Scenario::parse(&self.scenario, &self.origin, &self.scenario_toml).map_err(|error| error.to_string())
    }

    /// The fingerprints of the first events; `None` if they are no Base64.
    pub(super) fn fingerprints(&self) -> Option<Vec<u16>> {
        let bytes = STANDARD.decode(&self.fingerprints).ok()?;
        Some(bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect())
    }

    #[expect(clippy::expect_used, reason = "a structure of strings and numbers serialises")]
    fn compute_checksum(&self) -> String {
        let bare = Self { checksum: String::new(), ..self.clone() };
        let text = serde_json::to_string(&bare).expect("a SavedRun serialises");
        hexadecimal(&sha256::of(&[text.as_bytes()]))
    }
}
